//! Who may still use a cluster that was given back: whoever looked it up before.
//!
//! Reads and writes look up where a cluster lies and then use it without a lock. A cluster that is given back meanwhile
//! must not get a new owner before they are done. So each of them enters the present epoch, and what was given back in
//! an epoch is free once all that entered up to it have left.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// The count of who is inside, by the parity of the epoch that they entered.
#[derive(Default)]
pub(super) struct Epochs {
    current: AtomicU64,
    inside: [AtomicUsize; 2],
}

impl Epochs {
    /// Enters the present epoch.
    pub fn enter(&self) -> Inside<'_> {
        loop {
            let epoch = self.current.load(SeqCst);
            let count = &self.inside[epoch as usize % 2];
            count.fetch_add(1, SeqCst);
            if self.current.load(SeqCst) == epoch {
                return Inside { count };
            }
            count.fetch_sub(1, SeqCst);
        }
    }

    /// Returns the present epoch.
    pub fn current(&self) -> u64 {
        self.current.load(SeqCst)
    }

    /// Says whether all that entered up to `epoch` have left. Called by one thread at a time.
    pub fn is_over(&self, epoch: u64) -> bool {
        let current = self.current.load(SeqCst);
        // An epoch begins only when nobody is left of the one before the last, so that two counts are enough.
        if current == epoch && self.inside[(current + 1) as usize % 2].load(SeqCst) == 0 {
            self.current.store(current + 1, SeqCst);
        }
        let current = self.current.load(SeqCst);
        current > epoch + 1 || (current == epoch + 1 && self.inside[epoch as usize % 2].load(SeqCst) == 0)
    }
}

/// Leaves its epoch when it is dropped.
pub(in super::super) struct Inside<'a> {
    count: &'a AtomicUsize,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_over_when_all_that_entered_it_have_left() {
        let epochs = Epochs::default();
        let first = epochs.enter();
        let given_back = epochs.current();
        assert!(!epochs.is_over(given_back));
        let second = epochs.enter();
        assert!(!epochs.is_over(given_back));
        drop(first);
        assert!(epochs.is_over(given_back));
        let later = epochs.current();
        assert!(!epochs.is_over(later));
        drop(second);
        assert!(epochs.is_over(later));
    }
}
