//! Extents: which blocks hold a stretch of a file, as inodes and extent B-trees record them in 16 bytes.
//!
//! A record is two big-endian words that hold, from the top: one bit for "unwritten", 54 bits of the first block in the
//! file, 52 bits of the first block in the filesystem and 21 bits of the count of blocks.

use super::superblock::{FsBlock, Superblock};
use crate::bytes::be64;
use crate::error::{Error, Result};

/// The size of a record, in bytes.
pub const RECORD_SIZE: usize = 16;

/// The greatest number of a block in a file, plus one.
pub const MAX_FILE_BLOCK: u64 = 1 << 54;

/// A stretch of a file that has space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first block in the file.
    pub file_block: u64,
    /// The first block in the filesystem.
    pub block: FsBlock,
    /// How many blocks.
    pub count: u64,
    /// Whether it has space but reads as zeroes.
    pub unwritten: bool,
}

impl Extent {
    /// Reads a record at the beginning of `bytes`.
    pub fn parse(bytes: &[u8]) -> Self {
        let high = be64(bytes, 0);
        let low = be64(bytes, 8);
        Self {
            file_block: (high & (u64::MAX >> 1)) >> 9,
            block: (high & 0x1ff) << 43 | low >> 21,
            count: low & 0x1f_ffff,
            unwritten: high >> 63 == 1,
        }
    }

    /// Returns the block in the file after the last one.
    pub fn end(&self) -> u64 {
        self.file_block + self.count
    }

    /// Checks that it is not empty, does not pass the end of files and lies within one allocation group. With
    /// `real_time` the blocks are those of another device, and not checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming inode `ino`.
    pub fn check(&self, superblock: &Superblock, real_time: bool, ino: u64) -> Result<()> {
        let fits = real_time || superblock.block_offset(self.block, self.count).is_some();
        if self.count == 0 || self.end() > MAX_FILE_BLOCK || !fits {
            return Err(Error::corrupt(
                format!("inode {ino}"),
                format!("an extent of {} blocks at block {} is impossible", self.count, self.block),
            ));
        }
        Ok(())
    }
}

/// What lies at a block of a file, and how far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The block in the file after the last one of the stretch; past the one asked for.
    pub end: u64,
    /// The extent there; `None` for a hole.
    pub extent: Option<Extent>,
}

/// Finds what lies at `block` among `count` extents in order, which `get` returns. A hole ends at the next extent, or at
/// `limit` when there is none.
pub fn find(block: u64, count: usize, limit: u64, get: impl Fn(usize) -> Extent) -> Mapping {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if get(middle).end() <= block {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if low == count {
        return Mapping { end: limit.max(block + 1), extent: None };
    }
    let extent = get(low);
    if extent.file_block <= block {
        Mapping { end: extent.end(), extent: Some(extent) }
    } else {
        Mapping { end: extent.file_block, extent: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::set_be64;

    #[test]
    fn a_record_is_taken_apart_into_its_four_fields() {
        let mut bytes = [0; 16];
        set_be64(&mut bytes, 0, 1 << 63 | 0x12_3456 << 9 | 0x1ff);
        set_be64(&mut bytes, 8, 5 << 21 | 7);
        let extent = Extent::parse(&bytes);
        assert_eq!(extent, Extent { file_block: 0x12_3456, block: 0x1ff << 43 | 5, count: 7, unwritten: true });
    }

    #[test]
    fn a_hole_ends_where_the_next_extent_begins() {
        let extents = [(2, 3), (5, 1), (10, 4)].map(|(file_block, count)| Extent {
            file_block,
            block: 100 + file_block,
            count,
            unwritten: false,
        });
        let at = |block| find(block, extents.len(), 1000, |index| extents[index]);
        assert_eq!(at(0), Mapping { end: 2, extent: None });
        assert_eq!(at(4), Mapping { end: 5, extent: Some(extents[0]) });
        assert_eq!(at(5).extent, Some(extents[1]));
        assert_eq!(at(7), Mapping { end: 10, extent: None });
        assert_eq!(at(14), Mapping { end: 1000, extent: None });
    }
}
