//! Disk images in archives and in pieces, opened where they lie.

mod common;

use common::guest::{Workspace, guestctl, run};
use std::fs;
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

/// Makes a raw disk with a GPT and an ext4 filesystem.
fn disk(space: &Workspace) -> Option<std::path::PathBuf> {
    for tool in ["mkfs.ext4", "sgdisk", "sfdisk", "qemu-img", "tar"] {
        if !common::has_tool(tool) {
            common::skip(&format!("{tool} is not installed"));
            return None;
        }
    }
    let tree = space.folder("tree");
    fs::write(tree.join("marker"), "found in place").expect("ours");
    Some(space.gpt_disk("disk.raw", &tree))
}

fn assert_marker(image: &Path) {
    let (code, out, error) = guestctl(&["cat", text(image), "/marker", "-m", "/dev/sda2"]);
    assert_eq!((code, out.as_slice()), (0, &b"found in place"[..]), "{}: {error}", image.display());
}

#[test]
fn an_appliance_is_opened_without_being_unpacked() {
    let space = Workspace::new();
    let Some(raw) = disk(&space) else { return };
    let folder = raw.parent().expect("a folder");
    fs::write(folder.join("a.ovf"), "<Envelope/>").expect("ours");
    let vmdk = folder.join("disk.vmdk");
    run("qemu-img", &["convert", "-O", "vmdk", "-o", "subformat=streamOptimized", text(&raw), text(&vmdk)]);
    run("qemu-img", &["convert", "-O", "qcow2", "-c", text(&raw), text(&folder.join("disk.qcow2"))]);
    run("qemu-img", &["convert", "-O", "vdi", text(&raw), text(&folder.join("disk.vdi"))]);
    run("qemu-img", &["convert", "-O", "vhdx", text(&raw), text(&folder.join("disk.vhdx"))]);
    for (format, member) in [
        ("ustar", "disk.vhdx"),
        ("ustar", "disk.vmdk"),
        ("gnu", "disk.raw"),
        ("pax", "disk.qcow2"),
        ("ustar", "disk.vdi"),
        ("pax", "disk.raw"),
    ] {
        let archive = folder.join("guest.ova");
        run("tar", &["-C", text(folder), &format!("--format={format}"), "-cf", text(&archive), "a.ovf", member]);
        assert_marker(&archive);
    }
    // Holes that tar left out are not in the archive.
    for format in ["gnu", "pax"] {
        let archive = folder.join("sparse.tar");
        run("tar", &["-C", text(folder), "-S", &format!("--format={format}"), "-cf", text(&archive), "disk.raw"]);
        let (code, _, error) = guestctl(&["ls", text(&archive), "/"]);
        assert!(code == 5 && error.contains("disk.raw") && error.contains("--sparse"), "{format}: {code}: {error}");
        assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    }
    let info = |image: &Path| -> serde_json::Value {
        let (code, printed, said) = guestctl(&["info", "--json", text(image)]);
        assert_eq!(code, 0, "{said}");
        serde_json::from_slice::<serde_json::Value>(&printed).expect("JSON")[0].take()
    };
    for (member, format) in [("disk.vmdk", "vmdk"), ("disk.raw", "raw"), ("disk.qcow2", "qcow2")] {
        let archive = folder.join("guest.ova");
        run("tar", &["-C", text(folder), "-cf", text(&archive), "a.ovf", member]);
        let told = info(&archive);
        assert_eq!((&told["format"], &told["container"]["member"]), (&format.into(), &member.into()), "{told}");
        assert_eq!((&told["container"]["kind"], &told["virtual_size"]), (&"tar".into(), &(80_u64 << 20).into()));
        assert_eq!(told["file_size"].as_u64(), Some(fs::metadata(&archive).expect("made").len()));
        assert_eq!(told["problem"], serde_json::Value::Null, "{told}");
        let (_, page, _) = guestctl(&["info", text(&archive)]);
        assert!(String::from_utf8_lossy(&page).contains(&format!("a tar archive, as {member}")));
    }
    // Nothing is guessed where there are several disks, and nothing is written.
    let archive = folder.join("two.ova");
    run("tar", &["-C", text(folder), "-cf", text(&archive), "disk.vmdk", "disk.qcow2"]);
    let (code, _, error) = guestctl(&["ls", text(&archive), "/"]);
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("disk.vmdk, disk.qcow2"), "{error}");
    let told = info(&archive);
    assert!(told["problem"].as_str().is_some_and(|why| why.contains("disk.vmdk, disk.qcow2")), "{told}");
}

#[test]
fn a_member_that_refers_to_other_files_is_refused() {
    let space = Workspace::new();
    let Some(raw) = disk(&space) else { return };
    let folder = raw.parent().expect("a folder");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&raw), "-F", "raw", text(&folder.join("over.qcow2"))]);
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                      RW 8 FLAT \"/etc/passwd\" 0\n";
    fs::write(folder.join("text.vmdk"), format!("{descriptor}{}", " ".repeat(600))).expect("ours");
    for member in ["over.qcow2", "text.vmdk"] {
        let archive = folder.join("guest.tar");
        run("tar", &["-C", text(folder), "-cf", text(&archive), member]);
        let (code, _, error) = guestctl(&["ls", text(&archive), "/"]);
        assert_eq!(code, 5, "{member}: {error}");
        assert!(error.contains("refers to other files"), "{member}: {error}");
    }
}

#[test]
fn an_archive_that_is_cut_short_or_lies_is_refused() {
    let space = Workspace::new();
    let Some(raw) = disk(&space) else { return };
    let folder = raw.parent().expect("a folder");
    let archive = folder.join("guest.tar");
    run("tar", &["-C", text(folder), "-cf", text(&archive), "disk.raw"]);
    let whole = fs::read(&archive).expect("ours");
    for length in [512, 1024, 4096, whole.len() / 2] {
        fs::write(&archive, &whole[..length]).expect("ours");
        let (code, _, error) = guestctl(&["ls", text(&archive), "/"]);
        assert!(code == 3 || code == 4, "{length}: {code}: {error}");
    }
}

#[test]
fn a_raw_image_in_pieces_is_one_disk() {
    let space = Workspace::new();
    let Some(raw) = disk(&space) else { return };
    let folder = raw.parent().expect("a folder");
    let prefix = folder.join("disk.");
    run("split", &["-b", "1000001", "-d", "-a", "3", "--numeric-suffixes=1", text(&raw), text(&prefix)]);
    assert_marker(&folder.join("disk.001"));
    let (code, printed, said) = guestctl(&["info", "--json", text(&folder.join("disk.001"))]);
    assert_eq!(code, 0, "{said}");
    let told: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!((&told[0]["container"]["kind"], &told[0]["container"]["files"]), (&"split".into(), &84.into()));
    assert_eq!((&told[0]["file_size"], &told[0]["virtual_size"]), (&(80_u64 << 20).into(), &(80_u64 << 20).into()));
    // A piece may not be another file of this host.
    fs::remove_file(folder.join("disk.002")).expect("ours");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("disk.002")).expect("ours");
    let (code, _, error) = guestctl(&["ls", text(&folder.join("disk.001")), "/"]);
    assert_ne!(code, 0);
    assert!(error.contains("outside"), "{error}");
}
