//! Guests that are made on the spot: a small Debian, disks for it, and what the program tells of them.

#![allow(dead_code, reason = "each test program uses its own part")]

use crate::common::guest::{Workspace, guestctl, run};
use crate::common::{has_tool, skip};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

pub const BOOT_UUID: &str = "ABCD-1234";

/// Makes a workspace where everything is there to make and mount guests.
pub fn ready(kind: &str) -> Option<Workspace> {
    let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !crate::common::is_root() || !kernel.contains(kind) || !has_tool(&format!("mkfs.{kind}")) {
        skip("this needs root, mkfs and the kernel's driver");
        return None;
    }
    if let Some(why) = crate::common::guest::cannot_mount() {
        skip(why);
        return None;
    }
    if !["sfdisk", "mkfs.vfat", "rsync", "mcopy"].iter().all(|name| has_tool(name)) {
        skip("this needs sfdisk, mkfs.vfat, mcopy and rsync");
        return None;
    }
    Some(Workspace::new())
}

/// Runs a script to its end; returns what it printed.
pub fn shell(script: &str) -> String {
    String::from_utf8(run("bash", &["-ec", script])).expect("text").trim().to_owned()
}

/// Makes what a small Debian has, without its fstab and what lies on other filesystems.
pub fn debian(tree: &Path) {
    for folder in ["etc", "usr/bin", "usr/lib", "var/lib/dpkg", "var/log", "boot/efi", "home", "root", "proc"] {
        fs::create_dir_all(tree.join(folder)).expect("made");
    }
    let release =
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n";
    let status = "Package: base-files\nStatus: install ok installed\nVersion: 12.4\nArchitecture: amd64\n\
        Description: files\n\n";
    for (path, text) in [
        ("usr/lib/os-release", release),
        ("etc/debian_version", "12.5\n"),
        ("etc/hostname", "guest\n"),
        ("etc/passwd", "root:x:0:0::/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/bash\n"),
        ("var/lib/dpkg/status", status),
    ] {
        fs::write(tree.join(path), text).expect("written");
    }
    fs::copy("/bin/true", tree.join("usr/bin/bash")).expect("a program");
    for (target, name) in [("usr/bin", "bin"), ("../usr/lib/os-release", "etc/os-release")] {
        std::os::unix::fs::symlink(target, tree.join(name)).expect("made");
    }
    shell(&format!("cd {} && for i in $(seq 500); do echo $i >usr/lib/f$i; done", tree.display()));
}

/// Makes a disk of an EFI partition and further filesystems.
pub fn disk(workspace: &Workspace, parts: &[PathBuf]) -> PathBuf {
    let (disk, esp) = (workspace.path("disk.img"), workspace.path("esp"));
    let id = BOOT_UUID.replace('-', "");
    shell(&format!(
        "truncate -s 34M {0}; mkfs.vfat -F 32 -i {id} {0} >/dev/null; echo loader >{0}.file; mcopy -i {0} {0}.file ::loader",
        esp.display()
    ));
    let mut table = String::from("label: gpt\\nsize=34MiB, type=uefi\\n");
    let mut copies = format!("dd if={} of={} bs=1M seek=1 conv=notrunc status=none; ", esp.display(), disk.display());
    let mut at = 35;
    for part in parts {
        let mib = fs::metadata(part).expect("made").len() >> 20;
        table.push_str(&format!("size={mib}MiB, type=linux\\n"));
        copies.push_str(&format!(
            "dd if={} of={} bs=1M seek={at} conv=notrunc,sparse status=none; ",
            part.display(),
            disk.display()
        ));
        at += mib;
    }
    let (size, path) = (at + 2, disk.display());
    shell(&format!(
        "truncate -s {size}M {path}; printf '{table}' | sfdisk -q --no-reread --no-tell-kernel {path}; {copies}"
    ));
    disk
}

/// Mounts an image of a filesystem by the kernel, and runs a script in it.
pub fn within(workspace: &Workspace, image: &Path, script: &str) {
    let folder = workspace.folder("kernel");
    let (image, folder) = (image.display(), folder.display());
    shell(&format!("mount -o loop {image} {folder}; trap 'umount {folder}' EXIT; cd {folder}; {script}; cd /"));
}

/// Returns what the program tells of a guest as JSON.
pub fn inspect(arguments: &[&str], disk: &Path) -> Value {
    let mut all: Vec<&OsStr> = vec!["inspect".as_ref()];
    all.extend(arguments.iter().map(OsStr::new));
    all.push(disk.as_os_str());
    let (code, printed, said) = guestctl(&all);
    assert_eq!(code, 0, "{said}");
    serde_json::from_slice(&printed).expect("JSON")
}

/// Mounts the guest by the program, and compares it with the folder that it was made of.
pub fn is_one_tree(workspace: &Workspace, disk: &Path, tree: &Path, options: &[&str]) {
    fs::write(tree.join("boot/efi/loader"), "loader\n").expect("written");
    let mounted = workspace.mount("mnt", disk.as_os_str(), options);
    // FAT keeps no owners and no fine times.
    let differences = shell(&format!(
        "rsync -aHAXnci --delete --exclude=/boot/efi {}/ {}/; diff -r {}/boot/efi {}/boot/efi",
        tree.display(),
        mounted.folder.display(),
        tree.display(),
        mounted.folder.display()
    ));
    assert_eq!(differences, "");
    mounted.umount();
}

/// Returns what a system mounts, a line each.
pub fn mounts(system: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).or(value.as_u64().map(|number| number.to_string()));
    let line = |place: &Value| {
        let subvolume = text(&place["subvolume"]).or_else(|| text(&place["subvolume_id"]));
        let subvolume = subvolume.map(|name| format!(" {name}")).unwrap_or_default();
        format!("{} {}{subvolume}", text(&place["mountpoint"]).expect("text"), text(&place["device"]).expect("text"))
    };
    system["mounts"].as_array().expect("a list").iter().map(line).collect()
}
