//! The blocks of a filesystem's metadata, changed in transactions that go through the journal (JBD2).
//!
//! An operation takes a [`Handle`], changes blocks through it and drops it; operations of many threads gather in one
//! running transaction. A thread of the store's own commits it when it is old enough, large enough, or somebody waits:
//! its blocks go to the log in the format of the kernel, which, like `e2fsck`, recovers it after a crash. Blocks go to
//! where they belong later, in a checkpoint, sorted, when the log or memory fills or the store is closed.
//!
//! # Assumptions
//! - Nobody else writes metadata blocks. File data is written past the store, straight to the device.
//! - Callers keep operations on the same structure apart with locks of their own; the store only keeps changes of one
//!   block apart. A lock that is held while a handle is begun is not taken by a thread that has a handle already.
//! - The ext4 superblock's `needs_recovery` flag is the caller's.
//!
//! # Promises
//! - After a crash, recovery gives the filesystem as some transaction left it, at least the last one whose commit was
//!   waited for.
//! - File data that was written before an operation ended is durable before the operation is.
//! - A forgotten block's old copies are never written over what it holds after the commit.
//! - Readers never wait for a commit; what they hold never changes.
//! - After a failed write or flush, or a panic amid an operation, nothing more is committed: `EROFS`.
//!
//! Without a journal, commits write blocks straight to where they belong; then only a closed filesystem is sound.
//!
//! The format is described in the kernel's documentation, "ext4: Journal (jbd2)".

mod checksum;
mod clean;
mod commit_block;
mod descriptor;
mod format;
mod handle;
mod home;
mod log;
mod place;
mod recover;
mod revoke;
mod shared;
mod superblock;
mod transaction;
mod versions;

#[cfg(test)]
mod tests;

pub use handle::Handle;
pub use place::JournalPlace;
pub use transaction::{AfterCommit, Tid};

use crate::block::{BlockDevice, SharedDevice};
use crate::cache::CachePool;
use crate::error::{Error, IoContext, Result};
use clean::CleanBlocks;
use log::Log;
use parking_lot::{Condvar, Mutex};
use shared::{Limits, Shared};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use transaction::State;
use versions::BlockVersions;

/// The most that one transaction gathers, in bytes.
const MAX_TRANSACTION: usize = 16 << 20;
/// The most that one transaction gathers where there is no journal, in bytes.
const MAX_DIRTY: usize = 8 << 20;

/// How a store behaves.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// How old a transaction becomes before it is committed.
    pub commit_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { commit_interval: Duration::from_secs(5) }
    }
}

/// The metadata blocks of one filesystem, changed in transactions.
pub struct Store {
    shared: Arc<Shared>,
    /// The committing thread, once there was something to commit. Guards only its starting and its end.
    thread: Mutex<Option<JoinHandle<()>>>,
    has_thread: AtomicBool,
}

impl Store {
    /// Opens the blocks of a filesystem of `block_size` bytes each. Its journal must need no recovery
    /// ([`recover`](Self::recover)). Nothing is written before the first commit.
    ///
    /// # Errors
    /// `EROFS` on a device that is read-only, [`Error::Unsupported`] and [`Error::Corrupt`] of the journal, and those of
    /// reading.
    pub fn open(
        device: SharedDevice,
        block_size: u32,
        journal: Option<JournalPlace>,
        options: StoreOptions,
        pool: &Arc<CachePool>,
    ) -> Result<Self> {
        if device.is_read_only() {
            return Err(Error::Errno(libc::EROFS));
        }
        if !block_size.is_power_of_two() || !(1024..=1 << 16).contains(&block_size) {
            return Err(Error::corrupt("superblock", format!("blocks of {block_size} bytes")));
        }
        let log = journal.map(|place| Log::open(device.clone(), block_size, place)).transpose()?;
        let limits = match &log {
            Some(log) => {
                let quarter = (log.capacity() / 4) as usize;
                let overhead = log.blocks_for(quarter, 0) - quarter;
                let joined = (quarter - overhead).min(MAX_TRANSACTION / block_size as usize);
                Limits { joined, hard: 2 * joined }
            }
            None => {
                let joined = MAX_DIRTY / block_size as usize;
                Limits { joined, hard: 4 * joined }
            }
        };
        let shared = Arc::new(Shared {
            clean: CleanBlocks::new(device.clone(), block_size, pool),
            device,
            block_size,
            versions: BlockVersions::new(),
            limits,
            commit_interval: options.commit_interval,
            reserved: AtomicUsize::new(0),
            is_aborted: AtomicBool::new(false),
            io: Mutex::new(log),
            state: Mutex::new(State::new()),
            room: Condvar::new(),
            idle: Condvar::new(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        Ok(Self { shared, thread: Mutex::new(None), has_thread: AtomicBool::new(false) })
    }

    /// Recovers a filesystem that was not closed: writes what its journal holds to where it belongs and marks the journal
    /// empty. Returns whether there was anything to do. It may be interrupted and begun again at any time.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the journal is damaged, [`Error::Unsupported`] for features of it and for fast commits that
    /// wait to be replayed, and those of reading and writing. The journal still asks for recovery then.
    pub fn recover(device: &dyn BlockDevice, block_size: u32, place: &JournalPlace) -> Result<bool> {
        recover::recover(device, block_size, place)
    }

    /// Recovers a filesystem as [`recover`](Self::recover) does, and leaves fast commits where they are.
    ///
    /// # Errors
    /// As [`recover`](Self::recover), but for fast commits.
    pub(in crate::fs::ext4) fn recover_log(
        device: &dyn BlockDevice,
        block_size: u32,
        place: &JournalPlace,
    ) -> Result<bool> {
        recover::recover_log(device, block_size, place)
    }

    /// Returns the number of the transaction that fast commits of the journal stand for, where some wait to be replayed.
    ///
    /// # Errors
    /// As [`recover`](Self::recover), but for fast commits.
    pub(in crate::fs::ext4) fn fast_commits(
        device: &dyn BlockDevice,
        block_size: u32,
        place: &JournalPlace,
    ) -> Result<Option<u32>> {
        recover::fast_commits(device, block_size, place)
    }

    /// Writes blocks as one more transaction to the log of a filesystem that was not closed, durably. What fast commits said
    /// counts no more then.
    ///
    /// # Errors
    /// `ENOSPC` where the log has no room for them, and then nothing was written; those of reading and writing.
    pub(in crate::fs::ext4) fn append(
        device: &SharedDevice,
        block_size: u32,
        place: &JournalPlace,
        blocks: &[(u64, Arc<[u8]>)],
    ) -> Result<()> {
        recover::append(device, block_size, place, blocks)
    }

    /// Returns the size of a block, in bytes.
    pub fn block_size(&self) -> u32 {
        self.shared.block_size
    }

    /// Returns the device below, for file data.
    pub fn device(&self) -> &SharedDevice {
        &self.shared.device
    }

    /// Returns how many blocks one operation may ask for at most.
    pub fn max_credits(&self) -> u32 {
        u32::try_from(self.shared.limits.joined).unwrap_or(u32::MAX)
    }

    /// Returns the newest version of a block, committed or not.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the block passes the end of the device, and those of reading.
    pub fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        self.shared.read(block)
    }

    /// Begins an operation that changes at most `credits` blocks, each counted once; waits where the running transaction
    /// has no room for them.
    ///
    /// # Errors
    /// `EROFS` when the store has failed or was closed, [`Error::Usage`] when `credits` passes
    /// [`max_credits`](Self::max_credits), [`Error::Io`] when the host has no room for a thread.
    pub fn begin(&self, credits: u32) -> Result<Handle<'_>> {
        if !self.has_thread.load(Ordering::Acquire) {
            self.start_thread()?;
        }
        Handle::begin(&self.shared, credits)
    }

    fn start_thread(&self) -> Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() && !self.has_thread.load(Ordering::Acquire) {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new()
                .name("ext4-commit".into())
                .spawn(move || shared.commit_until_stopped())
                .doing(|| "cannot start the committing thread")?;
            *thread = Some(started);
            self.has_thread.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Returns the transaction that operations join now, where any has.
    pub fn running(&self) -> Option<Tid> {
        self.shared.state.lock().running.as_ref().map(|running| running.tid)
    }

    /// Makes durable everything that was done before: all operations that have ended, and file data.
    ///
    /// # Errors
    /// The failure that made the store read-only.
    pub fn commit(&self) -> Result<()> {
        let newest = {
            let mut state = self.shared.state.lock();
            if let Some(failure) = &state.failure {
                return Err(failure.error());
            }
            match &mut state.running {
                Some(running) => {
                    running.must_flush = true;
                    Some(running.tid)
                }
                None => None,
            }
        };
        match newest {
            Some(tid) => self.commit_of(tid),
            None => {
                let committing = self.shared.state.lock().newest();
                if let Some(tid) = committing {
                    self.commit_of(tid)?;
                }
                // Data may have been written since that transaction's flush, or without any transaction.
                self.shared.flush()
            }
        }
    }

    /// Waits until a transaction is durable, and has it committed at once. Others who wait share the commit.
    ///
    /// # Errors
    /// The failure that made the store read-only before the transaction was durable.
    pub fn commit_of(&self, tid: Tid) -> Result<()> {
        let mut state = self.shared.state.lock();
        if state.committed < tid && state.newest().is_none_or(|newest| newest < tid) {
            return Err(Error::Usage("no such transaction".into()));
        }
        self.shared.want(&mut state, tid);
        loop {
            if state.committed >= tid {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.error());
            }
            self.shared.done.wait(&mut state);
        }
    }

    /// Makes file data durable that was written to the device, but no operation.
    ///
    /// # Errors
    /// Those of the device; the store is read-only then.
    pub fn flush_data(&self) -> Result<()> {
        self.shared.flush()
    }

    /// Forgets what the cache holds of a block that was written behind the store's back.
    pub fn invalidate(&self, block: u64) {
        self.shared.clean.forget(block);
    }

    /// Says whether the store has failed and is read-only.
    pub fn is_aborted(&self) -> bool {
        self.shared.is_aborted.load(Ordering::Acquire)
    }

    /// Makes the store read-only: nothing that is not committed yet ever will be.
    pub fn abort(&self, why: &Error) {
        self.shared.abort(why);
    }

    /// Ends all writing: waits for open handles, commits, writes every block to where it belongs and marks the journal
    /// empty. Reading goes on.
    ///
    /// # Errors
    /// The failure that made the store read-only; the journal then still asks for recovery.
    pub fn close(&self) -> Result<()> {
        {
            let mut state = self.shared.state.lock();
            if std::mem::replace(&mut state.is_closed, true) {
                return state.failure.as_ref().map_or(Ok(()), |failure| Err(failure.error()));
            }
            self.shared.room.notify_all();
        }
        let result = self.commit().and_then(|()| self.empty_log());
        self.shared.state.lock().is_stopped = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            ::log::error!("the committing thread panicked");
        }
        result
    }

    fn empty_log(&self) -> Result<()> {
        let mut io = self.shared.io.lock();
        let Some(log) = &mut *io else { return Ok(()) };
        self.shared.checkpoint(log).and_then(|()| log.mark_empty()).inspect_err(|error| self.shared.abort(error))
    }
}

impl Drop for Store {
    /// Closes the store where that was not done; after a failure, or amid a panic, it only ends its thread.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.abort(&Error::Usage("the filesystem was dropped by a panic".into()));
        }
        if let Err(error) = self.close()
            && !self.is_aborted()
        {
            ::log::error!("the filesystem could not be closed: {error}");
        }
    }
}
