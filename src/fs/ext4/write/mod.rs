//! The writing half of the ext4 driver.
//!
//! Reading goes through the same code as on a filesystem that is only read; its metadata comes from the [`store`], which
//! keeps changes in transactions. Each call is one operation, or, where a large file is freed, several that
//! recovery goes on with after a crash. File data is written straight to the device, before the operation that names it.
//!
//! # Promises
//! - A crash leaves every operation done or not begun. What [`fsync`](FilesystemWrite::fsync) returned for is durable.
//! - Freed blocks are not used again before the operation that freed them is durable.
//! - An operation that fails changes nothing; only a failure of the host turns the filesystem read-only (`EROFS`).
//! - Readers take no lock that a writer holds during I/O, but where what they read keeps changing under them.
//!
//! Without a journal only a closed filesystem is sound, as with Linux.

mod alloc;
mod attributes;
mod block_maps;
mod core;
mod counters;
#[allow(dead_code)]
mod dir;
mod dirs;
mod edit;
mod extents;
mod fast_commits;
mod file;
mod gate;
mod inline;
mod inodes;
mod mapping;
mod names;
mod op;
mod open;
mod orphans;
mod renames;
mod space;
pub mod store;
mod trim;
mod values;
mod windows;
#[allow(dead_code)]
mod xattr_edit;
mod xattrs;

use self::core::Core;
use super::statfs;
use super::superblock::ROOT_INO;
use super::{Ext4, PREFETCH_RUNS};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use crate::fs::write::{Credentials, FallocateMode, FilesystemWrite, RenameMode, SetAttr, XattrMode};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs};
use names::Kind;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

/// An ext2, ext3 or ext4 filesystem open for writing.
pub struct Ext4Writer {
    core: Core,
    info: FsInfo,
}

impl Ext4 {
    /// Opens the filesystem on a device for reading and writing. A journal that was not replayed is, on the device; what a
    /// crash left half deleted is deleted.
    ///
    /// # Errors
    /// `EROFS` on a device that is open for reading, [`Error::Unsupported`] naming the features that cannot be kept right,
    /// [`Error::NotAnImage`] where there is no such filesystem, and [`Error::Corrupt`] for one that is damaged.
    pub fn open_for_writing(device: SharedDevice, options: &FsOptions) -> Result<Ext4Writer> {
        let (core, info) = open::open(device, options)?;
        Ok(Ext4Writer { core, info })
    }
}

impl Ext4Writer {
    /// Has space that is freed told to the device once that is durable, or not any more.
    pub fn set_discard(&self, is_on: bool) {
        self.core.discards.store(is_on, Ordering::Relaxed);
    }

    /// Says whether a failure has turned the filesystem read-only.
    pub fn is_aborted(&self) -> bool {
        self.core.store.is_aborted()
    }

    /// Does something with an inode, again where it was changed meanwhile.
    fn stable<T>(&self, ino: Ino, mut read: impl FnMut(&super::inode::Inode) -> Result<T>) -> Result<T> {
        let ino = self.core.number(ino)?;
        self.core.stable(ino, || read(&*self.core.volume.inode(ino)?))
    }

    fn stable_file<T>(&self, ino: Ino, mut read: impl FnMut(&super::inode::Inode) -> Result<T>) -> Result<T> {
        self.stable(ino, |inode| match inode.file_type() {
            FileType::Regular => read(inode),
            FileType::Directory => Err(Error::Errno(libc::EISDIR)),
            _ => Err(Error::Errno(libc::EINVAL)),
        })
    }

    fn stable_dir<T>(&self, ino: Ino, mut read: impl FnMut(&super::inode::Inode) -> Result<T>) -> Result<T> {
        self.stable(ino, |inode| if inode.is_dir() { read(inode) } else { Err(Error::Errno(libc::ENOTDIR)) })
    }

    fn make(&self, dir: Ino, name: &[u8], kind: Kind<'_>, permissions: u16, who: &Credentials) -> Result<Attr> {
        let ino = names::make(&self.core, self.core.number(dir)?, name, kind, permissions, who)?;
        self.attr(Ino::from(ino))
    }
}

/// An entry of a directory, kept until it is known that the directory did not change while it was read.
struct Kept {
    name: Vec<u8>,
    ino: Ino,
    file_type: Option<FileType>,
    next_cookie: u64,
}

/// How many entries are read at once.
const ENTRIES_AT_ONCE: usize = 256;

impl Filesystem for Ext4Writer {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        let core = &self.core;
        let mut found = statfs::of_free(&core.volume, core.alloc.free_clusters(), core.alloc.free_inodes());
        found.blocks_free = found.blocks_free.min(found.blocks);
        Ok(found)
    }

    fn root(&self) -> Ino {
        Ino::from(ROOT_INO)
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        self.core.volume.attr(&*self.core.volume.inode(self.core.number(ino)?)?)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let volume = &self.core.volume;
        self.stable_dir(dir, |dir| {
            let ino = volume.find(dir, name)?.ok_or(Error::Errno(libc::ENOENT))?;
            match volume.inode(ino) {
                Ok(inode) => volume.attr(&inode),
                Err(error) if error.is_errno(libc::ENOENT) => Err(Error::corrupt(
                    format!("directory {}", dir.ino),
                    format!("a name leads to inode {ino}, which is not in use"),
                )),
                Err(error) => Err(error),
            }
        })
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut from = cookie;
        loop {
            let entries = self.stable_dir(dir, |dir| {
                let mut entries = Vec::new();
                self.core.volume.list(dir, from, &mut |entry| {
                    entries.push(Kept {
                        name: entry.name.to_vec(),
                        ino: entry.ino,
                        file_type: entry.file_type,
                        next_cookie: entry.next_cookie,
                    });
                    if entries.len() < ENTRIES_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
                Ok(entries)
            })?;
            for entry in &entries {
                let shown = DirEntry {
                    name: &entry.name,
                    ino: entry.ino,
                    file_type: entry.file_type,
                    next_cookie: entry.next_cookie,
                };
                if visit(shown).is_break() {
                    return Ok(());
                }
                from = entry.next_cookie;
            }
            if entries.len() < ENTRIES_AT_ONCE {
                return Ok(());
            }
        }
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        if dir == self.root() {
            return Ok(dir);
        }
        self.stable_dir(dir, |dir| self.core.volume.parent(dir).map(Ino::from))
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.stable(ino, |inode| {
            if inode.file_type() != FileType::Symlink {
                return Err(Error::Errno(libc::EINVAL));
            }
            self.core.volume.link_text(inode)
        })
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.stable_file(ino, |inode| self.core.volume.read(inode, offset, buf))
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.stable_file(ino, |inode| self.core.volume.seek(inode, offset, true))
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.stable_file(ino, |inode| self.core.volume.seek(inode, offset, false))
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.stable(ino, |inode| self.core.volume.xattr(inode, name))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.stable(ino, |inode| self.core.volume.xattrs(inode))
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let mut order = 0;
        let _ = self.stable_file(ino, |inode| {
            self.core.volume.data_runs(inode, 0, u64::MAX, 8, |offset, _| {
                order = offset;
                false
            })
        });
        order
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        let _ = self.stable_file(ino, |inode| {
            self.core.volume.data_runs(inode, offset, len, PREFETCH_RUNS, |offset, len| {
                self.core.store.device().prefetch(offset, len);
                true
            })
        });
    }

    fn writer(&self) -> Option<&dyn FilesystemWrite> {
        Some(self)
    }
}

impl FilesystemWrite for Ext4Writer {
    fn create(
        &self,
        dir: Ino,
        name: &[u8],
        file_type: FileType,
        permissions: u16,
        rdev: (u32, u32),
        who: &Credentials,
    ) -> Result<Attr> {
        if matches!(file_type, FileType::Directory | FileType::Symlink) {
            return Err(Error::Errno(libc::EINVAL));
        }
        self.make(dir, name, Kind::Node(file_type, rdev), permissions, who)
    }

    fn mkdir(&self, dir: Ino, name: &[u8], permissions: u16, who: &Credentials) -> Result<Attr> {
        self.make(dir, name, Kind::Directory, permissions, who)
    }

    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], who: &Credentials) -> Result<Attr> {
        self.make(dir, name, Kind::Link(target), 0o777, who)
    }

    fn create_unnamed(&self, dir: Ino, permissions: u16, who: &Credentials) -> Result<Attr> {
        let ino = names::make_unnamed(&self.core, self.core.number(dir)?, permissions, who)?;
        self.attr(Ino::from(ino))
    }

    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr> {
        names::link(&self.core, self.core.number(ino)?, self.core.number(dir)?, name)?;
        self.attr(ino)
    }

    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        names::remove(&self.core, self.core.number(dir)?, name, false)
    }

    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        names::remove(&self.core, self.core.number(dir)?, name, true)
    }

    fn rename(&self, dir: Ino, name: &[u8], new_dir: Ino, new_name: &[u8], mode: RenameMode) -> Result<()> {
        renames::rename(&self.core, self.core.number(dir)?, name, self.core.number(new_dir)?, new_name, mode)
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8], keep_set_id: bool) -> Result<usize> {
        file::write(&self.core, self.core.number(ino)?, offset, data, keep_set_id, false)
    }

    fn write_back(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        file::write(&self.core, self.core.number(ino)?, offset, data, true, true)
    }

    fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        attributes::set(&self.core, self.core.number(ino)?, set)?;
        self.attr(ino)
    }

    fn fallocate(&self, ino: Ino, offset: u64, len: u64, mode: FallocateMode) -> Result<()> {
        space::fallocate(&self.core, self.core.number(ino)?, offset, len, mode)
    }

    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        xattrs::set(&self.core, self.core.number(ino)?, name, value, mode)
    }

    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        xattrs::remove(&self.core, self.core.number(ino)?, name)
    }

    fn set_flags(&self, ino: Ino, flags: u32) -> Result<()> {
        attributes::set_flags(&self.core, self.core.number(ino)?, flags)
    }

    fn fsync(&self, ino: Ino, _data_only: bool) -> Result<()> {
        let ino = self.core.number(ino)?;
        match self.core.table.known(ino).and_then(|state| state.touched()) {
            Some(tid) => self.core.store.commit_of(tid),
            None => self.core.store.commit(),
        }
    }

    fn sync(&self) -> Result<()> {
        self.core.store.commit()
    }

    fn open(&self, ino: Ino) {
        if let Ok(ino) = self.core.number(ino) {
            self.core.table.open(ino);
        }
    }

    fn forget(&self, ino: Ino, count: u64) {
        if let Ok(ino) = self.core.number(ino)
            && self.core.table.forget(ino, count)
        {
            names::forgotten(&self.core, ino);
        }
    }

    fn trim(&self) -> Result<u64> {
        trim::trim(&self.core)
    }

    fn close(&self) -> Result<()> {
        open::close(&self.core)
    }
}
