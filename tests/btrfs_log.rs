//! The log of a Btrfs that was not unmounted: what the driver replays in memory against what the kernel replays.

mod common;
#[path = "common/btrfs.rs"]
mod support;

use guestctl::fs::Filesystem;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use support::{Lenient, Mounted, can_mount, compare, make, open, run, script};

/// Makes a filesystem, commits what `before` does, then takes the image as it is after `after`, and compares;
/// returns whether there was a log.
fn check(mkfs: &[&str], mount: &str, before: impl FnOnce(&Path), after: impl FnOnce(&Path)) -> Option<bool> {
    if !can_mount() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    let crashed = folder.path().join("crashed");
    make(&image, 200, mkfs);
    {
        let mounted = Mounted::new(&image, &format!("commit=300,{mount}"));
        before(mounted.path());
        run("sync", &["-f".as_ref(), mounted.path().as_os_str()]);
        after(mounted.path());
        run("cp", &["--sparse=always".as_ref(), image.as_os_str(), crashed.as_os_str()]);
    }
    let log = {
        let mut bytes = [0; 8];
        File::open(&crashed).expect("opens").read_exact_at(&mut bytes, (64 << 10) + 0x60).expect("reads");
        u64::from_le_bytes(bytes)
    };
    // The driver reads a copy of its own, since the kernel changes what it replays.
    let kept = folder.path().join("kept");
    run("cp", &["--sparse=always".as_ref(), crashed.as_os_str(), kept.as_os_str()]);
    let filesystem = open(&kept, None);
    let warnings = &filesystem.info().warnings;
    // The kernel may have preferred to commit everything.
    if log != 0 {
        assert!(warnings.len() == 1 && warnings[0].contains("replayed in memory"), "{warnings:?}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    let mounted = Mounted::new(&crashed, "noatime");
    compare(&filesystem, mounted.path(), Lenient { changes_since: Some(now - 1) });
    Some(log != 0)
}

fn check_scripts(before: &str, after: &str) {
    let mkfs: [&[&str]; 2] = [&[], &["-O", "^no-holes", "-n", "4096"]];
    for (mkfs, mount) in mkfs.into_iter().zip(["noatime", "noatime,compress=zstd"]) {
        let logged = check(mkfs, mount, |folder| script(folder, before), |folder| script(folder, after));
        assert_ne!(logged, Some(false), "there is a log");
    }
}

#[test]
fn new_files_are_there() {
    check_scripts(
        "echo old > old; mkdir dir",
        "seq 1 50000 > new; sync new; mkdir -p dir/a/b; echo deep > dir/a/b/file; sync dir/a/b/file
        ln -s somewhere dir/link; mknod dir/null c 1 3; sync dir; seq 1 9000 > lost",
    );
}

#[test]
fn contents_are_those_that_were_synced() {
    check_scripts(
        "for n in 1 2 3 4 5 6 7 8; do seq $n 60000 > f$n; done; fallocate -l 100000 f9; truncate -s 1000000 f10; echo i > f11",
        "seq 1 100000 >> f1; sync f1; truncate -s 5000 f2; sync f2; truncate -s 100 f3; seq 1 3000 >> f3; sync f3
        for at in 1 2 5 9 14 30; do head -c 4096 /dev/urandom | dd of=f4 bs=4096 seek=$at conv=notrunc status=none; done; sync f4
        fallocate -p -o 4096 -l 50000 f5; sync f5; cp --reflink=always f6 clone; sync clone; seq 1 7 > f7; sync f7
        fallocate -n -o 400000 -l 1000000 f8; sync f8; dd if=/dev/urandom of=f9 bs=4096 seek=3 count=2 conv=notrunc status=none
        sync f9; echo x | dd of=f10 bs=1 seek=500000 conv=notrunc status=none; sync f10; seq 1 5000 >> f11; sync f11",
    );
}

#[test]
fn names_are_those_that_were_synced() {
    check_scripts(
        "mkdir a b c; for n in 1 2 3 4 5 6 7 8 9; do echo $n > a/f$n; done; ln a/f1 b/hard; mkdir a/sub; echo s > a/sub/s",
        "mv a/f1 b/moved; sync b/moved; mv a/f2 a/f3; sync a/f3; rm a/f4; echo other > a/f4; sync a/f4
        ln a/f5 c/link; sync a/f5; rm a/f6; sync a; mv a/sub c/sub; sync c/sub/s; ln a/f7 a/again; rm a/f7; sync a/again
        mkdir a/f7; echo in > a/f7/in; sync a/f7/in; rm b/hard; sync b; mv a/f8 a/f9; mv a/f9 a/f8; sync a/f8",
    );
}

#[test]
fn many_links_are_counted() {
    check_scripts(
        "mkdir a b; echo one > a/one; for n in $(seq 1 70); do ln a/one a/a-somewhat-longer-name-than-most-$n; done",
        "for n in $(seq 301 310); do ln a/one b/a-somewhat-longer-name-than-most-$n; done; sync a/one",
    );
}

#[test]
fn attributes_are_those_that_were_synced() {
    check_scripts(
        "for n in 1 2 3; do echo $n > f$n; setfattr -n user.a -v a f$n; setfattr -n user.b -v b f$n; done; mkdir d",
        "setfattr -x user.a f1; setfattr -n user.c -v c f1; chmod 600 f1; touch -d '2001-02-03 04:05:06.7' f1; sync f1
        setfattr -n user.b -v \"$(head -c 2000 /dev/zero | tr '\\0' v)\" f2; sync f2; chown 12:34 f3; setfacl -m u:7:r f3; sync f3
        setfattr -n user.dir -v d d; chmod 1777 d; touch d/new; sync d; chattr +d f3; sync f3",
    );
}

#[test]
fn a_file_without_a_name_is_gone() {
    check(
        &[],
        "noatime",
        |folder| script(folder, "mkdir d; echo x > d/x"),
        |folder| {
            let unnamed = |text: &[u8]| {
                let file = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder).expect("opens");
                file.write_all_at(text, 0).and_then(|()| file.sync_all()).expect("writes");
                file
            };
            let kept = unnamed(b"to be gone");
            let linked = unnamed(b"to be linked");
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&linked));
            let to = folder.join("linked");
            nix::unistd::linkat(
                nix::fcntl::AT_FDCWD,
                Path::new(&path),
                nix::fcntl::AT_FDCWD,
                &to,
                nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW,
            )
            .expect("links");
            linked.sync_all().expect("syncs");
            script(folder, "echo more > more; sync more");
            drop(kept);
        },
    );
}

#[test]
fn the_logs_of_several_subvolumes_are_replayed() {
    check(
        &[],
        "noatime",
        |folder| {
            script(
                folder,
                "btrfs subvolume create one >&2; btrfs subvolume create two >&2; echo 1 > one/f; echo 2 > two/f",
            )
        },
        |folder| {
            script(
                folder,
                "seq 1 9999 > one/f; sync one/f; rm two/f; echo n > two/new; sync two; sync two/new; echo t > top; sync top",
            )
        },
    );
}

/// A source of numbers that are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// Does something to a tree of a few names; that it fails is as good.
fn act(folder: &Path, numbers: &mut Numbers, sync: bool) {
    let dirs = ["", "a", "b", "a/c", "b/d", "a/c/e"];
    let path = |numbers: &mut Numbers| -> PathBuf {
        folder.join(dirs[numbers.below(6)]).join(format!("f{}", numbers.below(8)))
    };
    let dir = |numbers: &mut Numbers| -> PathBuf { folder.join(dirs[numbers.below(6)]) };
    let one = path(numbers);
    let write = |path: &Path, at: usize, len: usize, fill: u8| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .and_then(|file| file.write_all_at(&vec![fill; len], at as u64))
    };
    let _ = match numbers.below(if sync { 18 } else { 14 }) {
        0..3 => write(&one, numbers.below(300_000), numbers.below(50_000), numbers.below(256) as u8),
        3 => write(&one, 0, numbers.below(3000), 9),
        4 => OpenOptions::new().write(true).open(&one).and_then(|file| file.set_len(numbers.below(400_000) as u64)),
        5 | 6 => fs::rename(&one, path(numbers)),
        7 => fs::hard_link(&one, path(numbers)),
        8 => fs::remove_file(&one),
        9 => std::os::unix::fs::symlink("text", &one),
        10 => fs::create_dir(dir(numbers)).or_else(|_| fs::create_dir(&one)),
        11 => fs::remove_dir(&one).or_else(|_| fs::rename(dir(numbers), dir(numbers))),
        12 => {
            let name = format!("user.{}", numbers.below(3));
            let how = if numbers.below(2) == 0 { vec!["-x", &name] } else { vec!["-n", &name, "-v", "value"] };
            let mut args: Vec<&OsStr> = how.into_iter().map(OsStr::new).collect();
            args.push(one.as_os_str());
            support::try_run("setfattr", &args);
            Ok(())
        }
        13 => {
            let how = ["-p", "-n", "-z", "-x"][numbers.below(4)];
            let (at, len) = (numbers.below(200_000).to_string(), (1 + numbers.below(90_000)).to_string());
            let args = [how, "-o", &at, "-l", &len].map(OsStr::new);
            support::try_run("fallocate", &[&args[..], &[one.as_os_str()]].concat());
            Ok(())
        }
        14 | 15 => OpenOptions::new().write(true).open(&one).and_then(|file| file.sync_all()),
        16 => File::open(&one).and_then(|file| file.sync_all()),
        _ => File::open(dir(numbers)).and_then(|file| file.sync_all()),
    };
}

#[test]
fn a_crash_at_any_moment_is_replayed_as_the_kernel_does() {
    let first = std::env::var("GUESTCTL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let rounds = std::env::var("GUESTCTL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12);
    let mut logged = 0;
    for seed in first..first + rounds {
        println!("seed {seed}");
        let mut numbers = Numbers(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mkfs: &[&str] = if seed % 2 == 0 { &["-O", "^no-holes", "-n", "4096"] } else { &[] };
        let mount = if seed % 3 == 0 { "compress-force=lzo" } else { "noatime" };
        let later = Numbers(numbers.0 ^ 0x1234_5678);
        let had_log = check(
            mkfs,
            mount,
            |folder| {
                script(folder, "mkdir -p a/c/e b/d");
                (0..120).for_each(|_| act(folder, &mut numbers, false));
            },
            |folder| {
                let mut numbers = later;
                (0..80).for_each(|_| act(folder, &mut numbers, true));
                // Something that is in the log in the end.
                script(folder, "echo last > last; sync last");
            },
        );
        logged += u64::from(had_log != Some(false));
    }
    assert!(logged > rounds / 2, "{logged} logs of {rounds}");
}
