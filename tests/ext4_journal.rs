//! Images whose journal was not replayed: the ext4 driver replays in memory what the kernel replays on the device.

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod images;
#[path = "common/recording.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod recording;

use compare::{Options, compare_with_folder};
use guestctl::block::{MemoryDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::ext4::Ext4;
use guestctl::fs::{Filesystem, FilesystemWrite, FsOptions};
use images::{Mount, can_mount, make, noise, open, populate};
use recording::RecordingDevice;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

pub use common::{has_tool, is_root, skip, tool};

fn fsync(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("syncs");
}

/// Changes a mounted filesystem in steps, each of them committed, so that the log holds blocks that later ones replace or
/// revoke.
fn be_busy(folder: &Path) {
    populate(folder, 300, 40, 4096);
    fsync(folder);
    for round in 0..6_u32 {
        let work = folder.join(format!("round {round}"));
        fs::create_dir(&work).expect("makes");
        for number in 0..150 {
            fs::write(work.join(format!("file {number}")), noise(100 * number, round)).expect("writes");
        }
        fsync(&work);
        if round >= 2 {
            // Freed directory blocks are revoked, and may hold data later.
            fs::remove_dir_all(folder.join(format!("round {}", round - 2))).expect("removes");
        }
        let mut magic = vec![0xc0, 0x3b, 0x39, 0x98];
        magic.extend(noise(9000, round));
        fs::write(folder.join(format!("like a journal block {round}")), &magic).expect("writes");
        fsync(&folder.join(format!("like a journal block {round}")));
    }
    fs::rename(folder.join("odd"), folder.join("renamed")).expect("renames");
    fs::remove_file(folder.join("large")).expect("removes");
    fsync(folder);
}

/// Copies an image while the kernel has it mounted; returns two copies.
fn copies(folder: &TempDir, image: &Path) -> (PathBuf, PathBuf) {
    let (ours, theirs) = (folder.path().join("ours"), folder.path().join("theirs"));
    fs::copy(image, &ours).expect("copies");
    fs::copy(&ours, &theirs).expect("copies");
    (ours, theirs)
}

/// Expects that every directory has a link from each subdirectory, and two of its own.
fn expect_links(fs: &dyn Filesystem, dir: u64) {
    let entries = compare::list(fs, dir, usize::MAX).expect("lists");
    let mut links = 2;
    for (_, ino, file_type) in entries {
        if file_type == Some(guestctl::fs::FileType::Directory) {
            links += 1;
            expect_links(fs, ino);
        }
    }
    assert_eq!(fs.attr(dir).expect("attributes").nlink, links, "links of directory {dir}");
}

fn compare_dirty(
    args: &[&str],
    mount_options: &str,
    options: &Options,
    change: impl FnOnce(&Path),
) -> Option<Vec<String>> {
    if !can_mount() {
        return None;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 96, args);
    let mount = match Mount::try_new(&image, mount_options) {
        Ok(mount) => mount,
        Err(error) => {
            skip(&format!("this kernel does not mount with {mount_options}: {error}"));
            return None;
        }
    };
    change(&mount.path);
    let (ours, theirs) = copies(&folder, &image);
    drop(mount);
    // The kernel replays on a writable device only.
    drop(Mount::new(&theirs, "rw"));
    let mount = Mount::new(&theirs, "ro");
    let before = fs::read(&ours).expect("reads");
    let fs = open(&ours);
    compare_with_folder(&fs, &mount.path, options).expect_same();
    expect_links(&fs, fs.root());
    assert!(fs::read(&ours).expect("reads") == before, "the image was written");
    println!("{:?}", fs.info().warnings);
    drop(mount);
    expect_same_once_written(&ours, &theirs, options);
    Some(fs.info().warnings.clone())
}

/// Opens a filesystem for writing, which replays on the device: it then shows what the kernel shows, e2fsck finds no fault,
/// and so it is after a crash at any time meanwhile.
fn expect_same_once_written(image: &Path, kernel: &Path, options: &Options) {
    // The kernel's own answers change with what its page cache holds, so each comparison has a mount of its own.
    let compare = |fs: &dyn Filesystem| compare_with_folder(fs, &Mount::new(kernel, "ro").path, options).expect_same();

    let written = image.with_extension("written");
    fs::copy(image, &written).expect("copies");
    let fs = images::open_for_writing(&written);
    compare(&fs);
    fs.close().expect("closes");
    drop(fs);
    images::check_clean(&written);
    compare(&open(&written));
    let device = Arc::new(RecordingDevice::new(fs::read(image).expect("reads")));
    let cache = CachePool::new(16 << 20);
    let fs = Ext4::open_for_writing(device.clone(), &FsOptions { cache: cache.clone() }).expect("opens");
    fs.close().expect("closes");
    let events = device.events();
    let step = (events / 8).max(1);
    for count in (0..=events).step_by(step) {
        let crashed: SharedDevice = Arc::new(MemoryDevice::new(device.image_with_reordering(count, count as u64)));
        let fs = Ext4::open(crashed.clone(), &FsOptions { cache: cache.clone() }).expect("opens");
        compare(&fs);
        drop(fs);
        let fs = Ext4::open_for_writing(crashed, &FsOptions { cache: cache.clone() }).expect("opens");
        compare(&fs);
        fs.close().expect("closes");
    }
}

fn expect_replayed(warnings: Option<Vec<String>>, what: &str) {
    if let Some(warnings) = warnings {
        assert!(warnings.iter().any(|warning| warning.contains(what)), "{warnings:?}");
    }
}

#[test]
fn a_dirty_journal_reads_as_after_the_kernels_replay() {
    let warnings = compare_dirty(&["-t", "ext4", "-J", "size=16"], "rw", &Options::default(), be_busy);
    expect_replayed(warnings, "transactions of its journal were replayed");
}

#[test]
fn a_dirty_journal_that_holds_file_contents_reads_as_after_the_kernels_replay() {
    let warnings =
        compare_dirty(&["-t", "ext4", "-b", "1024", "-J", "size=32"], "rw,data=journal", &Options::default(), be_busy);
    expect_replayed(warnings, "transactions of its journal were replayed");
}

#[test]
fn a_dirty_ext3_journal_without_checksums_reads_as_after_the_kernels_replay() {
    let args = ["-t", "ext3", "-I", "256", "-J", "size=16"];
    let warnings = compare_dirty(&args, "rw,data=journal", &Options::default(), be_busy);
    expect_replayed(warnings, "transactions of its journal were replayed");
}

#[test]
fn a_dirty_journal_with_checksums_of_version_1_reads_as_after_the_kernels_replay() {
    let args = ["-t", "ext4", "-O", "^metadata_csum,^64bit", "-J", "size=16"];
    let warnings = compare_dirty(&args, "rw,journal_checksum", &Options::default(), be_busy);
    expect_replayed(warnings, "transactions of its journal were replayed");
}

#[test]
fn a_dirty_journal_with_asynchronous_commits_reads_as_after_the_kernels_replay() {
    let args = ["-t", "ext4", "-J", "size=16"];
    let warnings =
        compare_dirty(&args, "rw,data=writeback,journal_async_commit,journal_checksum", &Options::default(), be_busy);
    expect_replayed(warnings, "transactions of its journal were replayed");
}

#[test]
fn fast_commits_read_as_after_the_kernels_replay() {
    // The kernel's replay gives directories the time of the replay, blocks of their own, and counts of links that e2fsck
    // corrects.
    let options = Options { dir_times: false, dir_sizes: false, dir_links: false, ..Options::default() };
    let args = ["-t", "ext4", "-O", "fast_commit", "-J", "size=16"];
    let warnings = compare_dirty(&args, "rw", &options, |folder| {
        let kept = folder.join("kept");
        fs::create_dir(&kept).expect("makes");
        for number in 0..40 {
            fs::write(kept.join(format!("old {number}")), noise(5000, number)).expect("writes");
        }
        let lost = folder.join("to be removed");
        fs::create_dir(&lost).expect("makes");
        let grown = folder.join("grown");
        fs::write(&grown, noise(50_000, 1)).expect("writes");
        // A full commit comes first.
        nix::unistd::syncfs(File::open(folder).expect("opens")).expect("syncs");
        for number in 0..10 {
            let path = kept.join(format!("new {number}"));
            fs::write(&path, noise(3000 * number as usize, number)).expect("writes");
            fsync(&path);
        }
        fs::write(&grown, noise(90_000, 2)).expect("writes");
        fsync(&grown);
        let file = File::options().write(true).open(&grown).expect("opens");
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(8000, 3), 500_000).expect("writes");
        file.sync_all().expect("syncs");
        fs::remove_file(kept.join("old 3")).expect("removes");
        fs::rename(kept.join("old 4"), kept.join("renamed")).expect("renames");
        fs::rename(kept.join("old 5"), kept.join("old 6")).expect("renames");
        fs::hard_link(kept.join("old 7"), kept.join("linked")).expect("links");
        fs::write(kept.join("new 4"), b"short now").expect("writes");
        fsync(&kept.join("new 4"));
        let made = folder.join("made");
        fs::create_dir(&made).expect("makes");
        fs::write(made.join("inside"), b"inside").expect("writes");
        fsync(&made.join("inside"));
        let deeper = made.join("deeper");
        fs::create_dir(&deeper).expect("makes");
        fs::rename(kept.join("old 8"), deeper.join("moved")).expect("renames");
        fs::remove_file(kept.join("new 1")).expect("removes");
        fs::write(kept.join("new 1"), b"new again").expect("writes");
        let shorter = File::options().write(true).open(kept.join("old 9")).expect("opens");
        shorter.set_len(4096 + 100).expect("shortens");
        fs::remove_dir(&lost).expect("removes");
        // To sync a directory would be a full commit, which makes the fast ones obsolete.
        fsync(&deeper.join("moved"));
    });
    expect_replayed(warnings, "fast commit records");
}

/// Reads every name, attribute and file of a tree; errors are as good as answers.
fn visit(fs: &dyn Filesystem, dir: u64, depth: usize) {
    let mut names = Vec::new();
    let _ = fs.read_dir(dir, 0, &mut |entry| {
        names.push((entry.name.to_vec(), entry.ino));
        if names.len() < 500 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
    });
    for (name, ino) in names {
        let _ = fs.lookup(dir, &name);
        let _ = fs.read(ino, 0, &mut [0; 5000]);
        let _ = fs.xattrs(ino);
        if depth > 0 && fs.attr(ino).is_ok_and(|attr| attr.is_dir()) {
            visit(fs, ino, depth - 1);
        }
    }
}

#[test]
fn flipped_bits_in_a_dirty_journal_give_errors_at_worst() {
    use guestctl::block::BlockDevice;

    if !can_mount() {
        return;
    }
    let variants: [(&[&str], &str, bool); 3] = [
        (&["-t", "ext3", "-b", "1024", "-J", "size=2"], "rw,data=journal", false),
        (&["-t", "ext4", "-b", "1024", "-J", "size=2"], "rw", false),
        (&["-t", "ext4", "-b", "1024", "-O", "fast_commit,^metadata_csum", "-J", "size=4"], "rw", true),
    ];
    for (args, mount_options, has_fast_commits) in variants {
        let folder = TempDir::new().expect("a folder");
        let image = folder.path().join("image");
        make(&image, 12, args);
        let mount = Mount::new(&image, mount_options);
        fs::create_dir(mount.path.join("a")).expect("makes");
        nix::unistd::syncfs(File::open(&mount.path).expect("opens")).expect("syncs");
        for number in 0..30 {
            let path = mount.path.join(format!("a/file {number}"));
            fs::write(&path, noise(number * 99, 1)).expect("writes");
            fsync(&path);
            if number % 4 == 3 {
                fs::remove_file(mount.path.join(format!("a/file {}", number - 2))).expect("removes");
            }
        }
        let bytes = fs::read(&image).expect("reads");
        drop(mount);
        let magic = [0xc0, 0x3b, 0x39, 0x98];
        let is_fast = |block: &[u8]| block[..4] == [9, 0, 8, 0] || (1..=8).contains(&block[0]) && block[1] == 0;
        let blocks: Vec<usize> = (2000..bytes.len() / 1024)
            .chain(30..2000)
            .filter(|at| {
                let block = &bytes[at * 1024..][..1024];
                block[..4] == magic || has_fast_commits && is_fast(block)
            })
            .collect();
        assert!(blocks.len() > 5, "no journal was found");
        let device = Arc::new(MemoryDevice::new(bytes.clone()));
        let mut state = 7_u32;
        let mut next = |limit: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((u64::from(state >> 4) * limit as u64) >> 28) as usize
        };
        let mut opened = 0;
        for round in 0..600 {
            let mut touched = Vec::new();
            for _ in 0..1 + next(3) {
                let reach = [40, 200, 1024][next(3)];
                let at = blocks[next(blocks.len())] * 1024 + next(reach);
                let value = [0, 1, 0x80, 0xff, bytes[at] ^ 1][next(5)];
                device.write_at(&[value], at as u64).expect("writes");
                touched.push(at);
            }
            let began = std::time::Instant::now();
            if let Ok(fs) = images::open_device(device.clone()) {
                opened += 1;
                visit(&fs, fs.root(), 3);
            }
            if round % 4 == 0 {
                let copy = Arc::new(MemoryDevice::new(device.to_vec()));
                let options = FsOptions { cache: CachePool::new(16 << 20) };
                let _ = Ext4::open_for_writing(copy, &options).and_then(|fs| {
                    visit(&fs, fs.root(), 3);
                    fs.close()
                });
            }
            assert!(began.elapsed().as_secs() < 10);
            for at in touched {
                device.write_at(&bytes[at..=at], at as u64).expect("writes");
            }
        }
        println!("{opened} of 600 opened");
        assert!(images::open_device(device).is_ok());
    }
}
