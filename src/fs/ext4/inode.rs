//! Inodes: owner, times, size, and either where the contents lie or the contents themselves.
//!
//! Little-endian; 128 bytes and, in larger inodes, `i_extra_isize` more, then extended attributes to the end. Specified
//! in the kernel's `Documentation/filesystems/ext4/inodes.rst`.

use super::checksum::{crc32c, inode_seed};
use super::extent::{self, Node};
use super::features::{incompat, ro_compat};
use super::superblock::Superblock;
use crate::bytes::{le16, le32, set_le16};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType, Timestamp};

/// The size of the part that every inode has, in bytes.
pub(crate) const OLD_SIZE: usize = 128;
/// The size of `i_block`, in bytes.
pub(crate) const BLOCK_AREA: usize = 60;

/// Offsets of the fields, in bytes from the inode's beginning.
#[allow(missing_docs)]
pub(crate) mod field {
    pub(crate) const MODE: usize = 0x0;
    pub(crate) const UID_LO: usize = 0x2;
    pub(crate) const SIZE_LO: usize = 0x4;
    pub(crate) const ATIME: usize = 0x8;
    pub(crate) const CTIME: usize = 0xc;
    pub(crate) const MTIME: usize = 0x10;
    pub(crate) const DTIME: usize = 0x14;
    pub(crate) const GID_LO: usize = 0x18;
    pub(crate) const LINKS: usize = 0x1a;
    pub(crate) const BLOCKS_LO: usize = 0x1c;
    pub(crate) const FLAGS: usize = 0x20;
    pub(crate) const VERSION_LO: usize = 0x24;
    pub(crate) const BLOCK: usize = 0x28;
    pub(crate) const GENERATION: usize = 0x64;
    pub(crate) const FILE_ACL_LO: usize = 0x68;
    pub(crate) const SIZE_HI: usize = 0x6c;
    pub(crate) const BLOCKS_HI: usize = 0x74;
    pub(crate) const FILE_ACL_HI: usize = 0x76;
    pub(crate) const UID_HI: usize = 0x78;
    pub(crate) const GID_HI: usize = 0x7a;
    pub(crate) const CHECKSUM_LO: usize = 0x7c;
    pub(crate) const EXTRA_ISIZE: usize = 0x80;
    pub(crate) const CHECKSUM_HI: usize = 0x82;
    pub(crate) const CTIME_EXTRA: usize = 0x84;
    pub(crate) const MTIME_EXTRA: usize = 0x88;
    pub(crate) const ATIME_EXTRA: usize = 0x8c;
    pub(crate) const BTIME: usize = 0x90;
    pub(crate) const BTIME_EXTRA: usize = 0x94;
    pub(crate) const VERSION_HI: usize = 0x98;
    pub(crate) const PROJECT: usize = 0x9c;
}

/// `i_flags`.
#[allow(missing_docs)]
pub(crate) mod flag {
    pub(crate) const IMMUTABLE: u32 = 0x10;
    pub(crate) const APPEND: u32 = 0x20;
    pub(crate) const ENCRYPT: u32 = 0x800;
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const JOURNAL_DATA: u32 = 0x4000;
    pub(crate) const HUGE_FILE: u32 = 0x40000;
    pub(crate) const EXTENTS: u32 = 0x80000;
    pub(crate) const VERITY: u32 = 0x10_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
    pub(crate) const PROJECT_INHERIT: u32 = 0x2000_0000;
    pub(crate) const CASEFOLD: u32 = 0x4000_0000;
    /// What `lsattr` shows.
    pub(crate) const VISIBLE: u32 = 0x725b_dfff;
}

/// A decoded inode.
#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub(crate) ino: u32,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) btime: Option<Timestamp>,
    pub(crate) links: u16,
    /// In units of 512 bytes.
    pub(crate) sectors: u64,
    pub(crate) flags: u32,
    pub(crate) generation: u32,
    /// The block of extended attributes; 0 for none.
    pub(crate) xattr_block: u64,
    /// `i_block`: the root of the block map or of the extent tree, the device's number, or the contents themselves.
    pub(crate) block: [u8; BLOCK_AREA],
    /// The root of the extent tree, where there is a sound one.
    pub(crate) root: Option<Node>,
    /// The space after the fields, which may hold extended attributes.
    pub(crate) tail: Box<[u8]>,
    /// What the checksums of this inode's structures begin with.
    pub(crate) seed: u32,
}

/// Returns the checksum that an inode should have, by its raw bytes.
pub(crate) fn checksum(superblock: &Superblock, ino: u32, raw: &[u8]) -> u32 {
    let seed = inode_seed(superblock.checksum_seed, ino, le32(raw, field::GENERATION));
    let crc = crc32c(seed, &raw[..field::CHECKSUM_LO]);
    let crc = crc32c(crc, &[0; 2]);
    let crc = crc32c(crc, &raw[field::CHECKSUM_LO + 2..OLD_SIZE]);
    if raw.len() == OLD_SIZE {
        return crc;
    }
    let crc = crc32c(crc, &raw[OLD_SIZE..field::CHECKSUM_HI]);
    if has_wide_checksum(raw) {
        crc32c(crc32c(crc, &[0; 2]), &raw[field::CHECKSUM_HI + 2..])
    } else {
        crc32c(crc, &raw[field::CHECKSUM_HI..])
    }
}

fn has_wide_checksum(raw: &[u8]) -> bool {
    raw.len() > OLD_SIZE && le16(raw, field::EXTRA_ISIZE) >= 4
}

/// Says whether the checksum in an inode's raw bytes is right.
pub(crate) fn verify_checksum(superblock: &Superblock, ino: u32, raw: &[u8]) -> bool {
    let crc = checksum(superblock, ino, raw);
    crc as u16 == le16(raw, field::CHECKSUM_LO)
        && (!has_wide_checksum(raw) || (crc >> 16) as u16 == le16(raw, field::CHECKSUM_HI))
}

/// Stores the checksum of an inode in its raw bytes, where the filesystem has checksums.
pub(crate) fn set_checksum(superblock: &Superblock, ino: u32, raw: &mut [u8]) {
    if superblock.has_metadata_csum() {
        let crc = checksum(superblock, ino, raw);
        set_le16(raw, field::CHECKSUM_LO, crc as u16);
        if has_wide_checksum(raw) {
            set_le16(raw, field::CHECKSUM_HI, (crc >> 16) as u16);
        }
    }
}

/// Decodes a time from its seconds and, where there is room for it, its second half: two more bits of seconds, and
/// nanoseconds above them.
pub(crate) fn decode_time(seconds: u32, extra: Option<u32>) -> Timestamp {
    let extra = extra.unwrap_or(0);
    Timestamp {
        seconds: i64::from(seconds as i32) + (i64::from(extra & 3) << 32),
        nanoseconds: (extra >> 2).min(999_999_999),
    }
}

/// Encodes a time as its seconds and its second half; a moment outside 1901 to 2446 becomes the nearest inside.
pub(crate) fn encode_time(time: Timestamp) -> (u32, u32) {
    let seconds = time.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX) + (3 << 32));
    let epoch = (seconds - i64::from(seconds as i32)) >> 32 & 3;
    (seconds as u32, epoch as u32 | time.nanoseconds << 2)
}

impl Inode {
    /// Decodes an inode from its raw bytes, which have the superblock's inode size.
    ///
    /// # Errors
    /// `ENOENT` for an inode that is not in use; [`Error::Corrupt`] for a wrong checksum or an impossible field.
    pub(crate) fn parse(superblock: &Superblock, ino: u32, raw: &[u8]) -> Result<Self> {
        let (mode, links) = (le16(raw, field::MODE), le16(raw, field::LINKS));
        if mode == 0 && links == 0 {
            return Err(Error::Errno(libc::ENOENT));
        }
        if superblock.has_metadata_csum() && !verify_checksum(superblock, ino, raw) {
            return Err(Error::corrupt(format!("inode {ino}"), "its checksum is wrong"));
        }
        Self::decode(superblock, ino, raw)
    }

    /// Decodes an inode that is in use without a name, as [`parse`](Self::parse) does.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a wrong checksum or an impossible field.
    pub(crate) fn parse_unnamed(superblock: &Superblock, ino: u32, raw: &[u8]) -> Result<Self> {
        if superblock.has_metadata_csum() && !verify_checksum(superblock, ino, raw) {
            return Err(Error::corrupt(format!("inode {ino}"), "its checksum is wrong"));
        }
        Self::decode_any(superblock, ino, raw)
    }

    /// Decodes an inode as [`parse`](Self::parse) does, whatever its checksum.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn decode(superblock: &Superblock, ino: u32, raw: &[u8]) -> Result<Self> {
        if le16(raw, field::LINKS) == 0 {
            return Err(Error::Errno(libc::ENOENT));
        }
        Self::decode_any(superblock, ino, raw)
    }

    /// Decodes an inode whatever its checksum and its link count.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for an impossible field.
    pub(crate) fn decode_any(superblock: &Superblock, ino: u32, raw: &[u8]) -> Result<Self> {
        let damaged = |detail: String| Error::corrupt(format!("inode {ino}"), detail);
        let (mode, links) = (le16(raw, field::MODE), le16(raw, field::LINKS));
        let file_type = FileType::from_mode(u32::from(mode)).ok_or_else(|| damaged(format!("its mode {mode:#o}")))?;
        let fields_end = if raw.len() > OLD_SIZE {
            let extra = usize::from(le16(raw, field::EXTRA_ISIZE));
            if OLD_SIZE + extra > raw.len() || !extra.is_multiple_of(4) {
                return Err(damaged(format!("its extra size of {extra} bytes")));
            }
            OLD_SIZE + extra
        } else {
            OLD_SIZE
        };
        let extra = |offset: usize| (offset + 4 <= fields_end).then(|| le32(raw, offset));
        let flags = le32(raw, field::FLAGS);
        let is_wide = file_type == FileType::Regular || superblock.has_incompat(incompat::LARGE_DIR);
        let size_hi = if is_wide { le32(raw, field::SIZE_HI) } else { 0 };
        let size = u64::from(size_hi) << 32 | u64::from(le32(raw, field::SIZE_LO));
        if size > i64::MAX as u64 {
            return Err(damaged(format!("its size of {size} bytes")));
        }
        let mut sectors = u64::from(le32(raw, field::BLOCKS_LO));
        if superblock.has_ro_compat(ro_compat::HUGE_FILE) {
            sectors |= u64::from(le16(raw, field::BLOCKS_HI)) << 32;
            if flags & flag::HUGE_FILE != 0 {
                sectors *= u64::from(superblock.block_size / 512);
            }
        }
        let mut xattr_block = u64::from(le32(raw, field::FILE_ACL_LO));
        if superblock.has_incompat(incompat::BIT64) {
            xattr_block |= u64::from(le16(raw, field::FILE_ACL_HI)) << 32;
        }
        let wide = |lo, hi| u32::from(le16(raw, lo)) | u32::from(le16(raw, hi)) << 16;
        let generation = le32(raw, field::GENERATION);
        let mut block = [0; BLOCK_AREA];
        block.copy_from_slice(&raw[field::BLOCK..field::BLOCK + BLOCK_AREA]);
        let mut inode = Self {
            ino,
            mode,
            uid: wide(field::UID_LO, field::UID_HI),
            gid: wide(field::GID_LO, field::GID_HI),
            size,
            atime: decode_time(le32(raw, field::ATIME), extra(field::ATIME_EXTRA)),
            mtime: decode_time(le32(raw, field::MTIME), extra(field::MTIME_EXTRA)),
            ctime: decode_time(le32(raw, field::CTIME), extra(field::CTIME_EXTRA)),
            btime: extra(field::BTIME).map(|seconds| decode_time(seconds, extra(field::BTIME_EXTRA))),
            links,
            sectors,
            flags,
            generation,
            xattr_block,
            block,
            root: None,
            tail: Box::from(&raw[fields_end..]),
            seed: inode_seed(superblock.checksum_seed, ino, generation),
        };
        if inode.uses_extents() {
            inode.root = inode.parse_root(superblock).ok();
        }
        Ok(inode)
    }

    /// Decodes the root of the extent tree.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged one.
    pub(crate) fn parse_root(&self, superblock: &Superblock) -> Result<Node> {
        extent::parse_node(self.ino, &self.block, None, None, superblock.blocks_count)
    }

    /// Returns what kind of file it is.
    pub(crate) fn file_type(&self) -> FileType {
        FileType::from_mode(u32::from(self.mode)).expect("checked when the inode was decoded")
    }

    /// Says whether a flag is set.
    pub(crate) fn has_flag(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Says whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.mode & libc::S_IFMT as u16 == libc::S_IFDIR as u16
    }

    /// Says whether the contents lie in the inode itself (`inline_data`).
    pub(crate) fn is_inline(&self) -> bool {
        self.has_flag(flag::INLINE_DATA)
    }

    /// Says whether an extent tree tells where the contents lie.
    pub(crate) fn uses_extents(&self) -> bool {
        self.has_flag(flag::EXTENTS) && !self.is_inline() && !self.is_fast_symlink()
    }

    /// Says whether its blocks are named by a block map.
    pub(crate) fn blocks_are_mapped(&self) -> bool {
        let kind = u32::from(self.mode) & libc::S_IFMT;
        matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK)
            && !self.has_flag(flag::EXTENTS)
            && !self.is_inline()
            && !self.is_fast_symlink()
    }

    /// Says whether it is a symbolic link whose text lies in `i_block`.
    pub(crate) fn is_fast_symlink(&self) -> bool {
        let is_symlink = self.mode & libc::S_IFMT as u16 == libc::S_IFLNK as u16;
        if !is_symlink || self.is_inline() || self.size >= BLOCK_AREA as u64 {
            return false;
        }
        if self.has_flag(flag::EXTENTS) {
            return le16(&self.block, 0) != extent::MAGIC;
        }
        // A short text in a block of its own shows in the block count, which also counts a block of attributes.
        self.sectors == 0 || self.xattr_block != 0 || le32(&self.block, 0) == 0
    }

    /// Returns the major and minor number of a device; (0, 0) for anything else.
    pub(crate) fn device_numbers(&self) -> (u32, u32) {
        if !matches!(self.file_type(), FileType::CharDevice | FileType::BlockDevice) {
            return (0, 0);
        }
        let old = le32(&self.block, 0);
        if old != 0 {
            return (old >> 8 & 0xff, old & 0xff);
        }
        let new = le32(&self.block, 4);
        (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
    }

    /// Returns what `stat` shows.
    pub(crate) fn attr(&self) -> Attr {
        let file_type = self.file_type();
        let mut blocks = self.sectors;
        if file_type == FileType::Regular && self.is_inline() {
            // As the kernel does, so that programs do not take the file for one big hole.
            blocks += self.size.div_ceil(512);
        }
        Attr {
            ino: u64::from(self.ino),
            size: self.size,
            blocks,
            file_type,
            permissions: self.mode & 0o7777,
            nlink: u32::from(self.links),
            uid: self.uid,
            gid: self.gid,
            rdev: self.device_numbers(),
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            generation: self.generation,
            flags: self.flags & flag::VISIBLE,
        }
    }

    /// Returns about how much memory it takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>() + self.tail.len() + self.root.as_ref().map_or(0, Node::memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_from_1901_to_2446_with_nanoseconds() {
        let moments = [(0, 0), (-1, 999_999_999), (i64::from(i32::MIN), 1), (4_102_444_800, 123), (15_032_385_535, 7)];
        for (seconds, nanoseconds) in moments {
            let time = Timestamp { seconds, nanoseconds };
            let (low, extra) = encode_time(time);
            assert_eq!(decode_time(low, Some(extra)), time);
        }
        assert_eq!(decode_time(u32::MAX, None).seconds, -1);
    }
}
