//! Block maps: the older way to tell which blocks hold a file, by 12 direct, and single, double and triple indirect blocks.
//!
//! Little-endian 32-bit block numbers, 0 for a hole. Specified in the kernel's
//! `Documentation/filesystems/ext4/blockmap.rst`.

/// How many direct blocks the inode names.
pub(crate) const DIRECT: u64 = 12;

/// The way from the inode to a block of a file: the entry to take in the inode's `i_block`, then in each indirect block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// The entries, the inode's first.
    pub(crate) entries: [u32; 4],
    /// How many of them there are: 1 for a direct block, up to 4.
    pub(crate) depth: usize,
}

/// Returns the way to a block of a file; `None` for a block past what triple indirect blocks can reach.
pub(crate) fn path(logical: u64, block_size: usize) -> Option<Path> {
    let per_block = block_size as u64 / 4;
    if logical < DIRECT {
        return Some(Path { entries: [logical as u32, 0, 0, 0], depth: 1 });
    }
    let mut rest = logical - DIRECT;
    for level in 1..=3_u32 {
        let covered = per_block.pow(level);
        if rest < covered {
            let mut entries = [DIRECT as u32 + level - 1, 0, 0, 0];
            for (at, entry) in entries.iter_mut().enumerate().skip(1).take(level as usize) {
                *entry = (rest / per_block.pow(level - at as u32) % per_block) as u32;
            }
            return Some(Path { entries, depth: level as usize + 1 });
        }
        rest -= covered;
    }
    None
}

/// Returns how many blocks of a file lie below one entry at `level` of a [`Path`] with `depth` entries.
pub(crate) fn covered(level: usize, depth: usize, block_size: usize) -> u64 {
    (block_size as u64 / 4).pow((depth - 1 - level) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_block_goes_through_as_many_indirect_blocks_as_it_is_far() {
        let entries = |logical| path(logical, 1024).map(|path| path.entries[..path.depth].to_vec());
        assert_eq!(entries(11), Some(vec![11]));
        assert_eq!(entries(12), Some(vec![12, 0]));
        assert_eq!(entries(267), Some(vec![12, 255]));
        assert_eq!(entries(268), Some(vec![13, 0, 0]));
        assert_eq!(entries(268 + 65536), Some(vec![14, 0, 0, 0]));
        assert_eq!(entries(268 + 65536 + 65536 * 256 - 1), Some(vec![14, 255, 255, 255]));
        assert_eq!(entries(268 + 65536 + 65536 * 256), None);
        assert_eq!(covered(0, 4, 1024), 1 << 24);
        assert_eq!(covered(3, 4, 1024), 1);
    }
}
