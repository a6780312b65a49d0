//! Mounting the handle's tree on a folder of the host.

use super::Guestfs;
use crate::error::{Error, IoContext, Result};
use crate::fs::Filesystem;
use crate::fuse::{MountOptions, Server, Stopper};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A mount that a thread of this process serves.
pub(super) struct LocalMount {
    stopper: Stopper,
    thread: JoinHandle<Result<()>>,
}

impl Guestfs {
    /// Mounts the tree on a folder of the host, through FUSE. It is served until [`umount_local`](Self::umount_local), or
    /// until the handle goes.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing is mounted in the handle, [`Error::InUse`] when it is mounted on a folder already,
    /// and those of mounting.
    pub fn mount_local(&mut self, folder: impl AsRef<Path>) -> Result<()> {
        if self.local.is_some() {
            return Err(Error::InUse("the tree is mounted on a folder already; call umount_local first".into()));
        }
        let tree = Arc::clone(self.tree()?);
        let source = self.devices()?.first().map(|device| device.image.clone()).unwrap_or_default();
        let place = Server::check_mountpoint(folder.as_ref())?;
        let server = Server::mount(tree, &place, &source, &MountOptions::default())?;
        let stopper = server.stopper();
        let serve = move || server.run(|| Ok(()));
        let thread = std::thread::Builder::new()
            .name(String::from("mount_local"))
            .spawn(serve)
            .doing(|| "cannot start a thread")?;
        self.local = Some(LocalMount { stopper, thread });
        Ok(())
    }

    /// Unmounts what [`mount_local`](Self::mount_local) mounted; returns when it is gone.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing is mounted so, and those of unmounting.
    pub fn umount_local(&mut self) -> Result<()> {
        let local = self.local.take().ok_or_else(|| Error::Usage("mount_local was not called".into()))?;
        // It may have been unmounted by somebody else.
        if !local.thread.is_finished()
            && let Err(error) = local.stopper.stop()
            && !local.thread.is_finished()
        {
            self.local = Some(local);
            return Err(error);
        }
        let ended = local.thread.join();
        let ended =
            ended.unwrap_or_else(|_| Err(Error::io("the serving thread panicked", std::io::ErrorKind::Other.into())));
        ended.and(self.reopen_written())
    }

    /// Opens again what can be written: the mount has closed it when it ended.
    fn reopen_written(&mut self) -> Result<()> {
        let options = self.fs_options();
        let mut written: Vec<Arc<dyn Filesystem>> = Vec::new();
        for mounted in &self.mounts {
            let is_known = written.iter().any(|known| Arc::ptr_eq(known, &mounted.filesystem));
            if mounted.filesystem.writer().is_some() && !is_known {
                written.push(Arc::clone(&mounted.filesystem));
            }
        }
        for old in written {
            let launched = self.launched()?;
            let key = {
                let mut open = launched.open.lock();
                let key = open.iter().find(|(_, filesystem)| Arc::ptr_eq(filesystem, &old)).map(|(key, _)| key.clone());
                let Some(key) = key else { continue };
                open.remove(&key);
                key
            };
            let again = launched.filesystem(launched.held(&key.0)?, key.1.as_ref(), &options, true)?;
            for mounted in self.mounts.iter_mut().filter(|mounted| Arc::ptr_eq(&mounted.filesystem, &old)) {
                mounted.filesystem = Arc::clone(&again);
            }
        }
        if !self.mounts.is_empty() {
            self.tree = Some(self.make_tree()?);
        }
        Ok(())
    }
}
