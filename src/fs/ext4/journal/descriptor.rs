//! Descriptor blocks: tags that say where the blocks after it belong; and revoke blocks.

use super::block::HEADER;
use super::superblock::{INCOMPAT_64BIT, INCOMPAT_CSUM_V2, INCOMPAT_CSUM_V3, JournalSuperblock};
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use crate::fs::ext4::checksum::crc32c;

/// Tag flag: the block begins with the journal's magic number, which is stored as 0.
pub(crate) const ESCAPED: u32 = 1;
/// Tag flag: no UUID follows.
pub(crate) const SAME_UUID: u32 = 2;
/// Tag flag: the block was deleted.
pub(crate) const DELETED: u32 = 4;
/// Tag flag: the last tag of the block.
pub(crate) const LAST: u32 = 8;

/// Where one block of a transaction belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    /// The block of the filesystem that is replaced.
    pub(crate) block: u64,
    /// `t_flags`.
    pub(crate) flags: u32,
    /// The checksum of the block, 32 bits in version 3, 16 bits in version 2.
    pub(crate) checksum: u32,
}

/// Returns the size of a tag without its UUID, in bytes.
pub(crate) fn tag_size(journal: &JournalSuperblock) -> usize {
    if journal.has(INCOMPAT_CSUM_V3) {
        return 16;
    }
    8 + if journal.has(INCOMPAT_64BIT) { 4 } else { 0 } + if journal.has(INCOMPAT_CSUM_V2) { 2 } else { 0 }
}

/// Decodes the tags of a descriptor block.
pub(crate) fn tags(journal: &JournalSuperblock, block: &[u8]) -> Vec<Tag> {
    let size = tag_size(journal);
    let end = block.len() - if journal.has_checksums() { 4 } else { 0 };
    let mut tags = Vec::new();
    let mut at = HEADER;
    while at + size <= end {
        let low = u64::from(be32(block, at));
        let tag = if journal.has(INCOMPAT_CSUM_V3) {
            let high = if journal.has(INCOMPAT_64BIT) { be32(block, at + 8) } else { 0 };
            Tag { block: low | u64::from(high) << 32, flags: be32(block, at + 4), checksum: be32(block, at + 12) }
        } else {
            let high = if journal.has(INCOMPAT_64BIT) { be32(block, at + 8) } else { 0 };
            Tag {
                block: low | u64::from(high) << 32,
                flags: u32::from(be16(block, at + 6)),
                checksum: u32::from(be16(block, at + 4)),
            }
        };
        tags.push(tag);
        at += size + if tag.flags & SAME_UUID == 0 { 16 } else { 0 };
        if tag.flags & LAST != 0 {
            break;
        }
    }
    tags
}

/// Returns the checksum of a block of transaction `sequence` as it lies in the journal, 32 bits.
pub(crate) fn block_checksum(seed: u32, sequence: u32, block: &[u8]) -> u32 {
    crc32c(crc32c(seed, &sequence.to_be_bytes()), block)
}

/// Says whether the checksum that a tag gives of its block is right.
pub(crate) fn verify_block(journal: &JournalSuperblock, sequence: u32, tag: &Tag, block: &[u8]) -> bool {
    if !journal.has_checksums() {
        return true;
    }
    let crc = block_checksum(journal.seed, sequence, block);
    if journal.has(INCOMPAT_CSUM_V3) { crc == tag.checksum } else { crc & 0xffff == tag.checksum }
}

/// Decodes the block numbers of a revoke block.
///
/// # Errors
/// [`Error::Corrupt`] for a length that cannot be.
pub(crate) fn revoked(journal: &JournalSuperblock, block: &[u8]) -> Result<Vec<u64>> {
    let end = be32(block, HEADER) as usize;
    let limit = block.len() - if journal.has_checksums() { 4 } else { 0 };
    if end < HEADER + 4 || end > limit {
        return Err(Error::corrupt("journal", format!("a revoke block of {end} bytes")));
    }
    let entries = &block[HEADER + 4..end];
    Ok(if journal.has(INCOMPAT_64BIT) {
        entries.chunks_exact(8).map(|entry| be64(entry, 0)).collect()
    } else {
        entries.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
    })
}
