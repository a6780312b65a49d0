//! One operation: what it changes is kept as a whole, or undone.
//!
//! Blocks that belong to the inodes whose locks the operation holds (directories, trees, attributes) are changed at once
//! and put back when the operation fails. What others change too (bitmaps, descriptors, the inode table, the superblock) is
//! changed when the operation ends well.

use super::super::features::incompat;
use super::alloc::Run;
use super::core::Core;
use super::counters;
use super::edit::InodeEdit;
use super::store::{Handle, Tid};
use super::values::Count;
use crate::error::{Error, Result};
use std::sync::Arc;

/// An operation under way. Dropped without [`finish`](Op::finish), it leaves nothing.
pub(in crate::fs::ext4) struct Op<'a> {
    pub(super) core: &'a Core,
    handle: Option<Handle<'a>>,
    /// Blocks that were changed, with what they held; `None` for blocks that were made.
    undo: Vec<(u64, Option<Arc<[u8]>>)>,
    claims: Vec<Run>,
    /// Claimed before the operation began, and the caller's again should it fail.
    lent: Vec<Run>,
    frees: Vec<Run>,
    new_inodes: Vec<(u32, bool)>,
    gone_inodes: Vec<(u32, bool)>,
    /// Blocks of attributes of which an inode gives up its share.
    released: Vec<u64>,
    /// Inodes that hold values and get one reference more. They are pinned.
    pub(super) pinned_values: Vec<u32>,
    /// Inodes that hold values and get one reference less.
    pub(super) dropped_values: Vec<u32>,
    /// Inodes that were made for values: hash, size and number.
    pub(super) new_values: Vec<(u32, u64, u32)>,
    edits: Vec<InodeEdit>,
    /// Nodes of extent trees that were changed: inode and block.
    nodes: Vec<(u32, u64)>,
    orphans_added: Vec<u32>,
    orphans_removed: Vec<u32>,
    gated: Vec<u32>,
    has_data: bool,
}

impl<'a> Op<'a> {
    /// Begins an operation that changes at most about `credits` blocks.
    ///
    /// # Errors
    /// `EROFS` after a failure.
    pub(super) fn begin(core: &'a Core, credits: u32) -> Result<Self> {
        let handle = core.store.begin(credits.min(core.store.max_credits()))?;
        Ok(Self {
            core,
            handle: Some(handle),
            undo: Vec::new(),
            claims: Vec::new(),
            lent: Vec::new(),
            frees: Vec::new(),
            new_inodes: Vec::new(),
            gone_inodes: Vec::new(),
            released: Vec::new(),
            pinned_values: Vec::new(),
            dropped_values: Vec::new(),
            new_values: Vec::new(),
            edits: Vec::new(),
            nodes: Vec::new(),
            orphans_added: Vec::new(),
            orphans_removed: Vec::new(),
            gated: Vec::new(),
            has_data: false,
        })
    }

    fn handle(&mut self) -> Result<&mut Handle<'a>> {
        self.handle.as_mut().ok_or(Error::Errno(libc::EROFS))
    }

    /// Returns how many more blocks may be changed.
    pub(super) fn credits(&self) -> u32 {
        self.handle.as_ref().map_or(0, Handle::credits)
    }

    /// Has readers of an inode notice that its entries or its mapping change.
    pub(super) fn gate(&mut self, ino: u32) {
        if !self.gated.contains(&ino) {
            self.core.gate.enter(ino);
            self.gated.push(ino);
        }
    }

    /// Returns a block.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::fs::ext4) fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        self.core.store.read(block)
    }

    /// Changes a block that belongs to an inode whose lock is held.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::fs::ext4) fn modify<R>(&mut self, block: u64, change: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        if !self.undo.iter().any(|&(number, _)| number == block) {
            let before = self.read(block)?;
            self.undo.push((block, Some(before)));
        }
        self.handle()?.modify(block, change)
    }

    /// Fills a block that was claimed for metadata.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::fs::ext4) fn create<R>(&mut self, block: u64, fill: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        self.undo.push((block, None));
        self.handle()?.create(block, fill)
    }

    /// Notes that a node of an inode's extent tree was changed.
    pub(in crate::fs::ext4) fn note_node(&mut self, ino: u32, block: u64) {
        self.core.volume.forget_node(ino, block);
        self.nodes.push((ino, block));
    }

    /// Claims a block near `goal`, the first of a cluster.
    ///
    /// # Errors
    /// `ENOSPC`, and those of reading bitmaps.
    pub(in crate::fs::ext4) fn claim(&mut self, goal: u64) -> Result<u64> {
        Ok(self.claim_run(goal, 1)?.start)
    }

    /// Claims up to `want` blocks in a row near `goal`, from the beginning of a cluster on.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    pub(super) fn claim_run(&mut self, goal: u64, want: u32) -> Result<Run> {
        let run = self.core.alloc.claim(goal, want)?;
        self.claims.push(run);
        Ok(Run { start: run.start, len: run.len.min(want) })
    }

    /// Takes over blocks that were claimed before the operation began: they are marked when it ends well, else they stay
    /// the caller's.
    pub(super) fn adopt(&mut self, run: Run) {
        match self.lent.last_mut() {
            Some(last) if last.end() == run.start => last.len += run.len,
            _ => self.lent.push(run),
        }
    }

    /// Frees the clusters that blocks of a file's contents lie in.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they are free already.
    pub(in crate::fs::ext4) fn free(&mut self, run: Run) -> Result<()> {
        let run = self.core.alloc.whole(run);
        self.core.alloc.check_taken(run)?;
        if self.frees.iter().any(|freed| freed.start < run.end() && run.start < freed.end()) {
            return Err(Error::corrupt("ext4 block map", format!("the block {} is used twice", run.start)));
        }
        match self.frees.last_mut() {
            Some(last) if last.end() == run.start => last.len += run.len,
            _ => self.frees.push(run),
        }
        Ok(())
    }

    /// Notes that an inode's mapping names blocks no more, which are metadata where it is a directory.
    ///
    /// # Errors
    /// Those of the store.
    pub(in crate::fs::ext4) fn forget_mapped(&mut self, edit: &InodeEdit, run: Run) -> Result<()> {
        if !edit.is_dir() {
            return Ok(());
        }
        (run.start..run.end()).try_for_each(|block| self.forget(block))
    }

    /// Frees a block of metadata, and its cluster.
    ///
    /// # Errors
    /// As [`free`](Self::free), and those of the store.
    pub(in crate::fs::ext4) fn free_metadata(&mut self, block: u64) -> Result<()> {
        self.free(Run { start: block, len: 1 })?;
        self.forget(block)
    }

    fn forget(&mut self, block: u64) -> Result<()> {
        if !self.undo.iter().any(|&(number, _)| number == block) {
            let before = self.read(block)?;
            self.undo.push((block, Some(before)));
        }
        self.handle()?.forget(block)
    }

    /// Gives up an inode's share of a block of attributes, which is freed with the last one. The inodes that hold its values
    /// were checked.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the block is free already.
    pub(super) fn release_shared(&mut self, ino: u32, block: u64) -> Result<()> {
        self.gate(ino);
        self.core.alloc.check_taken(Run { start: block, len: 1 })?;
        self.released.push(block);
        Ok(())
    }

    /// Claims an inode for a new entry of folder `parent`.
    ///
    /// # Errors
    /// `ENOSPC`, and those of reading bitmaps.
    pub(super) fn new_inode(&mut self, parent: u32, is_dir: bool) -> Result<u32> {
        let ino = self.core.alloc.claim_inode(parent, is_dir)?;
        self.new_inodes.push((ino, is_dir));
        Ok(ino)
    }

    /// Frees an inode.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is free already.
    pub(super) fn free_inode(&mut self, ino: u32, is_dir: bool) -> Result<()> {
        self.core.alloc.check_inode_taken(ino)?;
        self.gone_inodes.push((ino, is_dir));
        Ok(())
    }

    /// Has an inode written when the operation ends.
    pub(super) fn put(&mut self, edit: InodeEdit) {
        match self.edits.iter_mut().find(|older| older.ino == edit.ino) {
            Some(older) => *older = edit,
            None => self.edits.push(edit),
        }
    }

    /// Has an inode remembered as one to be freed, or truncated, should the filesystem not be closed.
    pub(super) fn add_orphan(&mut self, ino: u32) {
        self.orphans_added.push(ino);
    }

    /// Has an inode no longer remembered so.
    pub(super) fn remove_orphan(&mut self, ino: u32) {
        self.orphans_removed.push(ino);
    }

    /// Notes that file data was written that belongs to the operation.
    pub(super) fn ordered(&mut self) {
        self.has_data = true;
    }

    /// Ends the operation: all it changed is in one transaction, whose number this returns.
    ///
    /// # Errors
    /// Those of the store, which is read-only then.
    pub(super) fn finish(self) -> Result<Tid> {
        let core = self.core;
        let tid = self.finish_alone()?;
        if core.volume.superblock.has_incompat(incompat::EA_INODE) {
            core.values.sweep(core);
        }
        Ok(tid)
    }

    /// Ends the operation as [`finish`](Self::finish) does, and leaves inodes of values that nobody needs any more to a
    /// later one.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub(super) fn finish_alone(mut self) -> Result<Tid> {
        self.settle()
    }

    /// Ends the operation so far and goes on with a new one, perhaps in another transaction.
    ///
    /// # Errors
    /// As [`finish`](Self::finish).
    pub(super) fn step(&mut self, credits: u32) -> Result<()> {
        self.settle()?;
        let credits = credits.min(self.core.store.max_credits());
        self.handle()?.restart(credits)
    }

    fn settle(&mut self) -> Result<Tid> {
        match self.write_shared() {
            Ok(tid) => {
                self.undo.clear();
                Ok(tid)
            }
            Err(error) => {
                // Shared blocks may have been changed in part, which nothing can undo.
                self.core.store.abort(&error);
                Err(error)
            }
        }
    }

    fn write_shared(&mut self) -> Result<Tid> {
        let core = self.core;
        let handle = self.handle.as_mut().ok_or(Error::Errno(libc::EROFS))?;
        if self.has_data {
            handle.ordered();
            self.has_data = false;
        }
        for run in std::mem::take(&mut self.claims).into_iter().chain(std::mem::take(&mut self.lent)) {
            core.alloc.mark(handle, run, true)?;
        }
        for (ino, is_dir) in std::mem::take(&mut self.new_inodes) {
            core.alloc.mark_inode(handle, ino, is_dir, true)?;
            if is_dir {
                core.alloc.count_dir(ino, true);
            }
        }
        for (ino, block) in self.nodes.drain(..) {
            core.volume.forget_node(ino, block);
        }
        for edit in self.edits.drain(..) {
            core.write_inode(handle, &edit)?;
        }
        for ino in self.pinned_values.drain(..) {
            let counted = core.values.count(core, handle, ino, Count::Up);
            core.values.unpin(core, ino);
            counted?;
        }
        for ino in self.dropped_values.drain(..) {
            core.values.count(core, handle, ino, Count::Down)?;
        }
        for (hash, size, ino) in self.new_values.drain(..) {
            core.values.remember(hash, size, ino);
        }
        for ino in self.orphans_added.drain(..) {
            core.orphans.add(core, handle, ino)?;
        }
        for ino in self.orphans_removed.drain(..) {
            core.orphans.remove(core, handle, ino)?;
        }
        for &(ino, is_dir) in &self.gone_inodes {
            core.orphans.set_deleted(core, handle, ino)?;
            core.alloc.mark_inode(handle, ino, is_dir, false)?;
            if is_dir {
                core.alloc.count_dir(ino, false);
            }
        }
        let mut frees = std::mem::take(&mut self.frees);
        for block in self.released.drain(..) {
            if let Some(values) = core.share_less(handle, block)? {
                frees.push(core.alloc.whole(Run { start: block, len: 1 }));
                for ino in values {
                    core.values.count(core, handle, ino, Count::Down)?;
                }
            }
        }
        for run in &frees {
            core.alloc.mark(handle, *run, false)?;
            core.alloc.note_pending(*run);
        }
        if !frees.is_empty() {
            let alloc = Arc::clone(&core.alloc);
            let discard = core.discarder();
            handle.after_commit(Box::new(move || {
                for run in frees {
                    if let Some(discard) = &discard {
                        discard(run);
                    }
                    alloc.settle(run);
                }
            }));
        }
        for (ino, _) in std::mem::take(&mut self.gone_inodes) {
            core.volume.unnamed.write().remove(&ino);
            core.volume.forget_inode(ino);
            core.alloc.unclaim_inode(ino);
        }
        Ok(handle.tid())
    }

    /// Changes the superblock.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn modify_superblock<R>(&mut self, change: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        let superblock = &self.core.volume.superblock;
        let handle = self.handle.as_mut().ok_or(Error::Errno(libc::EROFS))?;
        counters::modify(handle, superblock, change)
    }

    fn undo(&mut self) {
        let Some(handle) = self.handle.as_mut() else { return };
        for (block, before) in self.undo.drain(..).rev() {
            let result = match before {
                Some(bytes) => handle.create(block, |now| now.copy_from_slice(&bytes)),
                None => handle.forget(block),
            };
            if let Err(error) = result {
                self.core.store.abort(&error);
                return;
            }
        }
        for (ino, block) in self.nodes.drain(..) {
            self.core.volume.forget_node(ino, block);
        }
    }
}

impl Drop for Op<'_> {
    fn drop(&mut self) {
        if !self.undo.is_empty() && !std::thread::panicking() {
            self.undo();
        }
        for run in self.claims.drain(..) {
            self.core.alloc.unclaim(run);
        }
        for (ino, _) in self.new_inodes.drain(..) {
            self.core.alloc.unclaim_inode(ino);
        }
        for ino in self.pinned_values.drain(..) {
            self.core.values.unpin(self.core, ino);
        }
        // The handle ends before readers are let through, so that they find all of the operation.
        self.handle = None;
        for ino in self.gated.drain(..) {
            self.core.gate.leave(ino);
        }
    }
}
