//! What is mounted where.

use super::Guestfs;
use super::os::mountable;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::Filesystem;
use crate::fs::btrfs::Subvolume;
use crate::tree::{Mount, Tree};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// One mount of the handle.
pub(super) struct Mounted {
    pub(super) device: String,
    pub(super) mountpoint: Vec<u8>,
    pub(super) filesystem: Arc<dyn Filesystem>,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} on {}", self.device, self.mountpoint.escape_ascii())
    }
}

impl Guestfs {
    /// Mounts the filesystem of a device on a folder of the tree: for writing where the drive was added for that and a
    /// driver can, else for reading. `btrfsvol:DEVICE/SUBVOLUME` names a subvolume, as libguestfs has it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not, [`Error::Unsupported`] when no driver reads it, and those of
    /// opening it.
    pub fn mount(&mut self, device: &str, mountpoint: impl AsRef<OsStr>) -> Result<()> {
        let (device, subvolume) = mountable(device);
        let launched = self.launched()?;
        let held = launched.held(device)?;
        let writable = launched.is_writable(held)
            && crate::fs::has_writer(held.identity.as_ref().map_or("", |identity| identity.kind));
        self.mount_subvolume(device, mountpoint, subvolume.as_ref(), writable)
    }

    /// Mounts the filesystem of a device for reading.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub fn mount_ro(&mut self, device: &str, mountpoint: impl AsRef<OsStr>) -> Result<()> {
        let (device, subvolume) = mountable(device);
        self.mount_subvolume(device, mountpoint, subvolume.as_ref(), false)
    }

    /// Mounts the filesystem of a device with options of mount(8) that mean something here: `ro`, `rw`, `subvol=`,
    /// `subvolid=`; others that change nothing of what is read are taken.
    ///
    /// # Errors
    /// As [`mount`](Self::mount); [`Error::Usage`] for an option that is not known.
    pub fn mount_options(&mut self, options: &str, device: &str, mountpoint: impl AsRef<OsStr>) -> Result<()> {
        let mut subvolume = None;
        let mut writable = None;
        for option in options.split(',').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("subvol", path)) => subvolume = Some(Subvolume::Path(path.as_bytes().to_vec())),
                Some(("subvolid", number)) => {
                    let number = number.parse().map_err(|_| Error::Usage(format!("{option}: no number").into()))?;
                    subvolume = Some(Subvolume::Id(number));
                }
                None if option == "ro" => writable = Some(false),
                None if option == "rw" => writable = Some(true),
                None if matches!(
                    option,
                    "defaults"
                        | "noatime"
                        | "relatime"
                        | "nodiratime"
                        | "nosuid"
                        | "nodev"
                        | "noexec"
                        | "acl"
                        | "user_xattr"
                ) => {}
                _ => return Err(Error::Usage(format!("unknown mount option {option}").into())),
            }
        }
        match (writable, subvolume) {
            (None | Some(true), None) => self.mount(device, mountpoint),
            (Some(false), None) => self.mount_ro(device, mountpoint),
            (writable, subvolume) => {
                self.mount_subvolume(device, mountpoint, subvolume.as_ref(), writable.unwrap_or(false))
            }
        }
    }

    pub(super) fn mount_subvolume(
        &mut self,
        device: &str,
        mountpoint: impl AsRef<OsStr>,
        subvolume: Option<&Subvolume>,
        writable: bool,
    ) -> Result<()> {
        let mountpoint = mountpoint.as_ref().as_bytes().to_vec();
        if !mountpoint.starts_with(b"/") {
            return Err(Error::Usage(format!("the mount point {} is not absolute", mountpoint.escape_ascii()).into()));
        }
        let options = self.fs_options();
        let launched = self.launched()?;
        let held = launched.held(device)?;
        let filesystem = launched.filesystem(held, subvolume, &options, writable)?;
        let device = held.volume.name.clone();
        if writable && filesystem.writer().is_none() {
            return Err(Error::InUse(format!("{device} is mounted for reading; unmount it first").into()));
        }
        self.mount_filesystem(device, mountpoint, filesystem)
    }

    /// Adds an open filesystem to the tree.
    pub(super) fn mount_filesystem(
        &mut self,
        device: String,
        mountpoint: Vec<u8>,
        filesystem: Arc<dyn Filesystem>,
    ) -> Result<()> {
        self.mounts.push(Mounted { device, mountpoint, filesystem });
        match self.make_tree() {
            Ok(tree) => self.tree = Some(tree),
            Err(error) => {
                let gone = self.mounts.pop().expect("it was pushed just now");
                self.close_unused(gone)?;
                return Err(error);
            }
        }
        Ok(())
    }

    pub(super) fn make_tree(&self) -> Result<Arc<Tree>> {
        let mounts = self.mounts.iter().map(|mounted| Mount {
            filesystem: Arc::clone(&mounted.filesystem),
            mountpoint: mounted.mountpoint.clone(),
            source: mounted.device.clone(),
        });
        Ok(Arc::new(Tree::new(mounts.collect())?))
    }

    /// Unmounts what is mounted on a folder, or a device; what was written to it is made durable.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is mounted there, [`Error::InUse`] while something is mounted below.
    pub fn umount(&mut self, what: impl AsRef<OsStr>) -> Result<()> {
        let what = what.as_ref().as_bytes();
        let place = self
            .mounts
            .iter()
            .rposition(|mounted| mounted.mountpoint == what || mounted.device.as_bytes() == what)
            .ok_or_else(|| Error::NotFound(format!("nothing is mounted on {}", what.escape_ascii()).into()))?;
        let mut below = self.mounts[place].mountpoint.clone();
        if !below.ends_with(b"/") {
            below.push(b'/');
        }
        if self
            .mounts
            .iter()
            .enumerate()
            .any(|(other, mounted)| other != place && mounted.mountpoint.starts_with(&below))
        {
            return Err(Error::InUse(format!("a filesystem is mounted below {}", what.escape_ascii()).into()));
        }
        let gone = self.mounts.remove(place);
        self.tree = if self.mounts.is_empty() { None } else { Some(self.make_tree()?) };
        self.close_unused(gone)
    }

    pub(super) fn is_mounted(&self, device: &str) -> bool {
        self.mounts.iter().any(|mounted| mounted.device == device)
    }

    fn close_unused(&self, gone: Mounted) -> Result<()> {
        if self.mounts.iter().any(|other| Arc::ptr_eq(&other.filesystem, &gone.filesystem)) {
            return Ok(());
        }
        if let Some(launched) = &self.launched {
            launched.open.lock().retain(|_, open| !Arc::ptr_eq(open, &gone.filesystem));
        }
        match gone.filesystem.writer() {
            Some(writer) => writer.close().at(|| gone.device.clone()),
            None => Ok(()),
        }
    }

    /// Unmounts everything; what was written is made durable.
    ///
    /// # Errors
    /// The first error; everything is unmounted all the same.
    pub fn umount_all(&mut self) -> Result<()> {
        self.tree = None;
        let mut result = Ok(());
        while let Some(gone) = self.mounts.pop() {
            let closed = self.close_unused(gone);
            if result.is_ok() {
                result = closed;
            }
        }
        result
    }

    /// Returns the devices that are mounted, in the order in which they were.
    pub fn mounts(&self) -> Vec<String> {
        self.mounts.iter().map(|mounted| mounted.device.clone()).collect()
    }

    /// Returns the mount points with their devices, in the order in which they were mounted. Bytes of a mount point that
    /// are no UTF-8 are replaced.
    pub fn mountpoints(&self) -> Vec<(String, String)> {
        let describe =
            |mounted: &Mounted| (String::from_utf8_lossy(&mounted.mountpoint).into_owned(), mounted.device.clone());
        self.mounts.iter().map(describe).collect()
    }

    /// Returns the tree of what is mounted.
    ///
    /// # Errors
    /// [`Error::Usage`] when nothing is.
    pub fn tree(&self) -> Result<&Arc<Tree>> {
        self.tree.as_ref().ok_or_else(|| Error::Usage("nothing is mounted; call mount or mount_ro first".into()))
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// Those of the host.
    pub fn sync(&self) -> Result<()> {
        for mounted in &self.mounts {
            if let Some(writer) = mounted.filesystem.writer() {
                writer.sync().at(|| mounted.device.clone())?;
            }
        }
        Ok(())
    }
}
