//! qcow2 images written by us: checked by QEMU, against a model in memory, after crashes at any point and on a full disk.

mod common;
#[path = "common/images.rs"]
mod images;

use guestctl::block::qcow2::{self, FileStorage, Header, Parts, Qcow2, Storage};
use guestctl::block::{BlockDevice, OpenOptions, SharedDevice, Via, open};
use guestctl::cache::CachePool;
use guestctl::{Error, Result};
use images::{Check, Random, assert_same, check, convert, make_raw, qemu_img, run};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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

fn open_writable(path: &Path) -> SharedDevice {
    let options = OpenOptions { writable: true, discard: true, via: Via::Native, ..OpenOptions::default() };
    open(path, &options).expect("opens").device
}

fn read_disk(device: &dyn BlockDevice) -> Vec<u8> {
    let mut disk = vec![0xee; device.size() as usize];
    device.read_at(&mut disk, 0).expect("reads");
    disk
}

/// A range of the disk, and what one random operation did to it.
enum Done {
    Written,
    /// Its content is not defined.
    Discarded,
    Flushed,
}

/// Does one random operation to a device and to its model.
fn step(device: &dyn BlockDevice, model: &mut [u8], random: &mut Random, cluster: u64) -> Result<(Done, u64, u64)> {
    let size = model.len() as u64;
    // Ranges around the cluster size, whole clusters among them; or a few sectors.
    let unit = [1, 512, 512, cluster][random.below(4) as usize];
    let at = random.below(size / unit) * unit;
    let most = [cluster / 2, cluster * 3, 70_000][random.below(3) as usize].max(unit);
    let len = ((1 + random.below(most / unit)) * unit).min(size - at);
    let range = at as usize..(at + len) as usize;
    match random.below(12) {
        0..=6 => {
            let bytes = random.bytes(len as usize);
            device.write_at(&bytes, at)?;
            model[range].copy_from_slice(&bytes);
        }
        7 | 8 => {
            device.write_zeroes(at, len, random.below(2) == 0)?;
            model[range].fill(0);
        }
        9 | 10 => {
            device.discard(at, len)?;
            // Not defined, so that the device itself says what it is from now on.
            device.read_at(&mut model[range], at)?;
            return Ok((Done::Discarded, at, len));
        }
        _ => {
            device.flush()?;
            return Ok((Done::Flushed, 0, 0));
        }
    }
    Ok((Done::Written, at, len))
}

/// Writes at random to an image and checks it: the bytes as we read them, as QEMU does, and every refcount.
fn exercise(path: &Path, seed: u64, steps: u32) {
    let what = format!("seed {seed}");
    let mut model = convert(path);
    let mut random = Random::new(seed);
    for _ in 0..2 {
        let storage = FileStorage::new(fs::File::open(path).expect("opens"), "image");
        let cluster = Header::read(&storage).expect("a header").cluster_size();
        let device = open_writable(path);
        for number in 0..steps {
            step(&*device, &mut model, &mut random, cluster).expect("works");
            if number % 64 == 0 {
                assert_same(&read_disk(&*device), &model, &what);
            }
        }
        assert_same(&read_disk(&*device), &model, &what);
        drop(device);
        assert_eq!(check(path), Check::default(), "{what}");
        assert_same(&convert(path), &model, &what);
    }
}

#[test]
fn random_writes_keep_images_of_every_kind_sound() {
    needs!("qemu-img");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 5 << 20, 1);
    let kinds = [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=1k,refcount_bits=1",
        "cluster_size=2k,compat=0.10",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=16k,refcount_bits=4",
        "cluster_size=64k",
        "cluster_size=64k,lazy_refcounts=on",
        "cluster_size=64k,preallocation=metadata",
        "cluster_size=256k,refcount_bits=8",
        "cluster_size=2M,refcount_bits=32",
    ];
    for (number, kind) in kinds.into_iter().enumerate() {
        let seed = number as u64 * 10;
        qemu_img(&format!("create -f qcow2 -o {kind} image {}", (6 << 20) + 512 * 77), folder.path());
        exercise(&folder.path().join("image"), seed, 150);
        let base = if kind.contains("preallocation") { "" } else { "-b raw -F raw" };
        qemu_img(&format!("create -f qcow2 -o {kind} {base} image 6M"), folder.path());
        exercise(&folder.path().join("image"), seed + 1, 150);
    }
}

#[test]
fn compressed_clusters_are_copied_when_they_are_written() {
    needs!("qemu-img");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 4 << 20, 2);
    for (seed, options) in ["cluster_size=4k", "cluster_size=64k,compression_type=zstd"].into_iter().enumerate() {
        qemu_img(&format!("convert -c -O qcow2 -o {options} raw image"), folder.path());
        exercise(&folder.path().join("image"), seed as u64 + 200, 200);
    }
}

#[test]
fn an_internal_snapshot_stays_as_it_was() {
    needs!("qemu-img");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 4 << 20, 3);
    for (seed, options) in ["cluster_size=1k", "cluster_size=64k"].into_iter().enumerate() {
        qemu_img(&format!("convert -O qcow2 -o {options} raw image"), folder.path());
        let image = folder.path().join("image");
        let mut kept = Vec::new();
        for name in ["one", "two"] {
            qemu_img(&format!("snapshot -c {name} image"), folder.path());
            kept.push((name, convert(&image)));
            exercise(&image, seed as u64 + 300, 60);
            for (name, disk) in &kept {
                let options = OpenOptions { snapshot: Some((*name).to_owned()), ..OpenOptions::default() };
                assert_same(&read_disk(&*open(&image, &options).expect("opens").device), disk, name);
            }
        }
        for name in ["one", "two"] {
            qemu_img(&format!("snapshot -d {name} image"), folder.path());
            exercise(&image, seed as u64 + 310, 30);
        }
    }
}

#[test]
fn images_that_we_make_are_sound() {
    needs!("qemu-img");
    let folder = folder();
    for (number, (size, cluster)) in
        [(0, 65536), (1 << 20, 512), (100 << 30, 512), (5 << 40, 65536), (7 << 20, 2 << 20)].into_iter().enumerate()
    {
        let path = folder.path().join(format!("image{number}"));
        if let Err(error) = qcow2::create(&path, size, cluster) {
            panic!("{size} bytes in clusters of {cluster}: {error}");
        }
        assert_eq!(check(&path), Check::default(), "{size} bytes in clusters of {cluster}");
        if (1..1 << 30).contains(&size) {
            exercise(&path, number as u64, 50);
        }
    }
    qcow2::create(&folder.path().join("huge"), 1 << 60, 512).expect_err("too large");
    assert!(!folder.path().join("huge").exists());
    qcow2::create(&folder.path().join("image0"), 512, 512).expect_err("it exists");
}

#[test]
fn bitmaps_are_marked_stale_by_a_writer_that_does_not_keep_them() {
    needs!("qemu-img");
    let folder = folder();
    qemu_img("create -f qcow2 image 1M", folder.path());
    qemu_img("bitmap --add image one", folder.path());
    let image = folder.path().join("image");
    assert_ne!(fs::read(&image).expect("reads")[88..96], [0; 8]);
    drop(open_writable(&image));
    assert_eq!(fs::read(&image).expect("reads")[88..96], [0; 8]);
}

#[test]
fn what_only_qemu_writes_is_refused_here() {
    needs!("qemu-img");
    let folder = folder();
    for options in ["extended_l2=on", "data_file=data"] {
        qemu_img(&format!("create -f qcow2 -o {options} image 1M"), folder.path());
        let options = OpenOptions { writable: true, via: Via::Native, ..OpenOptions::default() };
        let error = open(folder.path().join("image"), &options).expect_err("refused");
        assert!(matches!(error.root(), Error::Unsupported(_)), "{error}");
    }
}

#[test]
fn threads_that_write_the_same_clusters_lose_nothing() {
    needs!("qemu-img");
    const THREADS: usize = 6;
    const SIZE: usize = 4 << 20;
    let folder = folder();
    for (round, options) in ["cluster_size=4k", "cluster_size=64k,compat=0.10", "cluster_size=64k"].iter().enumerate() {
        let disk = make_raw(&folder.path().join("raw"), SIZE as u64, 4);
        qemu_img(&format!("create -f qcow2 -o {options} -b raw -F raw image"), folder.path());
        qemu_img("snapshot -c one image", folder.path());
        let image = folder.path().join("image");
        // A cache so small that tables are dropped all the time.
        let options = OpenOptions {
            writable: true,
            discard: true,
            via: Via::Native,
            cache: CachePool::new(600 << 10),
            ..OpenOptions::default()
        };
        let device = open(&image, &options).expect("opens").device;
        let models: Vec<BTreeMap<usize, u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (device, disk) = (&device, &disk);
                    scope.spawn(move || write_own_sectors(&**device, disk, thread, THREADS, round as u64))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut model = disk;
        for (sector, byte) in models.into_iter().flatten() {
            model[sector * 512..(sector + 1) * 512].fill(byte);
        }
        assert_same(&read_disk(&*device), &model, "as we read it");
        drop(device);
        assert_eq!(check(&image), Check::default());
        assert_same(&convert(&image), &model, "as QEMU reads it");
    }
}

/// Writes, zeroes and reads every Nth sector of a disk that others work on too.
fn write_own_sectors(
    device: &dyn BlockDevice,
    disk: &[u8],
    thread: usize,
    threads: usize,
    seed: u64,
) -> BTreeMap<usize, u8> {
    let mut random = Random::new(seed * 100 + thread as u64);
    let mut mine = BTreeMap::new();
    let sectors = disk.len() / 512 / threads;
    let mut buf = [0; 512];
    for number in 0..3000 {
        let sector = random.below(sectors as u64) as usize * threads + thread;
        let at = sector as u64 * 512;
        match random.below(8) {
            0..=4 => {
                let byte = random.next() as u8;
                device.write_at(&[byte; 512], at).expect("writes");
                mine.insert(sector, byte);
            }
            5 => {
                device.write_zeroes(at, 512, number % 2 == 0).expect("zeroes");
                mine.insert(sector, 0);
            }
            _ => {
                device.read_at(&mut buf, at).expect("reads");
                match mine.get(&sector) {
                    Some(&byte) => assert_eq!(buf, [byte; 512], "sector {sector}"),
                    None => assert_eq!(buf, disk[at as usize..at as usize + 512], "sector {sector}"),
                }
            }
        }
        if number % 500 == thread * 50 {
            device.flush().expect("flushes");
        }
    }
    mine
}

#[test]
fn space_given_back_is_used_again_while_others_read_and_write() {
    needs!("qemu-img");
    const PART: u64 = 1 << 20;
    let folder = folder();
    qemu_img("create -f qcow2 -o cluster_size=4k image 4M", folder.path());
    let image = folder.path().join("image");
    let device = open_writable(&image);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let device = &device;
            scope.spawn(move || {
                let mut random = Random::new(thread);
                let mut model = vec![0; PART as usize];
                for _ in 0..1500 {
                    let at = random.below(PART / 4096) * 4096;
                    let len = ((1 + random.below(8)) * 4096).min(PART - at);
                    let range = at as usize..(at + len) as usize;
                    let at = at + thread * PART;
                    match random.below(6) {
                        0 | 1 => {
                            model[range].fill(thread as u8 + 1);
                            device.write_at(&vec![thread as u8 + 1; len as usize], at).expect("writes");
                        }
                        2 | 3 => {
                            model[range].fill(0);
                            device.write_zeroes(at, len, false).expect("zeroes");
                        }
                        4 => {
                            let mut buf = vec![0; len as usize];
                            device.read_at(&mut buf, at).expect("reads");
                            assert!(buf == model[range], "at {at}");
                        }
                        _ if random.below(10) == 0 => device.flush().expect("flushes"),
                        _ => {}
                    }
                }
            });
        }
    });
    let disk = read_disk(&*device);
    drop(device);
    assert_eq!(check(&image), Check::default());
    assert_same(&convert(&image), &disk, "as QEMU reads it");
    let len = fs::metadata(&image).expect("is there").len();
    assert!(len < 9 << 20, "the file has grown to {len} bytes");
}

/// What a host saw.
enum Op {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    Sync,
}

/// A host in memory that remembers everything, and can be full.
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<Op>>,
    limit: AtomicU64,
    fails_to_sync: AtomicBool,
    /// Reads of these many bytes stop here until the lock is free.
    slow_reads: (usize, Mutex<()>),
    /// How many such reads began.
    began: AtomicU64,
}

impl Recorder {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            bytes: Mutex::new(bytes),
            log: Mutex::default(),
            limit: AtomicU64::new(u64::MAX),
            fails_to_sync: AtomicBool::new(false),
            slow_reads: (1234, Mutex::default()),
            began: AtomicU64::new(0),
        })
    }

    fn open(self: &Arc<Self>) -> Qcow2 {
        let header = Header::read(&**self).expect("a header");
        let parts = Parts {
            name: "image".to_owned(),
            data: None,
            backing: None,
            snapshot: None,
            writable: true,
            discard: true,
            cache: CachePool::new(8 << 20),
        };
        Qcow2::open(Arc::clone(self) as Arc<dyn Storage>, header, parts).expect("opens")
    }
}

fn apply(bytes: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(at, data) => {
            let end = *at as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at as usize..end].copy_from_slice(data);
        }
        Op::Punch(at, len) => {
            let end = ((at + len) as usize).min(bytes.len());
            if (*at as usize) < end {
                bytes[*at as usize..end].fill(0);
            }
        }
        Op::Sync => {}
    }
}

impl Storage for Recorder {
    fn size(&self) -> Result<u64> {
        Ok(self.bytes.lock().expect("no panic").len() as u64)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if buf.len() == self.slow_reads.0 {
            self.began.fetch_add(1, Ordering::SeqCst);
            drop(self.slow_reads.1.lock().expect("no panic"));
        }
        let bytes = self.bytes.lock().expect("no panic");
        let start = (offset as usize).min(bytes.len());
        let count = buf.len().min(bytes.len() - start);
        buf[..count].copy_from_slice(&bytes[start..start + count]);
        buf[count..].fill(0);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        if offset + buf.len() as u64 > self.limit.load(Ordering::Relaxed) {
            return Err(Error::io("full", std::io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        let op = Op::Write(offset, buf.to_vec());
        apply(&mut self.bytes.lock().expect("no panic"), &op);
        self.log.lock().expect("no panic").push(op);
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let op = Op::Punch(offset, len);
        apply(&mut self.bytes.lock().expect("no panic"), &op);
        self.log.lock().expect("no panic").push(op);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.fails_to_sync.load(Ordering::Relaxed) {
            return Err(Error::io("sync", std::io::Error::from_raw_os_error(libc::EIO)));
        }
        self.log.lock().expect("no panic").push(Op::Sync);
        Ok(())
    }
}

/// What the host's disk may hold after a crash before operation `end`: all that was synced, and any part of the rest, in
/// sectors of 512 bytes.
fn after_crash(start: &[u8], log: &[Op], end: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = start.to_vec();
    let synced = log[..end].iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    log[..synced].iter().for_each(|op| apply(&mut bytes, op));
    let luck = 1 + random.below(3);
    for op in &log[synced..end] {
        match op {
            Op::Write(at, data) => {
                let mut done = 0;
                while done < data.len() {
                    let place = at + done as u64;
                    let len = (512 - place as usize % 512).min(data.len() - done);
                    if random.below(4) < luck {
                        apply(&mut bytes, &Op::Write(place, data[done..done + len].to_vec()));
                    }
                    done += len;
                }
            }
            op if random.below(4) < luck => apply(&mut bytes, op),
            _ => {}
        }
    }
    bytes
}

#[test]
fn a_crash_at_any_point_leaves_a_sound_image_with_all_that_was_flushed() {
    needs!("qemu-img");
    let folder = folder();
    make_raw(&folder.path().join("raw"), 700 << 10, 5);
    let image = folder.path().join("image");
    for (round, options) in
        ["cluster_size=512,refcount_bits=64", "cluster_size=4k,refcount_bits=16", "cluster_size=64k"].iter().enumerate()
    {
        let snapshot = round != 0;
        let compress = if round == 1 { "-c" } else { "" };
        qemu_img(&format!("convert {compress} -O qcow2 -o {options} raw image"), folder.path());
        qemu_img("resize -q image 1500k", folder.path());
        if snapshot {
            qemu_img("snapshot -c one image", folder.path());
        }
        let start = fs::read(&image).expect("reads");
        let recorder = Recorder::new(start.clone());
        let device = recorder.open();
        let cluster = device.header().cluster_size();
        let mut model = read_disk(&device);
        let mut random = Random::new(round as u64 + 400);
        // After each flush: how long the log was, the disk, and the sectors that change before the next flush.
        let mut flushes = vec![(0, model.clone(), BTreeSet::new())];
        for _ in 0..250 {
            let (done, at, len) = step(&device, &mut model, &mut random, cluster).expect("works");
            if matches!(done, Done::Flushed) {
                let length = recorder.log.lock().expect("no panic").len();
                flushes.push((length, model.clone(), BTreeSet::new()));
            } else if let Some((_, _, touched)) = flushes.last_mut() {
                touched.extend(at / 512..(at + len).div_ceil(512));
            }
        }
        drop(device);
        let log = recorder.log.lock().expect("no panic");
        let syncs: Vec<usize> = (0..log.len()).filter(|&at| matches!(log[at], Op::Sync)).collect();
        for point in 0..if round == 0 { 200 } else { 60 } {
            // Anywhere, and where most is still on its way.
            let end = match point % 2 {
                0 => random.below(log.len() as u64 + 1) as usize,
                _ => syncs[random.below(syncs.len() as u64) as usize],
            };
            let bytes = after_crash(&start, &log, end, &mut random);
            fs::write(&image, &bytes).expect("writes");
            let found = check(&image);
            assert_eq!((found.corruptions, found.errors), (0, 0), "{options}, before operation {end}");
            let (_, disk, touched) = flushes.iter().rfind(|(at, _, _)| *at <= end).expect("the first");
            let now = Recorder::new(bytes);
            let now = now.open();
            let now = read_disk(&now);
            for sector in 0..disk.len() / 512 {
                let range = sector * 512..(sector + 1) * 512;
                assert!(
                    touched.contains(&(sector as u64)) || now[range.clone()] == disk[range],
                    "{options}, before operation {end}: sector {sector} was flushed and is lost"
                );
            }
        }
    }
}

#[test]
fn a_full_disk_gives_an_error_and_harms_nothing() {
    needs!("qemu-img");
    let folder = folder();
    let image = folder.path().join("image");
    for (seed, options) in ["cluster_size=512,refcount_bits=64", "cluster_size=64k"].into_iter().enumerate() {
        qemu_img(&format!("create -f qcow2 -o {options} image 4M"), folder.path());
        let recorder = Recorder::new(fs::read(&image).expect("reads"));
        let device = recorder.open();
        let cluster = device.header().cluster_size();
        let mut model = vec![0; 4 << 20];
        let mut random = Random::new(seed as u64 + 500);
        let mut failures = 0;
        for limit in [600 << 10, 900 << 10, u64::MAX] {
            recorder.limit.store(limit, Ordering::Relaxed);
            for _ in 0..200 {
                let mut next = model.clone();
                match step(&device, &mut next, &mut random, cluster) {
                    Ok(_) => model = next,
                    Err(error) => {
                        assert_eq!(error.errno(), libc::ENOSPC, "{error}");
                        failures += 1;
                        // What a write that failed leaves is not defined.
                        model = read_disk(&device);
                    }
                }
            }
            assert_same(&read_disk(&device), &model, options);
            let bytes = recorder.bytes.lock().expect("no panic").clone();
            fs::write(&image, bytes).expect("writes");
            let found = check(&image);
            assert_eq!((found.corruptions, found.errors), (0, 0), "{options}");
        }
        assert!(failures > 20, "{failures} failures");
        drop(device);
        fs::write(&image, &*recorder.bytes.lock().expect("no panic")).expect("writes");
        assert_eq!(check(&image), Check::default(), "{options}");
        assert_same(&convert(&image), &model, options);
    }
}

#[test]
fn after_a_flush_that_failed_nothing_more_is_written() {
    needs!("qemu-img");
    let folder = folder();
    qemu_img("create -f qcow2 image 1M", folder.path());
    let recorder = Recorder::new(fs::read(folder.path().join("image")).expect("reads"));
    let device = recorder.open();
    device.write_at(&[1; 4096], 0).expect("writes");
    recorder.fails_to_sync.store(true, Ordering::Relaxed);
    device.flush().expect_err("the host fails");
    recorder.fails_to_sync.store(false, Ordering::Relaxed);
    device.flush().expect_err("it is not known what the host holds");
    device.write_at(&[1; 4096], 0).expect_err("refused");
    let mut buf = [0; 4096];
    device.read_at(&mut buf, 0).expect("reads");
    assert_eq!(buf, [1; 4096]);
}

#[test]
fn a_slow_read_never_sees_what_others_write_to_the_place_that_it_looked_up() {
    needs!("qemu-img");
    let folder = folder();
    qemu_img("create -f qcow2 -o cluster_size=4k image 1M", folder.path());
    let recorder = Recorder::new(fs::read(folder.path().join("image")).expect("reads"));
    let device = recorder.open();
    device.write_at(&[1; 4096], 0).expect("writes");
    device.flush().expect("flushes");
    let gate = recorder.slow_reads.1.lock().expect("no panic");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut buf = [0; 1234];
            device.read_at(&mut buf, 0).expect("reads");
            buf
        });
        while recorder.began.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        // The reader waits for the host. What it looked up goes away, and everything is written that can be.
        device.write_zeroes(0, 4096, false).expect("zeroes");
        for cluster in 1..200 {
            device.flush().expect("flushes");
            device.write_at(&[2; 4096], cluster * 4096).expect("writes");
        }
        drop(gate);
        let seen = reader.join().expect("no panic");
        assert!(seen == [1; 1234] || seen == [0; 1234], "the reader saw {:?}", &seen[..4]);
    });
}

#[test]
fn a_table_that_gives_metadata_to_the_disk_does_not_get_it_overwritten() {
    needs!("qemu-io");
    let folder = folder();
    qemu_img("create -f qcow2 image 1M", folder.path());
    let image = folder.path().join("image");
    run("qemu-io", ["-c", "write 0 64k", image.to_str().expect("text")]);
    let mut bytes = fs::read(&image).expect("reads");
    let field = |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let l1 = field(&bytes, 40) as usize;
    let l2 = (field(&bytes, l1) & 0xff_ffff_ffff_fe00) as usize;
    // The disk's first cluster is the L1 table.
    bytes[l2..l2 + 8].copy_from_slice(&(l1 as u64 | 1 << 63).to_be_bytes());
    let before = bytes.clone();
    let recorder = Recorder::new(bytes);
    let device = recorder.open();
    let error = device.write_at(&[0xff; 512], 0).expect_err("refused");
    assert!(matches!(error.root(), Error::Corrupt { .. }), "{error}");
    device.discard(0, 65536).expect("works");
    device.write_at(&[0xff; 512], 0).expect("a new cluster");
    drop(device);
    let after = recorder.bytes.lock().expect("no panic");
    assert_eq!(after[l1..l1 + 8], before[l1..l1 + 8]);
}
