//! Writing the contents of files.
//!
//! A file that is written as a whole is filled without a name first and gets its name when it is complete; one that was
//! there keeps its owner, mode and extended attributes. Only a file that has several names is written in place.

use super::Guestfs;
use super::files::PIECE;
use super::progress::Meter;
use super::put::{Held, now, read_xattrs, temporary_name, writer};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::write::{FallocateMode, RenameMode, SetAttr, XattrMode};
use crate::fs::{Attr, FileType, FilesystemWrite, Ino};
use crate::tree::{Node, Tree};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How often a file is given its name when other threads write the same name at that moment.
const MOST_ATTEMPTS: usize = 100;

/// A regular file that is to be written, and the place of its name.
pub(super) struct Place<'a> {
    pub(super) tree: &'a Tree,
    pub(super) dir: Node,
    name: Vec<u8>,
    pub(super) old: Option<(Node, Attr)>,
}

impl Place<'_> {
    /// Fills a new file and gives it its name, or fills the old one in place where it has other names too. Only a file that
    /// was not there gets these permissions, less the mask.
    pub(super) fn fill(&self, permissions: u16, umask: u16, fill: impl FnOnce(&Held<'_>) -> Result<()>) -> Result<()> {
        let (writer, dir) = writer(self.tree, self.dir)?;
        if let Some((node, attr)) = &self.old
            && attr.nlink > 1
        {
            let (_, ino) = self.tree.filesystem(*node)?;
            let held = Held::new(writer, ino);
            held.set_size(0)?;
            return fill(&held);
        }
        let who = crate::fs::write::Credentials { uid: 0, gid: 0, umask };
        // A driver that cannot make a file without a name makes it under another one.
        let (made, hidden) = match writer.create_unnamed(dir, permissions, &who) {
            Ok(made) => (made, None),
            Err(error) if matches!(error.errno(), libc::EOPNOTSUPP | libc::ENOSYS) => {
                let name = temporary_name();
                (writer.create(dir, &name, FileType::Regular, permissions, (0, 0), &who)?, Some(name))
            }
            Err(error) => return Err(error),
        };
        // A new inode without a name is held once by whoever made it.
        let held = Held::new(writer, made.ino);
        let done = fill(&held).and_then(|()| self.give_name(writer, dir, made.ino, hidden.as_deref()));
        if let (Err(_), Some(name)) = (&done, &hidden) {
            // The first error is the one to tell.
            let _ = writer.unlink(dir, name);
        }
        done
    }

    /// Gives a file that is complete its name and what the old one of that name had. Where another thread replaced or removed
    /// that one meanwhile, it counts what is there now.
    fn give_name(&self, writer: &dyn FilesystemWrite, dir: Ino, ino: Ino, hidden: Option<&[u8]>) -> Result<()> {
        let mut old = self.old.clone();
        for _ in 0..MOST_ATTEMPTS {
            let inherited = old.as_ref().map_or(Ok(()), |(node, attr)| self.inherit(writer, ino, *node, attr));
            match inherited.and_then(|()| self.name_it(writer, dir, ino, hidden, old.is_some())) {
                Err(error) if error.is_errno(libc::ENOENT) || error.is_errno(libc::EEXIST) => {}
                done => return done,
            }
            old = match self.tree.lookup(self.dir, &self.name) {
                Ok(found) if found.1.file_type == FileType::Regular => Some(found),
                Ok(_) => return Err(Error::Errno(libc::EEXIST)),
                Err(error) if error.is_errno(libc::ENOENT) => None,
                Err(error) => return Err(error),
            };
        }
        Err(Error::Errno(libc::EBUSY))
    }

    /// Gives a new file what the old one of its name had.
    fn inherit(&self, writer: &dyn FilesystemWrite, ino: Ino, old: Node, attr: &Attr) -> Result<()> {
        let set = SetAttr {
            permissions: Some(attr.permissions & 0o1777),
            uid: Some(attr.uid),
            gid: Some(attr.gid),
            ..SetAttr::default()
        };
        writer.set_attr(ino, &set)?;
        for (name, value) in read_xattrs(self.tree, old)? {
            // As a write takes them away.
            if name != b"security.capability" {
                writer.set_xattr(ino, &name, &value, XattrMode::Set)?;
            }
        }
        Ok(())
    }

    fn name_it(
        &self,
        writer: &dyn FilesystemWrite,
        dir: Ino,
        ino: Ino,
        hidden: Option<&[u8]>,
        replace: bool,
    ) -> Result<()> {
        if hidden.is_none() && !replace {
            return writer.link(ino, dir, &self.name).map(drop);
        }
        let name = match hidden {
            Some(name) => name.to_vec(),
            None => {
                let name = temporary_name();
                writer.link(ino, dir, &name)?;
                name
            }
        };
        let mode = if replace { RenameMode::Replace } else { RenameMode::NoReplace };
        let renamed = writer.rename(dir, &name, dir, &self.name, mode);
        if renamed.is_err() && hidden.is_none() {
            // The first error is the one to tell.
            let _ = writer.unlink(dir, &name);
        }
        renamed
    }
}

/// Writes what a file of the host holds, holes as holes.
fn upload_regular(file: &File, size: u64, to: &Held<'_>, meter: &Meter) -> Result<u64> {
    use nix::unistd::{Whence, lseek};
    let place = || "cannot read the file of the host";
    let mut buffer = vec![0; PIECE.min(size.max(1) as usize)];
    let mut offset = 0;
    let mut written = 0;
    while offset < size {
        let data = match lseek(file, offset.cast_signed(), Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            Err(nix::Error::ENXIO) => break,
            // A filesystem that knows no holes.
            Err(nix::Error::EINVAL) => offset,
            Err(errno) => return Err(errno).doing(place),
        };
        let hole = lseek(file, data.cast_signed(), Whence::SeekHole).map_or(size, i64::cast_unsigned).min(size);
        if hole <= data {
            break;
        }
        meter.add(data - offset)?;
        offset = data;
        while offset < hole {
            let wanted = (hole - offset).min(buffer.len() as u64) as usize;
            let count = file.read_at(&mut buffer[..wanted], offset).doing(place)?;
            if count == 0 {
                return Ok(written);
            }
            to.write_all(offset, &buffer[..count])?;
            offset += count as u64;
            written = offset;
            meter.add(count as u64)?;
        }
    }
    if written < size {
        to.set_size(size)?;
    }
    Ok(size)
}

/// Writes what a stream of the host holds.
fn upload_stream(from: &mut dyn Read, to: &Held<'_>, meter: &Meter) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let mut offset = 0;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("cannot read what is to be written", error)),
            }
        }
        if filled == 0 {
            // An interruption that came while the stream was waited for counts too.
            meter.add(0)?;
            return Ok(offset);
        }
        to.write_all(offset, &buffer[..filled])?;
        offset += filled as u64;
        meter.add(filled as u64)?;
    }
}

/// Copies a regular file of the host into a file that is held; returns its size.
pub(super) fn copy_host_file(file: &File, to: &Held<'_>, meter: &Meter) -> Result<u64> {
    let metadata = file.metadata().doing(|| "cannot read the file of the host")?;
    if metadata.is_dir() {
        return Err(Error::Errno(libc::EISDIR));
    }
    // What has no size may still have contents: a pipe, a file of /proc.
    if metadata.is_file() && metadata.len() > 0 {
        upload_regular(file, metadata.len(), to, meter)
    } else {
        upload_stream(&mut &*file, to, meter)
    }
}

impl Guestfs {
    /// Finds a regular file that is to be written as a whole, or the place for a new one. A link is followed, also one
    /// that leads to nothing yet.
    pub(super) fn place(&self, path: &OsStr) -> Result<Place<'_>> {
        let here = || path.display().to_string();
        self.check_not_local()?;
        let tree = self.tree()?;
        let mut wanted = path.as_bytes().to_vec();
        for _ in 0..crate::tree::MAX_SYMLINKS {
            if wanted.ends_with(b"/") {
                return Err(Error::Errno(libc::EISDIR).at(here()));
            }
            let (folder, name) = tree.resolve_parent(&wanted).at(here)?;
            let (node, attr) = match tree.lookup(folder.node, &name) {
                Ok(found) => found,
                Err(error) if error.is_errno(libc::ENOENT) => {
                    return Ok(Place { tree, dir: folder.node, name, old: None });
                }
                Err(error) => return Err(error.at(here())),
            };
            match attr.file_type {
                FileType::Regular => return Ok(Place { tree, dir: folder.node, name, old: Some((node, attr)) }),
                FileType::Symlink => {
                    let target = tree.read_link(node).at(here)?;
                    wanted = if target.starts_with(b"/") { Vec::new() } else { [&folder.path, &b"/"[..]].concat() };
                    wanted.extend_from_slice(&target);
                }
                FileType::Directory => return Err(Error::Errno(libc::EISDIR).at(here())),
                _ => return Err(Error::Errno(libc::EINVAL).at(here())),
            }
        }
        Err(Error::Errno(libc::ELOOP).at(here()))
    }

    /// Finds a regular file that is written in place; makes an empty one where there is none.
    fn find_or_make(&self, path: &OsStr) -> Result<(&Tree, Node, Attr)> {
        let place = self.place(path)?;
        if let Some((node, attr)) = place.old {
            return Ok((place.tree, node, attr));
        }
        let here = || path.display().to_string();
        let (writer, dir) = writer(place.tree, place.dir).at(here)?;
        let attr = writer.create(dir, &place.name, FileType::Regular, 0o666, (0, 0), &self.who()).at(here)?;
        Ok((place.tree, place.tree.sibling(place.dir, attr.ino)?, attr))
    }

    /// Finds a regular file that must exist, with the writing half of its filesystem.
    fn find_file(&self, path: &OsStr) -> Result<(&dyn FilesystemWrite, Ino, Attr)> {
        let here = || path.display().to_string();
        let (tree, found) = self.find_to_change(path, true)?;
        found.attr.file_type.check_regular().at(here)?;
        let (writer, ino) = writer(tree, found.node).at(here)?;
        Ok((writer, ino, found.attr))
    }

    /// Writes a file: what it held before is gone. It is made where there is none.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EROFS` with what to do, `ENOSPC`; what was there before then stays.
    pub fn write(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> Result<()> {
        self.write_from(path, &mut content.as_ref()).map(drop)
    }

    /// Writes a file with what a stream holds; returns how many bytes. It has its name when it is complete.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of the stream.
    pub fn write_from(&self, path: impl AsRef<OsStr>, from: &mut dyn Read) -> Result<u64> {
        let path = path.as_ref();
        let meter = self.meter(0);
        let mut size = 0;
        let filled = self.place(path)?.fill(0o666, self.get_umask(), |held| {
            size = upload_stream(from, held, &meter)?;
            Ok(())
        });
        filled.at(|| path.display().to_string())?;
        Ok(size)
    }

    /// Writes at the end of a file, which is made where there is none.
    ///
    /// # Errors
    /// As [`write`](Self::write); what was written before an error stays.
    pub fn write_append(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let (tree, node, attr) = self.find_or_make(path)?;
        let (writer, ino) = writer(tree, node).at(here)?;
        Held::new(writer, ino).write_all(attr.size, content.as_ref()).at(here)
    }

    /// Writes to a file that exists, from `offset` on; returns how many bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write); what was written before an error stays.
    pub fn pwrite(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>, offset: u64) -> Result<usize> {
        let (path, content) = (path.as_ref(), content.as_ref());
        let (writer, ino, _) = self.find_file(path)?;
        Held::new(writer, ino).write_all(offset, content).at(|| path.display().to_string())?;
        Ok(content.len())
    }

    /// Copies a file of the host to a file of the guest, holes as holes; returns its size. It has its name when it is
    /// complete.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of the host.
    pub fn upload(&self, from: impl AsRef<Path>, path: impl AsRef<OsStr>) -> Result<u64> {
        let (from, path) = (from.as_ref(), path.as_ref());
        let file = File::open(from).doing(|| format!("cannot read {}", from.display()))?;
        let metadata = file.metadata().doing(|| format!("cannot read {}", from.display()))?;
        if metadata.is_dir() {
            return Err(Error::Errno(libc::EISDIR).at(from.display().to_string()));
        }
        let meter = self.meter(metadata.len());
        let place = self.place(path)?;
        self.timed("upload", || {
            let mut size = 0;
            let filled = place.fill(0o666, self.get_umask(), |held| {
                size = copy_host_file(&file, held, &meter)?;
                Ok(())
            });
            filled.at(|| path.display().to_string())?;
            Ok(size)
        })
    }

    /// Copies a file of the host into a file of the guest, from `offset` of that on; returns its size. What else that
    /// file holds stays; it is made where there is none.
    ///
    /// # Errors
    /// As [`upload`](Self::upload); what was written before an error stays.
    pub fn upload_offset(&self, from: impl AsRef<Path>, path: impl AsRef<OsStr>, offset: u64) -> Result<u64> {
        let (from, path) = (from.as_ref(), path.as_ref());
        let here = || path.display().to_string();
        let mut file = File::open(from).doing(|| format!("cannot read {}", from.display()))?;
        let (tree, node, _) = self.find_or_make(path)?;
        let (writer, ino) = writer(tree, node).at(here)?;
        let held = Held::new(writer, ino);
        let meter = self.meter(file.metadata().map_or(0, |metadata| metadata.len()));
        let mut buffer = vec![0; PIECE];
        let mut done = 0;
        loop {
            let count = file.read(&mut buffer).doing(|| format!("cannot read {}", from.display()))?;
            if count == 0 {
                return Ok(done);
            }
            let at = offset.checked_add(done).ok_or(Error::Errno(libc::EFBIG)).at(here)?;
            held.write_all(at, &buffer[..count]).at(here)?;
            done += count as u64;
            meter.add(count as u64)?;
        }
    }

    /// Makes an empty file, or sets the times of what is there to now.
    ///
    /// # Errors
    /// `ENOENT` for a folder that there is not, `EROFS` with what to do, `ENOSPC`.
    pub fn touch(&self, path: impl AsRef<OsStr>) -> Result<()> {
        let path = path.as_ref();
        match self.find_to_change(path, true) {
            Ok(_) => self.set(path, true, &SetAttr { atime: Some(now()), mtime: Some(now()), ..SetAttr::default() }),
            Err(error) if error.is_errno(libc::ENOENT) => self.find_or_make(path).map(drop),
            Err(error) => Err(error),
        }
    }

    /// Makes a file empty.
    ///
    /// # Errors
    /// As [`truncate_size`](Self::truncate_size).
    pub fn truncate(&self, path: impl AsRef<OsStr>) -> Result<()> {
        self.truncate_size(path, 0)
    }

    /// Gives a file that exists a size in bytes, by cutting it or with a hole at its end.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `EFBIG`, `EROFS` with what to do.
    pub fn truncate_size(&self, path: impl AsRef<OsStr>, size: u64) -> Result<()> {
        let path = path.as_ref();
        let (writer, ino, _) = self.find_file(path)?;
        let set = SetAttr { size: Some(size), drop_set_id: true, ..SetAttr::default() };
        writer.set_attr(ino, &set).at(|| path.display().to_string())?;
        Ok(())
    }

    /// Makes a file of `len` bytes that read as zeroes and have their space; one that is there grows to that.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn fallocate64(&self, path: impl AsRef<OsStr>, len: u64) -> Result<()> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let (tree, node, attr) = self.find_or_make(path)?;
        if len == 0 {
            return Ok(());
        }
        let (writer, ino) = writer(tree, node).at(here)?;
        let held = Held::new(writer, ino);
        match writer.fallocate(ino, 0, len, FallocateMode::Allocate) {
            Err(error) if error.errno() == libc::EOPNOTSUPP => {
                let zeroes = vec![0; PIECE];
                let mut at = attr.size;
                while at < len {
                    let count = (len - at).min(PIECE as u64);
                    held.write_all(at, &zeroes[..count as usize]).at(here)?;
                    at += count;
                }
                Ok(())
            }
            done => done.at(here),
        }
    }

    /// Writes a file of `len` bytes that are all `byte`.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn fill(&self, byte: u8, len: u64, path: impl AsRef<OsStr>) -> Result<()> {
        self.write_from(path, &mut std::io::repeat(byte).take(len)).map(drop)
    }

    /// Writes a file of `len` bytes that repeat a pattern.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`Error::Usage`] for an empty pattern.
    pub fn fill_pattern(&self, pattern: &str, len: u64, path: impl AsRef<OsStr>) -> Result<()> {
        if pattern.is_empty() {
            return Err(Error::Usage("the pattern is empty".into()));
        }
        // Whole patterns in pieces of about 64 KiB.
        let piece = pattern.repeat((1 << 16) / pattern.len() + 1).into_bytes();
        let mut pieces = std::iter::repeat(piece.as_slice());
        let mut rest: &[u8] = &[];
        let mut repeated = Repeated { next: || pieces.next().unwrap_or_default(), rest: &mut rest };
        self.write_from(path, &mut Read::take(&mut repeated, len)).map(drop)
    }
}

/// Pieces as a stream.
struct Repeated<'a, 'b, F> {
    next: F,
    rest: &'b mut &'a [u8],
}

impl<'a, F: FnMut() -> &'a [u8]> Read for Repeated<'a, '_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.rest.is_empty() {
            *self.rest = (self.next)();
        }
        self.rest.read(buffer)
    }
}
