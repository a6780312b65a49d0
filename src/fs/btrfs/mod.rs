//! The Btrfs driver: reads filesystems of one or several devices, with all profiles, checksums and compressions.
//!
//! - Metadata and data are checked against their checksums; a copy that is damaged, stale or missing makes room for the
//!   next, or is rebuilt from parity. Nothing is repaired on the disk.
//! - Subvolumes and snapshots are folders. Each has inode numbers of its own; see [`subvolumes`] for how they become one.
//! - The log of what was synced just before a crash is replayed into memory at opening.
//! - Everything is found by key from a tree's root, in tree blocks that the cache keeps.
//!
//! The format is specified in "On-disk Format" of the Btrfs documentation (`btrfs.readthedocs.io/en/latest/dev`).

mod checksum;
mod chunk;
mod compress;
mod data;
mod device_item;
mod dir_item;
mod file_extent;
mod inode_item;
mod inode_ref;
mod key;
mod log;
mod node;
mod open;
mod overlay;
mod root_item;
mod space;
mod store;
mod subvolumes;
mod superblock;
mod tree;
mod volume;

use crate::block::{BlockDevice, SharedDevice};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, FsOptions, Ino, StatFs, seek};
use data::{Data, ExtentCache};
use file_extent::{Content, FileExtent, FileMap};
use inode_item::InodeItem;
use key::{Key, kinds, objects};
use open::Opened;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use subvolumes::{EMPTY_DIRECTORY, Place};
use tree::Tree;

/// The longest text of a symbolic link, in bytes.
const LINK_MAX: u64 = 64 << 10;
/// How deep a path of directories may go when it is followed upwards.
const DEPTH_MAX: usize = 4096;

/// Which subvolume is the root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subvolume {
    /// The one at a path from the top level.
    Path(Vec<u8>),
    /// The one with an identifier; 5 is the top level.
    Id(u64),
}

/// A subvolume or snapshot, as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its identifier.
    pub id: u64,
    /// The identifier of the subvolume that it stands in; `None` for the top level.
    pub parent: Option<u64>,
    /// Its path from the top level, without a slash before it; empty for the top level.
    pub path: Vec<u8>,
    /// Whether nothing may be written to it.
    pub is_read_only: bool,
}

/// What a device says of the filesystem that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The filesystem's UUID.
    pub fsid: String,
    /// The device's number in it.
    pub devid: u64,
    /// How many devices it has.
    pub num_devices: u64,
}

/// Says what Btrfs a device holds, or holds a part of; `None` when it holds none.
///
/// # Errors
/// Those of reading, and [`Error::Corrupt`] when it is a Btrfs but no superblock is whole.
pub fn probe(device: &dyn BlockDevice) -> Result<Option<FsInfo>> {
    if !superblock::is_there(device)? {
        return Ok(None);
    }
    let found = superblock::find(device)?;
    Ok(found.map(|found| info_of(&found.superblock, found.warning.into_iter().collect())))
}

/// Says which filesystem of several devices a device belongs to, where it does.
///
/// # Errors
/// As [`probe`].
pub fn member_of(device: &dyn BlockDevice) -> Result<Option<Member>> {
    if !superblock::is_there(device)? {
        return Ok(None);
    }
    let found = superblock::find(device)?;
    Ok(found.map(|found| found.superblock).map(|superblock| Member {
        fsid: superblock.uuid(),
        devid: superblock.devid,
        num_devices: superblock.num_devices,
    }))
}

fn info_of(superblock: &superblock::Superblock, warnings: Vec<String>) -> FsInfo {
    FsInfo {
        kind: "btrfs",
        label: (!superblock.label.is_empty()).then(|| superblock.label.clone()),
        uuid: Some(superblock.uuid()),
        block_size: superblock.sector_size,
        warnings,
    }
}

/// A Btrfs open for reading.
pub struct Btrfs {
    info: FsInfo,
    opened: Opened,
    root: Ino,
    inodes: Cache<Ino, Arc<InodeItem>>,
    maps: Cache<Ino, Arc<FileMap>>,
    extents: ExtentCache,
    space: OnceLock<StatFs>,
}

impl Btrfs {
    /// Opens the filesystem on `device`, with those of `others` that belong to it (what does not is passed over). The root
    /// is `subvolume`, or the default subvolume where there is none.
    ///
    /// A device that is missing is a warning; what cannot be read without it is an error when it is read.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] when there is no Btrfs, [`Error::Unsupported`] for a feature that cannot be read,
    /// [`Error::NotFound`] when there is no such subvolume, and those of reading.
    pub fn open(
        device: SharedDevice,
        others: &[SharedDevice],
        subvolume: Option<&Subvolume>,
        options: &FsOptions,
    ) -> Result<Self> {
        let mut opened = open::open(&device, others, &options.cache)?;
        let warnings = std::mem::take(&mut opened.warnings);
        let mut filesystem = Self {
            info: info_of(&opened.superblock, warnings),
            opened,
            root: 0,
            inodes: Cache::new(&options.cache),
            maps: Cache::new(&options.cache),
            extents: Cache::new(&options.cache),
            space: OnceLock::new(),
        };
        filesystem.root = match subvolume {
            None => filesystem.root_of(filesystem.default_subvolume()?)?,
            Some(Subvolume::Id(id)) => filesystem.root_of(*id)?,
            Some(Subvolume::Path(path)) => filesystem.root_at(path)?,
        };
        Ok(filesystem)
    }

    /// Returns all subvolumes and snapshots, in the order of their identifiers.
    ///
    /// # Errors
    /// Those of reading.
    pub fn subvolumes(&self) -> Result<Vec<SubvolumeInfo>> {
        self.opened
            .table
            .iter()
            .map(|entry| {
                let parent = subvolumes::parent(&self.root_tree(), entry.id)?.map(|parent| parent.id);
                let path = self.path_of(entry.id)?;
                Ok(SubvolumeInfo { id: entry.id, parent, path, is_read_only: entry.item.is_read_only })
            })
            .collect()
    }

    /// Returns the identifier of the subvolume that is the root where none is named.
    ///
    /// # Errors
    /// Those of reading.
    pub fn default_subvolume(&self) -> Result<u64> {
        let key = Key::new(objects::ROOT_TREE_DIR, kinds::DIR_ITEM, key::name_hash(b"default"));
        let Some(item) = self.root_tree().get(&key)? else { return Ok(objects::FS_TREE) };
        Ok(dir_item::find(key, &item, b"default")?.map_or(objects::FS_TREE, |entry| entry.target.object))
    }

    fn root_tree(&self) -> Tree<'_> {
        Tree::new(&self.opened.store, self.opened.root_tree)
    }

    fn root_of(&self, id: u64) -> Result<Ino> {
        let subvolume = self
            .opened
            .table
            .find(id)
            .ok_or_else(|| Error::NotFound(format!("there is no subvolume with the identifier {id}").into()))?;
        self.ino_of_root(subvolume)
    }

    fn ino_of_root(&self, subvolume: usize) -> Result<Ino> {
        let entry = self.opened.table.get(subvolume).ok_or(Error::Errno(libc::ENOENT))?;
        if entry.item.root_dir != objects::FIRST_FREE {
            let detail = format!("its root directory is {}", entry.item.root_dir);
            return Err(Error::corrupt(format!("Btrfs subvolume {}", entry.id), detail));
        }
        Place { subvolume, number: objects::FIRST_FREE }.ino()
    }

    fn root_at(&self, path: &[u8]) -> Result<Ino> {
        let missing = |why: &str| Error::NotFound(format!("{} is no subvolume: {why}", path.escape_ascii()).into());
        let mut at = self.root_of(objects::FS_TREE)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
            at = match self.lookup(at, name) {
                Ok(attr) => attr.ino,
                Err(error) if matches!(error.errno(), libc::ENOENT | libc::ENOTDIR) => {
                    return Err(missing("there is nothing of that name"));
                }
                Err(error) => return Err(error),
            };
        }
        if Place::of(at).number == objects::FIRST_FREE { Ok(at) } else { Err(missing("it is something else")) }
    }

    fn path_of(&self, id: u64) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut id = id;
        let endless = || Error::corrupt("Btrfs root tree", "the path of a subvolume has no end");
        while let Some(parent) = subvolumes::parent(&self.root_tree(), id)? {
            names.push(parent.name);
            let Some(subvolume) = self.opened.table.find(parent.id) else { break };
            let mut dir = parent.dir;
            while dir != objects::FIRST_FREE {
                let Some((above, name)) = self.name_of(Place { subvolume, number: dir })? else { break };
                names.push(name);
                dir = above;
                if names.len() > DEPTH_MAX {
                    return Err(endless());
                }
            }
            if names.len() > DEPTH_MAX {
                return Err(endless());
            }
            id = parent.id;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }

    /// Returns a name of an inode and the directory that has it.
    fn name_of(&self, place: Place) -> Result<Option<(u64, Vec<u8>)>> {
        let last = Key::new(place.number, kinds::INODE_EXTREF, u64::MAX);
        let mut items = self.tree(place)?.range(Key::new(place.number, kinds::INODE_REF, 0), last)?;
        let Some((key, item)) = items.next()? else { return Ok(None) };
        let Some(name) = inode_ref::names(key, &item).next().transpose()? else { return Ok(None) };
        Ok(Some((name.parent, name.name.to_vec())))
    }

    fn entry(&self, place: Place) -> Result<&subvolumes::Entry> {
        self.opened.table.get(place.subvolume).ok_or(Error::Errno(libc::ENOENT))
    }

    fn tree(&self, place: Place) -> Result<Tree<'_>> {
        Ok(self.entry(place)?.tree(&self.opened.store))
    }

    fn inode(&self, ino: Ino) -> Result<Arc<InodeItem>> {
        self.inodes.get_or_insert(ino, || {
            let place = Place::of(ino);
            let is_empty = place.number == EMPTY_DIRECTORY;
            let number = if is_empty { objects::FIRST_FREE } else { place.number };
            let key = Key::new(number, kinds::INODE_ITEM, 0);
            // Numbers below are other things of the tree's.
            let item = match number {
                objects::FIRST_FREE.. => self.tree(place)?.get(&key)?,
                _ => None,
            };
            let mut inode = InodeItem::parse(&item.ok_or(Error::Errno(libc::ENOENT))?, number)?;
            if is_empty {
                inode = empty_directory(&inode);
            } else if inode.nlink == 0 && self.name_of(place)?.is_none() {
                // It waits to be deleted.
                return Err(Error::Errno(libc::ENOENT));
            }
            Ok((Arc::new(inode), size_of::<InodeItem>()))
        })
    }

    fn directory(&self, ino: Ino) -> Result<Place> {
        match self.inode(ino)?.file_type {
            FileType::Directory => Ok(Place::of(ino)),
            _ => Err(Error::Errno(libc::ENOTDIR)),
        }
    }

    /// Returns the driver's number of what an entry of a directory names.
    fn target(&self, dir: Place, entry: &dir_item::Entry<'_>) -> Result<Ino> {
        match entry.target.kind {
            kinds::INODE_ITEM => Place { number: entry.target.object, ..dir }.ino(),
            kinds::ROOT_ITEM => {
                let (parent, child) = (self.entry(dir)?.id, entry.target.object);
                match self.opened.table.find(child) {
                    Some(subvolume)
                        if subvolumes::stands_in(&self.root_tree(), parent, child, dir.number, entry.name)? =>
                    {
                        self.ino_of_root(subvolume)
                    }
                    _ => Place { number: EMPTY_DIRECTORY, ..dir }.ino(),
                }
            }
            other => Err(Error::corrupt(
                format!("Btrfs directory {}", dir.number),
                format!("an entry names an item of kind {other}"),
            )),
        }
    }

    fn map(&self, ino: Ino, tree: &Tree<'_>) -> Result<Arc<FileMap>> {
        self.maps.get_or_insert(ino, || {
            let map = FileMap::read(tree, Place::of(ino).number)?;
            let weight = map.weight();
            Ok((Arc::new(map), weight))
        })
    }

    /// Returns the inode, for who reads from a regular file.
    fn regular(&self, ino: Ino) -> Result<Arc<InodeItem>> {
        let inode = self.inode(ino)?;
        inode.file_type.check_regular()?;
        Ok(inode)
    }

    /// Fills the beginning of `buf` from an inode's extents; the range lies below its size, of which `wanted` is left.
    fn read_extents(&self, ino: Ino, inode: &InodeItem, offset: u64, wanted: usize, buf: &mut [u8]) -> Result<()> {
        let place = Place::of(ino);
        let entry = self.entry(place)?;
        let tree = entry.tree(&self.opened.store);
        let map = self.map(ino, &tree)?;
        let mut sums = Vec::new();
        let has_sums = inode.flags & inode_item::flags::NODATASUM == 0;
        if has_sums {
            // What was logged has its checksums in the log.
            let logs = entry.log.iter().chain(&self.opened.logs);
            sums.extend(logs.map(|log| Tree::new(&self.opened.store, *log)));
            sums.extend(self.opened.csum_tree.map(|root| Tree::new(&self.opened.store, root)));
        }
        let data =
            Data { store: &self.opened.store, sums: has_sums.then_some(sums.as_slice()), extents: &self.extents };
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let extent = map.at(&tree, place.number, at)?;
            done += data.read(&extent, at, wanted - done, &mut buf[done..])?;
        }
        Ok(())
    }

    fn seek(&self, ino: Ino, offset: u64, want_data: bool) -> Result<u64> {
        let inode = self.regular(ino)?;
        let place = Place::of(ino);
        let tree = self.tree(place)?;
        let map = self.map(ino, &tree)?;
        seek::find(offset, inode.size, want_data, |at| {
            let extent = map.at(&tree, place.number, at)?;
            Ok(seek::Stretch { end: extent.end, data: extent.is_data() })
        })
    }
}

/// What stands in a snapshot in the place of a subvolume: an empty directory that belongs to whom the root belongs to.
fn empty_directory(root: &InodeItem) -> InodeItem {
    InodeItem { size: 0, nbytes: 0, nlink: 1, permissions: 0o755, flags: 0, generation: 0, ..root.clone() }
}

impl Filesystem for Btrfs {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        if let Some(space) = self.space.get() {
            return Ok(*space);
        }
        let Opened { store, superblock, devices, .. } = &self.opened;
        let groups = self.opened.group_tree.map(|root| Tree::new(store, root));
        let space = space::statfs(store, superblock, groups.as_ref(), devices, self.opened.used_by_trees)?;
        Ok(*self.space.get_or_init(|| space))
    }

    fn root(&self) -> Ino {
        self.root
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        Ok(self.inode(ino)?.attr(ino, self.opened.store.sector_size))
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let place = self.directory(dir)?;
        if name.len() > 255 {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        let key = Key::new(place.number, kinds::DIR_ITEM, key::name_hash(name));
        let item = match place.number {
            EMPTY_DIRECTORY => None,
            _ => self.tree(place)?.get(&key)?,
        };
        let item = item.ok_or(Error::Errno(libc::ENOENT))?;
        let entry = dir_item::find(key, &item, name)?.ok_or(Error::Errno(libc::ENOENT))?;
        entry.file_type()?;
        let ino = self.target(place, &entry)?;
        self.attr(ino).map_err(|error| match error {
            Error::Errno(libc::ENOENT) => {
                Error::corrupt(format!("Btrfs directory {}", place.number), "an entry names an inode that is not there")
            }
            other => other,
        })
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let place = self.directory(dir)?;
        if place.number == EMPTY_DIRECTORY {
            return Ok(());
        }
        let from = Key::new(place.number, kinds::DIR_INDEX, cookie);
        let mut items = self.tree(place)?.range(from, Key { offset: u64::MAX, ..from })?;
        while let Some((key, item)) = items.next()? {
            let damaged = |detail| Error::corrupt(format!("Btrfs directory {}", place.number), detail);
            let next_cookie = key.offset.checked_add(1).ok_or_else(|| damaged("an entry has the last index of all"))?;
            for entry in dir_item::entries(key, &item) {
                let entry = entry?;
                let file_type = entry.file_type()?;
                if !dir_item::is_good_name(entry.name) {
                    return Err(damaged("a name that cannot be"));
                }
                let ino = self.target(place, &entry)?;
                if visit(DirEntry { name: entry.name, ino, file_type, next_cookie }).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        let place = self.directory(dir)?;
        if dir == self.root {
            return Ok(dir);
        }
        match place.number {
            EMPTY_DIRECTORY => self.ino_of_root(place.subvolume),
            objects::FIRST_FREE => {
                let parent = subvolumes::parent(&self.root_tree(), self.entry(place)?.id)?;
                let above = parent.and_then(|parent| Some((self.opened.table.find(parent.id)?, parent.dir)));
                match above {
                    Some((subvolume, number)) => Place { subvolume, number }.ino(),
                    None => Ok(dir),
                }
            }
            _ => {
                let (number, _) = self.name_of(place)?.ok_or(Error::Errno(libc::ENOENT))?;
                Place { number, ..place }.ino()
            }
        }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.file_type != FileType::Symlink {
            return Err(Error::Errno(libc::EINVAL));
        }
        if inode.size > LINK_MAX {
            let detail = format!("a symbolic link of {} bytes", inode.size);
            return Err(Error::corrupt(format!("Btrfs inode {}", Place::of(ino).number), detail));
        }
        let mut text = vec![0; inode.size as usize];
        self.read_extents(ino, &inode, 0, text.len(), &mut text)?;
        Ok(text)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let inode = self.regular(ino)?;
        let wanted = inode.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        self.read_extents(ino, &inode, offset, wanted, buf)?;
        Ok(wanted)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, true)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.seek(ino, offset, false)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.inode(ino)?;
        let place = Place::of(ino);
        let none = || Error::Errno(libc::ENODATA);
        if place.number == EMPTY_DIRECTORY {
            return Err(none());
        }
        let key = Key::new(place.number, kinds::XATTR_ITEM, key::name_hash(name));
        let item = self.tree(place)?.get(&key)?.ok_or_else(none)?;
        Ok(dir_item::find(key, &item, name)?.ok_or_else(none)?.value.to_vec())
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.inode(ino)?;
        let place = Place::of(ino);
        let mut names = Vec::new();
        if place.number == EMPTY_DIRECTORY {
            return Ok(names);
        }
        let mut items = self.tree(place)?.items(place.number, kinds::XATTR_ITEM)?;
        while let Some((key, item)) = items.next()? {
            for entry in dir_item::entries(key, &item) {
                names.push(entry?.name.to_vec());
            }
        }
        Ok(names)
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        let first = || -> Result<Option<u64>> {
            let place = Place::of(ino);
            let Some((key, item)) = self.tree(place)?.items(place.number, kinds::EXTENT_DATA)?.next()? else {
                return Ok(None);
            };
            Ok(match FileExtent::parse(key, &item, self.opened.store.sector_size)?.content {
                Content::Plain(address) => self.opened.store.volume.physical(address),
                Content::Compressed { extent, .. } => self.opened.store.volume.physical(extent.address),
                _ => None,
            })
        };
        // What is in the tree itself costs nothing to reach, and comes first.
        first().ok().flatten().unwrap_or(0)
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        let hint = || -> Result<()> {
            let place = Place::of(ino);
            let tree = self.tree(place)?;
            let Some(map) = self.maps.get(&ino) else { return Ok(()) };
            let end = offset.saturating_add(len).min(self.inode(ino)?.size);
            let mut at = offset;
            while at < end {
                let extent = map.at(&tree, place.number, at)?;
                let (skip, len) = (at - extent.start, extent.end.min(end) - at);
                let store = &self.opened.store;
                match extent.content {
                    Content::Plain(address) => store.volume.prefetch(address + skip, len),
                    Content::Compressed { extent, .. } => store.volume.prefetch(extent.address, extent.stored.into()),
                    _ => {}
                }
                at = extent.end;
            }
            Ok(())
        };
        // It is a hint: whoever reads meets the error.
        let _ = hint();
    }
}
