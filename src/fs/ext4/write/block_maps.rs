//! Block maps while they change: blocks named in the inode and in indirect blocks, which are made and freed as needed.

use super::super::block_map::{self, DIRECT};
use super::alloc::Run;
use super::edit::InodeEdit;
use super::op::Op;
use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};

/// Names blocks of the device as the blocks of a file from `logical` on. Nothing may lie there yet.
///
/// # Errors
/// `EFBIG` past what a map reaches or can name, `ENOSPC` where an indirect block finds no room, and those of the store.
pub(super) fn insert(op: &mut Op<'_>, edit: &mut InodeEdit, logical: u64, run: Run) -> Result<()> {
    let block_size = op.core.volume.meta.block_size();
    if run.end() > 1 << 32 {
        return Err(Error::Errno(libc::EFBIG));
    }
    let mut done = 0;
    while done < run.len {
        let physical = run.start + u64::from(done);
        let path = block_map::path(logical + u64::from(done), block_size).ok_or(Error::Errno(libc::EFBIG))?;
        let first = path.entries[0] as usize * 4;
        if path.depth == 1 {
            set_le32(edit.block_area_mut(), first, physical as u32);
            done += 1;
            continue;
        }
        let mut table = u64::from(le32(edit.block_area(), first));
        if table == 0 {
            table = new_table(op, edit, physical)?;
            set_le32(edit.block_area_mut(), first, table as u32);
        }
        for &entry in &path.entries[1..path.depth - 1] {
            op.core.volume.check_block(table, "its block map", edit.ino)?;
            let mut next = u64::from(le32(&op.read(table)?, entry as usize * 4));
            if next == 0 {
                next = new_table(op, edit, physical)?;
                op.modify(table, |bytes| set_le32(bytes, entry as usize * 4, next as u32))?;
            }
            table = next;
        }
        op.core.volume.check_block(table, "its block map", edit.ino)?;
        let entry = path.entries[path.depth - 1];
        let count = (run.len - done).min(block_size as u32 / 4 - entry);
        op.modify(table, |bytes| {
            for number in 0..count {
                set_le32(bytes, (entry + number) as usize * 4, (physical + u64::from(number)) as u32);
            }
        })?;
        done += count;
    }
    Ok(())
}

fn new_table(op: &mut Op<'_>, edit: &mut InodeEdit, goal: u64) -> Result<u64> {
    let block = op.claim(goal)?;
    if block > u64::from(u32::MAX) {
        return Err(Error::Errno(libc::EFBIG));
    }
    op.create(block, |_| ())?;
    edit.add_blocks(&op.core.volume.superblock, 1)?;
    Ok(block)
}

/// Takes blocks of a file from `start` to before `end` out of its map and frees them, at most about `limit` runs of them.
/// Returns where to go on; `None` when all of the range is out.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged map, and those of the store.
pub(super) fn remove_some(
    op: &mut Op<'_>,
    edit: &mut InodeEdit,
    start: u64,
    end: u64,
    limit: usize,
) -> Result<Option<u64>> {
    let block_size = op.core.volume.meta.block_size();
    let mut at = start;
    let mut freed = 0;
    while at < end {
        if freed >= limit {
            return Ok(Some(at));
        }
        let Some(path) = block_map::path(at, block_size) else { return Ok(None) };
        let first = path.entries[0] as usize * 4;
        if path.depth == 1 {
            let block = le32(edit.block_area(), first);
            if block != 0 {
                set_le32(edit.block_area_mut(), first, 0);
                free(op, edit, u64::from(block), 1)?;
                freed += 1;
            }
            at += 1;
            continue;
        }
        // The tables on the way, each with the entry that is taken in it.
        let mut tables: Vec<(u64, usize)> = Vec::with_capacity(3);
        let mut table = u64::from(le32(edit.block_area(), first));
        let mut hole_level = (table == 0).then_some(0);
        for (level, &entry) in path.entries[..path.depth].iter().enumerate().skip(1) {
            if hole_level.is_some() {
                break;
            }
            op.core.volume.check_block(table, "its block map", edit.ino)?;
            tables.push((table, entry as usize));
            if level + 1 < path.depth {
                table = u64::from(le32(&op.read(table)?, entry as usize * 4));
                hole_level = (table == 0).then_some(level);
            }
        }
        if let Some(level) = hole_level {
            let covered = block_map::covered(level, path.depth, block_size);
            let base = base_of(path.depth, block_size);
            at = base + ((at - base) / covered + 1) * covered;
            continue;
        }
        let Some(&(leaf, entry)) = tables.last() else { return Ok(None) };
        let count = ((block_size / 4 - entry) as u64).min(end - at) as usize;
        let bytes = op.read(leaf)?;
        let mut runs: Vec<Run> = Vec::new();
        let mut taken = 0;
        for number in entry..entry + count {
            let block = u64::from(le32(&bytes, number * 4));
            taken += 1;
            if block == 0 {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end() == block => run.len += 1,
                _ => {
                    if freed + runs.len() >= limit {
                        taken -= 1;
                        break;
                    }
                    runs.push(Run { start: block, len: 1 });
                }
            }
        }
        if !runs.is_empty() {
            op.modify(leaf, |bytes| bytes[entry * 4..(entry + taken) * 4].fill(0))?;
            freed += runs.len();
            for run in runs {
                free(op, edit, run.start, run.len)?;
            }
        }
        free_empty_tables(op, edit, &tables, first)?;
        at += taken as u64;
    }
    Ok(None)
}

/// Returns the first block of a file that is reached by so many entries.
fn base_of(depth: usize, block_size: usize) -> u64 {
    let per_block = block_size as u64 / 4;
    DIRECT + (1..depth as u32 - 1).map(|level| per_block.pow(level)).sum::<u64>()
}

fn free(op: &mut Op<'_>, edit: &mut InodeEdit, block: u64, len: u32) -> Result<()> {
    op.core.volume.check_block(block, "its block map", edit.ino)?;
    op.free(Run { start: block, len })?;
    op.forget_mapped(edit, Run { start: block, len })?;
    edit.add_blocks(&op.core.volume.superblock, -i64::from(len))
}

/// Frees the tables of a path that name nothing any more, the lowest first.
fn free_empty_tables(op: &mut Op<'_>, edit: &mut InodeEdit, tables: &[(u64, usize)], first: usize) -> Result<()> {
    for (level, &(table, _)) in tables.iter().enumerate().rev() {
        if op.read(table)?.iter().any(|&byte| byte != 0) {
            return Ok(());
        }
        op.free_metadata(table)?;
        edit.add_blocks(&op.core.volume.superblock, -1)?;
        match level.checked_sub(1).map(|above| tables[above]) {
            Some((above, entry)) => op.modify(above, |bytes| set_le32(bytes, entry * 4, 0))?,
            None => set_le32(edit.block_area_mut(), first, 0),
        }
    }
    Ok(())
}
