//! The one bounded cache: decoded structures by key, in shards, under a budget in bytes that a whole process shares.
//!
//! A [`CachePool`] is the budget. Every [`Cache`] made from it may grow while the pool has room; when the pool is full, a
//! cache makes room by dropping its own least recently used entries, and one that holds next to nothing takes from the
//! others by asking them to shrink at their next insertion. The pool is therefore exceeded by at most one entry for each
//! shard. Values are cheap to clone (`Arc`).
//!
//! A shard's lock guards its map alone and is never held while a value is made.

use lru::LruCache;
use parking_lot::Mutex;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const SHARDS: usize = 16;

/// What an entry costs beside its value: the map's slot, links and the key, about.
const ENTRY_OVERHEAD: usize = 96;

/// A budget in bytes that several caches share.
#[derive(Debug)]
pub struct CachePool {
    limit: usize,
    used: AtomicUsize,
    caches: AtomicUsize,
}

impl CachePool {
    /// Makes a budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), caches: AtomicUsize::new(0) })
    }

    /// Returns the budget, in bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Returns how many bytes of the budget are in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// The part of the budget that one cache may always hold, in bytes.
    fn fair_share(&self) -> usize {
        self.limit / self.caches.load(Ordering::Relaxed).max(1)
    }
}

struct Shard<K, V> {
    entries: LruCache<K, (V, usize)>,
    used: usize,
}

/// A cache of values by key, bounded by its pool.
pub struct Cache<K, V> {
    pool: Arc<CachePool>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard<K, V>>>,
    used: AtomicUsize,
}

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    /// Makes an empty cache that draws on `pool`.
    pub fn new(pool: &Arc<CachePool>) -> Self {
        pool.caches.fetch_add(1, Ordering::Relaxed);
        let shard = || Mutex::new(Shard { entries: LruCache::unbounded(), used: 0 });
        Self {
            pool: Arc::clone(pool),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| shard()).collect(),
            used: AtomicUsize::new(0),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<Shard<K, V>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    /// Returns the value of `key` and marks it as just used.
    pub fn get(&self, key: &K) -> Option<V> {
        self.shard(key).lock().entries.get(key).map(|(value, _)| value.clone())
    }

    /// Says whether there is a value of `key`; it does not count as a use.
    pub fn contains(&self, key: &K) -> bool {
        self.shard(key).lock().entries.contains(key)
    }

    /// Stores a value that takes `bytes` of memory, in the place of an older one, and makes room for it.
    pub fn insert(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes.saturating_add(ENTRY_OVERHEAD);
        if bytes > self.pool.limit / 4 {
            self.remove(&key);
            return;
        }
        // What is dropped is dropped after the lock is given back.
        let mut dropped = Vec::new();
        let mut shard = self.shard(&key).lock();
        if let Some((_, (value, old))) = shard.entries.push(key, (value, bytes)) {
            self.release(&mut shard, old);
            dropped.push(value);
        }
        shard.used += bytes;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.pool.used.fetch_add(bytes, Ordering::Relaxed);
        let share = self.pool.fair_share() / SHARDS;
        while self.pool.is_over()
            && shard.entries.len() > 1
            && (shard.used > share || self.pool.used() > self.pool.limit * 2)
        {
            let Some((_, (value, old))) = shard.entries.pop_lru() else { break };
            self.release(&mut shard, old);
            dropped.push(value);
        }
    }

    /// Returns the value of `key`, made by `make` when there is none. Two threads may make it at once; one wins.
    ///
    /// # Errors
    /// Those of `make`; nothing is stored then.
    pub fn get_or_insert<E>(&self, key: K, make: impl FnOnce() -> Result<(V, usize), E>) -> Result<V, E> {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let (value, bytes) = make()?;
        self.insert(key, value.clone(), bytes);
        Ok(value)
    }

    /// Forgets the value of `key`.
    pub fn remove(&self, key: &K) {
        let mut shard = self.shard(key).lock();
        if let Some((value, old)) = shard.entries.pop(key) {
            self.release(&mut shard, old);
            drop(shard);
            drop(value);
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let used = shard.used;
            self.release(&mut shard, used);
            let entries = std::mem::replace(&mut shard.entries, LruCache::unbounded());
            drop(shard);
            drop(entries);
        }
    }

    fn release(&self, shard: &mut Shard<K, V>, bytes: usize) {
        shard.used -= bytes;
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.pool.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl<K, V> Drop for Cache<K, V> {
    fn drop(&mut self) {
        self.pool.used.fetch_sub(self.used.load(Ordering::Relaxed), Ordering::Relaxed);
        self.pool.caches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<K, V> std::fmt::Debug for Cache<K, V> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Cache").field("used", &self.used).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pool_drops_what_was_used_least_recently() {
        let pool = CachePool::new(100_000);
        let cache = Cache::new(&pool);
        for number in 0..10_000_u32 {
            cache.insert(number, number, 100);
        }
        assert!(pool.used() <= pool.limit() + 200 * SHARDS, "{} bytes in use", pool.used());
        assert_eq!(cache.get(&9_999), Some(9_999));
        assert_eq!(cache.get(&0), None);
    }

    #[test]
    fn what_is_forgotten_is_given_back() {
        let pool = CachePool::new(1 << 20);
        let cache = Cache::new(&pool);
        cache.insert(1, "one", 1000);
        cache.insert(1, "uno", 500);
        assert_eq!(cache.get(&1), Some("uno"));
        cache.insert(2, "two", 10);
        cache.remove(&1);
        assert_eq!(cache.get(&1), None);
        cache.clear();
        assert_eq!(pool.used(), 0);
        cache.insert(3, "three", 10);
        drop(cache);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn a_value_as_large_as_the_pool_is_not_kept() {
        let pool = CachePool::new(1000);
        let cache = Cache::new(&pool);
        cache.insert(1, (), 900);
        assert_eq!(cache.get(&1), None);
    }

    #[test]
    fn a_cache_that_comes_late_still_gets_its_share() {
        let pool = CachePool::new(1 << 20);
        let first = Cache::new(&pool);
        for number in 0..20_000_u32 {
            first.insert(number, (), 100);
        }
        let second = Cache::new(&pool);
        for number in 0..100_u32 {
            second.insert(number, number, 100);
        }
        assert!((0..100).filter(|number| second.get(number).is_some()).count() > 90);
    }
}
