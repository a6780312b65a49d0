//! Blocks and B-trees of the kernel's persistent-data library, in which thin pools and caches keep their maps.
//!
//! Blocks have 4096 bytes and begin with a checksum (CRC-32C over the rest, without the last inversion, changed by a number for
//! each kind), and at 8 their own number. Specified by `drivers/md/persistent-data/` of Linux.

use crate::block::SharedDevice;
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// The size of a block, in bytes.
pub const BLOCK: usize = 4096;

/// What the checksum of a node is changed by.
const NODE_SEED: u32 = 121_107;

/// The deepest tree. Nodes have a hundred entries and more, so that ten levels hold more than any device.
const MAX_DEPTH: usize = 16;

/// How many nodes are kept: 4 MiB of them.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

const HEADER: usize = 32;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;

/// Blocks of metadata.
pub struct Blocks {
    device: SharedDevice,
    /// Nodes that were read, by their numbers. Not held over reading.
    nodes: Mutex<LruCache<u64, Arc<Node>>>,
}

/// A node of a tree.
pub struct Node {
    is_leaf: bool,
    keys: Vec<u64>,
    value_size: usize,
    values: Vec<u8>,
}

impl Node {
    /// Returns how many entries it has.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the key of an entry.
    pub fn key(&self, index: usize) -> u64 {
        self.keys[index]
    }

    /// Returns the value of an entry.
    pub fn value(&self, index: usize) -> &[u8] {
        &self.values[index * self.value_size..][..self.value_size]
    }
}

impl Blocks {
    /// Makes a reader of the blocks of a device.
    pub fn new(device: SharedDevice) -> Self {
        Self { device, nodes: Mutex::new(LruCache::new(KEPT)) }
    }

    /// Reads a block and checks it; `what` and `seed` are those of its kind.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the checksum or the number in it is wrong.
    pub fn read(&self, number: u64, what: &'static str, seed: u32, number_offset: usize) -> Result<Vec<u8>> {
        let corrupt = |detail: String| Error::corrupt(format!("{what} {number}"), detail);
        let offset = number.checked_mul(BLOCK as u64).filter(|offset| *offset < self.device.size());
        let offset = offset.ok_or_else(|| corrupt("it lies past the end of the metadata".into()))?;
        let mut bytes = vec![0; BLOCK];
        self.device.read_at(&mut bytes, offset)?;
        if !crc32c::crc32c(&bytes[4..]) ^ seed != le32(&bytes, 0) && !cfg!(fuzzing) {
            return Err(corrupt("its checksum is wrong".into()));
        }
        if le64(&bytes, number_offset) != number {
            return Err(corrupt(format!("it says that it is block {}", le64(&bytes, number_offset))));
        }
        Ok(bytes)
    }

    fn node(&self, number: u64) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.lock().get(&number) {
            return Ok(node.clone());
        }
        let corrupt = |detail: String| Error::corrupt(format!("B-tree node {number}"), detail);
        let bytes = self.read(number, "B-tree node", NODE_SEED, 8)?;
        let (flags, count, most) = (le32(&bytes, 4), le32(&bytes, 16) as usize, le32(&bytes, 20) as usize);
        let value_size = le32(&bytes, 24) as usize;
        let fits = value_size <= 256 && most <= BLOCK && HEADER + most * (8 + value_size) <= BLOCK;
        if !fits
            || count > most
            || value_size < 4
            || !matches!(flags, INTERNAL | LEAF)
            || flags == INTERNAL && value_size != 8
        {
            return Err(corrupt(format!(
                "{count} of {most} entries with values of {value_size} bytes, flags {flags:#x}"
            )));
        }
        let keys: Vec<u64> = bytes[HEADER..][..count * 8].chunks_exact(8).map(|key| le64(key, 0)).collect();
        if keys.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(corrupt("its keys are out of order".into()));
        }
        let values = bytes[HEADER + most * 8..][..count * value_size].to_vec();
        let node = Arc::new(Node { is_leaf: flags == LEAF, keys, value_size, values });
        self.nodes.lock().put(number, node.clone());
        Ok(node)
    }

    /// Returns the leaf in which a key belongs, the place of its first entry that is not below the key, and the first key that
    /// belongs in a later leaf; none of these for an empty tree.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a tree that is damaged or too deep.
    pub fn leaf(&self, root: u64, key: u64) -> Result<(Arc<Node>, usize, Option<u64>)> {
        let mut number = root;
        let mut bound = None;
        for _ in 0..MAX_DEPTH {
            let node = self.node(number)?;
            let at = node.keys.partition_point(|&own| own < key);
            if node.is_leaf {
                return Ok((node, at, bound));
            }
            // The child of the last key that is not above; keys before the first belong to the first.
            let child = if node.keys.get(at) == Some(&key) { at } else { at.saturating_sub(1) };
            if node.keys.is_empty() {
                return Err(Error::corrupt(format!("B-tree node {number}"), "it has no children"));
            }
            bound = node.keys.get(child + 1).copied().or(bound);
            number = le64(node.value(child), 0);
        }
        Err(Error::corrupt(format!("B-tree of block {root}"), "it is too deep, or goes round in a circle"))
    }

    /// Returns the value of a key, its first 8 bytes.
    ///
    /// # Errors
    /// As [`leaf`](Self::leaf).
    pub fn find(&self, root: u64, key: u64) -> Result<Option<u64>> {
        let (leaf, at, _) = self.leaf(root, key)?;
        let is_there = at < leaf.len() && leaf.key(at) == key && leaf.value_size >= 8;
        Ok(is_there.then(|| le64(leaf.value(at), 0)))
    }
}
