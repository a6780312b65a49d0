//! Crashes of the ext4 writer: at every write, and with the writes since the last flush in any order, what a crash leaves
//! is recovered, sound, and has all that was made durable.

#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "this program makes images and no more")]
mod ext4;
#[path = "common/ext4_model.rs"]
#[allow(dead_code, reason = "the model is not compared here")]
mod model;
#[path = "common/recording.rs"]
#[allow(dead_code, reason = "only crashes are simulated here")]
mod recording;
#[path = "common/mod.rs"]
mod shared;

use guestctl::block::{MemoryDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::ext4::{Ext4, Ext4Writer};
use guestctl::fs::write::{Credentials, RenameMode, SetAttr};
use guestctl::fs::{FileType, Filesystem, FilesystemWrite, FsOptions, Ino};
use model::{Choices, Model};
use recording::{Random, RecordingDevice};
use shared::{has_tool, is_root, skip, tool};
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

const WHO: Credentials = Credentials { uid: 0, gid: 0, umask: 0o022 };

fn open(device: SharedDevice) -> guestctl::Result<Ext4Writer> {
    Ext4::open_for_writing(device, &FsOptions { cache: CachePool::new(16 << 20) })
}

/// Has e2fsck look at an image, which must find nothing to say.
fn check(folder: &Path, name: &str, image: &[u8]) {
    let path = folder.join(name);
    fs::write(&path, image).expect("an image can be written");
    let program = tool("e2fsck").expect("e2fsck comes with mke2fs");
    let output = Command::new("timeout").arg("60").arg(program).arg("-fn").arg(&path).output().expect("e2fsck runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut said = text.lines().filter(|line| !line.starts_with("Pass ") && !line.contains(" files ("));
    assert!(output.status.code() == Some(0) && said.next().is_none(), "e2fsck after {name}: {text}");
    fs::remove_file(&path).expect("it is there");
}

fn contents(number: u64) -> Vec<u8> {
    let mut random = Random::new(number + 1);
    let len = 100 + random.below(9000) as usize;
    (0..len).map(|_| random.number() as u8).collect()
}

/// What was durable after some writes and flushes.
enum Durable {
    /// A file with contents of its own, which has one of two names.
    File { number: u64 },
    /// The file that is replaced again and again has at least this version.
    Version { number: u64 },
    /// A folder is gone.
    Gone { number: u64 },
}

/// Does a workload that touches every operation; returns what was durable when.
fn work(device: &Arc<RecordingDevice>, rounds: u64, has_extents: bool, xattr_size: u64) -> Vec<(usize, Durable)> {
    let fs = open(Arc::clone(device) as SharedDevice).expect("it can be written");
    let choices = Choices { max_size: 200 << 10, has_extents, xattr_size, may_fill: true };
    let root = fs.root();
    let random = fs.mkdir(root, b"random", 0o755, &WHO).expect("a folder").ino;
    let mut model = Model::below(&fs, random, 99, choices);
    let folder = fs.mkdir(root, b"durable", 0o755, &WHO).expect("a folder").ino;
    let other = fs.mkdir(root, b"other", 0o755, &WHO).expect("a folder").ino;
    fs.sync().expect("it can be made durable");
    let mut durable = Vec::new();
    for round in 0..rounds {
        for _ in 0..25 {
            model.step(&fs);
        }
        let data = contents(round);
        let name = format!("f{round}").into_bytes();
        let made = fs.create(folder, &name, FileType::Regular, 0o644, (0, 0), &WHO);
        let Ok(made) = made else { continue };
        if fs.write(made.ino, 0, &data, true).ok() != Some(data.len()) {
            continue;
        }
        match round % 4 {
            0 => {
                fs.fsync(made.ino, false).expect("fsync");
                durable.push((device.events(), Durable::File { number: round }));
                // It is there under one name or the other from now on.
                let _ = fs.rename(folder, &name, other, format!("g{round}").as_bytes(), RenameMode::Replace);
            }
            1 => {
                // The way that programs save: written beside, made durable, moved over the old one.
                fs.fsync(made.ino, false).expect("fsync");
                if fs.rename(folder, &name, folder, b"saved", RenameMode::Replace).is_ok() {
                    fs.fsync(made.ino, false).expect("fsync");
                    durable.push((device.events(), Durable::Version { number: round }));
                }
            }
            2 => {
                let name = format!("d{round}").into_bytes();
                if fs.mkdir(folder, &name, 0o755, &WHO).is_ok() && fs.rmdir(folder, &name).is_ok() {
                    fs.sync().expect("sync");
                    durable.push((device.events(), Durable::Gone { number: round }));
                }
            }
            _ => {
                let set = SetAttr { size: Some(50), ..SetAttr::default() };
                let _ = fs.set_attr(made.ino, &set);
                let _ = fs.unlink(folder, &name);
            }
        }
    }
    model.close_all(&fs);
    fs.close().expect("it can be closed");
    durable
}

/// Reads all there is below a folder.
fn walk(fs: &dyn Filesystem, dir: Ino, depth: usize) {
    assert!(depth < 100, "folders lie too deep");
    let mut entries = Vec::new();
    fs.read_dir(dir, 0, &mut |entry| {
        entries.push((entry.name.to_vec(), entry.ino));
        ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("folder {dir}: {error}"));
    for (name, ino) in entries {
        let attr = fs.lookup(dir, &name).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(&name)));
        assert_eq!(attr.ino, ino);
        fs.xattrs(ino).expect("attributes can be read");
        match attr.file_type {
            FileType::Directory => walk(fs, ino, depth + 1),
            FileType::Symlink => {
                fs.read_link(ino).expect("a link can be read");
            }
            FileType::Regular => {
                let mut bytes = vec![0; attr.size as usize];
                assert_eq!(fs.read(ino, 0, &mut bytes).expect("a file can be read"), bytes.len());
            }
            _ => {}
        }
    }
}

fn read_file(fs: &dyn Filesystem, dir: Ino, name: &[u8]) -> Option<Vec<u8>> {
    let attr = fs.lookup(dir, name).ok()?;
    let mut bytes = vec![0; attr.size as usize];
    fs.read(attr.ino, 0, &mut bytes).expect("a file can be read");
    Some(bytes)
}

/// Recovers what a crash left, and checks it; returns the image after closing.
fn recover(image: Vec<u8>, durable: &[(usize, Durable)], events: usize) -> Vec<u8> {
    let device = Arc::new(MemoryDevice::new(image));
    let fs = open(Arc::clone(&device) as SharedDevice).unwrap_or_else(|error| panic!("after {events} events: {error}"));
    let root = fs.root();
    walk(&fs, root, 0);
    let mut newest = None;
    for (at, what) in durable.iter().filter(|(at, _)| *at <= events) {
        let folder = fs.lookup(root, b"durable").expect("a durable folder").ino;
        let other = fs.lookup(root, b"other").expect("a durable folder").ino;
        match what {
            Durable::File { number } => {
                let name = format!("f{number}");
                let found = read_file(&fs, folder, name.as_bytes());
                let moved = read_file(&fs, other, format!("g{number}").as_bytes());
                assert!(
                    found.is_some() != moved.is_some(),
                    "{name} of event {at} has both names, or none, at {events}"
                );
                let found = found.or(moved);
                assert!(found == Some(contents(*number)), "{name} of event {at} has other contents at {events}");
            }
            Durable::Version { number } => newest = Some(*number),
            Durable::Gone { number } => {
                assert!(fs.lookup(folder, format!("d{number}").as_bytes()).is_err(), "a removed folder is back");
            }
        }
    }
    if let Some(newest) = newest {
        let folder = fs.lookup(root, b"durable").expect("a durable folder").ino;
        let found = read_file(&fs, folder, b"saved").expect("the saved file");
        let is_version = (newest..).take(10).any(|number| contents(number) == found);
        assert!(is_version, "the saved file is older than version {newest}, or none, at {events}");
    }
    fs.close().expect("it can be closed");
    drop(fs);
    device.to_vec()
}

/// Crashes a workload on an image made with `args`, and recovers it.
fn crash(name: &str, args: &[&str], rounds: u64, step: usize, reorderings: usize) {
    if !ext4::has_tools() || !has_tool("e2fsck") {
        return skip("e2fsprogs is missing");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("base.img");
    ext4::make(&path, 6, args);
    let device = Arc::new(RecordingDevice::new(fs::read(&path).expect("the image")));
    let durable = work(&device, rounds, name != "ext3", if name == "ea_inode" { 6000 } else { 700 });
    let events = device.events();
    let (recovered, checked) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let every = (events / step + reorderings).div_ceil(150);
    let one = |image: Vec<u8>, at: usize| {
        let image = recover(image, &durable, at);
        if recovered.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            let number = checked.fetch_add(1, Ordering::Relaxed);
            check(folder.path(), &format!("event-{at}-{number}"), &image);
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (one, device) = (&one, &device);
            scope.spawn(move || {
                for at in (0..=events).step_by(step).skip(thread).step_by(2) {
                    one(device.image_at(at), at);
                }
                let mut random = Random::new(thread as u64 + 5);
                for seed in 0..reorderings as u64 / 2 {
                    let at = random.below(events as u64 + 1) as usize;
                    one(device.image_with_reordering(at, seed), at);
                }
            });
        }
    });
    println!(
        "{name}: {events} writes and flushes; {} crashes recovered, {} looked at by e2fsck",
        recovered.into_inner(),
        checked.into_inner()
    );
}

#[test]
fn crashes_of_ext4_lose_nothing_that_was_durable() {
    crash("ext4", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-N", "256"], 70, 1, 2000);
}

#[test]
fn crashes_of_ext4_with_an_orphan_file_lose_nothing_that_was_durable() {
    crash("orphan_file", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "orphan_file", "-N", "256"], 24, 1, 600);
}

#[test]
fn crashes_of_ext3_lose_nothing_that_was_durable() {
    crash("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=1", "-N", "256"], 24, 1, 600);
}

#[test]
fn crashes_of_ext4_with_clusters_lose_nothing_that_was_durable() {
    let args = ["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "bigalloc", "-C", "4096", "-N", "256"];
    crash("bigalloc", &args, 16, 2, 300);
}

#[test]
fn crashes_of_ext4_with_inline_data_lose_nothing_that_was_durable() {
    let args = ["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "inline_data", "-N", "256"];
    crash("inline_data", &args, 16, 2, 300);
}

#[test]
fn crashes_of_ext4_with_values_in_inodes_lose_nothing_that_was_durable() {
    crash("ea_inode", &["-t", "ext4", "-b", "1024", "-J", "size=1", "-O", "ea_inode", "-N", "256"], 16, 2, 300);
}
