//! Reading the contents of files of the tree by their paths.

use super::progress::Meter;
use super::{Guestfs, replace};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::tree::{Found, Node, Tree};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is copied at once, in bytes.
pub(super) const PIECE: usize = 1 << 20;

/// The largest file that a call returns in memory, in bytes, as in libguestfs a message.
const LARGEST_IN_MEMORY: u64 = 1 << 30;

/// Copies a regular file of a tree to `out`; returns how many bytes.
pub(super) fn copy_to(tree: &Tree, found: &Found, out: &mut dyn Write, meter: &Meter) -> Result<u64> {
    found.attr.file_type.check_regular()?;
    let mut buffer = vec![0; PIECE.min(found.attr.size.max(1) as usize)];
    let mut offset = 0;
    loop {
        let count = tree.read(found.node, offset, &mut buffer)?;
        if count == 0 {
            return Ok(offset);
        }
        out.write_all(&buffer[..count]).doing(|| "cannot write")?;
        offset += count as u64;
        meter.add(count as u64)?;
    }
}

/// Copies a regular file of a tree to a new, empty file of the host, holes as holes; returns its size.
pub(super) fn copy_file(tree: &Tree, node: Node, size: u64, out: &File, meter: &Meter) -> Result<u64> {
    let place = || "cannot write";
    let (filesystem, ino) = tree.filesystem(node)?;
    let mut buffer = vec![0; PIECE.min(size.max(1) as usize)];
    let mut offset = 0;
    'data: while offset < size {
        let data = match filesystem.next_data(ino, offset) {
            Ok(data) => data.max(offset),
            Err(error) if error.is_errno(libc::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = filesystem.next_hole(ino, data)?.min(size);
        if hole <= data {
            return Err(Error::corrupt("extent map of a file", "a stretch of data has no length"));
        }
        meter.add(data - offset)?;
        offset = data;
        while offset < hole {
            let wanted = (hole - offset).min(buffer.len() as u64) as usize;
            let count = tree.read(node, offset, &mut buffer[..wanted])?;
            if count == 0 {
                break 'data;
            }
            out.write_all_at(&buffer[..count], offset).doing(place)?;
            offset += count as u64;
            meter.add(count as u64)?;
        }
    }
    out.set_len(size).doing(place)?;
    Ok(size)
}

/// Returns a buffer of zeroes whose size an image may have chosen.
fn buffer_of(size: u64) -> Result<Vec<u8>> {
    let size = usize::try_from(size).map_err(|_| Error::Errno(libc::ENOMEM))?;
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(size).map_err(|_| Error::Errno(libc::ENOMEM))?;
    buffer.resize(size, 0);
    Ok(buffer)
}

/// Returns bytes as text, those that are no UTF-8 replaced.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Guestfs {
    /// Finds what a path names; a link at its end is followed where `follow`. Errors carry the path.
    pub(super) fn find_path(&self, path: &OsStr, follow: bool) -> Result<(&Tree, Found)> {
        let tree = self.tree()?;
        if self.trace {
            log::info!("trace: path {path:?}");
        }
        let found = tree.resolve(path.as_bytes(), follow).at(|| path.display().to_string())?;
        Ok((tree, found))
    }

    /// Finds the folder that a path names. Errors carry the path.
    pub(super) fn find_folder(&self, path: &OsStr) -> Result<(&Tree, Found)> {
        let (tree, found) = self.find_path(path, true)?;
        match found.attr.is_dir() {
            true => Ok((tree, found)),
            false => Err(Error::Errno(libc::ENOTDIR).at(path.display().to_string())),
        }
    }

    /// Returns the contents of a file as text; bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EFBIG` above 1 GiB, and those of reading.
    pub fn cat(&self, path: impl AsRef<OsStr>) -> Result<String> {
        Ok(text(&self.read_file(path)?))
    }

    /// Returns the contents of a file.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn read_file(&self, path: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        if found.attr.size > LARGEST_IN_MEMORY {
            return Err(Error::Errno(libc::EFBIG).at(path.display().to_string()));
        }
        self.whole(tree, &found).at(|| path.display().to_string())
    }

    fn whole(&self, tree: &Tree, found: &Found) -> Result<Vec<u8>> {
        found.attr.file_type.check_regular()?;
        let mut contents = buffer_of(found.attr.size)?;
        let mut done = 0;
        while done < contents.len() {
            let count = tree.read(found.node, done as u64, &mut contents[done..])?;
            if count == 0 {
                contents.truncate(done);
            }
            done += count;
        }
        Ok(contents)
    }

    /// Returns the lines of a file as text, without their ends.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn read_lines(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        Ok(self.cat(path)?.lines().map(str::to_owned).collect())
    }

    /// Returns the first ten lines of a file.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn head(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        self.head_n(10, path)
    }

    /// Returns the first lines of a file.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn head_n(&self, lines: usize, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(|| path.display().to_string())?;
        let mut contents = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        let mut ends = 0;
        while ends < lines {
            let count = tree.read(found.node, contents.len() as u64, &mut buffer).at(|| path.display().to_string())?;
            if count == 0 {
                break;
            }
            contents.extend_from_slice(&buffer[..count]);
            ends += buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
            if contents.len() as u64 > LARGEST_IN_MEMORY {
                return Err(Error::Errno(libc::EFBIG).at(path.display().to_string()));
            }
        }
        Ok(text(&contents).lines().take(lines).map(str::to_owned).collect())
    }

    /// Returns the last ten lines of a file.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn tail(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        self.tail_n(10, path)
    }

    /// Returns the last lines of a file.
    ///
    /// # Errors
    /// As [`cat`](Self::cat).
    pub fn tail_n(&self, lines: usize, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(|| path.display().to_string())?;
        let mut span = 1 << 16;
        loop {
            let from = found.attr.size.saturating_sub(span);
            let mut buffer = buffer_of(found.attr.size - from).at(|| path.display().to_string())?;
            let count = tree.read(found.node, from, &mut buffer).at(|| path.display().to_string())?;
            buffer.truncate(count);
            let ends = buffer.iter().filter(|&&byte| byte == b'\n').count();
            if from > 0 && ends <= lines && span >= LARGEST_IN_MEMORY {
                return Err(Error::Errno(libc::EFBIG).at(path.display().to_string()));
            }
            if from == 0 || ends > lines {
                let whole = text(&buffer);
                let all: Vec<&str> = whole.lines().collect();
                return Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect());
            }
            span *= 4;
        }
    }

    /// Reads at most `count` bytes of a file from `offset`.
    ///
    /// # Errors
    /// As [`cat`](Self::cat); `EINVAL` for more than 1 GiB.
    pub fn pread(&self, path: impl AsRef<OsStr>, count: usize, offset: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let place = || path.display().to_string();
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(place)?;
        if count as u64 > LARGEST_IN_MEMORY {
            return Err(Error::Errno(libc::EINVAL).at(place()));
        }
        let left = found.attr.size.saturating_sub(offset).min(count as u64);
        let mut buffer = buffer_of(left).at(place)?;
        let read = tree.read(found.node, offset, &mut buffer).at(place)?;
        buffer.truncate(read);
        Ok(buffer)
    }

    /// Copies a file of the guest to a file of the host. What was there before stays until the copy is complete.
    ///
    /// # Errors
    /// As [`cat`](Self::cat), and those of the host.
    pub fn download(&self, path: impl AsRef<OsStr>, to: impl AsRef<Path>) -> Result<u64> {
        let (path, to) = (path.as_ref(), to.as_ref());
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(|| path.display().to_string())?;
        let meter = self.meter(found.attr.size);
        let copied = if replace::is_special(to) {
            replace::write_file(to, |out| copy_to(tree, &found, out, &meter))
        } else {
            replace::replace_file(to, |out| copy_file(tree, found.node, found.attr.size, out, &meter))
        };
        copied.at(|| path.display().to_string())
    }

    /// Copies `size` bytes of a file of the guest from `offset` to the same place of a file of the host.
    ///
    /// # Errors
    /// As [`download`](Self::download).
    pub fn download_offset(
        &self,
        path: impl AsRef<OsStr>,
        to: impl AsRef<Path>,
        offset: u64,
        size: u64,
    ) -> Result<u64> {
        let (path, to) = (path.as_ref(), to.as_ref());
        let place = || format!("cannot write {}", to.display());
        if offset.checked_add(size).is_none_or(|end| end > i64::MAX.cast_unsigned()) {
            return Err(Error::Errno(libc::EINVAL).at(path.display().to_string()));
        }
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(|| path.display().to_string())?;
        let file = File::options().write(true).create(true).truncate(false).open(to).doing(place)?;
        let mut buffer = vec![0; PIECE.min(size.max(1) as usize)];
        let mut done = 0;
        while done < size {
            let wanted = (size - done).min(buffer.len() as u64) as usize;
            let count =
                tree.read(found.node, offset + done, &mut buffer[..wanted]).at(|| path.display().to_string())?;
            if count == 0 {
                break;
            }
            file.write_all_at(&buffer[..count], offset + done).doing(place)?;
            done += count as u64;
        }
        Ok(done)
    }

    /// Says whether two files have the same contents.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, and those of reading.
    pub fn equal(&self, one: impl AsRef<OsStr>, other: impl AsRef<OsStr>) -> Result<bool> {
        let (one, other) = (one.as_ref(), other.as_ref());
        let (tree, left) = self.find_path(one, true)?;
        let (_, right) = self.find_path(other, true)?;
        left.attr.file_type.check_regular().at(|| one.display().to_string())?;
        right.attr.file_type.check_regular().at(|| other.display().to_string())?;
        if left.attr.size != right.attr.size {
            return Ok(false);
        }
        let (mut first, mut second) = (vec![0; PIECE], vec![0; PIECE]);
        let mut offset = 0;
        while offset < left.attr.size {
            let count = tree.read(left.node, offset, &mut first).at(|| one.display().to_string())?;
            let also = tree.read(right.node, offset, &mut second).at(|| other.display().to_string())?;
            if count == 0 || count != also || first[..count] != second[..count] {
                return Ok(false);
            }
            offset += count as u64;
        }
        Ok(true)
    }
}
