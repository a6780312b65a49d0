//! Volume groups of LVM 2.
//!
//! Physical volumes are told by their labels. The newest metadata of all members of a group say which physical volumes it has
//! and how its logical volumes are made of them. Where members are missing, the volumes that can do without them are opened,
//! and the others are named. The metadata's text is described in lvm(8) and the sources of LVM2.

mod btree;
mod build;
mod cache;
mod group;
mod label;
mod patched;
mod raid;
mod snapshot;
mod text;
mod thin;

use self::group::Group;
pub use self::label::Label;
use super::assemble::{Candidate, Collector, Made};
use super::{Logical, Volume, VolumeKind};
use crate::block::SharedDevice;
use std::collections::{BTreeMap, HashMap};

/// A physical volume that was found.
struct Member {
    name: String,
    device: SharedDevice,
    disk: usize,
    /// Its UUID, without hyphens.
    id: String,
}

/// The physical volumes and the groups that they tell of.
#[derive(Default)]
pub struct Groups {
    members: Vec<Member>,
    /// The newest metadata of each group, by its UUID; those that gave their volumes are done.
    groups: BTreeMap<String, (Group, bool)>,
}

impl Collector for Groups {
    fn take(&mut self, candidate: &Candidate, warnings: &mut Vec<String>) -> bool {
        let Some(label) = Label::find(&*candidate.device) else { return false };
        if let Some(other) = self.members.iter().find(|other| other.id == label.id) {
            warnings.push(format!(
                "{}: left out: it has the UUID of the physical volume {}; one is a copy of the other",
                candidate.name, other.name
            ));
            return true;
        }
        for text in label.texts(&*candidate.device, &candidate.name, warnings) {
            match text::parse(&text).and_then(|section| Group::read(&section)) {
                Ok(group) => {
                    let known = self.groups.get(&group.id).map_or(0, |(known, _)| known.seqno + 1);
                    if group.seqno >= known {
                        self.groups.insert(group.id.clone(), (group, false));
                    }
                }
                Err(error) => warnings.push(format!("{}: {error}", candidate.name)),
            }
        }
        self.members.push(Member {
            name: candidate.name.clone(),
            device: candidate.device.clone(),
            disk: candidate.disk,
            id: label.id,
        });
        true
    }

    fn give(&mut self, partial: bool, warnings: &mut Vec<String>) -> Vec<Made> {
        let mut made = Vec::new();
        for (group, is_done) in self.groups.values_mut().filter(|(_, is_done)| !is_done) {
            let found: Vec<(&String, &Member)> = group
                .physical
                .iter()
                .filter_map(|(name, physical)| {
                    let id = physical.id.replace('-', "");
                    Some((name, self.members.iter().find(|member| member.id == id)?))
                })
                .collect();
            if found.len() < group.physical.len() && !partial {
                continue;
            }
            *is_done = true;
            if found.len() < group.physical.len() {
                let missing = group.physical.iter().filter(|(name, _)| !found.iter().any(|(known, _)| known == name));
                let missing: Vec<&str> = missing.map(|(_, physical)| physical.id.as_str()).collect();
                warnings.push(format!(
                    "volume group {}: {} of {} physical volumes are missing ({}); --add gives further disks",
                    group.name,
                    missing.len(),
                    group.physical.len(),
                    missing.join(", ")
                ));
            }
            volumes(group, &found, warnings, &mut made);
        }
        made
    }
}

/// Makes the volumes of a group that can be opened, and names the others.
fn volumes(group: &Group, found: &[(&String, &Member)], warnings: &mut Vec<String>, made: &mut Vec<Made>) {
    let devices: HashMap<String, SharedDevice> =
        found.iter().map(|(name, member)| ((*name).clone(), member.device.clone())).collect();
    let parents: Vec<String> = found.iter().map(|(_, member)| member.name.clone()).collect();
    let disk = found.iter().map(|(_, member)| member.disk).min().unwrap_or(0);
    let mut builder = build::Builder::new(group, &devices);
    let is_pool = |volume: &group::Volume| {
        volume
            .segments
            .iter()
            .any(|segment| matches!(segment.kind.as_str(), "thin-pool" | "cache-pool" | "vdo-pool" | "snapshot"))
    };
    // Of a snapshot of the old kind, a volume without bytes is the visible one; its store bears its name.
    let is_shown =
        |name: &str, volume: &group::Volume| (volume.visible || group.snapshot_of(name).is_some()) && !is_pool(volume);
    for (name, volume) in group.logical.iter().filter(|(name, volume)| is_shown(name, volume)) {
        let path = format!("/dev/{}/{name}", group.name);
        match builder.visible(name) {
            Ok(device) => made.push(Made {
                volume: Volume {
                    name: path,
                    aliases: aliases(group, name, volume),
                    device,
                    kind: VolumeKind::Logical(Logical {
                        group: group.name.clone(),
                        name: name.clone(),
                        uuid: volume.id.clone(),
                        layout: volume.layout().to_owned(),
                    }),
                    parents: used(group, name, found).unwrap_or_else(|| parents.clone()),
                },
                disk,
            }),
            Err(error) => warnings.push(format!("{path}: left out: {error}")),
        }
    }
    warnings.append(&mut builder.warnings);
}

/// Returns the devices of the physical volumes that a volume lies on, through the volumes that it is made of.
fn used(group: &Group, name: &str, found: &[(&String, &Member)]) -> Option<Vec<String>> {
    const MOST: usize = 4096;
    let mut waiting = vec![name];
    let mut seen = std::collections::BTreeSet::new();
    let mut physical = std::collections::BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !seen.insert(name) || seen.len() > MOST {
            continue;
        }
        if group.physical.contains_key(name) {
            physical.insert(name);
            continue;
        }
        let Some(volume) = group.logical.get(name) else { continue };
        for segment in &volume.segments {
            waiting.extend(segment.section.all_texts());
        }
        if let Some(snapshot) = group.snapshot_of(name) {
            waiting.extend(snapshot.section.text("origin"));
        }
    }
    let names: Vec<String> = found
        .iter()
        .filter(|(name, _)| physical.contains(name.as_str()))
        .map(|(_, member)| member.name.clone())
        .collect();
    Some(names).filter(|names| !names.is_empty())
}

/// Returns the names that a guest may have for a volume.
fn aliases(group: &Group, name: &str, volume: &group::Volume) -> Vec<String> {
    let mapper = format!("{}-{}", group.name.replace('-', "--"), name.replace('-', "--"));
    let id = format!("{}{}", group.id, volume.id).replace('-', "");
    vec![
        format!("/dev/mapper/{mapper}"),
        format!("/dev/disk/by-id/dm-name-{mapper}"),
        format!("/dev/disk/by-id/dm-uuid-LVM-{id}"),
    ]
}
