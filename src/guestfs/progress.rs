//! Telling how far a long call has come, and being told to end it.

use super::Guestfs;
use crate::error::{Error, Result};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all; 0 where nobody knows.
    pub total: u64,
}

/// Called with the progress, from any thread; `Break` ends the call with `EINTR`.
pub type ProgressCallback = Arc<dyn Fn(Progress) -> ControlFlow<()> + Send + Sync>;

/// How far apart calls back are, in bytes.
const STEP: u64 = 1 << 20;

/// Counts what one call has done, and tells it.
pub(crate) struct Meter {
    callback: Option<ProgressCallback>,
    done: AtomicU64,
    total: u64,
}

impl Meter {
    /// Makes a meter for a call that does `total` bytes; 0 where nobody knows.
    pub(crate) fn new(callback: Option<ProgressCallback>, total: u64) -> Self {
        Self { callback, done: AtomicU64::new(0), total }
    }

    /// Makes a meter that tells nobody.
    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self::new(None, 0)
    }

    /// Counts bytes that are done; none asks whether to go on.
    ///
    /// # Errors
    /// `EINTR` when the callback says that the call shall end.
    pub(crate) fn add(&self, bytes: u64) -> Result<()> {
        let Some(callback) = &self.callback else { return Ok(()) };
        let before = self.done.fetch_add(bytes, Ordering::Relaxed);
        let done = before.saturating_add(bytes);
        if bytes > 0 && before / STEP == done / STEP && done != self.total {
            return Ok(());
        }
        match callback(Progress { done, total: self.total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Errno(libc::EINTR)),
        }
    }
}

impl Guestfs {
    /// Has `callback` called about every MiB of what a long call copies, from any of its threads. `Break` ends the call
    /// with `EINTR`, and nothing half-written stays.
    pub fn set_progress_callback(&mut self, callback: impl Fn(Progress) -> ControlFlow<()> + Send + Sync + 'static) {
        self.progress = Some(Arc::new(callback));
    }

    /// Has nobody called any more.
    pub fn clear_progress_callback(&mut self) {
        self.progress = None;
    }

    pub(super) fn meter(&self, total: u64) -> Meter {
        Meter::new(self.progress.clone(), total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callback_sees_the_end_and_can_bring_it_about() {
        let seen = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&seen);
        let callback: ProgressCallback = Arc::new(move |progress| {
            last.store(progress.done, Ordering::Relaxed);
            if progress.done > 4 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let meter = Meter::new(Some(callback), 10);
        meter.add(10).expect("goes on");
        assert_eq!(seen.load(Ordering::Relaxed), 10);
        assert!(meter.add(5 << 20).expect_err("ends").is_errno(libc::EINTR));
        Meter::silent().add(u64::MAX).expect("nobody is told");
    }
}
