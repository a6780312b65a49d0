//! Look-ups go down the tree by key: in a large filesystem they cost little more than in a small one.
//!
//! What is counted are reads of the device, and bytes, since the time depends on what else the machine does; it is printed.
//! `GUESTCTL_LARGE=1` compares 1,000,000 files with 10,000; without it, the numbers are smaller and the time short.

mod common;

use common::guest::run;
use common::{has_tool, skip};
use guestctl::block::{BlockDevice, RawDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::btrfs::Btrfs;
use guestctl::fs::xfs::Xfs;
use guestctl::fs::{Filesystem, FsOptions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How many files lie in each folder.
const IN_FOLDER: usize = 1000;

/// How many files are looked up.
const LOOKUPS: usize = 400;

/// Counts what is read.
struct Counting {
    device: SharedDevice,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl BlockDevice for Counting {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> guestctl::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.device.read_at(buf, offset)
    }
}

/// What a look-up costs.
#[derive(Clone, Copy, Debug)]
struct Cost {
    reads: f64,
    bytes: f64,
    time: Duration,
}

fn is_large() -> bool {
    std::env::var_os("GUESTCTL_LARGE").is_some()
}

/// Makes a filesystem with a number of folders of files by the kernel.
fn image(folder: &Path, kind: &str, folders: usize) -> PathBuf {
    let (image, mount) = (folder.join(format!("{kind}-{folders}")), folder.join("mnt"));
    fs::create_dir_all(&mount).expect("made");
    let mkfs = if kind == "xfs" { "mkfs.xfs -q" } else { "mkfs.btrfs -q" };
    let size = if is_large() { "6G" } else { "1G" };
    let script = format!(
        "truncate -s {size} {0}; {mkfs} {0} >/dev/null; mount -o loop {0} {1}",
        image.display(),
        mount.display()
    );
    run("bash", &["-ec", &script]);
    for number in 0..folders {
        let here = mount.join(format!("folder-{number}"));
        fs::create_dir(&here).expect("made");
        for file in 0..IN_FOLDER {
            fs::write(here.join(format!("file-{file}")), "").expect("made");
        }
    }
    run("umount", &[&mount]);
    image
}

/// Looks files up at random, with a cache that holds next to nothing, so that each look-up pays its whole way down.
fn cost(image: &Path, kind: &str, folders: usize) -> Cost {
    let device: SharedDevice = Arc::new(RawDevice::open(image, false).expect("opened"));
    let counting = Arc::new(Counting { device, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) });
    let options = FsOptions { cache: CachePool::new(1) };
    let device: SharedDevice = counting.clone();
    let filesystem: Box<dyn Filesystem> = match kind {
        "xfs" => Box::new(Xfs::open(device, &options).expect("opened")),
        _ => Box::new(Btrfs::open(device, &[], None, &options).expect("opened")),
    };
    counting.reads.store(0, Ordering::Relaxed);
    counting.bytes.store(0, Ordering::Relaxed);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    let began = Instant::now();
    for _ in 0..LOOKUPS {
        let (number, file) = (next(folders), next(IN_FOLDER));
        let folder = filesystem.lookup(filesystem.root(), format!("folder-{number}").as_bytes()).expect("there");
        let found = filesystem.lookup(folder.ino, format!("file-{file}").as_bytes()).expect("there");
        assert_eq!(found.size, 0);
        let missing = filesystem.lookup(folder.ino, b"no such file").expect_err("not there");
        assert!(missing.is_errno(nix::libc::ENOENT), "{missing}");
    }
    let each = LOOKUPS as f64;
    Cost {
        reads: counting.reads.load(Ordering::Relaxed) as f64 / each,
        bytes: counting.bytes.load(Ordering::Relaxed) as f64 / each,
        time: began.elapsed() / LOOKUPS as u32,
    }
}

fn compare(kind: &str) {
    let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !common::is_root() || !kernel.contains(kind) || !has_tool(&format!("mkfs.{kind}")) {
        return skip("this needs root, mkfs and the kernel's driver");
    }
    let folder = TempDir::new().expect("a folder");
    let (few, many) = if is_large() { (10, 1000) } else { (3, 60) };
    let small = cost(&image(folder.path(), kind, few), kind, few);
    let large = cost(&image(folder.path(), kind, many), kind, many);
    for (folders, cost) in [(few, small), (many, large)] {
        let (files, Cost { reads, bytes, time }) = (folders * IN_FOLDER, cost);
        println!("{kind}, {files} files: {reads:.0} reads, {bytes:.0} bytes, {time:?} each");
    }
    assert!(large.reads <= small.reads.max(1.0) * 2.0, "{kind}: {small:?} {large:?}");
    assert!(large.bytes <= small.bytes.max(65536.0) * 2.0, "{kind}: {small:?} {large:?}");
}

#[test]
fn a_lookup_on_xfs_costs_no_more_than_twice_as_much_among_many_files() {
    compare("xfs");
}

#[test]
fn a_lookup_on_btrfs_costs_no_more_than_twice_as_much_among_many_files() {
    compare("btrfs");
}
