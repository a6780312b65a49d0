//! The replay of XFS logs against the kernel's: a filesystem is shut down while busy, and what this driver reads of the
//! image is compared with what the kernel reads of a copy that it has replayed.

mod common;
#[path = "common/xfs.rs"]
mod xfs;

use guestctl::fs::Filesystem;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use tempfile::TempDir;
use xfs::{Except, Mount, compare, compare_replayed_statfs, make_image, open, run, text, try_run};

/// A source of numbers that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Does one thing of many to the files below a folder; what cannot be done is left.
fn do_something(root: &Path, numbers: &mut Numbers) {
    let folder = root.join(format!("folder {}", numbers.below(6)));
    let name = format!("file {}", numbers.below(60));
    let file = folder.join(&name);
    let other = root.join(format!("folder {}", numbers.below(6))).join(format!("file {}", numbers.below(60)));
    match numbers.below(16) {
        0 => drop(fs::create_dir(&folder)),
        1..=4 => {
            let bytes = vec![numbers.below(256) as u8; numbers.below(40_000) as usize];
            drop(fs::write(&file, bytes));
        }
        5 => {
            if let Ok(file) = File::options().write(true).open(&file) {
                for _ in 0..40 {
                    let at = numbers.below(300) * 8192;
                    drop(file.write_all_at(&[numbers.below(256) as u8; 3000], at));
                }
                drop(file.sync_all());
            }
        }
        6 => drop(fs::remove_file(&file)),
        7 => drop(fs::rename(&file, &other)),
        8 => drop(fs::hard_link(&file, &other)),
        9 => drop(symlink("x".repeat(1 + numbers.below(1000) as usize), &file)),
        10 => {
            let value = "v".repeat(numbers.below(6000) as usize);
            let name = format!("user.{}", numbers.below(20));
            drop(try_run("setfattr", &["-h", "-n", &name, "-v", &value, text(&file)]));
        }
        11 => {
            if let Ok(file) = File::options().write(true).open(&file) {
                drop(file.set_len(numbers.below(200_000)));
            }
        }
        12 => drop(try_run("cp", &["--reflink=auto", text(&file), text(&other)])),
        13 => {
            for number in 0..numbers.below(300) {
                drop(File::create(folder.join(format!("one of many with a longer name {number}"))));
            }
        }
        14 => {
            for number in 0..300 {
                drop(fs::remove_file(folder.join(format!("one of many with a longer name {number}"))));
            }
        }
        _ => {
            if let Ok(file) = File::open(&file) {
                drop(file.sync_all());
            }
        }
    }
}

/// Does things to a filesystem with such options, shuts it down and compares, several times.
fn check(args: &[&str], rounds: u64, steps: u64) {
    for tool in ["mkfs.xfs", "xfs_io", "getfattr", "setfattr"] {
        if !common::has_tool(tool) {
            return common::skip(&format!("{tool} is not installed"));
        }
    }
    if !common::is_root() {
        return common::skip("mounting needs root");
    }
    let temp = TempDir::new().expect("a folder");
    let (image, copy) = (temp.path().join("disk.img"), temp.path().join("copy.img"));
    let dir = temp.path().join("mnt");
    if !make_image(&image, 320 << 20, args) {
        return common::skip(&format!("this mkfs.xfs does not know {args:?}"));
    }
    let mut numbers = Numbers(0x1234_5678_9abc_def1 ^ steps);
    for round in 0..rounds {
        let Some(mount) = Mount::new(&image, &dir, "rw") else {
            return common::skip(&format!("this kernel does not mount {args:?}"));
        };
        for _ in 0..steps {
            do_something(mount.path(), &mut numbers);
        }
        // With -f the log is written out before everything stops; without it stops as it is.
        let how = if round % 2 == 0 { "shutdown -f" } else { "shutdown" };
        run("xfs_io", &["-x", "-c", how, text(mount.path())]);
        drop(mount);
        run("cp", &["--sparse=always", text(&image), text(&copy)]);
        let filesystem = open(&image).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(!filesystem.info().warnings.is_empty(), "round {round} leaves nothing to replay");
        let mount = Mount::replayed(&copy, &dir).expect("mounts");
        compare_replayed_statfs(&filesystem, mount.path());
        let compared = compare(&filesystem, mount.path(), Except::default());
        let log = File::open(&image).expect("opens");
        let mut last = [0; 24];
        log.read_exact_at(&mut last, records(&log)[0].0).expect("reads");
        let cycle = guestctl::bytes::be32(&last, 16);
        println!("{round}: cycle {cycle}, {:?} {compared:?}", filesystem.info().warnings);
        drop(mount);
        fs::rename(&copy, &image).expect("goes on with the copy");
    }
}

#[test]
fn a_log_that_was_left_full_is_replayed_as_the_kernel_replays_it() {
    check(&[], 5, 250);
}

#[test]
fn a_log_of_small_blocks_is_replayed_as_the_kernel_replays_it() {
    check(&["-b", "size=1024", "-n", "size=4096", "-m", "rmapbt=1", "-l", "su=16384"], 5, 400);
}

#[test]
fn a_small_log_that_has_wrapped_is_replayed_as_the_kernel_replays_it() {
    check(&["-l", "size=4096b", "-i", "nrext64=1"], 5, 700);
}

#[test]
fn a_log_without_the_newer_features_is_replayed_as_the_kernel_replays_it() {
    check(&["-m", "bigtime=0,reflink=0,finobt=0,inobtcount=0", "-i", "sparse=0,size=1024", "-s", "size=4096"], 4, 250);
}

/// The records of an image's log, as the offsets and lengths of their data, the last one first.
fn records(image: &File) -> Vec<(u64, u64)> {
    let mut superblock = [0; 512];
    image.read_exact_at(&mut superblock, 0).expect("reads");
    let (be32, be64) = (guestctl::bytes::be32, guestctl::bytes::be64);
    let (block_size, ag_blocks) = (u64::from(be32(&superblock, 4)), u64::from(be32(&superblock, 84)));
    let (start, ag_log) = (be64(&superblock, 48), superblock[124]);
    let start = ((start >> ag_log) * ag_blocks + (start & ((1 << ag_log) - 1))) * block_size;
    let mut log = vec![0; usize::try_from(u64::from(be32(&superblock, 96)) * block_size).expect("fits")];
    image.read_exact_at(&mut log, start).expect("reads");
    let mut found: Vec<(u64, u64, u64)> = Vec::new();
    for (number, block) in log.chunks(512).enumerate() {
        if be32(block, 0) == 0xfeed_babe && be32(block, 12) > 0 {
            found.push((be64(block, 16), start + number as u64 * 512, u64::from(be32(block, 12))));
        }
    }
    found.sort_unstable();
    found.into_iter().rev().map(|(_, offset, len)| (offset, len)).collect()
}

#[test]
fn a_log_whose_last_records_are_torn_ends_where_the_kernel_ends_it() {
    if !common::is_root() || !common::has_tool("mkfs.xfs") || !common::has_tool("xfs_io") {
        return common::skip("it needs root and the tools of XFS");
    }
    let temp = TempDir::new().expect("a folder");
    let (image, copy) = (temp.path().join("disk.img"), temp.path().join("copy.img"));
    let (torn, dir) = (temp.path().join("torn.img"), temp.path().join("mnt"));
    if !make_image(&image, 320 << 20, &["-l", "size=4096b"]) {
        return common::skip("this mkfs.xfs makes no small logs");
    }
    let mount = Mount::new(&image, &dir, "rw").expect("mounts");
    let mut numbers = Numbers(77);
    for step in 0..200 {
        do_something(mount.path(), &mut numbers);
        if step % 10 == 0 {
            fs::write(mount.path().join("marker"), format!("{step}")).expect("writes");
            run("xfs_io", &["-c", "fsync", text(&mount.path().join("marker"))]);
        }
    }
    run("xfs_io", &["-x", "-c", "shutdown -f", text(mount.path())]);
    drop(mount);
    let (mut opened, mut refused) = (0, 0);
    for case in 0..18_u64 {
        run("cp", &["--sparse=always", text(&image), text(&torn)]);
        let file = File::options().read(true).write(true).open(&torn).expect("opens");
        let records = records(&file);
        let (offset, len) = records[(case / 3 * 3) as usize];
        // A block of the record is as it was long ago, never was, or has a wrong byte.
        let at = offset + 512 + numbers.below(len.div_ceil(512)) * 512;
        match case % 3 {
            0 => file.write_all_at(&[0; 512], at).expect("writes"),
            1 => file.write_all_at(&[0xff], at + 300).expect("writes"),
            _ => file.write_all_at(&[0; 512], offset).expect("writes"),
        }
        drop(file);
        run("cp", &["--sparse=always", text(&torn), text(&copy)]);
        let ours = open(&torn);
        match Mount::replayed(&copy, &dir) {
            Some(mount) => {
                let filesystem = ours.unwrap_or_else(|error| panic!("case {case}: {error}"));
                compare(&filesystem, mount.path(), Except::default());
                opened += 1;
            }
            None => {
                let error = ours.err().unwrap_or_else(|| panic!("case {case}: the kernel refuses it"));
                assert_eq!(error.errno(), libc::EIO, "{error}");
                refused += 1;
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 5);
}
