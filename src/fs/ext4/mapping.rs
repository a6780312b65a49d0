//! Where the blocks of a file lie: one answer for extent trees and block maps.

use super::block_map;
use super::extent::Node;
use super::inode::{BLOCK_AREA, Inode};
use super::volume::Volume;
use crate::bytes::le32;
use crate::error::{Error, Result};
use std::sync::Arc;

/// What a stretch of a file lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nothing; it reads as zeroes.
    Hole,
    /// Blocks that were allocated and not written; it reads as zeroes.
    Unwritten(u64),
    /// Blocks, the first of which this is.
    Block(u64),
}

/// A stretch of a file, from the block asked for on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The first block of the file after it.
    pub(crate) end: u64,
    /// What it lies in.
    pub(crate) place: Place,
}

const HOLE_TO_THE_END: Stretch = Stretch { end: u64::MAX, place: Place::Hole };

impl Volume {
    /// Returns the stretch of a file that begins with its block `logical`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged tree or map, and those of reading.
    pub(crate) fn stretch(&self, inode: &Inode, logical: u64) -> Result<Stretch> {
        if inode.uses_extents() {
            let Ok(logical) = u32::try_from(logical) else { return Ok(HOLE_TO_THE_END) };
            match &inode.root {
                Some(root) => self.stretch_by_extents(inode, root, logical),
                None => Err(inode
                    .parse_root(&self.superblock)
                    .err()
                    .unwrap_or_else(|| Error::corrupt(format!("inode {}", inode.ino), "its extent tree has no root"))),
            }
        } else {
            self.stretch_by_map(inode, logical)
        }
    }

    fn stretch_by_extents(&self, inode: &Inode, root: &Node, logical: u32) -> Result<Stretch> {
        let mut lower: Arc<Node>;
        let mut node = root;
        // Where the part of the file that the node covers ends.
        let mut limit = 1_u64 << 32;
        loop {
            match node {
                Node::Inner { depth, entries } => {
                    let after = entries.partition_point(|entry| entry.logical <= logical);
                    if let Some(next) = entries.get(after) {
                        limit = limit.min(u64::from(next.logical));
                    }
                    let Some(entry) = after.checked_sub(1).map(|at| entries[at]) else {
                        return Ok(Stretch { end: limit, place: Place::Hole });
                    };
                    lower = self.extent_node(inode, entry.child, depth - 1)?;
                    node = &lower;
                }
                Node::Leaf(extents) => {
                    let after = extents.partition_point(|extent| extent.logical <= logical);
                    if let Some(extent) = after.checked_sub(1).map(|at| extents[at])
                        && u64::from(logical) < extent.end()
                    {
                        let block = extent.physical + u64::from(logical - extent.logical);
                        let place = if extent.unwritten { Place::Unwritten(block) } else { Place::Block(block) };
                        return Ok(Stretch { end: extent.end().min(limit), place });
                    }
                    let next = extents.get(after).map_or(limit, |next| u64::from(next.logical).min(limit));
                    let end = if next == 1 << 32 { u64::MAX } else { next };
                    return Ok(Stretch { end, place: Place::Hole });
                }
            }
        }
    }

    fn stretch_by_map(&self, inode: &Inode, logical: u64) -> Result<Stretch> {
        let block_size = self.meta.block_size();
        let Some(path) = block_map::path(logical, block_size) else { return Ok(HOLE_TO_THE_END) };
        let entries = &path.entries[..path.depth];
        // The inode's own table holds 12 direct entries, which go on, and three others, which do not.
        let direct = if path.depth == 1 { block_map::DIRECT as usize * 4 } else { BLOCK_AREA };
        let mut block = self.stretch_in_table(&inode.block[..direct], inode, entries, 0, logical)?;
        for level in 1..path.depth {
            let Place::Block(number) = block.place else { break };
            let table = self.meta.block(number)?;
            block = self.stretch_in_table(&table, inode, entries, level, logical)?;
        }
        Ok(block)
    }

    /// Follows one entry of the path. On the last level the stretch is the file's; above, its place is the next table's.
    fn stretch_in_table(
        &self,
        table: &[u8],
        inode: &Inode,
        path: &[u32],
        level: usize,
        logical: u64,
    ) -> Result<Stretch> {
        let block_size = self.meta.block_size();
        let is_last = level + 1 == path.len();
        let covered = block_map::covered(level, path.len(), block_size);
        let inside: u64 = (level + 1..path.len())
            .map(|lower| u64::from(path[lower]) * block_map::covered(lower, path.len(), block_size))
            .sum();
        let entry = path[level] as usize;
        let block = u64::from(le32(table, entry * 4));
        // The inode's three indirect entries cover different amounts, so no run of them is one stretch.
        let may_go_on = level > 0 || is_last;
        let following = table[entry * 4 + 4..].chunks_exact(4).map(|next| u64::from(le32(next, 0)));
        let mut count = 1;
        if block == 0 {
            if may_go_on {
                count += following.take_while(|&next| next == 0).count() as u64;
            }
            return Ok(Stretch { end: logical - inside + count * covered, place: Place::Hole });
        }
        self.check_block(block, "its block map", inode.ino)?;
        if is_last {
            count += following.zip(block + 1..).take_while(|(next, expected)| next == expected).count() as u64;
            if block + count > self.superblock.blocks_count {
                return Err(Error::corrupt(format!("inode {}", inode.ino), "its block map leaves the filesystem"));
            }
        }
        Ok(Stretch { end: logical - inside + count * covered, place: Place::Block(block) })
    }
}
