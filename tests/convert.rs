//! `create`, `convert` and `compact`, held against QEMU's own tools.

mod common;
#[path = "common/images.rs"]
mod images;

use common::guest::{GUESTCTL, Workspace, guestctl, output, run};
use common::{has_tool, skip};
use images::{Random, assert_same};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

fn ready() -> Option<Workspace> {
    if !has_tool("qemu-img") {
        skip("there is no qemu-img");
        return None;
    }
    Some(Workspace::new())
}

fn convert(arguments: &[&str], image: &Path, output: &Path) -> (i32, String) {
    let mut all: Vec<&OsStr> = vec![OsStr::new("convert"), image.as_ref(), "--output".as_ref(), output.as_ref()];
    all.extend(arguments.iter().map(OsStr::new));
    let (code, _, said) = guestctl(&all);
    (code, said)
}

fn compare(one: &Path, other: &Path) {
    run("qemu-img", &[OsStr::new("compare"), "-q".as_ref(), one.as_ref(), other.as_ref()]);
}

/// A disk of a size that is no multiple of anything, with data, zeroes, noise and holes.
fn disk(workspace: &Workspace) -> PathBuf {
    let path = workspace.path("disk.img");
    images::make_raw(&path, 30_000_128, 7);
    let mut random = Random::new(3);
    let noise: Vec<u8> = (0..700_000).map(|_| random.next() as u8).collect();
    let file = fs::File::options().write(true).open(&path).expect("ours");
    file.write_all_at(&noise, 5_000_000).expect("room");
    file.set_len(90_000_384).expect("a hole");
    file.write_all_at(b"the end", 90_000_384 - 7).expect("room");
    path
}

#[test]
fn every_way_between_raw_and_qcow2_keeps_the_disk() {
    let Some(workspace) = ready() else { return };
    let raw = disk(&workspace);
    for (name, arguments) in [
        ("plain.qcow2", &[][..]),
        ("zlib.qcow2", &["--compress"]),
        ("zstd.qcow2", &["--compress", "--compression-type", "zstd"]),
        ("copy.img", &["--format", "raw", "--sparsify", "-p"]),
    ] {
        let new = workspace.path(name);
        let (code, said) = convert(arguments, &raw, &new);
        assert_eq!(code, 0, "{name}: {said}");
        compare(&raw, &new);
        if name.ends_with("qcow2") {
            assert_eq!(images::check(&new), images::Check::default(), "{name}");
            // QEMU reads the contents as they are, all of them.
            assert_same(&images::convert(&new), &fs::read(&raw).expect("reads"), name);
            let back = workspace.path(&format!("{name}.img"));
            assert_eq!(convert(&[], &new, &back).0, 0);
            assert_same(&fs::read(&back).expect("reads"), &fs::read(&raw).expect("reads"), name);
            let theirs = workspace.path("theirs");
            run("qemu-img", &[OsStr::new("convert"), "-O".as_ref(), "qcow2".as_ref(), raw.as_ref(), theirs.as_ref()]);
            let space = |path: &Path| path.metadata().expect("exists").blocks() * 512;
            assert!(space(&new) <= space(&theirs) + (1 << 20), "{name} takes too much room");
        }
    }
    let blocks = workspace.path("copy.img").metadata().expect("exists").blocks();
    assert!(blocks * 512 < 30_000_000, "zeroes become holes: {blocks}");
    let left = fs::read_dir(workspace.path("disk.img").parent().expect("a folder")).expect("reads").flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".guestctl")));
}

#[test]
fn qemu_writes_what_was_converted() {
    let Some(workspace) = ready() else { return };
    let raw = disk(&workspace);
    for arguments in [&[][..], &["--compress"]] {
        let new = workspace.path("new.qcow2");
        let arguments = [arguments, &["--force"]].concat();
        assert_eq!(convert(&arguments, &raw, &new).0, 0);
        let name = new.to_str().expect("text");
        run("qemu-io", &["-c", "write -P 7 100000 300000", "-c", "write -P 9 60M 1M", name]);
        run("qemu-io", &["-c", "read -P 7 100000 300000", "-c", "read -P 9 60M 1M", name]);
        assert_eq!(images::check(&new), images::Check::default());
    }
}

#[test]
fn the_image_is_the_same_each_time() {
    let Some(workspace) = ready() else { return };
    let raw = disk(&workspace);
    let (one, other) = (workspace.path("one.qcow2"), workspace.path("other.qcow2"));
    for new in [&one, &other] {
        assert_eq!(convert(&["--compress", "--compression-type", "zstd"], &raw, new).0, 0);
    }
    assert!(fs::read(&one).expect("reads") == fs::read(&other).expect("reads"));
}

#[test]
fn the_other_formats_come_from_qemu_img() {
    let Some(workspace) = ready() else { return };
    let raw = workspace.path("small.img");
    images::make_raw(&raw, 8 << 20, 5);
    for format in ["vmdk", "vdi", "vhdx", "vpc"] {
        let new = workspace.path(&format!("new.{format}"));
        let (code, said) = convert(&["--format", format], &raw, &new);
        assert_eq!(code, 0, "{format}: {said}");
        let info = run("qemu-img", &[OsStr::new("info"), "--output=json".as_ref(), new.as_ref()]);
        let info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
        assert_eq!(info["format"], format);
        let back = workspace.path(&format!("{format}.qcow2"));
        assert_eq!(convert(&["--format", "qcow2"], &new, &back).0, 0);
        // VHD rounds the size of the disk up to its geometry.
        let output = output("qemu-img", &[OsStr::new("compare"), raw.as_ref(), back.as_ref()]);
        assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_chain_is_kept_or_dropped() {
    let Some(workspace) = ready() else { return };
    let (raw, over) = (disk(&workspace), workspace.path("over.qcow2"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.img", "-F", "raw", over.to_str().expect("text")]);
    run("qemu-io", &["-c", "write -P 7 1M 1M", "-c", "write -z 6M 1M", over.to_str().expect("text")]);
    let (kept, flat) = (workspace.path("kept.qcow2"), workspace.path("flat.qcow2"));
    let (code, said) = convert(&[], &over, &kept);
    assert_eq!(code, 0, "{said}");
    assert!(kept.metadata().expect("exists").blocks() * 512 < 5 << 20, "only the overlay's own clusters are copied");
    assert_eq!(convert(&["--flatten"], &over, &flat).0, 0);
    compare(&over, &kept);
    compare(&over, &flat);
    let backing = |path: &Path| {
        let info = run("qemu-img", &[OsStr::new("info"), "--output=json".as_ref(), path.as_ref()]);
        serde_json::from_slice::<serde_json::Value>(&info).expect("JSON")["backing-filename"].clone()
    };
    assert_eq!(backing(&kept), raw.to_str().expect("text"));
    assert_eq!(backing(&flat), serde_json::Value::Null);
    let (code, said) = convert(&["--format", "raw"], &over, &workspace.path("no.img"));
    assert!(code == 2 && said.contains("--flatten"), "{said}");
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let Some(workspace) = ready() else { return };
    let raw = disk(&workspace);
    let there = workspace.path("there.qcow2");
    fs::write(&there, "precious").expect("a new file");
    let (code, said) = convert(&[], &raw, &there);
    assert!(code == 1 && said.contains("--force"), "{code} {said}");
    assert_eq!(fs::read(&there).expect("still there"), b"precious");
    let (code, said) = convert(&["--force", "--format", "raw"], &raw, &raw);
    assert!(code == 2 && said.contains("compact"), "{said}");
    for (arguments, code) in
        [(&["--format", "zip"][..], 2), (&["--compress", "--format", "raw"], 2), (&["--compression-type", "rar"], 2)]
    {
        assert_eq!(convert(arguments, &raw, &workspace.path("new")).0, code, "{arguments:?}");
    }
    assert_eq!(convert(&[], &workspace.path("none.img"), &workspace.path("new")).0, 7);
    assert_ne!(convert(&[], &raw, Path::new("/nowhere/at/all.qcow2")).0, 0);
    assert!(!workspace.path("new").exists());
    let folder = there.parent().expect("a folder");
    let left = fs::read_dir(folder).expect("reads").flatten();
    assert!(left.into_iter().all(|entry| !entry.file_name().to_string_lossy().starts_with(".guestctl")));
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let Some(workspace) = ready() else { return };
    let large = workspace.path("large.img");
    let file = fs::File::create(&large).expect("a new file");
    let noise = Random::new(11).bytes(8 << 20);
    for place in 0..40 {
        file.write_all_at(&noise, place * (8 << 20)).expect("room");
    }
    let new = workspace.path("new.qcow2");
    let script = format!(
        "'{GUESTCTL}' convert --compress {} --output {} & sleep 0.3; kill -INT $!; wait $!; echo $?",
        large.display(),
        new.display()
    );
    let output = output("bash", &["-c", &script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!new.exists());
    let left = fs::read_dir(large.parent().expect("a folder")).expect("reads").flatten();
    assert_eq!(left.into_iter().count(), 1, "only the source is there");
}

#[test]
fn several_images_are_converted_side_by_side() {
    let Some(workspace) = ready() else { return };
    let mut images = Vec::new();
    for seed in 1..4 {
        let path = workspace.path(&format!("disk{seed}.img"));
        images::make_raw(&path, 4 << 20, seed);
        images.push(path);
    }
    let folder = workspace.folder("new");
    let mut arguments: Vec<&OsStr> =
        vec!["convert".as_ref(), "--jobs".as_ref(), "2".as_ref(), "--output-dir".as_ref(), folder.as_ref()];
    arguments.extend(images.iter().map(|image| image.as_os_str()));
    let missing = workspace.path("none.img");
    arguments.push(missing.as_ref());
    let (code, _, said) = guestctl(&arguments);
    assert_eq!(code, 7, "{said}");
    for image in &images {
        compare(image, &folder.join(image.file_name().expect("a name")).with_extension("qcow2"));
    }
}

#[test]
fn images_are_made_as_qemu_img_makes_them() {
    let Some(workspace) = ready() else { return };
    for (name, size) in [("new.img", 10 << 20), ("new.qcow2", 3 << 40), ("new.vmdk", 64 << 20), ("new.vdi", 64 << 20)] {
        let path = workspace.path(name);
        let (code, _, said) = guestctl(&[OsStr::new("create"), path.as_ref(), size.to_string().as_ref()]);
        assert_eq!(code, 0, "{name}: {said}");
        let info = run("qemu-img", &[OsStr::new("info"), "--output=json".as_ref(), path.as_ref()]);
        let info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
        assert_eq!(info["virtual-size"].as_u64(), Some(size));
        let (code, _, said) = guestctl(&[OsStr::new("create"), path.as_ref(), "1M".as_ref()]);
        assert!(code == 1 && said.contains("--force"), "{said}");
    }
    let over = workspace.path("over.qcow2");
    let arguments = [OsStr::new("create"), "--backing".as_ref(), "new.qcow2".as_ref(), over.as_ref()];
    assert_eq!(guestctl(&arguments).0, 0);
    let info = run("qemu-img", &[OsStr::new("info"), "--output=json".as_ref(), over.as_ref()]);
    let info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
    assert_eq!((info["virtual-size"].as_u64(), info["backing-filename"].as_str()), (Some(3 << 40), Some("new.qcow2")));
    for (arguments, code) in [(&["create", "x.img"][..], 2), (&["create", "x.img", "huge"], 2)] {
        assert_eq!(guestctl(arguments).0, code);
    }
}

#[test]
fn compacting_gives_space_back_and_keeps_the_disk() {
    let Some(workspace) = ready() else { return };
    let raw = workspace.path("full.img");
    let disk = images::make_raw(&raw, 24 << 20, 9);
    let space = |path: &Path| path.metadata().expect("exists").blocks() * 512;
    let before = space(&raw);
    let (code, printed, said) = guestctl(&[OsStr::new("compact"), raw.as_ref()]);
    assert_eq!(code, 0, "{said}");
    assert!(String::from_utf8_lossy(&printed).contains("before"), "it says what it did");
    assert!(space(&raw) < before, "{} of {before}", space(&raw));
    assert_same(&fs::read(&raw).expect("reads"), &disk, "compacted");
    let qcow2 = workspace.path("full.qcow2");
    run("qemu-img", &["convert", "-O", "qcow2", "-S", "0", raw.to_str().expect("text"), qcow2.to_str().expect("text")]);
    let before = space(&qcow2);
    let (code, _, said) = guestctl(&[OsStr::new("compact"), "-q".as_ref(), qcow2.as_ref()]);
    assert_eq!(code, 0, "{said}");
    assert!(space(&qcow2) < before);
    compare(&raw, &qcow2);
    run("qemu-img", &[OsStr::new("snapshot"), "-c".as_ref(), "one".as_ref(), qcow2.as_ref()]);
    let (code, _, said) = guestctl(&[OsStr::new("compact"), qcow2.as_ref()]);
    assert!(code == 5 && said.contains("snapshots"), "{said}");
}
