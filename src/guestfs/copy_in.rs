//! Copying files and whole folders of the host into the guest.
//!
//! Links of the host are copied as links and never followed. What goes into the guest is found once, by inodes, so that a
//! link of the guest leads nowhere out of its tree. A file gets its name, or takes that of another, when it is complete.

use super::copy_out::CopyOptions;
use super::put::{Held, New, Put, now};
use super::write::copy_host_file;
use super::{Guestfs, progress::Meter};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{FileType, Timestamp};
use crate::tree::Node;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One copy from the host.
struct CopyIn<'a> {
    put: Put<'a>,
    options: CopyOptions,
    umask: u16,
    meter: Meter,
    /// The copy of each file of the host that has several names, by device and inode.
    firsts: HashMap<(u64, u64), Node>,
}

/// A folder of the host on its way.
struct Open {
    node: Node,
    new: New,
    was_there: bool,
    entries: std::fs::ReadDir,
}

impl CopyIn<'_> {
    fn new_file(&self, path: &Path, metadata: &Metadata) -> Result<New> {
        let place = || format!("cannot read {}", path.display());
        let device = metadata.rdev();
        let mut new = New {
            file_type: FileType::from_mode(metadata.mode()).ok_or(Error::Errno(libc::EINVAL))?,
            permissions: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            rdev: (nix::sys::stat::major(device) as u32, nix::sys::stat::minor(device) as u32),
            atime: Some(Timestamp { seconds: metadata.atime(), nanoseconds: metadata.atime_nsec() as u32 }),
            mtime: Timestamp { seconds: metadata.mtime(), nanoseconds: metadata.mtime_nsec() as u32 },
            target: Vec::new(),
            xattrs: Vec::new(),
        };
        if new.file_type == FileType::Symlink {
            new.target = std::fs::read_link(path).doing(place)?.into_os_string().into_vec();
        }
        if !self.options.attributes {
            new.permissions &= 0o777 & !self.umask;
            new.atime = None;
            new.mtime = now();
            return Ok(new);
        }
        let names = match xattr::list(path) {
            Ok(names) => names,
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(new),
            Err(error) => return Err(error).doing(place),
        };
        for name in names {
            if let Some(value) = xattr::get(path, &name).doing(place)? {
                new.xattrs.push((name.into_vec(), value));
            }
        }
        Ok(new)
    }

    /// Copies anything but a folder.
    fn file(&mut self, path: &Path, metadata: &Metadata, dir: Node, name: &[u8]) -> Result<()> {
        let key = (metadata.dev(), metadata.ino());
        let has_names = self.options.attributes && metadata.nlink() > 1;
        if has_names && let Some(&first) = self.firsts.get(&key) {
            return self.put.link(first, dir, name);
        }
        let new = self.new_file(path, metadata)?;
        let is_special = !matches!(new.file_type, FileType::Regular | FileType::Symlink);
        if is_special && !self.options.attributes {
            return Err(Error::Usage("a special file is copied with -a alone".into()));
        }
        let fill = |held: &Held<'_>| {
            // What was looked at is what is read, whatever has the name now.
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
                .doing(|| format!("cannot read {}", path.display()))?;
            let opened = file.metadata().doing(|| format!("cannot read {}", path.display()))?;
            if (opened.dev(), opened.ino()) != key {
                let changed = std::io::Error::other("it was replaced meanwhile");
                return Err(Error::io(format!("cannot read {}", path.display()), changed));
            }
            copy_host_file(&file, held, &self.meter).map(drop)
        };
        let made = self.put.put(dir, name, &new, fill)?;
        if has_names {
            self.firsts.insert(key, made);
        }
        Ok(())
    }

    fn open(&self, path: &Path, metadata: &Metadata, dir: Node, name: Option<&[u8]>) -> Result<Open> {
        let new = self.new_file(path, metadata)?;
        let (node, was_there) = match name {
            Some(name) => self.put.folder(dir, name, &new)?,
            // What the folder holds goes into one that is there.
            None => (dir, true),
        };
        let entries = std::fs::read_dir(path).doing(|| format!("cannot read {}", path.display()))?;
        Ok(Open { node, new, was_there, entries })
    }

    fn close(&self, folder: &Open) -> Result<()> {
        if self.options.attributes || !folder.was_there { self.put.finish(folder.node, &folder.new) } else { Ok(()) }
    }

    /// Copies a folder with all that it holds; without a name, what it holds.
    fn folder(
        &mut self,
        top: &Path,
        metadata: &Metadata,
        dir: Node,
        name: Option<&[u8]>,
        failed: &mut dyn FnMut(&Path, Error) -> Result<()>,
    ) -> Result<()> {
        let mut path = top.to_owned();
        let mut open = vec![self.open(&path, metadata, dir, name).at(|| path.display().to_string())?];
        while let Some(folder) = open.last_mut() {
            let Some(entry) = folder.entries.next() else {
                let folder = open.pop().expect("there is one");
                if let Err(error) = self.close(&folder) {
                    failed(&path, error.at(path.display().to_string()))?;
                }
                path.pop();
                continue;
            };
            let node = folder.node;
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    failed(&path, Error::io(format!("cannot read {}", path.display()), error))?;
                    continue;
                }
            };
            let name = entry.file_name();
            path.push(&name);
            let done = entry.metadata().doing(|| "cannot look at it").and_then(|metadata| {
                if metadata.is_dir() {
                    self.open(&path, &metadata, node, Some(name.as_bytes())).map(Some)
                } else {
                    self.file(&path, &metadata, node, name.as_bytes()).map(|()| None)
                }
            });
            match done {
                // The path stays that of the folder until it is closed.
                Ok(Some(folder)) => open.push(folder),
                Ok(None) => drop(path.pop()),
                Err(error) => {
                    let told = failed(&path, error.at(path.display().to_string()));
                    path.pop();
                    told?;
                }
            }
        }
        Ok(())
    }
}

impl Guestfs {
    /// Copies a file or a folder of the host into a folder of the guest, with all that it holds and its attributes:
    /// owners as numbers, nanosecond times, extended attributes, hard links, holes.
    ///
    /// # Errors
    /// `ENOTDIR` when `folder` is none, `EROFS` with what to do, `ENOSPC`, and those of the host.
    pub fn copy_in(&self, from: impl AsRef<Path>, folder: impl AsRef<OsStr>) -> Result<()> {
        let folder = folder.as_ref();
        self.find_folder(folder)?;
        let options = CopyOptions { recursive: true, attributes: true };
        self.copy_in_with(from, folder, options, &mut |_, error| Err(error))
    }

    /// Copies a file or a folder of the host as `cp` does: into `to` where that is a folder of the guest, else under that
    /// name. A path of the host that ends in `/.` stands for what the folder holds. `failed` is told of what could not be
    /// copied, with its path on the host.
    ///
    /// # Errors
    /// `EISDIR` for a folder without [`CopyOptions::recursive`], `ENOENT`, `EROFS` with what to do, those of `failed`,
    /// and those of the host.
    pub fn copy_in_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<OsStr>,
        options: CopyOptions,
        failed: &mut dyn FnMut(&Path, Error) -> Result<()>,
    ) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let given = from.as_os_str().as_bytes();
        let contents_only = given.ends_with(b"/.") || matches!(given, b"." | b"/");
        let place = || format!("cannot read {}", from.display());
        let follow = !options.recursive || given.ends_with(b"/") || contents_only;
        let metadata = if follow { std::fs::metadata(from) } else { std::fs::symlink_metadata(from) }.doing(place)?;
        if metadata.is_dir() && !options.recursive {
            return Err(Error::Errno(libc::EISDIR).at(from.display().to_string()));
        }
        let (tree, dir, name) = match self.find_to_change(to, true) {
            Ok((tree, found)) if found.attr.is_dir() => {
                let name = from.file_name().map(|name| name.as_bytes().to_vec());
                let name = match name {
                    Some(name) => Some(name),
                    None if contents_only => None,
                    // `..` and its like are called what they are.
                    None => {
                        let real = std::fs::canonicalize(from).doing(place)?;
                        real.file_name().map(|name| name.as_bytes().to_vec())
                    }
                };
                (tree, found.node, if contents_only { None } else { name })
            }
            Err(error) if !error.is_errno(libc::ENOENT) => return Err(error),
            _ => {
                let (tree, dir, name) = self.find_place(to)?;
                (tree, dir, Some(name))
            }
        };
        super::put::writer(tree, dir).at(|| to.display().to_string())?;
        let mut copy = CopyIn {
            put: Put::new(tree, options.attributes, options.attributes),
            options,
            umask: self.get_umask(),
            meter: self.meter(if metadata.is_file() { metadata.len() } else { 0 }),
            firsts: HashMap::new(),
        };
        self.timed("copy_in", || {
            if metadata.is_dir() {
                return copy.folder(from, &metadata, dir, name.as_deref(), failed);
            }
            let name = name.ok_or(Error::Errno(libc::EISDIR)).at(|| to.display().to_string())?;
            let source = if follow { std::fs::canonicalize(from).doing(place)? } else { PathBuf::from(from) };
            // A copy without attributes keeps those of a file that is there.
            if !options.attributes && metadata.is_file() {
                return self.upload_as(&source, to, &name, &metadata);
            }
            copy.file(&source, &metadata, dir, &name).at(|| to.display().to_string())
        })
    }

    /// Copies a regular file of the host as `cp` without options does.
    fn upload_as(&self, from: &Path, to: &OsStr, name: &[u8], metadata: &Metadata) -> Result<()> {
        let mut path = to.to_owned();
        if self.find_path(to, true).is_ok_and(|(_, found)| found.attr.is_dir()) {
            path.push("/");
            path.push(OsStr::from_bytes(name));
        }
        let file = File::open(from).doing(|| format!("cannot read {}", from.display()))?;
        let meter = self.meter(metadata.len());
        let permissions = (metadata.mode() & 0o777) as u16;
        let place = self.place(&path)?;
        place
            .fill(permissions, self.get_umask(), |held| copy_host_file(&file, held, &meter).map(drop))
            .at(|| path.display().to_string())
    }
}
