//! Slices of L2 tables in memory: parsed once, read without a lock, shared by all readers and the writer.
//!
//! A slice is at most 64 KiB of a table. On an image open for writing there is exactly one copy of a slice that anybody
//! may change: the one in `dirty`, or else the one in the cache. A slice gets into the cache under its loading lock
//! alone, which is what keeps a second copy from taking the place of a changed one.

use super::storage::Storage;
use crate::bytes::be64;
use crate::cache::{Cache, CachePool};
use crate::error::Result;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The longest slice, in bytes.
const MAX_SLICE: u64 = 64 << 10;
const LOADING_LOCKS: usize = 16;

/// A slice of a table: big-endian 64-bit words on disk, the host's own in memory.
#[derive(Debug)]
pub(super) struct Table {
    words: Box<[AtomicU64]>,
}

impl Table {
    /// Parses a slice.
    pub fn parse(bytes: &[u8]) -> Self {
        Self { words: bytes.chunks_exact(8).map(|word| AtomicU64::new(be64(word, 0))).collect() }
    }

    /// Returns a word.
    #[inline]
    pub fn get(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    /// Stores a word. The caller holds the writer's lock.
    pub fn set(&self, index: usize, word: u64) {
        self.words[index].store(word, Ordering::Release);
    }

    /// Returns the words of a range as they stand on disk.
    pub fn to_bytes(&self, words: Range<usize>) -> Vec<u8> {
        self.words[words].iter().flat_map(|word| word.load(Ordering::Acquire).to_be_bytes()).collect()
    }
}

/// A slice that differs from the disk.
#[derive(Clone)]
pub(super) struct DirtySlice {
    /// The slice.
    pub table: Arc<Table>,
    /// The words that differ, and maybe some between them.
    pub words: Range<usize>,
}

/// All slices of an image's L2 tables that are in memory, by their host offsets.
pub(super) struct Tables {
    storage: Arc<dyn Storage>,
    slice_size: u64,
    cache: Cache<u64, Arc<Table>>,
    /// Slices that differ from the disk. Taken after a loading lock, and held for a moment only.
    dirty: Mutex<BTreeMap<u64, DirtySlice>>,
    /// Held while a slice is read from the disk of a writable image; by the slice's offset. Taken after the writer's lock.
    loading: [Mutex<()>; LOADING_LOCKS],
    is_writable: bool,
}

impl Tables {
    pub fn new(storage: Arc<dyn Storage>, cluster_size: u64, is_writable: bool, pool: &Arc<CachePool>) -> Self {
        Self {
            storage,
            slice_size: cluster_size.min(MAX_SLICE),
            cache: Cache::new(pool),
            dirty: Mutex::new(BTreeMap::new()),
            loading: std::array::from_fn(|_| Mutex::new(())),
            is_writable,
        }
    }

    /// Returns the length of a slice, in bytes.
    pub fn slice_size(&self) -> u64 {
        self.slice_size
    }

    fn lock_of(&self, offset: u64) -> &Mutex<()> {
        &self.loading[(offset / self.slice_size) as usize % LOADING_LOCKS]
    }

    fn load(&self, offset: u64) -> Result<Arc<Table>> {
        let mut bytes = vec![0; self.slice_size as usize];
        self.storage.read_at(&mut bytes, offset)?;
        Ok(Arc::new(Table::parse(&bytes)))
    }

    fn keep(&self, offset: u64, table: &Arc<Table>) {
        self.cache.insert(offset, Arc::clone(table), self.slice_size as usize);
    }

    /// Returns the slice at a host offset.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn get(&self, offset: u64) -> Result<Arc<Table>> {
        if let Some(table) = self.cache.get(&offset) {
            return Ok(table);
        }
        if !self.is_writable {
            let table = self.load(offset)?;
            self.keep(offset, &table);
            return Ok(table);
        }
        let _loading = self.lock_of(offset).lock();
        self.find(offset)
    }

    /// Returns the one copy of a slice. The caller holds its loading lock.
    fn find(&self, offset: u64) -> Result<Arc<Table>> {
        if let Some(table) = self.cache.get(&offset) {
            return Ok(table);
        }
        let dirty = self.dirty.lock().get(&offset).map(|slice| Arc::clone(&slice.table));
        let table = match dirty {
            Some(table) => table,
            None => self.load(offset)?,
        };
        self.keep(offset, &table);
        Ok(table)
    }

    /// Returns the slice at a host offset, of which `words` are about to be changed, and counts it as dirty. The caller
    /// holds the writer's lock.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn get_dirty(&self, offset: u64, words: Range<usize>) -> Result<Arc<Table>> {
        let _loading = self.lock_of(offset).lock();
        let table = self.find(offset)?;
        let mut dirty = self.dirty.lock();
        let slice =
            dirty.entry(offset).or_insert_with(|| DirtySlice { table: Arc::clone(&table), words: words.clone() });
        slice.words = slice.words.start.min(words.start)..slice.words.end.max(words.end);
        Ok(table)
    }

    /// Forgets what was known of a slice, because its place holds a new table now. The caller holds the writer's lock.
    pub fn forget(&self, offset: u64) {
        let _loading = self.lock_of(offset).lock();
        self.dirty.lock().remove(&offset);
        self.cache.remove(&offset);
    }

    /// Returns the dirty slices, in the order of their offsets.
    pub fn dirty(&self) -> Vec<(u64, DirtySlice)> {
        self.dirty.lock().iter().map(|(&offset, slice)| (offset, slice.clone())).collect()
    }

    /// Returns how many bytes the dirty slices take.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.lock().len() as u64 * self.slice_size
    }

    /// Counts a slice as written. The caller holds the writer's lock, and has held it since it took the slice's bytes.
    pub fn set_clean(&self, offset: u64) {
        self.dirty.lock().remove(&offset);
    }
}
