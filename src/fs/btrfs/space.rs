//! How full the filesystem is, from its block groups and devices, as the kernel counts it.

use super::chunk::{Chunk, types};
use super::device_item::DeviceItem;
use super::key::{Key, kinds};
use super::store::Store;
use super::superblock::Superblock;
use super::tree::Tree;
use crate::bytes::le64;
use crate::error::Result;
use crate::fs::StatFs;

/// What the kernel keeps back for its own changes of metadata, at most, in bytes.
const RESERVE_MAX: u64 = 512 << 20;
/// How many tree blocks it keeps back at least: a change of eleven items, each of which may split blocks on all levels.
const RESERVE_MIN_NODES: u64 = 11 * 16;

/// Returns how full the filesystem is. `groups` holds the block groups, `used_by_trees` what the trees that the kernel's
/// reserve is counted from take, in bytes.
///
/// # Errors
/// Those of reading.
pub fn statfs(
    store: &Store,
    superblock: &Superblock,
    groups: Option<&Tree<'_>>,
    devices: &[DeviceItem],
    used_by_trees: u64,
) -> Result<StatFs> {
    let (mut used, mut free_data, mut free_metadata) = (0_u64, 0_u64, 0_u64);
    let mut copies = 1;
    for chunk in store.volume.chunks().iter() {
        let in_use = match groups {
            Some(tree) => group_used(tree, chunk)?,
            None => 0,
        };
        used = used.saturating_add(in_use.saturating_mul(chunk.copies()));
        if chunk.flags & types::DATA != 0 {
            free_data = free_data.saturating_add(chunk.len - in_use);
            copies = chunk.copies();
        } else if chunk.flags & types::METADATA != 0 {
            free_metadata = free_metadata.saturating_add(chunk.len - in_use);
        }
    }
    let unit = u64::from(store.sector_size);
    let reserve = used_by_trees.max(RESERVE_MIN_NODES * u64::from(store.node_size)).min(RESERVE_MAX);
    let blocks = superblock.total_bytes / copies / unit;
    let blocks_free = blocks.saturating_sub(used / copies / unit);
    let unallocated: u64 = devices.iter().fold(0, |sum, device| {
        sum.saturating_add(device.total_bytes.saturating_sub(device.bytes_used).saturating_sub(1 << 20))
    });
    let available = free_data.saturating_add(unallocated / copies) / unit;
    let mixed = superblock.incompat & super::superblock::incompat::MIXED_GROUPS != 0;
    // Metadata that has no room left, and can get none, stops writing.
    let full = !mixed && free_metadata.saturating_sub(4 << 20) < reserve && unallocated < 1 << 20;
    Ok(StatFs {
        block_size: store.sector_size,
        blocks,
        blocks_free,
        blocks_available: if full { 0 } else { available.min(blocks_free) },
        files: 0,
        files_free: 0,
        name_max: 255,
    })
}

fn group_used(tree: &Tree<'_>, chunk: &Chunk) -> Result<u64> {
    let item = tree.get(&Key::new(chunk.logical, kinds::BLOCK_GROUP_ITEM, chunk.len))?;
    Ok(item.filter(|item| item.len() >= 8).map_or(0, |item| le64(&item, 0).min(chunk.len)))
}
