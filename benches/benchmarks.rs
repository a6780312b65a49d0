//! Benchmarks of the library on real images, made on the spot by the host's own tools in a temporary folder.
//!
//! `cargo bench disk_creation` runs one group; `cargo bench --bench benchmarks -- --save-baseline main` keeps the results
//! to compare with. A group whose tool is not installed is left out with a word.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guestctl::block::ImageFormat;
use guestctl::block::qcow2::Compression;
use guestctl::guestfs::convert::{ConvertOptions, convert};
use guestctl::{Guestfs, Result};
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

/// What all groups read.
struct Images {
    folder: TempDir,
    raw: PathBuf,
    qcow2: Option<PathBuf>,
}

static IMAGES: LazyLock<Option<Images>> = LazyLock::new(|| match make_images() {
    Ok(images) => Some(images),
    Err(error) => {
        eprintln!("no images to measure on: {error}");
        None
    }
});

/// Runs a tool; returns whether it is there and succeeded.
fn tool(program: &str, arguments: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}

/// Bytes that do not compress to nothing.
fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"some text");
    }
    bytes.truncate(len);
    bytes
}

/// Makes a tree of 2,000 small files and a few large ones, and images of it.
fn make_images() -> std::io::Result<Images> {
    let folder = TempDir::new()?;
    let tree = folder.path().join("tree");
    for group in 0..20 {
        let here = tree.join(format!("etc/group-{group:02}"));
        fs::create_dir_all(&here)?;
        for number in 0..100 {
            fs::write(here.join(format!("file-{number:03}.conf")), bytes(100 + number * 37))?;
        }
    }
    for (name, len) in [("1K", 1 << 10), ("64K", 64 << 10), ("1M", 1 << 20), ("10M", 10 << 20), ("100M", 100 << 20)] {
        fs::write(tree.join(name), bytes(len))?;
    }
    let raw = folder.path().join("disk.img");
    if !tool("mke2fs", &["-q", "-t", "ext4", "-d", text(&tree), text(&raw), "200M"]) {
        return Err(std::io::Error::other("mke2fs is not there, or failed"));
    }
    fs::remove_dir_all(&tree)?;
    let qcow2 = folder.path().join("disk.qcow2");
    let made = tool("qemu-img", &["convert", "-O", "qcow2", text(&raw), text(&qcow2)]);
    Ok(Images { folder, raw, qcow2: made.then_some(qcow2) })
}

fn open(image: &Path) -> Result<Guestfs> {
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    Ok(guest)
}

fn mounted(image: &Path) -> Guestfs {
    let mut guest = open(image).expect("the image opens");
    guest.mount_ro("/dev/sda", "/").expect("the image mounts");
    guest
}

fn images() -> Option<&'static Images> {
    IMAGES.as_ref()
}

fn disk_creation(criterion: &mut Criterion) {
    let folder = TempDir::new().expect("a temporary folder");
    let mut group = criterion.benchmark_group("disk_creation");
    for format in ["raw", "qcow2"] {
        for megabytes in [10_u64, 100, 500] {
            group.bench_function(BenchmarkId::new(format, format!("{megabytes}MB")), |bencher| {
                let guest = Guestfs::new().expect("a handle");
                let path = folder.path().join(format!("new.{format}"));
                bencher.iter(|| {
                    guest.disk_create(&path, format, megabytes << 20).expect("there is room");
                    fs::remove_file(&path).expect("it was made");
                });
            });
        }
    }
}

/// Opens a new image for writing.
fn writable(path: &Path, megabytes: u64) -> Guestfs {
    // What was there before is of no interest.
    let _ = fs::remove_file(path);
    let mut guest = Guestfs::new().expect("a handle");
    guest.disk_create(path, "raw", megabytes << 20).expect("there is room");
    guest.add_drive(path).expect("before launch");
    guest.launch().expect("a new image opens");
    guest
}

fn partition_creation(criterion: &mut Criterion) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("disk.img");
    let mut group = criterion.benchmark_group("partition_creation");
    for kind in ["gpt", "mbr"] {
        group.bench_function(kind, |bencher| {
            let mut guest = writable(&path, 100);
            bencher.iter(|| {
                guest.part_init("/dev/sda", kind).expect("writable");
                guest.part_add_size("/dev/sda", Some(20 << 20)).expect("it fits");
                guest.part_add_size("/dev/sda", None).expect("it fits");
            });
        });
    }
}

fn mkfs(criterion: &mut Criterion) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("disk.img");
    let mut group = criterion.benchmark_group("mkfs");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for kind in ["ext4", "xfs", "btrfs"] {
        if let Err(error) = writable(&path, 1024).mkfs(kind, "/dev/sda") {
            eprintln!("mkfs {kind} is left out: {error}");
            continue;
        }
        group.bench_function(BenchmarkId::new(kind, "1GB"), |bencher| {
            let fresh = || writable(&path, 1024);
            bencher.iter_batched(
                fresh,
                |mut guest| guest.mkfs(kind, "/dev/sda").expect("it did"),
                BatchSize::PerIteration,
            );
        });
    }
}

fn launch_shutdown(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let mut group = criterion.benchmark_group("launch_shutdown");
    let qcow2 = images.qcow2.as_deref().map(|path| ("qcow2", path));
    for (name, path) in [("raw", images.raw.as_path())].into_iter().chain(qcow2) {
        group.bench_function(name, |bencher| {
            bencher.iter(|| open(path).expect("the image opens").shutdown().expect("nothing is to be written"));
        });
    }
}

fn mount(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    criterion.benchmark_group("mount").bench_function("ext4", |bencher| {
        let mut guest = open(&images.raw).expect("the image opens");
        bencher.iter(|| {
            guest.mount_ro("/dev/sda", "/").expect("the image mounts");
            guest.umount("/").expect("it was mounted");
        });
    });
}

fn file_read(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let guest = mounted(&images.raw);
    let mut group = criterion.benchmark_group("file_read");
    for (name, len) in [("1K", 1_u64 << 10), ("64K", 64 << 10), ("1M", 1 << 20), ("10M", 10 << 20), ("100M", 100 << 20)]
    {
        group.throughput(Throughput::Bytes(len));
        if len > 10 << 20 {
            group.sample_size(10);
        }
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(guest.read_file(format!("/{name}")).expect("it is there")));
        });
    }
}

fn checksum(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let guest = mounted(&images.raw);
    let mut group = criterion.benchmark_group("checksum");
    for algorithm in ["crc", "md5", "sha1", "sha256", "sha512", "blake3", "xxh3"] {
        for (name, len) in [("1M", 1_u64 << 20), ("100M", 100 << 20)] {
            group.throughput(Throughput::Bytes(len)).sample_size(10);
            group.bench_function(BenchmarkId::new(algorithm, name), |bencher| {
                bencher.iter(|| black_box(guest.checksum(algorithm, format!("/{name}")).expect("it is there")));
            });
        }
    }
    group.bench_function("tree", |bencher| {
        bencher.iter(|| guest.checksums("sha256", "/etc", |file| file.sum.map(drop)).expect("all can be read"));
    });
}

fn listing(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let guest = mounted(&images.raw);
    let mut group = criterion.benchmark_group("listing");
    group.bench_function("ls_100", |bencher| bencher.iter(|| black_box(guest.ls("/etc/group-07").expect("a folder"))));
    group.bench_function("walk_2000", |bencher| {
        bencher.iter(|| {
            let mut size = 0;
            let visit = |file: guestctl::tree::Visited<'_>| {
                size += file.attr.size;
                Ok(guestctl::tree::Visit::Enter)
            };
            guest.walk("/", visit).expect("all can be read");
            black_box(size)
        });
    });
}

fn find(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let guest = mounted(&images.raw);
    criterion.benchmark_group("find").bench_function("2000", |bencher| {
        bencher.iter(|| black_box(guest.find("/").expect("all can be read")));
    });
    criterion.benchmark_group("find").bench_function("2000_cold", |bencher| {
        bencher.iter_batched(
            || mounted(&images.raw),
            |guest| guest.find("/").expect("all can be read"),
            BatchSize::PerIteration,
        );
    });
}

fn tar_out(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let guest = mounted(&images.raw);
    let mut group = criterion.benchmark_group("tar_out");
    group.sample_size(10);
    for compression in ["none", "gzip", "zstd"] {
        group.bench_function(compression, |bencher| {
            bencher.iter(|| guest.tar_out_opts("/etc", "/dev/null", Some(compression)).expect("all can be read"));
        });
    }
}

/// Makes an empty ext4 filesystem for a group that writes, and mounts it.
fn empty_guest(path: &Path, group: &str) -> Option<Guestfs> {
    let mut guest = writable(path, 512);
    match guest.mkfs("ext4", "/dev/sda").and_then(|()| guest.mount("/dev/sda", "/")) {
        Ok(()) => Some(guest),
        Err(error) => {
            eprintln!("{group} is left out: {error}");
            None
        }
    }
}

fn file_write(criterion: &mut Criterion) {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(guest) = empty_guest(&folder.path().join("disk.img"), "file_write") else { return };
    let mut group = criterion.benchmark_group("file_write");
    for (name, len) in
        [("1K", 1_usize << 10), ("64K", 64 << 10), ("1M", 1 << 20), ("10M", 10 << 20), ("100M", 100 << 20)]
    {
        let contents = bytes(len);
        group.throughput(Throughput::Bytes(len as u64));
        if len > 1 << 20 {
            group.sample_size(10);
        }
        group.bench_function(name, |bencher| bencher.iter(|| guest.write("/file", &contents).expect("there is room")));
    }
    let contents = bytes(1 << 20);
    group.throughput(Throughput::Bytes(1 << 20)).sample_size(10);
    group.bench_function("1M_sync", |bencher| {
        bencher.iter(|| guest.write("/file", &contents).and_then(|()| guest.sync()).expect("there is room"));
    });
}

fn tar_in(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let folder = TempDir::new().expect("a temporary folder");
    let from = mounted(&images.raw);
    let Some(guest) = empty_guest(&folder.path().join("disk.img"), "tar_in") else { return };
    let archive = folder.path().join("etc.tar");
    let mut group = criterion.benchmark_group("tar_in");
    group.sample_size(10);
    for compression in ["none", "gzip", "zstd"] {
        from.tar_out_opts("/etc", &archive, Some(compression)).expect("all can be read");
        group.bench_function(compression, |bencher| {
            let empty = || {
                guest.rm_rf("/etc").expect("it is ours");
                guest.mkdir("/etc").expect("there is room");
            };
            bencher.iter_batched(
                empty,
                |()| guest.tar_in(&archive, "/etc").expect("there is room"),
                BatchSize::PerIteration,
            );
        });
    }
}

fn conversion(criterion: &mut Criterion) {
    let Some(images) = images() else { return };
    let mut group = criterion.benchmark_group("convert");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    let to = images.folder.path().join("converted");
    let qcow2 = Some(ImageFormat::Qcow2 { version: 3 });
    for (name, format, compress) in [
        ("raw", Some(ImageFormat::Raw), None),
        ("qcow2", qcow2, None),
        ("qcow2_zlib", qcow2, Some(Compression::Zlib)),
        ("qcow2_zstd", qcow2, Some(Compression::Zstd)),
    ] {
        let options = ConvertOptions { format, compress, force: true, ..ConvertOptions::default() };
        group.bench_function(name, |bencher| {
            bencher.iter(|| convert(text(&images.raw), &to, &options).expect("there is room"));
        });
    }
    // The images go when everything is measured: nothing else does it for a static.
    let _ = fs::remove_file(&to);
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = disk_creation, partition_creation, mkfs, launch_shutdown, mount, file_read, checksum, listing, find,
        tar_out, file_write, tar_in, conversion
}
criterion_main!(benches);
