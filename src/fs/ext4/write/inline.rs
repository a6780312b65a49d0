//! Contents that lie in the inode (`inline_data`): changed there while all is in `i_block`, else moved out to blocks.

use super::super::inode::{BLOCK_AREA, Inode, flag};
use super::super::xattr::{INLINE_DATA, index};
use super::alloc::Run;
use super::core::{CREDITS, Core};
use super::edit::{InodeEdit, now};
use super::file;
use super::inodes::Inner;
use super::mapping;
use super::op::Op;
use super::store::Tid;
use super::xattr_edit::Edit;
use super::xattrs;
use crate::error::Result;

/// Says whether all contents lie in `i_block` and would when the file had this size.
fn stays(inode: &Inode, size: u64) -> Result<bool> {
    Ok(size.max(inode.size) <= BLOCK_AREA as u64 && super::super::data::inline_rest(inode)?.is_empty())
}

/// Writes to a file whose contents fit `i_block`, before and after; `None` for any other.
///
/// # Errors
/// Those of a damaged inode and of the store.
pub(super) fn write(core: &Core, ino: u32, offset: u64, data: &[u8], keep_set_id: bool) -> Result<Option<Tid>> {
    let (inode, edit) = core.edit(ino)?;
    let end = offset.saturating_add(data.len() as u64);
    if !stays(&inode, end)? {
        return Ok(None);
    }
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        let area = edit.block_area_mut();
        if offset > inode.size {
            area[inode.size as usize..offset as usize].fill(0);
        }
        area[offset as usize..end as usize].copy_from_slice(data);
        if end > inode.size {
            edit.set_size(end);
        }
        let time = now();
        edit.set_mtime(time);
        edit.set_ctime(time);
        if !keep_set_id {
            file::drop_set_id(&mut edit);
        }
        op.put(edit);
        Ok(())
    })?;
    Ok(Some(tid))
}

/// Sets the size of a file whose contents fit `i_block`, before and after; `None` for any other.
///
/// # Errors
/// As [`write`], and those of `finish`.
pub(super) fn set_size(
    core: &Core,
    ino: u32,
    size: u64,
    finish: &mut dyn FnMut(&mut Op<'_>, &mut InodeEdit) -> Result<()>,
) -> Result<Option<Tid>> {
    let (inode, edit) = core.edit(ino)?;
    if !stays(&inode, size)? {
        return Ok(None);
    }
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        let from = size.min(inode.size) as usize;
        edit.block_area_mut()[from..].fill(0);
        edit.set_size(size);
        let time = now();
        edit.set_mtime(time);
        edit.set_ctime(time);
        finish(op, &mut edit)?;
        op.put(edit);
        Ok(())
    })?;
    Ok(Some(tid))
}

/// Moves the contents of a file out to a block.
///
/// # Errors
/// `ENOSPC`, and those of a damaged inode and of the store.
pub(super) fn move_out(core: &Core, ino: u32, _inner: &mut Inner) -> Result<Tid> {
    let (inode, edit) = core.edit(ino)?;
    let block_size = core.volume.superblock.block_size as usize;
    let contents = core.volume.read_whole(&inode, block_size)?;
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        op.gate(ino);
        empty(op, &mut edit)?;
        if !contents.is_empty() {
            let block = op.claim(core.alloc.goal_of_inode(ino))?;
            let mut bytes = contents.clone();
            bytes.resize(block_size, 0);
            core.store.device().write_at(&bytes, block * block_size as u64)?;
            op.ordered();
            mapping::insert(op, &mut edit, 0, Run { start: block, len: 1 }, false)?;
        }
        op.put(edit);
        Ok(())
    })?;
    Ok(tid)
}

/// Takes the contents out of an inode and makes it one that names blocks. Its size stays.
///
/// # Errors
/// Those of damaged attributes and of the store.
pub(super) fn empty(op: &mut Op<'_>, edit: &mut InodeEdit) -> Result<()> {
    match xattrs::change(op, edit, &Edit::Remove { index: index::SYSTEM, name: INLINE_DATA }) {
        Err(error) if error.is_errno(libc::ENODATA) => {}
        result => result?,
    }
    edit.set_flags(edit.flags() & !flag::INLINE_DATA);
    file::init_mapping(op.core, edit);
    Ok(())
}
