//! The protocol's operations, each of which asks the tree.
//!
//! Nothing here knows a filesystem. A handler that panics costs its own request an `EIO`; the mount lives on.

use super::ahead::Ahead;
use super::attr::{NodeIds, Shown, to_kind};
use super::writing;
use crate::error::{Error, Result};
use crate::fs::write::inode_flags;
use crate::fs::{Attr, FileType};
use crate::tree::{Node, Tree};
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long the kernel may keep what it was told. We are the only writer, so nothing changes behind its back.
pub(super) const FOREVER: Duration = Duration::from_secs(1 << 30);

/// The largest write in one request, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// Cookies 0 and 1 of a listing are `.` and `..`; the folder's own come after them.
const DOTS: u64 = 2;

thread_local! {
    /// What a thread reads into, kept from one request to the next.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tree behind the protocol.
pub(super) struct Face {
    pub(super) tree: Arc<Tree>,
    pub(super) ids: NodeIds,
    pub(super) shown: Shown,
    pub(super) ahead: Option<Arc<Ahead>>,
    /// Whether anything can be written.
    pub(super) writable: bool,
    /// Whether the kernel is to check permissions, access control lists among them.
    pub(super) checks_permissions: bool,
    has_xattrs: bool,
}

pub(super) fn errno(error: &Error) -> Errno {
    let number = error.errno();
    match error.root() {
        Error::Errno(_) => log::trace!("{error}"),
        _ => log::error!("{error}"),
    }
    Errno::from_i32(number)
}

/// Runs a handler; one that panics loses its reply, which then is `EIO`.
pub(super) fn guarded(operation: &str, handler: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(handler)).is_err() {
        log::error!("{operation} panicked, which is a bug; it is answered with EIO");
    }
}

/// Answers with what `result` holds, by the two closures.
macro_rules! answer {
    ($reply:expr, $result:expr, $value:pat => $good:expr) => {
        match $result {
            Ok($value) => $good,
            Err(error) => $reply.error(errno(&error)),
        }
    };
}

impl Face {
    pub(super) fn new(tree: Arc<Tree>, shown: Shown, ahead: Option<Arc<Ahead>>, checks_permissions: bool) -> Self {
        let ids = NodeIds::new(&tree);
        let has_xattrs = tree.mounts().iter().any(|mount| mount.filesystem.has_xattrs());
        let writable = tree.is_writable();
        Self { tree, ids, shown, ahead, writable, checks_permissions, has_xattrs }
    }

    /// Returns how long the kernel may keep names of a folder. It compares bytes, so where the filesystem does not, one
    /// name may go by another that the kernel does not know of.
    pub(super) fn name_lifetime(&self, dir: Node) -> Duration {
        let folds = self.writable && self.tree.attr(dir).is_ok_and(|attr| attr.flags & inode_flags::CASEFOLD != 0);
        if folds { Duration::ZERO } else { FOREVER }
    }

    pub(super) fn node(&self, id: INodeNo) -> Node {
        self.ids.node(id)
    }

    /// Says whether access(2) may be answered with yes, where the kernel does not check modes itself: as for root, who may
    /// do everything but run what nobody may run, write what is immutable, and write where nothing is written.
    fn check_access(&self, id: INodeNo, mask: AccessFlags) -> Result<()> {
        let node = self.node(id);
        let attr = self.tree.attr(node)?;
        if mask.contains(AccessFlags::X_OK)
            && attr.file_type != FileType::Directory
            && self.shown.attr(id, &attr).perm & 0o111 == 0
        {
            return Err(Error::Errno(libc::EACCES));
        }
        if mask.contains(AccessFlags::W_OK) && matches!(attr.file_type, FileType::Regular | FileType::Directory) {
            self.tree.writer(node)?;
            if attr.flags & inode_flags::IMMUTABLE != 0 {
                return Err(Error::Errno(libc::EPERM));
            }
        }
        Ok(())
    }

    /// Returns the attributes of an entry that the kernel will hold, and counts that it does.
    pub(super) fn entry(&self, node: Node, attr: &Attr) -> FileAttr {
        if self.writable
            && let Ok((writer, ino)) = self.tree.writer(node)
        {
            writer.open(ino);
        }
        self.shown.attr(self.ids.id(node), attr)
    }

    fn list_plus(&self, dir: Node, cookie: u64, reply: &mut ReplyDirectoryPlus) -> Result<()> {
        let mut from = cookie;
        while from < DOTS {
            let node = if from == 0 { dir } else { self.tree.parent(dir)? };
            let shown = self.shown.attr(self.ids.id(node), &self.tree.attr(node)?);
            let name = if from == 0 { "." } else { ".." };
            from += 1;
            if reply.add(shown.ino, from, name, &FOREVER, &shown, Generation(0)) {
                return Ok(());
            }
        }
        let mut listed = Vec::new();
        let lifetime = self.name_lifetime(dir);
        self.tree.read_dir(dir, from - DOTS, &mut |node, entry| {
            let next = entry.next_cookie.saturating_add(DOTS);
            let name = OsStr::from_bytes(entry.name);
            let full = match self.tree.attr(node) {
                Ok(attr) => {
                    let shown = self.shown.attr(self.ids.id(node), &attr);
                    let generation = Generation(attr.generation.into());
                    let full = reply.add(shown.ino, next, name, &lifetime, &shown, generation);
                    if !full {
                        self.entry(node, &attr);
                        if attr.file_type == FileType::Regular {
                            listed.push((node, attr.size));
                        }
                    }
                    full
                }
                // The name is shown; whoever asks for more is told what is wrong.
                Err(error) => {
                    log::warn!("{}: {error}", entry.name.escape_ascii());
                    let shown = broken(self.ids.id(node), entry.file_type);
                    reply.add(shown.ino, next, name, &Duration::ZERO, &shown, Generation(0))
                }
            };
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(ahead) = &self.ahead {
            ahead.listed(dir, cookie, listed);
        }
        Ok(())
    }

    fn list(&self, dir: Node, cookie: u64, reply: &mut ReplyDirectory) -> Result<()> {
        let mut from = cookie;
        while from < DOTS {
            let node = if from == 0 { dir } else { self.tree.parent(dir)? };
            let name = if from == 0 { "." } else { ".." };
            from += 1;
            if reply.add(self.ids.id(node), from, fuser::FileType::Directory, name) {
                return Ok(());
            }
        }
        self.tree.read_dir(dir, from - DOTS, &mut |node, entry| {
            let kind = match entry.file_type {
                Some(kind) => kind,
                None => self.tree.attr(node).map_or(FileType::Regular, |attr| attr.file_type),
            };
            let next = entry.next_cookie.saturating_add(DOTS);
            if reply.add(self.ids.id(node), next, to_kind(kind), OsStr::from_bytes(entry.name)) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    }
}

/// What is shown of an inode that cannot be read, in a listing that goes on.
fn broken(id: INodeNo, file_type: Option<FileType>) -> FileAttr {
    let none = crate::fs::Timestamp::default();
    let attr = Attr {
        ino: id.0,
        size: 0,
        blocks: 0,
        file_type: file_type.unwrap_or(FileType::Regular),
        permissions: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: (0, 0),
        atime: none,
        mtime: none,
        ctime: none,
        btime: None,
        generation: 0,
        flags: 0,
    };
    Shown::default().attr(id, &attr)
}

/// Answers an extended attribute in the two steps of getxattr(2): the size first, then the value.
fn answer_sized(reply: ReplyXattr, size: u32, value: &[u8]) {
    match (size, value.len()) {
        (0, len) => reply.size(len as u32),
        (size, len) if len > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

impl Filesystem for Face {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = InitFlags::FUSE_ASYNC_READ
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_HAS_IOCTL_DIR
            | InitFlags::FUSE_MAX_PAGES;
        if self.writable {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE
                | InitFlags::FUSE_BIG_WRITES
                | InitFlags::FUSE_HANDLE_KILLPRIV_V2
                | InitFlags::FUSE_DONT_MASK;
        }
        if self.checks_permissions {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        // What this kernel does not know is left out, and costs speed at most.
        let _ = config.add_capabilities(wanted & config.capabilities());
        let _ = config.set_max_write(MAX_WRITE);
        let _ = config.set_max_background(64);
        let _ = config.set_congestion_threshold(48);
        let _ = config.set_max_readahead(1 << 20);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("lookup", || {
            let dir = self.node(parent);
            match self.tree.lookup(dir, name.as_bytes()) {
                Ok((node, attr)) => {
                    let shown = self.entry(node, &attr);
                    reply.entry(&self.name_lifetime(dir), &shown, Generation(attr.generation.into()));
                }
                // Node id 0 lets the kernel remember that there is none.
                Err(error) if error.is_errno(libc::ENOENT) => {
                    reply.entry(&self.name_lifetime(dir), &broken(INodeNo(0), None), Generation(0));
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn forget(&self, _: &Request, id: INodeNo, count: u64) {
        if self.writable {
            guarded("forget", || {
                if let Ok((writer, ino)) = self.tree.writer(self.node(id)) {
                    writer.forget(ino, count);
                }
            });
        }
    }

    fn getattr(&self, _: &Request, id: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        guarded("getattr", || {
            let node = self.node(id);
            answer!(reply, self.tree.attr(node), attr => {
                // The root has node id 1, whatever its number is.
                let id = if id == INodeNo::ROOT { INodeNo(attr.ino) } else { id };
                reply.attr(&FOREVER, &self.shown.attr(id, &attr));
            });
        });
    }

    fn access(&self, _: &Request, id: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        guarded("access", || answer!(reply, self.check_access(id, mask), () => reply.ok()));
    }

    fn readlink(&self, _: &Request, id: INodeNo, reply: ReplyData) {
        guarded("readlink", || answer!(reply, self.tree.read_link(self.node(id)), target => reply.data(&target)));
    }

    fn open(&self, _: &Request, id: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if !self.writable {
            // The kernel then never asks again.
            return reply.error(Errno::ENOSYS);
        }
        guarded("open", || {
            answer!(reply, self.check_open(id, flags), () => reply.opened(
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            ));
        });
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // A folder's listing is kept where nothing can change it behind the kernel's back.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        id: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guarded("read", || {
            BUFFER.with_borrow_mut(|buffer| {
                let size = size as usize;
                if buffer.len() < size {
                    buffer.resize(size, 0);
                }
                let node = self.node(id);
                match self.tree.read(node, offset, &mut buffer[..size]) {
                    Ok(count) => reply.data(&buffer[..count]),
                    Err(error) => reply.error(errno(&error)),
                }
                if let Some(ahead) = &self.ahead
                    && offset == 0
                {
                    ahead.missed(node);
                }
            });
        });
    }

    fn readdir(&self, _: &Request, id: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guarded("readdir", || answer!(reply, self.list(self.node(id), offset, &mut reply), () => reply.ok()));
    }

    fn readdirplus(&self, _: &Request, id: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        guarded("readdirplus", || answer!(reply, self.list_plus(self.node(id), offset, &mut reply), () => reply.ok()));
    }

    fn statfs(&self, _: &Request, id: INodeNo, reply: ReplyStatfs) {
        guarded("statfs", || {
            answer!(reply, self.tree.statfs(self.node(id)), full => reply.statfs(
                full.blocks,
                full.blocks_free,
                full.blocks_available,
                full.files,
                full.files_free,
                full.block_size,
                full.name_max,
                full.block_size,
            ));
        });
    }

    fn getxattr(&self, _: &Request, id: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded("getxattr", || {
            if !self.has_xattrs {
                return reply.error(Errno::ENOSYS);
            }
            answer!(reply, self.tree.xattr(self.node(id), name.as_bytes()), value => answer_sized(reply, size, &value));
        });
    }

    fn listxattr(&self, _: &Request, id: INodeNo, size: u32, reply: ReplyXattr) {
        guarded("listxattr", || {
            if !self.has_xattrs {
                return reply.error(Errno::ENOSYS);
            }
            answer!(reply, self.tree.xattrs(self.node(id)), names => {
                let mut list = Vec::new();
                for name in names {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                answer_sized(reply, size, &list);
            });
        });
    }

    fn lseek(&self, _: &Request, id: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        guarded("lseek", || {
            let Ok(from) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
            let found = self.tree.filesystem(self.node(id)).and_then(|(filesystem, ino)| match whence {
                libc::SEEK_DATA => filesystem.next_data(ino, from),
                libc::SEEK_HOLE => filesystem.next_hole(ino, from),
                _ => Err(Error::Errno(libc::EINVAL)),
            });
            answer!(reply, found, at => reply.offset(at.cast_signed()));
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn setattr(
        &self,
        request: &Request,
        id: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        guarded("setattr", || {
            let mut set = writing::set_attr(request, mode, uid, gid, size, atime, mtime, ctime);
            // With a handle, the kernel sets a size, or the times of what it had written.
            set.follows_writes = handle.is_some() && mtime.is_some() && size.is_none();
            let node = self.node(id);
            let done = self.tree.writer(node).and_then(|(writer, ino)| writer.set_attr(ino, &set));
            answer!(reply, done, attr => {
                let id = if id == INodeNo::ROOT { INodeNo(attr.ino) } else { id };
                reply.attr(&FOREVER, &self.shown.attr(id, &attr));
            });
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        guarded("mknod", || self.reply_made(parent, self.make(request, parent, name, mode, umask, rdev), reply));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        guarded("mkdir", || {
            let made = self.make(request, parent, name, mode & 0o7777 | libc::S_IFDIR, umask, 0);
            self.reply_made(parent, made, reply);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        guarded("create", || {
            let made = self.make(request, parent, name, mode & 0o7777 | libc::S_IFREG, umask, 0);
            answer!(reply, made, (node, attr) => reply.created(
                &self.name_lifetime(self.node(parent)),
                &self.entry(node, &attr),
                Generation(attr.generation.into()),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH,
            ));
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        guarded("symlink", || self.reply_made(parent, self.make_symlink(request, parent, name, target), reply));
    }

    fn link(&self, _: &Request, id: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guarded("link", || self.reply_made(parent, self.make_link(id, parent, name), reply));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("unlink", || answer!(reply, self.remove(parent, name, false), () => reply.ok()));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("rmdir", || answer!(reply, self.remove(parent, name, true), () => reply.ok()));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        guarded("rename", || {
            answer!(reply, self.move_name(parent, name, new_parent, new_name, flags), () => reply.ok());
        });
    }

    fn write(
        &self,
        _: &Request,
        id: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        guarded("write", || {
            let keep = !flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
            let is_accepted = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
            let written = self.tree.writer(self.node(id)).and_then(|(writer, ino)| {
                if is_accepted { writer.write_back(ino, offset, data) } else { writer.write(ino, offset, data, keep) }
            });
            answer!(reply, written, count => reply.written(count as u32));
        });
    }

    fn fsync(&self, _: &Request, id: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        guarded("fsync", || answer!(reply, self.make_durable(id, data_only), () => reply.ok()));
    }

    fn fsyncdir(&self, _: &Request, id: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        guarded("fsyncdir", || answer!(reply, self.make_durable(id, data_only), () => reply.ok()));
    }

    fn setxattr(&self, _: &Request, id: INodeNo, name: &OsStr, value: &[u8], flags: i32, _: u32, reply: ReplyEmpty) {
        guarded("setxattr", || {
            let done = self
                .tree
                .writer(self.node(id))
                .and_then(|(writer, ino)| writer.set_xattr(ino, name.as_bytes(), value, writing::xattr_mode(flags)?));
            answer!(reply, done, () => reply.ok());
        });
    }

    fn removexattr(&self, _: &Request, id: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        guarded("removexattr", || {
            let done =
                self.tree.writer(self.node(id)).and_then(|(writer, ino)| writer.remove_xattr(ino, name.as_bytes()));
            answer!(reply, done, () => reply.ok());
        });
    }

    fn fallocate(
        &self,
        _: &Request,
        id: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        guarded("fallocate", || {
            let done = self
                .tree
                .writer(self.node(id))
                .and_then(|(writer, ino)| writer.fallocate(ino, offset, length, writing::fallocate_mode(mode)?));
            answer!(reply, done, () => reply.ok());
        });
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        guarded("copy_file_range", || {
            let copied = self.copy_range(from, from_offset, to, to_offset, len);
            answer!(reply, copied, count => reply.written(count));
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        id: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        command: u32,
        data: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        guarded("ioctl", || {
            answer!(reply, self.control(request, id, command, data), answered => reply.ioctl(0, &answered));
        });
    }
}
