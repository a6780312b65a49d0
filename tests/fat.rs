//! FAT filesystems that mkfs.fat and mtools made, read back, and what hostile ones do.

mod common;

use guestctl::block::{BlockDevice, MemoryDevice, RawDevice, SharedDevice};
use guestctl::bytes::{le16, le32};
use guestctl::cache::CachePool;
use guestctl::fs::fat::Fat;
use guestctl::fs::{Attr, FileType, Filesystem, FsOptions, Ino, OpenWith};
use guestctl::{Error, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// 2001-09-09 01:46:40, a second that DOS has.
const MODIFIED: u64 = 1_000_000_000;

/// The formats that are tried, each as size in MiB and options of mkfs.fat.
const FORMATS: &[(u64, &[&str])] = &[
    (4, &["-F", "12"]),
    (30, &["-F", "12", "-S", "4096", "-r", "1024"]),
    (40, &["-F", "16"]),
    (30, &["-F", "16", "-s", "1", "-f", "1", "-R", "9"]),
    (300, &["-F", "16", "-S", "4096"]),
    (40, &["-F", "32", "-s", "1"]),
    (300, &["-F", "32", "-S", "4096"]),
    (600, &["-F", "32", "-s", "8", "-b", "12"]),
];

struct Image {
    folder: TempDir,
    path: PathBuf,
}

impl Image {
    fn new(size: u64, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("makes a folder");
        let path = folder.path().join("fat.img");
        File::create(&path).expect("creates").set_len(size).expect("grows");
        std::fs::write(folder.path().join("mtoolsrc"), "default_codepage=437\nmtools_skip_check=1\n").expect("writes");
        let image = Self { folder, path };
        let mut arguments = options.to_vec();
        arguments.push(image.path.to_str().expect("text"));
        image.run("mkfs.fat", &arguments);
        image
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args(["60", common::tool(program).expect("checked").to_str().expect("text")])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("MTOOLSRC", self.path("mtoolsrc"))
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {text} {errors}");
        text
    }

    /// Runs a program of mtools on the image.
    fn mtools(&self, program: &str, arguments: &[&str]) -> String {
        let mut all = vec!["-i", self.path.to_str().expect("text")];
        all.extend(arguments);
        self.run(program, &all)
    }

    /// Copies what a folder holds into the image's root, times and all.
    fn fill(&self, source: &Path) {
        let mut files: Vec<String> = std::fs::read_dir(source)
            .expect("reads")
            .map(|entry| entry.expect("reads").path().to_str().expect("text").to_owned())
            .collect();
        files.sort();
        let mut arguments = vec!["-s", "-m", "-Q"];
        arguments.extend(files.iter().map(String::as_str));
        arguments.push("::");
        self.mtools("mcopy", &arguments);
    }

    fn check(&self) {
        self.run("fsck.fat", &["-n", self.path.to_str().expect("text")]);
    }

    fn open(&self) -> Fat {
        open(Arc::new(RawDevice::open(&self.path, false).expect("opens"))).expect("opens")
    }
}

fn options() -> FsOptions {
    FsOptions { cache: CachePool::new(16 << 20) }
}

fn open(device: SharedDevice) -> Result<Fat> {
    Fat::open(device, &options())
}

/// Says whether the programs are there, and skips otherwise.
fn have_tools() -> bool {
    let missing = ["mkfs.fat", "fsck.fat", "mcopy", "minfo"].into_iter().find(|program| !common::has_tool(program));
    if let Some(program) = missing {
        common::skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

fn list(fat: &Fat, dir: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
    let mut names = Vec::new();
    fat.read_dir(dir, 0, &mut |entry| {
        names.push((entry.name.to_vec(), entry.ino));
        ControlFlow::Continue(())
    })?;
    Ok(names)
}

fn read_all(fat: &Fat, attr: &Attr) -> Result<Vec<u8>> {
    let mut bytes = vec![0; attr.size as usize];
    let count = fat.read(attr.ino, 0, &mut bytes)?;
    assert_eq!(count, bytes.len());
    Ok(bytes)
}

fn find(fat: &Fat, path: &str) -> Result<Attr> {
    let mut attr = fat.attr(fat.root())?;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        attr = fat.lookup(attr.ino, name.as_bytes())?;
    }
    Ok(attr)
}

/// Bytes that are the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers(seed | 1);
    (0..len).map(|_| numbers.next(256) as u8).collect()
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % limit as u64) as usize
    }
}

/// Makes a tree with what is special about FAT in it.
fn plant(root: &Path) {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("makes folders");
        std::fs::write(path, bytes).expect("writes");
    };
    write("README.TXT", b"short and in upper case");
    write("lower.txt", b"short and in lower case");
    write("UPPER.low", b"mixed by parts");
    write("Mixed.Case", b"long by its case");
    write("empty", b"");
    write("no extension", b"x");
    write("a.name.with.dots.txt", b"dots");
    write("exactly13char", b"one whole piece");
    write("exactly twenty-six charact", b"two whole pieces");
    write(&"n".repeat(255), b"the longest name there is");
    write("Größe ∞ äöü.text", "ü".as_bytes());
    write("日本語のファイル名.txt", b"three bytes each");
    write("ÜBER.TXT", b"in the code page");
    write("one cluster.bin", &noise(1, 512));
    write("one more byte.bin", &noise(2, 4097));
    write("large.bin", &noise(3, 700_001));
    write("sub/another/third/file.bin", &noise(4, 10_000));
    write("sub/another/README.TXT", b"again");
    std::fs::create_dir_all(root.join("an empty folder")).expect("makes a folder");
    let deep = (0..30).map(|level| format!("level {level}")).collect::<Vec<_>>().join("/");
    write(&format!("deep/{deep}/bottom"), b"down here");
    for number in 0..300 {
        write(&format!("many/file with the number {number}.txt"), format!("{number}").as_bytes());
    }
    set_times(root);
}

fn set_times(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("reads") {
        let path = entry.expect("reads").path();
        if path.is_dir() {
            set_times(&path);
        }
        let seconds = MODIFIED + 2 * path.to_str().expect("text").len() as u64;
        let file = File::open(&path).expect("opens");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("sets");
    }
}

/// Holds a directory, and all that is below it, against a folder; returns how many inodes there are.
fn compare(fat: &Fat, dir: Ino, folder: &Path) -> usize {
    let expected: BTreeMap<Vec<u8>, PathBuf> = std::fs::read_dir(folder)
        .expect("reads")
        .map(|entry| entry.expect("reads"))
        .map(|entry| (entry.file_name().into_encoded_bytes(), entry.path()))
        .collect();
    let found: BTreeMap<Vec<u8>, Ino> = list(fat, dir).expect("lists").into_iter().collect();
    let text =
        |names: Vec<&Vec<u8>>| names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>();
    assert_eq!(text(found.keys().collect()), text(expected.keys().collect()));
    let mut count = found.len();
    for (name, path) in &expected {
        let attr = fat.lookup(dir, name).expect("found");
        assert_eq!(attr.ino, found[name]);
        assert_eq!(fat.attr(attr.ino).expect("is there"), attr);
        let is_ascii = name.is_ascii();
        let upper = if is_ascii { name.to_ascii_uppercase() } else { name.clone() };
        assert_eq!(fat.lookup(dir, &upper).expect("found in any case").ino, attr.ino);
        let metadata = path.metadata().expect("is there");
        assert_eq!((attr.uid, attr.gid, attr.permissions), (0, 0, 0o755));
        if metadata.is_dir() {
            assert_eq!(attr.file_type, FileType::Directory);
            assert_eq!(u64::from(attr.nlink), metadata.nlink(), "{path:?}");
            assert_eq!(fat.parent(attr.ino).expect("has one"), dir);
            count += compare(fat, attr.ino, path);
        } else {
            assert_eq!(attr.file_type, FileType::Regular);
            assert_eq!((attr.size, attr.nlink), (metadata.len(), 1));
            assert_eq!((attr.mtime.seconds, attr.mtime.nanoseconds), (metadata.mtime(), 0), "{path:?}");
            assert_eq!(attr.ctime, attr.mtime);
            assert_eq!(attr.blocks, attr.size.next_multiple_of(u64::from(fat.info().block_size)) / 512);
            let whole = std::fs::read(path).expect("reads");
            assert!(read_all(fat, &attr).expect("reads") == whole, "{path:?} differs");
            for offset in [1, 511, 512, 4095, 5000, whole.len().saturating_sub(1), whole.len(), whole.len() + 1] {
                let mut part = vec![0; 3000];
                let count = fat.read(attr.ino, offset as u64, &mut part).expect("reads");
                assert_eq!(&part[..count], whole.get(offset..(offset + 3000).min(whole.len())).unwrap_or_default());
            }
        }
    }
    count
}

#[test]
fn a_tree_is_read_as_mtools_wrote_it() {
    if !have_tools() {
        return;
    }
    let source = tempfile::tempdir().expect("makes a folder");
    plant(source.path());
    for (size, options) in FORMATS {
        let mut options = options.to_vec();
        options.extend(["-n", "SOME LABEL", "-i", "1234abcd"]);
        let image = Image::new(size * MIB, &options);
        image.fill(source.path());
        image.check();
        let fat = image.open();
        let inodes = compare(&fat, fat.root(), source.path());
        assert!(inodes > 350, "{inodes}");
        assert_eq!(fat.info().kind, "vfat");
        assert_eq!(fat.info().label.as_deref(), Some(b"SOME LABEL".as_slice()));
        assert_eq!(fat.info().uuid.as_deref(), Some("1234-ABCD"));
        assert_eq!(fat.info().warnings, [""; 0]);
        // mdir says how many bytes are free.
        let listing = image.mtools("mdir", &["-f", "::"]);
        assert!(!listing.is_empty());
        let free: String = image
            .mtools("mdir", &["::"])
            .lines()
            .rev()
            .find(|line| line.contains("free"))
            .expect("says")
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let stat = fat.statfs().expect("counts");
        assert_eq!((stat.blocks_free * u64::from(stat.block_size)).to_string(), free, "{options:?}");
        assert_eq!(stat.block_size, fat.info().block_size);
        assert!(stat.blocks_free < stat.blocks);
    }
}

#[test]
fn the_probe_and_the_driver_agree() {
    if !have_tools() {
        return;
    }
    for (size, options) in FORMATS {
        for name in ["LABEL", "NO NAME"] {
            let mut options = options.to_vec();
            options.extend(["-n", name]);
            let image = Image::new(size * MIB, &options);
            let device: SharedDevice = Arc::new(RawDevice::open(&image.path, false).expect("opens"));
            let identity = guestctl::fs::probe::identify(&*device).expect("probes").expect("found");
            let opened = guestctl::fs::open(device, &OpenWith::default(), &self::options()).expect("opens");
            let info = opened.info();
            assert_eq!((info.kind, &info.label, &info.uuid), (identity.kind, &identity.label, &identity.uuid));
        }
    }
}

#[test]
fn a_short_name_finds_its_file_as_well() {
    if !have_tools() {
        return;
    }
    let image = Image::new(10 * MIB, &[]);
    let source = tempfile::tempdir().expect("makes a folder");
    for number in 0..9 {
        std::fs::write(source.path().join(format!("a long name with number {number}.text")), [number]).expect("writes");
    }
    std::fs::write(source.path().join("Über Größe.text"), "ü").expect("writes");
    image.fill(source.path());
    let fat = image.open();
    for (name, ino) in list(&fat, fat.root()).expect("lists") {
        let name = String::from_utf8(name).expect("UTF-8");
        if name.is_ascii() {
            let short = image.mtools("mshortname", &[&format!("::{name}")]);
            let short = short.trim().trim_start_matches("::").trim_start_matches('/').to_owned();
            assert_ne!(short, name);
            assert_eq!(fat.lookup(fat.root(), short.as_bytes()).expect(&short).ino, ino);
            assert_eq!(fat.lookup(fat.root(), short.to_lowercase().as_bytes()).expect(&short).ino, ino);
        }
        assert_eq!(fat.lookup(fat.root(), name.to_uppercase().replace("SS", "ß").as_bytes()).expect(&name).ino, ino);
        assert_eq!(fat.lookup(fat.root(), format!("{name}...").as_bytes()).expect(&name).ino, ino);
        let error = fat.lookup(fat.root(), format!("{name}x").as_bytes()).expect_err("is not there");
        assert!(error.is_errno(libc::ENOENT));
    }
    for name in ["", ".", "..", "...", "x", "\0", "/"] {
        assert!(fat.lookup(fat.root(), name.as_bytes()).expect_err("is not there").is_errno(libc::ENOENT));
    }
}

#[test]
fn a_fragmented_file_is_whole() {
    if !have_tools() {
        return;
    }
    for (size, options) in
        [(1, &["-F", "12"] as &[&str]), (20, &["-F", "16", "-s", "1"]), (40, &["-F", "32", "-s", "1"])]
    {
        let image = Image::new(size * MIB, options);
        let source = tempfile::tempdir().expect("makes a folder");
        for number in 0..200 {
            std::fs::write(source.path().join(format!("small{number}")), noise(number, 600)).expect("writes");
        }
        image.fill(source.path());
        // Fills the end, so that the next file has to use the gaps.
        let free = image.open().statfs().expect("counts");
        let room = free.blocks_free * u64::from(free.block_size);
        std::fs::write(source.path().join("filler"), vec![7; room as usize]).expect("writes");
        image.mtools("mcopy", &[source.path().join("filler").to_str().expect("text"), "::"]);
        for number in (0..200).step_by(2) {
            image.mtools("mdel", &[&format!("::small{number}")]);
            std::fs::remove_file(source.path().join(format!("small{number}"))).expect("removes");
        }
        let gap = image.open().statfs().expect("counts");
        let room = gap.blocks_free * u64::from(gap.block_size);
        std::fs::write(source.path().join("fragmented"), noise(77, room as usize - 5)).expect("writes");
        image.mtools("mcopy", &[source.path().join("fragmented").to_str().expect("text"), "::"]);
        image.check();
        let fat = image.open();
        for entry in std::fs::read_dir(source.path()).expect("reads") {
            let path = entry.expect("reads").path();
            let name = path.file_name().expect("has one").to_str().expect("text");
            let attr = find(&fat, name).expect("found");
            assert!(read_all(&fat, &attr).expect("reads") == std::fs::read(&path).expect("reads"), "{path:?}");
        }
        assert_eq!(fat.statfs().expect("counts").blocks_free, 0);
    }
}

#[test]
fn attributes_and_times_are_those_that_dos_keeps() {
    if !have_tools() {
        return;
    }
    let image = Image::new(10 * MIB, &[]);
    let source = tempfile::tempdir().expect("makes a folder");
    std::fs::write(source.path().join("FILE"), b"x").expect("writes");
    std::fs::create_dir(source.path().join("FOLDER")).expect("makes a folder");
    set_times(source.path());
    image.fill(source.path());
    image.mtools("mattrib", &["+r", "+h", "+s", "::FILE"]);
    image.mtools("mattrib", &["+r", "::FOLDER"]);
    let fat = image.open();
    assert_eq!(find(&fat, "FILE").expect("found").permissions, 0o555);
    assert_eq!(find(&fat, "FOLDER").expect("found").permissions, 0o755);
    let root = fat.attr(fat.root()).expect("is there");
    assert_eq!((root.mtime.seconds, root.nlink, root.permissions, root.btime), (0, 3, 0o755, None));
    // Puts the time of making in, which mtools does not let us choose: 2020-02-29 13:37:42.51.
    let bytes = std::fs::read(&image.path).expect("reads");
    let at = bytes.windows(11).position(|window| window == b"FILE       ").expect("is there");
    let device = Arc::new(MemoryDevice::new(bytes));
    device.write_at(&[151, 0xb4, 0x6c, 0x5d, 0x50, 0x5e, 0x50], at as u64 + 13).expect("writes");
    let fat = open(device.clone()).expect("opens");
    let attr = find(&fat, "FILE").expect("found");
    let made = attr.btime.expect("has one");
    assert_eq!((made.seconds, made.nanoseconds), (1_582_983_460 + 1, 510_000_000));
    assert_eq!((attr.atime.seconds, attr.atime.nanoseconds), (1_583_020_800, 0));
    device.write_at(&[0; 5], at as u64 + 13).expect("writes");
    assert_eq!(find(&open(device).expect("opens"), "FILE").expect("found").btime, None);
}

#[test]
fn the_other_table_is_read_where_the_boot_sector_says_so() {
    if !have_tools() {
        return;
    }
    let image = Image::new(40 * MIB, &["-F", "32", "-s", "1"]);
    let source = tempfile::tempdir().expect("makes a folder");
    std::fs::write(source.path().join("FILE"), noise(5, 50_000)).expect("writes");
    image.fill(source.path());
    let mut bytes = std::fs::read(&image.path).expect("reads");
    let (reserved, len) = (usize::from(le16(&bytes, 14)) * 512, le32(&bytes, 36) as usize * 512);
    bytes[reserved + 8..reserved + len].fill(0);
    bytes[40] = 0x81;
    let fat = open(Arc::new(MemoryDevice::new(bytes))).expect("opens");
    let attr = find(&fat, "FILE").expect("found");
    assert_eq!(read_all(&fat, &attr).expect("reads"), noise(5, 50_000));
}

#[test]
fn a_filesystem_that_was_not_unmounted_is_told_of() {
    if !have_tools() {
        return;
    }
    for (size, options, state, table) in [(40, &["-F", "16"], 37, 3), (40, &["-F", "32"], 65, 7)] {
        let image = Image::new(size * MIB, options);
        let bytes = std::fs::read(&image.path).expect("reads");
        let table = usize::from(le16(&bytes, 14)) * 512 + table;
        for (at, value) in [(state, 1), (table, 0x07)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            let fat = open(Arc::new(MemoryDevice::new(bytes))).expect("opens");
            assert_eq!(fat.info().warnings.len(), 1, "byte {at}");
        }
        let fat = open(Arc::new(MemoryDevice::new(bytes[..bytes.len() / 2].to_vec()))).expect("opens");
        assert!(fat.info().warnings[0].contains("its device ends"));
    }
}

#[test]
fn many_threads_read_at_once() {
    if !have_tools() {
        return;
    }
    let source = tempfile::tempdir().expect("makes a folder");
    plant(source.path());
    let image = Image::new(40 * MIB, &["-F", "32", "-s", "1"]);
    image.fill(source.path());
    let device = Arc::new(RawDevice::open(&image.path, false).expect("opens"));
    // A cache that holds next to nothing.
    let fat = Fat::open(device, &FsOptions { cache: CachePool::new(300_000) }).expect("opens");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| compare(&fat, fat.root(), source.path()));
        }
    });
}

#[test]
fn a_listing_goes_on_where_it_stopped() {
    if !have_tools() {
        return;
    }
    let image = Image::new(10 * MIB, &[]);
    let source = tempfile::tempdir().expect("makes a folder");
    for number in 0..50 {
        std::fs::write(source.path().join(format!("file {number}")), b"").expect("writes");
    }
    image.fill(source.path());
    let fat = image.open();
    let whole = list(&fat, fat.root()).expect("lists");
    let (mut pieces, mut cookie) = (Vec::new(), 0);
    loop {
        let before = pieces.len();
        fat.read_dir(fat.root(), cookie, &mut |entry| {
            pieces.push((entry.name.to_vec(), entry.ino));
            cookie = entry.next_cookie;
            assert_ne!(cookie, 0);
            if pieces.len() - before == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .expect("lists");
        if pieces.len() == before {
            break;
        }
    }
    assert_eq!(pieces, whole);
    fat.read_dir(fat.root(), u64::MAX, &mut |_| panic!("nothing is there")).expect("lists");
}

#[test]
fn plain_questions_have_plain_answers() {
    if !have_tools() {
        return;
    }
    let image = Image::new(10 * MIB, &[]);
    let source = tempfile::tempdir().expect("makes a folder");
    std::fs::write(source.path().join("FILE"), b"x").expect("writes");
    std::fs::create_dir(source.path().join("FOLDER")).expect("makes a folder");
    image.fill(source.path());
    let fat = image.open();
    let (file, folder) = (find(&fat, "FILE").expect("found").ino, find(&fat, "FOLDER").expect("found").ino);
    let errno = |error: Error| error.errno();
    assert_eq!(fat.read(folder, 0, &mut [0]).map_err(errno), Err(libc::EISDIR));
    assert_eq!(fat.read(fat.root(), 0, &mut [0]).map_err(errno), Err(libc::EISDIR));
    assert_eq!(fat.lookup(file, b"x").map_err(errno), Err(libc::ENOTDIR));
    assert_eq!(fat.read_dir(file, 0, &mut |_| ControlFlow::Break(())).map_err(errno), Err(libc::ENOTDIR));
    assert_eq!(fat.parent(file).map_err(errno), Err(libc::ENOTDIR));
    assert_eq!(fat.parent(fat.root()).map_err(errno), Ok(fat.root()));
    assert_eq!(fat.read_link(file).map_err(errno), Err(libc::EINVAL));
    assert_eq!(fat.xattr(file, b"user.x").map_err(errno), Err(libc::ENODATA));
    assert!(!fat.has_xattrs() && fat.writer().is_none());
    for ino in [0, 2, 3, 1000, 1 << 30, 1 << 55, u64::MAX] {
        assert_eq!(fat.attr(ino).map_err(errno), Err(libc::ENOENT), "inode {ino}");
    }
    assert_eq!((fat.next_data(file, 0).ok(), fat.next_hole(file, 0).ok()), (Some(0), Some(1)));
    // The label and a deleted file are no files.
    image.mtools("mdel", &["::FILE"]);
    assert_eq!(image.open().attr(file).map_err(errno), Err(libc::ENOENT));
}

/// Reads everything that can be reached, but no more of it than there is room for.
fn walk(fat: &Fat) {
    let mut folders = vec![(fat.root(), 0)];
    let mut budget = 400;
    while let Some((folder, depth)) = folders.pop() {
        let _ = fat.parent(folder);
        let Ok(names) = list(fat, folder) else { continue };
        for (name, ino) in names {
            if budget == 0 {
                return;
            }
            budget -= 1;
            assert!(!name.is_empty() && !name.contains(&b'/') && !name.contains(&0));
            assert!(!matches!(name.as_slice(), b"." | b".."));
            let _ = fat.lookup(folder, &name);
            let Ok(attr) = fat.attr(ino) else { continue };
            fat.disk_order(ino);
            if attr.is_dir() && depth < 40 {
                folders.push((ino, depth + 1));
            } else {
                let mut bytes = vec![0; attr.size.min(100_000) as usize];
                let _ = fat.read(ino, 0, &mut bytes);
                let _ = fat.read(ino, attr.size.saturating_sub(1000), &mut bytes);
                fat.prefetch(ino, 0, u64::MAX);
            }
        }
    }
}

#[test]
fn no_filesystem_whatever_its_bytes_does_harm() {
    if !have_tools() {
        return;
    }
    let source = tempfile::tempdir().expect("makes a folder");
    for number in 0..30 {
        let folder = source.path().join(format!("folder {}", number % 3)).join(format!("sub{}", number % 2));
        std::fs::create_dir_all(&folder).expect("makes folders");
        std::fs::write(folder.join(format!("a file with a long name {number}")), noise(number, 3000)).expect("writes");
    }
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for (size, options) in [
        (MIB / 2, &["-F", "12", "-s", "1"] as &[&str]),
        (4 * MIB, &["-F", "16", "-s", "1"]),
        (34 * MIB, &["-F", "32", "-s", "1"]),
    ] {
        let image = Image::new(size, options);
        image.fill(source.path());
        let whole = std::fs::read(&image.path).expect("reads");
        // What is not file contents: the boot sector, tables that are used, directories.
        let fat = image.open();
        let mut metadata: Vec<usize> = (3..90).collect();
        let table = usize::from(le16(&whole, 14)) * 512;
        metadata.extend(table..table + 800);
        let mut folders = vec![fat.root()];
        while let Some(folder) = folders.pop() {
            for (_, ino) in list(&fat, folder).expect("lists") {
                metadata.extend((ino as usize - 1) * 32..(ino as usize + 1) * 32);
                if fat.attr(ino).expect("is there").is_dir() {
                    folders.push(ino);
                }
            }
        }
        let device = Arc::new(MemoryDevice::new(whole.clone()));
        for round in 0..1500 {
            // The boot sector is left alone at times, since most of what it can be damaged by is seen at once.
            let from = if round % 4 == 0 { 0 } else { 87 };
            let changed: Vec<usize> =
                (0..1 + numbers.next(8)).map(|_| metadata[from + numbers.next(metadata.len() - from)]).collect();
            for &at in &changed {
                let value =
                    [0, 0xff, 1, 2, 0x10, 0x2f, numbers.next(256) as u8, numbers.next(64) as u8][numbers.next(8)];
                device.write_at(&[value], at as u64).expect("writes");
            }
            if let Ok(fat) = open(device.clone()) {
                let _ = fat.statfs();
                walk(&fat);
                for _ in 0..20 {
                    let ino = numbers.next(whole.len() / 32 + 10) as u64;
                    let _ = fat.attr(ino).and_then(|attr| fat.read(attr.ino, 0, &mut [0; 600]));
                    let _ = list(&fat, ino);
                }
            }
            changed.iter().for_each(|&at| device.write_at(&whole[at..=at], at as u64).expect("writes"));
        }
        // A device that ends too early.
        for _ in 0..60 {
            let len = numbers.next(whole.len().min(200_000));
            if let Ok(fat) = open(Arc::new(MemoryDevice::new(whole[..len].to_vec()))) {
                walk(&fat);
            }
        }
    }
}

#[test]
fn a_chain_that_loops_is_damaged_and_ends() {
    if !have_tools() {
        return;
    }
    let image = Image::new(40 * MIB, &["-F", "32", "-s", "1"]);
    let source = tempfile::tempdir().expect("makes a folder");
    std::fs::create_dir(source.path().join("FOLDER")).expect("makes a folder");
    for number in 0..100 {
        std::fs::write(source.path().join("FOLDER").join(format!("FILE{number}")), b"").expect("writes");
    }
    std::fs::write(source.path().join("FILE"), noise(1, 5000)).expect("writes");
    image.fill(source.path());
    let bytes = std::fs::read(&image.path).expect("reads");
    let table = usize::from(le16(&bytes, 14)) * 512;
    let cluster = |name: &[u8]| {
        let at = bytes.windows(11).position(|window| window == name).expect("is there");
        u32::from(le16(&bytes, at + 26))
    };
    let damaged = |result: Result<()>| assert!(matches!(result.map_err(|error| error.errno()), Err(libc::EIO)));
    let with = |from: u32, to: u32, size: u32| {
        let mut changed = bytes.clone();
        changed[table + from as usize * 4..][..4].copy_from_slice(&to.to_le_bytes());
        let at = bytes.windows(11).position(|window| window == b"FILE       ").expect("is there");
        changed[at + 28..at + 32].copy_from_slice(&size.to_le_bytes());
        open(Arc::new(MemoryDevice::new(changed))).expect("opens")
    };
    // A file that claims four gigabytes and goes round in two clusters.
    let file = cluster(b"FILE       ");
    let fat = with(file + 1, file, u32::MAX);
    let attr = find(&fat, "FILE").expect("found");
    let mut buf = [0; 2000];
    assert_eq!(fat.read(attr.ino, 0, &mut buf).expect("lies before the end of the filesystem"), 2000);
    damaged(fat.read(attr.ino, 1 << 31, &mut buf).map(|_| ()));
    // One that ends too early, one that goes on with a free cluster, one that goes on nowhere.
    damaged(
        find(&with(file, 0x0fff_ffff, 5000), "FILE").and_then(|attr| fat.read(attr.ino, 1 << 30, &mut buf).map(|_| ())),
    );
    for to in [0x0fff_ffff, 0, 1, 0x0fff_fff7, 0x0123_4567] {
        let fat = with(file, to, 5000);
        let attr = find(&fat, "FILE").expect("found");
        assert_eq!(fat.read(attr.ino, 0, &mut buf[..512]).expect("lies before the damage"), 512);
        damaged(fat.read(attr.ino, 0, &mut buf[..513]).map(|_| ()));
    }
    // A folder.
    let folder = cluster(b"FOLDER     ");
    let fat = with(folder + 1, folder, 5000);
    damaged(find(&fat, "FOLDER").map(|_| ()));
    let (_, ino) =
        list(&fat, fat.root()).expect("lists").into_iter().find(|(name, _)| name == b"FOLDER").expect("is there");
    damaged(list(&fat, ino).map(|_| ()));
}
