//! A device that is far away: what was read is kept, and what is likely to be read next is fetched before it is asked for.
//!
//! Bytes are kept in blocks, in a cache that draws on the process's budget. A read that misses fetches the blocks around it in
//! one request. Reads that follow each other are a stream; a stream's window doubles with each read, up to [`MOST_AHEAD`] or
//! an eighth of the budget, and what lies in it is fetched by threads of their own, many requests at once. So is what
//! [`prefetch`](BlockDevice::prefetch) names. What waits to be fetched is bounded as the windows are; a hint beyond that is
//! dropped. No block is fetched twice at once: who needs one that is on its way waits for it.
//!
//! How far away the device is, is measured with each request. While it is near ([`NEAR`]), as a server on this host is, reads go
//! straight to it, since a copy would cost more than it saves.
//!
//! The device is only read, so what is kept stays right.

use super::{BlockDevice, Extent, SharedDevice, check_range};
use crate::cache::{Cache, CachePool};
use crate::error::Result;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The size of a block, in bytes.
const BLOCK: u64 = 64 << 10;

/// How many blocks a read that misses fetches around it: at a distance, they cost little more than one.
const AROUND: u64 = 4;

/// The most blocks of one request.
const PIECE: u64 = 8;

/// The longest window of a stream, in bytes.
const MOST_AHEAD: u64 = 16 << 20;

/// The shortest window, in bytes.
const LEAST_AHEAD: u64 = 256 << 10;

/// How far from a stream's end a read may begin and still follow it, in bytes: files lie with gaps between them.
const SLACK: u64 = 512 << 10;

/// How many streams are followed.
const STREAMS: usize = 32;

/// The most threads that fetch ahead.
const FETCHERS: usize = 24;

/// A device whose requests take less is near.
const NEAR: Duration = Duration::from_micros(700);

/// How long requests that are under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest read whose time tells how far the device is, in bytes.
const TELLING: usize = 256 << 10;

/// A block's bytes; the last one of a device may be short.
type Block = Arc<[u8]>;

/// Reads that follow each other.
#[derive(Clone, Copy, Default)]
struct Stream {
    /// Where the last read ended.
    end: u64,
    /// Up to where has been fetched or is on its way.
    ahead: u64,
    /// How far is fetched ahead, in bytes.
    window: u64,
    /// When it was last read, counted in reads.
    used: u64,
}

/// Blocks that are to be fetched.
#[derive(Default)]
struct Queue {
    /// Ranges of blocks, each within one request.
    pieces: VecDeque<Range<u64>>,
    /// How many threads fetch.
    fetchers: usize,
    /// How many of them have nothing to do.
    idle: usize,
    closed: bool,
}

struct Shared {
    device: SharedDevice,
    blocks: Cache<u64, Block>,
    /// Blocks on their way. Never taken with `queue`.
    coming: Mutex<HashSet<u64>>,
    arrived: Condvar,
    queue: Mutex<Queue>,
    wake: Condvar,
    /// The most blocks on their way ahead of reads.
    most_coming: usize,
    coming_ahead: AtomicUsize,
    /// What a request takes, in microseconds: a mean in which the last ones count most.
    latency: AtomicU64,
}

/// A device that is far away.
pub(super) struct Distant {
    shared: Arc<Shared>,
    streams: Mutex<(u64, [Stream; STREAMS])>,
    most_ahead: u64,
}

impl Distant {
    /// Makes a device that keeps what it reads of another, under the budget `pool`.
    pub fn new(device: SharedDevice, pool: &Arc<CachePool>) -> Self {
        let most_ahead = MOST_AHEAD.min(pool.limit() as u64 / 8);
        let shared = Shared {
            device,
            blocks: Cache::new(pool),
            coming: Mutex::default(),
            arrived: Condvar::new(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            most_coming: (2 * most_ahead / BLOCK) as usize,
            coming_ahead: AtomicUsize::new(0),
            latency: AtomicU64::new(u64::MAX),
        };
        // The first block is read by whatever looks for a table of partitions, and tells how far the device is.
        if shared.device.size() > 0 {
            let _ = shared.fetch(shared.claim(0..1, 1).pop().unwrap_or(0..1));
        }
        Self { shared: Arc::new(shared), streams: Mutex::default(), most_ahead }
    }

    /// Notes a read, and fetches ahead where it follows others.
    fn follow(&self, offset: u64, end: u64) {
        if self.most_ahead < LEAST_AHEAD {
            return;
        }
        let wanted = {
            let mut streams = self.streams.lock();
            let (clock, streams) = &mut *streams;
            *clock += 1;
            let follows = |stream: &&mut Stream| {
                stream.used > 0 && offset + SLACK >= stream.end && offset <= stream.end.max(stream.ahead) + SLACK
            };
            let Some(stream) = streams.iter_mut().find(follows) else {
                if let Some(oldest) = streams.iter_mut().min_by_key(|stream| stream.used) {
                    *oldest = Stream { end, ahead: end, window: 0, used: *clock };
                }
                return;
            };
            stream.used = *clock;
            if end <= stream.end {
                return;
            }
            stream.end = end;
            stream.window = (stream.window * 2).clamp(LEAST_AHEAD, self.most_ahead);
            let from = stream.ahead.max(end);
            let room = self.shared.room() as u64 * BLOCK;
            let to = (end + stream.window).min(from + room).min(self.shared.device.size());
            // In large steps, so that a request has many blocks.
            if to < from + stream.window / 4 {
                return;
            }
            stream.ahead = to;
            from..to
        };
        self.shared.fetch_ahead(wanted);
    }
}

impl Shared {
    fn is_near(&self) -> bool {
        self.latency.load(Ordering::Relaxed) < NEAR.as_micros() as u64
    }

    /// Reads from the device, and notes how long it takes.
    fn ask(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let began = Instant::now();
        let result = self.device.read_at(buf, offset);
        if buf.len() <= TELLING && result.is_ok() {
            let took = began.elapsed().as_micros().min(1 << 30) as u64;
            let before = self.latency.load(Ordering::Relaxed);
            let mean = if before == u64::MAX { took } else { (before * 7 + took) / 8 };
            self.latency.store(mean, Ordering::Relaxed);
        }
        result
    }

    /// Returns the blocks that a range of bytes touches.
    fn blocks_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start / BLOCK..range.end.min(self.device.size()).div_ceil(BLOCK)
    }

    /// Fetches blocks that are marked as coming, in one request; keeps them, and wakes who waits.
    fn fetch(&self, piece: Range<u64>) -> Result<()> {
        let start = piece.start * BLOCK;
        let len = (piece.end * BLOCK).min(self.device.size()) - start;
        // Whatever comes of it, a panic included, nobody waits for ever.
        let _arrival = Arrival { shared: self, piece: piece.clone() };
        let mut bytes = vec![0; len as usize];
        self.ask(&mut bytes, start)?;
        for (number, block) in piece.zip(bytes.chunks(BLOCK as usize)) {
            self.blocks.insert(number, Arc::from(block), block.len());
        }
        Ok(())
    }

    /// Marks those of a range of blocks as coming that are neither here nor on their way; returns them, in pieces.
    fn claim(&self, blocks: Range<u64>, mut most: usize) -> Vec<Range<u64>> {
        let mut pieces: Vec<Range<u64>> = Vec::new();
        let mut coming = self.coming.lock();
        for number in blocks {
            if most == 0 {
                break;
            }
            if coming.contains(&number) || self.blocks.contains(&number) {
                continue;
            }
            coming.insert(number);
            most -= 1;
            match pieces.last_mut() {
                Some(last) if last.end == number && last.end - last.start < PIECE => last.end += 1,
                _ => pieces.push(number..number + 1),
            }
        }
        pieces
    }

    /// Begins to fetch a range of bytes, as far as there is room.
    fn fetch_ahead(self: &Arc<Self>, range: Range<u64>) {
        let pieces = self.claim(self.blocks_of(&range), self.room());
        self.enqueue(pieces);
    }

    /// Returns how many blocks more may be on their way ahead of reads.
    fn room(&self) -> usize {
        self.most_coming.saturating_sub(self.coming_ahead.load(Ordering::Relaxed))
    }

    /// Leaves pieces that were claimed to the threads that fetch.
    fn enqueue(self: &Arc<Self>, pieces: Vec<Range<u64>>) {
        if pieces.is_empty() {
            return;
        }
        let count: u64 = pieces.iter().map(|piece| piece.end - piece.start).sum();
        self.coming_ahead.fetch_add(count as usize, Ordering::Relaxed);
        let mut queue = self.queue.lock();
        queue.pieces.extend(pieces);
        while queue.fetchers < FETCHERS && queue.idle < queue.pieces.len() {
            let shared = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name("read-ahead".to_owned())
                .stack_size(256 << 10)
                .spawn(move || shared.serve());
            if spawned.is_err() {
                break;
            }
            queue.fetchers += 1;
            queue.idle += 1;
        }
        let orphans: Vec<_> = if queue.fetchers == 0 { queue.pieces.drain(..).collect() } else { Vec::new() };
        self.wake.notify_all();
        drop(queue);
        for piece in orphans {
            self.done(&piece);
            drop(Arrival { shared: self, piece });
        }
    }

    fn done(&self, piece: &Range<u64>) {
        self.coming_ahead.fetch_sub((piece.end - piece.start) as usize, Ordering::Relaxed);
    }

    /// Fetches what is queued, until the device is closed.
    fn serve(&self) {
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                queue.fetchers -= 1;
                self.wake.notify_all();
                return;
            }
            let Some(piece) = queue.pieces.pop_front() else {
                self.wake.wait(&mut queue);
                continue;
            };
            queue.idle -= 1;
            drop(queue);
            // Whoever needs a block that did not come reads it again, and tells of the error.
            let _ = self.fetch(piece.clone());
            self.done(&piece);
            queue = self.queue.lock();
            queue.idle += 1;
        }
    }

    /// Fills `buf` from blocks, fetching those that are missing.
    fn read(self: &Arc<Self>, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buf.len() as u64;
        let touched = self.blocks_of(&(offset..end));
        let mut copied = vec![false; (touched.end - touched.start) as usize];
        let copy = |buf: &mut [u8], number: u64, block: &Block| {
            let start = number * BLOCK;
            let (from, to) = (offset.max(start), end.min(start + block.len() as u64));
            let source = &block[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
        };
        let mut missing = false;
        for number in touched.clone() {
            match self.blocks.get(&number) {
                Some(block) => {
                    copy(buf, number, &block);
                    copied[(number - touched.start) as usize] = true;
                }
                None => missing = true,
            }
        }
        if !missing {
            return Ok(());
        }
        // A short read that misses brings its neighbours.
        let wanted = if touched.end - touched.start < AROUND {
            let start = touched.start - touched.start % AROUND;
            start..(touched.end.next_multiple_of(AROUND)).min(self.device.size().div_ceil(BLOCK))
        } else {
            touched.clone()
        };
        let mut pieces = self.claim(wanted, usize::MAX);
        if !pieces.is_empty() {
            // The first one by this thread, the others at the same time.
            let first = pieces.remove(0);
            self.enqueue(pieces);
            // Where it fails, the neighbours may be why: what was asked for is read by itself below.
            let _ = self.fetch(first);
        }
        for number in touched.clone().filter(|number| !copied[(number - touched.start) as usize]) {
            self.wait_for(number);
            match self.blocks.get(&number) {
                Some(block) => copy(buf, number, &block),
                // It failed, or there was no room to keep it.
                None => {
                    let start = number * BLOCK;
                    let (from, to) = (offset.max(start), end.min(start + BLOCK));
                    self.ask(&mut buf[(from - offset) as usize..(to - offset) as usize], from)?;
                }
            }
        }
        Ok(())
    }

    fn wait_for(&self, number: u64) {
        let mut coming = self.coming.lock();
        while coming.contains(&number) {
            self.arrived.wait(&mut coming);
        }
    }
}

/// Tells that blocks are no longer on their way.
struct Arrival<'a> {
    shared: &'a Shared,
    piece: Range<u64>,
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        let mut coming = self.shared.coming.lock();
        for number in self.piece.clone() {
            coming.remove(&number);
        }
        self.shared.arrived.notify_all();
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        let mut queue = self.shared.queue.lock();
        queue.closed = true;
        queue.pieces.clear();
        self.shared.wake.notify_all();
        // A server is not to be left with requests under way; one that is lost is not waited for.
        let deadline = Instant::now() + FAREWELL;
        while queue.fetchers > 0 && !self.shared.wake.wait_until(&mut queue, deadline).timed_out() {}
    }
}

impl BlockDevice for Distant {
    fn size(&self) -> u64 {
        self.shared.device.size()
    }

    fn sector_size(&self) -> u32 {
        self.shared.device.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        if self.shared.is_near() {
            return self.shared.ask(buf, offset);
        }
        self.follow(offset, offset + buf.len() as u64);
        self.shared.read(buf, offset)
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.shared.device.map(offset, len)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if len == 0 || check_range(self.size(), offset, len).is_err() {
            return;
        }
        if self.shared.is_near() {
            return self.shared.device.prefetch(offset, len);
        }
        self.shared.fetch_ahead(offset..offset + len.min(self.most_ahead));
    }
}
