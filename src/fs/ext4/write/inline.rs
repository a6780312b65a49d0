//! Contents that lie in the inode (`inline_data`): in `i_block`, and what does not fit there in the value of an attribute.
//! A file begins so with its first write, and moves out to blocks where it grows larger than the inode has room for.

use super::super::extent::Node;
use super::super::features::incompat;
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
use super::xattr_edit::{self, Edit};
use super::xattrs;
use crate::error::Result;
use crate::fs::write::XattrMode;

/// Says whether contents may be put into an inode that names no blocks yet.
pub(super) fn may_begin(core: &Core, inode: &Inode) -> bool {
    core.volume.superblock.has_incompat(incompat::INLINE_DATA)
        && inode.size == 0
        && !inode.has_flag(flag::EA_INODE | flag::JOURNAL_DATA)
        && matches!(&inode.root, Some(Node::Leaf(extents)) if extents.is_empty())
}

/// Says whether contents of so many bytes fit an inode.
fn fits(edit: &InodeEdit, size: u64) -> Result<bool> {
    let room = xattr_edit::inline_room(edit.ino, edit.tail())?;
    Ok(room.is_some_and(|room| size <= (BLOCK_AREA + room) as u64))
}

/// Returns the contents of a file that lie in the inode, where they would still, or could, if the file had this size.
fn contents(core: &Core, inode: &Inode, edit: &InodeEdit, size: u64) -> Result<Option<Vec<u8>>> {
    // No inode is larger than this.
    if size > u64::from(core.volume.superblock.inode_size) || !fits(edit, size)? {
        return Ok(None);
    }
    core.volume.read_whole(inode, core.volume.superblock.inode_size as usize).map(Some)
}

/// Puts contents into an inode, which they fit.
fn put(op: &mut Op<'_>, edit: &mut InodeEdit, contents: &[u8]) -> Result<()> {
    op.gate(edit.ino);
    let (first, rest) = contents.split_at(contents.len().min(BLOCK_AREA));
    let area = edit.block_area_mut();
    area.fill(0);
    area[..first.len()].copy_from_slice(first);
    begin(op, edit, rest)?;
    edit.set_size(contents.len() as u64);
    Ok(())
}

/// Makes an inode one whose contents lie in it; `rest` is what does not fit `i_block`.
///
/// # Errors
/// `ENOSPC` where that does not fit, and those of damaged attributes and of the store.
pub(super) fn begin(op: &mut Op<'_>, edit: &mut InodeEdit, rest: &[u8]) -> Result<()> {
    edit.set_flags(edit.flags() & !flag::EXTENTS | flag::INLINE_DATA);
    let set = Edit::Set { index: index::SYSTEM, name: INLINE_DATA, value: rest, mode: XattrMode::Set };
    xattrs::change(op, edit, &set)
}

/// Writes to a file whose contents lie in the inode, or may begin to, where they fit afterwards; `None` where they do not.
///
/// # Errors
/// Those of a damaged inode and of the store.
pub(super) fn write(core: &Core, ino: u32, offset: u64, data: &[u8], keep_set_id: bool) -> Result<Option<Tid>> {
    let (inode, edit) = core.edit(ino)?;
    let end = offset.saturating_add(data.len() as u64);
    let Some(mut contents) = contents(core, &inode, &edit, end.max(inode.size))? else { return Ok(None) };
    contents.resize(end.max(inode.size) as usize, 0);
    contents[offset as usize..end as usize].copy_from_slice(data);
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        put(op, &mut edit, &contents)?;
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

/// Sets the size of a file whose contents lie in the inode, before and after; `None` for any other.
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
    let Some(mut contents) = contents(core, &inode, &edit, size)? else { return Ok(None) };
    contents.resize(size as usize, 0);
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        put(op, &mut edit, &contents)?;
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
            file::write_padded(core, block, 0, &contents)?;
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
