//! A device in memory that remembers every write and flush, and shows what a crash would have left of them.

use guestctl::Result;
use guestctl::block::{BlockDevice, MemoryDevice};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What of a write reaches the disk by itself, in bytes.
const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Event {
    Write(u64, Vec<u8>),
    Flush,
}

/// A device in memory that remembers every write and flush.
pub struct RecordingDevice {
    base: Vec<u8>,
    device: MemoryDevice,
    events: Mutex<Vec<Event>>,
    /// How many more writes and flushes succeed.
    left: AtomicUsize,
}

impl RecordingDevice {
    /// Makes a device of the bytes given.
    pub fn new(base: Vec<u8>) -> Self {
        let device = MemoryDevice::new(base.clone());
        Self { base, device, events: Mutex::new(Vec::new()), left: AtomicUsize::new(usize::MAX) }
    }

    /// Returns how many writes and flushes there were.
    pub fn events(&self) -> usize {
        self.events.lock().len()
    }

    /// Returns how many flushes there were.
    pub fn flushes(&self) -> usize {
        self.events.lock().iter().filter(|event| matches!(event, Event::Flush)).count()
    }

    /// Lets every write and flush after the next `count` fail.
    pub fn fail_after(&self, count: usize) {
        self.left.store(count, Ordering::SeqCst);
    }

    /// Returns the bytes as they are now.
    pub fn image(&self) -> Vec<u8> {
        self.device.to_vec()
    }

    /// Returns the bytes after the first `count` events, each of them done in full and in order.
    pub fn image_at(&self, count: usize) -> Vec<u8> {
        let mut image = self.base.clone();
        for event in &self.events.lock()[..count] {
            apply(&mut image, event);
        }
        image
    }

    /// Returns the bytes after a crash at the first `count` events: what was written before the last flush of them is
    /// there; of the sectors written since, some that `seed` chooses are there, in any order.
    pub fn image_with_reordering(&self, count: usize, seed: u64) -> Vec<u8> {
        let events = self.events.lock();
        let flushed = events[..count].iter().rposition(|event| matches!(event, Event::Flush)).unwrap_or(0);
        let mut image = self.base.clone();
        for event in &events[..flushed] {
            apply(&mut image, event);
        }
        let mut sectors: Vec<(u64, &[u8])> = Vec::new();
        for event in &events[flushed..count] {
            if let Event::Write(offset, bytes) = event {
                let pieces = bytes.chunks(SECTOR).enumerate();
                sectors.extend(pieces.map(|(number, piece)| (offset + (number * SECTOR) as u64, piece)));
            }
        }
        let mut random = Random::new(seed);
        // Sometimes nearly all of them are there, sometimes nearly none.
        let chance = random.below(101);
        for at in (1..sectors.len()).rev() {
            sectors.swap(at, random.below(at as u64 + 1) as usize);
        }
        for (offset, piece) in sectors {
            if random.below(100) < chance {
                image[offset as usize..][..piece.len()].copy_from_slice(piece);
            }
        }
        image
    }

    fn record(&self, event: Event) -> Result<()> {
        let take = |left: usize| if left == usize::MAX { Some(left) } else { left.checked_sub(1) };
        if self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return Err(guestctl::Error::io("the test's device", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        let mut events = self.events.lock();
        if let Event::Write(offset, bytes) = &event {
            self.device.write_at(bytes, *offset)?;
        }
        events.push(event);
        Ok(())
    }
}

fn apply(image: &mut [u8], event: &Event) {
    if let Event::Write(offset, bytes) = event {
        image[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

impl BlockDevice for RecordingDevice {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.device.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.record(Event::Write(offset, buf.to_vec()))
    }

    fn flush(&self) -> Result<()> {
        self.record(Event::Flush)
    }
}

/// A small source of numbers that look random, the same for the same seed.
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns the next number.
    pub fn number(&mut self) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.number() >> 11) % limit
    }
}
