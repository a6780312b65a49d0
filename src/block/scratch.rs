//! A device over another one, which keeps in memory what is written to it.

use super::{BlockDevice, SharedDevice, check_range};
use crate::error::{Error, Result};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is written to it lies in memory, and the device below stays as it is.
pub(crate) struct ScratchDevice {
    below: SharedDevice,
    block_size: u64,
    most: usize,
    /// Blocks that were written, by number.
    written: RwLock<BTreeMap<u64, Arc<[u8]>>>,
}

impl ScratchDevice {
    /// Lays a device over another one; at most `most` blocks of `block_size` bytes may be written.
    pub(crate) fn new(below: SharedDevice, block_size: u32, most: usize) -> Self {
        Self { below, block_size: u64::from(block_size), most, written: RwLock::default() }
    }

    /// Returns the blocks that were written and are no longer what lies below, by number.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn changed(&self) -> Result<Vec<(u64, Arc<[u8]>)>> {
        let mut changed = Vec::new();
        let mut below = vec![0; self.block_size as usize];
        for (&number, bytes) in &*self.written.read() {
            let below = &mut below[..bytes.len()];
            self.below.read_at(below, number * self.block_size)?;
            if *below != **bytes {
                changed.push((number, Arc::clone(bytes)));
            }
        }
        Ok(changed)
    }

    /// Calls `part` for what of each block a range holds: the block's number, where in it, and where in the range.
    fn parts(
        &self,
        offset: u64,
        len: usize,
        mut part: impl FnMut(u64, usize, std::ops::Range<usize>) -> Result<()>,
    ) -> Result<()> {
        check_range(self.size(), offset, len as u64)?;
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let inside = (at % self.block_size) as usize;
            let count = (self.block_size as usize - inside).min(len - done);
            part(at / self.block_size, inside, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

impl BlockDevice for ScratchDevice {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn sector_size(&self) -> u32 {
        self.below.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.below.read_at(buf, offset)?;
        self.parts(offset, buf.len(), |number, inside, range| {
            if let Some(bytes) = self.written.read().get(&number) {
                let count = range.len();
                buf[range].copy_from_slice(&bytes[inside..inside + count]);
            }
            Ok(())
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.parts(offset, buf.len(), |number, inside, range| {
            let start = number * self.block_size;
            let mut block = vec![0; self.block_size.min(self.size() - start) as usize];
            if range.len() < block.len() {
                self.read_at(&mut block, start)?;
            }
            block[inside..inside + range.len()].copy_from_slice(&buf[range]);
            let mut written = self.written.write();
            if written.len() >= self.most && !written.contains_key(&number) {
                return Err(Error::Errno(libc::ENOSPC));
            }
            written.insert(number, block.into());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDevice;

    #[test]
    fn what_is_written_stays_in_memory_and_within_its_bounds() {
        let below = Arc::new(MemoryDevice::new((0..10_000).map(|byte| byte as u8).collect()));
        let device = ScratchDevice::new(below.clone(), 1024, 3);
        device.write_at(&[1; 1500], 1000).expect("within bounds");
        let mut buf = [0; 1600];
        device.read_at(&mut buf, 990).expect("inside");
        let mut expected = below.to_vec()[990..2590].to_vec();
        expected[10..1510].fill(1);
        assert_eq!(buf.as_slice(), expected);
        let numbers = |device: &ScratchDevice| -> Vec<u64> {
            device.changed().expect("reads").into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(&device), [0, 1, 2]);
        // The last block is a short one.
        let error = device.write_at(&[1], 9999).expect_err("too many blocks");
        assert!(error.is_errno(libc::ENOSPC), "{error}");
        device.write_at(&below.to_vec()[..1024], 0).expect("the same block");
        assert_eq!(numbers(&device), [1, 2]);
        device.write_at(&[0; 2], 9999).expect_err("past the end");
        assert_eq!(below.to_vec()[1000], 1000_u16 as u8, "what lies below is as it was");
    }
}
