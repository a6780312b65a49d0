//! The hash index that directories and extended attributes share ("directory/attribute B-tree").
//!
//! Nodes hold pairs of a hash and the block below, where the hash is the greatest below; leaves are chained in order.
//! Blocks are numbered by their place in the fork.
//!
//! Specified in "XFS Algorithms & Data Structures", chapters "Directories" and "Extended Attributes".

use super::bmap_tree::partition;
use super::disk::{Disk, ForkOf};
use super::store::Kind;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use std::collections::HashSet;
use std::sync::Arc;

/// The highest index that Linux allows for.
const MAX_DEPTH: u16 = 5;

/// What a block of an index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads to other blocks.
    Node,
    /// The only leaf of a directory, with the best free space of each data block behind it.
    SingleLeaf,
    /// One of a directory's leaves.
    DirLeaf,
    /// A leaf of extended attributes.
    AttrLeaf,
}

/// A block of an index, checked.
#[derive(Clone)]
pub struct Block {
    /// All of its bytes.
    pub bytes: Arc<[u8]>,
    /// What it is.
    pub role: Role,
    /// How many entries it has; they lie within it.
    pub count: usize,
    /// Where its entries of 8 bytes begin, each with its hash first.
    pub entries: usize,
    /// The next block on its level; 0 when it is the last.
    pub next: u32,
    level: u16,
}

impl Block {
    /// Returns the hash of an entry.
    pub fn hash(&self, index: usize) -> u32 {
        be32(&self.bytes, self.entries + index * 8)
    }

    /// Returns the second half of an entry: an address or a block.
    pub fn value(&self, index: usize) -> u32 {
        be32(&self.bytes, self.entries + index * 8 + 4)
    }

    /// Returns the first entry whose hash is not less than `hash`.
    pub fn first_not_less(&self, hash: u32) -> usize {
        partition(self.count, |index| self.hash(index) < hash)
    }
}

/// An index in a fork.
#[derive(Clone, Copy)]
pub struct Index<'a> {
    /// Where the blocks are.
    pub disk: &'a Disk,
    /// The fork that holds it.
    pub of: ForkOf<'a>,
    /// The size of a block of it, in bytes.
    pub block_size: u32,
    /// The block that is its root, or its only leaf.
    pub root: u32,
}

impl Index<'_> {
    /// Makes an [`Error::Corrupt`] that names whose index it is.
    pub fn corrupt(&self, detail: &'static str) -> Error {
        Error::corrupt(format!("hash index of inode {}", self.of.ino), detail)
    }

    /// Reads a block of it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a hole and for a damaged block, and those of reading.
    pub fn block(&self, number: u32) -> Result<Block> {
        let v5 = self.disk.superblock.v5;
        let bytes = self
            .disk
            .fork_block(self.of, Kind::Da, u64::from(number), self.block_size)?
            .ok_or_else(|| self.corrupt("a block of it lies in a hole"))?;
        let (role, magic_v5) = match be16(&bytes, 8) {
            magic @ (0xfebe | 0x3ebe) => (Role::Node, magic == 0x3ebe),
            magic @ (0xd2f1 | 0x3df1) => (Role::SingleLeaf, magic == 0x3df1),
            magic @ (0xd2ff | 0x3dff) => (Role::DirLeaf, magic == 0x3dff),
            magic @ (0xfbee | 0x3bee) => (Role::AttrLeaf, magic == 0x3bee),
            _ => return Err(self.corrupt("a block of it has a wrong magic number")),
        };
        if magic_v5 != v5 || v5 && be64(&bytes, 48) != self.of.ino {
            return Err(self.corrupt("a block of it belongs to another inode or version"));
        }
        let info = if v5 { 56 } else { 12 };
        let entries = match (role, v5) {
            (Role::AttrLeaf, true) => 80,
            (Role::AttrLeaf, false) => 32,
            (_, true) => 64,
            (_, false) => 16,
        };
        let count = usize::from(be16(&bytes, info));
        if count > (bytes.len() - entries) / 8 {
            return Err(self.corrupt("a block of it has an impossible count"));
        }
        let level = if role == Role::Node { be16(&bytes, info + 2) } else { 0 };
        if role == Role::Node && (level == 0 || level > MAX_DEPTH || count == 0) {
            return Err(self.corrupt("a node of it has an impossible level or count"));
        }
        Ok(Block { role, count, entries, next: be32(&bytes, 0), level, bytes })
    }

    /// Goes down to a leaf by choosing an entry of each node. `None` when `choose` finds none.
    fn descend(&self, choose: impl Fn(&Block) -> Option<usize>) -> Result<Option<Block>> {
        let mut block = self.block(self.root)?;
        while block.role == Role::Node {
            let Some(index) = choose(&block) else { return Ok(None) };
            let below = self.block(block.value(index))?;
            if below.level + 1 != block.level {
                return Err(self.corrupt("a block of it is of another level"));
            }
            block = below;
        }
        Ok(Some(block))
    }

    /// Shows every entry of a hash, as a leaf and an index in it, until `visit` returns something.
    ///
    /// # Errors
    /// Those of `visit`, of damaged blocks and of reading.
    pub fn find<T>(&self, hash: u32, mut visit: impl FnMut(&Block, usize) -> Result<Option<T>>) -> Result<Option<T>> {
        let choose = |node: &Block| Some(node.first_not_less(hash)).filter(|&index| index < node.count);
        let Some(mut leaf) = self.descend(choose)? else { return Ok(None) };
        let mut seen = HashSet::new();
        loop {
            for index in leaf.first_not_less(hash)..leaf.count {
                if leaf.hash(index) != hash {
                    return Ok(None);
                }
                if let Some(found) = visit(&leaf, index)? {
                    return Ok(Some(found));
                }
            }
            match self.after(&leaf, &mut seen)? {
                Some(next) => leaf = next,
                None => return Ok(None),
            }
        }
    }

    /// Shows every leaf in order.
    ///
    /// # Errors
    /// Those of `visit`, of damaged blocks and of reading.
    pub fn leaves(&self, mut visit: impl FnMut(&Block) -> Result<()>) -> Result<()> {
        let Some(mut leaf) = self.descend(|_| Some(0))? else { return Ok(()) };
        let mut seen = HashSet::new();
        loop {
            visit(&leaf)?;
            match self.after(&leaf, &mut seen)? {
                Some(next) => leaf = next,
                None => return Ok(()),
            }
        }
    }

    fn after(&self, leaf: &Block, seen: &mut HashSet<u32>) -> Result<Option<Block>> {
        if leaf.next == 0 || leaf.role == Role::SingleLeaf {
            return Ok(None);
        }
        if !seen.insert(leaf.next) {
            return Err(self.corrupt("its leaves form a ring"));
        }
        let next = self.block(leaf.next)?;
        if next.role != leaf.role {
            return Err(self.corrupt("a leaf leads to a block that is none"));
        }
        Ok(Some(next))
    }
}
