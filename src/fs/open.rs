//! Opens whatever filesystem lies on a device.

use super::probe::{self, Usage};
use super::{Filesystem, FsOptions, btrfs, erofs, ext4, fat, xfs};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use std::sync::Arc;

/// What a filesystem may need beside its device.
#[derive(Clone, Copy, Default)]
pub struct OpenWith<'a> {
    /// Devices among which the others of a filesystem of several devices are looked for: its members, and what nothing is
    /// recognised on, where it may have a part that bears no mark.
    pub members: &'a [SharedDevice],
    /// The subvolume to show, where the filesystem has such.
    pub subvolume: Option<&'a btrfs::Subvolume>,
    /// Tells the device of space that is freed, where the filesystem is opened for writing.
    pub discard: bool,
}

/// Says whether a driver reads filesystems of a kind.
pub fn has_driver(kind: &str) -> bool {
    matches!(kind, "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "vfat" | "erofs")
}

/// Says whether a driver writes filesystems of a kind.
pub fn has_writer(kind: &str) -> bool {
    matches!(kind, "ext2" | "ext3" | "ext4")
}

/// Identifies what lies on `device` and opens it with its driver, for reading.
///
/// # Errors
/// [`Error::NotAnImage`] when nothing known lies there, [`Error::Unsupported`] when no driver reads what does, and those
/// of the driver.
pub fn open(device: SharedDevice, with: &OpenWith<'_>, options: &FsOptions) -> Result<Arc<dyn Filesystem>> {
    let Some(identity) = probe::identify(&*device)? else {
        return Err(Error::NotAnImage("no filesystem is known that looks like this".into()));
    };
    let kind = identity.kind;
    if with.subvolume.is_some() && kind != "btrfs" {
        return Err(Error::Usage(format!("{kind} has no subvolumes").into()));
    }
    match (kind, identity.usage) {
        ("ext2" | "ext3" | "ext4", _) => Ok(Arc::new(ext4::Ext4::open(device, options)?)),
        ("xfs", _) => Ok(Arc::new(xfs::Xfs::open_with(device, with.members, options)?)),
        ("btrfs", _) => Ok(Arc::new(btrfs::Btrfs::open(device, with.members, with.subvolume, options)?)),
        ("erofs", _) => Ok(Arc::new(erofs::Erofs::open(device, options)?)),
        ("vfat", _) => Ok(Arc::new(fat::Fat::open(device, options)?)),
        (_, Usage::Filesystem) => Err(Error::unsupported(format!("no driver reads {kind}"))),
        (_, Usage::Swap) => Err(Error::unsupported(format!("{kind} is swap space and holds no files"))),
        (_, Usage::Crypto) => Err(Error::unsupported(format!("{kind} is encrypted"))),
        (_, Usage::Raid | Usage::Volume | Usage::Other) => {
            Err(Error::unsupported(format!("{kind} is part of something larger and holds no files by itself")))
        }
    }
}

/// Identifies what lies on `device` and opens it with its driver, for writing.
///
/// # Errors
/// As [`open`]; [`Error::Unsupported`] when its driver only reads.
pub fn open_for_writing(device: SharedDevice, with: &OpenWith<'_>, options: &FsOptions) -> Result<Arc<dyn Filesystem>> {
    let kind = probe::identify(&*device)?.map_or("this", |identity| identity.kind);
    match kind {
        "ext2" | "ext3" | "ext4" => {
            let writer = ext4::Ext4::open_for_writing(device, options)?;
            writer.set_discard(with.discard);
            Ok(Arc::new(writer))
        }
        _ => Err(Error::unsupported(format!("no driver writes {kind}"))),
    }
}
