//! The ext2, ext3 and ext4 filesystems.
//!
//! The driver reads every layout that Linux makes: block maps and extent trees, 1 to 64 KiB blocks, hash trees, inline
//! data, `bigalloc`, `meta_bg`, checksums of both kinds, extended attributes in inodes, blocks and inodes of their own.
//! Checksums are verified where the filesystem has them. A damaged structure gives an error where it is touched, and
//! nowhere else.
//!
//! A journal that was not replayed is replayed into memory, fast commits too; the device is never written. Encrypted files
//! show the names that the kernel shows without the key, and refuse their contents with `ENOKEY`.
//!
//! The format is described in the kernel's `Documentation/filesystems/ext4/`.

#![allow(dead_code, reason = "structures are described whole; what only a writer uses is not used by the reader")]

mod acl;
mod attributes;
mod block_map;
mod casefold;
mod checksum;
mod crypt_name;
mod data;
mod dir;
mod dir_hash;
mod dir_htree;
mod dir_names;
mod directory;
mod extent;
mod features;
mod group;
pub mod identity;
mod inode;
mod journal;
mod mapping;
mod meta;
mod namespace;
mod open;
mod statfs;
mod superblock;
mod volume;
pub mod write;
mod xattr;

pub use open::probe;
pub use write::Ext4Writer;

use crate::block::SharedDevice;
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs};
use features::compat;
use inode::Inode;
use std::ops::ControlFlow;
use superblock::ROOT_INO;
use volume::Volume;

/// How many runs of a file one prefetch names at most.
const PREFETCH_RUNS: usize = 64;

/// An open ext2, ext3 or ext4 filesystem.
pub struct Ext4 {
    volume: Volume,
    info: FsInfo,
}

impl Ext4 {
    /// Opens the filesystem on a device, which is not written.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] where there is none, [`Error::Unsupported`] for a feature that is not known, and
    /// [`Error::Corrupt`] for a superblock or journal that is damaged beyond use.
    pub fn open(device: SharedDevice, options: &FsOptions) -> Result<Self> {
        let (mut volume, info) = open::open(device, options)?;
        volume.dir_names = Some(Cache::new(&options.cache));
        Ok(Self { volume, info })
    }

    fn dir(&self, ino: Ino) -> Result<std::sync::Arc<Inode>> {
        let inode = self.volume.inode_of(ino)?;
        if inode.is_dir() { Ok(inode) } else { Err(Error::Errno(libc::ENOTDIR)) }
    }

    fn file(&self, ino: Ino) -> Result<std::sync::Arc<Inode>> {
        let inode = self.volume.inode_of(ino)?;
        inode.file_type().check_regular()?;
        Ok(inode)
    }
}

impl Filesystem for Ext4 {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        statfs::statfs(&self.volume)
    }

    fn root(&self) -> Ino {
        Ino::from(ROOT_INO)
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        self.volume.attr(&*self.volume.inode_of(ino)?)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let dir = self.dir(dir)?;
        let ino = self.volume.find(&dir, name)?.ok_or(Error::Errno(libc::ENOENT))?;
        match self.volume.inode(ino) {
            Ok(inode) => self.volume.attr(&inode),
            Err(error) if error.is_errno(libc::ENOENT) => Err(Error::corrupt(
                format!("directory {}", dir.ino),
                format!("a name leads to inode {ino}, which is not in use"),
            )),
            Err(error) => Err(error),
        }
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        self.volume.list(&*self.dir(dir)?, cookie, visit)
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        if dir == self.root() {
            return Ok(dir);
        }
        self.volume.parent(&*self.dir(dir)?).map(Ino::from)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.volume.inode_of(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(Error::Errno(libc::EINVAL));
        }
        self.volume.link_text(&inode)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.volume.read(&*self.file(ino)?, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.volume.seek(&*self.file(ino)?, offset, true)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.volume.seek(&*self.file(ino)?, offset, false)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.volume.xattr(&*self.volume.inode_of(ino)?, name)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.volume.xattrs(&*self.volume.inode_of(ino)?)
    }

    fn has_xattrs(&self) -> bool {
        self.volume.superblock.has_compat(compat::EXT_ATTR)
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let mut order = None;
        if let Ok(inode) = self.file(ino) {
            // The first stretch of a sparse file may be a hole; a few more are looked at before giving up.
            let _ = self.volume.data_runs(&inode, 0, u64::MAX, 8, |offset, _| {
                order = Some(offset);
                false
            });
        }
        order.unwrap_or(0)
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        if let Ok(inode) = self.file(ino) {
            let _ = self.volume.data_runs(&inode, offset, len, PREFETCH_RUNS, |offset, len| {
                self.volume.meta.device().prefetch(offset, len);
                true
            });
        }
    }
}
