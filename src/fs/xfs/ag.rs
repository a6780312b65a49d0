//! The headers of an allocation group: free space (AGF) in its second sector, inodes (AGI) in its third.
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Allocation Groups".

use super::store::{Store, checksum_fits};
use super::superblock::Superblock;
use crate::bytes::be32;
use crate::error::{Error, Result};

/// `XAGF`.
const AGF_MAGIC: u32 = 0x5841_4746;
/// `XAGI`.
const AGI_MAGIC: u32 = 0x5841_4749;
/// How much of either header is read, in bytes: the least sector, which holds all of their fields.
const LEAST: usize = 512;

/// The counters of a group's free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeSpace {
    /// Free blocks in the group's B-trees.
    pub free_blocks: u64,
    /// Blocks on the free list.
    pub listed_blocks: u64,
    /// Blocks that the free space B-trees (and the reverse mapping's) take beside their roots.
    pub tree_blocks: u64,
    /// Blocks of the reverse mapping's B-tree among them, with its root.
    pub rmap_blocks: u64,
}

/// What a group says of its inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inodes {
    /// Inodes that have space.
    pub count: u32,
    /// Inodes that are free among them.
    pub free: u32,
    /// The root of the inode B-tree, as a block of the group.
    pub root: u32,
    /// How many levels it has.
    pub levels: u32,
}

/// Reads a header and checks what both have in common.
fn header(store: &Store, superblock: &Superblock, ag: u32, agi: bool) -> Result<Vec<u8>> {
    let (name, magic, sector, uuid, crc) =
        if agi { ("AGI", AGI_MAGIC, 2, 296, 312) } else { ("AGF", AGF_MAGIC, 1, 64, 216) };
    let corrupt = |detail: &'static str| Error::corrupt(format!("{name} of allocation group {ag}"), detail);
    let start = superblock.ag_block_offset(ag, 0).ok_or_else(|| corrupt("there is no such group"))?;
    let size = superblock.sector_size;
    let mut bytes = vec![0; (size as usize).max(LEAST)];
    let logged = store.read(&mut bytes, start + u64::from(sector * size))?;
    if superblock.v5 {
        if !logged && !checksum_fits(&bytes, crc) {
            return Err(corrupt("its checksum is wrong"));
        }
        if bytes[uuid..uuid + 16] != superblock.meta_uuid {
            return Err(corrupt("it belongs to another filesystem"));
        }
    }
    if be32(&bytes, 0) != magic || be32(&bytes, 4) != 1 {
        return Err(corrupt("its magic number or version is wrong"));
    }
    if be32(&bytes, 8) != ag || be32(&bytes, 12) != superblock.ag_length(ag) {
        return Err(corrupt("its number or length is wrong"));
    }
    Ok(bytes)
}

impl FreeSpace {
    /// Reads those of group `ag`.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn read(store: &Store, superblock: &Superblock, ag: u32) -> Result<Self> {
        let bytes = header(store, superblock, ag, false)?;
        Ok(Self {
            free_blocks: u64::from(be32(&bytes, 52)),
            listed_blocks: u64::from(be32(&bytes, 48)),
            tree_blocks: u64::from(be32(&bytes, 60)),
            rmap_blocks: u64::from(be32(&bytes, 80)),
        })
    }
}

impl Inodes {
    /// Reads those of group `ag`.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn read(store: &Store, superblock: &Superblock, ag: u32) -> Result<Self> {
        let bytes = header(store, superblock, ag, true)?;
        Ok(Self { count: be32(&bytes, 16), free: be32(&bytes, 28), root: be32(&bytes, 20), levels: be32(&bytes, 24) })
    }
}
