//! Changes of a file's extents that the log promises and that nobody came to do: done when the inode is read.

use super::extent::Extent;
use super::superblock::Superblock;
use crate::error::Result;
use crate::fs::Ino;

/// A stretch that is to be put into a file, or taken away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remap {
    /// The file.
    pub ino: Ino,
    /// Whether the stretch is put into it.
    pub add: bool,
    /// The stretch.
    pub extent: Extent,
}

/// Changes extents, which are in order; returns how many blocks more or fewer there are.
///
/// # Errors
/// [`Error::Corrupt`](crate::Error::Corrupt) for a stretch that cannot be.
pub fn apply(superblock: &Superblock, extents: &mut Vec<Extent>, change: &Remap) -> Result<i64> {
    let stretch = change.extent;
    stretch.check(superblock, false, change.ino)?;
    let mut blocks = 0;
    let mut kept = Vec::with_capacity(extents.len() + 2);
    for extent in extents.drain(..) {
        if extent.end() <= stretch.file_block || extent.file_block >= stretch.end() {
            kept.push(extent);
            continue;
        }
        blocks -= (extent.end().min(stretch.end()) - extent.file_block.max(stretch.file_block)).cast_signed();
        if extent.file_block < stretch.file_block {
            kept.push(Extent { count: stretch.file_block - extent.file_block, ..extent });
        }
        if extent.end() > stretch.end() {
            let cut = stretch.end() - extent.file_block;
            kept.push(Extent {
                file_block: stretch.end(),
                block: extent.block + cut,
                count: extent.count - cut,
                ..extent
            });
        }
    }
    if change.add {
        let at = kept.partition_point(|extent| extent.file_block < stretch.file_block);
        kept.insert(at, stretch);
        blocks += stretch.count.cast_signed();
    }
    *extents = kept;
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::super::superblock::tests::bytes;
    use super::*;

    #[test]
    fn a_stretch_takes_the_place_of_what_it_covers() {
        let superblock = Superblock::parse(&bytes(), true).expect("is whole");
        let extent = |file_block, block, count| Extent { file_block, block, count, unwritten: false };
        let mut extents = vec![extent(0, 100, 10), extent(20, 200, 10)];
        let mut change = Remap { ino: 5, add: false, extent: extent(4, 104, 2) };
        assert_eq!(apply(&superblock, &mut extents, &change).expect("fits"), -2);
        assert_eq!(extents, [extent(0, 100, 4), extent(6, 106, 4), extent(20, 200, 10)]);
        change = Remap { ino: 5, add: true, extent: extent(4, 300, 2) };
        assert_eq!(apply(&superblock, &mut extents, &change).expect("fits"), 2);
        assert_eq!(extents[1], extent(4, 300, 2));
        change.extent = extent(8, 400, 20);
        assert_eq!(apply(&superblock, &mut extents, &change).expect("fits"), 10);
        assert_eq!(extents[2..], [extent(6, 106, 2), extent(8, 400, 20), extent(28, 208, 2)]);
        change.extent = extent(8, 990, 20);
        apply(&superblock, &mut extents, &change).expect_err("passes the end of its group");
    }
}
