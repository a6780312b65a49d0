//! Dynamic disks of Windows (the Logical Disk Manager), for reading.
//!
//! Every disk of a group has a private header and a copy of the group's database, whose records tell the volumes, what they
//! are made of, and the disks. The newest copy counts. Volumes are simple, spanned, striped, mirrored, or RAID 5; the last
//! two are read without a disk that is missing. There is no specification by the vendor; the structures are those that the
//! Linux-NTFS project wrote down (`linux/block/partitions/ldm.h`). Numbers are big-endian, and places count sectors.

mod database;
mod header;
mod record;
mod volume;

use self::database::Database;
use self::header::PrivateHeader;
use super::assemble::{Candidate, Collector, Made};
use super::{PartitionType, Volume, VolumeKind};
use crate::block::{BlockDevice, SharedDevice};
use std::collections::BTreeMap;

/// The type of an MBR's partition that belongs to a dynamic disk.
const MBR_TYPE: u8 = 0x42;
/// The types of a GPT's partitions that belong to a dynamic disk: its database, and its data.
const GPT_TYPES: [&str; 2] = ["5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"];

/// Says whether a disk is a dynamic one.
pub(super) fn is_dynamic(disk: &dyn BlockDevice) -> bool {
    PrivateHeader::find(disk).is_some()
}

/// Says whether a partition of a dynamic disk belongs to the group: its bytes are those of the group's volumes.
pub(super) fn is_part(volume: &Volume) -> bool {
    match &volume.kind {
        VolumeKind::Partition(partition) => match &partition.type_id {
            PartitionType::Mbr(byte) => *byte == MBR_TYPE,
            PartitionType::Gpt(guid) => GPT_TYPES.contains(&guid.as_str()),
        },
        _ => false,
    }
}

/// A disk of a group.
struct Member {
    name: String,
    device: SharedDevice,
    disk: usize,
    header: PrivateHeader,
    database: Database,
}

/// The groups of which a disk was found, by their GUIDs.
#[derive(Default)]
pub(super) struct Groups {
    waiting: BTreeMap<String, Vec<Member>>,
}

impl Collector for Groups {
    fn take(&mut self, candidate: &Candidate, warnings: &mut Vec<String>) -> bool {
        let Some(header) = PrivateHeader::find(&*candidate.device) else { return false };
        let (name, device, disk) = (candidate.name.clone(), candidate.device.clone(), candidate.disk);
        match Database::read(&*device, &header) {
            Ok(database) => {
                let members = self.waiting.entry(header.group_guid.clone()).or_default();
                if let Some(other) = members.iter().find(|other| other.header.disk_guid == header.disk_guid) {
                    warnings.push(format!("{name}: not used: {} is the same dynamic disk", other.name));
                } else {
                    members.push(Member { name, device, disk, header, database });
                }
            }
            Err(error) => warnings.push(format!("{name}: dynamic disk left out: {error}")),
        }
        true
    }

    fn give(&mut self, partial: bool, warnings: &mut Vec<String>) -> Vec<Made> {
        let ready: Vec<String> =
            self.waiting.iter().filter(|(_, members)| partial || is_whole(members)).map(|(id, _)| id.clone()).collect();
        let mut made = Vec::new();
        for id in ready {
            let members = self.waiting.remove(&id).unwrap_or_default();
            made.extend(volume::all(&members, warnings));
        }
        made
    }
}

/// Returns the newest copy of the database.
fn newest(members: &[Member]) -> Option<&Database> {
    members.iter().map(|member| &member.database).max_by_key(|database| database.sequence)
}

/// Says whether all disks of the group are there.
fn is_whole(members: &[Member]) -> bool {
    let is_there = |guid: &String| members.iter().any(|member| member.header.disk_guid == *guid);
    newest(members).is_some_and(|database| database.disks.values().all(|disk| is_there(&disk.guid)))
}
