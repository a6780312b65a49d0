//! The types that filesystems speak in.

use crate::cache::CachePool;
use crate::error::{Error, Result};
use std::sync::Arc;

/// The number of an inode within its filesystem.
pub type Ino = u64;

/// What kind of file an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileType {
    /// Returns the type that the high bits of a Unix mode name.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::Regular,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }

    /// Checks that it is a regular file.
    ///
    /// # Errors
    /// `EISDIR` for a directory, `EINVAL` for all else.
    pub fn check_regular(self) -> Result<()> {
        match self {
            Self::Regular => Ok(()),
            Self::Directory => Err(Error::Errno(libc::EISDIR)),
            _ => Err(Error::Errno(libc::EINVAL)),
        }
    }

    /// Returns the high bits of a Unix mode for this type.
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }
}

/// A moment: seconds since 1970 in UTC, which may be negative, and nanoseconds of that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds after that second, under 1,000,000,000.
    pub nanoseconds: u32,
}

/// What `stat` and `statx` show of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The number by which the filesystem's calls know the inode.
    pub ino: Ino,
    /// The size, in bytes.
    pub size: u64,
    /// The space it takes, in units of 512 bytes.
    pub blocks: u64,
    /// What kind of file it is.
    pub file_type: FileType,
    /// Permissions with set-user-id, set-group-id and sticky: the low 12 bits of the mode.
    pub permissions: u16,
    /// How many names it has.
    pub nlink: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Major and minor number, of a device.
    pub rdev: (u32, u32),
    /// When it was last read.
    pub atime: Timestamp,
    /// When its contents last changed.
    pub mtime: Timestamp,
    /// When the inode last changed.
    pub ctime: Timestamp,
    /// When it was made, where the filesystem keeps that.
    pub btime: Option<Timestamp>,
    /// The inode's generation, which tells a reused number from the one before.
    pub generation: u32,
    /// Inode flags as `lsattr` shows them (`FS_*_FL`).
    pub flags: u32,
}

impl Attr {
    /// Returns the whole Unix mode: type and permissions.
    pub fn mode(&self) -> u32 {
        self.file_type.mode_bits() | u32::from(self.permissions)
    }

    /// Says whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// The inode it names.
    pub ino: Ino,
    /// The inode's type, where the directory tells it.
    pub file_type: Option<FileType>,
    /// Where the listing goes on after this entry; never 0.
    pub next_cookie: u64,
}

/// What a filesystem is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsInfo {
    /// The type as `blkid` names it: `ext4`, `xfs`, `btrfs`, `vfat`.
    pub kind: &'static str,
    /// The label, where there is one.
    pub label: Option<Vec<u8>>,
    /// The UUID or serial number as `blkid` shows it, where there is one.
    pub uuid: Option<String>,
    /// The block size, in bytes.
    pub block_size: u32,
    /// What a person should know: a dirty journal that was replayed in memory, a mirror that was used.
    pub warnings: Vec<String>,
}

/// How full a filesystem is. Blocks are units of `block_size` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// The unit, in bytes.
    pub block_size: u32,
    /// Blocks in all, without the filesystem's own overhead.
    pub blocks: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Blocks that are free for ordinary users.
    pub blocks_available: u64,
    /// Inodes in all; 0 where that has no meaning.
    pub files: u64,
    /// Inodes that are free.
    pub files_free: u64,
    /// The longest name, in bytes.
    pub name_max: u32,
}

/// How a filesystem is to be opened.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// The budget that the driver's caches draw on.
    pub cache: Arc<CachePool>,
}

/// `SEEK_DATA` and `SEEK_HOLE` over a file's extents.
pub mod seek {
    use crate::error::{Error, Result};

    /// What a stretch of a file holds, for seeking.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Stretch {
        /// Where it ends, in bytes from the file's beginning; past the offset asked for.
        pub end: u64,
        /// Whether it counts as data.
        pub data: bool,
    }

    /// Finds the first offset from `offset` on, before `size`, whose stretch is data or is not, as `want_data` says.
    ///
    /// # Errors
    /// `ENXIO` when `offset` is not before `size`, or no data follows; and those of `stretch`.
    pub fn find(
        offset: u64,
        size: u64,
        want_data: bool,
        mut stretch: impl FnMut(u64) -> Result<Stretch>,
    ) -> Result<u64> {
        if offset >= size {
            return Err(Error::Errno(libc::ENXIO));
        }
        let mut at = offset;
        while at < size {
            let found = stretch(at)?;
            if found.data == want_data {
                return Ok(at);
            }
            if found.end <= at {
                return Err(Error::corrupt("extent map of a file", "a stretch does not move on"));
            }
            at = found.end;
        }
        if want_data { Err(Error::Errno(libc::ENXIO)) } else { Ok(size) }
    }
}
