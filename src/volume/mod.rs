//! Floor 2: devices made of devices.
//!
//! [`scan`] finds the volumes of a disk: its partitions, or the disk itself where it has none. [`assemble`] finds those of
//! all disks together, in any stack: arrays, volume groups, encrypted volumes, and partitions within them. Which filesystem
//! lies on a volume is not looked at here, beyond what is needed to tell a partition table from a filesystem's boot sector.

mod assemble;
mod bare;
mod bcache;
pub mod bitlocker;
pub mod crypt;
pub mod edit;
mod firmware;
mod gpt;
mod hash;
pub mod keys;
mod labels;
mod ldm;
pub mod luks;
mod lvm;
mod mbr;
mod md;
mod raid;
mod scan;
mod sectors;

pub use assemble::{Assembled, Locked, Source, Stack, assemble};
pub(crate) use bcache::MAGIC as BCACHE_MAGIC;
pub use gpt::GptAttributes;
pub(crate) use labels::{ArrayMember, array_member, physical_volume};
pub use scan::scan;

use crate::block::SharedDevice;
use std::fmt;

/// What a disk holds, as far as partitions go.
#[derive(Clone, Debug)]
pub struct Scan {
    /// The volumes, in the order of their numbers. Never empty: a disk without partitions is a volume itself.
    pub volumes: Vec<Volume>,
    /// The kind of the partition table, where there is one.
    pub scheme: Option<Scheme>,
    /// The disk's own identifier, as `blkid` shows it (`PTUUID`): a GUID, or the eight digits of an MBR's signature.
    pub table_uuid: Option<String>,
    /// What a person should know: a damaged table, a partition that was clipped.
    pub warnings: Vec<String>,
}

/// A device that may hold a filesystem.
#[derive(Clone)]
pub struct Volume {
    /// The name that a guest knows it by: `/dev/sda1`, or `/dev/sda` for a whole disk.
    pub name: String,
    /// Other names that a guest may have for it: `/dev/mapper/vg-lv`, `/dev/md/home`.
    pub aliases: Vec<String>,
    /// Its bytes.
    pub device: SharedDevice,
    /// What it is.
    pub kind: VolumeKind,
    /// The names of the devices that it is made of; none for a disk.
    pub parents: Vec<String>,
}

impl fmt::Debug for Volume {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Volume")
            .field("name", &self.name)
            .field("size", &self.device.size())
            .field("kind", &self.kind)
            .field("parents", &self.parents)
            .finish()
    }
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeKind {
    /// A disk as a whole.
    WholeDisk,
    /// A partition of a disk, or of another volume.
    Partition(Partition),
    /// An array of Linux software RAID.
    Raid(Raid),
    /// A volume of a volume group of LVM.
    Logical(Logical),
    /// What an encrypted volume holds.
    Crypt(crypt::Encrypted),
    /// The disk behind bcache.
    Backing {
        /// The UUID of the cache's backing device.
        uuid: String,
    },
    /// A volume of a group of Windows' dynamic disks.
    Dynamic(Dynamic),
}

impl VolumeKind {
    /// Returns the type as `lsblk` shows it: `disk`, `part`, `raid1`, `lvm`, `crypt`.
    pub fn type_name(&self) -> &str {
        match self {
            Self::WholeDisk => "disk",
            Self::Partition(_) => "part",
            Self::Raid(raid) => &raid.level,
            Self::Logical(_) => "lvm",
            Self::Crypt(_) => "crypt",
            Self::Backing { .. } => "bcache",
            Self::Dynamic(_) => "dynamic",
        }
    }

    /// Returns the partition that it is, where it is one.
    pub fn partition(&self) -> Option<&Partition> {
        match self {
            Self::Partition(partition) => Some(partition),
            _ => None,
        }
    }

    /// Says whether a filesystem on the volume is that of its one parent, as the parent's table of partitions knows it: the
    /// volume is what an encrypted one holds, or an array, and no part of a group.
    pub fn is_layer(&self) -> bool {
        matches!(self, Self::Raid(_) | Self::Crypt(_) | Self::Backing { .. })
    }
}

/// An array, as its superblocks describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raid {
    /// The name that was recorded, without the host's; none in superblocks of version 0.90.
    pub name: Option<String>,
    /// The UUID as mdadm shows it: `01234567:89abcdef:01234567:89abcdef`.
    pub uuid: String,
    /// The level as the kernel names it: `raid1`, `linear`.
    pub level: String,
    /// The version of the superblocks: `1.2`.
    pub metadata: &'static str,
    /// How many members there ought to be.
    pub devices: u32,
    /// How many of them are there and up to date.
    pub working: u32,
}

/// A logical volume, as its group's metadata describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    /// The name of the volume group.
    pub group: String,
    /// The name of the volume.
    pub name: String,
    /// The UUID as `lvs` shows it.
    pub uuid: String,
    /// How it is made: `linear`, `striped`, `thin`, ….
    pub layout: String,
}

/// A volume of dynamic disks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// The name of the disk group.
    pub group: String,
    /// The name of the volume.
    pub name: String,
    /// The volume's GUID.
    pub uuid: String,
    /// How it is made: `simple`, `spanned`, `striped`, ….
    pub layout: &'static str,
}

/// The kind of a partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// The master boot record of PCs, with logical partitions in extended ones.
    Mbr,
    /// The GUID partition table of UEFI.
    Gpt,
}

impl fmt::Display for Scheme {
    /// Writes the name that `blkid` has for it (`PTTYPE`).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mbr => "dos",
            Self::Gpt => "gpt",
        })
    }
}

/// The type that a partition table gives a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// The type byte of an MBR entry.
    Mbr(u8),
    /// The type GUID of a GPT entry, in lower case.
    Gpt(String),
}

impl fmt::Display for PartitionType {
    /// Writes the type as `blkid` does (`PART_ENTRY_TYPE`): `0x83`, or a GUID.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(byte) => write!(formatter, "{byte:#x}"),
            Self::Gpt(guid) => formatter.write_str(guid),
        }
    }
}

/// A partition, as its table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, from 1; logical partitions of an MBR begin at 5.
    pub number: u32,
    /// Where it begins on the disk, in bytes.
    pub start: u64,
    /// How much of it lies on the disk, in bytes.
    pub size: u64,
    /// The kind of the table.
    pub scheme: Scheme,
    /// Its type.
    pub type_id: PartitionType,
    /// Its identifier as `blkid` shows it (`PARTUUID`), where there is one.
    pub part_uuid: Option<String>,
    /// Its name (`PARTLABEL`), where it has one.
    pub part_label: Option<String>,
    /// Whether an old BIOS is to boot from it.
    pub bootable: bool,
    /// The attributes of a GPT entry; none for an MBR.
    pub attributes: GptAttributes,
}

/// Returns the name of the disk of an index, from 0: `sda` … `sdz`, `sdaa`, ….
pub fn disk_name(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index;
    loop {
        letters.push(b'a' + (rest % 26) as u8);
        if rest < 26 {
            break;
        }
        rest = rest / 26 - 1;
    }
    letters.extend(b"ds");
    letters.iter().rev().map(|&letter| char::from(letter)).collect()
}

/// Returns the name of a partition of the disk `disk`, without `/dev/`: `sda1`, `nvme0n1p1`.
pub fn partition_name(disk: &str, number: u32) -> String {
    let separator = if disk.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
    format!("{disk}{separator}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_the_kernel_names_them() {
        let names: Vec<_> = [0, 25, 26, 27, 51, 52, 701, 702, 703].into_iter().map(disk_name).collect();
        assert_eq!(names, ["sda", "sdz", "sdaa", "sdab", "sdaz", "sdba", "sdzz", "sdaaa", "sdaab"]);
        disk_name(usize::MAX);
        assert_eq!(partition_name("sda", 5), "sda5");
        assert_eq!(partition_name("nvme0n1", 5), "nvme0n1p5");
    }
}
