//! The filesystems of Linux that are written to: ext, XFS, Btrfs, F2FS, ReiserFS, JFS, NILFS2, OCFS2, bcachefs.

use super::reader::{Reader, utf16_le};
use super::{Identity, Usage};
use crate::bytes::{be16, be32, le16, le32, le64, set_le32};

/// ext2, ext3, ext4, and the external journal of either: the superblock at byte 1024.
pub fn ext(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 1024)?;
    if le32(&bytes, 24) > 6 {
        return None;
    }
    ext_superblock(&bytes)
}

/// ext2, ext3 and ext4 whose first superblock is gone: one of its copies at the places that mke2fs chooses by default.
pub fn ext_copy(reader: &Reader<'_>) -> Option<Identity> {
    EXT_COPIES.iter().find_map(|place| copy_at(reader, *place))
}

/// Where copies of an ext superblock lie by default: the block size as its logarithm over 1024, and the block.
const EXT_COPIES: [(u32, u64); 6] = [(2, 32768), (0, 8193), (1, 16384), (2, 98304), (0, 24577), (1, 49152)];

fn copy_at(reader: &Reader<'_>, (log, block): (u32, u64)) -> Option<Identity> {
    let bytes = reader.read(block << (10 + log), 1024)?;
    let is_copy = le32(&bytes, 24) == log && le16(&bytes, 90) > 0;
    if is_copy { ext_superblock(&bytes) } else { None }
}

/// Returns where copies of an ext superblock lie that [`ext_copy`] would find, in bytes; each takes 1024.
pub fn ext_copies(reader: &Reader<'_>) -> Vec<u64> {
    let found = EXT_COPIES.iter().filter(|place| copy_at(reader, **place).is_some());
    found.map(|(log, block)| block << (10 + log)).collect()
}

fn ext_superblock(bytes: &[u8]) -> Option<Identity> {
    const HAS_JOURNAL: u32 = 0x4;
    const JOURNAL_DEVICE: u32 = 0x8;
    /// Filetype, journal to recover, meta groups.
    const EXT3_INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    const EXT2_INCOMPATIBLE: u32 = 0x2 | 0x10;
    /// Sparse superblocks, large files, tree directories that never were.
    const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    if le16(bytes, 56) != 0xef53 {
        return None;
    }
    let (compatible, incompatible, read_only) = (le32(bytes, 92), le32(bytes, 96), le32(bytes, 100));
    let has_journal = compatible & HAS_JOURNAL != 0;
    let (kind, usage) = if incompatible & JOURNAL_DEVICE != 0 {
        ("jbd", Usage::Other)
    } else if !has_journal && incompatible & !EXT2_INCOMPATIBLE == 0 && read_only & !EXT3_READ_ONLY == 0 {
        ("ext2", Usage::Filesystem)
    } else if has_journal && incompatible & !EXT3_INCOMPATIBLE == 0 && read_only & !EXT3_READ_ONLY == 0 {
        ("ext3", Usage::Filesystem)
    } else {
        ("ext4", Usage::Filesystem)
    };
    let version = format!("{}.{}", le32(bytes, 76), le16(bytes, 62));
    Some(Identity::new(kind, usage).uuid(bytes, 104).label(&bytes[120..136]).version(version))
}

/// XFS: the superblock in the first sector.
pub fn xfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(0, 512)?;
    let block_size = be32(&bytes, 4);
    let is_credible = bytes.starts_with(b"XFSB")
        && block_size.is_power_of_two()
        && (512..=65536).contains(&block_size)
        && 1_u32.checked_shl(u32::from(bytes[120])) == Some(block_size)
        && be16(&bytes, 102) >= 512;
    is_credible.then(|| Identity::filesystem("xfs").uuid(&bytes, 32).label(&bytes[108..120]))
}

/// Btrfs: the first superblock, at 64 KiB.
pub fn btrfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(65536, 4096)?;
    (bytes[64..72] == *b"_BHRfS_M").then(|| Identity::filesystem("btrfs").uuid(&bytes, 32).label(&bytes[299..555]))
}

/// F2FS: the first superblock, at byte 1024.
pub fn f2fs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 2048)?;
    if le32(&bytes, 0) != 0xf2f5_2010 {
        return None;
    }
    let version = format!("{}.{}", le16(&bytes, 4), le16(&bytes, 6));
    Some(Identity::filesystem("f2fs").uuid(&bytes, 108).label(&utf16_le(&bytes[124..124 + 1024])).version(version))
}

/// ReiserFS of any version, and Reiser4: the superblock at 64 KiB, or at 8 KiB in the first ones.
pub fn reiserfs(reader: &Reader<'_>) -> Option<Identity> {
    if reader.has(65536, b"ReIsEr4\0") {
        let bytes = reader.read(65536, 52)?;
        return Some(Identity::filesystem("reiser4").uuid(&bytes, 20).label(&bytes[36..52]));
    }
    for offset in [65536, 8192] {
        let Some(bytes) = reader.read(offset, 116) else { continue };
        let magic = &bytes[52..62];
        let version = match magic {
            _ if magic.starts_with(b"ReIsErFs") => "3.5",
            _ if magic.starts_with(b"ReIsEr2Fs") => "3.6",
            _ if magic.starts_with(b"ReIsEr3Fs") => "JR",
            _ => continue,
        };
        return Some(Identity::filesystem("reiserfs").uuid(&bytes, 84).label(&bytes[100..116]).version(version));
    }
    None
}

/// JFS: the first superblock, at 32 KiB.
pub fn jfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(32768, 184)?;
    // The block's size and its logarithm agree.
    let is_credible =
        bytes.starts_with(b"JFS1") && 1_u32.checked_shl(u32::from(le16(&bytes, 20))) == Some(le32(&bytes, 16));
    is_credible.then(|| Identity::filesystem("jfs").uuid(&bytes, 136).label(&bytes[152..168]))
}

/// NILFS2: the first superblock, at byte 1024. Its signature has 16 bits, so its checksum counts as well.
pub fn nilfs2(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 1024)?;
    let len = usize::from(le16(&bytes, 8));
    if le16(&bytes, 6) != 0x3434 || !(248..=bytes.len()).contains(&len) {
        return None;
    }
    let mut covered = bytes[..len].to_vec();
    set_le32(&mut covered, 16, 0);
    if super::member::raw_crc32(le32(&bytes, 12), &covered) != le32(&bytes, 16) {
        return None;
    }
    let version = le32(&bytes, 0).to_string();
    Some(Identity::filesystem("nilfs2").uuid(&bytes, 152).label(&bytes[168..248]).version(version))
}

/// OCFS2: the superblock in the third block.
pub fn ocfs2(reader: &Reader<'_>) -> Option<Identity> {
    let offset = [1024, 2048, 4096, 8192].into_iter().find(|&offset| reader.has(offset, b"OCFSV2\0\0"))?;
    let bytes = reader.read(offset, 352)?;
    let version = format!("{}.{}", le16(&bytes, 192), le16(&bytes, 194));
    Some(Identity::filesystem("ocfs2").uuid(&bytes, 336).label(&bytes[272..336]).version(version))
}

/// bcachefs: the first superblock, at 4 KiB.
pub fn bcachefs(reader: &Reader<'_>) -> Option<Identity> {
    const MAGIC: [u8; 16] =
        [0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9, 0xd9, 0x6a, 0x60, 0xcf, 0x80, 0x3d, 0xf7, 0xef];
    let bytes = reader.read(4096, 512)?;
    // Before version 0.13 it had the magic number of bcache, with versions that bcache never had.
    let old = bytes[24..40] == crate::volume::BCACHE_MAGIC && le64(&bytes, 16) > 6;
    (bytes[24..40] == MAGIC || old).then(|| Identity::filesystem("bcachefs").uuid(&bytes, 56).label(&bytes[72..104]))
}
