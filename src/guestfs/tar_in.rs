//! Unpacking tar archives into the guest.
//!
//! An archive is not trusted. Names are taken below the folder that was given: slashes and `..` at their beginning are
//! left off. A link that leads out of that folder is made, but no member is written through it. Links that were there
//! before are followed, within the guest's tree, and a folder of the archive does not replace one that leads to a folder:
//! where `/bin` is a link to `usr/bin`, an archive with a `bin/` would take the guest its programs. A file gets its name, or takes that of another, when it is complete;
//! folders get their attributes when everything is in them.

use super::archive::Compression;
use super::files::PIECE;
use super::progress::Meter;
use super::put::{ACL_ACCESS, ACL_DEFAULT, Held, New, Put, now, remove, writer};
use super::untar::{Kind, Member, Members, decompress};
use super::{Guestfs, acl};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::FileType;
use crate::tree::{MAX_SYMLINKS, Node, Tree};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

/// The largest list of users or groups that is read, in bytes.
const LARGEST_LIST: u64 = 4 << 20;

/// How much of an archive is read and decompressed ahead: so many pieces of so many bytes.
const PIECES_AHEAD: usize = 8;
const PIECE_AHEAD: usize = 256 << 10;

/// How many folders are remembered by their paths.
const FOLDERS_KNOWN: usize = 4096;

/// How a tar archive is unpacked.
#[derive(Clone, Debug)]
pub struct TarInOptions {
    /// How it is compressed; `None` looks at its first bytes.
    pub compression: Option<Compression>,
    /// Sets extended attributes, those of SELinux and access control lists apart.
    pub xattrs: bool,
    /// Sets access control lists.
    pub acls: bool,
    /// Sets SELinux labels.
    pub selinux: bool,
    /// Sets owners; else everything belongs to root.
    pub owners: bool,
    /// Takes owners by their numbers. Otherwise by their names, where the guest's `/etc/passwd` and `/etc/group` have them.
    pub numeric_owner: bool,
    /// Unpacks a folder into what a link of its name leads to within the guest, where that is a folder, which keeps its
    /// owner, mode and times; else the link makes way. A link of the archive itself that may lead out of the folder always
    /// does.
    pub keep_folder_links: bool,
}

impl Default for TarInOptions {
    fn default() -> Self {
        Self {
            compression: None,
            xattrs: true,
            acls: true,
            selinux: true,
            owners: true,
            numeric_owner: true,
            keep_folder_links: true,
        }
    }
}

/// An archive that a thread reads and decompresses ahead.
struct Ahead {
    pieces: Receiver<Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.piece.len() {
            match self.pieces.recv() {
                Ok(Ok(piece)) => (self.piece, self.at) = (piece, 0),
                Ok(Err(error)) => return Err(std::io::Error::other(error)),
                Err(_) => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len() - self.at);
        buffer[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// A stream that tells how much was read of it.
struct Metered<'a, 'b> {
    from: &'a mut (dyn Read + Send),
    meter: &'b Meter,
}

impl Read for Metered<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.meter.add(count as u64).map_err(std::io::Error::other)?;
        Ok(count)
    }
}

/// Names of users or groups with their numbers.
type Ids = HashMap<Vec<u8>, u32>;

/// Returns the numbers of the names in a guest's `/etc/passwd` or `/etc/group`.
fn read_ids(guest: &Guestfs, path: &str) -> Ids {
    if !guest.filesize(path).is_ok_and(|size| size <= LARGEST_LIST) {
        return Ids::new();
    }
    let Ok(contents) = guest.read_file(path) else { return Ids::new() };
    let entry = |line: &[u8]| {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?.to_vec();
        let number = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        Some((name, number))
    };
    contents.split(|&byte| byte == b'\n').filter_map(entry).collect()
}

/// One archive on its way into the guest.
struct Unpack<'a> {
    tree: &'a Tree,
    put: Put<'a>,
    options: &'a TarInOptions,
    top: Node,
    users: Ids,
    groups: Ids,
    /// Links of this archive that lead out of the folder, or might.
    stray_links: HashSet<Node>,
    /// Folders of this archive, whose attributes are set at the end.
    folders: Vec<(Node, New)>,
    /// Folders that were found before.
    known: HashMap<Vec<u8>, Node>,
}

/// Returns the names of a member's path below the folder: without slashes and `..` at its beginning.
fn names_of(path: &[u8]) -> Vec<&[u8]> {
    let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let from = names.iter().rposition(|name| *name == b"..").map_or(0, |last| last + 1);
    names[from..].iter().copied().filter(|name| !matches!(*name, b"" | b".")).collect()
}

impl Unpack<'_> {
    /// Finds the folder of some names below the top; folders that are missing are made.
    fn folder(&mut self, names: &[&[u8]]) -> Result<Node> {
        self.find_folder(names, true)
    }

    /// Says whether some names below the top lead to a folder, by links that may be followed.
    fn is_folder(&mut self, names: &[&[u8]]) -> Result<bool> {
        match self.find_folder(names, false) {
            Ok(_) => Ok(true),
            Err(Error::Usage(_) | Error::Errno(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn find_folder(&mut self, names: &[&[u8]], make_missing: bool) -> Result<Node> {
        let path = names.join(&b'/');
        if let Some(&node) = self.known.get(&path) {
            return Ok(node);
        }
        let mut here = self.top;
        let mut links = 0;
        let mut todo: Vec<Vec<u8>> = names.iter().rev().map(|name| name.to_vec()).collect();
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"." | b"" => continue,
                b".." => {
                    here = self.tree.parent(here)?;
                    continue;
                }
                _ => {}
            }
            let (node, attr) = match self.tree.lookup(here, &name) {
                Ok(found) => found,
                Err(error) if make_missing && error.is_errno(libc::ENOENT) => {
                    here = self.missing_folder(here, &name)?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match attr.file_type {
                FileType::Directory => here = node,
                FileType::Symlink => {
                    if self.stray_links.contains(&node) {
                        let why = "it would be written through a link of the same archive that leads elsewhere";
                        return Err(Error::Usage(why.into()));
                    }
                    links += 1;
                    if links > MAX_SYMLINKS {
                        return Err(Error::Errno(libc::ELOOP));
                    }
                    let target = self.tree.read_link(node)?;
                    if target.starts_with(b"/") {
                        here = self.tree.root();
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec));
                }
                _ => return Err(Error::Errno(libc::ENOTDIR)),
            }
        }
        if self.known.len() >= FOLDERS_KNOWN {
            self.known.clear();
        }
        self.known.insert(path, here);
        Ok(here)
    }

    fn missing_folder(&self, dir: Node, name: &[u8]) -> Result<Node> {
        let new = New {
            file_type: FileType::Directory,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            atime: None,
            mtime: now(),
            target: Vec::new(),
            xattrs: Vec::new(),
        };
        self.put.make(dir, name, &new)
    }

    fn new_file(&self, member: &mut Member, file_type: FileType) -> New {
        let by_name = !self.options.numeric_owner;
        let id = |names: &Ids, name: &[u8], number: u32| {
            if by_name { names.get(name).copied().unwrap_or(number) } else { number }
        };
        let wanted = |name: &[u8]| match name {
            b"security.selinux" => self.options.selinux,
            name if name == ACL_ACCESS || name == ACL_DEFAULT => self.options.acls,
            _ => self.options.xattrs,
        };
        let mut xattrs = std::mem::take(&mut member.xattrs);
        let number = |is_user: bool, name: &str| {
            if is_user { self.users.get(name.as_bytes()).copied() } else { self.groups.get(name.as_bytes()).copied() }
        };
        for (name, text) in std::mem::take(&mut member.acls) {
            match acl::from_text(&text, &number) {
                Some(value) => xattrs.push((name, value)),
                None => log::warn!(
                    "an access control list is left out, since the guest does not know its names: {}",
                    text.escape_ascii()
                ),
            }
        }
        xattrs.retain(|(name, _)| wanted(name));
        New {
            file_type,
            permissions: member.permissions,
            uid: id(&self.users, &member.uname, member.uid),
            gid: id(&self.groups, &member.gname, member.gid),
            rdev: member.rdev,
            atime: member.atime,
            mtime: member.mtime,
            target: std::mem::take(&mut member.link),
            xattrs,
        }
    }

    fn member(&mut self, mut member: Member, from: &mut Members<Ahead>, buffer: &mut [u8]) -> Result<()> {
        let path = std::mem::take(&mut member.path);
        let names = names_of(&path);
        let Some((&name, above)) = names.split_last() else {
            // The folder itself.
            if member.kind == Kind::File(FileType::Directory) {
                let new = self.new_file(&mut member, FileType::Directory);
                self.folders.push((self.top, new));
            }
            return Ok(());
        };
        let dir = self.folder(above)?;
        let file_type = match member.kind {
            Kind::File(file_type) => file_type,
            Kind::HardLink => return self.hard_link(&member.link, dir, name),
        };
        match file_type {
            FileType::Directory => self.make_folder(&mut member, &names, dir),
            FileType::Regular => {
                let (size, map) = (member.size, member.map.take());
                let new = self.new_file(&mut member, file_type);
                self.put.put(dir, name, &new, |held| write_data(from, size, map, held, buffer)).map(drop)
            }
            FileType::Symlink => {
                let new = self.new_file(&mut member, file_type);
                let node = self.put.put(dir, name, &new, |_| Ok(()))?;
                let target = &new.target;
                if target.starts_with(b"/") || target.split(|&byte| byte == b'/').any(|name| name == b"..") {
                    self.stray_links.insert(node);
                } else {
                    // The number of one that is gone may be used again.
                    self.stray_links.remove(&node);
                }
                self.known.clear();
                Ok(())
            }
            _ => {
                let new = self.new_file(&mut member, file_type);
                self.put.put(dir, name, &new, |_| Ok(())).map(drop)
            }
        }
    }

    fn make_folder(&mut self, member: &mut Member, names: &[&[u8]], dir: Node) -> Result<()> {
        let name = names.last().expect("it has a name");
        let new = self.new_file(member, FileType::Directory);
        let node = match self.put.folder(dir, name, &new) {
            Ok((node, _)) => node,
            Err(error) if error.is_errno(libc::ENOTDIR) => {
                if self.options.keep_folder_links && self.is_folder(names)? {
                    return Ok(());
                }
                remove(self.tree, dir, name, false)?;
                self.known.clear();
                self.put.make(dir, name, &new)?
            }
            Err(error) => return Err(error),
        };
        self.folders.push((node, new));
        Ok(())
    }

    fn hard_link(&mut self, target: &[u8], dir: Node, name: &[u8]) -> Result<()> {
        let names = names_of(target);
        let (&last, above) = names.split_last().ok_or(Error::Errno(libc::ENOENT))?;
        let place = || format!("the link to {}", target.escape_ascii());
        let from = self.folder(above).at(place)?;
        let (first, _) = self.tree.lookup(from, last).at(place)?;
        self.put.link(first, dir, name).at(place)
    }

    /// Gives the folders their attributes, in the order of the archive: what it says last of one counts.
    fn close(&mut self) -> Result<()> {
        for (node, new) in std::mem::take(&mut self.folders) {
            // It may have been replaced by a later member.
            match self.tree.attr(node) {
                Ok(attr) if attr.is_dir() => self.put.finish(node, &new)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Writes the data of a member to its file, holes as holes.
fn write_data(
    from: &mut Members<Ahead>,
    size: u64,
    map: Option<Vec<(u64, u64)>>,
    held: &Held<'_>,
    buffer: &mut [u8],
) -> Result<()> {
    let mut end = 0;
    for (offset, length) in map.unwrap_or_else(|| vec![(0, size)]) {
        let mut done = 0;
        while done < length {
            let wanted = (length - done).min(buffer.len() as u64) as usize;
            let count = from.read_data(&mut buffer[..wanted])?;
            if count == 0 {
                return Err(Error::corrupt("tar archive", "a file has less data than its size"));
            }
            held.write_all(offset + done, &buffer[..count])?;
            done += count as u64;
            end = offset + done;
        }
    }
    if end < size { held.set_size(size) } else { Ok(()) }
}

impl Guestfs {
    /// Unpacks a tar archive of the host into a folder of the guest; how it is compressed is told from its first bytes.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS` with what to do, `ENOSPC`, [`Error::Corrupt`] for a damaged archive,
    /// [`Error::Usage`] for one that writes through its own links, each with the member, and those of the host. What was
    /// unpacked before stays; no file is half-written.
    pub fn tar_in(&self, from: impl AsRef<Path>, folder: impl AsRef<OsStr>) -> Result<()> {
        self.tar_in_from(from, folder, &TarInOptions::default())
    }

    /// Unpacks a tar archive of the host that is compressed by `gzip`, `bzip2`, `xz`, `zstd`, `lz4` or `none`; `None` looks
    /// at its first bytes.
    ///
    /// # Errors
    /// As [`tar_in`](Self::tar_in); [`Error::Usage`] for another compression.
    pub fn tar_in_opts(&self, from: impl AsRef<Path>, folder: impl AsRef<OsStr>, compress: Option<&str>) -> Result<()> {
        let compression = compress.map(str::parse).transpose()?;
        self.tar_in_from(from, folder, &TarInOptions { compression, ..TarInOptions::default() })
    }

    /// Unpacks a tar archive of the host that is compressed by gzip.
    ///
    /// # Errors
    /// As [`tar_in`](Self::tar_in).
    pub fn tgz_in(&self, from: impl AsRef<Path>, folder: impl AsRef<OsStr>) -> Result<()> {
        self.tar_in_opts(from, folder, Some("gzip"))
    }

    /// Unpacks a tar archive of the host with every option there is.
    ///
    /// # Errors
    /// As [`tar_in`](Self::tar_in).
    pub fn tar_in_from(&self, from: impl AsRef<Path>, folder: impl AsRef<OsStr>, options: &TarInOptions) -> Result<()> {
        let from = from.as_ref();
        let mut file = File::open(from).doing(|| format!("cannot read {}", from.display()))?;
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        self.unpack(&mut file, size, folder.as_ref(), options)
    }

    /// Unpacks a tar archive that a stream holds with every option there is.
    ///
    /// # Errors
    /// As [`tar_in`](Self::tar_in), and those of the stream.
    pub fn tar_in_with(
        &self,
        from: &mut (dyn Read + Send),
        folder: impl AsRef<OsStr>,
        options: &TarInOptions,
    ) -> Result<()> {
        self.unpack(from, 0, folder.as_ref(), options)
    }

    fn unpack(&self, from: &mut (dyn Read + Send), size: u64, folder: &OsStr, options: &TarInOptions) -> Result<()> {
        self.check_not_local()?;
        let (tree, found) = self.find_folder(folder)?;
        writer(tree, found.node).at(|| folder.display().to_string())?;
        let mut unpack = Unpack {
            tree,
            put: Put::new(tree, options.owners, options.acls),
            options,
            top: found.node,
            users: read_ids(self, "/etc/passwd"),
            groups: read_ids(self, "/etc/group"),
            stray_links: HashSet::new(),
            folders: Vec::new(),
            known: HashMap::new(),
        };
        let meter = self.meter(size);
        self.timed("tar_in", || {
            let done = std::thread::scope(|scope| {
                let (to, pieces) = sync_channel(PIECES_AHEAD);
                let meter = &meter;
                scope.spawn(move || {
                    let ended = read_ahead(Box::new(Metered { from, meter }), options.compression, |piece| {
                        to.send(Ok(piece)).is_ok()
                    });
                    if let Err(error) = ended {
                        // Whoever takes the pieces may have gone.
                        let _ = to.send(Err(error));
                    }
                });
                let mut members = Members::new(Ahead { pieces, piece: Vec::new(), at: 0 });
                let mut buffer = vec![0; PIECE];
                while let Some(member) = members.next()? {
                    let path = member.path.clone();
                    unpack.member(member, &mut members, &mut buffer).at(|| path.escape_ascii().to_string())?;
                }
                Ok(())
            });
            // Folders that were made get what the archive says of them, also where it ends too early.
            let closed = unpack.close();
            done.and(closed)
        })
    }
}

/// Reads an archive and gives it away in pieces, decompressed, until `give` says that nobody takes them.
fn read_ahead<'a>(
    from: Box<dyn Read + Send + 'a>,
    compression: Option<Compression>,
    give: impl Fn(Vec<u8>) -> bool,
) -> Result<()> {
    let mut from = decompress(from, compression)?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_AHEAD);
        let read = from.by_ref().take(PIECE_AHEAD as u64).read_to_end(&mut piece);
        read.map_err(|error| match error.downcast::<Error>() {
            Ok(ours) => ours,
            Err(error) => Error::io("cannot read the archive", error),
        })?;
        if piece.is_empty() || !give(piece) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_below_the_folder() {
        assert_eq!(names_of(b"/etc/./passwd"), [&b"etc"[..], b"passwd"]);
        assert_eq!(names_of(b"../../etc/x"), [&b"etc"[..], b"x"]);
        assert_eq!(names_of(b"a/../../b"), [&b"b"[..]]);
        assert!(names_of(b"./").is_empty() && names_of(b"..").is_empty());
    }
}
