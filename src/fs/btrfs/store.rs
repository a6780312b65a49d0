//! Tree blocks by address: read, checked, and kept.
//!
//! A block is checked once, when it is read; a copy that is damaged or stale makes room for the next.

use super::node::{Expected, Node, NodeFormat};
use super::volume::Volume;
use crate::cache::{Cache, CachePool};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The tree blocks of a filesystem.
pub struct Store {
    /// The devices below.
    pub volume: Volume,
    /// The sector size, in bytes.
    pub sector_size: u32,
    /// The node size, in bytes.
    pub node_size: u32,
    /// What all blocks have in common.
    pub format: NodeFormat,
    nodes: Cache<u64, Arc<Node>>,
}

impl Store {
    /// Makes a store of blocks of `node_size` bytes.
    pub fn new(volume: Volume, sector_size: u32, node_size: u32, format: NodeFormat, pool: &Arc<CachePool>) -> Self {
        Self { volume, sector_size, node_size, format, nodes: Cache::new(pool) }
    }

    /// Returns the block that a pointer points to.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when no copy is what the pointer says, and those of reading.
    pub fn node(&self, expected: &Expected) -> Result<Arc<Node>> {
        if let Some(node) = self.nodes.get(&expected.address) {
            node.check(expected).map_err(|detail| corrupt(expected, detail))?;
            return Ok(node);
        }
        let node = Arc::new(self.read(expected)?);
        self.nodes.insert(expected.address, Arc::clone(&node), node.len() + size_of::<Node>());
        Ok(node)
    }

    fn read(&self, expected: &Expected) -> Result<Node> {
        if !expected.address.is_multiple_of(u64::from(self.sector_size)) {
            return Err(corrupt(expected, "its address is not that of a sector".into()));
        }
        let mut first = None;
        for way in 0..self.volume.ways(expected.address)? {
            let mut bytes = vec![0; self.node_size as usize].into_boxed_slice();
            let read = self
                .volume
                .read_way(&mut bytes, expected.address, way)
                .and_then(|()| Node::parse(bytes, &self.format, expected).map_err(|detail| corrupt(expected, detail)));
            match read {
                Ok(node) => {
                    if let Some(error) = first {
                        log::warn!("copy {way} was read: {error}");
                    }
                    return Ok(node);
                }
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| corrupt(expected, "it has no copies".into())))
    }

    /// Hints that a block will be read soon.
    pub fn prefetch(&self, expected: &Expected) {
        self.volume.prefetch(expected.address, u64::from(self.node_size));
    }
}

fn corrupt(expected: &Expected, detail: String) -> Error {
    Error::corrupt(format!("Btrfs tree block {}", expected.address), detail)
}
