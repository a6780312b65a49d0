//! A device whose sectors are encrypted on another.
//!
//! Reading takes no lock: callers decrypt in their own buffers, and a large read is divided over the processor's cores.
//!
//! A sector that is being written could be read half old and half new, and would then decrypt to noise, so a read that a
//! write may have crossed is done again, after it. Whoever waits for others, or lets others wait, divides nothing: a thread
//! of the pool that waits for a part may take up another caller's work, which could wait for it.

use super::SectorCipher;
use crate::block::{BlockDevice, SharedDevice, check_range};
use crate::error::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads from here on are divided, in pieces of this many bytes.
const DIVIDED: usize = 128 << 10;

/// How much is encrypted for one write, in bytes.
const WRITTEN: usize = 1 << 20;

/// A contiguous part of an encrypted device.
pub(in crate::volume) struct Piece {
    /// How long it is, in bytes: whole sectors.
    pub(in crate::volume) size: u64,
    /// Where it lies on the device below, in bytes.
    pub(in crate::volume) offset: u64,
    /// The size of its sectors, in bytes: a power of two.
    pub(in crate::volume) sector: u32,
    /// The cipher; `None` where the bytes are as they are.
    pub(in crate::volume) cipher: Option<Box<dyn SectorCipher>>,
}

/// A piece and where it begins in the whole.
struct Placed {
    start: u64,
    piece: Piece,
}

/// A device whose bytes are those of pieces in a row.
pub(in crate::volume) struct CryptDevice {
    inner: SharedDevice,
    pieces: Vec<Placed>,
    size: u64,
    sector: u32,
    read_only: bool,
    writes: Writes,
}

impl CryptDevice {
    /// Makes a device of pieces of `inner`, which all lie within it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they do not, or are no whole sectors.
    pub(in crate::volume) fn new(inner: SharedDevice, pieces: Vec<Piece>, read_only: bool) -> Result<Self> {
        let mut placed = Vec::with_capacity(pieces.len());
        let mut size: u64 = 0;
        let mut sector = inner.sector_size();
        for piece in pieces {
            let wrong = |detail: &str| Error::corrupt("map of encrypted segments", detail.to_owned());
            if !piece.sector.is_power_of_two() || !piece.size.is_multiple_of(u64::from(piece.sector)) {
                return Err(wrong("a segment does not end with a sector"));
            }
            check_range(inner.size(), piece.offset, piece.size)
                .map_err(|_| wrong("a segment passes the end of the device"))?;
            let start = size;
            size = size.checked_add(piece.size).ok_or_else(|| wrong("the segments are too large"))?;
            sector = sector.max(piece.sector.min(4096));
            if piece.size > 0 {
                placed.push(Placed { start, piece });
            }
        }
        let read_only = read_only || inner.is_read_only();
        Ok(Self { inner, pieces: placed, size, sector, read_only, writes: Writes::default() })
    }

    /// Calls `work` for each part of a range that lies in one piece: the piece, the offset in it, and the part's length.
    fn parts(&self, offset: u64, len: u64, mut work: impl FnMut(&Piece, u64, u64) -> Result<()>) -> Result<()> {
        let mut at = offset;
        let end = offset + len;
        let mut index = self.pieces.partition_point(|placed| placed.start + placed.piece.size <= at);
        while at < end {
            let placed = &self.pieces[index];
            let within = at - placed.start;
            let count = (placed.piece.size - within).min(end - at);
            work(&placed.piece, within, count)?;
            at += count;
            index += 1;
        }
        Ok(())
    }

    fn read(&self, buf: &mut [u8], offset: u64, divide: bool) -> Result<()> {
        let len = buf.len() as u64;
        let mut rest = buf;
        self.parts(offset, len, |piece, within, count| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(count as usize);
            rest = after;
            piece.read(self.inner.as_ref(), part, within, divide)
        })
    }
}

impl Piece {
    /// Reads and decrypts; `offset` is in this piece.
    fn read(&self, inner: &dyn BlockDevice, buf: &mut [u8], offset: u64, divide: bool) -> Result<()> {
        let Some(cipher) = self.cipher.as_deref() else { return inner.read_at(buf, self.offset + offset) };
        let sector = u64::from(self.sector);
        let head = offset % sector;
        if head != 0 || !(buf.len() as u64).is_multiple_of(sector) {
            return self.read_parts(cipher, inner, buf, offset, divide);
        }
        let whole = |part: &mut [u8], at: u64| {
            inner.read_at(part, self.offset + at)?;
            cipher.decrypt(part, at);
            Ok(())
        };
        if !divide || buf.len() <= DIVIDED {
            return whole(buf, offset);
        }
        buf.par_chunks_mut(DIVIDED)
            .enumerate()
            .try_for_each(|(index, part)| whole(part, offset + (index * DIVIDED) as u64))
    }

    /// Reads what does not begin and end with a sector.
    fn read_parts(
        &self,
        cipher: &dyn SectorCipher,
        inner: &dyn BlockDevice,
        buf: &mut [u8],
        offset: u64,
        divide: bool,
    ) -> Result<()> {
        let sector = u64::from(self.sector);
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let skipped = (at % sector) as usize;
            let whole = rest.len() - rest.len() % sector as usize;
            if skipped == 0 && whole > 0 {
                let (part, after) = rest.split_at_mut(whole);
                self.read(inner, part, at, divide)?;
                (at, rest) = (at + whole as u64, after);
                continue;
            }
            let mut bytes = vec![0; sector as usize];
            let first = at - skipped as u64;
            inner.read_at(&mut bytes, self.offset + first)?;
            cipher.decrypt(&mut bytes, first);
            let count = rest.len().min(sector as usize - skipped);
            let (part, after) = rest.split_at_mut(count);
            part.copy_from_slice(&bytes[skipped..skipped + count]);
            (at, rest) = (at + count as u64, after);
        }
        Ok(())
    }

    /// Encrypts and writes; `offset` is in this piece. No other write of the same sectors may run meanwhile.
    fn write(&self, inner: &dyn BlockDevice, buf: &[u8], offset: u64) -> Result<()> {
        let Some(cipher) = self.cipher.as_deref() else { return inner.write_at(buf, self.offset + offset) };
        let sector = u64::from(self.sector);
        let mut bytes = Vec::new();
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let head = at % sector;
            let first = at - head;
            let count = rest.len().min(WRITTEN - head as usize);
            let (part, after) = rest.split_at(count);
            let used = head as usize + count;
            bytes.clear();
            bytes.resize(used.next_multiple_of(sector as usize), 0);
            // What lies beside the part in its first and last sector stays.
            let last = bytes.len() - sector as usize;
            let tail = used < bytes.len();
            for edge in [(head > 0 || (last == 0 && tail)).then_some(0), (last > 0 && tail).then_some(last)] {
                let Some(edge) = edge else { continue };
                let old = &mut bytes[edge..edge + sector as usize];
                inner.read_at(old, self.offset + first + edge as u64)?;
                cipher.decrypt(old, first + edge as u64);
            }
            bytes[head as usize..used].copy_from_slice(part);
            cipher.encrypt(&mut bytes, first);
            inner.write_at(&bytes, self.offset + first)?;
            (at, rest) = (at + count as u64, after);
        }
        Ok(())
    }
}

impl BlockDevice for CryptDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        if self.read_only {
            return self.read(buf, offset, true);
        }
        let before = self.writes.state();
        if before.is_some() {
            let result = self.read(buf, offset, true);
            if self.writes.state() == before {
                return result;
            }
        }
        let _turn = self.writes.take(self.sectors(offset, buf.len() as u64), false);
        self.read(buf, offset, false)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        if self.read_only {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.size, offset, buf.len() as u64)?;
        let _turn = self.writes.take(self.sectors(offset, buf.len() as u64), true);
        let mut rest = buf;
        self.parts(offset, buf.len() as u64, |piece, within, count| {
            let (part, after) = rest.split_at(count as usize);
            rest = after;
            piece.write(self.inner.as_ref(), part, within)
        })
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if self.read_only {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.size, offset, len)?;
        let _turn = self.writes.take(self.sectors(offset, len), true);
        self.parts(offset, len, |piece, within, count| {
            // Whole sectors only: the rest of a sector could not be read any more.
            let sector = u64::from(piece.sector);
            let first = within.next_multiple_of(sector);
            let end = (within + count) / sector * sector;
            if first < end { self.inner.discard(piece.offset + first, end - first) } else { Ok(()) }
        })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if check_range(self.size, offset, len).is_ok() {
            // A hint that fails changes nothing.
            let _ = self.parts(offset, len, |piece, within, count| {
                self.inner.prefetch(piece.offset + within, count);
                Ok(())
            });
        }
    }
}

impl CryptDevice {
    /// Returns a range made larger so that it holds whole sectors.
    fn sectors(&self, offset: u64, len: u64) -> Range<u64> {
        let sector = self.pieces.iter().map(|placed| u64::from(placed.piece.sector)).max().unwrap_or(512);
        let end = offset + len;
        offset / sector * sector..end.div_ceil(sector).saturating_mul(sector)
    }
}

/// The writes that run. Its lock is held only to enter and to leave, never while a device works.
#[derive(Default)]
struct Writes {
    /// The ranges that are written, or read in turn with writes.
    ranges: Mutex<Vec<(Range<u64>, bool)>>,
    left: Condvar,
    /// How many writes have begun, and ended.
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A range of a [`Writes`], until it is dropped.
struct Turn<'a> {
    writes: &'a Writes,
    range: Range<u64>,
    writing: bool,
}

impl Writes {
    /// Returns a number that stays the same as long as no write begins; `None` while one runs.
    fn state(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        (begun == ended).then_some(begun)
    }

    /// Waits until no one writes within a range, and for a writer until no one reads in turn there either, and enters it.
    fn take(&self, range: Range<u64>, writing: bool) -> Turn<'_> {
        let mut ranges = self.ranges.lock();
        let crosses = |(other, written): &(Range<u64>, bool)| {
            (writing || *written) && other.start < range.end && range.start < other.end
        };
        while ranges.iter().any(crosses) {
            self.left.wait(&mut ranges);
        }
        if writing {
            self.begun.fetch_add(1, Ordering::SeqCst);
        }
        ranges.push((range.clone(), writing));
        drop(ranges);
        Turn { writes: self, range, writing }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut ranges = self.writes.ranges.lock();
        let mine = ranges.iter().position(|(range, writing)| *range == self.range && *writing == self.writing);
        if let Some(index) = mine {
            ranges.swap_remove(index);
        }
        if self.writing {
            self.writes.ended.fetch_add(1, Ordering::SeqCst);
        }
        drop(ranges);
        self.writes.left.notify_all();
    }
}
