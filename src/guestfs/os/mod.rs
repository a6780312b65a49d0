//! The operating systems on the drives, and the trees that they make of their filesystems.

mod calls;
mod mount;
mod name;
mod space;

pub(super) use name::mountable;
pub use space::{FilesystemState, SpaceUsage};

use super::{Guestfs, Held};
use crate::error::{Error, Result};
use crate::fs::Filesystem;
use crate::fs::btrfs::Subvolume;
use crate::fs::probe::Usage;
use crate::inspect::{self, Assembly, DeviceId, Placed, RootCandidate, System};
use crate::tree::{Mount, Tree};
use crate::volume::{PartitionType, VolumeKind};
use name::mountable_name;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most subvolumes of a Btrfs filesystem in which a root is looked for.
const MAX_SUBVOLUMES: usize = 64;

/// Folders whose files say what a system is. A look at the root filesystem alone misses those that are mounted.
const DESCRIBING: [&[u8]; 3] = [b"/etc", b"/usr", b"/var"];

/// A root that was found.
#[derive(Clone, Debug)]
pub struct Root {
    /// The device that it lies on.
    pub device: String,
    /// The path of the Btrfs subvolume that it is; none for a filesystem's default.
    pub subvolume: Option<Vec<u8>>,
    /// What its system is.
    pub system: System,
    /// What its system mounts where, as far as the devices are there.
    pub assembly: Assembly,
}

impl Root {
    /// Returns the name by which libguestfs knows the root: its device, or `btrfsvol:DEVICE/SUBVOLUME`.
    pub fn name(&self) -> String {
        mountable_name(&self.device, self.subvolume.as_deref())
    }

    /// Returns the name of the folder that shows it beside other systems: `sda2`, `vg-root`, `sda2:@`.
    pub(in crate::guestfs) fn folder(&self) -> Vec<u8> {
        let mut name = self.device.strip_prefix("/dev/").unwrap_or(&self.device).as_bytes().to_vec();
        if let Some(subvolume) = &self.subvolume {
            name.push(b':');
            name.extend_from_slice(subvolume);
        }
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'-');
        name
    }
}

/// Says whether a root in a subvolume is a snapshot of another: its fstab takes another one for the root, and that one is
/// a root too. `default` is the path of the default subvolume, which a root without a path lies in.
fn is_snapshot(candidate: &RootCandidate, all: &[(RootCandidate, System)], default: &[u8]) -> bool {
    let own = candidate.subvolume.as_deref().unwrap_or(default);
    let Some(entry) = candidate.mounts.iter().rev().find(|entry| entry.mountpoint == b"/") else { return false };
    if entry.subvolume_id().is_some() {
        return false;
    }
    // The top level has no path, and fstab calls it a slash.
    let root = entry.subvolume().map_or(default, |path| path.strip_prefix(b"/").unwrap_or(path));
    own != root && all.iter().any(|(other, _)| other.subvolume.as_deref().unwrap_or(default) == root)
}

fn alone(filesystem: Arc<dyn Filesystem>, source: &str) -> Result<Tree> {
    Tree::new(vec![Mount { filesystem, mountpoint: b"/".to_vec(), source: source.to_owned() }])
}

impl Guestfs {
    /// Finds the operating systems on all drives, with what each is and mounts. What cannot be read is passed over with a
    /// word in the log.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn inspect_roots(&self) -> Result<Vec<Root>> {
        let launched = self.launched()?;
        let devices: Vec<DeviceId> = launched.describe_devices();
        let mut roots = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for held in launched.volumes.iter().filter(|held| held.is_readable()) {
            let uuid = held.identity.as_ref().and_then(|identity| identity.uuid.clone());
            let is_btrfs = held.identity.as_ref().is_some_and(|identity| identity.kind == "btrfs");
            if is_btrfs && !seen.insert(uuid) {
                continue;
            }
            match self.roots_on(held, is_btrfs) {
                Ok(found) => {
                    for (candidate, system) in found {
                        let assembly = inspect::assemble(&candidate, &devices);
                        let RootCandidate { device, subvolume, .. } = candidate;
                        let mut root = Root { device, subvolume, system, assembly };
                        self.look_again(&mut root);
                        roots.push(root);
                    }
                }
                Err(error) => log::warn!("{error}"),
            }
        }
        Ok(roots)
    }

    fn roots_on(&self, held: &Held, is_btrfs: bool) -> Result<Vec<(RootCandidate, System)>> {
        let device = &held.volume.name;
        let mut found: Vec<_> = self.root_in(held, None)?.into_iter().collect();
        if !is_btrfs {
            return Ok(found);
        }
        match self.roots_in_subvolumes(held, &mut found) {
            Err(error) if found.is_empty() => return Err(error),
            Err(error) => log::warn!("{device}: its subvolumes are not looked at: {error}"),
            Ok(()) => {}
        }
        Ok(found)
    }

    /// Adds the roots in subvolumes that are not the default: `@`, `root`, `@rootfs`. A snapshot of a root is none.
    fn roots_in_subvolumes(&self, held: &Held, found: &mut Vec<(RootCandidate, System)>) -> Result<()> {
        let device = &held.volume.name;
        let launched = self.launched()?;
        let filesystem = launched.btrfs(held, &self.fs_options())?;
        let default = filesystem.default_subvolume()?;
        let subvolumes = filesystem.subvolumes()?;
        let default = subvolumes.iter().find(|subvolume| subvolume.id == default);
        let default = default.map_or_else(Vec::new, |subvolume| subvolume.path.clone());
        let top = launched.filesystem(held, Some(&Subvolume::Id(5)), &self.fs_options(), false)?;
        let tree = alone(top, device)?;
        let mut names = Vec::new();
        tree.read_dir(tree.root(), 0, &mut |_, entry| {
            names.push(entry.name.to_vec());
            if names.len() < MAX_SUBVOLUMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let is_known = !found.is_empty();
        for name in names.into_iter().filter(|name| !is_known || *name != default) {
            match self.root_in(held, Some(&name)) {
                Ok(root) => found.extend(root),
                Err(error) if matches!(error.root(), Error::NotFound(_)) => {}
                Err(error) => log::debug!("{device}: {}: {error}", name.escape_ascii()),
            }
        }
        let snapshots: Vec<bool> = found.iter().map(|(candidate, _)| is_snapshot(candidate, found, &default)).collect();
        let mut snapshots = snapshots.into_iter();
        found.retain(|_| !snapshots.next().unwrap_or(false));
        Ok(())
    }

    fn root_in(&self, held: &Held, subvolume: Option<&[u8]>) -> Result<Option<(RootCandidate, System)>> {
        let launched = self.launched()?;
        let wanted = subvolume.map(|path| Subvolume::Path(path.to_vec()));
        let filesystem = launched.filesystem(held, wanted.as_ref(), &self.fs_options(), false)?;
        let tree = alone(filesystem, &held.volume.name)?;
        let Some(system) = inspect::look(&tree)? else { return Ok(None) };
        let candidate = RootCandidate::new(&held.volume.name, subvolume, &tree, &system);
        Ok(Some((candidate, system)))
    }

    /// Describes a system anew by its whole tree, where what describes it lies on filesystems of their own: a separate `/usr`
    /// holds os-release and the programs.
    fn look_again(&self, root: &mut Root) {
        let describes = |placed: &Placed| DESCRIBING.contains(&placed.mountpoint.as_slice());
        if !root.assembly.mounts.iter().any(describes) {
            return;
        }
        match self.tree_of_root(root).and_then(|tree| inspect::look(&tree)) {
            // The tree begins at the deployment, so it is not found anew below.
            Ok(Some(system)) => root.system = System { deployment: root.system.deployment.take(), ..system },
            Ok(None) => {}
            Err(error) => log::warn!("{}: described by its root filesystem alone: {error}", root.name()),
        }
    }
}

impl super::Launched {
    fn describe_devices(&self) -> Vec<DeviceId> {
        self.volumes.iter().map(|held| describe(held, &self.disks)).collect()
    }
}

fn describe(held: &Held, disks: &[super::Disk]) -> DeviceId {
    let identity = held.identity.as_ref();
    let partition = held.volume.kind.partition();
    let is_filesystem = |usage: Usage| matches!(usage, Usage::Filesystem | Usage::Swap);
    DeviceId {
        name: held.volume.name.clone(),
        uuid: identity.and_then(|identity| identity.uuid.clone()),
        label: identity.and_then(|identity| identity.label.clone()),
        part_uuid: partition.and_then(|partition| partition.part_uuid.clone()),
        part_label: partition.and_then(|partition| partition.part_label.clone()),
        kind: identity.filter(|identity| is_filesystem(identity.usage)).map(|identity| identity.kind.to_owned()),
        part_type_guid: partition.and_then(|partition| match &partition.type_id {
            PartitionType::Gpt(guid) => Some(guid.clone()),
            PartitionType::Mbr(_) => None,
        }),
        part_attributes: partition.map_or(0, |partition| partition.attributes.0),
        start: partition.map(|partition| partition.start),
        backing: held.volume.parents.first().filter(|_| held.volume.kind.is_layer()).cloned(),
        aliases: held.volume.aliases.clone(),
        array: match &held.volume.kind {
            VolumeKind::Raid(raid) => Some(raid.uuid.clone()),
            _ => None,
        },
        disk: disks.get(held.disk).map(|disk| format!("/dev/{}", disk.name)),
    }
}
