//! The inode: a core of fixed fields, and behind it two forks, for data and for extended attributes.
//!
//! Versions 1 and 2 have a core of 100 bytes, version 3 (on version 5 filesystems) one of 176. The rest of the inode, the
//! literal area, holds the data fork and from `di_forkoff` on the attribute fork. A fork holds its bytes (local), a list of
//! extents, or the root of an extent B-tree.
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "On-disk Inode".

use super::bmap_tree::Root;
use super::extent::{Extent, RECORD_SIZE};
use super::superblock::Superblock;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType, Ino, Timestamp};

/// The magic number at the beginning: `IN`.
pub const MAGIC: u16 = 0x494e;

/// Where the checksum lies in a version 3 inode, in bytes.
pub const CRC_OFFSET: usize = 100;

/// Bits of `di_flags`.
mod flags {
    pub const REAL_TIME: u16 = 0x0001;
    pub const IMMUTABLE: u16 = 0x0008;
    pub const APPEND: u16 = 0x0010;
    pub const SYNC: u16 = 0x0020;
    pub const NO_ATIME: u16 = 0x0040;
    pub const NO_DUMP: u16 = 0x0080;
    pub const PROJECT_INHERIT: u16 = 0x0200;
}

/// Bits of `di_flags2`.
mod flags2 {
    pub const DAX: u64 = 0x01;
    pub const BIG_TIME: u64 = 0x08;
    pub const LARGE_COUNTS: u64 = 0x10;
    pub const METADATA: u64 = 0x20;
}

/// Inode flags as `lsattr` shows them.
mod linux_flags {
    pub const SYNC: u32 = 0x0000_0008;
    pub const IMMUTABLE: u32 = 0x0000_0010;
    pub const APPEND: u32 = 0x0000_0020;
    pub const NO_DUMP: u32 = 0x0000_0040;
    pub const NO_ATIME: u32 = 0x0000_0080;
    pub const DAX: u32 = 0x0200_0000;
    pub const PROJECT_INHERIT: u32 = 0x2000_0000;
}

/// Returns where the literal area of an inode begins, in bytes.
pub fn core_size(version: u8) -> usize {
    if version >= 3 { 176 } else { 100 }
}

/// How a fork holds what it holds.
#[derive(Clone, Debug)]
pub enum Fork {
    /// A device number instead of data.
    Device(u32),
    /// The bytes themselves.
    Local(Box<[u8]>),
    /// Extents in order, which do not overlap.
    Extents(Box<[Extent]>),
    /// The root of a B-tree of extents.
    Tree(Root),
}

/// An inode in use.
#[derive(Clone, Debug)]
pub struct Inode {
    /// What `stat` shows.
    pub attr: Attr,
    /// The data.
    pub data: Fork,
    /// The extended attributes, where the inode has room for any.
    pub attributes: Option<Fork>,
    /// Whether the data lies on the real-time device.
    pub real_time: bool,
    /// Whether it belongs to the filesystem itself and no name leads to it.
    pub internal: bool,
}

/// An inode is free: nothing has its number.
fn free() -> Error {
    Error::Errno(libc::ENOENT)
}

impl Inode {
    /// Reads inode `ino` from its bytes. `check_sum` is false for one that a log's replay has changed.
    ///
    /// # Errors
    /// `ENOENT` for one that is not in use; [`Error::Corrupt`] for one that is damaged.
    pub fn parse(superblock: &Superblock, ino: Ino, bytes: &[u8], check_sum: bool) -> Result<Self> {
        let corrupt = |detail: &'static str| Error::corrupt(format!("inode {ino}"), detail);
        if bytes.len() != superblock.inode_size as usize {
            return Err(corrupt("it is cut short"));
        }
        if be16(bytes, 0) != MAGIC {
            return Err(corrupt("its magic number is wrong"));
        }
        let version = bytes[4];
        if superblock.v5 != (version == 3) || !(1..=3).contains(&version) {
            return Err(corrupt("its version is wrong"));
        }
        if version == 3 {
            if check_sum && !super::store::checksum_fits(bytes, CRC_OFFSET) {
                return Err(corrupt("its checksum is wrong"));
            }
            if be64(bytes, 152) != ino {
                return Err(corrupt("it names another number as its own"));
            }
            if bytes[160..176] != superblock.meta_uuid {
                return Err(corrupt("it belongs to another filesystem"));
            }
        }
        let mode = u32::from(be16(bytes, 2));
        if mode == 0 {
            return Err(free());
        }
        let file_type = FileType::from_mode(mode).ok_or_else(|| corrupt("its mode names no type of file"))?;
        let flags = be16(bytes, 90);
        let more_flags = if version == 3 { be64(bytes, 120) } else { 0 };
        let large_counts = more_flags & flags2::LARGE_COUNTS != 0;
        let real_time = flags & flags::REAL_TIME != 0 && file_type == FileType::Regular;
        let size = be64(bytes, 56);
        if size > i64::MAX as u64 {
            return Err(corrupt("its size is negative"));
        }
        let blocks = be64(bytes, 64);

        let literal = &bytes[core_size(version)..];
        let fork_offset = usize::from(bytes[82]) * 8;
        if fork_offset > literal.len() {
            return Err(corrupt("its attribute fork begins behind its end"));
        }
        let data_size = if fork_offset == 0 { literal.len() } else { fork_offset };
        let (data_area, attr_area) = literal.split_at(data_size);
        let (data_extents, attr_extents) = if large_counts {
            (be64(bytes, 24), u64::from(be32(bytes, 76)))
        } else {
            (u64::from(be32(bytes, 76)), u64::from(be16(bytes, 80)))
        };
        let context = Context { superblock, ino };
        let data = match bytes[5] {
            0 if !matches!(file_type, FileType::Regular | FileType::Directory | FileType::Symlink)
                && data_area.len() >= 4 =>
            {
                Fork::Device(be32(data_area, 0))
            }
            1 if matches!(file_type, FileType::Directory | FileType::Symlink) => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                Fork::Local(data_area.get(..size).ok_or_else(|| corrupt("its data does not fit in it"))?.into())
            }
            format @ 2..=3 if matches!(file_type, FileType::Regular | FileType::Directory | FileType::Symlink) => {
                context.mapped(format, data_area, data_extents, real_time)?
            }
            _ => return Err(corrupt("the format of its data does not fit its type")),
        };
        let attributes = match (fork_offset, bytes[83]) {
            (0, _) => None,
            (_, 1) => Some(Fork::Local(attr_area.into())),
            (_, format @ 2..=3) => Some(context.mapped(format, attr_area, attr_extents, false)?),
            _ => return Err(corrupt("the format of its extended attributes is not known")),
        };

        let big_time = more_flags & flags2::BIG_TIME != 0;
        let time = |at| timestamp(bytes, at, big_time);
        let rdev = match data {
            Fork::Device(number) if matches!(file_type, FileType::CharDevice | FileType::BlockDevice) => {
                ((number >> 18) & 0x1ff, number & 0x3_ffff)
            }
            _ => (0, 0),
        };
        let attr = Attr {
            ino,
            size,
            blocks: blocks.saturating_mul(u64::from(superblock.block_size / 512)),
            file_type,
            permissions: (mode & 0o7777) as u16,
            nlink: if version == 1 { u32::from(be16(bytes, 6)) } else { be32(bytes, 16) },
            uid: be32(bytes, 8),
            gid: be32(bytes, 12),
            rdev,
            atime: time(32),
            mtime: time(40),
            ctime: time(48),
            btime: (version == 3).then(|| time(144)),
            generation: be32(bytes, 92),
            flags: shown_flags(flags, more_flags),
        };
        let internal = more_flags & flags2::METADATA != 0;
        Ok(Self { attr, data, attributes, real_time, internal })
    }

    /// Returns about how much memory it takes, in bytes.
    pub fn cost(&self) -> usize {
        let fork = |fork: &Fork| match fork {
            Fork::Device(_) => 0,
            Fork::Local(bytes) => bytes.len(),
            Fork::Extents(extents) => size_of_val(&**extents),
            Fork::Tree(root) => root.cost(),
        };
        size_of::<Self>() + fork(&self.data) + self.attributes.as_ref().map_or(0, fork)
    }
}

struct Context<'a> {
    superblock: &'a Superblock,
    ino: Ino,
}

impl Context<'_> {
    /// Reads a fork that is a list of extents (format 2) or the root of a B-tree (format 3).
    fn mapped(&self, format: u8, area: &[u8], count: u64, real_time: bool) -> Result<Fork> {
        let corrupt = |detail: &'static str| Error::corrupt(format!("inode {}", self.ino), detail);
        if format == 3 {
            return Ok(Fork::Tree(Root::parse(area).ok_or_else(|| corrupt("the root of its extent tree is damaged"))?));
        }
        let room = area.len() / RECORD_SIZE;
        let count = usize::try_from(count).ok().filter(|&count| count <= room);
        let count = count.ok_or_else(|| corrupt("it has more extents than fit in it"))?;
        let mut extents: Vec<Extent> = Vec::with_capacity(count);
        for record in area.chunks_exact(RECORD_SIZE).take(count) {
            let extent = Extent::parse(record);
            extent.check(self.superblock, real_time, self.ino)?;
            if extents.last().is_some_and(|last| last.end() > extent.file_block) {
                return Err(corrupt("its extents overlap"));
            }
            extents.push(extent);
        }
        Ok(Fork::Extents(extents.into()))
    }
}

/// Reads a time: seconds and nanoseconds, or with big times the nanoseconds since 1901.
fn timestamp(bytes: &[u8], at: usize, big: bool) -> Timestamp {
    if big {
        let nanoseconds = be64(bytes, at);
        Timestamp {
            seconds: (nanoseconds / 1_000_000_000).cast_signed() + i64::from(i32::MIN),
            nanoseconds: (nanoseconds % 1_000_000_000) as u32,
        }
    } else {
        Timestamp {
            seconds: i64::from(be32(bytes, at).cast_signed()),
            nanoseconds: be32(bytes, at + 4).min(999_999_999),
        }
    }
}

fn shown_flags(flags: u16, more: u64) -> u32 {
    let pairs = [
        (flags::SYNC, linux_flags::SYNC),
        (flags::IMMUTABLE, linux_flags::IMMUTABLE),
        (flags::APPEND, linux_flags::APPEND),
        (flags::NO_DUMP, linux_flags::NO_DUMP),
        (flags::NO_ATIME, linux_flags::NO_ATIME),
        (flags::PROJECT_INHERIT, linux_flags::PROJECT_INHERIT),
    ];
    let shown = pairs.iter().filter(|(disk, _)| flags & disk != 0).fold(0, |shown, (_, linux)| shown | linux);
    shown | if more & flags2::DAX != 0 { linux_flags::DAX } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{set_be16, set_be32, set_be64};

    fn superblock() -> Superblock {
        Superblock::parse(&super::super::superblock::tests::bytes(), true).expect("is whole")
    }

    fn inode(mode: u16, format: u8) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        set_be16(&mut bytes, 0, MAGIC);
        set_be16(&mut bytes, 2, mode);
        bytes[4] = 2;
        bytes[5] = format;
        bytes[83] = 2;
        bytes
    }

    #[test]
    fn a_device_has_its_numbers_and_a_time_before_1970_its_sign() {
        let mut bytes = inode(0o20_640, 0);
        set_be32(&mut bytes, 100, 200 << 18 | 70_000);
        set_be32(&mut bytes, 40, (-5_i32).cast_unsigned());
        set_be32(&mut bytes, 44, 6);
        let attr = Inode::parse(&superblock(), 9, &bytes, true).expect("is whole").attr;
        assert_eq!((attr.file_type, attr.rdev, attr.permissions), (FileType::CharDevice, (200, 70_000), 0o640));
        assert_eq!(attr.mtime, Timestamp { seconds: -5, nanoseconds: 6 });
        assert_eq!(attr.btime, None);
    }

    #[test]
    fn extents_that_overlap_or_do_not_fit_are_damage_and_a_free_inode_is_not_there() {
        let mut bytes = inode(0o100_644, 2);
        set_be32(&mut bytes, 76, 2);
        for (at, file_block) in [(100, 0), (116, 8)] {
            set_be64(&mut bytes, at, file_block << 9);
            set_be64(&mut bytes, at + 8, 50 << 21 | 8);
        }
        let data = Inode::parse(&superblock(), 9, &bytes, true).expect("is whole").data;
        assert!(matches!(data, Fork::Extents(extents) if extents.len() == 2 && extents[1].block == 50));
        set_be64(&mut bytes, 116, 7 << 9);
        let error = Inode::parse(&superblock(), 9, &bytes, true).expect_err("they overlap");
        assert!(matches!(error, Error::Corrupt { .. }));
        set_be32(&mut bytes, 76, 10);
        Inode::parse(&superblock(), 9, &bytes, true).expect_err("they do not fit");
        set_be16(&mut bytes, 2, 0);
        assert!(Inode::parse(&superblock(), 9, &bytes, true).expect_err("is free").is_errno(libc::ENOENT));
    }

    #[test]
    fn a_big_time_counts_from_1901() {
        let mut bytes = [0; 8];
        set_be64(&mut bytes, 0, (1 << 31) * 1_000_000_000 + 7);
        assert_eq!(timestamp(&bytes, 0, true), Timestamp { seconds: 0, nanoseconds: 7 });
        set_be64(&mut bytes, 0, 1);
        assert_eq!(timestamp(&bytes, 0, true), Timestamp { seconds: i64::from(i32::MIN), nanoseconds: 1 });
    }
}
