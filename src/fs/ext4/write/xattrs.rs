//! Extended attributes of an inode, set and removed within operations.

use super::super::features::{compat, incompat};
use super::super::inode::{Inode, flag};
use super::super::superblock::{Superblock, field as super_field};
use super::super::xattr::{BLOCK_HEADER, ENTRY_HEADER, Entries, index, split_name};
use super::core::{CREDITS, Core};
use super::edit::{InodeEdit, now};
use super::inodes::InodeState;
use super::op::Op;
use super::values;
use super::xattr_edit::acl::Acl;
use super::xattr_edit::{self, BlockEdit, Edit, Edited, XattrAreas};
use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::write::XattrMode;

/// The attribute that gives a program rights, which a write takes away.
const CAPABILITY: &[u8] = b"security.capability";

/// Says whether an inode may have any attributes, cheaply.
pub(super) fn may_have(inode: &Inode) -> bool {
    inode.xattr_block != 0 || inode.tail.len() >= 4 && le32(&inode.tail, 0) == super::super::xattr::MAGIC
}

/// Changes an attribute of an inode within an operation.
///
/// # Errors
/// Those of [`xattr_edit::apply`], `ENOSPC`, and those of the store.
pub(super) fn change(op: &mut Op<'_>, edit: &mut InodeEdit, what: &Edit<'_>) -> Result<()> {
    let core = op.core;
    let superblock = &core.volume.superblock;
    let seed = superblock.has_metadata_csum().then_some(superblock.checksum_seed);
    let number = edit.xattr_block(superblock);
    let old = if number == 0 {
        None
    } else {
        core.volume.check_block(number, "the extended attributes", edit.ino)?;
        let bytes = op.read(number)?;
        Entries::in_block(edit.ino, number, &bytes, seed)?;
        Some(bytes)
    };
    let areas = XattrAreas {
        ino: edit.ino,
        in_inode: edit.tail(),
        block: old.as_deref().map(|bytes| (number, bytes)),
        block_size: superblock.block_size as usize,
    };
    let mut edited = xattr_edit::apply(&areas, what, None);
    let mut more_apart = 0;
    if let Edit::Set { value, .. } = what
        && holds_apart(superblock, value, &edited)
    {
        let held = values::hold(op, edit, value)?;
        edited = xattr_edit::apply(&areas, what, Some(held));
        more_apart = values::clusters(superblock, value.len());
    }
    let edited = edited?;
    if edited.is_nothing() {
        return Ok(());
    }
    // An inode counts the blocks of all its values, shared or not.
    let gone = [edited.gone_from_inode, edited.gone_from_block];
    let less_apart: i64 = gone.iter().flatten().map(|gone| values::clusters(superblock, gone.size as usize)).sum();
    if let Some(gone) = edited.gone_from_inode {
        values::drop(op, edit, gone.ino)?;
    }
    if let Some(tail) = edited.in_inode {
        edit.tail_mut().copy_from_slice(&tail);
    }
    match edited.block {
        BlockEdit::Keep => {}
        BlockEdit::Drop => release_block(op, edit)?,
        BlockEdit::Write(bytes) => {
            let is_own = old.as_deref().is_some_and(|old| xattr_edit::refcount(old) == 1);
            if is_own {
                if let Some(gone) = edited.gone_from_block {
                    values::drop(op, edit, gone.ino)?;
                }
                op.modify(number, |block| {
                    block.copy_from_slice(&bytes);
                    xattr_edit::seal_block(seed, number, block);
                })?;
            } else {
                // The old block keeps its references to values as long as others share it.
                for ino in edited.kept_in_block {
                    values::add(op, edit, ino)?;
                }
                release_block(op, edit)?;
                let number = op.claim(core.alloc.goal_of_inode(edit.ino))?;
                op.create(number, |block| {
                    block.copy_from_slice(&bytes);
                    xattr_edit::seal_block(seed, number, block);
                })?;
                edit.set_xattr_block(superblock, number);
                edit.add_clusters(superblock, 1)?;
            }
        }
    }
    edit.add_clusters(superblock, more_apart - less_apart)?;
    if !superblock.has_compat(compat::EXT_ATTR) {
        op.modify_superblock(|bytes| {
            let flags = le32(bytes, super_field::COMPAT) | compat::EXT_ATTR;
            set_le32(bytes, super_field::COMPAT, flags);
        })?;
    }
    Ok(())
}

/// Says whether a value goes into an inode of its own: one that is about as long as a block, or that finds no room
/// otherwise.
fn holds_apart(superblock: &Superblock, value: &[u8], beside: &Result<Edited>) -> bool {
    if !superblock.has_incompat(incompat::EA_INODE) || value.is_empty() {
        return false;
    }
    // What an entry with a name of three bytes, the block's header and the end leave of a block.
    let largest = superblock.block_size as usize - BLOCK_HEADER - (ENTRY_HEADER + 4) - 4;
    match beside {
        Ok(edited) => !edited.is_nothing() && value.len().next_multiple_of(4) > largest,
        Err(error) => error.is_errno(libc::ENOSPC),
    }
}

/// Returns how many more blocks an operation may change that takes attributes of an inode away or puts some in.
pub(super) fn value_credits(superblock: &Superblock) -> u32 {
    // Each of a block's entries may name an inode.
    if superblock.has_incompat(incompat::EA_INODE) { superblock.block_size / ENTRY_HEADER as u32 } else { 0 }
}

/// Takes all attributes away from an inode that is being freed.
///
/// # Errors
/// [`Error::Corrupt`] for damaged ones, and those of the store.
pub(super) fn release_all(op: &mut Op<'_>, edit: &mut InodeEdit) -> Result<()> {
    if op.core.volume.superblock.has_incompat(incompat::EA_INODE) && !edit.has_flag(flag::EA_INODE) {
        for ino in xattr_edit::values_of_inode(edit.ino, edit.tail())? {
            values::drop(op, edit, ino)?;
        }
    }
    release_block(op, edit)
}

/// Takes an inode's block of attributes away from it.
///
/// # Errors
/// [`Error::Corrupt`] for a block that cannot be one, and those of the store.
fn release_block(op: &mut Op<'_>, edit: &mut InodeEdit) -> Result<()> {
    let superblock = &op.core.volume.superblock;
    let number = edit.xattr_block(superblock);
    if number == 0 {
        return Ok(());
    }
    op.core.volume.check_block(number, "the extended attributes", edit.ino)?;
    if superblock.has_incompat(incompat::EA_INODE) {
        for ino in xattr_edit::values_of_block(number, &op.read(number)?)? {
            values::check(op.core, edit, ino)?;
        }
    }
    op.release_shared(edit.ino, number)?;
    edit.set_xattr_block(superblock, 0);
    edit.add_clusters(superblock, -1)
}

/// Returns an inode's access or default list; `None` where it has none.
///
/// # Errors
/// Those of reading.
pub(super) fn acl(core: &Core, inode: &Inode, name: &[u8]) -> Result<Option<Acl>> {
    if !may_have(inode) {
        return Ok(None);
    }
    match core.volume.xattr(inode, name) {
        Ok(value) => Acl::from_xattr(&value),
        Err(error) if error.is_errno(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stores a list, or removes it.
///
/// # Errors
/// As [`change`].
pub(super) fn put_acl(op: &mut Op<'_>, edit: &mut InodeEdit, index: u8, acl: Option<&Acl>) -> Result<()> {
    let disk = acl.map(Acl::to_disk);
    let result = match &disk {
        Some(value) => change(op, edit, &Edit::Set { index, name: b"", value, mode: XattrMode::Set }),
        None => change(op, edit, &Edit::Remove { index, name: b"" }),
    };
    match result {
        Err(error) if disk.is_none() && error.is_errno(libc::ENODATA) => Ok(()),
        result => result,
    }
}

/// Takes away the rights that a program has by its attribute, before it is written to. The inode's lock is held.
///
/// # Errors
/// Those of reading and of the store.
pub(super) fn drop_capability(core: &Core, state: &InodeState, inode: &Inode) -> Result<()> {
    if !may_have(inode) {
        return Ok(());
    }
    match core.volume.xattr(inode, CAPABILITY) {
        Ok(_) => {}
        Err(error) if error.is_errno(libc::ENODATA) => return Ok(()),
        Err(error) => return Err(error),
    }
    remove_locked(core, state, inode.ino, CAPABILITY)
}

fn remove_locked(core: &Core, state: &InodeState, ino: u32, name: &[u8]) -> Result<()> {
    let (index, rest) = split_name(name).ok_or(Error::Errno(libc::EOPNOTSUPP))?;
    let (_, edit) = core.edit(ino)?;
    let ((), tid) = core.transact(CREDITS + value_credits(&core.volume.superblock), |op| {
        let mut edit = edit.clone();
        op.gate(ino);
        change(op, &mut edit, &Edit::Remove { index, name: rest })?;
        edit.set_ctime(now());
        op.put(edit);
        Ok(())
    })?;
    state.touch(tid);
    Ok(())
}

fn check(inode: &Inode, index: u8) -> Result<()> {
    if inode.has_flag(flag::IMMUTABLE) || inode.has_flag(flag::APPEND) {
        return Err(Error::Errno(libc::EPERM));
    }
    let file_type = inode.file_type();
    match index {
        index::USER if !matches!(file_type, FileType::Regular | FileType::Directory) => Err(Error::Errno(libc::EPERM)),
        index::ACL_ACCESS | index::ACL_DEFAULT if file_type == FileType::Symlink => Err(Error::Errno(libc::EOPNOTSUPP)),
        _ => Ok(()),
    }
}

/// Sets an attribute by its full name.
///
/// # Errors
/// As [`FilesystemWrite::set_xattr`](crate::fs::FilesystemWrite::set_xattr).
pub(super) fn set(core: &Core, ino: u32, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
    let (index, rest) = split(name)?;
    core.check_writable()?;
    let state = core.state(ino);
    let _inner = state.lock.lock();
    let (inode, edit) = core.edit(ino)?;
    check(&inode, index)?;
    let is_list = matches!(index, index::ACL_ACCESS | index::ACL_DEFAULT);
    let list = if is_list { Some(Acl::from_xattr(value)?) } else { None };
    if index == index::ACL_DEFAULT && !inode.is_dir() {
        return if matches!(list, Some(Some(_))) { Err(Error::Errno(libc::EACCES)) } else { Ok(()) };
    }
    let ((), tid) = core.transact(CREDITS + value_credits(&core.volume.superblock), |op| {
        let mut edit = edit.clone();
        op.gate(ino);
        match &list {
            Some(list) => {
                let mut list = list.as_ref();
                if index == index::ACL_ACCESS
                    && let Some(acl) = list
                {
                    let (permissions, is_equal) = acl.equiv_mode();
                    edit.set_mode(edit.mode() & !0o777 | permissions & 0o777);
                    if is_equal {
                        list = None;
                    }
                }
                put_acl(op, &mut edit, index, list)?;
            }
            None => change(op, &mut edit, &Edit::Set { index, name: rest, value, mode })?,
        }
        edit.set_ctime(now());
        op.put(edit);
        Ok(())
    })?;
    state.touch(tid);
    Ok(())
}

/// Removes an attribute by its full name.
///
/// # Errors
/// As [`FilesystemWrite::remove_xattr`](crate::fs::FilesystemWrite::remove_xattr).
pub(super) fn remove(core: &Core, ino: u32, name: &[u8]) -> Result<()> {
    let (index, _) = split(name)?;
    core.check_writable()?;
    let state = core.state(ino);
    let _inner = state.lock.lock();
    check(&*core.volume.inode(ino)?, index)?;
    remove_locked(core, &state, ino, name)
}

fn split(name: &[u8]) -> Result<(u8, &[u8])> {
    if name.len() > 255 {
        return Err(Error::Errno(libc::ERANGE));
    }
    match split_name(name) {
        Some(found) => Ok(found),
        // A name space without a name.
        None if matches!(name, b"user." | b"trusted." | b"security.") => Err(Error::Errno(libc::EINVAL)),
        None => Err(Error::Errno(libc::EOPNOTSUPP)),
    }
}
