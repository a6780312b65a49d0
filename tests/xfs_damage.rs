//! The XFS driver against damaged images: thousands of changed bytes in metadata, often with checksums made right again, and
//! images that are cut short. Nothing may panic, hang or take much memory; errors are what is expected.

mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/xfs.rs"]
mod xfs;

use guestctl::block::{BlockDevice, MemoryDevice, SharedDevice};
use guestctl::bytes::{be16, be32, set_be32, set_be64};
use guestctl::error::{Error, Result};
use guestctl::fs::xfs::{Xfs, probe};
use guestctl::fs::{FileType, Filesystem, Ino};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xfs::{Mount, make_image, options, run, text, try_run};

/// A device of shared bytes with a few of its own over them.
struct Changed {
    bytes: Arc<Vec<u8>>,
    size: u64,
    sectors: BTreeMap<u64, [u8; 512]>,
}

impl Changed {
    fn new(bytes: &Arc<Vec<u8>>) -> Self {
        Self { bytes: Arc::clone(bytes), size: bytes.len() as u64, sectors: BTreeMap::new() }
    }

    fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(&mut bytes, offset).expect("inside");
        bytes
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let sector = at / 512;
            let start = sector as usize * 512;
            let held = self
                .sectors
                .entry(sector)
                .or_insert_with(|| self.bytes[start..start + 512].try_into().expect("a sector"));
            held[(at % 512) as usize] = *byte;
        }
    }
}

impl BlockDevice for Changed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size);
        let end = end.ok_or_else(|| Error::io("past the end", std::io::ErrorKind::UnexpectedEof.into()))?;
        buf.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        for (&sector, bytes) in self.sectors.range(offset / 512..end.div_ceil(512)) {
            let start = sector * 512;
            let (from, to) = (start.max(offset), (start + 512).min(end));
            buf[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&bytes[(from - start) as usize..(to - start) as usize]);
        }
        Ok(())
    }
}

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Metadata in an image: where it is, how long, and where its checksum lies.
#[derive(Clone, Copy, Debug)]
struct Site {
    offset: u64,
    len: usize,
    checksum: Option<usize>,
}

/// Looks for metadata in an image of version 5 with blocks of 1 KiB and inodes of 512 bytes.
fn sites(bytes: &[u8]) -> Vec<Site> {
    let mut found = Vec::new();
    for (number, sector) in bytes.chunks_exact(512).enumerate() {
        let offset = number as u64 * 512;
        let mut site = |len, checksum| found.push(Site { offset, len, checksum });
        match &sector[..4] {
            b"XFSB" if offset == 0 => site(512, Some(224)),
            b"XAGF" => site(512, Some(216)),
            b"XAGI" => site(512, Some(312)),
            b"IAB3" => site(1024, Some(52)),
            b"BMA3" => site(1024, Some(64)),
            b"XDB3" | b"XDD3" => site(1024, Some(4)),
            b"XSLM" | b"XARM" => site(1024, Some(12)),
            _ if sector[..2] == *b"IN" && be16(sector, 2) != 0 => site(512, Some(100)),
            _ if matches!(be16(sector, 8), 0x3ebe | 0x3df1 | 0x3dff | 0x3bee) => site(1024, Some(12)),
            _ if be32(sector, 0) == 0xfeed_babe && be32(sector, 12) > 0 => {
                site(512 + (be32(sector, 12) as usize).min(60_000), None);
            }
            _ => {}
        }
    }
    found
}

fn sum(device: &mut Changed, site: Site) {
    let mut bytes = device.get(site.offset, site.len);
    if let Some(at) = site.checksum {
        bytes[at..at + 4].fill(0);
        let sum = crc32c::crc32c(&bytes);
        device.put(site.offset + at as u64, &sum.to_le_bytes());
    } else {
        // A record of the log whose header fits in one block.
        let len = be32(&bytes, 12) as usize;
        if len <= 32 << 10 && len + 512 <= bytes.len() {
            bytes[32..36].fill(0);
            let sum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..328]), &bytes[512..512 + len]);
            device.put(site.offset + 32, &sum.to_le_bytes());
        }
    }
}

/// Changes a few bytes of a place.
fn change(device: &mut Changed, site: Site, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(3) {
        // The beginning holds counts and pointers; the first words, whose change is seen at once, are mostly left.
        let reach = if numbers.below(3) == 0 { site.len } else { site.len.min(256) } as u64;
        let at = site.offset + (4 + numbers.below(reach - 12)) / [1, 2, 4][numbers.below(3) as usize];
        let mut bytes = device.get(at, 8);
        match numbers.below(7) {
            0 => bytes[0] ^= 1 << numbers.below(8),
            1 => bytes[0] = numbers.below(256) as u8,
            2 => bytes[..2].fill(0xff),
            3 => bytes[..4].fill([0, 0x7f, 0xff][numbers.below(3) as usize]),
            4 => set_be32(&mut bytes, 0, numbers.below(1 << 20) as u32),
            5 => set_be64(&mut bytes, 0, 1 << numbers.below(64)),
            _ => bytes.rotate_left(1),
        }
        device.put(at, &bytes);
    }
    if numbers.below(5) > 0 {
        sum(device, site);
    }
}

/// Uses everything of a filesystem that can be used; returns how many calls went well.
fn use_all(filesystem: &dyn Filesystem) -> usize {
    let mut well = 0;
    let mut note = |fine: bool| well += usize::from(fine);
    note(filesystem.statfs().is_ok());
    let mut left = vec![filesystem.root()];
    let mut seen = BTreeSet::new();
    let mut buf = vec![0; 70_000];
    while let Some(ino) = left.pop() {
        if !seen.insert(ino) || seen.len() > 400 {
            continue;
        }
        filesystem.disk_order(ino);
        filesystem.prefetch(ino, 0, 1 << 20);
        let names = filesystem.xattrs(ino);
        note(names.is_ok());
        for name in names.unwrap_or_default().iter().take(200) {
            note(filesystem.xattr(ino, name).is_ok());
        }
        let Ok(attr) = filesystem.attr(ino) else { continue };
        note(true);
        match attr.file_type {
            FileType::Regular => {
                for at in [0, 5000, attr.size / 2, attr.size.saturating_sub(50_000), attr.size, u64::MAX - 3] {
                    note(filesystem.read(ino, at, &mut buf).is_ok());
                    note(filesystem.next_data(ino, at).is_ok());
                    note(filesystem.next_hole(ino, at).is_ok());
                }
            }
            FileType::Symlink => note(filesystem.read_link(ino).is_ok()),
            FileType::Directory => use_directory(filesystem, ino, &mut left, &mut note),
            _ => {}
        }
    }
    well
}

fn use_directory(filesystem: &dyn Filesystem, ino: Ino, left: &mut Vec<Ino>, note: &mut dyn FnMut(bool)) {
    note(filesystem.parent(ino).is_ok());
    let mut names = Vec::new();
    let mut cookies = vec![0, 7, u64::MAX];
    let listed = filesystem.read_dir(ino, 0, &mut |entry| {
        names.push(entry.name.to_vec());
        left.push(entry.ino);
        cookies.push(entry.next_cookie);
        if names.len() > 5000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    note(listed.is_ok());
    for name in names.iter().step_by((names.len() / 40).max(1)) {
        note(filesystem.lookup(ino, name).is_ok());
    }
    note(filesystem.lookup(ino, b"not there").is_err());
    for cookie in cookies.iter().step_by((cookies.len() / 10).max(1)) {
        let mut count = 0;
        let listed = filesystem.read_dir(ino, *cookie, &mut |_| {
            count += 1;
            if count > 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        note(listed.is_ok());
    }
}

/// Fills a mounted filesystem with a little of everything.
fn fill(root: &Path) {
    let target = root.join("target");
    fs::write(&target, "x".repeat(3000)).expect("writes");
    for count in [2, 20, 120, 900] {
        let folder = root.join(format!("folder-{count}"));
        fs::create_dir(&folder).expect("makes");
        for number in 0..count {
            fs::hard_link(&target, folder.join(format!("a name with the number {number}"))).expect("links");
        }
    }
    // Names of one hash, in several leaves.
    let alike = root.join("alike");
    fs::create_dir(&alike).expect("makes");
    for number in 0..512_u32 {
        let name: String = (0..9).map(|bit| if number >> bit & 1 == 0 { "axcd" } else { "hxcd" }).collect();
        fs::hard_link(&target, alike.join(name)).expect("links");
    }
    let fragmented = File::create(root.join("fragmented")).expect("makes");
    for number in 0..1500 {
        fragmented.write_all_at(&[number as u8; 100], number * 2048).expect("writes");
    }
    for number in 0..20 {
        let file = File::create(root.join(format!("file {number}"))).expect("makes");
        file.write_all_at(&[number; 5000], u64::from(number) * 10_000).expect("writes");
    }
    for len in [10, 900] {
        symlink("y".repeat(len), root.join(format!("link-{len}"))).expect("links");
    }
    for (name, count, size) in [("few", 2, 5), ("leaf", 10, 30), ("node", 100, 40), ("remote", 3, 5000)] {
        let path = root.join(format!("xattr-{name}"));
        fs::write(&path, name).expect("writes");
        let lines: String =
            (0..count).map(|number| format!("user.number{number}=\"{}\"\n", "v".repeat(size))).collect();
        let dump = root.join("dump");
        fs::write(&dump, format!("# file: {}\n{lines}", text(&path))).expect("writes");
        run("setfattr", &[&format!("--restore={}", text(&dump))]);
        drop(try_run("setfacl", &["-m", "u:1000:rwx", text(&path)]));
    }
}

/// The bytes of a filled image, clean and with a log to be replayed. `None` where none can be made.
fn images() -> Option<&'static [Arc<Vec<u8>>; 2]> {
    static IMAGES: OnceLock<Option<[Arc<Vec<u8>>; 2]>> = OnceLock::new();
    let images = IMAGES.get_or_init(|| {
        let tools = ["mkfs.xfs", "xfs_io", "setfattr"].iter().all(|tool| common::has_tool(tool));
        if !common::is_root() || !tools {
            return None;
        }
        let temp = TempDir::new().expect("a folder");
        let (image, dir) = (temp.path().join("disk.img"), temp.path().join("mnt"));
        let args = ["-b", "size=1024", "-d", "agcount=2", "-l", "size=10m", "-i", "nrext64=1"];
        if !make_image(&image, 48 << 20, &args) {
            return None;
        }
        let mount = Mount::new(&image, &dir, "rw")?;
        fill(mount.path());
        drop(mount);
        let clean = fs::read(&image).expect("reads");
        let mount = Mount::new(&image, &dir, "rw")?;
        fs::create_dir(mount.path().join("more")).expect("makes");
        fill(&mount.path().join("more"));
        run("xfs_io", &["-x", "-c", "shutdown -f", text(mount.path())]);
        drop(mount);
        Some([Arc::new(clean), Arc::new(fs::read(&image).expect("reads"))])
    });
    if images.is_none() {
        common::skip("no image of XFS can be made and filled");
    }
    images.as_ref()
}

/// Lets the process have no more memory than a hostile image should be able to make it take.
fn limit_memory() {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30).expect("is less than before");
}

/// Opens and uses an image; returns how many calls went well.
fn try_device(device: Changed, what: &str) -> usize {
    let begun = Instant::now();
    let device: SharedDevice = Arc::new(device);
    drop(probe(&device));
    let well = Xfs::open(device, &options()).map_or(0, |filesystem| use_all(&filesystem));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{what} takes {took:?}");
    well
}

/// Changes images at such places, as often as `cases` says.
fn damage(bytes: &Arc<Vec<u8>>, sites: &[Site], cases: u64, seed: u64) {
    limit_memory();
    assert!(sites.len() > 3, "there is metadata");
    let whole = try_device(Changed::new(bytes), "the whole image");
    assert!(whole > 500, "{whole} calls went well on the whole image");
    let worker = |first: u64| {
        let mut less = 0;
        for case in (first..cases).step_by(2) {
            let mut numbers = Numbers(seed.wrapping_add(case).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut device = Changed::new(bytes);
            for _ in 0..=numbers.below(2) {
                change(&mut device, sites[numbers.below(sites.len() as u64) as usize], &mut numbers);
            }
            less += usize::from(try_device(device, &format!("case {case} of seed {seed}")) < whole);
        }
        less
    };
    let less = thread::scope(|scope| {
        let other = scope.spawn(|| worker(1));
        worker(0) + other.join().expect("does not panic")
    });
    println!("{less} of {cases} changes were noticed");
    assert!(less > 0);
}

/// Takes as many places of a kind as of any other, so that inodes do not crowd out the rest.
fn evenly(bytes: &[u8]) -> Vec<Site> {
    let mut kinds: BTreeMap<(usize, Option<usize>), Vec<Site>> = BTreeMap::new();
    for site in sites(bytes).into_iter().filter(|site| site.checksum.is_some()) {
        kinds.entry((site.len, site.checksum)).or_default().push(site);
    }
    let most = kinds.values().map(Vec::len).max().unwrap_or(0);
    kinds.values().flat_map(|sites| sites.iter().cycle().take(most)).copied().collect()
}

#[test]
fn damaged_metadata_is_an_error_and_nothing_worse() {
    let Some([clean, _]) = images() else { return };
    damage(clean, &evenly(clean), 6000, 1);
}

/// What the driver reads in the places that [`sites`] finds, by the first bytes of each.
fn kind(bytes: &[u8], site: Site) -> &'static str {
    let place = &bytes[site.offset as usize..];
    match &place[..4] {
        b"XFSB" => "superblock",
        b"XAGF" => "free space",
        b"XAGI" => "inode index",
        b"IAB3" => "B-tree of inodes",
        b"BMA3" => "B-tree of extents",
        b"XDB3" => "directory of one block",
        b"XDD3" => "directory data",
        b"XSLM" => "symbolic link",
        b"XARM" => "remote attribute",
        _ if place[..2] == *b"IN" => "inode",
        _ => match be16(place, 8) {
            0x3df1 | 0x3dff => "directory leaf",
            0x3bee => "attribute leaf",
            _ => "node",
        },
    }
}

#[test]
fn a_flipped_bit_in_metadata_of_any_kind_costs_what_lies_there_and_nothing_else() {
    let Some([clean, _]) = images() else { return };
    let open = |device| Xfs::open(Arc::new(device), &options());
    let whole = damage::read_tree(&open(Changed::new(clean)).expect("opens"));
    let mut kinds: BTreeMap<&str, Vec<Site>> = BTreeMap::new();
    for site in sites(clean).into_iter().filter(|site| site.checksum.is_some()) {
        kinds.entry(kind(clean, site)).or_default().push(site);
    }
    let mut noticed = BTreeSet::new();
    for (kind, sites) in kinds {
        for site in sites.iter().step_by((sites.len() / 6).max(1)) {
            let what = format!("a bit of the {kind} at {}", site.offset);
            let mut device = Changed::new(clean);
            let at = site.offset + site.len as u64 / 2 + 3;
            let flipped = device.get(at, 1)[0] ^ 0x10;
            device.put(at, &[flipped]);
            match open(device) {
                Ok(filesystem) => {
                    let loss = damage::compare(&whole, &damage::read_tree(&filesystem), &what);
                    println!("{what}: {} parts as before, {} refused: {}", loss.same, loss.refused, loss.said);
                    if loss.refused > 0 {
                        noticed.insert(kind);
                        assert!(loss.hides_all || loss.same > 600, "{what}: {loss:?}");
                    }
                }
                Err(error) => {
                    println!("{what}: not opened: {error}");
                    assert!(
                        ["superblock", "inode"].contains(&kind) && !error.to_string().contains('\n'),
                        "{what}: {error}"
                    );
                    noticed.insert(kind);
                }
            }
        }
    }
    for kind in
        ["superblock", "inode", "B-tree of extents", "directory data", "directory of one block", "attribute leaf"]
    {
        assert!(noticed.contains(kind), "{kind}: {noticed:?}");
    }
    assert!(noticed.contains("symbolic link") && noticed.contains("remote attribute"), "{noticed:?}");
}

#[test]
fn a_damaged_log_is_an_error_and_nothing_worse() {
    let Some([_, dirty]) = images() else { return };
    let sites: Vec<_> = sites(dirty).into_iter().filter(|site| site.checksum.is_none()).collect();
    damage(dirty, &sites, 1000, 2);
}

#[test]
fn damaged_metadata_below_a_log_is_an_error_and_nothing_worse() {
    let Some([_, dirty]) = images() else { return };
    damage(dirty, &evenly(dirty), 1000, 3);
}

#[test]
fn an_image_cut_short_is_an_error_and_nothing_worse() {
    let Some([clean, dirty]) = images() else { return };
    let mut numbers = Numbers(5);
    for bytes in [clean, dirty] {
        for size in [0, 1, 511, 512, 513, 1024, 4096, 1 << 20, 24 << 20, (48 << 20) - 512] {
            let mut device = Changed::new(bytes);
            device.size = size;
            try_device(device, &format!("{size} bytes"));
        }
        for _ in 0..40 {
            let mut device = Changed::new(bytes);
            device.size = numbers.below(bytes.len() as u64);
            try_device(device, "a part");
        }
    }
}

#[test]
fn what_is_no_xfs_is_told_so() {
    for bytes in [vec![], vec![0; 100], vec![0; 1 << 16], vec![0xff; 1 << 16]] {
        let device: SharedDevice = Arc::new(MemoryDevice::new(bytes));
        assert_eq!(probe(&device).expect("reads"), None);
        assert!(matches!(Xfs::open(device, &options()), Err(Error::NotAnImage(_))));
    }
}

#[test]
fn a_device_that_fails_is_an_error_of_the_host() {
    struct Failing(Changed, u64);
    impl BlockDevice for Failing {
        fn size(&self) -> u64 {
            self.0.size
        }
        fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            if offset + buf.len() as u64 > self.1 {
                return Err(Error::io("a bad sector", std::io::ErrorKind::Other.into()));
            }
            self.0.read_at(buf, offset)
        }
    }
    let Some([clean, _]) = images() else { return };
    let device: SharedDevice = Arc::new(Failing(Changed::new(clean), 256 << 10));
    assert!(matches!(Xfs::open(device, &options()), Err(Error::Io { .. })));
}
