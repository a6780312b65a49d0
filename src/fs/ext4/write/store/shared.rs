//! What the store, its handles and its committing thread share: commits and checkpoints.

use super::clean::CleanBlocks;
use super::home::{BlockBytes, write_home};
use super::log::Log;
use super::transaction::{Failure, Running, State, Tid};
use super::versions::{Batch, BlockVersions};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How much may wait in memory to be written to where it belongs, in bytes.
const MAX_WAITING: usize = 32 << 20;

/// How large transactions may become, in blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// No handle joins a transaction that this might exceed.
    pub(super) joined: usize,
    /// No handle makes a transaction larger than this, whatever it asked for.
    pub(super) hard: usize,
}

/// The insides of a store.
///
/// Locks are taken in this order: `io`, `state`, then one of a shard of `versions` or a stripe of `clean`.
pub(super) struct Shared {
    pub(super) device: SharedDevice,
    pub(super) block_size: u32,
    pub(super) clean: CleanBlocks,
    pub(super) versions: BlockVersions,
    pub(super) limits: Limits,
    pub(super) commit_interval: Duration,
    /// Blocks that open handles may still change, in all.
    pub(super) reserved: AtomicUsize,
    /// A copy of whether `state` has a failure, for those who do not take its lock.
    pub(super) is_aborted: AtomicBool,
    /// Held during a commit or a checkpoint, I/O included. Never taken by readers or handles. `None`: no journal.
    pub(super) io: Mutex<Option<Log>>,
    /// Guards which transactions there are. Never held during I/O.
    pub(super) state: Mutex<State>,
    /// A transaction has room, or has become another.
    pub(super) room: Condvar,
    /// The last handle of a closing transaction is gone.
    pub(super) idle: Condvar,
    /// The committing thread has something to do.
    pub(super) work: Condvar,
    /// A transaction is durable, or the store has failed.
    pub(super) done: Condvar,
}

impl Shared {
    /// Returns the newest version of a block.
    pub(super) fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        loop {
            if let Some(bytes) = self.versions.newest(block).or_else(|| self.clean.get(block)) {
                return Ok(bytes);
            }
            let run = self.clean.read_run(block)?;
            // A version made while the run was read may have reached the device halfway.
            if let Some(bytes) = self.versions.newest(block) {
                return Ok(bytes);
            }
            if let Some(bytes) = self.clean.keep(&run, block) {
                return Ok(bytes);
            }
        }
    }

    /// Stops all writing.
    pub(super) fn abort(&self, error: &Error) {
        let mut state = self.state.lock();
        if state.failure.is_none() {
            log::error!("the filesystem is read-only from now on: {error}");
            state.failure = Some(Failure::new(error));
            self.is_aborted.store(true, Ordering::Release);
        }
        for condvar in [&self.room, &self.idle, &self.work, &self.done] {
            condvar.notify_all();
        }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// Those of the device; the store is aborted then.
    pub(super) fn flush(&self) -> Result<()> {
        self.device.flush().inspect_err(|error| self.abort(error))
    }

    /// Asks for a transaction to be committed. The caller holds the state.
    pub(super) fn want(&self, state: &mut State, tid: Tid) {
        if state.wanted < tid {
            state.wanted = tid;
            self.work.notify_all();
        }
    }

    /// Commits whenever somebody waits for it, or a transaction becomes old, until the store stops.
    pub(super) fn commit_until_stopped(&self) {
        let mut state = self.state.lock();
        loop {
            if state.is_stopped || state.failure.is_some() {
                return;
            }
            match &state.running {
                None => self.work.wait(&mut state),
                Some(running) => {
                    let age = running.started.elapsed();
                    if state.wanted < running.tid && age < self.commit_interval {
                        self.work.wait_for(&mut state, self.commit_interval - age);
                        continue;
                    }
                    drop(state);
                    self.commit_running();
                    state = self.state.lock();
                }
            }
        }
    }

    /// Commits the running transaction, and makes room in the log.
    fn commit_running(&self) {
        let guard = AbortOnPanic(self);
        let mut io = self.io.lock();
        if let Some((running, batch)) = self.take_running() {
            match self.write_batch(&mut io, &running, &batch) {
                Ok(()) => self.finish(running),
                Err(error) => self.abort_io(&mut io, &error),
            }
            if let Some(log) = &mut *io
                && !self.is_aborted.load(Ordering::Acquire)
                && self.wants_checkpoint(log)
                && let Err(error) = self.checkpoint(log)
            {
                self.abort_io(&mut io, &error);
            }
        }
        drop(io);
        drop(guard);
    }

    /// Stops all writing after the host failed, and notes that in the journal where that is still possible.
    fn abort_io(&self, io: &mut Option<Log>, error: &Error) {
        self.abort(error);
        if let Some(log) = io
            && let Err(error) = log.record_error(libc::EIO)
        {
            log::warn!("the failure could not be noted in the journal: {error}");
        }
    }

    /// Closes the running transaction, waits for its handles, and takes out what it changed.
    fn take_running(&self) -> Option<(Running, Batch)> {
        let mut state = self.state.lock();
        state.running.as_mut()?.is_closing = true;
        while state.failure.is_none() && state.running.as_ref().is_some_and(|running| running.handles > 0) {
            self.idle.wait(&mut state);
        }
        if state.failure.is_some() {
            return None;
        }
        let running = state.running.take()?;
        state.committing = Some(running.tid);
        let batch = self.versions.switch();
        self.room.notify_all();
        Some((running, batch))
    }

    fn write_batch(&self, io: &mut Option<Log>, running: &Running, batch: &Batch) -> Result<()> {
        match io {
            Some(log) => {
                if batch.is_empty() {
                    if running.has_data || running.must_flush {
                        self.device.flush()?;
                    }
                } else {
                    self.make_room(log, batch)?;
                    // The flush before the commit block covers the data, too: it was written before the handles stopped.
                    log.write(&batch.blocks, &batch.revoked)?;
                }
                self.versions.logged(batch);
            }
            None => {
                if running.has_data || running.must_flush && batch.is_empty() {
                    self.device.flush()?;
                }
                if !batch.is_empty() {
                    self.write_home(&batch.blocks)?;
                }
                self.versions.settled(batch);
            }
        }
        Ok(())
    }

    fn make_room(&self, log: &mut Log, batch: &Batch) -> Result<()> {
        let needed = log.blocks_for(batch.blocks.len(), batch.revoked.len());
        if needed > log.free() as usize {
            self.checkpoint(log)?;
        }
        if needed > log.free() as usize {
            let size = log.capacity();
            return Err(Error::Usage(format!("a transaction needs {needed} of the journal's {size} blocks").into()));
        }
        Ok(())
    }

    /// Writes blocks to where they belong, durably, and lets readers find them there.
    fn write_home(&self, blocks: &[BlockBytes]) -> Result<()> {
        write_home(&*self.device, self.block_size, blocks)?;
        self.device.flush()?;
        for (block, bytes) in blocks {
            self.clean.written(*block, bytes.clone());
        }
        Ok(())
    }

    fn finish(&self, running: Running) {
        for after in running.after {
            after();
        }
        let mut state = self.state.lock();
        state.committing = None;
        state.committed = running.tid;
        self.done.notify_all();
    }

    /// Says whether the log has less room than a large transaction needs, or too much waits in memory.
    fn wants_checkpoint(&self, log: &Log) -> bool {
        let waiting = self.versions.committed();
        (log.free() as usize) < log.blocks_for(self.limits.joined, 0)
            || waiting.saturating_mul(self.block_size as usize) > MAX_WAITING
    }

    /// Writes all that is in the log to where it belongs, and frees the log.
    ///
    /// A block that the running transaction has forgotten is written, too: should that transaction never be committed,
    /// the block is still what the filesystem before it refers to.
    pub(super) fn checkpoint(&self, log: &mut Log) -> Result<()> {
        let waiting = self.versions.waiting();
        if !waiting.is_empty() {
            self.write_home(&waiting)?;
        }
        log.release()?;
        self.versions.released(&waiting);
        Ok(())
    }
}

/// Stops all writing when the thread that commits panics, so that nobody waits for it.
struct AbortOnPanic<'a>(&'a Shared);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort(&Error::Usage("the committing thread panicked".into()));
        }
    }
}
