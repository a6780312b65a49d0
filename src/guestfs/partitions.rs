//! The partitions of a drive.

use super::{Guestfs, Launched};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use crate::volume::edit::{self, Change};
use crate::volume::{Partition, PartitionType, Scheme, VolumeKind};
use serde::Serialize;
use std::sync::Arc;

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
        let drive = format!("/dev/{}", self.disks[disk].name);
        let volumes = self.volumes.iter().filter(move |held| held.volume.parents == [drive.as_str()]);
        volumes.filter_map(|held| Some((held.volume.name.as_str(), held.volume.kind.partition()?)))
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
        let held = launched.held(partition)?;
        match (&held.volume.kind, held.volume.parents.as_slice()) {
            (VolumeKind::Partition(_), [parent]) => Ok(parent.clone()),
            _ => Ok(format!("/dev/{}", launched.disks[held.disk].name)),
        }
    }

    /// Returns the number of a partition: 1 for `/dev/sda1`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a partition that there is not.
    pub fn part_to_partnum(&self, partition: &str) -> Result<u32> {
        match &self.launched()?.held(partition)?.volume.kind {
            VolumeKind::Partition(partition) => Ok(partition.number),
            _ => Err(Error::NotFound(format!("{partition} is no partition").into())),
        }
    }
}

/// Returns the kind of table that a name of libguestfs means.
fn scheme_of(name: &str) -> Result<Scheme> {
    match name {
        "gpt" | "efi" => Ok(Scheme::Gpt),
        "mbr" | "msdos" | "dos" => Ok(Scheme::Mbr),
        _ => Err(Error::Usage(format!("there is no partition table {name:?} here; there are gpt and mbr").into())),
    }
}

impl Guestfs {
    /// Returns a drive to change its partitions: one that nothing of is mounted.
    fn unmounted_disk(&self, device: &str) -> Result<SharedDevice> {
        let disk = self.device_index(device)?;
        let launched = self.launched()?;
        let is_mounted = |held: &&super::Held| held.disk == disk && self.is_mounted(&held.volume.name);
        if let Some(held) = launched.volumes.iter().find(is_mounted) {
            return Err(Error::InUse(format!("{} is mounted; unmount it first", held.volume.name).into()));
        }
        let device = &launched.disks[disk].device;
        if device.is_read_only() {
            return Err(Error::Errno(libc::EROFS).at(launched.disks[disk].location.clone()));
        }
        Ok(Arc::clone(device))
    }

    /// Looks anew at what lies on the drives, after one was changed.
    pub(super) fn rescan(&mut self, disk: usize) -> Result<()> {
        let launched = self.launched.as_mut().ok_or_else(|| Error::Usage("call launch first".into()))?;
        let changed = |held: &&super::Held| held.disk == disk || held.volume.kind.partition().is_none();
        let gone: Vec<String> = launched.volumes.iter().filter(changed).map(|held| held.volume.name.clone()).collect();
        // What is mounted keeps its filesystem; what lies on other drives stays open.
        launched.open.lock().retain(|(device, _), _| !gone.contains(device));
        launched.find_volumes(&*self.unlock)
    }

    /// Makes a new, empty partition table on a drive: `gpt` or `mbr`. What was there is gone.
    ///
    /// # Errors
    /// [`Error::InUse`] while something of it is mounted, `EROFS`, and those of writing.
    pub fn part_init(&mut self, device: &str, kind: &str) -> Result<()> {
        edit::init(&*self.unmounted_disk(device)?, scheme_of(kind)?)?;
        self.rescan(self.device_index(device)?)
    }

    /// Adds a partition from one sector of the drive to another, both its own; a negative last sector counts from the
    /// drive's end. `kind` is `primary`, as is every partition here.
    ///
    /// # Errors
    /// As [`part_init`](Self::part_init); [`Error::Usage`] when it does not fit, [`Error::Unsupported`] for a logical one.
    pub fn part_add(&mut self, device: &str, kind: &str, first: u64, last: i64) -> Result<()> {
        match kind {
            "p" | "primary" => {}
            "l" | "logical" | "e" | "extended" => return Err(Error::unsupported("making logical partitions")),
            _ => return Err(Error::Usage(format!("{kind:?} is no kind of partition; write primary").into())),
        }
        let disk = self.unmounted_disk(device)?;
        let sector = u64::from(disk.sector_size());
        let outside = || Error::Usage("the partition lies outside the drive".into());
        let last = match u64::try_from(last) {
            Ok(last) => last,
            Err(_) => (disk.size() / sector).checked_sub(last.unsigned_abs()).ok_or_else(outside)?,
        };
        let begin = first.checked_mul(sector).ok_or_else(outside)?;
        let end = last.checked_add(1).and_then(|next| next.checked_mul(sector)).ok_or_else(outside)?;
        edit::add(&*disk, Some((begin, end - 1)))?;
        self.rescan(self.device_index(device)?)
    }

    /// Adds a partition of `size` bytes, rounded up to MiB, in the largest gap, or one that fills it; returns its device.
    ///
    /// # Errors
    /// As [`part_add`](Self::part_add).
    pub fn part_add_size(&mut self, device: &str, size: Option<u64>) -> Result<String> {
        let disk = self.unmounted_disk(device)?;
        let number = match size {
            None => edit::add(&*disk, None)?,
            Some(size) => edit::add_size(&*disk, size)?,
        };
        self.rescan(self.device_index(device)?)?;
        let added = self.part_list(device)?.into_iter().find(|partition| partition.number == number);
        added.map(|partition| partition.device).ok_or_else(|| Error::NotFound("the new partition is not there".into()))
    }

    /// Makes a partition table on a drive with one partition that fills it.
    ///
    /// # Errors
    /// As [`part_init`](Self::part_init).
    pub fn part_disk(&mut self, device: &str, kind: &str) -> Result<()> {
        self.part_init(device, kind)?;
        self.part_add_size(device, None).map(drop)
    }

    fn change(&mut self, device: &str, number: u32, change: &Change) -> Result<()> {
        edit::change(&*self.unmounted_disk(device)?, number, change)?;
        self.rescan(self.device_index(device)?)
    }

    /// Takes a partition out of its table.
    ///
    /// # Errors
    /// As [`part_init`](Self::part_init); [`Error::NotFound`] for a partition that there is not.
    pub fn part_del(&mut self, device: &str, number: u32) -> Result<()> {
        self.change(device, number, &Change::Delete)
    }

    /// Sets whether an old BIOS is to boot from a partition.
    ///
    /// # Errors
    /// As [`part_del`](Self::part_del).
    pub fn part_set_bootable(&mut self, device: &str, number: u32, bootable: bool) -> Result<()> {
        self.change(device, number, &Change::Bootable(bootable))
    }

    /// Sets the name of a GPT partition.
    ///
    /// # Errors
    /// As [`part_del`](Self::part_del); [`Error::Usage`] for an MBR, and a name of more than 36 letters.
    pub fn part_set_name(&mut self, device: &str, number: u32, name: &str) -> Result<()> {
        self.change(device, number, &Change::Name(name.to_owned()))
    }

    /// Sets the type of a GPT partition, a GUID.
    ///
    /// # Errors
    /// As [`part_del`](Self::part_del); [`Error::Usage`] for an MBR, and a text that is no GUID.
    pub fn part_set_gpt_type(&mut self, device: &str, number: u32, guid: &str) -> Result<()> {
        self.change(device, number, &Change::Type(PartitionType::Gpt(guid.to_owned())))
    }

    /// Sets the type byte of an MBR partition.
    ///
    /// # Errors
    /// As [`part_del`](Self::part_del); [`Error::Usage`] for a GPT.
    pub fn part_set_mbr_id(&mut self, device: &str, number: u32, id: u8) -> Result<()> {
        self.change(device, number, &Change::Type(PartitionType::Mbr(id)))
    }
}
