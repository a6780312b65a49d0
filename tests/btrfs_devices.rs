//! Btrfs on several devices: every profile, with devices that are missing, fail, or hold damaged data.

mod common;
#[path = "common/btrfs.rs"]
mod support;

use guestctl::block::{BlockDevice, SharedDevice};
use guestctl::fs::Filesystem;
use guestctl::fs::btrfs::{self, Btrfs};
use guestctl::{Error, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use support::{Lenient, Loops, Mounted, can_mount, compare, device, options, run, script};

const POPULATE: &str =
    "seq 1 200000 > text; head -c 3000000 /dev/urandom > random; mkdir -p a/b; echo small > a/b/small
    seq 1 300000 > packed; chattr +m random; for n in $(seq 1 300); do ln a/b/small a/b/a-somewhat-longer-name-$n; done
    btrfs filesystem defragment -czstd packed >&2; truncate -s 1000000 text; setfattr -n user.a -v b text";

/// Loop devices are few: one test at a time.
static LOOPS: Mutex<()> = Mutex::new(());

fn one_at_a_time() -> MutexGuard<'static, ()> {
    LOOPS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What is wrong with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is not there.
    Missing,
    /// Every read past the first MiB fails.
    Fails,
    /// Every byte past the first MiB is another.
    Damaged,
}

/// A device with something wrong.
struct Faulty {
    device: SharedDevice,
    fault: Fault,
}

impl BlockDevice for Faulty {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset >= 1 << 20 && self.fault == Fault::Fails {
            return Err(Error::io("read", std::io::ErrorKind::Other.into()));
        }
        self.device.read_at(buf, offset)?;
        if offset >= 1 << 20 && self.fault == Fault::Damaged {
            buf.iter_mut().for_each(|byte| *byte ^= 0x5a);
        }
        Ok(())
    }
}

/// A filesystem on several devices, mounted by the kernel.
struct Several {
    _folder: tempfile::TempDir,
    images: Vec<PathBuf>,
    mounted: Option<Mounted>,
    loops: Option<Loops>,
}

impl Several {
    fn new(count: usize, mib: u64, mkfs: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let images: Vec<PathBuf> = (0..count).map(|number| folder.path().join(format!("image{number}"))).collect();
        for image in &images {
            File::create(image).and_then(|file| file.set_len(mib << 20)).expect("an image is made");
        }
        let mut args: Vec<&OsStr> = ["-q", "-f"].map(OsStr::new).to_vec();
        args.extend(mkfs.iter().map(OsStr::new));
        args.extend(images.iter().map(|image| image.as_os_str()));
        run("mkfs.btrfs", &args);
        Self { _folder: folder, images, mounted: None, loops: None }
    }

    /// Mounts the devices of these numbers.
    fn mount(&mut self, numbers: &[usize], options: &str) -> &Mounted {
        self.unmount();
        let images: Vec<PathBuf> = numbers.iter().map(|&number| self.images[number].clone()).collect();
        let loops = self.loops.insert(Loops::new(&images));
        let mut options = options.to_string();
        for device in &loops.devices[1..] {
            options += &format!(",device={}", device.display());
        }
        self.mounted.insert(Mounted::device(&loops.devices[0], &options).expect("mounts"))
    }

    fn unmount(&mut self) {
        self.mounted = None;
        self.loops = None;
    }

    /// Opens the filesystem with faults of devices, by number.
    fn open(&self, faults: &[(usize, Fault)]) -> Result<Btrfs> {
        let mut devices = Vec::new();
        for (number, image) in self.images.iter().enumerate() {
            match faults.iter().find(|(at, _)| *at == number) {
                None => devices.push(device(image)),
                Some((_, Fault::Missing)) => {}
                Some((_, fault)) => devices.push(Arc::new(Faulty { device: device(image), fault: *fault })),
            }
        }
        let first = devices.remove(0);
        Btrfs::open(first, &devices, None, &options())
    }

    fn compare(&self, faults: &[(usize, Fault)]) {
        println!("{faults:?}");
        let filesystem = self.open(faults).expect("opens");
        let is_missing = faults.iter().any(|(_, fault)| *fault == Fault::Missing);
        let warnings = &filesystem.info().warnings;
        assert_eq!(warnings.iter().any(|warning| warning.contains("is missing")), is_missing, "{warnings:?}");
        let mounted = self.mounted.as_ref().expect("mounted");
        assert!(compare(&filesystem, mounted.path(), Lenient::default()) > 300);
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        self.unmount();
    }
}

const FAULTS: [Fault; 3] = [Fault::Missing, Fault::Fails, Fault::Damaged];

/// Compares a profile without faults, and with as many as it bears.
fn check(profile: &str, count: usize, bears: usize) {
    if !can_mount() {
        return;
    }
    let _one = one_at_a_time();
    let mut several = Several::new(count, 200, &["-d", profile, "-m", profile]);
    let all: Vec<usize> = (0..count).collect();
    let mounted = several.mount(&all, "noatime");
    script(mounted.path(), POPULATE);
    several.mount(&all, "ro");
    several.compare(&[]);
    let members: Vec<_> =
        several.images.iter().map(|image| btrfs::member_of(&*device(image)).expect("reads").expect("Btrfs")).collect();
    assert!(members.iter().all(|member| member.num_devices == count as u64 && member.fsid == members[0].fsid));
    assert_eq!(members.iter().map(|member| member.devid).collect::<Vec<_>>(), (1..=count as u64).collect::<Vec<_>>());
    for number in 0..count {
        for (at, fault) in FAULTS.into_iter().enumerate() {
            if bears == 1 {
                several.compare(&[(number, fault)]);
            } else if bears > 1 && number == at {
                several.compare(&[(number, fault)]);
                for (other, other_fault) in (number + 1..count).zip(FAULTS.into_iter().cycle().skip(at)) {
                    several.compare(&[(number, fault), (other, other_fault)]);
                }
            }
        }
    }
    // With one more nothing can be read, which is an error and no garbage.
    let faults: Vec<_> = (1..).take(bears + 1).filter(|&at| at < count).map(|at| (at, Fault::Damaged)).collect();
    if faults.len() > bears && profile != "raid10" {
        let damaged = several.open(&faults).and_then(|filesystem| {
            let root = filesystem.root();
            for name in [&b"random"[..], b"text"] {
                filesystem.read(filesystem.lookup(root, name)?.ino, 0, &mut vec![0; 3_000_000])?;
            }
            Ok(())
        });
        let error = damaged.expect_err("damaged beyond repair");
        assert!(matches!(error.root(), Error::Corrupt { .. }), "{error}");
    }
}

#[test]
fn raid0_is_read() {
    check("raid0", 3, 0);
}

#[test]
fn raid1_is_read_around_a_fault() {
    check("raid1", 2, 1);
}

#[test]
fn raid1c3_is_read_around_two_faults() {
    check("raid1c3", 3, 2);
}

#[test]
fn raid1c4_is_read_around_faults() {
    check("raid1c4", 4, 3);
}

#[test]
fn raid10_is_read_around_a_fault() {
    check("raid10", 4, 1);
}

#[test]
fn raid5_is_rebuilt_around_a_fault() {
    check("raid5", 3, 1);
}

#[test]
fn raid6_is_rebuilt_around_two_faults() {
    check("raid6", 4, 2);
}

#[test]
fn dup_is_read_around_damage() {
    if !can_mount() {
        return;
    }
    let _one = one_at_a_time();
    let mut several = Several::new(1, 400, &["-d", "dup", "-m", "dup"]);
    let mounted = several.mount(&[0], "noatime");
    script(mounted.path(), POPULATE);
    several.mount(&[0], "ro");
    several.compare(&[]);
    // The first copy of everything lies before the second.
    let image = File::options().read(true).write(true).open(&several.images[0]).expect("opens");
    let mut random = vec![0; 4096];
    File::open(several.mounted.as_ref().expect("mounted").path().join("random"))
        .and_then(|file| file.read_exact_at(&mut random, 8192))
        .expect("reads");
    let mut all = vec![0; 400 << 20];
    image.read_exact_at(&mut all, 0).expect("reads");
    let copies: Vec<usize> = (0..all.len()).step_by(4096).filter(|&at| all[at..at + 4096] == random[..]).collect();
    assert_eq!(copies.len(), 2);
    image.write_all_at(&[1; 100], copies[0] as u64 + 50).expect("writes");
    several.compare(&[]);
    image.write_all_at(&[1; 100], copies[1] as u64 + 50).expect("writes");
    let filesystem = several.open(&[]).expect("opens");
    let ino = filesystem.lookup(filesystem.root(), b"random").expect("there").ino;
    let mut buf = vec![0; 4096];
    assert_eq!(filesystem.read(ino, 4096, &mut buf).expect("good"), 4096);
    let error = filesystem.read(ino, 8192, &mut buf).expect_err("damaged");
    assert!(matches!(error.root(), Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_device_that_is_behind_is_not_believed() {
    if !can_mount() {
        return;
    }
    let _one = one_at_a_time();
    let mut several = Several::new(2, 300, &["-d", "raid1", "-m", "raid1"]);
    let mounted = several.mount(&[0, 1], "noatime");
    script(mounted.path(), POPULATE);
    let mounted = several.mount(&[0], "noatime,degraded");
    script(
        mounted.path(),
        "seq 5 90000 > text; mkdir new; seq 9 50000 > new/file; rm -r a/b/*7; rm random; mv packed new",
    );
    several.mount(&[0], "ro,degraded");
    let mounted = several.mounted.as_ref().expect("mounted");
    for [first, other] in [[0, 1], [1, 0]] {
        let [first, other] = [first, other].map(|number: usize| device(&several.images[number]));
        let filesystem = Btrfs::open(first, &[other], None, &options()).expect("opens");
        assert!(filesystem.info().warnings.iter().any(|warning| warning.contains("device 2 is behind")));
        compare(&filesystem, mounted.path(), Lenient::default());
    }
}

#[test]
fn a_seed_is_read_through_what_grew_from_it() {
    if !can_mount() {
        return;
    }
    let _one = one_at_a_time();
    let mut several = Several::new(1, 200, &[]);
    let mounted = several.mount(&[0], "noatime");
    script(mounted.path(), POPULATE);
    several.unmount();
    run("btrfstune", &["-f".as_ref(), "-S".as_ref(), "1".as_ref(), several.images[0].as_os_str()]);
    let grown = several.images[0].with_file_name("grown");
    File::create(&grown).and_then(|file| file.set_len(300 << 20)).expect("an image is made");
    {
        let loops = Loops::new(&[several.images[0].clone(), grown.clone()]);
        let mounted = Mounted::device(&loops.devices[0], "noatime").expect("mounts");
        let paths = [loops.devices[1].as_os_str(), mounted.path().as_os_str()];
        run("btrfs", &["device".as_ref(), "add".as_ref(), "-f".as_ref(), paths[0], paths[1]]);
        run("mount", &["-o".as_ref(), "remount,rw".as_ref(), paths[1]]);
        script(mounted.path(), "seq 7 50000 > new; echo changed >> text; rm a/b/*7");
    }
    several.images.push(grown);
    several.mount(&[1, 0], "ro");
    let [seed, grown] = [0, 1].map(|number: usize| device(&several.images[number]));
    let mounted = several.mounted.as_ref().expect("mounted");
    let filesystem = Btrfs::open(grown.clone(), std::slice::from_ref(&seed), None, &options()).expect("opens");
    assert_eq!(filesystem.info().warnings, Vec::<String>::new());
    compare(&filesystem, mounted.path(), Lenient::default());
    // Without the seed what it holds is an error.
    if let Ok(alone) = Btrfs::open(grown, &[], None, &options()) {
        assert!(alone.info().warnings[0].contains("device 1 is missing"), "{:?}", alone.info().warnings);
        let attr = alone.lookup(alone.root(), b"random");
        let read = attr.and_then(|attr| alone.read(attr.ino, 0, &mut [0; 4096]));
        assert!(matches!(read.expect_err("missing").root(), Error::Corrupt { .. }));
    }
    several.mount(&[0], "ro");
    let filesystem = Btrfs::open(seed, &[], None, &options()).expect("opens");
    compare(&filesystem, several.mounted.as_ref().expect("mounted").path(), Lenient::default());
}
