//! How full the filesystem is, counted as Linux counts it on a read-only mount.

use super::ag::{FreeSpace, Inodes};
use super::disk::Disk;
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::fs::StatFs;

/// Blocks of each allocation group that Linux keeps back: four for the free list, four for the trees to grow.
const SET_ASIDE: u64 = 8;

/// The greatest number of inodes that Linux counts.
const MAX_INODES: u64 = (1 << 56) - 1;

/// The counters that a superblock keeps, and the blocks among the free ones that the trees of free space take.
struct Counters {
    inodes: u64,
    inodes_free: u64,
    blocks_free: u64,
    kept_back: u64,
}

/// Returns how full the filesystem is. With `sum` the counters are those of the allocation groups together, since the
/// superblock's are only right after a clean unmount.
///
/// # Errors
/// [`Error::Corrupt`] for damaged group headers, and those of reading.
pub fn statfs(disk: &Disk, sum: bool) -> Result<StatFs> {
    let superblock = &disk.superblock;
    let groups = sum_groups(disk)?;
    let counters = if sum && superblock.lazy_counters {
        groups
    } else {
        Counters {
            inodes: superblock.inodes,
            inodes_free: superblock.inodes_free,
            blocks_free: superblock.blocks_free,
            kept_back: groups.kept_back,
        }
    };
    let log = if superblock.log_start.is_some() { u64::from(superblock.log_blocks) } else { 0 };
    let set_aside = SET_ASIDE * u64::from(superblock.ag_count);
    let free = counters.blocks_free.min(superblock.data_blocks).saturating_sub(counters.kept_back + set_aside);
    let could_be = free << superblock.inodes_per_block_log;
    let mut files = counters.inodes.saturating_add(could_be).min(MAX_INODES);
    if let Some(most) = most_inodes(superblock) {
        files = files.min(most);
    }
    let files = files.max(counters.inodes);
    let used = counters.inodes.saturating_sub(counters.inodes_free);
    Ok(StatFs {
        block_size: superblock.block_size,
        blocks: superblock.data_blocks.saturating_sub(log),
        blocks_free: free,
        blocks_available: free,
        files,
        files_free: files.saturating_sub(used),
        name_max: 255,
    })
}

/// Returns the limit that the share of space for inodes sets, where there is one.
fn most_inodes(superblock: &Superblock) -> Option<u64> {
    if superblock.max_inode_percent == 0 {
        return None;
    }
    let chunk = (64_u64 >> superblock.inodes_per_block_log).max(1);
    let blocks = u128::from(superblock.data_blocks) * u128::from(superblock.max_inode_percent) / 100;
    let blocks = blocks as u64 / chunk * chunk;
    Some(blocks << superblock.inodes_per_block_log)
}

fn sum_groups(disk: &Disk) -> Result<Counters> {
    let superblock = &disk.superblock;
    let mut sums = Counters { inodes: 0, inodes_free: 0, blocks_free: 0, kept_back: 0 };
    for ag in 0..superblock.ag_count {
        let space = FreeSpace::read(&disk.store, superblock, ag)?;
        let inodes = Inodes::read(&disk.store, superblock, ag)?;
        sums.blocks_free += space.free_blocks + space.listed_blocks + space.tree_blocks;
        sums.inodes += u64::from(inodes.count);
        sums.inodes_free += u64::from(inodes.free);
        let rmap = if superblock.reverse_map { space.rmap_blocks.saturating_sub(1) } else { 0 };
        sums.kept_back += space.tree_blocks.saturating_sub(rmap);
    }
    if sums.blocks_free > superblock.data_blocks || sums.inodes_free > sums.inodes {
        return Err(Error::corrupt("allocation groups", "they count more free space than there is"));
    }
    Ok(sums)
}
