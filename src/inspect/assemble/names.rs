//! What the names that a guest has for its devices mean here.

use super::part::{Part, multipath_of, part_of};
use super::{DeviceId, RootCandidate, drive_of, is_root, opened};
use crate::inspect::fstab::MountSpec;
use crate::volume::{disk_name, partition_name};

/// The most lines of crypttab that lie over each other.
const MAX_LAYERS: usize = 8;

/// The names that a guest has for devices.
pub(super) struct Names<'a> {
    root: &'a RootCandidate,
    devices: &'a [DeviceId],
    /// The guest's disk that the root lies on, and that disk's name here, where fstab tells.
    root_disk: Option<(usize, &'a str)>,
}

impl<'a> Names<'a> {
    pub(super) fn new(root: &'a RootCandidate, devices: &'a [DeviceId]) -> Self {
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

    pub(super) fn find(&self, spec: &MountSpec) -> Option<&'a str> {
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
        if let Some(name) = id.strip_prefix("dm-name-") {
            return self.by_mapper(&format!("/dev/mapper/{name}"));
        }
        let (_, number) = id.rsplit_once("-part")?;
        let number: u32 = number.parse().ok()?;
        self.partition(drive_of(&self.root.device, self.devices), Some(number))
    }

    fn partition(&self, disk: &str, number: Option<u32>) -> Option<&'a DeviceId> {
        let Some(number) = number else { return self.by_name(disk) };
        self.by_name(&partition_name(disk, number))
    }

    fn by_path(&self, path: &str) -> Option<&'a DeviceId> {
        if let Some(part) = part_of(path) {
            return self.by_part(path, &part);
        }
        // As systemd and the kernel call what they took for the root.
        if path == "/dev/gpt-auto-root" || path == "/dev/root" {
            return self.by_name(&self.root.device);
        }
        if let Some(array) = self.by_array(path) {
            return Some(array);
        }
        if path.starts_with("/dev/mapper/") {
            return self.by_mapper(path);
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
        self.by_name(path)
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
        let disk = format!("/dev/{}", disk_name(part.disk));
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

    /// Finds a name of the device mapper: one that is known, or what crypttab opens by that name.
    fn by_mapper(&self, path: &str) -> Option<&'a DeviceId> {
        let mut path = path.to_owned();
        // crypttab may lead from one of its names to another, and a hostile one round in a circle.
        for _ in 0..MAX_LAYERS {
            if let Some(device) = self.by_name(&path) {
                return Some(device);
            }
            if let Some(part) = multipath_of(&path) {
                return self.by_part(&path, &part);
            }
            let name = path.strip_prefix("/dev/mapper/")?;
            let Some(entry) = self.root.crypttab.iter().find(|entry| entry.name == name) else {
                return self.find_spec(&MountSpec::Uuid(name.strip_prefix("luks-")?.to_owned()));
            };
            path = match MountSpec::parse(entry.device.as_bytes()) {
                MountSpec::Path(_) if entry.device.starts_with("/dev/mapper/") => entry.device.clone(),
                MountSpec::ById(id) if id.starts_with("dm-name-") => id.replacen("dm-name-", "/dev/mapper/", 1),
                spec => return self.find_spec(&spec),
            };
        }
        None
    }
}
