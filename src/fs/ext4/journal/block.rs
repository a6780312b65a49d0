//! Blocks of the journal's own: what every one begins with, and the commit block that ends a transaction.

use super::MAGIC;
use crate::bytes::{be32, be64, set_be32};
use crate::fs::ext4::checksum::crc32c_with_hole;

/// The size of the header, in bytes.
pub(crate) const HEADER: usize = 12;
/// Where a commit block keeps its checksum, in bytes.
pub(crate) const COMMIT_CHECKSUM: usize = 16;
/// Where a commit block keeps the seconds of its time, in bytes.
pub(crate) const COMMIT_SECONDS: usize = 48;
/// Where a commit block keeps the nanoseconds of its time, in bytes.
pub(crate) const COMMIT_NANOSECONDS: usize = 56;

/// What a block of the journal's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockType {
    /// Says which blocks the following ones replace.
    Descriptor,
    /// Ends a transaction.
    Commit,
    /// A superblock without features.
    SuperblockV1,
    /// A superblock.
    SuperblockV2,
    /// Says which blocks are not to be replaced.
    Revoke,
    /// Anything else.
    Unknown(u32),
}

/// The header of a block of the journal's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// What the block is.
    pub(crate) block_type: BlockType,
    /// The transaction it belongs to.
    pub(crate) sequence: u32,
}

/// Decodes a header; `None` for a block that has none.
pub(crate) fn header(block: &[u8]) -> Option<Header> {
    if be32(block, 0) != MAGIC {
        return None;
    }
    let block_type = match be32(block, 4) {
        1 => BlockType::Descriptor,
        2 => BlockType::Commit,
        3 => BlockType::SuperblockV1,
        4 => BlockType::SuperblockV2,
        5 => BlockType::Revoke,
        other => BlockType::Unknown(other),
    };
    Some(Header { block_type, sequence: be32(block, 8) })
}

/// Stores a header.
pub(crate) fn set_header(block: &mut [u8], header: Header) {
    let block_type = match header.block_type {
        BlockType::Descriptor => 1,
        BlockType::Commit => 2,
        BlockType::SuperblockV1 => 3,
        BlockType::SuperblockV2 => 4,
        BlockType::Revoke => 5,
        BlockType::Unknown(other) => other,
    };
    set_be32(block, 0, MAGIC);
    set_be32(block, 4, block_type);
    set_be32(block, 8, header.sequence);
}

/// Returns the checksum at the end of a descriptor or revoke block.
pub(crate) fn tail_checksum(seed: u32, block: &[u8]) -> u32 {
    crc32c_with_hole(seed, block, block.len() - 4, 4)
}

/// Says whether the checksum at the end of a descriptor or revoke block is right.
pub(crate) fn verify_tail(seed: u32, block: &[u8]) -> bool {
    tail_checksum(seed, block) == be32(block, block.len() - 4)
}

/// Returns the checksum of a commit block.
pub(crate) fn commit_checksum(seed: u32, block: &[u8]) -> u32 {
    crc32c_with_hole(seed, block, COMMIT_CHECKSUM, 4)
}

/// Returns the seconds of a commit block's time.
pub(crate) fn commit_seconds(block: &[u8]) -> u64 {
    be64(block, COMMIT_SECONDS)
}

/// Continues the checksum of version 1: CRC-32 from the highest bit on, not inverted.
pub(crate) fn crc32_be(mut crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = (byte as u32) << 24;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000_0000 != 0 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    for &byte in bytes {
        crc = crc << 8 ^ TABLE[(crc >> 24) as usize ^ usize::from(byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_version_1_is_that_of_bzip2_without_its_inversions() {
        assert_eq!(!crc32_be(!0, b"123456789"), 0xfc89_1918);
    }

    #[test]
    fn a_header_is_read_as_it_was_stored() {
        let mut block = [0; 12];
        assert_eq!(header(&block), None);
        let stored = Header { block_type: BlockType::Revoke, sequence: 7 };
        set_header(&mut block, stored);
        assert_eq!(header(&block), Some(stored));
    }
}
