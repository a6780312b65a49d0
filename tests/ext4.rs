//! The ext4 driver against mke2fs and the kernel's own mount.

mod common;
#[path = "common/compare.rs"]
mod compare;
#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod images;

use compare::{Options, compare_with_folder};
use guestctl::fs::Filesystem;
use images::{Mount, can_mount, make, open, populate};
use tempfile::TempDir;

pub use common::{has_tool, is_root, skip, tool};

/// Makes an image, lets the kernel fill it, and compares the driver with the kernel's read-only mount of it.
fn compare_filled_by_kernel(megabytes: u64, args: &[&str], entries: usize, pieces: u64, block_size: u64) {
    if !can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    make(&image, megabytes, args);
    {
        let mount = Mount::new(&image, "rw");
        populate(&mount.path, entries, pieces, block_size);
    }
    let mount = Mount::new(&image, "ro");
    let fs = open(&image);
    let report = compare_with_folder(&fs, &mount.path, &Options::default());
    report.expect_same();
    assert!(report.compared > entries / 2);
    compare_statfs(&fs, &mount);
}

fn compare_statfs(fs: &dyn Filesystem, mount: &Mount) {
    let ours = fs.statfs().expect("statfs");
    let theirs = nix::sys::statvfs::statvfs(&mount.path).expect("statvfs");
    assert_eq!(u64::from(ours.block_size), theirs.block_size());
    assert_eq!(ours.blocks, theirs.blocks(), "blocks");
    assert_eq!(ours.blocks_free, theirs.blocks_free(), "free blocks");
    assert_eq!(ours.blocks_available, theirs.blocks_available(), "available blocks");
    assert_eq!((ours.files, ours.files_free), (theirs.files(), theirs.files_free()), "inodes");
    assert_eq!(u64::from(ours.name_max), theirs.name_max());
}

#[test]
fn ext4_as_mke2fs_makes_it_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(256, &["-t", "ext4", "-b", "4096"], 4000, 3000, 4096);
}

#[test]
fn ext4_with_small_blocks_and_deep_extent_trees_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(128, &["-t", "ext4", "-b", "1024", "-N", "9000"], 3000, 4000, 1024);
}

#[test]
fn ext4_with_blocks_of_2_kib_and_no_checksums_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(
        128,
        &["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,uninit_bg,^64bit", "-N", "9000"],
        1500,
        1500,
        2048,
    );
}

#[test]
fn ext3_with_triple_indirect_blocks_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(128, &["-t", "ext3", "-b", "1024", "-I", "256", "-N", "9000"], 2000, 1500, 1024);
}

#[test]
fn ext2_with_inodes_of_128_bytes_reads_as_the_kernel_reads_it() {
    if !can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 128, &["-t", "ext2", "-b", "1024", "-I", "128", "-N", "9000"]);
    {
        let mount = Mount::new(&image, "rw");
        populate(&mount.path, 1500, 800, 1024);
    }
    let mount = Mount::new(&image, "ro");
    let fs = open(&image);
    compare_with_folder(&fs, &mount.path, &Options { btime: false, ..Options::default() }).expect_same();
    compare_statfs(&fs, &mount);
    assert_eq!(fs.info().kind, "ext2");
}

#[test]
fn bigalloc_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(256, &["-t", "ext4", "-O", "bigalloc", "-C", "16384", "-N", "9000"], 1000, 300, 4096);
}

#[test]
fn meta_bg_with_1_kib_blocks_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(
        256,
        &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-N", "9000"],
        3000,
        500,
        1024,
    );
}

#[test]
fn sparse_super2_ea_inode_large_dir_and_large_inodes_read_as_the_kernel_reads_them() {
    compare_filled_by_kernel(
        256,
        &["-t", "ext4", "-I", "1024", "-O", "sparse_super2,ea_inode,large_dir,metadata_csum_seed", "-N", "9000"],
        3000,
        500,
        4096,
    );
}

/// Lets mke2fs fill an image from a folder, and compares the driver with that folder and, where the kernel can mount the
/// image with the options given, with the kernel's mount.
fn compare_filled_by_mke2fs(megabytes: u64, args: &[&str], kernel: Option<&str>, reindex: bool) {
    if !can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (image, source) = (folder.path().join("image"), folder.path().join("source"));
    std::fs::create_dir(&source).expect("makes");
    populate(&source, 2000, 100, 4096);
    let has_inline_data = args.iter().any(|arg| arg.contains("inline_data"));
    if has_inline_data {
        // mke2fs makes it inline in spite of its size, which the kernel does not get on with.
        std::fs::remove_file(source.join("only a hole")).expect("removes");
    }
    let mut all = args.to_vec();
    all.extend(["-d", source.to_str().expect("text")]);
    make(&image, megabytes, &all);
    if reindex {
        images::reindex(&image);
    }
    let fs = open(&image);
    let entries = compare::list(&fs, fs.root(), usize::MAX).expect("lists");
    assert!(entries.iter().any(|(name, ..)| name == b"lost+found"));
    std::fs::create_dir(source.join("lost+found")).expect("makes");
    let options = Options {
        inos: false,
        atime: false,
        times: false,
        dir_times: false,
        dir_links: true,
        btime: false,
        blocks: false,
        dir_sizes: false,
        holes: false,
        xattrs: true,
    };
    let mut report = compare_with_folder(&fs, &source, &options);
    report.differences.retain(|difference| !difference.contains("lost+found: mode"));
    // With inline data, mke2fs loses the holes at the ends of files; the kernel's mount below tells what the image holds.
    if has_inline_data {
        report.differences.retain(|difference| !difference.contains(": size: "));
    }
    report.expect_same();
    if let Some(options) = kernel {
        let mount = Mount::new(&image, options);
        compare_with_folder(&fs, &mount.path, &Options::default()).expect_same();
        compare_statfs(&fs, &mount);
    }
}

#[test]
fn inline_data_reads_as_the_kernel_reads_it() {
    let args = ["-t", "ext4", "-O", "inline_data", "-I", "256"];
    compare_filled_by_mke2fs(128, &args, Some("ro,noload"), false);
}

#[test]
fn inline_data_in_large_inodes_reads_as_the_kernel_reads_it() {
    let args = ["-t", "ext4", "-b", "1024", "-O", "inline_data", "-I", "512"];
    compare_filled_by_mke2fs(128, &args, Some("ro,noload"), false);
}

#[test]
fn blocks_of_64_kib_read_as_the_folder_they_were_filled_from() {
    compare_filled_by_mke2fs(512, &["-t", "ext4", "-b", "65536"], None, true);
}

#[test]
fn blocks_of_8_kib_without_64bit_read_as_the_folder_they_were_filled_from() {
    compare_filled_by_mke2fs(
        256,
        &["-t", "ext4", "-b", "8192", "-O", "^64bit,^metadata_csum,^has_journal"],
        None,
        true,
    );
}

#[test]
fn directories_that_e2fsck_indexed_read_as_the_kernel_reads_them() {
    compare_filled_by_mke2fs(128, &["-t", "ext4", "-b", "1024", "-I", "128"], Some("ro"), true);
}

#[test]
fn names_in_a_case_insensitive_directory_are_found_in_any_case() {
    if !images::has_tools() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let (image, source) = (folder.path().join("image"), folder.path().join("source"));
    std::fs::create_dir_all(source.join("cf")).expect("makes");
    for number in 0..1500 {
        std::fs::write(source.join("cf").join(format!("Some Long Name Of A File {number}")), b"").expect("writes");
    }
    let names = ["\u{dc}nic\u{f6}de", "Stra\u{df}e", "\u{391}\u{398}\u{397}\u{39d}\u{391}", "README"];
    for name in names {
        std::fs::write(source.join("cf").join(name), b"").expect("writes");
    }
    let args =
        ["-t", "ext4", "-b", "1024", "-O", "casefold", "-E", "encoding=utf8", "-d", source.to_str().expect("text")];
    make(&image, 64, &args);
    images::run("debugfs", &["-w", "-R", "sif /cf flags 0x40080000", image.to_str().expect("text")]);
    images::reindex(&image);
    let fs = open(&image);
    let dir = fs.lookup(fs.root(), b"cf").expect("it is there");
    assert_ne!(dir.flags & 0x1000, 0, "e2fsck made no index");
    let find = |name: &str| fs.lookup(dir.ino, name.as_bytes()).map(|attr| attr.ino);
    for number in (0..1500).step_by(7) {
        let exact = find(&format!("Some Long Name Of A File {number}")).expect("by its own name");
        assert_eq!(find(&format!("some LONG name of a file {number}")).expect("in another case"), exact);
    }
    for (name, other) in
        names.iter().zip(["u\u{308}NICO\u{308}DE", "STRASSE", "\u{3b1}\u{3b8}\u{3b7}\u{3bd}\u{3b1}", "readme"])
    {
        assert_eq!(find(name).expect("by its own name"), find(other).expect("in another form"));
    }
    assert!(find("readme.txt").is_err_and(|error| error.is_errno(libc::ENOENT)));
}

#[test]
fn encrypted_files_show_what_the_kernel_shows_without_the_key() {
    if !can_mount() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 64, &["-t", "ext4", "-O", "encrypt", "-b", "1024"]);
    {
        let mount = match Mount::try_new(&image, "rw,test_dummy_encryption") {
            Ok(mount) => mount,
            Err(error) => return skip(&format!("this kernel does not encrypt: {error}")),
        };
        let dir = mount.path.join("secret");
        if let Err(error) = std::fs::create_dir(&dir) {
            return skip(&format!("this kernel does not encrypt: {error}"));
        }
        for number in 0..400 {
            std::fs::write(dir.join(format!("name of file {number}")), images::noise(number * 10, 1)).expect("writes");
        }
        std::fs::write(dir.join("l".repeat(200)), b"long name").expect("writes");
        std::fs::write(dir.join("m".repeat(255)), b"longest name").expect("writes");
        let small = dir.join("small");
        std::fs::create_dir(&small).expect("makes");
        std::fs::write(small.join("only"), b"one").expect("writes");
        std::os::unix::fs::symlink("a target", small.join("link")).expect("links");
        std::os::unix::fs::symlink("t".repeat(200), small.join("long link")).expect("links");
    }
    let mount = Mount::new(&image, "ro");
    let fs = open(&image);
    let report = compare_with_folder(&fs, &mount.path, &Options { holes: false, ..Options::default() });
    report.expect_same();
    assert!(report.compared > 400);
}
