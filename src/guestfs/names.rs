//! Making, moving and removing names.

use super::Guestfs;
use super::put::{remove, writer};
use crate::error::{Error, ErrorContext, Result};
use crate::fs::FileType;
use crate::fs::write::RenameMode;
use crate::tree::{Node, Tree};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// How many entries of a folder are removed between two looks at it.
const ENTRIES_AT_ONCE: usize = 1024;

/// The deepest folder that is removed with what it holds.
const MAX_DEPTH: usize = 4096;

/// How many names are tried where one must be new.
const NEW_NAME_TRIES: usize = 100;

/// Removes everything in a folder. Each level is read again until it is empty, so that memory stays small.
fn empty_folder(tree: &Tree, folder: Node) -> Result<()> {
    struct Level {
        node: Node,
        /// The entries still to be removed, the last one first.
        entries: Vec<(Vec<u8>, Node, Option<FileType>)>,
    }
    let read = |node: Node| -> Result<Level> {
        let mut entries = Vec::new();
        tree.read_dir(node, 0, &mut |node, entry| {
            entries.push((entry.name.to_vec(), node, entry.file_type));
            if entries.len() < ENTRIES_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(Level { node, entries })
    };
    let mut levels = vec![read(folder)?];
    while let Some(level) = levels.last_mut() {
        let dir = level.node;
        let Some((name, node, file_type)) = level.entries.last() else {
            let again = read(dir)?;
            if again.entries.is_empty() {
                levels.pop();
                // The folder itself goes with the level above it.
                if let Some(above) = levels.last_mut()
                    && let Some((name, ..)) = above.entries.pop()
                {
                    remove(tree, above.node, &name, true)?;
                }
            } else {
                *level = again;
            }
            continue;
        };
        let is_folder = match file_type {
            Some(file_type) => *file_type == FileType::Directory,
            None => tree.attr(*node)?.is_dir(),
        };
        if !is_folder {
            remove(tree, dir, name, false).at(|| name.escape_ascii().to_string())?;
            level.entries.pop();
            continue;
        }
        if !tree.same_filesystem(dir, *node) {
            return Err(Error::Errno(libc::EBUSY).at(name.escape_ascii().to_string()));
        }
        let node = *node;
        if levels.len() >= MAX_DEPTH || levels.iter().any(|level| level.node == node) {
            return Err(Error::corrupt("directory tree", "a folder lies within itself"));
        }
        levels.push(read(node)?);
    }
    Ok(())
}

impl Guestfs {
    /// Makes a folder with the mode 0777 less the mask of the handle.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENOTDIR`, `EROFS` with what to do, `ENOSPC`.
    pub fn mkdir(&self, path: impl AsRef<OsStr>) -> Result<()> {
        self.mkdir_mode(path, 0o777)
    }

    /// Makes a folder with a mode, less the mask of the handle.
    ///
    /// # Errors
    /// As [`mkdir`](Self::mkdir).
    pub fn mkdir_mode(&self, path: impl AsRef<OsStr>, mode: u32) -> Result<()> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let (tree, dir, name) = self.find_place(path)?;
        let (writer, ino) = writer(tree, dir).at(here)?;
        writer.mkdir(ino, &name, (mode & 0o7777) as u16, &self.who()).at(here)?;
        Ok(())
    }

    /// Makes a folder and those above it that there are not yet; a folder that is there is fine.
    ///
    /// # Errors
    /// `ENOTDIR` where something else is there, and as [`mkdir`](Self::mkdir).
    pub fn mkdir_p(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        match self.find_path(path, true) {
            Ok((_, found)) if found.attr.is_dir() => return self.check_not_local(),
            Ok(_) => return Err(Error::Errno(libc::ENOTDIR).at(path.display().to_string())),
            Err(error) if error.is_errno(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let bytes = path.as_bytes();
        let mut end = 0;
        while end < bytes.len() {
            end += bytes[end..].iter().take_while(|&&byte| byte == b'/').count();
            end += bytes[end..].iter().take_while(|&&byte| byte != b'/').count();
            let part = OsStr::from_bytes(&bytes[..end]);
            match self.find_path(part, true) {
                Ok((_, found)) if found.attr.is_dir() => {}
                Ok(_) => return Err(Error::Errno(libc::ENOTDIR).at(part.display().to_string())),
                Err(error) if error.is_errno(libc::ENOENT) => self.mkdir(part)?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a folder with a new name, of mode 0700, and returns its path: the `XXXXXX` at the end of `template` is
    /// replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] for a template that does not end so, and as [`mkdir`](Self::mkdir).
    pub fn mkdtemp(&self, template: impl AsRef<OsStr>) -> Result<String> {
        const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
        let template = template.as_ref();
        let stem = template.as_bytes().strip_suffix(b"XXXXXX").ok_or_else(|| {
            Error::Usage(format!("the template {} does not end with XXXXXX", template.display()).into())
        })?;
        for number in 0..NEW_NAME_TRIES {
            let mut random = RandomState::new().hash_one(number);
            let mut path = stem.to_vec();
            for _ in 0..6 {
                path.push(LETTERS[(random % LETTERS.len() as u64) as usize]);
                random /= LETTERS.len() as u64;
            }
            let path = OsString::from_vec(path);
            match self.mkdir_mode(&path, 0o700) {
                Ok(()) => return Ok(super::files::text(path.as_bytes())),
                Err(error) if error.is_errno(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Errno(libc::EEXIST).at(template.display().to_string()))
    }

    /// Removes an empty folder.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`, `EBUSY` where a filesystem is mounted, `EROFS` with what to do.
    pub fn rmdir(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        let (tree, dir, name) = self.find_place(path)?;
        remove(tree, dir, &name, true).at(|| path.display().to_string())
    }

    /// Removes a file that is no folder; a link itself, not what it leads to.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EROFS` with what to do.
    pub fn rm(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        let (tree, dir, name) = self.find_place(path)?;
        remove(tree, dir, &name, false).at(|| path.display().to_string())
    }

    /// Removes a file that is no folder, if there is one.
    ///
    /// # Errors
    /// `EISDIR`, `EROFS` with what to do.
    pub fn rm_f(&self, path: impl AsRef<OsStr>) -> Result<()> {
        match self.rm(path) {
            Err(error) if error.is_errno(libc::ENOENT) => Ok(()),
            done => done,
        }
    }

    /// Removes a file or a folder with all that it holds, if there is one. Links are not followed.
    ///
    /// # Errors
    /// `EBUSY` where a filesystem is mounted, `EROFS` with what to do.
    pub fn rm_rf(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let (tree, dir, name) = match self.find_place(path) {
            Ok(found) => found,
            Err(error) if error.is_errno(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        let (node, attr) = match tree.lookup(dir, &name) {
            Ok(found) => found,
            Err(error) if error.is_errno(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error.at(here())),
        };
        if attr.is_dir() {
            if !tree.same_filesystem(dir, node) {
                return Err(Error::Errno(libc::EBUSY).at(here()));
            }
            writer(tree, dir).at(here)?;
            empty_folder(tree, node).at(here)?;
        }
        remove(tree, dir, &name, attr.is_dir()).at(here)
    }

    /// Gives a file another name; a link at the end of `target` is not followed.
    ///
    /// # Errors
    /// `EEXIST`, `EXDEV` on another filesystem, `EPERM` for a folder, `EMLINK`, `ENOENT`, `EROFS` with what to do.
    pub fn ln(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        self.link(target.as_ref(), name.as_ref(), false)
    }

    /// Gives a file another name, in place of what has that name.
    ///
    /// # Errors
    /// As [`ln`](Self::ln), and `EISDIR` where the name is a folder's.
    pub fn ln_f(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        self.link(target.as_ref(), name.as_ref(), true)
    }

    /// Makes a symbolic link with the text `target`.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT`, `ENAMETOOLONG`, `EROFS` with what to do, `ENOSPC`.
    pub fn ln_s(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        self.symlink(target.as_ref(), name.as_ref(), false)
    }

    /// Makes a symbolic link with the text `target`, in place of what has that name.
    ///
    /// # Errors
    /// As [`ln_s`](Self::ln_s), and `EISDIR` where the name is a folder's.
    pub fn ln_sf(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        self.symlink(target.as_ref(), name.as_ref(), true)
    }

    fn link(&self, target: &OsStr, path: &OsStr, replace: bool) -> Result<()> {
        let here = || path.display().to_string();
        let (tree, found) = self.find_to_change(target, false)?;
        let (_, dir, name) = self.find_place(path)?;
        writer(tree, dir).at(here)?;
        let (writer, dir_ino, ino) = tree.shared_writer(dir, found.node).at(here)?;
        if replace && let Ok((old, _)) = tree.lookup(dir, &name) {
            if old == found.node {
                return Ok(());
            }
            remove(tree, dir, &name, false).at(here)?;
        }
        writer.link(ino, dir_ino, &name).at(here)?;
        Ok(())
    }

    fn symlink(&self, target: &OsStr, path: &OsStr, replace: bool) -> Result<()> {
        let here = || path.display().to_string();
        let (tree, dir, name) = self.find_place(path)?;
        let (writer, ino) = writer(tree, dir).at(here)?;
        if replace && tree.lookup(dir, &name).is_ok() {
            remove(tree, dir, &name, false).at(here)?;
        }
        writer.symlink(ino, &name, target.as_bytes(), &self.who()).at(here)?;
        Ok(())
    }

    /// Moves a name, in place of what has the new one.
    ///
    /// # Errors
    /// `EXDEV` on another filesystem ([`mv`](Self::mv) copies then), `ENOENT`, `ENOTEMPTY`, `EISDIR`, `ENOTDIR`,
    /// `EINVAL` for a folder that would lie in itself, `EROFS` with what to do.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (tree, dir, name) = self.find_place(from)?;
        let (_, new_dir, new_name) = self.find_place(to)?;
        move_name(tree, (dir, &name), (new_dir, &new_name)).at(|| to.display().to_string())
    }

    /// Makes a device, a named pipe, a socket or a file by its mode, whose type is in its high bits; the mask of the handle
    /// is taken from the rest.
    ///
    /// # Errors
    /// `EINVAL` for a type that cannot be made so, and as [`mkdir`](Self::mkdir).
    pub fn mknod(&self, mode: u32, major: u32, minor: u32, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let file_type = match mode & libc::S_IFMT {
            0 => Some(FileType::Regular),
            _ => FileType::from_mode(mode),
        };
        let file_type = file_type
            .filter(|file_type| !matches!(file_type, FileType::Directory | FileType::Symlink))
            .ok_or(Error::Errno(libc::EINVAL))
            .at(here)?;
        let (tree, dir, name) = self.find_place(path)?;
        let (writer, ino) = writer(tree, dir).at(here)?;
        writer.create(ino, &name, file_type, (mode & 0o7777) as u16, (major, minor), &self.who()).at(here)?;
        Ok(())
    }

    /// Makes a named pipe.
    ///
    /// # Errors
    /// As [`mknod`](Self::mknod).
    pub fn mkfifo(&self, mode: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.mknod(libc::S_IFIFO | mode & 0o7777, 0, 0, path)
    }

    /// Makes a block device.
    ///
    /// # Errors
    /// As [`mknod`](Self::mknod).
    pub fn mknod_b(&self, mode: u32, major: u32, minor: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.mknod(libc::S_IFBLK | mode & 0o7777, major, minor, path)
    }

    /// Makes a character device.
    ///
    /// # Errors
    /// As [`mknod`](Self::mknod).
    pub fn mknod_c(&self, mode: u32, major: u32, minor: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.mknod(libc::S_IFCHR | mode & 0o7777, major, minor, path)
    }
}

/// Moves a name within a filesystem.
pub(super) fn move_name(tree: &Tree, from: (Node, &[u8]), to: (Node, &[u8])) -> Result<()> {
    writer(tree, from.0)?;
    writer(tree, to.0)?;
    let (writer, dir, new_dir) = tree.shared_writer(from.0, to.0)?;
    if tree.is_mountpoint(from.0, from.1) || tree.is_mountpoint(to.0, to.1) {
        return Err(Error::Errno(libc::EBUSY));
    }
    writer.rename(dir, from.1, new_dir, to.1, RenameMode::Replace)
}
