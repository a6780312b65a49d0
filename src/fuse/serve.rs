//! A mount from its beginning to its end.

use super::ahead::Ahead;
use super::attr::{NodeIds, Shown};
use super::control::Control;
use super::face::Face;
use super::{MountOptions, mount, mountinfo};
use crate::error::{Error, IoContext, Result};
use crate::tree::Tree;
use fuser::{Config, Session, SessionACL};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A mounted tree.
pub struct Server {
    tree: Arc<Tree>,
    session: Session<Face>,
    control: Option<Control>,
    mountpoint: Option<PathBuf>,
    watched: Option<UnixStream>,
    ahead: Option<JoinHandle<()>>,
}

/// Ends a mount from a signal handler's thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    mountpoint: Option<PathBuf>,
}

impl Stopper {
    /// Unmounts; files that are open stay readable until they are closed, as long as the server lives.
    ///
    /// # Errors
    /// As [`unmount`](super::unmount).
    pub fn stop(&self) -> Result<()> {
        match &self.mountpoint {
            Some(mountpoint) => mount::unmount(mountpoint, false).or_else(|_| mount::unmount(mountpoint, true)),
            None => Ok(()),
        }
    }

    /// Says whether there is a mount point to unmount. A device that was handed in belongs to whoever mounted it.
    pub fn can_stop(&self) -> bool {
        self.mountpoint.is_some()
    }
}

impl Server {
    /// Checks a mount point before anything else is done, so that a wrong one costs nothing.
    ///
    /// # Errors
    /// `NotFound`, [`Error::Usage`] and [`Error::InUse`], each saying what to do.
    pub fn check_mountpoint(mountpoint: &Path) -> Result<PathBuf> {
        mount::check(mountpoint)
    }

    /// Mounts a tree on a folder that [`check_mountpoint`](Self::check_mountpoint) returned. `source` is what the mount
    /// table calls it where the options give no name. The mount answers when this returns and [`run`](Self::run) is called.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn mount(tree: Arc<Tree>, mountpoint: &Path, source: &str, options: &MountOptions) -> Result<Self> {
        let source = options.fsname.as_deref().unwrap_or(source);
        let mounted = mount::mount(mountpoint, source, !tree.is_writable(), options)?;
        let mut server = Self::new(tree, mounted.device, options).inspect_err(|_| {
            // Nothing stays mounted where the kernel and we could not agree.
            let _ = mount::unmount(mountpoint, true);
        })?;
        if let Ok(Some(line)) = mountinfo::find(mountpoint) {
            mount::read_further_ahead(&line);
            server.control = Control::listen(&line);
        }
        server.mountpoint = Some(mounted.mountpoint);
        server.watched = mounted.watched;
        Ok(server)
    }

    /// Serves a tree on a /dev/fuse that somebody else opened and mounted.
    ///
    /// # Errors
    /// [`Error::Io`] when the device is none, or nothing is mounted with it.
    pub fn from_device(tree: Arc<Tree>, device: OwnedFd, options: &MountOptions) -> Result<Self> {
        Self::new(tree, device, options)
    }

    fn new(tree: Arc<Tree>, device: OwnedFd, options: &MountOptions) -> Result<Self> {
        let ids = NodeIds::new(&tree);
        // What is stored ahead could be older than what is written meanwhile.
        let (ahead, thread) = match tree.is_writable() {
            true => (None, None),
            false => {
                let (ahead, thread) = Ahead::start(&tree, ids);
                (Some(ahead), Some(thread))
            }
        };
        let face = Face::new(Arc::clone(&tree), Shown::new(options), ahead, options.default_permissions);
        let mut config = Config::default();
        config.n_threads = Some(std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16));
        config.clone_fd = true;
        // The kernel keeps others out where it was not told to let them in.
        config.acl = SessionACL::All;
        let session = Session::from_fd(face, device, config.acl, config)
            .doing(|| "the kernel does not speak FUSE through the device given")?;
        let ahead = match thread {
            Some(thread) => {
                let notifier = session.notifier();
                let builder = std::thread::Builder::new().name(String::from("ahead"));
                Some(builder.spawn(move || thread.run(&notifier)).doing(|| "cannot start a thread")?)
            }
            None => None,
        };
        Ok(Self { tree, session, control: None, mountpoint: None, watched: None, ahead })
    }

    /// Returns what ends this mount.
    pub fn stopper(&self) -> Stopper {
        Stopper { mountpoint: self.mountpoint.clone() }
    }

    /// Serves until the mount ends; then commits what was written, closes the tree and calls `close` for what lies below
    /// it, and only then lets those go who wait in [`unmount`](super::unmount).
    ///
    /// # Errors
    /// [`Error::Io`] when the device fails, or what was written cannot be made durable.
    pub fn run(self, close: impl FnOnce() -> Result<()>) -> Result<()> {
        let Self { tree, session, control, mountpoint, watched, ahead } = self;
        let served = session.run().map_err(|error| Error::io("cannot serve the mount", error));
        if served.is_err()
            && let Some(mountpoint) = &mountpoint
        {
            // A mount without a server would only hang.
            let _ = mount::unmount(mountpoint, true);
        }
        if let Some(ahead) = ahead {
            // It ends with the session; a panic there has been reported.
            let _ = ahead.join();
        }
        let closed = tree.close();
        drop(tree);
        let closed = closed.and(close());
        drop(watched);
        drop(control);
        served.and(closed)
    }
}
