//! Images made by QEMU, read by us: every byte is compared with what QEMU reads.

mod common;
#[path = "common/images.rs"]
mod images;

use guestctl::block::qcow2::{FileStorage, Header, Parts, Qcow2};
use guestctl::block::{BlockDevice, ExtentKind, ImageFormat, OpenOptions, SharedDevice, Via, open, open_with_overlay};
use guestctl::cache::CachePool;
use guestctl::{Error, Result};
use images::{Random, assert_same, convert, make_raw, qemu_img, run};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

macro_rules! needs {
    ($tool:literal) => {
        if !common::has_tool($tool) {
            return common::skip(concat!($tool, " is not installed"));
        }
    };
}

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

fn open_image(path: &Path) -> SharedDevice {
    open(path, &OpenOptions { via: Via::Native, ..OpenOptions::default() }).expect("opens").device
}

/// Reads a whole disk in reads of many lengths.
fn read_all(device: &dyn BlockDevice, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut disk = vec![0xee; device.size() as usize];
    let mut at = 0;
    while at < disk.len() {
        let bits = 4 + random.below(18);
        let len = (1 + random.below(1 << bits) as usize).min(disk.len() - at);
        device.read_at(&mut disk[at..at + len], at as u64).expect("reads");
        at += len;
    }
    disk
}

/// Compares an image with QEMU's reading of it, and its map with its bytes.
fn compare(path: &Path, what: &str) {
    let before = fs::read(path).expect("reads");
    let device = open_image(path);
    let theirs = convert(path);
    assert_same(&read_all(&*device, 1), &theirs, what);
    check_map(&*device, &theirs, what);
    device.prefetch(0, device.size());
    assert_same(&read_all(&*device, 2), &theirs, what);
    drop(device);
    assert!(before == fs::read(path).expect("reads"), "{what}: reading changed the image");
}

fn check_map(device: &dyn BlockDevice, disk: &[u8], what: &str) {
    let mut at = 0;
    while at < device.size() {
        let extent = device.map(at, device.size() - at).expect("maps");
        assert!(extent.end > at && extent.end <= device.size(), "{what}: {extent:?} at {at}");
        if extent.kind != ExtentKind::Data {
            assert!(disk[at as usize..extent.end as usize].iter().all(|&byte| byte == 0), "{what}: {extent:?} at {at}");
        }
        at = extent.end;
    }
}

#[test]
fn every_cluster_size_and_both_versions_read_as_qemu_reads_them() {
    needs!("qemu-img");
    let folder = folder();
    let raw = folder.path().join("raw");
    make_raw(&raw, (3 << 20) + 1234 * 512, 1);
    for bits in 9..=21 {
        for (name, options) in [
            ("plain", "compat=1.1"),
            ("old", "compat=0.10"),
            ("narrow", "compat=1.1,refcount_bits=1"),
            ("compressed", "compat=1.1"),
            ("zstd", "compat=1.1,compression_type=zstd"),
        ] {
            if name == "old" && bits % 3 != 0 || name == "narrow" && bits % 4 != 0 {
                continue;
            }
            let flag = if ["compressed", "zstd"].contains(&name) { "-c" } else { "" };
            let size = 1_u64 << bits;
            qemu_img(&format!("convert {flag} -O qcow2 -o {options},cluster_size={size} raw image"), folder.path());
            compare(&folder.path().join("image"), &format!("{name}, clusters of {size}"));
        }
    }
}

#[test]
fn subclusters_read_as_qemu_reads_them() {
    needs!("qemu-io");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 4 << 20, 2);
    for bits in [14, 16, 21] {
        let size = 1 << bits;
        qemu_img(&format!("create -f qcow2 -o extended_l2=on,cluster_size={size} -b raw -F raw image"), folder.path());
        let image = folder.path().join("image");
        let mut random = Random::new(bits);
        for _ in 0..12 {
            let (at, len) = (random.below(4000) * 1024, 512 * (1 + random.below(40)));
            let kind = ["write -P 7", "write -z", "write -z -u", "discard"][random.below(4) as usize];
            let commands = [format!("{kind} {at} {}", len.min((4 << 20) - at))];
            let arguments = commands.iter().flat_map(|command| ["-c", command]);
            run("qemu-io", arguments.chain([image.to_str().expect("text")]));
        }
        compare(&image, &format!("subclusters of {size}"));
        fs::remove_file(&image).expect("removes");
    }
}

#[test]
fn a_chain_reads_through_to_bases_of_other_sizes() {
    needs!("qemu-io");
    let folder = folder();
    make_raw(&folder.path().join("base"), (1 << 20) + 700 * 512, 3);
    qemu_img("create -f qcow2 -b base -F raw one 5M", folder.path());
    qemu_img("create -f qcow2 -o cluster_size=4k -b one -F qcow2 two 3M", folder.path());
    qemu_img("create -f qcow2 -o compat=0.10 -b two -F qcow2 three 7M", folder.path());
    let write = |image: &str, commands: &[&str]| {
        let image = folder.path().join(image);
        run("qemu-io", commands.iter().flat_map(|command| ["-c", command]).chain([image.to_str().expect("text")]));
    };
    write("one", &["write -P 1 100k 300k", "write -P 2 4M 512k"]);
    write("two", &["write -z 200k 64k", "write -P 3 1M 300k", "discard 120k 20k"]);
    write("three", &["write -P 4 2900k 200k", "write -P 5 6M 1k"]);
    for image in ["one", "two", "three"] {
        compare(&folder.path().join(image), image);
    }
}

#[test]
fn an_external_data_file_is_read() {
    needs!("qemu-img");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 3 << 20, 4);
    for raw in ["off", "on"] {
        let options = format!("data_file=data,data_file_raw={raw}");
        qemu_img(&format!("create -f qcow2 -o {options} image 3M"), folder.path());
        qemu_img("convert -n -O qcow2 raw image", folder.path());
        compare(&folder.path().join("image"), &format!("data_file_raw={raw}"));
        for name in ["image", "data"] {
            fs::remove_file(folder.path().join(name)).expect("removes");
        }
    }
}

#[test]
fn preallocated_clusters_are_zeroes_to_the_map() {
    needs!("qemu-img");
    let folder = folder();
    for mode in ["metadata", "falloc", "full"] {
        qemu_img(&format!("create -f qcow2 -o preallocation={mode} image 4M"), folder.path());
        compare(&folder.path().join("image"), mode);
    }
    qemu_img("create -f qcow2 -o preallocation=metadata image 4M", folder.path());
    let extent = open_image(&folder.path().join("image")).map(0, 4 << 20).expect("maps");
    assert_eq!(extent.kind, ExtentKind::Zero);
}

#[test]
fn an_internal_snapshot_is_opened_by_its_name_or_number() {
    needs!("qemu-io");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 2 << 20, 5);
    qemu_img("convert -O qcow2 raw image", folder.path());
    qemu_img("snapshot -c first image", folder.path());
    let image = folder.path().join("image");
    let path = image.to_str().expect("text");
    run("qemu-io", ["-c", "write -P 9 100k 700k", path]);
    qemu_img("snapshot -c second image", folder.path());
    run("qemu-io", ["-c", "write -P 8 0 1M", path]);
    for (name, number) in [("first", "1"), ("second", "2")] {
        qemu_img(&format!("convert -l {name} -O raw image {name}.raw"), folder.path());
        let theirs = fs::read(folder.path().join(format!("{name}.raw"))).expect("reads");
        for wanted in [name, number] {
            let options = OpenOptions { snapshot: Some(wanted.to_owned()), ..OpenOptions::default() };
            let opened = open(&image, &options).expect("opens");
            assert_eq!(opened.snapshots.len(), 2);
            assert_same(&read_all(&*opened.device, 3), &theirs, name);
        }
    }
    let options = OpenOptions { snapshot: Some("third".to_owned()), ..OpenOptions::default() };
    assert!(matches!(open(&image, &options).expect_err("is not there").root(), Error::NotFound(_)));
    compare(&image, "the disk itself");
}

#[test]
fn many_threads_read_the_same_bytes() {
    needs!("qemu-img");
    let folder = folder();
    let disk = make_raw(&folder.path().join("raw"), 8 << 20, 6);
    qemu_img("convert -c -O qcow2 -o cluster_size=32k raw image", folder.path());
    // A cache so small that everything is dropped and read again all the time.
    let options = OpenOptions { cache: CachePool::new(1 << 20), ..OpenOptions::default() };
    let device = open(folder.path().join("image"), &options).expect("opens").device;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (device, disk) = (&device, &disk);
            scope.spawn(move || {
                let mut random = Random::new(thread + 100);
                let mut buf = vec![0; 200_000];
                for _ in 0..300 {
                    let at = random.below(disk.len() as u64) as usize;
                    let len = (1 + random.below(200_000) as usize).min(disk.len() - at);
                    if thread == 0 {
                        device.prefetch(at as u64, len as u64);
                    }
                    device.read_at(&mut buf[..len], at as u64).expect("reads");
                    assert!(buf[..len] == disk[at..at + len], "thread {thread}: {len} bytes at {at}");
                }
            });
        }
    });
}

#[test]
fn the_map_is_that_of_qemu() {
    needs!("qemu-io");
    let folder = folder();
    qemu_img("create -f raw base 8M", folder.path());
    let base = folder.path().join("base");
    run("qemu-io", ["-f", "raw", "-c", "write -P 1 1M 1M", base.to_str().expect("text")]);
    qemu_img("create -f qcow2 -b base -F raw image 10M", folder.path());
    let image = folder.path().join("image");
    let path = image.to_str().expect("text");
    run("qemu-io", ["-c", "write -P 2 4M 1M", "-c", "write -z -u 1M 256k", "-c", "write -z 4M 128k", path]);
    let output = run("qemu-img", ["map", "--output=json", path]);
    let entries: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let device = open_image(&image);
    for entry in entries.as_array().expect("a list") {
        let (start, len) = (entry["start"].as_u64().expect("start"), entry["length"].as_u64().expect("length"));
        let is_zero = entry["zero"].as_bool().expect("zero");
        let mut at = start;
        while at < start + len {
            let extent = device.map(at, start + len - at).expect("maps");
            assert_eq!(extent.kind != ExtentKind::Data, is_zero, "at {at}: {extent:?} against {entry}");
            at = extent.end;
        }
    }
}

#[test]
fn what_is_no_image_is_told_apart() {
    let folder = folder();
    let root = |name: &str| open(folder.path().join(name), &OpenOptions::default()).expect_err("no image");
    assert!(matches!(root("nothing").root(), Error::NotFound(_)));
    assert!(root(".").to_string().contains("is a folder"));
    fs::write(folder.path().join("empty"), b"").expect("writes");
    assert!(matches!(root("empty").root(), Error::NotAnImage(_)));
    nix::unistd::mkfifo(&folder.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("makes a FIFO");
    assert!(matches!(root("fifo").root(), Error::NotAnImage(_)));
    fs::write(folder.path().join("cut"), b"QFI\xfb\0\0\0\x03").expect("writes");
    assert!(!root("cut").to_string().is_empty());
}

#[test]
fn formats_are_told_by_their_content() {
    needs!("qemu-img");
    let folder = folder();
    let formats = ["raw", "qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels"];
    for name in formats {
        qemu_img(&format!("create -f {name} image.{name} 1M"), folder.path());
        let device = guestctl::block::RawDevice::open(&folder.path().join(format!("image.{name}")), false);
        assert_eq!(ImageFormat::probe(&device.expect("opens")).expect("probes").name(), name);
    }
    qemu_img("create -f vpc -o subformat=fixed,force_size=on fixed 1M", folder.path());
    let device = guestctl::block::RawDevice::open(&folder.path().join("fixed"), false).expect("opens");
    assert_eq!(ImageFormat::probe(&device).expect("probes"), ImageFormat::Vpc);
}

#[test]
fn an_image_opens_no_file_outside_its_folder() {
    needs!("qemu-img");
    let folder = folder();
    let inner = folder.path().join("inner");
    fs::create_dir(&inner).expect("makes");
    fs::write(folder.path().join("secret"), vec![1; 65536]).expect("writes");
    qemu_img("create -f qcow2 -b ../secret -F raw qcow2 64k", &inner);
    qemu_img("create -f qcow -b ../secret qcow -F raw 64k", &inner);
    qemu_img("create -f qed -b ../secret -F raw qed 64k", &inner);
    let flat = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                RW 128 FLAT \"../secret\" 0\n";
    fs::write(inner.join("vmdk"), flat).expect("writes");
    for name in ["qcow2", "qcow", "qed", "vmdk"] {
        let error = open(inner.join(name), &OpenOptions::default()).expect_err("refused");
        assert!(error.to_string().contains("--allow-backing"), "{name}: {error}");
        let options = OpenOptions { via: Via::Nbd, ..OpenOptions::default() };
        let error = open(inner.join(name), &options).expect_err("refused");
        assert!(error.to_string().contains("--allow-backing"), "{name}: {error}");
    }
    let options = OpenOptions { allow_backing: vec![folder.path().to_owned()], ..OpenOptions::default() };
    let device = open(inner.join("qcow2"), &options).expect("allowed").device;
    assert_eq!(read_all(&*device, 1), vec![1; 65536]);
}

#[test]
fn a_chain_that_bites_its_tail_is_refused() {
    needs!("qemu-img");
    let folder = folder();
    qemu_img("create -f qcow2 one 1M", folder.path());
    qemu_img("create -f qcow2 -b one -F qcow2 two", folder.path());
    qemu_img("rebase -u -f qcow2 -b two -F qcow2 one", folder.path());
    let error = open(folder.path().join("two"), &OpenOptions::default()).expect_err("refused");
    assert!(matches!(error.root(), Error::Corrupt { .. }), "{error}");
    // A chain of 100 images ends, but too late.
    fs::write(folder.path().join("c0"), [1; 512]).expect("writes");
    for number in 1..100 {
        let options = OpenOptions::default();
        let format = if number == 1 { ImageFormat::Raw } else { ImageFormat::Qcow2 { version: 3 } };
        let base = format!("c{}", number - 1);
        let path = folder.path().join(format!("c{number}"));
        guestctl::block::qcow2::create_overlay(&path, Path::new(&base), format, 512).expect("makes");
        if number == 50 {
            let device = open(&path, &options).expect("opens").device;
            assert_eq!(read_all(&*device, 1), [1; 512]);
        }
    }
    let error = open(folder.path().join("c99"), &OpenOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[test]
fn features_that_are_not_known_and_encrypted_images_are_refused_by_name() {
    needs!("qemu-img");
    let folder = folder();
    let secret = "--object secret,id=s,data=abc";
    let aes = "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    qemu_img(&format!("create {secret} -f qcow2 {aes} image 1M"), folder.path());
    let image = folder.path().join("image");
    let error = open(&image, &OpenOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("LUKS") && matches!(error.root(), Error::Unsupported(_)), "{error}");
    qemu_img("create -f qcow2 image 1M", folder.path());
    let mut bytes = fs::read(&image).expect("reads");
    bytes[79] = 1;
    fs::write(&image, &bytes).expect("writes");
    open_image(&image);
    bytes[79] = 2;
    fs::write(&image, &bytes).expect("writes");
    assert!(open(&image, &OpenOptions::default()).expect_err("refused").to_string().contains("marked corrupt"));
    bytes[78] = 0x40;
    bytes[79] = 0;
    fs::write(&image, &bytes).expect("writes");
    let error = open(&image, &OpenOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("incompatible bit 14"), "{error}");
}

#[test]
fn a_damaged_image_gives_errors_and_never_a_panic() {
    needs!("qemu-io");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 600 << 10, 7);
    let image = folder.path().join("image");
    let path = image.to_str().expect("text");
    for options in ["cluster_size=512", "cluster_size=4k,compression_type=zstd", "extended_l2=on,cluster_size=16k"] {
        qemu_img(&format!("convert -c -O qcow2 -o {options} raw image"), folder.path());
        qemu_img("snapshot -c one image", folder.path());
        run("qemu-io", ["-c", "write -P 3 32k 200k", "-c", "write -z -u 300k 64k", path]);
        let good = fs::read(&image).expect("reads");
        let mut random = Random::new(8);
        let cluster = 1_usize << u32::from_be_bytes([good[20], good[21], good[22], good[23]]);
        for round in 0..400 {
            let mut bad = good.clone();
            for _ in 0..1 + random.below(3) {
                // The header, the tables (each begins a cluster), or anywhere.
                let at = match random.below(4) {
                    0 => random.below(112) as usize,
                    1 | 2 => random.below((bad.len() / cluster) as u64) as usize * cluster + random.below(256) as usize,
                    _ => random.below(bad.len() as u64) as usize,
                };
                let at = at.min(bad.len() - 1);
                match random.below(3) {
                    0 => bad[at] ^= 1 << random.below(8),
                    1 => bad[at] = 0xff,
                    _ => bad[at] = random.next() as u8,
                }
            }
            if random.below(20) == 0 {
                bad.truncate(random.below(bad.len() as u64) as usize);
            }
            // Each a file of its own: reading is what is tested, not what a half-written file does.
            let _ = use_damaged(&bad, folder.path(), round % 3);
        }
    }
}

/// Opens a damaged image and does everything with it that can be done.
fn use_damaged(bytes: &[u8], folder: &Path, what: u64) -> Result<()> {
    let path = folder.join("damaged");
    fs::write(&path, bytes).expect("writes");
    let file = fs::File::options().read(true).write(true).open(&path).expect("opens");
    let storage = Arc::new(FileStorage::new(file, "damaged"));
    let header = Header::read(&*storage)?;
    let parts = Parts {
        name: "damaged".to_owned(),
        data: None,
        backing: None,
        snapshot: (what == 1).then(|| "one".to_owned()),
        writable: what == 2,
        discard: true,
        cache: CachePool::new(1 << 20),
    };
    let device = Qcow2::open(storage, header, parts)?;
    let size = device.size().min(1 << 20);
    let mut buf = vec![0; 4096];
    for at in (0..size.saturating_sub(4096)).step_by(4096) {
        let _ = device.read_at(&mut buf, at);
    }
    let _ = device.map(0, device.size());
    device.prefetch(0, size);
    if what == 2 {
        for at in (0..size.saturating_sub(70_000)).step_by(50_000) {
            let _ = device.write_at(&buf, at);
            let _ = device.write_zeroes(at + 5000, 60_000, at % 3 == 0);
            let _ = device.discard(at + 20_000, 40_000);
        }
        let _ = device.flush();
    }
    Ok(())
}

#[test]
fn an_overlay_leaves_its_base_alone() {
    let folder = folder();
    let raw = folder.path().join("raw");
    let disk = make_raw(&raw, 1 << 20, 9);
    let options = OpenOptions::default();
    let opened = open_with_overlay(&raw, None, &options).expect("opens");
    let mut wanted = disk.clone();
    wanted[100_000..150_000].fill(7);
    opened.device.write_at(&[7; 50_000], 100_000).expect("writes");
    assert_same(&read_all(&*opened.device, 1), &wanted, "the overlay");
    drop(opened);
    let lasting = folder.path().join("lasting.qcow2");
    for round in 0..2 {
        let opened = open_with_overlay(&raw, Some(&lasting), &options).expect("opens");
        if round == 0 {
            opened.device.write_at(&[7; 50_000], 100_000).expect("writes");
        }
        assert_same(&read_all(&*opened.device, 2), &wanted, "the overlay in a file");
    }
    assert_same(&fs::read(&raw).expect("reads"), &disk, "the base");
    fs::write(folder.path().join("other"), [0; 512]).expect("writes");
    let error = open_with_overlay(folder.path().join("other"), Some(&lasting), &options).expect_err("another base");
    assert!(matches!(error.root(), Error::Usage(_)), "{error}");
    needs!("qemu-img");
    assert_eq!(images::check(&lasting), images::Check::default());
    assert_same(&convert(&lasting), &wanted, "as QEMU reads it");
}

#[test]
fn qemu_and_we_respect_each_others_locks() {
    needs!("qemu-io");
    let folder = folder();
    for format in ["raw", "qcow2"] {
        let image = folder.path().join(format);
        qemu_img(&format!("create -f {format} {format} 1M"), folder.path());
        let path = image.to_str().expect("text");
        let writable = OpenOptions { writable: true, ..OpenOptions::default() };
        let in_use = |options: &OpenOptions| match open(&image, options) {
            Ok(_) => false,
            Err(error) => {
                assert!(matches!(error.root(), Error::InUse(_)), "{error}");
                true
            }
        };
        // QEMU writes.
        let mut child = hold(&["-f", format, path]);
        assert!(in_use(&writable), "{format}: QEMU writes, we write");
        assert!(in_use(&OpenOptions::default()), "{format}: QEMU writes, we read");
        open(&image, &OpenOptions { force: true, ..OpenOptions::default() }).expect("reads by force");
        release(&mut child);
        // QEMU reads.
        let mut child = hold(&["-r", "-f", format, path]);
        assert!(!in_use(&OpenOptions::default()), "{format}: both read");
        if format == "qcow2" {
            assert!(in_use(&writable), "{format}: QEMU reads, we write");
        }
        release(&mut child);
        // We write.
        let opened = open(&image, &writable).expect("opens");
        assert!(!images::run_any("qemu-io", ["-f", format, "-c", "write 0 512", path]).status.success());
        if format == "qcow2" {
            assert!(!images::run_any("qemu-io", ["-r", "-f", format, "-c", "read 0 512", path]).status.success());
        }
        assert!(in_use(&writable), "{format}: we are our own second writer");
        drop(opened);
        // We read.
        let opened = open(&image, &OpenOptions::default()).expect("opens");
        run("qemu-io", ["-r", "-f", format, "-c", "read 0 512", path]);
        assert!(!images::run_any("qemu-io", ["-f", format, "-c", "write 0 512", path]).status.success());
        drop(opened);
        run("qemu-io", ["-f", format, "-c", "write 0 512", path]);
    }
}

/// Starts a qemu-io that holds an image until its input ends, and waits until it does.
fn hold(arguments: &[&str]) -> std::process::Child {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Command, Stdio};
    let mut command = Command::new("timeout");
    command.args(["60", "qemu-io"]).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.as_mut().expect("a pipe").write_all(b"length\n").expect("asks");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("MiB") {
        line.clear();
        assert!(lines.read_line(&mut line).expect("answers") > 0, "qemu-io ended");
    }
    child
}

fn release(child: &mut std::process::Child) {
    drop(child.stdin.take());
    child.wait().expect("ends");
}
