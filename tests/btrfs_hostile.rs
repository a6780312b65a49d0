//! Btrfs images made to do harm: thousands of mutations with checksums that are right. No answer may be a panic, a hang or
//! memory that the image chose.

mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/btrfs.rs"]
mod support;

use damage::Patched;
use guestctl::fs::btrfs::{self, Btrfs, Subvolume};
use guestctl::fs::{FileType, Filesystem, Ino};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Mounted, can_mount, make, options, run, script};

/// The largest piece of memory that was asked for.
static LARGEST: AtomicUsize = AtomicUsize::new(0);

struct Watched;

// SAFETY: everything is the system's; only a number is noted besides.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

const ODD: [u64; 14] = [0, 1, 2, 5, 6, 255, 256, 4096, 65536, 1 << 31, 1 << 40, 1 << 63, u64::MAX - 4095, u64::MAX];

/// Changes a block in one of many ways, and makes its checksum right again.
fn mutate(block: &mut [u8], used: &[std::ops::Range<usize>], numbers: &mut Numbers) {
    let range = used[numbers.below(used.len())].clone();
    let at = range.start + numbers.below(range.len().max(1));
    let at = at.min(block.len() - 1);
    match numbers.below(5) {
        0 | 1 => block[at] ^= 1 << numbers.below(8),
        2 => block[at] = numbers.next() as u8,
        3 => {
            let width = [1, 2, 4, 8][numbers.below(4)].min(block.len() - at);
            let value = ODD[numbers.below(ODD.len())].wrapping_add(numbers.next() % 3);
            block[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        }
        _ => {
            let other = used[numbers.below(used.len())].clone();
            let from = other.start + numbers.below(other.len().max(1));
            let len = numbers.below(40).min(block.len() - at.max(from).min(block.len()));
            block.copy_within(from..from + len, at);
        }
    }
    let sum = crc32c::crc32c(&block[32..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
}

/// Which parts of a tree block are in use.
fn used_of(block: &[u8]) -> Vec<std::ops::Range<usize>> {
    let count = u32::from_le_bytes(block[96..100].try_into().expect("4 bytes")) as usize;
    let width = if block[100] == 0 { 25 } else { 33 };
    let mut used = vec![48..101, 101..101 + count * width, 101..101 + count * width];
    for item in block[101..101 + count * width].chunks(width).filter(|_| width == 25) {
        let of = |at: usize| u32::from_le_bytes(item[at..at + 4].try_into().expect("4 bytes")) as usize;
        used.push(101 + of(17)..101 + of(17) + of(21));
    }
    used
}

/// Does everything that can be done with a tree.
fn visit(filesystem: &dyn Filesystem) {
    let mut waiting: Vec<(Ino, usize)> = vec![(filesystem.root(), 0)];
    let mut left = 150;
    let mut seen = HashSet::new();
    let mut buf = vec![0; 128 << 10];
    let _ = filesystem.statfs();
    while let Some((ino, depth)) = waiting.pop() {
        left -= 1;
        if left == 0 {
            return;
        }
        if let Ok(names) = filesystem.xattrs(ino) {
            for name in names.iter().take(20) {
                let _ = filesystem.xattr(ino, name);
            }
        }
        filesystem.disk_order(ino);
        let Ok(attr) = filesystem.attr(ino) else { continue };
        match attr.file_type {
            FileType::Directory => {
                let _ = filesystem.parent(ino);
                let mut names = Vec::new();
                let _ = filesystem.read_dir(ino, 0, &mut |entry| {
                    names.push(entry.name.to_vec());
                    if names.len() < 300 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                for name in names {
                    if let Ok(child) = filesystem.lookup(ino, &name)
                        && depth < 12
                        && seen.insert(child.ino)
                    {
                        waiting.push((child.ino, depth + 1));
                    }
                }
            }
            FileType::Symlink => {
                let _ = filesystem.read_link(ino);
            }
            _ => {
                for at in [0, 128 << 10, attr.size / 2, attr.size.saturating_sub(5000), u64::MAX - 10] {
                    let _ = filesystem.read(ino, at, &mut buf);
                }
                let _ = filesystem.read(ino, 4097, &mut buf[..100]);
                let mut at = 0;
                for _ in 0..50 {
                    let next = filesystem.next_data(ino, at).and_then(|data| filesystem.next_hole(ino, data));
                    match next {
                        Ok(next) => at = next,
                        Err(_) => break,
                    }
                }
                filesystem.prefetch(ino, 0, 1 << 20);
            }
        }
    }
}

fn build(folder: &Path) -> Vec<u8> {
    let image = folder.join("image");
    let crashed = folder.join("crashed");
    make(&image, 128, &["-m", "single", "-d", "single", "-n", "4096"]);
    let mounted = Mounted::new(&image, "noatime,commit=300,compress=lzo");
    script(
        mounted.path(),
        "seq 1 60000 > lzo; seq 1 40 > small; mkdir -p a/b many; ln small a/hard; ln -s target link; truncate -s 100000000 sparse
        head -c 300000 /dev/urandom > random; : > nocow; chattr +C nocow; seq 1 30000 > nocow; fallocate -l 300000 prealloc
        for n in $(seq 1 120); do echo $n > many/some-name-$n; ln small a/another-name-that-is-long-$n; done
        setfattr -n user.a -v b small; setfattr -n user.b -v c small; btrfs subvolume create sub >&2; seq 1 9000 > sub/file
        btrfs subvolume snapshot . snap >&2; btrfs subvolume set-default . ; mkfifo pipe
        : > zstd; btrfs property set zstd compression zstd; seq 1 50000 > zstd; : > zlib; btrfs property set zlib compression zlib; seq 2 50000 > zlib
        sync -f .; seq 1 20000 >> small; sync small; mv a/hard a/b; echo n > many/new; sync many; sync many/new; sync a/b/hard; sync a
        rm many/some-name-5; sync many; fallocate -p -o 4096 -l 20000 random; sync random; seq 3 9 > sub/new; sync sub/new",
    );
    run("cp", &["--sparse=always".as_ref(), image.as_os_str(), crashed.as_os_str()]);
    drop(mounted);
    std::fs::read(crashed).expect("reads")
}

#[test]
fn mutated_images_are_refused_or_read_without_harm() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let base = Arc::new(build(folder.path()));
    drop(folder);
    let fsid = base[(64 << 10) + 0x20..][..16].to_vec();
    let nodes: Vec<usize> = (1 << 20..base.len())
        .step_by(4096)
        .filter(|&at| base[at + 32..at + 48] == fsid[..])
        .filter(|&at| crc32c::crc32c(&base[at + 32..at + 4096]).to_le_bytes() == base[at..at + 4])
        .collect();
    assert!(nodes.len() > 30, "{} tree blocks", nodes.len());
    let whole = Patched { base: Arc::clone(&base), patches: BTreeMap::new() };
    let whole = Btrfs::open(Arc::new(whole), &[], None, &options()).expect("opens");
    assert!(whole.info().warnings[0].contains("replayed"), "{:?}", whole.info().warnings);
    visit(&whole);

    let first = std::env::var("GUESTCTL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    let rounds = std::env::var("GUESTCTL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1200);
    LARGEST.store(0, Ordering::Relaxed);
    let (mut slowest, mut opened) = (Duration::ZERO, 0);
    for seed in first..first + rounds {
        let mut numbers = Numbers(seed);
        let mut patches = BTreeMap::new();
        for _ in 0..1 + numbers.below(3) {
            let (at, len) = match numbers.below(12) {
                0 => (64 << 10, 4096),
                _ => (nodes[numbers.below(nodes.len())], 4096),
            };
            let block = patches.entry(at).or_insert_with(|| base[at..at + len].to_vec());
            // The fields of a superblock, and its system chunks.
            let used = if at == 64 << 10 { vec![32..0x12b, 0x32b..0x3b0] } else { used_of(&base[at..at + len]) };
            mutate(block, &used, &mut numbers);
        }
        // Damage to data that has no checksum, or a stream that it does not guard.
        let device = Arc::new(Patched { base: Arc::clone(&base), patches });
        let start = Instant::now();
        let _ = btrfs::probe(&*device);
        let top = Subvolume::Id(5);
        let subvolume = if seed % 2 == 0 { None } else { Some(&top) };
        if let Ok(filesystem) = Btrfs::open(device, &[], subvolume, &options()) {
            opened += 1;
            visit(&filesystem);
            let _ = filesystem.subvolumes();
        }
        if start.elapsed() > Duration::from_millis(200) {
            println!("seed {seed} took {:?}", start.elapsed());
        }
        slowest = slowest.max(start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(5), "seed {seed} took {:?}", start.elapsed());
        let largest = LARGEST.load(Ordering::Relaxed);
        assert!(largest < 16 << 20, "seed {seed} asked for {largest} bytes");
    }
    println!("{opened} of {rounds} opened, the slowest took {slowest:?}");
    assert!(opened > rounds / 2, "{opened} of {rounds} opened");
}
