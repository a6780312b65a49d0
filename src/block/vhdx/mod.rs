//! Hyper-V's present format, for reading: a disk in blocks, with or without a parent of which it holds the differences.
//!
//! A file begins with an identifier, two headers of which the newer one counts, and two copies of a table of regions. These are
//! the block allocation table (BAT), which tells where each block lies, and the metadata: sizes, and the names of the parent.
//! A block may be here as a whole, in the parent as a whole, or partly here: then a sector bitmap tells which sectors are. A log
//! that was not written out yet is replayed into memory. Numbers are little-endian. Specified by MS-VHDX ("Virtual Hard Disk v2
//! (VHDX) File Format") of Microsoft.
//!
//! The BAT stays on the host's disk: it may take 512 MiB.

mod header;
mod locator;
mod log;
mod metadata;
mod region;
mod replayed;

use super::sectors::{Bitmap, in_blocks};
use super::{BlockDevice, Extent, ExtentKind, SharedDevice, check_range, read_padded};
use crate::bytes::le64;
use crate::error::{Error, Result};
use header::Header;
pub(super) use locator::Parent;
use metadata::Metadata;
use region::Regions;
use std::ops::Range;

/// What places in a file are multiples of, and the size of a sector bitmap block, in bytes.
const MEGABYTE: u64 = 1 << 20;
/// The sectors that one sector bitmap block tells of.
const SECTORS_OF_BITMAP: u64 = MEGABYTE * 8;

const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
/// That of a draft of the format.
const UNMAPPED_BEFORE: u64 = 5;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

fn corrupt(structure: &'static str, detail: impl Into<String>) -> Error {
    Error::corrupt(structure, detail.into())
}

/// A disk of the format.
pub(super) struct Vhdx {
    /// The file, its log replayed.
    file: SharedDevice,
    /// The identity of what the disk holds, which its differences name.
    id: [u8; 16],
    metadata: Metadata,
    /// The parts of the file that no block may lie in, in bytes; the BAT is the first.
    taken: Vec<Range<u64>>,
    parent: Option<SharedDevice>,
}

/// Where the bytes of a block are.
enum Place {
    /// Nowhere: they are zeroes.
    Zeroes,
    /// In the parent.
    Parent,
    /// In the file, at this offset.
    Here(u64),
    /// In the file at the first offset where the sector bitmap has ones; its part for this block lies at the second.
    Partly(u64, u64),
}

impl Vhdx {
    /// Reads the structures of a file. What differs from a parent can be read once the parent is given
    /// ([`over`](Self::over)).
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for versions, regions and metadata that are not known, and those of reading.
    pub fn open(image: SharedDevice) -> Result<Self> {
        let header = Header::read(&*image)?;
        let file = log::replay(image, &header)?;
        let regions = Regions::read(&*file)?;
        let taken = vec![regions.bat, regions.metadata.clone(), header.log, 0..MEGABYTE];
        for (index, one) in taken.iter().enumerate() {
            if taken[..index].iter().any(|other| one.start < other.end && other.start < one.end) {
                return Err(corrupt("VHDX region table", "its regions overlap each other, the log or the headers"));
            }
        }
        let metadata = Metadata::read(&*file, &regions.metadata)?;
        let entries = (taken[0].end - taken[0].start) / 8;
        if metadata.entries() > entries {
            let detail = format!("{entries} entries for a disk that needs {}", metadata.entries());
            return Err(corrupt("VHDX block allocation table", detail));
        }
        Ok(Self { file, id: header.data, metadata, taken, parent: None })
    }

    /// Returns what the disk differs from, if it has a parent.
    pub fn parent(&self) -> Option<&Parent> {
        self.metadata.parent.as_ref()
    }

    /// Returns the identity of what the disk holds.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// Lays the disk over its parent.
    #[must_use]
    pub fn over(self, parent: SharedDevice) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// Reads an entry of the BAT: its state, and an offset in the file.
    fn entry(&self, index: u64) -> Result<(u64, u64)> {
        let mut bytes = [0; 8];
        self.file.read_at(&mut bytes, self.taken[0].start + index * 8)?;
        let entry = le64(&bytes, 0);
        Ok((entry & 7, entry & !(MEGABYTE - 1)))
    }

    /// Checks that bytes of a block lie in the file, where nothing else does.
    fn check(&self, what: &str, number: u64, start: u64, len: u64) -> Result<()> {
        let structure = "VHDX block allocation table";
        let end = start.checked_add(len).filter(|&end| end <= self.file.size());
        let end = end.ok_or_else(|| corrupt(structure, format!("{what} {number} lies past the end of the file")))?;
        if self.taken.iter().any(|taken| start < taken.end && taken.start < end) {
            return Err(corrupt(structure, format!("{what} {number} lies in a region of the file")));
        }
        Ok(())
    }

    /// Returns where a block's bytes are, of which `within` lies in the block.
    fn place(&self, number: u64, within: &Range<u64>) -> Result<Place> {
        let Metadata { block, sector, .. } = self.metadata;
        let ratio = self.metadata.chunk_ratio();
        let (chunk, of_chunk) = (number / ratio, number % ratio);
        let (state, start) = self.entry(number + chunk)?;
        let absent = if self.parent().is_some() { Place::Parent } else { Place::Zeroes };
        match state {
            NOT_PRESENT => Ok(absent),
            UNDEFINED | ZERO | UNMAPPED | UNMAPPED_BEFORE => Ok(Place::Zeroes),
            FULLY_PRESENT | PARTIALLY_PRESENT => {
                let first = start.saturating_add(within.start);
                self.check("block", number, first, within.end - within.start)?;
                if state == FULLY_PRESENT {
                    return Ok(Place::Here(start));
                }
                if self.parent().is_none() {
                    let detail = format!("block {number} is here in parts, of a disk without a parent");
                    return Err(corrupt("VHDX block allocation table", detail));
                }
                let (state, bitmap) = self.entry((chunk + 1) * (ratio + 1) - 1)?;
                if state != FULLY_PRESENT {
                    let detail = format!("block {number} is here in parts, and no sector bitmap tells which");
                    return Err(corrupt("VHDX block allocation table", detail));
                }
                self.check("sector bitmap", chunk, bitmap, MEGABYTE)?;
                Ok(Place::Partly(start, bitmap + of_chunk * (block / sector / 8)))
            }
            _ => Err(corrupt("VHDX block allocation table", format!("block {number} has the state {state}"))),
        }
    }

    /// Returns the parent of a disk that has one.
    fn below(&self) -> Result<&dyn BlockDevice> {
        self.parent.as_deref().ok_or_else(|| corrupt("VHDX file", "its parent was not opened"))
    }

    /// Reads what lies in one block.
    fn read_block(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let Metadata { block, sector, .. } = self.metadata;
        let (number, within) = (offset / block, offset % block);
        let (start, bitmap_at) = match self.place(number, &(within..within + buf.len() as u64))? {
            Place::Zeroes => {
                buf.fill(0);
                return Ok(());
            }
            Place::Parent => return read_padded(self.below()?, buf, offset),
            Place::Here(start) => return self.file.read_at(buf, start + within),
            Place::Partly(start, bitmap) => (start, bitmap),
        };
        let below = self.below()?;
        let bitmap = Bitmap { device: &*self.file, at: bitmap_at, sector, bit: |number| 1 << number };
        bitmap.split(buf, within, |is_here, piece, at| match is_here {
            true => self.file.read_at(piece, start + at),
            false => read_padded(below, piece, number * block + at),
        })
    }
}

impl BlockDevice for Vhdx {
    fn size(&self) -> u64 {
        self.metadata.size
    }

    fn sector_size(&self) -> u32 {
        self.metadata.sector as u32
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        in_blocks(buf, offset, self.metadata.block, |piece, at| self.read_block(piece, at))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size(), offset, len)?;
        let block = self.metadata.block;
        let within = offset % block;
        let end = offset + len.min(block - within);
        let kind = match self.place(offset / block, &(within..within))? {
            Place::Zeroes => ExtentKind::Hole,
            Place::Here(_) | Place::Partly(..) => ExtentKind::Data,
            Place::Parent => {
                let below = self.below()?;
                let inside = below.size().saturating_sub(offset).min(end - offset);
                return if inside == 0 {
                    Ok(Extent { end, kind: ExtentKind::Hole })
                } else {
                    below.map(offset, inside)
                };
            }
        };
        Ok(Extent { end, kind })
    }
}
