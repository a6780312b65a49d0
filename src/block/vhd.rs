//! A differencing VHD: the sectors in which a disk differs from that of another VHD, its parent. For reading; QEMU reads such an
//! image as if its parent held zeroes.
//!
//! A footer of 512 bytes leads to a header of 1024, which names the parent, and to a table with the place of each block. A block
//! begins with a bitmap, the first sector in the highest bit: a set bit says that the sector is stored here. Numbers are
//! big-endian. Specified by the Virtual Hard Disk Image Format Specification of Microsoft.

use super::sectors::{Bitmap, in_blocks};
use super::windows::{file_name, names_of, path_of};
use super::{BlockDevice, SharedDevice, check_range, read_padded};
use crate::bytes::{be32, be64};
use crate::error::{Error, Result};
use std::ffi::OsString;

const SECTOR: u64 = 512;
const DIFFERENCING: u32 = 4;
/// Stands in the table for a block that is not stored.
const UNUSED: u32 = u32::MAX;
/// The largest disk of the format, in bytes: 2040 GiB, with room to spare.
const MAX_DISK: u64 = 4 << 40;
const LOCATORS: usize = 8;
/// The longest name of a parent, in bytes.
const MAX_NAME: u32 = 4096;

/// What the footer and the header say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// The size of the disk, in bytes.
    size: u64,
    /// Where the table of blocks lies, in bytes.
    table: u64,
    /// The size of a block's data, in bytes.
    block: u64,
    /// The UUID of the parent.
    pub parent: [u8; 16],
    /// Names that the parent may have, the likeliest first. Folders are divided by slashes.
    pub names: Vec<OsString>,
}

fn corrupt(structure: &'static str, detail: impl Into<String>) -> Error {
    Error::corrupt(structure, detail.into())
}

/// Returns the footer of a VHD: that at its end, or the copy at its beginning.
fn footer(image: &dyn BlockDevice) -> Result<Option<[u8; SECTOR as usize]>> {
    for at in [image.size().saturating_sub(SECTOR), 0] {
        let mut bytes = [0; SECTOR as usize];
        if image.size() >= SECTOR {
            image.read_at(&mut bytes, at)?;
        }
        if bytes.starts_with(b"conectix") {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Returns the UUID of a VHD.
///
/// # Errors
/// Those of reading it.
pub(super) fn uuid(image: &dyn BlockDevice) -> Result<Option<[u8; 16]>> {
    Ok(footer(image)?.map(|footer| footer[68..84].try_into().expect("16 bytes")))
}

impl Difference {
    /// Reads the headers of a VHD; `None` where it has no parent.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they make no sense, and those of reading.
    pub fn read(image: &dyn BlockDevice) -> Result<Option<Self>> {
        let Some(footer) = footer(image)? else { return Ok(None) };
        if be32(&footer, 60) != DIFFERENCING {
            return Ok(None);
        }
        let (at, size) = (be64(&footer, 16), be64(&footer, 48));
        let mut header = [0; 1024];
        check_range(image.size(), at, 1024).map_err(|_| corrupt("VHD footer", "its header lies past the end"))?;
        image.read_at(&mut header, at)?;
        if !header.starts_with(b"cxsparse") {
            return Err(corrupt("VHD header", "its signature is wrong"));
        }
        let (table, entries, block) = (be64(&header, 16), be32(&header, 28), u64::from(be32(&header, 32)));
        if !block.is_power_of_two() || !(SECTOR..=256 << 20).contains(&block) {
            return Err(corrupt("VHD header", format!("blocks of {block} bytes")));
        }
        if size > MAX_DISK || size.div_ceil(block) > u64::from(entries) {
            return Err(corrupt("VHD header", format!("{entries} blocks of {block} bytes for a disk of {size}")));
        }
        check_range(image.size(), table, u64::from(entries) * 4)
            .map_err(|_| corrupt("VHD header", "its table of blocks lies past the end"))?;
        let parent = header[40..56].try_into().expect("16 bytes");
        Ok(Some(Self { size, table, block, parent, names: names(image, &header)? }))
    }
}

/// Returns the names that a header has for the parent.
fn names(image: &dyn BlockDevice, header: &[u8; 1024]) -> Result<Vec<OsString>> {
    let mut relative = Vec::new();
    let mut others = Vec::new();
    for locator in header[576..].chunks_exact(24).take(LOCATORS) {
        let (kind, len, at) = (&locator[..4], be32(locator, 8), be64(locator, 16));
        if !matches!(kind, b"W2ru" | b"W2ku") || len == 0 || len > MAX_NAME {
            continue;
        }
        let mut bytes = vec![0; len as usize];
        check_range(image.size(), at, u64::from(len))
            .map_err(|_| corrupt("VHD parent locator", "it lies past the end"))?;
        image.read_at(&mut bytes, at)?;
        let units = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        let list = if kind == b"W2ru" { &mut relative } else { &mut others };
        list.push(path_of(units));
    }
    let name = header[64..576].chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    others.push(path_of(name));
    // A path of another host says nothing but the file's name here.
    for other in others {
        relative.push(file_name(&other));
    }
    Ok(names_of(relative))
}

/// The disk of a differencing VHD.
pub(super) struct DifferenceDevice {
    image: SharedDevice,
    parent: SharedDevice,
    difference: Difference,
}

impl DifferenceDevice {
    /// Lays a difference over its parent.
    pub fn new(image: SharedDevice, parent: SharedDevice, difference: Difference) -> Self {
        Self { image, parent, difference }
    }

    /// Reads what lies in one block.
    fn read_block(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let Difference { table, block, .. } = self.difference;
        let (number, within) = (offset / block, offset % block);
        let mut entry = [0; 4];
        self.image.read_at(&mut entry, table + number * 4)?;
        let start = be32(&entry, 0);
        if start == UNUSED {
            return read_padded(&*self.parent, buf, offset);
        }
        let start = u64::from(start) * SECTOR;
        let bitmap_size = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        check_range(self.image.size(), start, bitmap_size + block)
            .map_err(|_| corrupt("VHD block table", format!("block {number} lies past the end")))?;
        let bitmap = Bitmap { device: &*self.image, at: start, sector: SECTOR, bit: |number| 0x80 >> number };
        bitmap.split(buf, within, |is_here, piece, at| match is_here {
            true => self.image.read_at(piece, start + bitmap_size + at),
            false => read_padded(&*self.parent, piece, number * block + at),
        })
    }
}

impl BlockDevice for DifferenceDevice {
    fn size(&self) -> u64 {
        self.difference.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        in_blocks(buf, offset, self.difference.block, |piece, at| self.read_block(piece, at))
    }
}
