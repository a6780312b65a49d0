//! Commit blocks: the end of a transaction, which makes it count.

use super::checksum::crc32c;
use super::format::{Checksums, Format, HEADER_SIZE, Header, kind};
use crate::bytes::{be32, be64, set_be32, set_be64};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the kind of a sum of version 1 lies, and behind it the sum's size.
const SUM_KIND_AT: usize = HEADER_SIZE;
/// The kind of a sum of version 1: CRC-32.
const SUM_KIND_CRC32: u8 = 1;
/// The size of a sum of version 1, in bytes.
const SUM_SIZE: u8 = 4;
const SUM_AT: usize = 16;
const SECONDS_AT: usize = 48;
const NANOSECONDS_AT: usize = 56;

/// What a commit block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitBlock {
    /// When the transaction was committed, in seconds since 1970.
    pub(super) seconds: u64,
    /// Its checksum, and that of what came before it, is right.
    pub(super) is_valid: bool,
}

/// Returns a commit block. `sum` is that of the descriptors and copies, for version 1.
pub(super) fn build(format: &Format, sequence: u32, sum: u32) -> Vec<u8> {
    let mut block = vec![0; format.block_size];
    Header { kind: kind::COMMIT, sequence }.store(&mut block);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    set_be64(&mut block, SECONDS_AT, now.as_secs());
    set_be32(&mut block, NANOSECONDS_AT, now.subsec_nanos());
    match format.checksums {
        Checksums::None => {}
        Checksums::V1 => {
            block[SUM_KIND_AT] = SUM_KIND_CRC32;
            block[SUM_KIND_AT + 1] = SUM_SIZE;
            set_be32(&mut block, SUM_AT, sum);
        }
        Checksums::V2 | Checksums::V3 => {
            let sum = crc32c(format.seed, &block);
            set_be32(&mut block, SUM_AT, sum);
        }
    }
    block
}

/// Reads a commit block. `sum` is that of the descriptors and copies before it, for version 1.
pub(super) fn parse(format: &Format, block: &[u8], sum: u32) -> CommitBlock {
    let stored = be32(block, SUM_AT);
    let is_valid = match format.checksums {
        Checksums::None => true,
        Checksums::V1 => match (block[SUM_KIND_AT], block[SUM_KIND_AT + 1], stored) {
            // No sum was made of this transaction.
            (0, 0, 0) => true,
            (sum_kind, size, stored) => sum_kind == SUM_KIND_CRC32 && size == SUM_SIZE && stored == sum,
        },
        Checksums::V2 | Checksums::V3 => {
            let sum = crc32c(crc32c(format.seed, &block[..SUM_AT]), &[0; 4]);
            stored == crc32c(sum, &block[SUM_AT + 4..])
        }
    };
    CommitBlock { seconds: be64(block, SECONDS_AT), is_valid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_block_counts_only_with_its_checksum() {
        for checksums in [Checksums::None, Checksums::V1, Checksums::V2, Checksums::V3] {
            let format = Format { block_size: 1024, checksums, wide: false, seed: 5 };
            let mut block = build(&format, 8, 0x1122_3344);
            assert_eq!(Header::parse(&block), Some(Header { kind: kind::COMMIT, sequence: 8 }));
            assert!(parse(&format, &block, 0x1122_3344).is_valid);
            assert_eq!(parse(&format, &block, 0x1122_3345).is_valid, checksums != Checksums::V1);
            block[1000] = 1;
            assert_eq!(parse(&format, &block, 0x1122_3344).is_valid, !format.sums_blocks());
        }
    }
}
