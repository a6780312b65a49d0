//! The extent B-tree of a file (`bmbt`): its root lies in the inode, its leaves hold extent records.
//!
//! Nodes hold keys, the first file block below each pointer, and 64-bit pointers. A descent looks at one block for each
//! level, so that a file of a million extents is opened and read without the whole tree being loaded. What a descent learns
//! of the next key on its way bounds a hole at the end of a leaf.
//!
//! Specified in "XFS Algorithms & Data Structures", section "B+tree Extent List".

use super::extent::{Extent, MAX_FILE_BLOCK, Mapping, RECORD_SIZE, find};
use super::store::{Kind, Store};
use super::superblock::{FsBlock, Superblock};
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use crate::fs::Ino;
use std::sync::Arc;

/// `BMAP`, of version 4.
const MAGIC_V4: u32 = 0x424d_4150;
/// `BMA3`, of version 5.
const MAGIC_V5: u32 = 0x424d_4133;

/// The highest tree that Linux allows for, with room to spare.
const MAX_LEVELS: u16 = 16;

/// The root of an extent tree.
#[derive(Clone, Debug)]
pub struct Root {
    level: u16,
    /// The first file block and the child, of each entry.
    entries: Box<[(u64, FsBlock)]>,
}

impl Root {
    /// Reads a root from the whole area of its fork.
    pub fn parse(area: &[u8]) -> Option<Self> {
        if area.len() < 4 + 16 {
            return None;
        }
        let level = be16(area, 0);
        let count = usize::from(be16(area, 2));
        let room = (area.len() - 4) / 16;
        if level == 0 || level > MAX_LEVELS || count == 0 || count > room {
            return None;
        }
        let entries =
            (0..count).map(|index| (be64(area, 4 + index * 8), be64(area, 4 + room * 8 + index * 8))).collect();
        Some(Self { level, entries })
    }

    /// Returns about how much memory it takes beside itself, in bytes.
    pub fn cost(&self) -> usize {
        size_of_val(&*self.entries)
    }

    /// Says where the first child lies, as a guess at where the file does.
    pub fn first_child(&self) -> FsBlock {
        self.entries[0].1
    }
}

/// Whose tree is searched.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// Where blocks are read.
    pub store: &'a Store,
    /// The geometry.
    pub superblock: &'a Superblock,
    /// Whose fork it is.
    pub ino: Ino,
    /// Whether the owners of blocks are compared.
    pub check_owner: bool,
    /// Whether the extents lie on the real-time device.
    pub real_time: bool,
}

/// A block of the tree, checked.
struct Node {
    bytes: Arc<[u8]>,
    header: usize,
    count: usize,
}

impl Tree<'_> {
    /// Finds what lies at block `block` of the file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the tree is damaged on the way, and those of reading.
    pub fn find(&self, root: &Root, block: u64) -> Result<Mapping> {
        let after = root.entries.partition_point(|&(key, _)| key <= block);
        let mut limit = root.entries.get(after).map_or(MAX_FILE_BLOCK, |&(key, _)| key);
        if after == 0 {
            return Ok(Mapping { end: limit.max(block + 1), extent: None });
        }
        let mut child = root.entries[after - 1].1;
        for level in (1..root.level).rev() {
            let node = self.node(child, level)?;
            let room = (node.bytes.len() - node.header) / 16;
            let key = |index: usize| be64(&node.bytes, node.header + index * 8);
            let after = partition(node.count, |index| key(index) <= block);
            if after < node.count {
                limit = limit.min(key(after));
            }
            if after == 0 {
                return Ok(Mapping { end: limit.max(block + 1), extent: None });
            }
            child = be64(&node.bytes, node.header + room * 8 + (after - 1) * 8);
        }
        let leaf = self.node(child, 0)?;
        let record = |index: usize| Extent::parse(&leaf.bytes[leaf.header + index * RECORD_SIZE..]);
        let mapping = find(block, leaf.count, limit, record);
        if let Some(extent) = &mapping.extent {
            extent.check(self.superblock, self.real_time, self.ino)?;
        }
        if mapping.end <= block {
            return Err(self.corrupt("its extents are out of order"));
        }
        Ok(mapping)
    }

    fn node(&self, block: FsBlock, level: u16) -> Result<Node> {
        let offset = self.superblock.block_offset(block, 1).ok_or_else(|| self.corrupt("a pointer leads nowhere"))?;
        let bytes = self.store.block(Kind::LongTree, offset, self.superblock.block_size)?;
        let (magic, header) = if self.superblock.v5 { (MAGIC_V5, 72) } else { (MAGIC_V4, 24) };
        if be32(&bytes, 0) != magic {
            return Err(self.corrupt("a block of it has a wrong magic number"));
        }
        if be16(&bytes, 4) != level {
            return Err(self.corrupt("a block of it is of another level"));
        }
        let count = usize::from(be16(&bytes, 6));
        if count == 0 || count > (bytes.len() - header) / 16 {
            return Err(self.corrupt("a block of it has an impossible count"));
        }
        if self.superblock.v5 && self.check_owner && be64(&bytes, 56) != self.ino {
            return Err(self.corrupt("a block of it belongs to another inode"));
        }
        Ok(Node { bytes, header, count })
    }

    fn corrupt(&self, detail: &'static str) -> Error {
        Error::corrupt(format!("extent tree of inode {}", self.ino), detail)
    }
}

/// Returns how many of the first `count` numbers satisfy `holds`, which is true up to a point.
pub fn partition(count: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
