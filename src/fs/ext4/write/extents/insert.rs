//! Putting an extent into a tree.

use super::super::super::extent::{Extent, Index, MAX_DEPTH, Node};
use super::super::edit::InodeEdit;
use super::super::op::Op;
use super::path::{Level, capacity, load, write, write_new};
use super::remove::move_root_up;
use super::{is_one, longest};
use crate::error::{Error, Result};

/// Puts an extent into a tree, as a part of its neighbours where it continues them. Nothing may lie there yet. The inode's
/// count of blocks grows by new nodes alone.
///
/// # Errors
/// `ENOSPC` where a new node finds no room, [`Error::Corrupt`] for a damaged tree, and those of the store.
pub(in crate::fs::ext4) fn insert(op: &mut Op<'_>, edit: &mut InodeEdit, extent: Extent) -> Result<()> {
    let mut rest = extent;
    // An extent of a device may be longer than one of a tree.
    while rest.len > longest(rest.unwritten) {
        let len = longest(rest.unwritten);
        insert_one(op, edit, Extent { len, ..rest })?;
        rest = Extent {
            logical: rest.logical + len,
            len: rest.len - len,
            physical: rest.physical + u64::from(len),
            ..rest
        };
    }
    insert_one(op, edit, rest)
}

fn insert_one(op: &mut Op<'_>, edit: &mut InodeEdit, extent: Extent) -> Result<()> {
    let mut path = load(op, edit, extent.logical)?;
    let Some(leaf) = path.last_mut() else { return Ok(()) };
    let extents = leaf.extents();
    let mut at = extents.partition_point(|other| other.logical <= extent.logical);
    let overlaps = at > 0 && extents[at - 1].end() > u64::from(extent.logical)
        || extents.get(at).is_some_and(|next| u64::from(next.logical) < extent.end());
    if overlaps {
        return Err(Error::corrupt(format!("extent tree of inode {}", edit.ino), "two extents overlap"));
    }
    if at > 0 && is_one(&extents[at - 1], &extent) {
        extents[at - 1].len += extent.len;
    } else {
        extents.insert(at, extent);
        at += 1;
    }
    let count = extents.len();
    if at < count && is_one(&extents[at - 1], &extents[at]) {
        extents[at - 1].len += extents[at].len;
        extents.remove(at);
    }
    let is_fewer = extents.len() < count;
    // A leaf that overflows at its end keeps what it has, so that files written in order have full leaves.
    let split = if at == extents.len() { extents.len() - 1 } else { extents.len() / 2 };
    write_back(op, edit, path, split, extent.physical)?;
    // What joined its neighbours may leave so few extents that they fit the inode.
    if is_fewer { move_root_up(op, edit) } else { Ok(()) }
}

/// Writes a path back whose leaf was changed: splits nodes that overflow, the leaf before its entry `split`, and keeps the
/// keys above right.
///
/// # Errors
/// As [`insert`].
pub(super) fn write_back(
    op: &mut Op<'_>,
    edit: &mut InodeEdit,
    mut path: Vec<Level>,
    split: usize,
    goal: u64,
) -> Result<()> {
    // The key of the node below, and a new node after it.
    let mut key = None;
    let mut sibling: Option<Index> = None;
    let mut is_leaf = true;
    while let Some(mut level) = path.pop() {
        let mut split = split;
        if !is_leaf {
            let at = level.at;
            let entries = level.entries();
            let is_same = key.is_none_or(|key| entries[at].logical == key);
            if is_same && sibling.is_none() {
                return Ok(());
            }
            if let Some(key) = key {
                entries[at].logical = key;
            }
            split = entries.len() / 2;
            if let Some(sibling) = sibling.take() {
                entries.insert(at + 1, sibling);
                split = if at + 2 == entries.len() { entries.len() - 1 } else { entries.len() / 2 };
            }
        }
        is_leaf = false;
        key = level.key();
        if level.len() <= capacity(op, &level) {
            write(op, edit, level.block, &level.node)?;
        } else if level.block.is_none() {
            return move_root_down(op, edit, level, goal);
        } else {
            let right = level.split_off(split);
            let logical = first_key(&right).unwrap_or_default();
            let child = write_new(op, edit, &right, goal)?;
            write(op, edit, level.block, &level.node)?;
            sibling = Some(Index { logical, child });
        }
    }
    Ok(())
}

fn first_key(node: &Node) -> Option<u32> {
    match node {
        Node::Leaf(extents) => extents.first().map(|extent| extent.logical),
        Node::Inner { entries, .. } => entries.first().map(|entry| entry.logical),
    }
}

/// Moves a root that overflows into a block of its own.
fn move_root_down(op: &mut Op<'_>, edit: &mut InodeEdit, root: Level, goal: u64) -> Result<()> {
    let depth = root.depth() + 1;
    if depth > MAX_DEPTH {
        return Err(Error::Errno(libc::EFBIG));
    }
    let logical = root.key().unwrap_or_default();
    let child = write_new(op, edit, &root.node, goal)?;
    write(op, edit, None, &Node::Inner { depth, entries: vec![Index { logical, child }] })
}
