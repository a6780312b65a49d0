//! Real programs on a mount that is written: databases, builds, package managers, archivers, and processes that write, cut
//! and map files at random. e2fsck and the kernel judge what they leave.

mod common;

use common::guest::{Workspace, cannot_mount, output, run};
use common::{folders, has_tool, is_root, skip};
use nix::fcntl::{FallocateFlags, fallocate};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn ready(tools: &[&str]) -> Option<Workspace> {
    if let Some(why) = cannot_mount() {
        skip(why);
        return None;
    }
    if let Some(tool) = tools.iter().find(|tool| !has_tool(tool)) {
        skip(&format!("there is no {tool}"));
        return None;
    }
    Some(Workspace::new())
}

fn empty_image(workspace: &Workspace, size: &str, options: &[&str]) -> PathBuf {
    let image = workspace.path("disk.img");
    let mut arguments: Vec<&OsStr> = ["-q", "-t", "ext4"].map(OsStr::new).to_vec();
    arguments.extend(options.iter().map(OsStr::new));
    arguments.extend([image.as_os_str(), OsStr::new(size)]);
    run("mke2fs", &arguments);
    image
}

/// Checks that e2fsck has nothing to say about an image but its summary, and perhaps that trees could be narrower.
fn assert_clean(image: &Path) {
    let checked = output("e2fsck", &[OsStr::new("-fn"), image.as_ref()]);
    let said = String::from_utf8_lossy(&checked.stdout);
    let is_usual = |line: &str| {
        line.is_empty() || line.starts_with("Pass ") || line.contains(" files (") || line.contains("could be narrower")
    };
    assert!(checked.status.success() && said.lines().all(is_usual), "{}: {said}", image.display());
}

/// Checks that the kernel finds the same in a folder of the image as in `expected`.
fn assert_kernel_sees(workspace: &Workspace, image: &Path, path: &str, expected: &Path) {
    if !is_root() {
        return;
    }
    let folder = workspace.folder("kernel");
    run("mount", &[OsStr::new("-o"), "loop,ro".as_ref(), image.as_ref(), folder.as_ref()]);
    let outcome = std::panic::catch_unwind(|| folders::assert_same_but_ctime(expected, &folder.join(path)));
    run("umount", &[&folder]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn ten_thousand_transactions_of_two_processes_leave_a_sound_database() {
    let Some(workspace) = ready(&["python3"]) else { return };
    let image = empty_image(&workspace, "128M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let script = r#"
import sqlite3, sys
name, process, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
base = sqlite3.connect(name, timeout=60, isolation_level=None)
if process == 0:
    assert base.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    base.execute("create table t (process integer, number integer, text text, primary key (process, number))")
    print("ready", flush=True)
base.execute("pragma synchronous=normal")
for number in range(count):
    base.execute("begin immediate")
    base.execute("insert into t values (?, ?, ?)", (process, number, "x" * (number * 7 % 300)))
    if number % 10 == 9:
        base.execute("delete from t where process = ? and number = ?", (process, number - 5))
    base.execute("commit")
base.close()
"#;
    let check = r#"
import sqlite3, sys
base = sqlite3.connect(sys.argv[1])
assert base.execute("pragma integrity_check").fetchone() == ("ok",)
count = int(sys.argv[2])
assert base.execute("select count(*) from t").fetchone() == (2 * (count - count // 10),)
for process, number, text in base.execute("select * from t"):
    assert text == "x" * (number * 7 % 300) and number % 10 != 4
"#;
    let each = number("GUESTCTL_TRANSACTIONS", 10_000) / 2;
    let base = mounted.folder.join("base.db");
    let start = |process: &str| -> Child {
        Command::new("timeout")
            .args(["-k", "5", "300", "python3", "-c", script])
            .arg(&base)
            .args([process, &each.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs")
    };
    let mut first = start("0");
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(first.stdout.take().expect("piped")), &mut said)
        .expect("a line");
    assert_eq!(said, "ready\n");
    let mut second = start("1");
    assert!(first.wait().expect("it ends").success() && second.wait().expect("it ends").success());
    run("python3", &[OsStr::new("-c"), check.as_ref(), base.as_ref(), each.to_string().as_ref()]);
    mounted.umount();
    assert_clean(&image);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    run("python3", &[OsStr::new("-c"), check.as_ref(), base.as_ref(), each.to_string().as_ref()]);
    mounted.umount();
}

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn data(&mut self, limit: u64) -> Vec<u8> {
        let len = 1 + self.below(limit);
        (0..len).map(|_| self.below(255) as u8 + 1).collect()
    }
}

/// Changes bytes of a file through a mapping of it.
fn write_mapped(file: &File, size: usize, at: usize, data: &[u8]) {
    let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
    // SAFETY: the address is the kernel's to choose, the file is open, and `size` is not 0.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, fd, 0) };
    assert_ne!(base, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: the mapping is `size` bytes long, the file is not cut by anybody else, and the range lies inside.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), base.cast::<u8>().add(at), data.len()) };
    // SAFETY: the mapping was made above, and nothing points into it any more.
    assert_eq!(unsafe { libc::munmap(base, size) }, 0);
}

/// Writes, cuts, maps, punches and reads one file at random, and compares it with a copy in memory. `shared` is a file in
/// which this process has every fourth stretch of 64 KiB.
fn exercise(own: &Path, shared: &Path, seed: u64, steps: u64) {
    const LIMIT: u64 = 400_000;
    const STRETCH: u64 = 64 << 10;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let open = |path: &Path| File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = open(own).expect("opens");
    let common = open(shared).expect("opens");
    let mut model: Vec<u8> = Vec::new();
    let mut stretches = vec![vec![0; STRETCH as usize]; 4];
    for step in 0..steps {
        let size = model.len() as u64;
        match random.below(12) {
            0..3 => {
                let (at, data) = (random.below(LIMIT), random.data(20_000));
                file.write_all_at(&data, at).expect("a write");
                model.resize(model.len().max(at as usize + data.len()), 0);
                model[at as usize..at as usize + data.len()].copy_from_slice(&data);
            }
            3 => {
                let size = random.below(LIMIT);
                file.set_len(size).expect("a truncation");
                model.resize(size as usize, 0);
            }
            4..6 if size > 0 => {
                let at = random.below(size) as usize;
                let mut data = random.data(6000);
                data.truncate(model.len() - at);
                write_mapped(&file, model.len(), at, &data);
                model[at..at + data.len()].copy_from_slice(&data);
            }
            6 if size > 0 => {
                let (at, len) = (random.below(size), 1 + random.below(50_000));
                let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let flags = match random.below(3) {
                    0 => FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep,
                    1 => FallocateFlags::FALLOC_FL_ZERO_RANGE | keep,
                    _ => keep,
                };
                fallocate(&file, flags, at as i64, len as i64).expect("fallocate");
                if flags != keep {
                    let end = model.len().min((at + len) as usize);
                    model[at as usize..end].fill(0);
                }
            }
            7 => {
                let (which, data) = (random.below(4), random.data(9000));
                let at = random.below(STRETCH - data.len() as u64);
                let place = (which * 4 + seed % 4) * STRETCH + at;
                common.write_all_at(&data, place).expect("a write");
                stretches[which as usize][at as usize..at as usize + data.len()].copy_from_slice(&data);
            }
            8 if step % 40 == 0 => file.sync_all().expect("fsync"),
            9 if step % 20 == 0 => file = open(own).expect("opens"),
            _ if size > 0 => {
                let at = random.below(size);
                let mut found = vec![0; 30_000.min((size - at) as usize)];
                file.read_exact_at(&mut found, at).expect("a read");
                let expected = &model[at as usize..at as usize + found.len()];
                assert!(found == expected, "seed {seed}, step {step}: bytes at {at} differ");
            }
            _ => {}
        }
    }
    assert!(fs::read(own).expect("reads") == model, "seed {seed}: the file differs at the end");
    common.sync_all().expect("fsync");
    check_stretches(shared, seed, &stretches);
    fs::write(own.with_extension("expected"), &model).expect("a copy");
}

fn check_stretches(shared: &Path, seed: u64, stretches: &[Vec<u8>]) {
    let bytes = fs::read(shared).expect("reads");
    for (which, expected) in stretches.iter().enumerate() {
        let from = ((which as u64 * 4 + seed % 4) * (64 << 10)) as usize;
        let found: Vec<u8> = (from..from + expected.len()).map(|at| bytes.get(at).copied().unwrap_or(0)).collect();
        assert!(&found == expected, "seed {seed}: stretch {which} of the shared file differs");
    }
}

#[test]
#[ignore = "a process of the test below"]
fn one_process_of_several() {
    let Some(folder) = std::env::var_os("GUESTCTL_EXERCISE").map(PathBuf::from) else { return };
    let seed = number("GUESTCTL_EXERCISE_SEED", 1);
    exercise(&folder.join(format!("own-{seed}")), &folder.join("shared"), seed, number("GUESTCTL_STEPS", 1500));
}

#[test]
fn processes_that_write_cut_map_and_punch_at_random_find_what_they_left() {
    let Some(workspace) = ready(&[]) else { return };
    for (number, options) in [&[][..], &["-O", "bigalloc", "-C", "16384"], &["-b", "1024"]].into_iter().enumerate() {
        let image = empty_image(&workspace, "128M", options);
        let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
        let this = std::env::current_exe().expect("this program");
        let children: Vec<Child> = (0..3)
            .map(|child| {
                Command::new("timeout")
                    .args(["-k", "5", "300"])
                    .arg(&this)
                    .args(["--exact", "one_process_of_several", "--ignored", "-q"])
                    .env("GUESTCTL_EXERCISE", &mounted.folder)
                    .env("GUESTCTL_EXERCISE_SEED", (number * 4 + child + 1).to_string())
                    .stdin(Stdio::null())
                    .spawn()
                    .expect("runs")
            })
            .collect();
        for mut child in children {
            assert!(child.wait().expect("it ends").success());
        }
        mounted.umount();
        assert_clean(&image);
        // What was in the kernel's cache has reached the image.
        let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
        for child in 0..3 {
            let own = mounted.folder.join(format!("own-{}", number * 4 + child + 1));
            assert!(fs::read(&own).expect("reads") == fs::read(own.with_extension("expected")).expect("reads"));
        }
        mounted.umount();
    }
}

#[test]
fn a_crate_is_built_and_built_again_inside_the_mount() {
    let Some(workspace) = ready(&["cargo"]) else { return };
    let image = empty_image(&workspace, "256M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let top = mounted.folder.join("tiny");
    fs::create_dir_all(top.join("part/src")).expect("made");
    fs::create_dir_all(top.join("src")).expect("made");
    let manifest = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}\n[workspace]\n")
    };
    fs::write(top.join("Cargo.toml"), manifest("tiny", "[dependencies]\npart = { path = \"part\" }\n")).expect("made");
    fs::write(top.join("part/Cargo.toml"), manifest("part", "").replace("[workspace]\n", "")).expect("made");
    fs::write(top.join("part/src/lib.rs"), "pub fn sum(upto: u64) -> u64 {\n    (1..=upto).sum()\n}\n").expect("made");
    let main = |upto: u64| format!("fn main() {{\n    println!(\"{{}}\", part::sum({upto}));\n}}\n");
    for (upto, sum) in [(100, "5050\n"), (1000, "500500\n")] {
        fs::write(top.join("src/main.rs"), main(upto)).expect("made");
        let mut build = Command::new("timeout");
        build.args(["-k", "5", "120", "cargo", "build", "-q", "--offline"]).current_dir(&top).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            // What this build was told is not for that one.
            let text = name.to_string_lossy();
            if text.starts_with("CARGO") && text != "CARGO_HOME" || text.starts_with("RUSTFLAGS") {
                build.env_remove(&name);
            }
        }
        let built = build.output().expect("runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        assert_eq!(run(top.join("target/debug/tiny").to_str().expect("text"), &[] as &[&str]), sum.as_bytes());
    }
    mounted.umount();
    assert_clean(&image);
}

#[test]
fn packages_are_installed_upgraded_and_purged_by_dpkg() {
    let Some(workspace) = ready(&["dpkg", "dpkg-deb"]) else { return };
    if !is_root() {
        return skip("dpkg needs root");
    }
    let image = empty_image(&workspace, "64M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let root = mounted.folder.join("root");
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/log"] {
        fs::create_dir_all(root.join(folder)).expect("made");
    }
    fs::write(root.join("var/lib/dpkg/status"), "").expect("made");
    let package = |version: &str, files: u32| -> PathBuf {
        let tree = workspace.folder(&format!("package-{version}"));
        for folder in ["DEBIAN", "etc", "usr/share/tiny"] {
            fs::create_dir_all(tree.join(folder)).expect("made");
        }
        let control = format!(
            "Package: tiny\nVersion: {version}\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\n\
             Description: a package for a test\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).expect("made");
        fs::write(tree.join("DEBIAN/conffiles"), "/etc/tiny.conf\n").expect("made");
        fs::write(tree.join("etc/tiny.conf"), "setting = 1\n").expect("made");
        for number in 0..files {
            let text = format!("{version} {number}\n").repeat(number as usize);
            fs::write(tree.join(format!("usr/share/tiny/file-{number}")), text).expect("made");
        }
        fs::hard_link(tree.join("usr/share/tiny/file-9"), tree.join("usr/share/tiny/same")).expect("made");
        let file = workspace.path(&format!("tiny-{version}.deb"));
        run("dpkg-deb", &[OsStr::new("--build"), "--root-owner-group".as_ref(), tree.as_ref(), file.as_ref()]);
        file
    };
    let root_option = format!("--root={}", root.display());
    let dpkg = |arguments: &[&OsStr]| {
        run("dpkg", &[&[OsStr::new(&root_option), "--force-unsafe-io".as_ref()], arguments].concat())
    };
    let (old, new) = (package("1.0", 150), package("2.0", 120));
    run("dpkg", &[OsStr::new(&root_option), "--install".as_ref(), old.as_ref()]);
    fs::write(root.join("etc/tiny.conf"), "setting = 2\n").expect("an administrator's change");
    dpkg(&["--install".as_ref(), new.as_ref()]);
    assert_eq!(fs::read(root.join("etc/tiny.conf")).expect("kept"), b"setting = 2\n");
    let tree = workspace.path("package-2.0/usr");
    // Folders have the time of the last file that came or went.
    run("diff", &[OsStr::new("-r"), tree.as_ref(), root.join("usr").as_ref()]);
    assert!(!root.join("usr/share/tiny/file-130").exists());
    let said = String::from_utf8(dpkg(&["--verify".as_ref()])).expect("text");
    assert!(said.lines().all(|line| line.contains("/etc/tiny.conf")), "{said}");
    mounted.umount();
    assert_clean(&image);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    dpkg(&["--purge".as_ref(), "tiny".as_ref()]);
    assert!(!root.join("usr").exists() && !root.join("etc/tiny.conf").exists());
    mounted.umount();
    assert_clean(&image);
}

#[test]
fn tar_and_rsync_bring_everything_over_and_find_nothing_left_to_do() {
    let Some(workspace) = ready(&["tar", "rsync", "setfacl", "setfattr"]) else { return };
    let tree = workspace.small_tree();
    for number in 0..500 {
        let folder = tree.join(format!("many/{}", number % 50));
        fs::create_dir_all(&folder).expect("made");
        fs::write(folder.join(number.to_string()), vec![b'a'; number * 3 % 5000]).expect("made");
    }
    let sparse = File::create(tree.join("sparse")).expect("made");
    sparse.write_all_at(b"data", 1 << 20).expect("written");
    sparse.set_len(2 << 20).expect("grown");
    run("setfattr", &["-n", "user.color", "-v", "blue", tree.join("etc/hostname").to_str().expect("text")]);
    run("setfacl", &["-m", "u:1000:rw", tree.join("etc/empty").to_str().expect("text")]);
    run("setfacl", &["-d", "-m", "g:99:rwx", tree.join("many").to_str().expect("text")]);
    let archive = workspace.path("tree.tar");
    let flags = ["--xattrs", "--acls", "--numeric-owner", "--sparse"].map(OsStr::new);
    run("tar", &[&flags[..], &["-C".as_ref(), tree.as_ref(), "-cf".as_ref(), archive.as_ref(), ".".as_ref()]].concat());
    for options in [&[][..], &["-O", "inline_data,ea_inode", "-I", "512"]] {
        let image = empty_image(&workspace, "96M", options);
        let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
        let (unpacked, synced) = (mounted.folder.join("unpacked"), mounted.folder.join("synced"));
        fs::create_dir(&unpacked).expect("made");
        let extract = ["-C".as_ref(), unpacked.as_os_str(), "-xpf".as_ref(), archive.as_ref()];
        run("tar", &[&flags[..], &extract].concat());
        run("tar", &[&flags[..], &["-C".as_ref(), unpacked.as_ref(), "-df".as_ref(), archive.as_ref()]].concat());
        folders::assert_same_but_ctime(&tree, &unpacked);
        let from = format!("{}/", tree.display());
        run("rsync", &[OsStr::new("-aHAXS"), from.as_ref(), synced.as_ref()]);
        let left = run("rsync", &[OsStr::new("-aHAXSinc"), "--delete".as_ref(), from.as_ref(), synced.as_ref()]);
        assert!(left.is_empty(), "{}", String::from_utf8_lossy(&left));
        folders::assert_same_but_ctime(&tree, &synced);
        mounted.umount();
        assert_clean(&image);
        assert_kernel_sees(&workspace, &image, "unpacked", &tree);
        assert_kernel_sees(&workspace, &image, "synced", &tree);
    }
}
