//! The GUID partition table: a header in the disk's second sector, an array of entries, and a copy of both at its end.
//!
//! All fields are little-endian. Both header and entries carry a CRC-32. The format is specified in chapter 5 of the UEFI
//! specification.

mod edit;

pub use edit::{Editor, parse_guid};

use crate::block::BlockDevice;
use crate::bytes::{guid, le16, le32, le64, set_le32};
use crate::error::{Error, Result};

const SIGNATURE: &[u8; 8] = b"EFI PART";

/// The part of the header that has fields, in bytes.
const HEADER_SIZE: usize = 92;

/// The smallest entry, in bytes; larger ones are this times a power of two.
const ENTRY_SIZE: u32 = 128;

/// The largest array of entries that is read, in bytes: 32 times what every tool makes.
const MAX_ARRAY_SIZE: u64 = 512 << 10;

/// The attributes of a GPT entry, as it holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GptAttributes(pub u64);

impl GptAttributes {
    /// Says whether the platform needs the partition.
    pub fn is_required(self) -> bool {
        self.0 & 1 != 0
    }

    /// Says whether an old BIOS is to boot from the partition.
    pub fn is_legacy_bootable(self) -> bool {
        self.0 & 4 != 0
    }
}

/// The header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    /// Where the other header lies, in sectors.
    alternate: u64,
    /// The disk's GUID.
    disk_guid: String,
    /// Where the array begins, in sectors.
    entries_at: u64,
    /// How many entries the array has.
    entry_count: u32,
    /// The size of an entry, in bytes.
    entry_size: u32,
    /// The CRC-32 of the array.
    entries_crc: u32,
}

impl Header {
    /// Parses the header in the sector `bytes`, which is sector `lba`.
    fn parse(bytes: &[u8], lba: u64) -> Result<Self> {
        let damaged = |detail: String| Err(Error::corrupt("GPT header", detail));
        if bytes.len() < 512 || !bytes.starts_with(SIGNATURE) {
            return damaged("it has no signature".into());
        }
        let header_size = le32(bytes, 12) as usize;
        if !(HEADER_SIZE..=bytes.len()).contains(&header_size) {
            return damaged(format!("its size is {header_size} bytes"));
        }
        let mut covered = bytes[..header_size].to_vec();
        set_le32(&mut covered, 16, 0);
        if crc32fast::hash(&covered) != le32(bytes, 16) {
            return damaged("its checksum is wrong".into());
        }
        if le64(bytes, 24) != lba {
            return damaged(format!("it says that it is sector {}, and lies in sector {lba}", le64(bytes, 24)));
        }
        let (entry_count, entry_size) = (le32(bytes, 80), le32(bytes, 84));
        if entry_size < ENTRY_SIZE || !entry_size.is_power_of_two() {
            return damaged(format!("its entries have {entry_size} bytes"));
        }
        if u64::from(entry_count) * u64::from(entry_size) > MAX_ARRAY_SIZE {
            return damaged(format!("it has {entry_count} entries of {entry_size} bytes"));
        }
        let mut disk_guid = [0; 16];
        disk_guid.copy_from_slice(&bytes[56..72]);
        Ok(Self {
            alternate: le64(bytes, 32),
            disk_guid: guid(&disk_guid),
            entries_at: le64(bytes, 72),
            entry_count,
            entry_size,
            entries_crc: le32(bytes, 88),
        })
    }
}

/// A used entry. Start and end are not yet held against the disk's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The partition's number, from 1.
    pub number: u32,
    /// The type's GUID.
    pub type_guid: String,
    /// The partition's own GUID.
    pub unique_guid: String,
    /// The first sector.
    pub first: u64,
    /// The last sector, which still belongs to it.
    pub last: u64,
    /// The attributes.
    pub attributes: GptAttributes,
    /// The name; empty where there is none.
    pub name: String,
}

impl Entry {
    /// Parses an entry of at least 128 bytes; `None` for an unused one.
    fn parse(bytes: &[u8], number: u32) -> Option<Self> {
        let field = |at: usize| {
            let mut field = [0; 16];
            field.copy_from_slice(&bytes[at..at + 16]);
            field
        };
        if field(0) == [0; 16] {
            return None;
        }
        let units: Vec<u16> = (0..36).map(|index| le16(bytes, 56 + 2 * index)).take_while(|&unit| unit != 0).collect();
        Some(Self {
            number,
            type_guid: guid(&field(0)),
            unique_guid: guid(&field(16)),
            first: le64(bytes, 32),
            last: le64(bytes, 40),
            attributes: GptAttributes(le64(bytes, 48)),
            name: String::from_utf16_lossy(&units),
        })
    }
}

/// A GUID partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The disk's GUID.
    pub disk_guid: String,
    /// The size of the sectors that positions count, in bytes.
    pub sector_size: u32,
    /// The entries that are used.
    pub entries: Vec<Entry>,
}

/// Finds the table of a disk: by its first header, or else by the copy at the disk's end. Sectors of the disk's own size
/// are tried first, then the other usual size. `None` when no header can be used; `warnings` then says what was wrong
/// with one that was there.
pub fn find(disk: &dyn BlockDevice, warnings: &mut Vec<String>) -> Option<Table> {
    let own = if disk.sector_size() == 4096 { 4096 } else { 512 };
    let sizes = [own, 512 + 4096 - own];
    let mut damages = Vec::new();
    for sector_size in sizes {
        match read(disk, sector_size, 1) {
            Ok(table) => return Some(table),
            Err(error) => damages.push((sector_size, error)),
        }
    }
    for (sector_size, error) in &damages {
        let last = (disk.size() / u64::from(*sector_size)).saturating_sub(1);
        let places = [Some(last), alternate(disk, *sector_size)];
        for lba in places.into_iter().flatten().filter(|&lba| lba > 1) {
            if let Ok(table) = read(disk, *sector_size, lba) {
                warnings.push(format!("the first partition table cannot be used ({error}); its copy is"));
                return Some(table);
            }
        }
    }
    // The size at which there is a header at all is the one that the table was made for.
    let meant = damages.iter().position(|&(sector_size, _)| alternate(disk, sector_size).is_some());
    let (_, error) = damages.swap_remove(meant.unwrap_or(0));
    warnings.push(format!("the disk says that it has a GUID partition table, but it cannot be used: {error}"));
    None
}

/// Returns where a damaged first header says that its copy lies, in sectors.
fn alternate(disk: &dyn BlockDevice, sector_size: u32) -> Option<u64> {
    let sector = read_sector(disk, sector_size, 1).ok()?;
    sector.starts_with(SIGNATURE).then(|| le64(&sector, 32))
}

fn read_sector(disk: &dyn BlockDevice, sector_size: u32, lba: u64) -> Result<Vec<u8>> {
    let offset = byte_offset(lba, sector_size)?;
    let mut bytes = vec![0; sector_size as usize];
    disk.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn byte_offset(lba: u64, sector_size: u32) -> Result<u64> {
    lba.checked_mul(u64::from(sector_size))
        .ok_or_else(|| Error::corrupt("GPT header", format!("sector {lba} lies past the end of the disk")))
}

/// Reads the table whose header lies in sector `lba`.
fn read(disk: &dyn BlockDevice, sector_size: u32, lba: u64) -> Result<Table> {
    let header = Header::parse(&read_sector(disk, sector_size, lba)?, lba)?;
    let mut array = vec![0; header.entry_count as usize * header.entry_size as usize];
    disk.read_at(&mut array, byte_offset(header.entries_at, sector_size)?)?;
    if crc32fast::hash(&array) != header.entries_crc {
        return Err(Error::corrupt("GPT entries", "their checksum is wrong"));
    }
    let entries = array.chunks_exact(header.entry_size as usize);
    let entries = (1..).zip(entries).filter_map(|(number, bytes)| Entry::parse(bytes, number)).collect();
    Ok(Table { disk_guid: header.disk_guid, sector_size, entries })
}
