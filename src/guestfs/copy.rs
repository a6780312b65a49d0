//! Copying and moving within the guest.

use super::progress::Meter;
use super::put::{Held, New, Put, copy_contents, now, read_xattrs, remove, writer};
use super::{Guestfs, names};
use crate::error::{Error, ErrorContext, Result};
use crate::fs::{Attr, FileType};
use crate::tree::{Found, Node, Tree, Visit};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Where a copy goes: a folder and a name in it.
struct Place {
    dir: Node,
    name: Vec<u8>,
    /// The folder that is filled with what another holds, in place of a new one.
    into: Option<Node>,
}

/// A folder that is being filled.
struct Open {
    node: Node,
    new: New,
    /// Whether it is new, so that it gets attributes even where they are not kept.
    was_there: bool,
}

/// One copy of a file or of a folder with all that it holds.
struct Copy<'a> {
    put: Put<'a>,
    /// Keeps owners, modes, times, extended attributes and hard links.
    attributes: bool,
    umask: u16,
    meter: Meter,
    /// The first copy of each file that has several names.
    firsts: HashMap<Node, Node>,
}

impl Copy<'_> {
    fn new_file(&self, tree: &Tree, node: Node, attr: &Attr) -> Result<New> {
        let mut new = New::like(attr);
        if attr.file_type == FileType::Symlink {
            new.target = tree.read_link(node)?;
        }
        if self.attributes {
            new.xattrs = read_xattrs(tree, node)?;
        } else {
            new.permissions &= 0o777 & !self.umask;
            new.atime = None;
            new.mtime = now();
        }
        Ok(new)
    }

    fn file(&mut self, tree: &Tree, node: Node, attr: &Attr, dir: Node, name: &[u8]) -> Result<()> {
        let has_names = self.attributes && attr.nlink > 1;
        if has_names && let Some(&first) = self.firsts.get(&node) {
            return self.put.link(first, dir, name);
        }
        let new = self.new_file(tree, node, attr)?;
        let fill = |held: &Held<'_>| copy_contents(tree, node, attr.size, held, &self.meter);
        let made = self.put.put(dir, name, &new, fill)?;
        if has_names {
            self.firsts.insert(node, made);
        }
        Ok(())
    }

    fn close(&self, folder: &Open) -> Result<()> {
        if self.attributes || !folder.was_there { self.put.finish(folder.node, &folder.new) } else { Ok(()) }
    }

    /// Copies a folder with all that it holds to a place.
    fn folder(&mut self, tree: &Tree, from: Node, to: &Place) -> Result<()> {
        let mut open: Vec<Open> = Vec::new();
        tree.visit(
            from,
            false,
            &mut |file| {
                while open.len() > file.depth {
                    self.close(&open.pop().expect("it is not empty"))?;
                }
                let here = || file.path.escape_ascii().to_string();
                let (dir, name) = open.last().map_or((to.dir, to.name.as_slice()), |above| (above.node, file.name));
                if !file.attr.is_dir() {
                    self.file(tree, file.node, file.attr, dir, name).at(here)?;
                    return Ok(Visit::Enter);
                }
                let new = self.new_file(tree, file.node, file.attr).at(here)?;
                let (node, was_there) = match to.into.filter(|_| file.depth == 0) {
                    Some(node) => (node, true),
                    None => self.put.folder(dir, name, &new).at(here)?,
                };
                open.push(Open { node, new, was_there });
                Ok(Visit::Enter)
            },
            &mut |path, error| Err(error.at(path.escape_ascii().to_string())),
        )?;
        while let Some(folder) = open.pop() {
            self.close(&folder)?;
        }
        Ok(())
    }
}

impl Guestfs {
    /// Finds where a copy or a moved name goes: into a folder, under the last name of what is copied, or under a new name.
    fn goal(&self, from: &Found, given: &OsStr, to: &OsStr) -> Result<Place> {
        let here = || to.display().to_string();
        match self.find_to_change(to, true) {
            Ok((_, found)) if found.attr.is_dir() => {
                if from.attr.is_dir() && is_contents(given) {
                    return Ok(Place { dir: found.node, name: Vec::new(), into: Some(found.node) });
                }
                let last =
                    |path: &[u8]| path.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty()).map(<[u8]>::to_vec);
                let name = last(given.as_bytes()).filter(|name| !matches!(name.as_slice(), b"." | b".."));
                let name = name.or_else(|| last(&from.path)).ok_or(Error::Errno(libc::EINVAL)).at(here)?;
                Ok(Place { dir: found.node, name, into: None })
            }
            Err(error) if !error.is_errno(libc::ENOENT) => Err(error),
            _ => {
                let (_, dir, name) = self.find_place(to)?;
                Ok(Place { dir, name, into: None })
            }
        }
    }

    /// Copies a regular file of the guest to another, or into a folder; a link is followed. A file that is there keeps
    /// its owner and mode.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR` for a folder, `EROFS` with what to do, `ENOSPC`; what was there before then stays.
    pub fn cp(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (tree, found) = self.find_to_change(from, true)?;
        found.attr.file_type.check_regular().at(|| from.display().to_string())?;
        let mut path = to.to_owned();
        if self.is_type_of(to, FileType::Directory)? {
            let goal = self.goal(&found, from, to)?;
            path.push("/");
            path.push(OsStr::from_bytes(&goal.name));
        }
        let place = self.place(&path)?;
        if place.old.as_ref().is_some_and(|(node, _)| *node == found.node) {
            return Err(Error::Usage(format!("{} and {} are the same file", from.display(), path.display()).into()));
        }
        let meter = self.meter(found.attr.size);
        self.timed("cp", || {
            place
                .fill(found.attr.permissions & 0o777, self.get_umask(), |held| {
                    copy_contents(tree, found.node, found.attr.size, held, &meter)
                })
                .at(|| path.display().to_string())
        })
    }

    /// Copies a file or a folder of the guest with all that it holds and its attributes, as `cp -a` does: into `to` where
    /// that is a folder, else under that name. Holes stay holes, and hard links stay links.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` for a folder that would lie in itself, `EISDIR`, `ENOTDIR`, `EROFS` with what to do, `ENOSPC`.
    pub fn cp_a(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        self.copy_within(from.as_ref(), to.as_ref(), true)
    }

    /// Copies a file or a folder of the guest with all that it holds, as `cp -rP` does: links as links, owners, times and
    /// extended attributes anew.
    ///
    /// # Errors
    /// As [`cp_a`](Self::cp_a).
    pub fn cp_r(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        self.copy_within(from.as_ref(), to.as_ref(), false)
    }

    fn copy_within(&self, from: &OsStr, to: &OsStr, attributes: bool) -> Result<()> {
        let (tree, found) = self.find_to_change(from, false)?;
        let goal = self.goal(&found, from, to)?;
        let here = || to.display().to_string();
        self.timed("cp", || self.copy_to_place(tree, &found, &goal, attributes).at(here))
    }

    fn copy_to_place(&self, tree: &Tree, from: &Found, to: &Place, attributes: bool) -> Result<()> {
        writer(tree, to.dir)?;
        let old = if to.into.is_some() { None } else { tree.lookup(to.dir, &to.name).ok() };
        if old.as_ref().is_some_and(|(node, _)| *node == from.node) {
            return Err(Error::Usage("it would be copied onto itself".into()));
        }
        let mut copy = Copy {
            put: Put::new(tree, attributes, attributes),
            attributes,
            umask: self.get_umask(),
            meter: self.meter(if from.attr.is_dir() { 0 } else { from.attr.size }),
            firsts: HashMap::new(),
        };
        if from.attr.is_dir() {
            if lies_in(tree, to.dir, from.node)? {
                return Err(Error::Errno(libc::EINVAL).at("a folder cannot be copied into itself"));
            }
            return copy.folder(tree, from.node, to);
        }
        if old.is_some_and(|(_, attr)| attr.is_dir()) {
            return Err(Error::Errno(libc::EISDIR));
        }
        copy.file(tree, from.node, &from.attr, to.dir, &to.name)
    }

    fn is_type_of(&self, path: &OsStr, file_type: FileType) -> Result<bool> {
        match self.find_path(path, true) {
            Ok((_, found)) => Ok(found.attr.file_type == file_type),
            Err(error) if error.is_errno(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves a file or a folder as `mv` does: into `to` where that is a folder, else to that name, in place of what has
    /// it. To another filesystem it is copied with its attributes, and then removed.
    ///
    /// # Errors
    /// `ENOENT`, `EBUSY` where a filesystem is mounted, `ENOTEMPTY`, `EINVAL` for a folder that would lie in itself,
    /// `EROFS` with what to do, `ENOSPC`.
    pub fn mv(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let here = || to.display().to_string();
        let (tree, found) = self.find_to_change(from, false)?;
        let (_, dir, name) = self.find_place(from)?;
        let goal = self.goal(&found, from, to)?;
        if tree.same_filesystem(dir, goal.dir) && tree.same_filesystem(dir, found.node) {
            return names::move_name(tree, (dir, &name), (goal.dir, &goal.name)).at(here);
        }
        writer(tree, dir).at(|| from.display().to_string())?;
        if tree.is_mountpoint(dir, &name) {
            return Err(Error::Errno(libc::EBUSY).at(from.display().to_string()));
        }
        self.timed("mv", || self.copy_to_place(tree, &found, &goal, true).at(here))?;
        if found.attr.is_dir() {
            return self.rm_rf(from);
        }
        remove(tree, dir, &name, false).at(|| from.display().to_string())
    }
}

/// Says whether a path stands for what its folder holds.
fn is_contents(path: &OsStr) -> bool {
    let path = path.as_bytes();
    path.ends_with(b"/.") || path == b"." || path.iter().all(|&byte| byte == b'/')
}

/// Says whether a folder is another one or lies in it.
fn lies_in(tree: &Tree, mut folder: Node, other: Node) -> Result<bool> {
    let root = tree.root();
    // More folders than a tree is deep lead round in a circle.
    for _ in 0..crate::tree::MAX_PATH {
        if folder == other {
            return Ok(true);
        }
        if folder == root {
            return Ok(false);
        }
        folder = tree.parent(folder)?;
    }
    Err(Error::corrupt("directory tree", "a folder lies within itself"))
}
