//! Finds the volumes of all disks together, in any stack: LVM on LUKS on RAID on partitions.
//!
//! It goes in rounds. Every device that a round brought is looked at: a member of an array or of a volume group waits for
//! the others, an encrypted volume is opened where there is a key. Groups that are whole give their volumes, and these are
//! the devices of the next round. When a round brings nothing, groups that lack members give what can be had without them.
//! Members are told apart by what they say of themselves, so the order of the disks does not matter. Rounds and volumes are
//! bounded, so that an image cannot keep this busy.

use super::crypt::{self, Encrypted, Unlock};
use super::{Volume, VolumeKind, bare, bcache, firmware, ldm, lvm, md, scan};
use crate::block::SharedDevice;
use crate::error::{ErrorContext, Result};
use std::collections::HashMap;

/// The most layers of volumes on volumes.
const MAX_DEPTH: usize = 16;

/// The most rounds: each layer takes one for what is whole, and one for what lacks members.
const MAX_ROUNDS: usize = 2 * MAX_DEPTH;

/// The most volumes that are made.
const MAX_VOLUMES: usize = 4096;

/// A disk whose volumes are wanted.
pub struct Source {
    /// Its name without `/dev/`: `sda`.
    pub name: String,
    /// Its bytes.
    pub device: SharedDevice,
    /// What messages call the image.
    pub location: String,
}

/// What lies on a set of disks.
#[derive(Debug, Default)]
pub struct Stack {
    /// The volumes: those of the disks in the disks' order, then those that are made of others.
    pub volumes: Vec<Assembled>,
    /// Encrypted volumes that stayed closed.
    pub locked: Vec<Locked>,
    /// What a person should know: a damaged table, an array that lacks members.
    pub warnings: Vec<String>,
}

/// A volume, and where it belongs.
#[derive(Clone, Debug)]
pub struct Assembled {
    /// The volume.
    pub volume: Volume,
    /// The index of the first disk that it lies on.
    pub disk: usize,
}

/// An encrypted volume that stayed closed.
#[derive(Clone, Debug)]
pub struct Locked {
    /// The device that it lies on.
    pub device: String,
    /// What it is known by.
    pub encrypted: Encrypted,
}

/// A device that may be a member of something.
pub(super) struct Candidate {
    /// Its name: `/dev/sda1`.
    pub name: String,
    /// Its bytes.
    pub device: SharedDevice,
    /// The index of the first disk that it lies on.
    pub disk: usize,
    /// How many layers lie below it.
    depth: usize,
}

/// A volume that a group gives, before it has its place.
pub(super) struct Made {
    /// The volume.
    pub volume: Volume,
    /// The index of the first disk that it lies on.
    pub disk: usize,
}

/// Collects the members of one kind of group.
pub(super) trait Collector {
    /// Looks whether a device is a member, and keeps it where it is.
    fn take(&mut self, candidate: &Candidate, warnings: &mut Vec<String>) -> bool;

    /// Returns the volumes of groups that have all their members and gave none yet; with `partial` of those too that do not.
    fn give(&mut self, partial: bool, warnings: &mut Vec<String>) -> Vec<Made>;
}

/// Finds the volumes of `sources`, and opens encrypted ones by the keys of `unlock`.
///
/// # Errors
/// Those of reading a disk's first sector. What is damaged is passed over and told of in the warnings.
pub fn assemble(sources: &[Source], unlock: &dyn Unlock) -> Result<Stack> {
    let mut work = Work { unlock, stack: Stack::default(), collectors: collectors(), depths: HashMap::new() };
    let mut candidates = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        work.add_disk(index, source, &mut candidates)?;
    }
    for _ in 0..MAX_ROUNDS {
        let opened = work.look_at(candidates);
        candidates = work.place(opened);
        let whole = work.collect(false);
        candidates.extend(work.place(whole));
        if candidates.is_empty() {
            let partial = work.collect(true);
            candidates = work.place(partial);
        }
        if candidates.is_empty() {
            break;
        }
    }
    Ok(work.stack)
}

fn collectors() -> Vec<Box<dyn Collector>> {
    vec![
        Box::<md::Arrays>::default(),
        Box::<lvm::Groups>::default(),
        Box::<bcache::Backings>::default(),
        Box::<ldm::Groups>::default(),
    ]
}

struct Work<'a> {
    unlock: &'a dyn Unlock,
    stack: Stack,
    collectors: Vec<Box<dyn Collector>>,
    /// How many layers lie below each volume, by its name.
    depths: HashMap<String, usize>,
}

impl Work<'_> {
    fn add_disk(&mut self, index: usize, source: &Source, candidates: &mut Vec<Candidate>) -> Result<()> {
        let Source { name, device, location } = source;
        let whole = Volume::whole(name, device.clone());
        // The table of partitions on a member whose data begin with its first sector is that of the array.
        if md::is_whole(&**device) {
            candidates.push(self.keep(whole, index, 0));
            return Ok(());
        }
        let (found, disk) = scan::partitions(device.clone(), name).at(|| location.clone())?;
        let is_partitioned = !found.volumes.is_empty();
        self.stack.warnings.extend(found.warnings.into_iter().map(|warning| format!("{location}: {warning}")));
        let mut volumes = found.volumes;
        if let Some(kind) = firmware::raid(&*disk) {
            self.stack.warnings.push(format!(
                "{location}: a member of a RAID array of the mainboard's or controller's firmware ({kind}), which is not put \
                 together; what is shown is this disk alone"
            ));
        }
        let is_dynamic = ldm::is_dynamic(&*disk);
        volumes.retain(|volume| !is_dynamic || !ldm::is_part(volume));
        if is_dynamic || !is_partitioned || bare::has_iso9660(&*disk) {
            volumes.insert(0, whole);
        }
        candidates.extend(volumes.into_iter().map(|volume| self.keep(volume, index, 0)));
        Ok(())
    }

    /// Looks at devices: gives members to their groups, and returns what encrypted ones hold.
    fn look_at(&mut self, candidates: Vec<Candidate>) -> Vec<Made> {
        let mut opened = Vec::new();
        for candidate in candidates {
            if candidate.depth >= MAX_DEPTH {
                let name = &candidate.name;
                self.stack.warnings.push(format!("{name}: not looked into: it lies on {MAX_DEPTH} other volumes"));
                continue;
            }
            let warnings = &mut self.stack.warnings;
            if self.collectors.iter_mut().any(|collector| collector.take(&candidate, warnings)) {
                continue;
            }
            opened.extend(self.open(&candidate));
        }
        opened
    }

    fn open(&mut self, candidate: &Candidate) -> Option<Made> {
        let encrypted = crypt::probe(&*candidate.device).or_else(|| self.unlock.detached(&candidate.name))?;
        let Candidate { name, device, disk, .. } = candidate;
        match self.unlock.unlock(name, &encrypted, device) {
            Ok(Some(opened)) => {
                let volume = Volume {
                    name: encrypted.name.clone(),
                    aliases: Vec::new(),
                    device: opened,
                    kind: VolumeKind::Crypt(encrypted),
                    parents: vec![name.clone()],
                };
                return Some(Made { volume, disk: *disk });
            }
            Ok(None) => {
                let tokens = match encrypted.tokens.as_slice() {
                    [] => String::new(),
                    tokens => format!(", with tokens of the type {}", tokens.join(", ")),
                };
                self.stack.warnings.push(format!(
                    "{name}: locked: it is encrypted ({}{tokens}); give its key with --key {name}:file:FILE or --key \
                     {name}:env:NAME",
                    encrypted.scheme
                ));
            }
            Err(error) => self.stack.warnings.push(format!("{name}: locked: {error}")),
        }
        self.stack.locked.push(Locked { device: name.clone(), encrypted });
        None
    }

    fn collect(&mut self, partial: bool) -> Vec<Made> {
        let warnings = &mut self.stack.warnings;
        self.collectors.iter_mut().flat_map(|collector| collector.give(partial, warnings)).collect()
    }

    /// Gives volumes their places, finds the partitions within them, and returns what is to be looked at next.
    fn place(&mut self, made: Vec<Made>) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for Made { volume, disk } in made {
            let below = volume.parents.iter().filter_map(|parent| self.depths.get(parent)).max();
            let depth = below.map_or(0, |depth| depth + 1);
            let Some(Candidate { name, device, .. }) = self.add(volume, disk, depth) else { continue };
            let partitions = self.partitions_of(&name, &device);
            if partitions.is_empty() {
                candidates.push(Candidate { name, device, disk, depth });
            }
            candidates.extend(partitions.into_iter().filter_map(|partition| self.add(partition, disk, depth)));
        }
        candidates
    }

    /// Adds a volume under a name that no other has: two groups may bear the same name.
    fn add(&mut self, mut volume: Volume, disk: usize, depth: usize) -> Option<Candidate> {
        if self.stack.volumes.len() >= MAX_VOLUMES {
            self.stack.warnings.push(format!("{}: left out: there are {MAX_VOLUMES} volumes", volume.name));
            return None;
        }
        let wanted = volume.name.clone();
        let mut number = 1;
        while self.depths.contains_key(&volume.name) {
            number += 1;
            volume.name = format!("{wanted}~{number}");
        }
        if number > 1 {
            volume.aliases.clear();
            self.stack.warnings.push(format!("two volumes are named {wanted}; one is shown as {}", volume.name));
        }
        Some(self.keep(volume, disk, depth))
    }

    /// Adds a volume whose name no other has.
    fn keep(&mut self, volume: Volume, disk: usize, depth: usize) -> Candidate {
        self.depths.insert(volume.name.clone(), depth);
        let candidate = Candidate { name: volume.name.clone(), device: volume.device.clone(), disk, depth };
        self.stack.volumes.push(Assembled { volume, disk });
        candidate
    }

    fn partitions_of(&mut self, name: &str, device: &SharedDevice) -> Vec<Volume> {
        let short = name.strip_prefix("/dev/").unwrap_or(name);
        match scan::partitions(device.clone(), short) {
            Ok((found, _)) => {
                self.stack.warnings.extend(found.warnings.into_iter().map(|warning| format!("{name}: {warning}")));
                found.volumes
            }
            Err(error) => {
                self.stack.warnings.push(format!("{name}: {error}"));
                Vec::new()
            }
        }
    }
}
