//! How full a filesystem is, counted as the kernel counts.

use super::features::{compat, incompat, ro_compat};
use super::superblock::Superblock;
use super::volume::Volume;
use crate::error::Result;
use crate::fs::StatFs;

/// The most clusters that the kernel holds back for itself.
const RESERVED_CLUSTERS_MAX: u64 = 4096;

/// Returns how many blocks of a group hold group descriptors, as the kernel's overhead counts them.
fn descriptor_blocks(superblock: &Superblock, group: u32) -> u64 {
    let per_block = superblock.descriptors_per_block();
    let row = group / per_block;
    if superblock.has_incompat(incompat::META_BG) && row >= superblock.first_meta_bg {
        let first = row * per_block;
        let last = u64::from(first) + u64::from(per_block) - 1;
        let has_copy = group == first || group == first + 1 || u64::from(group) == last;
        return u64::from(has_copy);
    }
    if !superblock.group_has_super(group) {
        return 0;
    }
    if superblock.has_incompat(incompat::META_BG) {
        u64::from(superblock.first_meta_bg)
    } else {
        u64::from(superblock.group_count.div_ceil(per_block))
    }
}

/// Returns how many blocks the filesystem keeps for its own structures.
fn overhead(volume: &Volume) -> u64 {
    let superblock = &volume.superblock;
    let is_bigalloc = superblock.has_ro_compat(ro_compat::BIGALLOC);
    let recorded = u64::from(superblock.overhead_clusters) << superblock.cluster_bits;
    if is_bigalloc && recorded > 0 && recorded <= superblock.blocks_count {
        return recorded;
    }
    let table = u64::from(superblock.inode_table_blocks());
    let mut blocks = u64::from(superblock.first_data_block) + u64::from(superblock.group_count) * (table + 2);
    for group in 0..superblock.group_count {
        blocks += descriptor_blocks(superblock, group);
        if superblock.group_has_super(group) {
            blocks += 1 + u64::from(superblock.reserved_gdt_blocks);
        }
    }
    let has_inner_journal =
        superblock.has_compat(compat::HAS_JOURNAL) && superblock.journal_inode != 0 && superblock.journal_device == 0;
    if has_inner_journal && let Ok(journal) = volume.inode(superblock.journal_inode) {
        blocks += (journal.size >> superblock.block_bits()).min(superblock.blocks_count);
    }
    blocks
}

/// Returns how full a filesystem is.
///
/// # Errors
/// Those of reading the group descriptors.
pub(crate) fn statfs(volume: &Volume) -> Result<StatFs> {
    let superblock = &volume.superblock;
    let (mut free_clusters, mut free_inodes) = (0_u64, 0_u64);
    for group in 0..superblock.group_count {
        let descriptor = volume.group(group)?;
        free_clusters += u64::from(descriptor.free_clusters);
        free_inodes += u64::from(descriptor.free_inodes);
    }
    Ok(of_free(volume, free_clusters, free_inodes))
}

/// Returns how full a filesystem is that has so many free clusters and inodes.
pub(crate) fn of_free(volume: &Volume, free_clusters: u64, free_inodes: u64) -> StatFs {
    let superblock = &volume.superblock;
    let blocks_free = free_clusters << superblock.cluster_bits;
    let held_back = if superblock.has_incompat(incompat::EXTENTS) {
        let clusters = superblock.blocks_count >> superblock.cluster_bits;
        (clusters / 50).min(RESERVED_CLUSTERS_MAX) << superblock.cluster_bits
    } else {
        0
    };
    StatFs {
        block_size: superblock.block_size,
        blocks: superblock.blocks_count.saturating_sub(overhead(volume)),
        blocks_free,
        blocks_available: blocks_free.saturating_sub(superblock.reserved_blocks.saturating_add(held_back)),
        files: u64::from(superblock.inodes_count),
        files_free: free_inodes,
        name_max: super::dir::NAME_MAX as u32,
    }
}
