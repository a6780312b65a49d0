//! Listing folders of the tree, one or all that lies below it.

use super::files::text;
use super::{Guestfs, replace};
use crate::error::{ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::tree::{Visit, Visited};
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::Path;

/// One entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, any bytes.
    pub name: Vec<u8>,
    /// The inode number.
    pub ino: u64,
    /// What kind of file it is.
    pub file_type: FileType,
}

/// Returns a mode as `ls -l` shows it: `-rwsr-xr-x`.
pub(crate) fn mode_text(attr: &Attr) -> String {
    let kind = match attr.file_type {
        FileType::Regular => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.permissions >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.permissions & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

impl Guestfs {
    /// Returns the names in a folder, sorted, bytes that are no UTF-8 replaced; [`readdir`](Self::readdir) has the bytes.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and those of reading.
    pub fn ls(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let mut entries = self.readdir(path)?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries.into_iter().map(|entry| text(&entry.name)).collect())
    }

    /// Returns a long listing of a folder, as `ls -la` shows one; owners are numbers, and times are seconds since 1970.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and those of reading.
    pub fn ll(&self, path: impl AsRef<OsStr>) -> Result<String> {
        let path = path.as_ref();
        let (tree, found) = self.find_folder(path)?;
        let mut lines = Vec::new();
        let mut visit = |file: Visited<'_>| {
            if file.depth == 0 {
                return Ok(Visit::Enter);
            }
            let attr = file.attr;
            let mut line = format!(
                "{} {:>3} {:>5} {:>5} {:>10} {:>11} {}",
                mode_text(attr),
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.size,
                attr.mtime.seconds,
                text(file.name)
            );
            if attr.file_type == FileType::Symlink {
                line.push_str(&format!(" -> {}", text(&tree.read_link(file.node)?)));
            }
            lines.push(line);
            Ok(Visit::Skip)
        };
        tree.visit(found.node, true, &mut visit, &mut |_, error| Err(error)).at(|| path.display().to_string())?;
        Ok(lines.join("\n"))
    }

    /// Returns the entries of a folder in its own order, without `.` and `..`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and those of reading.
    pub fn readdir(&self, path: impl AsRef<OsStr>) -> Result<Vec<Entry>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let mut entries = Vec::new();
        let mut unknown = Vec::new();
        let read = tree.read_dir(found.node, 0, &mut |node, entry| {
            if entry.file_type.is_none() {
                unknown.push((entries.len(), node));
            }
            let file_type = entry.file_type.unwrap_or(FileType::Regular);
            entries.push(Entry { name: entry.name.to_vec(), ino: entry.ino, file_type });
            ControlFlow::Continue(())
        });
        read.at(|| path.display().to_string())?;
        for (place, node) in unknown {
            entries[place].file_type = tree.attr(node).at(|| path.display().to_string())?.file_type;
        }
        Ok(entries)
    }

    /// Returns the paths of everything below a folder, relative to it and sorted, as libguestfs's `find` does. Bytes that
    /// are no UTF-8 are replaced; [`walk`](Self::walk) has the bytes.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, and those of reading.
    pub fn find(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        Ok(self.find_bytes(path.as_ref())?.iter().map(|path| text(path)).collect())
    }

    /// Writes the paths of everything below a folder to a file of the host, sorted, each with a NUL after it.
    ///
    /// # Errors
    /// As [`find`](Self::find), and those of the host.
    pub fn find0(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<()> {
        let paths = self.find_bytes(path.as_ref())?;
        replace::write_file(to.as_ref(), |out| {
            for path in &paths {
                out.write_all(path).and_then(|()| out.write_all(b"\0")).doing(|| "cannot write")?;
            }
            Ok(())
        })
    }

    fn find_bytes(&self, path: &OsStr) -> Result<Vec<Vec<u8>>> {
        let (tree, found) = self.find_folder(path)?;
        let mut paths = Vec::new();
        tree.visit_names(
            found.node,
            false,
            &mut |file| {
                if file.depth > 0 {
                    paths.push(file.path.to_vec());
                }
                Ok(Visit::Enter)
            },
            &mut |below, error| Err(error.at(format!("{}/{}", path.display(), below.escape_ascii()))),
        )?;
        paths.sort();
        Ok(paths)
    }

    /// Visits everything below a folder with its attributes, in one pass and in the order of the folders.
    ///
    /// # Errors
    /// `ENOENT`, those of reading, and those of `visit`.
    pub fn walk(&self, path: impl AsRef<OsStr>, mut visit: impl FnMut(Visited<'_>) -> Result<Visit>) -> Result<()> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        tree.visit(found.node, false, &mut visit, &mut |below, error| {
            Err(error.at(format!("{}/{}", path.display(), below.escape_ascii())))
        })
    }

    /// Returns the space that everything below a path takes, in KiB; files with several names count once.
    ///
    /// # Errors
    /// As [`walk`](Self::walk).
    pub fn du(&self, path: impl AsRef<OsStr>) -> Result<u64> {
        let mut seen = std::collections::HashSet::new();
        let mut blocks = 0;
        self.walk(path, |file| {
            if file.attr.nlink < 2 || file.attr.is_dir() || seen.insert(file.node) {
                blocks += file.attr.blocks;
            }
            Ok(Visit::Enter)
        })?;
        Ok(blocks.div_ceil(2))
    }
}
