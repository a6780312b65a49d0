//! Identifies by its contents what lies on a device: a filesystem, or something that is none.
//!
//! Kinds, labels, UUIDs and versions are those that `blkid` shows. The probe looks at signatures and the fields that
//! make them credible; whether a filesystem is whole is for its driver to find out. A device that is part of something
//! larger (a RAID, LVM, an encrypted volume) is that, even when it begins with the bytes of a filesystem.

mod apple;
mod linux;
mod member;
mod microsoft;
mod optical;
mod reader;
mod small;
mod swap;
mod unix;

use crate::block::BlockDevice;
use crate::error::Result;
use reader::Reader;

/// What a thing on a device is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    /// Holds files.
    Filesystem,
    /// Holds memory that was swapped out, or a machine that sleeps.
    Swap,
    /// Is one of the devices of a RAID or a pool.
    Raid,
    /// Is encrypted.
    Crypto,
    /// Holds volumes that are made of it.
    Volume,
    /// Serves a filesystem that lies elsewhere: a journal.
    Other,
}

/// What lies on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The type as `blkid` names it: `ext4`, `vfat`, `LVM2_member`.
    pub kind: &'static str,
    /// What it is good for.
    pub usage: Usage,
    /// The label, where there is one.
    pub label: Option<Vec<u8>>,
    /// The UUID or serial number as `blkid` shows it, where there is one.
    pub uuid: Option<String>,
    /// The version of the format, where the type alone does not tell it.
    pub version: Option<String>,
}

impl Identity {
    fn new(kind: &'static str, usage: Usage) -> Self {
        Self { kind, usage, label: None, uuid: None, version: None }
    }

    fn filesystem(kind: &'static str) -> Self {
        Self::new(kind, Usage::Filesystem)
    }

    /// Sets the label to the bytes before the first NUL, without the blanks that fill it up.
    fn label(mut self, bytes: &[u8]) -> Self {
        let text = crate::bytes::until_nul(bytes).trim_ascii_end();
        self.label = Some(text.to_vec()).filter(|text| !text.is_empty());
        self
    }

    /// Sets the UUID of 16 bytes at `offset`, unless they are all zero.
    fn uuid(mut self, bytes: &[u8], offset: usize) -> Self {
        let mut field = [0; 16];
        field.copy_from_slice(&bytes[offset..offset + 16]);
        self.uuid = Some(crate::bytes::uuid(&field)).filter(|_| field != [0; 16]);
        self
    }

    fn serial(mut self, text: impl Into<String>) -> Self {
        self.uuid = Some(text.into()).filter(|text| !text.is_empty());
        self
    }

    fn version(mut self, text: impl Into<String>) -> Self {
        self.version = Some(text.into());
        self
    }
}

/// Looks for one group of formats.
type Probe = fn(&Reader<'_>) -> Option<Identity>;

/// What is looked for, in order: what is part of something larger, then strong signatures, then the weak ones.
const PROBES: &[Probe] = &[
    member::linux_raid,
    member::firmware_raid,
    member::lvm,
    member::luks,
    member::bitlocker,
    member::bcache,
    swap::swap,
    linux::xfs,
    microsoft::ntfs,
    microsoft::exfat,
    microsoft::refs,
    microsoft::fat,
    linux::ext,
    linux::btrfs,
    linux::f2fs,
    linux::reiserfs,
    linux::jfs,
    linux::nilfs2,
    linux::ocfs2,
    linux::bcachefs,
    small::squashfs,
    small::erofs,
    small::cramfs,
    small::romfs,
    optical::udf,
    optical::iso9660,
    apple::apfs,
    apple::hfs,
    unix::ufs,
    unix::zfs,
    small::bfs,
    small::minix,
    linux::ext_copy,
];

/// Returns the places far from a device's ends by which something is recognised: offsets, in bytes, of 1024 bytes each.
///
/// # Errors
/// Those of reading.
pub fn far_signatures(device: &dyn BlockDevice) -> Result<Vec<u64>> {
    let reader = Reader::new(device)?;
    Ok(linux::ext_copies(&reader))
}

/// Identifies what lies on a device; `None` when nothing is known that looks like it.
///
/// # Errors
/// Those of reading, where they may be why nothing was found.
pub fn identify(device: &dyn BlockDevice) -> Result<Option<Identity>> {
    let reader = Reader::new(device)?;
    match PROBES.iter().find_map(|probe| probe(&reader)) {
        Some(identity) => Ok(Some(identity)),
        None => reader.into_error().map_or(Ok(None), Err),
    }
}
