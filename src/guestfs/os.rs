//! The operating systems on the drives, and the trees that they make of their filesystems.

use super::{FilesystemInfo, Guestfs, Held};
use crate::error::{Error, Result};
use crate::fs::btrfs::{Btrfs, Subvolume};
use crate::fs::probe::Usage;
use crate::fs::{Filesystem, StatFs};
use crate::inspect::{
    self, Assembly, Container, Details, DeviceId, DriveMapping, Package, Packages, Placed, RootCandidate, Subtree,
    System,
};
use crate::tree::{Mount, Tree};
use crate::volume::{PartitionType, VolumeKind};
use serde::Serialize;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most subvolumes of a Btrfs filesystem in which a root is looked for.
const MAX_SUBVOLUMES: usize = 64;

/// How libguestfs names a subvolume of a Btrfs filesystem: `btrfsvol:/dev/sda2/@home`.
const BTRFS_VOLUME: &str = "btrfsvol:";

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

/// A volume, and the filesystem on it.
#[derive(Clone, Debug, Serialize)]
pub struct FilesystemState {
    /// What it is.
    #[serde(flatten)]
    pub filesystem: FilesystemInfo,
    /// How full it is; none where no driver reads it, or it cannot be read.
    pub usage: Option<SpaceUsage>,
    /// What a person should know of it: a dirty journal, a missing device, that it is almost full.
    pub warnings: Vec<String>,
}

/// How full a filesystem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SpaceUsage {
    /// The space in all, in bytes.
    pub size: u64,
    /// The space that is taken, in bytes.
    pub used: u64,
    /// The space that an ordinary user may still take, in bytes.
    pub available: u64,
    /// Inodes in all; 0 where that has no meaning.
    pub inodes: u64,
    /// Inodes that are taken.
    pub inodes_used: u64,
}

/// A filesystem that is fuller than this is said to be almost full, in percent.
const ALMOST_FULL: u64 = 95;

impl SpaceUsage {
    fn new(full: &StatFs) -> Self {
        let bytes = |blocks: u64| blocks.saturating_mul(full.block_size.into());
        Self {
            size: bytes(full.blocks),
            used: bytes(full.blocks.saturating_sub(full.blocks_free)),
            available: bytes(full.blocks_available),
            inodes: full.files,
            inodes_used: full.files.saturating_sub(full.files_free),
        }
    }

    /// Returns the part of the space that is taken, in percent, rounded up as df(1) does.
    pub fn percent(&self) -> u64 {
        percent(self.used, self.used.saturating_add(self.available))
    }

    /// Says what is almost full, if anything is.
    fn warning(&self) -> Option<String> {
        let inodes = percent(self.inodes_used, self.inodes);
        if self.percent() >= ALMOST_FULL {
            Some(format!("almost full: {}% of the space is taken", self.percent()))
        } else if inodes >= ALMOST_FULL {
            Some(format!("almost full: {inodes}% of the inodes are taken"))
        } else {
            None
        }
    }
}

fn percent(part: u64, all: u64) -> u64 {
    if all == 0 { 0 } else { (u128::from(part) * 100).div_ceil(u128::from(all)).try_into().unwrap_or(u64::MAX) }
}

/// Returns the device of a name that libguestfs would take, and the Btrfs subvolume where one is named.
pub(super) fn mountable(name: &str) -> (&str, Option<Subvolume>) {
    let Some((start, rest)) = name.strip_prefix(BTRFS_VOLUME).and_then(|rest| rest.split_once("/dev/")) else {
        return (name, None);
    };
    // The device's own name may have a slash in it, as a logical volume's has: the longest that could be one is not known
    // here, so the subvolume begins at the first slash behind a plain name, and behind the second part of others.
    let parts: usize = if rest.starts_with("mapper/") || rest.starts_with("md/") { 2 } else { 1 };
    let end = rest.match_indices('/').nth(parts - 1).map_or(rest.len(), |(at, _)| at);
    let device = &name[BTRFS_VOLUME.len() + start.len()..][.."/dev/".len() + end];
    let path = rest[end..].trim_matches('/');
    (device, (!path.is_empty()).then(|| Subvolume::Path(path.as_bytes().to_vec())))
}

/// Returns the name that libguestfs has for a subvolume of a device.
fn mountable_name(device: &str, subvolume: Option<&[u8]>) -> String {
    match subvolume {
        Some(path) if !path.is_empty() && path != b"/" => {
            format!("{BTRFS_VOLUME}{device}/{}", String::from_utf8_lossy(path))
        }
        _ => device.to_owned(),
    }
}

impl Root {
    /// Returns the name by which libguestfs knows the root: its device, or `btrfsvol:DEVICE/SUBVOLUME`.
    pub fn name(&self) -> String {
        mountable_name(&self.device, self.subvolume.as_deref())
    }

    /// Returns the name of the folder that shows it beside other systems: `sda2`, `vg-root`, `sda2:@`.
    pub(super) fn folder(&self) -> Vec<u8> {
        let mut name = self.device.strip_prefix("/dev/").unwrap_or(&self.device).as_bytes().to_vec();
        if let Some(subvolume) = &self.subvolume {
            name.push(b':');
            name.extend_from_slice(subvolume);
        }
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'-');
        name
    }
}

/// Returns the subvolume that a mount shows.
fn subvolume_of(placed: &Placed) -> Option<Subvolume> {
    placed.subvolume.clone().map(Subvolume::Path).or(placed.subvolume_id.map(Subvolume::Id))
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
        let filesystem =
            Btrfs::open(Arc::clone(&held.volume.device), &launched.members(held), None, &self.fs_options())?;
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

    /// Mounts a root as its system has it: what its fstab names, nearest to the root first. What is missing is said in the
    /// log and left out.
    ///
    /// # Errors
    /// Those of mounting the root itself.
    pub fn mount_root(&mut self, root: &Root, writable: bool) -> Result<()> {
        self.mount_root_on(b"", root, writable)
    }

    /// Mounts a root as [`mount_root`](Self::mount_root) does, on a folder: an absolute path, or nothing for the root of the
    /// tree.
    pub(super) fn mount_root_on(&mut self, folder: &[u8], root: &Root, writable: bool) -> Result<()> {
        for missing in &root.assembly.missing {
            log::warn!("{missing}");
        }
        let mut first = true;
        for placed in &root.assembly.mounts {
            let mounted = self.mount_placed(folder, placed, writable);
            match mounted {
                Err(error) if first => return Err(error),
                Err(error) => log::warn!("left out: {error}"),
                Ok(()) => {}
            }
            first = false;
        }
        Ok(())
    }

    fn mount_placed(&mut self, below: &[u8], placed: &Placed, writable: bool) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mountpoint = [below, &placed.mountpoint].concat();
        let subvolume = subvolume_of(placed);
        let launched = self.launched()?;
        let held = launched.held(&placed.device)?;
        let kind = held.identity.as_ref().map_or("", |identity| identity.kind);
        let writable = writable && launched.is_writable(held) && crate::fs::has_writer(kind);
        let folder = placed.folder.as_deref().filter(|folder| !folder.is_empty() && *folder != b"/");
        let Some(folder) = folder else {
            let mountpoint = std::ffi::OsStr::from_bytes(&mountpoint);
            return self.mount_subvolume(&placed.device, mountpoint, subvolume.as_ref(), writable);
        };
        let filesystem = launched.filesystem(held, subvolume.as_ref(), &self.fs_options(), writable)?;
        let device = held.volume.name.clone();
        let shown: Arc<dyn Filesystem> = Arc::new(Subtree::open(filesystem, folder)?);
        self.mount_filesystem(device, mountpoint, shown)
    }

    /// Finds the operating systems; returns the names of their roots: a device, or `btrfsvol:DEVICE/SUBVOLUME`.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn inspect_os(&mut self) -> Result<Vec<String>> {
        let roots = self.inspect_roots()?;
        let names = roots.iter().map(Root::name).collect();
        self.roots = Some(roots);
        Ok(names)
    }

    /// Returns what [`inspect_os`](Self::inspect_os) found of a root.
    ///
    /// # Errors
    /// [`Error::Usage`] before that call, [`Error::NotFound`] for another device.
    pub fn inspect_get(&self, root: &str) -> Result<&Root> {
        let roots = self.found_roots()?;
        roots
            .iter()
            .find(|found| found.name() == root)
            .or_else(|| roots.iter().find(|found| found.device == root))
            .ok_or_else(|| Error::NotFound(format!("{root} is no root that inspect_os found").into()))
    }

    fn found_roots(&self) -> Result<&[Root]> {
        self.roots.as_deref().ok_or_else(|| Error::Usage("call inspect_os first".into()))
    }

    /// Returns the names that [`inspect_os`](Self::inspect_os) found, without looking again.
    ///
    /// # Errors
    /// [`Error::Usage`] before that call.
    pub fn inspect_get_roots(&self) -> Result<Vec<String>> {
        Ok(self.found_roots()?.iter().map(Root::name).collect())
    }

    /// Returns the folders and what a root's system mounts on them, the shortest folder first: devices, or
    /// `btrfsvol:DEVICE/SUBVOLUME`, which [`mount`](Self::mount) takes. Folders that are shown at a second place (bind mounts)
    /// have no such name and are left out; [`mount_root`](Self::mount_root) mounts them too.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_mountpoints(&self, root: &str) -> Result<Vec<(String, String)>> {
        let mounts = &self.inspect_get(root)?.assembly.mounts;
        let mut pairs = Vec::new();
        for placed in mounts.iter().filter(|placed| placed.folder.is_none() || placed.mountpoint == b"/") {
            let folder = String::from_utf8_lossy(&placed.mountpoint).into_owned();
            pairs.push((folder, self.mountable_of(placed)?));
        }
        pairs.sort_by_key(|(folder, _)| folder.len());
        Ok(pairs)
    }

    /// Returns the name of what is mounted. A subvolume that fstab gives by its number is looked up.
    fn mountable_of(&self, placed: &Placed) -> Result<String> {
        let Some(number) = placed.subvolume_id.filter(|_| placed.subvolume.is_none()) else {
            return Ok(mountable_name(&placed.device, placed.subvolume.as_deref()));
        };
        let launched = self.launched()?;
        let held = launched.held(&placed.device)?;
        let filesystem =
            Btrfs::open(Arc::clone(&held.volume.device), &launched.members(held), None, &self.fs_options())?;
        let subvolumes = filesystem.subvolumes()?;
        let path =
            subvolumes.iter().find(|subvolume| subvolume.id == number).map(|subvolume| subvolume.path.as_slice());
        Ok(mountable_name(&placed.device, path))
    }

    /// Returns the devices that belong to a root's system: what it mounts, and its swap space.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_get_filesystems(&self, root: &str) -> Result<Vec<String>> {
        let assembly = &self.inspect_get(root)?.assembly;
        let mut names = assembly.mounts.iter().map(|placed| self.mountable_of(placed)).collect::<Result<Vec<_>>>()?;
        names.extend(assembly.swaps.iter().cloned());
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Returns the picture that stands for a root's system, as its file holds it; nothing where there is none, or it is larger
    /// than 1 MiB.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_get_icon(&self, root: &str) -> Result<Vec<u8>> {
        let root = self.inspect_get(root)?;
        Ok(inspect::icon(&*self.tree_of_root(root)?, &root.system).unwrap_or_default())
    }

    /// Returns the names and versions of the packages of a root's system.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get), and those of mounting.
    pub fn inspect_list_applications(&self, root: &str) -> Result<Vec<(String, String)>> {
        let packages = self.inspect_list_applications2(root)?;
        Ok(packages.into_iter().map(|package| (package.name.clone(), package.full_version())).collect())
    }

    /// Says whether a root is a live system on media.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_live(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_live(&*self.tree_of_root(root)?))
    }

    /// Says whether a root is installation media that fetch what they install.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_netinst(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_netinst(&*self.tree_of_root(root)?))
    }

    /// Says whether a root is one disc of a set.
    ///
    /// # Errors
    /// As [`inspect_get`](Self::inspect_get).
    pub fn inspect_is_multipart(&self, root: &str) -> Result<bool> {
        let root = self.inspect_get(root)?;
        Ok(root.system.installer && inspect::is_multipart(&*self.tree_of_root(root)?))
    }

    /// Finds the root that a person names: by its device, by `btrfsvol:DEVICE/SUBVOLUME`, or by `DEVICE:SUBVOLUME`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the roots that there are, [`Error::Usage`] where a device has several.
    pub fn find_root(&self, name: &str) -> Result<Root> {
        let roots = self.inspect_roots()?;
        let plain = name.strip_prefix(BTRFS_VOLUME).unwrap_or(name);
        let wanted = format!("/dev/{}", plain.strip_prefix("/dev/").unwrap_or(plain));
        let names = |roots: &[&Root]| roots.iter().map(|root| root.name()).collect::<Vec<_>>().join(", ");
        let fits = |root: &&Root| {
            let path = root.subvolume.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            wanted == root.device
                || wanted == format!("{}:{path}", root.device)
                || wanted == format!("{}/{path}", root.device)
        };
        let found: Vec<&Root> = roots.iter().filter(fits).collect();
        match found.as_slice() {
            [root] => Ok((*root).clone()),
            [] => {
                let all: Vec<&Root> = roots.iter().collect();
                let all = if all.is_empty() { "none".to_owned() } else { names(&all) };
                Err(Error::NotFound(format!("{name} holds no operating system; those that were found: {all}").into()))
            }
            several => {
                let what = format!("{name} holds several operating systems; choose one: {}", names(several));
                Err(Error::Usage(what.into()))
            }
        }
    }

    /// Returns all volumes, how full the filesystems on them are, and what a person should know of them.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch.
    pub fn inspect_filesystems(&self) -> Result<Vec<FilesystemState>> {
        let options = self.fs_options();
        let launched = self.launched()?;
        let state = |(filesystem, held): (FilesystemInfo, &Held)| {
            let mut state = FilesystemState { filesystem, usage: None, warnings: Vec::new() };
            if !state.filesystem.readable {
                let usage = held.identity.as_ref().map(|identity| identity.usage);
                if usage == Some(Usage::Crypto) {
                    state.warnings.push(format!("encrypted ({}): what is in it is not read", state.filesystem.kind));
                }
                return state;
            }
            let read = launched.filesystem(held, None, &options, false).and_then(|filesystem| {
                state.warnings.clone_from(&filesystem.info().warnings);
                filesystem.statfs()
            });
            match read {
                Ok(full) => {
                    let usage = SpaceUsage::new(&full);
                    state.warnings.extend(usage.warning());
                    state.usage = Some(usage);
                }
                Err(error) => state.warnings.push(error.to_string()),
            }
            state
        };
        Ok(self.filesystems()?.into_iter().zip(&launched.volumes).map(state).collect())
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

    /// Returns the containers whose roots lie in folders of a root's system.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn inspect_containers(&self, root: &Root) -> Result<Vec<Container>> {
        Ok(inspect::containers(&*self.tree_of_root(root)?))
    }

    /// Makes the tree of a root without mounting it in this handle. What cannot be mounted is left out.
    fn tree_of_root(&self, root: &Root) -> Result<Arc<Tree>> {
        let launched = self.launched()?;
        let options = self.fs_options();
        let mut mounts: Vec<Mount> = Vec::new();
        let mut tree = None;
        for placed in &root.assembly.mounts {
            let subvolume = subvolume_of(placed);
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
    inspect_get_format "Returns whether a root is `installed` or an `installer` on media.
" |system| Some(if system.installer { "installer" } else { "installed" }.to_owned());
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
