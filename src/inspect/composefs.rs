//! A system whose tree is an image of composefs, as bootc deploys them: the metadata is an EROFS filesystem in
//! `/composefs/images`, the contents of files lie below `/composefs/objects`, and `/etc` and `/var` of a deployment in
//! `/state/deploy/<id>`.
//!
//! The image is made for overlayfs, whose attributes say which object holds the contents of a file: `overlay.metacopy` that it
//! is elsewhere, and `overlay.redirect` where. Files without them have their contents in the image itself. Names that the image
//! takes away (character devices with the number 0/0) are not shown. Checksums of fs-verity are not compared.

use super::boot;
use super::layers::is_whiteout;
use super::linux;
use super::read::{Guest, join, tidy};
use super::subtree::Subtree;
use super::types::{Deployment, Kind, System};
use crate::block::BlockDevice;
use crate::cache::CachePool;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::erofs::Erofs;
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs};
use crate::tree::{Mount, Tree};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most deployments that are looked at.
const MAX_DEPLOYMENTS: usize = 32;

/// What may be kept in mind of an image, in bytes.
const CACHE: usize = 8 << 20;

/// The most files whose objects are kept in mind.
const MAX_KNOWN: usize = 1 << 14;

const REDIRECT: &[u8] = b"trusted.overlay.redirect";
const PRIVATE: &[u8] = b"trusted.overlay.";
/// The beginning of an attribute that is called like one of overlayfs's own.
const ESCAPED: &[u8] = b"trusted.overlay.overlay.";

/// Finds the deployment that boots: the one that the boot loader's newest entry names, or else the newest folder.
pub(super) fn deployment(guest: &Guest<'_>) -> Option<Deployment> {
    if !guest.is_dir("/composefs/objects") || !guest.is_dir("/composefs/images") {
        return None;
    }
    let started = boot::newest_option(guest, "composefs=");
    // A question mark in front lets it start without fs-verity.
    let named = started.as_ref().map(|(id, _)| id.trim_start_matches('?').as_bytes());
    let deployed = guest.list("/state/deploy").into_iter().take(MAX_DEPLOYMENTS);
    let found = deployed.filter_map(|name| {
        let at = guest.found(join("/state/deploy", &name)).filter(|at| at.attr.is_dir())?;
        Some(((named == Some(&name), at.attr.mtime.seconds), name, at.path))
    });
    let (_, id, path) = found.max()?;
    let var = guest.found(join(&path, "var")).filter(|var| var.attr.is_dir());
    let var = var.map_or_else(|| join(&path, "var"), |var| var.path);
    Some(Deployment { image: Some(join("/composefs/images", id)), path, var })
}

/// Describes the system of a deployment whose image cannot be read, by what lies outside of it.
pub(super) fn look(tree: &Tree, guest: &Guest<'_>) -> Option<System> {
    let path = deployment(guest)?.path;
    let mut system = System::new(Kind::Linux, "unknown");
    system.product_name =
        boot::newest_option(guest, "composefs=").map(|(_, title)| title).filter(|title| !title.is_empty());
    let physical = tree.mounts().first()?.filesystem.clone();
    let state = Subtree::open(physical, &path).and_then(|state| {
        Tree::new(vec![Mount { filesystem: Arc::new(state), mountpoint: b"/".to_vec(), source: tidy(&path) }])
    });
    match state {
        Ok(state) => {
            let state = Guest::new(&state);
            linux::names(&state, &mut system);
            state.into_warnings().into_iter().for_each(|warning| guest.warn(warning));
        }
        Err(error) => guest.warn_of(&path, &error),
    }
    guest.warn(format!(
        "{}: the system lies in an image of composefs, which is not read: its release, packages and programs are not told",
        tidy(&path)
    ));
    Some(system)
}

/// A file of a filesystem as a device.
struct FileDevice {
    filesystem: Arc<dyn Filesystem>,
    ino: Ino,
    size: u64,
}

impl BlockDevice for FileDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.filesystem.read(self.ino, offset + done as u64, &mut buf[done..])? {
                0 => return Err(Error::corrupt("image of composefs", "it ends early")),
                count => done += count,
            }
        }
        Ok(())
    }
}

/// An image of composefs with the objects that it refers to, as a filesystem for reading.
pub struct Composefs {
    metadata: Erofs,
    objects: Subtree,
    /// The objects of files; none of those that have their contents in the image.
    known: Mutex<HashMap<Ino, Option<Ino>>>,
}

impl Composefs {
    /// Opens an image, by its path within the filesystem that holds it and the objects.
    ///
    /// # Errors
    /// Those of [`Tree::resolve`] and of [`Erofs::open`]; `EINVAL` where the path names no file.
    pub fn open(filesystem: Arc<dyn Filesystem>, image: &[u8]) -> Result<Self> {
        let place = || image.escape_ascii().to_string();
        let mount = Mount { filesystem: filesystem.clone(), mountpoint: b"/".to_vec(), source: String::new() };
        let attr = Tree::new(vec![mount])?.resolve(image, true).at(place)?.attr;
        if attr.file_type != FileType::Regular {
            return Err(Error::Errno(libc::EINVAL)).at(place);
        }
        let device = FileDevice { filesystem: filesystem.clone(), ino: attr.ino, size: attr.size };
        let metadata = Erofs::open(Arc::new(device), &FsOptions { cache: CachePool::new(CACHE) }).at(place)?;
        let objects = Subtree::open(filesystem, b"/composefs/objects")?;
        Ok(Self { metadata, objects, known: Mutex::new(HashMap::new()) })
    }

    /// Returns the inode of the object that holds a file's contents; none where the image itself does.
    fn object(&self, ino: Ino) -> Result<Option<Ino>> {
        if let Some(&known) = self.known.lock().get(&ino) {
            return Ok(known);
        }
        let found = match self.metadata.xattr(ino, REDIRECT) {
            Ok(path) => Some(self.find(ino, &path)?),
            Err(error) if error.is_errno(libc::ENODATA) => None,
            Err(error) => return Err(error),
        };
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(ino, found);
        Ok(found)
    }

    fn find(&self, ino: Ino, path: &[u8]) -> Result<Ino> {
        let missing = || Error::corrupt(format!("file {ino} of an image of composefs"), "its object is missing");
        let mut at = self.objects.root();
        let mut file_type = FileType::Directory;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if file_type != FileType::Directory || matches!(name, b"." | b"..") {
                return Err(missing());
            }
            let attr = match self.objects.lookup(at, name) {
                Err(error) if error.is_errno(libc::ENOENT) => return Err(missing()),
                attr => attr?,
            };
            (at, file_type) = (attr.ino, attr.file_type);
        }
        if file_type == FileType::Regular { Ok(at) } else { Err(missing()) }
    }
}

/// Returns the name that an attribute has in the image, by its name in the tree.
fn stored(name: &[u8]) -> Vec<u8> {
    name.strip_prefix(PRIVATE).map_or_else(|| name.to_vec(), |rest| [ESCAPED, rest].concat())
}

impl Filesystem for Composefs {
    fn info(&self) -> &FsInfo {
        self.metadata.info()
    }

    fn statfs(&self) -> Result<StatFs> {
        self.metadata.statfs()
    }

    fn root(&self) -> Ino {
        self.metadata.root()
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        self.metadata.attr(ino)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let attr = self.metadata.lookup(dir, name)?;
        if is_whiteout(&attr) { Err(Error::Errno(libc::ENOENT)) } else { Ok(attr) }
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        self.metadata.read_dir(dir, cookie, &mut |entry| {
            let may_hide = entry.file_type.is_none_or(|kind| kind == FileType::CharDevice);
            let hides = may_hide && self.metadata.attr(entry.ino).is_ok_and(|attr| is_whiteout(&attr));
            if hides { ControlFlow::Continue(()) } else { visit(entry) }
        })
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        self.metadata.parent(dir)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.metadata.read_link(ino)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let attr = self.metadata.attr(ino)?;
        let Some(object) = self.object(ino)?.filter(|_| attr.file_type == FileType::Regular) else {
            return self.metadata.read(ino, offset, buf);
        };
        let len = attr.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        if self.objects.attr(object)?.size < attr.size {
            return Err(Error::corrupt(format!("file {ino} of an image of composefs"), "its object is too short"));
        }
        self.objects.read(object, offset, &mut buf[..len])
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        match self.object(ino)? {
            Some(object) => self.objects.next_data(object, offset),
            None => self.metadata.next_data(ino, offset),
        }
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        match self.object(ino)? {
            Some(object) => self.objects.next_hole(object, offset),
            None => self.metadata.next_hole(ino, offset),
        }
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.metadata.xattr(ino, &stored(name))
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let shown = |name: Vec<u8>| match (name.strip_prefix(ESCAPED), name.starts_with(PRIVATE)) {
            (Some(rest), _) => Some([PRIVATE, rest].concat()),
            (None, true) => None,
            (None, false) => Some(name),
        };
        Ok(self.metadata.xattrs(ino)?.into_iter().filter_map(shown).collect())
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        match self.object(ino) {
            Ok(Some(object)) => self.objects.disk_order(object),
            _ => ino,
        }
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        if let Ok(Some(object)) = self.object(ino) {
            self.objects.prefetch(object, offset, len);
        }
    }
}
