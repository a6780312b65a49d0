//! What every block of a log has in common: its header, and the sizes that the journal's features decide.
//!
//! All fields are big-endian. The format is described in the kernel's documentation, "ext4: Journal (jbd2)".

use super::checksum::{SEED, crc32c};
use crate::bytes::{be32, set_be32};

/// The number that every block of the log that is no copy of another begins with.
pub(super) const MAGIC: u32 = 0xc03b_3998;

/// The size of a header, in bytes.
pub(super) const HEADER_SIZE: usize = 12;

/// The size of the checksum at the end of descriptor and revoke blocks, in bytes.
const TAIL_SIZE: usize = 4;

/// Which block of the log follows a header.
pub(super) mod kind {
    /// Says which blocks follow and where they belong.
    pub(crate) const DESCRIPTOR: u32 = 1;
    /// Ends a transaction.
    pub(crate) const COMMIT: u32 = 2;
    /// The superblock without features.
    pub(crate) const SUPERBLOCK_V1: u32 = 3;
    /// The superblock.
    pub(crate) const SUPERBLOCK_V2: u32 = 4;
    /// Lists blocks whose older copies must not be replayed.
    pub(crate) const REVOKE: u32 = 5;
}

/// The beginning of a block of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// One of [`kind`].
    pub(super) kind: u32,
    /// The transaction that the block belongs to.
    pub(super) sequence: u32,
}

impl Header {
    /// Reads the header of a block; `None` where there is none.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        if block.len() < HEADER_SIZE || be32(block, 0) != MAGIC {
            return None;
        }
        Some(Self { kind: be32(block, 4), sequence: be32(block, 8) })
    }

    /// Stores the header at the beginning of a block.
    pub(super) fn store(self, block: &mut [u8]) {
        set_be32(block, 0, MAGIC);
        set_be32(block, 4, self.kind);
        set_be32(block, 8, self.sequence);
    }
}

/// How the log is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checksums {
    /// Not at all.
    None,
    /// One sum of descriptors and copies, in the commit block.
    V1,
    /// A sum in each block and half a sum in each tag.
    V2,
    /// A sum in each block and in each tag.
    V3,
}

/// The sizes and sums that the journal's features decide.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// The size of a block, in bytes: at least 1024.
    pub(super) block_size: usize,
    /// How the log is protected.
    pub(super) checksums: Checksums,
    /// Block numbers have 64 bits.
    pub(super) wide: bool,
    /// What checksums of versions 2 and 3 begin with: that of the journal's UUID.
    pub(super) seed: u32,
}

impl Format {
    /// Returns the seed for a journal's UUID.
    pub(super) fn seed_of(uuid: &[u8]) -> u32 {
        crc32c(SEED, uuid)
    }

    /// Says whether blocks of the log hold sums of their own.
    pub(super) fn sums_blocks(&self) -> bool {
        matches!(self.checksums, Checksums::V2 | Checksums::V3)
    }

    /// Returns the size of the checksum at the end of descriptor and revoke blocks, in bytes.
    pub(super) fn tail_size(&self) -> usize {
        if self.sums_blocks() { TAIL_SIZE } else { 0 }
    }

    /// Stores the checksum at the end of a descriptor or revoke block.
    pub(super) fn seal(&self, block: &mut [u8]) {
        if self.sums_blocks() {
            let at = self.block_size - TAIL_SIZE;
            set_be32(block, at, 0);
            let sum = crc32c(self.seed, block);
            set_be32(block, at, sum);
        }
    }

    /// Says whether the checksum at the end of a descriptor or revoke block is right.
    pub(super) fn is_sealed(&self, block: &[u8]) -> bool {
        if !self.sums_blocks() {
            return true;
        }
        let at = self.block_size - TAIL_SIZE;
        let sum = crc32c(crc32c(self.seed, &block[..at]), &[0; TAIL_SIZE]);
        sum == be32(block, at)
    }

    /// Returns the checksum of a block's copy in the log, as its tag holds it in versions 2 and 3.
    pub(super) fn copy_sum(&self, sequence: u32, copy: &[u8]) -> u32 {
        let sum = match self.checksums {
            Checksums::V2 | Checksums::V3 => crc32c(crc32c(self.seed, &sequence.to_be_bytes()), copy),
            Checksums::None | Checksums::V1 => 0,
        };
        if self.checksums == Checksums::V2 { sum & 0xffff } else { sum }
    }
}
