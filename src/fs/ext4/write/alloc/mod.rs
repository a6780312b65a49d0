//! Which blocks and inodes are free, in memory, and how that is written to the groups' bitmaps and descriptors.
//!
//! What is claimed is taken in memory alone; an operation that keeps it marks it on disk when it ends
//! ([`Allocator::mark`]), and one that fails gives it back. What is freed on disk becomes free in memory after the commit,
//! so that no block is written anew while a crash could still bring back the file it belonged to.
//!
//! Space is taken in clusters, which are blocks but with `bigalloc`. Runs are given in blocks, and cover whole clusters
//! where they are claimed or freed; groups count clusters.
//!
//! Group descriptors and bitmaps are specified in the kernel's `Documentation/filesystems/ext4/group_descr.rst` and
//! `bitmaps.rst`.

mod bits;
mod disk;
mod inodes;
mod search;

use super::super::group::{self, GroupDescriptor};
use super::super::superblock::Superblock;
use super::store::Store;
use crate::error::{Error, Result};
use bits::Bits;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Consecutive blocks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs::ext4) struct Run {
    /// The first one.
    pub(in crate::fs::ext4) start: u64,
    /// How many, at least 1.
    pub(in crate::fs::ext4) len: u32,
}

impl Run {
    /// Returns the block after it.
    pub(in crate::fs::ext4) fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// What is free in a group, in memory.
struct Space {
    blocks: Option<Bits>,
    inodes: Option<Bits>,
    /// No free run is longer than this.
    longest: u32,
}

/// One group.
struct Group {
    /// Guards the bitmaps in memory. No I/O under it.
    space: Mutex<Space>,
    /// Keeps a bitmap and its checksum in the descriptor together. Taken before `space`, by threads that have a handle or
    /// load a bitmap.
    disk: Mutex<()>,
    /// Free clusters in memory.
    free: AtomicU32,
    free_inodes: AtomicU32,
    dirs: AtomicU32,
}

/// The allocator of a filesystem.
pub(super) struct Allocator {
    superblock: Superblock,
    store: Arc<Store>,
    /// The block of the superblock copy whose group descriptors are used.
    base: u64,
    groups: Vec<Group>,
    /// Free clusters in memory, in all.
    free: AtomicU64,
    /// Freed clusters that wait for a commit.
    pending: AtomicU64,
    free_inodes: AtomicU64,
}

impl Allocator {
    /// Reads how full every group is.
    ///
    /// # Errors
    /// Those of the group descriptors.
    pub(super) fn open(superblock: &Superblock, store: &Arc<Store>, base: u64) -> Result<Self> {
        let mut groups = Vec::with_capacity(superblock.group_count as usize);
        let (mut free, mut free_inodes) = (0, 0);
        for number in 0..superblock.group_count {
            let descriptor = read_descriptor(superblock, store, base, number)?;
            check_places(superblock, number, &descriptor)?;
            let blocks = descriptor.free_clusters.min(superblock.clusters_per_group);
            let inodes = descriptor.free_inodes.min(superblock.inodes_per_group);
            free += u64::from(blocks);
            free_inodes += u64::from(inodes);
            groups.push(Group {
                space: Mutex::new(Space { blocks: None, inodes: None, longest: u32::MAX }),
                disk: Mutex::new(()),
                free: AtomicU32::new(blocks),
                free_inodes: AtomicU32::new(inodes),
                dirs: AtomicU32::new(descriptor.used_dirs),
            });
        }
        Ok(Self {
            superblock: superblock.clone(),
            store: Arc::clone(store),
            base,
            groups,
            free: AtomicU64::new(free),
            pending: AtomicU64::new(0),
            free_inodes: AtomicU64::new(free_inodes),
        })
    }

    /// Returns how many clusters are free or will be after the next commit.
    pub(super) fn free_clusters(&self) -> u64 {
        self.free.load(Ordering::Relaxed) + self.pending.load(Ordering::Relaxed)
    }

    /// Returns how many freed clusters wait for a commit.
    pub(super) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Returns how many inodes are free.
    pub(super) fn free_inodes(&self) -> u64 {
        self.free_inodes.load(Ordering::Relaxed)
    }

    /// Returns the group of a block, and in which of the group's clusters it lies.
    fn place(&self, block: u64) -> (u32, u32) {
        let per_group = u64::from(self.superblock.blocks_per_group);
        let from = block.saturating_sub(u64::from(self.superblock.first_data_block));
        ((from / per_group) as u32, ((from % per_group) >> self.superblock.cluster_bits) as u32)
    }

    /// Returns how many clusters a group has.
    fn clusters_in(&self, group: u32) -> u32 {
        let first = self.superblock.group_first_block(group);
        let blocks = (self.superblock.blocks_count - first).min(u64::from(self.superblock.blocks_per_group));
        blocks.div_ceil(1 << self.superblock.cluster_bits) as u32
    }

    /// Returns the whole clusters that blocks lie in.
    pub(super) fn whole(&self, run: Run) -> Run {
        let inside = (1_u64 << self.superblock.cluster_bits) - 1;
        let start = run.start & !inside;
        Run { start, len: (((run.end() + inside) & !inside) - start) as u32 }
    }

    /// Returns the group that a block near an inode should lie in.
    pub(super) fn goal_of_inode(&self, ino: u32) -> u64 {
        self.superblock.group_first_block((ino - 1) / self.superblock.inodes_per_group)
    }

    /// Splits runs at the borders of groups: group, first cluster in it, count of clusters.
    fn in_groups(&self, run: Run) -> impl Iterator<Item = (u32, u32, u32)> {
        let bits = self.superblock.cluster_bits;
        let whole = self.whole(run);
        let mut at = whole.start;
        std::iter::from_fn(move || {
            if at >= whole.end() {
                return None;
            }
            let (group, first) = self.place(at);
            let left = (whole.end() - at) >> bits;
            let len = left.min(u64::from(self.superblock.clusters_per_group - first)) as u32;
            at += u64::from(len) << bits;
            Some((group, first, len))
        })
    }

    /// Returns how many clusters a run has.
    fn clusters(&self, run: Run) -> u64 {
        u64::from(self.whole(run).len) >> self.superblock.cluster_bits
    }

    /// Returns the bytes of a group's descriptor.
    fn raw_descriptor(&self, number: u32) -> Result<Vec<u8>> {
        let (block, from) = group::place(&self.superblock, self.base, number);
        Ok(self.store.read(block)?[from..from + self.superblock.descriptor_size as usize].to_vec())
    }

    fn group(&self, number: u32) -> Result<&Group> {
        self.groups
            .get(number as usize)
            .ok_or_else(|| Error::corrupt("ext4 block number", format!("there is no group {number}")))
    }

    /// Gives claimed blocks back that were not marked.
    pub(super) fn unclaim(&self, run: Run) {
        for (number, first, len) in self.in_groups(run) {
            let Some(group) = self.groups.get(number as usize) else { continue };
            let mut space = group.space.lock();
            if let Some(bits) = &mut space.blocks {
                let count = bits.fill(first, len, false);
                space.longest = u32::MAX;
                group.free.fetch_add(count, Ordering::Relaxed);
                self.free.fetch_add(u64::from(count), Ordering::Relaxed);
            }
        }
    }

    /// Makes blocks usable that were freed by a transaction that is durable now.
    pub(super) fn settle(&self, run: Run) {
        self.pending.fetch_sub(self.clusters(run), Ordering::Relaxed);
        for (number, first, len) in self.in_groups(run) {
            let Some(group) = self.groups.get(number as usize) else { continue };
            let mut space = group.space.lock();
            let count = match &mut space.blocks {
                Some(bits) => bits.fill(first, len, false),
                None => 0,
            };
            space.longest = u32::MAX;
            group.free.fetch_add(count, Ordering::Relaxed);
            self.free.fetch_add(u64::from(count), Ordering::Relaxed);
        }
    }

    /// Notes blocks that a transaction frees, which are usable once it is durable.
    pub(super) fn note_pending(&self, run: Run) {
        self.pending.fetch_add(self.clusters(run), Ordering::Relaxed);
    }
}

/// Reads a group's descriptor as the store has it.
fn read_descriptor(superblock: &Superblock, store: &Store, base: u64, number: u32) -> Result<GroupDescriptor> {
    let (block, from) = group::place(superblock, base, number);
    let bytes = store.read(block)?;
    GroupDescriptor::parse(superblock, number, &bytes[from..from + superblock.descriptor_size as usize])
}

/// Checks that a group's bitmaps lie in the filesystem.
fn check_places(superblock: &Superblock, number: u32, descriptor: &GroupDescriptor) -> Result<()> {
    for (what, block) in [("block", descriptor.block_bitmap), ("inode", descriptor.inode_bitmap)] {
        if block <= superblock.primary_block() || block >= superblock.blocks_count {
            return Err(Error::corrupt(
                format!("group descriptor {number}"),
                format!("its {what} bitmap lies at block {block}"),
            ));
        }
    }
    Ok(())
}
