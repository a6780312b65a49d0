//! Trees: items by key, down from the root, with what a log lays over them.
//!
//! A walk ends on any image: levels fall by one with each step down, a block's first key is the one its pointer bears, and
//! keys ascend from leaf to leaf, so no leaf is visited twice.

use super::key::Key;
use super::node::{Expected, MAX_LEVEL, Node};
use super::overlay::Overlay;
use super::store::Store;
use crate::error::{Error, Result};
use std::ops::{Deref, Range};
use std::sync::Arc;

/// How many of the next leaves a walk hints at.
const READ_AHEAD: usize = 4;

/// Where a tree begins.
#[derive(Clone, Copy, Debug)]
pub struct Root {
    /// The logical address of its root.
    pub address: u64,
    /// The level of its root.
    pub level: u8,
    /// The transaction that wrote its root.
    pub generation: u64,
}

impl Root {
    fn expected(&self) -> Result<Expected> {
        if self.level > MAX_LEVEL {
            return Err(Error::corrupt(format!("Btrfs tree at {}", self.address), format!("level {}", self.level)));
        }
        Ok(Expected { address: self.address, level: self.level, generation: self.generation, first_key: None })
    }
}

/// The bytes of an item.
#[derive(Clone, Debug)]
pub enum Item {
    /// In a leaf.
    Leaf(Arc<Node>, Range<usize>),
    /// In memory.
    Memory(Arc<[u8]>),
}

impl Deref for Item {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Leaf(node, range) => node.bytes(range.clone()),
            Self::Memory(bytes) => bytes,
        }
    }
}

/// A tree open for reading.
#[derive(Clone, Copy)]
pub struct Tree<'a> {
    /// Where its blocks come from.
    pub store: &'a Store,
    /// Where it begins.
    pub root: Root,
    /// What is laid over it.
    pub overlay: Option<&'a Overlay>,
}

impl<'a> Tree<'a> {
    /// Makes a tree with nothing laid over it.
    pub fn new(store: &'a Store, root: Root) -> Self {
        Self { store, root, overlay: None }
    }

    /// Returns the item of a key.
    ///
    /// # Errors
    /// Those of reading.
    pub fn get(&self, key: &Key) -> Result<Option<Item>> {
        Ok(self.last_not_after(key)?.and_then(|(found, item)| (found == *key).then_some(item)))
    }

    /// Returns the last item whose key is not after `key`.
    ///
    /// # Errors
    /// Those of reading.
    pub fn last_not_after(&self, key: &Key) -> Result<Option<(Key, Item)>> {
        let mut below = self.last_stored(key)?;
        let Some(overlay) = self.overlay else { return Ok(below) };
        for (laid, bytes) in overlay.down_from(key) {
            match bytes {
                Some(bytes) => {
                    return Ok(match below {
                        Some((stored, item)) if stored > *laid => Some((stored, item)),
                        _ => Some((*laid, Item::Memory(Arc::clone(bytes)))),
                    });
                }
                None => match &below {
                    Some((stored, _)) if stored == laid => {
                        below = match laid.before() {
                            Some(before) => self.last_stored(&before)?,
                            None => None,
                        };
                    }
                    // What is stored lies after this, and nothing between took it away.
                    Some((stored, _)) if stored > laid => return Ok(below),
                    _ => {}
                },
            }
        }
        Ok(below)
    }

    fn last_stored(&self, key: &Key) -> Result<Option<(Key, Item)>> {
        let mut node = self.store.node(&self.root.expected()?)?;
        loop {
            let Some(at) = node.last_not_after(key) else { return Ok(None) };
            if node.level() == 0 {
                let (key, range) = (node.key(at), node.item_range(at));
                return Ok(Some((key, Item::Leaf(node, range))));
            }
            node = self.store.node(&node.pointer(at))?;
        }
    }

    /// Returns the items from `from` to `to`, both among them.
    ///
    /// # Errors
    /// Those of reading.
    pub fn range(&self, from: Key, to: Key) -> Result<Items<'a>> {
        let mut walk = Walk { store: self.store, path: Vec::with_capacity(usize::from(self.root.level) + 1) };
        walk.seek(&self.root, &from)?;
        let laid = self.overlay.map(|overlay| overlay.up_from(&from).peekable());
        Ok(Items { walk, laid, to })
    }

    /// Returns the items of one object and kind.
    ///
    /// # Errors
    /// Those of reading.
    pub fn items(&self, object: u64, kind: u8) -> Result<Items<'a>> {
        self.range(Key::new(object, kind, 0), Key::new(object, kind, u64::MAX))
    }
}

/// The way from a tree's root to one of its items.
struct Walk<'a> {
    store: &'a Store,
    path: Vec<(Arc<Node>, usize)>,
}

impl Walk<'_> {
    fn seek(&mut self, root: &Root, key: &Key) -> Result<()> {
        let mut node = self.store.node(&root.expected()?)?;
        while node.level() > 0 {
            let at = node.last_not_after(key).unwrap_or(0);
            let next = self.store.node(&node.pointer(at))?;
            self.path.push((node, at));
            node = next;
        }
        let at = node.lower_bound(key);
        let past = at == node.count();
        self.path.push((node, at));
        if past { self.next_leaf() } else { Ok(()) }
    }

    fn current(&self) -> Option<(Key, Item)> {
        let (leaf, at) = self.path.last()?;
        (*at < leaf.count()).then(|| (leaf.key(*at), Item::Leaf(Arc::clone(leaf), leaf.item_range(*at))))
    }

    fn key(&self) -> Option<Key> {
        let (leaf, at) = self.path.last()?;
        (*at < leaf.count()).then(|| leaf.key(*at))
    }

    fn advance(&mut self) -> Result<()> {
        let Some((leaf, at)) = self.path.last_mut() else { return Ok(()) };
        *at += 1;
        if *at < leaf.count() { Ok(()) } else { self.next_leaf() }
    }

    /// Goes to the first item of the next leaf; the path is empty when there is none.
    fn next_leaf(&mut self) -> Result<()> {
        let Some((old, _)) = self.path.pop() else { return Ok(()) };
        while let Some((node, at)) = self.path.last_mut() {
            *at += 1;
            if *at < node.count() {
                break;
            }
            self.path.pop();
        }
        let Some((node, at)) = self.path.last() else { return Ok(()) };
        if node.level() == 1 && at % READ_AHEAD == 0 {
            for ahead in at + 1..(at + 1 + READ_AHEAD).min(node.count()) {
                self.store.prefetch(&node.pointer(ahead));
            }
        }
        let mut node = self.store.node(&node.pointer(*at))?;
        while node.level() > 0 {
            let next = self.store.node(&node.pointer(0))?;
            self.path.push((node, 0));
            node = next;
        }
        if old.count() > 0 && (node.count() == 0 || node.key(0) <= old.key(old.count() - 1)) {
            return Err(Error::corrupt("Btrfs tree", format!("the leaf after {:?} is out of order", old.key(0))));
        }
        self.path.push((node, 0));
        Ok(())
    }
}

/// Items one after another.
pub struct Items<'a> {
    walk: Walk<'a>,
    laid: Option<std::iter::Peekable<super::overlay::Up<'a>>>,
    to: Key,
}

impl Items<'_> {
    /// Returns the next item.
    ///
    /// # Errors
    /// Those of reading.
    pub fn next(&mut self) -> Result<Option<(Key, Item)>> {
        loop {
            let stored = self.walk.key();
            let laid = self.laid.as_mut().and_then(|laid| laid.peek().copied());
            match (stored, laid) {
                (_, Some((key, bytes))) if stored.is_none_or(|stored| *key <= stored) => {
                    if *key > self.to {
                        return Ok(None);
                    }
                    if stored == Some(*key) {
                        self.walk.advance()?;
                    }
                    self.laid.as_mut().and_then(Iterator::next);
                    if let Some(bytes) = bytes {
                        return Ok(Some((*key, Item::Memory(Arc::clone(bytes)))));
                    }
                }
                (Some(key), _) if key <= self.to => {
                    let found = self.walk.current();
                    self.walk.advance()?;
                    return Ok(found);
                }
                _ => return Ok(None),
            }
        }
    }
}
