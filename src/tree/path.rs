//! Paths, resolved inside the guest: a symbolic link, an absolute one too, never leads out of the tree.

use super::{Node, Tree};
use crate::error::{Error, Result};
use crate::fs::{Attr, FileType};

/// The most symbolic links that one path may go through, as in Linux.
pub const MAX_SYMLINKS: usize = 40;

/// The longest path, in bytes, with the text of the links that it goes through. Linux has this limit for each path given.
pub const MAX_PATH: usize = 1 << 16;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub node: Node,
    /// What `stat` shows of it.
    pub attr: Attr,
    /// The path without links, `.` and `..`.
    pub path: Vec<u8>,
}

/// Returns the names of a path, without empty ones.
pub(super) fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}

/// Returns a path as an absolute one without `.`, `..` and doubled slashes; links are not looked at.
pub(super) fn normalise(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in components(path) {
        match name {
            b"." => {}
            b".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    join(&names)
}

fn join<T: AsRef<[u8]>>(names: &[T]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    let mut path = Vec::new();
    for name in names {
        path.push(b'/');
        path.extend_from_slice(name.as_ref());
    }
    path
}

/// Where a walk along a path stands.
struct Walk<'a> {
    tree: &'a Tree,
    /// The names from the root to here, and the folder that each lies in.
    trail: Vec<(Vec<u8>, Node)>,
    here: Node,
    attr: Attr,
    /// The names still to go, the next one last.
    todo: Vec<Vec<u8>>,
    links: usize,
    length: usize,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree, path: &[u8]) -> Result<Self> {
        let root = tree.root();
        let mut walk =
            Self { tree, trail: Vec::new(), here: root, attr: tree.attr(root)?, todo: Vec::new(), links: 0, length: 0 };
        walk.push(path)?;
        Ok(walk)
    }

    fn push(&mut self, path: &[u8]) -> Result<()> {
        self.length += path.len();
        if self.length > MAX_PATH {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        // A slash at the end asks for a folder.
        if path.ends_with(b"/") {
            self.todo.push(b".".to_vec());
        }
        self.todo.extend(components(path).rev().map(<[u8]>::to_vec));
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.trail.clear();
        self.here = self.tree.root();
        self.attr = self.tree.attr(self.here)?;
        Ok(())
    }

    fn up(&mut self) -> Result<()> {
        if let Some((_, parent)) = self.trail.pop() {
            self.here = parent;
            self.attr = self.tree.attr(parent)?;
        }
        Ok(())
    }

    fn step(&mut self, name: Vec<u8>, follow_last: bool) -> Result<()> {
        if !self.attr.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        match name.as_slice() {
            b"." => return Ok(()),
            b".." => return self.up(),
            _ => {}
        }
        let (node, attr) = self.tree.lookup(self.here, &name)?;
        if attr.file_type == FileType::Symlink && (follow_last || !self.todo.is_empty()) {
            self.links += 1;
            if self.links > MAX_SYMLINKS {
                return Err(Error::Errno(libc::ELOOP));
            }
            let target = self.tree.read_link(node)?;
            if target.is_empty() {
                return Err(Error::Errno(libc::ENOENT));
            }
            if target.starts_with(b"/") {
                self.restart()?;
            }
            return self.push(&target);
        }
        self.trail.push((name, self.here));
        self.here = node;
        self.attr = attr;
        Ok(())
    }

    fn run(mut self, follow_last: bool) -> Result<Found> {
        while let Some(name) = self.todo.pop() {
            self.step(name, follow_last)?;
        }
        let names: Vec<Vec<u8>> = self.trail.into_iter().map(|(name, _)| name).collect();
        Ok(Found { node: self.here, attr: self.attr, path: join(&names) })
    }
}

impl Tree {
    /// Finds what a path names. A path is taken from the root, with a slash before it or without. A symbolic link at the
    /// end is followed where `follow_last` says so; those before always are.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`, and those of the drivers.
    pub fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Found> {
        Walk::new(self, path)?.run(follow_last)
    }

    /// Finds the folder that the last name of a path lies in, or would; returns it with that name.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve); `EEXIST` for `/`, `EINVAL` when the last name is `.` or `..`.
    pub fn resolve_parent(&self, path: &[u8]) -> Result<(Found, Vec<u8>)> {
        let Some(name) = components(path).next_back() else { return Err(Error::Errno(libc::EEXIST)) };
        if matches!(name, b"." | b"..") {
            return Err(Error::Errno(libc::EINVAL));
        }
        let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        let folder = &path[..end - name.len()];
        let found = self.resolve(folder, true)?;
        if !found.attr.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        Ok((found, name.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Mount;
    use crate::tree::folders::Folders;
    use std::sync::Arc;

    fn tree() -> Tree {
        let folders = Folders::new([b"a/b/c".as_slice(), b"d"].into_iter());
        Tree::new(vec![Mount { filesystem: Arc::new(folders), mountpoint: b"/".to_vec(), source: String::new() }])
            .expect("one mount")
    }

    #[test]
    fn dots_lead_nowhere_above_the_root() {
        let found = tree().resolve(b"../../a/./b//../b/c/", true).expect("exists");
        assert_eq!(found.path, b"/a/b/c");
        assert_eq!(tree().resolve(b"", true).expect("the root").path, b"/");
    }

    #[test]
    fn the_parent_of_a_path_need_not_hold_its_last_name() {
        let (folder, name) = tree().resolve_parent(b"/a/b/new/").expect("the folder exists");
        assert_eq!((folder.path.as_slice(), name.as_slice()), (b"/a/b".as_slice(), b"new".as_slice()));
        assert!(tree().resolve_parent(b"/x/new").expect_err("no folder").is_errno(libc::ENOENT));
        assert!(tree().resolve_parent(b"//").expect_err("the root").is_errno(libc::EEXIST));
    }

    #[test]
    fn a_path_is_made_plain_without_looking() {
        assert_eq!(normalise(b"a//b/../c/."), b"/a/c");
        assert_eq!(normalise(b"/.."), b"/");
    }
}
