//! Changing the partition table of a disk.
//!
//! What a change does not concern stays as it is: boot code, the other entries. Logical partitions of an MBR are neither
//! made nor taken out.

use super::gpt::{Editor, parse_guid};
use super::mbr::{self, BootRecord};
use super::{PartitionType, Scheme};
use crate::block::BlockDevice;
use crate::bytes::{set_le16, set_le32};
use crate::error::{Error, IoContext, Result};
use std::io::Read;

/// The GPT type of data of Linux.
const LINUX_DATA: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

/// The MBR type of Linux.
const LINUX: u8 = 0x83;

/// Where partitions begin by custom, in bytes: a multiple of this.
const ALIGNMENT: u64 = 1 << 20;

/// One change of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Takes it out of the table.
    Delete,
    /// Sets its type.
    Type(PartitionType),
    /// Sets its name; of a GPT alone.
    Name(String),
    /// Says whether an old BIOS is to boot from it.
    Bootable(bool),
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .doing(|| "no random numbers")?;
    Ok(bytes)
}

fn random_guid() -> Result<[u8; 16]> {
    let mut bytes = random::<16>()?;
    // Version 4 lies in the third field, which is little-endian.
    bytes[7] = bytes[7] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes)
}

fn boot_record(disk: &dyn BlockDevice) -> Result<[u8; mbr::RECORD_SIZE]> {
    let mut record = [0; mbr::RECORD_SIZE];
    disk.read_at(&mut record, 0)?;
    Ok(record)
}

/// Makes a new, empty table in the place of whatever there is.
///
/// # Errors
/// [`Error::Usage`] for a disk that is too small, and those of writing.
pub fn init(disk: &dyn BlockDevice, scheme: Scheme) -> Result<()> {
    let size = disk.size();
    if size < 4096 {
        return Err(Error::Usage(format!("a disk of {size} bytes is too small for partitions").into()));
    }
    // What an old table or a filesystem left at both ends must not be found again.
    let ends = ALIGNMENT.min(size);
    disk.write_zeroes(0, ends, false)?;
    disk.write_zeroes(size - ends, ends, false)?;
    let mut record = [0; mbr::RECORD_SIZE];
    set_le16(&mut record, mbr::RECORD_SIZE - 2, mbr::BOOT_SIGNATURE);
    match scheme {
        Scheme::Mbr => {
            record[mbr::DISK_SIGNATURE_OFFSET..][..4].copy_from_slice(&random::<4>()?);
        }
        Scheme::Gpt => {
            let sector_size = disk.sector_size();
            Editor::new(size, sector_size, random_guid()?)?.write(disk)?;
            let sectors = (size / u64::from(sector_size) - 1).min(u32::MAX.into()) as u32;
            put(&mut record, 0, mbr::TYPE_PROTECTIVE, false, 1, sectors);
        }
    }
    disk.write_at(&record, 0)?;
    disk.flush()
}

/// Writes an entry of a boot record. Heads and cylinders, which nobody counts any more, say that they do not apply.
fn put(record: &mut [u8], index: usize, type_byte: u8, bootable: bool, start: u32, count: u32) {
    let at = mbr::ENTRIES_OFFSET + index * mbr::ENTRY_SIZE;
    record[at] = if bootable { 0x80 } else { 0 };
    record[at + 1..at + 4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    record[at + 4] = type_byte;
    record[at + 5..at + 8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    set_le32(record, at + 8, start);
    set_le32(record, at + 12, count);
}

fn is_gpt(disk: &dyn BlockDevice) -> Result<bool> {
    let record = BootRecord::parse(&boot_record(disk)?);
    Ok(record.ok_or_else(|| Error::NotFound("the disk has no partition table; make one first".into()))?.is_protective())
}

/// Adds a partition; returns its number. Positions are bytes, and both the first and the last are its own; without them
/// it fills the largest gap.
///
/// # Errors
/// [`Error::NotFound`] without a table, [`Error::Usage`] when it does not fit, and those of writing.
pub fn add(disk: &dyn BlockDevice, range: Option<(u64, u64)>) -> Result<u32> {
    let sector = u64::from(disk.sector_size());
    let range = match range {
        Some((first, last)) if first % sector == 0 && last.checked_add(1).is_some_and(|end| end % sector == 0) => {
            Some((first / sector, last / sector))
        }
        Some(_) => return Err(Error::Usage(format!("a partition begins and ends at multiples of {sector}").into())),
        None => None,
    };
    let full = || Error::Usage("there is no gap for another partition".into());
    if is_gpt(disk)? {
        let mut editor = Editor::read(disk)?;
        let (first, last) = range.or_else(|| editor.largest_gap()).ok_or_else(full)?;
        let number = editor.add(first, last, parse_guid(LINUX_DATA)?, random_guid()?)?;
        editor.write(disk)?;
        return Ok(number);
    }
    let mut bytes = boot_record(disk)?;
    let record = BootRecord::parse(&bytes).ok_or_else(full)?;
    let sectors = (disk.size() / sector).min(u64::from(u32::MAX));
    let mut used: Vec<(u64, u64)> = record
        .entries
        .iter()
        .filter(|entry| entry.is_used())
        .map(|entry| (entry.start.into(), u64::from(entry.start) + u64::from(entry.count)))
        .collect();
    used.sort_unstable();
    let (first, last) = match range {
        Some(range) => range,
        None => mbr_gap(&used, sectors, ALIGNMENT / sector).ok_or_else(full)?,
    };
    if first == 0 || last >= sectors || first > last {
        return Err(Error::Usage(format!("a partition from sector {first} to {last} does not fit").into()));
    }
    if used.iter().any(|&(from, to)| from <= last && first < to) {
        return Err(Error::Usage("it would lie over another partition".into()));
    }
    let free = record.entries.iter().position(|entry| !entry.is_used());
    let free = free.ok_or_else(|| Error::Usage("the four primary partitions are taken".into()))?;
    put(&mut bytes, free, LINUX, false, first as u32, (last - first + 1) as u32);
    disk.write_at(&bytes, 0)?;
    disk.flush()?;
    Ok(free as u32 + 1)
}

/// Adds a partition of `size` bytes, rounded up to MiB, at the beginning of the largest gap; returns its number.
///
/// # Errors
/// As [`add`].
pub fn add_size(disk: &dyn BlockDevice, size: u64) -> Result<u32> {
    let sector = u64::from(disk.sector_size());
    let (first, last) = if is_gpt(disk)? {
        Editor::read(disk)?.largest_gap()
    } else {
        let record = BootRecord::parse(&boot_record(disk)?);
        let mut used: Vec<(u64, u64)> = record
            .iter()
            .flat_map(|record| &record.entries)
            .filter(|entry| entry.is_used())
            .map(|entry| (entry.start.into(), u64::from(entry.start) + u64::from(entry.count)))
            .collect();
        used.sort_unstable();
        mbr_gap(&used, (disk.size() / sector).min(u32::MAX.into()), ALIGNMENT / sector)
    }
    .ok_or_else(|| Error::Usage("there is no gap for another partition".into()))?;
    let room = (last - first + 1) * sector;
    let size = size.max(1).checked_next_multiple_of(ALIGNMENT).filter(|&size| size <= room);
    let size = size.ok_or_else(|| Error::Usage(format!("the largest gap has {room} bytes").into()))?;
    add(disk, Some((first * sector, first * sector + size - 1)))
}

/// Returns the largest gap between used ranges, in sectors.
fn mbr_gap(used: &[(u64, u64)], sectors: u64, align: u64) -> Option<(u64, u64)> {
    let mut from = align;
    let mut best: Option<(u64, u64)> = None;
    for &(first, end) in used.iter().chain([&(sectors, sectors)]) {
        let start = from.next_multiple_of(align);
        if start < first && best.is_none_or(|(begin, last)| first - 1 - start > last - begin) {
            best = Some((start, first - 1));
        }
        from = from.max(end);
    }
    best
}

/// Changes a partition.
///
/// # Errors
/// [`Error::NotFound`] without a table or a partition of that number, [`Error::Usage`] for what the table does not have,
/// and those of writing.
pub fn change(disk: &dyn BlockDevice, number: u32, change: &Change) -> Result<()> {
    if is_gpt(disk)? {
        let mut editor = Editor::read(disk)?;
        match change {
            Change::Delete => editor.delete(number)?,
            Change::Type(PartitionType::Gpt(guid)) => editor.set_type(number, parse_guid(guid)?)?,
            Change::Type(PartitionType::Mbr(_)) => {
                return Err(Error::Usage("the type of a GPT partition is a GUID".into()));
            }
            Change::Name(name) => editor.set_name(number, name)?,
            Change::Bootable(bootable) => editor.set_bootable(number, *bootable)?,
        }
        return editor.write(disk);
    }
    let mut bytes = boot_record(disk)?;
    let used = BootRecord::parse(&bytes)
        .is_some_and(|record| (1..=4).contains(&number) && record.entries[number as usize - 1].is_used());
    if !used {
        return Err(Error::NotFound(format!("there is no primary partition {number}").into()));
    }
    let at = mbr::ENTRIES_OFFSET + (number as usize - 1) * mbr::ENTRY_SIZE;
    match change {
        Change::Delete => bytes[at..at + mbr::ENTRY_SIZE].fill(0),
        Change::Type(PartitionType::Mbr(byte)) => bytes[at + 4] = *byte,
        Change::Type(PartitionType::Gpt(_)) => {
            return Err(Error::Usage("the type of an MBR partition is a byte".into()));
        }
        Change::Name(_) => return Err(Error::Usage("partitions of an MBR have no names".into())),
        Change::Bootable(bootable) => bytes[at] = if *bootable { 0x80 } else { 0 },
    }
    disk.write_at(&bytes, 0)?;
    disk.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_aligned_and_the_largest_is_taken() {
        assert_eq!(mbr_gap(&[], 100_000, 2048), Some((2048, 99_999)));
        assert_eq!(mbr_gap(&[(2048, 50_000)], 100_000, 2048), Some((51_200, 99_999)));
        assert_eq!(mbr_gap(&[(60_000, 100_000)], 100_000, 2048), Some((2048, 59_999)));
        assert_eq!(mbr_gap(&[(2048, 100_000)], 100_000, 2048), None);
    }
}
