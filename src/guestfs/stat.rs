//! What stat(2) and its kin tell of files of the tree, by their paths.

use super::Guestfs;
use super::files::text;
use crate::error::{ErrorContext, Result};
use crate::fs::{Attr, FileType, StatFs};
use crate::tree::Found;
use std::ffi::OsStr;

/// What stat(2) shows, with its names for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) documents them")]
pub struct StatNs {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_mode: u32,
    pub st_nlink: u32,
    pub st_uid: u32,
    pub st_gid: u32,
    pub st_rdev: u64,
    pub st_size: u64,
    pub st_blksize: u32,
    pub st_blocks: u64,
    pub st_atime_sec: i64,
    pub st_atime_nsec: u32,
    pub st_mtime_sec: i64,
    pub st_mtime_nsec: u32,
    pub st_ctime_sec: i64,
    pub st_ctime_nsec: u32,
}

impl StatNs {
    fn new(found: &Found, block_size: u32) -> Self {
        let attr = &found.attr;
        Self {
            // The filesystem's place in the tree, which is all that tells filesystems apart here.
            st_dev: found.node.to_bits() >> 56,
            st_ino: attr.ino,
            st_mode: attr.mode(),
            st_nlink: attr.nlink,
            st_uid: attr.uid,
            st_gid: attr.gid,
            st_rdev: nix::sys::stat::makedev(attr.rdev.0.into(), attr.rdev.1.into()),
            st_size: attr.size,
            st_blksize: block_size,
            st_blocks: attr.blocks,
            st_atime_sec: attr.atime.seconds,
            st_atime_nsec: attr.atime.nanoseconds,
            st_mtime_sec: attr.mtime.seconds,
            st_mtime_nsec: attr.mtime.nanoseconds,
            st_ctime_sec: attr.ctime.seconds,
            st_ctime_nsec: attr.ctime.nanoseconds,
        }
    }
}

impl Guestfs {
    /// Returns the text of a symbolic link, bytes that are no UTF-8 replaced.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` when it is none, and those of reading.
    pub fn readlink(&self, path: impl AsRef<OsStr>) -> Result<String> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, false)?;
        Ok(text(&tree.read_link(found.node).at(|| path.display().to_string())?))
    }

    /// Returns a path without links, `.` and `..`.
    ///
    /// # Errors
    /// `ENOENT`, `ELOOP`, and those of reading.
    pub fn realpath(&self, path: impl AsRef<OsStr>) -> Result<String> {
        Ok(text(&self.find_path(path.as_ref(), true)?.1.path))
    }

    /// Says whether a path names anything; a link at its end is followed, as access(2) does.
    ///
    /// # Errors
    /// Those of reading, other than that there is nothing.
    pub fn exists(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), true, |_| true)
    }

    /// Says whether a path names a regular file; a link at its end is not followed.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_file(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Regular)
    }

    /// Says whether a path names a folder; a link at its end is not followed.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_dir(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Directory)
    }

    /// Says whether a path names a symbolic link.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_symlink(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Symlink)
    }

    /// Says whether a path names a block device.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_blockdev(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::BlockDevice)
    }

    /// Says whether a path names a character device.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_chardev(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::CharDevice)
    }

    /// Says whether a path names a named pipe.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_fifo(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Fifo)
    }

    /// Says whether a path names a socket.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_socket(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Socket)
    }

    /// Says whether a path names anything, a link that leads nowhere too.
    pub(super) fn is_there(&self, path: &OsStr) -> Result<bool> {
        self.is_type(path, false, |_| true)
    }

    fn is_type(&self, path: &OsStr, follow: bool, is: impl FnOnce(FileType) -> bool) -> Result<bool> {
        match self.find_path(path, follow) {
            Ok((_, found)) => Ok(is(found.attr.file_type)),
            Err(error) if error.is_errno(libc::ENOENT) || error.is_errno(libc::ENOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns what stat(2) shows, of what a link leads to.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn stat(&self, path: impl AsRef<OsStr>) -> Result<Attr> {
        Ok(self.find_path(path.as_ref(), true)?.1.attr)
    }

    /// Returns what lstat(2) shows, of a link itself.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn lstat(&self, path: impl AsRef<OsStr>) -> Result<Attr> {
        Ok(self.find_path(path.as_ref(), false)?.1.attr)
    }

    /// Returns what stat(2) shows, of what a link leads to, under the names that it has there.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn statns(&self, path: impl AsRef<OsStr>) -> Result<StatNs> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let block_size = tree.filesystem(found.node)?.0.info().block_size;
        Ok(StatNs::new(&found, block_size))
    }

    /// Returns what lstat(2) shows, of a link itself, under the names that it has there.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn lstatns(&self, path: impl AsRef<OsStr>) -> Result<StatNs> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, false)?;
        let block_size = tree.filesystem(found.node)?.0.info().block_size;
        Ok(StatNs::new(&found, block_size))
    }

    /// Returns the size of a file, in bytes.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn filesize(&self, path: impl AsRef<OsStr>) -> Result<u64> {
        Ok(self.stat(path)?.size)
    }

    /// Returns how full the filesystem of a path is.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn statvfs(&self, path: impl AsRef<OsStr>) -> Result<StatFs> {
        let (tree, found) = self.find_path(path.as_ref(), true)?;
        tree.statfs(found.node)
    }

    /// Returns the names and values of a file's extended attributes; a link is followed.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn getxattrs(&self, path: impl AsRef<OsStr>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let names = tree.xattrs(found.node).at(|| path.display().to_string())?;
        let value = |name: Vec<u8>| {
            let value = tree.xattr(found.node, &name).at(|| path.display().to_string())?;
            Ok((name, value))
        };
        names.into_iter().map(value).collect()
    }
}
