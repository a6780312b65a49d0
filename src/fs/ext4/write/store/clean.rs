//! Blocks as they are on the device, in the process's cache.
//!
//! A miss reads an aligned run of neighbours. While that read is under way, a newer version of a block may be written
//! below it: each run belongs to a stripe that counts such writes, and what was read is kept only if none came between.

use super::superblock::byte_offset;
use crate::block::SharedDevice;
use crate::cache::{Cache, CachePool};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::sync::Arc;

/// How much one miss reads, in bytes.
const RUN_SIZE: u64 = 64 << 10;
const STRIPES: usize = 64;

/// What a miss read.
pub(super) struct Run {
    /// The first block of it.
    first: u64,
    bytes: Vec<u8>,
    /// How many writes the stripe had seen before.
    writes: u64,
}

/// The cache of blocks that nobody changed.
pub(super) struct CleanBlocks {
    device: SharedDevice,
    block_size: u32,
    cache: Cache<u64, Arc<[u8]>>,
    /// How many times blocks of a stripe's runs were written. Guards the cache's entries of these runs against being
    /// stored too late; taken alone, never during I/O.
    stripes: Vec<Mutex<u64>>,
}

impl CleanBlocks {
    /// Makes an empty cache that draws on `pool`.
    pub(super) fn new(device: SharedDevice, block_size: u32, pool: &Arc<CachePool>) -> Self {
        let stripes = (0..STRIPES).map(|_| Mutex::new(0)).collect();
        Self { device, block_size, cache: Cache::new(pool), stripes }
    }

    fn blocks_per_run(&self) -> u64 {
        (RUN_SIZE / u64::from(self.block_size)).max(1)
    }

    fn stripe(&self, block: u64) -> &Mutex<u64> {
        &self.stripes[(block / self.blocks_per_run()) as usize % STRIPES]
    }

    /// Returns a block that is cached.
    pub(super) fn get(&self, block: u64) -> Option<Arc<[u8]>> {
        self.cache.get(&block)
    }

    /// Reads the run that a block lies in.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the block passes the end of the device, and those of reading.
    pub(super) fn read_run(&self, block: u64) -> Result<Run> {
        let size = u64::from(self.block_size);
        let blocks = self.device.size() / size;
        if block >= blocks {
            return Err(Error::corrupt(format!("block {block}"), format!("the filesystem has {blocks} blocks")));
        }
        let writes = *self.stripe(block).lock();
        let first = block - block % self.blocks_per_run();
        let count = self.blocks_per_run().min(blocks - first);
        let mut bytes = vec![0; (count * size) as usize];
        self.device.read_at(&mut bytes, byte_offset(first, self.block_size)?)?;
        Ok(Run { first, bytes, writes })
    }

    /// Keeps the blocks of a run, and returns the one asked for; `None` when the run was written meanwhile.
    pub(super) fn keep(&self, run: &Run, block: u64) -> Option<Arc<[u8]>> {
        let size = self.block_size as usize;
        let mut wanted = None;
        let writes = self.stripe(run.first).lock();
        if *writes != run.writes {
            return None;
        }
        for (number, bytes) in (run.first..).zip(run.bytes.chunks_exact(size)) {
            if number == block {
                let bytes: Arc<[u8]> = Arc::from(bytes);
                self.cache.insert(number, bytes.clone(), size);
                wanted = Some(bytes);
            } else if self.cache.get(&number).is_none() {
                self.cache.insert(number, Arc::from(bytes), size);
            }
        }
        wanted
    }

    /// Stores a block that has just been written to the device.
    pub(super) fn written(&self, block: u64, bytes: Arc<[u8]>) {
        let mut writes = self.stripe(block).lock();
        *writes = writes.wrapping_add(1);
        self.cache.insert(block, bytes, self.block_size as usize);
    }

    /// Forgets a block that is no metadata any more, or that was written behind the store's back.
    pub(super) fn forget(&self, block: u64) {
        let mut writes = self.stripe(block).lock();
        *writes = writes.wrapping_add(1);
        self.cache.remove(&block);
    }
}
