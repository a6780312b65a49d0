//! Floor 3: filesystems.
//!
//! A driver implements [`Filesystem`] over a [`BlockDevice`](crate::block::BlockDevice): inode numbers in, attributes and
//! bytes out, never a path. Drivers know nothing of each other.

pub mod btrfs;
pub mod erofs;
pub mod ext4;
pub mod fat;
mod open;
pub mod probe;
mod types;
pub mod write;
pub mod xfs;

pub use open::{OpenWith, has_driver, has_writer, open, open_for_writing};
pub use types::{Attr, DirEntry, FileType, FsInfo, FsOptions, Ino, StatFs, Timestamp, seek};
pub use write::FilesystemWrite;

use crate::error::{Error, Result};
use std::ops::ControlFlow;

/// A filesystem open for reading. Everything is `&self` and is called from many threads at once.
///
/// Inode numbers are the filesystem's own and use at most 56 bits, so that a mount table can put which filesystem it is
/// above them. An inode number that no directory gave may be passed in: a driver answers `ENOENT` or `ESTALE`, never
/// garbage of a free inode.
pub trait Filesystem: Send + Sync {
    /// Returns what the filesystem is.
    fn info(&self) -> &FsInfo;

    /// Returns how full it is.
    ///
    /// # Errors
    /// Those of reading.
    fn statfs(&self) -> Result<StatFs>;

    /// Returns the root directory's inode number.
    fn root(&self) -> Ino;

    /// Returns what `stat` shows of an inode.
    ///
    /// # Errors
    /// `ENOENT` for an inode that is not in use, and those of reading.
    fn attr(&self, ino: Ino) -> Result<Attr>;

    /// Finds a name in a directory. `.` and `..` are not asked for.
    ///
    /// # Errors
    /// `ENOENT` when there is none, `ENOTDIR`, and those of reading.
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr>;

    /// Shows the entries of a directory from `cookie` on, 0 being its beginning, until `visit` breaks. `.` and `..` are
    /// not among them. A listing goes on after an entry with that entry's `next_cookie`.
    ///
    /// # Errors
    /// `ENOTDIR`, and those of reading.
    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()>;

    /// Returns the inode number of a directory's parent; the root is its own.
    ///
    /// # Errors
    /// `ENOTDIR`, and those of reading.
    fn parent(&self, dir: Ino) -> Result<Ino>;

    /// Returns the text of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` when it is none, and those of reading.
    fn read_link(&self, ino: Ino) -> Result<Vec<u8>>;

    /// Reads from a regular file; returns how many bytes, fewer than asked for only at the end of the file.
    ///
    /// # Errors
    /// `EISDIR` or `EINVAL` when it is no regular file, and those of reading.
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Returns the first offset from `offset` on at which a regular file has data.
    ///
    /// # Errors
    /// `ENXIO` when there is none, or `offset` is not before the end of the file; and those of reading.
    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        if offset >= self.attr(ino)?.size { Err(Error::Errno(libc::ENXIO)) } else { Ok(offset) }
    }

    /// Returns the first offset from `offset` on at which a regular file has a hole; its end counts as one.
    ///
    /// # Errors
    /// `ENXIO` when `offset` is not before the end of the file; and those of reading.
    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        let size = self.attr(ino)?.size;
        if offset >= size { Err(Error::Errno(libc::ENXIO)) } else { Ok(size) }
    }

    /// Returns the value of an extended attribute by its full name, such as `user.mime_type`.
    ///
    /// # Errors
    /// `ENODATA` when there is none, and those of reading.
    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>>;

    /// Returns the full names of an inode's extended attributes.
    ///
    /// # Errors
    /// Those of reading.
    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>>;

    /// Says whether any inode may have extended attributes. Where none can, nobody needs to ask.
    fn has_xattrs(&self) -> bool {
        true
    }

    /// Returns where on the device the data of a file begins, in bytes: a key to read many files in the order of the disk.
    fn disk_order(&self, ino: Ino) -> u64 {
        ino
    }

    /// Hints that a range of a file will be read soon; returns at once.
    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        let _ = (ino, offset, len);
    }

    /// Returns the writing half, where the filesystem is open for writing.
    fn writer(&self) -> Option<&dyn FilesystemWrite> {
        None
    }
}
