//! The versions of blocks that are newer than the device: of the running transaction, of the one being committed, and of
//! those that lie in the log but not yet where they belong.
//!
//! A version is never changed once another transaction or a reader holds it: [`Arc::make_mut`] copies it then.

use super::home::BlockBytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 64;

/// What a transaction did to a block.
#[derive(Clone, Debug)]
enum Change {
    /// It has new bytes.
    Bytes(Arc<[u8]>),
    /// It is no metadata any more.
    Gone,
}

impl Change {
    fn bytes(&self) -> Option<&Arc<[u8]>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Gone => None,
        }
    }
}

/// What is known of one block.
#[derive(Debug, Default)]
struct Versions {
    running: Option<Change>,
    committing: Option<Change>,
    /// The newest version in the log that is not on the device.
    committed: Option<Arc<[u8]>>,
    /// Recovery would find a copy in the log.
    is_logged: bool,
    /// The shard's list of what the running transaction changed has it.
    is_listed: bool,
}

impl Versions {
    fn newest(&self) -> Option<&Arc<[u8]>> {
        let running = self.running.as_ref().and_then(Change::bytes);
        let committing = || self.committing.as_ref().and_then(Change::bytes);
        running.or_else(committing).or(self.committed.as_ref())
    }

    fn is_nothing(&self) -> bool {
        self.running.is_none()
            && self.committing.is_none()
            && self.committed.is_none()
            && !self.is_logged
            && !self.is_listed
    }
}

#[derive(Default)]
struct Shard {
    blocks: HashMap<u64, Versions>,
    /// What the running transaction changed.
    changed: Vec<u64>,
}

impl Shard {
    /// Returns the running transaction's bytes of a block, after `base` or the newest version; counts it when it is new
    /// to the transaction, and says so.
    fn writable(
        &mut self,
        block: u64,
        base: Option<Arc<[u8]>>,
        counter: &AtomicUsize,
    ) -> Option<(&mut Arc<[u8]>, bool)> {
        let versions = self.blocks.entry(block).or_default();
        let is_new = !matches!(versions.running, Some(Change::Bytes(_)));
        if is_new {
            let bytes = base.or_else(|| versions.newest().cloned())?;
            versions.running = Some(Change::Bytes(bytes));
            counter.fetch_add(1, Ordering::Relaxed);
            if !versions.is_listed {
                versions.is_listed = true;
                self.changed.push(block);
            }
        }
        match &mut versions.running {
            Some(Change::Bytes(bytes)) => Some((bytes, is_new)),
            _ => None,
        }
    }
}

/// What a transaction changed, taken out to be committed.
#[derive(Default)]
pub(super) struct Batch {
    /// New versions, sorted by block.
    pub(super) blocks: Vec<BlockBytes>,
    /// Blocks to be revoked, sorted.
    pub(super) revoked: Vec<u64>,
    /// Blocks that are gone.
    gone: Vec<u64>,
}

impl Batch {
    /// Says whether nothing needs to be written.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.revoked.is_empty()
    }
}

/// All versions that are newer than the device.
pub(super) struct BlockVersions {
    /// Each guards its own blocks; no other lock is taken under one, and no I/O done.
    shards: Vec<Mutex<Shard>>,
    running: AtomicUsize,
    committed: AtomicUsize,
}

impl BlockVersions {
    pub(super) fn new() -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, running: AtomicUsize::new(0), committed: AtomicUsize::new(0) }
    }

    fn shard(&self, block: u64) -> &Mutex<Shard> {
        // Neighbours are changed together, so a run of them shares a shard.
        &self.shards[(block / 8) as usize % SHARDS]
    }

    /// Returns how many blocks the running transaction has changed.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// Returns how many blocks wait to be written to where they belong.
    pub(super) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// Returns the newest version of a block, where it is newer than the device.
    pub(super) fn newest(&self, block: u64) -> Option<Arc<[u8]>> {
        self.shard(block).lock().blocks.get(&block).and_then(Versions::newest).cloned()
    }

    /// Says whether a block is already the running transaction's.
    pub(super) fn is_running(&self, block: u64) -> bool {
        let shard = self.shard(block).lock();
        shard.blocks.get(&block).is_some_and(|versions| matches!(versions.running, Some(Change::Bytes(_))))
    }

    /// Changes a block in the running transaction, and says whether it is new to it. `base` is what is on the device; a
    /// newer version goes before it.
    ///
    /// Returns `Err` with the change when there is neither.
    pub(super) fn modify<R, F: FnOnce(&mut [u8]) -> R>(
        &self,
        block: u64,
        base: Option<Arc<[u8]>>,
        change: F,
    ) -> Result<(R, bool), F> {
        let mut shard = self.shard(block).lock();
        let has_newer = shard.blocks.get(&block).is_some_and(|versions| versions.newest().is_some());
        if !has_newer && base.is_none() {
            return Err(change);
        }
        let base = if has_newer { None } else { base };
        match shard.writable(block, base, &self.running) {
            Some((bytes, is_new)) => Ok((change(Arc::make_mut(bytes)), is_new)),
            None => Err(change),
        }
    }

    /// Gives a block new bytes in the running transaction; says whether it is new to it.
    pub(super) fn create(&self, block: u64, bytes: Arc<[u8]>) -> bool {
        let mut shard = self.shard(block).lock();
        let Some((place, is_new)) = shard.writable(block, Some(bytes.clone()), &self.running) else { return false };
        *place = bytes;
        is_new
    }

    /// Takes a block out of the running transaction, and notes that older versions are worth nothing once it commits.
    pub(super) fn forget(&self, block: u64) {
        let mut shard = self.shard(block).lock();
        let Some(versions) = shard.blocks.get_mut(&block) else { return };
        if matches!(versions.running, Some(Change::Bytes(_))) {
            self.running.fetch_sub(1, Ordering::Relaxed);
        }
        let is_older = versions.is_logged || matches!(versions.committing, Some(Change::Bytes(_)));
        versions.running = is_older.then_some(Change::Gone);
        if is_older && !versions.is_listed {
            versions.is_listed = true;
            shard.changed.push(block);
        }
    }

    /// Makes the running transaction the committing one, and returns what it changed. No handle is open, and none was
    /// committing.
    pub(super) fn switch(&self) -> Batch {
        let mut batch = Batch::default();
        for shard in &self.shards {
            let mut shard = shard.lock();
            for block in std::mem::take(&mut shard.changed) {
                let Some(versions) = shard.blocks.get_mut(&block) else { continue };
                versions.is_listed = false;
                versions.committing = versions.running.take();
                match &versions.committing {
                    Some(Change::Bytes(bytes)) => batch.blocks.push((block, bytes.clone())),
                    Some(Change::Gone) => {
                        batch.gone.push(block);
                        if versions.is_logged {
                            batch.revoked.push(block);
                        }
                    }
                    None if versions.is_nothing() => {
                        shard.blocks.remove(&block);
                    }
                    None => {}
                }
            }
        }
        self.running.store(0, Ordering::Relaxed);
        batch.blocks.sort_unstable_by_key(|&(block, _)| block);
        batch.revoked.sort_unstable();
        batch
    }

    /// Notes that a batch is durable in the log.
    pub(super) fn logged(&self, batch: &Batch) {
        for (block, bytes) in &batch.blocks {
            let mut shard = self.shard(*block).lock();
            let versions = shard.blocks.entry(*block).or_default();
            versions.committing = None;
            versions.is_logged = true;
            if versions.committed.replace(bytes.clone()).is_none() {
                self.committed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.drop_gone(batch);
    }

    /// Notes that the log holds nothing that recovery would need, and `written` is on the device.
    pub(super) fn released(&self, written: &[BlockBytes]) {
        for (block, _) in written {
            let mut shard = self.shard(*block).lock();
            if shard.blocks.get_mut(block).is_some_and(|versions| versions.committed.take().is_some()) {
                self.committed.fetch_sub(1, Ordering::Relaxed);
            }
        }
        for shard in &self.shards {
            shard.lock().blocks.retain(|_, versions| {
                versions.is_logged = false;
                !versions.is_nothing()
            });
        }
    }

    /// Notes that a batch is on the device without having been in a log.
    pub(super) fn settled(&self, batch: &Batch) {
        for (block, _) in &batch.blocks {
            let mut shard = self.shard(*block).lock();
            if let Some(versions) = shard.blocks.get_mut(block) {
                versions.committing = None;
                if versions.is_nothing() {
                    shard.blocks.remove(block);
                }
            }
        }
        self.drop_gone(batch);
    }

    fn drop_gone(&self, batch: &Batch) {
        for block in &batch.gone {
            let mut shard = self.shard(*block).lock();
            let Some(versions) = shard.blocks.get_mut(block) else { continue };
            versions.committing = None;
            if versions.committed.take().is_some() {
                self.committed.fetch_sub(1, Ordering::Relaxed);
            }
            if versions.is_nothing() {
                shard.blocks.remove(block);
            }
        }
    }

    /// Returns the versions that are in the log but not on the device, sorted by block.
    pub(super) fn waiting(&self) -> Vec<BlockBytes> {
        let mut waiting = Vec::with_capacity(self.committed());
        for shard in &self.shards {
            let shard = shard.lock();
            let blocks = shard.blocks.iter();
            waiting.extend(blocks.filter_map(|(&block, versions)| Some((block, versions.committed.clone()?))));
        }
        waiting.sort_unstable_by_key(|&(block, _)| block);
        waiting
    }
}
