//! What all writing calls are made of: finding where something goes, and making it there with its attributes.
//!
//! Everything is done by inodes that were found once, inside the guest's tree. So a link that changes meanwhile leads
//! nowhere else, and nothing of the host is ever touched.

use super::Guestfs;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::write::{Credentials, RenameMode, SetAttr, XattrMode};
use crate::fs::{Attr, FileType, FilesystemWrite, Ino, Timestamp};
use crate::tree::{Found, Node, Tree};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

/// The attributes of an access control list, and of the one that a folder's new files get.
pub(super) const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// Names and values of extended attributes.
pub(super) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What a new file is to be.
#[derive(Clone, Debug)]
pub(super) struct New {
    pub(super) file_type: FileType,
    /// The low 12 bits of the mode.
    pub(super) permissions: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) rdev: (u32, u32),
    pub(super) atime: Option<Timestamp>,
    pub(super) mtime: Timestamp,
    /// The text of a symbolic link.
    pub(super) target: Vec<u8>,
    pub(super) xattrs: Xattrs,
}

impl New {
    /// Returns what makes a file like another.
    pub(super) fn like(attr: &Attr) -> Self {
        Self {
            file_type: attr.file_type,
            permissions: attr.permissions,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            atime: Some(attr.atime),
            mtime: attr.mtime,
            target: Vec::new(),
            xattrs: Vec::new(),
        }
    }
}

/// Returns this moment.
pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() }
}

/// Holds an inode for as long as it is written to, so that it lives even when its last name goes.
pub(super) struct Held<'a> {
    writer: &'a dyn FilesystemWrite,
    ino: Ino,
}

impl<'a> Held<'a> {
    pub(super) fn new(writer: &'a dyn FilesystemWrite, ino: Ino) -> Self {
        writer.open(ino);
        Self { writer, ino }
    }

    /// Writes all of `data` at an offset.
    pub(super) fn write_all(&self, mut offset: u64, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let count = self.writer.write(self.ino, offset, data, false)?;
            if count == 0 {
                return Err(Error::Errno(libc::ENOSPC));
            }
            offset += count as u64;
            data = &data[count..];
        }
        Ok(())
    }

    pub(super) fn set_size(&self, size: u64) -> Result<()> {
        self.writer.set_attr(self.ino, &SetAttr { size: Some(size), ..SetAttr::default() }).map(drop)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.writer.forget(self.ino, 1);
    }
}

/// Returns the writing half of a node's filesystem; where there is none, the error says what to do.
pub(super) fn writer(tree: &Tree, node: Node) -> Result<(&dyn FilesystemWrite, Ino)> {
    tree.writer(node).map_err(|error| {
        let Ok((filesystem, _)) = tree.filesystem(node) else { return error };
        let kind = filesystem.info().kind;
        let advice = if crate::fs::has_writer(kind) {
            String::from("mounted for reading; add the drive for writing (add_drive, --rw) and mount it with mount")
        } else {
            format!("no driver writes {kind}")
        };
        error.at(advice)
    })
}

/// Makes files in a tree, with all their attributes.
pub(super) struct Put<'a> {
    pub(super) tree: &'a Tree,
    /// Sets the owner; else files belong to root.
    pub(super) owners: bool,
    /// Sets access control lists: what has none does not get one from its folder either.
    pub(super) acls: bool,
    /// The folder that was asked last, and whether its new files get an access control list.
    asked: parking_lot::Mutex<Option<(Node, bool)>>,
}

impl<'a> Put<'a> {
    pub(super) fn new(tree: &'a Tree, owners: bool, acls: bool) -> Self {
        Self { tree, owners, acls, asked: parking_lot::Mutex::new(None) }
    }

    fn who(&self, new: &New) -> Credentials {
        let (uid, gid) = if self.owners { (new.uid, new.gid) } else { (0, 0) };
        Credentials { uid, gid, umask: 0 }
    }

    fn gives_acls(&self, dir: Node) -> Result<bool> {
        let mut asked = self.asked.lock();
        if let Some((known, gives)) = *asked
            && known == dir
        {
            return Ok(gives);
        }
        let gives = self.tree.xattrs(dir)?.iter().any(|name| name == ACL_DEFAULT);
        *asked = Some((dir, gives));
        Ok(gives)
    }

    /// Makes a file or a folder, without contents; [`finish`](Self::finish) gives it the rest of its attributes.
    pub(super) fn make(&self, dir: Node, name: &[u8], new: &New) -> Result<Node> {
        let (writer, ino) = writer(self.tree, dir)?;
        let who = self.who(new);
        let attr = match new.file_type {
            FileType::Directory => writer.mkdir(ino, name, new.permissions, &who)?,
            FileType::Symlink => writer.symlink(ino, name, &new.target, &who)?,
            // Nobody else may read what is not complete.
            FileType::Regular => writer.create(ino, name, FileType::Regular, 0o600, (0, 0), &who)?,
            file_type => writer.create(ino, name, file_type, new.permissions, new.rdev, &who)?,
        };
        let node = self.tree.sibling(dir, attr.ino)?;
        if self.acls && new.file_type != FileType::Symlink && self.gives_acls(dir)? {
            for acl in [ACL_ACCESS, ACL_DEFAULT] {
                match writer.remove_xattr(attr.ino, acl) {
                    Err(error) if !error.is_errno(libc::ENODATA) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(node)
    }

    /// Sets owner, mode, extended attributes and times of a file, in the order in which none undoes another.
    pub(super) fn finish(&self, node: Node, new: &New) -> Result<()> {
        let (writer, ino) = writer(self.tree, node)?;
        let owner = |id| if self.owners { id } else { 0 };
        let is_link = new.file_type == FileType::Symlink;
        let set = SetAttr {
            permissions: (!is_link).then_some(new.permissions),
            uid: Some(owner(new.uid)),
            gid: Some(owner(new.gid)),
            atime: new.atime,
            mtime: Some(new.mtime),
            ..SetAttr::default()
        };
        writer.set_attr(ino, &set)?;
        for (name, value) in &new.xattrs {
            match writer.set_xattr(ino, name, value, XattrMode::Set) {
                // As tar and cp do where a filesystem has no such attributes.
                Err(error) if error.errno() == libc::EOPNOTSUPP => {
                    log::warn!("the extended attribute {} cannot be kept here: {error}", name.escape_ascii());
                }
                done => done.at(|| name.escape_ascii().to_string())?,
            }
        }
        Ok(())
    }

    /// Makes anything but a folder with its contents and attributes, in place of what has its name; that stays until the
    /// new file is complete. Returns it.
    pub(super) fn put(
        &self,
        dir: Node,
        name: &[u8],
        new: &New,
        fill: impl FnOnce(&Held<'_>) -> Result<()>,
    ) -> Result<Node> {
        let (node, hidden) = match self.make(dir, name, new) {
            Ok(node) => (node, None),
            Err(error) if error.is_errno(libc::EEXIST) => {
                if self.tree.lookup(dir, name)?.1.is_dir() {
                    // Only an empty one makes way.
                    remove(self.tree, dir, name, true)?;
                    (self.make(dir, name, new)?, None)
                } else {
                    let hidden = temporary_name();
                    (self.make(dir, &hidden, new)?, Some(hidden))
                }
            }
            Err(error) => return Err(error),
        };
        let (writer, ino) = writer(self.tree, node)?;
        let (_, dir_ino) = self.tree.filesystem(dir)?;
        let place = hidden.as_deref().unwrap_or(name);
        let filled = if new.file_type == FileType::Regular { fill(&Held::new(writer, ino)) } else { Ok(()) };
        let done = filled.and_then(|()| self.finish(node, new)).and_then(|()| match &hidden {
            Some(hidden) => writer.rename(dir_ino, hidden, dir_ino, name, RenameMode::Replace),
            None => Ok(()),
        });
        if let Err(error) = done {
            // The first error is the one to tell.
            let _ = writer.unlink(dir_ino, place);
            return Err(error);
        }
        Ok(node)
    }

    /// Gives a file another name, in place of what has that name.
    pub(super) fn link(&self, first: Node, dir: Node, name: &[u8]) -> Result<()> {
        writer(self.tree, dir)?;
        let (writer, dir_ino, ino) = self.tree.shared_writer(dir, first)?;
        match writer.link(ino, dir_ino, name) {
            Err(error) if error.is_errno(libc::EEXIST) => {
                let (old, attr) = self.tree.lookup(dir, name)?;
                if old == first {
                    return Ok(());
                }
                remove(self.tree, dir, name, attr.is_dir())?;
                writer.link(ino, dir_ino, name).map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Makes a folder, or finds the one that has the name; says whether it was there. [`finish`](Self::finish) gives it its
    /// attributes when it is filled.
    pub(super) fn folder(&self, dir: Node, name: &[u8], new: &New) -> Result<(Node, bool)> {
        match self.make(dir, name, new) {
            Ok(node) => Ok((node, false)),
            Err(error) if error.is_errno(libc::EEXIST) => {
                let (old, attr) = self.tree.lookup(dir, name)?;
                if attr.is_dir() { Ok((old, true)) } else { Err(Error::Errno(libc::ENOTDIR)) }
            }
            Err(error) => Err(error),
        }
    }
}

/// Tells names of files that are not complete yet apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Returns a name for a file that is not complete.
pub(super) fn temporary_name() -> Vec<u8> {
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!(".guestctl-{}-{number}", std::process::id()).into_bytes()
}

/// Takes a name away.
pub(super) fn remove(tree: &Tree, dir: Node, name: &[u8], is_folder: bool) -> Result<()> {
    let (writer, ino) = writer(tree, dir)?;
    if tree.is_mountpoint(dir, name) {
        return Err(Error::Errno(libc::EBUSY));
    }
    if is_folder { writer.rmdir(ino, name) } else { writer.unlink(ino, name) }
}

/// Reads the extended attributes of a file that a copy is to have.
pub(super) fn read_xattrs(tree: &Tree, node: Node) -> Result<Xattrs> {
    let with_value = |name: Vec<u8>| tree.xattr(node, &name).map(|value| (name, value));
    tree.xattrs(node)?.into_iter().map(with_value).collect()
}

/// Copies the contents of a file of a tree to a file that is held, holes as holes.
pub(super) fn copy_contents(
    tree: &Tree,
    from: Node,
    size: u64,
    to: &Held<'_>,
    meter: &super::progress::Meter,
) -> Result<()> {
    let (filesystem, ino) = tree.filesystem(from)?;
    let mut buffer = vec![0; super::files::PIECE.min(size.max(1) as usize)];
    let mut offset = 0;
    let mut end = 0;
    while offset < size {
        let data = match filesystem.next_data(ino, offset) {
            Ok(data) => data.max(offset),
            Err(error) if error.is_errno(libc::ENXIO) => break,
            Err(error) => return Err(error),
        };
        let hole = filesystem.next_hole(ino, data)?.min(size);
        if hole <= data {
            return Err(Error::corrupt("extent map of a file", "a stretch of data has no length"));
        }
        offset = data;
        while offset < hole {
            let wanted = (hole - offset).min(buffer.len() as u64) as usize;
            let count = tree.read(from, offset, &mut buffer[..wanted])?;
            if count == 0 {
                return to.set_size(offset);
            }
            to.write_all(offset, &buffer[..count])?;
            offset += count as u64;
            end = offset;
            meter.add(count as u64)?;
        }
    }
    if end < size { to.set_size(size) } else { Ok(()) }
}

impl Guestfs {
    /// Refuses to write past a mount of the tree on a folder, whose kernel would go on showing what was.
    pub(super) fn check_not_local(&self) -> Result<()> {
        match self.local {
            None => Ok(()),
            Some(_) => {
                Err(Error::InUse("the tree is mounted on a folder; write there, or call umount_local first".into()))
            }
        }
    }

    /// Finds what a path names, to be changed. Errors carry the path.
    pub(super) fn find_to_change(&self, path: &OsStr, follow: bool) -> Result<(&Tree, Found)> {
        self.check_not_local()?;
        self.find_path(path, follow)
    }

    /// Finds the folder that a new name goes into, and the name. Errors carry the path.
    pub(super) fn find_place(&self, path: &OsStr) -> Result<(&Tree, Node, Vec<u8>)> {
        self.check_not_local()?;
        let tree = self.tree()?;
        if self.trace {
            log::info!("trace: path {path:?}");
        }
        let (folder, name) = tree.resolve_parent(path.as_bytes()).at(|| path.display().to_string())?;
        Ok((tree, folder.node, name))
    }

    /// Returns who makes things in the guest: root, with the mask of the handle.
    pub(super) fn who(&self) -> Credentials {
        Credentials { uid: 0, gid: 0, umask: self.umask.load(Ordering::Relaxed) }
    }

    /// Does something and logs how long it took.
    pub(super) fn timed<T>(&self, operation: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let started = Instant::now();
        let done = work()?;
        log::info!("operation={operation} duration_ms={:.1}", started.elapsed().as_secs_f64() * 1000.0);
        Ok(done)
    }
}
