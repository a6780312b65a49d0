//! Arrays of Linux software RAID, for reading.
//!
//! Members are told apart by the array's UUID and their roles. One whose events are behind those of the newest was out of the
//! array while that went on, and is left out. An array that lacks members is read around them as far as its level allows.
//! Nothing is written: the bitmaps and the marks of a dirty array are not kept.

mod superblock;

use self::superblock::Role;
pub use self::superblock::Superblock;
use super::assemble::{Candidate, Collector, Made};
use super::raid::{Array, Members, concat, mirror, parity, raid10, stripes};
use super::{Raid, Volume, VolumeKind};
use crate::block::{BlockDevice, SharedDevice, SliceDevice};
use crate::bytes::le64;
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The number that the first array without one gets, as mdadm and libguestfs count.
const FIRST_NUMBER: u32 = 127;

/// The most members of an array.
const MAX_MEMBERS: u32 = 1920;

/// Says whether a disk is, as a whole, a member of an array whose data begin with the disk's first sector.
pub fn is_whole(disk: &dyn BlockDevice) -> bool {
    let whole = |superblock: Superblock| superblock.data_start == 0 && superblock.used <= superblock.data_size;
    Superblock::find(disk).is_some_and(whole)
}

struct Member {
    name: String,
    device: SharedDevice,
    disk: usize,
    superblock: Superblock,
}

/// The arrays of which a member was found.
#[derive(Default)]
pub struct Arrays {
    waiting: BTreeMap<[u8; 16], Vec<Member>>,
    made: u32,
}

impl Collector for Arrays {
    fn take(&mut self, candidate: &Candidate, _: &mut Vec<String>) -> bool {
        let Some(superblock) = Superblock::find(&*candidate.device) else { return false };
        let member =
            Member { name: candidate.name.clone(), device: candidate.device.clone(), disk: candidate.disk, superblock };
        self.waiting.entry(member.superblock.uuid).or_default().push(member);
        true
    }

    fn give(&mut self, partial: bool, warnings: &mut Vec<String>) -> Vec<Made> {
        let ready: Vec<[u8; 16]> =
            self.waiting.iter().filter(|(_, members)| partial || is_complete(members)).map(|(uuid, _)| *uuid).collect();
        let mut made = Vec::new();
        for uuid in ready {
            let members = self.waiting.remove(&uuid).unwrap_or_default();
            let number = FIRST_NUMBER.checked_sub(self.made).unwrap_or(FIRST_NUMBER + self.made);
            let name = format!("/dev/md{number}");
            match assemble(&name, &members, warnings) {
                Ok(volume) => {
                    self.made += 1;
                    made.push(volume);
                }
                Err(error) => {
                    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
                    let uuid = members[0].superblock.uuid_text();
                    warnings.push(format!("array {uuid} ({}) is left out: {error}", names.join(", ")));
                }
            }
        }
        made
    }
}

/// Says whether as many up-to-date members are there as the array has.
fn is_complete(members: &[Member]) -> bool {
    let Some(newest) = newest(members) else { return false };
    let mut roles: Vec<u32> = members.iter().filter_map(|member| current_role(member, newest).ok()).collect();
    roles.sort_unstable();
    roles.dedup();
    roles.len() as u64 == u64::from(newest.devices)
}

fn newest(members: &[Member]) -> Option<&Superblock> {
    members.iter().map(|member| &member.superblock).max_by_key(|superblock| superblock.events)
}

/// Returns the role of a member that can be used, or why it cannot.
fn current_role(member: &Member, newest: &Superblock) -> Result<u32, String> {
    let own = &member.superblock;
    // The events of a member may be one behind when the machine stopped while they were written.
    if own.events.saturating_add(1) < newest.events {
        return Err(format!(
            "it is out of date: {} events, and the newest member has {}; it was taken out of the array",
            own.events, newest.events
        ));
    }
    let listed = newest.roles.get(own.number as usize).copied().unwrap_or(Role::Faulty);
    match listed {
        Role::Active(_) if own.recovered.is_some_and(|done| done < own.used.max(1)) => {
            Err("it was being rebuilt, and is not whole".into())
        }
        Role::Active(role) if role < newest.devices => Ok(role),
        Role::Active(role) => Err(format!("its role is {role}, and the array has {} members", newest.devices)),
        Role::Spare => Err("it is a spare".into()),
        Role::Faulty => Err("it was taken out of the array".into()),
        Role::Journal => Err("it is the journal".into()),
    }
}

fn assemble(name: &str, members: &[Member], warnings: &mut Vec<String>) -> Result<Made> {
    let newest = newest(members).ok_or_else(|| Error::corrupt("array", "it has no members"))?;
    let corrupt = |detail: String| Error::corrupt(format!("{} superblock", newest.level_name()), detail);
    if newest.reshaping {
        return Err(Error::unsupported("an array that is being reshaped; let the reshape end first"));
    }
    if newest.journaled {
        return Err(Error::unsupported("an array with a journal of writes"));
    }
    if newest.devices == 0 || newest.devices > MAX_MEMBERS {
        return Err(corrupt(format!("{} members", newest.devices)));
    }
    let mut devices: Members = vec![None; newest.devices as usize];
    let mut sizes = vec![0; devices.len()];
    let mut disk = usize::MAX;
    for member in members {
        disk = disk.min(member.disk);
        let role = match current_role(member, newest) {
            Ok(role) => role as usize,
            Err(why) => {
                warnings.push(format!("{}: not used for {name}: {why}", member.name));
                continue;
            }
        };
        if member.superblock.level != newest.level || member.superblock.devices != newest.devices {
            warnings.push(format!("{}: not used for {name}: its superblock tells of another array", member.name));
            continue;
        }
        if devices[role].is_some() {
            warnings.push(format!("{}: not used for {name}: another device is member {role} too", member.name));
            continue;
        }
        let (device, size) = data_of(member)?;
        (devices[role], sizes[role]) = (Some(device), size);
    }
    let working = devices.iter().flatten().count() as u32;
    let level = newest.level_name();
    let device = build(newest, devices, &sizes)?;
    if working < newest.devices {
        warnings.push(format!(
            "{name}: {level} lacks {} of {} members; it is read without them",
            newest.devices - working,
            newest.devices
        ));
        if !newest.in_sync && newest.level >= 4 && newest.level <= 6 {
            warnings.push(format!("{name}: it was not in sync, so what is rebuilt from parity may be wrong"));
        }
    }
    // The host before the colon is that of the machine that made it.
    let own_name = newest.name.as_deref().map(|name| name.split_once(':').map_or(name, |(_, name)| name).to_owned());
    let raid = Raid {
        name: own_name,
        uuid: newest.uuid_text(),
        level,
        metadata: newest.version,
        devices: newest.devices,
        working,
    };
    let volume = Volume {
        name: name.to_owned(),
        aliases: aliases(newest, &raid),
        device,
        kind: VolumeKind::Raid(raid),
        parents: members.iter().map(|member| member.name.clone()).collect(),
    };
    Ok(Made { volume, disk })
}

/// Returns the names that a guest may have for an array.
fn aliases(superblock: &Superblock, raid: &Raid) -> Vec<String> {
    let mut aliases = vec![format!("/dev/disk/by-id/md-uuid-{}", raid.uuid)];
    if let Some(name) = &superblock.name {
        aliases.push(format!("/dev/disk/by-id/md-name-{name}"));
    }
    if let Some(minor) = superblock.minor {
        aliases.extend([format!("/dev/md{minor}"), format!("/dev/md/{minor}")]);
    }
    if let Some(name) = raid.name.as_deref().filter(|name| !name.is_empty() && !name.contains('/')) {
        aliases.push(format!("/dev/md/{name}"));
        // A number as a name is that of the device.
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            aliases.push(format!("/dev/md{name}"));
        }
    }
    aliases
}

/// Returns the data of a member, and how many bytes the array may use of them.
fn data_of(member: &Member) -> Result<(SharedDevice, u64)> {
    let Superblock { data_start, data_size, used, .. } = member.superblock;
    let room = member.device.size().saturating_sub(data_start);
    let size = if data_size == 0 { room } else { data_size };
    if size > room || used > size {
        return Err(Error::corrupt(
            format!("superblock of {}", member.name),
            format!(
                "{} bytes of data from {data_start} do not lie in a device of {} bytes",
                size.max(used),
                member.device.size()
            ),
        ));
    }
    let device: SharedDevice = Arc::new(SliceDevice::new(member.device.clone(), data_start, size)?);
    let bad = bad_blocks(member)?;
    if bad.is_empty() {
        return Ok((device, size));
    }
    Ok((Arc::new(WithBadBlocks { device, bad, start: data_start }), size))
}

/// Returns the ranges of a member that its list calls bad, in bytes from the member's beginning.
fn bad_blocks(member: &Member) -> Result<Vec<(u64, u64)>> {
    let Some((start, len)) = member.superblock.bad_blocks else { return Ok(Vec::new()) };
    let mut list = vec![0; len];
    member.device.read_at(&mut list, start)?;
    let shift = u32::from(member.superblock.bad_block_shift.min(40));
    let entries = list.chunks_exact(8).map(|entry| le64(entry, 0)).take_while(|&entry| entry != u64::MAX && entry != 0);
    let scale = |sectors: u64| sectors.saturating_mul(512_u64.saturating_mul(1 << shift));
    Ok(entries.map(|entry| (scale(entry >> 10), scale((entry >> 10) + (entry & 0x3ff)))).collect())
}

/// A member some of whose blocks were never written again after they failed.
struct WithBadBlocks {
    device: SharedDevice,
    /// Ranges from the member's beginning, in bytes.
    bad: Vec<(u64, u64)>,
    /// Where the data begin on the member, in bytes.
    start: u64,
}

impl BlockDevice for WithBadBlocks {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn sector_size(&self) -> u32 {
        self.device.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (from, to) = (self.start + offset, self.start + offset + buf.len() as u64);
        if self.bad.iter().any(|&(start, end)| start < to && from < end) {
            return Err(Error::corrupt("array", format!("the block at {from} is in the list of bad blocks")));
        }
        self.device.read_at(buf, offset)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.device.prefetch(offset, len);
    }
}

/// Puts an array together; `sizes` are those of the members' data, 0 for a missing one.
fn build(superblock: &Superblock, members: Members, sizes: &[u64]) -> Result<SharedDevice> {
    let Superblock { chunk, layout, used, .. } = *superblock;
    let level = superblock.level_name();
    let missing: Vec<String> =
        members.iter().enumerate().filter(|(_, member)| member.is_none()).map(|(role, _)| role.to_string()).collect();
    let lacks = || {
        let which = missing.join(", ");
        Error::corrupt(format!("{level} array"), format!("it cannot do without the missing members: {which}"))
    };
    let wrong = |detail: String| Error::corrupt(format!("{level} superblock"), detail);
    if !matches!(superblock.level, 1 | -1) && (chunk == 0 || !chunk.is_multiple_of(512)) {
        return Err(wrong(format!("chunks of {chunk} bytes")));
    }
    let count = members.len();
    let data = if used == 0 { sizes.iter().copied().filter(|&size| size > 0).min().unwrap_or(0) } else { used };
    // Members of levels with copies may be larger than what is used, and never smaller.
    if superblock.level > 0 && members.iter().zip(sizes).any(|(member, &size)| member.is_some() && size < data) {
        return Err(wrong(format!("a member has less than the {data} bytes that are used")));
    }
    let device: SharedDevice = match superblock.level {
        -1 | 0 if !missing.is_empty() => return Err(lacks()),
        -1 => {
            let mut end = 0_u64;
            let part = |(member, &size): (usize, &u64)| {
                end = end.saturating_add(size.checked_div(chunk).map_or(size, |count| count * chunk));
                concat::Part { end, member, offset: 0 }
            };
            let layout = concat::Concat::new(sizes.iter().enumerate().map(part).collect::<Vec<_>>());
            let size = layout.size();
            Arc::new(Array::new(members, ReadOnly(layout), size))
        }
        0 => {
            let rounds = if layout == 1 { stripes::Rounds::OfArray } else { stripes::Rounds::OfZone };
            let stripes = stripes::Stripes::new(chunk, sizes, rounds);
            if stripes.zones() > 1 && !matches!(layout, 1 | 2) {
                return Err(Error::unsupported("raid0 on members of different sizes whose layout was not recorded"));
            }
            let size = stripes.size();
            Arc::new(Array::new(members, ReadOnly(stripes), size))
        }
        1 => {
            if missing.len() == count {
                return Err(lacks());
            }
            Arc::new(mirror::Mirror::new(members, data, false))
        }
        4..=6 => {
            let parities = if superblock.level == 6 { 2 } else { 1 };
            let algorithm = if superblock.level == 4 { parity::PARITY_LAST } else { layout };
            let layout = parity::Parity::new(chunk, count, parities, algorithm)
                .ok_or_else(|| Error::unsupported(format!("{level} of {count} members in layout {algorithm}")))?;
            if missing.len() > parities {
                return Err(lacks());
            }
            let size = (data / chunk * chunk).checked_mul(layout.data() as u64);
            let size = size.ok_or_else(|| wrong(format!("{data} bytes on each of {count} members")))?;
            Arc::new(Array::new(members, layout, size))
        }
        10 => {
            let layout = raid10::Raid10::new(chunk, count, layout, data)
                .ok_or_else(|| Error::unsupported(format!("raid10 of {count} members in layout {layout:#x}")))?;
            if !layout.can_do_without(&members) {
                return Err(lacks());
            }
            let size = layout.size();
            Arc::new(Array::new(members, layout, size))
        }
        _ => return Err(Error::unsupported(format!("arrays of level {level}"))),
    };
    if device.size() == 0 {
        return Err(wrong("it has no data".into()));
    }
    Ok(device)
}

/// A layout that is not written to.
struct ReadOnly<L>(L);

impl<L: super::raid::Layout> super::raid::Layout for ReadOnly<L> {
    fn piece(&self, offset: u64) -> super::raid::Piece {
        self.0.piece(offset)
    }

    fn recover(&self, members: &Members, offset: u64, piece: &super::raid::Piece, buf: &mut [u8]) -> Result<()> {
        self.0.recover(members, offset, piece, buf)
    }
}
