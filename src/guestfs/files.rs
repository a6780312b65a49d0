//! Reading files and folders of the tree by their paths.

use super::progress::Meter;
use super::{Guestfs, replace};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType, StatFs};
use crate::tree::{Found, Node, Tree, Visit, Visited};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is copied at once, in bytes.
pub(super) const PIECE: usize = 1 << 20;

/// The largest file that a call returns in memory, in bytes, as in libguestfs a message.
const LARGEST_IN_MEMORY: u64 = 1 << 30;

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

/// What stat(2) shows, with its names for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stat(2) documents them")]
pub struct StatNs {
    pub st_dev: u64,
    pub st_ino: u64,
    pub st_mode: u32,
    pub st_nlink: u32,
    pub st_uid: u32,
    pub st_gid: u32,
    pub st_rdev: u64,
    pub st_size: u64,
    pub st_blksize: u32,
    pub st_blocks: u64,
    pub st_atime_sec: i64,
    pub st_atime_nsec: u32,
    pub st_mtime_sec: i64,
    pub st_mtime_nsec: u32,
    pub st_ctime_sec: i64,
    pub st_ctime_nsec: u32,
}

impl StatNs {
    fn new(found: &Found, block_size: u32) -> Self {
        let attr = &found.attr;
        Self {
            // The filesystem's place in the tree, which is all that tells filesystems apart here.
            st_dev: found.node.to_bits() >> 56,
            st_ino: attr.ino,
            st_mode: attr.mode(),
            st_nlink: attr.nlink,
            st_uid: attr.uid,
            st_gid: attr.gid,
            st_rdev: nix::sys::stat::makedev(attr.rdev.0.into(), attr.rdev.1.into()),
            st_size: attr.size,
            st_blksize: block_size,
            st_blocks: attr.blocks,
            st_atime_sec: attr.atime.seconds,
            st_atime_nsec: attr.atime.nanoseconds,
            st_mtime_sec: attr.mtime.seconds,
            st_mtime_nsec: attr.mtime.nanoseconds,
            st_ctime_sec: attr.ctime.seconds,
            st_ctime_nsec: attr.ctime.nanoseconds,
        }
    }
}

/// Copies a regular file of a tree to `out`; returns how many bytes.
pub(super) fn copy_to(tree: &Tree, found: &Found, out: &mut dyn Write, meter: &Meter) -> Result<u64> {
    regular(found)?;
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

fn regular(found: &Found) -> Result<()> {
    match found.attr.file_type {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Error::Errno(libc::EISDIR)),
        _ => Err(Error::Errno(libc::EINVAL)),
    }
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
        regular(found)?;
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
        regular(&found).at(|| path.display().to_string())?;
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
        regular(&found).at(|| path.display().to_string())?;
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
        regular(&found).at(place)?;
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
        regular(&found).at(|| path.display().to_string())?;
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
        regular(&found).at(|| path.display().to_string())?;
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

    /// Returns the text of a symbolic link, bytes that are no UTF-8 replaced.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL` when it is none, and those of reading.
    pub fn readlink(&self, path: impl AsRef<OsStr>) -> Result<String> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, false)?;
        Ok(text(&tree.read_link(found.node).at(|| path.display().to_string())?))
    }

    /// Returns a path without links, `.` and `..`.
    ///
    /// # Errors
    /// `ENOENT`, `ELOOP`, and those of reading.
    pub fn realpath(&self, path: impl AsRef<OsStr>) -> Result<String> {
        Ok(text(&self.find_path(path.as_ref(), true)?.1.path))
    }

    /// Says whether a path names anything; a link at its end is followed, as access(2) does.
    ///
    /// # Errors
    /// Those of reading, other than that there is nothing.
    pub fn exists(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), true, |_| true)
    }

    /// Says whether a path names a regular file; a link at its end is not followed.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_file(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Regular)
    }

    /// Says whether a path names a folder; a link at its end is not followed.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_dir(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Directory)
    }

    /// Says whether a path names a symbolic link.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_symlink(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Symlink)
    }

    /// Says whether a path names a block device.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_blockdev(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::BlockDevice)
    }

    /// Says whether a path names a character device.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_chardev(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::CharDevice)
    }

    /// Says whether a path names a named pipe.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_fifo(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Fifo)
    }

    /// Says whether a path names a socket.
    ///
    /// # Errors
    /// As [`exists`](Self::exists).
    pub fn is_socket(&self, path: impl AsRef<OsStr>) -> Result<bool> {
        self.is_type(path.as_ref(), false, |file_type| file_type == FileType::Socket)
    }

    /// Says whether a path names anything, a link that leads nowhere too.
    pub(super) fn is_there(&self, path: &OsStr) -> Result<bool> {
        self.is_type(path, false, |_| true)
    }

    fn is_type(&self, path: &OsStr, follow: bool, is: impl FnOnce(FileType) -> bool) -> Result<bool> {
        match self.find_path(path, follow) {
            Ok((_, found)) => Ok(is(found.attr.file_type)),
            Err(error) if error.is_errno(libc::ENOENT) || error.is_errno(libc::ENOTDIR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns what stat(2) shows, of what a link leads to.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn stat(&self, path: impl AsRef<OsStr>) -> Result<Attr> {
        Ok(self.find_path(path.as_ref(), true)?.1.attr)
    }

    /// Returns what lstat(2) shows, of a link itself.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn lstat(&self, path: impl AsRef<OsStr>) -> Result<Attr> {
        Ok(self.find_path(path.as_ref(), false)?.1.attr)
    }

    /// Returns what stat(2) shows, of what a link leads to, under the names that it has there.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn statns(&self, path: impl AsRef<OsStr>) -> Result<StatNs> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let block_size = tree.filesystem(found.node)?.0.info().block_size;
        Ok(StatNs::new(&found, block_size))
    }

    /// Returns what lstat(2) shows, of a link itself, under the names that it has there.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn lstatns(&self, path: impl AsRef<OsStr>) -> Result<StatNs> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, false)?;
        let block_size = tree.filesystem(found.node)?.0.info().block_size;
        Ok(StatNs::new(&found, block_size))
    }

    /// Returns the size of a file, in bytes.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn filesize(&self, path: impl AsRef<OsStr>) -> Result<u64> {
        Ok(self.stat(path)?.size)
    }

    /// Returns how full the filesystem of a path is.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn statvfs(&self, path: impl AsRef<OsStr>) -> Result<StatFs> {
        let (tree, found) = self.find_path(path.as_ref(), true)?;
        tree.statfs(found.node)
    }

    /// Returns the names and values of a file's extended attributes; a link is followed.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn getxattrs(&self, path: impl AsRef<OsStr>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let names = tree.xattrs(found.node).at(|| path.display().to_string())?;
        let value = |name: Vec<u8>| {
            let value = tree.xattr(found.node, &name).at(|| path.display().to_string())?;
            Ok((name, value))
        };
        names.into_iter().map(value).collect()
    }

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
        self.find_folder(path)?;
        let mut paths = Vec::new();
        self.walk(path, |file| {
            if file.depth > 0 {
                paths.push(file.path.to_vec());
            }
            Ok(Visit::Enter)
        })?;
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

    /// Says whether two files have the same contents.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, and those of reading.
    pub fn equal(&self, one: impl AsRef<OsStr>, other: impl AsRef<OsStr>) -> Result<bool> {
        let (one, other) = (one.as_ref(), other.as_ref());
        let (tree, left) = self.find_path(one, true)?;
        let (_, right) = self.find_path(other, true)?;
        regular(&left).at(|| one.display().to_string())?;
        regular(&right).at(|| other.display().to_string())?;
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
