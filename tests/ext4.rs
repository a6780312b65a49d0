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
    compare_filled_by_kernel(256, &["-t", "ext4", "-b", "4096"], 6000, 3000, 4096);
}

#[test]
fn ext4_with_small_blocks_and_deep_extent_trees_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(128, &["-t", "ext4", "-b", "1024", "-N", "12000"], 6000, 8000, 1024);
}

#[test]
fn ext4_with_blocks_of_2_kib_and_no_checksums_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(
        128,
        &["-t", "ext4", "-b", "2048", "-O", "^metadata_csum,uninit_bg,^64bit", "-N", "9000"],
        3000,
        2000,
        2048,
    );
}

#[test]
fn ext3_with_triple_indirect_blocks_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(128, &["-t", "ext3", "-b", "1024", "-I", "256", "-N", "9000"], 3000, 3000, 1024);
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
        populate(&mount.path, 3000, 1000, 1024);
    }
    let mount = Mount::new(&image, "ro");
    let fs = open(&image);
    compare_with_folder(&fs, &mount.path, &Options { btime: false, ..Options::default() }).expect_same();
    compare_statfs(&fs, &mount);
    assert_eq!(fs.info().kind, "ext2");
}

#[test]
fn bigalloc_reads_as_the_kernel_reads_it() {
    compare_filled_by_kernel(256, &["-t", "ext4", "-O", "bigalloc", "-C", "16384", "-N", "9000"], 3000, 500, 4096);
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
