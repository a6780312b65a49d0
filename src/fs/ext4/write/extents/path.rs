//! The way from the root of an extent tree to a leaf, and how its nodes are written back.

use super::super::super::extent::{self, ENTRY_SIZE, Extent, Index, MAX_WRITTEN, Node};
use super::super::edit::InodeEdit;
use super::super::op::Op;
use crate::bytes::{set_le16, set_le32};
use crate::error::{Error, Result};

/// A node on the way.
pub(super) struct Level {
    /// The block it fills; `None` for the root, which lies in the inode.
    pub(super) block: Option<u64>,
    pub(super) node: Node,
    /// Which entry leads on.
    pub(super) at: usize,
}

impl Level {
    pub(super) fn depth(&self) -> u16 {
        match &self.node {
            Node::Leaf(_) => 0,
            Node::Inner { depth, .. } => *depth,
        }
    }

    pub(super) fn len(&self) -> usize {
        match &self.node {
            Node::Leaf(extents) => extents.len(),
            Node::Inner { entries, .. } => entries.len(),
        }
    }

    /// Returns the first block of the file that the node holds.
    pub(super) fn key(&self) -> Option<u32> {
        match &self.node {
            Node::Leaf(extents) => extents.first().map(|extent| extent.logical),
            Node::Inner { entries, .. } => entries.first().map(|entry| entry.logical),
        }
    }

    pub(super) fn extents(&mut self) -> &mut Vec<Extent> {
        match &mut self.node {
            Node::Leaf(extents) => extents,
            Node::Inner { .. } => unreachable_inner(),
        }
    }

    pub(super) fn entries(&mut self) -> &mut Vec<Index> {
        match &mut self.node {
            Node::Inner { entries, .. } => entries,
            Node::Leaf(_) => unreachable_inner(),
        }
    }

    /// Takes the entries from `at` on away, as a node of their own.
    pub(super) fn split_off(&mut self, at: usize) -> Node {
        match &mut self.node {
            Node::Leaf(extents) => Node::Leaf(extents.split_off(at)),
            Node::Inner { depth, entries } => Node::Inner { depth: *depth, entries: entries.split_off(at) },
        }
    }
}

fn unreachable_inner() -> ! {
    panic!("a path ends with its only leaf")
}

/// Returns how many entries a node that fills a block has room for.
pub(super) fn block_capacity(op: &Op<'_>) -> usize {
    (op.core.volume.superblock.block_size as usize - ENTRY_SIZE) / ENTRY_SIZE
}

/// How many entries the root has room for.
pub(super) const ROOT_CAPACITY: usize = 4;

/// Returns how many entries a level has room for.
pub(super) fn capacity(op: &Op<'_>, level: &Level) -> usize {
    if level.block.is_none() { ROOT_CAPACITY } else { block_capacity(op) }
}

fn seed(op: &Op<'_>, edit: &InodeEdit) -> u32 {
    super::super::super::checksum::inode_seed(op.core.volume.superblock.checksum_seed, edit.ino, edit.generation())
}

/// Reads the way to the leaf that holds, or should hold, block `logical` of a file.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged tree, and those of reading.
pub(super) fn load(op: &Op<'_>, edit: &InodeEdit, logical: u32) -> Result<Vec<Level>> {
    let superblock = &op.core.volume.superblock;
    let verify = superblock.has_metadata_csum().then(|| seed(op, edit));
    let root = extent::parse_node(edit.ino, edit.block_area(), None, None, superblock.blocks_count)?;
    let mut path = vec![Level { block: None, node: root, at: 0 }];
    while let Some(level) = path.last_mut() {
        let Node::Inner { depth, entries } = &level.node else { break };
        // A block before the first key belongs to the first entry.
        let at = entries.partition_point(|entry| entry.logical <= logical).saturating_sub(1);
        let (child, depth) = (entries[at].child, depth - 1);
        level.at = at;
        op.core.volume.check_block(child, "an extent tree", edit.ino)?;
        if path.iter().any(|level| level.block == Some(child)) {
            return Err(Error::corrupt(format!("extent tree of inode {}", edit.ino), "it leads to a block twice"));
        }
        let bytes = op.read(child)?;
        let node = extent::parse_node(edit.ino, &bytes, Some(depth), verify, superblock.blocks_count)?;
        path.push(Level { block: Some(child), node, at: 0 });
    }
    Ok(path)
}

/// Returns the first block of the file that the leaf after this one holds.
pub(super) fn next_key(path: &[Level]) -> Option<u32> {
    path.iter().rev().skip(1).find_map(|level| match &level.node {
        Node::Inner { entries, .. } => entries.get(level.at + 1).map(|entry| entry.logical),
        Node::Leaf(_) => None,
    })
}

/// Encodes a node that has room for `capacity` entries.
fn encode(node: &Node, capacity: usize, bytes: &mut [u8]) {
    let (count, depth) = match node {
        Node::Leaf(extents) => (extents.len(), 0),
        Node::Inner { depth, entries } => (entries.len(), *depth),
    };
    set_le16(bytes, 0, extent::MAGIC);
    set_le16(bytes, 2, count as u16);
    set_le16(bytes, 4, capacity as u16);
    set_le16(bytes, 6, depth);
    let mut slots = bytes[ENTRY_SIZE..].chunks_exact_mut(ENTRY_SIZE).take(capacity);
    match node {
        Node::Leaf(extents) => {
            for (extent, slot) in extents.iter().zip(&mut slots) {
                set_le32(slot, 0, extent.logical);
                set_le16(slot, 4, extent.len as u16 + if extent.unwritten { MAX_WRITTEN } else { 0 });
                set_le16(slot, 6, (extent.physical >> 32) as u16);
                set_le32(slot, 8, extent.physical as u32);
            }
        }
        Node::Inner { entries, .. } => {
            for (entry, slot) in entries.iter().zip(&mut slots) {
                set_le32(slot, 0, entry.logical);
                set_le32(slot, 4, entry.child as u32);
                set_le16(slot, 8, (entry.child >> 32) as u16);
                set_le16(slot, 10, 0);
            }
        }
    }
    for slot in slots {
        slot.fill(0);
    }
}

/// Writes a node to where it lies.
///
/// # Errors
/// Those of the store.
pub(super) fn write(op: &mut Op<'_>, edit: &mut InodeEdit, block: Option<u64>, node: &Node) -> Result<()> {
    let Some(block) = block else {
        encode(node, ROOT_CAPACITY, edit.block_area_mut());
        return Ok(());
    };
    let room = block_capacity(op);
    let seed = op.core.volume.superblock.has_metadata_csum().then(|| seed(op, edit));
    op.modify(block, |bytes| fill(node, room, seed, bytes))?;
    op.note_node(edit.ino, block);
    Ok(())
}

fn fill(node: &Node, room: usize, seed: Option<u32>, bytes: &mut [u8]) {
    encode(node, room, bytes);
    if let Some((crc, tail)) = seed.and_then(|seed| extent::checksum(seed, bytes)) {
        set_le32(bytes, tail, crc);
    }
}

/// Writes a node to a block of its own, near `goal`; returns the block.
///
/// # Errors
/// `ENOSPC`, and those of the store.
pub(super) fn write_new(op: &mut Op<'_>, edit: &mut InodeEdit, node: &Node, goal: u64) -> Result<u64> {
    let block = op.claim(goal)?;
    let room = block_capacity(op);
    let seed = op.core.volume.superblock.has_metadata_csum().then(|| seed(op, edit));
    op.create(block, |bytes| fill(node, room, seed, bytes))?;
    op.note_node(edit.ino, block);
    edit.add_clusters(&op.core.volume.superblock, 1)?;
    Ok(block)
}
