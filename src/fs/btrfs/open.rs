//! Opening: superblocks, devices, chunks, the trees that everything else is found by.

use super::chunk::{Chunk, ChunkMap};
use super::device_item::DeviceItem;
use super::key::{Key, kinds, objects};
use super::log;
use super::node::NodeFormat;
use super::root_item::RootItem;
use super::store::Store;
use super::subvolumes::Table;
use super::superblock::{self, Superblock};
use super::tree::{Root, Tree};
use super::volume::{Member, Volume};
use crate::block::SharedDevice;
use crate::cache::CachePool;
use crate::error::{Error, Result};
use std::sync::Arc;

/// How many devices a filesystem may have; a chunk's item has room for fewer.
const DEVICES_MAX: usize = 4096;

/// A filesystem whose trees are found.
pub struct Opened {
    /// The newest superblock of all devices.
    pub superblock: Superblock,
    /// The tree blocks.
    pub store: Store,
    /// The root tree.
    pub root_tree: Root,
    /// The checksum tree.
    pub csum_tree: Option<Root>,
    /// The tree that holds the block groups.
    pub group_tree: Option<Root>,
    /// What the trees that the kernel's reserve is counted from take, in bytes.
    pub used_by_trees: u64,
    /// The devices that the filesystem has.
    pub devices: Vec<DeviceItem>,
    /// The subvolumes, with their logs replayed.
    pub table: Table,
    /// The logs that were replayed: checksums of what was synced are in them.
    pub logs: Vec<Root>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// The devices of a filesystem, and its newest superblock.
struct Gathered {
    superblock: Superblock,
    members: Vec<Member>,
    fsids: Vec<[u8; 16]>,
    warnings: Vec<String>,
}

fn gather(device: &SharedDevice, others: &[SharedDevice]) -> Result<Gathered> {
    let found = superblock::find(device.as_ref())?
        .ok_or_else(|| Error::NotAnImage("there is no Btrfs superblock on this device".into()))?;
    let mut warnings: Vec<String> = found.warning.into_iter().collect();
    let mut superblock = found.superblock;
    let fsid = superblock.fsid;
    let mut members: Vec<Member> = Vec::new();
    let mut seeds = Vec::new();
    let mut generations = Vec::new();
    let mut add = |superblock: &Superblock, device: &SharedDevice| {
        let (devid, uuid) = (superblock.devid, superblock.device_uuid);
        if !members.iter().any(|member| member.devid == devid && member.uuid == uuid) {
            members.push(Member { devid, uuid, device: Arc::clone(device) });
            generations.push((devid, superblock.generation, superblock.fsid));
        }
    };
    add(&superblock, device);
    for other in others {
        // A device that cannot be read is as good as missing.
        let Ok(Some(found)) = superblock::find(other.as_ref()) else { continue };
        if found.superblock.fsid == fsid {
            warnings.extend(found.warning);
            add(&found.superblock, other);
            if found.superblock.generation > superblock.generation {
                superblock = found.superblock;
            }
        } else if found.superblock.is_seed {
            add(&found.superblock, other);
            seeds.push(found.superblock.metadata_uuid);
        }
    }
    for (devid, generation, of) in generations {
        if of == fsid && generation < superblock.generation {
            warnings.push(format!(
                "device {devid} is behind: it has transaction {generation}, the newest is {}",
                superblock.generation
            ));
        }
    }
    let mut fsids = vec![superblock.metadata_uuid];
    fsids.extend(seeds);
    Ok(Gathered { superblock, members, fsids, warnings })
}

/// Opens the filesystem on `device` and those of `others` that belong to it.
///
/// # Errors
/// [`Error::NotAnImage`] when it is no Btrfs, [`Error::Unsupported`] for a feature that cannot be read, and those of
/// reading.
pub fn open(device: &SharedDevice, others: &[SharedDevice], pool: &Arc<CachePool>) -> Result<Opened> {
    let Gathered { superblock, members, fsids, mut warnings } = gather(device, others)?;
    superblock.check_features()?;
    let volume = Volume::new(members, ChunkMap::of_system_chunks(&superblock.system_chunks)?);
    let format = NodeFormat { checksum: superblock.checksum, fsids };
    let mut store = Store::new(volume, superblock.sector_size, superblock.node_size, format, pool);

    let chunk_root = Root {
        address: superblock.chunk_root,
        level: superblock.chunk_root_level,
        generation: superblock.chunk_root_generation,
    };
    let (chunks, devices) = read_chunks(&Tree::new(&store, chunk_root))?;
    store.volume.set_chunks(chunks);
    for device in &devices {
        if store.volume.member(device.devid, &device.uuid).is_none() {
            warnings.push(format!("device {} is missing: what lies on it alone cannot be read", device.devid));
        }
    }

    let root_tree = Root { address: superblock.root, level: superblock.root_level, generation: superblock.generation };
    let tree = Tree::new(&store, root_tree);
    let find = |id| find_root(&tree, id);
    let csum_tree = find(objects::CSUM_TREE)?;
    let extent_tree = find(objects::EXTENT_TREE)?;
    let group_tree = if superblock.compat_ro & superblock::compat_ro::BLOCK_GROUP_TREE != 0 {
        find(objects::BLOCK_GROUP_TREE)?
    } else {
        extent_tree.clone()
    };
    let counted = [&csum_tree, &extent_tree, &find(objects::FREE_SPACE_TREE)?];
    let used_by_trees =
        counted.iter().filter_map(|tree| tree.as_ref()).fold(0_u64, |sum, tree| sum.saturating_add(tree.bytes_used));
    let mut table = Table::read(&tree)?;
    if superblock.log_root != 0 {
        warnings.push(log::replay(&store, &superblock, &mut table));
    }
    let logs = table.iter().filter_map(|entry| entry.log).collect();
    Ok(Opened {
        logs,
        root_tree,
        csum_tree: csum_tree.map(|item| item.root),
        group_tree: group_tree.map(|item| item.root),
        used_by_trees,
        devices,
        table,
        warnings,
        superblock,
        store,
    })
}

fn read_chunks(tree: &Tree<'_>) -> Result<(ChunkMap, Vec<DeviceItem>)> {
    let (mut chunks, mut devices) = (Vec::new(), Vec::new());
    let mut items = tree.range(Key::MIN, Key::MAX)?;
    while let Some((key, item)) = items.next()? {
        match key.kind {
            kinds::CHUNK_ITEM => chunks.push(Chunk::parse(key, &item)?),
            kinds::DEV_ITEM => {
                if devices.len() == DEVICES_MAX {
                    return Err(Error::unsupported(format!("a Btrfs of more than {DEVICES_MAX} devices")));
                }
                devices.push(DeviceItem::parse(&item)?);
            }
            _ => {}
        }
    }
    Ok((ChunkMap::new(chunks)?, devices))
}

fn find_root(root_tree: &Tree<'_>, id: u64) -> Result<Option<RootItem>> {
    let found = root_tree.last_not_after(&Key::new(id, kinds::ROOT_ITEM, u64::MAX))?;
    found.filter(|(key, _)| key.is(id, kinds::ROOT_ITEM)).map(|(_, item)| RootItem::parse(&item, id)).transpose()
}
