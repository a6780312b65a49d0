//! Names: making and removing what they lead to.

use super::super::dir as reader_dir;
use super::super::features::ro_compat;
use super::super::inode::{BLOCK_AREA, Inode, flag};
use super::super::xattr::index;
use super::alloc::Run;
use super::core::{CREDITS, Core};
use super::dirs::Dir;
use super::edit::{InodeEdit, now};
use super::inodes::{Inner, InodeState};
use super::op::Op;
use super::space::{self, FREE_CREDITS};
use super::xattr_edit::acl::{self, Acl};
use super::{file, mapping, xattrs};
use crate::bytes::set_le32;
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::write::Credentials;

/// The most names that an inode has.
pub(super) const LINK_MAX: u16 = 65000;

/// `chattr` flags that what is made in a directory gets.
const INHERITED: u32 =
    0x1 | 0x2 | 0x4 | 0x8 | NO_DUMP | NO_ATIME | 0x400 | 0x4000 | 0x8000 | DIR_SYNC | PROJECT_INHERIT;
const NO_DUMP: u32 = 0x40;
const NO_ATIME: u32 = 0x80;
const DIR_SYNC: u32 = 0x1_0000;
const PROJECT_INHERIT: u32 = flag::PROJECT_INHERIT;

/// What is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    /// Anything that is only a mode, and numbers for a device.
    Node(FileType, (u32, u32)),
    Directory,
    /// A symbolic link with this text.
    Link(&'a [u8]),
}

impl Kind<'_> {
    fn file_type(&self) -> FileType {
        match self {
            Self::Node(file_type, _) => *file_type,
            Self::Directory => FileType::Directory,
            Self::Link(_) => FileType::Symlink,
        }
    }
}

/// Checks a name that is to be made.
///
/// # Errors
/// `ENAMETOOLONG`, `EEXIST` for `.` and `..`, `EINVAL` for what can be no name.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > reader_dir::NAME_MAX {
        return Err(Error::Errno(libc::ENAMETOOLONG));
    }
    if reader_dir::is_dot(name) {
        return Err(Error::Errno(libc::EEXIST));
    }
    if !reader_dir::is_name(name) {
        return Err(Error::Errno(libc::EINVAL));
    }
    Ok(())
}

/// Checks that names of a directory may be added, and, where `removes` is set, taken away.
///
/// # Errors
/// `EPERM`, `ENOKEY`, and `ENOENT` for a directory that was removed.
pub(super) fn check_dir(dir: &Dir, removes: bool) -> Result<()> {
    if dir.edit.links() == 0 {
        return Err(Error::Errno(libc::ENOENT));
    }
    if dir.inode.has_flag(flag::IMMUTABLE) || removes && dir.inode.has_flag(flag::APPEND) {
        return Err(Error::Errno(libc::EPERM));
    }
    if dir.inode.has_flag(flag::ENCRYPT) {
        return Err(Error::Errno(libc::ENOKEY));
    }
    Ok(())
}

/// Checks that names of an inode may be taken away.
///
/// # Errors
/// `EPERM`.
pub(super) fn check_victim(inode: &Inode) -> Result<()> {
    if inode.has_flag(flag::IMMUTABLE) || inode.has_flag(flag::APPEND) {
        return Err(Error::Errno(libc::EPERM));
    }
    Ok(())
}

/// Counts one more folder in a folder.
///
/// # Errors
/// `EMLINK`.
pub(super) fn count_up(core: &Core, edit: &mut InodeEdit) -> Result<()> {
    let links = edit.links();
    if links == 1 {
        // Too many to be counted, since long ago.
        return Ok(());
    }
    if links >= LINK_MAX {
        if !core.volume.superblock.has_ro_compat(ro_compat::DIR_NLINK) || !edit.has_flag(flag::INDEX) {
            return Err(Error::Errno(libc::EMLINK));
        }
        edit.set_links(1);
    } else {
        edit.set_links(links + 1);
    }
    Ok(())
}

/// Counts one folder less in a folder.
pub(super) fn count_down(edit: &mut InodeEdit) {
    if edit.links() > 2 {
        edit.set_links(edit.links() - 1);
    }
}

/// Notes in a directory that its names changed.
pub(super) fn put_dir_times(edit: &mut InodeEdit) {
    let time = now();
    edit.set_mtime(time);
    edit.set_ctime(time);
}

/// Makes an inode of a kind below a directory, without a name yet.
fn new_inode(
    op: &mut Op<'_>,
    dir: &Dir,
    default: Option<&Acl>,
    kind: Kind<'_>,
    permissions: u16,
    who: &Credentials,
) -> Result<InodeEdit> {
    let core = op.core;
    let superblock = &core.volume.superblock;
    let (file_type, is_dir) = (kind.file_type(), matches!(kind, Kind::Directory));
    let ino = op.new_inode(dir.ino(), is_dir)?;
    let mut edit = InodeEdit::fresh(superblock, ino, core.next_generation());
    let is_link = matches!(kind, Kind::Link(_));
    let inherited = if is_link {
        acl::Inherited { mode: 0o777, access: None, default: None }
    } else {
        acl::inherit(default, permissions & 0o7777, who.umask, is_dir)
    };
    let mut mode = inherited.mode & 0o7777;
    let mut gid = who.gid;
    if dir.edit.mode() & libc::S_ISGID as u16 != 0 {
        gid = dir.edit.gid();
        if is_dir {
            mode |= libc::S_ISGID as u16;
        }
    }
    edit.set_mode(file_type.mode_bits() as u16 | mode);
    edit.set_uid(who.uid);
    edit.set_gid(gid);
    let flags = dir.edit.flags() & INHERITED;
    edit.set_flags(match file_type {
        FileType::Directory => flags | dir.edit.flags() & flag::CASEFOLD,
        FileType::Regular => flags & !(DIR_SYNC | PROJECT_INHERIT),
        _ => flags & (NO_DUMP | NO_ATIME),
    });
    edit.set_links(if is_dir { 2 } else { 1 });
    let time = now();
    edit.set_atime(time);
    edit.set_mtime(time);
    edit.set_ctime(time);
    edit.set_btime(time);
    match kind {
        Kind::Node(FileType::Regular, _) => file::init_mapping(core, &mut edit),
        Kind::Node(FileType::CharDevice | FileType::BlockDevice, (major, minor)) => {
            let area = edit.block_area_mut();
            if major < 256 && minor < 256 {
                set_le32(area, 0, major << 8 | minor);
            } else {
                set_le32(area, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
            }
        }
        Kind::Node(..) => {}
        Kind::Directory => file::init_mapping(core, &mut edit),
        Kind::Link(text) => put_text(op, &mut edit, text)?,
    }
    if let Some(list) = &inherited.default {
        xattrs::put_acl(op, &mut edit, index::ACL_DEFAULT, Some(list))?;
    }
    if let Some(list) = &inherited.access {
        xattrs::put_acl(op, &mut edit, index::ACL_ACCESS, Some(list))?;
    }
    if is_dir {
        edit = Dir::init(op, edit, dir.ino())?.edit;
    }
    Ok(edit)
}

fn put_text(op: &mut Op<'_>, edit: &mut InodeEdit, text: &[u8]) -> Result<()> {
    let core = op.core;
    edit.set_size(text.len() as u64);
    if text.len() < BLOCK_AREA {
        edit.block_area_mut()[..text.len()].copy_from_slice(text);
        return Ok(());
    }
    file::init_mapping(core, edit);
    let block = op.claim(core.alloc.goal_of_inode(edit.ino))?;
    file::write_padded(core, block, 0, text)?;
    op.ordered();
    mapping::insert(op, edit, 0, Run { start: block, len: 1 }, false)
}

/// Makes something in a directory; returns its inode.
///
/// # Errors
/// As the calls of [`FilesystemWrite`](crate::fs::FilesystemWrite).
pub(super) fn make(
    core: &Core,
    dir: u32,
    name: &[u8],
    kind: Kind<'_>,
    permissions: u16,
    who: &Credentials,
) -> Result<u32> {
    check_name(name)?;
    if let Kind::Link(text) = kind {
        if text.is_empty() {
            return Err(Error::Errno(libc::ENOENT));
        }
        if text.len() >= core.volume.superblock.block_size as usize || text.len() >= libc::PATH_MAX as usize {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
    }
    core.check_writable()?;
    let state = core.state(dir);
    let _inner = state.lock.lock();
    let dir = Dir::load(core, dir)?;
    check_dir(&dir, false)?;
    if core.volume.find(&dir.inode, name)?.is_some() {
        return Err(Error::Errno(libc::EEXIST));
    }
    let default = xattrs::acl(core, &dir.inode, b"system.posix_acl_default")?;
    let (ino, tid) = core.transact(CREDITS, |op| {
        let mut dir = dir.clone();
        let made = new_inode(op, &dir, default.as_ref(), kind, permissions, who)?;
        if matches!(kind, Kind::Directory) {
            count_up(core, &mut dir.edit)?;
        }
        dir.insert(op, name, made.ino, kind.file_type())?;
        put_dir_times(&mut dir.edit);
        let ino = made.ino;
        op.put(made);
        op.put(dir.edit);
        Ok(ino)
    })?;
    state.touch(tid);
    core.state(ino).touch(tid);
    Ok(ino)
}

/// Makes a regular file without a name.
///
/// # Errors
/// As [`make`].
pub(super) fn make_unnamed(core: &Core, dir: u32, permissions: u16, who: &Credentials) -> Result<u32> {
    core.check_writable()?;
    let state = core.state(dir);
    let _inner = state.lock.lock();
    let dir = Dir::load(core, dir)?;
    check_dir(&dir, false)?;
    let default = xattrs::acl(core, &dir.inode, b"system.posix_acl_default")?;
    let (ino, tid) = core.transact(CREDITS, |op| {
        let kind = Kind::Node(FileType::Regular, (0, 0));
        let mut made = new_inode(op, &dir, default.as_ref(), kind, permissions, who)?;
        made.set_links(0);
        let ino = made.ino;
        op.put(made);
        op.add_orphan(ino);
        Ok(ino)
    })?;
    core.state(ino).touch(tid);
    Ok(ino)
}

/// Gives an inode another name.
///
/// # Errors
/// As [`FilesystemWrite::link`](crate::fs::FilesystemWrite::link).
pub(super) fn link(core: &Core, ino: u32, dir: u32, name: &[u8]) -> Result<()> {
    check_name(name)?;
    core.check_writable()?;
    if core.volume.inode(ino)?.is_dir() {
        return Err(Error::Errno(libc::EPERM));
    }
    let dir_state = core.state(dir);
    let _dir_inner = dir_state.lock.lock();
    let dir = Dir::load(core, dir)?;
    check_dir(&dir, false)?;
    if core.volume.find(&dir.inode, name)?.is_some() {
        return Err(Error::Errno(libc::EEXIST));
    }
    let state = core.state(ino);
    let _inner = state.lock.lock();
    let (inode, edit) = core.edit(ino)?;
    if inode.is_dir() {
        return Err(Error::Errno(libc::EPERM));
    }
    check_victim(&inode)?;
    if edit.links() >= LINK_MAX {
        return Err(Error::Errno(libc::EMLINK));
    }
    let ((), tid) = core.transact(CREDITS, |op| {
        let (mut dir, mut edit) = (dir.clone(), edit.clone());
        dir.insert(op, name, ino, inode.file_type())?;
        put_dir_times(&mut dir.edit);
        if edit.links() == 0 {
            op.remove_orphan(ino);
        }
        edit.set_links(edit.links() + 1);
        edit.set_ctime(now());
        op.put(edit);
        op.put(dir.edit);
        Ok(())
    })?;
    dir_state.touch(tid);
    state.touch(tid);
    Ok(())
}

/// Takes a name of an inode away within an operation: frees the inode, or has it remembered, where it was the last one.
///
/// # Errors
/// Those of the store.
pub(super) fn drop_link(op: &mut Op<'_>, inode: &Inode, mut edit: InodeEdit, is_open: bool) -> Result<()> {
    let is_dir = inode.is_dir();
    edit.set_ctime(now());
    edit.set_links(if is_dir { 0 } else { edit.links().saturating_sub(1) });
    if edit.links() > 0 {
        op.put(edit);
    } else if is_open {
        if is_dir && !inode.is_inline() {
            edit.set_size(0);
        }
        op.add_orphan(edit.ino);
        op.put(edit);
    } else {
        space::delete_within(op, inode, edit)?;
    }
    Ok(())
}

/// Removes a name: a folder's where `is_dir` is set, else that of anything else.
///
/// # Errors
/// As [`FilesystemWrite::unlink`](crate::fs::FilesystemWrite::unlink) and
/// [`FilesystemWrite::rmdir`](crate::fs::FilesystemWrite::rmdir).
pub(super) fn remove(core: &Core, dir: u32, name: &[u8], is_dir: bool) -> Result<()> {
    if is_dir && name == b"." {
        return Err(Error::Errno(libc::EINVAL));
    }
    if is_dir && name == b".." {
        return Err(Error::Errno(libc::ENOTEMPTY));
    }
    core.check_writable()?;
    let dir_state = core.state(dir);
    let _dir_inner = dir_state.lock.lock();
    let dir = Dir::load(core, dir)?;
    let ino = core.volume.find(&dir.inode, name)?.ok_or(Error::Errno(libc::ENOENT))?;
    check_dir(&dir, true)?;
    if ino == dir.ino() {
        return Err(Error::corrupt(format!("directory {ino}"), "it holds a name of itself"));
    }
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    let (inode, edit) = core.edit(ino)?;
    match (inode.is_dir(), is_dir) {
        (true, false) => return Err(Error::Errno(libc::EISDIR)),
        (false, true) => return Err(Error::Errno(libc::ENOTDIR)),
        _ => {}
    }
    check_victim(&inode)?;
    inner.windows.clear(|run| core.alloc.unclaim(run));
    let ((), tid) = core.transact(CREDITS + FREE_CREDITS, |op| {
        let mut dir = dir.clone();
        if is_dir && !(Dir { inode: inode.clone(), edit: edit.clone() }).is_empty(op)? {
            return Err(Error::Errno(libc::ENOTEMPTY));
        }
        dir.remove(op, name)?;
        if is_dir {
            count_down(&mut dir.edit);
        }
        put_dir_times(&mut dir.edit);
        op.put(dir.edit);
        drop_link(op, &inode, edit.clone(), state.opens() > 0)
    })?;
    dir_state.touch(tid);
    state.touch(tid);
    delete_if_closed(core, &state, &mut inner, ino)
}

/// Frees an inode without names that was closed while its last name was taken away.
///
/// # Errors
/// Those of the store.
pub(super) fn delete_if_closed(core: &Core, state: &InodeState, inner: &mut Inner, ino: u32) -> Result<()> {
    if state.opens() == 0 && core.volume.unnamed.read().contains(&ino) {
        state.touch(space::delete(core, inner, ino)?);
    }
    Ok(())
}

/// Frees an inode without names, whoever holds it.
///
/// # Errors
/// Those of the store.
pub(super) fn delete_unnamed(core: &Core, ino: u32) -> Result<()> {
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    if core.volume.unnamed.read().contains(&ino) {
        space::delete(core, &mut inner, ino)?;
    }
    Ok(())
}

/// Frees an inode whose last reference was given back, where it has no name either.
pub(super) fn forgotten(core: &Core, ino: u32) {
    let state = core.table.known(ino);
    if let Some(state) = &state
        && let Some(mut inner) = state.lock.try_lock()
    {
        inner.windows.clear(|run| core.alloc.unclaim(run));
    }
    if !core.volume.unnamed.read().contains(&ino) || core.store.is_aborted() {
        return;
    }
    let state = core.state(ino);
    let mut inner = state.lock.lock();
    if let Err(error) = delete_if_closed(core, &state, &mut inner, ino) {
        log::warn!("inode {ino} could not be freed: {error}");
    }
}
