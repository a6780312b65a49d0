//! FAT12, FAT16 and FAT32 with the long names of VFAT, for reading.
//!
//! The formats are specified in Microsoft's "FAT: General Overview of On-Disk Format" (version 1.03); what that leaves
//! open is as Linux has it with `iocharset=utf8` and otherwise default options: names of 8 and 3 characters are in code
//! page 437, all files may be executed, times are UTC.
//!
//! An inode's number is where its directory entry lies on the device, in units of 32 bytes; the root's, which has no
//! entry, is 1. Nothing on the device says whether a cluster belongs to a directory, so a number that was never given out
//! is answered with an error only where no entry can lie.
//!
//! A directory may be found in itself on a damaged filesystem. It has the same inode number then, so whoever walks the
//! tree can tell.

mod boot;
mod chain;
mod directory;
mod entry;
mod fs_info;
mod inode;
mod name;
mod table;
mod time;

use super::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs, Timestamp};
use crate::block::{RunCache, SharedDevice};
use crate::cache::Cache;
use crate::error::{Error, Result};
use boot::{BOOT_SIZE, Boot};
use chain::Chains;
use directory::Directory;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use table::Table;

/// The size of the runs in which tables and directories are read, in bytes.
const RUN_SIZE: u32 = 64 << 10;

/// The inode number of the root directory. An entry cannot lie there, in the boot sector.
const ROOT: Ino = 1;

/// The longest table that is counted to tell how many clusters are free, in bytes; for a longer one the sector that
/// keeps count is believed.
const MAX_COUNTED: u64 = 16 << 20;

/// The longest name in bytes: 255 UTF-16 units at the six bytes that Linux allows for each.
const NAME_MAX: u32 = 255 * 6;

/// A FAT filesystem, open for reading.
pub struct Fat {
    device: SharedDevice,
    metadata: Arc<RunCache>,
    boot: Arc<Boot>,
    chains: Chains,
    /// Directories by their first cluster; 0 for a root that lies in no cluster.
    directories: Cache<u32, Arc<Directory>>,
    /// The parents of directories, both by inode.
    parents: Cache<Ino, Ino>,
    free_clusters: OnceLock<u32>,
    info: FsInfo,
}

impl Fat {
    /// Opens the filesystem on a device.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the boot sector or the root directory is damaged, and those of reading.
    pub fn open(device: SharedDevice, options: &FsOptions) -> Result<Self> {
        let mut sector = [0; BOOT_SIZE];
        device.read_at(&mut sector, 0)?;
        let boot = Arc::new(Boot::parse(&sector)?);
        let metadata = Arc::new(RunCache::new(Arc::clone(&device), RUN_SIZE, &options.cache));
        let table = Table::new(Arc::clone(&metadata), Arc::clone(&boot));
        let mut warnings = Vec::new();
        if boot.is_dirty || table.is_dirty()? {
            warnings.push("the filesystem was not unmounted properly; some of it may be damaged".into());
        }
        if boot.end > device.size() {
            let (end, size) = (boot.end, device.size());
            warnings.push(format!("the filesystem has {end} bytes, but its device ends after {size}"));
        }
        let info = FsInfo { kind: "vfat", label: None, uuid: boot.uuid(), block_size: boot.cluster_size, warnings };
        let chains = Chains::new(Arc::clone(&boot), table, &options.cache);
        let (directories, parents) = (Cache::new(&options.cache), Cache::new(&options.cache));
        let free_clusters = OnceLock::new();
        let mut fat = Self { device, metadata, boot, chains, directories, parents, free_clusters, info };
        let label = fat.directory(fat.boot.root)?.label.or(fat.boot.label).filter(|label| label != b"NO NAME    ");
        fat.info.label = label.map(|label| label.trim_ascii_end().to_vec()).filter(|label| !label.is_empty());
        Ok(fat)
    }

    fn root_attr(&self) -> Result<Attr> {
        let directory = self.directory(self.boot.root)?;
        let size = self.directory_size(self.boot.root)?;
        // The root has no entry that could tell when it was changed.
        Ok(self.directory_attr(ROOT, size, directory.subdirectories, Timestamp::default()))
    }

    fn directory_attr(&self, ino: Ino, size: u64, subdirectories: u32, modified: Timestamp) -> Attr {
        let nlink = subdirectories + 2;
        self.file_attr(ino, FileType::Directory, size, nlink, modified)
    }

    fn file_attr(&self, ino: Ino, file_type: FileType, size: u64, nlink: u32, modified: Timestamp) -> Attr {
        Attr {
            ino,
            size,
            blocks: size.next_multiple_of(u64::from(self.boot.cluster_size)) / 512,
            file_type,
            permissions: 0o755,
            nlink,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            atime: modified,
            mtime: modified,
            ctime: modified,
            btime: None,
            generation: 0,
            flags: 0,
        }
    }
}

impl Filesystem for Fat {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        let free = match self.free_clusters.get() {
            Some(&free) => free,
            None => {
                let free = self.find_free()?;
                *self.free_clusters.get_or_init(|| free)
            }
        };
        Ok(StatFs {
            block_size: self.boot.cluster_size,
            blocks: u64::from(self.boot.clusters),
            blocks_free: u64::from(free),
            blocks_available: u64::from(free),
            files: 0,
            files_free: 0,
            name_max: NAME_MAX,
        })
    }

    fn root(&self) -> Ino {
        ROOT
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        if ino == ROOT {
            return self.root_attr();
        }
        let entry = self.entry(ino)?;
        let mut attr = if entry.is_directory {
            let place = self.place_of(entry.cluster);
            let size = self.directory_size(place)?;
            let subdirectories = self.directory(place)?.subdirectories;
            self.directory_attr(ino, size, subdirectories, entry.modified)
        } else {
            self.file_attr(ino, FileType::Regular, u64::from(entry.size), 1, entry.modified)
        };
        // On a directory Windows takes the attribute for something else.
        if entry.is_read_only && !entry.is_directory {
            attr.permissions &= !0o222;
        }
        (attr.atime, attr.btime) = (entry.accessed, entry.created);
        Ok(attr)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let directory = self.directory(self.directory_place(dir)?)?;
        let found = directory.find(name).ok_or(Error::Errno(libc::ENOENT))?;
        self.attr(found.ino)
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let directory = self.directory(self.directory_place(dir)?)?;
        let mut at = usize::try_from(cookie).unwrap_or(usize::MAX);
        while let Some(entry) = directory.shown(at) {
            if visit(entry).is_break() {
                break;
            }
            at += 1;
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        if dir == ROOT {
            return Ok(ROOT);
        }
        let place = self.directory_place(dir)?;
        self.parents.get_or_insert(dir, || Ok((self.find_parent(place)?, size_of::<Ino>())))
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.attr(ino)?;
        Err(Error::Errno(libc::EINVAL))
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let entry = self.file(ino)?;
        let size = u64::from(entry.size);
        let len = size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        let read = |at: u64, count: usize| {
            self.device.read_at(&mut buf[done..done + count], at)?;
            done += count;
            Ok(())
        };
        self.ranges(entry.cluster, offset, len as u64, read)?;
        Ok(len)
    }

    fn xattr(&self, ino: Ino, _name: &[u8]) -> Result<Vec<u8>> {
        self.attr(ino)?;
        Err(Error::Errno(libc::ENODATA))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.attr(ino).map(|_| Vec::new())
    }

    fn has_xattrs(&self) -> bool {
        false
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let entry = (ino != ROOT).then(|| self.entry(ino).ok()).flatten();
        entry
            .filter(|entry| self.boot.has_cluster(entry.cluster))
            .map_or(0, |entry| self.boot.cluster_offset(entry.cluster))
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        if let Ok(entry) = self.file(ino) {
            let len = u64::from(entry.size).saturating_sub(offset).min(len);
            // A damaged chain is told of when it is read.
            let _ = self.ranges(entry.cluster, offset, len, |at, count| {
                self.device.prefetch(at, count as u64);
                Ok(())
            });
        }
    }
}
