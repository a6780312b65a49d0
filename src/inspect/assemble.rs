//! Which device goes where: a root, and what its fstab mounts, put onto the devices that there are.
//!
//! A guest names its devices as it sees them, and the disks may hang on another bus here. So a path of a partition is
//! first put onto the disk that the root was found on, when fstab's own line for `/` says which that is; then by the
//! disk's place among the disks.
//!
//! Without a usable fstab, partitions are mounted by their type as the Discoverable Partitions Specification (UAPI Group)
//! says.

use super::fstab::{MountEntry, MountSpec};
use super::types::{ArrayEntry, CryptEntry, Deployment, DriveMapping, DriveTarget, Kind, System};
use crate::tree::Tree;
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
        Self {
            device: device.to_owned(),
            subvolume: subvolume.map(<[u8]>::to_vec),
            deployment: system.deployment.clone(),
            kind: Some(system.kind),
            arch: system.arch.clone(),
            mounts: super::mounts(tree),
            crypttab: super::crypttab(tree),
            arrays: super::arrays(tree),
        }
    }
}

/// A device in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    let mut binds = Vec::new();
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
        if entry.is_bind() {
            binds.push(entry);
            continue;
        }
        if let Some(device) = names.find(&entry.spec) {
            usable = true;
            assembly.mounts.push(Placed {
                device: device.to_owned(),
                mountpoint: plain(&entry.mountpoint),
                subvolume: entry.subvolume().map(<[u8]>::to_vec),
                subvolume_id: entry.subvolume_id(),
                folder: None,
            });
        } else if kind.starts_with("fuse") || kind == "overlay" || kind == "unionfs" || kind == "aufs" {
            assembly.missing.push(format!("{} on {place}: made by a program of the guest ({kind})", entry.spec));
        } else {
            assembly.missing.push(format!("{} on {place}: no such device", entry.spec));
        }
    }
    if root.kind.is_none_or(|kind| kind == Kind::Linux) {
        discover(root, devices, usable, &mut assembly);
        usr_of_coreos(root, devices, &mut assembly);
    }
    if root.deployment.is_some() && !assembly.mounts.iter().any(|placed| placed.mountpoint == b"/boot") {
        boot_by_label(devices, &mut assembly);
    }
    last_wins(&mut assembly.mounts);
    for entry in binds {
        bind(entry, &mut assembly);
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
        subvolume_id: None,
        folder: folder.map(<[u8]>::to_vec),
    };
    if let Some(deployment) = &root.deployment {
        assembly.mounts.push(place(b"/", Some(&deployment.path)));
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

/// Shows a folder at a second place. What it shows was mounted before: binds cannot go round in a circle.
fn bind(entry: &MountEntry, assembly: &mut Assembly) {
    let MountSpec::Path(source) = &entry.spec else { return };
    if !source.starts_with(b"/") {
        return;
    }
    let source = plain(source);
    let target = plain(&entry.mountpoint);
    let under = |placed: &&Placed| {
        let point = placed.mountpoint.as_slice();
        point == b"/" || source.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let Some(below) = assembly.mounts.iter().filter(under).max_by_key(|placed| placed.mountpoint.len()) else { return };
    let rest = if below.mountpoint == b"/" { &source[..] } else { &source[below.mountpoint.len()..] };
    let mut folder = below.folder.clone().unwrap_or_default();
    folder.extend_from_slice(rest);
    if source == target || folder.len() > 4096 {
        return;
    }
    assembly.mounts.push(Placed {
        device: below.device.clone(),
        mountpoint: target,
        subvolume: below.subvolume.clone(),
        subvolume_id: below.subvolume_id,
        folder: Some(plain(&folder)).filter(|folder| folder != b"/"),
    });
}

/// Type GUIDs of the Discoverable Partitions Specification, and where such a partition goes.
const DISCOVERABLE: [(&str, &str); 6] = [
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "/home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "/srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "/var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "/var/tmp"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "/boot"),
    (EFI_SYSTEM, "/efi"),
];

const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// Type GUIDs of `/usr`, for each architecture.
const USR: [(&str, &str); 5] = [
    ("x86_64", "8484680c-9521-48c6-9c11-b0720656f69e"),
    ("i386", "75250d76-8cc6-458e-bd66-bd47cc81a812"),
    ("aarch64", "b0e01050-ee5f-4390-949a-9101b17104e9"),
    ("arm", "7d0359a3-02b3-4f0a-865c-654403e70625"),
    ("riscv64", "beaec34b-8442-439b-a40b-984381ed097d"),
];

/// Where partitions of such a type go beside what fstab names, as systemd's generator mounts them too. The others are mounted
/// only where fstab says nothing: it may have its own place for them.
const BESIDE_FSTAB: [&str; 3] = ["/home", "/srv", "/var/tmp"];

/// Mounts partitions by their types, on folders that fstab does not name.
fn discover(root: &RootCandidate, devices: &[DeviceId], has_fstab: bool, assembly: &mut Assembly) {
    let disk = drive_of(&root.device, devices);
    let has_xbootldr = devices.iter().any(|device| device.part_type_guid.as_deref() == Some(DISCOVERABLE[4].0));
    for device in devices {
        let Some(guid) = device.part_type_guid.as_deref().filter(|_| device.name != root.device) else { continue };
        let held = opened(device, devices);
        if held.kind.is_none() || held.name == root.device || device.drive() != disk {
            continue;
        }
        let known = DISCOVERABLE.iter().find(|(known, _)| *known == guid).map(|&(_, place)| place);
        let usr =
            USR.iter().find(|(arch, known)| *known == guid && root.arch.as_deref().is_none_or(|own| own == *arch));
        let Some(mut place) = known.or(usr.map(|_| "/usr")) else { continue };
        if guid == EFI_SYSTEM && !has_xbootldr && !has_fstab {
            place = "/boot";
        }
        if has_fstab && !BESIDE_FSTAB.contains(&place) {
            continue;
        }
        let is_taken =
            |placed: &Placed| placed.mountpoint == place.as_bytes() || has_fstab && placed.device == held.name;
        let is_named = |entry: &MountEntry| plain(&entry.mountpoint) == place.as_bytes();
        if assembly.mounts.iter().any(is_taken) || root.mounts.iter().any(is_named) {
            continue;
        }
        assembly.mounts.push(Placed {
            device: held.name.clone(),
            mountpoint: place.as_bytes().to_vec(),
            subvolume: None,
            subvolume_id: None,
            folder: None,
        });
    }
}

/// The type GUID of the partitions that Flatcar and Container Linux have their `/usr` in, one for each of two versions.
const COREOS_USR: &str = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6";

/// Mounts `/usr` of a Flatcar or Container Linux: of its two partitions the one that boots, which their attributes tell as on
/// ChromeOS (priority in bits 48 to 51, tries in 52 to 55, success in bit 56).
fn usr_of_coreos(root: &RootCandidate, devices: &[DeviceId], assembly: &mut Assembly) {
    let disk = drive_of(&root.device, devices);
    let is_usr = |device: &&DeviceId| {
        device.part_type_guid.as_deref() == Some(COREOS_USR) && device.kind.is_some() && device.drive() == disk
    };
    let boots = |device: &&DeviceId| {
        let bits = |from: u32, mask: u64| device.part_attributes >> from & mask;
        (bits(56, 1) == 1 || bits(52, 15) > 0, bits(48, 15))
    };
    // Of equal ones the first is taken.
    let Some(chosen) = devices.iter().filter(is_usr).rev().max_by_key(boots) else { return };
    if !assembly.mounts.iter().any(|placed| placed.mountpoint == b"/usr") {
        assembly.mounts.push(Placed {
            device: chosen.name.clone(),
            mountpoint: b"/usr".to_vec(),
            subvolume: None,
            subvolume_id: None,
            folder: None,
        });
    }
}

/// Mounts `/boot` of a CoreOS, which finds it by its label and has no fstab.
fn boot_by_label(devices: &[DeviceId], assembly: &mut Assembly) {
    for (label, place) in [("boot", "/boot"), ("EFI-SYSTEM", "/boot/efi")] {
        if let Some(device) = devices.iter().find(|device| device.label.as_deref() == Some(label.as_bytes())) {
            assembly.mounts.push(Placed {
                device: device.name.clone(),
                mountpoint: place.as_bytes().to_vec(),
                subvolume: None,
                subvolume_id: None,
                folder: None,
            });
        }
    }
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

/// A path of a partition, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Part {
    /// The disk's place among the disks, from 0.
    disk: usize,
    /// The partition; none for the whole disk.
    number: Option<u32>,
}

/// Takes a path such as `/dev/vdb3`, `/dev/nvme0n1p2` or `/dev/ada0p1` apart.
fn part_of(path: &str) -> Option<Part> {
    let name = path.strip_prefix("/dev/")?;
    for prefix in ["sd", "vd", "hd", "xvd"] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|letter: char| !letter.is_ascii_lowercase()).unwrap_or(rest.len());
        let (letters, number) = rest.split_at(end);
        if letters.is_empty() || letters.len() > 3 {
            return None;
        }
        let disk = letters.bytes().fold(0, |disk, letter| disk * 26 + usize::from(letter - b'a') + 1) - 1;
        return Some(Part { disk, number: number_of(number)? });
    }
    for controllers in ["cciss/c", "ida/c"] {
        // Of the first controller of a Smart Array, disk by disk.
        let Some(rest) = name.strip_prefix(controllers).and_then(|rest| rest.strip_prefix("0d")) else { continue };
        let (disk, number) = rest.split_once('p').map_or((rest, ""), |(disk, number)| (disk, number));
        return Some(Part { disk: disk.parse().ok()?, number: number_of(number)? });
    }
    for (prefix, separator) in [
        ("nvme", "p"),
        ("mmcblk", "p"),
        ("ada", "p"),
        ("da", "p"),
        ("ad", "p"),
        ("vtbd", "p"),
        ("nvd", "p"),
        ("nda", "p"),
        ("xbd", "p"),
        ("loop", "p"),
        ("ubd", "p"),
    ] {
        let Some(rest) = name.strip_prefix(prefix) else { continue };
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, mut rest) = rest.split_at(end);
        let Ok(mut disk) = digits.parse::<usize>() else { continue };
        if prefix == "nvme" {
            // Each namespace of a controller is a disk, counted from 1.
            let namespace = rest.strip_prefix('n')?;
            let end = namespace.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(namespace.len());
            disk = disk.checked_add(namespace[..end].parse::<usize>().ok()?.checked_sub(1)?)?;
            rest = &namespace[end..];
        }
        if rest.is_empty() {
            return Some(Part { disk, number: None });
        }
        let number = rest.strip_prefix(separator).or_else(|| rest.strip_prefix('s'))?;
        return Some(Part { disk, number: Some(number_of(number)??) });
    }
    None
}

/// Takes the name that multipath gives a disk apart: `/dev/mapper/mpatha` is the first, and `mpatha1`, `mpathap1` or
/// `mpatha-part1` its first partition.
fn multipath_of(path: &str) -> Option<Part> {
    let rest = path.strip_prefix("/dev/mapper/mpath")?;
    let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
    let rest = &rest[1..];
    let number = rest.strip_prefix("-part").or_else(|| rest.strip_prefix('p')).unwrap_or(rest);
    Some(Part { disk: usize::from(letter - b'a'), number: number_of(number)? })
}

/// Reads a partition's number; the inner none is for no number at all.
fn number_of(text: &str) -> Option<Option<u32>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// Returns the name of the disk that a partition lies on.
fn disk_of(name: &str) -> &str {
    let base = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    match base.strip_suffix('p') {
        Some(disk) if disk.ends_with(|letter: char| letter.is_ascii_digit()) => disk,
        // A disk such as /dev/nvme0n1 ends in a number of its own.
        _ if name.starts_with("/dev/nvme") || name.starts_with("/dev/mmcblk") => name,
        _ => base,
    }
}

/// Returns the volume group and the logical volume that a name below `/dev/mapper` is made of; hyphens are doubled there.
fn mapper_parts(name: &str) -> Option<(String, String)> {
    let bytes = name.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'-' {
            if bytes.get(at + 1) != Some(&b'-') {
                let plain = |part: &str| part.replace("--", "-");
                return Some((plain(&name[..at]), plain(&name[at + 1..])));
            }
            at += 1;
        }
        at += 1;
    }
    None
}

/// The names that a guest has for devices.
struct Names<'a> {
    root: &'a RootCandidate,
    devices: &'a [DeviceId],
    /// The guest's disk that the root lies on, and that disk's name here, where fstab tells.
    root_disk: Option<(usize, &'a str)>,
}

impl<'a> Names<'a> {
    fn new(root: &'a RootCandidate, devices: &'a [DeviceId]) -> Self {
        let own = root.mounts.iter().find(|entry| is_root(&entry.mountpoint));
        let root_disk = own.and_then(|entry| match &entry.spec {
            MountSpec::Path(path) => {
                let path = std::str::from_utf8(path).ok()?;
                let part = part_of(path).or_else(|| multipath_of(path))?;
                Some((part.disk, drive_of(&root.device, devices)))
            }
            _ => None,
        });
        Self { root, devices, root_disk }
    }

    fn find(&self, spec: &MountSpec) -> Option<&'a str> {
        let device = match spec {
            MountSpec::Uuid(uuid) => {
                self.first(|device| device.uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid)))
            }
            MountSpec::Label(label) => self.first(|device| device.label.as_deref() == Some(label)),
            MountSpec::PartUuid(uuid) => {
                self.first(|device| device.part_uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid)))
            }
            MountSpec::PartLabel(label) => self.first(|device| device.part_label.as_deref() == Some(label)),
            MountSpec::ById(id) => self.by_id(id),
            MountSpec::Path(path) => self.by_path(std::str::from_utf8(path).ok()?),
        }?;
        Some(&opened(device, self.devices).name)
    }

    /// Finds a device; of several that fit, such as the disks of one Btrfs, the root's own.
    fn first(&self, fits: impl Fn(&DeviceId) -> bool) -> Option<&'a DeviceId> {
        let own = self.devices.iter().find(|device| device.name == self.root.device && fits(device));
        own.or_else(|| self.devices.iter().find(|device| fits(device)))
    }

    fn by_name(&self, name: &str) -> Option<&'a DeviceId> {
        let alias = |device: &&DeviceId| device.aliases.iter().any(|alias| alias == name);
        self.devices.iter().find(|device| device.name == name).or_else(|| self.devices.iter().find(alias))
    }

    /// Guesses what the hardware's name means: the partition's number is at its end, the disk is the root's.
    fn by_id(&self, id: &str) -> Option<&'a DeviceId> {
        if let Some(device) = self.by_name(&format!("/dev/disk/by-id/{id}")) {
            return Some(device);
        }
        if let Some(uuid) = id.strip_prefix("dm-name-") {
            return self.by_path(&format!("/dev/mapper/{uuid}"));
        }
        let (_, number) = id.rsplit_once("-part")?;
        let number: u32 = number.parse().ok()?;
        self.partition(drive_of(&self.root.device, self.devices), Some(number))
    }

    fn partition(&self, disk: &str, number: Option<u32>) -> Option<&'a DeviceId> {
        let name = match number {
            None => disk.to_owned(),
            Some(number) if disk.ends_with(|letter: char| letter.is_ascii_digit()) => format!("{disk}p{number}"),
            Some(number) => format!("{disk}{number}"),
        };
        self.by_name(&name)
    }

    fn by_path(&self, path: &str) -> Option<&'a DeviceId> {
        if let Some(part) = part_of(path) {
            return self.by_part(path, &part);
        }
        if let Some(array) = self.by_array(path) {
            return Some(array);
        }
        if let Some(name) = path.strip_prefix("/dev/mapper/") {
            return self.by_mapper(path, name);
        }
        if let Some(number) = path.strip_prefix("/dev/dm-") {
            return self.by_dm(number);
        }
        for (folder, kind) in [("/dev/gpt/", 0), ("/dev/gptid/", 1), ("/dev/ufs/", 2), ("/dev/msdosfs/", 2)] {
            let Some(name) = path.strip_prefix(folder) else { continue };
            return match kind {
                0 => self.find_spec(&MountSpec::PartLabel(name.to_owned())),
                1 => self.find_spec(&MountSpec::PartUuid(name.to_owned())),
                _ => self.find_spec(&MountSpec::Label(name.as_bytes().to_vec())),
            };
        }
        if let Some((_, number)) = path.strip_prefix("/dev/disk/by-path/").and_then(|rest| rest.rsplit_once("-part")) {
            return self.by_id(&format!("-part{number}"));
        }
        // /dev/VG/LV may be known by its other name.
        self.by_name(path).or_else(|| {
            let (group, volume) = path.strip_prefix("/dev/")?.split_once('/')?;
            let name = format!("/dev/mapper/{}-{}", group.replace('-', "--"), volume.replace('-', "--"));
            self.by_name(&name)
        })
    }

    fn find_spec(&self, spec: &MountSpec) -> Option<&'a DeviceId> {
        self.by_name(self.find(spec)?)
    }

    fn by_part(&self, path: &str, part: &Part) -> Option<&'a DeviceId> {
        if let Some((disk, here)) = self.root_disk
            && disk == part.disk
        {
            return self.partition(here, part.number);
        }
        if let Some(device) = self.by_name(path) {
            return Some(device);
        }
        let disk = format!("/dev/{}", crate::volume::disk_name(part.disk));
        self.partition(&disk, part.number)
    }

    /// Finds an array by the name that mdadm.conf gives it.
    fn by_array(&self, path: &str) -> Option<&'a DeviceId> {
        let digits = |uuid: &str| uuid.replace([':', '-', '.'], "").to_ascii_lowercase();
        let wanted = digits(self.root.arrays.iter().find(|entry| entry.device == path)?.uuid.as_deref()?);
        self.devices.iter().find(|device| device.array.as_deref().is_some_and(|own| digits(own) == wanted))
    }

    /// Finds what a number of the device mapper stands for. The numbers go by the order in which a boot made the devices, so
    /// it is told only where there is one.
    fn by_dm(&self, number: &str) -> Option<&'a DeviceId> {
        number.parse::<u32>().ok()?;
        let is_mapped = |device: &&DeviceId| {
            [&device.name].into_iter().chain(&device.aliases).any(|name| name.starts_with("/dev/mapper/"))
        };
        let mut mapped = self.devices.iter().filter(is_mapped);
        mapped.next().filter(|_| mapped.next().is_none())
    }

    fn by_mapper(&self, path: &str, name: &str) -> Option<&'a DeviceId> {
        if let Some(device) = self.by_name(path) {
            return Some(device);
        }
        if let Some(part) = multipath_of(path) {
            return self.by_part(path, &part);
        }
        if let Some((group, volume)) = mapper_parts(name)
            && let Some(device) = self.by_name(&format!("/dev/{group}/{volume}"))
        {
            return Some(device);
        }
        if let Some(entry) = self.root.crypttab.iter().find(|entry| entry.name == name) {
            // A crypttab that leads back to itself is not followed: it could go round in a circle.
            if let Some(name) = entry.device.strip_prefix("/dev/mapper/") {
                let (group, volume) = mapper_parts(name)?;
                let below = self.by_name(&entry.device).or_else(|| self.by_name(&format!("/dev/{group}/{volume}")))?;
                return Some(opened(below, self.devices));
            }
            return self.find_spec(&MountSpec::parse(entry.device.as_bytes()));
        }
        self.find_spec(&MountSpec::Uuid(name.strip_prefix("luks-")?.to_owned()))
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fstab;

    fn device(name: &str) -> DeviceId {
        DeviceId { name: name.into(), kind: Some("ext4".into()), ..DeviceId::default() }
    }

    fn root(device: &str, lines: &str) -> RootCandidate {
        RootCandidate { device: device.into(), mounts: fstab::parse(lines.as_bytes()), ..RootCandidate::default() }
    }

    fn shown(assembly: &Assembly) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mounts = assembly.mounts.iter().map(|placed| {
            let subvolume = placed.subvolume.as_deref().map(|name| format!(" subvol={}", text(name)));
            let folder = placed.folder.as_deref().map(|name| format!(" folder={}", text(name)));
            let (subvolume, folder) = (subvolume.unwrap_or_default(), folder.unwrap_or_default());
            format!("{} {}{subvolume}{folder}", placed.device, text(&placed.mountpoint))
        });
        mounts.collect()
    }

    #[test]
    fn disks_of_another_bus_are_found_by_the_roots_own_line() {
        let devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sdb1"].map(device);
        let lines =
            "/dev/vda2 / ext4\n/dev/vda1 /boot ext4\n/dev/vdb1 /data xfs\n/dev/vdc1 /none xfs\n/dev/vda3 swap swap\n";
        let assembly = assemble(&root("/dev/sda2", lines), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot", "/dev/sdb1 /data"]);
        assert_eq!(assembly.missing, ["/dev/vdc1 on /none: no such device"]);
        assert_eq!(assembly.swaps, ["/dev/sda3"]);
        // The guest calls the disk of its root sdb, here it is the first one.
        let assembly = assemble(&root("/dev/sda2", "/dev/sdb2 / ext4\n/dev/sdb1 /boot ext4\n"), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot"]);
        let assembly = assemble(&root("/dev/sda2", "/dev/nvme0n1p2 / ext4\n/dev/nvme0n1p1 /boot/efi vfat\n"), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda1 /boot/efi"]);
        let assembly = assemble(&root("/dev/sda2", "UUID=x / ext4\n/dev/mmcblk1p1 /data ext4\n"), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sdb1 /data"]);
    }

    #[test]
    fn tags_volumes_and_encrypted_devices_are_found() {
        let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/vg-0/my-lv", "/dev/mapper/opened"].map(device);
        devices[0].uuid = Some("ABCD-1234".into());
        devices[1].label = Some(b"data disk".to_vec());
        devices[1].part_label = Some("stuff".into());
        devices[2].uuid = Some("11111111-2222".into());
        devices[2].kind = Some("crypto_LUKS".into());
        devices[4].backing = Some("/dev/sda3".into());
        let lines = "/dev/mapper/vg--0-my--lv / ext4\nUUID=abcd-1234 /boot/efi vfat\nLABEL=data\\040disk /d ext4\n\
            PARTLABEL=stuff /e ext4\n/dev/mapper/secret /home ext4\n/dev/mapper/luks-11111111-2222 /h2 ext4\n";
        let mut root = root("/dev/vg-0/my-lv", lines);
        root.crypttab.push(CryptEntry {
            name: "secret".into(),
            device: "UUID=11111111-2222".into(),
            key: None,
            options: Vec::new(),
        });
        let assembly = assemble(&root, &devices);
        assert_eq!(assembly.missing, [""; 0]);
        assert_eq!(
            shown(&assembly),
            [
                "/dev/vg-0/my-lv /",
                "/dev/sda2 /d",
                "/dev/sda2 /e",
                "/dev/mapper/opened /home",
                "/dev/mapper/opened /h2",
                "/dev/sda1 /boot/efi",
            ]
        );
    }

    #[test]
    fn subvolumes_and_binds_are_placed_and_circles_do_no_harm() {
        let mut devices = ["/dev/sda2", "/dev/sdb1"].map(device);
        devices[0].uuid = Some("b".into());
        devices[1].uuid = Some("b".into());
        let lines = "UUID=b / btrfs subvol=@\nUUID=b /home btrfs subvol=@home\n/home/ann /srv/ann none bind\n\
            /a /b none bind\n/b /a none bind\n/srv/ann/x /y none rbind\n/ / none bind\ntmpfs /tmp tmpfs\n\
            nas:/x /nas nfs defaults\nUUID=b /old btrfs noauto\n";
        let mut root = root("/dev/sda2", lines);
        root.subvolume = Some(b"@".to_vec());
        let assembly = assemble(&root, &devices);
        assert_eq!(
            shown(&assembly),
            [
                "/dev/sda2 / subvol=@",
                "/dev/sda2 /home subvol=@home",
                "/dev/sda2 /b subvol=@ folder=/a",
                "/dev/sda2 /a subvol=@ folder=/a",
                "/dev/sda2 /y subvol=@home folder=/ann/x",
                "/dev/sda2 /srv/ann subvol=@home folder=/ann",
            ]
        );
        assert_eq!(assembly.missing.len(), 2);
    }

    #[test]
    fn partitions_are_discovered_by_their_types_when_there_is_no_fstab() {
        let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sdb1", "/dev/sda4"].map(device);
        devices[0].part_type_guid = Some(EFI_SYSTEM.into());
        devices[1].part_type_guid = Some("4f68bce3-e8cd-4db1-96e7-fbcaf984b709".into());
        devices[2].part_type_guid = Some("933ac7e1-2eb4-4f13-b844-0e14e2aef915".into());
        devices[3].part_type_guid = Some("3b8f8425-20e0-4f3b-907f-1a25a76f98e8".into());
        devices[4].part_type_guid = Some(USR[0].1.into());
        let mut root = root("/dev/sda2", "");
        root.arch = Some("x86_64".into());
        assert_eq!(
            shown(&assemble(&root, &devices)),
            ["/dev/sda2 /", "/dev/sda1 /boot", "/dev/sda3 /home", "/dev/sda4 /usr"]
        );
    }

    #[test]
    fn partitions_that_fstab_does_not_name_are_discovered_beside_it() {
        let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sda4"].map(device);
        let (home, srv) = (DISCOVERABLE[0].0, DISCOVERABLE[1].0);
        for (device, guid) in devices.iter_mut().zip([EFI_SYSTEM, "", home, srv]) {
            device.part_type_guid = Some(guid.to_owned());
        }
        let assembly = assemble(&root("/dev/sda2", "/dev/vda2 / ext4\n"), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda3 /home", "/dev/sda4 /srv"]);
        // What fstab has elsewhere stays there, and a folder that it names is its own.
        let lines = "/dev/vda2 / ext4\n/dev/vda1 /boot/efi vfat\n/dev/vda3 /data ext4\n/dev/vdz1 /srv ext4\n";
        let assembly = assemble(&root("/dev/sda2", lines), &devices);
        assert_eq!(shown(&assembly), ["/dev/sda2 /", "/dev/sda3 /data", "/dev/sda1 /boot/efi"]);
    }

    #[test]
    fn partitions_within_an_array_are_discovered() {
        let mut devices = ["/dev/sda1", "/dev/md127p1", "/dev/md127p2"].map(device);
        devices.iter_mut().for_each(|device| device.disk = Some("/dev/sda".into()));
        devices[1].part_type_guid = Some(DISCOVERABLE[0].0.into());
        let assembly = assemble(&root("/dev/md127p2", ""), &devices);
        assert_eq!(shown(&assembly), ["/dev/md127p2 /", "/dev/md127p1 /home"]);
    }

    #[test]
    fn the_usr_that_boots_is_mounted_of_the_two_that_a_flatcar_has() {
        let mut devices = ["/dev/sda3", "/dev/sda4", "/dev/sda9"].map(device);
        let usr = |device: &mut DeviceId, attributes| {
            device.part_type_guid = Some(COREOS_USR.into());
            device.part_attributes = attributes;
        };
        let (priority, success) = (1_u64 << 48, 1_u64 << 56);
        usr(&mut devices[0], priority | success);
        usr(&mut devices[1], 0);
        let root = root("/dev/sda9", "");
        assert_eq!(shown(&assemble(&root, &devices)), ["/dev/sda9 /", "/dev/sda3 /usr"]);
        // An update has been written and is tried next; one that never worked is not taken.
        usr(&mut devices[1], (2 * priority) | (1 << 52));
        assert_eq!(shown(&assemble(&root, &devices))[1], "/dev/sda4 /usr");
        usr(&mut devices[1], 2 * priority);
        assert_eq!(shown(&assemble(&root, &devices))[1], "/dev/sda3 /usr");
    }

    #[test]
    fn hardware_names_of_every_kind_are_found() {
        let mut devices = ["/dev/sda1", "/dev/sda2", "/dev/sdb1", "/dev/md127", "/dev/mapper/opened"].map(device);
        devices[0].part_uuid = Some("0badcafe-01".into());
        devices[3].array = Some("01234567:89abcdef:01234567:89abcdef".into());
        devices[3].aliases = vec!["/dev/md/home".into()];
        let lines = "PARTUUID=0BADCAFE-01 /a ext4\n/dev/disk/by-partuuid/0badcafe-01 /b ext4\n\
            /dev/disk/by-id/ata-DISK_1-part2 /c ext4\n/dev/disk/by-path/pci-0000:00:1f.2-ata-1-part1 /d ext4\n\
            /dev/md/home /e ext4\n/dev/md7 /f ext4\n/dev/cciss/c0d1p1 /g ext4\n/dev/nvme0n2p1 /h ext4\n\
            /dev/mapper/mpatha2 /i ext4\n/dev/mapper/mpathb-part1 /j ext4\n/dev/dm-3 /k ext4\n";
        let mut root = root("/dev/sda2", lines);
        root.arrays.push(ArrayEntry {
            device: "/dev/md7".into(),
            uuid: Some("01234567-89ab-cdef-0123-456789abcdef".into()),
            name: None,
        });
        let assembly = assemble(&root, &devices);
        assert_eq!(assembly.missing, [""; 0]);
        let expected = "/dev/sda2 /|/dev/sda1 /a|/dev/sda1 /b|/dev/sda2 /c|/dev/sda1 /d|/dev/md127 /e|/dev/md127 /f|\
            /dev/sdb1 /g|/dev/sdb1 /h|/dev/sda2 /i|/dev/sdb1 /j|/dev/mapper/opened /k";
        assert_eq!(shown(&assembly).join("|"), expected);
        // A multipath root tells which of its disks is ours.
        let multipath = self::root("/dev/sdb1", "/dev/mapper/mpatha1 / ext4\n/dev/mapper/mpatha2 /x ext4\n");
        assert_eq!(assemble(&multipath, &devices).missing, ["/dev/mapper/mpatha2 on /x: no such device"]);
        // With two of them nothing says which is which.
        let two = [devices[0].clone(), device("/dev/mapper/one"), device("/dev/mapper/two")];
        let assembly = assemble(&self::root("/dev/sda1", "/dev/dm-0 /x ext4\n"), &two);
        assert_eq!(assembly.missing, ["/dev/dm-0 on /x: no such device"]);
        for odd in ["/dev/nvme0n0p1", "/dev/nvme0p1", "/dev/cciss/c1d0p1", "/dev/cciss/c0d", "/dev/mapper/mpath"] {
            assert_eq!(part_of(odd).or_else(|| multipath_of(odd)), None, "{odd}");
        }
    }

    #[test]
    fn a_deployment_is_put_together_of_its_folders() {
        let mut devices = ["/dev/sda3", "/dev/sda4"].map(device);
        devices[0].label = Some(b"boot".to_vec());
        let mut root = root("/dev/sda4", "");
        root.deployment =
            Some(Deployment { path: b"/ostree/deploy/os/deploy/c.0".to_vec(), var: b"/ostree/deploy/os/var".to_vec() });
        assert_eq!(
            shown(&assemble(&root, &devices)),
            [
                "/dev/sda4 / folder=/ostree/deploy/os/deploy/c.0",
                "/dev/sda4 /sysroot",
                "/dev/sda4 /var folder=/ostree/deploy/os/var",
                "/dev/sda3 /boot",
            ]
        );
    }

    #[test]
    fn paths_of_partitions_are_taken_apart() {
        let part = |path| part_of(path).map(|part| (part.disk, part.number));
        assert_eq!(part("/dev/sda1"), Some((0, Some(1))));
        assert_eq!(part("/dev/xvdaa12"), Some((26, Some(12))));
        assert_eq!(part("/dev/vdb"), Some((1, None)));
        assert_eq!(part("/dev/nvme2n1p3"), Some((2, Some(3))));
        assert_eq!(part("/dev/ada0p2"), Some((0, Some(2))));
        assert_eq!(part("/dev/da1s1"), Some((1, Some(1))));
        assert_eq!(part("/dev/sda99999999999"), None);
        assert_eq!(part("/dev/data/lv"), None);
        assert_eq!(disk_of("/dev/nvme0n1p2"), "/dev/nvme0n1");
        assert_eq!(disk_of("/dev/sda12"), "/dev/sda");
        assert_eq!(mapper_parts("a--b-c--d"), Some(("a-b".into(), "c-d".into())));
        assert_eq!(mapper_parts("luks--x"), None);
    }

    #[test]
    fn drive_letters_lead_to_partitions() {
        let mut devices = ["/dev/sda1", "/dev/sda2"].map(device);
        devices[0].part_uuid = Some("1234abcd-01".into());
        devices[0].start = Some(1 << 20);
        devices[1].part_uuid = Some("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into());
        let mapping = |letter, target| DriveMapping { letter, target };
        let mappings = [
            mapping('C', DriveTarget::Mbr { signature: 0x1234_abcd, start: 1 << 20 }),
            mapping('D', DriveTarget::Gpt("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee".into())),
            mapping('E', DriveTarget::Other("\\??\\CDROM".into())),
            mapping('F', DriveTarget::Mbr { signature: 1, start: 1 << 20 }),
        ];
        assert_eq!(drives(&mappings, &devices), [('C', "/dev/sda1".to_owned()), ('D', "/dev/sda2".to_owned())]);
    }
}
