//! Blocks on their way to where they belong.

use super::superblock::byte_offset;
use crate::block::BlockDevice;
use crate::error::Result;
use std::sync::Arc;

/// How much is gathered into one write, in bytes.
pub(super) const MAX_WRITE: usize = 1 << 20;

/// A block's number and its bytes.
pub(super) type BlockBytes = (u64, Arc<[u8]>);

/// Gathers blocks that are neighbours on the device into large writes.
pub(super) struct Gather<'a> {
    device: &'a dyn BlockDevice,
    block_size: u32,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Gather<'a> {
    /// Begins with nothing gathered.
    pub(super) fn new(device: &'a dyn BlockDevice, block_size: u32) -> Self {
        Self { device, block_size, start: 0, bytes: Vec::new() }
    }

    /// Adds a block; writes what was gathered when it is no neighbour or enough was gathered. Returns the block's bytes,
    /// to be changed before the next call.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn push(&mut self, block: u64, bytes: &[u8]) -> Result<&mut [u8]> {
        let at = byte_offset(block, self.block_size)?;
        if at != self.start + self.bytes.len() as u64 || self.bytes.len() + bytes.len() > MAX_WRITE {
            self.finish()?;
            self.start = at;
        }
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Ok(&mut self.bytes[from..])
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            self.device.write_at(&self.bytes, self.start)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// Writes blocks, sorted by their numbers, to where they belong.
///
/// # Errors
/// Those of writing.
pub(super) fn write_home(device: &dyn BlockDevice, block_size: u32, blocks: &[BlockBytes]) -> Result<()> {
    let mut gather = Gather::new(device, block_size);
    for (block, bytes) in blocks {
        gather.push(*block, bytes)?;
    }
    gather.finish()
}
