//! The metadata of a VHDX file: the sizes of the disk and of its parts, and its parent.

use super::locator::Parent;
use super::{MEGABYTE, SECTORS_OF_BITMAP, corrupt};
use crate::block::BlockDevice;
use crate::bytes::{guid, le16, le32, le64};
use crate::error::{Error, Result};
use std::ops::Range;

const TABLE: usize = 64 << 10;
const ENTRY: usize = 32;
/// What a table has room for, beside its header, which is as long as an entry.
const MAX_ENTRIES: usize = TABLE / ENTRY - 1;
const IS_REQUIRED: u32 = 4;
const FILE_PARAMETERS: &str = "caa16737-fa36-4d43-b3b6-33f0aa44e76b";
const VIRTUAL_DISK_SIZE: &str = "2fa54224-cd1b-4876-b211-5dbed83bf4b8";
const VIRTUAL_DISK_ID: &str = "beca12ab-b2e6-4523-93ef-c309e000c746";
const LOGICAL_SECTOR_SIZE: &str = "8141bf1d-a96f-4709-ba47-f233a8faab5f";
const PHYSICAL_SECTOR_SIZE: &str = "cda348c7-445d-4471-9cc9-e9885251c556";
const PARENT_LOCATOR: &str = "a8d35f2d-b30b-454d-abf7-d3d84834ab0c";
const HAS_PARENT: u32 = 2;
/// The largest disk of the format, in bytes.
const MAX_DISK: u64 = 64 << 40;
/// The largest item that is read, in bytes: all keys and values of a locator may take as much as their lengths can say.
const MAX_ITEM: u64 = MEGABYTE;

/// What the metadata say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The size of a block, in bytes.
    pub block: u64,
    /// The size of a sector as the guest sees it, in bytes: 512 or 4096.
    pub sector: u64,
    pub parent: Option<Parent>,
}

impl Metadata {
    /// Reads the metadata of a region.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for an item that is not known and must be, and those of reading.
    pub fn read(image: &dyn BlockDevice, region: &Range<u64>) -> Result<Self> {
        const STRUCTURE: &str = "VHDX metadata table";
        let room = region.end - region.start;
        if room < TABLE as u64 {
            return Err(corrupt(STRUCTURE, "its region is too short"));
        }
        let mut table = vec![0; TABLE];
        image.read_at(&mut table, region.start)?;
        let count = usize::from(le16(&table, 10));
        if !table.starts_with(b"metadata") || count > MAX_ENTRIES {
            return Err(corrupt(STRUCTURE, "its signature or its count is wrong"));
        }
        // Of an item of a fixed size, that is read, and of others all.
        let item = |entry: &[u8], least: u64, most: u64| {
            let (at, len) = (u64::from(le32(entry, 16)), u64::from(le32(entry, 20)));
            if at < TABLE as u64 || at + len > room || !(least..=MAX_ITEM).contains(&len) {
                return Err(corrupt(STRUCTURE, "an item lies outside the region, or has a wrong size"));
            }
            let mut bytes = vec![0; len.min(most) as usize];
            image.read_at(&mut bytes, region.start + at)?;
            Ok(bytes)
        };
        let (mut parameters, mut size, mut sector, mut parent) = (None, None, None, None);
        for entry in table[ENTRY..].chunks_exact(ENTRY).take(count) {
            let id = guid(entry[..16].try_into().expect("16 bytes"));
            match id.as_str() {
                FILE_PARAMETERS => {
                    let bytes = item(entry, 8, 8)?;
                    parameters = Some((u64::from(le32(&bytes, 0)), le32(&bytes, 4) & HAS_PARENT != 0));
                }
                VIRTUAL_DISK_SIZE => size = Some(le64(&item(entry, 8, 8)?, 0)),
                LOGICAL_SECTOR_SIZE => sector = Some(u64::from(le32(&item(entry, 4, 4)?, 0))),
                PARENT_LOCATOR if parent.is_some() => return Err(corrupt(STRUCTURE, "it has two parent locators")),
                PARENT_LOCATOR => parent = Some(Parent::parse(&item(entry, 20, MAX_ITEM)?)?),
                VIRTUAL_DISK_ID | PHYSICAL_SECTOR_SIZE => {}
                _ if le32(entry, 24) & IS_REQUIRED != 0 => {
                    return Err(Error::unsupported(format!("a VHDX with the metadata item {id}")));
                }
                _ => {}
            }
        }
        let lacks = |what: &str| corrupt(STRUCTURE, format!("it lacks {what}"));
        let (block, has_parent) = parameters.ok_or_else(|| lacks("the size of a block"))?;
        let size = size.ok_or_else(|| lacks("the size of the disk"))?;
        let sector = sector.ok_or_else(|| lacks("the size of a sector"))?;
        if has_parent && parent.is_none() {
            return Err(lacks("the name of the parent"));
        }
        if !block.is_power_of_two() || !(MEGABYTE..=256 * MEGABYTE).contains(&block) {
            return Err(corrupt("VHDX metadata", format!("blocks of {block} bytes")));
        }
        if !matches!(sector, 512 | 4096) {
            return Err(corrupt("VHDX metadata", format!("sectors of {sector} bytes")));
        }
        if size == 0 || size > MAX_DISK || !size.is_multiple_of(sector) {
            return Err(corrupt("VHDX metadata", format!("a disk of {size} bytes in sectors of {sector}")));
        }
        Ok(Self { size, block, sector, parent: parent.filter(|_| has_parent) })
    }

    /// Returns how many blocks one sector bitmap block tells of: the BAT has its entry after theirs.
    pub fn chunk_ratio(&self) -> u64 {
        SECTORS_OF_BITMAP * self.sector / self.block
    }

    /// Returns how many entries the BAT must have.
    pub fn entries(&self) -> u64 {
        let blocks = self.size.div_ceil(self.block);
        match self.parent {
            Some(_) => blocks.div_ceil(self.chunk_ratio()) * (self.chunk_ratio() + 1),
            None => blocks + (blocks - 1) / self.chunk_ratio(),
        }
    }
}
