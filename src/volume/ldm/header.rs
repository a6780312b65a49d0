//! The private header of a disk: which disk of which group it is, and where the database lies.

use super::GPT_TYPES;
use crate::block::BlockDevice;
use crate::bytes::{be16, be64, until_nul};
use crate::volume::{gpt, mbr};

const SIGNATURE: &[u8; 8] = b"PRIVHEAD";

/// The size of what is read of it, in bytes.
const SIZE: usize = 512;
/// Where it lies on disks with an MBR, in sectors.
const PLACE: u64 = 6;

const AT_VERSION: usize = 12;
const AT_DISK_GUID: usize = 0x30;
const AT_GROUP_GUID: usize = 0xb0;
const AT_GROUP_NAME: usize = 0xf0;
const AT_DATA_START: usize = 0x11b;
const AT_CONFIG_START: usize = 0x12b;
const AT_CONFIG_SIZE: usize = 0x133;

/// What the header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrivateHeader {
    /// The disk's GUID, in lower case.
    pub disk_guid: String,
    /// The group's GUID, in lower case.
    pub group_guid: String,
    /// The group's name.
    pub group_name: String,
    /// Where the places of partitions are counted from, in sectors.
    pub data_start: u64,
    /// Where the database lies, in sectors.
    pub config_start: u64,
    /// How much room it has, in sectors.
    pub config_size: u64,
}

impl PrivateHeader {
    /// Finds the header of a disk; `None` where it has none, or cannot be read.
    pub(super) fn find(disk: &dyn BlockDevice) -> Option<Self> {
        let sector = u64::from(disk.sector_size());
        let mut first = [0; mbr::RECORD_SIZE];
        if disk.size() < sector.checked_mul(PLACE + 1)? || disk.read_at(&mut first, 0).is_err() {
            return None;
        }
        let record = mbr::BootRecord::parse(&first)?;
        if !record.is_protective() {
            return Self::read(disk, PLACE * sector);
        }
        let table = gpt::find(disk, &mut Vec::new())?;
        let entry = table.entries.iter().find(|entry| entry.type_guid == GPT_TYPES[0])?;
        Self::read(disk, entry.last.checked_mul(u64::from(table.sector_size))?)
    }

    fn read(disk: &dyn BlockDevice, place: u64) -> Option<Self> {
        let mut bytes = [0; SIZE];
        if place.checked_add(SIZE as u64)? > disk.size() {
            return None;
        }
        disk.read_at(&mut bytes, place).ok()?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8; SIZE]) -> Option<Self> {
        if !bytes.starts_with(SIGNATURE) || be16(bytes, AT_VERSION) != 2 {
            return None;
        }
        let text = |at: usize, len: usize| String::from_utf8_lossy(until_nul(&bytes[at..at + len])).trim().to_owned();
        Some(Self {
            disk_guid: text(AT_DISK_GUID, 64).to_ascii_lowercase(),
            group_guid: text(AT_GROUP_GUID, 64).to_ascii_lowercase(),
            group_name: text(AT_GROUP_NAME, 32),
            data_start: be64(bytes, AT_DATA_START),
            config_start: be64(bytes, AT_CONFIG_START),
            config_size: be64(bytes, AT_CONFIG_SIZE),
        })
    }
}
