//! Floor 4: many filesystems as one tree.
//!
//! A [`Tree`] is made once, of filesystems and the folders they are mounted on, and never changes. A [`Node`] names any
//! file of it: the mount's place in the table in the high byte, the guest's own inode number below, so there is nothing to
//! look up and nothing to forget. Whatever is asked of a node goes straight to its driver.

mod folders;
mod path;
mod visit;

pub use path::{Found, MAX_PATH, MAX_SYMLINKS};
pub use visit::{Named, Visit, Visited};

use crate::error::{Error, ErrorContext, Result};
use crate::fs::{Attr, DirEntry, Filesystem, FilesystemWrite, Ino, StatFs};
use folders::Folders;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many bits of a node are the inode number.
const INO_BITS: u32 = 56;

/// The most filesystems that one tree holds.
const MAX_MOUNTS: usize = 255;

/// A file of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(u64);

impl Node {
    fn new(slot: usize, ino: Ino) -> Result<Self> {
        if ino >> INO_BITS != 0 {
            return Err(Error::corrupt(format!("inode number {ino}"), "it is larger than any that a filesystem gives"));
        }
        Ok(Self((slot as u64) << INO_BITS | ino))
    }

    /// Returns the node as a number.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Returns the node of a number that [`to_bits`](Self::to_bits) gave.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn slot(self) -> usize {
        (self.0 >> INO_BITS) as usize
    }

    fn ino(self) -> Ino {
        self.0 & ((1 << INO_BITS) - 1)
    }
}

/// A filesystem and where it is mounted.
#[derive(Clone)]
pub struct Mount {
    /// The filesystem.
    pub filesystem: Arc<dyn Filesystem>,
    /// The folder it is mounted on, as an absolute path in the tree.
    pub mountpoint: Vec<u8>,
    /// The device it lies on: `/dev/sda1`.
    pub source: String,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} on {}", self.source, self.mountpoint.escape_ascii())
    }
}

/// Several filesystems as one tree.
#[derive(Debug)]
pub struct Tree {
    mounts: Vec<Mount>,
    /// The root of what is mounted on a folder.
    covered_by: HashMap<Node, Node>,
    /// The folder that each mount covers; the root mount covers none.
    covers: Vec<Option<Node>>,
}

impl Tree {
    /// Makes a tree of mounts. Where none is mounted on `/`, the root is a read-only folder of the mount points.
    ///
    /// # Errors
    /// `NotFound` when the folder of a mount point does not exist, [`Error::Usage`] when there are too many.
    pub fn new(mounts: Vec<Mount>) -> Result<Self> {
        let mut mounts: Vec<Mount> =
            mounts.into_iter().map(|mount| Mount { mountpoint: path::normalise(&mount.mountpoint), ..mount }).collect();
        mounts.sort_by_key(|mount| path::components(&mount.mountpoint).count());
        if mounts.first().is_none_or(|first| first.mountpoint != b"/") {
            let folders = Folders::new(mounts.iter().map(|mount| mount.mountpoint.as_slice()));
            let root =
                Mount { filesystem: Arc::new(folders), mountpoint: b"/".to_vec(), source: String::from("guestctl") };
            mounts.insert(0, root);
        }
        if mounts.len() > MAX_MOUNTS {
            return Err(Error::Usage(format!("more than {MAX_MOUNTS} filesystems in one tree").into()));
        }
        let mut tree = Self { mounts: Vec::new(), covered_by: HashMap::new(), covers: Vec::new() };
        for mount in mounts {
            tree.attach(mount)?;
        }
        Ok(tree)
    }

    fn attach(&mut self, mount: Mount) -> Result<()> {
        let slot = self.mounts.len();
        let root = Node::new(slot, mount.filesystem.root())?;
        if slot == 0 {
            self.covers.push(None);
        } else {
            let place = || format!("cannot mount {} on {}", mount.source, mount.mountpoint.escape_ascii());
            let found = self.resolve(&mount.mountpoint, true).at(place)?;
            if !found.attr.is_dir() {
                return Err(Error::Errno(libc::ENOTDIR).at(place()));
            }
            self.covers.push(Some(found.node));
            self.covered_by.insert(found.node, root);
        }
        self.mounts.push(mount);
        Ok(())
    }

    /// Returns the mounts, the root's first.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Returns the node of `/`.
    pub fn root(&self) -> Node {
        let top = Node(self.mounts[0].filesystem.root());
        self.top_of(top)
    }

    fn mount_of(&self, node: Node) -> Result<&Mount> {
        self.mounts.get(node.slot()).ok_or(Error::Errno(libc::ESTALE))
    }

    /// Returns the filesystem of a node and the node's number in it.
    ///
    /// # Errors
    /// `ESTALE` for a node that this tree never gave.
    pub fn filesystem(&self, node: Node) -> Result<(&dyn Filesystem, Ino)> {
        Ok((self.mount_of(node)?.filesystem.as_ref(), node.ino()))
    }

    /// Returns the writing half of a node's filesystem and the node's number in it.
    ///
    /// # Errors
    /// `EROFS` where it is open for reading only.
    pub fn writer(&self, node: Node) -> Result<(&dyn FilesystemWrite, Ino)> {
        let (filesystem, ino) = self.filesystem(node)?;
        Ok((filesystem.writer().ok_or(Error::Errno(libc::EROFS))?, ino))
    }

    /// Returns the writing half that two nodes share, and their numbers in it.
    ///
    /// # Errors
    /// `EXDEV` when they lie on different filesystems, `EROFS`.
    pub fn shared_writer(&self, one: Node, other: Node) -> Result<(&dyn FilesystemWrite, Ino, Ino)> {
        if one.slot() != other.slot() {
            return Err(Error::Errno(libc::EXDEV));
        }
        let (writer, ino) = self.writer(one)?;
        Ok((writer, ino, other.ino()))
    }

    /// Says whether any filesystem of the tree can be written.
    pub fn is_writable(&self) -> bool {
        self.mounts.iter().any(|mount| mount.filesystem.writer().is_some())
    }

    /// Says whether two nodes lie on one filesystem.
    pub fn same_filesystem(&self, one: Node, other: Node) -> bool {
        one.slot() == other.slot()
    }

    /// Returns the node of another inode of a node's filesystem, through whatever is mounted there.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a number that is too large.
    pub fn sibling(&self, node: Node, ino: Ino) -> Result<Node> {
        Ok(self.top_of(Node::new(node.slot(), ino)?))
    }

    /// Says whether a filesystem is mounted on what `dir` calls `name`, so that the name cannot be taken away.
    pub fn is_mountpoint(&self, dir: Node, name: &[u8]) -> bool {
        !self.covered_by.is_empty() && self.lookup(dir, name).is_ok_and(|(node, _)| node.slot() != dir.slot())
    }

    fn top_of(&self, mut node: Node) -> Node {
        while let Some(&over) = self.covered_by.get(&node) {
            node = over;
        }
        node
    }

    /// Returns what `stat` shows of a node.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn attr(&self, node: Node) -> Result<Attr> {
        let (filesystem, ino) = self.filesystem(node)?;
        filesystem.attr(ino)
    }

    /// Finds a name in a folder; what is mounted there is found instead of the folder below it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and those of the driver.
    pub fn lookup(&self, dir: Node, name: &[u8]) -> Result<(Node, Attr)> {
        let (filesystem, ino) = self.filesystem(dir)?;
        let attr = filesystem.lookup(ino, name)?;
        let node = Node::new(dir.slot(), attr.ino)?;
        let top = self.top_of(node);
        if top == node { Ok((node, attr)) } else { Ok((top, self.attr(top)?)) }
    }

    /// Shows the entries of a folder from `cookie` on, with the node of each; `.` and `..` are not among them.
    ///
    /// # Errors
    /// `ENOTDIR`, and those of the driver.
    pub fn read_dir(
        &self,
        dir: Node,
        cookie: u64,
        visit: &mut dyn FnMut(Node, DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (filesystem, ino) = self.filesystem(dir)?;
        let mut failed = None;
        filesystem.read_dir(ino, cookie, &mut |entry| match Node::new(dir.slot(), entry.ino) {
            Ok(node) => visit(self.top_of(node), entry),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Returns the folder that a folder lies in; the root lies in itself.
    ///
    /// # Errors
    /// `ENOTDIR`, and those of the driver.
    pub fn parent(&self, dir: Node) -> Result<Node> {
        let mut below = dir;
        while below.ino() == self.mount_of(below)?.filesystem.root() {
            match self.covers[below.slot()] {
                Some(covered) => below = covered,
                None => return Ok(self.root()),
            }
        }
        let (filesystem, ino) = self.filesystem(below)?;
        self.sibling(below, filesystem.parent(ino)?)
    }

    /// Reads from a regular file; returns how many bytes, fewer than asked for only at its end.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn read(&self, node: Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (filesystem, ino) = self.filesystem(node)?;
        filesystem.read(ino, offset, buf)
    }

    /// Returns the text of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` when it is none, and those of the driver.
    pub fn read_link(&self, node: Node) -> Result<Vec<u8>> {
        let (filesystem, ino) = self.filesystem(node)?;
        filesystem.read_link(ino)
    }

    /// Returns how full a node's filesystem is.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn statfs(&self, node: Node) -> Result<StatFs> {
        self.filesystem(node)?.0.statfs()
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, and those of the driver.
    pub fn xattr(&self, node: Node, name: &[u8]) -> Result<Vec<u8>> {
        let (filesystem, ino) = self.filesystem(node)?;
        filesystem.xattr(ino, name)
    }

    /// Returns the names of a node's extended attributes.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn xattrs(&self, node: Node) -> Result<Vec<Vec<u8>>> {
        let (filesystem, ino) = self.filesystem(node)?;
        filesystem.xattrs(ino)
    }

    /// Commits what was written and marks every filesystem clean. Nothing is written afterwards.
    ///
    /// # Errors
    /// The first error; the other filesystems are closed all the same.
    pub fn close(&self) -> Result<()> {
        let mut result = Ok(());
        for mount in &self.mounts {
            if let Some(writer) = mount.filesystem.writer() {
                let closed = writer.close().at(|| mount.source.clone());
                if result.is_ok() {
                    result = closed;
                }
            }
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(path: &str, holds: &[&str]) -> Mount {
        let filesystem = Folders::new(holds.iter().map(|path| path.as_bytes()));
        Mount { filesystem: Arc::new(filesystem), mountpoint: path.into(), source: format!("/dev/{path}") }
    }

    #[test]
    fn a_mounted_filesystem_hides_the_folder_below_it() {
        let tree = Tree::new(vec![
            folder("/boot", &["efi"]),
            folder("/", &["boot/old", "etc"]),
            folder("/boot/efi", &["EFI"]),
        ])
        .expect("mounts in any order");
        let found = tree.resolve(b"/boot/efi/EFI", true).expect("in the third");
        assert_eq!(found.node.slot(), 2);
        assert!(tree.resolve(b"/boot/old", true).expect_err("hidden").is_errno(libc::ENOENT));
        let efi = tree.resolve(b"boot/efi", true).expect("a root").node;
        let boot = tree.parent(efi).expect("has a parent");
        assert_eq!(boot, tree.resolve(b"/boot", true).expect("a root").node);
        assert_eq!(tree.parent(boot).expect("has a parent"), tree.root());
        assert!(tree.is_mountpoint(boot, b"efi"));
        assert!(!tree.is_mountpoint(efi, b"EFI"));
    }

    #[test]
    fn without_a_root_the_mount_points_are_folders() {
        let tree = Tree::new(vec![folder("/sda1", &["one"]), folder("/sda2", &["two"])]).expect("a root is made");
        let mut names = Vec::new();
        tree.read_dir(tree.root(), 0, &mut |node, entry| {
            names.push((node.slot(), entry.name.to_vec()));
            ControlFlow::Continue(())
        })
        .expect("lists");
        assert_eq!(names, [(1, b"sda1".to_vec()), (2, b"sda2".to_vec())]);
        tree.resolve(b"/sda2/two", true).expect("in the second");
    }

    #[test]
    fn a_mount_point_that_does_not_exist_is_an_error_that_names_it() {
        let error = Tree::new(vec![folder("/", &[]), folder("/boot", &[])]).expect_err("no such folder");
        assert_eq!(error.to_string(), "cannot mount /dev//boot on /boot: No such file or directory (os error 2)");
    }
}
