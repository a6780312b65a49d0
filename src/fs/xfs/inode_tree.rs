//! The inode B-tree of an allocation group (`inobt`): which inodes have space, and which of them are in use.
//!
//! The mode of a freed inode is 0, but the space of a whole freed chunk is given back as it was, so an inode number from
//! outside is looked up here before its bytes are believed. A record covers 64 inodes; with sparse chunks a mask tells
//! which groups of four among them have space.
//!
//! Specified in "XFS Algorithms & Data Structures", section "Inode B+trees".

use super::ag::Inodes;
use super::bmap_tree::partition;
use super::store::{Kind, Store};
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};

/// `IABT`, of version 4.
const MAGIC_V4: u32 = 0x4941_4254;
/// `IAB3`, of version 5.
const MAGIC_V5: u32 = 0x4941_4233;
/// The size of a record, in bytes.
const RECORD_SIZE: usize = 16;
/// The highest tree that fits in a group, with room to spare.
const MAX_LEVELS: u32 = 12;
/// Inodes that a record covers.
pub const CHUNK: u32 = 64;

/// A chunk of 64 inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The first inode, by its number within the group.
    pub start: u32,
    /// A bit for each inode that is in use.
    pub used: u64,
}

impl Chunk {
    fn parse(bytes: &[u8], sparse: bool) -> Self {
        let free = be64(bytes, 8);
        let holes = if sparse { be16(bytes, 4) } else { 0 };
        let missing = (0..16).filter(|bit| holes >> bit & 1 == 1).fold(0_u64, |mask, bit| mask | 0xf << (bit * 4));
        Self { start: be32(bytes, 0), used: !free & !missing }
    }

    /// Says whether it covers an inode and whether that one is in use.
    pub fn holds(&self, inode: u32) -> bool {
        inode.checked_sub(self.start).is_some_and(|index| index < CHUNK && self.used >> index & 1 == 1)
    }
}

/// Finds the chunk that covers inode `inode` of group `ag`, or would.
///
/// # Errors
/// [`Error::Corrupt`] when group header or tree are damaged on the way, and those of reading.
pub fn find(store: &Store, superblock: &Superblock, ag: u32, inode: u32) -> Result<Option<Chunk>> {
    let corrupt = |detail: &'static str| Error::corrupt(format!("inode tree of allocation group {ag}"), detail);
    let group = Inodes::read(store, superblock, ag)?;
    if group.levels == 0 || group.levels > MAX_LEVELS {
        return Err(corrupt("it has an impossible height"));
    }
    let (magic, header) = if superblock.v5 { (MAGIC_V5, 56) } else { (MAGIC_V4, 16) };
    let mut block = group.root;
    for level in (0..group.levels).rev() {
        let offset = superblock.ag_block_offset(ag, block).ok_or_else(|| corrupt("a pointer leads nowhere"))?;
        let bytes = store.block(Kind::ShortTree, offset, superblock.block_size)?;
        if be32(&bytes, 0) != magic || u32::from(be16(&bytes, 4)) != level {
            return Err(corrupt("a block of it has a wrong magic number or level"));
        }
        if superblock.v5 && be32(&bytes, 48) != ag {
            return Err(corrupt("a block of it belongs to another group"));
        }
        let count = usize::from(be16(&bytes, 6));
        let entry = if level == 0 { RECORD_SIZE } else { 8 };
        let room = (bytes.len() - header) / entry;
        if count > room || count == 0 && group.levels > 1 {
            return Err(corrupt("a block of it has an impossible count"));
        }
        let step = if level == 0 { RECORD_SIZE } else { 4 };
        let after = partition(count, |index| be32(&bytes, header + index * step) <= inode);
        let Some(index) = after.checked_sub(1) else { return Ok(None) };
        if level == 0 {
            return Ok(Some(Chunk::parse(&bytes[header + index * RECORD_SIZE..], superblock.sparse_inodes)));
        }
        block = be32(&bytes, header + room * 4 + index * 4);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{set_be16, set_be32, set_be64};

    #[test]
    fn a_hole_in_a_sparse_chunk_holds_no_inodes() {
        let mut bytes = [0; 16];
        set_be32(&mut bytes, 0, 128);
        set_be16(&mut bytes, 4, 0xff00);
        set_be64(&mut bytes, 8, !0b111);
        let chunk = Chunk::parse(&bytes, true);
        assert!(chunk.holds(128) && chunk.holds(130) && !chunk.holds(131) && !chunk.holds(127));
        set_be64(&mut bytes, 8, 0);
        assert_eq!(Chunk::parse(&bytes, true).used, 0xffff_ffff);
        assert_eq!(Chunk::parse(&bytes, false).used, u64::MAX);
    }
}
