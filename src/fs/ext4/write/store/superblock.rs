//! The journal's superblock: its features, and where in the log recovery begins.

use super::checksum::{SEED, crc32c};
use super::format::{Checksums, Format, Header, kind};
use super::place::JournalPlace;
use crate::block::BlockDevice;
use crate::bytes::{be32, set_be32};
use crate::error::{Error, Result};

/// The size of the superblock, in bytes. All that ever changes lies in its first sector.
const SIZE: usize = 1024;

const BLOCK_SIZE_AT: usize = 0x0c;
const BLOCKS_AT: usize = 0x10;
const FIRST_AT: usize = 0x14;
const SEQUENCE_AT: usize = 0x18;
const START_AT: usize = 0x1c;
const ERRNO_AT: usize = 0x20;
const COMPAT_AT: usize = 0x24;
const INCOMPAT_AT: usize = 0x28;
const RO_COMPAT_AT: usize = 0x2c;
const UUID_AT: usize = 0x30;
const SUM_KIND_AT: usize = 0x50;
const FAST_COMMIT_BLOCKS_AT: usize = 0x54;
const SUM_AT: usize = 0xfc;

/// Sums are crc32c.
const SUM_KIND_CRC32C: u8 = 4;

const COMPAT_CHECKSUM: u32 = 0x1;
const INCOMPAT_REVOKE: u32 = 0x1;
const INCOMPAT_64BIT: u32 = 0x2;
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// How many blocks fast commits have where the superblock does not say.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;
/// The most blocks that mke2fs gives a journal; more would let an image choose how much memory recovery takes.
const MAX_BLOCKS: u32 = 10_240_000;
/// A journal keeps at least this many blocks for whole commits, or has none for fast ones.
const MIN_JOURNAL_BLOCKS: u32 = 1024;

fn damaged(detail: impl Into<String>) -> Error {
    Error::corrupt("journal superblock", detail.into())
}

/// The journal's superblock, checked.
#[derive(Clone, Debug)]
pub(super) struct JournalSuperblock {
    bytes: Vec<u8>,
    block_size: u32,
}

impl JournalSuperblock {
    /// Reads and checks the superblock of a journal.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for features by their names, and those of reading.
    pub(super) fn read(device: &dyn BlockDevice, block_size: u32, place: &JournalPlace) -> Result<Self> {
        let mut bytes = vec![0; SIZE];
        device.read_at(&mut bytes, byte_offset(place.on_device(0)?, block_size)?)?;
        Self::parse(bytes, block_size, place.blocks())
    }

    fn parse(bytes: Vec<u8>, block_size: u32, blocks: u64) -> Result<Self> {
        let header = Header::parse(&bytes).ok_or_else(|| damaged("it has no magic number"))?;
        if !matches!(header.kind, kind::SUPERBLOCK_V1 | kind::SUPERBLOCK_V2) {
            return Err(damaged(format!("its block type is {}", header.kind)));
        }
        let block = Self { bytes, block_size };
        if !block_size.is_power_of_two() || !(1024..=1 << 16).contains(&block_size) {
            return Err(damaged(format!("blocks of {block_size} bytes")));
        }
        if block.field(BLOCK_SIZE_AT) != block_size {
            return Err(damaged(format!(
                "its blocks have {} bytes, those of the filesystem {block_size}",
                block.field(BLOCK_SIZE_AT)
            )));
        }
        block.check_features()?;
        if u64::from(block.field(BLOCKS_AT)) > blocks {
            return Err(damaged(format!("{} blocks, but its inode has {blocks}", block.field(BLOCKS_AT))));
        }
        if block.field(BLOCKS_AT) > MAX_BLOCKS {
            return Err(Error::unsupported(format!("a journal of {} blocks", block.field(BLOCKS_AT))));
        }
        if block.first() == 0 || block.first() >= block.end() {
            return Err(damaged(format!("the log goes from block {} to block {}", block.first(), block.end())));
        }
        if block.start() != 0 && !(block.first()..block.end()).contains(&block.start()) {
            return Err(damaged(format!("recovery begins at block {}, outside of the log", block.start())));
        }
        Ok(block)
    }

    fn check_features(&self) -> Result<()> {
        let unknown = self.incompat() & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!("journal feature incompat {unknown:#x}")));
        }
        if self.is_v2() && self.field(RO_COMPAT_AT) != 0 {
            return Err(Error::unsupported(format!("journal feature ro_compat {:#x}", self.field(RO_COMPAT_AT))));
        }
        let sums = self.incompat() & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3);
        if sums == INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3 || sums != 0 && self.compat() & COMPAT_CHECKSUM != 0 {
            return Err(damaged("it has checksums of two versions at once"));
        }
        if sums != 0 {
            if self.bytes[SUM_KIND_AT] != SUM_KIND_CRC32C {
                return Err(Error::unsupported(format!("journal checksums of kind {}", self.bytes[SUM_KIND_AT])));
            }
            if self.field(SUM_AT) != self.sum() {
                return Err(damaged("its checksum is wrong"));
            }
        }
        Ok(())
    }

    fn field(&self, at: usize) -> u32 {
        be32(&self.bytes, at)
    }

    /// Says whether the superblock has features at all.
    pub(super) fn is_v2(&self) -> bool {
        self.field(4) == kind::SUPERBLOCK_V2
    }

    fn compat(&self) -> u32 {
        if self.is_v2() { self.field(COMPAT_AT) } else { 0 }
    }

    fn incompat(&self) -> u32 {
        if self.is_v2() { self.field(INCOMPAT_AT) } else { 0 }
    }

    /// Returns the sizes and sums of the log.
    pub(super) fn format(&self) -> Format {
        let checksums = if self.incompat() & INCOMPAT_CSUM_V3 != 0 {
            Checksums::V3
        } else if self.incompat() & INCOMPAT_CSUM_V2 != 0 {
            Checksums::V2
        } else if self.compat() & COMPAT_CHECKSUM != 0 {
            Checksums::V1
        } else {
            Checksums::None
        };
        Format {
            block_size: self.block_size as usize,
            checksums,
            wide: self.incompat() & INCOMPAT_64BIT != 0,
            seed: Format::seed_of(&self.bytes[UUID_AT..UUID_AT + 16]),
        }
    }

    /// Returns the first block of the log.
    pub(super) fn first(&self) -> u32 {
        self.field(FIRST_AT)
    }

    /// Returns the block behind the log's last one. What fast commits use lies behind it.
    pub(super) fn end(&self) -> u32 {
        let blocks = self.field(BLOCKS_AT);
        if self.incompat() & INCOMPAT_FAST_COMMIT == 0 {
            return blocks;
        }
        let fast = match self.field(FAST_COMMIT_BLOCKS_AT) {
            0 => DEFAULT_FAST_COMMIT_BLOCKS,
            count => count,
        };
        blocks.checked_sub(fast).filter(|&rest| rest >= MIN_JOURNAL_BLOCKS).unwrap_or(blocks)
    }

    /// Returns the first block of the journal that fast commits use, where they have any.
    pub(super) fn first_fast_commit(&self) -> Option<u32> {
        // The block between the two areas is used by neither.
        let first = self.end().checked_add(1)?;
        (self.incompat() & INCOMPAT_FAST_COMMIT != 0 && first < self.field(BLOCKS_AT)).then_some(first)
    }

    /// Returns the block where recovery begins; 0 when there is nothing to recover.
    pub(super) fn start(&self) -> u32 {
        self.field(START_AT)
    }

    /// Returns the sequence number of the transaction where recovery begins.
    pub(super) fn sequence(&self) -> u32 {
        self.field(SEQUENCE_AT)
    }

    /// Returns the errno that a writer before us left, as a positive number; 0 when there was none.
    pub(super) fn errno(&self) -> u32 {
        self.field(ERRNO_AT).cast_signed().unsigned_abs()
    }

    /// Sets where recovery begins. `start` 0 says that there is nothing to recover.
    pub(super) fn set_tail(&mut self, start: u32, sequence: u32) {
        set_be32(&mut self.bytes, START_AT, start);
        set_be32(&mut self.bytes, SEQUENCE_AT, sequence);
    }

    /// Notes a failure for whoever opens the filesystem next.
    pub(super) fn set_errno(&mut self, errno: i32) {
        set_be32(&mut self.bytes, ERRNO_AT, errno.wrapping_neg().cast_unsigned());
    }

    /// Notes that the log has revoke blocks; says whether that is new.
    pub(super) fn set_revokes(&mut self) -> bool {
        self.set_incompat(INCOMPAT_REVOKE)
    }

    /// Gives block numbers 64 bits. The log must be empty.
    pub(super) fn set_wide(&mut self) {
        self.set_incompat(INCOMPAT_64BIT);
    }

    fn set_incompat(&mut self, feature: u32) -> bool {
        let old = self.field(INCOMPAT_AT);
        set_be32(&mut self.bytes, INCOMPAT_AT, old | feature);
        old & feature == 0
    }

    fn sum(&self) -> u32 {
        let sum = crc32c(crc32c(SEED, &self.bytes[..SUM_AT]), &[0; 4]);
        crc32c(sum, &self.bytes[SUM_AT + 4..])
    }

    /// Writes the superblock to its place. It is durable after the next flush.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn write(&mut self, device: &dyn BlockDevice, place: &JournalPlace) -> Result<()> {
        if self.format().sums_blocks() {
            let sum = self.sum();
            set_be32(&mut self.bytes, SUM_AT, sum);
        }
        device.write_at(&self.bytes, byte_offset(place.on_device(0)?, self.block_size)?)
    }
}

/// Returns where a block begins on the device, in bytes.
///
/// # Errors
/// [`Error::Corrupt`] when no device is that large.
pub(super) fn byte_offset(block: u64, block_size: u32) -> Result<u64> {
    block
        .checked_mul(u64::from(block_size))
        .ok_or_else(|| Error::corrupt(format!("block {block}"), "it lies past the end of any device"))
}

/// Superblocks made by hand.
#[cfg(test)]
pub(super) mod making {
    use super::*;

    /// Returns the bytes of an empty journal's superblock.
    pub(crate) fn superblock(block_size: u32, blocks: u32, checksums: Checksums, wide: bool, sequence: u32) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        Header { kind: kind::SUPERBLOCK_V2, sequence: 0 }.store(&mut bytes);
        set_be32(&mut bytes, BLOCK_SIZE_AT, block_size);
        set_be32(&mut bytes, BLOCKS_AT, blocks);
        set_be32(&mut bytes, FIRST_AT, 1);
        set_be32(&mut bytes, SEQUENCE_AT, sequence);
        bytes[UUID_AT..UUID_AT + 16].copy_from_slice(b"a journal's uuid");
        set_features(&mut bytes, checksums, wide);
        bytes
    }

    /// Changes the features of a superblock.
    pub(crate) fn set_features(bytes: &mut [u8], checksums: Checksums, wide: bool) {
        let (compat, sums) = match checksums {
            Checksums::None => (0, 0),
            Checksums::V1 => (COMPAT_CHECKSUM, 0),
            Checksums::V2 => (0, INCOMPAT_CSUM_V2),
            Checksums::V3 => (0, INCOMPAT_CSUM_V3),
        };
        set_be32(bytes, COMPAT_AT, compat);
        set_be32(bytes, INCOMPAT_AT, sums | if wide { INCOMPAT_64BIT } else { 0 });
        bytes[SUM_KIND_AT] = if sums == 0 { 0 } else { SUM_KIND_CRC32C };
        let block = JournalSuperblock { bytes: bytes[..SIZE].to_vec(), block_size: be32(bytes, BLOCK_SIZE_AT) };
        set_be32(bytes, SUM_AT, if sums == 0 { 0 } else { block.sum() });
    }

    /// Gives the end of the journal to fast commits.
    pub(crate) fn set_fast_commits(bytes: &mut [u8], count: u32) {
        let incompat = be32(bytes, INCOMPAT_AT);
        set_be32(bytes, INCOMPAT_AT, incompat | INCOMPAT_FAST_COMMIT);
        set_be32(bytes, FAST_COMMIT_BLOCKS_AT, count);
        let block = JournalSuperblock { bytes: bytes[..SIZE].to_vec(), block_size: be32(bytes, BLOCK_SIZE_AT) };
        let sum = block.sum();
        if block.format().sums_blocks() {
            set_be32(bytes, SUM_AT, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        making::superblock(1024, 100, Checksums::V3, true, 7)
    }

    #[test]
    fn a_superblock_is_read_as_it_was_made() {
        let block = JournalSuperblock::parse(sample(), 1024, 100).expect("sound");
        assert_eq!((block.first(), block.end(), block.start(), block.sequence()), (1, 100, 0, 7));
        assert_eq!(block.format().checksums, Checksums::V3);
        assert!(block.format().wide);
        assert_eq!(block.first_fast_commit(), None);
    }

    #[test]
    fn damage_is_found_by_its_checksum_and_its_limits() {
        let mut bytes = sample();
        bytes[SEQUENCE_AT] ^= 1;
        JournalSuperblock::parse(bytes, 1024, 100).expect_err("the checksum is wrong");
        JournalSuperblock::parse(sample(), 2048, 100).expect_err("another block size");
        JournalSuperblock::parse(sample(), 1024, 99).expect_err("more blocks than there are");
        for (at, value) in [(FIRST_AT, 0), (FIRST_AT, 100), (START_AT, 100), (4, 1)] {
            let mut bytes = making::superblock(1024, 100, Checksums::None, false, 7);
            set_be32(&mut bytes, at, value);
            JournalSuperblock::parse(bytes, 1024, 100).expect_err("a field is out of bounds");
        }
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let mut bytes = making::superblock(1024, 100, Checksums::None, false, 7);
        set_be32(&mut bytes, INCOMPAT_AT, 0x140);
        let error = JournalSuperblock::parse(bytes, 1024, 100).expect_err("an unknown feature");
        assert_eq!(error.to_string(), "not supported: journal feature incompat 0x140");
    }

    #[test]
    fn fast_commits_take_the_end_of_a_journal_that_is_large_enough() {
        let mut bytes = making::superblock(1024, 2048, Checksums::V3, false, 7);
        making::set_fast_commits(&mut bytes, 0);
        let block = JournalSuperblock::parse(bytes.clone(), 1024, 2048).expect("sound");
        assert_eq!((block.end(), block.first_fast_commit()), (1792, Some(1793)));
        making::set_fast_commits(&mut bytes, 1100);
        let block = JournalSuperblock::parse(bytes, 1024, 2048).expect("sound");
        assert_eq!((block.end(), block.first_fast_commit()), (2048, None));
    }
}
