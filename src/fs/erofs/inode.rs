//! Inodes: 32 bytes (compact) or 64 (extended), in slots of 32.

use super::superblock::Superblock;
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType, Ino, Timestamp};

/// The unit that inode numbers count, in bytes.
pub const SLOT: u64 = 32;

/// The size of an extended inode, in bytes.
pub const EXTENDED: usize = 64;

/// The size of a compact inode, in bytes.
pub const COMPACT: usize = 32;

/// How the data of a file lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// In blocks that follow each other, from this one on.
    Plain { block: u32 },
    /// The same, but what the last block would hold lies behind the inode.
    Inline { block: u32 },
    /// In chunks of 2^`log` bytes; `indexes` says which form their list has.
    Chunks { log: u32, indexes: bool },
    /// Compressed, with a list of clusters of the compact form or the full one.
    Compressed { compact: bool },
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What `stat` shows of it.
    pub attr: Attr,
    /// How its data lies.
    pub layout: Layout,
    /// Where its own attributes lie on the device, in bytes.
    pub xattrs: u64,
    /// How many bytes those take.
    pub xattrs_len: usize,
}

impl Inode {
    /// Returns where what follows the inode and its attributes lies, in bytes: the end of the data, or the list of chunks.
    pub fn tail(&self) -> u64 {
        self.xattrs + self.xattrs_len as u64
    }

    /// Says how long the inode is that begins with these bytes.
    pub fn len(bytes: &[u8; COMPACT]) -> usize {
        if le16(bytes, 0) & 1 == 0 { COMPACT } else { EXTENDED }
    }

    /// Reads an inode that lies at `at` on the device.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn parse(superblock: &Superblock, ino: Ino, at: u64, bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::corrupt(format!("inode {ino}"), what.to_owned());
        let format = le16(bytes, 0);
        let mode = u32::from(le16(bytes, 4));
        let file_type = FileType::from_mode(mode).ok_or_else(|| corrupt("it is of no type"))?;
        let place = le32(bytes, 16);
        let is_extended = format & 1 == 1;
        let (size, nlink, uid, gid, mtime) = if is_extended {
            let mtime = Timestamp { seconds: le64(bytes, 32).cast_signed(), nanoseconds: le32(bytes, 40) };
            (le64(bytes, 8), le32(bytes, 44), le32(bytes, 24), le32(bytes, 28), mtime)
        } else {
            let later = i64::from(le32(bytes, 12));
            let seconds =
                superblock.time.seconds.checked_add(later).ok_or_else(|| corrupt("its time is out of range"))?;
            let (uid, gid) = (u32::from(le16(bytes, 24)), u32::from(le16(bytes, 26)));
            (u64::from(le32(bytes, 8)), u32::from(le16(bytes, 6)), uid, gid, Timestamp { seconds, ..superblock.time })
        };
        if i64::try_from(size).is_err() || mtime.nanoseconds >= 1_000_000_000 {
            return Err(corrupt("its size or time is out of range"));
        }
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain { block: place },
            kind @ (1 | 3) => Layout::Compressed { compact: kind == 3 },
            2 => Layout::Inline { block: place },
            4 if place & !0x3f == 0 => {
                Layout::Chunks { log: superblock.block_log + (place & 0x1f), indexes: place & 0x20 != 0 }
            }
            _ => return Err(Error::unsupported(format!("the layout of inode {ino} of EROFS"))),
        };
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let rdev = if is_device { (place >> 8 & 0xfff, place & 0xff | place >> 12 & 0xf_ff00) } else { (0, 0) };
        let block = 1_u64 << superblock.block_log;
        let blocks = match layout {
            Layout::Compressed { .. } => u64::from(place) << (superblock.block_log - 9),
            _ => size.next_multiple_of(block) / 512,
        };
        let attributes = usize::from(le16(bytes, 2));
        Ok(Self {
            attr: Attr {
                ino,
                size,
                blocks,
                file_type,
                permissions: (mode & 0o7777) as u16,
                nlink,
                uid,
                gid,
                rdev,
                atime: mtime,
                mtime,
                ctime: mtime,
                btime: None,
                generation: 0,
                flags: 0,
            },
            layout,
            xattrs: at + if is_extended { EXTENDED as u64 } else { COMPACT as u64 },
            xattrs_len: if attributes == 0 { 0 } else { 12 + 4 * (attributes - 1) },
        })
    }
}
