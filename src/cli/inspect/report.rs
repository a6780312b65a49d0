//! What is told of an image: the form of `--json`, whose keys stay. docs/inspect.md tells each of them.

use crate::error::Result;
use crate::guestfs::{DeviceInfo, FilesystemState, Guestfs, Root};
use crate::inspect::{Container, Details, Package, Placed, System};
use serde::Serialize;

/// An image.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The image, as it was named.
    pub image: String,
    /// The drives.
    pub devices: Vec<DeviceInfo>,
    /// The volumes, and what lies on them.
    pub filesystems: Vec<FilesystemState>,
    /// The operating systems.
    pub systems: Vec<Described>,
    /// What is wrong with the image as a whole, a line each.
    pub warnings: Vec<String>,
}

/// One operating system. The warnings of all that was read are in those of `system`.
#[derive(Debug, Serialize)]
pub(super) struct Described {
    /// The name of its root, as libguestfs has it.
    pub root: String,
    #[serde(flatten)]
    pub system: System,
    pub mounts: Vec<Place>,
    pub swaps: Vec<String>,
    /// What is told of in fstab and not mounted, a line each.
    pub missing: Vec<String>,
    /// Which device each drive letter of Windows leads to.
    pub drive_mappings: Vec<Letter>,
    #[serde(flatten)]
    pub details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<Container>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<Vec<Package>>,
}

/// Something mounted.
#[derive(Debug, Serialize)]
pub(super) struct Place {
    pub device: String,
    pub mountpoint: String,
    /// The path of the Btrfs subvolume.
    pub subvolume: Option<String>,
    /// The number of the Btrfs subvolume, where fstab gives that.
    pub subvolume_id: Option<u64>,
    /// The folder of the filesystem that is shown, where it is not the whole.
    pub folder: Option<String>,
    /// The image of composefs whose tree is shown.
    pub image: Option<String>,
    /// The folders of the guest that lie below it where it is an overlay, the upper first.
    pub lower: Vec<String>,
}

/// A drive letter of Windows.
#[derive(Debug, Serialize)]
pub(super) struct Letter {
    pub letter: char,
    pub device: String,
}

/// What of a system is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Kernels, users, services and the rest that takes reading.
    pub details: bool,
    pub packages: bool,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Place {
    fn new(placed: &Placed) -> Self {
        Self {
            device: placed.device.clone(),
            mountpoint: text(&placed.mountpoint),
            subvolume: placed.subvolume.as_deref().map(text),
            subvolume_id: placed.subvolume_id,
            folder: placed.folder.as_deref().map(text),
            image: placed.image.as_deref().map(text),
            lower: placed.lower.iter().map(|layer| text(&layer.mountpoint)).collect(),
        }
    }
}

impl Report {
    /// Looks at all drives of a handle.
    pub(super) fn new(image: &str, guest: &mut Guestfs, wanted: Wanted) -> Result<Self> {
        let roots = guest.inspect_os()?;
        let mut systems = Vec::new();
        for name in roots {
            let root = guest.inspect_get(&name)?;
            systems.push(Described::new(guest, root, wanted)?);
        }
        Ok(Self {
            image: image.to_owned(),
            devices: guest.devices()?,
            filesystems: guest.inspect_filesystems()?,
            systems,
            warnings: guest.warnings().to_vec(),
        })
    }
}

impl Described {
    fn new(guest: &Guestfs, root: &Root, wanted: Wanted) -> Result<Self> {
        let name = root.name();
        let mut system = root.system.clone();
        if system.windows.as_ref().and_then(|windows| windows.hibernated) == Some(true) {
            system
                .warnings
                .push("Windows is hibernated, or was shut down by fast startup: do not write to its disks".into());
        }
        // What cannot be mounted is said, and the rest is told.
        let mut details = None;
        let mut containers = None;
        let mut packages = None;
        if wanted.details {
            match guest.inspect_details(root) {
                Ok(mut told) => {
                    system.warnings.append(&mut told.warnings);
                    details = Some(told);
                }
                Err(error) => system.warnings.push(error.to_string()),
            }
            match guest.inspect_containers(root) {
                Ok(found) => containers = Some(found),
                Err(error) => system.warnings.push(error.to_string()),
            }
        }
        if wanted.packages {
            match guest.inspect_packages(root) {
                Ok(mut told) => {
                    system.warnings.append(&mut told.warnings);
                    packages = Some(told.packages);
                }
                Err(error) => system.warnings.push(error.to_string()),
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        system.warnings.retain(|warning| seen.insert(warning.clone()));
        let letter = |(letter, device)| Letter { letter, device };
        Ok(Self {
            drive_mappings: guest.inspect_get_drive_mappings(&name)?.into_iter().map(letter).collect(),
            root: name,
            system,
            mounts: root.assembly.mounts.iter().map(Place::new).collect(),
            swaps: root.assembly.swaps.clone(),
            missing: root.assembly.missing.clone(),
            details,
            containers,
            packages,
        })
    }
}
