//! The log as a ring of 512-byte blocks: where what was written last ends (the head), and where what is still needed begins
//! (the tail).
//!
//! Each block tells the cycle in which it was written, so that the head is where the cycle falls. Up to eight records may
//! have been under way when the machine stopped, and be there in part: what lies before the head is searched for older
//! blocks and for records whose checksums are wrong. The rules are those of Linux `xlog_find_head` and `xlog_find_tail`.

use super::super::overlay::SECTOR;
use super::corrupt;
use super::record::{self, Expect, Header, flags, lsn_block};
use crate::block::RunCache;
use crate::bytes::be32;
use crate::error::{Error, Result};

/// The most records that may be under way at once.
const IN_FLIGHT: usize = 8;

/// How far before the head the record of an unmount is looked for, in blocks: the longest stripe unit and a header.
const NEARBY: u64 = 513;

/// The longest record of Linux, in bytes, for version 1 and version 2 of the log.
const MAX_RECORD: [u64; 2] = [32 << 10, 256 << 10];

/// Returns the cycle of a block from its first two words.
fn cycle_of(first: u32, second: u32) -> u32 {
    if first == record::MAGIC { second } else { first }
}

/// The blocks of a log.
pub struct Ring<'a> {
    runs: &'a RunCache,
    /// Where it begins, in bytes.
    start: u64,
    blocks: u64,
    version_2: bool,
}

/// The records that must be replayed: from `tail` up to `head`, around the ring's end where need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The block of the first record.
    pub tail: u64,
    /// The block behind the last record.
    pub head: u64,
}

impl<'a> Ring<'a> {
    /// Makes a ring of the blocks at `start` bytes. There are at least two of them.
    pub fn new(runs: &'a RunCache, start: u64, blocks: u64, version_2: bool) -> Self {
        Self { runs, start, blocks, version_2 }
    }

    /// Returns how many blocks it has.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Reads blocks from `block` on, around the end where need be.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(&self, block: u64, count: u64) -> Result<Vec<u8>> {
        if block >= self.blocks || count > self.blocks {
            return Err(corrupt(format!("{count} blocks at {block} do not lie in it")));
        }
        let mut bytes = vec![0; (count * SECTOR) as usize];
        let before_end = count.min(self.blocks - block) * SECTOR;
        let (first, second) = bytes.split_at_mut(before_end as usize);
        self.runs.read_at(first, self.start + block * SECTOR)?;
        self.runs.read_at(second, self.start)?;
        Ok(bytes)
    }

    /// Returns the block that lies `count` blocks after `block`.
    pub fn after(&self, block: u64, count: u64) -> u64 {
        (block + count) % self.blocks
    }

    fn words(&self, block: u64) -> Result<(u32, u32)> {
        let mut bytes = [0; 8];
        self.runs.read_at(&mut bytes, self.start + block * SECTOR)?;
        Ok((be32(&bytes, 0), be32(&bytes, 4)))
    }

    fn is_header(&self, block: u64) -> Result<bool> {
        Ok(self.words(block)?.0 == record::MAGIC)
    }

    /// Returns the cycle in which a block was written.
    fn cycle(&self, block: u64) -> Result<u32> {
        let (first, second) = self.words(block)?;
        Ok(cycle_of(first, second))
    }

    fn header(&self, block: u64) -> Result<Header> {
        Header::parse(&self.read(block, 1)?)
            .ok_or_else(|| corrupt(format!("the header at its block {block} is damaged")))
    }

    /// Returns the first block after `low`, which is not of a cycle, up to `high`, which is. What it looks at lies far
    /// apart, so that no long runs are read for it.
    fn cycle_start(&self, mut low: u64, mut high: u64, cycle: u32) -> Result<u64> {
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; 8];
            self.runs.device().read_at(&mut bytes, self.start + middle * SECTOR)?;
            if cycle_of(be32(&bytes, 0), be32(&bytes, 4)) == cycle {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }

    /// Returns the first block of `from..to` that is of a cycle.
    fn first_of_cycle(&self, from: u64, to: u64, cycle: u32) -> Result<Option<u64>> {
        for block in from..to {
            if self.cycle(block)? == cycle {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Returns the last header in `from..to`.
    fn last_header(&self, from: u64, to: u64) -> Result<Option<u64>> {
        for block in (from..to).rev() {
            if self.is_header(block)? {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Returns the blocks of the last `count` headers before `head`, the last one first, back to `tail`.
    fn headers_before(&self, head: u64, tail: u64, count: usize) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        let low = if head > tail { tail } else { 0 };
        let around = if tail >= head { tail..self.blocks } else { 0..0 };
        for block in (low..head).rev().chain(around.rev()) {
            if self.is_header(block)? {
                found.push(block);
                if found.len() == count {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Returns the first header from `tail` on before `head`, leaving out `skip` of them.
    fn header_from(&self, tail: u64, head: u64, skip: usize) -> Result<Option<u64>> {
        let (first, second) = if tail <= head { (tail..head, 0..0) } else { (tail..self.blocks, 0..head) };
        let mut left = skip;
        for block in first.chain(second) {
            if self.is_header(block)? {
                if left == 0 {
                    return Ok(Some(block));
                }
                left -= 1;
            }
        }
        Ok(None)
    }

    /// How many blocks may have been under way.
    fn window(&self) -> u64 {
        (IN_FLIGHT as u64 * MAX_RECORD[usize::from(self.version_2)] / SECTOR).min(self.blocks)
    }

    /// Takes a record back that ends before the head it is said to end at; `extra` blocks of it lie at the ring's beginning.
    fn whole_record(&self, block: u64, end: u64, extra: u64) -> Result<u64> {
        let header = self.header(block)?;
        Ok(if end - block + extra == header.blocks() { end } else { block })
    }

    /// Says whether the last record before `head` tells of an unmount. It is looked for nearby only: it is short.
    ///
    /// Where that is so, nothing that was under way can matter: records behind an unmount begin at its end, and if the first
    /// of them is not there, the others are void.
    fn ends_with_unmount(&self, head: u64) -> Result<bool> {
        let block = self.last_header(head.saturating_sub(NEARBY), head)?;
        block.map_or(Ok(false), |block| self.is_unmount(block, head % self.blocks))
    }

    /// Finds the head. `None` when nothing was ever written, or nothing since an unmount.
    fn find_head(&self) -> Result<Option<u64>> {
        let last = self.blocks - 1;
        let (first_cycle, last_cycle) = (self.cycle(0)?, self.cycle(last)?);
        if first_cycle == 0 {
            return Ok(None);
        }
        let window = self.window();
        if last_cycle == 0 {
            let mut head = self.cycle_start(0, last, 0)?;
            if self.ends_with_unmount(head)? {
                return Ok(None);
            }
            let from = head.saturating_sub(window);
            if let Some(block) = self.first_of_cycle(from, head, 0)? {
                head = block;
            }
            return match self.last_header(from, head)? {
                Some(block) => self.whole_record(block, head, 0).map(Some),
                None => Err(corrupt("it has no record before its head")),
            };
        }
        let (mut head, stop) = if first_cycle == last_cycle {
            (self.blocks, last_cycle.wrapping_sub(1))
        } else {
            (self.cycle_start(0, last, last_cycle)?, last_cycle)
        };
        if self.ends_with_unmount(head)? {
            return Ok(None);
        }
        if head >= window {
            if let Some(block) = self.first_of_cycle(head - window, head, stop)? {
                head = block;
            }
        } else if let Some(block) =
            self.first_of_cycle(self.blocks - (window - head), self.blocks, stop.wrapping_sub(1))?
        {
            head = block;
        } else if let Some(block) = self.first_of_cycle(0, head, stop)? {
            head = block;
        }
        let from = head.saturating_sub(window);
        match self.last_header(from, head)? {
            Some(block) => head = self.whole_record(block, head, 0)?,
            None if from > 0 => return Err(corrupt("it has no record before its head")),
            // The record that ends here begins before the ring's end.
            None => match self.last_header(self.blocks - (window - head), self.blocks)? {
                Some(block) => {
                    let whole = self.whole_record(block, self.blocks, head)?;
                    if whole != self.blocks {
                        head = whole;
                    }
                }
                None => return Err(corrupt("it has no record before its head")),
            },
        }
        Ok(Some(head % self.blocks))
    }

    /// Says whether the record at `block` is the last one before `head` and tells of an unmount.
    fn is_unmount(&self, block: u64, head: u64) -> Result<bool> {
        let header = self.header(block)?;
        if header.operations != 1 || self.after(block, header.blocks()) != head {
            return Ok(false);
        }
        // The operation's flags lie behind its first word, which alone is replaced.
        let data = self.read(self.after(block, header.header_blocks), 1)?;
        Ok(data[9] & flags::UNMOUNT != 0)
    }

    /// Finds what must be replayed; `None` when there is nothing, because the filesystem was unmounted.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the log is damaged, and those of reading.
    pub fn find(&self, expect: Expect<'_>) -> Result<Option<Span>> {
        let Some(mut head) = self.find_head()? else { return Ok(None) };
        let last = |head, tail| -> Result<u64> {
            let found = self.headers_before(head, tail, 1)?;
            found.first().copied().ok_or_else(|| corrupt("it has no record"))
        };
        let mut block = last(head, head)?;
        if self.is_unmount(block, head)? {
            return Ok(None);
        }
        let mut header = self.header(block)?;
        let mut tail = self.tail_of(&header)?;
        let recent = self.headers_before(head, tail, IN_FLIGHT)?;
        if let Some(&from) = recent.last()
            && let Err((bad, error)) = self.check(Span { tail: from, head }, expect)
        {
            // A record that was under way is not there in whole: the log ends before it.
            let Some(bad) = bad.filter(|&bad| bad != tail) else { return Err(error) };
            head = bad;
            block = last(head, tail)?;
            if self.is_unmount(block, head)? {
                return Ok(None);
            }
            header = self.header(block)?;
            tail = self.tail_of(&header)?;
        }
        self.find_tail(head, tail, expect).map(Some)
    }

    fn tail_of(&self, header: &Header) -> Result<u64> {
        let tail = lsn_block(header.tail);
        if tail < self.blocks { Ok(tail) } else { Err(corrupt("its tail lies behind its end")) }
    }

    /// Moves the tail on from records that the head's torn writes have overwritten.
    fn find_tail(&self, head: u64, tail: u64, expect: Expect<'_>) -> Result<Span> {
        let none = || corrupt("it has no record from its tail on");
        if tail == head {
            return Ok(Span { tail, head });
        }
        let mut tail = self.header_from(tail, head, 0)?.ok_or_else(none)?;
        let window = IN_FLIGHT as u64 * MAX_RECORD[1] / SECTOR;
        for _ in 0..window {
            let Err((bad, error)) = self.check(Span { tail, head }, expect) else { break };
            let Some(bad) = bad else { return Err(error) };
            let distance = if bad >= head { bad - head } else { bad + self.blocks - head };
            if distance > window {
                return Err(error);
            }
            tail = self.header_from(bad, head, 1)?.ok_or(error)?;
        }
        Ok(Span { tail, head })
    }

    /// Checks the records of a span. An error comes with the block of the record that is damaged.
    fn check(&self, span: Span, expect: Expect<'_>) -> Result<(), (Option<u64>, Error)> {
        self.walk(span, |block| match record::read(self, block, expect) {
            Ok((header, _)) => Ok(header.blocks()),
            Err(error) if matches!(error, Error::Corrupt { .. }) => Err((Some(block), error)),
            Err(error) => Err((None, error)),
        })
    }

    /// Goes from record to record; `visit` returns how many blocks one takes.
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn walk<E>(&self, span: Span, mut visit: impl FnMut(u64) -> Result<u64, E>) -> Result<(), E> {
        let mut left = if span.tail <= span.head { span.head - span.tail } else { span.head + self.blocks - span.tail };
        let mut block = span.tail;
        while left > 0 {
            let count = visit(block)?.max(1);
            left = left.saturating_sub(count);
            block = self.after(block, count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDevice;
    use crate::bytes::{set_be32, set_be64};
    use crate::cache::CachePool;
    use std::sync::Arc;

    const UUID: [u8; 16] = [0; 16];
    const EXPECT: Expect<'static> = Expect { checksums: false, uuid: &UUID };

    /// Puts a record of so many blocks of data into a log, which may go on at its beginning.
    fn record(log: &mut [u8], cycle: u32, block: usize, blocks: usize, tail: (u32, u32), unmount: bool) {
        let count = log.len() / 512;
        for at in block..=block + blocks {
            let cycle = cycle + u32::from(at >= count);
            set_be32(log, at % count * 512, cycle);
        }
        let head = &mut log[block * 512..][..512];
        set_be32(head, 0, record::MAGIC);
        set_be32(head, 4, cycle);
        set_be32(head, 8, 2);
        set_be32(head, 12, blocks as u32 * 512);
        set_be64(head, 16, u64::from(cycle) << 32 | block as u64);
        set_be64(head, 24, u64::from(tail.0) << 32 | u64::from(tail.1));
        set_be32(head, 40, 1);
        set_be32(head, 300, 1);
        if unmount {
            log[(block + 1) % count * 512 + 9] = flags::UNMOUNT;
        }
    }

    fn find(log: &[u8]) -> Result<Option<Span>> {
        let runs = RunCache::new(Arc::new(MemoryDevice::new(log.to_vec())), 4096, &CachePool::new(1 << 20));
        Ring::new(&runs, 0, log.len() as u64 / 512, true).find(EXPECT)
    }

    #[test]
    fn a_log_that_was_never_written_and_one_that_ends_with_an_unmount_hold_nothing() {
        let mut log = vec![0; 64 * 512];
        assert_eq!(find(&log).expect("is whole"), None);
        record(&mut log, 1, 0, 3, (1, 0), false);
        assert_eq!(find(&log).expect("is whole"), Some(Span { tail: 0, head: 4 }));
        record(&mut log, 1, 4, 1, (1, 4), true);
        assert_eq!(find(&log).expect("is whole"), None);
        record(&mut log, 1, 6, 5, (1, 6), false);
        assert_eq!(find(&log).expect("is whole"), Some(Span { tail: 6, head: 12 }));
    }

    #[test]
    fn a_log_that_goes_round_is_found_from_its_tail_to_its_head() {
        let mut log = vec![0; 64 * 512];
        for block in (0..60).step_by(6) {
            record(&mut log, 1, block, 5, (1, 0), false);
        }
        record(&mut log, 1, 60, 5, (1, 48), false);
        assert_eq!(find(&log).expect("is whole"), Some(Span { tail: 48, head: 2 }));
        record(&mut log, 2, 2, 3, (1, 60), false);
        assert_eq!(find(&log).expect("is whole"), Some(Span { tail: 60, head: 6 }));
    }

    #[test]
    fn a_record_that_is_there_in_part_is_left_out() {
        let mut log = vec![0; 64 * 512];
        record(&mut log, 1, 0, 3, (1, 0), false);
        record(&mut log, 1, 4, 6, (1, 0), false);
        // A block of the second never came.
        log[7 * 512..8 * 512].fill(0);
        assert_eq!(find(&log).expect("is whole"), Some(Span { tail: 0, head: 4 }));
    }

    #[test]
    fn a_log_of_noise_is_damage() {
        let log: Vec<u8> = (0..64 * 512_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 11) as u8 | 1).collect();
        assert!(matches!(find(&log), Err(Error::Corrupt { .. })));
    }
}
