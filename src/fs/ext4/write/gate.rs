//! How readers notice that what they read was changed meanwhile, without a lock.
//!
//! Whoever changes where an inode's contents lie, or a directory's entries, enters the gate for as long as the change
//! takes. A reader counts before and after: where a change was under way or began meanwhile, it reads again.

use std::sync::atomic::{AtomicU64, Ordering};

/// How many pairs of counters there are; inodes share them by number.
const COUNTERS: usize = 1024;

#[derive(Default)]
struct Counter {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// The counters of changes.
pub(super) struct Gate {
    counters: Vec<Counter>,
}

/// What a reader saw before it began.
#[derive(Clone, Copy)]
pub(super) struct Seen(u64);

impl Gate {
    pub(super) fn new() -> Self {
        Self { counters: (0..COUNTERS).map(|_| Counter::default()).collect() }
    }

    fn counter(&self, ino: u32) -> &Counter {
        &self.counters[ino as usize % COUNTERS]
    }

    /// Begins a change of an inode.
    pub(super) fn enter(&self, ino: u32) {
        self.counter(ino).begun.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends a change of an inode.
    pub(super) fn leave(&self, ino: u32) {
        self.counter(ino).ended.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns what a reader compares with afterwards; `None` while a change is under way.
    pub(super) fn look(&self, ino: u32) -> Option<Seen> {
        let counter = self.counter(ino);
        let ended = counter.ended.load(Ordering::SeqCst);
        let begun = counter.begun.load(Ordering::SeqCst);
        (begun == ended).then_some(Seen(begun))
    }

    /// Says whether no change began since `seen`.
    pub(super) fn is_unchanged(&self, ino: u32, seen: Seen) -> bool {
        self.counter(ino).begun.load(Ordering::SeqCst) == seen.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_under_way_or_since_is_seen() {
        let gate = Gate::new();
        let before = gate.look(12).expect("nothing under way");
        gate.enter(12);
        assert!(gate.look(12).is_none());
        assert!(!gate.is_unchanged(12, before));
        gate.leave(12);
        assert!(!gate.is_unchanged(12, before));
        assert!(gate.look(12).is_some_and(|seen| gate.is_unchanged(12, seen)));
    }
}
