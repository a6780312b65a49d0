//! Inode creation items: a chunk of inodes that is made without a byte of it being logged (version 5).

use super::super::inode::{CRC_OFFSET, MAGIC};
use super::super::superblock::Superblock;
use super::buffer::Place;
use super::corrupt;
use super::transaction::Item;
use crate::bytes::{be32, set_be16, set_be32, set_be64};
use crate::error::Result;

/// The most inodes that are made at once: those of the largest block.
const MAX_INODES: u32 = 256;
/// The size of a buffer of inodes for inodes of 256 bytes, in bytes.
const CLUSTER: u32 = 8192;

/// A chunk of inodes that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    ag: u32,
    block: u32,
    blocks: u32,
    generation: u32,
}

impl Creation {
    /// Reads an item.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when it is damaged.
    pub fn parse(item: &Item, superblock: &Superblock) -> Result<Self> {
        let format = item.format(28)?;
        let creation = Self {
            ag: be32(format, 4),
            block: be32(format, 8),
            blocks: be32(format, 20),
            generation: be32(format, 24),
        };
        let (count, size) = (be32(format, 12), be32(format, 16));
        let last = creation.blocks.checked_sub(1).and_then(|more| creation.block.checked_add(more));
        let inside = last.is_some_and(|last| superblock.ag_block_offset(creation.ag, last).is_some());
        let fits = inside
            && size == superblock.inode_size
            && count <= MAX_INODES
            && u64::from(creation.blocks) << superblock.inodes_per_block_log == u64::from(count);
        if fits { Ok(creation) } else { Err(corrupt("a chunk of inodes is created that cannot be")) }
    }

    /// Returns the buffers that the chunk lies in.
    pub fn places(&self, superblock: &Superblock) -> Vec<Place> {
        let mut size = CLUSTER;
        let scaled = CLUSTER * (superblock.inode_size / 256);
        if superblock.inode_alignment >= scaled >> superblock.block_log {
            size = scaled;
        }
        let step = (size >> superblock.block_log).max(1);
        let sectors = superblock.block_size / 512;
        (0..self.blocks)
            .step_by(step as usize)
            .filter_map(|at| superblock.ag_block_offset(self.ag, self.block + at))
            .map(|offset| (offset / 512, step * sectors))
            .collect()
    }

    /// Returns where the chunk begins, in bytes, and its bytes.
    pub fn bytes(&self, superblock: &Superblock) -> Option<(u64, Vec<u8>)> {
        let offset = superblock.ag_block_offset(self.ag, self.block)?;
        let size = superblock.inode_size as usize;
        let first =
            u64::from(self.ag) << superblock.ag_inode_bits() | u64::from(self.block) << superblock.inodes_per_block_log;
        let mut bytes = vec![0; (self.blocks as usize) << superblock.block_log];
        for (number, inode) in (first..).zip(bytes.chunks_exact_mut(size)) {
            set_be16(inode, 0, MAGIC);
            inode[4] = 3;
            set_be32(inode, 92, self.generation);
            // No next one in a list of unlinked inodes.
            set_be32(inode, CRC_OFFSET - 4, u32::MAX);
            set_be64(inode, 152, number);
            inode[160..176].copy_from_slice(&superblock.meta_uuid);
        }
        Some((offset, bytes))
    }
}
