//! Which device goes where: a root, and what its fstab mounts, put onto the devices that there are.
//!
//! A guest names its devices as it sees them, and the disks may hang on another bus here. So a path of a partition is
//! first put onto the disk that the root was found on, when fstab's own line for `/` says which that is; then by the
//! disk's place among the disks.

mod bind;
mod discover;
mod names;
mod part;
#[cfg(test)]
mod tests;

use super::fstab::{self, MountEntry};
use super::types::{ArrayEntry, CryptEntry, Deployment, DriveMapping, DriveTarget, Kind, System};
use super::{settings, within};
use crate::tree::Tree;
use bind::{bind, overlay};
use discover::{boot_by_label, discover, usr_of_coreos};
use names::Names;
use part::disk_of;
use std::collections::HashSet;

/// A device that a filesystem may be mounted from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceId {
    /// Its name here: `/dev/sda1`, `/dev/vg/lv`.
    pub name: String,
    /// The filesystem's UUID or serial number.
    pub uuid: Option<String>,
    /// The filesystem's label.
    pub label: Option<Vec<u8>>,
    /// The partition's identifier, as `blkid` shows it (`PARTUUID`).
    pub part_uuid: Option<String>,
    /// The partition's name.
    pub part_label: Option<String>,
    /// The filesystem's type, as `blkid` names it; none where there is none.
    pub kind: Option<String>,
    /// The partition's type GUID, in lower case.
    pub part_type_guid: Option<String>,
    /// The attributes of the partition's GPT entry; 0 where there are none.
    pub part_attributes: u64,
    /// Where the partition begins on its disk, in bytes.
    pub start: Option<u64>,
    /// The name of the device that this one was opened from: the partition below a LUKS device, a member of an array.
    pub backing: Option<String>,
    /// Other names that the guest may have for it: `/dev/mapper/vg-lv`, `/dev/md/home`.
    pub aliases: Vec<String>,
    /// The UUID of the array, where it is one.
    pub array: Option<String>,
    /// The disk that it lies on, however many volumes are between: `/dev/sda`.
    pub disk: Option<String>,
}

impl DeviceId {
    /// Returns the disk that it lies on, as far as that is known.
    fn drive(&self) -> &str {
        self.disk.as_deref().unwrap_or_else(|| disk_of(&self.name))
    }
}

/// A root that was found, and what its system says about mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootCandidate {
    /// The device that the root lies on.
    pub device: String,
    /// The Btrfs subvolume that it lies in; none for the filesystem's default.
    pub subvolume: Option<Vec<u8>>,
    /// The ostree deployment, where it is one.
    pub deployment: Option<Deployment>,
    /// The family; partitions are discovered by their types for Linux alone. None is taken for Linux.
    pub kind: Option<Kind>,
    /// The architecture, which tells `/usr` partitions apart.
    pub arch: Option<String>,
    /// What its system mounts.
    pub mounts: Vec<MountEntry>,
    /// What its system decrypts.
    pub crypttab: Vec<CryptEntry>,
    /// The arrays that its system puts together.
    pub arrays: Vec<ArrayEntry>,
}

impl RootCandidate {
    /// Describes the root that `system` was found on, which is the root of `tree`.
    pub fn new(device: &str, subvolume: Option<&[u8]>, tree: &Tree, system: &System) -> Self {
        let (mounts, crypttab, arrays) = within(tree, system.deployment.as_ref(), |guest| {
            (fstab::read(guest), settings::crypttab(guest), settings::arrays(guest))
        })
        .0;
        Self {
            device: device.to_owned(),
            subvolume: subvolume.map(<[u8]>::to_vec),
            deployment: system.deployment.clone(),
            kind: Some(system.kind),
            arch: system.arch.clone(),
            mounts,
            crypttab,
            arrays,
        }
    }
}

/// A device in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// The device's name here.
    pub device: String,
    /// The folder that it is mounted on.
    pub mountpoint: Vec<u8>,
    /// The Btrfs subvolume that is mounted; none for the filesystem's default.
    pub subvolume: Option<Vec<u8>>,
    /// The number of the Btrfs subvolume, where fstab names it so and not by its path.
    pub subvolume_id: Option<u64>,
    /// The folder of the filesystem that is shown, for bind mounts and deployments; none for its root.
    pub folder: Option<Vec<u8>>,
    /// The image of composefs on the device whose tree is shown, where it is one.
    pub image: Option<Vec<u8>>,
    /// The folders that lie below this one where it is an overlay, the upper first, each in the place where the guest has it.
    pub lower: Vec<Placed>,
}

impl Placed {
    /// Places all of a device.
    fn whole(device: &str, mountpoint: &str) -> Self {
        let mountpoint = mountpoint.as_bytes().to_vec();
        Self { device: device.to_owned(), mountpoint, ..Self::default() }
    }
}

/// What a system's tree is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// The mounts, the root first, a folder before those within it.
    pub mounts: Vec<Placed>,
    /// The devices that are swap space.
    pub swaps: Vec<String>,
    /// What is told of and not mounted, a line each.
    pub missing: Vec<String>,
}

impl Assembly {
    fn has(&self, mountpoint: &[u8]) -> bool {
        self.mounts.iter().any(|placed| placed.mountpoint == mountpoint)
    }
}

/// Types of what no device of the guest holds: made by its kernel.
const VIRTUAL: [&str; 33] = [
    "proc",
    "sysfs",
    "tmpfs",
    "ramfs",
    "devtmpfs",
    "devpts",
    "devfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "fusectl",
    "efivarfs",
    "pstore",
    "bpf",
    "binfmt_misc",
    "rpc_pipefs",
    "nfsd",
    "autofs",
    "usbfs",
    "usbdevfs",
    "selinuxfs",
    "fdescfs",
    "procfs",
    "linprocfs",
    "kernfs",
    "ptyfs",
    "mfs",
    "none",
];

/// Types of what lies on other machines, or on the host.
const REMOTE: [&str; 14] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "virtiofs",
    "ceph",
    "glusterfs",
    "davfs",
    "afs",
    "lustre",
    "sshfs",
    "fuse.sshfs",
];

/// Puts the devices of a guest where its system mounts them. What names no device here is said and left out.
///
/// Whether a mount point is a folder is not known here: where it is none, the guest would make it or fail, and whoever puts
/// the tree together leaves that mount out.
pub fn assemble(root: &RootCandidate, devices: &[DeviceId]) -> Assembly {
    let names = Names::new(root, devices);
    let mut assembly = Assembly::default();
    let mut usable = false;
    let mut again = Vec::new();
    place_root(root, &mut assembly);
    for entry in &root.mounts {
        let kind = entry.kind.as_str();
        if kind == "swap"
            && let Some(device) = names.find(&entry.spec)
            && !assembly.swaps.iter().any(|known| known == device)
        {
            assembly.swaps.push(device.to_owned());
        }
        if entry.is_swap() && !entry.is_bind() || !entry.mountpoint.starts_with(b"/") || is_root(&entry.mountpoint) {
            usable |= is_root(&entry.mountpoint);
            continue;
        }
        if VIRTUAL.contains(&kind) && !entry.is_bind() {
            continue;
        }
        let place = entry.mountpoint.escape_ascii();
        if entry.has_option("noauto") && !entry.has_option("x-systemd.automount") {
            assembly.missing.push(format!("{} on {place}: not mounted at boot (noauto)", entry.spec));
            continue;
        }
        if REMOTE.contains(&kind) {
            assembly.missing.push(format!("{} on {place}: not on this machine ({kind})", entry.spec));
            continue;
        }
        if entry.is_bind() || kind == "overlay" {
            again.push(entry);
            continue;
        }
        if let Some(device) = names.find(&entry.spec) {
            usable = true;
            assembly.mounts.push(Placed {
                device: device.to_owned(),
                mountpoint: plain(&entry.mountpoint),
                subvolume: entry.subvolume().map(<[u8]>::to_vec),
                subvolume_id: entry.subvolume_id(),
                ..Placed::default()
            });
        } else if kind.starts_with("fuse") || kind == "unionfs" || kind == "aufs" {
            assembly.missing.push(format!("{} on {place}: made by a program of the guest ({kind})", entry.spec));
        } else {
            assembly.missing.push(format!("{} on {place}: no such device", entry.spec));
        }
    }
    if root.kind.is_none_or(|kind| kind == Kind::Linux) {
        discover(root, devices, usable, &mut assembly);
        usr_of_coreos(root, devices, &mut assembly);
    }
    if root.deployment.is_some() && !assembly.has(b"/boot") {
        boot_by_label(devices, &mut assembly);
    }
    last_wins(&mut assembly.mounts);
    for entry in again {
        if entry.is_bind() { bind(entry, &mut assembly) } else { overlay(entry, &mut assembly) }
    }
    last_wins(&mut assembly.mounts);
    assembly
}

fn is_root(mountpoint: &[u8]) -> bool {
    mountpoint.iter().all(|&byte| byte == b'/')
}

/// Returns a mount point without doubled slashes, dots, and slashes at its end.
fn plain(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for name in &names {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    if out.is_empty() { b"/".to_vec() } else { out }
}

fn place_root(root: &RootCandidate, assembly: &mut Assembly) {
    let place = |mountpoint: &[u8], folder: Option<&[u8]>| Placed {
        device: root.device.clone(),
        mountpoint: mountpoint.to_vec(),
        subvolume: root.subvolume.clone(),
        folder: folder.map(<[u8]>::to_vec),
        ..Placed::default()
    };
    if let Some(deployment) = &root.deployment {
        if let Some(image) = &deployment.image {
            assembly.mounts.push(Placed { image: Some(image.clone()), ..place(b"/", None) });
            assembly.mounts.push(place(b"/etc", Some(&[&deployment.path[..], b"/etc"].concat())));
        } else {
            assembly.mounts.push(place(b"/", Some(&deployment.path)));
        }
        assembly.mounts.push(place(b"/sysroot", None));
        assembly.mounts.push(place(b"/var", Some(&deployment.var)));
    } else {
        assembly.mounts.push(place(b"/", None));
    }
}

/// Keeps, of several mounts on one folder, the last, which hides the others; sorts folders before those within.
fn last_wins(mounts: &mut Vec<Placed>) {
    let mut seen = HashSet::new();
    let mut kept: Vec<Placed> =
        mounts.drain(..).rev().filter(|placed| seen.insert(placed.mountpoint.clone())).collect();
    kept.reverse();
    kept.sort_by_key(
        |placed| if placed.mountpoint == b"/" { 0 } else { placed.mountpoint.split(|&byte| byte == b'/').count() },
    );
    *mounts = kept;
}

/// Returns the device that holds the filesystem: what was opened from an encrypted one.
fn opened<'d>(device: &'d DeviceId, devices: &'d [DeviceId]) -> &'d DeviceId {
    let above = |device: &DeviceId| devices.iter().find(|other| other.backing.as_deref() == Some(&device.name));
    // Two layers, and no more, so that devices that name each other are no loop.
    let first = above(device).unwrap_or(device);
    above(first).unwrap_or(first)
}

/// Returns the disk that a device lies on.
fn drive_of<'d>(name: &'d str, devices: &'d [DeviceId]) -> &'d str {
    devices.iter().find(|device| device.name == name).map_or_else(|| disk_of(name), DeviceId::drive)
}

/// Returns which device each drive letter of a Windows leads to. Letters of devices that are not here are left out.
pub fn drives(mappings: &[DriveMapping], devices: &[DeviceId]) -> Vec<(char, String)> {
    let mut found = Vec::new();
    for mapping in mappings {
        let device = match &mapping.target {
            DriveTarget::Gpt(guid) => devices
                .iter()
                .find(|device| device.part_uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(guid))),
            DriveTarget::Mbr { signature, start } => devices.iter().find(|device| {
                let own = device.part_uuid.as_deref().and_then(|id| id.split_once('-')).map(|(signature, _)| signature);
                device.start == Some(*start) && own.is_some_and(|own| u32::from_str_radix(own, 16) == Ok(*signature))
            }),
            DriveTarget::Other(_) => None,
        };
        found.extend(device.map(|device| (mapping.letter, opened(device, devices).name.clone())));
    }
    found
}
