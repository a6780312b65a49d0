//! Metadata read in long aligned runs, because the neighbours of what is asked for come next.

use super::SharedDevice;
use crate::cache::{Cache, CachePool};
use crate::error::Result;
use std::sync::Arc;

/// A cache of aligned runs of a device's bytes.
///
/// It serves structures that many small reads visit: inode tables, directory blocks, trees. Contents of files do not
/// belong here. A writer that changes bytes below it calls [`forget`](Self::forget).
pub struct RunCache {
    device: SharedDevice,
    run_size: u64,
    runs: Cache<u64, Arc<[u8]>>,
}

impl RunCache {
    /// Makes a cache of runs of `run_size` bytes, a power of two, of `device`.
    pub fn new(device: SharedDevice, run_size: u32, pool: &Arc<CachePool>) -> Self {
        debug_assert!(run_size.is_power_of_two());
        Self { device, run_size: u64::from(run_size), runs: Cache::new(pool) }
    }

    /// Returns the device below.
    pub fn device(&self) -> &SharedDevice {
        &self.device
    }

    /// Returns the size of a run, in bytes.
    pub fn run_size(&self) -> u64 {
        self.run_size
    }

    /// Returns the run that holds `offset`, and where in the device it begins. It is shorter only at the device's end.
    ///
    /// # Errors
    /// Those of reading the device; an offset past its end among them.
    pub fn run(&self, offset: u64) -> Result<(Arc<[u8]>, u64)> {
        super::check_range(self.device.size(), offset, 1)?;
        let number = offset / self.run_size;
        let start = number * self.run_size;
        let run = self.runs.get_or_insert(number, || {
            let len = self.device.size().saturating_sub(start).min(self.run_size);
            let mut bytes = vec![0; len as usize];
            self.device.read_at(&mut bytes, start)?;
            Ok::<_, crate::Error>((Arc::from(bytes), len as usize))
        })?;
        Ok((run, start))
    }

    /// Fills `buf` from `offset`, across runs where need be.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        super::check_range(self.device.size(), offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (run, start) = self.run(at)?;
            let from = (at - start) as usize;
            let count = (run.len() - from).min(buf.len() - done);
            buf[done..done + count].copy_from_slice(&run[from..from + count]);
            done += count;
        }
        Ok(())
    }

    /// Forgets the runs that a range touches.
    pub fn forget(&self, offset: u64, len: u64) {
        if len > 0 {
            for number in offset / self.run_size..=(offset + len - 1) / self.run_size {
                self.runs.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{BlockDevice, MemoryDevice};

    #[test]
    fn a_read_across_runs_is_whole_and_the_end_is_the_devices() {
        let bytes: Vec<u8> = (0..1000_u32).map(|number| number as u8).collect();
        let device = Arc::new(MemoryDevice::new(bytes.clone()));
        let cache = RunCache::new(device.clone(), 256, &CachePool::new(1 << 20));
        let mut buf = vec![0; 700];
        cache.read_at(&mut buf, 300).expect("inside");
        assert_eq!(buf, bytes[300..]);
        cache.read_at(&mut buf, 301).expect_err("past the end");
        cache.run(1000).expect_err("past the end");
        assert_eq!(cache.run(999).expect("the last").0.len(), 1000 - 768);
        device.write_at(&[99], 300).expect("writes");
        cache.forget(300, 1);
        cache.read_at(&mut buf[..1], 300).expect("inside");
        assert_eq!(buf[0], 99);
    }
}
