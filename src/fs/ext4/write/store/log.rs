//! The log: transactions, one behind the other, round and round in the journal's blocks.
//!
//! A transaction is written as revoke blocks, then descriptors with the copies that they name, then, after a flush that
//! makes all of it and the file data before it durable, the commit block, and another flush. The space of a transaction is
//! free again when its blocks have been written to where they belong and the superblock says that recovery begins behind
//! it.

use super::checksum::{SEED, crc32_be};
use super::descriptor::{self, Tag};
use super::format::{Checksums, Format, MAGIC};
use super::home::{BlockBytes, Gather};
use super::place::JournalPlace;
use super::superblock::JournalSuperblock;
use super::{commit_block, revoke};
use crate::block::SharedDevice;
use crate::error::{Error, Result};

/// The fewest blocks that a log may have.
const MIN_BLOCKS: u32 = 32;

/// The journal, open for writing.
pub(super) struct Log {
    device: SharedDevice,
    place: JournalPlace,
    superblock: JournalSuperblock,
    format: Format,
    /// Where the next transaction goes.
    head: u32,
    /// How many blocks before the head hold transactions that recovery would need.
    used: u32,
    /// The sequence number of the next transaction.
    sequence: u32,
}

impl Log {
    /// Opens the log of a journal that needs no recovery. Nothing is written yet.
    ///
    /// # Errors
    /// [`Error::Usage`] when the journal needs recovery, [`Error::Unsupported`], [`Error::Corrupt`], and those of reading.
    pub(super) fn open(device: SharedDevice, block_size: u32, place: JournalPlace) -> Result<Self> {
        let superblock = JournalSuperblock::read(&*device, block_size, &place)?;
        if superblock.start() != 0 {
            return Err(Error::Usage("the journal must be recovered before anything is written".into()));
        }
        let (end, sequence) = ((superblock.first(), 0), superblock.sequence().wrapping_add(1));
        Self::begin(device, place, superblock, end, sequence)
    }

    /// Opens the log of a journal that needs recovery, to write transaction `sequence` behind those that it holds: they
    /// take `used` blocks, up to `head`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn behind(
        device: SharedDevice,
        block_size: u32,
        place: JournalPlace,
        (head, used): (u32, u32),
        sequence: u32,
    ) -> Result<Self> {
        let superblock = JournalSuperblock::read(&*device, block_size, &place)?;
        Self::begin(device, place, superblock, (head, used), sequence)
    }

    fn begin(
        device: SharedDevice,
        place: JournalPlace,
        mut superblock: JournalSuperblock,
        (head, used): (u32, u32),
        sequence: u32,
    ) -> Result<Self> {
        if !superblock.is_v2() {
            return Err(Error::unsupported("writing to a journal whose superblock has version 1"));
        }
        if superblock.end() - superblock.first() < MIN_BLOCKS {
            return Err(Error::unsupported(format!("a journal of {} blocks", superblock.end())));
        }
        if superblock.errno() != 0 {
            log::warn!("the journal tells of an earlier failure (error {}); a check is due", superblock.errno());
        }
        let blocks = device.size() / superblock.format().block_size as u64;
        if used == 0 && blocks > 1 << 32 {
            superblock.set_wide();
        }
        let format = superblock.format();
        Ok(Self { device, place, superblock, format, head, used, sequence })
    }

    /// Returns how many blocks the log has.
    pub(super) fn capacity(&self) -> u32 {
        self.superblock.end() - self.superblock.first()
    }

    /// Returns how many blocks are free.
    pub(super) fn free(&self) -> u32 {
        self.capacity() - self.used
    }

    /// Returns how many blocks of the log a transaction takes.
    pub(super) fn blocks_for(&self, blocks: usize, revokes: usize) -> usize {
        let descriptors = blocks.div_ceil(self.format.tags_per_descriptor());
        blocks + descriptors + revokes.div_ceil(self.format.records_per_revoke_block()) + 1
    }

    /// Writes a transaction; it is durable when this returns. The caller has seen to it that there is room.
    ///
    /// # Errors
    /// Those of writing. Then nothing of the log may be relied upon but what recovery finds in it.
    pub(super) fn write(&mut self, blocks: &[BlockBytes], revokes: &[u64]) -> Result<()> {
        debug_assert!(self.blocks_for(blocks.len(), revokes.len()) <= self.free() as usize, "the log has room");
        let begins_anew = (self.superblock.start(), self.superblock.sequence()) != (self.head, self.sequence);
        let mut superblock_changed = !revokes.is_empty() && self.superblock.set_revokes();
        if self.used == 0 && begins_anew {
            self.superblock.set_tail(self.head, self.sequence);
            superblock_changed = true;
        }
        if superblock_changed {
            // It becomes durable with the blocks of the log, before the commit block makes them count.
            self.superblock.write(&*self.device, &self.place)?;
        }
        let device = self.device.clone();
        let mut gather = Gather::new(&*device, self.format.block_size as u32);
        for records in revokes.chunks(self.format.records_per_revoke_block()) {
            let block = revoke::build(&self.format, self.sequence, records);
            self.push(&mut gather, &block)?;
        }
        let mut sum = SEED;
        for copies in blocks.chunks(self.format.tags_per_descriptor()) {
            self.push_copies(&mut gather, copies, &mut sum)?;
        }
        gather.finish()?;
        device.flush()?;
        let commit = commit_block::build(&self.format, self.sequence, sum);
        self.push(&mut gather, &commit)?;
        gather.finish()?;
        device.flush()?;
        self.sequence = self.sequence.wrapping_add(1);
        Ok(())
    }

    /// Adds one descriptor block and the copies that it names.
    fn push_copies(&mut self, gather: &mut Gather<'_>, copies: &[BlockBytes], sum: &mut u32) -> Result<()> {
        let is_summed = self.format.checksums == Checksums::V1;
        let tags: Vec<Tag> = copies
            .iter()
            .map(|(home, bytes)| {
                let is_escaped = bytes.starts_with(&MAGIC.to_be_bytes());
                let sum = if is_escaped {
                    self.format.copy_sum(self.sequence, &escaped(bytes))
                } else {
                    self.format.copy_sum(self.sequence, bytes)
                };
                Tag { home: *home, is_escaped, sum }
            })
            .collect();
        let block = descriptor::build(&self.format, self.sequence, &tags);
        if is_summed {
            *sum = crc32_be(*sum, &block);
        }
        self.push(gather, &block)?;
        for (tag, (_, bytes)) in tags.iter().zip(copies) {
            let copy = self.push(gather, bytes)?;
            if tag.is_escaped {
                copy[..4].fill(0);
            }
            if is_summed {
                *sum = crc32_be(*sum, copy);
            }
        }
        Ok(())
    }

    fn push<'a>(&mut self, gather: &'a mut Gather<'_>, block: &[u8]) -> Result<&'a mut [u8]> {
        let at = self.place.on_device(self.head)?;
        self.head += 1;
        if self.head == self.superblock.end() {
            self.head = self.superblock.first();
        }
        self.used += 1;
        gather.push(at, block)
    }

    /// Frees the whole log: every block of its transactions is durable where it belongs.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn release(&mut self) -> Result<()> {
        if self.used > 0 {
            self.superblock.set_tail(self.head, self.sequence);
            self.superblock.write(&*self.device, &self.place)?;
            self.device.flush()?;
            self.used = 0;
        }
        Ok(())
    }

    /// Says that nothing needs recovery. The log is free.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn mark_empty(&mut self) -> Result<()> {
        if self.superblock.start() != 0 {
            self.superblock.set_tail(0, self.sequence);
            self.superblock.write(&*self.device, &self.place)?;
            self.device.flush()?;
        }
        Ok(())
    }

    /// Notes a failure for whoever opens the filesystem next.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn record_error(&mut self, errno: i32) -> Result<()> {
        self.superblock.set_errno(errno);
        self.superblock.write(&*self.device, &self.place)?;
        self.device.flush()
    }
}

/// Returns a copy as the log holds it where the block begins with the journal's magic number.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    copy[..4].fill(0);
    copy
}
