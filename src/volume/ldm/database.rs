//! The database: a table of contents leads to its head, behind which lie the blocks that records are made of.

use super::header::PrivateHeader;
use super::record::{Component, Disk, Part, Record, VolumeRecord};
use crate::block::BlockDevice;
use crate::bytes::{be16, be32, be64, until_nul};
use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The most bytes of a database: Windows gives it 1 MiB.
const MAX_SIZE: u64 = 16 << 20;

/// The sectors of the database's room in which copies of the table of contents may lie.
const CONTENTS_PLACES: std::ops::Range<u64> = 1..5;

/// Where the head tells its own structure.
const AT_BLOCK_SIZE: usize = 8;
const AT_FIRST_BLOCK: usize = 12;
const AT_STATUS: usize = 16;
const AT_VERSION: usize = 18;
const AT_SEQUENCE: usize = 117;
const HEAD_SIZE: usize = 512;

/// The status of a database that no change was in progress of.
const CONSISTENT: u16 = 1;

/// The size of a block's head, in bytes.
const BLOCK_HEAD: usize = 16;

/// The most blocks of a record.
const MAX_BLOCKS: u16 = 64;

/// The records of a group.
#[derive(Clone, Debug, Default)]
pub(super) struct Database {
    /// How often it was changed.
    pub sequence: u64,
    /// The disks, by their numbers.
    pub disks: BTreeMap<u64, Disk>,
    /// The volumes.
    pub volumes: Vec<VolumeRecord>,
    /// What volumes are made of.
    pub components: Vec<Component>,
    /// What components are made of.
    pub parts: Vec<Part>,
}

impl Database {
    /// Reads the copy on a disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`], and those of reading.
    pub(super) fn read(disk: &dyn BlockDevice, header: &PrivateHeader) -> Result<Self> {
        let wrong = |detail: &'static str| Error::corrupt("database of a dynamic disk", detail);
        let sector = u64::from(disk.sector_size());
        let bytes_of = |sectors: u64| sectors.checked_mul(sector);
        let start = bytes_of(header.config_start).ok_or_else(|| wrong("it begins past all ends"))?;
        let room = disk.size().checked_sub(start).ok_or_else(|| wrong("it begins past the end of the disk"))?;
        let room = bytes_of(header.config_size).unwrap_or(u64::MAX).min(room).min(MAX_SIZE);
        let (at, size) = contents(disk, start, room, sector)?;
        let size = size.min(room.checked_sub(at).ok_or_else(|| wrong("its head lies past its end"))?);
        if size < HEAD_SIZE as u64 {
            return Err(wrong("there is no room for its head"));
        }
        let mut bytes = vec![0; size as usize];
        disk.read_at(&mut bytes, start + at)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |detail: String| Error::corrupt("database of a dynamic disk", detail);
        if !bytes.starts_with(b"VMDB") {
            return Err(wrong("its head has no signature".into()));
        }
        let version = (be16(bytes, AT_VERSION), be16(bytes, AT_VERSION + 2));
        if version.0 != 4 {
            return Err(Error::unsupported(format!("dynamic disks of the version {}.{}", version.0, version.1)));
        }
        if be16(bytes, AT_STATUS) != CONSISTENT {
            return Err(Error::unsupported("dynamic disks while Windows changes their volumes"));
        }
        let (block, first) = (be32(bytes, AT_BLOCK_SIZE) as usize, be32(bytes, AT_FIRST_BLOCK) as usize);
        if !(64..=4096).contains(&block) || first > bytes.len() {
            return Err(wrong(format!("blocks of {block} bytes from byte {first}")));
        }
        let mut database = Self { sequence: be64(bytes, AT_SEQUENCE), ..Self::default() };
        for record in records(&bytes[first..], block)? {
            match Record::parse(&record)? {
                Some(Record::Disk(id, disk)) => drop(database.disks.insert(id, disk)),
                Some(Record::Volume(volume)) => database.volumes.push(volume),
                Some(Record::Component(component)) => database.components.push(component),
                Some(Record::Part(part)) => database.parts.push(part),
                None => {}
            }
        }
        Ok(database)
    }
}

/// Returns where the head of the database lies in its room, and how many bytes follow, as the table of contents tells.
fn contents(disk: &dyn BlockDevice, start: u64, room: u64, sector: u64) -> Result<(u64, u64)> {
    /// The places of the two areas that the table tells of, and of their fields.
    const AREAS: [usize; 2] = [0x24, 0x46];
    const AREA_START: usize = 10;
    const AREA_SIZE: usize = 18;
    let mut bytes = [0; 512];
    for place in CONTENTS_PLACES {
        let Some(at) = place.checked_mul(sector).filter(|at| at + sector <= room) else { break };
        disk.read_at(&mut bytes, start + at)?;
        if !bytes.starts_with(b"TOCBLOCK") {
            continue;
        }
        for area in AREAS.map(|at| &bytes[at..at + 34]) {
            if until_nul(&area[..8]) == b"config" {
                let (from, size) = (be64(area, AREA_START), be64(area, AREA_SIZE));
                if let (Some(from), Some(size)) = (from.checked_mul(sector), size.checked_mul(sector)) {
                    return Ok((from, size));
                }
            }
        }
    }
    Err(Error::corrupt("database of a dynamic disk", "there is no table of contents"))
}

/// Joins the blocks of each record.
fn records(bytes: &[u8], size: usize) -> Result<Vec<Vec<u8>>> {
    let wrong = |detail: String| Error::corrupt("database of a dynamic disk", detail);
    let mut records: BTreeMap<u32, (u16, Vec<Option<&[u8]>>)> = BTreeMap::new();
    for block in bytes.chunks_exact(size).filter(|block| block.starts_with(b"VBLK")) {
        let (record, number, count) = (be32(block, 8), be16(block, 12), be16(block, 14));
        // A block that is not used is a part of none.
        if count == 0 {
            continue;
        }
        if count > MAX_BLOCKS || number >= count {
            return Err(wrong(format!("block {number} of {count} of record {record}")));
        }
        let (known, blocks) = records.entry(record).or_insert_with(|| (count, vec![None; usize::from(count)]));
        if *known != count || blocks[usize::from(number)].is_some() {
            return Err(wrong(format!("two blocks are block {number} of record {record}")));
        }
        blocks[usize::from(number)] = Some(&block[BLOCK_HEAD..]);
    }
    let join = |(record, (_, blocks)): (u32, (u16, Vec<Option<&[u8]>>))| {
        let whole: Option<Vec<&[u8]>> = blocks.into_iter().collect();
        whole.map(|blocks| blocks.concat()).ok_or_else(|| wrong(format!("a block of record {record} is missing")))
    };
    records.into_iter().map(join).collect()
}
