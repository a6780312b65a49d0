//! Writing through the mount: real programs, crashes, full disks and every back end, judged by e2fsck and the kernel.

mod common;

use common::guest::{GUESTCTL, Workspace, cannot_mount, guestctl, output, run, who_has_open};
use common::{folders, has_tool, is_root, skip};
use nix::fcntl::{FallocateFlags, RenameFlags, fallocate, renameat2};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn ready() -> Option<Workspace> {
    if let Some(why) = cannot_mount() {
        skip(why);
        return None;
    }
    Some(Workspace::new())
}

/// Checks that e2fsck has nothing to say about an image.
fn assert_clean(image: &Path) {
    let checked = output("e2fsck", &[OsStr::new("-fn"), image.as_ref()]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{}: {said}", image.display());
    let talk = said.lines().filter(|line| !line.starts_with("Pass ") && !line.starts_with("e2fsck ")).count();
    assert!(talk <= 1, "e2fsck has more to say than its summary: {said}");
}

fn empty_image(workspace: &Workspace, name: &str, size: &str, options: &[&str]) -> PathBuf {
    let image = workspace.path(name);
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("-q")];
    if !options.contains(&"-t") {
        arguments.extend(["-t", "ext4"].map(OsStr::new));
    }
    arguments.extend(options.iter().map(OsStr::new));
    arguments.extend([image.as_os_str(), OsStr::new(size)]);
    run("mke2fs", &arguments);
    image
}

/// Compares a folder with what the kernel shows of an image at a path.
fn assert_kernel_sees(workspace: &Workspace, image: &Path, path: &str, expected: &Path) {
    if !is_root() {
        return;
    }
    let folder = workspace.folder("kernel");
    run("mount", &[OsStr::new("-o"), "loop,ro".as_ref(), image.as_ref(), folder.as_ref()]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run("diff", &[OsStr::new("-r"), "--no-dereference".as_ref(), folder.join(path).as_ref(), expected.as_ref()]);
    }));
    run("umount", &[&folder]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_tree_that_is_copied_in_is_there_for_the_kernel() {
    let Some(workspace) = ready() else { return };
    let tree = workspace.small_tree();
    for (name, options) in [
        ("ext4", &[][..]),
        ("1k", &["-b", "1024"]),
        ("ext3", &["-t", "ext3"]),
        ("ext2", &["-t", "ext2"]),
        ("no-checksums", &["-O", "^metadata_csum,^64bit"]),
    ] {
        let image = empty_image(&workspace, &format!("{name}.img"), "64M", options);
        let mounted = workspace.mount(name, image.as_os_str(), &["--rw"]);
        run("cp", &[OsStr::new("-a"), tree.as_ref(), mounted.folder.join("copy").as_ref()]);
        run("rsync", &[OsStr::new("-aHAX"), tree.join("var/").as_ref(), mounted.folder.join("synced").as_ref()]);
        folders::assert_same_but_ctime(&tree, &mounted.folder.join("copy"));
        mounted.umount();
        assert_clean(&image);
        assert_kernel_sees(&workspace, &image, "copy", &tree);
        let mounted = workspace.mount(name, image.as_os_str(), &["--rw"]);
        run("rm", &[OsStr::new("-rf"), mounted.folder.join("copy").as_ref(), mounted.folder.join("synced").as_ref()]);
        mounted.umount();
        assert_clean(&image);
    }
}

#[test]
fn every_operation_does_what_it_does_in_a_kernels_filesystem() {
    let Some(workspace) = ready() else { return };
    let image = empty_image(&workspace, "disk.img", "64M", &["-b", "4096"]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let at = |name: &str| mounted.folder.join(name);
    // Append, sparse write, truncate both ways.
    let mut file = File::options().create(true).append(true).open(at("log")).expect("made");
    file.write_all(b"one\n").expect("written");
    file.write_all(b"two\n").expect("written");
    drop(file);
    assert_eq!(fs::read(at("log")).expect("reads"), b"one\ntwo\n");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(at("sparse")).expect("made");
    file.write_all_at(b"end", 10 << 20).expect("written");
    file.sync_all().expect("synced");
    assert!(file.metadata().expect("stat").blocks() < 100);
    file.set_len(5).expect("shrinks");
    file.set_len(8192).expect("grows");
    assert_eq!(fs::read(at("sparse")).expect("reads"), vec![0; 8192]);
    // fallocate in every form.
    file.write_all_at(&[7; 65536], 0).expect("written");
    let mode = |flags: FallocateFlags, from, len| fallocate(&file, flags, from, len).expect("allocates");
    mode(FallocateFlags::empty(), 65536, 65536);
    assert_eq!(file.metadata().expect("stat").len(), 131_072);
    mode(FallocateFlags::FALLOC_FL_KEEP_SIZE, 1 << 20, 65536);
    assert_eq!(file.metadata().expect("stat").len(), 131_072);
    mode(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, 4096, 8192);
    mode(FallocateFlags::FALLOC_FL_ZERO_RANGE, 20000, 100);
    let mut expected = vec![7; 65536];
    expected.resize(131_072, 0);
    expected[4096..4096 + 8192].fill(0);
    expected[20000..20100].fill(0);
    assert!(fs::read(at("sparse")).expect("reads") == expected, "the contents after fallocate");
    // Names.
    fs::create_dir(at("folder")).expect("made");
    symlink("../log", at("folder/link")).expect("made");
    symlink("x".repeat(300), at("folder/long")).expect("made");
    assert_eq!(fs::read_link(at("folder/long")).expect("reads").as_os_str().len(), 300);
    fs::hard_link(at("log"), at("folder/second")).expect("made");
    assert_eq!(fs::metadata(at("log")).expect("stat").nlink(), 2);
    run("mkfifo", &[at("fifo")]);
    let error = fs::remove_dir(at("folder")).expect_err("not empty");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    fs::rename(at("log"), at("folder/moved")).expect("moves");
    let exchange = |flags, one: &str, other: &str| {
        renameat2(nix::fcntl::AT_FDCWD, &at(one), nix::fcntl::AT_FDCWD, &at(other), flags)
    };
    assert_eq!(exchange(RenameFlags::RENAME_NOREPLACE, "sparse", "folder/moved"), Err(nix::Error::EEXIST));
    exchange(RenameFlags::RENAME_EXCHANGE, "sparse", "folder/moved").expect("exchanges");
    assert_eq!(fs::read(at("sparse")).expect("reads"), b"one\ntwo\n");
    assert!(fs::rename(at("folder"), at("folder/below")).is_err(), "a folder cannot lie in itself");
    // A file without names lives while it is open.
    let mut open = File::options().read(true).write(true).open(at("folder/moved")).expect("opens");
    fs::remove_file(at("folder/moved")).expect("removes");
    open.seek(SeekFrom::Start(0)).expect("seeks");
    open.write_all(b"still here").expect("written");
    open.seek(SeekFrom::Start(0)).expect("seeks");
    let mut back = [0; 10];
    open.read_exact(&mut back).expect("reads");
    assert_eq!(&back, b"still here");
    drop(open);
    // Attributes.
    fs::set_permissions(at("sparse"), fs::Permissions::from_mode(0o4711)).expect("ours");
    assert_eq!(fs::metadata(at("sparse")).expect("stat").mode() & 0o7777, 0o4711);
    run("touch", &[OsStr::new("-d"), "2001-02-03 04:05:06.789012345 UTC".as_ref(), at("sparse").as_ref()]);
    let seen = fs::metadata(at("sparse")).expect("stat");
    assert_eq!((seen.mtime(), seen.mtime_nsec()), (981_173_106, 789_012_345));
    run("setfattr", &[OsStr::new("-n"), "user.key".as_ref(), "-v".as_ref(), "value".as_ref(), at("sparse").as_ref()]);
    let big = "v".repeat(2000);
    run("setfattr", &[OsStr::new("-n"), "user.big".as_ref(), "-v".as_ref(), big.as_ref(), at("sparse").as_ref()]);
    run("setfacl", &[OsStr::new("-m"), "u:1000:rw".as_ref(), at("sparse").as_ref()]);
    let shown = String::from_utf8(run("getfattr", &[OsStr::new("-d"), at("sparse").as_ref()])).expect("text");
    assert!(shown.contains("user.key=\"value\"") && shown.contains(&big), "{shown}");
    assert!(
        String::from_utf8_lossy(&run("getfacl", &[OsStr::new("-pn"), at("sparse").as_ref()])).contains("user:1000:rw-")
    );
    run("setfattr", &[OsStr::new("-x"), "user.big".as_ref(), at("sparse").as_ref()]);
    // A default list is inherited.
    run("setfacl", &[OsStr::new("-d"), "-m".as_ref(), "g:99:rwx".as_ref(), at("folder").as_ref()]);
    fs::write(at("folder/heir"), "x").expect("made");
    assert!(
        String::from_utf8_lossy(&run("getfacl", &[OsStr::new("-pn"), at("folder/heir").as_ref()]))
            .contains("group:99:")
    );
    // lsattr.
    let flags = String::from_utf8(run("lsattr", &[at("sparse")])).expect("text");
    assert!(flags.split(' ').next().is_some_and(|letters| letters.contains('e')), "{flags}");
    // copy_file_range (which std::fs::copy uses), O_DIRECT.
    assert_eq!(fs::copy(at("folder/heir"), at("copied")).expect("copies"), 1);
    let direct =
        File::options().write(true).create(true).truncate(false).custom_flags(libc::O_DIRECT).open(at("direct"));
    drop(direct);
    drop(file);
    mounted.umount();
    assert_clean(&image);
    assert_eq!(guestctl(&[OsStr::new("cat"), image.as_ref(), "/sparse".as_ref()]).1, b"one\ntwo\n");
}

#[test]
fn git_works_on_the_mount() {
    let Some(workspace) = ready() else { return };
    if !has_tool("git") {
        return skip("there is no git");
    }
    let image = empty_image(&workspace, "disk.img", "256M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let script = r#"
        set -e
        cd "$1"
        git init -q repository && cd repository
        git config user.name Test && git config user.email test@example.org
        for number in $(seq 200); do echo "line $number" > "file-$number"; done
        git add . && git commit -q -m first
        for number in $(seq 50); do echo more >> "file-$number"; done
        git commit -q -a -m second
        cd .. && git clone -q --no-hardlinks repository clone
        cd clone && git gc -q && git fsck --strict 2>/dev/null && git status --porcelain | wc -l | grep -qx 0
    "#;
    run("bash", &[OsStr::new("-c"), script.as_ref(), "test".as_ref(), mounted.folder.as_ref()]);
    mounted.umount();
    assert_clean(&image);
}

#[test]
fn a_killed_server_leaves_an_image_that_a_replay_makes_whole() {
    let Some(workspace) = ready() else { return };
    if !has_tool("python3") {
        return skip("there is no python3");
    }
    let rounds: u32 = std::env::var("GUESTCTL_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    // Makes, renames and removes files in several threads; says each name that was synced.
    let load = r#"
import os, random, sys, threading
top = sys.argv[1]
lock = threading.Lock()
def work(seed):
    numbers = random.Random(seed)
    here = f"{top}/{seed}"
    os.makedirs(here, exist_ok=True)
    for number in range(100000):
        name = f"{here}/{numbers.randrange(40)}"
        data = bytes([number % 251]) * numbers.randrange(1, 60000)
        file = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.write(file, data)
        if number % 4 == 0:
            os.fsync(file)
        os.close(file)
        os.rename(name + ".new", name)
        if number % 4 == 0:
            folder = os.open(here, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            with lock:
                print(f"{seed}/{os.path.basename(name)} {number % 251} {len(data)} {number}", flush=True)
        elif number % 7 == 0 and os.path.exists(name):
            os.mkdir(f"{name}.d")
            os.rmdir(f"{name}.d")
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"#;
    for round in 0..rounds {
        let image = empty_image(&workspace, &format!("disk-{round}.img"), "48M", &["-J", "size=4"]);
        let mounted = workspace.mount(&format!("mnt-{round}"), image.as_os_str(), &["--rw"]);
        let server = who_has_open(&image)[0];
        let mut writer = Command::new("timeout")
            .args(["-k", "5", "60", "python3", "-c", load])
            .arg(&mounted.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("runs");
        std::thread::sleep(std::time::Duration::from_millis(150 + u64::from(round) * 97 % 700));
        run("kill", &["-KILL".to_owned(), server.to_string()]);
        let mut said = String::new();
        writer.stdout.take().expect("piped").read_to_string(&mut said).expect("text");
        // It ends by itself: every operation fails now.
        let _ = writer.wait();
        drop(mounted);
        // The journal is replayed by e2fsck on one copy, and by us on another.
        let copy = workspace.path("copy.img");
        fs::copy(&image, &copy).expect("a copy");
        let replayed = output("e2fsck", &[OsStr::new("-E"), "journal_only".as_ref(), "-y".as_ref(), copy.as_ref()]);
        assert!(replayed.status.code().is_some_and(|code| code < 4), "{replayed:?}");
        assert_clean(&copy);
        let again = workspace.mount(&format!("again-{round}"), image.as_os_str(), &["--rw"]);
        // Of each name, the last synced state or a later one is there.
        let mut last = std::collections::HashMap::new();
        for line in said.lines() {
            let mut words = line.split(' ');
            if let (Some(name), Some(_), Some(_), Some(number)) =
                (words.next(), words.next(), words.next(), words.next())
            {
                last.insert(name.to_owned(), number.parse::<u32>().expect("a number"));
            }
        }
        for (name, number) in &last {
            let contents = fs::read(again.folder.join(name))
                .unwrap_or_else(|error| panic!("round {round}: {name} was synced and is gone: {error}"));
            assert!(!contents.is_empty(), "round {round}: {name} is empty");
            let byte = contents[0];
            assert!(contents.iter().all(|other| *other == byte), "round {round}: {name} mixes two states ({number})");
        }
        again.umount();
        assert_clean(&image);
        fs::remove_file(&image).expect("ours");
    }
    println!("{rounds} kills, nothing lost");
}

#[test]
fn a_full_disk_is_enospc_and_leaves_a_clean_image() {
    let Some(workspace) = ready() else { return };
    let image = empty_image(&workspace, "disk.img", "12M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let mut made = 0;
    let error = loop {
        let name = mounted.folder.join(format!("file-{made}"));
        let written = fs::write(&name, vec![1; 300_000]).and_then(|()| File::open(&name)?.sync_all());
        match written {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 1000, "12 MiB hold no more");
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(made > 10, "only {made} files fit");
    fs::remove_file(mounted.folder.join("file-0")).expect("removing needs no space");
    fs::write(mounted.folder.join("small"), "fits").expect("there is room again");
    mounted.umount();
    assert_clean(&image);
}

#[test]
fn an_overlay_takes_the_writes_and_the_image_stays() {
    let Some(workspace) = ready() else { return };
    let base = workspace.ext4_image("base.img", &workspace.small_tree());
    let before = run("sha256sum", &[&base]);
    let mounted = workspace.mount("mnt", base.as_os_str(), &["--overlay"]);
    fs::write(mounted.folder.join("etc/hostname"), "changed\n").expect("writes");
    assert_eq!(fs::read(mounted.folder.join("etc/hostname")).expect("reads"), b"changed\n");
    mounted.umount();
    assert_eq!(run("sha256sum", &[&base]), before);
    let changes = workspace.path("changes.qcow2");
    let option = format!("--overlay={}", changes.display());
    for (number, text) in ["first\n", "second\n"].iter().enumerate() {
        let mounted = workspace.mount("mnt", base.as_os_str(), &[&option]);
        if number == 1 {
            assert_eq!(fs::read(mounted.folder.join("etc/hostname")).expect("reads"), b"first\n");
        }
        fs::write(mounted.folder.join("etc/hostname"), text).expect("writes");
        mounted.umount();
    }
    assert_eq!(run("sha256sum", &[&base]), before);
    run("qemu-img", &[OsStr::new("check"), "-q".as_ref(), changes.as_ref()]);
    let raw = workspace.path("flat.img");
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "raw".as_ref(), changes.as_ref(), raw.as_ref()]);
    assert_clean(&raw);
    assert_eq!(guestctl(&[OsStr::new("cat"), raw.as_ref(), "/etc/hostname".as_ref()]).1, b"second\n");
}

#[test]
fn every_back_end_keeps_what_is_written() {
    let Some(workspace) = ready() else { return };
    let tree = workspace.small_tree();
    let raw = empty_image(&workspace, "disk.img", "64M", &[]);
    let (qcow2, vdi) = (workspace.path("disk.qcow2"), workspace.path("disk.vdi"));
    for (format, file) in [("qcow2", &qcow2), ("vdi", &vdi)] {
        run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), format.as_ref(), raw.as_ref(), file.as_ref()]);
    }
    for (name, file) in [("qcow2", &qcow2), ("vdi", &vdi)] {
        let mounted = workspace.mount(name, file.as_os_str(), &["--rw", "--discard"]);
        run("cp", &[OsStr::new("-a"), tree.as_ref(), mounted.folder.join("copy").as_ref()]);
        run("cp", &[OsStr::new("-a"), tree.as_ref(), mounted.folder.join("gone").as_ref()]);
        run("rm", &[OsStr::new("-rf"), mounted.folder.join("gone").as_ref()]);
        mounted.umount();
        run("qemu-img", &[OsStr::new("check"), "-q".as_ref(), file.as_ref()]);
        let flat = workspace.path("flat.img");
        run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "raw".as_ref(), file.as_ref(), flat.as_ref()]);
        assert_clean(&flat);
        assert_kernel_sees(&workspace, &flat, "copy", &tree);
    }
}

#[test]
fn an_image_has_one_writer() {
    let Some(workspace) = ready() else { return };
    let image = empty_image(&workspace, "disk.img", "16M", &[]);
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    let other = workspace.folder("other");
    for option in ["--rw", "--ro"] {
        let (code, _, said) = guestctl(&[OsStr::new("mount"), option.as_ref(), image.as_ref(), other.as_ref()]);
        assert_eq!(code, 6, "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    mounted.umount();
    let mut machine = Command::new("qemu-io")
        .args(["-f", "raw"])
        .arg(&image)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-io is part of qemu-utils");
    let started = std::time::Instant::now();
    while who_has_open(&image).is_empty() && started.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let (code, _, said) = guestctl(&[OsStr::new("mount"), "--rw".as_ref(), image.as_ref(), other.as_ref()]);
    drop(machine.stdin.take());
    machine.wait().expect("it ends");
    assert_eq!(code, 6, "{said}");
}

#[test]
fn memory_stays_bounded_while_much_is_written() {
    let Some(workspace) = ready() else { return };
    // `GUESTCTL_MEGABYTES=4096` writes 4 GiB.
    let megabytes: u32 = std::env::var("GUESTCTL_MEGABYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(700);
    let image = empty_image(&workspace, "disk.img", &format!("{}M", megabytes / 4 * 5 + 100), &[]);
    let folder = workspace.folder("mnt");
    let script = format!("ulimit -v 524288; exec {GUESTCTL} mount --rw {} {}", image.display(), folder.display());
    run("bash", &["-c", &script]);
    let target = format!("of={}", folder.join("large").display());
    run("dd", &["if=/dev/zero", &target, "bs=1M", &format!("count={megabytes}"), "conv=fsync", "status=none"]);
    let (code, _, said) = guestctl(&[OsStr::new("umount"), folder.as_ref()]);
    assert_eq!(code, 0, "{said}");
    assert_clean(&image);
}
