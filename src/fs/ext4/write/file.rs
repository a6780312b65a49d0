//! Writing to regular files.
//!
//! Contents go straight to the device, one write for each run of blocks; then one operation names the new blocks, marks
//! them as taken and sets the size, so that a crash shows either all of a piece or nothing of it.

use super::super::features::{incompat, ro_compat};
use super::super::inode::{Inode, flag};
use super::super::mapping::{Place, Stretch};
use super::super::superblock::field as super_field;
use super::alloc::Run;
use super::core::{CREDITS, Core};
use super::edit::{InodeEdit, now};
use super::extents::clusters;
use super::inodes::Inner;
use super::windows::Window;
use super::{inline, mapping, xattrs};
use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};
use crate::fs::FileType;
use std::ops::Range;
use std::sync::Arc;

/// How many runs of blocks one operation adds at most.
const PIECES: usize = 16;
/// The most space that is set aside for the next writes of a file, in bytes.
const WINDOW: u64 = 8 << 20;
/// How far from each other writes of a stream may come in, in bytes.
const REACH: u64 = 4 << 20;
/// The smallest first write of a file that others are expected to follow, in bytes.
const STREAM: u64 = 64 << 10;
/// The most that is put together in memory to be one write, in bytes.
const JOINED: usize = 128 << 10;

/// Blocks of a file that were written and are to be named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// The first block of the file.
    pub(super) logical: u64,
    pub(super) run: Run,
    pub(super) source: Source,
}

/// Whose blocks were before they are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Nobody's: their clusters were claimed for this.
    Claimed,
    /// The file's, as the rest of a cluster of which it has other blocks.
    Cluster,
    /// The file's, and only count as not written.
    Unwritten,
}

impl Piece {
    /// Returns the clusters that were claimed.
    pub(super) fn claimed(&self, core: &Core) -> Option<Run> {
        (self.source == Source::Claimed).then(|| core.alloc.whole(self.run))
    }
}

/// Checks that an inode is a regular file that may be written.
///
/// # Errors
/// `EISDIR`, `EINVAL`, `EPERM`, `ENOKEY`.
pub(super) fn check(inode: &Inode) -> Result<()> {
    check_kind(inode)?;
    check_flags(inode)
}

fn check_kind(inode: &Inode) -> Result<()> {
    match inode.file_type() {
        FileType::Regular if inode.has_flag(flag::ENCRYPT) => Err(Error::Errno(libc::ENOKEY)),
        FileType::Regular if inode.has_flag(flag::VERITY) => Err(Error::Errno(libc::EPERM)),
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Error::Errno(libc::EISDIR)),
        _ => Err(Error::Errno(libc::EINVAL)),
    }
}

fn check_flags(inode: &Inode) -> Result<()> {
    if inode.has_flag(flag::IMMUTABLE) { Err(Error::Errno(libc::EPERM)) } else { Ok(()) }
}

/// Returns the largest size that a file may have, in bytes.
pub(super) fn max_size(core: &Core, uses_extents: bool) -> u64 {
    let superblock = &core.volume.superblock;
    let bits = superblock.block_bits();
    if uses_extents {
        return u64::from(u32::MAX) << bits;
    }
    let per_block = u64::from(superblock.block_size) / 4;
    let reached = 12 + per_block + per_block.pow(2) + per_block.pow(3);
    let tables = 1 + (1 + per_block) + (1 + per_block + per_block.pow(2));
    // Without huge_file, all blocks of a file, its tables too, are counted in 32 bits of sectors.
    let counted = if superblock.has_ro_compat(ro_compat::HUGE_FILE) {
        u64::MAX
    } else {
        (u64::from(u32::MAX) >> (bits - 9)).saturating_sub(tables)
    };
    reached.min(counted) << bits
}

/// Writes to a regular file; returns how many bytes, fewer only when space runs out on the way. What was accepted before is
/// written whatever flags forbid by now.
///
/// # Errors
/// As [`FilesystemWrite::write`](crate::fs::FilesystemWrite::write).
pub(super) fn write(
    core: &Core,
    ino: u32,
    offset: u64,
    data: &[u8],
    keep_set_id: bool,
    is_accepted: bool,
) -> Result<usize> {
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    let inode = core.volume.inode(ino)?;
    check_kind(&inode)?;
    if !is_accepted {
        check_flags(&inode)?;
        if inode.has_flag(flag::APPEND) && offset < inode.size {
            return Err(Error::Errno(libc::EPERM));
        }
    }
    if data.is_empty() {
        return Ok(0);
    }
    core.check_writable()?;
    let limit = max_size(core, inode.uses_extents() || inode.is_inline());
    if offset >= limit {
        return Err(Error::Errno(libc::EFBIG));
    }
    let data = &data[..(limit - offset).min(data.len() as u64) as usize];
    if !keep_set_id {
        xattrs::drop_capability(core, &state, &inode)?;
    }
    if (inode.is_inline() || inline::may_begin(core, &inode))
        && let Some(tid) = inline::write(core, ino, offset, data, keep_set_id)?
    {
        state.touch(tid);
        return Ok(data.len());
    }
    if inode.is_inline() {
        state.touch(inline::move_out(core, ino, &mut inner)?);
    }
    if offset > inode.size {
        zero_after_end(core, &*core.volume.inode(ino)?)?;
    }
    let mut done = 0;
    while done < data.len() {
        match write_pieces(core, ino, &mut inner, offset + done as u64, &data[done..], keep_set_id) {
            Ok((count, tid)) => {
                state.touch(tid);
                done += count;
            }
            Err(error) if done > 0 && error.is_errno(libc::ENOSPC) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes the first pieces of `data`; returns how many bytes they have.
fn write_pieces(
    core: &Core,
    ino: u32,
    inner: &mut Inner,
    offset: u64,
    data: &[u8],
    keep_set_id: bool,
) -> Result<(usize, super::store::Tid)> {
    let (inode, edit) = core.edit(ino)?;
    let mut pieces: Vec<Piece> = Vec::new();
    let mut done = 0;
    // What was written in place before the first piece, which stays whatever becomes of the pieces.
    let mut in_place = 0;
    while done < data.len() && pieces.len() < PIECES {
        let at = offset + done as u64;
        match write_piece(core, &inode, inner, at, &data[done..], offset + data.len() as u64, pieces.last()) {
            Ok((0, _)) => break,
            Ok((count, piece)) => {
                if let Some(piece) = piece {
                    match pieces.last_mut() {
                        Some(last)
                            if last.source == piece.source
                                && last.run.end() == piece.run.start
                                && last.logical + u64::from(last.run.len) == piece.logical =>
                        {
                            last.run.len += piece.run.len;
                        }
                        _ => pieces.push(piece),
                    }
                } else {
                    in_place += count;
                }
                done += count;
            }
            Err(error) if done > 0 && error.is_errno(libc::ENOSPC) => break,
            Err(error) => {
                give_back(core, &pieces);
                return Err(error);
            }
        }
    }
    let name = |pieces: &[Piece], end: u64| {
        core.transact(CREDITS + 5 * pieces.len() as u32, |op| {
            let mut edit = edit.clone();
            op.ordered();
            if !pieces.is_empty() {
                op.gate(ino);
            }
            for piece in pieces {
                if piece.source == Source::Unwritten {
                    mapping::mark_written(op, &mut edit, piece.logical, piece.run.start, piece.run.len)?;
                } else {
                    if let Some(run) = piece.claimed(core) {
                        op.adopt(run);
                    }
                    mapping::insert(op, &mut edit, piece.logical, piece.run, false)?;
                }
            }
            if end > inode.size {
                edit.set_size(end);
                note_large(op, end)?;
            }
            let time = now();
            edit.set_mtime(time);
            edit.set_ctime(time);
            if !keep_set_id {
                drop_set_id(&mut edit);
            }
            op.put(edit);
            Ok(())
        })
    };
    match name(&pieces, offset + done as u64) {
        Ok(((), tid)) => Ok((done, tid)),
        Err(error) => {
            give_back(core, &pieces);
            if in_place == 0 || !error.is_errno(libc::ENOSPC) {
                return Err(error);
            }
            let ((), tid) = name(&[], offset + in_place as u64)?;
            Ok((in_place, tid))
        }
    }
}

/// Writes the first stretch of `data` to the device; returns how many bytes that was, and the blocks to be named. After
/// pieces that are new (`written` is the last), nothing is written over what the file has already.
fn write_piece(
    core: &Core,
    inode: &Inode,
    inner: &mut Inner,
    offset: u64,
    data: &[u8],
    write_end: u64,
    written: Option<&Piece>,
) -> Result<(usize, Option<Piece>)> {
    let bits = core.volume.superblock.block_bits();
    let logical = offset >> bits;
    let inside = offset & ((1 << bits) - 1);
    let last = (offset + data.len() as u64 - 1) >> bits;
    let stretch = core.volume.stretch(inode, logical)?;
    let want = stretch.end.min(last + 1) - logical;
    let bytes_of = |blocks: u64| ((blocks << bits) - inside).min(data.len() as u64) as usize;
    match stretch.place {
        Place::Block(_) if written.is_some() => Ok((0, None)),
        Place::Block(block) => {
            let count = bytes_of(want);
            core.write_data(&data[..count], (block << bits) + inside)?;
            Ok((count, None))
        }
        Place::Unwritten(block) => {
            let count = bytes_of(want);
            write_padded(core, block, inside, &data[..count])?;
            let run = Run { start: block, len: want as u32 };
            Ok((count, Some(Piece { logical, run, source: Source::Unwritten })))
        }
        Place::Hole => {
            let hole = logical..stretch.end;
            let piece = if core.volume.superblock.cluster_bits > 0 {
                claim_clusters(core, inode, hole, want)?
            } else {
                let run = claim_data(core, inode, inner, written, hole, want, write_end)?;
                Piece { logical, run, source: Source::Claimed }
            };
            let count = bytes_of(u64::from(piece.run.len));
            if let Err(error) = write_padded(core, piece.run.start, inside, &data[..count]) {
                give_back(core, &[piece]);
                return Err(error);
            }
            Ok((count, Some(piece)))
        }
    }
}

/// Writes to fresh blocks from byte `inside` of the first one on, with zeroes before and after, up to whole blocks.
pub(super) fn write_padded(core: &Core, block: u64, inside: u64, data: &[u8]) -> Result<()> {
    let bits = core.volume.superblock.block_bits();
    let size = 1_usize << bits;
    let inside = inside as usize;
    let whole = (inside + data.len()).next_multiple_of(size);
    let start = block << bits;
    if whole == data.len() {
        return core.write_data(data, start);
    }
    if whole <= JOINED {
        let mut bytes = vec![0; whole];
        bytes[inside..inside + data.len()].copy_from_slice(data);
        return core.write_data(&bytes, start);
    }
    let mut rest = data;
    let mut at = start;
    if inside > 0 {
        let (head, tail) = data.split_at((size - inside).min(data.len()));
        let mut bytes = vec![0; size];
        bytes[inside..inside + head.len()].copy_from_slice(head);
        core.write_data(&bytes, at)?;
        rest = tail;
        at += size as u64;
    }
    let (middle, end) = rest.split_at(rest.len() / size * size);
    core.write_data(middle, at)?;
    if !end.is_empty() {
        let mut bytes = vec![0; size];
        bytes[..end.len()].copy_from_slice(end);
        core.write_data(&bytes, at + middle.len() as u64)?;
    }
    Ok(())
}

/// Claims blocks for a hole of a file that begins with its block `logical` and goes to before `hole_end`. `written` are the
/// blocks before it that no tree names yet.
fn claim_data(
    core: &Core,
    inode: &Inode,
    inner: &mut Inner,
    written: Option<&Piece>,
    hole: Range<u64>,
    want: u64,
    write_end: u64,
) -> Result<Run> {
    let bits = core.volume.superblock.block_bits();
    let want = want.min(u64::from(u32::MAX / 2)) as u32;
    let logical = hole.start;
    if let Some(run) = inner.windows.take(logical, want) {
        return Ok(run);
    }
    let reach = REACH >> bits;
    inner.windows.keep_near(logical, reach, |run| core.alloc.unclaim(run));
    // Only what is written at the end of a file is likely to go on.
    let is_end = hole.end == u64::MAX && write_end >= inode.size;
    let ahead = if !is_end || logical == 0 && u64::from(want) << bits < STREAM {
        0
    } else {
        logical.max(u64::from(want)).clamp(8, WINDOW >> bits) as u32
    };
    let written_end = written.map(|piece| (piece.logical + u64::from(piece.run.len), piece.run.end()));
    let aside_end = inner.windows.before(logical).map(|window| (window.end(), window.run.end()));
    let known = written_end.max(aside_end).filter(|&(end, _)| end <= logical);
    // Threads write pieces of a stream out of order: a small gap before this one is about to be filled.
    let size = inode.size.div_ceil(1 << bits);
    let gap_start = known.map_or(size, |(end, _)| end.max(size));
    let gap = match logical.checked_sub(gap_start) {
        Some(gap) if is_end && ahead > 0 && gap <= reach => gap,
        _ => 0,
    };
    let goal = match known {
        Some((end, block)) if end == logical - gap => block,
        _ => goal(core, inode, logical - gap)?,
    };
    if gap > 0 {
        let run = core.claim(goal, (gap as u32).saturating_add(want).saturating_add(ahead))?;
        if u64::from(run.len) > gap {
            set_aside(core, inner, Window { logical: logical - gap, run });
            if let Some(run) = inner.windows.take(logical, want) {
                return Ok(run);
            }
        } else {
            core.alloc.unclaim(run);
        }
    }
    let all = want.saturating_add(ahead);
    let run = match core.claim(goal, all) {
        Err(error) if error.is_errno(libc::ENOSPC) => {
            inner.windows.clear(|run| core.alloc.unclaim(run));
            core.claim(goal, all)?
        }
        result => result?,
    };
    if run.len <= want {
        return Ok(run);
    }
    let rest = Run { start: run.start + u64::from(want), len: run.len - want };
    set_aside(core, inner, Window { logical: logical + u64::from(want), run: rest });
    Ok(Run { start: run.start, len: want })
}

/// Finds blocks for a hole of a file that begins with its block `hole.start`, `want` at most: the rest of a cluster that the
/// file has already, or clusters that are claimed.
///
/// # Errors
/// `ENOSPC`, and those of a damaged tree.
pub(super) fn claim_clusters(core: &Core, inode: &Inode, hole: Range<u64>, want: u64) -> Result<Piece> {
    let size = 1_u64 << core.volume.superblock.cluster_bits;
    let logical = hole.start;
    let first = logical / size * size;
    let inside = logical - first;
    // A block of the same cluster lies before the hole or after it.
    let mut at = first;
    while at < first + size {
        let stretch = if at == logical {
            Stretch { end: hole.end, place: Place::Hole }
        } else {
            core.volume.stretch(inode, at)?
        };
        if let Place::Block(block) | Place::Unwritten(block) = stretch.place {
            clusters::check(&core.volume.superblock, inode.ino, at, block)?;
            let start = block - (at - first) + inside;
            let len = want.min(hole.end.min(first + size) - logical) as u32;
            return Ok(Piece { logical, run: Run { start, len }, source: Source::Cluster });
        }
        at = if at < logical { stretch.end.min(logical) } else { stretch.end };
    }
    // The cluster that a hole ends in is not claimed when it has blocks after the hole.
    let end = if hole.end == u64::MAX { hole.end } else { hole.end / size * size };
    let want = want.min(end - logical).min(u64::from(u32::MAX / 2));
    let run = core.claim(goal(core, inode, first)?, (inside + want) as u32)?;
    let len = u64::from(run.len).saturating_sub(inside).min(want) as u32;
    Ok(Piece { logical, run: Run { start: run.start + inside, len }, source: Source::Claimed })
}

/// Gives back what was claimed for pieces that are not named.
pub(super) fn give_back(core: &Core, pieces: &[Piece]) {
    for run in pieces.iter().filter_map(|piece| piece.claimed(core)) {
        core.alloc.unclaim(run);
    }
}

fn set_aside(core: &Core, inner: &mut Inner, window: Window) {
    if let Some(run) = inner.windows.put(window) {
        core.alloc.unclaim(run);
    }
}

/// Returns where a block of a file should lie best.
pub(super) fn goal(core: &Core, inode: &Inode, logical: u64) -> Result<u64> {
    if logical > 0 {
        let before = core.volume.stretch(inode, logical - 1)?;
        if let Place::Block(block) | Place::Unwritten(block) = before.place {
            return Ok(block + 1);
        }
    }
    Ok(core.alloc.goal_of_inode(inode.ino))
}

/// Makes what lies after the end of a file in its last block zeroes.
///
/// # Errors
/// Those of a damaged tree and of the device.
pub(super) fn zero_after_end(core: &Core, inode: &Inode) -> Result<()> {
    let size = u64::from(core.volume.superblock.block_size);
    let end = inode.size.next_multiple_of(size);
    zero_within(core, inode, inode.size, end)
}

/// Writes zeroes to the blocks of a file between two bytes, where it has any that were written.
///
/// # Errors
/// Those of a damaged tree and of the device.
pub(super) fn zero_within(core: &Core, inode: &Inode, from: u64, to: u64) -> Result<()> {
    let bits = core.volume.superblock.block_bits();
    let mut at = from;
    while at < to {
        let stretch = core.volume.stretch(inode, at >> bits)?;
        let end = if stretch.end > (to - 1) >> bits { to } else { stretch.end << bits };
        if let Place::Block(block) = stretch.place {
            let inside = at & ((1 << bits) - 1);
            core.write_zeroes((block << bits) + inside, end - at)?;
        }
        at = end;
    }
    Ok(())
}

/// Takes set-user-id, and set-group-id of what the group may execute, away.
pub(super) fn drop_set_id(edit: &mut InodeEdit) {
    let mode = edit.mode();
    let mut kept = mode & !(libc::S_ISUID as u16);
    if mode & libc::S_IXGRP as u16 != 0 {
        kept &= !(libc::S_ISGID as u16);
    }
    edit.set_mode(kept);
}

/// Sets the feature flag that a file of 2 GiB and more needs.
///
/// # Errors
/// Those of the store.
pub(super) fn note_large(op: &mut super::op::Op<'_>, size: u64) -> Result<()> {
    if size <= i32::MAX as u64 || op.core.volume.superblock.has_ro_compat(ro_compat::LARGE_FILE) {
        return Ok(());
    }
    op.modify_superblock(|bytes| {
        let flags = le32(bytes, super_field::RO_COMPAT) | ro_compat::LARGE_FILE;
        set_le32(bytes, super_field::RO_COMPAT, flags);
    })
}

/// Makes an inode ready to name blocks in the way the filesystem does.
pub(super) fn init_mapping(core: &Core, edit: &mut InodeEdit) {
    if core.volume.superblock.has_incompat(incompat::EXTENTS) {
        edit.init_extents();
    } else {
        edit.set_flags(edit.flags() & !flag::EXTENTS);
        edit.block_area_mut().fill(0);
    }
}

/// Returns an inode that is a regular file that may be written.
///
/// # Errors
/// As [`check`], and those of reading.
pub(super) fn regular(core: &Core, ino: u32) -> Result<Arc<Inode>> {
    let inode = core.volume.inode(ino)?;
    check(&inode)?;
    Ok(inode)
}
