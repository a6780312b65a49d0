//! What the log's replay changed, in memory: sectors that lie over those of the device.
//!
//! It is built once, when the filesystem is opened, and never changes afterwards, so that reading it takes no lock.

use crate::block::RunCache;
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The unit of the overlay and of addresses in the log, in bytes.
pub const SECTOR: u64 = 512;

/// The most that a replay may keep in memory, in sectors: 512 MiB.
const MAX_SECTORS: usize = 1 << 20;

/// Sectors that are read instead of the device's.
#[derive(Default)]
pub struct Overlay {
    sectors: BTreeMap<u64, Box<[u8; SECTOR as usize]>>,
}

impl Overlay {
    /// Returns how many bytes lie over the device.
    pub fn len(&self) -> u64 {
        self.sectors.len() as u64 * SECTOR
    }

    /// Puts what was changed over bytes that were read at `offset`; says whether anything was.
    pub fn cover(&self, buf: &mut [u8], offset: u64) -> bool {
        if self.sectors.is_empty() || buf.is_empty() {
            return false;
        }
        let end = offset.saturating_add(buf.len() as u64);
        let mut covered = false;
        for (&sector, bytes) in self.sectors.range(offset / SECTOR..=(end - 1) / SECTOR) {
            let start = sector * SECTOR;
            let from = start.max(offset);
            let to = (start + SECTOR).min(end);
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
            covered = true;
        }
        covered
    }

    /// Reads bytes as they are with everything that was changed until now.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn read(&self, below: &RunCache, buf: &mut [u8], offset: u64) -> Result<()> {
        below.read_at(buf, offset)?;
        self.cover(buf, offset);
        Ok(())
    }

    /// Changes bytes at `offset`.
    ///
    /// # Errors
    /// Those of reading the device, and [`Error::Unsupported`] when more is changed than memory should hold.
    pub fn write(&mut self, below: &RunCache, bytes: &[u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % SECTOR) as usize;
            let count = (SECTOR as usize - within).min(bytes.len() - done);
            let sector = at / SECTOR;
            if !self.sectors.contains_key(&sector) {
                if self.sectors.len() >= MAX_SECTORS {
                    return Err(Error::unsupported("replaying an XFS log that changes more than 512 MiB"));
                }
                let mut old = Box::new([0; SECTOR as usize]);
                below.read_at(&mut old[..], sector * SECTOR)?;
                self.sectors.insert(sector, old);
            }
            if let Some(held) = self.sectors.get_mut(&sector) {
                held[within..within + count].copy_from_slice(&bytes[done..done + count]);
            }
            done += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDevice;
    use crate::cache::CachePool;
    use std::sync::Arc;

    #[test]
    fn bytes_written_across_sectors_cover_those_of_the_device() {
        let below = RunCache::new(Arc::new(MemoryDevice::new(vec![1; 4096])), 4096, &CachePool::new(1 << 20));
        let mut overlay = Overlay::default();
        overlay.write(&below, &[2; 600], 1000).expect("inside");
        let mut buf = vec![0; 1000];
        overlay.read(&below, &mut buf, 900).expect("inside");
        assert_eq!(buf[..100], [1; 100]);
        assert_eq!(buf[100..700], [2; 600]);
        assert_eq!(buf[700..], [1; 300]);
        assert!(!overlay.cover(&mut buf, 2048));
        overlay.write(&below, &[3], 4096).expect_err("past the end");
    }
}
