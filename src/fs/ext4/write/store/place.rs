//! Where the blocks of a journal lie on the device.

use crate::error::{Error, Result};

/// Where the blocks of a journal lie: the extents of its inode, in logical order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPlace {
    /// First logical block, first block on the device, count.
    extents: Vec<(u64, u64, u32)>,
    blocks: u64,
}

impl JournalPlace {
    /// Makes a place of extents without holes: each is its first block on the device and its count of blocks.
    pub fn new(extents: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let mut place = Self { extents: Vec::new(), blocks: 0 };
        for (block, count) in extents {
            if count > 0 {
                place.extents.push((place.blocks, block, count));
                place.blocks += u64::from(count);
            }
        }
        place
    }

    /// Returns how many blocks the journal has.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Says whether a block of the device is one of the journal's.
    pub(in crate::fs::ext4) fn holds(&self, block: u64) -> bool {
        self.extents.iter().any(|&(_, start, count)| (start..start + u64::from(count)).contains(&block))
    }

    /// Returns where a block of the journal lies on the device.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the journal has no such block.
    pub(super) fn on_device(&self, block: u32) -> Result<u64> {
        let block = u64::from(block);
        let next = self.extents.partition_point(|&(first, _, _)| first <= block);
        next.checked_sub(1)
            .and_then(|number| {
                let (first, start, count) = self.extents[number];
                let within = block - first;
                if within < u64::from(count) { start.checked_add(within) } else { None }
            })
            .ok_or_else(|| Error::corrupt("journal", format!("its inode has no block {block}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_in_its_extent() {
        let place = JournalPlace::new([(100, 2), (7, 0), (50, 3)]);
        let found: Vec<u64> = (0..5).map(|block| place.on_device(block).expect("inside")).collect();
        assert_eq!(found, [100, 101, 50, 51, 52]);
        place.on_device(5).expect_err("past the end");
        JournalPlace::new([]).on_device(0).expect_err("no blocks at all");
        JournalPlace::new([(u64::MAX, 2)]).on_device(1).expect_err("past the last block there can be");
    }
}
