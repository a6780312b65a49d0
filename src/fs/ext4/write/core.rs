//! What all operations share: the volume that is read, the store that is changed, the allocator, and the inodes in memory.
//!
//! Locks are taken in this order: the renaming of folders, inodes (a parent before its children), then a handle of the
//! store, then the values of attributes, then the orphans, then a group's bitmap.

use super::super::features::incompat;
use super::super::inode::{self, Inode, field};
use super::super::superblock::SUPERBLOCK_OFFSET;
use super::super::volume::Volume;
use super::alloc::{Allocator, Run};
use super::counters;
use super::edit::{InodeEdit, now};
use super::gate::Gate;
use super::inodes::{InodeState, InodeTable};
use super::op::Op;
use super::orphans::Orphans;
use super::store::{Handle, Store, Tid};
use super::values::Values;
use super::xattr_edit;
use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How often a reader tries before it waits for whoever changes what it reads.
const READ_TRIES: usize = 4;

/// The blocks that one ordinary operation changes, at most: bitmaps, descriptors, inodes, the superblock, a directory's.
pub(super) const CREDITS: u32 = 40;

/// What all operations share.
pub(in crate::fs::ext4) struct Core {
    pub(in crate::fs::ext4) volume: Volume,
    pub(super) store: Arc<Store>,
    pub(super) alloc: Arc<Allocator>,
    pub(super) gate: Gate,
    pub(super) table: InodeTable,
    pub(super) orphans: Orphans,
    /// Held while a folder moves to another, so that nobody moves one below itself.
    pub(super) moving: Mutex<()>,
    /// Guards how many inodes share blocks of attributes. Taken with a handle.
    sharing: Mutex<()>,
    pub(super) values: Values,
    /// Freed space is told to the device after the commit.
    pub(super) discards: AtomicBool,
    generation: AtomicU32,
}

impl Core {
    pub(super) fn new(volume: Volume, store: Arc<Store>, alloc: Allocator, orphans: Orphans) -> Self {
        let seed = RandomState::new().hash_one(now().nanoseconds) as u32;
        Self {
            volume,
            store,
            alloc: Arc::new(alloc),
            gate: Gate::new(),
            table: InodeTable::new(),
            orphans,
            moving: Mutex::new(()),
            sharing: Mutex::new(()),
            values: Values::default(),
            discards: AtomicBool::new(false),
            generation: AtomicU32::new(seed),
        }
    }

    /// Returns the generation of a new inode.
    pub(super) fn next_generation(&self) -> u32 {
        // An odd step visits every number once, in an order that does not show how many came before.
        self.generation.fetch_add(0x9e37_79b1, Ordering::Relaxed)
    }

    /// Returns an inode number as the filesystem keeps it.
    ///
    /// # Errors
    /// `ENOENT` for one that cannot be.
    pub(super) fn number(&self, ino: u64) -> Result<u32> {
        u32::try_from(ino)
            .ok()
            .filter(|&ino| ino != 0 && ino <= self.volume.superblock.inodes_count)
            .ok_or(Error::Errno(libc::ENOENT))
    }

    /// Returns what is known of an inode in memory.
    pub(super) fn state(&self, ino: u32) -> Arc<InodeState> {
        self.table.state(ino, |run| self.alloc.unclaim(run))
    }

    /// Returns an inode and its bytes, to be changed. Its lock is held.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub(super) fn edit(&self, ino: u32) -> Result<(Arc<Inode>, InodeEdit)> {
        let inode = self.volume.inode(ino)?;
        let (block, range) = self.volume.raw_inode(ino)?;
        Ok((inode, InodeEdit::new(ino, &block[range])))
    }

    /// Writes an inode to its table, but for its time of deletion, which the list of orphans uses.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn write_inode(&self, handle: &mut Handle<'_>, edit: &InodeEdit) -> Result<()> {
        let superblock = &self.volume.superblock;
        let (block, from) = self.volume.inode_place(edit.ino)?;
        handle.modify(block, |bytes| {
            let slot = &mut bytes[from..from + superblock.inode_size as usize];
            let dtime = if edit.is_new { 0 } else { le32(slot, field::DTIME) };
            slot.copy_from_slice(edit.raw());
            set_le32(slot, field::DTIME, dtime);
            inode::set_checksum(superblock, edit.ino, slot);
        })?;
        if edit.links() == 0 {
            self.volume.unnamed.write().insert(edit.ino);
        } else if !self.volume.unnamed.read().is_empty() {
            self.volume.unnamed.write().remove(&edit.ino);
        }
        match edit.decode(superblock) {
            Ok(inode) => self.volume.renew_inode(Arc::new(inode)),
            Err(_) => self.volume.forget_inode(edit.ino),
        }
        Ok(())
    }

    /// Takes an inode's share of a block of attributes away. Where it was the last one, so that the block is to be freed,
    /// returns the inodes that hold values of it.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn share_less(&self, handle: &mut Handle<'_>, block: u64) -> Result<Option<Vec<u32>>> {
        let _sharing = self.sharing.lock();
        let bytes = self.store.read(block)?;
        let count = xattr_edit::refcount(&bytes);
        if count <= 1 {
            let has_values = self.volume.superblock.has_incompat(incompat::EA_INODE);
            let values = if has_values { xattr_edit::values_of_block(block, &bytes)? } else { Vec::new() };
            handle.forget(block)?;
            return Ok(Some(values));
        }
        let superblock = &self.volume.superblock;
        let seed = superblock.has_metadata_csum().then_some(superblock.checksum_seed);
        handle.modify(block, |bytes| {
            xattr_edit::set_refcount(bytes, count - 1);
            xattr_edit::seal_block(seed, block, bytes);
        })?;
        Ok(None)
    }

    /// Reads something of an inode again until nobody changed it meanwhile.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn stable<T>(&self, ino: u32, mut read: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..READ_TRIES {
            let Some(seen) = self.gate.look(ino) else {
                std::thread::yield_now();
                continue;
            };
            let result = read();
            if self.gate.is_unchanged(ino, seen) {
                return result;
            }
        }
        let state = self.state(ino);
        let _inner = state.lock.lock();
        // Other inodes share the counters, so they may still move; this one cannot.
        read()
    }

    /// Does an operation whose inodes are locked. Where space ran out, it is done once more after all that can be freed
    /// is free.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) fn transact<T>(&self, credits: u32, mut work: impl FnMut(&mut Op<'_>) -> Result<T>) -> Result<(T, Tid)> {
        let mut try_once = || -> Result<(T, Tid)> {
            let mut op = Op::begin(self, credits)?;
            let value = work(&mut op)?;
            Ok((value, op.finish()?))
        };
        match try_once() {
            Err(error) if error.is_errno(libc::ENOSPC) && self.free_more()? => try_once(),
            result => result,
        }
    }

    /// Gives back what is set aside, and waits for what was freed. Returns whether there may be more space now. No handle is
    /// held.
    ///
    /// # Errors
    /// Those of committing.
    pub(super) fn free_more(&self) -> Result<bool> {
        let mut found = false;
        self.table.take_windows(|run| {
            self.alloc.unclaim(run);
            found = true;
        });
        if self.alloc.pending() > 0 {
            self.store.commit()?;
            found = true;
        }
        Ok(found)
    }

    /// Claims up to `want` blocks in a row near `goal` for data, before an operation begins.
    ///
    /// # Errors
    /// `ENOSPC`, and those of reading bitmaps and of committing.
    pub(super) fn claim(&self, goal: u64, want: u32) -> Result<Run> {
        match self.alloc.claim(goal, want) {
            Err(error) if error.is_errno(libc::ENOSPC) && self.free_more()? => self.alloc.claim(goal, want),
            result => result,
        }
    }

    /// Returns what tells the device of freed blocks, where that is wanted.
    pub(super) fn discarder(&self) -> Option<impl Fn(Run) + Send + use<>> {
        if !self.discards.load(Ordering::Relaxed) {
            return None;
        }
        let device = self.store.device().clone();
        let block_size = u64::from(self.volume.superblock.block_size);
        Some(move |run: Run| {
            if let Err(error) = device.discard(run.start * block_size, u64::from(run.len) * block_size) {
                log::warn!("freed space could not be discarded: {error}");
            }
        })
    }

    /// Writes contents of a file to the device. Where the host fails, nothing more is written to this filesystem.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn write_data(&self, data: &[u8], offset: u64) -> Result<()> {
        self.store.device().write_at(data, offset).inspect_err(|error| self.store.abort(error))
    }

    /// Makes contents of a file zeroes on the device, as [`write_data`](Self::write_data) does.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn write_zeroes(&self, offset: u64, len: u64) -> Result<()> {
        self.store.device().write_zeroes(offset, len, true).inspect_err(|error| self.store.abort(error))
    }

    /// Changes the superblock alone.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn change_superblock(&self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut handle = self.store.begin(2)?;
        counters::modify(&mut handle, &self.volume.superblock, change)
    }

    /// Writes the newest superblock to the device, past the journal, durably.
    ///
    /// # Errors
    /// Those of the device.
    pub(super) fn write_superblock(&self, change: impl FnOnce(&mut [u8])) -> Result<()> {
        let mut bytes = self.volume.meta.superblock()?;
        change(&mut bytes);
        self.volume.superblock.set_checksum(&mut bytes);
        let device = self.store.device();
        device.write_at(&bytes, SUPERBLOCK_OFFSET)?;
        device.flush()?;
        self.store.invalidate(SUPERBLOCK_OFFSET / u64::from(self.volume.superblock.block_size));
        Ok(())
    }

    /// Fails where nothing may be written any more.
    ///
    /// # Errors
    /// `EROFS`.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.store.is_aborted() { Err(Error::Errno(libc::EROFS)) } else { Ok(()) }
    }
}
