//! Folders that lie over each other, shown as the one that overlayfs makes of them: the root of a container of Docker or
//! Podman, `/etc` of a transactional system.
//!
//! The rules are those of the kernel's `Documentation/filesystems/overlayfs.rst`: of several files of a name the upper one is
//! there, folders are merged, a character device with the number 0/0 takes a name away, and a folder whose attribute
//! `overlay.opaque` is `y` hides those below it. The attributes that the layers have for this are not shown. Redirected
//! folders and files of metadata alone, which need an option of the kernel that neither program sets, are not followed.

use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, Ino, StatFs};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The most files that are kept in mind.
const MAX_NODES: usize = 1 << 18;

/// The most names of one folder.
const MAX_NAMES: usize = 1 << 17;

/// The number of the root; the others follow.
const ROOT: Ino = 1;

/// The beginnings of the attributes that the layers have for overlayfs, with and without privileges.
const PRIVATE: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs."];

/// Where a file lies: in one layer, or as a folder in several, the upper first.
type Places = Vec<(usize, Ino)>;

/// Folders over each other, as a filesystem for reading.
pub struct Layers {
    /// The layers, the upper first.
    layers: Vec<Arc<dyn Filesystem>>,
    nodes: Mutex<Nodes>,
}

/// The files that were seen; their numbers are their places in the list, from [`ROOT`].
struct Nodes {
    list: Vec<(Places, Ino)>,
    known: HashMap<Places, Ino>,
}

impl Layers {
    /// Makes one filesystem of layers, the upper first. There is at least one.
    pub fn new(layers: Vec<Arc<dyn Filesystem>>) -> Self {
        let root: Places = layers.iter().map(|layer| layer.root()).enumerate().collect();
        let known = HashMap::from([(root.clone(), ROOT)]);
        Self { layers, nodes: Mutex::new(Nodes { list: vec![(root, ROOT)], known }) }
    }

    fn places(&self, ino: Ino) -> Result<Places> {
        let place = ino.checked_sub(ROOT).and_then(|place| usize::try_from(place).ok());
        let nodes = self.nodes.lock();
        Ok(place.and_then(|place| nodes.list.get(place)).ok_or(Error::Errno(libc::ENOENT))?.0.clone())
    }

    /// Returns the layer and the inode that a file's contents lie in.
    fn upper(&self, ino: Ino) -> Result<(&dyn Filesystem, Ino)> {
        let (layer, own) = *self.places(ino)?.first().ok_or(Error::Errno(libc::ENOENT))?;
        Ok((&*self.layers[layer], own))
    }

    fn number(&self, places: Places, parent: Ino) -> Result<Ino> {
        let mut nodes = self.nodes.lock();
        if let Some(&ino) = nodes.known.get(&places) {
            return Ok(ino);
        }
        if nodes.list.len() >= MAX_NODES {
            return Err(Error::Errno(libc::ENOMEM));
        }
        nodes.list.push((places.clone(), parent));
        let ino = ROOT + nodes.list.len() as Ino - 1;
        nodes.known.insert(places, ino);
        Ok(ino)
    }

    fn is_opaque(&self, layer: usize, ino: Ino) -> bool {
        PRIVATE.iter().any(|start| {
            let name = [start, &b"opaque"[..]].concat();
            self.layers[layer].xattr(ino, &name).is_ok_and(|value| value == b"y")
        })
    }
}

fn is_private(name: &[u8]) -> bool {
    PRIVATE.iter().any(|start| name.starts_with(start))
}

/// Says whether a file stands for none, and hides those below it.
pub(super) fn is_whiteout(attr: &Attr) -> bool {
    attr.file_type == FileType::CharDevice && attr.rdev == (0, 0)
}

impl Filesystem for Layers {
    fn info(&self) -> &FsInfo {
        self.layers[0].info()
    }

    fn statfs(&self) -> Result<StatFs> {
        self.layers[0].statfs()
    }

    fn root(&self) -> Ino {
        ROOT
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        let (layer, own) = self.upper(ino)?;
        Ok(Attr { ino, ..layer.attr(own)? })
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let mut found: Option<Attr> = None;
        let mut places = Places::new();
        for (layer, folder) in self.places(dir)? {
            let attr = match self.layers[layer].lookup(folder, name) {
                Ok(attr) => attr,
                Err(error) if error.is_errno(libc::ENOENT) => continue,
                Err(error) => return Err(error),
            };
            // What lies below something else than a folder is hidden, and so is what lies below a name taken away.
            if is_whiteout(&attr) || found.is_some() && !attr.is_dir() {
                break;
            }
            places.push((layer, attr.ino));
            let ends = !attr.is_dir() || self.is_opaque(layer, attr.ino);
            found.get_or_insert(attr);
            if ends {
                break;
            }
        }
        let attr = found.ok_or(Error::Errno(libc::ENOENT))?;
        Ok(Attr { ino: self.number(places, dir)?, ..attr })
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        // Whether each name is there, by the layer that has it first.
        let mut names: BTreeMap<Vec<u8>, bool> = BTreeMap::new();
        for (layer, folder) in self.places(dir)? {
            let filesystem = &self.layers[layer];
            filesystem.read_dir(folder, 0, &mut |entry| {
                if !names.contains_key(entry.name) {
                    let may_hide = entry.file_type.is_none_or(|kind| kind == FileType::CharDevice);
                    let hides = may_hide && filesystem.attr(entry.ino).is_ok_and(|attr| is_whiteout(&attr));
                    names.insert(entry.name.to_vec(), !hides);
                }
                if names.len() < MAX_NAMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        let there = names.into_iter().filter(|(_, is_there)| *is_there).enumerate();
        for (place, (name, _)) in there.skip(usize::try_from(cookie).unwrap_or(usize::MAX)) {
            let attr = self.lookup(dir, &name)?;
            let file_type = Some(attr.file_type);
            let entry = DirEntry { name: &name, ino: attr.ino, file_type, next_cookie: place as u64 + 1 };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        let place = dir.checked_sub(ROOT).and_then(|place| usize::try_from(place).ok());
        let nodes = self.nodes.lock();
        Ok(place.and_then(|place| nodes.list.get(place)).ok_or(Error::Errno(libc::ENOENT))?.1)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let (layer, own) = self.upper(ino)?;
        layer.read_link(own)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (layer, own) = self.upper(ino)?;
        layer.read(own, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        let (layer, own) = self.upper(ino)?;
        layer.next_data(own, offset)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        let (layer, own) = self.upper(ino)?;
        layer.next_hole(own, offset)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if is_private(name) {
            return Err(Error::Errno(libc::ENODATA));
        }
        let (layer, own) = self.upper(ino)?;
        layer.xattr(own, name)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let (layer, own) = self.upper(ino)?;
        let mut names = layer.xattrs(own)?;
        names.retain(|name| !is_private(name));
        Ok(names)
    }

    fn has_xattrs(&self) -> bool {
        self.layers.iter().any(|layer| layer.has_xattrs())
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        self.upper(ino).map_or(ino, |(layer, own)| layer.disk_order(own))
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        if let Ok((layer, own)) = self.upper(ino) {
            layer.prefetch(own, offset, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;
    use crate::tree::{Mount, Tree};

    #[test]
    fn layers_are_one_tree_as_overlayfs_makes_it() {
        let layer = |fixture: Fixture| fixture.tree().mounts()[0].filesystem.clone();
        let upper = Fixture::new()
            .file("etc/changed", "upper")
            .device("etc/gone")
            .device("var")
            .file("file", "")
            .file("was/folder/new", "");
        let lower = Fixture::new()
            .file("etc/changed", "lower")
            .file("etc/gone", "")
            .file("etc/kept", "")
            .file("var/lib/x", "")
            .file("file/below", "")
            .file("was", "a file");
        let filesystem = Arc::new(Layers::new(vec![layer(upper), layer(lower)]));
        let mount = Mount { filesystem: filesystem.clone(), mountpoint: b"/".to_vec(), source: String::new() };
        let tree = Tree::new(vec![mount]).expect("one mount");
        let names = |path: &str| {
            let mut names = Vec::new();
            let node = tree.resolve(path.as_bytes(), true).expect(path).node;
            let mut visit = |_: crate::tree::Node, entry: DirEntry<'_>| {
                names.push(String::from_utf8_lossy(entry.name).into_owned());
                ControlFlow::Continue(())
            };
            tree.read_dir(node, 0, &mut visit).expect(path);
            names.join(" ")
        };
        assert_eq!(names("/"), "etc file was");
        assert_eq!(names("/etc"), "changed kept");
        assert_eq!(names("/was"), "folder");
        for missing in ["/var", "/etc/gone", "/file/below"] {
            tree.resolve(missing.as_bytes(), true).expect_err(missing);
        }
        let changed = tree.resolve(b"/etc/changed", true).expect("there").node;
        let mut text = [0; 8];
        assert_eq!(tree.read(changed, 0, &mut text).expect("reads"), 5);
        assert_eq!(&text[..5], b"upper");
        let etc = tree.resolve(b"/etc", true).expect("there").node;
        assert_eq!(tree.parent(etc).expect("has one"), tree.root());
        assert_eq!(
            filesystem.lookup(ROOT, b"etc").expect("there").ino,
            filesystem.lookup(ROOT, b"etc").expect("same").ino
        );
        filesystem.attr(0).expect_err("no such inode");
        filesystem.attr(u64::MAX).expect_err("no such inode");
    }
}
