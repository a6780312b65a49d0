//! What every command does with what it cannot do: one line that says why, the exit code that `--help` documents, and nothing
//! half-done under the name that was asked for; and that each does its work in little memory.

mod common;
#[path = "common/nbd.rs"]
mod nbd;

use common::guest::{GUESTCTL, Workspace, guestctl, run, small_guest};
use common::{has_tool, is_root, skip, tool};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command line for every command. In these and in all lines below, `{image}` is an image, `{here}` a folder of the host.
const EVERY_COMMAND: [&str; 47] = [
    "mount {image} {here}/mnt",
    "umount {image}",
    "filesystems {image}",
    "inspect {image}",
    "ls {image}",
    "cat {image} /etc/hostname",
    "stat {image} /etc",
    "find {image}",
    "grep x {image} /etc/hostname",
    "du {image}",
    "df {image}",
    "cp {image} /etc/hostname {here}/new",
    "copy-out {image} /etc {here}",
    "copy-in --rw {image} {here}/file /etc",
    "tar-out {image} / {here}/new",
    "tar-in --rw {image} {here}/file.tar /etc",
    "write --rw {image} /etc/hostname",
    "edit --rw {image} /etc/hostname",
    "rm --rw {image} /etc/hostname",
    "mkdir --rw {image} /new",
    "rmdir --rw {image} /var/empty",
    "mv --rw {image} /etc/hostname /new",
    "ln -s --rw {image} target /new",
    "touch --rw {image} /new",
    "truncate -s 0 --rw {image} /etc/hostname",
    "chmod 600 --rw {image} /etc/hostname",
    "chown 1:1 --rw {image} /etc/hostname",
    "xattr --set user.a=b --rw {image} /etc/hostname",
    "checksum {image}",
    "checksum -r {image} /",
    "diff {image} {here}/disk.img",
    "info {image}",
    "check {image}",
    "create --backing {image} {here}/new",
    "part list {image}",
    "part init {image} gpt",
    "part add {image}",
    "part del {image} 1",
    "part set {image} 1 --name x",
    "mkfs ext4 {image}",
    "convert {image} --output {here}/new",
    "convert {image} --format raw --output {here}/new",
    "compact {image}",
    "compact --compress {image}",
    "shell {image}",
    "run {here}/script {image}",
    "run - {image}",
];

/// An image, and files of the host to name beside it.
struct Guest {
    workspace: Workspace,
    image: PathBuf,
    /// What was not as it should be; told all together when the test ends.
    wrong: RefCell<Vec<String>>,
}

impl Guest {
    fn new() -> Option<Self> {
        let (workspace, tree, image) = small_guest()?;
        fs::write(workspace.path("file"), "contents\n").expect("ours");
        fs::write(workspace.path("script"), "ls /\n").expect("ours");
        workspace.folder("mnt");
        run(
            "tar",
            &[OsStr::new("-C"), tree.as_ref(), "-cf".as_ref(), workspace.path("file.tar").as_ref(), "etc".as_ref()],
        );
        Some(Self { workspace, image, wrong: RefCell::default() })
    }

    fn here(&self) -> PathBuf {
        self.workspace.path("")
    }

    /// Runs a command line on an image; it must fail with one line and a code.
    fn fails(&self, line: &str, image: &Path, code: i32, words: &str) {
        let arguments = arguments(line, image, &self.here());
        let (found, printed, said) = guestctl(&arguments);
        let is_one_line = said.starts_with("guestctl: ") && said.lines().count() == 1 && said.ends_with('\n');
        if found != code || !is_one_line || !said.contains(words) || !printed.is_empty() {
            let printed = String::from_utf8_lossy(&printed);
            let image = image.display();
            self.wrong
                .borrow_mut()
                .push(format!("{line} with {image}: {found}, not {code} with {words:?}: {said}{printed}"));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        assert!(self.wrong.borrow().is_empty() || std::thread::panicking(), "{}", self.wrong.borrow().join("\n"));
    }
}

fn arguments(line: &str, image: &Path, here: &Path) -> Vec<String> {
    let here = here.to_str().expect("text").trim_end_matches('/');
    let fill = |word: &str| word.replace("{image}", image.to_str().expect("text")).replace("{here}", here);
    line.split(' ').map(fill).collect()
}

/// Returns what lies in a folder, with the sizes.
fn entries(folder: &Path) -> BTreeSet<(PathBuf, u64)> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| (entry.path(), entry.metadata().map_or(0, |meta| meta.len()))).collect()
}

/// Returns the commands that `--help` lists.
fn listed_commands() -> BTreeSet<String> {
    let (_, help, _) = guestctl(&["--help"]);
    let help = String::from_utf8(help).expect("text");
    let listed =
        help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).expect("a list of commands");
    listed
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Checks that lines use every command there is.
fn use_every_command(lines: &[&str]) {
    let used: BTreeSet<String> = lines.iter().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert_eq!(used, listed_commands());
}

#[test]
fn the_table_has_every_command() {
    use_every_command(&EVERY_COMMAND);
}

#[test]
fn every_command_works_in_little_address_space() {
    let Some(guest) = Guest::new() else { return };
    if let Some(why) = common::guest::cannot_mount() {
        return skip(why);
    }
    let lines = [
        "filesystems {image}",
        "inspect --packages {image}",
        "ls -lR {image} /",
        "cat {image} /usr/bin/large",
        "stat {image} /etc",
        "find --json {image}",
        "grep -r 1 {image} /var",
        "du {image}",
        "df {image}",
        "cp -a {image} /usr {here}/copied",
        "copy-out {image} /etc {here}",
        "copy-in --rw {image} {here}/copied /var",
        "tar-out {image} / {here}/all.tar.xz",
        "tar-out {image} / {here}/all.tar.zst",
        "tar-in --rw {image} {here}/all.tar.zst /var/empty",
        "write --rw {image} /etc/hostname",
        "edit --rw {image} /etc/hostname",
        "mkdir --rw {image} /new",
        "rmdir --rw {image} /new",
        "mv --rw {image} /var/file-001 /moved",
        "ln -s --rw {image} target /link",
        "touch --rw {image} /new",
        "truncate -s 1M --rw {image} /new",
        "chmod 600 --rw {image} /new",
        "chown 1:1 --rw {image} /new",
        "xattr --set user.a=b --rw {image} /new",
        "rm -r --rw {image} /var/copied",
        "checksum -r {image} /",
        "checksum {image}",
        "diff {image} {image}",
        "info {image}",
        "check --contents {image}",
        "convert --compress --compression-type zstd {image} --output {here}/new.qcow2",
        "convert {here}/new.qcow2 --format raw --output {here}/new.raw",
        "compact {here}/new.qcow2",
        "create {here}/made.qcow2 200M",
        "part init {here}/made.qcow2 gpt",
        "part add {here}/made.qcow2",
        "part list {here}/made.qcow2",
        "mkfs ext4 {here}/made.qcow2 --device /dev/sda1",
        "shell {image}",
        "run {here}/script {image}",
        "mount {image} {here}/mnt",
        "umount {here}/mnt",
    ];
    use_every_command(&lines);
    for line in lines {
        let arguments = arguments(line, &guest.image, &guest.here());
        let output = Command::new("sh")
            .args(["-c", "ulimit -v 524288 && echo ls / | timeout -k 5 60 \"$@\"", "sh", GUESTCTL])
            .args(&arguments)
            .env("VISUAL", "true")
            .output()
            .expect("sh is everywhere");
        assert!(output.status.success(), "{line}: {} {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    run("e2fsck", &[OsStr::new("-fn"), guest.image.as_ref()]);
}

#[test]
fn an_image_that_is_missing_a_folder_or_no_disk_is_refused_by_every_command() {
    let Some(guest) = Guest::new() else { return };
    let empty = guest.workspace.path("empty");
    fs::write(&empty, "").expect("ours");
    // A header of qcow2 that claims clusters of 2 GiB.
    let broken = guest.workspace.path("broken.qcow2");
    let header = [&b"QFI\xfb"[..], &[0, 0, 0, 3], &[0; 12], &[0, 0, 0, 31], &[0; 4072]].concat();
    fs::write(&broken, header).expect("ours");
    let before = entries(&guest.here());
    for line in EVERY_COMMAND {
        let missing = guest.workspace.path("missing.img");
        if line.starts_with("umount") {
            guest.fails(line, &missing, 7, "missing.img");
            guest.fails(line, &guest.here(), 7, "nothing that guestctl mounted");
            continue;
        }
        guest.fails(line, &missing, 7, "missing.img");
        guest.fails(line, &guest.here(), 3, "is a folder");
        guest.fails(line, &empty, 3, "empty");
        guest.fails(line, &broken, 4, "broken.qcow2");
    }
    assert_eq!(entries(&guest.here()), before, "nothing was made");
}

#[test]
fn paths_that_are_missing_or_of_the_wrong_kind_are_named() {
    let Some(guest) = Guest::new() else { return };
    let sums = || guestctl(&arguments("checksum -r {image} /", &guest.image, &guest.here())).1;
    let before = (entries(&guest.here()), sums());
    for (line, code, words) in [
        ("ls {image} /none", 7, "/none"),
        ("ls {image}:/none", 7, "/none"),
        ("cat {image} /none", 7, "/none"),
        ("cat {image} /etc", 1, "/etc"),
        ("cat {image} /etc/hostname/below", 7, "/etc/hostname/below"),
        ("stat {image} /none", 7, "/none"),
        ("stat {image}", 2, "IMAGE PATH"),
        ("find {image} /none", 7, "/none"),
        ("grep x {image} /none", 7, "/none"),
        ("grep x {image} /etc", 1, "/etc"),
        ("grep ( {image} /etc/hostname", 2, "("),
        ("du {image} /none", 7, "/none"),
        ("cp {image} /none {here}/new", 7, "/none"),
        ("cp {image} /etc {here}/new", 1, "-r"),
        ("cp {image} /etc/hostname {here}/none/new", 7, "none/new"),
        ("cp {image} /etc/hostname /etc/empty {here}/file", 7, "file"),
        ("cp --rw {here}/none {image}:/etc", 7, "none"),
        ("cp --rw {here}/mnt {image}:/etc", 1, "Is a directory"),
        ("copy-out {image} /none {here}", 7, "/none"),
        ("copy-out {image} /etc {here}/file", 7, "file"),
        ("copy-in --rw {image} {here}/file /none", 7, "/none"),
        ("copy-in --rw {image} {here}/file /etc/hostname", 7, "/etc/hostname"),
        ("copy-in --rw {image} {here}/none /etc", 7, "none"),
        ("tar-out {image} /none {here}/new", 7, "/none"),
        ("tar-out {image} /etc/hostname {here}/new", 7, "/etc/hostname"),
        ("tar-out {image} / {here}/mnt", 1, "mnt"),
        ("tar-out -z rar {image} / {here}/new", 2, "rar"),
        ("tar-in --rw {image} {here}/none /etc", 7, "none"),
        ("tar-in --rw {image} {here}/file.tar /none", 7, "/none"),
        ("tar-in --rw {image} {here}/file.tar /etc/hostname", 7, "/etc/hostname"),
        ("tar-in --rw {image} {here}/file /etc", 4, "damaged tar archive"),
        ("write --rw {image} /etc", 1, "/etc"),
        ("write --rw {image} /none/file", 7, "/none/file"),
        ("edit --rw {image} /none", 7, "/none"),
        ("edit --rw {image} /etc", 1, "/etc"),
        ("rm --rw {image} /none", 7, "/none"),
        ("rm --rw {image} /etc", 1, "/etc"),
        ("mkdir --rw {image} /etc", 1, "/etc"),
        ("mkdir --rw {image} /none/new", 7, "/none/new"),
        ("rmdir --rw {image} /none", 7, "/none"),
        ("rmdir --rw {image} /etc", 1, "/etc"),
        ("rmdir --rw {image} /etc/hostname", 7, "/etc/hostname"),
        ("mv --rw {image} /none /new", 7, "/none"),
        ("mv --rw {image} /etc /etc/below", 1, "/etc"),
        ("ln --rw {image} /none /new", 7, "/none"),
        ("ln --rw {image} /etc /new", 1, "Operation not permitted"),
        ("ln -s --rw {image} target /etc/hostname", 1, "/etc/hostname"),
        ("touch --rw {image} /none/new", 7, "/none/new"),
        ("touch --frobnicate --rw {image} /etc/hostname", 2, "--frobnicate"),
        ("truncate -s 0 --rw {image} /etc", 1, "/etc"),
        ("truncate -s many --rw {image} /etc/hostname", 2, "many"),
        ("chmod 600 --rw {image} /none", 7, "/none"),
        ("chmod rwx --rw {image} /etc/hostname", 2, "rwx"),
        ("chown 1:1 --rw {image} /none", 7, "/none"),
        ("chown nobody-of-that-name --rw {image} /etc/hostname", 7, "/etc/passwd"),
        ("xattr {image} /none", 7, "/none"),
        ("xattr --remove user.none --rw {image} /etc/hostname", 1, "/etc/hostname"),
        ("checksum {image} /none", 7, "/none"),
        ("checksum {image} /etc", 1, "/etc"),
        ("checksum -a sha3 {image} /etc/hostname", 2, "sha3"),
        ("diff {image}:/none {image}", 7, "/none"),
        ("diff {image} {here}/file", 3, "file"),
        ("mount {image} {here}/none", 7, "none"),
        ("mount {image} {here}/file", 2, "not a folder"),
        ("mount --root /dev/sdz {image} {here}/mnt", 7, "/dev/sdz"),
        ("mount -m /dev/sdz:/ {image} {here}/mnt", 7, "/dev/sdz"),
        ("ls -m /dev/sdz {image}", 7, "/dev/sdz"),
        ("ls --layout sideways {image}", 2, "sideways"),
        ("ls --via pigeon {image}", 2, "pigeon"),
        ("ls --format zip {image}", 2, "zip"),
        ("ls --snapshot none {image}", 7, "snapshot"),
        ("ls --key none {image}", 2, "none"),
        ("umount {here}/mnt", 7, "nothing that guestctl mounted"),
        ("create {here}/new", 2, "<SIZE>"),
        ("create {here}/new much", 2, "much"),
        ("create {here}/none/new 1M", 7, "none"),
        ("create --format zip {here}/new 1M", 2, "zip"),
        ("create {here}/file 1M", 1, "--force"),
        ("create {here}/mnt 1M", 1, "mnt"),
        ("convert {image} --output {here}/file", 1, "--force"),
        ("convert --force {image} --output {here}/mnt", 1, "mnt"),
        ("convert {image} --output {here}/none/new", 7, "none"),
        ("convert --format zip {image} --output {here}/new", 2, "zip"),
        ("convert --compress --compression-type rar {image} --output {here}/new", 2, "rar"),
        ("mkfs ext9 {image}", 2, "ext9"),
        ("mkfs --device /dev/sda7 ext4 {image}", 7, "/dev/sda7"),
        ("part init {image} apple", 2, "apple"),
        ("part add {image}", 7, "partition table"),
        ("part del {image} 9", 7, "partition table"),
        ("run {here}/none {image}", 7, "none"),
        ("run {here}/mnt {image}", 1, "mnt"),
        ("frobnicate {image}", 2, "frobnicate"),
        ("ls --frobnicate {image}", 2, "--frobnicate"),
        ("cat", 2, "<IMAGE>"),
    ] {
        guest.fails(line, &guest.image, code, words);
        assert_eq!(entries(&guest.here()), before.0, "{line}: nothing was made");
    }
    assert!(sums() == before.1, "the files of the guest are as they were");
    run("e2fsck", &[OsStr::new("-fn"), guest.image.as_ref()]);
}

/// A filesystem in memory, which can be full and read-only; unmounted when it goes.
struct Memory(PathBuf);

impl Memory {
    fn new(guest: &Guest, size: &str) -> Option<Self> {
        if !is_root() {
            skip("a small filesystem in memory needs root");
            return None;
        }
        let folder = guest.workspace.folder("memory");
        run(
            "mount",
            &[
                OsStr::new("-t"),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                format!("size={size}").as_ref(),
                "none".as_ref(),
                folder.as_ref(),
            ],
        );
        Some(Self(folder))
    }

    fn space_left(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.0).expect("mounted").blocks_available() * 4096
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        run("umount", &[&self.0]);
    }
}

#[test]
fn an_image_that_cannot_be_written_is_refused_by_every_command_that_writes() {
    let Some(guest) = Guest::new() else { return };
    let Some(memory) = Memory::new(&guest, "40m") else { return };
    let image = memory.0.join("disk.img");
    fs::copy(&guest.image, &image).expect("room");
    run("mount", &[OsStr::new("-o"), "remount,ro".as_ref(), memory.0.as_ref()]);
    for line in EVERY_COMMAND.iter().filter(|line| line.contains("--rw")).copied().chain([
        "mount --rw {image} {here}/mnt",
        "part init {image} gpt",
        "mkfs ext4 {image}",
        "compact {image}",
        "shell --rw {image}",
        "run --rw {here}/script {image}",
        "cp {image} /etc/hostname {here}/memory/new",
        "copy-out {image} /etc {here}/memory",
        "tar-out {image} / {here}/memory/new",
        "create {here}/memory/new 1M",
        "convert {image} --output {here}/memory/new",
    ]) {
        guest.fails(line, &image, 1, "Read-only file system");
    }
}

#[test]
fn a_host_that_is_full_gets_nothing_half_written() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("qemu-img") {
        return skip("there is no qemu-img");
    }
    let Some(memory) = Memory::new(&guest, "5m") else { return };
    // Compacting needs room for the new image beside the old one.
    let qcow2 = memory.0.join("disk.qcow2");
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), guest.image.as_ref(), qcow2.as_ref()]);
    let rest = memory.space_left().saturating_sub(1 << 20);
    fs::write(memory.0.join("rest"), vec![1; rest as usize]).expect("room");
    let before = entries(&memory.0);
    for line in [
        "cp {image} /usr/bin/large {here}/memory/new",
        "copy-out {image} /usr/bin {here}/memory",
        "tar-out {image} / {here}/memory/new.tar",
        "convert {image} --output {here}/memory/new.qcow2",
        "convert --format raw {image} --output {here}/memory/new.img",
        "convert --format vmdk {image} --output {here}/memory/new.vmdk",
        "compact {here}/memory/disk.qcow2",
    ] {
        guest.fails(line, &guest.image, 1, "No space left on device");
        if line.starts_with("copy-out") {
            // The folder is there, as with cp, and no half of a file in it.
            let left = entries(&memory.0.join("bin"));
            assert!(left.is_empty(), "{left:?}");
            fs::remove_dir_all(memory.0.join("bin")).expect("ours");
        }
        assert_eq!(entries(&memory.0), before, "{line}");
    }
    // Not even a header fits.
    fs::write(memory.0.join("more"), vec![1; memory.space_left() as usize]).expect("room");
    let before = entries(&memory.0);
    guest.fails("create {here}/memory/new.qcow2 1G", &guest.image, 1, "No space left on device");
    assert_eq!(entries(&memory.0), before);
}

#[test]
fn a_guest_that_is_full_gets_nothing_half_written() {
    let Some(guest) = Guest::new() else { return };
    let big = guest.workspace.path("big");
    fs::write(&big, vec![1; 40 << 20]).expect("room");
    run(
        "tar",
        &[
            OsStr::new("-C"),
            guest.here().as_ref(),
            "-cf".as_ref(),
            guest.workspace.path("big.tar").as_ref(),
            "big".as_ref(),
        ],
    );
    for line in [
        "copy-in --rw {image} {here}/big /etc",
        "tar-in --rw {image} {here}/big.tar /etc",
        "cp --rw {here}/big {image}:/etc",
    ] {
        guest.fails(line, &guest.image, 1, "No space left on device");
        let (_, names, _) = guestctl(&arguments("ls {image} /etc", &guest.image, &guest.here()));
        assert_eq!(String::from_utf8_lossy(&names), "empty\nhostname\n", "{line}");
    }
    run("e2fsck", &[OsStr::new("-fn"), guest.image.as_ref()]);
}

/// Starts a command in a process group of its own, as a shell does.
fn start(line: &str, guest: &Guest, image: &Path, path: Option<&Path>) -> std::process::Child {
    let mut command = Command::new(GUESTCTL);
    command.args(arguments(line, image, &guest.here())).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(path) = path {
        let old = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{old}", path.display())).env("TMPDIR", guest.workspace.folder("scratch"));
    }
    command.spawn().expect("it was built")
}

/// Waits for something.
fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_there() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Types Ctrl-C to a command; it must end with one line and code 1.
fn interrupt(child: std::process::Child, line: &str) {
    kill(Pid::from_raw(-child.id().cast_signed()), Signal::SIGINT).expect("it runs");
    let pid = child.id();
    let (told, hears) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(child.wait_with_output()));
    let Ok(ended) = hears.recv_timeout(Duration::from_secs(60)) else {
        let _ = kill(Pid::from_raw(-pid.cast_signed()), Signal::SIGKILL);
        panic!("{line} does not end");
    };
    let ended = ended.expect("it was started");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{line}: {} {said}", ended.status);
    assert!(said.starts_with("guestctl: ") && said.lines().count() == 1, "{line}: {said}");
}

#[test]
fn a_command_that_is_interrupted_leaves_no_half_of_a_file_on_the_host() {
    let Some(guest) = Guest::new() else { return };
    if !has_tool("nbdkit") {
        return skip("there is no nbdkit");
    }
    // A server that takes its time is what holds the commands up.
    let image = guest.image.to_str().expect("text");
    fs::write(guest.workspace.path("script"), "download /usr/bin/large new\n").expect("ours");
    let target = guest.workspace.folder("target");
    fs::write(target.join("old"), "kept").expect("ours");
    for line in [
        "cp -m /dev/sda {image} /usr/bin/large {here}/target/new",
        "cp -m /dev/sda {image} /usr/bin/large {here}/target/old",
        "copy-out -m /dev/sda {image} /usr/bin/large {here}/target",
        "tar-out -m /dev/sda {image} / {here}/target/new.tar",
        "tar-out -m /dev/sda {image} / {here}/target/new.tar.gz",
        "convert {image} --output {here}/target/new.qcow2",
        "convert --compress {image} --output {here}/target/new.qcow2",
        "convert --format raw {image} --output {here}/target/new.img",
        "convert --format raw --force {image} --output {here}/target/old",
    ] {
        // A new one each time: some versions of nbdkit end themselves when a client goes while they wait.
        let (_server, socket) = nbd::nbdkit(&guest.here(), &["--filter=delay", "file", image, "rdelay=60ms"]);
        let child = start(line, &guest, &PathBuf::from(nbd::unix_uri(&socket, "")), None);
        wait_for(line, || entries(&target).len() > 1);
        interrupt(child, line);
        let left: Vec<PathBuf> = entries(&target).into_iter().map(|(path, _)| path).collect();
        assert_eq!(left, [target.join("old")], "{line}");
        assert_eq!(fs::read(target.join("old")).expect("ours"), b"kept", "{line}");
    }
}

#[test]
fn making_and_compacting_images_can_be_interrupted() {
    let Some(guest) = Guest::new() else { return };
    let Some(qemu_img) = tool("qemu-img") else { return skip("there is no qemu-img") };
    let before = fs::read(&guest.image).expect("ours");
    // Tools that say that they have begun, and take their time.
    let programs = guest.workspace.folder("programs");
    let begun = guest.workspace.path("begun");
    for program in [qemu_img.as_path(), &tool("mke2fs").expect("asked for above")] {
        let name = programs.join(program.file_name().expect("a name"));
        let script = format!("#!/bin/sh\ntouch {}\nsleep 20\nexec {} \"$@\"\n", begun.display(), program.display());
        fs::write(&name, script).expect("ours");
        run("chmod", &[OsStr::new("+x"), name.as_ref()]);
    }
    let target = guest.workspace.folder("target");
    for line in [
        "create --format vmdk {here}/target/new.vmdk 1G",
        "convert --format vdi {image} --output {here}/target/new.vdi",
        "mkfs ext4 {image}",
    ] {
        let child = start(line, &guest, &guest.image, Some(&programs));
        wait_for(line, || begun.exists());
        interrupt(child, line);
        fs::remove_file(&begun).expect("the tool made it");
        assert!(entries(&target).is_empty() && entries(&guest.workspace.path("scratch")).is_empty(), "{line}");
    }
    assert!(fs::read(&guest.image).expect("ours") == before, "the image is as it was");
    // Compacting reads nothing that could be slow; there is much to compress.
    let large = target.join("large.img");
    let noise: Vec<u8> = (0..8_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 20) as u8).collect();
    let mut file = fs::File::create(&large).expect("ours");
    (0..40).for_each(|_| file.write_all(&noise).expect("room"));
    let qcow2 = target.join("large.qcow2");
    run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), large.as_ref(), qcow2.as_ref()]);
    fs::remove_file(&large).expect("ours");
    let old = fs::metadata(&qcow2).expect("ours");
    let child = start("compact --compress {image}", &guest, &qcow2, None);
    wait_for("the new image", || entries(&target).len() > 1);
    interrupt(child, "compact");
    assert_eq!(entries(&target).len(), 1, "the old image alone is there");
    assert_eq!(fs::metadata(&qcow2).expect("ours").ino(), old.ino(), "and the same one");
    run("qemu-img", &[OsStr::new("check"), qcow2.as_ref()]);
}

#[test]
fn a_command_that_is_interrupted_leaves_no_half_of_a_file_in_the_guest() {
    let Some(guest) = Guest::new() else { return };
    let etc =
        || String::from_utf8(guestctl(&arguments("ls {image} /etc", &guest.image, &guest.here())).1).expect("text");
    let archive = guest.workspace.path("big.tar");
    fs::write(guest.workspace.path("new"), vec![7; 3_000_000]).expect("room");
    run("tar", &[OsStr::new("-C"), guest.here().as_ref(), "-cf".as_ref(), archive.as_ref(), "new".as_ref()]);
    let half = &fs::read(&archive).expect("ours")[..2_000_000];
    for line in ["write --rw {image} /etc/hostname", "write --rw {image} /etc/new", "tar-in --rw {image} - /etc"] {
        let mut child = start(line, &guest, &guest.image, None);
        // Input that does not end holds the command up.
        let mut input = child.stdin.take().expect("piped");
        input.write_all(half).expect("it reads");
        std::thread::sleep(Duration::from_millis(100));
        interrupt(child, line);
        drop(input);
        assert_eq!(etc(), "empty\nhostname\n", "{line}");
        let (_, contents, _) = guestctl(&arguments("cat {image} /etc/hostname", &guest.image, &guest.here()));
        assert_eq!(contents, b"guest\n", "{line}");
    }
    // An editor that is interrupted changes nothing.
    let begun = guest.workspace.path("begun");
    let editor = format!("echo changed >\"$1\"; touch {}; sleep 20; :", begun.display());
    let mut command = Command::new(GUESTCTL);
    command.args(arguments("edit --rw {image} /etc/hostname", &guest.image, &guest.here()));
    command.env("VISUAL", editor).process_group(0).stdin(Stdio::null()).stderr(Stdio::piped());
    let child = command.spawn().expect("it was built");
    wait_for("the editor", || begun.exists());
    interrupt(child, "edit");
    let (_, contents, _) = guestctl(&arguments("cat {image} /etc/hostname", &guest.image, &guest.here()));
    assert_eq!(contents, b"guest\n");
    run("e2fsck", &[OsStr::new("-fn"), guest.image.as_ref()]);
}
