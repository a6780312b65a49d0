//! The tables that change together, and the order in which they reach the file.
//!
//! A flush goes in steps, with a barrier (`fdatasync`) after each:
//!
//! 1. refcount blocks, and a refcount table that moved; new data is in the file already;
//! 2. entries of the refcount table, or the header's reference to the one that moved (only where there are any);
//! 3. slices of L2 and entries of L1: all they refer to is durable and counted;
//! 4. what nothing on disk refers to any more is uncounted, and may be used again once nobody uses it from before.
//!
//! New L2 tables are written whole when they are allocated, before anything refers to them. Whatever part of a step
//! reaches the disk before a crash, every reference there is to data that is durable and counted.

use super::refcount::{Refcounts, Run};
use super::{Image, Writer};
use crate::block::qcow2::header::{COPIED, OFFSET_MASK};
use crate::error::Result;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;

/// Entries of L1 that are written together: a sector of 512 bytes.
const L1_GROUP: usize = 64;
/// How many bytes of L2 may be dirty before they are flushed.
const MAX_DIRTY: u64 = 8 << 20;
/// How many clusters may wait to be given back before there is a flush.
const MAX_PENDING: usize = 1 << 18;

/// The state of a writable image that its lock guards.
pub(super) struct Meta {
    refcounts: Refcounts,
    dirty_l1: BTreeSet<usize>,
    /// Clusters that are referred to on disk, but in memory no more.
    pending: Vec<u64>,
    /// Clusters that nothing on disk refers to, with the epoch in which somebody may still have used them.
    retired: VecDeque<(u64, Vec<u64>)>,
}

impl Meta {
    pub fn new(refcounts: Refcounts) -> Self {
        Self { refcounts, dirty_l1: BTreeSet::new(), pending: Vec::new(), retired: VecDeque::new() }
    }

    /// Counts one reference to a cluster as to be given back, once nothing on disk refers to it.
    pub fn give_back(&mut self, cluster: u64) {
        self.pending.push(cluster);
    }
}

impl Image {
    /// Makes all that was written before durable.
    pub(in super::super) fn flush(&self) -> Result<()> {
        if self.writer.is_none() {
            return Ok(());
        }
        let writer = self.writer()?;
        let mut meta = writer.meta.lock();
        self.reclaim(writer, &mut meta)?;
        let is_clean = !meta.refcounts.is_dirty()
            && meta.dirty_l1.is_empty()
            && meta.pending.is_empty()
            && self.tables.dirty_bytes() == 0;
        if is_clean {
            drop(meta);
            return self.sync(writer);
        }
        self.flush_tables(writer, &mut meta)
    }

    /// Flushes the tables when much of them waits.
    pub(super) fn flush_when_full(&self, writer: &Writer, meta: &mut Meta) -> Result<()> {
        if self.tables.dirty_bytes() > MAX_DIRTY || meta.pending.len() > MAX_PENDING {
            self.flush_tables(writer, meta)?;
        }
        Ok(())
    }

    fn sync(&self, writer: &Writer) -> Result<()> {
        // After a failed sync the host may count as written what it lost, so that trying again proves nothing.
        self.storage.sync().inspect_err(|_| writer.has_failed.store(true, Ordering::Release))
    }

    fn flush_tables(&self, writer: &Writer, meta: &mut Meta) -> Result<()> {
        meta.refcounts.write_blocks()?;
        self.sync(writer)?;
        if meta.refcounts.is_table_dirty() {
            meta.refcounts.write_table()?;
            self.sync(writer)?;
        }
        let slices = self.tables.dirty();
        for (offset, slice) in &slices {
            let bytes = slice.table.to_bytes(slice.words.clone());
            self.storage.write_at(&bytes, offset + slice.words.start as u64 * 8)?;
        }
        for &group in &meta.dirty_l1 {
            let entries = &self.l1[group * L1_GROUP..self.l1.len().min((group + 1) * L1_GROUP)];
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.load(Ordering::Acquire).to_be_bytes()).collect();
            self.storage.write_at(&bytes, self.header.l1_offset + (group * L1_GROUP * 8) as u64)?;
        }
        if !slices.is_empty() || !meta.dirty_l1.is_empty() {
            self.sync(writer)?;
        }
        // Only what is durable counts as clean.
        slices.iter().for_each(|(offset, _)| self.tables.set_clean(*offset));
        meta.dirty_l1.clear();
        let mut unused = std::mem::take(&mut meta.pending);
        unused.append(&mut meta.refcounts.released);
        if !unused.is_empty() {
            meta.retired.push_back((writer.epochs.current(), unused));
        }
        self.reclaim(writer, meta)?;
        // Until these are durable some free clusters count as used, which harms nobody.
        meta.refcounts.write_blocks()
    }

    /// Uncounts the retired clusters that nobody can be using any more.
    fn reclaim(&self, writer: &Writer, meta: &mut Meta) -> Result<()> {
        let mut free = Vec::new();
        while let Some((epoch, _)) = meta.retired.front()
            && writer.epochs.is_over(*epoch)
        {
            for cluster in meta.retired.pop_front().map(|(_, clusters)| clusters).unwrap_or_default() {
                match meta.refcounts.release(cluster) {
                    Ok(true) => free.push(cluster),
                    Ok(false) => {}
                    // The image was damaged before; one cluster more or less changes nothing.
                    Err(error) => log::warn!("{}: {error}", self.name),
                }
            }
        }
        if !writer.discard {
            return Ok(());
        }
        free.sort_unstable();
        let bits = self.header.cluster_bits;
        for run in free.chunk_by(|one, next| one + 1 == *next) {
            self.storage.punch(run[0] << bits, (run.len() as u64) << bits)?;
        }
        Ok(())
    }

    /// Allocates up to `want` contiguous clusters, at least one.
    pub(super) fn alloc(&self, writer: &Writer, meta: &mut Meta, want: u64) -> Result<Run> {
        if !meta.retired.is_empty() {
            self.reclaim(writer, meta)?;
        }
        meta.refcounts.alloc(want)
    }

    /// Takes an allocation back that nothing refers to yet.
    pub(super) fn unalloc(&self, writer: &Writer, run: Run) {
        let mut meta = writer.meta.lock();
        for cluster in run.first..run.first + run.count {
            if let Err(error) = meta.refcounts.release(cluster) {
                log::warn!("{}: {error}", self.name);
            }
        }
    }

    /// Returns the host offset of the L2 table for a cluster of the disk; a new one where there was none, or one that
    /// snapshots use too.
    pub(super) fn own_l2(&self, writer: &Writer, meta: &mut Meta, cluster: u64) -> Result<u64> {
        let old = self.l2_offset(cluster)?;
        let index = (cluster >> self.header.l2_bits()) as usize;
        let word = &self.l1[index];
        if old != 0 && word.load(Ordering::Acquire) & COPIED != 0 {
            return Ok(old);
        }
        let mut bytes = vec![0; self.header.cluster_size() as usize];
        if old != 0 {
            // A table that is shared never changes, so that the file holds the whole of it.
            self.storage.read_at(&mut bytes, old)?;
        }
        let run = self.alloc(writer, meta, 1)?;
        let new = run.first << self.header.cluster_bits;
        debug_assert_eq!(new & !OFFSET_MASK, 0);
        if let Err(error) = self.storage.write_at(&bytes, new) {
            meta.refcounts.release(run.first)?;
            return Err(error);
        }
        writer.protected.add(run.first, 1);
        for slice in (new..new + self.header.cluster_size()).step_by(self.tables.slice_size() as usize) {
            self.tables.forget(slice);
        }
        word.store(new | COPIED, Ordering::Release);
        meta.dirty_l1.insert(index / L1_GROUP);
        if old != 0 {
            meta.give_back(old >> self.header.cluster_bits);
        }
        Ok(new)
    }
}
