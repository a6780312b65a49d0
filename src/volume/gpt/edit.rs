//! Writing a GUID partition table: both copies of the header and the entries, with their checksums.

use super::{ENTRY_SIZE, HEADER_SIZE, Header, SIGNATURE, byte_offset, read_sector};
use crate::block::BlockDevice;
use crate::bytes::{le64, set_le16, set_le32, set_le64};
use crate::error::{Error, Result};

/// How many entries a new table has.
const ENTRIES: usize = 128;

/// The longest name of a partition, in units of UTF-16.
const NAME_UNITS: usize = 36;

/// Where partitions begin by custom, in bytes: a multiple of this.
const ALIGNMENT: u64 = 1 << 20;

type RawEntry = [u8; ENTRY_SIZE as usize];

/// A table that is being changed.
#[derive(Clone, Debug)]
pub struct Editor {
    disk_guid: [u8; 16],
    sector_size: u32,
    /// The disk's size, in sectors.
    sectors: u64,
    entries: Vec<RawEntry>,
}

/// Returns the bytes that a GUID's text stands for.
///
/// # Errors
/// [`Error::Usage`] when it is none.
pub fn parse_guid(text: &str) -> Result<[u8; 16]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    let dashes: Vec<usize> = text.match_indices('-').map(|(at, _)| at).collect();
    let wrong = || Error::Usage(format!("{text:?} is no GUID; write c12a7328-f81f-11d2-ba4b-00a0c93ec93b").into());
    if digits.len() != 32 || dashes != [8, 13, 18, 23] {
        return Err(wrong());
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    // The first three fields are little-endian.
    bytes[0..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    Ok(bytes)
}

impl Editor {
    /// Makes an empty table for a disk of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a disk that is too small.
    pub fn new(size: u64, sector_size: u32, disk_guid: [u8; 16]) -> Result<Self> {
        let sectors = size / u64::from(sector_size);
        let editor = Self { disk_guid, sector_size, sectors, entries: vec![[0; ENTRY_SIZE as usize]; ENTRIES] };
        if editor.first_usable() + editor.array_sectors() + 2 > sectors {
            return Err(Error::Usage(format!("a disk of {size} bytes is too small for a GPT").into()));
        }
        Ok(editor)
    }

    /// Reads the table of a disk; the copy at its end where the first cannot be used.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where neither can, [`Error::Unsupported`] for entries of an unusual size.
    pub fn read(disk: &dyn BlockDevice) -> Result<Self> {
        let sector_size = super::find(disk, &mut Vec::new())
            .map(|table| table.sector_size)
            .ok_or_else(|| Error::corrupt("partition table", "there is no GPT that can be used"))?;
        let sectors = disk.size() / u64::from(sector_size);
        let header = |lba| read_sector(disk, sector_size, lba).and_then(|bytes| Header::parse(&bytes, lba));
        let header = header(1).or_else(|_| header(sectors.saturating_sub(1)))?;
        if header.entry_size != ENTRY_SIZE {
            return Err(Error::unsupported(format!("changing a GPT with entries of {} bytes", header.entry_size)));
        }
        let mut array = vec![0; header.entry_count as usize * ENTRY_SIZE as usize];
        disk.read_at(&mut array, byte_offset(header.entries_at, sector_size)?)?;
        let entry = |bytes: &[u8]| {
            let mut entry = [0; ENTRY_SIZE as usize];
            entry.copy_from_slice(bytes);
            entry
        };
        let mut entries: Vec<RawEntry> = array.chunks_exact(ENTRY_SIZE as usize).map(entry).collect();
        entries.resize(entries.len().max(ENTRIES), [0; ENTRY_SIZE as usize]);
        let disk_guid = parse_guid(&header.disk_guid)?;
        Ok(Self { disk_guid, sector_size, sectors, entries })
    }

    fn array_sectors(&self) -> u64 {
        (self.entries.len() as u64 * u64::from(ENTRY_SIZE)).div_ceil(self.sector_size.into())
    }

    fn first_usable(&self) -> u64 {
        2 + self.array_sectors()
    }

    fn last_usable(&self) -> u64 {
        self.sectors.saturating_sub(2 + self.array_sectors())
    }

    fn is_used(entry: &RawEntry) -> bool {
        entry[..16] != [0; 16]
    }

    /// Returns where the largest gap begins and ends, in sectors, aligned as is the custom; `None` when there is none.
    pub fn largest_gap(&self) -> Option<(u64, u64)> {
        let mut used: Vec<(u64, u64)> = self
            .entries
            .iter()
            .filter(|entry| Self::is_used(entry))
            .map(|entry| (le64(entry, 32), le64(entry, 40)))
            .collect();
        used.sort_unstable();
        used.push((self.last_usable() + 1, u64::MAX));
        let align = ALIGNMENT / u64::from(self.sector_size);
        let mut from = self.first_usable();
        let mut best: Option<(u64, u64)> = None;
        for (first, last) in used {
            let start = from.next_multiple_of(align);
            if start < first && best.is_none_or(|(begin, end)| first - 1 - start > end - begin) {
                best = Some((start, first - 1));
            }
            from = from.max(last.saturating_add(1));
        }
        best
    }

    /// Adds a partition from one sector to another, both its own; returns its number.
    ///
    /// # Errors
    /// [`Error::Usage`] when it does not fit, lies over another, or there is no room in the table.
    pub fn add(&mut self, first: u64, last: u64, type_guid: [u8; 16], unique_guid: [u8; 16]) -> Result<u32> {
        let (low, high) = (self.first_usable(), self.last_usable());
        if first < low || last > high || first > last {
            return Err(Error::Usage(
                format!("a partition from sector {first} to {last} does not fit: sectors {low} to {high} can be used")
                    .into(),
            ));
        }
        for (index, entry) in self.entries.iter().enumerate().filter(|(_, entry)| Self::is_used(entry)) {
            if le64(entry, 32) <= last && first <= le64(entry, 40) {
                return Err(Error::Usage(format!("it would lie over partition {}", index + 1).into()));
            }
        }
        let place = self.entries.iter().position(|entry| !Self::is_used(entry));
        let place = place.ok_or_else(|| Error::Usage("the table has no free entry".into()))?;
        let entry = &mut self.entries[place];
        entry[..16].copy_from_slice(&type_guid);
        entry[16..32].copy_from_slice(&unique_guid);
        set_le64(entry, 32, first);
        set_le64(entry, 40, last);
        Ok(place as u32 + 1)
    }

    fn entry(&mut self, number: u32) -> Result<&mut RawEntry> {
        let place = (number as usize).checked_sub(1);
        let entry = place.and_then(|place| self.entries.get_mut(place)).filter(|entry| Self::is_used(entry));
        entry.ok_or_else(|| Error::NotFound(format!("there is no partition {number}").into()))
    }

    /// Takes a partition out.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that number.
    pub fn delete(&mut self, number: u32) -> Result<()> {
        *self.entry(number)? = [0; ENTRY_SIZE as usize];
        Ok(())
    }

    /// Sets the type of a partition.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn set_type(&mut self, number: u32, type_guid: [u8; 16]) -> Result<()> {
        self.entry(number)?[..16].copy_from_slice(&type_guid);
        Ok(())
    }

    /// Sets the name of a partition.
    ///
    /// # Errors
    /// As [`delete`](Self::delete); [`Error::Usage`] for one of more than 36 units of UTF-16.
    pub fn set_name(&mut self, number: u32, name: &str) -> Result<()> {
        let units: Vec<u16> = name.encode_utf16().collect();
        if units.len() > NAME_UNITS {
            return Err(Error::Usage(format!("{name:?} is too long for a partition's name").into()));
        }
        let entry = self.entry(number)?;
        entry[56..].fill(0);
        for (index, unit) in units.into_iter().enumerate() {
            set_le16(entry, 56 + 2 * index, unit);
        }
        Ok(())
    }

    /// Says whether an old BIOS is to boot from a partition.
    ///
    /// # Errors
    /// As [`delete`](Self::delete).
    pub fn set_bootable(&mut self, number: u32, bootable: bool) -> Result<()> {
        let entry = self.entry(number)?;
        let attributes = le64(entry, 48);
        set_le64(entry, 48, if bootable { attributes | 4 } else { attributes & !4 });
        Ok(())
    }

    fn header(&self, here: u64, other: u64, entries_at: u64, entries_crc: u32) -> Vec<u8> {
        let mut bytes = vec![0; self.sector_size as usize];
        bytes[..8].copy_from_slice(SIGNATURE);
        set_le32(&mut bytes, 8, 0x0001_0000);
        set_le32(&mut bytes, 12, HEADER_SIZE as u32);
        set_le64(&mut bytes, 24, here);
        set_le64(&mut bytes, 32, other);
        set_le64(&mut bytes, 40, self.first_usable());
        set_le64(&mut bytes, 48, self.last_usable());
        bytes[56..72].copy_from_slice(&self.disk_guid);
        set_le64(&mut bytes, 72, entries_at);
        set_le32(&mut bytes, 80, self.entries.len() as u32);
        set_le32(&mut bytes, 84, ENTRY_SIZE);
        set_le32(&mut bytes, 88, entries_crc);
        let crc = crc32fast::hash(&bytes[..HEADER_SIZE]);
        set_le32(&mut bytes, 16, crc);
        bytes
    }

    /// Writes the table: the copy at the end first, so that one of both is whole at any time. The boot record is not
    /// touched.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, disk: &dyn BlockDevice) -> Result<()> {
        let mut array = self.entries.concat();
        let crc = crc32fast::hash(&array);
        array.resize((self.array_sectors() * u64::from(self.sector_size)) as usize, 0);
        let last = self.sectors - 1;
        let copy_at = last - self.array_sectors();
        let at = |lba| byte_offset(lba, self.sector_size);
        disk.write_at(&array, at(copy_at)?)?;
        disk.write_at(&self.header(last, 1, copy_at, crc), at(last)?)?;
        disk.flush()?;
        disk.write_at(&array, at(2)?)?;
        disk.write_at(&self.header(1, last, 2, crc), at(1)?)?;
        disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_read_as_it_is_shown() {
        let text = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
        assert_eq!(crate::bytes::guid(&parse_guid(text).expect("a GUID")), text);
        for wrong in ["", "c12a7328", "c12a7328f81f11d2ba4b00a0c93ec93b", "g12a7328-f81f-11d2-ba4b-00a0c93ec93b"] {
            parse_guid(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn partitions_lie_beside_one_another() {
        let mut editor = Editor::new(64 << 20, 512, [1; 16]).expect("large enough");
        assert_eq!(editor.largest_gap(), Some((2048, 131_038)));
        assert_eq!(editor.add(2048, 4095, [2; 16], [3; 16]).expect("fits"), 1);
        editor.add(4000, 5000, [2; 16], [3; 16]).expect_err("lies over the first");
        editor.add(1, 5000, [2; 16], [3; 16]).expect_err("begins in the table");
        assert_eq!(editor.largest_gap(), Some((4096, 131_038)));
        editor.set_name(1, &"x".repeat(37)).expect_err("too long");
        editor.delete(1).expect("it is there");
        editor.delete(1).expect_err("it is gone");
        Editor::new(16 << 10, 512, [1; 16]).expect_err("too small");
    }
}
