//! Images of the Expert Witness Compression Format (EnCase, FTK, SMART: `.E01`, `.s01`), for reading.
//!
//! An image is one or more segment files. Each is a chain of sections; the sections `volume` (or `disk`) tell the disk's
//! size, and `table` sections tell where chunks of it lie, compressed by zlib or as they are. Tables stay on the host's disk;
//! of each only its place is kept. All sums are checked where they are met: of a section as it is opened, of a table when it
//! is first used (its copy, `table2`, stands in for a damaged one), of a chunk when it is read.
//!
//! There is no specification by the vendor. The structures are those of the "Expert Witness Compression Format (EWF)
//! specification" of the libewf project; numbers are little-endian. No crate reads the format with all sums checked, and a
//! damaged table without its chunks changing places.

mod chunk;
mod section;
mod table;

use super::{BlockDevice, SharedDevice, check_range};
use crate::cache::{Cache, CachePool};
use crate::error::{Error, ErrorContext, Result};
use chunk::Inflater;
use rayon::prelude::*;
use section::Section;
use std::sync::Arc;
use table::Table;

/// The names that the beginnings of segment files bear.
pub(super) const MAGIC: &[u8; 8] = b"EVF\x09\x0d\x0a\xff\0";
/// Those of the second version of the format, and of archives of files.
const OTHERS: [&[u8; 8]; 2] = [b"EVF2\x0d\x0a\x81\0", b"LVF\x09\x0d\x0a\xff\0"];

/// The size of a segment file's head, in bytes.
const HEAD: usize = 13;
const AT_NUMBER: usize = 9;

/// The most segment files of an image: each stays open.
pub(super) const MAX_SEGMENTS: u32 = 512;

/// The largest chunk that is read, in bytes: tools make 32 KiB, and up to 16 MiB.
const MAX_CHUNK: u64 = 32 << 20;

/// The most tables of an image: 4 GiB each, at the least.
const MAX_TABLES: usize = 1 << 18;

/// What a segment file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A segment of a disk's image.
    Segment(u16),
    /// Something else of the family, which is not read.
    Other,
}

/// Returns what a file is that begins with `head`; `None` where it is none of the family.
pub(super) fn kind(head: &[u8]) -> Option<Kind> {
    let magic = head.get(..8)?;
    if OTHERS.iter().any(|other| magic == *other) {
        return Some(Kind::Other);
    }
    let number = head.get(AT_NUMBER..AT_NUMBER + 2)?;
    (magic == MAGIC).then(|| Kind::Segment(u16::from_le_bytes([number[0], number[1]])))
}

/// Returns the ending of the name of segment `number`, from 2 on, of an image whose first one ends in `first` (`E01`, `e01`,
/// `s01`): after `E99` come `EAA` to `EZZ`, `FAA`, …, `ZZZ`. `None` past the last.
pub(super) fn ending(first: &str, number: u32) -> Option<String> {
    let lead = first.chars().next()?;
    if number <= 99 {
        return Some(format!("{lead}{number:02}"));
    }
    let base = if lead.is_ascii_lowercase() { b'a' } else { b'A' };
    let index = number - 100;
    let letter = |value: u32| char::from(base + (value % 26) as u8);
    let lead = u32::from(lead.to_ascii_uppercase()).checked_sub(u32::from('A'))?.checked_add(index / (26 * 26))?;
    (lead < 26).then(|| [letter(lead), letter(index / 26), letter(index)].iter().collect())
}

/// A disk's image in segment files.
pub(super) struct Ewf {
    segments: Vec<SharedDevice>,
    tables: Vec<Table>,
    /// In bytes.
    size: u64,
    /// The size of a chunk, in bytes.
    chunk: u64,
    sector: u32,
    inflater: Inflater,
    cache: Cache<u64, Arc<Vec<u8>>>,
}

impl Ewf {
    /// Opens an image of its segments, in their order, each with its name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for damage, [`Error::NotFound`] where segments are missing, and those of reading.
    pub(super) fn open(segments: Vec<(String, SharedDevice)>, pool: &Arc<CachePool>) -> Result<Self> {
        let mut volume = None;
        let mut tables: Vec<Table> = Vec::new();
        let mut chunks = 0_u64;
        let mut is_done = false;
        for (index, (name, device)) in segments.iter().enumerate() {
            let mut head = [0; HEAD];
            let number = if device.size() >= HEAD as u64 {
                device.read_at(&mut head, 0)?;
                kind(&head)
            } else {
                None
            };
            if number != Some(Kind::Segment((index + 1) as u16)) {
                let detail = format!("it is not segment {} of an image", index + 1);
                return Err(Error::corrupt("EWF segment", detail).at(name.clone()));
            }
            let mut walk = || {
                let mut data = None;
                let mut sections = section::Sections::new(device.as_ref(), HEAD as u64);
                while let Some(section) = sections.next()? {
                    match section.kind.as_slice() {
                        b"volume" | b"disk" if volume.is_none() => {
                            volume = Some(section::Volume::read(device.as_ref(), &section)?);
                        }
                        b"sectors" => data = Some(section),
                        b"table" => {
                            let table = Table::read(device.as_ref(), index, &section, data.as_ref(), chunks)?;
                            chunks = table.end();
                            tables.push(table);
                        }
                        b"table2" => pair(&mut tables, index, &section),
                        b"done" => is_done = true,
                        _ => {}
                    }
                    if tables.len() > MAX_TABLES {
                        return Err(Error::corrupt("EWF image", format!("it has more than {MAX_TABLES} tables")));
                    }
                }
                Ok(())
            };
            walk().at(|| name.clone())?;
        }
        let volume = volume.ok_or_else(|| Error::corrupt("EWF image", "no section tells the disk's size"))?;
        let (chunk, size) = (volume.chunk, volume.size);
        if chunk == 0 || chunk > MAX_CHUNK || !chunk.is_multiple_of(512) {
            return Err(Error::corrupt("EWF volume section", format!("chunks of {chunk} bytes")));
        }
        let wanted = size.div_ceil(chunk);
        if chunks < wanted {
            let (have, end) = (segments.len(), if is_done { "; the last one is there" } else { "" });
            let detail = format!(
                "{chunks} of the image's {wanted} chunks are in its {have} segment files{end}; the others (.E02, …) \
                 belong beside the first"
            );
            return Err(Error::NotFound(detail.into()));
        }
        let segments = segments.into_iter().map(|(_, device)| device).collect();
        let (inflater, cache) = (Inflater::default(), Cache::new(pool));
        Ok(Self { segments, tables, size, chunk, sector: volume.sector, inflater, cache })
    }

    /// Returns how long a chunk is, in bytes.
    fn len_of(&self, number: u64) -> usize {
        (self.size - number * self.chunk).min(self.chunk) as usize
    }

    /// Fills `buf` with a chunk; it is as long as that.
    fn read_chunk(&self, number: u64, buf: &mut [u8]) -> Result<()> {
        let index = self.tables.partition_point(|table| table.end() <= number);
        let table = self.tables.get(index).filter(|table| table.first <= number);
        let table = table.ok_or_else(|| Error::corrupt("EWF image", format!("no table tells of chunk {number}")))?;
        let segment = self.segments[table.segment].as_ref();
        let place = table.place(segment, number)?;
        chunk::read(segment, &place, buf, self.chunk, &self.inflater, number)
    }

    /// Returns a chunk of which a part is wanted, kept for the next one.
    fn cached(&self, number: u64) -> Result<Arc<Vec<u8>>> {
        self.cache.get_or_insert(number, || {
            let mut bytes = vec![0; self.len_of(number)];
            self.read_chunk(number, &mut bytes)?;
            let cost = bytes.len();
            Ok((Arc::new(bytes), cost))
        })
    }
}

/// Gives a table its copy, which follows it.
fn pair(tables: &mut [Table], segment: usize, section: &Section) {
    if let Some(table) = tables.last_mut().filter(|table| table.segment == segment) {
        table.set_copy(section);
    }
}

impl BlockDevice for Ewf {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let mut parts = Vec::new();
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let number = at / self.chunk;
            let within = (at % self.chunk) as usize;
            let count = (self.len_of(number) - within).min(rest.len());
            let (part, after) = rest.split_at_mut(count);
            parts.push((number, within, part));
            (at, rest) = (at + count as u64, after);
        }
        let read = |(number, within, part): (u64, usize, &mut [u8])| {
            if part.len() == self.len_of(number) {
                return self.read_chunk(number, part);
            }
            part.copy_from_slice(&self.cached(number)?[within..within + part.len()]);
            Ok(())
        };
        // Inflating takes longer than reading, so the chunks of a large read are divided over the processor's cores.
        match parts.len() {
            0..=2 => parts.into_iter().try_for_each(read),
            _ => parts.into_par_iter().try_for_each(read),
        }
    }
}

/// Refuses what is of the family and not read.
///
/// # Errors
/// [`Error::Unsupported`].
pub(super) fn check_kind(kind: Kind) -> Result<()> {
    match kind {
        Kind::Segment(1) => Ok(()),
        Kind::Segment(number) => {
            let detail = format!("this is segment {number} of an E01 image; open its first segment");
            Err(Error::NotAnImage(detail.into()))
        }
        Kind::Other => Err(Error::unsupported(
            "an Expert Witness image of the second version (Ex01) or of files (L01); make a raw one of it with ewfexport",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_go_on_with_letters_after_99() {
        let named = |first: &str, number: u32| ending(first, number);
        for (first, number, name) in [
            ("E01", 2, "E02"),
            ("E01", 99, "E99"),
            ("E01", 100, "EAA"),
            ("E01", 125, "EAZ"),
            ("E01", 126, "EBA"),
            ("E01", 100 + 675, "EZZ"),
            ("E01", 100 + 676, "FAA"),
            ("e01", 100, "eaa"),
            ("s01", 100 + 676, "taa"),
        ] {
            assert_eq!(named(first, number).as_deref(), Some(name), "{first} {number}");
        }
        assert_eq!(named("E01", 100 + 676 * 22 - 1).as_deref(), Some("ZZZ"));
        assert_eq!(named("E01", 100 + 676 * 22), None);
        assert_eq!(named("", 2), None);
        assert_eq!(named("01", 500), None);
    }
}
