//! How full the filesystem is, from its block groups and devices, as the kernel counts it.

use super::chunk::{Chunk, Profile, STRIPE_LEN, types};
use super::device_item::DeviceItem;
use super::key::{Key, kinds};
use super::store::Store;
use super::superblock::{Superblock, incompat};
use super::tree::Tree;
use crate::bytes::le64;
use crate::error::Result;
use crate::fs::StatFs;

/// What the kernel keeps back for its own changes of metadata, at most, in bytes.
const RESERVE_MAX: u64 = 512 << 20;
/// How many tree blocks it keeps back at least: a change of 22 items, each of which may split two blocks on all levels.
const RESERVE_MIN_NODES: u64 = 22 * 16;
/// What of a device chunks are never put on: its beginning, with the superblock, in bytes.
const DEVICE_START: u64 = 1 << 20;

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
    let mut data_chunk = None;
    for chunk in store.volume.chunks().iter() {
        let in_use = match groups {
            Some(tree) => group_used(tree, chunk)?,
            None => 0,
        };
        used = used.saturating_add(in_use.saturating_mul(chunk.copies()));
        if chunk.flags & types::DATA != 0 {
            free_data = free_data.saturating_add(chunk.len - in_use);
            data_chunk = Some(chunk);
        } else if chunk.flags & types::METADATA != 0 {
            free_metadata = free_metadata.saturating_add(chunk.len - in_use);
        }
    }
    let copies = data_chunk.map_or(1, Chunk::copies);
    let unit = u64::from(store.sector_size);
    let reserve = used_by_trees.max(RESERVE_MIN_NODES * u64::from(store.node_size)).min(RESERVE_MAX);
    let blocks = superblock.total_bytes / copies / unit;
    let unallocated = unallocated(devices, data_chunk);
    let mixed = superblock.incompat & incompat::MIXED_GROUPS != 0;
    // Metadata that has no room left stops writing.
    let full = !mixed && free_metadata.saturating_sub(4 << 20) < reserve && unallocated == 0;
    let available = free_data.saturating_add(unallocated / copies) / unit;
    Ok(StatFs {
        block_size: store.sector_size,
        blocks,
        blocks_free: blocks.saturating_sub(used / copies / unit).saturating_sub(reserve / unit),
        blocks_available: if full { 0 } else { available },
        files: 0,
        files_free: 0,
        name_max: 255,
    })
}

/// Returns how much of the devices could become chunks of data like the one given, copies counted, in bytes.
fn unallocated(devices: &[DeviceItem], like: Option<&Chunk>) -> u64 {
    let (least, most) = match like.map(|chunk| (chunk.profile, chunk.stripes.len())) {
        Some((Profile::Copies, count))
            if like.is_some_and(|chunk| chunk.stripes[0].devid != chunk.stripes[count - 1].devid) =>
        {
            (count, count)
        }
        Some((Profile::Raid0, _)) => (1, devices.len()),
        Some((Profile::Raid10, _)) => (2, devices.len() & !1),
        Some((Profile::Parity(parity), _)) => (parity + 1, devices.len()),
        _ => (1, 1),
    };
    let mut free: Vec<u64> = devices
        .iter()
        .map(|device| device.total_bytes.saturating_sub(device.bytes_used) / STRIPE_LEN * STRIPE_LEN)
        .map(|free| free.saturating_sub(DEVICE_START))
        .filter(|&free| free >= STRIPE_LEN)
        .collect();
    free.sort_unstable_by_key(|&free| std::cmp::Reverse(free));
    // The smallest device gives all it has, with as much from its neighbours.
    let mut sum = 0_u64;
    while free.len() >= least.max(1) {
        let count = most.clamp(1, free.len());
        let smallest = *free.last().unwrap_or(&0);
        sum = sum.saturating_add(smallest.saturating_mul(count as u64));
        let from = free.len() - count;
        free[from..].iter_mut().for_each(|free| *free -= smallest);
        free.pop();
        free.sort_unstable_by_key(|&free| std::cmp::Reverse(free));
    }
    sum
}

fn group_used(tree: &Tree<'_>, chunk: &Chunk) -> Result<u64> {
    let item = tree.get(&Key::new(chunk.logical, kinds::BLOCK_GROUP_ITEM, chunk.len))?;
    Ok(item.filter(|item| item.len() >= 8).map_or(0, |item| le64(&item, 0).min(chunk.len)))
}
