//! Reading a device of which other devices hold parts: a snapshot over its origin, a cache before it.

use crate::block::{BlockDevice, Extent, SharedDevice, check_range};
use crate::error::Result;

/// A device, an offset on it, and how many bytes lie there in one piece.
pub(super) type Piece<'a> = (&'a SharedDevice, u64, u64);

/// What lies where.
pub(super) trait Patches: Send + Sync {
    /// The device that is patched.
    fn origin(&self) -> &SharedDevice;

    /// Returns the device that an offset lies on, where, and how far in one piece, at most `len`.
    fn piece(&self, offset: u64, len: u64) -> Piece<'_>;
}

/// A device that is patched.
pub(super) struct Patched<P>(pub P);

impl<P: Patches> BlockDevice for Patched<P> {
    fn size(&self) -> u64 {
        self.0.origin().size()
    }

    fn sector_size(&self) -> u32 {
        self.0.origin().sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let (device, at, len) = self.0.piece(offset + done as u64, (buf.len() - done) as u64);
            device.read_at(&mut buf[done..done + len as usize], at)?;
            done += len as usize;
        }
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size(), offset, len)?;
        let (device, at, len) = self.0.piece(offset, len);
        let extent = device.map(at, len)?;
        Ok(Extent { end: offset + (extent.end - at), kind: extent.kind })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if check_range(self.size(), offset, len).is_ok() && len > 0 {
            let (device, at, len) = self.0.piece(offset, len);
            device.prefetch(at, len);
        }
    }
}
