//! Extent trees: which blocks of the device hold a file.
//!
//! A node is a 12-byte header and 12-byte entries, sorted by logical block; the root lies in the inode's `i_block`, other
//! nodes fill a block and may end with a checksum. Little-endian. Specified in the kernel's
//! `Documentation/filesystems/ext4/ifork.rst`.

use super::checksum::crc32c;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// `eh_magic`.
pub(crate) const MAGIC: u16 = 0xf30a;
/// The size of a header and of an entry, in bytes.
pub(crate) const ENTRY_SIZE: usize = 12;
/// The deepest tree that the kernel accepts.
pub(crate) const MAX_DEPTH: u16 = 5;
/// The longest written extent, in blocks; a longer length marks an unwritten one.
pub(crate) const MAX_WRITTEN: u16 = 0x8000;

/// A stretch of a file in consecutive blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first block of the file.
    pub(crate) logical: u32,
    /// How many blocks, at least 1.
    pub(crate) len: u32,
    /// The first block of the device.
    pub(crate) physical: u64,
    /// Allocated, but reads as zeroes.
    pub(crate) unwritten: bool,
}

impl Extent {
    /// Returns the first block of the file after this extent.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.logical) + u64::from(self.len)
    }

    /// Decodes an entry of a leaf, 12 bytes.
    pub(crate) fn decode(entry: &[u8]) -> Self {
        let raw_len = le16(entry, 4);
        let unwritten = raw_len > MAX_WRITTEN;
        Self {
            logical: le32(entry, 0),
            len: u32::from(if unwritten { raw_len - MAX_WRITTEN } else { raw_len }),
            physical: u64::from(le16(entry, 6)) << 32 | u64::from(le32(entry, 8)),
            unwritten,
        }
    }
}

/// An entry that leads to a lower node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index {
    /// The first block of the file that the lower node covers.
    pub(crate) logical: u32,
    /// The block of the device that holds the lower node.
    pub(crate) child: u64,
}

/// A decoded node.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// The extents, sorted, not overlapping.
    Leaf(Vec<Extent>),
    /// Where the lower nodes are, sorted; their depth is one less than this node's.
    Inner {
        /// How many levels lie below.
        depth: u16,
        /// The lower nodes.
        entries: Vec<Index>,
    },
}

impl Node {
    /// Returns about how much memory the node takes, in bytes.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Leaf(extents) => extents.len() * size_of::<Extent>(),
            Self::Inner { entries, .. } => entries.len() * size_of::<Index>(),
        }
    }
}

/// Returns where the checksum of a node that fills a block of `block_size` bytes lies, in bytes.
pub(crate) fn tail_offset(max_entries: u16) -> usize {
    ENTRY_SIZE + ENTRY_SIZE * usize::from(max_entries)
}

/// Returns the checksum of a node that fills `block`; `None` when its header leaves no room for one.
pub(crate) fn checksum(inode_seed: u32, block: &[u8]) -> Option<(u32, usize)> {
    let tail = tail_offset(le16(block, 4));
    (tail + 4 <= block.len()).then(|| (crc32c(inode_seed, &block[..tail]), tail))
}

/// Decodes a node. `depth` is what the node above says, `None` for a root; `seed` verifies a node that has a checksum;
/// `blocks_count` bounds the blocks it may name.
///
/// # Errors
/// [`Error::Corrupt`] naming inode `ino`.
pub(crate) fn parse_node(
    ino: u32,
    bytes: &[u8],
    depth: Option<u16>,
    seed: Option<u32>,
    blocks_count: u64,
) -> Result<Node> {
    let damaged = |detail: String| Error::corrupt(format!("extent tree of inode {ino}"), detail);
    if le16(bytes, 0) != MAGIC {
        return Err(damaged(format!("a node has the magic number {:#x}", le16(bytes, 0))));
    }
    let (count, max, found_depth) = (le16(bytes, 2), le16(bytes, 4), le16(bytes, 6));
    if depth.is_some_and(|depth| depth != found_depth) || found_depth > MAX_DEPTH {
        return Err(damaged(format!("a node has depth {found_depth}")));
    }
    if count > max || tail_offset(max) > bytes.len() {
        return Err(damaged(format!("a node has {count} of {max} entries in {} bytes", bytes.len())));
    }
    if let Some(seed) = seed
        && checksum(seed, bytes).is_none_or(|(crc, tail)| crc != le32(bytes, tail))
    {
        return Err(damaged("the checksum of a node is wrong".into()));
    }
    let entries = bytes[ENTRY_SIZE..].chunks_exact(ENTRY_SIZE).take(usize::from(count));
    if found_depth > 0 {
        let entries: Vec<Index> = entries
            .map(|entry| Index {
                logical: le32(entry, 0),
                child: u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32,
            })
            .collect();
        if entries.is_empty() {
            return Err(damaged("an inner node is empty".into()));
        }
        if entries.windows(2).any(|pair| pair[0].logical >= pair[1].logical) {
            return Err(damaged("the entries of an inner node are not sorted".into()));
        }
        return Ok(Node::Inner { depth: found_depth, entries });
    }
    let mut extents = Vec::with_capacity(usize::from(count));
    let mut end = 0;
    for entry in entries {
        let extent = Extent::decode(entry);
        if extent.len == 0 || u64::from(extent.logical) < end || extent.end() > 1 << 32 {
            return Err(damaged(format!("an extent of {} blocks at block {}", extent.len, extent.logical)));
        }
        if extent.physical.checked_add(u64::from(extent.len)).is_none_or(|end| end > blocks_count)
            || extent.physical == 0
        {
            return Err(damaged(format!("an extent lies at block {} of the filesystem", extent.physical)));
        }
        end = extent.end();
        extents.push(extent);
    }
    Ok(Node::Leaf(extents))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(entries: &[(u32, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![0x0a, 0xf3, entries.len() as u8, 0, 4, 0, 0, 0, 0, 0, 0, 0];
        for (logical, len, physical) in entries {
            bytes.extend(logical.to_le_bytes());
            bytes.extend(len.to_le_bytes());
            bytes.extend([0, 0]);
            bytes.extend(physical.to_le_bytes());
        }
        bytes.resize(60, 0);
        bytes
    }

    #[test]
    fn a_length_over_32768_marks_an_unwritten_extent() {
        let bytes = leaf(&[(0, 0x8000, 100), (0x8000, 0x8005, 50_000)]);
        let Node::Leaf(extents) = parse_node(12, &bytes, None, None, 100_000).expect("sound") else {
            panic!("a root of depth 0 is a leaf")
        };
        assert_eq!(extents[0], Extent { logical: 0, len: 0x8000, physical: 100, unwritten: false });
        assert_eq!(extents[1], Extent { logical: 0x8000, len: 5, physical: 50_000, unwritten: true });
    }

    #[test]
    fn extents_that_overlap_or_leave_the_filesystem_are_damage() {
        for entries in [vec![(0, 5, 10), (4, 1, 90)], vec![(0, 0, 10)], vec![(0, 5, 996)], vec![(0, 5, 0)]] {
            let error = parse_node(12, &leaf(&entries), None, None, 1000).expect_err("damaged");
            assert!(error.to_string().starts_with("damaged extent tree of inode 12: "), "{error}");
        }
    }
}
