//! Copying files and whole folders of the guest to the host.
//!
//! The guest's tree is not trusted. Folders are made first, then files are copied by several threads, then links, owners,
//! modes and times of folders are set. Everything is done relative to open folders and never through a symbolic link that
//! lies in the target, so that no tree, however damaged, writes outside of it. A file gets its name when it is complete.

use super::files::copy_file;
use super::ordered::in_order;
use super::progress::Meter;
use super::{Guestfs, replace};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType, Timestamp};
use crate::tree::{Found, Node, Tree, Visit};
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How files are copied to the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// Copies folders with all that they hold, and links as links.
    pub recursive: bool,
    /// Keeps owners (as root), modes, times, extended attributes and hard links, and makes special files (as root).
    pub attributes: bool,
}

/// A file below the top of what is copied.
struct Item {
    /// Its folder, below the target; empty for the target itself.
    folder: Arc<[u8]>,
    name: Vec<u8>,
    node: Node,
    attr: Attr,
}

impl Item {
    fn path(&self) -> Vec<u8> {
        join(&self.folder, &self.name)
    }
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let separator: &[u8] = if folder.is_empty() { b"" } else { b"/" };
    [folder, separator, name].concat()
}

/// Returns the folder and the last name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Checks a name that a guest's folder gave, before the host sees it.
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || matches!(name, b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::corrupt("folder entry", format!("{:?} is no name", name.escape_ascii().to_string())));
    }
    Ok(())
}

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The folder that is copied into.
struct Target<'a> {
    tree: &'a Tree,
    options: CopyOptions,
    root: OwnedFd,
    is_root: bool,
    counter: AtomicU64,
    meter: Meter,
}

/// The folder that a thread used last.
type LastFolder = Option<(Arc<[u8]>, Arc<OwnedFd>)>;

impl Target<'_> {
    /// Opens a folder below the target, through no link.
    fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        let mut here = openat(&self.root, ".", FOLDER, Mode::empty()).doing(|| "cannot open the target")?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            here = openat(&here, name, FOLDER, Mode::empty()).doing(|| "cannot open the copied folder")?;
        }
        Ok(here)
    }

    fn folder(&self, path: &Arc<[u8]>, last: &mut LastFolder) -> Result<Arc<OwnedFd>> {
        if let Some((known, folder)) = last
            && known == path
        {
            return Ok(Arc::clone(folder));
        }
        let folder = Arc::new(self.open(path)?);
        *last = Some((Arc::clone(path), Arc::clone(&folder)));
        Ok(folder)
    }

    fn make_folder(&self, parent: &OwnedFd, name: &[u8], attr: &Attr) -> Result<()> {
        let mode = if self.options.attributes { 0o700 } else { u32::from(attr.permissions & 0o777) | 0o700 };
        match mkdirat(parent, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => Ok(()),
            // A folder that is there is filled. Anything else there is refused, a link too.
            Err(nix::Error::EEXIST) => {
                openat(parent, name, FOLDER, Mode::empty()).map(drop).doing(|| "no folder, but something else is there")
            }
            Err(errno) => Err(errno).doing(|| "cannot make the folder"),
        }
    }

    /// Copies anything but a folder.
    fn copy(&self, item: &Item, last: &mut LastFolder) -> Result<()> {
        let folder = self.folder(&item.folder, last)?;
        match item.attr.file_type {
            FileType::Regular => self.copy_regular(item, &folder),
            FileType::Symlink => {
                let text = self.tree.read_link(item.node)?;
                self.in_place(item, &folder, |temporary| {
                    symlinkat(text.as_slice(), &*folder, temporary).doing(|| "cannot make the link")
                })
            }
            FileType::Directory => Ok(()),
            _ if !self.options.attributes => Err(Error::Usage("a special file is copied with -a alone".into())),
            FileType::CharDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                let kind = SFlag::from_bits_truncate(item.attr.file_type.mode_bits());
                let device = makedev(item.attr.rdev.0.into(), item.attr.rdev.1.into());
                self.in_place(item, &folder, |temporary| {
                    mknodat(&*folder, temporary, kind, Mode::S_IRUSR, device).doing(|| "cannot make the special file")
                })
            }
        }
    }

    fn temporary(&self) -> Vec<u8> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        format!(".guestctl-{}-{number}", std::process::id()).into_bytes()
    }

    fn copy_regular(&self, item: &Item, folder: &OwnedFd) -> Result<()> {
        let mode = if self.options.attributes { 0o600 } else { u32::from(item.attr.permissions & 0o777) };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.in_place(item, folder, |temporary| {
            let file =
                openat(folder, temporary, flags, Mode::from_bits_truncate(mode)).doing(|| "cannot make the file")?;
            copy_file(self.tree, item.node, item.attr.size, &File::from(file), &self.meter)?;
            Ok(())
        })
    }

    /// Makes a file by `fill` under a name of its own, sets its attributes and gives it its name.
    fn in_place(&self, item: &Item, folder: &OwnedFd, fill: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let temporary = self.temporary();
        let done = fill(&temporary)
            .and_then(|()| self.set_attributes(folder, &temporary, item.node, &item.attr))
            .and_then(|()| {
                renameat(folder, temporary.as_slice(), folder, item.name.as_slice()).doing(|| "cannot give it its name")
            });
        if done.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(folder, temporary.as_slice(), UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// Gives a file of the host the owner, mode, attributes and times of the guest's.
    fn set_attributes(&self, folder: &OwnedFd, name: &[u8], node: Node, attr: &Attr) -> Result<()> {
        if !self.options.attributes {
            return Ok(());
        }
        if self.is_root {
            let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
            fchownat(folder, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .doing(|| "cannot set the owner")?;
        }
        self.set_xattrs(folder, name, node)?;
        if attr.file_type != FileType::Symlink {
            // Who cannot give a file its owner must not give the owner's rights to all.
            let mask = if self.is_root { 0o7777 } else { 0o777 };
            let mode = Mode::from_bits_truncate(u32::from(attr.permissions) & mask);
            fchmodat(folder, name, mode, FchmodatFlags::FollowSymlink).doing(|| "cannot set the mode")?;
        }
        let time = |time: Timestamp| TimeSpec::new(time.seconds, time.nanoseconds.into());
        utimensat(folder, name, &time(attr.atime), &time(attr.mtime), UtimensatFlags::NoFollowSymlink)
            .doing(|| "cannot set the times")
    }

    fn set_xattrs(&self, folder: &OwnedFd, name: &[u8], node: Node) -> Result<()> {
        let names = self.tree.xattrs(node)?;
        if names.is_empty() {
            return Ok(());
        }
        // The folder is reached by its descriptor, and the last name is not followed.
        let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd())).join(OsStr::from_bytes(name));
        for key in names {
            let value = self.tree.xattr(node, &key)?;
            match xattr::set(&path, OsStr::from_bytes(&key), &value) {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) if !self.is_root && error.raw_os_error() == Some(libc::EPERM) => {}
                result => result.doing(|| format!("cannot set the attribute {}", key.escape_ascii()))?,
            }
        }
        Ok(())
    }

    /// Takes from a folder the rights that its owner has not, which were needed to fill it.
    fn finish_folder(&self, parent: &OwnedFd, name: &[u8], node: Node, attr: &Attr) -> Result<()> {
        if self.options.attributes {
            return self.set_attributes(parent, name, node, attr);
        }
        let missing = 0o700 & !u32::from(attr.permissions);
        if missing != 0 {
            let stat = nix::sys::stat::fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .doing(|| "cannot look at the folder")?;
            let mode = Mode::from_bits_truncate(stat.st_mode & 0o7777 & !missing);
            fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink).doing(|| "cannot set the mode")?;
        }
        Ok(())
    }
}

/// Tells of a file that could not be copied, by its path; an error ends the copying.
pub type CopyFailed<'a> = &'a mut dyn FnMut(&[u8], Error) -> Result<()>;

/// Everything that one folder holds, for the steps of copying it.
#[derive(Default)]
struct Listed {
    folders: Vec<Item>,
    files: Vec<Item>,
    /// Further names of files, with the path of the first.
    links: Vec<(Vec<u8>, Item)>,
}

fn list(tree: &Tree, top: &Found, attributes: bool, failed: CopyFailed<'_>) -> Result<Listed> {
    let mut listed = Listed::default();
    let mut first_names: HashMap<Node, Vec<u8>> = HashMap::new();
    let mut folder: Arc<[u8]> = Arc::from(&[][..]);
    let failed = std::cell::RefCell::new(failed);
    tree.visit(
        top.node,
        false,
        &mut |file| {
            if file.depth == 0 {
                return Ok(Visit::Enter);
            }
            if let Err(error) = check_name(file.name) {
                failed.borrow_mut()(file.path, error)?;
                return Ok(Visit::Skip);
            }
            let (parent, name) = split(file.path);
            if *parent != *folder {
                folder = Arc::from(parent);
            }
            let item =
                Item { folder: Arc::clone(&folder), name: name.to_vec(), node: file.node, attr: file.attr.clone() };
            if file.attr.is_dir() {
                listed.folders.push(item);
                return Ok(Visit::Enter);
            }
            if attributes && file.attr.nlink > 1 {
                if let Some(first) = first_names.get(&file.node) {
                    listed.links.push((first.clone(), item));
                    return Ok(Visit::Enter);
                }
                first_names.insert(file.node, file.path.to_vec());
            }
            listed.files.push(item);
            Ok(Visit::Enter)
        },
        &mut |path, error| failed.borrow_mut()(path, error),
    )?;
    Ok(listed)
}

impl Target<'_> {
    /// Copies what a folder holds into the target.
    fn copy_contents(&self, listed: &Listed, failed: CopyFailed<'_>) -> Result<()> {
        let mut last = None;
        for item in &listed.folders {
            let made = self
                .folder(&item.folder, &mut last)
                .and_then(|parent| self.make_folder(&parent, &item.name, &item.attr));
            if let Err(error) = made {
                failed(&item.path(), error)?;
            }
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let copy = |item: &Item| {
            thread_local! {
                // Threads live as long as one copy, so that no folder stays open.
                static LAST: std::cell::RefCell<LastFolder> = const { std::cell::RefCell::new(None) };
            }
            LAST.with_borrow_mut(|last| self.copy(item, last)).map_err(|error| (item.path(), error))
        };
        in_order(listed.files.iter(), threads, 256, copy, |result| match result {
            Ok(()) => Ok(()),
            // A full host and an interruption end it all.
            Err((path, error)) if matches!(error.errno(), libc::EINTR | libc::ENOSPC | libc::EDQUOT) => {
                Err(error.at(path.escape_ascii().to_string()))
            }
            Err((path, error)) => failed(&path, error),
        })?;
        let mut last = None;
        for (first, item) in &listed.links {
            if let Err(error) = self.link(first, item, &mut last) {
                failed(&item.path(), error)?;
            }
        }
        // From the deepest up: what is done within a folder changes its times.
        for item in listed.folders.iter().rev() {
            let parent = self.folder(&item.folder, &mut last);
            let done = parent.and_then(|parent| self.finish_folder(&parent, &item.name, item.node, &item.attr));
            if let Err(error) = done {
                failed(&item.path(), error)?;
            }
        }
        Ok(())
    }

    fn link(&self, first: &[u8], item: &Item, last: &mut LastFolder) -> Result<()> {
        let (first_folder, first_name) = split(first);
        let from = self.open(first_folder)?;
        let folder = self.folder(&item.folder, last)?;
        let temporary = self.temporary();
        linkat(&from, first_name, &*folder, temporary.as_slice(), AtFlags::empty()).doing(|| "cannot make the link")?;
        renameat(&*folder, temporary.as_slice(), &*folder, item.name.as_slice()).doing(|| "cannot give it its name")?;
        // Where the name was another one of the same file already, nothing was renamed.
        let _ = unlinkat(&*folder, temporary.as_slice(), UnlinkatFlags::NoRemoveDir);
        Ok(())
    }
}

impl Guestfs {
    /// Copies a file or a folder of the guest into a folder of the host, with all that it holds and its attributes.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` when `folder` is none, those of reading, and those of the host.
    pub fn copy_out(&self, path: impl AsRef<OsStr>, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        if !folder.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR).at(folder.display().to_string()));
        }
        let options = CopyOptions { recursive: true, attributes: true };
        self.copy_out_with(path, folder, options, &mut |path, error| Err(error.at(path.escape_ascii().to_string())))
    }

    /// Copies a file or a folder of the guest as `cp` does: into `to` where that is a folder, else under that name. `/`
    /// and a path that ends in `/.` stand for what the folder holds. `failed` is told of what could not be copied.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR` for a folder without [`CopyOptions::recursive`], those of `failed`, and those of the host.
    pub fn copy_out_with(
        &self,
        path: impl AsRef<OsStr>,
        to: impl AsRef<Path>,
        options: CopyOptions,
        failed: CopyFailed<'_>,
    ) -> Result<()> {
        let (path, to) = (path.as_ref(), to.as_ref());
        let (tree, found) = self.find_path(path, !options.recursive)?;
        let contents_only = found.path == b"/" || path.as_bytes().ends_with(b"/.");
        if found.attr.is_dir() && !options.recursive {
            return Err(Error::Errno(libc::EISDIR).at(format!("{}: copy it with -r", path.display())));
        }
        if replace::is_special(to) && found.attr.file_type == FileType::Regular {
            return self.download(path, to).map(drop);
        }
        let place = || format!("cannot write {}", to.display());
        // The folder that the copy lies in, and its name there.
        let (folder, name): (PathBuf, Option<OsString>) = if contents_only && found.attr.is_dir() {
            std::fs::create_dir_all(to).doing(place)?;
            (to.to_owned(), None)
        } else if to.is_dir() {
            // The name that was given, as cp has it, and not that of what a link leads to.
            let given = Path::new(path).file_name().map(OsStrExt::as_bytes);
            let name = given.unwrap_or_else(|| split(&found.path).1);
            (to.to_owned(), Some(OsStr::from_bytes(name).to_owned()))
        } else {
            let name = to.file_name().ok_or_else(|| Error::Usage(format!("{} is no name", to.display()).into()))?;
            let folder = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (folder.to_owned(), Some(name.to_owned()))
        };
        let root = File::open(&folder).doing(place)?;
        let mut target = Target {
            tree,
            options,
            root: root.into(),
            is_root: nix::unistd::geteuid().is_root(),
            counter: AtomicU64::new(0),
            meter: self.meter(found.attr.size),
        };
        let here = || path.display().to_string();
        if !found.attr.is_dir() {
            let name = name.expect("a file is copied under a name").as_bytes().to_vec();
            check_name(&name).at(here)?;
            let item = Item { folder: Arc::from(&[][..]), name, node: found.node, attr: found.attr };
            return target.copy(&item, &mut None).at(here);
        }
        let listed = list(tree, &found, options.attributes, failed)?;
        target.meter = self.meter(listed.files.iter().map(|item| item.attr.size).sum());
        let Some(name) = name else { return target.copy_contents(&listed, failed) };
        check_name(name.as_bytes()).at(here)?;
        let parent = target.root.try_clone().doing(place)?;
        target.make_folder(&parent, name.as_bytes(), &found.attr).at(here)?;
        target.root = openat(&parent, name.as_bytes(), FOLDER, Mode::empty()).doing(place)?;
        target.copy_contents(&listed, failed)?;
        target.finish_folder(&parent, name.as_bytes(), found.node, &found.attr).at(here)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0"] {
            check_name(name).expect_err("no name");
        }
        check_name(b"..a").expect("a name");
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
    }
}
