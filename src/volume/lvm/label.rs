//! The label of a physical volume and the areas of its metadata.
//!
//! The label lies in one of the first four sectors and leads to the volume's header, which lists where data and metadata lie.
//! A metadata area begins with a header of 512 bytes; the rest is a ring in which texts follow each other. All numbers are
//! little-endian. Specified by `format_text/layout.h` and `label/label.h` of LVM2.

use crate::block::BlockDevice;
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};

const SECTOR: usize = 512;

/// What every checksum of LVM begins with.
const CRC_SEED: u32 = 0xf597_a6cf;

/// The most metadata areas of a physical volume.
const MAX_AREAS: usize = 16;

/// The longest text of metadata, in bytes. That of a group with thousands of volumes has some MiB.
const MAX_TEXT: u64 = 16 << 20;

/// The size of the header of a metadata area, in bytes.
const AREA_HEADER: u64 = 512;

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The physical volume's UUID, 32 characters without hyphens.
    pub id: String,
    /// Where its metadata areas lie, and their sizes, in bytes.
    areas: Vec<(u64, u64)>,
}

fn crc(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!CRC_SEED);
    parts.iter().for_each(|part| hasher.update(part));
    !hasher.finalize()
}

impl Label {
    /// Finds the label of a device; `None` where it has none, or cannot be read.
    pub fn find(device: &dyn BlockDevice) -> Option<Self> {
        (0..4).find_map(|sector| {
            let mut bytes = [0; SECTOR];
            let offset = sector * SECTOR as u64;
            (offset + SECTOR as u64 <= device.size()).then_some(())?;
            device.read_at(&mut bytes, offset).ok()?;
            Self::parse(&bytes, sector)
        })
    }

    /// Returns the UUID as LVM shows it, with hyphens; nothing where it is none.
    pub fn uuid(&self) -> String {
        const GROUPS: [std::ops::Range<usize>; 7] = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
        if !self.id.is_ascii() {
            return String::new();
        }
        GROUPS.map(|group| self.id.get(group).unwrap_or_default()).join("-")
    }

    fn parse(bytes: &[u8; SECTOR], sector: u64) -> Option<Self> {
        if !bytes.starts_with(b"LABELONE") || bytes[24..32] != *b"LVM2 001" || le64(bytes, 8) != sector {
            return None;
        }
        let header = le32(bytes, 20) as usize;
        if (crc(&[&bytes[20..]]) != le32(bytes, 16) && !cfg!(fuzzing)) || !(32..=SECTOR - 56).contains(&header) {
            return None;
        }
        let id = std::str::from_utf8(&bytes[header..header + 32]).ok()?.to_owned();
        // Two lists follow, of the areas of data and of metadata, each ended by zeroes.
        let mut entries = bytes[header + 40..].chunks_exact(16).map(|entry| (le64(entry, 0), le64(entry, 8)));
        entries.by_ref().take_while(|&(offset, _)| offset != 0).for_each(drop);
        let areas = entries.take_while(|&(offset, _)| offset != 0).take(MAX_AREAS).collect();
        Some(Self { id, areas })
    }

    /// Reads the texts that the metadata areas hold; what is damaged is told of.
    pub fn texts(&self, device: &dyn BlockDevice, name: &str, warnings: &mut Vec<String>) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        for (number, &(start, size)) in self.areas.iter().enumerate() {
            match text_of(device, start, size) {
                Ok(text) => texts.extend(text),
                Err(error) => warnings.push(format!("{name}: metadata area {number}: {error}")),
            }
        }
        texts
    }
}

/// Reads the text of a metadata area; `None` where it holds none.
fn text_of(device: &dyn BlockDevice, start: u64, size: u64) -> Result<Option<Vec<u8>>> {
    const MAGIC: &[u8; 16] = b" LVM2 x[5A%r0N*>";
    const IGNORED: u32 = 1;
    let corrupt = |detail: String| Error::corrupt("LVM metadata area", detail);
    if size <= AREA_HEADER || start.checked_add(size).is_none_or(|end| end > device.size()) {
        return Err(corrupt(format!("{size} bytes from {start} do not lie in a device of {} bytes", device.size())));
    }
    let mut header = [0; AREA_HEADER as usize];
    device.read_at(&mut header, start)?;
    if header[4..20] != *MAGIC || (crc(&[&header[4..]]) != le32(&header, 0) && !cfg!(fuzzing)) {
        return Err(corrupt("its header has a wrong signature or checksum".into()));
    }
    if le32(&header, 20) != 1 || le64(&header, 24) != start || le64(&header, 32) != size {
        return Err(corrupt("its header tells of another place".into()));
    }
    let (offset, len, checksum, flags) = (le64(&header, 40), le64(&header, 48), le32(&header, 56), le32(&header, 60));
    if offset == 0 || len == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    if offset < AREA_HEADER || offset >= size || len > size - AREA_HEADER || len > MAX_TEXT {
        return Err(corrupt(format!("a text of {len} bytes at {offset} in an area of {size} bytes")));
    }
    let mut text = vec![0; len as usize];
    let (first, rest) = text.split_at_mut(len.min(size - offset) as usize);
    device.read_at(first, start + offset)?;
    device.read_at(rest, start + AREA_HEADER)?;
    if crc(&[first, rest]) != checksum && !cfg!(fuzzing) {
        return Err(corrupt("its text has a wrong checksum".into()));
    }
    Ok(Some(text))
}
