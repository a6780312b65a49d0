//! Where the contents of a file lie, while that changes: one face for extent trees and block maps.

use super::super::extent::Extent;
use super::super::inode::flag;
use super::super::superblock::Superblock;
use super::alloc::Run;
use super::block_maps;
use super::edit::InodeEdit;
use super::extents::{self, clusters};
use super::op::Op;
use crate::error::{Error, Result};

/// How many runs one operation frees at most.
const FREED_AT_ONCE: u32 = 48;

/// Gives a file blocks from its block `logical` on, where it has none yet, and counts their clusters. Those are the caller's
/// to claim, but for clusters that the file has already.
///
/// # Errors
/// `EFBIG`, `ENOSPC`, [`Error::Corrupt`] for a damaged tree, and those of the store.
pub(super) fn insert(op: &mut Op<'_>, edit: &mut InodeEdit, logical: u64, run: Run, unwritten: bool) -> Result<()> {
    let superblock = &op.core.volume.superblock;
    let mut clusters = u64::from(run.len);
    if edit.has_flag(flag::EXTENTS) {
        clusters::check(superblock, edit.ino, logical, run.start)?;
        clusters = clusters::count_new(op, edit, logical, run.len)?;
        let logical = first_block(logical, run.len)?;
        extents::insert(op, edit, Extent { logical, len: run.len, physical: run.start, unwritten })?;
    } else {
        check_map(superblock)?;
        block_maps::insert(op, edit, logical, run)?;
    }
    edit.add_clusters(superblock, clusters as i64)
}

/// Checks that a block map may be changed.
fn check_map(superblock: &Superblock) -> Result<()> {
    if superblock.cluster_bits == 0 {
        return Ok(());
    }
    Err(Error::unsupported("writing ext4 with bigalloc to a file with a block map"))
}

/// Returns a block of a file as an extent tree names it.
fn first_block(logical: u64, len: u32) -> Result<u32> {
    // The last block number stands for the end of the file.
    if logical + u64::from(len) > u64::from(u32::MAX) {
        return Err(Error::Errno(libc::EFBIG));
    }
    u32::try_from(logical).map_err(|_| Error::Errno(libc::EFBIG))
}

/// Makes blocks that were set aside, and lie at `physical`, count as written.
///
/// # Errors
/// As [`insert`].
pub(super) fn mark_written(op: &mut Op<'_>, edit: &mut InodeEdit, logical: u64, physical: u64, len: u32) -> Result<()> {
    change_state(op, edit, logical, physical, len, false)
}

/// Makes blocks that lie at `physical` read as zeroes without writing them. The file has an extent tree.
///
/// # Errors
/// As [`insert`].
pub(super) fn mark_unwritten(
    op: &mut Op<'_>,
    edit: &mut InodeEdit,
    logical: u64,
    physical: u64,
    len: u32,
) -> Result<()> {
    change_state(op, edit, logical, physical, len, true)
}

fn change_state(
    op: &mut Op<'_>,
    edit: &mut InodeEdit,
    logical: u64,
    physical: u64,
    len: u32,
    unwritten: bool,
) -> Result<()> {
    let first = first_block(logical, len)?;
    let mut from = first;
    while let Some(next) = extents::remove_some(op, edit, from, logical + u64::from(len), usize::MAX, false)? {
        from = next;
    }
    extents::insert(op, edit, Extent { logical: first, len, physical, unwritten })
}

/// Takes blocks of a file from `start` to before `end` away and frees them, some at a time. Returns where to go on; `None`
/// when all are gone.
///
/// # Errors
/// As [`insert`].
pub(super) fn remove_some(op: &mut Op<'_>, edit: &mut InodeEdit, start: u64, end: u64) -> Result<Option<u64>> {
    let limit = (op.core.store.max_credits() / 5).clamp(1, FREED_AT_ONCE) as usize;
    if !edit.has_flag(flag::EXTENTS) {
        check_map(&op.core.volume.superblock)?;
        return block_maps::remove_some(op, edit, start, end, limit);
    }
    let Ok(first) = u32::try_from(start) else { return Ok(None) };
    Ok(extents::remove_some(op, edit, first, end.min(1 << 32), limit, true)?.map(u64::from))
}
