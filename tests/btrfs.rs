//! The Btrfs driver against the kernel's mount.

mod common;
#[path = "common/btrfs.rs"]
mod support;

use guestctl::fs::Filesystem;
use guestctl::fs::btrfs::{self, Btrfs, Subvolume};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use support::{Lenient, Mounted, POPULATE, can_mount, compare, device, make, open, options, run, script};
use tempfile::TempDir;

/// A filesystem made with some options of mkfs, mounted with some, populated, and compared.
fn check(mkfs: &[&str], mount: &str) -> Option<(TempDir, PathBuf)> {
    if !can_mount() {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 256, mkfs);
    let mounted = Mounted::new(&image, mount);
    script(mounted.path(), POPULATE);
    drop(mounted);
    let filesystem = open(&image, None);
    assert_eq!(filesystem.info().warnings, Vec::<String>::new());
    let mounted = Mounted::new(&image, "ro");
    let count = compare(&filesystem, mounted.path(), Lenient::default());
    assert!(count > 700, "{count} inodes");
    drop(mounted);
    Some((folder, image))
}

#[test]
fn a_tree_is_what_the_kernel_shows() {
    check(&["-L", "a label"], "noatime");
}

/// Says whether any extent of an image is compressed in a way, as `btrfs inspect-internal` names it.
fn is_compressed(image: &Path, how: &str) -> bool {
    let image = image.to_str().expect("a plain path");
    run("btrfs", &["inspect-internal", "dump-tree", "-t", "5", image]).contains(&format!("({how})"))
}

#[test]
fn zlib_is_read() {
    if let Some((_folder, image)) = check(&[], "compress-force=zlib") {
        assert!(is_compressed(&image, "zlib"));
    }
}

#[test]
fn lzo_is_read() {
    if let Some((_folder, image)) = check(&[], "compress-force=lzo") {
        assert!(is_compressed(&image, "lzo"));
    }
}

#[test]
fn zstd_is_read() {
    if let Some((_folder, image)) = check(&[], "compress-force=zstd") {
        assert!(is_compressed(&image, "zstd"));
    }
}

#[test]
fn xxhash_and_small_nodes_are_read() {
    check(&["--csum", "xxhash", "-n", "4096"], "compress=zstd");
}

#[test]
fn sha256_and_large_nodes_are_read() {
    check(&["--csum", "sha256", "-n", "65536"], "compress=lzo");
}

#[test]
fn blake2b_and_holes_with_extents_are_read() {
    check(&["--csum", "blake2", "-O", "^no-holes"], "noatime");
}

#[test]
fn mixed_block_groups_are_read() {
    check(&["--mixed", "-R", "^free-space-tree"], "noatime,max_inline=2000");
}

#[test]
fn data_without_checksums_is_read() {
    check(&["-d", "dup"], "nodatasum");
}

#[test]
fn a_folder_that_mkfs_took_in_is_read() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (image, tree) = (folder.path().join("image"), folder.path().join("tree"));
    std::fs::create_dir(&tree).expect("a folder");
    script(
        &tree,
        "seq 1 300000 > text; mkdir -p a/b/c; echo b > a/b/file; ln -s a/b link; ln text a/hard; : > empty; mkfifo p",
    );
    make(&image, 256, &["--rootdir", tree.to_str().expect("a plain path")]);
    let filesystem = open(&image, None);
    let mounted = Mounted::new(&image, "ro");
    assert_eq!(compare(&filesystem, mounted.path(), Lenient::default()), 10);
}

#[test]
fn another_uuid_for_metadata_is_followed() {
    let Some((_folder, image)) = check(&[], "noatime") else { return };
    run("btrfstune", &["-f".as_ref(), "-m".as_ref(), image.as_os_str()]);
    let filesystem = open(&image, None);
    let mounted = Mounted::new(&image, "ro");
    compare(&filesystem, mounted.path(), Lenient::default());
}

#[test]
fn subvolumes_and_snapshots_are_folders() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 256, &[]);
    let mounted = Mounted::new(&image, "noatime");
    script(
        mounted.path(),
        "mkdir folder; echo top > file; btrfs subvolume create @ >&2; btrfs subvolume create folder/inner >&2
        seq 1 9000 > @/one; mkdir -p @/d/e; btrfs subvolume create @/d/e/deep >&2; echo deep > @/d/e/deep/file
        btrfs subvolume snapshot -r @ snap >&2; echo changed > @/one; btrfs subvolume snapshot . all >&2
        btrfs subvolume create gone >&2; btrfs subvolume delete -C gone >&2; mv folder/inner folder/renamed",
    );
    let id = run("btrfs", &["subvolume".as_ref(), "show".as_ref(), mounted.path().join("@").as_os_str()]);
    let id: u64 = id
        .lines()
        .find_map(|line| line.trim().strip_prefix("Subvolume ID:"))
        .expect("told")
        .trim()
        .parse()
        .expect("a number");
    let default = mounted.path().join("snap");
    run("btrfs", &["subvolume".as_ref(), "set-default".as_ref(), default.as_os_str()]);
    drop(mounted);

    let wanted = [
        ("", None, false),
        ("@", Some(5), false),
        ("@/d/e/deep", Some(id), false),
        ("all", Some(5), false),
        ("folder/renamed", Some(5), false),
        ("snap", Some(5), true),
    ];
    let mut found: Vec<_> = open(&image, None)
        .subvolumes()
        .expect("listed")
        .into_iter()
        .map(|found| (String::from_utf8(found.path).expect("plain"), found.parent, found.is_read_only))
        .collect();
    found.sort();
    assert_eq!(found, wanted.map(|(path, parent, read_only)| (path.to_string(), parent, read_only)));

    for (subvolume, mount) in [
        (None, String::new()),
        (Some(Subvolume::Id(5)), "subvolid=5".into()),
        (Some(Subvolume::Id(id)), format!("subvolid={id}")),
        (Some(Subvolume::Path(b"/@/d/e/deep".to_vec())), "subvol=/@/d/e/deep".into()),
        (Some(Subvolume::Path(b"folder/renamed/".to_vec())), "subvol=folder/renamed".into()),
        (Some(Subvolume::Path(b"/".to_vec())), "subvol=/".into()),
        (Some(Subvolume::Path(b"all".to_vec())), "subvol=all".into()),
    ] {
        let filesystem = open(&image, subvolume.as_ref());
        let mounted = Mounted::new(&image, &format!("ro,{mount}"));
        compare(&filesystem, mounted.path(), Lenient::default());
    }
    for wrong in [Subvolume::Id(999), Subvolume::Path(b"folder".to_vec()), Subvolume::Path(b"none".to_vec())] {
        let error = Btrfs::open(device(&image), &[], Some(&wrong), &options()).err().expect("no such subvolume");
        assert!(matches!(error, guestctl::Error::NotFound(_)), "{error}");
    }
    // Two inodes of one number in two subvolumes are two.
    let filesystem = open(&image, Some(&Subvolume::Id(5)));
    let of = |name: &[u8]| {
        let folder = filesystem.lookup(filesystem.root(), name).expect("there").ino;
        filesystem.lookup(folder, b"one").expect("there").ino
    };
    assert_ne!(of(b"@"), of(b"snap"));
}

/// A name that differs from others in enough bits.
fn collider(number: u32) -> String {
    format!("user.{:016x}", u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn names_of_one_hash_are_told_apart() {
    if !can_mount() {
        return;
    }
    // Among so many names some have the same CRC.
    let mut seen: HashMap<u32, u32> = HashMap::new();
    let mut pairs = Vec::new();
    for number in 0..400_000_u32 {
        if let Some(other) = seen.insert(crc32c::crc32c(collider(number).as_bytes()), number) {
            pairs.push((other, number));
        }
    }
    assert!(pairs.len() > 3, "{} pairs", pairs.len());
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 256, &[]);
    let mounted = Mounted::new(&image, "noatime");
    for (one, other) in &pairs {
        // Attributes are hashed with the name of their space.
        let [one, other] = [*one, *other].map(collider);
        script(mounted.path(), &format!("echo 1 > {one}; mkdir {other}; mkdir d{one} d{other}; touch x"));
        script(
            mounted.path(),
            &format!("setfattr -n {one} -v 1 x; setfattr -n {other} -v 2 x; ln {one} d{one}/{other}"),
        );
    }
    drop(mounted);
    let filesystem = open(&image, None);
    compare(&filesystem, Mounted::new(&image, "ro").path(), Lenient::default());
}

#[test]
fn any_good_superblock_will_do() {
    let Some((_folder, image)) = check(&["-L", "mirrors"], "noatime") else { return };
    let superblock = |at: u64| {
        let mut bytes = vec![0; 4096];
        File::open(&image).expect("opens").read_exact_at(&mut bytes, at).expect("reads");
        bytes
    };
    let write = |at: u64, bytes: &[u8]| {
        File::options().write(true).open(&image).expect("opens").write_all_at(bytes, at).expect("writes");
    };
    let info = btrfs::probe(&*device(&image)).expect("reads").expect("Btrfs");
    assert_eq!((info.kind, info.label.as_deref()), ("btrfs", Some(&b"mirrors"[..])));
    assert_eq!(
        info.uuid.expect("there"),
        run("blkid", &["-p", "-s", "UUID", "-o", "value", image.to_str().expect("plain")]).trim()
    );
    let [first, second] = [64 << 10, 64 << 20].map(superblock);
    let mut damaged = first.clone();
    damaged[300] ^= 1;
    write(64 << 10, &damaged);
    let filesystem = open(&image, None);
    assert!(filesystem.info().warnings[0].contains("copy 1 of the superblock"), "{:?}", filesystem.info().warnings);
    assert!(btrfs::probe(&*device(&image)).expect("reads").is_some());
    write(64 << 20, &damaged);
    let error = Btrfs::open(device(&image), &[], None, &options()).err().expect("no superblock is whole");
    assert!(matches!(error, guestctl::Error::Corrupt { .. }), "{error}");
    write(64 << 10, &first);
    compare(&open(&image, None), Mounted::new(&image, "ro").path(), Lenient::default());
    // What is left of a Btrfs beside another filesystem is none.
    write(64 << 20, &second);
    write(64 << 10, &[0; 4096]);
    assert!(btrfs::probe(&*device(&image)).expect("reads").is_none());
    assert!(btrfs::member_of(&*device(&image)).expect("reads").is_none());
}

#[test]
fn a_feature_that_is_not_known_is_refused_by_its_name() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 128, &[]);
    let file = File::options().read(true).write(true).open(&image).expect("opens");
    let mut whole = vec![0; 4096];
    file.read_exact_at(&mut whole, 64 << 10).expect("reads");
    for (bit, name) in [(13, "extent-tree-v2"), (14, "raid-stripe-tree"), (40, "0x10000000000")] {
        let mut changed = whole.clone();
        changed[0xbc + bit / 8] |= 1 << (bit % 8);
        let sum = crc32c::crc32c(&changed[32..]);
        changed[..4].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&changed, 64 << 10).expect("writes");
        let error = Btrfs::open(device(&image), &[], None, &options()).err().expect("refused");
        assert!(matches!(error, guestctl::Error::Unsupported(_)) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn space_is_counted_about_as_the_kernel_counts_it() {
    for (mkfs, size) in [(&["-m", "dup"][..], 256), (&["-m", "single", "-d", "single"], 1024), (&["--mixed"], 256)] {
        if !can_mount() {
            return;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("image");
        make(&image, size, mkfs);
        let mounted = Mounted::new(&image, "noatime");
        script(mounted.path(), "head -c 20000000 /dev/urandom > file");
        drop(mounted);
        let found = open(&image, None).statfs().expect("counts");
        // Read-only, the kernel counts what is free in block groups as taken.
        let mounted = Mounted::new(&image, "rw,noatime");
        let real = nix::sys::statvfs::statvfs(mounted.path()).expect("counts");
        let real = [real.blocks(), real.blocks_free(), real.blocks_available()];
        println!("{mkfs:?}: {found:?} {real:?}");
        assert_eq!(found.blocks, real[0]);
        assert!(found.blocks_free.abs_diff(real[1]) <= real[0] / 20, "{found:?} {real:?}");
        assert!(found.blocks_available.abs_diff(real[2]) <= real[0] / 20, "{found:?} {real:?}");
    }
}

#[test]
fn a_file_of_very_many_extents_is_read() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 256, &[]);
    let mounted = Mounted::new(&image, "noatime");
    let file = File::create(mounted.path().join("file")).expect("is made");
    for number in 0..6000_u64 {
        let bytes = [number as u8; 4096];
        file.write_all_at(&bytes, number * 8192).expect("writes");
        if number % 10 == 0 {
            file.write_all_at(&bytes, number * 8192 + 4096).expect("writes");
        }
    }
    drop((file, mounted));
    compare(&open(&image, None), Mounted::new(&image, "ro").path(), Lenient::default());
}
