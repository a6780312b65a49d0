//! The operating systems on the drives, and the trees that they make of their filesystems.

use super::{Guestfs, Held};
use crate::error::{Error, Result};
use crate::fs::Filesystem;
use crate::fs::btrfs::Subvolume;
use crate::fs::probe::Usage;
use crate::inspect::{
    self, Assembly, Details, DeviceId, DriveMapping, Package, Packages, RootCandidate, Subtree, System,
};
use crate::tree::{Mount, Tree};
use crate::volume::{PartitionType, VolumeKind};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most subvolumes of a Btrfs filesystem in which a root is looked for.
const MAX_SUBVOLUMES: usize = 64;

/// A root that was found.
#[derive(Clone, Debug)]
pub struct Root {
    /// The device that it lies on.
    pub device: String,
    /// What its system is.
    pub system: System,
    /// What its system mounts where, as far as the devices are there.
    pub assembly: Assembly,
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
                        roots.push(Root { device: candidate.device, system, assembly });
                    }
                }
                Err(error) => log::warn!("{error}"),
            }
        }
        Ok(roots)
    }

    fn roots_on(&self, held: &Held, is_btrfs: bool) -> Result<Vec<(RootCandidate, System)>> {
        let device = &held.volume.name;
        if let Some(found) = self.root_in(held, None)? {
            return Ok(vec![found]);
        }
        if !is_btrfs {
            return Ok(Vec::new());
        }
        // A subvolume that is not the default may be the root: `@`, `root`, `@rootfs`.
        let launched = self.launched()?;
        let top = launched.filesystem(held, Some(&Subvolume::Id(5)), &self.fs_options(), false)?;
        let tree = alone(top, device)?;
        let mut names = Vec::new();
        tree.read_dir(tree.root(), 0, &mut |_, entry| {
            names.push(entry.name.to_vec());
            if names.len() < MAX_SUBVOLUMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        let mut found = Vec::new();
        for name in names {
            match self.root_in(held, Some(&name)) {
                Ok(root) => found.extend(root),
                Err(error) if matches!(error.root(), Error::NotFound(_)) => {}
                Err(error) => log::debug!("{device}: {}: {error}", name.escape_ascii()),
            }
        }
        Ok(found)
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

    /// Mounts a root as its system has it: what its fstab names, nearest to the root first. What is missing is said in the
    /// log and left out.
    ///
    /// # Errors
    /// Those of mounting the root itself.
    pub fn mount_root(&mut self, root: &Root, writable: bool) -> Result<()> {
        for missing in &root.assembly.missing {
            log::warn!("{missing}");
        }
        let mut first = true;
        for placed in &root.assembly.mounts {
            let mounted = self.mount_placed(placed, writable);
            match mounted {
                Err(error) if first => return Err(error),
                Err(error) => log::warn!("left out: {error}"),
                Ok(()) => {}
            }
            first = false;
        }
        Ok(())
    }

    fn mount_placed(&mut self, placed: &inspect::Placed, writable: bool) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mountpoint = std::ffi::OsStr::from_bytes(&placed.mountpoint).to_owned();
        let subvolume = placed.subvolume.as_ref().map(|path| Subvolume::Path(path.clone()));
        let launched = self.launched()?;
        let held = launched.held(&placed.device)?;
        let kind = held.identity.as_ref().map_or("", |identity| identity.kind);
        let writable = writable && launched.is_writable(held) && crate::fs::has_writer(kind);
        let folder = placed.folder.as_deref().filter(|folder| !folder.is_empty() && *folder != b"/");
        let Some(folder) = folder else {
            return self.mount_subvolume(&placed.device, mountpoint, subvolume.as_ref(), writable);
        };
        let filesystem = launched.filesystem(held, subvolume.as_ref(), &self.fs_options(), writable)?;
        let device = held.volume.name.clone();
        let shown: Arc<dyn Filesystem> = Arc::new(Subtree::open(filesystem, folder)?);
        self.mount_filesystem(device, placed.mountpoint.clone(), shown)
    }

    /// Finds the operating systems; returns the devices of their roots.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn inspect_os(&mut self) -> Result<Vec<String>> {
        let roots = self.inspect_roots()?;
        let names = roots.iter().map(|root| root.device.clone()).collect();
        self.roots = Some(roots);
        Ok(names)
    }

    /// Returns what [`inspect_os`](Self::inspect_os) found of a root.
    ///
    /// # Errors
    /// [`Error::Usage`] before that call, [`Error::NotFound`] for another device.
    pub fn inspect_get(&self, root: &str) -> Result<&Root> {
        let roots = self.roots.as_ref().ok_or_else(|| Error::Usage("call inspect_os first".into()))?;
        roots
            .iter()
            .find(|found| found.device == root)
            .ok_or_else(|| Error::NotFound(format!("{root} is no root that inspect_os found").into()))
    }

    /// Returns the folders and the devices that a root's system mounts on them, the shortest folder first.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_mountpoints(&self, root: &str) -> Result<Vec<(String, String)>> {
        let mounts = &self.inspect_get(root)?.assembly.mounts;
        let mut pairs: Vec<_> = mounts
            .iter()
            .map(|placed| (String::from_utf8_lossy(&placed.mountpoint).into_owned(), placed.device.clone()))
            .collect();
        pairs.sort_by_key(|(folder, _)| folder.len());
        Ok(pairs)
    }

    /// Returns the devices that a root's system mounts.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_filesystems(&self, root: &str) -> Result<Vec<String>> {
        let mut devices: Vec<String> =
            self.inspect_get(root)?.assembly.mounts.iter().map(|placed| placed.device.clone()).collect();
        devices.sort();
        devices.dedup();
        Ok(devices)
    }

    /// Returns the packages of a root's system, from the tree as it mounts it.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_list_applications2(&self, root: &str) -> Result<Vec<Package>> {
        Ok(self.inspect_packages(self.inspect_get(root)?)?.packages)
    }

    /// Returns the packages of a root's system with what could not be read of them.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_packages(&self, root: &Root) -> Result<Packages> {
        Ok(inspect::packages(&*self.tree_of_root(root)?, &root.system))
    }

    /// Returns more about a root's system: kernels, users, services, network.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_details(&self, root: &Root) -> Result<Details> {
        Ok(inspect::details(&*self.tree_of_root(root)?, &root.system))
    }

    /// Makes the tree of a root without mounting it in this handle. What cannot be mounted is left out.
    fn tree_of_root(&self, root: &Root) -> Result<Arc<Tree>> {
        let launched = self.launched()?;
        let options = self.fs_options();
        let mut mounts: Vec<Mount> = Vec::new();
        let mut tree = None;
        for placed in &root.assembly.mounts {
            let subvolume = placed.subvolume.as_ref().map(|path| Subvolume::Path(path.clone()));
            let opened = launched.held(&placed.device).and_then(|held| {
                let filesystem = launched.filesystem(held, subvolume.as_ref(), &options, false)?;
                match placed.folder.as_deref().filter(|folder| !folder.is_empty() && *folder != b"/") {
                    Some(folder) => Ok(Arc::new(Subtree::open(filesystem, folder)?) as Arc<dyn Filesystem>),
                    None => Ok(filesystem),
                }
            });
            let mut more = mounts.clone();
            let made = opened.and_then(|filesystem| {
                let (mountpoint, source) = (placed.mountpoint.clone(), placed.device.clone());
                more.push(Mount { filesystem, mountpoint, source });
                Tree::new(more.clone())
            });
            match made {
                Ok(made) => {
                    mounts = more;
                    tree = Some(made);
                }
                Err(error) if tree.is_none() => return Err(error),
                Err(error) => log::debug!("left out: {error}"),
            }
        }
        let tree = tree.ok_or_else(|| Error::NotFound(format!("{} mounts nothing", root.device).into()))?;
        Ok(Arc::new(tree))
    }
}

/// The calls of libguestfs that return one text about a root; what is not known is `unknown`, as there.
macro_rules! texts {
    ($($name:ident $doc:literal $value:expr;)*) => {
        impl Guestfs {$(
            #[doc = $doc]
            ///
            /// # Errors
            /// As [`inspect_get`](Self::inspect_get).
            pub fn $name(&self, root: &str) -> Result<String> {
                let value: fn(&System) -> Option<String> = $value;
                Ok(value(&self.inspect_get(root)?.system).unwrap_or_else(|| String::from("unknown")))
            }
        )*}
    };
}

texts! {
    inspect_get_type "Returns what kind of system a root holds: `linux`, `windows`, `freebsd`, ….
" |system| Some(system.kind.as_str().to_owned());
    inspect_get_distro "Returns the distribution of a root's system: `debian`, `fedora`, ….
" |system| Some(system.distro.clone());
    inspect_get_product_name "Returns the name of a root's system as it gives it itself.
" |system| system.product_name.clone();
    inspect_get_product_variant "Returns the variant of a root's system: `Server`, `Client`, ….
" |system| system.product_variant.clone();
    inspect_get_arch "Returns the architecture of a root's system.
" |system| system.arch.clone();
    inspect_get_hostname "Returns the name of the machine.
" |system| system.hostname.clone();
    inspect_get_package_format "Returns the form of the packages: `deb`, `rpm`, ….
" |system| system.package_format.clone();
    inspect_get_package_management "Returns the tool for packages: `apt`, `dnf`, ….
" |system| system.package_management.clone();
    inspect_get_osinfo "Returns the short identifier of the osinfo database: `debian12`.
" |system| system.osinfo.clone();
    inspect_get_build_id "Returns the build of a root's system.
" |system| system.build_id.clone();
    inspect_get_windows_systemroot "Returns the folder of Windows.
" |system| system.windows.as_ref().map(|windows| windows.system_root.clone());
    inspect_get_windows_current_control_set "Returns the control set that Windows starts with.
" |system| system.windows.as_ref().and_then(|windows| windows.current_control_set.clone());
    inspect_get_windows_software_hive "Returns the path of the registry's software hive.
" |system| system.windows.as_ref().and_then(|windows| windows.software_hive.clone());
    inspect_get_windows_system_hive "Returns the path of the registry's system hive.
" |system| system.windows.as_ref().and_then(|windows| windows.system_hive.clone());
}

impl Guestfs {
    /// Returns the first number of the version of a root's system; 0 where it has none.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_major_version(&self, root: &str) -> Result<u32> {
        Ok(self.inspect_get(root)?.system.major())
    }

    /// Returns the second number of the version of a root's system; 0 where it has none.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_minor_version(&self, root: &str) -> Result<u32> {
        Ok(self.inspect_get(root)?.system.minor())
    }

    /// Returns the drive letters of Windows and the devices that they stand for.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_drive_mappings(&self, root: &str) -> Result<Vec<(char, String)>> {
        let devices = self.launched()?.describe_devices();
        let none: Vec<DriveMapping> = Vec::new();
        let windows = self.inspect_get(root)?.system.windows.as_ref();
        Ok(inspect::drives(windows.map_or(&none, |windows| &windows.drives), &devices))
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
