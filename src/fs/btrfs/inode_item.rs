//! The inode item: what `stat` shows.

use crate::bytes::{le32, le64};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType, Ino, Timestamp};

/// The length of an inode item, in bytes.
pub const LEN: usize = 160;

/// Flags of inodes, by bit.
pub mod flags {
    /// Data has no checksums.
    pub const NODATASUM: u64 = 1;
    /// fs-verity guards the contents.
    pub const RO_VERITY: u64 = 1 << 32;
}

/// Where fields lie, for who changes them.
pub mod at {
    /// The transaction in which the inode was made.
    pub const GENERATION: usize = 0;
    /// The size, in bytes.
    pub const SIZE: usize = 16;
    /// The space taken, in bytes.
    pub const NBYTES: usize = 24;
    /// The number of names.
    pub const NLINK: usize = 40;
    /// Type and permissions.
    pub const MODE: usize = 52;
}

/// An inode.
#[derive(Clone, Debug)]
pub struct InodeItem {
    /// The transaction in which it was made.
    pub generation: u64,
    /// The size, in bytes.
    pub size: u64,
    /// The space it takes, in bytes.
    pub nbytes: u64,
    /// The number of names.
    pub nlink: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The permissions.
    pub permissions: u16,
    /// What it is.
    pub file_type: FileType,
    /// The device number, as the kernel packs it in memory.
    pub rdev: u64,
    /// Flags, by bit.
    pub flags: u64,
    /// Last read, changed inside, contents changed, made.
    pub times: [Timestamp; 4],
}

impl InodeItem {
    /// Reads the item of inode `number`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is too short, or its type or a time makes no sense.
    pub fn parse(bytes: &[u8], number: u64) -> Result<Self> {
        let corrupt = |detail: String| Error::corrupt(format!("Btrfs inode {number}"), detail);
        if bytes.len() < LEN {
            return Err(corrupt(format!("its item has {} bytes", bytes.len())));
        }
        let mode = le32(bytes, at::MODE);
        let file_type = FileType::from_mode(mode).ok_or_else(|| corrupt(format!("mode {mode:o}")))?;
        let size = le64(bytes, at::SIZE);
        if size > i64::MAX as u64 {
            return Err(corrupt(format!("a size of {size}")));
        }
        let time = |at: usize| Timestamp {
            seconds: le64(bytes, at) as i64,
            nanoseconds: le32(bytes, at + 8).min(999_999_999),
        };
        Ok(Self {
            generation: le64(bytes, at::GENERATION),
            size,
            nbytes: le64(bytes, at::NBYTES),
            nlink: le32(bytes, at::NLINK),
            uid: le32(bytes, 44),
            gid: le32(bytes, 48),
            permissions: (mode & 0o7777) as u16,
            file_type,
            rdev: le64(bytes, 56),
            flags: le64(bytes, 64),
            times: [time(112), time(124), time(136), time(148)],
        })
    }

    /// Returns what `stat` shows, under the number given. Space is counted in whole sectors of `sector_size` bytes.
    pub fn attr(&self, ino: Ino, sector_size: u32) -> Attr {
        let is_device = matches!(self.file_type, FileType::CharDevice | FileType::BlockDevice);
        let [atime, ctime, mtime, btime] = self.times;
        Attr {
            ino,
            size: self.size,
            blocks: self.nbytes.checked_next_multiple_of(u64::from(sector_size)).unwrap_or(self.nbytes) >> 9,
            file_type: self.file_type,
            permissions: self.permissions,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: if is_device { ((self.rdev >> 20) as u32 & 0xfff, self.rdev as u32 & 0xf_ffff) } else { (0, 0) },
            atime,
            mtime,
            ctime,
            btime: Some(btime),
            generation: self.generation as u32,
            flags: self.lsattr_flags(),
        }
    }

    fn lsattr_flags(&self) -> u32 {
        // Bit of Btrfs, flag of `lsattr`.
        const SHOWN: [(u64, u32); 8] = [
            (1 << 5, 0x8),
            (1 << 6, 0x10),
            (1 << 7, 0x20),
            (1 << 8, 0x40),
            (1 << 9, 0x80),
            (1 << 10, 0x1_0000),
            (1 << 1, 0x80_0000),
            (flags::RO_VERITY, 0x10_0000),
        ];
        let shown = SHOWN.iter().filter(|(bit, _)| self.flags & bit != 0).map(|(_, flag)| flag).sum::<u32>();
        // "Do not compress" hides "compress".
        match self.flags & (1 << 3 | 1 << 11) {
            0 => shown,
            compress if compress == 1 << 11 => shown | 0x4,
            _ => shown | 0x400,
        }
    }
}
