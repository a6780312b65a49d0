//! Revoke blocks: which blocks' older copies must not be replayed.

use super::format::{Format, HEADER_SIZE, Header, kind};
use crate::bytes::{be32, be64, set_be32, set_be64};

/// Where the count of used bytes lies. It counts the header and itself.
const COUNT_AT: usize = HEADER_SIZE;
/// Where the records begin.
const RECORDS_AT: usize = 16;

impl Format {
    fn record_size(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// Returns how many records a revoke block holds.
    pub(super) fn records_per_revoke_block(&self) -> usize {
        (self.block_size - RECORDS_AT - self.tail_size()) / self.record_size()
    }
}

/// Returns a revoke block of `blocks`, at most [`Format::records_per_revoke_block`] of them.
pub(super) fn build(format: &Format, sequence: u32, blocks: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; format.block_size];
    Header { kind: kind::REVOKE, sequence }.store(&mut bytes);
    let mut at = RECORDS_AT;
    for &block in blocks {
        if format.wide {
            set_be64(&mut bytes, at, block);
        } else {
            set_be32(&mut bytes, at, block as u32);
        }
        at += format.record_size();
    }
    set_be32(&mut bytes, COUNT_AT, at as u32);
    format.seal(&mut bytes);
    bytes
}

/// Returns the blocks that a revoke block lists; `None` when its count passes its end.
pub(super) fn parse(format: &Format, bytes: &[u8]) -> Option<Vec<u64>> {
    let end = be32(bytes, COUNT_AT) as usize;
    if end > format.block_size - format.tail_size() {
        return None;
    }
    let records = bytes.get(RECORDS_AT..end).unwrap_or_default().chunks_exact(format.record_size());
    Some(records.map(|record| if format.wide { be64(record, 0) } else { u64::from(be32(record, 0)) }).collect())
}

#[cfg(test)]
mod tests {
    use super::super::format::Checksums;
    use super::*;

    #[test]
    fn records_are_read_as_they_were_stored_in_every_format() {
        for checksums in [Checksums::None, Checksums::V3] {
            for wide in [false, true] {
                let format = Format { block_size: 1024, checksums, wide, seed: 77 };
                let count = format.records_per_revoke_block() as u64;
                let blocks: Vec<u64> = (0..count).map(|block| block + if wide { 1 << 40 } else { 0 }).collect();
                let mut bytes = build(&format, 3, &blocks);
                assert!(format.is_sealed(&bytes));
                assert_eq!(parse(&format, &bytes), Some(blocks));
                set_be32(&mut bytes, COUNT_AT, 1025);
                assert_eq!(parse(&format, &bytes), None);
                set_be32(&mut bytes, COUNT_AT, 0);
                assert_eq!(parse(&format, &bytes), Some(Vec::new()));
            }
        }
    }
}
