//! Taking a range out of an extent tree.

use super::super::super::extent::{Extent, Node};
use super::super::alloc::Run;
use super::super::edit::InodeEdit;
use super::super::op::Op;
use super::clusters::{self, Taken};
use super::insert::write_back;
use super::path::{Level, ROOT_CAPACITY, load, next_key, write};
use crate::error::Result;

/// Takes blocks of a file from `start` to before `end` out of its tree, at most `limit` extents of one leaf, and frees
/// them where `is_freed` is set. Returns where to go on; `None` when all of the range is out.
///
/// # Errors
/// `ENOSPC` where a node must be split and finds no room, [`Error::Corrupt`](crate::Error::Corrupt) for a damaged tree, and
/// those of the store.
pub(in crate::fs::ext4) fn remove_some(
    op: &mut Op<'_>,
    edit: &mut InodeEdit,
    start: u32,
    end: u64,
    limit: usize,
    is_freed: bool,
) -> Result<Option<u32>> {
    let superblock = &op.core.volume.superblock;
    let mut path = load(op, edit, start)?;
    let next = next_key(&path).filter(|&next| u64::from(next) < end && next > start);
    let Some(leaf) = path.last_mut() else { return Ok(None) };
    let extents = leaf.extents();
    let mut kept = Vec::with_capacity(extents.len() + 1);
    let mut taken: Vec<Taken> = Vec::new();
    let mut go_on = next;
    let mut split = 0;
    for (number, extent) in extents.iter().enumerate() {
        let (from, to) = (u64::from(extent.logical).max(u64::from(start)), extent.end().min(end));
        if from >= to {
            kept.push(*extent);
            continue;
        }
        if taken.len() >= limit {
            go_on = Some(extent.logical);
            kept.extend_from_slice(&extents[number..]);
            break;
        }
        let (before, after) = ((from - u64::from(extent.logical)) as u32, (extent.end() - to) as u32);
        let run = Run { start: extent.physical + u64::from(before), len: (to - from) as u32 };
        if is_freed {
            clusters::check(superblock, edit.ino, from, run.start)?;
        }
        taken.push(Taken { logical: from, run });
        if before > 0 {
            kept.push(Extent { len: before, ..*extent });
        }
        if after > 0 {
            split = kept.len();
            kept.push(Extent {
                logical: to as u32,
                len: after,
                physical: extent.physical + u64::from(extent.len - after),
                unwritten: extent.unwritten,
            });
        }
    }
    if taken.is_empty() {
        return Ok(go_on);
    }
    let goal = taken[0].run.start;
    *extents = kept;
    if leaf.len() == 0 && leaf.block.is_some() {
        drop_empty(op, edit, path)?;
    } else {
        write_back(op, edit, path, split.max(1), goal)?;
    }
    if go_on.is_none() {
        move_root_up(op, edit)?;
    }
    if is_freed {
        clusters::free(op, edit, &taken)?;
    }
    Ok(go_on)
}

/// Frees an empty leaf and the nodes above it that become empty.
fn drop_empty(op: &mut Op<'_>, edit: &mut InodeEdit, mut path: Vec<Level>) -> Result<()> {
    while let Some(level) = path.pop() {
        let Some(block) = level.block else {
            return write(op, edit, None, &Node::Leaf(Vec::new()));
        };
        op.free_metadata(block)?;
        op.note_node(edit.ino, block);
        edit.add_clusters(&op.core.volume.superblock, -1)?;
        let Some(above) = path.last_mut() else { return Ok(()) };
        let at = above.at;
        above.entries().remove(at);
        if above.len() > 0 {
            return write_inner(op, edit, path);
        }
    }
    Ok(())
}

/// Writes back an inner node that lost an entry, and the keys above it.
fn write_inner(op: &mut Op<'_>, edit: &mut InodeEdit, mut path: Vec<Level>) -> Result<()> {
    let mut key = None;
    let mut is_lowest = true;
    while let Some(mut level) = path.pop() {
        if !is_lowest {
            let at = level.at;
            let entries = level.entries();
            let Some(key) = key.filter(|&key| entries[at].logical != key) else { return Ok(()) };
            entries[at].logical = key;
        }
        is_lowest = false;
        key = level.key();
        write(op, edit, level.block, &level.node)?;
    }
    Ok(())
}

/// Brings the only node below the root into the inode, as often as it fits.
pub(super) fn move_root_up(op: &mut Op<'_>, edit: &mut InodeEdit) -> Result<()> {
    loop {
        let mut path = load(op, edit, 0)?;
        if path.len() < 2 || path[0].len() > 1 {
            return Ok(());
        }
        let child = path.swap_remove(1);
        let Some(block) = child.block.filter(|_| child.len() <= ROOT_CAPACITY) else { return Ok(()) };
        op.free_metadata(block)?;
        op.note_node(edit.ino, block);
        edit.add_clusters(&op.core.volume.superblock, -1)?;
        write(op, edit, None, &child.node)?;
    }
}
