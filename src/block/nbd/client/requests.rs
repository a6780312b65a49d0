//! Requests of a client: cut to what the server takes, and widened to its blocks.

use super::pool::Again;
use super::{Client, Map};
use crate::block::nbd::connection::{Connection, Failure, State};
use crate::block::nbd::handshake::Export;
use crate::block::nbd::wire::{self, Command, transmission};
use crate::block::{Extent, ExtentKind, check_range};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The longest request of a read, in bytes.
const READ_PART: u32 = 512 << 10;

/// The shortest part into which a read is split, in bytes.
const READ_PART_MIN: u32 = 256 << 10;

/// A read is split in so many, within the limits above: the server works on one while another is on its way.
const READ_PARTS: usize = 4;

/// The longest request of a write, in bytes.
const WRITE_PART: u32 = 1 << 20;

/// The longest request to zero, in bytes: a server may have to write the zeroes.
const ZERO_PART: u64 = 128 << 20;

/// The most of a block status that is kept, in ranges.
const MAP_KEPT: usize = 64 << 10;

impl Client {
    /// Returns the longest request, in bytes, of at most `most`, at the server's block sizes.
    pub(super) fn part(&self, most: u32) -> usize {
        let Export { min_block, preferred_block, max_payload, .. } = self.export;
        let part = most.min(max_payload);
        let unit = if preferred_block <= part { preferred_block } else { min_block };
        (part - part % unit).max(min_block) as usize
    }

    /// Returns the range of whole blocks around a range; it ends where the export ends.
    pub(super) fn widen(&self, offset: u64, len: u64) -> (u64, u64) {
        let block = u64::from(self.export.min_block);
        let start = offset - offset % block;
        (start, (offset + len).next_multiple_of(block).min(self.export.size))
    }

    /// Cuts a range into one before, of and after the whole blocks in it. Each but the middle lies in one block.
    pub(super) fn cut(&self, offset: u64, len: u64) -> [(u64, u64); 3] {
        let block = u64::from(self.export.min_block);
        let end = offset + len;
        // The export's last block is whole even where it is short.
        let whole_end = if end == self.export.size { end } else { end - end % block };
        let whole_start = offset.next_multiple_of(block);
        if whole_start >= whole_end {
            // At most two blocks, none of them whole.
            let border = whole_start.clamp(offset, end);
            return [(offset, border), (border, border), (border, end)];
        }
        [(offset, whole_start), (whole_start, whole_end), (whole_end, end)]
    }

    pub(super) fn read_whole(self: &Arc<Self>, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len();
        let part = self.part(((len / READ_PARTS).min(READ_PART as usize) as u32).max(READ_PART_MIN));
        self.run(
            Again::Safe,
            || format!("{} {len} bytes at {offset}", Command::Read.doing()),
            |connection| connection.read(buf, offset, part),
        )
    }

    pub(super) fn write_whole(self: &Arc<Self>, buf: &[u8], offset: u64) -> Result<()> {
        let part = self.part(WRITE_PART);
        let flags = self.durability();
        self.run_write(
            || format!("{} {} bytes at {offset}", Command::Write.doing(), buf.len()),
            |connection| connection.write(buf, offset, flags, part),
        )
    }

    /// Returns the flag of a server that cannot flush but can write through.
    pub(super) fn durability(&self) -> u16 {
        if !self.export.has(transmission::FLUSH) && self.export.has(transmission::FUA) { wire::FLAG_FUA } else { 0 }
    }

    /// Changes a part of one block by reading and writing all of it. `edges` is held alone.
    pub(super) fn write_edge(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, end) = self.widen(offset, bytes.len() as u64);
        let mut block = vec![0; (end - start) as usize];
        self.read_whole(&mut block, start)?;
        block[(offset - start) as usize..][..bytes.len()].copy_from_slice(bytes);
        self.write_whole(&block, start)
    }

    pub(super) fn is_aligned(&self, offset: u64, len: u64) -> bool {
        self.export.min_block == 1 || self.widen(offset, len) == (offset, offset + len)
    }

    /// Runs a command without payload for whole blocks.
    pub(super) fn command(
        self: &Arc<Self>,
        command: Command,
        flags: u16,
        offset: u64,
        len: u64,
        part: u64,
    ) -> Result<()> {
        self.run_write(
            || format!("{} {len} bytes at {offset}", command.doing()),
            |connection| connection.command(command, flags, offset, len, part),
        )
    }

    pub(super) fn zero_whole(self: &Arc<Self>, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        if self.export.has(transmission::WRITE_ZEROES) {
            let flags = self.durability() | if keep_space { wire::FLAG_NO_HOLE } else { 0 };
            match self.command(Command::WriteZeroes, flags, offset, len, ZERO_PART) {
                Err(error) if error.errno() == libc::EOPNOTSUPP => {}
                other => return other,
            }
        }
        let zeroes = vec![0; len.min(self.part(WRITE_PART) as u64) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeroes.len() as u64);
            self.write_whole(&zeroes[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Flushes, over each connection that wrote since it last did. One flush would do for a server that lives; but a
    /// server that was started anew knows nothing of what the other connections wrote, and only they can tell.
    pub(super) fn flush_all(self: &Arc<Self>) -> Result<()> {
        let flush = |connection: &Connection| connection.command(Command::Flush, 0, 0, 0, 1);
        let wrote: Vec<_> = self.pool.read().iter().filter(|connection| connection.take_dirty()).cloned().collect();
        let mut flushed = false;
        for connection in wrote {
            match flush(&connection) {
                Ok(()) => flushed = true,
                Err(Failure::Lost(..)) => self.leave(&connection),
                Err(failure) => {
                    if !matches!(failure, Failure::Refused(_)) {
                        self.leave(&connection);
                    }
                    return Err(failure.into_error(format!("{}: cannot flush", self.place)));
                }
            }
        }
        if flushed { Ok(()) } else { self.run(Again::Safe, || Command::Flush.doing().to_owned(), flush) }
    }

    pub(super) fn check_writable(&self, offset: u64, len: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.export.size, offset, len)
    }

    /// Keeps what a block status said, and returns the extent at `offset`.
    pub(super) fn keep(&self, writes: u64, start: u64, states: &[State], offset: u64, end: u64) -> Option<Extent> {
        let mut extents: Vec<Extent> = Vec::with_capacity(states.len().min(MAP_KEPT));
        let mut at = start;
        for &(len, flags) in states {
            at = at.saturating_add(len).min(self.export.size);
            let kind = match (flags & wire::STATE_ZERO != 0, flags & wire::STATE_HOLE != 0) {
                (true, true) => ExtentKind::Hole,
                (true, false) => ExtentKind::Zero,
                // A hole that need not read as zeroes reads as something.
                (false, _) => ExtentKind::Data,
            };
            let room = extents.len() < MAP_KEPT;
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.end = at,
                _ if room => extents.push(Extent { end: at, kind }),
                _ => break,
            }
        }
        let map = Map { writes, start, extents };
        let found = map.find(offset, end);
        *self.map.lock() = map;
        found
    }
}
