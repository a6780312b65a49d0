//! What a mount that is written does when its host fails, and which images it refuses because others have them.

mod common;

use common::guest::{GUESTCTL, Workspace, cannot_mount, guestctl, output, run};
use common::{has_tool, is_root, skip};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A filesystem in memory that fills up; unmounted when it goes.
struct Memory(PathBuf);

impl Memory {
    fn new(workspace: &Workspace, size: &str) -> Self {
        let folder = workspace.folder("memory");
        let size = format!("size={size}");
        run(
            "mount",
            &[OsStr::new("-t"), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "none".as_ref(), folder.as_ref()],
        );
        Self(folder)
    }

    fn grow(&self, size: &str) {
        let options = format!("remount,size={size}");
        run("mount", &[OsStr::new("-o"), options.as_ref(), self.0.as_ref()]);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = output("umount", &[OsStr::new("-l"), self.0.as_ref()]);
    }
}

fn assert_clean(image: &Path) {
    let checked = output("e2fsck", &[OsStr::new("-fn"), image.as_ref()]);
    assert!(checked.status.success(), "{}: {}", image.display(), String::from_utf8_lossy(&checked.stdout));
}

#[test]
fn a_full_disk_of_the_host_turns_the_mount_read_only_and_loses_nothing_that_was_synced() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !is_root() {
        return skip("a small filesystem in memory needs root");
    }
    let workspace = Workspace::new();
    let memory = Memory::new(&workspace, "16m");
    for format in ["raw", "qcow2"] {
        memory.grow("16m");
        let image = memory.0.join(format!("disk.{format}"));
        let plain = memory.0.join("plain.img");
        run("mke2fs", &[OsStr::new("-q"), "-t".as_ref(), "ext4".as_ref(), plain.as_ref(), "64M".as_ref()]);
        if format == "raw" {
            fs::rename(&plain, &image).expect("ours");
        } else {
            run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), plain.as_ref(), image.as_ref()]);
            fs::remove_file(&plain).expect("ours");
        }
        let log = workspace.path(&format!("{format}.log"));
        let option = format!("--log-file={}", log.display());
        let mounted = workspace.mount(format, image.as_os_str(), &["--rw", &option]);
        let at = |number: usize| mounted.folder.join(format!("file-{number}"));
        let mut synced = 0;
        let error = loop {
            let written = File::create(at(synced)).and_then(|file| {
                file.write_all_at(&vec![synced as u8 + 1; 500_000], 0)?;
                file.sync_all()
            });
            match written {
                Ok(()) => synced += 1,
                Err(error) => break error,
            }
            assert!(synced < 100, "16 MiB hold no more");
        };
        assert!([libc::ENOSPC, libc::EIO, libc::EROFS].contains(&error.raw_os_error().expect("a number")), "{error}");
        assert!(synced > 5, "only {synced} files");
        // Nothing more is written, everything is still read.
        let refused = fs::create_dir(mounted.folder.join("more")).expect_err("it is read-only");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{refused}");
        let is_whole = |folder: &Path| {
            (0..synced).all(|number| {
                fs::read(folder.join(format!("file-{number}")))
                    .is_ok_and(|bytes| bytes == vec![number as u8 + 1; 500_000])
            })
        };
        assert!(is_whole(&mounted.folder));
        let said = fs::read_to_string(&log).expect("the log");
        let line = said.lines().find(|line| line.contains("the filesystem is read-only from now on"));
        assert!(line.is_some_and(|line| line.contains("No space left")), "{said}");
        let _ = output(GUESTCTL, &[OsStr::new("umount"), mounted.folder.as_os_str()]);
        drop(mounted);
        memory.grow("128m");
        let again = workspace.mount(&format!("{format}-again"), image.as_os_str(), &["--rw"]);
        assert!(is_whole(&again.folder));
        fs::write(again.folder.join("more"), "there is room").expect("it can be written again");
        again.umount();
        let flat = memory.0.join("flat.img");
        run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "raw".as_ref(), image.as_ref(), flat.as_ref()]);
        assert_clean(&flat);
        if format == "qcow2" {
            run("qemu-img", &[OsStr::new("check"), "-q".as_ref(), image.as_ref()]);
        }
        fs::remove_file(&image).expect("ours");
        fs::remove_file(&flat).expect("ours");
    }
}

#[test]
fn an_image_whose_bytes_another_program_has_locked_is_refused_with_one_line() {
    if let Some(why) = cannot_mount() {
        return skip(why);
    }
    if !has_tool("python3") {
        return skip("there is no python3");
    }
    let workspace = Workspace::new();
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let folder = workspace.folder("mnt");
    // The bytes by which QEMU shows what it does (100: reads, 101: writes) and what others may not do (200, 201), as locks
    // of an open file.
    let script = r#"
import fcntl, os, struct, sys
F_OFD_SETLK = 37
image = os.open(sys.argv[1], os.O_RDWR)
for byte in map(int, sys.argv[2:]):
    fcntl.fcntl(image, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
print("locked", flush=True)
sys.stdin.read()
"#;
    for (bytes, may_read) in [(&["100", "101", "201"][..], false), (&["100", "201"], true)] {
        let mut holder = Command::new("timeout")
            .args(["-k", "5", "60", "python3", "-c", script])
            .arg(&image)
            .args(bytes)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut said = String::new();
        BufReader::new(holder.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
        assert_eq!(said, "locked\n");
        let (code, _, said) = guestctl(&[OsStr::new("mount"), "--rw".as_ref(), image.as_ref(), folder.as_ref()]);
        assert_eq!((code, said.lines().count()), (6, 1), "{bytes:?}: {said}");
        let (code, _, said) = guestctl(&[OsStr::new("ls"), image.as_ref(), "/".as_ref()]);
        assert_eq!(code == 0, may_read, "{bytes:?}: {said}");
        holder.stdin.take().expect("piped").flush().expect("open");
        assert!(holder.wait().expect("it ends").success());
    }
    // Nobody has it any more.
    let mounted = workspace.mount("mnt", image.as_os_str(), &["--rw"]);
    mounted.umount();
}
