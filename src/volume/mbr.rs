//! The master boot record: four primary partitions, and chains of logical ones in extended partitions.
//!
//! Positions and lengths are 32-bit little-endian counts of the disk's sectors. The first sector of an extended partition
//! is an extended boot record of the same layout: its data partition counts from the record itself, its link to the next
//! record from the beginning of the outermost extended partition. Nothing but custom describes this; the rules here are
//! those of Linux, whose numbers for the partitions a guest sees.

use crate::block::BlockDevice;
use crate::bytes::{le16, le32};
use crate::error::Result;
use std::collections::HashSet;

/// The size of a boot record, in bytes, whatever the disk's sectors are.
pub const RECORD_SIZE: usize = 512;

/// Where the four entries begin in a boot record.
pub(super) const ENTRIES_OFFSET: usize = 446;

/// The size of an entry, in bytes.
pub(super) const ENTRY_SIZE: usize = 16;

/// Where the disk's signature lies in the master boot record.
pub(super) const DISK_SIGNATURE_OFFSET: usize = 440;

/// The last two bytes of every boot record.
pub(super) const BOOT_SIGNATURE: u16 = 0xaa55;

/// The type of the entry that keeps tools that do not know GPT off the disk.
pub const TYPE_PROTECTIVE: u8 = 0xee;

/// The number of the first logical partition.
const FIRST_LOGICAL: u32 = 5;

/// How many extended boot records are followed, and how many logical partitions are found, at most.
const MAX_LOGICAL: usize = 256;

/// One of the four entries of a boot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// 0x80 when the partition is to be booted from, 0 otherwise; anything else is no partition table.
    pub boot_indicator: u8,
    /// The partition's type.
    pub type_byte: u8,
    /// Where it begins, in sectors.
    pub start: u32,
    /// How long it is, in sectors; 0 for an unused entry.
    pub count: u32,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Self {
        Self { boot_indicator: bytes[0], type_byte: bytes[4], start: le32(bytes, 8), count: le32(bytes, 12) }
    }

    /// Says whether the entry describes anything.
    pub fn is_used(&self) -> bool {
        self.count != 0
    }

    /// Says whether the entry is a container of logical partitions: of DOS, of Windows, of Linux.
    pub fn is_extended(&self) -> bool {
        matches!(self.type_byte, 0x05 | 0x0f | 0x85)
    }
}

/// A boot record, master or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootRecord {
    /// The disk's signature; 0 where there is none. It means nothing in an extended boot record.
    pub disk_signature: u32,
    /// The entries.
    pub entries: [Entry; 4],
}

impl BootRecord {
    /// Parses a boot record of at least [`RECORD_SIZE`] bytes; `None` when it has no boot signature.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < RECORD_SIZE || le16(bytes, RECORD_SIZE - 2) != BOOT_SIGNATURE {
            return None;
        }
        let entry = |index: usize| Entry::parse(&bytes[ENTRIES_OFFSET + index * ENTRY_SIZE..][..ENTRY_SIZE]);
        Some(Self {
            disk_signature: le32(bytes, DISK_SIGNATURE_OFFSET),
            entries: [entry(0), entry(1), entry(2), entry(3)],
        })
    }

    /// Says whether every boot indicator is one, which boot code in the place of entries seldom looks like.
    pub fn is_partition_table(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.boot_indicator, 0 | 0x80))
    }

    /// Says whether an entry protects a GPT.
    pub fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.type_byte == TYPE_PROTECTIVE)
    }
}

/// A partition that an MBR describes. Start and length are not yet held against the disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its number: 1 to 4, or from 5 on for a logical one.
    pub number: u32,
    /// Where it begins, in bytes.
    pub start: u64,
    /// How long it is, in bytes.
    pub size: u64,
    /// Its type.
    pub type_byte: u8,
    /// Whether it is to be booted from.
    pub bootable: bool,
}

impl Found {
    fn new(number: u32, base: u64, entry: &Entry, sector_size: u32) -> Self {
        Self {
            number,
            start: base.saturating_add(u64::from(entry.start) * u64::from(sector_size)),
            size: u64::from(entry.count) * u64::from(sector_size),
            type_byte: entry.type_byte,
            bootable: entry.boot_indicator == 0x80,
        }
    }
}

/// Finds the partitions of a master boot record on its disk. Containers and protective entries are not among them.
pub fn partitions(
    disk: &dyn BlockDevice,
    record: &BootRecord,
    sector_size: u32,
    warnings: &mut Vec<String>,
) -> Vec<Found> {
    let mut found = Vec::new();
    let mut logical = Vec::new();
    for (number, entry) in (1..).zip(&record.entries) {
        if !entry.is_used() || entry.type_byte == TYPE_PROTECTIVE {
            continue;
        }
        let partition = Found::new(number, 0, entry, sector_size);
        if entry.is_extended() {
            follow(disk, &partition, sector_size, &mut logical, warnings);
        } else {
            found.push(partition);
        }
    }
    found.append(&mut logical);
    found
}

/// Follows the chain of extended boot records of the extended partition `container`.
fn follow(
    disk: &dyn BlockDevice,
    container: &Found,
    sector_size: u32,
    logical: &mut Vec<Found>,
    warnings: &mut Vec<String>,
) {
    let mut seen = HashSet::new();
    let mut at = container.start;
    let mut this_size = container.size;
    let container_end = container.start.saturating_add(container.size);
    loop {
        if !seen.insert(at) || seen.len() > MAX_LOGICAL {
            let number = container.number;
            warnings
                .push(format!("the logical partitions of partition {number} form a loop, or are too many to follow"));
            return;
        }
        let record = match read_record(disk, at) {
            Ok(Some(record)) => record,
            Ok(None) => {
                // A container that holds nothing needs no record.
                if seen.len() > 1 {
                    warnings.push(format!("the extended boot record at byte {at} is damaged: it has no signature"));
                }
                return;
            }
            Err(error) => {
                warnings.push(format!("the extended boot record at byte {at} cannot be read: {error}"));
                return;
            }
        };
        for (index, entry) in record.entries.iter().enumerate() {
            if !entry.is_used() || entry.is_extended() {
                continue;
            }
            let number = FIRST_LOGICAL + logical.len() as u32;
            let partition = Found::new(number, at, entry, sector_size);
            // The last two entries are unused by right, and hold rubbish at times.
            let end = partition.start.saturating_add(partition.size);
            if index >= 2 && (end - at > this_size || end > container_end) {
                continue;
            }
            if logical.len() == MAX_LOGICAL {
                warnings.push(format!("only the first {MAX_LOGICAL} logical partitions are shown"));
                return;
            }
            logical.push(partition);
        }
        let Some(link) = record.entries.iter().find(|entry| entry.is_used() && entry.is_extended()) else { return };
        at = container.start.saturating_add(u64::from(link.start) * u64::from(sector_size));
        this_size = u64::from(link.count) * u64::from(sector_size);
    }
}

fn read_record(disk: &dyn BlockDevice, at: u64) -> Result<Option<BootRecord>> {
    let mut bytes = [0; RECORD_SIZE];
    disk.read_at(&mut bytes, at)?;
    Ok(BootRecord::parse(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MemoryDevice;
    use crate::bytes::{set_le16, set_le32};

    fn put(bytes: &mut [u8], record: usize, index: usize, type_byte: u8, start: u32, count: u32) {
        let at = record * 512 + ENTRIES_OFFSET + index * ENTRY_SIZE;
        bytes[at + 4] = type_byte;
        set_le32(bytes, at + 8, start);
        set_le32(bytes, at + 12, count);
        set_le16(bytes, record * 512 + 510, BOOT_SIGNATURE);
    }

    fn find(bytes: Vec<u8>) -> (Vec<Found>, Vec<String>) {
        let record = BootRecord::parse(&bytes).expect("signed");
        let mut warnings = Vec::new();
        let found = partitions(&MemoryDevice::new(bytes), &record, 512, &mut warnings);
        (found, warnings)
    }

    #[test]
    fn logical_partitions_are_numbered_from_five_in_the_order_of_their_chain() {
        let mut bytes = vec![0; 100 * 512];
        put(&mut bytes, 0, 1, 0x83, 1, 9);
        put(&mut bytes, 0, 3, 0x0f, 10, 80);
        put(&mut bytes, 10, 0, 0x83, 2, 8);
        put(&mut bytes, 10, 1, 0x05, 40, 20);
        put(&mut bytes, 50, 0, 0x07, 1, 4);
        put(&mut bytes, 50, 1, 0x05, 20, 20);
        put(&mut bytes, 30, 0, 0x82, 3, 4);
        let (found, warnings) = find(bytes);
        let seen: Vec<_> = found.iter().map(|part| (part.number, part.start / 512, part.type_byte)).collect();
        assert_eq!(seen, [(2, 1, 0x83), (5, 12, 0x83), (6, 51, 0x07), (7, 33, 0x82)]);
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn a_chain_that_loops_ends() {
        let mut bytes = vec![0; 100 * 512];
        put(&mut bytes, 0, 0, 0x05, 10, 80);
        put(&mut bytes, 10, 0, 0x83, 2, 8);
        put(&mut bytes, 10, 1, 0x05, 40, 20);
        put(&mut bytes, 50, 0, 0x83, 2, 8);
        put(&mut bytes, 50, 1, 0x05, 0, 20);
        let (found, warnings) = find(bytes);
        assert_eq!(found.len(), 2);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn a_chain_that_leaves_the_disk_keeps_what_came_before() {
        let mut bytes = vec![0; 100 * 512];
        put(&mut bytes, 0, 0, 0x05, 10, 80);
        put(&mut bytes, 10, 0, 0x83, 2, 8);
        put(&mut bytes, 10, 1, 0x05, u32::MAX, u32::MAX);
        let (found, warnings) = find(bytes);
        assert_eq!(found.len(), 1);
        assert_eq!(warnings.len(), 1);
    }
}
