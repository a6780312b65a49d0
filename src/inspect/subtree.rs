//! A folder of a filesystem as a filesystem of its own: an ostree deployment, a bind mount, a container's root.

use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, Filesystem, FilesystemWrite, FsInfo, Ino, StatFs};
use crate::tree::{Mount, Tree};
use std::ops::ControlFlow;
use std::sync::Arc;

/// A filesystem whose root is a folder of another one. Links in it that are absolute, or climb too high, end at that folder.
pub struct Subtree {
    below: Arc<dyn Filesystem>,
    root: Ino,
}

impl Subtree {
    /// Makes a filesystem of a folder of another, by a path within that filesystem; symbolic links are followed in it.
    ///
    /// # Errors
    /// Those of [`Tree::resolve`]; `ENOTDIR` where the path names no folder.
    pub fn open(filesystem: Arc<dyn Filesystem>, path: &[u8]) -> Result<Self> {
        let mount = Mount { filesystem, mountpoint: b"/".to_vec(), source: String::new() };
        let alone = Tree::new(vec![mount])?;
        let found = alone.resolve(path, true)?;
        if !found.attr.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        Ok(Self { below: alone.mounts()[0].filesystem.clone(), root: found.attr.ino })
    }
}

impl Filesystem for Subtree {
    fn info(&self) -> &FsInfo {
        self.below.info()
    }

    fn statfs(&self) -> Result<StatFs> {
        self.below.statfs()
    }

    fn root(&self) -> Ino {
        self.root
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        self.below.attr(ino)
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        self.below.lookup(dir, name)
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        self.below.read_dir(dir, cookie, visit)
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        if dir == self.root { Ok(dir) } else { self.below.parent(dir) }
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.below.read_link(ino)
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.below.read(ino, offset, buf)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.below.next_data(ino, offset)
    }

    fn next_hole(&self, ino: Ino, offset: u64) -> Result<u64> {
        self.below.next_hole(ino, offset)
    }

    fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.below.xattr(ino, name)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.below.xattrs(ino)
    }

    fn has_xattrs(&self) -> bool {
        self.below.has_xattrs()
    }

    fn disk_order(&self, ino: Ino) -> u64 {
        self.below.disk_order(ino)
    }

    fn prefetch(&self, ino: Ino, offset: u64, len: u64) {
        self.below.prefetch(ino, offset, len);
    }

    fn writer(&self) -> Option<&dyn FilesystemWrite> {
        self.below.writer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_folder_is_a_root_that_nothing_leads_out_of() {
        let whole = Fixture::new()
            .file("secret", "outside")
            .file("jail/etc/name", "inside")
            .link("jail/up", "../../../secret")
            .link("jail/top", "/etc/name")
            .link("way", "jail");
        let tree = whole.tree();
        let jail = Subtree::open(tree.mounts()[0].filesystem.clone(), b"/way").expect("a folder");
        let mount = Mount { filesystem: Arc::new(jail), mountpoint: b"/".to_vec(), source: String::new() };
        let tree = Tree::new(vec![mount]).expect("one mount");
        tree.resolve(b"/up", true).expect_err("nothing there");
        assert_eq!(tree.resolve(b"/top", true).expect("inside").path, b"/etc/name");
        let etc = tree.resolve(b"/etc", true).expect("inside").node;
        assert_eq!(tree.parent(etc).expect("has one"), tree.root());
    }
}
