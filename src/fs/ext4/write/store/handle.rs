//! Handles: one atomic operation each.

use super::shared::Shared;
use super::transaction::{AfterCommit, Running, State, Tid};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One atomic operation: all that it changes is in one transaction. Dropping it ends the operation.
///
/// A handle keeps its transaction from being committed, so it is short-lived; a thread that has one neither begins another
/// nor waits for a commit, and takes no lock that a thread which waits for a handle may hold.
///
/// Where an operation fails halfway, so that what it changed must not be kept, [`abort`](Self::abort) makes the store
/// read-only; a panic does the same.
pub struct Handle<'a> {
    shared: &'a Shared,
    tid: Tid,
    /// How many more blocks it may make part of the transaction. Those are in `reserved`, too.
    credits: usize,
    /// It has joined a transaction.
    is_open: bool,
}

impl<'a> Handle<'a> {
    /// Joins the running transaction; waits until it has room.
    pub(super) fn begin(shared: &'a Shared, credits: u32) -> Result<Self> {
        let mut handle = Self { shared, tid: Tid(0), credits: 0, is_open: false };
        handle.join(credits as usize)?;
        Ok(handle)
    }

    fn join(&mut self, credits: usize) -> Result<()> {
        let shared = self.shared;
        if credits > shared.limits.joined {
            return Err(Error::Usage(
                format!("an operation on {credits} blocks; a transaction has {}", shared.limits.joined).into(),
            ));
        }
        let mut state = shared.state.lock();
        loop {
            state.check_writable()?;
            let is_new = state.running.is_none();
            let running = state.running();
            let tid = running.tid;
            if running.is_closing {
                shared.room.wait(&mut state);
            } else if shared.has_room(credits) {
                running.handles += 1;
                shared.reserved.fetch_add(credits, Ordering::Relaxed);
                if is_new {
                    // The committing thread learns when the transaction becomes old.
                    shared.work.notify_all();
                }
                (self.tid, self.credits, self.is_open) = (tid, credits, true);
                return Ok(());
            } else {
                shared.want(&mut state, tid);
                shared.room.wait(&mut state);
            }
        }
    }

    /// Returns the transaction that the operation belongs to.
    pub fn tid(&self) -> Tid {
        self.tid
    }

    /// Returns how many more blocks the operation may change without asking for more.
    pub fn credits(&self) -> u32 {
        self.credits as u32
    }

    /// Asks for `more` blocks. `false`: the transaction has no room; the operation must come to a consistent state and
    /// [`restart`](Self::restart).
    ///
    /// # Errors
    /// `EROFS` when the store has failed.
    pub fn extend(&mut self, more: u32) -> Result<bool> {
        let more = more as usize;
        let mut state = self.shared.state.lock();
        if state.failure.is_some() {
            return Err(Error::Errno(libc::EROFS));
        }
        let is_closing = state.running.as_ref().is_none_or(|running| running.is_closing);
        if is_closing || !self.shared.has_room(more) {
            self.shared.want(&mut state, self.tid);
            return Ok(false);
        }
        self.shared.reserved.fetch_add(more, Ordering::Relaxed);
        self.credits += more;
        Ok(true)
    }

    /// Ends the operation and begins another, perhaps in another transaction. What was changed so far is a whole, then.
    ///
    /// # Errors
    /// `EROFS` when the store has failed or was closed; the handle is of no use afterwards.
    pub fn restart(&mut self, credits: u32) -> Result<()> {
        self.leave();
        self.join(credits as usize)
    }

    /// Returns the newest version of a block.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the block passes the end of the device, and those of reading.
    pub fn read(&self, block: u64) -> Result<Arc<[u8]>> {
        self.shared.read(block)
    }

    /// Changes a block's bytes; returns what `change` does. No other change of the same block comes between.
    ///
    /// `change` must not call the store: it runs under a lock.
    ///
    /// # Errors
    /// `EROFS` when the store has failed, [`Error::Usage`] when the transaction has become much larger than the handles
    /// asked for, and those of [`read`](Self::read). `change` was not called then.
    pub fn modify<R>(&mut self, block: u64, change: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        self.check(block)?;
        let change = match self.shared.versions.modify(block, None, change) {
            Ok(done) => return Ok(self.pay(done)),
            Err(change) => change,
        };
        // No version of this transaction can reach the device meanwhile: it waits for this handle.
        let base = self.shared.read(block)?;
        match self.shared.versions.modify(block, Some(base), change) {
            Ok(done) => Ok(self.pay(done)),
            Err(_) => Err(Error::Usage("a block had neither an old nor a new version".into())),
        }
    }

    /// Makes a fresh block of zeroes, which `fill` then changes; nothing is read from the device.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn create<R>(&mut self, block: u64, fill: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        self.check(block)?;
        let blocks = self.shared.device.size() / u64::from(self.shared.block_size);
        if block >= blocks {
            return Err(Error::corrupt(format!("block {block}"), format!("the filesystem has {blocks} blocks")));
        }
        let mut bytes = vec![0; self.shared.block_size as usize];
        let filled = fill(&mut bytes);
        let is_new = self.shared.versions.create(block, Arc::from(bytes));
        Ok(self.pay((filled, is_new)))
    }

    /// Notes that a block is no metadata any more: it is not written, and where recovery would find a copy in the log, that
    /// copy is revoked. Its space may be used for file data only after the commit (see
    /// [`after_commit`](Self::after_commit)), as metadata at once.
    ///
    /// # Errors
    /// `EROFS` when the store has failed.
    pub fn forget(&mut self, block: u64) -> Result<()> {
        self.check_open()?;
        self.shared.versions.forget(block);
        self.shared.clean.forget(block);
        Ok(())
    }

    /// Notes that file data was written for this operation: it will be durable before the transaction is.
    pub fn ordered(&mut self) {
        if let Some(running) = self.running(&mut self.shared.state.lock()) {
            running.has_data = true;
        }
    }

    /// Has something done once the transaction is durable. It runs on the committing thread and must not call the store.
    /// It is dropped when the transaction fails.
    pub fn after_commit(&mut self, after: AfterCommit) {
        if let Some(running) = self.running(&mut self.shared.state.lock()) {
            running.after.push(after);
        }
    }

    /// Ends the operation and makes the store read-only: the transaction is never committed.
    pub fn abort(self, why: &Error) {
        self.shared.abort(why);
    }

    fn running<'s>(&self, state: &'s mut State) -> Option<&'s mut Running> {
        state.running.as_mut().filter(|running| self.is_open && running.tid == self.tid)
    }

    fn check_open(&self) -> Result<()> {
        if self.shared.is_aborted.load(Ordering::Acquire) || !self.is_open {
            return Err(Error::Errno(libc::EROFS));
        }
        Ok(())
    }

    fn check(&self, block: u64) -> Result<()> {
        self.check_open()?;
        let versions = &self.shared.versions;
        if self.credits == 0 && versions.running() >= self.shared.limits.hard && !versions.is_running(block) {
            return Err(Error::Usage("the transaction is too large for the journal".into()));
        }
        Ok(())
    }

    /// Takes the credit for a block that is new to the transaction.
    fn pay<R>(&mut self, (result, is_new): (R, bool)) -> R {
        if is_new && self.credits > 0 {
            self.credits -= 1;
            self.shared.reserved.fetch_sub(1, Ordering::Relaxed);
        }
        result
    }

    fn leave(&mut self) {
        if !self.is_open {
            return;
        }
        self.is_open = false;
        if std::thread::panicking() {
            self.shared.abort(&Error::Usage("an operation panicked".into()));
        }
        let mut state = self.shared.state.lock();
        self.shared.reserved.fetch_sub(self.credits, Ordering::Relaxed);
        if self.credits > 0 {
            self.shared.room.notify_all();
        }
        self.credits = 0;
        if let Some(running) = &mut state.running {
            running.handles -= 1;
            if running.handles == 0 && running.is_closing {
                self.shared.idle.notify_all();
            }
        }
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    /// Says whether the running transaction has room for so many blocks more.
    fn has_room(&self, credits: usize) -> bool {
        self.versions.running() + self.reserved.load(Ordering::Relaxed) + credits <= self.limits.joined
    }
}
