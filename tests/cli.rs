//! The command line without a mount.

mod common;

use common::guest::{Workspace, guestctl, run};
use common::{has_tool, skip};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

fn ready() -> Option<Workspace> {
    if !has_tool("mke2fs") {
        skip("there is no mke2fs");
        return None;
    }
    Some(Workspace::new())
}

#[test]
fn wrong_use_is_one_line_and_exit_code_2() {
    for arguments in [&["frobnicate"][..], &["mount"], &["cat"], &["mount", "--cache-size", "0", "a", "b"]] {
        let (code, printed, said) = guestctl(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(printed.is_empty() && said.starts_with("guestctl: ") && said.lines().count() == 1, "{said}");
    }
    let (code, printed, _) = guestctl(&["--version"]);
    assert_eq!((code, printed.starts_with(b"guestctl ")), (0, true));
    for command in ["mount", "umount", "filesystems", "ls", "cat"] {
        let (code, printed, _) = guestctl(&[command, "--help"]);
        assert_eq!(code, 0);
        assert!(String::from_utf8_lossy(&printed).contains("Example"), "{command} --help shows no example");
    }
}

#[test]
fn filesystems_are_listed_for_people_and_as_json() {
    let Some(workspace) = ready() else { return };
    if !has_tool("sfdisk") || !has_tool("mkfs.vfat") {
        return skip("the disk needs sfdisk and mkfs.vfat");
    }
    let disk = workspace.gpt_disk("disk.img", &workspace.small_tree());
    let (code, printed, said) = guestctl(&[OsStr::new("filesystems"), disk.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let text = String::from_utf8(printed).expect("a table of text");
    assert!(text.contains("/dev/sda1") && text.contains("vfat") && text.contains("ESP"), "{text}");
    let (code, printed, said) = guestctl(&[OsStr::new("filesystems"), "--json".as_ref(), disk.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    let root = &report["filesystems"][1];
    assert_eq!(root["device"], "/dev/sda2");
    assert_eq!(root["type"], "ext4");
    assert_eq!(root["size"], 32 << 20);
    assert_eq!(root["part_label"], "root");
    let uuid = run(
        "blkid",
        &[
            OsStr::new("-p"),
            "-s".as_ref(),
            "UUID".as_ref(),
            "-o".as_ref(),
            "value".as_ref(),
            workspace.path("root").as_ref(),
        ],
    );
    assert_eq!(root["uuid"].as_str(), String::from_utf8_lossy(&uuid).lines().next());
}

#[test]
fn ls_shows_what_find_shows() {
    let Some(workspace) = ready() else { return };
    let tree = workspace.small_tree();
    let image = workspace.ext4_image("disk.img", &tree);
    let (code, printed, said) = guestctl(&[OsStr::new("ls"), "-R".as_ref(), "-0".as_ref(), image.as_ref()]);
    assert_eq!(code, 0, "{said}");
    let listed = |bytes: &[u8]| {
        let mut names: Vec<Vec<u8>> = bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        names
    };
    let script = format!("cd {} && find . -mindepth 1 -printf '%P\\0'; printf 'lost+found\\0'", tree.display());
    assert_eq!(listed(&printed), listed(&run("sh", &["-c", &script])));
    let (_, printed, _) = guestctl(&[OsStr::new("ls"), "-l".as_ref(), image.as_ref(), "/usr/bin".as_ref()]);
    let text = String::from_utf8(printed).expect("text");
    assert!(text.starts_with("-rwsr-xr-x   2 ") && text.contains(" 3000000 "), "{text}");
    let (_, printed, _) =
        guestctl(&[OsStr::new("ls"), "--json".as_ref(), format!("{}:/bin", image.display()).as_ref()]);
    assert_eq!(
        printed.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count(),
        2,
        "a link to a folder is followed"
    );
}

#[test]
fn cat_prints_files_and_follows_links_inside_the_guest() {
    let Some(workspace) = ready() else { return };
    let tree = workspace.small_tree();
    let image = workspace.ext4_image("disk.img", &tree);
    let (code, printed, said) =
        guestctl(&[OsStr::new("cat"), image.as_ref(), "/absolute".as_ref(), "usr/bin/same".as_ref()]);
    assert_eq!(code, 0, "{said}");
    let mut expected = b"guest\n".to_vec();
    expected.extend(fs::read(tree.join("usr/bin/large")).expect("reads"));
    assert!(printed == expected, "the contents differ");
    let (code, printed, _) = guestctl(&[OsStr::new("cat"), format!("{}:/etc/hostname", image.display()).as_ref()]);
    assert_eq!((code, printed.as_slice()), (0, b"guest\n".as_slice()));
    for (path, code, says) in
        [("/etc/none", 7, "/etc/none"), ("/etc", 1, "directory"), ("/etc/hostname/x", 7, "Not a directory")]
    {
        let (found, _, said) = guestctl(&[OsStr::new("cat"), image.as_ref(), path.as_ref()]);
        assert_eq!(found, code, "{said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn commands_never_change_the_image() {
    let Some(workspace) = ready() else { return };
    let image = workspace.ext4_image("disk.img", &workspace.small_tree());
    let sum = |file: &Path| run("sha256sum", &[file]);
    let before = sum(&image);
    for command in [&["filesystems"][..], &["ls", "-lR"]] {
        let mut arguments: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
        arguments.push(image.as_ref());
        assert_eq!(guestctl(&arguments).0, 0);
    }
    assert_eq!(sum(&image), before);
}
