//! The sections of a segment file: a head that names the kind and where the next one begins, and data.

use super::chunk::is_sum;
use crate::block::BlockDevice;
use crate::bytes::{le32, le64, until_nul};
use crate::error::{Error, Result};

/// The size of a section's head, in bytes.
pub(super) const HEAD: u64 = 76;
const AT_NEXT: usize = 16;
const AT_SIZE: usize = 24;
const AT_SUM: usize = 72;

/// The most sections of a segment file.
const MAX_SECTIONS: usize = 1 << 20;

/// A section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// Its kind: `volume`, `table`, ….
    pub kind: Vec<u8>,
    /// Where its data begin in the file, in bytes.
    pub data: u64,
    /// Where they end.
    pub end: u64,
}

/// Walks the sections of a segment file.
pub(super) struct Sections<'a> {
    device: &'a dyn BlockDevice,
    next: Option<u64>,
    count: usize,
}

impl<'a> Sections<'a> {
    /// Begins at a place in the file, in bytes.
    pub(super) fn new(device: &'a dyn BlockDevice, at: u64) -> Self {
        Self { device, next: Some(at), count: 0 }
    }

    /// Returns the next section; `None` after the last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a head is damaged or the chain goes backwards, and those of reading.
    pub(super) fn next(&mut self) -> Result<Option<Section>> {
        let Some(at) = self.next else { return Ok(None) };
        let wrong = |detail: String| Error::corrupt(format!("EWF section at byte {at}"), detail);
        let size = self.device.size();
        let data = at.checked_add(HEAD).filter(|&data| data <= size);
        let data = data.ok_or_else(|| wrong(format!("the file ends at byte {size}, before it")))?;
        let mut head = [0; HEAD as usize];
        self.device.read_at(&mut head, at)?;
        if !is_sum(&head[..AT_SUM], le32(&head, AT_SUM)) {
            return Err(wrong("its checksum is wrong".into()));
        }
        self.count += 1;
        if self.count > MAX_SECTIONS {
            return Err(wrong(format!("there are more than {MAX_SECTIONS}")));
        }
        let kind = until_nul(&head[..AT_NEXT]).to_vec();
        let (next, length) = (le64(&head, AT_NEXT), le64(&head, AT_SIZE));
        // The last section names itself as the next.
        let is_last = matches!(kind.as_slice(), b"next" | b"done");
        if !is_last && next <= at {
            return Err(wrong(format!("the next one is at byte {next}")));
        }
        self.next = (!is_last).then_some(next);
        let end = at.checked_add(length).filter(|&end| end >= data && end <= size);
        let end = match (end, is_last) {
            (Some(end), _) => end,
            (None, true) => data,
            // Old tools leave the size out; the next section tells it.
            (None, false) if length == 0 && next <= size => next.max(data),
            (None, false) => return Err(wrong(format!("its {length} bytes pass the end of the file"))),
        };
        Ok(Some(Section { kind, data, end }))
    }
}

/// What the section `volume` or `disk` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Volume {
    /// The size of a chunk, in bytes.
    pub chunk: u64,
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The size of a sector that the disk tells its guest, in bytes.
    pub sector: u32,
}

impl Volume {
    /// Reads a section.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is damaged, and those of reading.
    pub(super) fn read(device: &dyn BlockDevice, section: &Section) -> Result<Self> {
        /// The sizes of the data in images of EnCase and of SMART, with their checksum at the end, in bytes.
        const SIZES: [u64; 2] = [1052, 94];
        const AT_SECTORS: usize = 16;
        let wrong = |detail: String| Error::corrupt("EWF volume section", detail);
        let size = section.end - section.data;
        let Some(&size) = SIZES.iter().find(|known| **known <= size) else {
            return Err(wrong(format!("it has {size} bytes")));
        };
        let mut bytes = vec![0; size as usize];
        device.read_at(&mut bytes, section.data)?;
        let at_sum = bytes.len() - 4;
        if !is_sum(&bytes[..at_sum], le32(&bytes, at_sum)) {
            return Err(wrong("its checksum is wrong".into()));
        }
        let (sectors_per_chunk, sector) = (le32(&bytes, 8), le32(&bytes, 12));
        let sectors = if size == SIZES[0] { le64(&bytes, AT_SECTORS) } else { u64::from(le32(&bytes, AT_SECTORS)) };
        let size = sectors.checked_mul(u64::from(sector));
        let size = size.ok_or_else(|| wrong(format!("{sectors} sectors of {sector} bytes")))?;
        let chunk = u64::from(sectors_per_chunk) * u64::from(sector);
        Ok(Self { chunk, size, sector: if sector == 4096 { 4096 } else { 512 } })
    }
}
