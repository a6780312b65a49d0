//! Btrfs images made by mkfs and the kernel, and the comparison of a driver with the kernel's mount.

#![allow(dead_code, reason = "each test program uses its own part")]

use guestctl::block::{RawDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::btrfs::{Btrfs, Subvolume};
use guestctl::fs::{Attr, Filesystem, FsOptions, Ino, Timestamp};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// Says whether images can be made here and mounted; skips where not.
pub fn can_mount() -> bool {
    if !super::common::is_root() {
        super::common::skip("needs root to mount");
    } else if !super::common::has_tool("mkfs.btrfs") || !super::common::has_tool("btrfs") {
        super::common::skip("needs mkfs.btrfs and btrfs");
    } else if !fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("btrfs") {
        super::common::skip("the kernel has no Btrfs");
    } else {
        return true;
    }
    false
}

/// Runs a program for a minute at most; returns whether it went well, and what it said.
pub fn try_run(program: &str, args: &[&OsStr]) -> (bool, String) {
    let output = Command::new("timeout").arg("60").arg(program).args(args).output().expect("timeout runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Runs a program that must go well.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    let (well, said) = try_run(program, &args);
    assert!(well, "{program} {args:?}: {said}");
    said
}

/// Runs a shell script in a folder; it must go well.
pub fn script(folder: &Path, text: &str) {
    let output =
        Command::new("timeout").args(["60", "bash", "-ec", text]).current_dir(folder).output().expect("bash runs");
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Makes an empty image of a size in MiB and a filesystem in it, with the options given to mkfs.
pub fn make(path: &Path, mib: u64, options: &[&str]) {
    File::create(path).and_then(|file| file.set_len(mib << 20)).expect("an image is made");
    let mut args: Vec<&OsStr> = vec!["-q".as_ref(), "-f".as_ref()];
    args.extend(options.iter().map(OsStr::new));
    args.push(path.as_os_str());
    run("mkfs.btrfs", &args);
}

/// A mount that ends with it.
pub struct Mounted {
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Mounts an image through a loop device, with the options given.
    pub fn new(image: &Path, options: &str) -> Self {
        Self::try_new(image, options).expect("mounts")
    }

    /// Mounts an image where the kernel can; what mount said where not.
    pub fn try_new(image: &Path, options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("loop,{options}");
        let mut said = String::new();
        for _ in 0..5 {
            let args: [&OsStr; 6] = [
                "-t".as_ref(),
                "btrfs".as_ref(),
                "-o".as_ref(),
                options.as_ref(),
                image.as_ref(),
                folder.path().as_ref(),
            ];
            let (well, text) = try_run("mount", &args);
            if well {
                return Ok(Self { folder });
            }
            said = text;
            if !said.contains("loop") {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(said)
    }

    /// Mounts a device or one of several.
    pub fn device(device: &Path, options: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let args: [&OsStr; 6] =
            ["-t".as_ref(), "btrfs".as_ref(), "-o".as_ref(), options.as_ref(), device.as_ref(), folder.path().as_ref()];
        let (well, said) = try_run("mount", &args);
        if well { Ok(Self { folder }) } else { Err(said) }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for _ in 0..20 {
            if try_run("umount", &[self.folder.path().as_os_str()]).0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Loop devices that end with it.
pub struct Loops {
    /// The devices, in the order of the images.
    pub devices: Vec<PathBuf>,
}

impl Loops {
    /// Sets a loop device up for each image.
    pub fn new(images: &[PathBuf]) -> Self {
        let mut loops = Self { devices: Vec::new() };
        for image in images {
            let mut tries = 0;
            let device = loop {
                let (well, said) = try_run("losetup", &["-f".as_ref(), "--show".as_ref(), image.as_ref()]);
                if well {
                    break PathBuf::from(said.trim());
                }
                tries += 1;
                assert!(tries < 10, "losetup: {said}");
                std::thread::sleep(Duration::from_millis(200));
            };
            loops.devices.push(device);
        }
        loops
    }

    /// Tells the kernel of the devices, so that it finds all of a filesystem.
    pub fn scan(&self) {
        for device in &self.devices {
            run("btrfs", &["device".as_ref(), "scan".as_ref(), device.as_os_str()]);
        }
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.devices {
            try_run("btrfs", &["device".as_ref(), "scan".as_ref(), "--forget".as_ref(), device.as_os_str()]);
            try_run("losetup", &["-d".as_ref(), device.as_os_str()]);
        }
    }
}

/// Opens an image as a device.
pub fn device(image: &Path) -> SharedDevice {
    Arc::new(RawDevice::open(image, false).expect("the image opens"))
}

/// The options that tests open filesystems with.
pub fn options() -> FsOptions {
    FsOptions { cache: CachePool::new(32 << 20) }
}

/// Opens the filesystem of an image.
pub fn open(image: &Path, subvolume: Option<&Subvolume>) -> Btrfs {
    Btrfs::open(device(image), &[], subvolume, &options()).expect("the filesystem opens")
}

/// What the comparison is to pass over.
#[derive(Clone, Copy, Default)]
pub struct Lenient {
    /// Times of directories' changes, and changes of inodes, that are as late as this or later, in seconds.
    pub changes_since: Option<i64>,
}

/// Compares everything of a driver's tree with a folder of the kernel's; returns how many inodes there were.
pub fn compare(filesystem: &dyn Filesystem, folder: &Path, lenient: Lenient) -> usize {
    let root = filesystem.attr(filesystem.root()).expect("the root has attributes");
    let mut count = 0;
    compare_inode(filesystem, &root, folder, lenient, &mut count);
    count
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: nanoseconds as u32 }
}

fn compare_inode(filesystem: &dyn Filesystem, attr: &Attr, path: &Path, lenient: Lenient, count: &mut usize) {
    *count += 1;
    let ino = attr.ino;
    let real = fs::symlink_metadata(path).expect("the kernel shows it");
    let place = path.display();
    assert_eq!(filesystem.attr(ino).expect("attributes"), *attr, "{place}");
    assert_eq!(attr.mode(), real.mode(), "mode of {place}");
    let number = attr.ino & ((1 << 40) - 1);
    assert_eq!(number, real.ino(), "number of {place}");
    // A place where a subvolume would be, in a snapshot: the kernel makes up its times.
    if number == 2 {
        assert!(real.is_dir() && attr.is_dir());
        return;
    }
    assert_eq!((attr.uid, attr.gid), (real.uid(), real.gid()), "owner of {place}");
    assert_eq!(u64::from(attr.nlink), real.nlink(), "links of {place}");
    assert_eq!(attr.size, real.size(), "size of {place}");
    assert_eq!(attr.blocks, real.blocks(), "blocks of {place}");
    let rdev = real.rdev();
    assert_eq!(attr.rdev, (libc::major(rdev), libc::minor(rdev)), "device number of {place}");
    let is_late = |time: i64| lenient.changes_since.is_some_and(|since| time >= since);
    assert_eq!(attr.atime, timestamp(real.atime(), real.atime_nsec()), "atime of {place}");
    if !(attr.is_dir() && is_late(real.mtime())) {
        assert_eq!(attr.mtime, timestamp(real.mtime(), real.mtime_nsec()), "mtime of {place}");
    }
    if !is_late(real.ctime()) {
        assert_eq!(attr.ctime, timestamp(real.ctime(), real.ctime_nsec()), "ctime of {place}");
    }
    let born = real.created().expect("Btrfs keeps it").duration_since(UNIX_EPOCH).expect("after 1970");
    assert_eq!(attr.btime, Some(timestamp(born.as_secs() as i64, born.subsec_nanos().into())), "btime of {place}");
    compare_xattrs(filesystem, ino, path);
    if real.is_dir() || real.is_file() {
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path).expect("opens");
        assert_eq!(attr.flags, lsattr(&file), "flags of {place}");
    }
    let kind = real.file_type();
    if kind.is_symlink() {
        let text = filesystem.read_link(ino).expect("a link");
        assert_eq!(OsStr::from_bytes(&text), fs::read_link(path).expect("a link").as_os_str(), "text of {place}");
    } else if kind.is_file() {
        compare_file(filesystem, ino, path);
    } else if kind.is_dir() {
        compare_directory(filesystem, ino, path, lenient, count);
    } else {
        assert!(kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket());
        assert_eq!(filesystem.read(ino, 0, &mut [0; 8]).expect_err("no file").errno(), libc::EINVAL);
    }
}

/// Returns all entries of a directory, in order: name and number.
pub fn list(filesystem: &dyn Filesystem, ino: Ino) -> Vec<(Vec<u8>, Ino)> {
    let mut found = Vec::new();
    let mut cookie = 0;
    // In small steps, so that going on from a cookie is tried too.
    loop {
        let mut step = 0;
        filesystem
            .read_dir(ino, cookie, &mut |entry| {
                assert_ne!(entry.next_cookie, 0);
                assert!(entry.file_type.is_some());
                found.push((entry.name.to_vec(), entry.ino));
                cookie = entry.next_cookie;
                step += 1;
                if step == 37 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .expect("a directory is read");
        if step < 37 {
            return found;
        }
    }
}

fn compare_directory(filesystem: &dyn Filesystem, ino: Ino, path: &Path, lenient: Lenient, count: &mut usize) {
    let place = path.display();
    let real: Vec<Vec<u8>> = fs::read_dir(path)
        .expect("the kernel lists it")
        .map(|entry| entry.expect("an entry").file_name().as_bytes().to_vec())
        .collect();
    let found = list(filesystem, ino);
    let names: Vec<Vec<u8>> = found.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, real, "names in {place}");
    for (name, number) in found {
        let child = filesystem.lookup(ino, &name).expect("a name is found");
        assert_eq!(child.ino, number, "{} in {place}", name.escape_ascii());
        if child.is_dir() {
            let above = filesystem.parent(child.ino).expect("a directory has a parent");
            // Where a snapshot shows a subvolume's place, nothing leads back.
            assert!(above == ino || child.ino & ((1 << 40) - 1) == 2, "parent in {place}");
        }
        compare_inode(filesystem, &child, &path.join(OsStr::from_bytes(&name)), lenient, count);
    }
    assert!(filesystem.lookup(ino, b"there is no such name").expect_err("not there").is_errno(libc::ENOENT));
}

fn compare_file(filesystem: &dyn Filesystem, ino: Ino, path: &Path) {
    let place = path.display();
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(path).expect("opens");
    let len = file.metadata().expect("a size").len();
    let same = |at: u64, buf: &mut [u8], real: &mut [u8]| {
        buf.fill(0xa5);
        let count = filesystem.read(ino, at, buf).unwrap_or_else(|error| panic!("{place} at {at}: {error}"));
        let mut wanted = 0;
        while wanted < real.len() {
            match file.read_at(&mut real[wanted..], at + wanted as u64).expect("the kernel reads it") {
                0 => break,
                more => wanted += more,
            }
        }
        assert!(buf[..count] == real[..wanted], "bytes of {place} from {at} on");
        count
    };
    // Of a file that is mostly holes the ends of data are read, and places here and there.
    if len <= 64 << 20 {
        for step in [128 << 10, 1_000_003] {
            let (mut buf, mut real) = (vec![0; step], vec![0; step]);
            let mut at = 0;
            while same(at, &mut buf, &mut real) == step {
                at += step as u64;
            }
        }
    }
    let (mut buf, mut real) = ([0; 777], [0; 777]);
    for number in 0..40_u64 {
        same(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64) % (len + 100), &mut buf, &mut real);
    }
    let seek = |at: u64, whence| {
        // SAFETY: the descriptor is open, and no memory is handed over.
        let found = unsafe { libc::lseek(file.as_raw_fd(), at as i64, whence) };
        if found < 0 { None } else { Some(found as u64) }
    };
    let mut at = 0;
    for _ in 0..10_000 {
        let data = filesystem.next_data(ino, at).ok();
        assert_eq!(data, seek(at, libc::SEEK_DATA), "data of {place} from {at} on");
        let hole = filesystem.next_hole(ino, at).ok();
        assert_eq!(hole, seek(at, libc::SEEK_HOLE), "hole of {place} from {at} on");
        if let (Some(data), Some(hole)) = (data, hole) {
            same(data.saturating_sub(300), &mut buf, &mut real);
            same(hole.saturating_sub(300), &mut buf, &mut real);
        }
        match (data, hole) {
            (Some(data), Some(hole)) => at = data.max(hole),
            _ => break,
        }
    }
}

fn lsattr(file: &File) -> u32 {
    let mut flags: libc::c_int = 0;
    // SAFETY: the request writes one int, which `flags` is (FS_IOC_GETFLAGS is declared with a long, and writes an int).
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) };
    assert_eq!(done, 0, "flags are read");
    flags as u32
}

fn compare_xattrs(filesystem: &dyn Filesystem, ino: Ino, path: &Path) {
    let real = xattrs(path);
    let mut found = BTreeMap::new();
    for name in filesystem.xattrs(ino).expect("attributes are listed") {
        let value = filesystem.xattr(ino, &name).expect("an attribute is there");
        found.insert(name, value);
    }
    assert_eq!(found, real, "extended attributes of {}", path.display());
    assert!(filesystem.xattr(ino, b"user.none").expect_err("not there").is_errno(libc::ENODATA));
}

/// Returns the extended attributes that the kernel shows.
pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    let mut list = vec![0_u8; 64 << 10];
    // SAFETY: the path ends with NUL, and the buffer is as long as is said.
    let len = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    list.truncate(usize::try_from(len).expect("attributes are listed"));
    let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let text = CString::new(name).expect("no NUL");
            let mut value = vec![0_u8; 64 << 10];
            // SAFETY: as above, for both strings and the buffer.
            let len = unsafe { libc::lgetxattr(path.as_ptr(), text.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
            value.truncate(usize::try_from(len).expect("an attribute is read"));
            (name.to_vec(), value)
        })
        .collect()
}

/// What a tree to compare is made of: run in the filesystem's root.
pub const POPULATE: &str = r#"
seq 1 200000 > text
head -c 3000000 /dev/urandom > random
head -c 100 /dev/urandom > small
head -c 3000 /dev/zero | tr '\0' x > inline
: > empty
truncate -s 1000000000000 sparse
printf tail | dd of=sparse bs=1 seek=500000000000 conv=notrunc status=none
printf mid | dd of=sparse bs=4096 seek=1000 conv=notrunc status=none
fallocate -l 1000000 prealloc
dd if=/dev/urandom of=prealloc bs=4096 seek=3 count=5 conv=notrunc status=none
fallocate -o 2000000 -l 500000 -n beyond || true; touch beyond
fallocate -o 2000000 -l 500000 -n beyond
seq 1 100000 > punched; sync -f punched; fallocate -p -o 8192 -l 100000 punched
seq 1 300000 > overwritten; sync -f overwritten
for at in 3 17 18 40 41 99 130 131 132 200; do seq $at 500 | head -c 4096 | dd of=overwritten bs=4096 seek=$at conv=notrunc status=none; done
mkdir dir dir/deep dir/deep/deeper many
chmod 2751 dir; chmod 1777 dir/deep; chown 1234:70000 dir/deep
cp --reflink=always random dir/clone
ln small dir/hard; ln small dir/deep/harder
ln -s target link; ln -s "$(head -c 3000 /dev/zero | tr '\0' l)" longlink; ln -s nowhere "$(printf 'not\xffutf8')"
mknod null c 1 3; mknod disk b 259 65540; mkfifo pipe
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")' || true
setfattr -n user.one -v value small; setfattr -n user.empty small; setfattr -n trusted.t -v 0x00ff small
setfattr -n user.long -v "$(head -c 3000 /dev/zero | tr '\0' v)" text
setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 small || true
setfacl -m u:1000:rw,g:2000:r text; setfacl -d -m u:1000:rwx dir
touch -d '1901-12-14 00:00:01.123456789' small; touch -d '2300-01-01 01:02:03.987654321' text
for n in $(seq 1 600); do echo $n > many/file-with-a-longish-name-$n; done
rm many/*7
for n in $(seq 1 200); do ln inline many/link-$n-$(head -c 180 /dev/zero | tr '\0' n); done
chattr +i inline; chattr +A +d empty; : > nocow; chattr +C nocow; head -c 200000 /dev/urandom > nocow
: > property; btrfs property set property compression zstd || true; seq 1 50000 > property
chattr +m punched || true
"#;
