//! The superblock: what a filesystem is, and where its trees begin.
//!
//! There are up to three copies, at 64 KiB, 64 MiB and 256 GiB. A commit writes all of them, so the newest that is whole
//! counts. Fields are little-endian. Specified in "On-disk Format" of the Btrfs documentation.

use super::checksum::{Checksum, FIELD};
use crate::block::BlockDevice;
use crate::bytes::{le32, le64, until_nul, uuid};
use crate::error::{Error, Result};

/// The length of a superblock, in bytes.
pub const SIZE: usize = 4096;
/// Where the copies lie, in bytes from the device's beginning.
pub const COPIES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];

const MAGIC_AT: usize = 0x40;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
const SYSTEM_CHUNKS_AT: usize = 0x32b;
const SYSTEM_CHUNKS_MAX: usize = 2048;
const FLAG_SEEDING: u64 = 1 << 32;

/// Incompatible features, by bit.
pub mod incompat {
    /// Data and metadata share block groups.
    pub const MIXED_GROUPS: u64 = 1 << 2;
    /// Holes of files have no extents.
    pub const NO_HOLES: u64 = 1 << 9;
    /// The UUID in tree blocks is not the filesystem's.
    pub const METADATA_UUID: u64 = 1 << 10;
    /// Several extent trees.
    pub const EXTENT_TREE_V2: u64 = 1 << 13;
    /// A tree tells where the stripes of extents lie.
    pub const RAID_STRIPE_TREE: u64 = 1 << 14;
    /// Every feature that can be read.
    pub const READABLE: u64 = 0x1fff | (1 << 16);
}

/// Compatible features that matter when writing, by bit.
pub mod compat_ro {
    /// Block groups have a tree of their own.
    pub const BLOCK_GROUP_TREE: u64 = 1 << 3;
}

/// A superblock that is whole.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// The filesystem's UUID.
    pub fsid: [u8; 16],
    /// The UUID that tree blocks bear.
    pub metadata_uuid: [u8; 16],
    /// Whether the filesystem is a seed: read-only, grown by others.
    pub is_seed: bool,
    /// The transaction that wrote it.
    pub generation: u64,
    /// Where the root tree begins, as a logical address.
    pub root: u64,
    /// The level of the root tree's root.
    pub root_level: u8,
    /// Where the chunk tree begins.
    pub chunk_root: u64,
    /// The level of the chunk tree's root.
    pub chunk_root_level: u8,
    /// The transaction that wrote the chunk tree's root.
    pub chunk_root_generation: u64,
    /// Where the tree of logs begins; 0 where there is none.
    pub log_root: u64,
    /// The level of the root of the tree of logs.
    pub log_root_level: u8,
    /// The size of all devices, in bytes.
    pub total_bytes: u64,
    /// How many devices there are.
    pub num_devices: u64,
    /// The sector size, in bytes: the unit of data.
    pub sector_size: u32,
    /// The node size, in bytes: the unit of metadata.
    pub node_size: u32,
    /// Incompatible features.
    pub incompat: u64,
    /// Features that matter when writing.
    pub compat_ro: u64,
    /// The kind of checksums.
    pub checksum: Checksum,
    /// The number of the device that holds this copy.
    pub devid: u64,
    /// The UUID of that device.
    pub device_uuid: [u8; 16],
    /// The label, without trailing NULs.
    pub label: Vec<u8>,
    /// The chunks that hold the chunk tree: keys and chunk items one after another.
    pub system_chunks: Vec<u8>,
}

impl Superblock {
    /// Reads a superblock of [`SIZE`] bytes that lies at `offset` of a device; `None` where there is no magic.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a copy that is damaged, [`Error::Unsupported`] for checksums that are not known.
    pub fn parse(bytes: &[u8; SIZE], offset: u64) -> Result<Option<Self>> {
        if &bytes[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return Ok(None);
        }
        let corrupt = |detail: String| Error::corrupt(format!("Btrfs superblock at {offset}"), detail);
        let checksum = Checksum::read(bytes, 0xc4)?;
        if !checksum.matches(&bytes[FIELD..], bytes) {
            return Err(corrupt("its checksum is wrong".into()));
        }
        if le64(bytes, 0x30) != offset {
            return Err(corrupt(format!("it says that it lies at {}", le64(bytes, 0x30))));
        }
        let sector_size = le32(bytes, 0x90);
        let node_size = le32(bytes, 0x94);
        if !sector_size.is_power_of_two() || !(4096..=65536).contains(&sector_size) {
            return Err(corrupt(format!("a sector size of {sector_size}")));
        }
        if !node_size.is_power_of_two() || !(sector_size..=65536).contains(&node_size) {
            return Err(corrupt(format!("a node size of {node_size}")));
        }
        let system_len = le32(bytes, 0xa0) as usize;
        if system_len > SYSTEM_CHUNKS_MAX {
            return Err(corrupt(format!("{system_len} bytes of system chunks")));
        }
        let id = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("16 bytes") };
        let incompat = le64(bytes, 0xbc);
        let fsid = id(0x20);
        Ok(Some(Self {
            fsid,
            metadata_uuid: if incompat & incompat::METADATA_UUID != 0 { id(0x23b) } else { fsid },
            is_seed: le64(bytes, 0x38) & FLAG_SEEDING != 0,
            generation: le64(bytes, 0x48),
            root: le64(bytes, 0x50),
            root_level: bytes[0xc6],
            chunk_root: le64(bytes, 0x58),
            chunk_root_level: bytes[0xc7],
            chunk_root_generation: le64(bytes, 0xa4),
            log_root: le64(bytes, 0x60),
            log_root_level: bytes[0xc8],
            total_bytes: le64(bytes, 0x70),
            num_devices: le64(bytes, 0x88),
            sector_size,
            node_size,
            incompat,
            compat_ro: le64(bytes, 0xb4),
            checksum,
            devid: le64(bytes, 0xc9),
            device_uuid: id(0xc9 + 66),
            label: until_nul(&bytes[0x12b..0x22b]).to_vec(),
            system_chunks: bytes[SYSTEM_CHUNKS_AT..SYSTEM_CHUNKS_AT + system_len].to_vec(),
        }))
    }

    /// Refuses a filesystem that uses what cannot be read.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the feature's name.
    pub fn check_features(&self) -> Result<()> {
        let unknown = self.incompat & !incompat::READABLE;
        if unknown & incompat::EXTENT_TREE_V2 != 0 {
            return Err(Error::unsupported("the Btrfs feature extent-tree-v2"));
        }
        if unknown & incompat::RAID_STRIPE_TREE != 0 {
            return Err(Error::unsupported("the Btrfs feature raid-stripe-tree"));
        }
        if unknown != 0 {
            return Err(Error::unsupported(format!("Btrfs features with the bits {unknown:#x}")));
        }
        Ok(())
    }

    /// Returns the filesystem's UUID as text.
    pub fn uuid(&self) -> String {
        uuid(&self.fsid)
    }
}

/// What the superblocks of a device say.
#[derive(Debug)]
pub struct Found {
    /// The newest copy that is whole.
    pub superblock: Superblock,
    /// What is wrong with the first copy, where it is not the one that was taken.
    pub warning: Option<String>,
}

/// Says whether a device has a superblock in the first place: a later copy alone may be left from a filesystem that was
/// there before.
///
/// # Errors
/// Those of reading.
pub fn is_there(device: &dyn BlockDevice) -> Result<bool> {
    let mut magic = [0; 8];
    let at = COPIES[0] + MAGIC_AT as u64;
    if device.size() < COPIES[0] + SIZE as u64 {
        return Ok(false);
    }
    device.read_at(&mut magic, at)?;
    Ok(&magic == MAGIC)
}

/// Finds the newest superblock of a device that is whole; `None` where no copy has the magic.
///
/// # Errors
/// [`Error::Corrupt`] when there are copies but none is whole, and those of reading.
pub fn find(device: &dyn BlockDevice) -> Result<Option<Found>> {
    let mut best: Option<(usize, Superblock)> = None;
    let mut failed = None;
    for (number, &offset) in COPIES.iter().enumerate() {
        if device.size() < offset + SIZE as u64 {
            break;
        }
        let mut bytes = [0; SIZE];
        let read = device.read_at(&mut bytes, offset).and_then(|()| Superblock::parse(&bytes, offset));
        match read {
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
            Ok(Some(found)) => match &best {
                // A copy of another filesystem is left from before this one was made.
                Some((_, other)) if other.fsid != found.fsid || other.generation >= found.generation => {}
                _ => best = Some((number, found)),
            },
        }
    }
    match (best, failed) {
        (Some((number, superblock)), failed) => {
            let warning = (number > 0).then(|| match failed {
                Some(error) => format!("copy {number} of the superblock was used: {error}"),
                None => format!("copy {number} of the superblock was used: it is the newest"),
            });
            Ok(Some(Found { superblock, warning }))
        }
        (None, Some(error)) => Err(error),
        (None, None) => Ok(None),
    }
}
