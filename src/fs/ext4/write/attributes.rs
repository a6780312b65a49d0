//! Changes of an inode's own fields: mode, owner, times, flags.

use super::super::features::incompat;
use super::super::inode::{Inode, flag};
use super::super::xattr::index;
use super::core::{CREDITS, Core};
use super::dirs::Dir;
use super::edit::{InodeEdit, now};
use super::op::Op;
use super::{file, space, xattrs};
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::write::SetAttr;
use std::sync::Arc;

/// The flags that `chattr` may set here: those whose meaning does not change how the inode is stored.
const SETTABLE: u32 = flag::IMMUTABLE
    | flag::APPEND
    | flag::PROJECT_INHERIT
    | 0x1
    | 0x2
    | 0x4
    | 0x8
    | 0x40
    | 0x80
    | 0x400
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
/// Those of them that only a directory may have (`DIRSYNC`, `TOPDIR`, `PROJINHERIT`).
const OF_DIRECTORIES: u32 = 0x1_0000 | 0x2_0000 | flag::PROJECT_INHERIT;

/// Changes attributes.
///
/// # Errors
/// As [`FilesystemWrite::set_attr`](crate::fs::FilesystemWrite::set_attr).
pub(super) fn set(core: &Core, ino: u32, set: &SetAttr) -> Result<()> {
    core.check_writable()?;
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    let inode = core.volume.inode(ino)?;
    if !set.follows_writes {
        if inode.has_flag(flag::IMMUTABLE) {
            return Err(Error::Errno(libc::EPERM));
        }
        let changes_more = set.permissions.is_some() || set.uid.is_some() || set.gid.is_some();
        let sets_times = (set.atime.is_some() || set.mtime.is_some()) && !set.times_are_now;
        if inode.has_flag(flag::APPEND) && (changes_more || sets_times) {
            return Err(Error::Errno(libc::EPERM));
        }
    }
    let mut acl = match set.permissions {
        Some(_) if inode.file_type() != FileType::Symlink => xattrs::acl(core, &inode, b"system.posix_acl_access")?,
        _ => None,
    };
    if let (Some(acl), Some(permissions)) = (&mut acl, set.permissions) {
        acl.chmod(permissions);
    }
    let mut apply = |op: &mut Op<'_>, edit: &mut InodeEdit| -> Result<()> {
        if let Some(uid) = set.uid {
            edit.set_uid(uid);
        }
        if let Some(gid) = set.gid {
            edit.set_gid(gid);
        }
        if set.drop_set_id && !edit.is_dir() {
            file::drop_set_id(edit);
        }
        if let Some(permissions) = set.permissions {
            edit.set_mode(edit.mode() & libc::S_IFMT as u16 | permissions & 0o7777);
        }
        if let Some(acl) = &acl {
            op.gate(ino);
            xattrs::put_acl(op, edit, index::ACL_ACCESS, Some(acl))?;
        }
        if let Some(atime) = set.atime {
            edit.set_atime(atime);
        }
        if let Some(mtime) = set.mtime {
            edit.set_mtime(mtime);
        }
        edit.set_ctime(set.ctime.unwrap_or_else(now));
        Ok(())
    };
    if let Some(size) = set.size {
        if set.drop_set_id {
            xattrs::drop_capability(core, &state, &inode)?;
        }
        return space::set_size(core, &state, &mut inner, ino, size, &mut apply);
    }
    let (_, edit) = core.edit(ino)?;
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        apply(op, &mut edit)?;
        op.put(edit);
        Ok(())
    })?;
    state.touch(tid);
    Ok(())
}

/// Checks that a directory may become case-insensitive, or cease to be; returns the flag.
fn may_fold(core: &Core, inode: &Arc<Inode>, edit: &InodeEdit) -> Result<u32> {
    if !core.volume.superblock.has_incompat(incompat::CASEFOLD) {
        return Err(Error::Errno(libc::EOPNOTSUPP));
    }
    if !inode.is_dir() {
        return Err(Error::Errno(libc::ENOTDIR));
    }
    let mut op = Op::begin(core, 1)?;
    if !(Dir { inode: Arc::clone(inode), edit: edit.clone() }).is_empty(&mut op)? {
        return Err(Error::Errno(libc::ENOTEMPTY));
    }
    Ok(flag::CASEFOLD)
}

/// Sets the flags of `chattr`.
///
/// # Errors
/// As [`FilesystemWrite::set_flags`](crate::fs::FilesystemWrite::set_flags).
pub(super) fn set_flags(core: &Core, ino: u32, flags: u32) -> Result<()> {
    core.check_writable()?;
    let state = core.state(ino);
    let _inner = state.lock.lock();
    let (inode, edit) = core.edit(ino)?;
    let allowed = match inode.file_type() {
        FileType::Directory => SETTABLE,
        FileType::Regular => SETTABLE & !OF_DIRECTORIES,
        _ => return Err(Error::Errno(libc::EOPNOTSUPP)),
    };
    let changed = (inode.flags ^ flags) & flag::VISIBLE;
    let allowed = if changed & flag::CASEFOLD == 0 { allowed } else { allowed | may_fold(core, &inode, &edit)? };
    // What cannot be set may be given as it is, since programs change one flag of those they were shown.
    if changed & !allowed != 0 {
        return Err(Error::Errno(libc::EOPNOTSUPP));
    }
    let ((), tid) = core.transact(CREDITS, |op| {
        let mut edit = edit.clone();
        edit.set_flags(edit.flags() & !allowed | flags & allowed);
        edit.set_ctime(now());
        op.put(edit);
        Ok(())
    })?;
    state.touch(tid);
    Ok(())
}
