//! Bounded reading of a guest's files.
//!
//! A guest is hostile: whatever is read here is at most as long as the caller allows, only regular files are read (never
//! a pipe, a device or a socket), and what could not be read becomes a warning, so that the rest is still told.
//! Symbolic links are resolved by the tree, inside the guest.

mod chunks;
mod text;

pub(super) use chunks::Chunks;
pub(super) use text::{Ini, Variables, clean, plain_lines, shorten, tidy, unquote};

use crate::error::{Error, Result};
use crate::fs::{Attr, FileType};
use crate::tree::{Found, Node, Tree};
use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

/// The most that is read of a configuration file, in bytes.
pub(super) const SMALL: u64 = 1 << 20;

/// The most that is read of a package database that is text, in bytes.
pub(super) const DATABASE: u64 = 64 << 20;

/// The most names of a folder that are looked at.
const MAX_NAMES: usize = 1 << 16;

/// The most warnings that are kept; a guest that is broken everywhere needs no longer list.
const MAX_WARNINGS: usize = 256;

/// The most that is read of whole files, in bytes: many files of a hostile guest must not add up to a long time.
const MAX_TOTAL: u64 = 512 << 20;

/// A tree that is being looked at, with what could not be read of it.
pub(super) struct Guest<'a> {
    tree: &'a Tree,
    warnings: RefCell<Vec<String>>,
    /// How much may still be read.
    left: Cell<u64>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, warnings: RefCell::new(Vec::new()), left: Cell::new(MAX_TOTAL) }
    }

    pub(super) fn tree(&self) -> &'a Tree {
        self.tree
    }

    /// Keeps a line about something that could not be read.
    pub(super) fn warn(&self, warning: impl Into<String>) {
        let mut warnings = self.warnings.borrow_mut();
        let warning = warning.into();
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Keeps a line about a file that could not be read.
    pub(super) fn warn_of(&self, path: impl AsRef<[u8]>, error: &Error) {
        self.warn(format!("{}: {error}", tidy(path.as_ref())));
    }

    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    fn resolve(&self, path: &[u8], follow: bool) -> Option<Found> {
        match self.tree.resolve(path, follow) {
            Ok(found) => Some(found),
            Err(error) => {
                if !error.is_errno(libc::ENOENT) && !error.is_errno(libc::ENOTDIR) {
                    self.warn_of(path, &error);
                }
                None
            }
        }
    }

    /// Finds what a path names, through symbolic links.
    pub(super) fn found(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.resolve(path.as_ref(), true)
    }

    /// Says whether a path names anything, be it a symbolic link that leads nowhere.
    pub(super) fn has(&self, path: impl AsRef<[u8]>) -> bool {
        self.resolve(path.as_ref(), false).is_some()
    }

    pub(super) fn is_dir(&self, path: impl AsRef<[u8]>) -> bool {
        self.found(path).is_some_and(|found| found.attr.is_dir())
    }

    pub(super) fn is_file(&self, path: impl AsRef<[u8]>) -> bool {
        self.found(path).is_some_and(|found| found.attr.file_type == FileType::Regular)
    }

    /// Returns the text of a path that is itself a symbolic link.
    pub(super) fn link(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let found = self.resolve(path.as_ref(), false)?;
        if found.attr.file_type != FileType::Symlink {
            return None;
        }
        self.tree.read_link(found.node).map_err(|error| self.warn_of(path, &error)).ok()
    }

    /// Finds a regular file. Anything else that is no folder is said and not opened.
    pub(super) fn file(&self, path: impl AsRef<[u8]>) -> Option<(Node, Attr)> {
        let found = self.found(path.as_ref())?;
        match found.attr.file_type {
            FileType::Regular => Some((found.node, found.attr)),
            FileType::Directory => None,
            other => {
                self.warn(format!("{}: not opened, it is a {}", tidy(path.as_ref()), kind_name(other)));
                None
            }
        }
    }

    /// Reads a regular file, at most `cap` bytes of it.
    pub(super) fn read(&self, path: impl AsRef<[u8]>, cap: u64) -> Option<Vec<u8>> {
        let path = path.as_ref();
        let (node, attr) = self.file(path)?;
        if attr.size > cap {
            self.warn(format!("{}: {} bytes long, only the first {cap} are read", tidy(path), attr.size));
        }
        let Some(left) = self.left.get().checked_sub(attr.size.min(cap)) else {
            self.warn("the files of this guest are too long, not all of them are read");
            return None;
        };
        self.left.set(left);
        match read_range(self.tree, node, 0, attr.size.min(cap)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.warn_of(path, &error);
                None
            }
        }
    }

    /// Reads the last `cap` bytes of a regular file, a multiple of `unit` from its beginning.
    pub(super) fn tail(&self, path: impl AsRef<[u8]>, cap: u64, unit: u64) -> Option<Vec<u8>> {
        let (node, attr) = self.file(path.as_ref())?;
        let start = attr.size.saturating_sub(cap).div_ceil(unit) * unit;
        let wanted = attr.size.saturating_sub(start).min(cap);
        read_range(self.tree, node, start, wanted).map_err(|error| self.warn_of(path, &error)).ok()
    }

    /// Reads a small text file. Bytes that are no UTF-8 and control characters become U+FFFD, carriage returns go.
    pub(super) fn text(&self, path: impl AsRef<[u8]>) -> Option<String> {
        self.read(path, SMALL).map(|bytes| clean(&bytes))
    }

    /// Returns the first line of a small text file, without white space around it; none where it is empty.
    pub(super) fn first_line(&self, path: impl AsRef<[u8]>) -> Option<String> {
        let text = self.text(path)?;
        let line = shorten(text.lines().next()?.trim());
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// Returns the names in a folder, sorted; none where there is no such folder.
    pub(super) fn list(&self, path: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        let path = path.as_ref();
        let mut names = Vec::new();
        let Some(found) = self.found(path).filter(|found| found.attr.is_dir()) else { return names };
        let mut cut = false;
        let read = self.tree.read_dir(found.node, 0, &mut |_, entry| {
            if names.len() == MAX_NAMES {
                cut = true;
                return ControlFlow::Break(());
            }
            names.push(entry.name.to_vec());
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            self.warn_of(path, &error);
        }
        if cut {
            self.warn(format!("{}: more than {MAX_NAMES} files, the others are not looked at", tidy(path)));
        }
        names.sort_unstable();
        names
    }

    /// Returns the paths of the files in a folder whose names end so, sorted by name.
    pub(super) fn list_ending(&self, folder: &str, ending: &str) -> Vec<Vec<u8>> {
        let names = self.list(folder).into_iter().filter(|name| name.ends_with(ending.as_bytes()));
        names.map(|name| join(folder, &name)).collect()
    }

    /// Opens a regular file for reading here and there.
    pub(super) fn chunks(&self, path: impl AsRef<[u8]>) -> Option<Chunks<'a>> {
        let (node, attr) = self.file(path)?;
        Some(Chunks::new(self.tree, node, attr.size))
    }
}

fn kind_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "folder",
        FileType::Symlink => "symbolic link",
        FileType::CharDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
    }
}

/// Reads `len` bytes of a regular file, or as many as there are.
fn read_range(tree: &Tree, node: Node, start: u64, len: u64) -> Result<Vec<u8>> {
    const STEP: usize = 4 << 20;
    let len = usize::try_from(len).map_err(|_| Error::Errno(libc::EFBIG))?;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let old = bytes.len();
        bytes.resize(old + (len - old).min(STEP), 0);
        let read = tree.read(node, start + old as u64, &mut bytes[old..])?;
        if read < bytes.len() - old {
            bytes.truncate(old + read);
            break;
        }
    }
    Ok(bytes)
}

/// Joins a folder's path and a name.
pub(super) fn join(folder: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> Vec<u8> {
    [folder.as_ref(), b"/", name.as_ref()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn only_regular_files_are_read_and_only_so_much_of_them() {
        let tree = Fixture::new()
            .file("etc/long", "x".repeat(3 << 20))
            .fifo("etc/pipe")
            .link("etc/round", "round")
            .link("etc/out", "/../../../etc/long")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(guest.text("/etc/long").expect("read").len(), 1 << 20);
        assert_eq!(guest.text("/etc/out").expect("inside").len(), 1 << 20);
        assert_eq!(guest.text("/etc/pipe"), None);
        assert_eq!(guest.text("/etc/round"), None);
        assert_eq!(guest.text("/etc/none"), None);
        let warnings = guest.into_warnings();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(warnings[2], "/etc/pipe: not opened, it is a pipe");
    }
}
