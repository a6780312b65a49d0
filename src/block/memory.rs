//! A device in memory.

use super::{BlockDevice, check_range};
use crate::error::Result;
use parking_lot::RwLock;

/// A writable device whose bytes lie in memory.
#[derive(Debug, Default)]
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
}

impl MemoryDevice {
    /// Makes a device of the bytes given.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: RwLock::new(bytes) }
    }

    /// Returns a copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes.read().clone()
    }
}

impl BlockDevice for MemoryDevice {
    fn size(&self) -> u64 {
        self.bytes.read().len() as u64
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.bytes.read();
        check_range(bytes.len() as u64, offset, buf.len() as u64)?;
        buf.copy_from_slice(&bytes[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut bytes = self.bytes.write();
        check_range(bytes.len() as u64, offset, buf.len() as u64)?;
        bytes[offset as usize..][..buf.len()].copy_from_slice(buf);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_an_error() {
        let device = MemoryDevice::new(vec![7; 10]);
        let mut buf = [0; 4];
        device.read_at(&mut buf, 6).expect("inside");
        assert_eq!(buf, [7; 4]);
        device.read_at(&mut buf, 7).expect_err("past the end");
        device.read_at(&mut buf, u64::MAX).expect_err("the end overflows");
    }
}
