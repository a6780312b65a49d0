//! The real tools and the kernel as the oracle: what the store leaves they recover, and the other way round.

use super::super::checksum::{SEED, crc32c};
use super::super::format::Checksums;
use super::super::superblock::making;
use super::super::{JournalPlace, Store, StoreOptions};
use super::recording::Random;
use super::skipping::{has_tool, is_root, skip, tool};
use crate::block::{BlockDevice, RawDevice};
use crate::bytes::{le32, set_le32};
use crate::cache::CachePool;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

const FORMATS: [(Checksums, bool); 7] = [
    (Checksums::None, false),
    (Checksums::None, true),
    (Checksums::V1, false),
    (Checksums::V2, false),
    (Checksums::V2, true),
    (Checksums::V3, false),
    (Checksums::V3, true),
];

fn run(program: &str, args: &[&str]) -> Output {
    let program = tool(program).expect("was looked for");
    Command::new("timeout").arg("60").arg(program).args(args).output().expect("runs")
}

fn succeed(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Says whether a tool is missing, and why the test is skipped then.
fn lacks_tools() -> bool {
    let missing = ["mke2fs", "debugfs", "e2fsck"].into_iter().find(|name| !has_tool(name));
    if let Some(missing) = missing {
        skip(&format!("{missing} is not installed"));
    }
    missing.is_some()
}

/// An ext4 filesystem with one large file, whose blocks stand for metadata.
struct Image {
    folder: TempDir,
    path: PathBuf,
    block_size: u32,
    place: JournalPlace,
    file: Vec<u64>,
}

impl Image {
    fn new(block_size: u32, features: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("a folder");
        let mut random = Random::new(u64::from(block_size));
        let bytes: Vec<u8> = (0..600 * block_size).map(|_| random.number() as u8).collect();
        fs::write(root.join("file"), bytes).expect("a file");
        let path = folder.path().join("image");
        let journal = format!("size={}", (1100 * block_size as usize).div_ceil(1 << 20));
        let size = format!("{}k", 8192 * block_size / 1024);
        succeed(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                &block_size.to_string(),
                "-O",
                features,
                "-J",
                &journal,
                "-d",
                text(&root),
                text(&path),
                &size,
            ],
        );
        let journal = blocks_of(&path, "<8>");
        let file = blocks_of(&path, "/file");
        let place = JournalPlace::new(journal.into_iter().map(|block| (block, 1)));
        Self { folder, path, block_size, place, file }
    }

    fn copy(&self, name: &str) -> PathBuf {
        let copy = self.folder.path().join(name);
        fs::copy(&self.path, &copy).expect("copies");
        copy
    }

    fn bytes_of(&self, path: &Path, block: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.block_size as usize];
        let device = RawDevice::open(path, false).expect("opens");
        device.read_at(&mut bytes, block * u64::from(self.block_size)).expect("reads");
        bytes
    }

    /// Gives the journal's superblock the features of a format.
    fn set_format(&self, checksums: Checksums, wide: bool) {
        let device = RawDevice::open(&self.path, true).expect("opens");
        let at = self.place.on_device(0).expect("the journal has blocks") * u64::from(self.block_size);
        let mut bytes = vec![0; 1024];
        device.read_at(&mut bytes, at).expect("reads");
        making::set_features(&mut bytes, checksums, wide);
        device.write_at(&bytes, at).expect("writes");
    }

    fn open(&self) -> Store {
        let device = Arc::new(RawDevice::open(&self.path, true).expect("opens"));
        let options = StoreOptions { commit_interval: Duration::from_secs(3600) };
        Store::open(device, self.block_size, Some(self.place.clone()), options, &CachePool::new(1 << 20))
            .expect("opens")
    }

    fn recover(&self, path: &Path) -> bool {
        let device = RawDevice::open(path, true).expect("opens");
        Store::recover(&device, self.block_size, &self.place).expect("recovers")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is text")
}

fn blocks_of(image: &Path, file: &str) -> Vec<u64> {
    let listed = succeed("debugfs", &["-R", &format!("blocks {file}"), text(image)]);
    listed.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

/// Sets or clears the ext4 superblock's flag that says that the journal must be recovered.
fn set_needs_recovery(image: &Path, needs: bool) {
    const INCOMPAT_AT: usize = 0x60;
    const RECOVER: u32 = 0x4;
    const RO_COMPAT_AT: usize = 0x64;
    const METADATA_CSUM: u32 = 0x400;
    const SUM_AT: usize = 0x3fc;
    let device = RawDevice::open(image, true).expect("opens");
    let mut bytes = vec![0; 1024];
    device.read_at(&mut bytes, 1024).expect("reads");
    let incompat = le32(&bytes, INCOMPAT_AT) & !RECOVER;
    set_le32(&mut bytes, INCOMPAT_AT, incompat | if needs { RECOVER } else { 0 });
    if le32(&bytes, RO_COMPAT_AT) & METADATA_CSUM != 0 {
        let sum = crc32c(SEED, &bytes[..SUM_AT]);
        set_le32(&mut bytes, SUM_AT, sum);
    }
    device.write_at(&bytes, 1024).expect("writes");
}

fn check_clean(image: &Path) {
    let output = run("e2fsck", &["-fn", text(image)]);
    let found = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "e2fsck: {found}");
}

/// Returns the numbers of the blocks in which two images differ.
fn differences(one: &Path, other: &Path, block_size: u32) -> Vec<u64> {
    let (one, other) = (fs::read(one).expect("reads"), fs::read(other).expect("reads"));
    assert_eq!(one.len(), other.len());
    let size = block_size as usize;
    let pairs = one.chunks(size).zip(other.chunks(size)).enumerate();
    pairs.filter(|(_, (one, other))| one != other).map(|(number, _)| number as u64).collect()
}

/// Writes random transactions to a file's blocks: changes, blocks that look like the journal's, and revoked blocks.
/// Returns what each block must hold after recovery; of a forgotten block, nothing is known.
fn work(image: &Image, store: &Store, rounds: u64, random: &mut Random) -> BTreeMap<u64, Vec<u8>> {
    let mut expected = BTreeMap::new();
    for _ in 0..rounds {
        let mut handle = store.begin(40).expect("begins");
        let tid = handle.tid();
        for _ in 0..30 {
            let number = image.file[random.below(image.file.len() as u64) as usize];
            if random.below(6) == 0 {
                handle.forget(number).expect("forgets");
                expected.remove(&number);
                continue;
            }
            let mut bytes = vec![random.number() as u8; image.block_size as usize];
            if random.below(5) == 0 {
                bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
            }
            if random.below(2) == 0 {
                handle.create(number, |new| new.copy_from_slice(&bytes)).expect("creates");
            } else {
                handle.modify(number, |old| old.copy_from_slice(&bytes)).expect("changes");
            }
            expected.insert(number, bytes);
        }
        drop(handle);
        if random.below(3) == 0 {
            store.commit_of(tid).expect("commits");
        }
    }
    store.commit().expect("commits");
    expected
}

fn filesystems() -> Vec<Image> {
    vec![Image::new(1024, "^metadata_csum,^64bit"), Image::new(4096, "metadata_csum,64bit")]
}

#[test]
fn e2fsck_recovers_what_the_store_committed_and_finds_a_closed_one_clean() {
    if lacks_tools() {
        return;
    }
    for image in filesystems() {
        for (number, (checksums, wide)) in FORMATS.into_iter().enumerate() {
            let what = format!("{checksums:?}, wide {wide}, blocks of {}", image.block_size);
            image.set_format(checksums, wide);
            let store = image.open();
            // The later ones are longer than the log.
            let expected = work(&image, &store, 12 + 9 * number as u64, &mut Random::new(number as u64));
            let (ours, theirs) = (image.copy("ours"), image.copy("theirs"));
            set_needs_recovery(&ours, true);
            set_needs_recovery(&theirs, true);
            assert!(image.recover(&ours), "{what}");
            let output = run("e2fsck", &["-y", "-E", "journal_only", text(&theirs)]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(matches!(output.status.code(), Some(0 | 1)), "{what}: {said}");
            for (block, bytes) in &expected {
                assert!(&image.bytes_of(&ours, *block) == bytes, "{what}: block {block} of ours");
                assert!(&image.bytes_of(&theirs, *block) == bytes, "{what}: block {block} of theirs");
            }
            let journal = image.place.on_device(0).expect("the journal has blocks");
            let superblock = 1024 / u64::from(image.block_size);
            let mut different = differences(&ours, &theirs, image.block_size);
            different.retain(|&block| block != journal && block != superblock);
            assert!(different.is_empty(), "{what}: {different:?}");
            store.close().expect("closes");
            drop(store);
            for (block, bytes) in &expected {
                assert!(&image.bytes_of(&image.path, *block) == bytes, "{what}: block {block}");
            }
            check_clean(&image.path);
        }
    }
}

#[test]
fn debugfs_lists_every_block_of_the_log() {
    if lacks_tools() {
        return;
    }
    let image = Image::new(1024, "^metadata_csum,^64bit");
    image.set_format(Checksums::V3, true);
    let store = image.open();
    for number in 0..3 {
        let mut handle = store.begin(2).expect("begins");
        handle.modify(image.file[number], |bytes| bytes.fill(1)).expect("changes");
        if number > 0 {
            handle.forget(image.file[number - 1]).expect("forgets");
        }
        drop(handle);
        store.commit().expect("commits");
    }
    let listed = succeed("debugfs", &["-R", "logdump -a", text(&image.path)]);
    let count = |what: &str| listed.matches(what).count();
    assert_eq!((count("type 1 (descriptor"), count("type 5 (revoke"), count("type 2 (commit")), (3, 2, 3), "{listed}");
    for number in 0..3 {
        assert!(listed.contains(&format!("FS block {} logged", image.file[number])), "{listed}");
    }
    store.close().expect("closes");
}

#[test]
fn a_journal_that_debugfs_wrote_is_recovered() {
    if lacks_tools() {
        return;
    }
    for image in filesystems() {
        for options in ["", "-c -v 2", "-c -v 3"] {
            // Without metadata_csum the sums are of version 1, whatever is asked for. There, debugfs sums revoke blocks,
            // too; nobody else does, e2fsck neither.
            let revokes = options.is_empty() || image.block_size == 4096;
            let copy = image.copy("copy");
            let blocks = image.folder.path().join("blocks");
            let mut bytes = vec![7; 2 * image.block_size as usize];
            bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
            fs::write(&blocks, &bytes).expect("writes");
            let file = &image.file;
            let revoke = if revokes { format!("jw -r {}\n", file[1]) } else { String::new() };
            let write = |options: &str, one, other| format!("jw {options} -b {one},{other} {}\n", text(&blocks));
            let script = [
                format!("jo {options}\n"),
                write("", file[0], file[1]),
                revoke,
                write("", file[2], file[3]),
                write("-c", file[4], file[5]),
                "jc\n".into(),
            ];
            let commands = image.folder.path().join("commands");
            fs::write(&commands, script.concat()).expect("writes");
            succeed("debugfs", &["-w", "-f", text(&commands), text(&copy)]);
            let before: Vec<Vec<u8>> = file[..6].iter().map(|&block| image.bytes_of(&copy, block)).collect();
            let second = bytes.split_off(image.block_size as usize);
            assert!(image.recover(&copy), "{options}");
            let after: Vec<Vec<u8>> = file[..6].iter().map(|&block| image.bytes_of(&copy, block)).collect();
            let expected =
                [&bytes, if revokes { &before[1] } else { &second }, &bytes, &second, &before[4], &before[5]];
            for number in 0..6 {
                assert!(&after[number] == expected[number], "{options}: block {number}");
            }
            set_needs_recovery(&copy, false);
            check_clean(&copy);
        }
    }
}

/// A filesystem that the kernel has mounted, on a loop device.
struct Mounted(PathBuf);

impl Mounted {
    fn new(image: &Path, folder: PathBuf) -> Option<Self> {
        fs::create_dir_all(&folder).expect("a folder");
        // Others may be taking loop devices at the same time.
        for _ in 0..5 {
            if run("mount", &["-t", "ext4", "-o", "loop", text(image), text(&folder)]).status.success() {
                return Some(Self(folder));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = run("umount", &[text(&self.0)]).status.success();
        assert!(done || std::thread::panicking(), "{} cannot be unmounted", self.0.display());
    }
}

#[test]
fn the_kernel_recovers_what_the_store_committed() {
    if lacks_tools() {
        return;
    }
    if !is_root() {
        return skip("only root mounts");
    }
    for image in filesystems() {
        for (checksums, wide) in [(Checksums::V1, false), (Checksums::V2, true), (Checksums::V3, true)] {
            image.set_format(checksums, wide);
            let store = image.open();
            let expected = work(&image, &store, 40, &mut Random::new(9));
            let theirs = image.copy("theirs");
            set_needs_recovery(&theirs, true);
            let Some(mounted) = Mounted::new(&theirs, image.folder.path().join("mounted")) else {
                return skip("the kernel mounts nothing here");
            };
            drop(mounted);
            for (block, bytes) in &expected {
                assert!(&image.bytes_of(&theirs, *block) == bytes, "{checksums:?}: block {block}");
            }
            check_clean(&theirs);
            store.close().expect("closes");
        }
    }
}

#[test]
fn a_journal_that_the_kernel_left_is_recovered_as_e2fsck_does() {
    if lacks_tools() {
        return;
    }
    if !is_root() {
        return skip("only root mounts");
    }
    for image in filesystems() {
        let folder = image.folder.path().join("mounted");
        let Some(mounted) = Mounted::new(&image.path, folder.clone()) else {
            return skip("the kernel mounts nothing here");
        };
        for number in 0..40 {
            let sub = folder.join(format!("folder {number}"));
            fs::create_dir(&sub).expect("a folder");
            fs::write(sub.join("a file"), vec![number; 5000]).expect("a file");
            if number % 3 == 2 {
                // A folder's block that is freed is revoked.
                fs::remove_dir_all(folder.join(format!("folder {}", number - 1))).expect("removes");
            }
            if number % 8 == 0 {
                fs::File::open(&sub).expect("opens").sync_all().expect("syncs");
            }
        }
        fs::File::open(&folder).expect("opens").sync_all().expect("syncs");
        let (ours, theirs) = (image.copy("ours"), image.copy("theirs"));
        drop(mounted);
        assert!(image.recover(&ours), "the journal was in use");
        let output = run("e2fsck", &["-y", "-E", "journal_only", text(&theirs)]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{}", String::from_utf8_lossy(&output.stdout));
        let journal = image.place.on_device(0).expect("the journal has blocks");
        let superblock = 1024 / u64::from(image.block_size);
        let mut different = differences(&ours, &theirs, image.block_size);
        different.retain(|&block| block != journal && block != superblock);
        assert!(different.is_empty(), "{different:?}");
        set_needs_recovery(&ours, false);
        check_clean(&ours);
    }
}

#[test]
fn fast_commits_that_wait_are_refused_by_name() {
    if lacks_tools() {
        return;
    }
    let image = Image::new(1024, "^metadata_csum,^64bit");
    let device = RawDevice::open(&image.path, true).expect("opens");
    let at = image.place.on_device(0).expect("the journal has blocks") * 1024;
    let mut bytes = vec![0; 1024];
    device.read_at(&mut bytes, at).expect("reads");
    making::set_fast_commits(&mut bytes, 50);
    device.write_at(&bytes, at).expect("writes");
    let blocks = u32::try_from(image.place.blocks()).expect("a small journal");
    let store = image.open();
    let expected = work(&image, &store, 100, &mut Random::new(4));
    let copy = image.copy("copy");
    let area = image.place.on_device(blocks - 49).expect("the journal has blocks");
    assert!(image.bytes_of(&copy, area).iter().all(|&byte| byte == 0), "the log leaves their area alone");
    let mut journal = vec![0; 1024];
    let device = RawDevice::open(&copy, true).expect("opens");
    device.read_at(&mut journal, at).expect("reads");
    // The number of the transaction that would follow: of those in the log, one block has the greatest.
    let last = (1..blocks - 50)
        .map(|block| image.bytes_of(&copy, image.place.on_device(block).expect("inside")))
        .filter(|block| block.starts_with(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2]))
        .map(|block| crate::bytes::be32(&block, 8))
        .max()
        .expect("there is a transaction");
    let mut head = vec![9, 0, 8, 0, 0, 0, 0, 0];
    head.extend_from_slice(&(last + 1).to_le_bytes());
    device.write_at(&head, area * 1024).expect("writes");
    let error = Store::recover(&device, 1024, &image.place).expect_err("a fast commit waits");
    assert!(matches!(error, crate::Error::Unsupported(_)), "{error}");
    device.write_at(&[0; 12], area * 1024).expect("writes");
    assert!(image.recover(&copy));
    for (block, bytes) in &expected {
        assert!(&image.bytes_of(&copy, *block) == bytes, "block {block}");
    }
}
