//! Puts the volumes of a group together.

use super::database::Database;
use super::record::{Component, Layout, Part, VolumeRecord};
use super::{Member, newest};
use crate::block::{SharedDevice, SliceDevice};
use crate::error::{Error, Result};
use crate::volume::assemble::Made;
use crate::volume::raid::{Array, Members, concat, mirror, parity, stripes};
use crate::volume::{Dynamic, Volume, VolumeKind};
use std::sync::Arc;

/// The most parts of a volume.
const MAX_PARTS: u64 = 1024;

/// MD's number of the layout of Windows' RAID 5: left-symmetric.
const LEFT_SYMMETRIC: u32 = 2;

/// Returns the volumes of a group; what cannot be put together is told of.
pub(super) fn all(members: &[Member], warnings: &mut Vec<String>) -> Vec<Made> {
    let (Some(database), Some(first)) = (newest(members), members.first()) else { return Vec::new() };
    let group = &first.header.group_name;
    for member in members.iter().filter(|member| member.database.sequence < database.sequence) {
        warnings.push(format!("{}: its copy of the database of the group {group} is out of date", member.name));
    }
    let mut made = Vec::new();
    for record in &database.volumes {
        let mut building = Building { members, database, missing: Vec::new(), used: Vec::new() };
        match building.volume(record) {
            Ok((device, layout)) => {
                let (name, guid) = (&record.name, &record.guid);
                if !building.missing.is_empty() {
                    let missing = building.missing.join(", ");
                    warnings.push(format!("{name} of {group} is read without the disks that are missing: {missing}"));
                }
                let disk = building.used.iter().map(|&index| members[index].disk).min().unwrap_or(first.disk);
                let parents = building.used.iter().map(|&index| members[index].name.clone()).collect();
                let kind = VolumeKind::Dynamic(Dynamic {
                    group: group.clone(),
                    name: name.clone(),
                    uuid: guid.clone(),
                    layout,
                });
                let name = format!("/dev/mapper/ldm_vol_{}_{}", plain(group), plain(name));
                made.push(Made { volume: Volume { name, aliases: Vec::new(), device, kind, parents }, disk });
            }
            Err(error) => warnings.push(format!("volume {} of {group} is left out: {error}", record.name)),
        }
    }
    made
}

/// Returns a name whose characters can all stand in that of a device.
fn plain(name: &str) -> String {
    let plain =
        |character: char| if character.is_alphanumeric() || "-_.".contains(character) { character } else { '_' };
    name.chars().map(plain).collect()
}

struct Building<'a> {
    members: &'a [Member],
    database: &'a Database,
    /// The names of disks that are not there.
    missing: Vec<String>,
    /// The indices of the members that are used.
    used: Vec<usize>,
}

impl Building<'_> {
    fn volume(&mut self, record: &VolumeRecord) -> Result<(SharedDevice, &'static str)> {
        let wrong = |detail: String| Error::corrupt("volume of dynamic disks", detail);
        let components: Vec<&Component> =
            self.database.components.iter().filter(|component| component.volume == record.id).collect();
        if components.is_empty() || components.len() as u64 != record.components {
            return Err(wrong(format!("{} of {} components are there", components.len(), record.components)));
        }
        let (device, layout) = match components[..] {
            [component] => self.component(component)?,
            _ => self.copies(&components)?,
        };
        let sector = u64::from(device.sector_size());
        let size = record.size.checked_mul(sector).filter(|&size| size > 0 && size <= device.size());
        let size = size.ok_or_else(|| wrong(format!("{} sectors on {} bytes", record.size, device.size())))?;
        Ok((Arc::new(SliceDevice::new(device, 0, size)?), layout))
    }

    /// Makes a mirror; a copy that lacks a disk is left out.
    fn copies(&mut self, components: &[&Component]) -> Result<(SharedDevice, &'static str)> {
        let mut legs: Members = Vec::new();
        let mut failed = None;
        for component in components {
            match self.component(component) {
                Ok((device, _)) => legs.push(Some(device)),
                Err(error) => {
                    failed.get_or_insert(error);
                    legs.push(None);
                }
            }
        }
        match (legs.iter().flatten().map(|leg| leg.size()).min(), failed) {
            (Some(size), _) => Ok((Arc::new(mirror::Mirror::new(legs, size, false)), "mirrored")),
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::corrupt("volume of dynamic disks", "it has no components")),
        }
    }

    fn component(&mut self, component: &Component) -> Result<(SharedDevice, &'static str)> {
        let wrong = |detail: String| Error::corrupt("component of dynamic disks", detail);
        let mut parts: Vec<&Part> = self.database.parts.iter().filter(|part| part.component == component.id).collect();
        if parts.is_empty() || parts.len() as u64 != component.parts || component.parts > MAX_PARTS {
            return Err(wrong(format!("{} of {} parts are there", parts.len(), component.parts)));
        }
        if component.layout == Layout::Spanned {
            parts.sort_by_key(|part| part.offset);
            return self.spanned(&parts);
        }
        if component.columns != parts.len() as u64 {
            return Err(Error::unsupported("striped volumes of dynamic disks that were extended"));
        }
        parts.sort_by_key(|part| part.column);
        let columns: Vec<Option<SharedDevice>> =
            parts.iter().map(|part| self.part(part)).collect::<Result<Vec<_>>>()?;
        let sector = columns.iter().flatten().map(|column| u64::from(column.sector_size())).max().unwrap_or(512);
        let chunk = component.chunk.checked_mul(sector).filter(|&chunk| chunk > 0);
        let chunk = chunk.ok_or_else(|| wrong(format!("chunks of {} sectors", component.chunk)))?;
        let size = columns.iter().flatten().map(|column| column.size()).min().unwrap_or(0) / chunk * chunk;
        let missing = columns.iter().filter(|column| column.is_none()).count();
        if component.layout == Layout::Striped {
            if missing > 0 {
                return Err(self.lacks());
            }
            let stripes = stripes::Stripes::new(chunk, &vec![size; columns.len()], stripes::Rounds::OfArray);
            let size = stripes.size();
            return Ok((Arc::new(Array::new(columns, stripes, size)), "striped"));
        }
        let layout = parity::Parity::new(chunk, columns.len(), 1, LEFT_SYMMETRIC)
            .ok_or_else(|| wrong(format!("RAID 5 of {} columns", columns.len())))?;
        if missing > 1 {
            return Err(self.lacks());
        }
        let size = size.checked_mul(layout.data() as u64).ok_or_else(|| wrong(format!("columns of {size} bytes")))?;
        Ok((Arc::new(Array::new(columns, layout, size)), "raid5"))
    }

    fn spanned(&mut self, parts: &[&Part]) -> Result<(SharedDevice, &'static str)> {
        let wrong = |detail: String| Error::corrupt("component of dynamic disks", detail);
        let mut devices: Members = Vec::new();
        let (mut end, mut sectors, mut places) = (0_u64, 0_u64, Vec::new());
        for part in parts {
            if part.offset != sectors {
                return Err(wrong(format!("a part begins at sector {}, and not at {sectors}", part.offset)));
            }
            sectors = sectors.checked_add(part.size).ok_or_else(|| wrong("its parts are too large".into()))?;
            let device = self.part(part)?;
            let Some(device) = device else { continue };
            end = end.checked_add(device.size()).ok_or_else(|| wrong("its parts are too large".into()))?;
            places.push(concat::Part { end, member: devices.len(), offset: 0 });
            devices.push(Some(device));
        }
        if devices.len() < parts.len() {
            return Err(self.lacks());
        }
        let name = if parts.len() == 1 { "simple" } else { "spanned" };
        Ok((Arc::new(Array::new(devices, concat::Concat::new(places), end)), name))
    }

    /// Returns the error of a volume that cannot be read without what is missing.
    fn lacks(&self) -> Error {
        Error::NotFound(format!("the disks that hold it are not all given: {} missing", self.missing.join(", ")).into())
    }

    /// Returns the device of a part; `None` where its disk is not there.
    fn part(&mut self, part: &Part) -> Result<Option<SharedDevice>> {
        let wrong = |detail: String| Error::corrupt("part of dynamic disks", detail);
        let disk = self.database.disks.get(&part.disk);
        let disk = disk.ok_or_else(|| wrong(format!("it lies on the disk {}, which there is not", part.disk)))?;
        let Some(index) = self.members.iter().position(|member| member.header.disk_guid == disk.guid) else {
            if !self.missing.contains(&disk.name) {
                self.missing.push(disk.name.clone());
            }
            return Ok(None);
        };
        if !self.used.contains(&index) {
            self.used.push(index);
        }
        let member = &self.members[index];
        let sector = u64::from(member.device.sector_size());
        let start = member.header.data_start.checked_add(part.start).and_then(|start| start.checked_mul(sector));
        let range = start.zip(part.size.checked_mul(sector)).filter(|(_, size)| *size > 0);
        let past = || wrong(format!("{} sectors from {} on {}", part.size, part.start, member.name));
        let (start, size) = range.ok_or_else(past)?;
        let slice = SliceDevice::new(member.device.clone(), start, size).map_err(|_| past())?;
        Ok(Some(Arc::new(slice)))
    }
}
