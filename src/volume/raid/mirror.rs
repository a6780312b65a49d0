//! Copies: what is written goes to all, what is read comes from the first that can.

use super::{Members, member};
use crate::block::{BlockDevice, Extent, SharedDevice, check_range};
use crate::error::{Error, Result};

/// A device of copies.
pub struct Mirror {
    legs: Members,
    size: u64,
    writable: bool,
}

impl Mirror {
    /// Makes a device of copies; only with `writable`, and where every leg is there, it can be written.
    pub fn new(legs: Members, size: u64, writable: bool) -> Self {
        let takes = |leg: &Option<SharedDevice>| leg.as_ref().is_some_and(|leg| !leg.is_read_only());
        let writable = writable && legs.iter().all(takes);
        Self { legs, size, writable }
    }

    fn any<T>(&self, mut act: impl FnMut(&dyn BlockDevice) -> Result<T>) -> Result<T> {
        let mut first = None;
        for leg in self.legs.iter().flatten() {
            match act(&**leg) {
                Ok(value) => return Ok(value),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| member(&self.legs, 0).err().unwrap_or(Error::Errno(libc::EIO))))
    }

    fn all(&self, offset: u64, len: u64, mut act: impl FnMut(&dyn BlockDevice) -> Result<()>) -> Result<()> {
        check_range(self.size, offset, len)?;
        if !self.writable {
            return Err(Error::Errno(libc::EROFS));
        }
        self.legs.iter().flatten().try_for_each(|leg| act(&**leg))
    }
}

impl BlockDevice for Mirror {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        !self.writable
    }

    fn sector_size(&self) -> u32 {
        self.legs.iter().flatten().map(|leg| leg.sector_size()).max().unwrap_or(512)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.any(|leg| leg.read_at(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.all(offset, buf.len() as u64, |leg| leg.write_at(buf, offset))
    }

    fn flush(&self) -> Result<()> {
        self.legs.iter().flatten().try_for_each(|leg| leg.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        self.all(offset, len, |leg| leg.write_zeroes(offset, len, keep_space))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.all(offset, len, |leg| leg.discard(offset, len))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        self.any(|leg| leg.map(offset, len))
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if let Some(leg) = self.legs.iter().flatten().next().filter(|_| check_range(self.size, offset, len).is_ok()) {
            leg.prefetch(offset, len);
        }
    }
}
