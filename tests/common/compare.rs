//! Comparison of a filesystem driver with a folder of the same contents: the kernel's mount, as a rule.

use guestctl::fs::{Attr, FileType, Filesystem, Ino, Timestamp};
use nix::unistd::{Whence, lseek};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What to leave out of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Compares inode numbers.
    pub inos: bool,
    /// Compares access times.
    pub atime: bool,
    /// Compares modification and change times.
    pub times: bool,
    /// Compares modification and change times of directories.
    pub dir_times: bool,
    /// Compares link counts of directories.
    pub dir_links: bool,
    /// Compares the time of making.
    pub btime: bool,
    /// Compares the space taken.
    pub blocks: bool,
    /// Compares size and space of directories.
    pub dir_sizes: bool,
    /// Compares data and holes.
    pub holes: bool,
    /// Compares extended attributes.
    pub xattrs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            inos: true,
            atime: true,
            times: true,
            dir_times: true,
            dir_links: true,
            btime: true,
            blocks: true,
            dir_sizes: true,
            holes: true,
            xattrs: true,
        }
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Report {
    /// How many inodes were compared.
    pub compared: usize,
    /// What differs, one line each.
    pub differences: Vec<String>,
}

impl Report {
    /// Panics with what differs, if anything does.
    pub fn expect_same(&self) {
        let shown: Vec<&str> = self.differences.iter().take(20).map(String::as_str).collect();
        assert!(shown.is_empty(), "{} differences:\n{}", self.differences.len(), shown.join("\n"));
    }
}

struct Comparison<'a> {
    fs: &'a dyn Filesystem,
    options: &'a Options,
    seen: HashSet<Ino>,
    report: Report,
}

/// Compares everything that a user could notice below the root of `fs` with the folder at `path`.
pub fn compare_with_folder(fs: &dyn Filesystem, path: &Path, options: &Options) -> Report {
    let mut comparison = Comparison { fs, options, seen: HashSet::new(), report: Report::default() };
    match fs.attr(fs.root()) {
        Ok(attr) => comparison.inode(&attr, path, fs.root()),
        Err(error) => comparison.differ(path, format!("the root: {error}")),
    }
    comparison.report
}

fn moment(seconds: i64, nanoseconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: nanoseconds as u32 }
}

/// A directory's entry as the driver lists it.
pub type Entry = (Vec<u8>, Ino, Option<FileType>);

/// Returns the entries of a directory as the driver lists them, `page` at a time.
pub fn list(fs: &dyn Filesystem, dir: Ino, page: usize) -> guestctl::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut cookie = 0;
    loop {
        let before = entries.len();
        fs.read_dir(dir, cookie, &mut |entry| {
            entries.push((entry.name.to_vec(), entry.ino, entry.file_type));
            assert_ne!(entry.next_cookie, 0);
            cookie = entry.next_cookie;
            if entries.len() - before == page { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if entries.len() - before < page {
            return Ok(entries);
        }
    }
}

impl Comparison<'_> {
    fn differ(&mut self, path: &Path, what: impl Into<String>) {
        self.report.differences.push(format!("{}: {}", path.display(), what.into()));
    }

    fn check<T: PartialEq + std::fmt::Debug>(&mut self, path: &Path, what: &str, ours: T, theirs: T) {
        if ours != theirs {
            self.differ(path, format!("{what}: ours is {ours:?}, expected {theirs:?}"));
        }
    }

    fn inode(&mut self, attr: &Attr, path: &Path, parent: Ino) {
        self.report.compared += 1;
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return self.differ(path, format!("the folder has no such file: {error}")),
        };
        self.attr(attr, &metadata, path);
        if !self.seen.insert(attr.ino) {
            return;
        }
        if self.options.xattrs {
            self.xattrs(attr, path);
        }
        match attr.file_type {
            FileType::Directory => self.dir(attr, path, parent),
            FileType::Symlink => {
                let theirs = fs::read_link(path).map(|text| text.into_os_string().into_vec()).ok();
                match self.fs.read_link(attr.ino) {
                    Ok(text) => self.check(path, "symlink", Some(text), theirs),
                    Err(error) => self.differ(path, format!("symlink: {error}")),
                }
            }
            FileType::Regular => {
                // The kernel takes pages that were read for data where space is only allocated, so holes come first.
                if self.options.holes {
                    self.holes(attr, path);
                }
                self.contents(attr, path);
            }
            _ => {}
        }
    }

    fn attr(&mut self, attr: &Attr, theirs: &Metadata, path: &Path) {
        let is_dir = attr.is_dir();
        self.check(path, "mode", format!("{:o}", attr.mode()), format!("{:o}", theirs.mode()));
        self.check(path, "owner", (attr.uid, attr.gid), (theirs.uid(), theirs.gid()));
        if !is_dir || self.options.dir_links {
            self.check(path, "links", u64::from(attr.nlink), theirs.nlink());
        }
        let rdev = (nix::sys::stat::major(theirs.rdev()) as u32, nix::sys::stat::minor(theirs.rdev()) as u32);
        self.check(path, "device", attr.rdev, rdev);
        if self.options.inos {
            self.check(path, "inode", attr.ino, theirs.ino());
        }
        if !is_dir || self.options.dir_sizes {
            self.check(path, "size", attr.size, theirs.size());
            if self.options.blocks {
                self.check(path, "blocks", attr.blocks, theirs.blocks());
            }
        }
        if self.options.times && (!is_dir || self.options.dir_times) {
            self.check(path, "mtime", attr.mtime, moment(theirs.mtime(), theirs.mtime_nsec()));
            self.check(path, "ctime", attr.ctime, moment(theirs.ctime(), theirs.ctime_nsec()));
        }
        if self.options.atime {
            self.check(path, "atime", attr.atime, moment(theirs.atime(), theirs.atime_nsec()));
        }
        if self.options.btime {
            let theirs = theirs.created().ok().map(|time| match time.duration_since(std::time::UNIX_EPOCH) {
                Ok(after) => moment(after.as_secs() as i64, i64::from(after.subsec_nanos())),
                Err(_) => moment(i64::MIN, 0),
            });
            self.check(path, "btime", attr.btime, theirs);
        }
    }

    fn xattrs(&mut self, attr: &Attr, path: &Path) {
        let theirs: BTreeMap<Vec<u8>, Vec<u8>> = xattr::list(path)
            .map(|names| {
                names
                    .filter_map(|name| {
                        let value = xattr::get(path, &name).ok()??;
                        Some((name.into_vec(), value))
                    })
                    .collect()
            })
            .unwrap_or_default();
        let names = match self.fs.xattrs(attr.ino) {
            Ok(names) => names,
            Err(error) => return self.differ(path, format!("attributes: {error}")),
        };
        let mut ours = BTreeMap::new();
        for name in names {
            match self.fs.xattr(attr.ino, &name) {
                Ok(value) => {
                    ours.insert(name, value);
                }
                Err(error) => {
                    self.differ(path, format!("attribute {}: {error}", String::from_utf8_lossy(&name)));
                }
            }
        }
        if ours != theirs {
            let show = |map: &BTreeMap<Vec<u8>, Vec<u8>>| {
                let pairs: Vec<String> = map
                    .iter()
                    .map(|(name, value)| {
                        format!("{}={:02x?}", String::from_utf8_lossy(name), &value[..value.len().min(64)])
                    })
                    .collect();
                pairs.join(" ")
            };
            self.differ(path, format!("attributes: ours are {}, expected {}", show(&ours), show(&theirs)));
        }
        if !self.fs.has_xattrs() && !theirs.is_empty() {
            self.differ(path, "it has attributes, though the filesystem is said to have none");
        }
    }

    fn dir(&mut self, attr: &Attr, path: &Path, parent: Ino) {
        let entries = match list(self.fs, attr.ino, usize::MAX) {
            Ok(entries) => entries,
            Err(error) => return self.differ(path, format!("listing: {error}")),
        };
        match list(self.fs, attr.ino, 7) {
            Ok(paged) => self.check(path, "listing by pages", paged, entries.clone()),
            Err(error) => self.differ(path, format!("listing by pages: {error}")),
        }
        match self.fs.parent(attr.ino) {
            Ok(ours) => self.check(path, "parent", ours, parent),
            Err(error) => self.differ(path, format!("parent: {error}")),
        }
        let theirs: HashSet<Vec<u8>> = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().into_vec()).collect(),
            Err(error) => return self.differ(path, format!("the folder cannot be listed: {error}")),
        };
        let names: HashSet<Vec<u8>> = entries.iter().map(|(name, ..)| name.clone()).collect();
        self.check(path, "number of entries", entries.len(), theirs.len());
        for name in theirs.difference(&names) {
            self.differ(path, format!("{:?} is missing", OsString::from_vec(name.clone())));
        }
        if !self.fs.lookup(attr.ino, b"no such name").is_err_and(|error| error.is_errno(libc::ENOENT)) {
            self.differ(path, "a name that does not exist is not answered with ENOENT");
        }
        for (name, ino, file_type) in entries {
            let path = path.join(OsString::from_vec(name.clone()));
            match self.fs.lookup(attr.ino, &name) {
                Ok(found) => {
                    self.check(&path, "inode of the entry", ino, found.ino);
                    if let Some(file_type) = file_type {
                        self.check(&path, "type of the entry", file_type, found.file_type);
                    }
                    match self.fs.attr(ino) {
                        Ok(again) => self.check(&path, "attributes by number", &again, &found),
                        Err(error) => self.differ(&path, format!("attributes by number: {error}")),
                    }
                    self.inode(&found, &path, attr.ino);
                }
                Err(error) => self.differ(&path, format!("lookup: {error}")),
            }
        }
    }

    fn contents(&mut self, attr: &Attr, path: &Path) {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ENOKEY) => {
                let ours = self.fs.read(attr.ino, 0, &mut [0]).map_err(|error| error.errno());
                return self.check(path, "reading without the key", ours, Err(libc::ENOKEY));
            }
            Err(error) => return self.differ(path, format!("the folder's file cannot be opened: {error}")),
        };
        let mut ours = vec![0; 1 << 20];
        let mut theirs = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            // A length that is no multiple of anything, so that reads begin inside blocks too.
            let want = if offset == 0 { 777 } else { ours.len() - 13 };
            let got = match self.fs.read(attr.ino, offset, &mut ours[..want]) {
                Ok(got) => got,
                Err(error) => return self.differ(path, format!("reading at {offset}: {error}")),
            };
            if let Err(error) = file.read_exact(&mut theirs[..got]) {
                return self.differ(path, format!("the folder's file cannot be read at {offset}: {error}"));
            }
            if ours[..got] != theirs[..got] {
                let at = (0..got).find(|&at| ours[at] != theirs[at]).unwrap_or(0);
                return self.differ(path, format!("contents differ at byte {}", offset + at as u64));
            }
            offset += got as u64;
            if got < want {
                break;
            }
        }
        self.check(path, "bytes read", offset, attr.size);
    }

    fn holes(&mut self, attr: &Attr, path: &Path) {
        let Ok(file) = File::open(path) else { return };
        let mut at = 0;
        for _ in 0..100_000 {
            for (name, whence) in [("data", Whence::SeekData), ("hole", Whence::SeekHole)] {
                let theirs = lseek(&file, at as i64, whence).map(|offset| offset as u64).map_err(|errno| errno as i32);
                let ours = match name {
                    "data" => self.fs.next_data(attr.ino, at),
                    _ => self.fs.next_hole(attr.ino, at),
                };
                let ours = ours.map_err(|error| error.errno());
                if ours != theirs {
                    return self.differ(path, format!("next {name} from {at}: ours is {ours:?}, expected {theirs:?}"));
                }
                match theirs {
                    Ok(next) => at = next,
                    Err(_) => return,
                }
            }
            if at >= attr.size {
                return;
            }
        }
    }
}
