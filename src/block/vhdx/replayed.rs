//! A file with its log replayed over it, in memory: what the log has of a page stays in the file, and its place is kept.

use crate::block::{BlockDevice, SharedDevice, check_range, read_padded};
use crate::error::Result;
use std::collections::BTreeMap;

/// What a log writes at once, in bytes; every place is a multiple of it.
pub(super) const PAGE: u64 = 4096;

/// A file, and what lies over it.
pub(super) struct Replayed {
    image: SharedDevice,
    size: u64,
    /// Where zeroes were written: ranges, by their beginnings, that neither overlap nor touch.
    zeroes: BTreeMap<u64, u64>,
    /// Pages that were written after the zeroes, by their offsets.
    pages: BTreeMap<u64, Page>,
}

/// A page that the log has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    /// Where its sector lies in the file.
    pub at: u64,
    /// The bytes in whose place the sector has a signature and numbers: the first, and the last.
    pub first: [u8; 8],
    pub last: [u8; 4],
}

impl Page {
    fn read(&self, image: &dyn BlockDevice) -> Result<[u8; PAGE as usize]> {
        let mut bytes = [0; PAGE as usize];
        image.read_at(&mut bytes, self.at)?;
        bytes[..8].copy_from_slice(&self.first);
        bytes[PAGE as usize - 4..].copy_from_slice(&self.last);
        Ok(bytes)
    }
}

impl Replayed {
    /// Lays nothing over a file, and makes it `size` bytes long where it is shorter.
    pub fn new(image: SharedDevice, size: u64) -> Self {
        let size = size.max(image.size());
        Self { image, size, zeroes: BTreeMap::new(), pages: BTreeMap::new() }
    }

    /// Writes a page. `offset` is a multiple of [`PAGE`].
    pub fn put(&mut self, offset: u64, page: Page) {
        self.pages.insert(offset, page);
    }

    /// Writes zeroes. Both ends are multiples of [`PAGE`].
    pub fn clear(&mut self, mut start: u64, mut end: u64) {
        let gone: Vec<u64> = self.pages.range(start..end).map(|(&offset, _)| offset).collect();
        for offset in gone {
            self.pages.remove(&offset);
        }
        while let Some((&from, &to)) = self.zeroes.range(..=end).next_back().filter(|&(_, &to)| to >= start) {
            self.zeroes.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.zeroes.insert(start, end);
    }
}

impl BlockDevice for Replayed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        read_padded(&*self.image, buf, offset)?;
        let end = offset + buf.len() as u64;
        let within = |from: u64, to: u64| {
            let (from, to) = (from.max(offset), to.min(end));
            (from < to).then(|| (from - offset) as usize..(to - offset) as usize)
        };
        for (&from, &to) in self.zeroes.range(..end).rev().take_while(|&(_, &to)| to > offset) {
            if let Some(range) = within(from, to) {
                buf[range].fill(0);
            }
        }
        for (&from, page) in self.pages.range(offset.saturating_sub(PAGE)..end) {
            if let Some(range) = within(from, from + PAGE) {
                let skip = offset.saturating_sub(from) as usize;
                let len = range.len();
                buf[range].copy_from_slice(&page.read(&*self.image)?[skip..skip + len]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDevice;
    use std::sync::Arc;

    #[test]
    fn what_is_written_last_is_read() {
        // The file has a page of each number at its end.
        let mut file = vec![9; 40_000];
        (1..4).for_each(|byte| file.extend([byte; PAGE as usize]));
        let page =
            |byte: u8| Page { at: 40_000 + (u64::from(byte) - 1) * PAGE, first: [byte; 8], last: [byte + 10; 4] };
        let mut device = Replayed::new(Arc::new(MemoryDevice::new(file.clone())), 60_000);
        device.put(8192, page(1));
        device.put(4096, page(2));
        device.clear(8192, 16384);
        device.clear(20480, 24576);
        device.clear(16384, 20480);
        device.put(12288, page(3));
        let mut expected = file;
        expected.resize(60_000, 0);
        expected[8192..24576].fill(0);
        expected[4096..8192].fill(2);
        expected[8188..8192].fill(12);
        expected[12288..16384].fill(3);
        expected[16380..16384].fill(13);
        for (from, to) in [(0, 60_000), (4095, 4097), (12300, 12400), (16383, 24577), (8190, 12290), (52_000, 60_000)] {
            let mut buf = vec![7; to - from];
            device.read_at(&mut buf, from as u64).expect("inside");
            assert!(buf == expected[from..to], "{from} to {to}");
        }
        assert_eq!(device.zeroes.len(), 1);
    }
}
