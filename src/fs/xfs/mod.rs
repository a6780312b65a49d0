//! XFS, read-only: versions 4 and 5.
//!
//! An open filesystem never writes. Where the log holds changes that have not reached their places, they are replayed into
//! memory and lie over what the device says. Everything that is read is checked: on version 5 against checksums, places,
//! owners and the filesystem's UUID, on either version against what can be.
//!
//! Data on a real-time device is read where that device is at hand, and refused by name where it is not, or lies in groups, as
//! that of zoned filesystems; everything else about such files is shown. Quotas, reverse mappings and reference counts do not change what is read, and are not looked at.
//!
//! The format is specified in "XFS Algorithms & Data Structures" (the 3rd edition, by the kernel's XFS developers) and by
//! Linux `fs/xfs/libxfs/xfs_format.h`, `xfs_da_format.h` and `xfs_log_format.h`.

mod ag;
mod attr;
mod bmap_tree;
mod da;
mod dir;
mod disk;
mod extent;
mod hash;
mod inode;
mod inode_tree;
mod log;
mod overlay;
mod real_time;
mod remap;
mod statfs;
mod store;
mod superblock;
mod symlink;

use super::{Attr, DirEntry, Filesystem, FsInfo, FsOptions, Ino, StatFs, seek};
use crate::block::SharedDevice;
use crate::bytes::uuid;
use crate::cache::Cache;
use crate::error::{Error, Result};
use attr::Attributes;
use dir::Directory;
use disk::{Disk, ForkOf};
use inode::{Fork, Inode};
use inode_tree::Chunk;
use real_time::RealTime;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use store::Store;
use superblock::Superblock;

/// The most extents that one hint asks the device for.
const MAX_PREFETCH: usize = 32;

/// An open XFS filesystem.
pub struct Xfs {
    disk: Disk,
    real_time: RealTime,
    info: FsInfo,
    /// Whether the superblock's counters cannot be believed.
    sum_counters: bool,
    /// How full it is, once somebody asked.
    counts: OnceLock<StatFs>,
    inodes: Cache<Ino, Arc<Inode>>,
    chunks: Cache<(u32, u32), Chunk>,
}

/// Says whether a device holds an XFS filesystem, and what it is.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Unsupported`] for a superblock that begins like one of XFS, and those of reading.
pub fn probe(device: &SharedDevice) -> Result<Option<FsInfo>> {
    if device.size() < superblock::MIN_SIZE as u64 {
        return Ok(None);
    }
    let mut bytes = [0; superblock::MIN_SIZE];
    device.read_at(&mut bytes, 0)?;
    if !superblock::is_superblock(&bytes) {
        return Ok(None);
    }
    read_superblock(device).map(|superblock| Some(describe(&superblock)))
}

fn read_superblock(device: &SharedDevice) -> Result<Superblock> {
    let mut bytes = vec![0; superblock::MIN_SIZE];
    if device.size() < bytes.len() as u64 {
        return Err(Error::NotAnImage("this is no XFS filesystem: it is too small".into()));
    }
    device.read_at(&mut bytes, 0)?;
    if superblock::is_superblock(&bytes) {
        bytes.resize(superblock::sector_size(&bytes)? as usize, 0);
        device.read_at(&mut bytes, 0)?;
    }
    Superblock::parse(&bytes, true)
}

fn describe(superblock: &Superblock) -> FsInfo {
    FsInfo {
        kind: "xfs",
        label: (!superblock.label.is_empty()).then(|| superblock.label.clone()),
        uuid: Some(uuid(&superblock.uuid)),
        block_size: superblock.block_size,
        warnings: Vec::new(),
    }
}

impl Xfs {
    /// Opens the filesystem on a device, and replays its log into memory where it has changes.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] where there is none, [`Error::Unsupported`] for a feature that is not known,
    /// [`Error::Corrupt`] for a damaged superblock or log, and those of reading.
    pub fn open(device: SharedDevice, options: &FsOptions) -> Result<Self> {
        Self::open_with(device, &[], options)
    }

    /// Opens the filesystem on a device, and looks for its real-time device, where it has one, among `others`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(device: SharedDevice, others: &[SharedDevice], options: &FsOptions) -> Result<Self> {
        let on_disk = read_superblock(&device)?;
        let mut warnings = Vec::new();
        if on_disk.data_blocks << on_disk.block_log > device.size() {
            warnings.push("the device is smaller than its XFS filesystem: what lies behind its end is lost".into());
        }
        if on_disk.needs_repair {
            warnings.push("an administrator's tool asked for xfs_repair before the next mount".into());
        }
        let runs = Store::runs(device, options);
        let replay = log::replay(&runs, &on_disk)?;
        warnings.extend(replay.warnings);
        let superblock = if replay.changed {
            let mut bytes = vec![0; on_disk.sector_size as usize];
            replay.overlay.read(&runs, &mut bytes, 0)?;
            Superblock::parse(&bytes, false)?
        } else {
            on_disk
        };
        let store = Store::new(runs, replay.overlay, &superblock, options);
        let info = FsInfo { warnings, ..describe(&superblock) };
        let disk = Disk { superblock, store, exchanged: replay.exchanged, remaps: replay.remaps };
        let sum_counters = replay.changed || replay.unread;
        let (inodes, chunks) = (Cache::new(&options.cache), Cache::new(&options.cache));
        let real_time = RealTime::find(&disk.superblock, others);
        let filesystem = Self { disk, real_time, info, sum_counters, counts: OnceLock::new(), inodes, chunks };
        if !filesystem.inode(filesystem.root())?.attr.is_dir() {
            return Err(Error::corrupt("superblock", "its root is no directory"));
        }
        Ok(filesystem)
    }

    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.inodes.get_or_insert(ino, || {
            let (ag, within) = self.disk.superblock.split_inode(ino).ok_or(Error::Errno(libc::ENOENT))?;
            if !self.is_in_use(ag, within)? {
                return Err(Error::Errno(libc::ENOENT));
            }
            let inode = self.disk.inode(ino)?;
            if inode.internal {
                return Err(Error::Errno(libc::ENOENT));
            }
            let cost = inode.cost();
            Ok((Arc::new(inode), cost))
        })
    }

    /// Says whether the inode tree has an inode in use. Where the tree is damaged, the inode's own mode must do.
    fn is_in_use(&self, ag: u32, inode: u32) -> Result<bool> {
        let key = (ag, inode / inode_tree::CHUNK);
        if self.chunks.get(&key).is_some_and(|chunk| chunk.holds(inode)) {
            return Ok(true);
        }
        match inode_tree::find(&self.disk.store, &self.disk.superblock, ag, inode) {
            Ok(Some(chunk)) => {
                self.chunks.insert(key, chunk, size_of::<Chunk>());
                Ok(chunk.holds(inode))
            }
            Ok(None) => Ok(false),
            Err(error) if matches!(error.root(), Error::Corrupt { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn regular(&self, ino: Ino) -> Result<Arc<Inode>> {
        let inode = self.inode(ino)?;
        inode.attr.file_type.check_regular()?;
        Ok(inode)
    }

    fn stretch(&self, inode: &Inode, offset: u64) -> Result<seek::Stretch> {
        let log = self.disk.superblock.block_log;
        let mapping = self.disk.map(data_fork(inode), offset >> log)?;
        let data = mapping.extent.is_some_and(|extent| !extent.unwritten);
        Ok(seek::Stretch { end: mapping.end.saturating_mul(1 << log), data })
    }

    fn seek(&self, ino: Ino, offset: u64, want_data: bool) -> Result<u64> {
        let inode = self.regular(ino)?;
        seek::find(offset, inode.attr.size, want_data, |at| self.stretch(&inode, at))
    }

    fn attributes<T>(&self, ino: Ino, ask: impl FnOnce(Attributes<'_>) -> Result<T>) -> Result<Option<T>> {
        let inode = self.inode(ino)?;
        Attributes::new(&self.disk, &inode).map(ask).transpose()
    }
}

fn data_fork(inode: &Inode) -> ForkOf<'_> {
    ForkOf { ino: inode.attr.ino, fork: &inode.data, real_time: inode.real_time }
}

impl Filesystem for Xfs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        if let Some(counts) = self.counts.get() {
            return Ok(*counts);
        }
        let counts = statfs::statfs(&self.disk, self.sum_counters)?;
        Ok(*self.counts.get_or_init(|| counts))
    }

    fn root(&self) -> Ino {
        self.disk.superblock.root
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.inode(ino)?.attr.clone())
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let inode = self.inode(dir)?;
        let directory = Directory::new(&self.disk, &inode)?;
        if name.len() > 255 {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        let found = directory.find(name)?.ok_or(Error::Errno(libc::ENOENT))?;
        match self.inode(found) {
            Err(error) if error.is_errno(libc::ENOENT) => {
                Err(Error::corrupt(format!("directory {dir}"), format!("a name leads to inode {found}, which is free")))
            }
            inode => Ok(inode?.attr.clone()),
        }
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let inode = self.inode(dir)?;
        Directory::new(&self.disk, &inode)?.list(cookie, visit)
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        let inode = self.inode(dir)?;
        let directory = Directory::new(&self.disk, &inode)?;
        if dir == self.root() { Ok(dir) } else { directory.parent() }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        symlink::read(&self.disk, &*self.inode(ino)?)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.regular(ino)?;
        let Some(left) = inode.attr.size.checked_sub(offset).filter(|&left| left > 0) else { return Ok(0) };
        let len = left.min(buf.len() as u64) as usize;
        let superblock = &self.disk.superblock;
        let fork = data_fork(&inode);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let mapping = self.disk.map(fork, at >> superblock.block_log)?;
            // A hole may end past what a byte offset can say; the file ends before.
            let stretch = mapping.end.saturating_mul(1 << superblock.block_log) - at;
            let count = stretch.min((len - done) as u64) as usize;
            let part = &mut buf[done..done + count];
            match mapping.extent.filter(|extent| !extent.unwritten) {
                Some(extent) if inode.real_time => {
                    let into = at - (extent.file_block << superblock.block_log);
                    self.real_time.read(superblock, ino, extent.block, into, part)?;
                }
                Some(extent) => {
                    let start = superblock
                        .block_offset(extent.block, extent.count)
                        .ok_or_else(|| Error::corrupt(format!("inode {ino}"), "an extent passes the end"))?;
                    let into = at - (extent.file_block << superblock.block_log);
                    self.disk.store.device().read_at(part, start + into)?;
                }
                None => part.fill(0),
            }
            done += count;
        }
        Ok(len)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, true)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, false)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.attributes(ino, |attributes| attributes.value(name))?.flatten().ok_or(Error::Errno(libc::ENODATA))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(self.attributes(ino, |attributes| attributes.names())?.unwrap_or_default())
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let superblock = &self.disk.superblock;
        let first = self.inode(ino).ok().and_then(|inode| match &inode.data {
            Fork::Extents(extents) if !inode.real_time => superblock.block_offset(extents.first()?.block, 1),
            Fork::Tree(root) => superblock.block_offset(root.first_child(), 1),
            _ => None,
        });
        first.or_else(|| superblock.inode_offset(ino)).unwrap_or(0)
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        let Ok(inode) = self.regular(ino) else { return };
        let superblock = &self.disk.superblock;
        let end = offset.saturating_add(len).min(inode.attr.size);
        let mut at = offset;
        for _ in 0..MAX_PREFETCH {
            if at >= end || inode.real_time {
                break;
            }
            let Ok(mapping) = self.disk.map(data_fork(&inode), at >> superblock.block_log) else { break };
            let next = mapping.end.saturating_mul(1 << superblock.block_log).min(end);
            if let Some(extent) = mapping.extent.filter(|extent| !extent.unwritten)
                && let Some(start) = superblock.block_offset(extent.block, extent.count)
            {
                self.disk.store.prefetch(start + (at - (extent.file_block << superblock.block_log)), next - at);
            }
            at = next;
        }
    }
}
