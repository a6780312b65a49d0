//! Ranges of clusters that one writer works on while others wait.

use parking_lot::{Condvar, Mutex};

/// Locks on ranges of numbers.
#[derive(Default)]
pub(super) struct RangeLock {
    held: Mutex<Vec<(u64, u64)>>,
    released: Condvar,
}

impl RangeLock {
    /// Waits until nobody holds any of `start..end`, then holds it.
    pub fn lock(&self, start: u64, end: u64) -> RangeGuard<'_> {
        let mut held = self.held.lock();
        while held.iter().any(|&(from, to)| start < to && from < end) {
            self.released.wait(&mut held);
        }
        held.push((start, end));
        RangeGuard { lock: self, range: (start, end) }
    }
}

/// Holds a range until it is dropped.
pub(super) struct RangeGuard<'a> {
    lock: &'a RangeLock,
    range: (u64, u64),
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.lock.held.lock();
        if let Some(at) = held.iter().position(|range| *range == self.range) {
            held.swap_remove(at);
        }
        drop(held);
        self.lock.released.notify_all();
    }
}
