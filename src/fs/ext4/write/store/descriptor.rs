//! Descriptor blocks: which copies follow in the log, and where they belong.

use super::format::{Checksums, Format, HEADER_SIZE, Header, kind};
use crate::bytes::{be16, be32, set_be16, set_be32};

/// The copy's first four bytes were the journal's magic number and were replaced by zeroes.
const FLAG_ESCAPED: u32 = 1;
/// No UUID follows the tag.
const FLAG_SAME_UUID: u32 = 2;
/// No tag follows.
const FLAG_LAST: u32 = 8;

/// The size of the UUID that follows the first tag, in bytes.
const UUID_SIZE: usize = 16;

/// One copy: where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// The block that it is a copy of.
    pub(super) home: u64,
    /// Its first four bytes were the journal's magic number.
    pub(super) is_escaped: bool,
    /// The checksum of the copy, in the versions that have one; else 0.
    pub(super) sum: u32,
}

impl Format {
    /// Returns the size of a tag without its UUID, in bytes.
    fn tag_size(&self) -> usize {
        match (self.checksums, self.wide) {
            (Checksums::V3, _) => 16,
            (Checksums::V2, true) => 14,
            (Checksums::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        }
    }

    /// Returns how many tags the kernel puts into a descriptor block: it leaves room for one more UUID.
    pub(super) fn tags_per_descriptor(&self) -> usize {
        (self.block_size - HEADER_SIZE - 2 * UUID_SIZE - self.tail_size()) / self.tag_size()
    }

    fn store_tag(&self, bytes: &mut [u8], tag: &Tag, flags: u32) {
        set_be32(bytes, 0, tag.home as u32);
        if self.checksums == Checksums::V3 {
            set_be32(bytes, 4, flags);
            set_be32(bytes, 8, (tag.home >> 32) as u32);
            set_be32(bytes, 12, tag.sum);
        } else {
            set_be16(bytes, 4, tag.sum as u16);
            set_be16(bytes, 6, flags as u16);
            if self.wide {
                set_be32(bytes, 8, (tag.home >> 32) as u32);
            }
        }
    }

    fn parse_tag(&self, bytes: &[u8]) -> (Tag, u32) {
        let low = u64::from(be32(bytes, 0));
        let (flags, sum, high) = if self.checksums == Checksums::V3 {
            (be32(bytes, 4), be32(bytes, 12), if self.wide { be32(bytes, 8) } else { 0 })
        } else {
            let sum = if self.checksums == Checksums::V2 { u32::from(be16(bytes, 4)) } else { 0 };
            (u32::from(be16(bytes, 6)), sum, if self.wide { be32(bytes, 8) } else { 0 })
        };
        (Tag { home: low | u64::from(high) << 32, is_escaped: flags & FLAG_ESCAPED != 0, sum }, flags)
    }
}

/// Returns a descriptor block of `tags`, at most [`Format::tags_per_descriptor`] of them and at least one.
pub(super) fn build(format: &Format, sequence: u32, tags: &[Tag]) -> Vec<u8> {
    let mut block = vec![0; format.block_size];
    Header { kind: kind::DESCRIPTOR, sequence }.store(&mut block);
    let mut at = HEADER_SIZE;
    for (number, tag) in tags.iter().enumerate() {
        let mut flags = if tag.is_escaped { FLAG_ESCAPED } else { 0 };
        if number > 0 {
            flags |= FLAG_SAME_UUID;
        }
        if number + 1 == tags.len() {
            flags |= FLAG_LAST;
        }
        format.store_tag(&mut block[at..], tag, flags);
        // The UUID is that of no journal in particular: the kernel, too, stores zeroes.
        at += format.tag_size() + if number == 0 { UUID_SIZE } else { 0 };
    }
    format.seal(&mut block);
    block
}

/// Returns the tags of a descriptor block. A block without a last tag ends at its end.
pub(super) fn parse(format: &Format, block: &[u8]) -> Vec<Tag> {
    let end = format.block_size - format.tail_size();
    let mut tags = Vec::new();
    let mut at = HEADER_SIZE;
    while at + format.tag_size() <= end {
        let (tag, flags) = format.parse_tag(&block[at..]);
        tags.push(tag);
        at += format.tag_size() + if flags & FLAG_SAME_UUID == 0 { UUID_SIZE } else { 0 };
        if flags & FLAG_LAST != 0 {
            break;
        }
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_as_they_were_stored_in_every_format() {
        for checksums in [Checksums::None, Checksums::V1, Checksums::V2, Checksums::V3] {
            for wide in [false, true] {
                let format = Format { block_size: 1024, checksums, wide, seed: 77 };
                let count = format.tags_per_descriptor() as u64;
                let high = if wide { 5 << 32 } else { 0 };
                let sum = match checksums {
                    Checksums::None | Checksums::V1 => 0,
                    Checksums::V2 => 0xabcd,
                    Checksums::V3 => 0x1234_abcd,
                };
                let tags: Vec<Tag> = (0..count)
                    .map(|number| Tag { home: high + 1000 + number, is_escaped: number % 3 == 1, sum })
                    .collect();
                for some in [&tags[..], &tags[..1]] {
                    let mut block = build(&format, 9, some);
                    assert_eq!(Header::parse(&block), Some(Header { kind: kind::DESCRIPTOR, sequence: 9 }));
                    assert!(format.is_sealed(&block));
                    assert_eq!(parse(&format, &block), some);
                    block[500] ^= 1;
                    assert_eq!(format.is_sealed(&block), !format.sums_blocks());
                }
            }
        }
    }

    #[test]
    fn a_descriptor_block_of_rubbish_ends_at_its_end() {
        let format = Format { block_size: 1024, checksums: Checksums::V2, wide: true, seed: 0 };
        assert!(parse(&format, &[0; 1024]).len() <= 1024 / 14);
        assert!(parse(&format, &[0x07; 1024]).len() <= 1024 / 14);
    }
}
