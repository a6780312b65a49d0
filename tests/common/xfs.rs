//! Compares an open filesystem with a mounted folder, and makes images of XFS for the kernel to mount.

#![allow(dead_code, reason = "each test program uses its own part")]

use guestctl::block::{RawDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::xfs::Xfs;
use guestctl::fs::{Attr, Filesystem, FsOptions, Ino};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, UNIX_EPOCH};

/// Runs a program for at most a minute and returns what it said.
pub fn try_run(program: &str, args: &[&str]) -> Output {
    let output = Command::new("timeout").arg("60").arg(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program that must succeed; returns its output.
pub fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = try_run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Returns a path as text.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}

/// A filesystem that is mounted until this is dropped.
pub struct Mount {
    dir: PathBuf,
}

impl Mount {
    /// Mounts an image. `None` when the kernel will not.
    pub fn new(image: &Path, dir: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(dir).expect("makes a folder");
        let options = format!("loop,{options}");
        for attempt in 0..5 {
            let output = try_run("mount", &["-t", "xfs", "-o", &options, text(image), text(dir)]);
            if output.status.success() {
                return Some(Self { dir: dir.to_owned() });
            }
            eprintln!("mount: {}", String::from_utf8_lossy(&output.stderr));
            sleep(Duration::from_millis(200 * attempt));
        }
        None
    }

    /// Mounts an image for reading on a loop device that can be written, so that the kernel replays its log into it.
    pub fn replayed(image: &Path, dir: &Path) -> Option<Self> {
        fs::create_dir_all(dir).expect("makes a folder");
        let device = String::from_utf8(run("losetup", &["-f", "--show", text(image)])).expect("is text");
        let output = try_run("mount", &["-t", "xfs", "-o", "ro", device.trim(), text(dir)]);
        // The device goes when the mount does, or at once where there is none.
        run("losetup", &["-d", device.trim()]);
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        output.status.success().then(|| Self { dir: dir.to_owned() })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for _ in 0..20 {
            if try_run("umount", &[text(&self.dir)]).status.success() {
                return;
            }
            sleep(Duration::from_millis(100));
        }
    }
}

/// Makes an empty filesystem in a new image. False when this mkfs.xfs will not.
pub fn make_image(image: &Path, size: u64, args: &[&str]) -> bool {
    File::create(image).expect("makes an image").set_len(size).expect("sizes it");
    let mut all = vec!["-q", "-f", "--unsupported"];
    all.extend(args);
    all.push(text(image));
    let output = try_run("mkfs.xfs", &all);
    if !output.status.success() {
        eprintln!("mkfs.xfs {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// Returns options with a cache of 16 MiB.
pub fn options() -> FsOptions {
    FsOptions { cache: CachePool::new(16 << 20) }
}

/// Opens the filesystem of an image.
pub fn open(image: &Path) -> guestctl::Result<Xfs> {
    let device: SharedDevice = Arc::new(RawDevice::open(image, false)?);
    Xfs::open(device, &options())
}

/// What a listing says of a name.
type Listing = BTreeMap<Vec<u8>, (Ino, Option<guestctl::fs::FileType>)>;

/// Lists a directory, starting anew after every `step` entries.
pub fn list(filesystem: &dyn Filesystem, dir: Ino, step: usize) -> Listing {
    let mut names = Listing::new();
    let mut cookie = 0;
    loop {
        let mut shown = 0;
        filesystem
            .read_dir(dir, cookie, &mut |entry| {
                assert_ne!(entry.next_cookie, 0);
                let again = names.insert(entry.name.to_vec(), (entry.ino, entry.file_type));
                assert!(again.is_none(), "{:?} is listed twice", String::from_utf8_lossy(entry.name));
                cookie = entry.next_cookie;
                shown += 1;
                if shown == step { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap_or_else(|error| panic!("listing {dir}: {error}"));
        if shown < step {
            return names;
        }
    }
}

/// Extended attributes by name, of each path below a folder.
type Xattrs = HashMap<PathBuf, BTreeMap<Vec<u8>, Vec<u8>>>;

fn unescape(line: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < line.len() {
        if line[at] == b'\\' && line.len() >= at + 4 {
            let digits = std::str::from_utf8(&line[at + 1..at + 4]).expect("digits");
            bytes.push(u8::from_str_radix(digits, 8).expect("octal"));
            at += 4;
        } else {
            bytes.push(line[at]);
            at += 1;
        }
    }
    bytes
}

/// Asks `getfattr` for the extended attributes of everything below a folder.
fn kernel_xattrs(root: &Path) -> Xattrs {
    let output = run("getfattr", &["-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "--absolute-names", text(root)]);
    let mut found = Xattrs::new();
    let mut path = PathBuf::new();
    for line in output.split(|&byte| byte == b'\n') {
        if let Some(name) = line.strip_prefix(b"# file: ") {
            path = PathBuf::from(std::ffi::OsString::from_vec(unescape(name)));
        } else if !line.is_empty() {
            let at = line.iter().position(|&byte| byte == b'=').unwrap_or(line.len());
            let name = unescape(&line[..at]);
            let hex = line.get(at + 3..).unwrap_or_default();
            let digits = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
            // The kernel shows root an ACL by the name under which it is stored as well.
            if !name.starts_with(b"trusted.SGI_ACL_") {
                let value = hex.chunks(2).map(digits).collect();
                found.entry(path.clone()).or_default().insert(name, value);
            }
        }
    }
    found
}

fn our_xattrs(filesystem: &dyn Filesystem, ino: Ino) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let names = filesystem.xattrs(ino).unwrap_or_else(|error| panic!("xattrs of {ino}: {error}"));
    let count = names.len();
    let value = |name: &[u8]| {
        filesystem
            .xattr(ino, name)
            .unwrap_or_else(|error| panic!("{} of {ino}: {error}", String::from_utf8_lossy(name)))
    };
    let all: BTreeMap<_, _> = names.into_iter().map(|name| (name.clone(), value(&name))).collect();
    assert_eq!(all.len(), count, "an attribute of {ino} is listed twice");
    all
}

/// What of a comparison is left out.
#[derive(Clone, Copy, Default)]
pub struct Except {
    /// The folder is a copy: inode numbers, blocks, change and birth times and holes are its own.
    pub copy: bool,
}

fn compare_attr(attr: &Attr, path: &Path, except: Except) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let what = path.display();
    assert_eq!(attr.mode(), meta.mode(), "mode of {what}");
    assert_eq!((attr.uid, attr.gid), (meta.uid(), meta.gid()), "owner of {what}");
    let rdev = (nix::sys::stat::major(meta.rdev()) as u32, nix::sys::stat::minor(meta.rdev()) as u32);
    assert_eq!(attr.rdev, rdev, "device of {what}");
    if attr.is_dir() && except.copy {
        return;
    }
    assert_eq!(u64::from(attr.nlink), meta.nlink(), "links of {what}");
    assert_eq!(attr.size, meta.size(), "size of {what}");
    if except.copy {
        return;
    }
    let time = |time: guestctl::fs::Timestamp| (time.seconds, i64::from(time.nanoseconds));
    assert_eq!(attr.ino, meta.ino(), "inode of {what}");
    assert_eq!(attr.blocks, meta.blocks(), "blocks of {what}");
    assert_eq!(time(attr.mtime), (meta.mtime(), meta.mtime_nsec()), "mtime of {what}");
    assert_eq!(time(attr.atime), (meta.atime(), meta.atime_nsec()), "atime of {what}");
    assert_eq!(time(attr.ctime), (meta.ctime(), meta.ctime_nsec()), "ctime of {what}");
    if let Ok(made) = meta.created() {
        let made = made.duration_since(UNIX_EPOCH).expect("after 1970");
        let ours = attr.btime.expect("a birth time");
        assert_eq!((ours.seconds as u64, ours.nanoseconds), (made.as_secs(), made.subsec_nanos()), "birth of {what}");
    }
}

fn compare_bytes(filesystem: &dyn Filesystem, ino: Ino, size: u64, path: &Path) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // A size that is no multiple of any block makes reads begin and end within blocks.
    const PART: usize = (1 << 20) + 333;
    let (mut ours, mut theirs) = (vec![0xaa; PART], vec![0x55; PART]);
    // Long holes are compared by their bounds and at their ends.
    let mut at = 0;
    while at < size {
        let count = PART.min((size - at) as usize);
        let got = filesystem.read(ino, at, &mut ours).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(got, count, "bytes read of {} at {at}", path.display());
        file.read_exact_at(&mut theirs[..count], at).expect("the kernel reads");
        assert!(ours[..count] == theirs[..count], "bytes of {} differ at {at}", path.display());
        at += count as u64;
        let data = filesystem.next_data(ino, at).unwrap_or(size.saturating_sub(100_000));
        if data > at + (4 << 20) {
            at = data - 100_000;
        }
    }
    assert_eq!(filesystem.read(ino, size, &mut ours).expect("reads at the end"), 0);
}

fn compare_holes(filesystem: &dyn Filesystem, ino: Ino, size: u64, path: &Path) {
    use nix::unistd::{Whence, lseek};
    let file = File::open(path).expect("opens");
    let theirs = |at: u64, whence| match lseek(file.as_fd(), at as i64, whence) {
        Ok(found) => Some(found as u64),
        Err(nix::Error::ENXIO) => None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let ours = |found: guestctl::Result<u64>| match found {
        Ok(found) => Some(found),
        Err(error) if error.is_errno(libc::ENXIO) => None,
        Err(error) => panic!("{}: {error}", path.display()),
    };
    let mut at = 0;
    for step in 0..40_000 {
        let (data, hole) = (theirs(at, Whence::SeekData), theirs(at, Whence::SeekHole));
        assert_eq!(ours(filesystem.next_data(ino, at)), data, "data of {} from {at}", path.display());
        assert_eq!(ours(filesystem.next_hole(ino, at)), hole, "hole of {} from {at}", path.display());
        if at >= size {
            break;
        }
        // Offsets between the borders as well.
        let next = data.unwrap_or(size).max(hole.unwrap_or(size)).min(size.max(at + 1));
        at = if step % 2 == 0 && next > at + 1 { at + (next - at) / 2 } else { next.max(at + 1) };
    }
}

/// How much was compared.
#[derive(Debug, Default)]
pub struct Compared {
    /// Files of every type.
    pub files: usize,
    /// Names in directories.
    pub names: usize,
    /// Extended attributes.
    pub xattrs: usize,
}

/// Compares everything that a user could notice with a mounted folder.
pub fn compare(filesystem: &dyn Filesystem, mounted: &Path, except: Except) -> Compared {
    let xattrs = kernel_xattrs(mounted);
    let mut counts = Compared::default();
    let mut seen = BTreeSet::new();
    let root = filesystem.root();
    let mut left = vec![(root, root, mounted.to_owned())];
    while let Some((ino, parent, path)) = left.pop() {
        let attr = filesystem.attr(ino).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        compare_attr(&attr, &path, except);
        if !seen.insert(ino) {
            continue;
        }
        counts.files += 1;
        let ours = our_xattrs(filesystem, ino);
        counts.xattrs += ours.len();
        assert!(ours == xattrs.get(&path).cloned().unwrap_or_default(), "attributes of {}: {ours:?}", path.display());
        let missing = filesystem.xattr(ino, b"user.there is none").expect_err("there is none");
        assert!(missing.is_errno(libc::ENODATA), "{missing}");
        let meta = fs::symlink_metadata(&path).expect("is there");
        if meta.is_file() {
            // Unwritten space that was read into the page cache counts as data for the kernel, so holes come first.
            if !except.copy {
                compare_holes(filesystem, ino, attr.size, &path);
            }
            compare_bytes(filesystem, ino, attr.size, &path);
        } else if meta.is_symlink() {
            let text = filesystem.read_link(ino).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(text, fs::read_link(&path).expect("is a link").as_os_str().as_bytes());
        } else if meta.is_dir() {
            assert_eq!(filesystem.parent(ino).expect("has a parent"), parent, "parent of {}", path.display());
            let mut ours = list(filesystem, ino, usize::MAX);
            let size = ours.len();
            assert!(ours == list(filesystem, ino, (size / 3).max(1)), "listing {} in parts", path.display());
            let absent = filesystem.lookup(ino, b"there is no such name").expect_err("there is none");
            assert!(absent.is_errno(libc::ENOENT), "{absent}");
            for entry in fs::read_dir(&path).expect("lists") {
                let entry = entry.expect("lists");
                counts.names += 1;
                let name = entry.file_name();
                let (number, file_type) =
                    ours.remove(name.as_bytes()).unwrap_or_else(|| panic!("{} is missing", entry.path().display()));
                let found = filesystem
                    .lookup(ino, name.as_bytes())
                    .unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
                assert_eq!(found.ino, number);
                if let Some(file_type) = file_type {
                    assert_eq!(file_type, found.file_type);
                }
                left.push((number, ino, entry.path()));
            }
            assert!(ours.is_empty(), "{} has names too many: {ours:?}", path.display());
        }
    }
    counts
}

/// Compares how full a filesystem is with what the kernel says of one whose log it has replayed. It frees what was promised
/// to be freed, staging space of copies and inodes without names; until then they count as taken.
pub fn compare_replayed_statfs(filesystem: &dyn Filesystem, mounted: &Path) {
    let ours = filesystem.statfs().expect("counts");
    let theirs = nix::sys::statvfs::statvfs(mounted).expect("counts");
    assert_eq!(ours.blocks, theirs.blocks(), "blocks");
    let freed = theirs.blocks_free().checked_sub(ours.blocks_free).expect("the kernel takes nothing more");
    assert!(freed < 2000, "the kernel freed {freed} blocks");
    let used = |files: u64, free: u64| files - free;
    let ended = used(ours.files, ours.files_free).checked_sub(used(theirs.files(), theirs.files_free()));
    let ended = ended.expect("the kernel makes no inodes");
    println!("the kernel freed {freed} blocks and {ended} inodes");
}

/// Compares how full a filesystem is with what the kernel says.
pub fn compare_statfs(filesystem: &dyn Filesystem, mounted: &Path) {
    let ours = filesystem.statfs().expect("counts");
    let theirs = nix::sys::statvfs::statvfs(mounted).expect("counts");
    assert_eq!(u64::from(ours.block_size), theirs.fragment_size());
    assert_eq!(ours.blocks, theirs.blocks(), "blocks");
    assert_eq!(ours.blocks_free, theirs.blocks_free(), "free blocks");
    assert_eq!(ours.blocks_available, theirs.blocks_available(), "available blocks");
    assert_eq!(ours.files, theirs.files(), "files");
    assert_eq!(ours.files_free, theirs.files_free(), "free files");
    assert_eq!(u64::from(ours.name_max), theirs.name_max());
}
