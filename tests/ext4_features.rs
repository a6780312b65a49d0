//! The ext4 writer on filesystems with rarer features: values in inodes of their own, clusters of blocks, contents in the inode; and those that are
//! refused.

#[path = "common/compare.rs"]
mod compare;
#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod ext4;
#[path = "common/mod.rs"]
mod shared;

use ext4::{Mount, check_clean, noise, open_for_writing};
use guestctl::fs::ext4::Ext4Writer;
use guestctl::fs::write::{Credentials, FallocateMode, SetAttr, XattrMode};
use guestctl::fs::{FileType, Filesystem, FilesystemWrite, Ino};
use shared::{has_tool, is_root, skip, tool};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const WHO: Credentials = Credentials { uid: 0, gid: 0, umask: 0o022 };

/// Makes an ext4 image; `None` where that cannot be done here.
fn image(folder: &TempDir, megabytes: u64, args: &[&str]) -> Option<PathBuf> {
    if !ext4::has_tools() || !has_tool("e2fsck") {
        skip("e2fsprogs is missing");
        return None;
    }
    let image = folder.path().join("disk.img");
    ext4::make(&image, megabytes, args);
    Some(image)
}

fn create(fs: &Ext4Writer, name: &str) -> Ino {
    create_in(fs, fs.root(), name)
}

fn create_in(fs: &Ext4Writer, dir: Ino, name: &str) -> Ino {
    fs.create(dir, name.as_bytes(), FileType::Regular, 0o644, (0, 0), &WHO).expect("a file").ino
}

/// Closes the filesystem, and has e2fsck and the kernel look at it.
fn finish(image: &Path, fs: Ext4Writer) {
    fs.close().expect("it can be closed");
    drop(fs);
    check_clean(image);
    if is_root() {
        let reader = ext4::open(image);
        let mount = Mount::new(image, "ro,noload");
        compare::compare_with_folder(&reader, &mount.path, &compare::Options::default()).expect_same();
    }
}

#[test]
fn equal_values_share_an_inode_that_goes_with_the_last_of_them() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(image) = image(&folder, 32, &["-t", "ext4", "-O", "ea_inode"]) else { return };
    let fs = open_for_writing(&image);
    let (one, other) = (create(&fs, "one"), create(&fs, "other"));
    let free = || fs.statfs().expect("statfs").files_free;
    let before = free();
    let value = noise(20_000, 5);
    for ino in [one, other] {
        fs.set_xattr(ino, b"user.long", &value, XattrMode::Set).expect("a value");
        assert_eq!(fs.xattr(ino, b"user.long").expect("it is there"), value);
    }
    assert_eq!(free(), before - 1, "both lie in one inode");
    fs.set_xattr(other, b"user.longest", &noise(65_536, 6), XattrMode::Create).expect("a value");
    assert_eq!(free(), before - 2);
    fs.remove_xattr(one, b"user.long").expect("it is there");
    assert_eq!(fs.xattr(other, b"user.long").expect("it is still there"), value);
    assert_eq!(free(), before - 2);
    fs.set_xattr(other, b"user.long", b"short", XattrMode::Replace).expect("a value");
    assert_eq!(free(), before - 1);
    fs.set_xattr(one, b"user.long", &noise(9000, 7), XattrMode::Set).expect("a value");
    fs.close().expect("it can be closed");
    drop(fs);
    check_clean(&image);
    let fs = open_for_writing(&image);
    fs.unlink(fs.root(), b"other").expect("it is there");
    // A file that is open keeps its values until it is closed.
    fs.open(one);
    fs.unlink(fs.root(), b"one").expect("it is there");
    assert_eq!(fs.xattr(one, b"user.long").expect("it is still there"), noise(9000, 7));
    fs.forget(one, 1);
    assert_eq!(fs.statfs().expect("statfs").files_free, before + 2);
    finish(&image, fs);
}

#[test]
fn a_block_is_filled_with_names_of_values_in_inodes() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(image) = image(&folder, 32, &["-t", "ext4", "-O", "ea_inode", "-b", "1024"]) else { return };
    let fs = open_for_writing(&image);
    let file = create(&fs, "file");
    let mut count = 0;
    let error = loop {
        let name = format!("user.{count}");
        match fs.set_xattr(file, name.as_bytes(), &noise(1000, count), XattrMode::Set) {
            Ok(()) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.errno(), libc::ENOSPC);
    assert!(count > 40, "{count} values");
    fs.close().expect("it can be closed");
    drop(fs);
    check_clean(&image);
    let fs = open_for_writing(&image);
    for number in 0..count {
        let name = format!("user.{number}");
        assert_eq!(fs.xattr(file, name.as_bytes()).expect("it is there"), noise(1000, number));
    }
    let free = fs.statfs().expect("statfs").files_free;
    fs.unlink(fs.root(), b"file").expect("it is there");
    assert!(fs.statfs().expect("statfs").files_free > free + 40);
    finish(&image, fs);
}

#[test]
fn a_block_that_the_kernel_shares_keeps_its_values_for_the_others() {
    if !ext4::can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    let Some(image) = image(&folder, 32, &["-t", "ext4", "-O", "ea_inode", "-I", "128"]) else { return };
    let long = noise(10_000, 1);
    {
        let mount = Mount::new(&image, "rw");
        for name in ["a", "b", "c"] {
            let path = mount.path.join(name);
            std::fs::write(&path, name).expect("a file");
            xattr::set(&path, "user.long", &long).expect("a value");
            xattr::set(&path, "user.short", b"short").expect("a value");
        }
    }
    let fs = open_for_writing(&image);
    let find = |name: &str| fs.lookup(fs.root(), name.as_bytes()).expect("the kernel made it").ino;
    let free = fs.statfs().expect("statfs").files_free;
    // Each gets a block of its own as soon as it changes; the long value stays one inode.
    fs.set_xattr(find("a"), b"user.more", b"more", XattrMode::Set).expect("a value");
    fs.remove_xattr(find("b"), b"user.long").expect("it is there");
    for name in ["a", "c"] {
        assert_eq!(fs.xattr(find(name), b"user.long").expect("it is there"), long);
    }
    assert_eq!(fs.statfs().expect("statfs").files_free, free);
    fs.close().expect("it can be closed");
    drop(fs);
    check_clean(&image);
    let fs = open_for_writing(&image);
    for name in [b"a", b"c"] {
        fs.unlink(fs.root(), name).expect("it is there");
    }
    assert_eq!(fs.statfs().expect("statfs").files_free, free + 3, "two files and the value");
    finish(&image, fs);
    // What we made, the kernel changes in turn.
    let fs = open_for_writing(&image);
    let (one, other) = (create(&fs, "one"), create(&fs, "other"));
    for ino in [one, other] {
        fs.set_xattr(ino, b"user.long", &long, XattrMode::Set).expect("a value");
    }
    fs.close().expect("it can be closed");
    drop(fs);
    {
        let mount = Mount::new(&image, "rw");
        std::fs::remove_file(mount.path.join("one")).expect("removed");
        assert_eq!(xattr::get(mount.path.join("other"), "user.long").expect("read"), Some(long.clone()));
        xattr::set(mount.path.join("other"), "user.long", b"now short").expect("a value");
    }
    check_clean(&image);
}

#[test]
fn a_cluster_is_taken_with_its_first_block_and_freed_with_its_last() {
    let folder = TempDir::new().expect("a temporary folder");
    let args = ["-t", "ext4", "-O", "bigalloc", "-b", "4096", "-C", "65536"];
    let Some(image) = image(&folder, 64, &args) else { return };
    let fs = open_for_writing(&image);
    let free = || fs.statfs().expect("statfs").blocks_free;
    let sectors = |ino| fs.attr(ino).expect("it is there").blocks;
    let settle = || fs.sync().expect("sync");
    let file = create(&fs, "file");
    let before = free();
    // The third block of a cluster, then the first, then the last of the one before it.
    for offset in [18_u64 << 12, 16 << 12, 15 << 12] {
        fs.write(file, offset, &[7; 4096], true).expect("a write");
    }
    assert_eq!((before - free(), sectors(file)), (32, 256), "two clusters");
    fs.write(file, 17 << 12, &[8; 4096], true).expect("a block between");
    fs.fallocate(file, 0, 60 << 10, FallocateMode::Allocate).expect("the rest of the first cluster");
    assert_eq!((before - free(), sectors(file)), (32, 256), "they have room for it");
    fs.fallocate(file, 16 << 12, 2 << 12, FallocateMode::PunchHole).expect("a hole");
    assert_eq!(sectors(file), 256, "a block of the cluster is left");
    fs.fallocate(file, 18 << 12, 1 << 12, FallocateMode::PunchHole).expect("a hole");
    settle();
    assert_eq!((before - free(), sectors(file)), (16, 128));
    fs.set_attr(file, &SetAttr { size: Some(1), ..SetAttr::default() }).expect("a truncation");
    assert_eq!(sectors(file), 128);
    fs.write(file, 9 << 12, &[9; 100_000], true).expect("a write");
    settle();
    assert_eq!((before - free(), sectors(file)), (48, 384));
    let other = create(&fs, "other");
    fs.write(other, 0, &noise(3 << 20, 4), true).expect("a write");
    // Attributes and the nodes of trees take a cluster each.
    fs.set_xattr(other, b"user.value", &[1; 2000], XattrMode::Set).expect("a value");
    assert_eq!(sectors(other), (3 << 11) + 128);
    fs.set_attr(other, &SetAttr { size: Some(0), ..SetAttr::default() }).expect("a truncation");
    fs.remove_xattr(other, b"user.value").expect("it is there");
    settle();
    assert_eq!((before - free(), sectors(other)), (48, 0));
    finish(&image, fs);
}

#[test]
fn clusters_of_the_kernel_and_ours_go_together() {
    if !ext4::can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a temporary folder");
    let args = ["-t", "ext4", "-O", "bigalloc", "-b", "1024", "-C", "16384"];
    let Some(image) = image(&folder, 64, &args) else { return };
    use std::os::unix::fs::FileExt;
    let mut expected = vec![0; 600 << 10];
    let put = |expected: &mut [u8], at: usize, byte: u8, len: usize| {
        expected[at..at + len].fill(byte);
        (at as u64, vec![byte; len])
    };
    // Blocks in every fifth place, by the kernel and by us in turn, so that they share clusters.
    for turn in 0..3_u8 {
        {
            let mount = Mount::new(&image, "rw");
            let path = mount.path.join("file");
            let file = std::fs::File::options().create(true).truncate(false).write(true).open(path).expect("opens");
            for number in 0..30 {
                let (at, data) = put(&mut expected, (number * 20 + usize::from(turn) * 2) << 10, turn + 1, 1000);
                file.write_all_at(&data, at).expect("a write");
            }
        }
        check_clean(&image);
        let fs = open_for_writing(&image);
        let file = fs.lookup(fs.root(), b"file").expect("the kernel made it").ino;
        for number in 0..30 {
            let (at, data) = put(&mut expected, (number * 20 + usize::from(turn) * 2 + 7) << 10, turn + 11, 1500);
            fs.write(file, at, &data, true).expect("a write");
        }
        fs.fallocate(file, (u64::from(turn) * 100 + 3) << 10, 9 << 10, FallocateMode::PunchHole).expect("a hole");
        put(&mut expected, (usize::from(turn) * 100 + 3) << 10, 0, 9 << 10);
        let names = (0..200).map(|number| format!("a name of some length {turn} {number}"));
        let dir = fs.mkdir(fs.root(), format!("dir {turn}").as_bytes(), 0o755, &WHO).expect("a folder").ino;
        for name in names {
            fs.link(file, dir, name.as_bytes()).expect("a name");
        }
        let size = fs.attr(file).expect("it is there").size as usize;
        let mut found = vec![0; size];
        fs.read(file, 0, &mut found).expect("a read");
        assert!(found == expected[..size], "turn {turn}");
        finish(&image, fs);
    }
    let mount = Mount::new(&image, "rw");
    std::fs::remove_dir_all(mount.path.join("dir 1")).expect("the kernel removes what we made");
    drop(mount);
    check_clean(&image);
}

#[test]
fn small_files_and_folders_begin_in_their_inode_and_grow_out_of_it() {
    let folder = TempDir::new().expect("a temporary folder");
    let args = ["-t", "ext4", "-O", "inline_data", "-I", "256", "-b", "4096"];
    let Some(image) = image(&folder, 32, &args) else { return };
    let fs = open_for_writing(&image);
    let before = fs.statfs().expect("statfs").blocks_free;
    let dir = fs.mkdir(fs.root(), b"dir", 0o755, &WHO).expect("a folder").ino;
    let file = create(&fs, "file");
    // What the inode has room for, byte by byte, and the first byte more.
    let text = noise(200, 3);
    let mut inside = 0;
    for (at, byte) in text.iter().enumerate() {
        fs.write(file, at as u64, &[*byte], true).expect("a write");
        if fs.statfs().expect("statfs").blocks_free == before {
            inside = at + 1;
        }
    }
    assert_eq!(inside, 60 + 68, "60 bytes and what the attribute has room for");
    let mut found = [0; 200];
    assert_eq!(fs.read(file, 0, &mut found).expect("a read"), 200);
    assert_eq!(&found[..], text);
    let small = create(&fs, "small");
    fs.write(small, 0, &text[..100], true).expect("a write");
    fs.write(small, 50, &text[..20], true).expect("a write");
    fs.set_attr(small, &SetAttr { size: Some(90), ..SetAttr::default() }).expect("cut");
    fs.set_attr(small, &SetAttr { size: Some(120), ..SetAttr::default() }).expect("grown");
    let sparse = create(&fs, "sparse");
    fs.write(sparse, 1 << 20, b"far", true).expect("a write");
    let attributed = create(&fs, "attributed");
    fs.set_xattr(attributed, b"user.name", &[1; 40], XattrMode::Set).expect("a value");
    fs.write(attributed, 0, &text[..60], true).expect("a write");
    fs.set_xattr(attributed, b"user.other", &[2; 200], XattrMode::Set).expect("a value");
    let mut names = 0;
    while fs.attr(dir).expect("it is there").blocks == 0 {
        fs.link(small, dir, format!("name {names}").as_bytes()).expect("a name");
        names += 1;
    }
    assert!((5..20).contains(&names), "{names} names");
    let below = fs.mkdir(dir, b"below", 0o755, &WHO).expect("a folder").ino;
    fs.rename(dir, b"below", fs.root(), b"moved", guestctl::fs::write::RenameMode::Replace).expect("a rename");
    assert_eq!(fs.parent(below).expect("its parent"), fs.root());
    let gone = fs.mkdir(below, b"gone", 0o755, &WHO).expect("a folder").ino;
    create_in(&fs, gone, "file");
    assert_eq!(fs.rmdir(below, b"gone").expect_err("it is not empty").errno(), libc::ENOTEMPTY);
    fs.unlink(gone, b"file").expect("it is there");
    fs.rmdir(below, b"gone").expect("it is empty");
    let mut expected = text[..90].to_vec();
    expected[50..70].copy_from_slice(&text[..20]);
    expected.resize(120, 0);
    finish(&image, fs);
    let reader = ext4::open(&image);
    let mut found = vec![0; 120];
    assert_eq!(reader.read(small, 0, &mut found).expect("a read"), 120);
    assert!(found == expected);
    for (name, is_inline) in
        [("file", false), ("small", true), ("sparse", false), ("attributed", true), ("moved", true)]
    {
        let request = format!("stat /{name}");
        let said = ext4::run("debugfs", &["-R", &request, image.to_str().expect("text")]);
        assert_eq!(said.contains("Size of inline data"), is_inline, "{name}: {said}");
    }
}

#[test]
fn a_filesystem_whose_features_cannot_be_kept_right_is_refused_by_name_and_still_read() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some(image) = image(&folder, 64, &["-t", "ext4"]) else { return };
    let cases: [(&str, &[&str], &str); 9] = [
        ("quota", &["-O", "quota"], ""),
        ("project", &["-O", "quota,project"], ""),
        ("encrypt", &["-O", "encrypt"], ""),
        ("mmp", &["-O", "mmp"], ""),
        ("read-only", &[], "feature_ro_compat 0x1001"),
        ("shared_blocks", &[], "feature_ro_compat 0x4001"),
        ("unknown feature 0x40000000", &[], "feature_ro_compat 0x40000001"),
        ("an external journal", &[], "journal_inum 0"),
        ("uninit_bg beside metadata_csum", &["-O", "metadata_csum"], "feature_ro_compat 0x411"),
    ];
    for (feature, args, change) in cases {
        ext4::make(&image, 64, &[&["-t", "ext4"], args].concat());
        if !change.is_empty() {
            let request = format!("set_super_value {change}");
            ext4::run("debugfs", &["-w", "-R", &request, image.to_str().expect("text")]);
        }
        let before = std::fs::read(&image).expect("the image");
        let error = ext4::try_open_for_writing(&image).err().expect("it is refused").to_string();
        assert!(error.contains("not supported: writing ext4 with") && error.contains(feature), "{feature}: {error}");
        let reader = ext4::open(&image);
        assert!(reader.lookup(reader.root(), b"lost+found").is_ok_and(|attr| attr.is_dir()), "{feature}");
        reader.statfs().expect("statfs");
        assert!(std::fs::read(&image).expect("the image") == before, "{feature}: something was written");
    }
}

#[test]
fn flags_that_would_change_how_a_file_is_stored_are_refused() {
    const EXTENTS: u32 = 0x8_0000;
    const JOURNAL_DATA: u32 = 0x4000;
    let folder = TempDir::new().expect("a temporary folder");
    let Some(image) = image(&folder, 32, &["-t", "ext4"]) else { return };
    let fs = open_for_writing(&image);
    let file = create(&fs, "file");
    let flags = fs.attr(file).expect("it is there").flags;
    assert_ne!(flags & EXTENTS, 0);
    for changed in [flags & !EXTENTS, flags | JOURNAL_DATA] {
        assert_eq!(fs.set_flags(file, changed).expect_err("it is refused").errno(), libc::EOPNOTSUPP);
    }
    assert_eq!(fs.attr(file).expect("it is there").flags, flags);
    finish(&image, fs);
}
