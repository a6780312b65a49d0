//! A raw image that was split into files, `NAME.001`, `NAME.002`, …, read as one.

use super::{BlockDevice, Extent, SharedDevice, check_range};
use crate::error::{Error, Result};

/// Devices in a row, for reading.
pub(super) struct SplitDevice {
    /// Each with where it ends in the whole, in bytes.
    parts: Vec<(u64, SharedDevice)>,
    size: u64,
}

impl SplitDevice {
    /// Makes one device of several.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they are too large together.
    pub(super) fn new(devices: Vec<SharedDevice>) -> Result<Self> {
        let mut size: u64 = 0;
        let mut parts = Vec::with_capacity(devices.len());
        for device in devices {
            let end = size.checked_add(device.size());
            size = end.ok_or_else(|| Error::corrupt("split image", "its parts are too large together"))?;
            parts.push((size, device));
        }
        Ok(Self { parts, size })
    }

    /// Returns the part that holds an offset, and where it begins.
    fn part(&self, offset: u64) -> (u64, &(u64, SharedDevice)) {
        let index = self.parts.partition_point(|(end, _)| *end <= offset);
        let start = if index == 0 { 0 } else { self.parts[index - 1].0 };
        (start, &self.parts[index])
    }
}

impl BlockDevice for SplitDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (start, (end, device)) = self.part(at);
            let count = (end - at).min(rest.len() as u64);
            let (part, after) = rest.split_at_mut(count as usize);
            device.read_at(part, at - start)?;
            (rest, at) = (after, at + count);
        }
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        if len == 0 {
            return Ok(Extent { end: offset, kind: super::ExtentKind::Data });
        }
        let (start, (end, device)) = self.part(offset);
        let extent = device.map(offset - start, len.min(end - offset))?;
        Ok(Extent { end: start + extent.end, kind: extent.kind })
    }
}
