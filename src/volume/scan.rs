//! Finds the volumes of a disk.

use super::{
    GptAttributes, Partition, PartitionType, Scan, Scheme, Volume, VolumeKind, bare, gpt, mbr, partition_name,
};
use crate::block::{SharedDevice, SliceDevice};
use crate::error::Result;
use std::sync::Arc;

/// Finds the volumes of `disk`, which a guest knows as `name` (`sda`).
///
/// A GUID partition table counts where the master boot record says that there is one; otherwise the boot record itself
/// does, unless it is the boot sector of a filesystem. A disk without partitions is one volume. An image that is both an
/// ISO 9660 filesystem and partitioned is shown as both. What is damaged is passed over and told of in the warnings.
///
/// # Errors
/// Those of reading the disk's first sector.
pub fn scan(disk: SharedDevice, name: &str) -> Result<Scan> {
    let (mut scan, disk) = partitions(disk, name)?;
    if scan.volumes.is_empty() || bare::has_iso9660(&*disk) {
        scan.volumes.insert(0, Volume::whole(name, disk));
    }
    Ok(scan)
}

/// Finds the partitions of a disk or a volume, known as `name` without `/dev/`; there may be none. Returns the device too.
///
/// # Errors
/// Those of reading the first sector.
pub(super) fn partitions(disk: SharedDevice, name: &str) -> Result<(Scan, SharedDevice)> {
    let mut found = Found { disk, name, volumes: Vec::new(), warnings: Vec::new() };
    let (scheme, table_uuid) = found.partitions()?;
    let Found { disk, volumes, warnings, .. } = found;
    Ok((Scan { volumes, scheme, table_uuid, warnings }, disk))
}

impl Volume {
    /// Makes a volume of a whole disk.
    pub(super) fn whole(name: &str, device: SharedDevice) -> Self {
        Self {
            name: format!("/dev/{name}"),
            aliases: Vec::new(),
            device,
            kind: VolumeKind::WholeDisk,
            parents: Vec::new(),
        }
    }
}

/// What was found so far.
struct Found<'a> {
    disk: SharedDevice,
    name: &'a str,
    volumes: Vec<Volume>,
    warnings: Vec<String>,
}

impl Found<'_> {
    /// Finds the partitions; returns the kind of the table and its identifier.
    fn partitions(&mut self) -> Result<(Option<Scheme>, Option<String>)> {
        let disk = Arc::clone(&self.disk);
        if disk.size() < mbr::RECORD_SIZE as u64 {
            return Ok((None, None));
        }
        let mut sector = [0; mbr::RECORD_SIZE];
        disk.read_at(&mut sector, 0)?;
        let Some(record) = mbr::BootRecord::parse(&sector) else { return Ok((None, None)) };
        let sector_size = disk.sector_size();
        if bare::is_bare(&*disk, &sector, &record, sector_size) {
            return Ok((None, None));
        }
        if record.is_protective()
            && let Some(table) = gpt::find(&*disk, &mut self.warnings)
        {
            table.entries.iter().for_each(|entry| self.add_gpt(entry, table.sector_size));
            return Ok((Some(Scheme::Gpt), Some(table.disk_guid)));
        }
        let signature = (record.disk_signature != 0).then(|| format!("{:08x}", record.disk_signature));
        for partition in mbr::partitions(&*disk, &record, sector_size, &mut self.warnings) {
            self.add(Partition {
                number: partition.number,
                start: partition.start,
                size: partition.size,
                scheme: Scheme::Mbr,
                type_id: PartitionType::Mbr(partition.type_byte),
                part_uuid: signature.as_ref().map(|signature| format!("{signature}-{:02x}", partition.number)),
                part_label: None,
                bootable: partition.bootable,
                attributes: GptAttributes::default(),
            });
        }
        Ok((Some(Scheme::Mbr), signature))
    }

    fn add_gpt(&mut self, entry: &gpt::Entry, sector_size: u32) {
        let sector_size = u64::from(sector_size);
        let start = entry.first.checked_mul(sector_size);
        let count = entry.last.checked_sub(entry.first).and_then(|count| count.checked_add(1));
        let size = count.and_then(|count| count.checked_mul(sector_size));
        let (Some(start), Some(size)) = (start, size) else {
            let (number, first, last) = (entry.number, entry.first, entry.last);
            self.warnings.push(format!("partition {number} is left out: it goes from sector {first} to {last}"));
            return;
        };
        self.add(Partition {
            number: entry.number,
            start,
            size,
            scheme: Scheme::Gpt,
            type_id: PartitionType::Gpt(entry.type_guid.clone()),
            part_uuid: Some(entry.unique_guid.clone()),
            part_label: Some(entry.name.clone()).filter(|name| !name.is_empty()),
            bootable: entry.attributes.is_legacy_bootable(),
            attributes: entry.attributes,
        });
    }

    /// Adds a partition, as far as it lies on the disk.
    fn add(&mut self, mut partition: Partition) {
        let number = partition.number;
        let disk_size = self.disk.size();
        let Some(room) = disk_size.checked_sub(partition.start).filter(|&room| room > 0) else {
            let start = partition.start;
            self.warnings.push(format!(
                "partition {number} is left out: it begins at byte {start}, past the end of a disk of {disk_size} bytes"
            ));
            return;
        };
        if partition.size > room {
            let size = partition.size;
            self.warnings.push(format!(
                "partition {number} passes the end of the disk: only {room} of its {size} bytes are there"
            ));
            partition.size = room;
        }
        match SliceDevice::new(Arc::clone(&self.disk), partition.start, partition.size) {
            Ok(device) => self.volumes.push(Volume {
                name: format!("/dev/{}", partition_name(self.name, number)),
                aliases: Vec::new(),
                device: Arc::new(device),
                kind: VolumeKind::Partition(partition),
                parents: vec![format!("/dev/{}", self.name)],
            }),
            Err(error) => self.warnings.push(format!("partition {number} is left out: {error}")),
        }
    }
}
