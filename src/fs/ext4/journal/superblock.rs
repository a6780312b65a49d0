//! The journal's superblock: where its log lies and begins, and which features its blocks have.
//!
//! The first 1024 bytes of the journal; big-endian, as everything of the journal but fast commits. Specified in the
//! kernel's `Documentation/filesystems/ext4/journal.rst`.

use super::block::{self, BlockType};
use crate::bytes::{be32, set_be32};
use crate::error::{Error, Result};
use crate::fs::ext4::checksum::crc32c;
use crate::fs::ext4::superblock::holed;

/// The size of the superblock, in bytes.
pub(crate) const SIZE: usize = 1024;
/// How many blocks at the journal's end are for fast commits where the superblock does not say.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
/// The shortest log that a journal with fast commits may have, in blocks.
const MIN_LOG_BLOCKS: u32 = 1024;
/// The only checksum type of today's journals: CRC-32C.
const CHECKSUM_CRC32C: u8 = 4;

/// Offsets of the fields, in bytes.
#[allow(missing_docs)]
pub(crate) mod field {
    pub(crate) const BLOCK_SIZE: usize = 0xc;
    pub(crate) const BLOCKS: usize = 0x10;
    pub(crate) const FIRST: usize = 0x14;
    pub(crate) const SEQUENCE: usize = 0x18;
    pub(crate) const START: usize = 0x1c;
    pub(crate) const ERRNO: usize = 0x20;
    pub(crate) const COMPAT: usize = 0x24;
    pub(crate) const INCOMPAT: usize = 0x28;
    pub(crate) const RO_COMPAT: usize = 0x2c;
    pub(crate) const UUID: usize = 0x30;
    pub(crate) const CHECKSUM_TYPE: usize = 0x50;
    pub(crate) const FAST_COMMIT_BLOCKS: usize = 0x54;
    pub(crate) const HEAD: usize = 0x58;
    pub(crate) const CHECKSUM: usize = 0xfc;
}

/// Compatible feature: commit blocks carry a checksum of their transaction (version 1).
pub(crate) const COMPAT_CHECKSUM: u32 = 1;
/// Incompatible feature: there may be revoke blocks.
pub(crate) const INCOMPAT_REVOKE: u32 = 0x1;
/// Incompatible feature: block numbers have 64 bits.
pub(crate) const INCOMPAT_64BIT: u32 = 0x2;
/// Incompatible feature: a commit block may be written before what it commits.
pub(crate) const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
/// Incompatible feature: checksums of version 2.
pub(crate) const INCOMPAT_CSUM_V2: u32 = 0x8;
/// Incompatible feature: checksums of version 3.
pub(crate) const INCOMPAT_CSUM_V3: u32 = 0x10;
/// Incompatible feature: fast commits.
pub(crate) const INCOMPAT_FAST_COMMIT: u32 = 0x20;

const KNOWN_INCOMPAT: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// A checked superblock of a journal.
#[derive(Clone, Debug)]
pub(crate) struct JournalSuperblock {
    /// How many blocks the journal has, this one among them.
    pub(crate) blocks: u32,
    /// The first block of the log.
    pub(crate) first: u32,
    /// The sequence number of the first transaction in the log.
    pub(crate) sequence: u32,
    /// The block where the log begins; 0 when it is empty.
    pub(crate) start: u32,
    pub(crate) compat: u32,
    pub(crate) incompat: u32,
    /// How many blocks at the end are for fast commits.
    pub(crate) fast_commit_blocks: u32,
    /// What the checksums of its blocks begin with.
    pub(crate) seed: u32,
}

/// Stores the checksum of a superblock in its bytes.
pub(crate) fn set_checksum(bytes: &mut [u8]) {
    let crc = holed(!0, &bytes[..SIZE], field::CHECKSUM);
    set_be32(bytes, field::CHECKSUM, crc);
}

impl JournalSuperblock {
    /// Checks the superblock in the first block of a journal that has room for `inode_blocks` blocks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for one that cannot be, [`Error::Unsupported`] for a feature that is not known.
    pub(crate) fn parse(block: &[u8], inode_blocks: u64) -> Result<Self> {
        let damaged = |detail: String| Error::corrupt("journal superblock", detail);
        let version = match block::header(block).map(|header| header.block_type) {
            Some(BlockType::SuperblockV1) => 1,
            Some(BlockType::SuperblockV2) => 2,
            _ => return Err(damaged("its header is wrong".into())),
        };
        let features = |offset| if version == 2 { be32(block, offset) } else { 0 };
        let (compat, incompat) = (features(field::COMPAT), features(field::INCOMPAT));
        if incompat & !KNOWN_INCOMPAT != 0 {
            return Err(Error::unsupported(format!("journal feature {:#x}", incompat & !KNOWN_INCOMPAT)));
        }
        if incompat & INCOMPAT_CSUM_V2 != 0 && incompat & INCOMPAT_CSUM_V3 != 0 {
            return Err(damaged("it has checksums of two versions".into()));
        }
        if incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3) != 0 {
            if block[field::CHECKSUM_TYPE] != CHECKSUM_CRC32C {
                return Err(Error::unsupported(format!("journal checksum type {}", block[field::CHECKSUM_TYPE])));
            }
            if holed(!0, &block[..SIZE], field::CHECKSUM) != be32(block, field::CHECKSUM) {
                return Err(damaged("its checksum is wrong".into()));
            }
        }
        if be32(block, field::BLOCK_SIZE) as usize != block.len() {
            return Err(damaged(format!("blocks of {} bytes", be32(block, field::BLOCK_SIZE))));
        }
        let blocks = be32(block, field::BLOCKS);
        if u64::from(blocks) > inode_blocks {
            return Err(damaged(format!("{blocks} blocks in an inode of {inode_blocks}")));
        }
        let fast_commit_blocks = match (incompat & INCOMPAT_FAST_COMMIT != 0, be32(block, field::FAST_COMMIT_BLOCKS)) {
            (false, _) => 0,
            (true, 0) => DEFAULT_FAST_COMMIT_BLOCKS,
            (true, count) => count,
        };
        // As the kernel: what would leave too short a log is not set aside.
        let fast_commit_blocks =
            if blocks.saturating_sub(fast_commit_blocks) < MIN_LOG_BLOCKS { 0 } else { fast_commit_blocks };
        let superblock = Self {
            blocks,
            first: be32(block, field::FIRST),
            sequence: be32(block, field::SEQUENCE),
            start: be32(block, field::START),
            compat,
            incompat,
            fast_commit_blocks,
            seed: crc32c(!0, &block[field::UUID..field::UUID + 16]),
        };
        let end = blocks - fast_commit_blocks;
        let is_sound = superblock.first > 0
            && superblock.first < end
            && (superblock.start == 0 || (superblock.first..end).contains(&superblock.start));
        if !is_sound {
            let (first, start) = (superblock.first, superblock.start);
            return Err(damaged(format!("a log from block {first} of {end}, beginning at {start}")));
        }
        Ok(superblock)
    }

    /// Says whether an incompatible feature is set.
    pub(crate) fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    /// Says whether blocks carry CRC-32C checksums.
    pub(crate) fn has_checksums(&self) -> bool {
        self.has(INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3)
    }

    /// Returns the first block after the log, where those for fast commits begin.
    pub(crate) fn log_end(&self) -> u32 {
        self.blocks - self.fast_commit_blocks
    }

    /// Returns the blocks for fast commits. The first one after the log is not used.
    pub(crate) fn fast_commits(&self) -> std::ops::Range<u32> {
        if self.fast_commit_blocks == 0 { 0..0 } else { self.log_end() + 1..self.blocks }
    }

    /// Returns the block of the log after `block`.
    pub(crate) fn next(&self, block: u32) -> u32 {
        if block + 1 >= self.log_end() { self.first } else { block + 1 }
    }
}
