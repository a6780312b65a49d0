//! The superblock: the geometry of the filesystem, its features, and where a block or an inode lies.
//!
//! It fills the first sector of every allocation group; this reads the one of the first group. All fields are big-endian
//! but the checksum. Everything that [`Superblock::parse`] returns has been checked, so that the arithmetic of the rest of
//! the driver cannot overflow.
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Superblocks", and by Linux `xfs_format.h`.

use crate::bytes::{be16, be32, be64, until_nul};
use crate::error::{Error, Result};
use crate::fs::Ino;

/// The magic number at the beginning: `XFSB`.
pub const MAGIC: u32 = 0x5846_5342;

/// The least number of bytes that hold every field.
pub const MIN_SIZE: usize = 512;

/// Bits of `sb_versionnum`.
mod version {
    pub const NUMBER_MASK: u16 = 0x000f;
    pub const LOG_V2: u16 = 0x0400;
    pub const DIR_V2: u16 = 0x2000;
    pub const ASCII_CI: u16 = 0x4000;
    pub const MORE_BITS: u16 = 0x8000;
}

/// Bits of `sb_features2`.
mod features2 {
    pub const LAZY_COUNTERS: u32 = 0x0002;
    pub const FILE_TYPE: u32 = 0x0200;
    /// Reserved, lazy counters, reserved, attr2, parent, 32-bit projects, checksums, file types.
    pub const KNOWN: u32 = 0x0001 | 0x0002 | 0x0004 | 0x0008 | 0x0080 | 0x0100 | 0x0200;
}

/// The bit of `sb_features_ro_compat` for a B-tree of who owns each block.
const RO_COMPAT_REVERSE_MAP: u32 = 0x0002;

/// Bits of `sb_features_incompat`: who does not know one cannot read.
mod incompat {
    pub const FILE_TYPE: u32 = 0x0001;
    pub const SPARSE_INODES: u32 = 0x0002;
    pub const META_UUID: u32 = 0x0004;
    pub const NEEDS_REPAIR: u32 = 0x0010;
    /// Metadata has a directory tree of its own, and real-time space lies in groups.
    pub const METADIR: u32 = 0x0100;
    /// File types, sparse inode chunks, metadata UUID, big times, needs repair, large extent counts, exchange-range,
    /// parent pointers, metadata directories, zoned real-time groups, gaps between zones.
    pub const KNOWN: u32 = 0x07ff;
    /// The names of the bits that might come next, for messages.
    pub fn names(bits: u32) -> String {
        (0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| format!("bit {bit}")).collect::<Vec<_>>().join(", ")
    }
}

/// A number of a filesystem block: the allocation group in the high bits, the block within it in the low ones.
pub type FsBlock = u64;

/// What a superblock says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The size of a block, in bytes: 512 to 65536.
    pub block_size: u32,
    /// Its binary logarithm.
    pub block_log: u32,
    /// Blocks of the data device.
    pub data_blocks: u64,
    /// The UUID that people see.
    pub uuid: [u8; 16],
    /// The UUID that metadata blocks carry.
    pub meta_uuid: [u8; 16],
    /// The label.
    pub label: Vec<u8>,
    /// Where the log begins; `None` when it lies on another device.
    pub log_start: Option<FsBlock>,
    /// Blocks of the log.
    pub log_blocks: u32,
    /// Whether the log is of version 2.
    pub log_v2: bool,
    /// The root directory.
    pub root: Ino,
    /// Blocks of an allocation group; the last group may have fewer.
    pub ag_blocks: u32,
    /// Allocation groups.
    pub ag_count: u32,
    /// Bits of a block's number within its group.
    pub ag_block_log: u32,
    /// The size of a sector, in bytes.
    pub sector_size: u32,
    /// The size of an inode, in bytes.
    pub inode_size: u32,
    /// The binary logarithm of the inodes in a block.
    pub inodes_per_block_log: u32,
    /// Blocks that an inode chunk is aligned to.
    pub inode_alignment: u32,
    /// The part of the space that inodes may take, in percent; 0 when there is no limit.
    pub max_inode_percent: u8,
    /// The size of a directory block, in bytes: a multiple of the block size, to 65536.
    pub dir_block_size: u32,
    /// Whether this is version 5: metadata carries checksums, owners and places.
    pub v5: bool,
    /// Whether directory entries tell the file's type.
    pub file_types: bool,
    /// Whether names compare without regard to the case of ASCII letters.
    pub ascii_ci: bool,
    /// Whether the counters are only right after a clean unmount.
    pub lazy_counters: bool,
    /// Whether a chunk of inodes may have space for some of them only.
    pub sparse_inodes: bool,
    /// Whether there is a B-tree of who owns each block.
    pub reverse_map: bool,
    /// Whether an administrator's tool asks for a repair before the next mount.
    pub needs_repair: bool,
    /// Features that only a writer must know, and that this driver does not.
    pub unknown_log_features: u32,
    /// Inodes that have space.
    pub inodes: u64,
    /// Inodes that are free among them.
    pub inodes_free: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Blocks of the real-time device; 0 where there is none.
    pub real_time_blocks: u64,
    /// Whether real-time space lies in groups, so that a block's number has a group in its high bits.
    pub real_time_groups: bool,
}

fn corrupt(detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("superblock", detail)
}

/// Says whether bytes begin like an XFS superblock.
pub fn is_superblock(bytes: &[u8]) -> bool {
    bytes.len() >= MIN_SIZE && be32(bytes, 0) == MAGIC
}

/// Returns the sector size that a superblock names, in bytes, which is how much of it the checksum covers.
///
/// # Errors
/// [`Error::Corrupt`] when it is no power of two from 512 to 32768.
pub fn sector_size(bytes: &[u8]) -> Result<u32> {
    let size = be16(bytes, 102);
    if !size.is_power_of_two() || size < 512 {
        return Err(corrupt(format!("a sector size of {size} bytes")));
    }
    Ok(u32::from(size))
}

impl Superblock {
    /// Reads a superblock from its whole sector. `check_sum` is false for one that a log's replay has changed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for impossible geometry or a wrong checksum, [`Error::Unsupported`] for a feature that is not
    /// known, [`Error::NotAnImage`] where the magic number is missing.
    pub fn parse(bytes: &[u8], check_sum: bool) -> Result<Self> {
        if !is_superblock(bytes) {
            return Err(Error::NotAnImage("this is no XFS filesystem".into()));
        }
        let sector_size = sector_size(bytes)?;
        let versions = be16(bytes, 100);
        let v5 = match versions & version::NUMBER_MASK {
            4 => false,
            5 => true,
            other => return Err(Error::unsupported(format!("XFS superblock version {other}"))),
        };
        if v5 {
            let whole = bytes.get(..sector_size as usize).ok_or_else(|| corrupt("it is cut short"))?;
            if check_sum && !super::store::checksum_fits(whole, 224) {
                return Err(corrupt("its checksum is wrong"));
            }
        }
        let more = if v5 || versions & version::MORE_BITS != 0 { be32(bytes, 200) } else { 0 };
        if !v5 && versions & version::DIR_V2 == 0 {
            return Err(Error::unsupported("XFS with directories of version 1"));
        }
        if more & !features2::KNOWN != 0 && !v5 {
            return Err(Error::unsupported(format!("XFS version 4 features {:#x}", more & !features2::KNOWN)));
        }
        let incompat = if v5 { be32(bytes, 216) } else { 0 };
        if incompat & !incompat::KNOWN != 0 {
            let names = incompat::names(incompat & !incompat::KNOWN);
            return Err(Error::unsupported(format!("XFS incompatible features ({names})")));
        }
        // The first is the replay of extended attributes, whose intents do not change what is read here.
        let unknown_log_features = if v5 { be32(bytes, 220) & !0x1 } else { 0 };
        if bytes[126] != 0 {
            return Err(corrupt("mkfs.xfs was interrupted"));
        }

        let block_size = be32(bytes, 4);
        if !block_size.is_power_of_two() || !(512..=65536).contains(&block_size) {
            return Err(corrupt(format!("a block size of {block_size} bytes")));
        }
        let block_log = block_size.trailing_zeros();
        let inode_size = u32::from(be16(bytes, 104));
        let least_inode = if v5 { 512 } else { 256 };
        if !inode_size.is_power_of_two() || !(least_inode..=2048).contains(&inode_size) || inode_size > block_size {
            return Err(corrupt(format!("an inode size of {inode_size} bytes")));
        }
        let inodes_per_block_log = block_log - inode_size.trailing_zeros();
        let logs = [(120, block_log), (121, sector_size.trailing_zeros()), (122, inode_size.trailing_zeros())];
        if logs.iter().any(|&(at, log)| u32::from(bytes[at]) != log) || u32::from(bytes[123]) != inodes_per_block_log {
            return Err(corrupt("its sizes and their logarithms differ"));
        }

        let ag_blocks = be32(bytes, 84);
        let ag_count = be32(bytes, 88);
        let ag_block_log = u32::from(bytes[124]);
        if !(4..=1 << 31).contains(&ag_blocks) || ag_blocks.next_power_of_two().trailing_zeros() != ag_block_log {
            return Err(corrupt(format!("allocation groups of {ag_blocks} blocks with {ag_block_log} bits")));
        }
        let data_blocks = be64(bytes, 8);
        let most = u64::from(ag_blocks) * u64::from(ag_count);
        if ag_count == 0 || data_blocks > most || data_blocks <= most - u64::from(ag_blocks) {
            return Err(corrupt(format!("{data_blocks} blocks in {ag_count} groups of {ag_blocks}")));
        }
        if data_blocks.checked_mul(u64::from(block_size)).is_none_or(|bytes| bytes > i64::MAX as u64) {
            return Err(corrupt(format!("{data_blocks} blocks of {block_size} bytes")));
        }
        let group_bits = u64::BITS - u64::from(ag_count - 1).leading_zeros();
        if group_bits + ag_block_log + inodes_per_block_log > 56 {
            return Err(Error::unsupported("XFS with inode numbers over 56 bits"));
        }

        let dir_block_log = u32::from(bytes[192]);
        if dir_block_log > 7 || block_size << dir_block_log > 65536 {
            return Err(corrupt(format!("directory blocks of {dir_block_log} bits more than blocks")));
        }
        let log_start = be64(bytes, 48);
        let superblock = Self {
            block_size,
            block_log,
            data_blocks,
            uuid: field(bytes, 32),
            meta_uuid: field(bytes, if incompat & incompat::META_UUID != 0 { 248 } else { 32 }),
            label: until_nul(&bytes[108..120]).to_vec(),
            log_start: (log_start != 0).then_some(log_start),
            log_blocks: be32(bytes, 96),
            log_v2: v5 || versions & version::LOG_V2 != 0,
            root: be64(bytes, 56),
            ag_blocks,
            ag_count,
            ag_block_log,
            sector_size,
            inode_size,
            inodes_per_block_log,
            inode_alignment: be32(bytes, 180),
            max_inode_percent: bytes[127].min(100),
            dir_block_size: block_size << dir_block_log,
            v5,
            file_types: if v5 { incompat & incompat::FILE_TYPE != 0 } else { more & features2::FILE_TYPE != 0 },
            ascii_ci: versions & version::ASCII_CI != 0,
            lazy_counters: v5 || more & features2::LAZY_COUNTERS != 0,
            sparse_inodes: incompat & incompat::SPARSE_INODES != 0,
            reverse_map: v5 && be32(bytes, 212) & RO_COMPAT_REVERSE_MAP != 0,
            needs_repair: incompat & incompat::NEEDS_REPAIR != 0,
            unknown_log_features,
            inodes: be64(bytes, 128),
            inodes_free: be64(bytes, 136),
            blocks_free: be64(bytes, 144),
            real_time_blocks: be64(bytes, 16),
            real_time_groups: incompat & incompat::METADIR != 0,
        };
        if superblock.inode_offset(superblock.root).is_none() {
            return Err(corrupt(format!("its root directory is inode {}", superblock.root)));
        }
        Ok(superblock)
    }

    /// Returns the part of an inode number below the allocation group, in bits.
    pub fn ag_inode_bits(&self) -> u32 {
        self.ag_block_log + self.inodes_per_block_log
    }

    /// Returns how many blocks an allocation group has.
    pub fn ag_length(&self, ag: u32) -> u32 {
        if ag + 1 < self.ag_count {
            self.ag_blocks
        } else {
            (self.data_blocks - u64::from(self.ag_count - 1) * u64::from(self.ag_blocks)) as u32
        }
    }

    /// Returns where a block of an allocation group begins, in bytes.
    pub fn ag_block_offset(&self, ag: u32, block: u32) -> Option<u64> {
        (ag < self.ag_count && block < self.ag_length(ag))
            .then(|| (u64::from(ag) * u64::from(self.ag_blocks) + u64::from(block)) << self.block_log)
    }

    /// Returns where a run of `count` blocks begins, in bytes. `None` when it does not lie within one allocation group.
    pub fn block_offset(&self, block: FsBlock, count: u64) -> Option<u64> {
        let ag = u32::try_from(block >> self.ag_block_log).ok()?;
        let within = block & ((1 << self.ag_block_log) - 1);
        if ag >= self.ag_count || count > u64::from(self.ag_length(ag)).checked_sub(within)? {
            return None;
        }
        self.ag_block_offset(ag, within as u32)
    }

    /// Returns where an inode lies, in bytes. `None` for a number that no inode can have.
    pub fn inode_offset(&self, ino: Ino) -> Option<u64> {
        let (ag, within) = self.split_inode(ino)?;
        let block = within >> self.inodes_per_block_log;
        let index = within & ((1 << self.inodes_per_block_log) - 1);
        Some(self.ag_block_offset(ag, block)? + u64::from(index) * u64::from(self.inode_size))
    }

    /// Splits an inode number into its allocation group and its number within it.
    pub fn split_inode(&self, ino: Ino) -> Option<(u32, u32)> {
        let ag = u32::try_from(ino >> self.ag_inode_bits()).ok()?;
        let within = u32::try_from(ino & ((1 << self.ag_inode_bits()) - 1)).ok()?;
        (ag < self.ag_count && ino != 0).then_some((ag, within))
    }
}

fn field(bytes: &[u8], at: usize) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[at..at + 16]);
    uuid
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::bytes::{set_be16, set_be32, set_be64};

    /// Returns the bytes of a superblock of version 4: 4 groups of 1000 blocks of 1 KiB, less 5, inodes of 256 bytes.
    pub fn bytes() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        set_be32(&mut bytes, 0, MAGIC);
        set_be32(&mut bytes, 4, 1024);
        set_be64(&mut bytes, 8, 3995);
        set_be64(&mut bytes, 48, 1 << 10 | 16);
        set_be64(&mut bytes, 56, 128);
        set_be32(&mut bytes, 84, 1000);
        set_be32(&mut bytes, 88, 4);
        set_be32(&mut bytes, 96, 100);
        set_be16(&mut bytes, 100, 0x2004);
        set_be16(&mut bytes, 102, 512);
        set_be16(&mut bytes, 104, 256);
        bytes[120..125].copy_from_slice(&[10, 9, 8, 2, 10]);
        bytes[108..113].copy_from_slice(b"label");
        bytes
    }

    #[test]
    fn blocks_and_inodes_lie_in_their_groups() {
        let superblock = Superblock::parse(&bytes(), true).expect("is whole");
        assert_eq!(superblock.label, b"label");
        assert_eq!(superblock.ag_length(2), 1000);
        assert_eq!(superblock.ag_length(3), 995);
        assert_eq!(superblock.block_offset(2 << 10 | 7, 993), Some(2007 << 10));
        assert_eq!(superblock.block_offset(2 << 10 | 7, 994), None);
        assert_eq!(superblock.block_offset(3 << 10 | 994, 1), Some(3994 << 10));
        assert_eq!(superblock.block_offset(3 << 10 | 995, 1), None);
        assert_eq!(superblock.block_offset(u64::MAX, 1), None);
        assert_eq!(superblock.inode_offset(1 << 12 | 41), Some((1010 << 10) + 256));
        assert_eq!(superblock.inode_offset(4 << 12), None);
        assert_eq!(superblock.inode_offset(u64::MAX), None);
    }

    #[test]
    fn geometry_that_cannot_be_is_damage_and_an_unknown_feature_is_named() {
        for (at, value) in [(4, 1000), (4, 0), (84, 0), (88, 0), (88, 5), (84, 2000), (60, 0xffff_ffff)] {
            let mut bytes = bytes();
            set_be32(&mut bytes, at, value);
            assert!(matches!(Superblock::parse(&bytes, true), Err(Error::Corrupt { .. })), "{value} at {at}");
        }
        let mut newer = bytes();
        set_be16(&mut newer, 100, 0x2006);
        assert!(matches!(Superblock::parse(&newer, true), Err(Error::Unsupported(_))));
        set_be16(&mut newer, 100, 0x2005);
        set_be16(&mut newer, 104, 512);
        set_be32(&mut newer, 216, 1 << 30);
        assert!(matches!(Superblock::parse(&newer, true), Err(Error::Corrupt { .. })), "its checksum is wrong");
        let error = Superblock::parse(&newer, false).expect_err("has an unknown feature");
        assert!(error.to_string().contains("bit 30"), "{error}");
    }
}
