//! Where free blocks are looked for.
//!
//! First the block after the last one of the file; then the first run that is long enough in the same group, then in the
//! groups after it; then the longest run there is. What a group cannot offer is remembered, so that full groups cost
//! nothing.

use super::super::super::features::ro_compat;
use super::super::super::group::{BLOCK_UNINIT, GroupDescriptor};
use super::{Allocator, Bits, Group, Run, disk, read_descriptor};
use crate::error::{Error, Result};
use std::sync::atomic::Ordering;

impl Allocator {
    /// Claims up to `want` blocks in a row, at `goal` or near it, and the rest of their last cluster.
    ///
    /// # Errors
    /// `ENOSPC` when no block is free, and those of reading bitmaps.
    pub(in crate::fs::ext4) fn claim(&self, goal: u64, want: u32) -> Result<Run> {
        let want = want.div_ceil(1 << self.superblock.cluster_bits).clamp(1, self.superblock.clusters_per_group);
        let count = self.groups.len() as u32;
        let (mut home, mut first) = self.place(goal);
        if home >= count {
            (home, first) = (0, 0);
        }
        // The goal itself, where enough follows it.
        if let Some(run) = self.claim_at(home, first, want, want.min(16))? {
            return Ok(run);
        }
        // A run that is long enough, in a group from the goal's on.
        for step in 0..count {
            let from = if step == 0 { first } else { 0 };
            if let Some(run) = self.claim_in((home + step) % count, from, want, want)? {
                return Ok(run);
            }
        }
        if let Some(run) = self.claim_in(home, 0, want, want)? {
            return Ok(run);
        }
        // The longest run of the first group that has a fair one, then any.
        for least in [want.div_ceil(4), 1] {
            for step in 0..count {
                if let Some(run) = self.claim_in((home + step) % count, 0, want, least)? {
                    return Ok(run);
                }
            }
        }
        Err(Error::Errno(libc::ENOSPC))
    }

    /// Claims the first free run of a group from its cluster `from` on; returns it and where to go on.
    ///
    /// # Errors
    /// Those of reading bitmaps.
    pub(in crate::fs::ext4) fn claim_next(&self, number: u32, from: u32) -> Result<Option<(Run, u32)>> {
        let group = self.group(number)?;
        if group.free.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        self.load_blocks(number, group)?;
        let mut space = group.space.lock();
        let Some(bits) = &mut space.blocks else { return Ok(None) };
        let Some(first) = bits.next_free(from) else { return Ok(None) };
        let len = bits.free_from(first, u32::MAX);
        Ok(Some((self.take(number, group, bits, first, len), first + len)))
    }

    fn claim_at(&self, number: u32, first: u32, want: u32, least: u32) -> Result<Option<Run>> {
        let group = self.group(number)?;
        if group.free.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        self.load_blocks(number, group)?;
        let mut space = group.space.lock();
        let Some(bits) = &mut space.blocks else { return Ok(None) };
        let len = bits.free_from(first, want);
        if len < least || len == 0 {
            return Ok(None);
        }
        Ok(Some(self.take(number, group, bits, first, len)))
    }

    fn claim_in(&self, number: u32, from: u32, want: u32, least: u32) -> Result<Option<Run>> {
        let group = self.group(number)?;
        if group.free.load(Ordering::Relaxed) < least {
            return Ok(None);
        }
        match self.load_blocks(number, group) {
            Ok(()) => {}
            Err(error) if matches!(error.root(), Error::Corrupt { .. }) => {
                // Nothing more is taken from a group that is damaged; the others serve.
                log::warn!("{error}; nothing is allocated from group {number}");
                self.exclude(group);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut space = group.space.lock();
        if space.longest < least {
            return Ok(None);
        }
        let Some(bits) = &mut space.blocks else { return Ok(None) };
        let (found, longest) = bits.find_run(from, want);
        let Some((first, len)) = found.filter(|&(_, len)| len >= least) else {
            if from == 0 {
                space.longest = longest;
            }
            return Ok(None);
        };
        Ok(Some(self.take(number, group, bits, first, len)))
    }

    fn take(&self, number: u32, group: &Group, bits: &mut Bits, first: u32, len: u32) -> Run {
        bits.fill(first, len, true);
        group.free.fetch_sub(len, Ordering::Relaxed);
        self.free.fetch_sub(u64::from(len), Ordering::Relaxed);
        let bits = self.superblock.cluster_bits;
        Run { start: self.superblock.group_first_block(number) + (u64::from(first) << bits), len: len << bits }
    }

    fn exclude(&self, group: &Group) {
        let free = group.free.swap(0, Ordering::Relaxed);
        self.free.fetch_sub(u64::from(free), Ordering::Relaxed);
    }

    /// Checks that blocks are in use, so that they may be freed, and has their groups' bitmaps in memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for blocks that are free already or do not exist, and those of reading bitmaps.
    pub(in crate::fs::ext4) fn check_taken(&self, run: Run) -> Result<()> {
        for (number, first, len) in self.in_groups(run) {
            let group = self.group(number)?;
            self.load_blocks(number, group)?;
            let space = group.space.lock();
            let next_free = space.blocks.as_ref().and_then(|bits| bits.next_free(first));
            if first + len > self.clusters_in(number) || next_free.is_some_and(|free| free < first + len) {
                return Err(Error::corrupt(
                    format!("block bitmap of group {number}"),
                    format!("blocks in use at {} are free in it", run.start),
                ));
            }
        }
        Ok(())
    }

    /// Returns what of some blocks is free, and has their groups' bitmaps in memory.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for blocks that do not exist, and those of reading bitmaps.
    pub(in crate::fs::ext4) fn free_within(&self, run: Run) -> Result<Vec<Run>> {
        let mut free = Vec::new();
        for (number, first, len) in self.in_groups(run) {
            let group = self.group(number)?;
            self.load_blocks(number, group)?;
            let space = group.space.lock();
            let Some(bits) = space.blocks.as_ref() else { continue };
            let base = self.superblock.group_first_block(number);
            let end = (first + len).min(self.clusters_in(number));
            let mut at = first;
            while let Some(start) = bits.next_free(at).filter(|&start| start < end) {
                at = bits.next_taken(start).min(end);
                let bits = self.superblock.cluster_bits;
                free.push(Run { start: base + (u64::from(start) << bits), len: (at - start) << bits });
            }
        }
        Ok(free)
    }

    /// Reads a group's block bitmap into memory, once.
    pub(super) fn load_blocks(&self, number: u32, group: &Group) -> Result<()> {
        if group.space.lock().blocks.is_some() {
            return Ok(());
        }
        let _disk = group.disk.lock();
        let descriptor = read_descriptor(&self.superblock, &self.store, self.base, number)?;
        let bytes = self.block_bitmap(number, &descriptor)?;
        let bits = Bits::from_disk(&bytes, self.clusters_in(number));
        let free = bits.count_free();
        if free != descriptor.free_clusters {
            return Err(Error::corrupt(
                format!("block bitmap of group {number}"),
                format!("{free} clusters are free in it, {} by the descriptor", descriptor.free_clusters),
            ));
        }
        let mut space = group.space.lock();
        // A group is loaded before anything is freed in it, so what the bitmap shows as free is free in memory, too.
        space.blocks.get_or_insert(bits);
        Ok(())
    }

    /// Returns a group's block bitmap as the store has it, or as it would be if nobody has written it yet.
    pub(super) fn block_bitmap(&self, number: u32, descriptor: &GroupDescriptor) -> Result<Vec<u8>> {
        if self.has_lazy_groups() && descriptor.flags & BLOCK_UNINIT != 0 {
            return Ok(disk::fresh_block_bitmap(&self.superblock, number, descriptor, self.clusters_in(number)));
        }
        let bytes = self.store.read(descriptor.block_bitmap)?;
        let stored = disk::stored_checksums(&self.raw_descriptor(number)?).0;
        disk::verify_block_bitmap(&self.superblock, number, descriptor, Some(stored), &bytes)?;
        Ok(bytes.to_vec())
    }

    /// Says whether groups may be left uninitialised.
    pub(super) fn has_lazy_groups(&self) -> bool {
        self.superblock.has_metadata_csum() || self.superblock.has_ro_compat(ro_compat::GDT_CSUM)
    }
}
