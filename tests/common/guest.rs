//! Images, mounts and runs of the program for the end-to-end tests.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program under test; empty within the library's own tests, which do not run it.
pub const GUESTCTL: &str = match option_env!("CARGO_BIN_EXE_guestctl") {
    Some(path) => path,
    None => "",
};

/// Runs a command to its end; it must succeed within a minute.
pub fn run(program: &str, arguments: &[impl AsRef<OsStr>]) -> Vec<u8> {
    let output = output(program, arguments);
    let text = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {}: {}", output.status, text());
    output.stdout
}

/// Runs a command to its end, for a minute at most.
pub fn output(program: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
    Command::new("timeout")
        .args(["-k", "5", "60", program])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("timeout(1) is part of every system")
}

/// Runs the program; returns its exit code, what it printed and what it said.
pub fn guestctl(arguments: &[impl AsRef<OsStr>]) -> (i32, Vec<u8>, String) {
    let output = output(GUESTCTL, arguments);
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Makes a small tree and an ext4 image `disk.img` of it; none where mke2fs is missing.
pub fn small_guest() -> Option<(Workspace, PathBuf, PathBuf)> {
    if !super::has_tool("mke2fs") {
        super::skip("there is no mke2fs");
        return None;
    }
    let workspace = Workspace::new();
    let tree = workspace.small_tree();
    let image = workspace.ext4_image("disk.img", &tree);
    Some((workspace, tree, image))
}

/// A folder for one test, removed with what is mounted in it.
pub struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    /// Makes a folder that every user may enter.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("guestctl-test-").tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { folder }
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder in the folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("the folder is ours");
        path
    }

    /// Makes a small tree of files, for an image.
    pub fn small_tree(&self) -> PathBuf {
        let tree = self.folder("tree");
        for folder in ["etc", "usr/bin", "var/empty"] {
            fs::create_dir_all(tree.join(folder)).expect("a new folder");
        }
        fs::write(tree.join("etc/hostname"), "guest\n").expect("a new file");
        fs::write(tree.join("etc/empty"), "").expect("a new file");
        let large: Vec<u8> =
            (0..3_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(tree.join("usr/bin/large"), &large).expect("a new file");
        fs::set_permissions(tree.join("usr/bin/large"), fs::Permissions::from_mode(0o4755)).expect("it is ours");
        fs::hard_link(tree.join("usr/bin/large"), tree.join("usr/bin/same")).expect("a new name");
        symlink("usr/bin", tree.join("bin")).expect("a new link");
        symlink("/etc/hostname", tree.join("absolute")).expect("a new link");
        for number in 0..300 {
            fs::write(tree.join(format!("var/file-{number:03}")), format!("{number}\n").repeat(number))
                .expect("a new file");
        }
        tree
    }

    /// Makes an ext4 image of 32 MiB of a tree.
    pub fn ext4_image(&self, name: &str, tree: &Path) -> PathBuf {
        let image = self.path(name);
        let arguments =
            [OsStr::new("-q"), "-t".as_ref(), "ext4".as_ref(), "-d".as_ref(), tree.as_ref(), image.as_ref()];
        run("mke2fs", &[&arguments[..], &[OsStr::new("32M")]].concat());
        image
    }

    /// Makes a disk of 80 MiB with a GPT: an EFI partition, and an ext4 one with a tree.
    pub fn gpt_disk(&self, name: &str, tree: &Path) -> PathBuf {
        let (disk, esp) = (self.path(name), self.path("esp"));
        let root = self.ext4_image("root", tree);
        fs::File::create(&esp).and_then(|file| file.set_len(34 << 20)).expect("a new file");
        run("mkfs.vfat", &[OsStr::new("-F"), "32".as_ref(), "-n".as_ref(), "ESP".as_ref(), esp.as_ref()]);
        fs::File::create(&disk).and_then(|file| file.set_len(80 << 20)).expect("a new file");
        let table = self.path("table");
        fs::write(&table, "label: gpt\nsize=34MiB, type=uefi, name=ESP\nsize=32MiB, type=linux, name=root\n")
            .expect("new");
        let script = format!(
            "sfdisk -q --no-reread --no-tell-kernel {disk} < {table} && \
             dd if={esp} of={disk} bs=1M seek=1 conv=notrunc status=none && \
             dd if={root} of={disk} bs=1M seek=35 conv=notrunc status=none",
            disk = disk.display(),
            table = table.display(),
            esp = esp.display(),
            root = root.display()
        );
        run("sh", &["-c", &script]);
        disk
    }

    /// Mounts an image by the program on a new folder; it is unmounted when the value goes.
    pub fn mount(&self, name: &str, image: &OsStr, options: &[&str]) -> Mounted {
        let folder = self.folder(name);
        let mut arguments: Vec<&OsStr> = vec![OsStr::new("mount")];
        arguments.extend(options.iter().map(OsStr::new));
        arguments.extend([image, folder.as_os_str()]);
        let (code, _, said) = guestctl(&arguments);
        assert_eq!(code, 0, "{said}");
        Mounted { folder }
    }
}

/// A mount of the program.
pub struct Mounted {
    /// Where it is.
    pub folder: PathBuf,
}

impl Mounted {
    /// Unmounts, and checks that it went well.
    pub fn umount(self) {
        let (code, _, said) = guestctl(&[OsStr::new("umount"), self.folder.as_os_str()]);
        assert_eq!(code, 0, "{said}");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if is_mounted(&self.folder) {
            // The test has failed already, or left it to us.
            let _ = guestctl(&[OsStr::new("umount"), "--lazy".as_ref(), self.folder.as_os_str()]);
        }
    }
}

/// Says whether something is mounted on a folder.
pub fn is_mounted(folder: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("every Linux has it");
    table.lines().any(|line| line.split(' ').nth(4) == folder.to_str())
}

/// Returns the processes that have a file open.
pub fn who_has_open(file: &Path) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("every Linux has it").flatten() {
        let Some(number) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end while it is looked at.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().any(|open| fs::read_link(open.path()).is_ok_and(|target| target == file)) {
            found.push(number);
        }
    }
    found
}

/// Says why the program cannot mount here, if it cannot.
pub fn cannot_mount() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    if !super::is_root() && !super::has_tool("fusermount3") {
        return Some("there is no fusermount3, and this is not root");
    }
    (!super::has_tool("mke2fs")).then_some("there is no mke2fs")
}
