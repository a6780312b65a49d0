//! A range of another device: a partition.

use super::{BlockDevice, Extent, SharedDevice, check_range};
use crate::error::{Error, Result};

/// A contiguous range of another device.
pub struct SliceDevice {
    inner: SharedDevice,
    start: u64,
    size: u64,
}

impl SliceDevice {
    /// Makes a device of the `size` bytes of `inner` from `start`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the range does not lie within `inner`.
    pub fn new(inner: SharedDevice, start: u64, size: u64) -> Result<Self> {
        check_range(inner.size(), start, size).map_err(|_| {
            Error::corrupt(
                "partition table",
                format!("{size} bytes from {start} do not lie in a disk of {} bytes", inner.size()),
            )
        })?;
        Ok(Self { inner, start, size })
    }
}

impl BlockDevice for SliceDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.inner.is_read_only()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.inner.read_at(buf, self.start + offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.inner.write_at(buf, self.start + offset)
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.inner.write_zeroes(self.start + offset, len, keep_space)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.inner.discard(self.start + offset, len)
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        let extent = self.inner.map(self.start + offset, len)?;
        Ok(Extent { end: extent.end - self.start, kind: extent.kind })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if check_range(self.size, offset, len).is_ok() {
            self.inner.prefetch(self.start + offset, len);
        }
    }
}
