//! Floor 6: the handle.
//!
//! A [`Guestfs`] holds drives, opens them at [`launch`](Guestfs::launch), finds their volumes and filesystems, and mounts
//! these as one tree. Its calls have the names that libguestfs users know. Paths are the guest's: a symbolic link, an
//! absolute one too, never leads out of the tree.
//!
//! ```no_run
//! # fn main() -> guestctl::Result<()> {
//! let mut guest = guestctl::Guestfs::new()?;
//! guest.add_drive_ro("debian.qcow2")?;
//! guest.launch()?;
//! guest.mount_ro("/dev/sda2", "/")?;
//! println!("{}", guest.cat("/etc/os-release")?);
//! guest.shutdown()?;
//! # Ok(())
//! # }
//! ```

mod acl;
mod archive;
mod attributes;
pub mod check;
pub mod checksum;
pub mod convert;
mod copy;
mod copy_in;
mod copy_out;
mod cpio;
mod create;
mod devices;
mod drive;
mod files;
mod free_space;
pub mod glob;
mod identity;
mod layout;
mod listing;
mod local;
mod mkfs;
mod mounts;
mod names;
pub(crate) mod ordered;
mod os;
mod partitions;
mod progress;
mod put;
pub(crate) mod replace;
mod search;
mod stat;
mod tar_in;
mod untar;
mod write;

pub use archive::{Compression, TarOptions};
pub use copy_out::{CopyFailed, CopyOptions};
pub use create::{CreateOptions, create};
pub use devices::{DeviceInfo, FilesystemInfo};
pub use drive::{DriveOptions, Overlay};
pub use layout::{Layout, MountSpec};
pub use listing::Entry;
pub(crate) use listing::mode_text;
pub use mkfs::MkfsOptions;
pub use os::{FilesystemState, Root, SpaceUsage};
pub use partitions::{PartitionInfo, PartitionTable};
pub use progress::{Progress, ProgressCallback};
pub(crate) use search::lines;
pub use stat::StatNs;
pub use tar_in::TarInOptions;

use crate::block::{ImageFormat, SharedDevice};
use crate::cache::CachePool;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::btrfs::Subvolume;
use crate::fs::probe::Identity;
use crate::fs::{Filesystem, FsOptions};
use crate::tree::Tree;
use crate::volume::crypt::{NoKeys, Unlock};
use crate::volume::{self, Volume};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Instant;

/// The budget of the caches, in bytes, where none is set.
pub const DEFAULT_CACHE: usize = 128 << 20;

/// A drive, opened.
struct Disk {
    /// Its name without `/dev/`: `sda`.
    name: String,
    device: SharedDevice,
    format: ImageFormat,
    /// What messages call the image.
    location: String,
    writable: bool,
    discard: bool,
}

/// A volume, and what lies on it.
struct Held {
    volume: Volume,
    /// The first disk it lies on, in the order of the drives.
    disk: usize,
    identity: Option<Identity>,
    /// Whether other volumes are made of it, or would be if a key were there.
    is_used: bool,
    /// Whether it is encrypted and stayed closed.
    is_locked: bool,
}

/// Filesystems by device and subvolume.
type OpenFilesystems = BTreeMap<(String, Option<Subvolume>), Arc<dyn Filesystem>>;

struct Launched {
    disks: Vec<Disk>,
    volumes: Vec<Held>,
    warnings: Vec<String>,
    /// Opened when they are first wanted.
    open: Mutex<OpenFilesystems>,
}

/// A set of disk images and the tree that is mounted of them. It is `Send`; what only reads takes `&self`.
pub struct Guestfs {
    drives: Vec<(String, DriveOptions)>,
    cache: Arc<CachePool>,
    launched: Option<Launched>,
    mounts: Vec<mounts::Mounted>,
    tree: Option<Arc<Tree>>,
    /// What `inspect_os` found.
    roots: Option<Vec<Root>>,
    progress: Option<ProgressCallback>,
    trace: bool,
    local: Option<local::LocalMount>,
    unlock: Arc<dyn Unlock>,
    /// The bits that new files do not get.
    umask: AtomicU16,
}

impl Guestfs {
    /// Makes a handle without drives.
    ///
    /// # Errors
    /// None today; `?` fits.
    pub fn new() -> Result<Self> {
        Ok(Self::with_cache(DEFAULT_CACHE))
    }

    /// Makes a handle without drives whose caches hold at most `bytes`.
    pub fn with_cache(bytes: usize) -> Self {
        Self {
            drives: Vec::new(),
            cache: CachePool::new(bytes),
            launched: None,
            mounts: Vec::new(),
            tree: None,
            roots: None,
            progress: None,
            trace: false,
            local: None,
            unlock: Arc::new(NoKeys),
            umask: AtomicU16::new(0o022),
        }
    }

    /// Sets where the keys of encrypted volumes come from, before [`launch`](Self::launch).
    pub fn set_unlock(&mut self, unlock: Arc<dyn Unlock>) {
        self.unlock = unlock;
    }

    /// Lets the log of this process hold what is done (`info`), or only what a person should know (`warn`). The log goes
    /// where the program's logger puts it; handles share it.
    pub fn set_verbose(&self, verbose: bool) {
        log::set_max_level(if verbose { log::LevelFilter::Info } else { log::LevelFilter::Warn });
    }

    /// Logs each path that a call is asked for (`info`, with `trace` before it).
    pub fn set_trace(&mut self, trace: bool) {
        self.trace = trace;
    }

    /// Adds a disk image or a URL (NBD, HTTP, SSH, S3), to be written to.
    ///
    /// # Errors
    /// [`Error::Usage`] after [`launch`](Self::launch).
    pub fn add_drive(&mut self, location: impl AsRef<OsStr>) -> Result<()> {
        self.add_drive_opts(location, None, false)
    }

    /// Adds a disk image or a URL (NBD, HTTP, SSH, S3), to be read only.
    ///
    /// # Errors
    /// [`Error::Usage`] after [`launch`](Self::launch).
    pub fn add_drive_ro(&mut self, location: impl AsRef<OsStr>) -> Result<()> {
        self.add_drive_opts(location, None, true)
    }

    /// Adds a disk image or a URL (NBD, HTTP, SSH, S3); `format` is told from the contents where it is `None`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a format that is not known, and after [`launch`](Self::launch).
    pub fn add_drive_opts(&mut self, location: impl AsRef<OsStr>, format: Option<&str>, readonly: bool) -> Result<()> {
        let format = format.map(ImageFormat::from_name).transpose()?;
        self.add_drive_with(location, DriveOptions { format, writable: !readonly, ..DriveOptions::default() })
    }

    /// Adds a disk image or a URL (NBD, HTTP, SSH, S3) with every option there is.
    ///
    /// # Errors
    /// [`Error::Usage`] after [`launch`](Self::launch).
    pub fn add_drive_with(&mut self, location: impl AsRef<OsStr>, options: DriveOptions) -> Result<()> {
        if self.launched.is_some() {
            return Err(Error::Usage("drives are added before launch".into()));
        }
        let location = location
            .as_ref()
            .to_str()
            .ok_or_else(|| Error::Usage(format!("the name {} is not UTF-8", location.as_ref().display()).into()))?;
        self.drives.push((location.to_owned(), options));
        Ok(())
    }

    /// Opens the drives and finds the volumes on them.
    ///
    /// # Errors
    /// [`Error::Usage`] without drives or when it is called twice, and those of opening an image, each with its name.
    pub fn launch(&mut self) -> Result<()> {
        if self.launched.is_some() {
            return Err(Error::Usage("launch was called already".into()));
        }
        if self.drives.is_empty() {
            return Err(Error::Usage("no drive was added before launch".into()));
        }
        let started = Instant::now();
        let mut launched = Launched {
            disks: Vec::new(),
            volumes: Vec::new(),
            warnings: Vec::new(),
            open: Mutex::new(BTreeMap::new()),
        };
        for (index, (location, options)) in self.drives.iter().enumerate() {
            let opened = options.open(location, &self.cache)?;
            let disk = Disk {
                name: volume::disk_name(index),
                device: opened.device,
                format: opened.format,
                location: location.clone(),
                writable: options.is_writable(),
                discard: options.discard,
            };
            launched.disks.push(disk);
        }
        launched.find_volumes(&*self.unlock)?;
        let size: u64 = launched.disks.iter().map(|disk| disk.device.size()).sum();
        log::info!(
            "operation=launch duration_ms={:.1} disks={} disk_size_gb={:.2}",
            started.elapsed().as_secs_f64() * 1000.0,
            launched.disks.len(),
            size as f64 / 1e9
        );
        self.launched = Some(launched);
        Ok(())
    }

    /// Says whether [`launch`](Self::launch) has succeeded.
    pub fn is_ready(&self) -> bool {
        self.launched.is_some()
    }

    /// Unmounts everything and closes the drives. Dropping the handle does the same, without telling of errors.
    ///
    /// # Errors
    /// Those of making what was written durable.
    pub fn shutdown(&mut self) -> Result<()> {
        let local = if self.local.is_some() { self.umount_local() } else { Ok(()) };
        let result = self.umount_all();
        self.launched = None;
        self.roots = None;
        local.and(result)
    }

    /// Returns what a person should know of the drives: a damaged table, a partition that was clipped.
    pub fn warnings(&self) -> &[String] {
        self.launched.as_ref().map_or(&[], |launched| &launched.warnings)
    }

    fn launched(&self) -> Result<&Launched> {
        self.launched.as_ref().ok_or_else(|| Error::Usage("call launch first".into()))
    }

    fn fs_options(&self) -> FsOptions {
        FsOptions { cache: Arc::clone(&self.cache) }
    }
}

impl Launched {
    /// Looks, and looks anew, at what lies on the drives.
    fn find_volumes(&mut self, unlock: &dyn Unlock) -> Result<()> {
        let sources: Vec<volume::Source> = self
            .disks
            .iter()
            .map(|disk| volume::Source {
                name: disk.name.clone(),
                device: Arc::clone(&disk.device),
                location: disk.location.clone(),
            })
            .collect();
        let stack = volume::assemble(&sources, unlock)?;
        for warning in stack.warnings.iter().filter(|warning| !self.warnings.contains(warning)) {
            log::warn!("{warning}");
        }
        self.warnings = stack.warnings;
        let parents: BTreeSet<&String> = stack.volumes.iter().flat_map(|found| &found.volume.parents).collect();
        let mut volumes = Vec::new();
        for found in &stack.volumes {
            let volume = found.volume.clone();
            let identity = match crate::fs::probe::identify(volume.device.as_ref()) {
                // A volume that lacks a part of itself does not keep the others from being used.
                Err(error) if !volume.parents.is_empty() && volume.kind.partition().is_none() => {
                    log::warn!("{}: {error}", volume.name);
                    None
                }
                identity => identity.at(|| volume.name.clone()).at(|| self.disks[found.disk].location.clone())?,
            };
            let is_locked = stack.locked.iter().any(|locked| locked.device == volume.name);
            let is_used = parents.contains(&volume.name);
            volumes.push(Held { volume, disk: found.disk, identity, is_used, is_locked });
        }
        self.volumes = volumes;
        Ok(())
    }
}

impl Drop for Guestfs {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown() {
            log::error!("{error}");
        }
    }
}

impl std::fmt::Debug for Guestfs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Guestfs").field("drives", &self.drives).field("mounts", &self.mounts).finish()
    }
}
