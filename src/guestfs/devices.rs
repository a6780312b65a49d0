//! Devices, partitions and the filesystems on them.

use super::{Guestfs, Held, Launched};
use crate::block::SharedDevice;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::btrfs::{Btrfs, Subvolume};
use crate::fs::probe::{Identity, Usage};
use crate::fs::{self, Filesystem};
use crate::volume::Partition;
use serde::Serialize;
use std::sync::Arc;

/// A drive.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceInfo {
    /// Its name: `/dev/sda`.
    pub name: String,
    /// The image, as it was added.
    pub image: String,
    /// The image's format, by qemu's name.
    pub format: String,
    /// The size that the guest sees, in bytes.
    pub size: u64,
}

/// A volume and what lies on it.
#[derive(Clone, Debug, Serialize)]
pub struct FilesystemInfo {
    /// Its name: `/dev/sda1`.
    pub device: String,
    /// Its size, in bytes.
    pub size: u64,
    /// The type, by the name that `blkid` has for it; `unknown` where nothing is recognised.
    #[serde(rename = "type")]
    pub kind: String,
    /// The label of the filesystem, bytes that are no UTF-8 replaced.
    pub label: Option<String>,
    /// The UUID or serial number of the filesystem.
    pub uuid: Option<String>,
    /// The type of the partition: a byte of an MBR, a GUID of a GPT.
    pub partition_type: Option<String>,
    /// The identifier of the partition.
    pub part_uuid: Option<String>,
    /// The name of the partition.
    pub part_label: Option<String>,
    /// Whether a driver reads it.
    pub readable: bool,
    /// What the volume itself is, as `lsblk` shows it: `disk`, `part`, `lvm`, `raid1`, `crypt`, ….
    pub volume: String,
    /// The devices that it is made of; none for a disk.
    pub parents: Vec<String>,
    /// Whether it is encrypted and no key opened it.
    pub locked: bool,
}

impl Held {
    fn kind(&self) -> &'static str {
        self.identity.as_ref().map_or("unknown", |identity| identity.kind)
    }

    fn partition(&self) -> Option<&Partition> {
        self.volume.kind.partition()
    }

    pub(super) fn is_readable(&self) -> bool {
        !self.is_used && fs::has_driver(self.kind())
    }

    /// Says whether `name` is one of the volume's names.
    fn is_named(&self, name: &str) -> bool {
        self.volume.name == name || self.volume.aliases.iter().any(|alias| alias == name)
    }
}

/// Returns a device's name as this program has it: `sda1` for `/dev/sda1`, `/dev/vda1`, `/dev/hda1` and `sda1`.
fn canonical(device: &str) -> String {
    let name = device.strip_prefix("/dev/").unwrap_or(device);
    for other in ["xvd", "vd", "hd"] {
        if let Some(rest) = name.strip_prefix(other)
            && rest.starts_with(|first: char| first.is_ascii_lowercase())
            && !rest.contains('/')
        {
            return format!("/dev/sd{rest}");
        }
    }
    format!("/dev/{name}")
}

impl Launched {
    pub(super) fn held(&self, device: &str) -> Result<&Held> {
        let wanted = canonical(device);
        self.volumes.iter().find(|held| held.is_named(&wanted)).ok_or_else(|| {
            let names: Vec<&str> = self.volumes.iter().map(|held| held.volume.name.as_str()).collect();
            Error::NotFound(format!("there is no device {device}; there are {}", names.join(", ")).into())
        })
    }

    /// Says whether a volume's bytes can be written: those of some kinds of volumes cannot.
    pub(super) fn is_writable(&self, held: &Held) -> bool {
        self.disks[held.disk].writable && (held.volume.parents.is_empty() || !held.volume.device.is_read_only())
    }

    /// Returns the devices among which the other members of a volume's filesystem are looked for.
    pub(super) fn members(&self, held: &Held) -> Vec<SharedDevice> {
        let others = self.volumes.iter().filter(|other| !other.is_used && other.volume.name != held.volume.name);
        // The real-time device of XFS bears no mark.
        let fits = |other: &&Held| other.kind() == held.kind() || (held.kind() == "xfs" && other.identity.is_none());
        others.filter(fits).map(|other| Arc::clone(&other.volume.device)).collect()
    }

    /// Opens the Btrfs filesystem on a volume by itself, to ask for its subvolumes.
    pub(super) fn btrfs(&self, held: &Held, options: &crate::fs::FsOptions) -> Result<Btrfs> {
        Btrfs::open(Arc::clone(&held.volume.device), &self.members(held), None, options)
    }

    /// Returns the filesystem on a volume, opened once.
    pub(super) fn filesystem(
        &self,
        held: &Held,
        subvolume: Option<&Subvolume>,
        options: &crate::fs::FsOptions,
        writable: bool,
    ) -> Result<Arc<dyn Filesystem>> {
        let key = (held.volume.name.clone(), subvolume.cloned());
        {
            let mut open = self.open.lock();
            if let Some(filesystem) = open.get(&key) {
                // One that was only looked at, and that nothing holds, makes way for one that can be written.
                let unfit = writable && filesystem.writer().is_none() && Arc::strong_count(filesystem) == 1;
                if !unfit {
                    return Ok(Arc::clone(filesystem));
                }
                open.remove(&key);
            }
        }
        let place = || format!("{}: {}", self.disks[held.disk].location, held.volume.name);
        if held.is_locked {
            return Err(Error::unsupported("it is encrypted, and no key was given; --key gives one").at(place()));
        }
        if writable && !self.is_writable(held) && self.disks[held.disk].writable {
            let kind = held.volume.kind.type_name();
            return Err(Error::unsupported(format!("writing to a volume of this kind ({kind})")).at(place()));
        }
        let members = self.members(held);
        let with = fs::OpenWith { members: &members, subvolume, discard: self.disks[held.disk].discard };
        let device = Arc::clone(&held.volume.device);
        let opened =
            if writable { fs::open_for_writing(device, &with, options) } else { fs::open(device, &with, options) };
        let filesystem = opened.at(place)?;
        for warning in &filesystem.info().warnings {
            log::warn!("{}: {warning}", place());
        }
        self.open.lock().insert(key, Arc::clone(&filesystem));
        Ok(filesystem)
    }
}

impl Guestfs {
    /// Returns the names of the drives: `/dev/sda`, `/dev/sdb`, ….
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn list_devices(&self) -> Result<Vec<String>> {
        Ok(self.devices()?.into_iter().map(|device| device.name).collect())
    }

    /// Returns the drives with their images.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let describe = |disk: &super::Disk| DeviceInfo {
            name: format!("/dev/{}", disk.name),
            image: disk.location.clone(),
            format: disk.format.name().to_owned(),
            size: disk.device.size(),
        };
        Ok(self.launched()?.disks.iter().map(describe).collect())
    }

    /// Returns the names of the partitions of all drives.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn list_partitions(&self) -> Result<Vec<String>> {
        let partitions = self.launched()?.volumes.iter().filter(|held| held.partition().is_some());
        Ok(partitions.map(|held| held.volume.name.clone()).collect())
    }

    /// Returns the devices that hold a filesystem or could, each with its type, in the order of the disks. Members of
    /// arrays, of volume groups and encrypted devices are not among them; what is not recognised is `unknown`.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn list_filesystems(&self) -> Result<Vec<(String, String)>> {
        let plain = |identity: &Identity| matches!(identity.usage, Usage::Filesystem | Usage::Swap);
        let volumes = self.launched()?.volumes.iter();
        let shown = volumes.filter(|held| !held.is_used && held.identity.as_ref().is_none_or(plain));
        Ok(shown.map(|held| (held.volume.name.clone(), held.kind().to_owned())).collect())
    }

    /// Returns every volume with what is known of it.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn filesystems(&self) -> Result<Vec<FilesystemInfo>> {
        let describe = |held: &Held| {
            let identity = held.identity.as_ref();
            let partition = held.partition();
            FilesystemInfo {
                device: held.volume.name.clone(),
                size: held.volume.device.size(),
                kind: held.kind().to_owned(),
                label: identity
                    .and_then(|identity| identity.label.as_deref())
                    .map(|label| String::from_utf8_lossy(label).into_owned()),
                uuid: identity.and_then(|identity| identity.uuid.clone()),
                partition_type: partition.map(|partition| partition.type_id.to_string()),
                part_uuid: partition.and_then(|partition| partition.part_uuid.clone()),
                part_label: partition.and_then(|partition| partition.part_label.clone()),
                readable: held.is_readable(),
                volume: held.volume.kind.type_name().to_owned(),
                parents: held.volume.parents.clone(),
                locked: held.is_locked,
            }
        };
        Ok(self.launched()?.volumes.iter().map(describe).collect())
    }

    /// Returns the type of what lies on a device, by the name that `blkid` has for it; empty where nothing is recognised.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not.
    pub fn vfs_type(&self, device: &str) -> Result<String> {
        Ok(self.identity(device)?.map_or_else(String::new, |identity| identity.kind.to_owned()))
    }

    /// Returns the label of the filesystem on a device; empty where it has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not.
    pub fn vfs_label(&self, device: &str) -> Result<String> {
        let label = self.identity(device)?.and_then(|identity| identity.label.clone()).unwrap_or_default();
        Ok(String::from_utf8_lossy(&label).into_owned())
    }

    /// Returns the UUID of the filesystem on a device; empty where it has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not.
    pub fn vfs_uuid(&self, device: &str) -> Result<String> {
        Ok(self.identity(device)?.and_then(|identity| identity.uuid.clone()).unwrap_or_default())
    }

    /// Returns the size of a drive or a partition, in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a device that there is not.
    pub fn blockdev_getsize64(&self, device: &str) -> Result<u64> {
        let launched = self.launched()?;
        let wanted = canonical(device);
        if let Some(disk) = launched.disks.iter().find(|disk| wanted == format!("/dev/{}", disk.name)) {
            return Ok(disk.device.size());
        }
        Ok(launched.held(device)?.volume.device.size())
    }

    /// Returns the index of a drive, from 0 in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a drive that there is not.
    pub fn device_index(&self, device: &str) -> Result<usize> {
        let wanted = canonical(device);
        let place = self.launched()?.disks.iter().position(|disk| wanted == format!("/dev/{}", disk.name));
        place.ok_or_else(|| Error::NotFound(format!("there is no drive {device}").into()))
    }

    fn identity(&self, device: &str) -> Result<Option<&Identity>> {
        Ok(self.launched()?.held(device)?.identity.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_many_names() {
        for name in ["/dev/sda1", "sda1", "/dev/vda1", "/dev/hda1", "/dev/xvda1"] {
            assert_eq!(canonical(name), "/dev/sda1");
        }
        assert_eq!(canonical("/dev/vg/root"), "/dev/vg/root");
    }
}
