//! The superblock: 1024 bytes at offset 1024 of the device, with copies at the beginning of some groups.
//!
//! [`Superblock::parse`] checks everything that others divide by, shift by or allocate for; after it the fields may be
//! trusted to be consistent with each other, though not with the device's size. Little-endian. The format is described
//! in the kernel's `Documentation/filesystems/ext4/super.rst`.

use super::checksum::{crc32c, crc32c_with_hole};
use super::features::{compat, incompat, ro_compat};
use crate::bytes::{le16, le32, set_le32, until_nul};
use crate::error::{Error, Result};

/// The size of a superblock, in bytes.
pub(crate) const SUPERBLOCK_SIZE: usize = 1024;
/// Where the primary superblock lies on the device, in bytes.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// `s_magic`.
pub(crate) const MAGIC: u16 = 0xef53;
/// The inode of the root directory.
pub(crate) const ROOT_INO: u32 = 2;
/// `s_state`: it was unmounted cleanly.
pub(crate) const STATE_CLEAN: u16 = 1;
/// `s_state`: errors were found.
pub(crate) const STATE_ERRORS: u16 = 2;
/// `s_flags`: directory hashes take characters as unsigned.
pub(crate) const FLAG_UNSIGNED_HASH: u32 = 2;
/// `s_encoding_flags`: names that are not valid in the encoding are refused.
pub(crate) const ENCODING_STRICT: u16 = 1;

/// Offsets of the fields, in bytes from the superblock's beginning.
#[allow(missing_docs)]
pub(crate) mod field {
    pub(crate) const INODES_COUNT: usize = 0x0;
    pub(crate) const BLOCKS_COUNT_LO: usize = 0x4;
    pub(crate) const RESERVED_BLOCKS_LO: usize = 0x8;
    pub(crate) const FREE_BLOCKS_LO: usize = 0xc;
    pub(crate) const FREE_INODES: usize = 0x10;
    pub(crate) const FIRST_DATA_BLOCK: usize = 0x14;
    pub(crate) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(crate) const LOG_CLUSTER_SIZE: usize = 0x1c;
    pub(crate) const BLOCKS_PER_GROUP: usize = 0x20;
    pub(crate) const CLUSTERS_PER_GROUP: usize = 0x24;
    pub(crate) const INODES_PER_GROUP: usize = 0x28;
    pub(crate) const WRITE_TIME: usize = 0x30;
    pub(crate) const MAGIC: usize = 0x38;
    pub(crate) const STATE: usize = 0x3a;
    pub(crate) const REVISION: usize = 0x4c;
    pub(crate) const FIRST_INODE: usize = 0x54;
    pub(crate) const INODE_SIZE: usize = 0x58;
    pub(crate) const BLOCK_GROUP: usize = 0x5a;
    pub(crate) const COMPAT: usize = 0x5c;
    pub(crate) const INCOMPAT: usize = 0x60;
    pub(crate) const RO_COMPAT: usize = 0x64;
    pub(crate) const UUID: usize = 0x68;
    pub(crate) const LABEL: usize = 0x78;
    pub(crate) const RESERVED_GDT_BLOCKS: usize = 0xce;
    pub(crate) const JOURNAL_INODE: usize = 0xe0;
    pub(crate) const JOURNAL_DEVICE: usize = 0xe4;
    pub(crate) const LAST_ORPHAN: usize = 0xe8;
    pub(crate) const HASH_SEED: usize = 0xec;
    pub(crate) const DEFAULT_HASH: usize = 0xfc;
    pub(crate) const DESCRIPTOR_SIZE: usize = 0xfe;
    pub(crate) const FIRST_META_BG: usize = 0x104;
    pub(crate) const BLOCKS_COUNT_HI: usize = 0x150;
    pub(crate) const RESERVED_BLOCKS_HI: usize = 0x154;
    pub(crate) const FREE_BLOCKS_HI: usize = 0x158;
    pub(crate) const WANT_EXTRA_ISIZE: usize = 0x15e;
    pub(crate) const FLAGS: usize = 0x160;
    pub(crate) const LOG_GROUPS_PER_FLEX: usize = 0x174;
    pub(crate) const CHECKSUM_TYPE: usize = 0x175;
    pub(crate) const OVERHEAD_CLUSTERS: usize = 0x248;
    pub(crate) const BACKUP_GROUPS: usize = 0x24c;
    pub(crate) const CHECKSUM_SEED: usize = 0x270;
    pub(crate) const ENCODING: usize = 0x27c;
    pub(crate) const ENCODING_FLAGS: usize = 0x27e;
    pub(crate) const ORPHAN_FILE_INODE: usize = 0x280;
    pub(crate) const CHECKSUM: usize = 0x3fc;
}

/// A checked superblock.
#[derive(Clone, Debug)]
pub(crate) struct Superblock {
    pub(crate) inodes_count: u32,
    pub(crate) blocks_count: u64,
    pub(crate) reserved_blocks: u64,
    pub(crate) first_data_block: u32,
    /// The block size, in bytes: 1024 to 65,536.
    pub(crate) block_size: u32,
    /// How many blocks a cluster has, as a power of two; 0 without `bigalloc`.
    pub(crate) cluster_bits: u32,
    pub(crate) blocks_per_group: u32,
    pub(crate) clusters_per_group: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) group_count: u32,
    pub(crate) state: u16,
    pub(crate) first_inode: u32,
    /// The size of an inode in the tables, in bytes: 128 to a block.
    pub(crate) inode_size: u32,
    /// Which group this copy belongs to.
    pub(crate) block_group: u16,
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
    pub(crate) ro_compat: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) label: [u8; 16],
    pub(crate) reserved_gdt_blocks: u16,
    pub(crate) journal_inode: u32,
    pub(crate) journal_device: u32,
    pub(crate) last_orphan: u32,
    pub(crate) hash_seed: [u32; 4],
    pub(crate) default_hash: u8,
    /// The size of a group descriptor, in bytes: 32, or 64 and up.
    pub(crate) descriptor_size: u32,
    pub(crate) first_meta_bg: u32,
    pub(crate) want_extra_isize: u16,
    pub(crate) flags: u32,
    pub(crate) log_groups_per_flex: u8,
    pub(crate) overhead_clusters: u32,
    pub(crate) backup_groups: [u32; 2],
    /// What every CRC-32C of this filesystem begins with.
    pub(crate) checksum_seed: u32,
    pub(crate) encoding: u16,
    pub(crate) encoding_flags: u16,
    pub(crate) orphan_file_inode: u32,
}

fn damaged(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("ext4 superblock", detail)
}

/// Says whether 1024 bytes carry the magic number of a superblock.
pub(crate) fn has_magic(bytes: &[u8]) -> bool {
    bytes.len() >= SUPERBLOCK_SIZE && le16(bytes, field::MAGIC) == MAGIC
}

/// Returns the checksum that the superblock in `bytes` should have.
pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    crc32c(!0, &bytes[..field::CHECKSUM])
}

impl Superblock {
    /// Reads and checks a superblock.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] when there is none, [`Error::Corrupt`] when its fields contradict each other or its checksum.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let superblock = Self::parse_unsealed(bytes)?;
        if superblock.has_metadata_csum() && checksum(bytes) != le32(bytes, field::CHECKSUM) {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(superblock)
    }

    /// Reads and checks a superblock of which a crash may have left the flag of recovery written in part: changed, with the
    /// checksum of before, or the other way round. Mends the bytes then, and says so.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_mended(bytes: &mut [u8; SUPERBLOCK_SIZE]) -> Result<(Self, bool)> {
        let error = match Self::parse(bytes) {
            Ok(superblock) => return Ok((superblock, false)),
            Err(error) => error,
        };
        let flags = le32(bytes, field::INCOMPAT);
        for candidate in [flags | incompat::RECOVER, flags & !incompat::RECOVER] {
            set_le32(bytes, field::INCOMPAT, candidate);
            if has_magic(bytes) && checksum(bytes) == le32(bytes, field::CHECKSUM) {
                return Self::parse(bytes).map(|superblock| (superblock, true));
            }
        }
        Err(error)
    }

    /// Reads and checks a superblock, but for its checksum.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub(crate) fn parse_unsealed(bytes: &[u8]) -> Result<Self> {
        if !has_magic(bytes) {
            return Err(Error::NotAnImage(
                "no ext2, ext3 or ext4 filesystem: the superblock has no magic number".into(),
            ));
        }
        let bytes = &bytes[..SUPERBLOCK_SIZE];
        let dynamic = le32(bytes, field::REVISION) >= 1;
        let (compat, incompat, ro_compat) = if dynamic {
            (le32(bytes, field::COMPAT), le32(bytes, field::INCOMPAT), le32(bytes, field::RO_COMPAT))
        } else {
            (0, 0, 0)
        };
        if ro_compat & ro_compat::METADATA_CSUM != 0 && bytes[field::CHECKSUM_TYPE] != 1 {
            return Err(Error::unsupported(format!("ext4 checksum type {}", bytes[field::CHECKSUM_TYPE])));
        }
        let log_block_size = le32(bytes, field::LOG_BLOCK_SIZE);
        if log_block_size > 6 {
            return Err(damaged(format!("a block size of 2^{} bytes", u64::from(log_block_size) + 10)));
        }
        let block_size = 1024_u32 << log_block_size;
        let log_cluster_size = le32(bytes, field::LOG_CLUSTER_SIZE);
        let cluster_bits = if ro_compat & ro_compat::BIGALLOC == 0 {
            0
        } else if log_cluster_size < log_block_size || log_cluster_size > 20 {
            return Err(damaged(format!("a cluster size of 2^{} bytes", u64::from(log_cluster_size) + 10)));
        } else {
            log_cluster_size - log_block_size
        };
        let is_64bit = incompat & incompat::BIT64 != 0;
        let wide = |lo: usize, hi: usize| {
            u64::from(le32(bytes, lo)) | if is_64bit { u64::from(le32(bytes, hi)) << 32 } else { 0 }
        };
        let blocks_count = wide(field::BLOCKS_COUNT_LO, field::BLOCKS_COUNT_HI);
        let first_data_block = le32(bytes, field::FIRST_DATA_BLOCK);
        if u64::from(first_data_block) >= blocks_count {
            return Err(damaged(format!("its first data block {first_data_block} of {blocks_count} blocks")));
        }
        if first_data_block > u32::from(block_size == 1024) {
            return Err(damaged(format!("its first data block {first_data_block} with blocks of {block_size} bytes")));
        }
        if blocks_count.checked_mul(u64::from(block_size)).is_none_or(|size| size > i64::MAX as u64) {
            return Err(damaged(format!("{blocks_count} blocks of {block_size} bytes")));
        }
        let inode_size = if dynamic { u32::from(le16(bytes, field::INODE_SIZE)) } else { 128 };
        if inode_size < 128 || !inode_size.is_power_of_two() || inode_size > block_size {
            return Err(damaged(format!("an inode size of {inode_size} bytes")));
        }
        let descriptor_size = if is_64bit {
            let size = u32::from(le16(bytes, field::DESCRIPTOR_SIZE));
            if size < 64 || size > 1024.min(block_size) || !size.is_power_of_two() {
                return Err(damaged(format!("a group descriptor size of {size} bytes")));
            }
            size
        } else {
            32
        };
        let blocks_per_group = le32(bytes, field::BLOCKS_PER_GROUP);
        let clusters_per_group =
            if cluster_bits > 0 { le32(bytes, field::CLUSTERS_PER_GROUP) } else { blocks_per_group };
        if blocks_per_group == 0
            || clusters_per_group > block_size * 8
            || u64::from(clusters_per_group) << cluster_bits != u64::from(blocks_per_group)
        {
            return Err(damaged(format!("{blocks_per_group} blocks in a group of {clusters_per_group} clusters")));
        }
        let inodes_per_group = le32(bytes, field::INODES_PER_GROUP);
        if inodes_per_group == 0 || inodes_per_group > block_size * 8 || inodes_per_group < block_size / inode_size {
            return Err(damaged(format!("{inodes_per_group} inodes in a group")));
        }
        let group_count = (blocks_count - u64::from(first_data_block)).div_ceil(u64::from(blocks_per_group));
        let group_count = u32::try_from(group_count).map_err(|_| damaged(format!("{group_count} groups")))?;
        let inodes_count = le32(bytes, field::INODES_COUNT);
        if u64::from(group_count) * u64::from(inodes_per_group) != u64::from(inodes_count) {
            return Err(damaged(format!("{inodes_count} inodes in {group_count} groups of {inodes_per_group}")));
        }
        let first_inode = if dynamic { le32(bytes, field::FIRST_INODE) } else { 11 };
        if first_inode < 11 || first_inode > inodes_count {
            return Err(damaged(format!("its first free inode {first_inode}")));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[field::UUID..field::UUID + 16]);
        let mut label = [0; 16];
        label.copy_from_slice(&bytes[field::LABEL..field::LABEL + 16]);
        let checksum_seed =
            if incompat & incompat::CSUM_SEED != 0 { le32(bytes, field::CHECKSUM_SEED) } else { crc32c(!0, &uuid) };
        Ok(Self {
            inodes_count,
            blocks_count,
            reserved_blocks: wide(field::RESERVED_BLOCKS_LO, field::RESERVED_BLOCKS_HI),
            first_data_block,
            block_size,
            cluster_bits,
            blocks_per_group,
            clusters_per_group,
            inodes_per_group,
            group_count,
            state: le16(bytes, field::STATE),
            first_inode,
            inode_size,
            block_group: le16(bytes, field::BLOCK_GROUP),
            compat,
            incompat,
            ro_compat,
            uuid,
            label,
            reserved_gdt_blocks: le16(bytes, field::RESERVED_GDT_BLOCKS),
            journal_inode: le32(bytes, field::JOURNAL_INODE),
            journal_device: le32(bytes, field::JOURNAL_DEVICE),
            last_orphan: le32(bytes, field::LAST_ORPHAN),
            hash_seed: std::array::from_fn(|word| le32(bytes, field::HASH_SEED + word * 4)),
            default_hash: bytes[field::DEFAULT_HASH],
            descriptor_size,
            first_meta_bg: le32(bytes, field::FIRST_META_BG),
            want_extra_isize: le16(bytes, field::WANT_EXTRA_ISIZE),
            flags: le32(bytes, field::FLAGS),
            log_groups_per_flex: bytes[field::LOG_GROUPS_PER_FLEX],
            overhead_clusters: le32(bytes, field::OVERHEAD_CLUSTERS),
            backup_groups: [le32(bytes, field::BACKUP_GROUPS), le32(bytes, field::BACKUP_GROUPS + 4)],
            checksum_seed,
            encoding: le16(bytes, field::ENCODING),
            encoding_flags: le16(bytes, field::ENCODING_FLAGS),
            orphan_file_inode: le32(bytes, field::ORPHAN_FILE_INODE),
        })
    }

    /// Says whether a compatible feature is set.
    pub(crate) fn has_compat(&self, feature: u32) -> bool {
        self.compat & feature != 0
    }

    /// Says whether an incompatible feature is set.
    pub(crate) fn has_incompat(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    /// Says whether a read-only compatible feature is set.
    pub(crate) fn has_ro_compat(&self, feature: u32) -> bool {
        self.ro_compat & feature != 0
    }

    /// Says whether metadata carries CRC-32C checksums.
    pub(crate) fn has_metadata_csum(&self) -> bool {
        self.has_ro_compat(ro_compat::METADATA_CSUM)
    }

    /// Returns the label without its padding.
    pub(crate) fn label(&self) -> Option<Vec<u8>> {
        let label = until_nul(&self.label);
        (!label.is_empty()).then(|| label.to_vec())
    }

    /// Returns the block size as a power of two.
    pub(crate) fn block_bits(&self) -> u32 {
        self.block_size.trailing_zeros()
    }

    /// Returns the first block of a group.
    pub(crate) fn group_first_block(&self, group: u32) -> u64 {
        u64::from(group) * u64::from(self.blocks_per_group) + u64::from(self.first_data_block)
    }

    /// Says whether a group begins with a copy of the superblock.
    pub(crate) fn group_has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compat(compat::SPARSE_SUPER2) {
            return self.backup_groups.contains(&group);
        }
        if group <= 1 || !self.has_ro_compat(ro_compat::SPARSE_SUPER) {
            return true;
        }
        group & 1 == 1 && [3, 5, 7].into_iter().any(|base| is_power(group, base))
    }

    /// Returns how many group descriptors a block holds.
    pub(crate) fn descriptors_per_block(&self) -> u32 {
        self.block_size / self.descriptor_size
    }

    /// Returns how many blocks a group's inode table takes.
    pub(crate) fn inode_table_blocks(&self) -> u32 {
        (u64::from(self.inodes_per_group) * u64::from(self.inode_size)).div_ceil(u64::from(self.block_size)) as u32
    }

    /// Returns the block that holds the descriptors of `index * descriptors_per_block()` and following groups; `base` is
    /// the block of the superblock copy whose descriptors are meant.
    pub(crate) fn descriptor_block(&self, index: u32, base: u64) -> u64 {
        if !self.has_incompat(incompat::META_BG) || index < self.first_meta_bg {
            return base + u64::from(index) + 1;
        }
        let group = index * self.descriptors_per_block();
        let mut skip = u64::from(self.group_has_super(group));
        // Where blocks are 1 KiB but the first data block is 0 (bigalloc), the superblock is in block 1.
        if self.block_size == 1024 && group == 0 && self.first_data_block == 0 {
            skip += 1;
        }
        self.group_first_block(group) + skip
    }

    /// Returns the block of the primary superblock.
    pub(crate) fn primary_block(&self) -> u64 {
        u64::from(self.block_size == 1024)
    }

    /// Stores the checksum in the superblock in `bytes`, where the filesystem has checksums.
    pub(crate) fn set_checksum(&self, bytes: &mut [u8]) {
        if self.has_metadata_csum() {
            let crc = checksum(bytes);
            crate::bytes::set_le32(bytes, field::CHECKSUM, crc);
        }
    }
}

/// Says whether `number` is a power of `base`.
fn is_power(mut number: u32, base: u32) -> bool {
    while number > 1 && number.is_multiple_of(base) {
        number /= base;
    }
    number == 1
}

/// Returns the checksum of a structure that has its 32-bit checksum field at `hole`.
pub(crate) fn holed(seed: u32, bytes: &[u8], hole: usize) -> u32 {
    crc32c_with_hole(seed, bytes, hole, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_lie_in_groups_that_are_powers_of_three_five_and_seven() {
        let powers: Vec<u32> =
            (2..400).filter(|&group| [3, 5, 7].into_iter().any(|base| is_power(group, base))).collect();
        assert_eq!(powers, [3, 5, 7, 9, 25, 27, 49, 81, 125, 243, 343]);
    }

    #[test]
    fn bytes_without_the_magic_number_are_no_superblock() {
        assert!(matches!(Superblock::parse(&[0; 1024]), Err(Error::NotAnImage(_))));
        assert!(matches!(Superblock::parse(&[]), Err(Error::NotAnImage(_))));
    }
}
