//! EROFS, the filesystem of packed images, for reading: of Android, of containers, of the metadata of composefs.
//!
//! Files lie in blocks, behind their inodes or in chunks, or are compressed by LZ4; those that are compressed in other ways are
//! told of with all that `stat` shows, and their contents are refused by name. Nothing but the superblock has a checksum.
//!
//! An inode's number is where it lies, in units of 32 bytes, so whether one was ever given out cannot be told from it. A
//! directory may be found in itself on a damaged filesystem; it has the same number then, so whoever walks the tree can tell.
//!
//! The format is specified by Linux `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h`.

mod compressed;
mod directory;
mod disk;
mod inode;
mod superblock;
mod xattr;

use super::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs, seek};
use crate::block::{RunCache, SharedDevice};
use crate::bytes::{le16, uuid};
use crate::cache::Cache;
use crate::error::{Error, Result};
use directory::{Directory, MAX_NAME};
use disk::Disk;
use inode::{Inode, Layout};
use std::ops::ControlFlow;
use std::sync::Arc;
use superblock::Superblock;
use xattr::Prefix;

/// The size of the runs in which metadata is read, in bytes.
const RUN_SIZE: u32 = 64 << 10;

/// The longest text of a symbolic link, in bytes.
const MAX_LINK: u64 = 64 << 10;

/// The most stretches of a file that are looked at for its next data or hole.
const MAX_STRETCHES: u32 = 1 << 16;

/// The most stretches that one hint asks the device for.
const MAX_PREFETCH: usize = 32;

/// An open EROFS filesystem.
pub struct Erofs {
    disk: Disk,
    prefixes: Vec<Option<Prefix>>,
    inodes: Cache<Ino, Arc<Inode>>,
    info: FsInfo,
}

impl Erofs {
    /// Opens the filesystem on a device.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] where there is none, [`Error::Unsupported`] for a feature that is not known,
    /// [`Error::Corrupt`] for a damaged superblock, and those of reading.
    pub fn open(device: SharedDevice, options: &FsOptions) -> Result<Self> {
        let end = superblock::OFFSET + superblock::SIZE as u64;
        if device.size() < end {
            return Err(Error::NotAnImage("this is no EROFS filesystem: it is too small".into()));
        }
        let mut bytes = [0; superblock::SIZE];
        device.read_at(&mut bytes, superblock::OFFSET)?;
        let superblock = Superblock::parse(&bytes)?;
        let size = device.size();
        let mut warnings = Vec::new();
        if let Some(len) = superblock.checked_len() {
            if superblock::OFFSET + len as u64 > size {
                return Err(Error::corrupt("superblock", "its block passes the end"));
            }
            let mut covered = vec![0; len];
            device.read_at(&mut covered, superblock::OFFSET)?;
            superblock.verify(&covered)?;
        }
        if superblock.blocks << superblock.block_log > size {
            warnings.push("the device is smaller than its EROFS filesystem: what lies behind its end is lost".into());
        }
        if superblock.extra_devices > 0 {
            warnings.push("files whose data lies on further devices are not read".into());
        }
        let info = FsInfo {
            kind: "erofs",
            label: (!superblock.label.is_empty()).then(|| superblock.label.clone()),
            uuid: (superblock.uuid != [0; 16]).then(|| uuid(&superblock.uuid)),
            block_size: 1 << superblock.block_log,
            warnings,
        };
        let disk = Disk {
            superblock,
            runs: RunCache::new(device, RUN_SIZE, &options.cache),
            extents: Cache::new(&options.cache),
        };
        let mut fs = Self { disk, prefixes: Vec::new(), inodes: Cache::new(&options.cache), info };
        if !fs.inode(fs.root())?.attr.is_dir() {
            return Err(Error::corrupt("superblock", "its root is no directory"));
        }
        match fs.read_prefixes() {
            Ok(prefixes) => fs.prefixes = prefixes,
            Err(error) => {
                fs.info.warnings.push(format!("attributes whose names have a long prefix are not shown: {error}"))
            }
        }
        Ok(fs)
    }

    /// Reads the long prefixes: each a length in 16 bits and so many bytes, aligned to 4.
    fn read_prefixes(&self) -> Result<Vec<Option<Prefix>>> {
        let superblock = &self.disk.superblock;
        let within = match superblock.prefixes_inode {
            0 => None,
            ino => Some(self.disk.inode(ino)?),
        };
        let read = |buf: &mut [u8], at: u64| match &within {
            Some(inode) if at.checked_add(buf.len() as u64).is_none_or(|end| end > inode.attr.size) => {
                Err(Error::corrupt("prefixes of attributes", "they pass the end of their inode"))
            }
            Some(inode) => self.disk.read(inode, at, buf, true),
            None => self.disk.metadata(superblock.root, buf, at),
        };
        let mut at = superblock.prefixes_start;
        let mut prefixes = Vec::new();
        for _ in 0..superblock.prefixes {
            let mut len = [0; 2];
            read(&mut len, at)?;
            let mut bytes = vec![0; usize::from(le16(&len, 0)).min(MAX_NAME + 1)];
            read(&mut bytes, at + 2)?;
            prefixes.push(Prefix::parse(&bytes));
            at = (at + 2 + u64::from(le16(&len, 0))).next_multiple_of(4);
        }
        Ok(prefixes)
    }

    fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        self.inodes.get_or_insert(ino, || Ok((Arc::new(self.disk.inode(ino)?), size_of::<Inode>())))
    }

    fn regular(&self, ino: Ino) -> Result<Arc<Inode>> {
        let inode = self.inode(ino)?;
        inode.attr.file_type.check_regular()?;
        Ok(inode)
    }

    fn seek(&self, ino: Ino, offset: u64, want_data: bool) -> Result<u64> {
        let inode = self.regular(ino)?;
        let mut left = MAX_STRETCHES;
        seek::find(offset, inode.attr.size, want_data, |at| {
            left -= 1;
            if left == 0 {
                // A hole may be called data; so much work may not be asked for.
                left = 1;
                return Ok(seek::Stretch { end: inode.attr.size, data: true });
            }
            if matches!(inode.layout, Layout::Compressed { .. }) {
                return Ok(seek::Stretch { end: inode.attr.size, data: true });
            }
            let mapping = self.disk.map(&inode, at)?;
            Ok(seek::Stretch { end: mapping.end, data: mapping.at.is_some() })
        })
    }
}

impl Filesystem for Erofs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        let superblock = &self.disk.superblock;
        Ok(StatFs {
            block_size: 1 << superblock.block_log,
            blocks: superblock.blocks,
            files: superblock.inodes,
            name_max: MAX_NAME as u32,
            ..StatFs::default()
        })
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
        if name.len() > MAX_NAME {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        let found = directory.find(name)?.ok_or(Error::Errno(libc::ENOENT))?;
        match self.inode(found) {
            Err(error) if error.is_errno(libc::ENOENT) => {
                Err(Error::corrupt(format!("directory {dir}"), format!("a name leads to inode {found}, past the end")))
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
        if dir == self.root() {
            return Ok(dir);
        }
        directory.find(b"..")?.ok_or_else(|| Error::corrupt(format!("directory {dir}"), "it names no parent"))
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.attr.file_type != FileType::Symlink {
            return Err(Error::Errno(libc::EINVAL));
        }
        if inode.attr.size > MAX_LINK {
            return Err(Error::corrupt(format!("symbolic link {ino}"), "its text is too long"));
        }
        let mut text = vec![0; inode.attr.size as usize];
        self.disk.read(&inode, 0, &mut text, true)?;
        Ok(text)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.regular(ino)?;
        let Some(left) = inode.attr.size.checked_sub(offset).filter(|&left| left > 0) else { return Ok(0) };
        let len = left.min(buf.len() as u64) as usize;
        self.disk.read(&inode, offset, &mut buf[..len], false)?;
        Ok(len)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, true)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, false)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let mut value = None;
        xattr::each(&self.disk, &self.prefixes, &*self.inode(ino)?, &mut |own, bytes| {
            if own == name {
                value = Some(bytes.to_vec());
            }
            value.is_none()
        })?;
        value.ok_or(Error::Errno(libc::ENODATA))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        xattr::each(&self.disk, &self.prefixes, &*self.inode(ino)?, &mut |name, _| {
            names.push(name);
            true
        })?;
        Ok(names)
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let at = self.inode(ino).and_then(|inode| self.disk.map(&inode, 0));
        at.ok().and_then(|mapping| mapping.at).unwrap_or(0)
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        let Ok(inode) = self.regular(ino) else { return };
        let end = offset.saturating_add(len).min(inode.attr.size);
        let mut at = offset;
        for _ in 0..MAX_PREFETCH {
            if at >= end {
                break;
            }
            let Ok(mapping) = self.disk.map(&inode, at) else { break };
            let next = mapping.end.min(end);
            if let Some(from) = mapping.at {
                self.disk.runs.device().prefetch(from, next - at);
            }
            at = next;
        }
    }
}
