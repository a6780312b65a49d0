//! Opening a filesystem for writing, and closing it: what is refused, recovery, and the superblock's state.

use super::super::casefold;
use super::super::features::{self, compat, incompat, ro_compat};
use super::super::inode::{Inode, field as inode_field};
use super::super::mapping::Place;
use super::super::meta::{Meta, Overlay};
use super::super::open::read_primary;
use super::super::superblock::{STATE_CLEAN, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, field};
use super::super::volume::Volume;
use super::alloc::Allocator;
use super::core::Core;
use super::counters;
use super::edit::now;
use super::fast_commits;
use super::names;
use super::orphans::Orphans;
use super::space;
use super::store::{JournalPlace, Store, StoreOptions};
use crate::block::SharedDevice;
use crate::bytes::{le16, le32, set_le16, set_le32, uuid};
use crate::error::{Error, Result};
use crate::fs::{FsInfo, FsOptions};
use std::collections::HashSet;
use std::sync::Arc;

/// Incompatible features of filesystems that are written.
const WRITABLE_INCOMPAT: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::META_BG
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGE_DIR
    | incompat::INLINE_DATA
    | incompat::CASEFOLD;

/// Read-only compatible features of filesystems that are written.
const WRITABLE_RO: u32 = ro_compat::SPARSE_SUPER
    | ro_compat::LARGE_FILE
    | ro_compat::BTREE_DIR
    | ro_compat::HUGE_FILE
    | ro_compat::GDT_CSUM
    | ro_compat::DIR_NLINK
    | ro_compat::EXTRA_ISIZE
    | ro_compat::BIGALLOC
    | ro_compat::METADATA_CSUM
    | ro_compat::VERITY
    | ro_compat::ORPHAN_PRESENT;

/// Fields of the superblock that only a writer needs.
mod writer_field {
    pub(super) const MOUNT_TIME: usize = 0x2c;
    pub(super) const MOUNT_COUNT: usize = 0x34;
    pub(super) const LAST_MOUNTED: usize = 0x88;
    pub(super) const LAST_MOUNTED_SIZE: usize = 64;
    pub(super) const MOUNT_TIME_HI: usize = 0x275;
    pub(super) const WRITE_TIME_HI: usize = 0x274;
}

/// Checks that every feature can be kept right by a writer.
///
/// # Errors
/// [`Error::Unsupported`], which names those that cannot.
pub(super) fn check_writable(superblock: &Superblock) -> Result<()> {
    features::check_readable(superblock.incompat)?;
    let mut refused = Vec::new();
    let incompat = superblock.incompat & !WRITABLE_INCOMPAT;
    if incompat != 0 {
        refused.push(features::names(incompat, incompat::NAMES));
    }
    let ro = superblock.ro_compat & !WRITABLE_RO;
    if ro != 0 {
        refused.push(features::names(ro, ro_compat::NAMES));
    }
    if superblock.ro_compat & ro_compat::GDT_CSUM != 0 && superblock.has_metadata_csum() {
        refused.push("uninit_bg beside metadata_csum".into());
    }
    if superblock.has_incompat(incompat::CASEFOLD) && superblock.encoding != casefold::UTF8_12_1 {
        refused.push(format!("casefold in the encoding {}", superblock.encoding));
    }
    if superblock.cluster_bits > 0 {
        if !superblock.has_incompat(incompat::EXTENTS) || superblock.first_data_block != 0 {
            refused.push("bigalloc without extents, or with blocks before its first cluster".into());
        }
        if !superblock.blocks_count.is_multiple_of(1 << superblock.cluster_bits) {
            refused.push("bigalloc whose last cluster is not whole".into());
        }
    }
    if superblock.has_compat(compat::HAS_JOURNAL) && superblock.journal_inode == 0 {
        refused.push("an external journal".into());
    }
    if refused.is_empty() {
        return Ok(());
    }
    Err(Error::unsupported(format!("writing ext4 with {}", refused.join(", "))))
}

/// Returns the superblock after recovery, whole again where its flag of recovery was written in part.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged one, and those of reading and writing.
pub(super) fn reread_superblock(device: &SharedDevice) -> Result<Superblock> {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    device.read_at(&mut bytes, SUPERBLOCK_OFFSET)?;
    let (superblock, is_mended) = Superblock::parse_mended(&mut bytes)?;
    if is_mended {
        device.write_at(&bytes, SUPERBLOCK_OFFSET)?;
        device.flush()?;
    }
    Ok(superblock)
}

/// Returns the blocks of a file of the filesystem's own, in order: first block and count of each run.
fn runs_of(volume: &Volume, inode: &Inode, what: &'static str) -> Result<Vec<(u64, u32)>> {
    let blocks = inode.size >> volume.superblock.block_bits();
    if blocks == 0 || blocks > volume.superblock.blocks_count {
        return Err(Error::corrupt(what, format!("its size of {} bytes", inode.size)));
    }
    let mut runs = Vec::new();
    let mut at = 0;
    while at < blocks {
        let stretch = volume.stretch(inode, at)?;
        let Place::Block(block) = stretch.place else {
            return Err(Error::corrupt(what, format!("its block {at} is a hole")));
        };
        let len = (stretch.end.min(blocks) - at).min(u64::from(u32::MAX)) as u32;
        runs.push((block, len));
        at += u64::from(len);
    }
    Ok(runs)
}

/// Returns where the journal lies, by a look at the filesystem that trusts nothing the journal might change.
fn journal_place(device: &SharedDevice, superblock: &Superblock, options: &FsOptions) -> Result<Option<JournalPlace>> {
    if !superblock.has_compat(compat::HAS_JOURNAL) {
        return Ok(None);
    }
    let meta = Meta::new(device.clone(), superblock.block_size, Overlay::new(), &options.cache);
    let volume = Volume::new(superblock.clone(), meta, superblock.primary_block(), &options.cache);
    let inode = volume.inode(superblock.journal_inode)?;
    Ok(Some(JournalPlace::new(runs_of(&volume, &inode, "journal")?)))
}

/// Opens a filesystem for writing.
///
/// # Errors
/// As [`Ext4::open_for_writing`](super::super::Ext4::open_for_writing).
pub(super) fn open(device: SharedDevice, options: &FsOptions) -> Result<(Core, FsInfo)> {
    if device.is_read_only() {
        return Err(Error::Errno(libc::EROFS));
    }
    let mut superblock = read_primary(&device)?;
    check_writable(&superblock)?;
    let blocks = device.size() / u64::from(superblock.block_size);
    if blocks < superblock.blocks_count {
        return Err(Error::corrupt(
            "ext4 superblock",
            format!("the filesystem has {} blocks, its device {blocks}", superblock.blocks_count),
        ));
    }
    let mut warnings = Vec::new();
    let place = journal_place(&device, &superblock, options)?;
    if let Some(place) = &place
        && superblock.has_incompat(incompat::RECOVER)
    {
        let records = fast_commits::settle(&device, &superblock, place, options)?;
        if records > 0 {
            warnings.push(format!("{records} fast commit records of its journal were replayed"));
        }
        if Store::recover(&*device, superblock.block_size, place)? {
            warnings.push("the filesystem was not closed; its journal was recovered".into());
        }
        superblock = reread_superblock(&device)?;
        check_writable(&superblock)?;
    }
    let info = FsInfo {
        kind: features::kind(superblock.compat, superblock.incompat, superblock.ro_compat),
        label: superblock.label(),
        uuid: (superblock.uuid != [0; 16]).then(|| uuid(&superblock.uuid)),
        block_size: superblock.block_size,
        warnings,
    };
    let core = core(device, superblock, place, options)?;
    let orphans = find_orphans(&core)?;
    mark_open(&core)?;
    process_orphans(&core, orphans)?;
    Ok((core, info))
}

/// Puts a filesystem together whose journal needs no recovery.
///
/// # Errors
/// Those of [`Store::open`] and [`Allocator::open`].
pub(super) fn core(
    device: SharedDevice,
    superblock: Superblock,
    place: Option<JournalPlace>,
    options: &FsOptions,
) -> Result<Core> {
    let store = Arc::new(Store::open(device, superblock.block_size, place, StoreOptions::default(), &options.cache)?);
    let meta = Meta::over(Arc::clone(&store), &options.cache);
    let base = superblock.primary_block();
    let volume = Volume::new(superblock, meta, base, &options.cache);
    let alloc = Allocator::open(&volume.superblock, &store, base)?;
    Ok(Core::new(volume, store, alloc, Orphans::default()))
}

/// Returns the inodes that a crash left to be freed or cut.
///
/// # Errors
/// [`Error::Corrupt`] for a list that leads nowhere, and those of reading.
pub(super) fn find_orphans(core: &Core) -> Result<Vec<u32>> {
    let superblock = &core.volume.superblock;
    let mut list = Vec::new();
    let mut seen = HashSet::new();
    let mut at = superblock.last_orphan;
    while at != 0 {
        if at > superblock.inodes_count || at < superblock.first_inode || !seen.insert(at) {
            return Err(Error::corrupt("ext4 orphan list", format!("it leads to inode {at}")));
        }
        list.push(at);
        let (block, range) = core.volume.raw_inode(at)?;
        at = le32(&block[range], inode_field::DTIME);
    }
    core.orphans.load_list(list.clone());
    if superblock.has_compat(compat::ORPHAN_FILE) {
        let inode = core.volume.inode(superblock.orphan_file_inode)?;
        let runs = runs_of(&core.volume, &inode, "orphan file")?;
        let blocks = runs.iter().flat_map(|&(first, len)| first..first + u64::from(len)).collect();
        let inodes = core.orphans.load_file(core, inode.ino, inode.generation, blocks)?;
        for ino in inodes {
            if ino > superblock.inodes_count || ino < superblock.first_inode {
                return Err(Error::corrupt("ext4 orphan file", format!("it names inode {ino}")));
            }
            if seen.insert(ino) {
                list.push(ino);
            }
        }
    }
    Ok(list)
}

fn process_orphans(core: &Core, orphans: Vec<u32>) -> Result<()> {
    for ino in orphans {
        let (block, range) = core.volume.raw_inode(ino)?;
        let links = le16(&block[range], inode_field::LINKS);
        if links == 0 {
            core.volume.unnamed.write().insert(ino);
            names::forgotten(core, ino);
            if core.volume.unnamed.read().contains(&ino) {
                return Err(Error::corrupt("ext4 orphan list", format!("inode {ino} cannot be freed")));
            }
        } else {
            space::finish_cut(core, ino)?;
        }
    }
    Ok(())
}

/// Notes in the superblock that the filesystem is being written.
fn mark_open(core: &Core) -> Result<()> {
    let superblock = &core.volume.superblock;
    let has_journal = superblock.has_compat(compat::HAS_JOURNAL);
    if has_journal {
        // The flag must be where recovery looks for it before the journal holds anything, and is all that is written past
        // the journal.
        core.write_superblock(|bytes| {
            let flags = le32(bytes, field::INCOMPAT) | incompat::RECOVER;
            set_le32(bytes, field::INCOMPAT, flags);
        })?;
    }
    core.change_superblock(|bytes| {
        set_time(bytes, writer_field::MOUNT_TIME, writer_field::MOUNT_TIME_HI);
        set_time(bytes, field::WRITE_TIME, writer_field::WRITE_TIME_HI);
        // Linux counts in the groups alone until it unmounts, so a crash leaves old counts here.
        let free = core.alloc.free_clusters() << superblock.cluster_bits;
        counters::set(bytes, superblock, free, core.alloc.free_inodes());
        let count = le16(bytes, writer_field::MOUNT_COUNT);
        set_le16(bytes, writer_field::MOUNT_COUNT, count.wrapping_add(1));
        let place = &mut bytes[writer_field::LAST_MOUNTED..][..writer_field::LAST_MOUNTED_SIZE];
        place.fill(0);
        place[..LAST_MOUNTED.len()].copy_from_slice(LAST_MOUNTED);
        if !has_journal {
            let state = le16(bytes, field::STATE) & !STATE_CLEAN;
            set_le16(bytes, field::STATE, state);
        }
        if superblock.has_compat(compat::ORPHAN_FILE) {
            let flags = le32(bytes, field::RO_COMPAT) | ro_compat::ORPHAN_PRESENT;
            set_le32(bytes, field::RO_COMPAT, flags);
        }
    })?;
    if has_journal { Ok(()) } else { core.store.commit() }
}

/// What the superblock shows as the place of the last mount.
const LAST_MOUNTED: &[u8] = b"guestctl";

fn set_time(bytes: &mut [u8], at: usize, high: usize) {
    // As time(2) tells it, which lags behind the finer clock by up to a tick: e2fsck compares the two.
    let coarse = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE);
    let seconds = coarse.map_or_else(|_| now().seconds, |time| time.tv_sec()) as u64;
    set_le32(bytes, at, seconds as u32);
    bytes[high] = (seconds >> 32) as u8;
}

/// Ends all writing and marks the filesystem as closed.
///
/// # Errors
/// Those of the store.
pub(super) fn close(core: &Core) -> Result<()> {
    let superblock = &core.volume.superblock;
    core.table.take_windows(|run| core.alloc.unclaim(run));
    if !core.store.is_aborted() && core.store.begin(0).is_err() {
        // It was closed before.
        return core.store.close();
    }
    let unnamed: Vec<u32> = core.volume.unnamed.read().iter().copied().collect();
    for ino in unnamed {
        names::delete_unnamed(core, ino)?;
    }
    let is_empty = core.orphans.is_empty();
    core.change_superblock(|bytes| {
        set_time(bytes, field::WRITE_TIME, writer_field::WRITE_TIME_HI);
        if is_empty && superblock.has_compat(compat::ORPHAN_FILE) {
            let flags = le32(bytes, field::RO_COMPAT) & !ro_compat::ORPHAN_PRESENT;
            set_le32(bytes, field::RO_COMPAT, flags);
        }
    })?;
    core.store.close()?;
    // Only now is all of it where it belongs. Nothing else is written past the journal.
    core.write_superblock(|bytes| {
        let flags = le32(bytes, field::INCOMPAT) & !incompat::RECOVER;
        set_le32(bytes, field::INCOMPAT, flags);
        if superblock.state & STATE_CLEAN != 0 {
            let state = le16(bytes, field::STATE) | STATE_CLEAN;
            set_le16(bytes, field::STATE, state);
        }
    })
}
