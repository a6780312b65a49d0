//! The partitions of a drive.

use super::{Guestfs, Launched};
use crate::error::{Error, Result};
use crate::volume::{Partition, Scheme, VolumeKind};
use serde::Serialize;

/// A partition. Positions are bytes from the beginning of the drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionInfo {
    /// Its device: `/dev/sda1`.
    pub device: String,
    /// Its number, from 1.
    pub number: u32,
    /// Where it begins.
    pub start: u64,
    /// Its last byte.
    pub end: u64,
    /// Its size, in bytes.
    pub size: u64,
    /// Its type: a byte of an MBR, a GUID of a GPT.
    pub type_id: String,
    /// Its identifier.
    pub uuid: Option<String>,
    /// Its name, in a GPT.
    pub label: Option<String>,
    /// Whether an old BIOS is to boot from it.
    pub bootable: bool,
    /// The attributes of a GPT entry.
    pub attributes: u64,
}

/// What a drive holds, as far as partitions go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionTable {
    /// The drive: `/dev/sda`.
    pub device: String,
    /// `gpt` or `msdos`; `None` where there are no partitions.
    pub scheme: Option<&'static str>,
    /// The partitions, in the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
}

fn describe(device: &str, partition: &Partition) -> PartitionInfo {
    PartitionInfo {
        device: device.to_owned(),
        number: partition.number,
        start: partition.start,
        end: (partition.start + partition.size).saturating_sub(1),
        size: partition.size,
        type_id: partition.type_id.to_string(),
        uuid: partition.part_uuid.clone(),
        label: partition.part_label.clone(),
        bootable: partition.bootable,
        attributes: partition.attributes.0,
    }
}

impl Launched {
    fn partitions_of(&self, disk: usize) -> impl Iterator<Item = (&str, &Partition)> {
        self.volumes.iter().filter(move |held| held.disk == disk).filter_map(|held| match &held.volume.kind {
            VolumeKind::Partition(partition) => Some((held.volume.name.as_str(), partition)),
            VolumeKind::WholeDisk => None,
        })
    }
}

impl Guestfs {
    /// Returns the kind of a drive's partition table and its partitions.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a drive that there is not.
    pub fn part_table(&self, device: &str) -> Result<PartitionTable> {
        let launched = self.launched()?;
        let disk = self.device_index(device)?;
        let scheme = launched.partitions_of(disk).next().map(|(_, partition)| match partition.scheme {
            Scheme::Gpt => "gpt",
            Scheme::Mbr => "msdos",
        });
        let mut partitions: Vec<PartitionInfo> =
            launched.partitions_of(disk).map(|(device, partition)| describe(device, partition)).collect();
        partitions.sort_by_key(|partition| partition.number);
        Ok(PartitionTable { device: format!("/dev/{}", launched.disks[disk].name), scheme, partitions })
    }

    /// Returns the partitions of a drive, in the order of their numbers.
    ///
    /// # Errors
    /// As [`part_table`](Self::part_table).
    pub fn part_list(&self, device: &str) -> Result<Vec<PartitionInfo>> {
        Ok(self.part_table(device)?.partitions)
    }

    /// Returns the kind of a drive's partition table: `gpt` or `msdos`.
    ///
    /// # Errors
    /// As [`part_table`](Self::part_table); [`Error::NotFound`] where there is none.
    pub fn part_get_parttype(&self, device: &str) -> Result<String> {
        let scheme = self.part_table(device)?.scheme;
        scheme.map(str::to_owned).ok_or_else(|| Error::NotFound(format!("{device} has no partitions").into()))
    }

    fn partition(&self, device: &str, number: u32) -> Result<PartitionInfo> {
        let found = self.part_list(device)?.into_iter().find(|partition| partition.number == number);
        found.ok_or_else(|| Error::NotFound(format!("{device} has no partition {number}").into()))
    }

    /// Says whether an old BIOS is to boot from a partition.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a partition that there is not.
    pub fn part_get_bootable(&self, device: &str, number: u32) -> Result<bool> {
        Ok(self.partition(device, number)?.bootable)
    }

    /// Returns the name of a partition; empty where it has none.
    ///
    /// # Errors
    /// As [`part_get_bootable`](Self::part_get_bootable).
    pub fn part_get_name(&self, device: &str, number: u32) -> Result<String> {
        Ok(self.partition(device, number)?.label.unwrap_or_default())
    }

    /// Returns the type of a GPT partition, a GUID in upper case.
    ///
    /// # Errors
    /// As [`part_get_bootable`](Self::part_get_bootable); [`Error::Usage`] in another table.
    pub fn part_get_gpt_type(&self, device: &str, number: u32) -> Result<String> {
        if self.part_get_parttype(device)? != "gpt" {
            return Err(Error::Usage(format!("{device} has no GPT").into()));
        }
        Ok(self.partition(device, number)?.type_id.to_ascii_uppercase())
    }

    /// Returns the type byte of an MBR partition.
    ///
    /// # Errors
    /// As [`part_get_bootable`](Self::part_get_bootable); [`Error::Usage`] in another table.
    pub fn part_get_mbr_id(&self, device: &str, number: u32) -> Result<u8> {
        let type_id = self.partition(device, number)?.type_id;
        let byte = type_id.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.ok_or_else(|| Error::Usage(format!("{device} has no MBR").into()))
    }

    /// Returns the drive that a partition lies on: `/dev/sda` for `/dev/sda1`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a partition that there is not.
    pub fn part_to_dev(&self, partition: &str) -> Result<String> {
        let launched = self.launched()?;
        Ok(format!("/dev/{}", launched.disks[launched.held(partition)?.disk].name))
    }

    /// Returns the number of a partition: 1 for `/dev/sda1`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a partition that there is not.
    pub fn part_to_partnum(&self, partition: &str) -> Result<u32> {
        match &self.launched()?.held(partition)?.volume.kind {
            VolumeKind::Partition(partition) => Ok(partition.number),
            VolumeKind::WholeDisk => Err(Error::NotFound(format!("{partition} is no partition").into())),
        }
    }
}
