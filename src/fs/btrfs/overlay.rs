//! What a log changes of a tree: items in memory over those on the disk.

use super::key::Key;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much an overlay may hold, in bytes.
const LIMIT: usize = 128 << 20;
/// What an item costs beside its bytes, about.
const OVERHEAD: usize = 96;

/// Items by key, and keys whose items are gone.
#[derive(Debug, Default)]
pub struct Overlay {
    items: BTreeMap<Key, Option<Arc<[u8]>>>,
    used: usize,
    steps: AtomicU64,
}

/// Items of an overlay in ascending order.
pub type Up<'a> = btree_map::Range<'a, Key, Option<Arc<[u8]>>>;

impl Overlay {
    /// Lays an item over the tree.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when it becomes too large.
    pub fn put(&mut self, key: Key, bytes: impl Into<Arc<[u8]>>) -> Result<()> {
        self.set(key, Some(bytes.into()))
    }

    /// Takes an item away.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the overlay becomes too large.
    pub fn remove(&mut self, key: Key) -> Result<()> {
        self.set(key, None)
    }

    fn set(&mut self, key: Key, bytes: Option<Arc<[u8]>>) -> Result<()> {
        let size = |bytes: &Option<Arc<[u8]>>| OVERHEAD + bytes.as_ref().map_or(0, |bytes| bytes.len());
        self.used += size(&bytes);
        if let Some(old) = self.items.insert(key, bytes) {
            self.used -= size(&old);
        }
        if self.used > LIMIT {
            return Err(Error::unsupported(format!(
                "a Btrfs log that changes more than {} MiB of a tree",
                LIMIT >> 20
            )));
        }
        Ok(())
    }

    /// Shows items from `from` on in ascending order; `None` is one that is gone.
    pub fn up_from(&self, from: &Key) -> Up<'_> {
        self.items.range(*from..)
    }

    /// Shows items from `from` on in descending order.
    pub fn down_from(&self, from: &Key) -> impl Iterator<Item = (&Key, &Option<Arc<[u8]>>)> {
        self.items.range(..=*from).rev().inspect(|_| {
            self.steps.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Returns how many items were gone through downwards: a log made to be slow shows in it.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}
