//! Group descriptors: where each group keeps its bitmaps and its part of the inode table, and how full it is.
//!
//! Little-endian, 32 or 64 bytes and up, in the blocks after the superblock or, with `meta_bg`, in the first groups of
//! each row. Specified in the kernel's `Documentation/filesystems/ext4/group_descr.rst`.

use super::checksum::{crc16, crc32c, crc32c_with_hole};
use super::features::{incompat, ro_compat};
use super::meta::Meta;
use super::superblock::Superblock;
use crate::bytes::{le16, le32, set_le16};
use crate::error::{Error, Result};

/// `bg_flags`: the inode table and bitmap are not initialised.
pub(crate) const INODE_UNINIT: u16 = 1;
/// `bg_flags`: the block bitmap is not initialised.
pub(crate) const BLOCK_UNINIT: u16 = 2;
/// `bg_flags`: the inode table is zeroed.
pub(crate) const INODE_ZEROED: u16 = 4;

/// Offsets of the fields, in bytes from the descriptor's beginning; the `_HI` halves need a descriptor of 64 bytes.
#[allow(missing_docs)]
pub(crate) mod field {
    pub(crate) const BLOCK_BITMAP_LO: usize = 0x0;
    pub(crate) const INODE_BITMAP_LO: usize = 0x4;
    pub(crate) const INODE_TABLE_LO: usize = 0x8;
    pub(crate) const FREE_BLOCKS_LO: usize = 0xc;
    pub(crate) const FREE_INODES_LO: usize = 0xe;
    pub(crate) const USED_DIRS_LO: usize = 0x10;
    pub(crate) const FLAGS: usize = 0x12;
    pub(crate) const BLOCK_BITMAP_CSUM_LO: usize = 0x18;
    pub(crate) const INODE_BITMAP_CSUM_LO: usize = 0x1a;
    pub(crate) const UNUSED_INODES_LO: usize = 0x1c;
    pub(crate) const CHECKSUM: usize = 0x1e;
    pub(crate) const BLOCK_BITMAP_HI: usize = 0x20;
    pub(crate) const INODE_BITMAP_HI: usize = 0x24;
    pub(crate) const INODE_TABLE_HI: usize = 0x28;
    pub(crate) const FREE_BLOCKS_HI: usize = 0x2c;
    pub(crate) const FREE_INODES_HI: usize = 0x2e;
    pub(crate) const USED_DIRS_HI: usize = 0x30;
    pub(crate) const UNUSED_INODES_HI: usize = 0x32;
    pub(crate) const BLOCK_BITMAP_CSUM_HI: usize = 0x38;
    pub(crate) const INODE_BITMAP_CSUM_HI: usize = 0x3a;
}

/// A group's descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupDescriptor {
    pub(crate) block_bitmap: u64,
    pub(crate) inode_bitmap: u64,
    /// The first block of the group's part of the inode table.
    pub(crate) inode_table: u64,
    /// Free clusters.
    pub(crate) free_clusters: u32,
    pub(crate) free_inodes: u32,
    pub(crate) used_dirs: u32,
    pub(crate) flags: u16,
    /// Inodes at the table's end that were never used.
    pub(crate) unused_inodes: u32,
}

/// Returns the checksum that the descriptor in `bytes` should have, where the filesystem has checksums.
pub(crate) fn checksum(superblock: &Superblock, group: u32, bytes: &[u8]) -> Option<u16> {
    let number = group.to_le_bytes();
    if superblock.has_metadata_csum() {
        let crc = crc32c(superblock.checksum_seed, &number);
        Some(crc32c_with_hole(crc, bytes, field::CHECKSUM, 2) as u16)
    } else if superblock.has_ro_compat(ro_compat::GDT_CSUM) {
        let crc = crc16(crc16(!0, &superblock.uuid), &number);
        let crc = crc16(crc, &bytes[..field::CHECKSUM]);
        let rest = if superblock.has_incompat(incompat::BIT64) { &bytes[field::CHECKSUM + 2..] } else { &[] };
        Some(crc16(crc, rest))
    } else {
        None
    }
}

/// Stores the checksum of the descriptor in `bytes`, where the filesystem has checksums.
pub(crate) fn set_checksum(superblock: &Superblock, group: u32, bytes: &mut [u8]) {
    if let Some(crc) = checksum(superblock, group, bytes) {
        set_le16(bytes, field::CHECKSUM, crc);
    }
}

impl GroupDescriptor {
    /// Reads and checks the descriptor of `group`; `base` is the block of the superblock copy whose descriptors are used.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a wrong checksum or an inode table that is not in the filesystem; those of reading.
    pub(crate) fn read(superblock: &Superblock, meta: &Meta, base: u64, group: u32) -> Result<Self> {
        let (block, from) = place(superblock, base, group);
        let block = meta.block(block)?;
        Self::parse(superblock, group, &block[from..from + superblock.descriptor_size as usize])
    }

    /// Checks the descriptor of `group` in `bytes`, which has the superblock's descriptor size.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn parse(superblock: &Superblock, group: u32, bytes: &[u8]) -> Result<Self> {
        let damaged = |detail: String| Error::corrupt(format!("group descriptor {group}"), detail);
        if checksum(superblock, group, bytes).is_some_and(|crc| crc != le16(bytes, field::CHECKSUM)) {
            return Err(damaged("its checksum is wrong".into()));
        }
        let is_wide = bytes.len() >= 64;
        let block = |lo, hi| u64::from(le32(bytes, lo)) | if is_wide { u64::from(le32(bytes, hi)) << 32 } else { 0 };
        let count = |lo, hi| u32::from(le16(bytes, lo)) | if is_wide { u32::from(le16(bytes, hi)) << 16 } else { 0 };
        let descriptor = Self {
            block_bitmap: block(field::BLOCK_BITMAP_LO, field::BLOCK_BITMAP_HI),
            inode_bitmap: block(field::INODE_BITMAP_LO, field::INODE_BITMAP_HI),
            inode_table: block(field::INODE_TABLE_LO, field::INODE_TABLE_HI),
            free_clusters: count(field::FREE_BLOCKS_LO, field::FREE_BLOCKS_HI),
            free_inodes: count(field::FREE_INODES_LO, field::FREE_INODES_HI),
            used_dirs: count(field::USED_DIRS_LO, field::USED_DIRS_HI),
            flags: le16(bytes, field::FLAGS),
            unused_inodes: count(field::UNUSED_INODES_LO, field::UNUSED_INODES_HI),
        };
        let table_end = descriptor.inode_table.checked_add(u64::from(superblock.inode_table_blocks()));
        if descriptor.inode_table <= superblock.primary_block()
            || table_end.is_none_or(|end| end > superblock.blocks_count)
        {
            return Err(damaged(format!("its inode table at block {}", descriptor.inode_table)));
        }
        Ok(descriptor)
    }
}

/// Returns the block that holds the descriptor of `group`, and where in it, in bytes.
pub(crate) fn place(superblock: &Superblock, base: u64, group: u32) -> (u64, usize) {
    let per_block = superblock.descriptors_per_block();
    let block = superblock.descriptor_block(group / per_block, base);
    (block, (group % per_block) as usize * superblock.descriptor_size as usize)
}
