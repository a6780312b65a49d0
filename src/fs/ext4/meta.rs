//! The one seam through which metadata is read: blocks of the device, with the journal's newer copies laid over them.
//!
//! A block that the journal holds is read from the journal's own place on the device, so that replaying keeps only where
//! each block lies, not its bytes. Contents of files go through [`Meta::read_data`], which honours the same overlay,
//! since a filesystem with `data=journal` keeps contents in the journal too.
//!
//! Where the filesystem is open for writing, blocks come from the [`Store`] instead: its newest version of each.

use super::superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE};
use super::write::store::Store;
use crate::block::{RunCache, SharedDevice};
use crate::cache::CachePool;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// How much metadata is read at once, in bytes.
const RUN_SIZE: u32 = 64 << 10;

/// Where the newest copy of a block lies.
#[derive(Clone, Debug)]
pub(crate) enum Copy {
    /// In another block of the device.
    Block(u64),
    /// In another block of the device, whose first four bytes stand for the journal's magic number.
    Escaped(u64),
    /// In memory.
    Bytes(Arc<[u8]>),
}

/// The newest copies of blocks, by the number of the block they replace.
pub(crate) type Overlay = HashMap<u64, Copy>;

/// Bytes of metadata, shared with the cache that holds them.
#[derive(Clone, Debug)]
pub(crate) struct MetaBytes {
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl Deref for MetaBytes {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl From<Arc<[u8]>> for MetaBytes {
    fn from(bytes: Arc<[u8]>) -> Self {
        let range = 0..bytes.len();
        Self { bytes, range }
    }
}

/// A device as blocks of metadata.
pub(crate) struct Meta {
    runs: RunCache,
    block_size: u32,
    overlay: Overlay,
    /// Where blocks come from while the filesystem is open for writing.
    store: Option<Arc<Store>>,
}

impl Meta {
    /// Makes the seam over a device; `overlay` holds what replaying the journal gave.
    pub(crate) fn new(device: SharedDevice, block_size: u32, overlay: Overlay, pool: &Arc<CachePool>) -> Self {
        Self { runs: RunCache::new(device, RUN_SIZE, pool), block_size, overlay, store: None }
    }

    /// Makes the seam over a store, whose newest versions it gives.
    pub(crate) fn over(store: Arc<Store>, pool: &Arc<CachePool>) -> Self {
        let runs = RunCache::new(store.device().clone(), RUN_SIZE, pool);
        Self { runs, block_size: store.block_size(), overlay: Overlay::new(), store: Some(store) }
    }

    /// Returns the device below.
    pub(crate) fn device(&self) -> &SharedDevice {
        self.runs.device()
    }

    /// Returns the block size, in bytes.
    pub(crate) fn block_size(&self) -> usize {
        self.block_size as usize
    }

    fn offset_of(&self, block: u64) -> Result<u64> {
        let size = self.device().size();
        block
            .checked_mul(u64::from(self.block_size))
            .filter(|offset| offset.checked_add(u64::from(self.block_size)).is_some_and(|end| end <= size))
            .ok_or_else(|| Error::corrupt("ext4 block number", format!("block {block} lies past the device's end")))
    }

    fn stored(&self, block: u64) -> Result<MetaBytes> {
        let offset = self.offset_of(block)?;
        let (bytes, start) = self.runs.run(offset)?;
        let from = (offset - start) as usize;
        Ok(MetaBytes { bytes, range: from..from + self.block_size as usize })
    }

    fn copied(&self, copy: &Copy) -> Result<MetaBytes> {
        match copy {
            Copy::Block(block) => self.stored(*block),
            Copy::Escaped(block) => {
                let mut bytes = self.stored(*block)?.to_vec();
                bytes[..4].copy_from_slice(&super::journal::MAGIC.to_be_bytes());
                Ok(MetaBytes::from(Arc::from(bytes)))
            }
            Copy::Bytes(bytes) => Ok(MetaBytes::from(Arc::clone(bytes))),
        }
    }

    /// Returns a block.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a block past the device's end, and those of reading.
    #[inline]
    pub(crate) fn block(&self, block: u64) -> Result<MetaBytes> {
        if let Some(store) = &self.store {
            return store.read(block).map(MetaBytes::from);
        }
        if !self.overlay.is_empty()
            && let Some(copy) = self.overlay.get(&block)
        {
            return self.copied(copy);
        }
        self.stored(block)
    }

    /// Returns the primary superblock's bytes.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn superblock(&self) -> Result<Vec<u8>> {
        let block_size = u64::from(self.block_size);
        let block = self.block(SUPERBLOCK_OFFSET / block_size)?;
        let from = (SUPERBLOCK_OFFSET % block_size) as usize;
        Ok(block[from..from + SUPERBLOCK_SIZE].to_vec())
    }

    /// Fills `buf` with contents of a file that lie at `offset` of the device, in bytes, straight from the device.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn read_data(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if self.overlay.is_empty() {
            return self.device().read_at(buf, offset);
        }
        let block_size = u64::from(self.block_size);
        let mut done = 0;
        let mut plain_from = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let inside = at % block_size;
            let count = ((block_size - inside) as usize).min(buf.len() - done);
            if let Some(copy) = self.overlay.get(&(at / block_size)) {
                if plain_from < done {
                    self.device().read_at(&mut buf[plain_from..done], offset + plain_from as u64)?;
                }
                let block = self.copied(copy)?;
                buf[done..done + count].copy_from_slice(&block[inside as usize..inside as usize + count]);
                plain_from = done + count;
            }
            done += count;
        }
        if plain_from < done {
            self.device().read_at(&mut buf[plain_from..done], offset + plain_from as u64)?;
        }
        Ok(())
    }
}
