//! The writing half of a filesystem.
//!
//! An inode that was unlinked while the caller holds it lives until [`FilesystemWrite::forget`]: whoever serves a
//! filesystem calls [`FilesystemWrite::open`] once for each reference that it hands out, and `forget` when they are given
//! back.

use super::{Attr, FileType, Filesystem, Ino, Timestamp};
use crate::error::Result;

/// Who makes something: the owner of what is created, and whose rights count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The bits that a new inode does not get, unless a default ACL says otherwise.
    pub umask: u16,
}

/// What to change of an inode; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// The low 12 bits of the mode.
    pub permissions: Option<u16>,
    /// The owner.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// The size of a regular file, in bytes.
    pub size: Option<u64>,
    /// The time of the last read.
    pub atime: Option<Timestamp>,
    /// The time of the last change of contents.
    pub mtime: Option<Timestamp>,
    /// The time of the last change of the inode; now, where this is `None` and anything changes.
    pub ctime: Option<Timestamp>,
    /// Takes set-user-id and set-group-id away, as a change of owner or size by a plain user does.
    pub drop_set_id: bool,
    /// The times are the present ones, which may be set of what may only grow, too.
    pub times_are_now: bool,
    /// The times are those of writes that were accepted before, so that flags set since do not refuse them.
    pub follows_writes: bool,
}

/// What a rename does where the new name exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    #[default]
    Replace,
    /// Fails with `EEXIST`.
    NoReplace,
    /// Exchanges the two; both must exist.
    Exchange,
}

/// What fallocate does to its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallocateMode {
    /// Gives the range space, and the file its new size.
    Allocate,
    /// Gives the range space; the size stays.
    AllocateKeepSize,
    /// Takes the range's space away; the size stays.
    PunchHole,
    /// Makes the range read as zeroes with space of its own, and the file its new size.
    ZeroRange,
    /// Makes the range read as zeroes with space of its own; the size stays.
    ZeroRangeKeepSize,
}

/// What setting an extended attribute does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Creates or replaces it.
    #[default]
    Set,
    /// Fails with `EEXIST` where there is one.
    Create,
    /// Fails with `ENODATA` where there is none.
    Replace,
}

/// Inode flags of `chattr` that change what may be done (`FS_*_FL` of Linux).
pub mod inode_flags {
    /// Every write is durable when it returns.
    pub const SYNC: u32 = 0x8;
    /// Nothing about the inode may change.
    pub const IMMUTABLE: u32 = 0x10;
    /// It may only grow at its end.
    pub const APPEND: u32 = 0x20;
    /// dump(8) leaves it out.
    pub const NO_DUMP: u32 = 0x40;
    /// Reading does not change its time of access.
    pub const NO_ATIME: u32 = 0x80;
    /// fs-verity guards its contents.
    pub const VERITY: u32 = 0x10_0000;
    /// It is read from memory of the machine itself.
    pub const DAX: u32 = 0x200_0000;
    /// Names in it that differ only in case are the same.
    pub const CASEFOLD: u32 = 0x4000_0000;
    /// What is made in it gets its project.
    pub const PROJECT_INHERIT: u32 = 0x2000_0000;
}

/// A filesystem open for writing. Everything is `&self`, and is called from many threads at once.
///
/// Each operation is atomic: a crash leaves all of it or nothing of it, once it has been committed. It is durable after
/// [`fsync`](Self::fsync) of what it touched, or [`sync`](Self::sync). Every call may fail with `EROFS` after a failed
/// write turned the filesystem read-only, with `ENOSPC`, and with the errors of reading.
pub trait FilesystemWrite: Filesystem {
    /// Makes a file of any type but directory and symbolic link. `rdev` is for devices.
    ///
    /// # Errors
    /// `EEXIST`, `ENOTDIR`, `ENAMETOOLONG`, `ENOSPC`, `EPERM` in an immutable directory.
    fn create(
        &self,
        dir: Ino,
        name: &[u8],
        file_type: FileType,
        permissions: u16,
        rdev: (u32, u32),
        who: &Credentials,
    ) -> Result<Attr>;

    /// Makes a directory.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `EMLINK`.
    fn mkdir(&self, dir: Ino, name: &[u8], permissions: u16, who: &Credentials) -> Result<Attr>;

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// As [`create`](Self::create), and `ENAMETOOLONG` for a target that is too long.
    fn symlink(&self, dir: Ino, name: &[u8], target: &[u8], who: &Credentials) -> Result<Attr>;

    /// Makes an inode with no name, to be linked or forgotten (`O_TMPFILE`).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    fn create_unnamed(&self, dir: Ino, permissions: u16, who: &Credentials) -> Result<Attr>;

    /// Gives an inode another name.
    ///
    /// # Errors
    /// `EMLINK`, `EPERM` for a directory, and as [`create`](Self::create).
    fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attr>;

    /// Takes a name away from anything but a directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EPERM`.
    fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EPERM`.
    fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()>;

    /// Moves a name.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`, `EINVAL` for a directory moved below itself, `EMLINK`.
    fn rename(&self, dir: Ino, name: &[u8], new_dir: Ino, new_name: &[u8], mode: RenameMode) -> Result<()>;

    /// Writes to a regular file; returns how many bytes, all of them unless space ran out on the way. Set-user-id is
    /// dropped unless `keep_set_id`.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG`, `EPERM` for an immutable file.
    fn write(&self, ino: Ino, offset: u64, data: &[u8], keep_set_id: bool) -> Result<usize>;

    /// Writes to a regular file what was accepted before (by a page cache, say), so that flags that were set since, such
    /// as `IMMUTABLE`, do not refuse it. Set-user-id stays.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_back(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        self.write(ino, offset, data, true)
    }

    /// Changes attributes; returns the new ones.
    ///
    /// # Errors
    /// `EPERM` for an immutable inode, `EISDIR`, `EFBIG`, `EINVAL`.
    fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr>;

    /// Changes the space of a range of a regular file.
    ///
    /// # Errors
    /// `ENOSPC`, `EFBIG`, `EINVAL`, `EOPNOTSUPP`.
    fn fallocate(&self, ino: Ino, offset: u64, len: u64, mode: FallocateMode) -> Result<()>;

    /// Sets an extended attribute, by its full name.
    ///
    /// # Errors
    /// `EEXIST`, `ENODATA`, `ENOSPC`, `ERANGE`, `EOPNOTSUPP` for a name space the filesystem has not.
    fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()>;

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`.
    fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()>;

    /// Sets the inode flags that `chattr` may set.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for a flag that cannot be set.
    fn set_flags(&self, ino: Ino, flags: u32) -> Result<()>;

    /// Makes an inode durable: its contents, and all that is needed to find it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails.
    fn fsync(&self, ino: Ino, data_only: bool) -> Result<()>;

    /// Makes everything durable.
    ///
    /// # Errors
    /// As [`fsync`](Self::fsync).
    fn sync(&self) -> Result<()>;

    /// Notes one more reference to an inode, which keeps it alive when its last name goes.
    fn open(&self, ino: Ino);

    /// Gives `count` references back; the last one frees an inode without names.
    fn forget(&self, ino: Ino, count: u64);

    /// Tells the device of space that is free; returns how many bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails.
    fn trim(&self) -> Result<u64>;

    /// Commits everything and marks the filesystem clean. Nothing is written afterwards.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    fn close(&self) -> Result<()>;
}
