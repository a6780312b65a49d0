//! What is known of inodes in memory while they are written: their locks, who holds them open, space set aside.

use super::alloc::Run;
use super::store::Tid;
use super::windows::Windows;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARDS: usize = 64;
/// How many inodes of one shard are known before those that nobody uses are dropped.
const SHARD_LIMIT: usize = 256;

/// What the holder of an inode's lock may use.
#[derive(Default)]
pub(super) struct Inner {
    pub(super) windows: Windows,
}

/// One inode.
#[derive(Default)]
pub(super) struct InodeState {
    /// Held by whoever changes the inode: a parent before its children, of two folders the upper or lower-numbered one
    /// first. Taken before a handle is begun, never with one.
    pub(super) lock: Mutex<Inner>,
    opens: AtomicU64,
    /// The newest transaction that changed it. Taken last.
    touched: Mutex<Option<Tid>>,
}

impl InodeState {
    /// Returns how many references there are.
    pub(super) fn opens(&self) -> u64 {
        self.opens.load(Ordering::Acquire)
    }

    /// Notes a transaction that changes the inode.
    pub(super) fn touch(&self, tid: Tid) {
        let mut touched = self.touched.lock();
        *touched = (*touched).max(Some(tid));
    }

    /// Returns the newest transaction that is known to have changed the inode.
    pub(super) fn touched(&self) -> Option<Tid> {
        *self.touched.lock()
    }
}

type Shard = HashMap<u32, Arc<InodeState>>;

/// All inodes that anybody changes or holds.
pub(super) struct InodeTable {
    /// Each guards its map alone.
    shards: Vec<Mutex<Shard>>,
}

impl InodeTable {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, ino: u32) -> &Mutex<Shard> {
        &self.shards[ino as usize % SHARDS]
    }

    /// Returns what is known of an inode. `give_back` gets the space of inodes that are dropped for it.
    pub(super) fn state(&self, ino: u32, give_back: impl FnMut(Run)) -> Arc<InodeState> {
        let mut shard = self.shard(ino).lock();
        if shard.len() > SHARD_LIMIT && !shard.contains_key(&ino) {
            sweep(&mut shard, give_back);
        }
        Arc::clone(shard.entry(ino).or_default())
    }

    /// Returns what is known of an inode, if anything is.
    pub(super) fn known(&self, ino: u32) -> Option<Arc<InodeState>> {
        self.shard(ino).lock().get(&ino).cloned()
    }

    /// Notes one more reference to an inode.
    pub(super) fn open(&self, ino: u32) {
        self.shard(ino).lock().entry(ino).or_default().opens.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives references back; returns whether none is left.
    pub(super) fn forget(&self, ino: u32, count: u64) -> bool {
        let shard = self.shard(ino).lock();
        let Some(state) = shard.get(&ino) else { return true };
        let before = state.opens.load(Ordering::Acquire);
        state.opens.store(before.saturating_sub(count), Ordering::Release);
        before <= count
    }

    /// Takes all space that is set aside, of inodes whose lock is free.
    pub(super) fn take_windows(&self, mut give_back: impl FnMut(Run)) {
        for shard in &self.shards {
            for state in shard.lock().values() {
                if let Some(mut inner) = state.lock.try_lock() {
                    inner.windows.clear(&mut give_back);
                }
            }
        }
    }
}

/// Drops the inodes that nobody uses.
fn sweep(shard: &mut Shard, mut give_back: impl FnMut(Run)) {
    shard.retain(|_, state| {
        let is_used = Arc::strong_count(state) > 1 || state.opens() > 0;
        if !is_used {
            state.lock.lock().windows.clear(&mut give_back);
        }
        is_used
    });
}
