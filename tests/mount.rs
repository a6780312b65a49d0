//! The mount, from outside: what any program sees of it, and how it begins and ends.

mod common;

use common::guest::{self, GUESTCTL, Workspace, cannot_mount, guestctl, is_mounted, run, who_has_open};
use common::{folders, has_tool, is_root, skip};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn sha256(file: &Path) -> Vec<u8> {
    run("sha256sum", &[file])
}

/// Loop mounts an image read-only by the kernel for as long as a closure runs.
fn with_kernel_mount(workspace: &Workspace, image: &Path, look: impl FnOnce(&Path)) {
    let folder = workspace.folder("kernel");
    run("mount", &[OsStr::new("-o"), "loop,ro,noload".as_ref(), image.as_ref(), folder.as_ref()]);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&folder)));
    run("umount", &[&folder]);
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn the_mount_shows_what_the_kernels_own_mount_shows() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !is_root() {
        return skip("the kernel's loop mount needs root");
    }
    let workspace = Workspace::new();
    let tree = workspace.small_tree();
    run(
        "setfattr",
        &[OsStr::new("-n"), "user.note".as_ref(), "-v".as_ref(), "kept".as_ref(), tree.join("etc/hostname").as_ref()],
    );
    run("setfacl", &[OsStr::new("-m"), "u:1000:r".as_ref(), tree.join("etc/empty").as_ref()]);
    run("mknod", &[tree.join("null").as_os_str(), "c".as_ref(), "1".as_ref(), "3".as_ref()]);
    run("mkfifo", &[tree.join("fifo")]);
    let image = workspace.ext4_image("disk.img", &tree);
    let before = sha256(&image);
    let qcow2 = workspace.path("disk.qcow2");
    let convert = |more: &[&str], to: &Path| {
        let mut arguments: Vec<&OsStr> = vec!["convert".as_ref()];
        arguments.extend(more.iter().map(OsStr::new));
        arguments.extend([image.as_os_str(), to.as_os_str()]);
        run("qemu-img", &arguments);
    };
    convert(&["-c", "-O", "qcow2"], &qcow2);
    let vdi = workspace.path("disk.vdi");
    convert(&["-O", "vdi"], &vdi);
    for (name, file) in [("raw", &image), ("qcow2", &qcow2), ("vdi", &vdi)] {
        let mounted = workspace.mount(name, file.as_os_str(), &[]);
        with_kernel_mount(&workspace, &image, |kernel| {
            folders::assert_same(kernel, &mounted.folder);
            for test in ["-readable", "-writable", "-executable"] {
                let passing = |folder: &Path| {
                    let script = format!("cd '{}' && find . {test} | sort", folder.display());
                    String::from_utf8(run("sh", &["-c", &script])).expect("text")
                };
                assert_eq!(passing(&mounted.folder), passing(kernel), "{test}");
            }
        });
        mounted.umount();
    }
    assert_eq!(sha256(&image), before, "reading has changed the image");
}

#[test]
fn an_ordinary_user_mounts_what_they_can_read() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !is_root() || !has_tool("setpriv") || !has_tool("fusermount3") {
        return skip("another user's part needs root, setpriv and fusermount3");
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let folder = workspace.folder("mnt");
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("root may");
    // The program must be where that user can run it.
    let program = workspace.path("guestctl");
    fs::copy(GUESTCTL, &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let as_user = |arguments: &[&OsStr]| {
        let mut command: Vec<&OsStr> =
            ["--reuid=65534", "--regid=65534", "--clear-groups"].iter().map(OsStr::new).collect();
        command.extend(arguments);
        guest::output("setpriv", &command)
    };
    let mounted = as_user(&[program.as_ref(), "mount".as_ref(), image.as_ref(), folder.as_ref()]);
    assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
    let read = as_user(&["cat".as_ref(), folder.join("etc/hostname").as_ref(), folder.join("absolute").as_ref()]);
    let umounted = as_user(&[program.as_ref(), "umount".as_ref(), folder.as_ref()]);
    assert!(umounted.status.success(), "{}", String::from_utf8_lossy(&umounted.stderr));
    assert!(read.stdout.starts_with(b"guest\n"), "{read:?}");
    assert!(!is_mounted(&folder));
}

#[test]
fn a_read_only_mount_refuses_writing_and_umount_closes_the_image() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
    let error = fs::write(mounted.folder.join("new"), "x").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let servers = who_has_open(&image);
    assert_eq!(servers.len(), 1, "one server has the image open");
    let server = Path::new("/proc").join(servers[0].to_string());
    assert_eq!(fs::read_link(server.join("cwd")).expect("it lives"), Path::new("/"));
    for stream in ["0", "1", "2"] {
        assert_eq!(fs::read_link(server.join("fd").join(stream)).expect("open"), Path::new("/dev/null"));
    }
    let busy = fs::File::open(mounted.folder.join("etc/hostname")).expect("opens");
    let (code, _, said) = guestctl(&[OsStr::new("umount"), mounted.folder.as_os_str()]);
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("in use"), "{said}");
    drop(busy);
    mounted.umount();
    assert_eq!(who_has_open(&image), [0_u32; 0], "umount returned before the image was closed");
}

#[test]
fn signals_unmount_and_a_killed_server_can_be_cleaned_up() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    for signal in ["TERM", "INT", "HUP"] {
        let pid_file = workspace.path("pid");
        let mounted = workspace.mount("mnt", image.as_os_str(), &["--pid-file", pid_file.to_str().expect("UTF-8")]);
        let pid = fs::read_to_string(&pid_file).expect("written before mount returned");
        run("kill", &[format!("-{signal}"), pid.trim().to_owned()]);
        wait_until("the server has ended", || who_has_open(&image).is_empty());
        wait_until("the pid file is gone", || !pid_file.exists());
        assert!(!is_mounted(&mounted.folder), "SIG{signal}");
    }
    let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
    let server = who_has_open(&image)[0];
    run("kill", &["-KILL".to_owned(), server.to_string()]);
    wait_until("the server is gone", || who_has_open(&image).is_empty());
    let (code, _, said) = guestctl(&[OsStr::new("mount"), image.as_ref(), mounted.folder.as_ref()]);
    assert_eq!(code, 6, "{said}");
    let (code, _, said) = guestctl(&[OsStr::new("umount"), "--lazy".as_ref(), mounted.folder.as_ref()]);
    assert_eq!(code, 0, "{said}");
    assert!(!is_mounted(&mounted.folder));
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: it has not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn several_filesystems_are_folders_unless_they_are_chosen() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !has_tool("sfdisk") || !has_tool("mkfs.vfat") {
        return skip("the disk needs sfdisk and mkfs.vfat");
    }
    let workspace = Workspace::new();
    let tree = workspace.small_tree();
    fs::create_dir_all(tree.join("boot/efi")).expect("a new folder");
    let disk = workspace.gpt_disk("disk.img", &tree);
    let mounted = workspace.mount("both", disk.as_os_str(), &[]);
    let mut names: Vec<_> =
        fs::read_dir(&mounted.folder).expect("lists").map(|entry| entry.expect("named").file_name()).collect();
    names.sort();
    assert_eq!(names, ["sda1", "sda2"]);
    assert_eq!(fs::read(mounted.folder.join("sda2/etc/hostname")).expect("reads"), b"guest\n");
    mounted.umount();
    let chosen = workspace.mount("one", disk.as_os_str(), &["-m", "/dev/sda1:/boot/efi", "-m", "/dev/vda2:/"]);
    assert_eq!(fs::read(chosen.folder.join("etc/hostname")).expect("reads"), b"guest\n");
    let root = fs::metadata(&chosen.folder).expect("stat");
    assert_eq!(root.ino(), 2, "the root shows the guest's own number");
    assert!(fs::read_dir(chosen.folder.join("boot/efi")).expect("lists").next().is_none());
    chosen.umount();
    let devices = workspace.mount("devices", disk.as_os_str(), &["--layout", "devices"]);
    assert!(devices.folder.join("sda1").is_dir());
    devices.umount();
    let (code, _, said) = guestctl(&[
        OsStr::new("mount"),
        "-m".as_ref(),
        "/dev/sdb1".as_ref(),
        disk.as_ref(),
        workspace.folder("x").as_ref(),
    ]);
    assert_eq!(code, 7, "{said}");
    assert!(said.contains("/dev/sda1, /dev/sda2"), "{said}");
}

#[test]
fn mount_options_are_those_of_mount() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let mounted = workspace.mount(
        "mnt",
        image.as_os_str(),
        &["-o", "uid=1234,gid=99,umask=077,fsname=a disk,noexec", "-o", "ro"],
    );
    let seen = fs::metadata(mounted.folder.join("etc/hostname")).expect("stat");
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o777), (1234, 99, 0o600));
    let table = fs::read_to_string("/proc/self/mountinfo").expect("every Linux has it");
    let line = table.lines().find(|line| line.contains(mounted.folder.to_str().expect("UTF-8"))).expect("mounted");
    assert!(line.contains("ro,nosuid,nodev,noexec") && line.contains("fuse.guestctl a\\040disk"), "{line}");
    mounted.umount();
    let folder = workspace.folder("other");
    let (code, _, said) =
        guestctl(&[OsStr::new("mount"), "-o".as_ref(), "ro,shiny".as_ref(), image.as_ref(), folder.as_ref()]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("unknown mount option shiny"), "{said}");
}

#[test]
fn the_caller_is_told_when_the_mount_answers() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let folder = workspace.folder("mnt");
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    keep_over_exec(&writer);
    let mut child = Command::new(GUESTCTL)
        .args(["mount", "--foreground", "--ready-fd", &writer.as_raw_fd().to_string()])
        .args([&image, &folder])
        .stdin(Stdio::null())
        .spawn()
        .expect("runs");
    drop(writer);
    let mut told = Vec::new();
    reader.read_to_end(&mut told).expect("the pipe is closed");
    assert_eq!(told, b"\n");
    assert_eq!(fs::read(folder.join("etc/hostname")).expect("it answers"), b"guest\n");
    let (code, _, said) = guestctl(&[OsStr::new("umount"), folder.as_ref()]);
    assert_eq!(code, 0, "{said}");
    assert!(child.wait().expect("it ends").success());
}

fn keep_over_exec(file: &impl std::os::fd::AsFd) {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
}

#[test]
fn a_device_that_a_parent_opened_and_mounted_is_served() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !is_root() {
        return skip("mount(2) needs root");
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let folder = workspace.folder("mnt");
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").expect("root may");
    keep_over_exec(&device);
    let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
    nix::mount::mount(Some("test"), &folder, Some("fuse"), flags, Some(data.as_str())).expect("mounts");
    let mut child = Command::new(GUESTCTL)
        .args(["mount", "--foreground"])
        .arg(&image)
        .arg(format!("/dev/fd/{}", device.as_raw_fd()))
        .stdin(Stdio::null())
        .spawn()
        .expect("runs");
    drop(device);
    let read = fs::read(folder.join("etc/hostname"));
    nix::mount::umount(&folder).expect("unmounts");
    assert_eq!(read.expect("it answers"), b"guest\n");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn half_a_gibibyte_of_addresses_is_enough() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let qcow2 = workspace.path("disk.qcow2");
    run(
        "qemu-img",
        &["convert".as_ref(), "-c".as_ref(), "-O".as_ref(), OsStr::new("qcow2"), image.as_ref(), qcow2.as_ref()],
    );
    for file in [&image, &qcow2] {
        let folder = workspace.folder("mnt");
        let script = format!("ulimit -v 524288; exec {GUESTCTL} mount {} {}", file.display(), folder.display());
        run("bash", &["-c", &script]);
        let tar = format!("tar -C {} -cf - . | sha256sum", folder.display());
        run("bash", &["-o", "pipefail", "-c", &tar]);
        let (code, _, said) = guestctl(&[OsStr::new("umount"), folder.as_ref()]);
        assert_eq!(code, 0, "{said}");
    }
}

#[test]
fn what_cannot_be_mounted_gets_one_line_and_its_exit_code_at_once() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let good = workspace.ext4_image("good.img", &workspace.small_tree());
    let folder = workspace.folder("mnt");
    let write = |name: &str, bytes: &[u8]| {
        let path = workspace.path(name);
        fs::write(&path, bytes).expect("a new file");
        path
    };
    let text = write("text.img", "this is no disk image\n".repeat(100).as_bytes());
    let empty = write("empty.img", b"");
    let short = write("short.img", &fs::read(&good).expect("reads")[..1500]);
    let truncated = write("truncated.img", &fs::read(&good).expect("reads")[..1 << 20]);
    let mut broken = fs::read(&good).expect("reads");
    // One bit of the block count, and no sound copy elsewhere.
    broken[1024 + 4] ^= 1;
    let mut at = 2048;
    while at + 1024 <= broken.len() {
        if broken[at + 0x38..at + 0x3a] == [0x53, 0xef] {
            broken[at..at + 1024].fill(0);
        }
        at += 1024;
    }
    let broken = write("broken.img", &broken);
    let elsewhere = workspace.folder("elsewhere");
    let base = workspace.path("base.img");
    fs::copy(&good, &base).expect("a copy");
    let backed = elsewhere.join("backed.qcow2");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            base.to_str().expect("UTF-8"),
            backed.to_str().expect("UTF-8"),
        ],
    );
    let secret = workspace.path("encrypted.qcow2");
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "--object",
            "secret,id=s,data=x",
            "-o",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
            secret.to_str().expect("UTF-8"),
            "8M",
        ],
    );
    let (tree, missing) = (workspace.folder("tree"), workspace.path("missing.img"));
    let no_folder = workspace.path("no-folder");
    let unreachable = "nbd+unix:///?socket=/nonexistent/socket";
    let cases: Vec<(&OsStr, &Path, i32, &str)> = vec![
        (text.as_ref(), &folder, 3, "no filesystem"),
        (empty.as_ref(), &folder, 3, "empty"),
        (short.as_ref(), &folder, 3, "no filesystem"),
        (truncated.as_ref(), &folder, 4, "truncated"),
        (broken.as_ref(), &folder, 4, "superblock"),
        (tree.as_ref(), &folder, 3, "folder"),
        (missing.as_ref(), &folder, 7, "there is no file"),
        (backed.as_ref(), &folder, 2, "--allow-backing"),
        (secret.as_ref(), &folder, 5, "encrypt"),
        (OsStr::new(unreachable), &folder, 7, "/nonexistent/socket"),
        (good.as_ref(), &no_folder, 7, "does not exist"),
        (good.as_ref(), &good, 2, "not a folder"),
    ];
    for (image, mountpoint, code, says) in cases {
        let started = Instant::now();
        let (found, _, said) = guestctl(&[OsStr::new("mount"), image, mountpoint.as_ref()]);
        let lines: Vec<&str> = said.lines().filter(|line| !line.contains("warn:")).collect();
        assert_eq!(found, code, "{}: {said}", image.display());
        assert_eq!(lines.len(), 1, "{}: {said}", image.display());
        assert!(said.contains(says), "{}: {said}", image.display());
        assert!(started.elapsed() < Duration::from_secs(15), "{}: it took {:?}", image.display(), started.elapsed());
        assert!(!is_mounted(&folder), "{}: something is mounted", image.display());
    }
    assert_eq!(who_has_open(&good), [0_u32; 0], "a server was left behind");
    let mounted = workspace.mount("mnt", good.as_os_str(), &[]);
    let (code, _, said) = guestctl(&[OsStr::new("mount"), good.as_ref(), folder.as_ref()]);
    assert_eq!(code, 6, "{said}");
    mounted.umount();
}

#[test]
fn a_filesystem_whose_first_superblock_is_gone_is_read_by_a_copy() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let mut bytes = fs::read(&image).expect("reads");
    bytes[1024..2048].fill(0);
    fs::write(&image, bytes).expect("writes");
    let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
    assert_eq!(fs::read(mounted.folder.join("etc/hostname")).expect("reads"), b"guest\n");
    mounted.umount();
}

#[test]
fn many_readers_at_once_read_the_same() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    let workspace = Workspace::new();
    let tree = workspace.small_tree();
    let image = workspace.ext4_image("disk.img", &tree);
    let mounted = workspace.mount("mnt", image.as_os_str(), &[]);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (tree, folder) = (&tree, &mounted.folder);
            scope.spawn(move || {
                for number in 0..300 {
                    let name = format!("var/file-{:03}", (number * 7 + reader * 31) % 300);
                    assert_eq!(
                        fs::read(folder.join(&name)).expect("reads"),
                        fs::read(tree.join(&name)).expect("reads")
                    );
                }
                assert!(
                    fs::read(folder.join("usr/bin/same")).expect("reads")
                        == fs::read(tree.join("usr/bin/large")).expect("reads")
                );
            });
        }
    });
    mounted.umount();
}
