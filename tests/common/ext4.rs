//! Images of ext2, ext3 and ext4 for the tests: made by mke2fs, filled by it or by the kernel, mounted by the kernel.

use guestctl::block::{RawDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::FsOptions;
use guestctl::fs::ext4::{Ext4, Ext4Writer};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Runs a program and panics with what it said when it fails.
pub fn run(program: &str, args: &[&str]) -> String {
    let program_path = crate::tool(program).unwrap_or_else(|| PathBuf::from(program));
    let output = Command::new("timeout")
        .arg("60")
        .arg(program_path)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}\n{text}\n{error}", output.status);
    text
}

/// Says whether images can be made and mounted here; says why not otherwise.
pub fn can_mount() -> bool {
    if !crate::is_root() {
        crate::skip("mounting needs root");
        return false;
    }
    has_tools()
}

/// Says whether images can be made here; says why not otherwise.
pub fn has_tools() -> bool {
    for tool in ["mke2fs", "debugfs"] {
        if !crate::has_tool(tool) {
            crate::skip(&format!("{tool} is missing"));
            return false;
        }
    }
    true
}

/// Makes an image of `megabytes` with the arguments given to mke2fs.
pub fn make(image: &Path, megabytes: u64, args: &[&str]) {
    let file = File::create(image).expect("the image can be made");
    file.set_len(megabytes << 20).expect("the image can grow");
    let mut all = vec!["-q", "-F"];
    all.extend(args);
    let image = image.to_str().expect("a temporary path is text");
    all.push(image);
    run("mke2fs", &all);
}

/// Lets e2fsck give every directory that is large enough a hash tree.
pub fn reindex(image: &Path) {
    let program = crate::tool("e2fsck").expect("e2fsck comes with mke2fs");
    let output =
        Command::new("timeout").arg("60").arg(program).args(["-fyD"]).arg(image).output().expect("e2fsck runs");
    // 1: it changed something, as it was asked to.
    assert!(output.status.code().is_some_and(|code| code <= 1), "e2fsck: {}", String::from_utf8_lossy(&output.stdout));
}

/// A mount by the kernel, which ends when this is dropped.
pub struct Mount {
    /// Where it is mounted.
    pub path: PathBuf,
}

impl Mount {
    /// Mounts an image with options beside `loop`, in a folder beside the image.
    pub fn new(image: &Path, options: &str) -> Self {
        Self::try_new(image, options).unwrap_or_else(|error| panic!("mounting {}: {error}", image.display()))
    }

    /// Mounts an image; returns what mount said when the kernel refuses.
    pub fn try_new(image: &Path, options: &str) -> Result<Self, String> {
        let path = image.with_extension("mnt");
        fs::create_dir_all(&path).expect("a mount point can be made");
        let mut error = String::new();
        for attempt in 0..5 {
            let output = Command::new("timeout")
                .args(["60", "mount", "-t", "ext4", "-o", &format!("loop,{options}")])
                .args([image, &path])
                .output()
                .expect("mount runs");
            if output.status.success() {
                return Ok(Self { path });
            }
            error = String::from_utf8_lossy(&output.stderr).into_owned();
            std::thread::sleep(Duration::from_millis(200 << attempt));
            if !error.contains("loop") {
                break;
            }
        }
        Err(error)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for attempt in 0..6 {
            let status = Command::new("timeout").args(["60", "umount"]).arg(&self.path).stderr(Stdio::null()).status();
            if status.is_ok_and(|status| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100 << attempt));
        }
    }
}

/// Opens an image with the driver.
pub fn open(image: &Path) -> Ext4 {
    try_open(image).unwrap_or_else(|error| panic!("{}: {error}", image.display()))
}

/// Opens an image with the driver, or says why it refuses.
pub fn try_open(image: &Path) -> guestctl::Result<Ext4> {
    let device: SharedDevice = Arc::new(RawDevice::open(image, false).expect("the image opens"));
    open_device(device)
}

/// Opens a device with the driver, or says why it refuses.
pub fn open_device(device: SharedDevice) -> guestctl::Result<Ext4> {
    Ext4::open(device, &FsOptions { cache: CachePool::new(16 << 20) })
}

/// Bytes that do not repeat soon.
pub fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

fn set_times(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
    let flag = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
    nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flag).expect("times can be set");
}

/// Makes files of every kind below a folder. `entries` is how many a large directory gets, `pieces` how many separate
/// blocks of `block_size` bytes a scattered file gets.
pub fn populate(folder: &Path, entries: usize, pieces: u64, block_size: u64) {
    let at = |name: &str| folder.join(name);
    fs::write(at("empty"), b"").expect("writes");
    fs::write(at("tiny"), b"tiny\n").expect("writes");
    fs::write(at("hundred"), noise(100, 1)).expect("writes");
    fs::write(at("odd"), noise(12_345, 2)).expect("writes");
    fs::write(at("large"), noise(3 << 20 | 77, 3)).expect("writes");
    fs::hard_link(at("odd"), at("odd too")).expect("links");
    fs::create_dir(at("sub")).expect("makes");
    fs::hard_link(at("odd"), at("sub/odd three")).expect("links");

    let sparse = File::create(at("sparse")).expect("makes");
    for (offset, len) in [(0, 10), (1 << 20, 5000), (5 << 20 | 17, 300_000)] {
        sparse.write_all_at(&noise(len, offset as u32), offset).expect("writes");
    }
    sparse.set_len(9 << 20).expect("grows");
    let far = File::create(at("far")).expect("makes");
    for (offset, len) in [(13 << 10, 3000), (300 << 10, 3000), (70 << 20, 400_000)] {
        far.write_all_at(&noise(len, offset as u32), offset).expect("writes");
    }
    let scattered = File::create(at("scattered")).expect("makes");
    for piece in 0..pieces {
        scattered.write_all_at(&noise(700, piece as u32), piece * block_size * 2).expect("writes");
    }
    File::create(at("only a hole")).and_then(|file| file.set_len(100 << 20)).expect("grows");
    let allocated = File::create(at("allocated")).expect("makes");
    // Not every filesystem can allocate without writing.
    let _ = nix::fcntl::fallocate(&allocated, nix::fcntl::FallocateFlags::empty(), 0, 200 << 10);
    allocated.write_all_at(&noise(9000, 9), 50 << 10).expect("writes");

    for (name, len) in [("short link", 10), ("link of 59", 59), ("link of 60", 60), ("link of 900", 900)] {
        symlink("x".repeat(len), at(name)).expect("links");
    }
    fs::write(folder.join(std::ffi::OsStr::from_bytes(b"not\xffutf\x80\x01")), b"name").expect("writes");
    fs::write(at(&"n".repeat(255)), b"long").expect("writes");
    let mut deep = at("deep");
    for level in 0..30 {
        deep = deep.join(format!("level {level}"));
    }
    fs::create_dir_all(&deep).expect("makes");
    fs::write(deep.join("bottom"), noise(2000, 4)).expect("writes");
    let many = at("many");
    fs::create_dir(&many).expect("makes");
    for number in 0..entries {
        File::create(many.join(format!("a rather long name of entry {number:06}"))).expect("makes");
    }
    for number in (0..entries).step_by(3) {
        fs::remove_file(many.join(format!("a rather long name of entry {number:06}"))).expect("removes");
    }

    for (name, kind, numbers) in [("tty", "c", ["5", "1"]), ("disk", "b", ["259", "70000"]), ("old", "b", ["8", "255"])]
    {
        let path = at(name);
        run("mknod", &[path.to_str().expect("text"), kind, numbers[0], numbers[1]]);
    }
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::from_bits_truncate(0o620)).expect("makes");
    drop(std::os::unix::net::UnixListener::bind(at("sub/sock")).expect("binds"));
    fs::write(at("setuid"), b"#!/bin/sh\n").expect("writes");
    std::os::unix::fs::lchown(at("setuid"), Some(70_001), Some(4_000_000_000)).expect("changes the owner");
    fs::set_permissions(at("setuid"), fs::Permissions::from_mode(0o6751)).expect("changes the mode");
    fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o1777)).expect("changes the mode");

    xattr::set(at("odd"), "user.color", b"blue").expect("sets");
    xattr::set(at("odd"), "user.empty", b"").expect("sets");
    xattr::set(at("odd"), "user.long", &noise(600, 5)).expect("sets");
    xattr::set(at("tiny"), "trusted.overlay.opaque", b"y").expect("sets");
    xattr::set(at("sub"), "user.dir", b"dir").expect("sets");
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(at("setuid"), "security.capability", &capability).expect("sets");
    // user, user 1000, group, mask, other
    let mut acl = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (8, 6, 77), (0x10, 6, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    xattr::set(at("hundred"), "system.posix_acl_access", &acl).expect("sets");
    xattr::set(at("sub"), "system.posix_acl_default", &acl).expect("sets");

    set_times(&at("tiny"), 4_102_444_800, 123_456_789);
    set_times(&at("hundred"), -86_400, 999_999_999);
    set_times(&at("short link"), 1_000_000_000, 1);
    // The folder may be read before its pages are written otherwise.
    for path in ["sparse", "far", "scattered", "large", "allocated"] {
        File::open(at(path)).and_then(|file| file.sync_all()).expect("syncs");
    }
    std::io::stdout().flush().expect("flushes");
}

/// Opens an image for writing.
pub fn open_for_writing(image: &Path) -> Ext4Writer {
    try_open_for_writing(image).expect("it can be written")
}

/// Opens an image for writing, or says why that is refused.
pub fn try_open_for_writing(image: &Path) -> guestctl::Result<Ext4Writer> {
    let device: SharedDevice = Arc::new(RawDevice::open(image, true).expect("the image opens"));
    Ext4::open_for_writing(device, &FsOptions { cache: CachePool::new(16 << 20) })
}

/// Has e2fsck look at an image, which must find nothing to say; but it may propose to make the leaves of a tree that lost
/// extents fewer, as it does for the kernel's, which leaves them too.
pub fn check_clean(image: &Path) {
    let program = crate::tool("e2fsck").expect("e2fsck comes with mke2fs");
    let output = Command::new("timeout").arg("60").arg(program).arg("-fn").arg(image).output().expect("e2fsck runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let is_usual = |line: &&str| {
        line.is_empty() || line.starts_with("Pass ") || line.contains(" files (") || line.contains("could be narrower")
    };
    let is_silent = text.lines().all(|line| is_usual(&line));
    assert!(output.status.code() == Some(0) && is_silent, "e2fsck of {}: {text}", image.display());
}
