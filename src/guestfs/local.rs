//! Mounting the handle's tree on a folder of the host.

use super::Guestfs;
use crate::error::{Error, IoContext, Result};
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
        ended.unwrap_or_else(|_| Err(Error::io("the serving thread panicked", std::io::ErrorKind::Other.into())))
    }
}
