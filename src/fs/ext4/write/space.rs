//! The size and the space of files: truncating, allocating ahead, punching holes, zeroing; and the freeing of inodes.

use super::super::inode::{Inode, flag};
use super::super::mapping::Place;
use super::alloc::Run;
use super::core::{CREDITS, Core};
use super::edit::{InodeEdit, now};
use super::file::{self, Piece, Source};
use super::inodes::{Inner, InodeState};
use super::op::Op;
use super::store::Tid;
use super::{inline, mapping, xattrs};
use crate::error::{Error, Result};
use crate::fs::write::FallocateMode;

/// How many runs one operation adds at most.
const PIECES: usize = 16;
/// The blocks that an operation changes which frees a part of a file.
pub(super) const FREE_CREDITS: u32 = 140;

/// Sets the size of a regular file whose lock is held; `finish` changes more of the inode in the same transaction.
///
/// # Errors
/// `EFBIG`, `EPERM`, and those of the store.
pub(super) fn set_size(
    core: &Core,
    state: &InodeState,
    inner: &mut Inner,
    ino: u32,
    size: u64,
    finish: &mut dyn FnMut(&mut Op<'_>, &mut InodeEdit) -> Result<()>,
) -> Result<()> {
    let mut inode = file::regular(core, ino)?;
    if inode.has_flag(flag::APPEND) {
        return Err(Error::Errno(libc::EPERM));
    }
    if size > file::max_size(core, inode.uses_extents() || inode.is_inline()) {
        return Err(Error::Errno(libc::EFBIG));
    }
    inner.windows.clear(|run| core.alloc.unclaim(run));
    if inode.is_inline() {
        if let Some(tid) = inline::set_size(core, ino, size, finish)? {
            state.touch(tid);
            return Ok(());
        }
        state.touch(inline::move_out(core, ino, inner)?);
        inode = core.volume.inode(ino)?;
    }
    if size > inode.size {
        file::zero_after_end(core, &inode)?;
    } else {
        let block_size = u64::from(core.volume.superblock.block_size);
        file::zero_within(core, &inode, size, size.next_multiple_of(block_size))?;
    }
    let (_, edit) = core.edit(ino)?;
    let tid = cut(core, edit, size, &mut |op, edit| {
        op.ordered();
        edit.set_size(size);
        file::note_large(op, size)?;
        let time = now();
        edit.set_mtime(time);
        edit.set_ctime(time);
        finish(op, edit)
    })?;
    state.touch(tid);
    Ok(())
}

/// Frees all blocks of an inode past a size, after `first` changed the inode in the first transaction.
fn cut(
    core: &Core,
    mut edit: InodeEdit,
    size: u64,
    first: &mut dyn FnMut(&mut Op<'_>, &mut InodeEdit) -> Result<()>,
) -> Result<Tid> {
    let ino = edit.ino;
    let from = size.div_ceil(u64::from(core.volume.superblock.block_size));
    let mut op = Op::begin(core, FREE_CREDITS)?;
    op.gate(ino);
    first(&mut op, &mut edit)?;
    let mut next = mapping::remove_some(&mut op, &mut edit, from, u64::MAX)?;
    let is_long = next.is_some();
    if is_long {
        op.put(edit.clone());
        op.add_orphan(ino);
    }
    while let Some(at) = next {
        op.step(FREE_CREDITS)?;
        next = mapping::remove_some(&mut op, &mut edit, at, u64::MAX)?;
        op.put(edit.clone());
    }
    if is_long {
        op.remove_orphan(ino);
    } else {
        op.put(edit);
    }
    op.finish()
}

/// Cuts off what a file has past its size, as a crash left it.
///
/// # Errors
/// Those of the store.
pub(super) fn finish_cut(core: &Core, ino: u32) -> Result<()> {
    let (inode, edit) = core.edit(ino)?;
    if inode.file_type() == crate::fs::FileType::Regular && !inode.is_inline() {
        let block_size = u64::from(core.volume.superblock.block_size);
        file::zero_within(core, &inode, inode.size, inode.size.next_multiple_of(block_size))?;
        cut(core, edit, inode.size, &mut |op, _| {
            op.ordered();
            op.remove_orphan(ino);
            Ok(())
        })?;
    } else {
        let mut op = Op::begin(core, CREDITS)?;
        op.remove_orphan(ino);
        op.finish()?;
    }
    Ok(())
}

/// Says whether an inode's `i_block` names blocks.
pub(super) fn has_mapping(inode: &Inode) -> bool {
    use crate::fs::FileType;
    match inode.file_type() {
        FileType::Regular | FileType::Directory => !inode.is_inline(),
        FileType::Symlink => !inode.is_inline() && !inode.is_fast_symlink(),
        _ => false,
    }
}

/// Frees an inode without names, and all it has. Its lock is held.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged one, and those of the store.
pub(super) fn delete(core: &Core, inner: &mut Inner, ino: u32) -> Result<Tid> {
    inner.windows.clear(|run| core.alloc.unclaim(run));
    let (inode, edit) = core.edit(ino)?;
    let mut op = Op::begin(core, FREE_CREDITS)?;
    delete_within(&mut op, &inode, edit)?;
    op.finish()
}

/// Frees an inode without names, and all it has, in an operation and those that follow it where one is not enough.
///
/// # Errors
/// As [`delete`].
pub(super) fn delete_within(op: &mut Op<'_>, inode: &Inode, mut edit: InodeEdit) -> Result<()> {
    let ino = edit.ino;
    op.gate(ino);
    if has_mapping(inode) {
        let mut next = mapping::remove_some(op, &mut edit, 0, u64::MAX)?;
        if next.is_some() {
            edit.set_size(0);
            op.put(edit.clone());
            op.add_orphan(ino);
        }
        while let Some(at) = next {
            op.step(FREE_CREDITS)?;
            next = mapping::remove_some(op, &mut edit, at, u64::MAX)?;
            op.put(edit.clone());
        }
        edit.set_size(0);
    }
    let more = xattrs::value_credits(&op.core.volume.superblock);
    if more > 0 && xattrs::may_have(inode) && !inode.has_flag(flag::EA_INODE) {
        op.put(edit.clone());
        op.add_orphan(ino);
        op.step(CREDITS + more)?;
    }
    xattrs::release_all(op, &mut edit)?;
    op.put(edit);
    op.remove_orphan(ino);
    op.free_inode(ino, inode.is_dir())
}

/// Changes the space of a range of a regular file.
///
/// # Errors
/// As [`FilesystemWrite::fallocate`](crate::fs::FilesystemWrite::fallocate).
pub(super) fn fallocate(core: &Core, ino: u32, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    let inode = core.volume.inode(ino)?;
    file::check(&inode)?;
    if len == 0 {
        return Err(Error::Errno(libc::EINVAL));
    }
    let is_allocation = matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize);
    if inode.has_flag(flag::APPEND) && !is_allocation {
        return Err(Error::Errno(libc::EPERM));
    }
    let end =
        offset.checked_add(len).filter(|&end| end <= file::max_size(core, inode.uses_extents() || inode.is_inline()));
    let end = end.ok_or(Error::Errno(libc::EFBIG))?;
    core.check_writable()?;
    xattrs::drop_capability(core, &state, &inode)?;
    if inode.is_inline() {
        state.touch(inline::move_out(core, ino, &mut inner)?);
    }
    let inode = core.volume.inode(ino)?;
    if !inode.uses_extents() && mode != FallocateMode::PunchHole {
        return Err(Error::Errno(libc::EOPNOTSUPP));
    }
    match mode {
        FallocateMode::Allocate => allocate(core, &state, &mut inner, ino, offset, end, Some(end)),
        FallocateMode::AllocateKeepSize => allocate(core, &state, &mut inner, ino, offset, end, None),
        FallocateMode::PunchHole => punch(core, &state, &inode, offset, end),
        FallocateMode::ZeroRange => zero(core, &state, &mut inner, &inode, offset, end, Some(end)),
        FallocateMode::ZeroRangeKeepSize => zero(core, &state, &mut inner, &inode, offset, end, None),
    }
}

fn put_times(edit: &mut InodeEdit) {
    let time = now();
    edit.set_mtime(time);
    edit.set_ctime(time);
    file::drop_set_id(edit);
}

/// Gives all holes of a range blocks that read as zeroes.
fn allocate(
    core: &Core,
    state: &InodeState,
    inner: &mut Inner,
    ino: u32,
    offset: u64,
    end: u64,
    size: Option<u64>,
) -> Result<()> {
    inner.windows.clear(|run| core.alloc.unclaim(run));
    let bits = core.volume.superblock.block_bits();
    let last = end.div_ceil(1 << bits);
    let mut at = offset >> bits;
    let inode = core.volume.inode(ino)?;
    if size.is_some_and(|size| size > inode.size) {
        file::zero_after_end(core, &inode)?;
    }
    loop {
        let (inode, edit) = core.edit(ino)?;
        let mut pieces: Vec<Piece> = Vec::new();
        let mut failure = None;
        while at < last && pieces.len() < PIECES {
            let stretch = core.volume.stretch(&inode, at)?;
            let to = stretch.end.min(last);
            if stretch.place != Place::Hole {
                at = to;
                continue;
            }
            let goal = match pieces.last() {
                Some(piece) if piece.logical + u64::from(piece.run.len) == at => piece.run.end(),
                _ => file::goal(core, &inode, at)?,
            };
            let found = if core.volume.superblock.cluster_bits > 0 {
                file::claim_clusters(core, &inode, at..stretch.end, to - at)
            } else {
                let run = core.claim(goal, (to - at).min(1 << 30) as u32);
                run.map(|run| Piece { logical: at, run, source: Source::Claimed })
            };
            match found {
                Ok(piece) => {
                    pieces.push(piece);
                    at += u64::from(piece.run.len);
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let is_done = at >= last;
        let result = core.transact(CREDITS + 5 * pieces.len() as u32, |op| {
            let mut edit = edit.clone();
            op.gate(ino);
            for piece in &pieces {
                if let Some(run) = piece.claimed(core) {
                    op.adopt(run);
                }
                mapping::insert(op, &mut edit, piece.logical, piece.run, true)?;
            }
            put_times(&mut edit);
            // The size follows what was allocated, so that running out of space leaves what there was room for.
            let size = size.map(|size| if is_done { size } else { size.min(at << bits) });
            if let Some(size) = size.filter(|&size| size > inode.size) {
                edit.set_size(size);
                file::note_large(op, size)?;
            }
            op.put(edit);
            Ok(())
        });
        match result {
            Ok(((), tid)) => state.touch(tid),
            Err(error) => {
                file::give_back(core, &pieces);
                return Err(error);
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if is_done {
            return Ok(());
        }
    }
}

/// Takes the space of a range away, as far as the file's last block.
fn punch(core: &Core, state: &InodeState, inode: &Inode, offset: u64, end: u64) -> Result<()> {
    let ino = inode.ino;
    if offset >= inode.size {
        return Ok(());
    }
    let block_size = u64::from(core.volume.superblock.block_size);
    let end = end.min(inode.size.next_multiple_of(block_size));
    let (first, last) = (offset.div_ceil(block_size), end / block_size);
    zero_edges(core, inode, offset, end)?;
    let (_, mut edit) = core.edit(ino)?;
    let mut op = Op::begin(core, FREE_CREDITS)?;
    op.gate(ino);
    op.ordered();
    put_times(&mut edit);
    let mut next = (first < last).then_some(first);
    while let Some(at) = next {
        next = mapping::remove_some(&mut op, &mut edit, at, last)?;
        if next.is_some() {
            op.put(edit.clone());
            op.step(FREE_CREDITS)?;
        }
    }
    op.put(edit);
    state.touch(op.finish()?);
    Ok(())
}

/// Writes zeroes to the parts of a range that are no whole blocks.
fn zero_edges(core: &Core, inode: &Inode, offset: u64, end: u64) -> Result<()> {
    let block_size = u64::from(core.volume.superblock.block_size);
    let first = offset.next_multiple_of(block_size).min(end);
    let last = (end / block_size * block_size).max(first);
    file::zero_within(core, inode, offset, first)?;
    file::zero_within(core, inode, last, end)
}

/// Makes a range read as zeroes with space of its own.
fn zero(
    core: &Core,
    state: &InodeState,
    inner: &mut Inner,
    inode: &Inode,
    offset: u64,
    end: u64,
    size: Option<u64>,
) -> Result<()> {
    let ino = inode.ino;
    let bits = core.volume.superblock.block_bits();
    zero_edges(core, inode, offset, end)?;
    let (first, last) = (offset.div_ceil(1 << bits), end >> bits);
    let mut at = first;
    while at < last {
        let (inode, edit) = core.edit(ino)?;
        let mut written: Vec<(u64, Run)> = Vec::new();
        while at < last && written.len() < PIECES {
            let stretch = core.volume.stretch(&inode, at)?;
            let to = stretch.end.min(last);
            if let Place::Block(block) = stretch.place {
                written.push((at, Run { start: block, len: (to - at) as u32 }));
            }
            at = to;
        }
        if written.is_empty() {
            continue;
        }
        let ((), tid) = core.transact(CREDITS + 5 * written.len() as u32, |op| {
            let mut edit = edit.clone();
            op.gate(ino);
            op.ordered();
            for (logical, run) in &written {
                mapping::mark_unwritten(op, &mut edit, *logical, run.start, run.len)?;
            }
            op.put(edit);
            Ok(())
        })?;
        state.touch(tid);
    }
    allocate(core, state, inner, ino, offset, end, size)
}
