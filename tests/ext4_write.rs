//! The ext4 writer against a model in memory, e2fsck and the kernel.

#[path = "common/compare.rs"]
mod compare;
#[path = "common/ext4.rs"]
mod ext4;
#[path = "common/ext4_model.rs"]
mod model;
#[path = "common/recording.rs"]
#[allow(dead_code, reason = "only its numbers are needed here")]
mod recording;
#[path = "common/mod.rs"]
mod shared;

use guestctl::block::{RawDevice, SharedDevice};
use guestctl::cache::CachePool;
use guestctl::fs::ext4::{Ext4, Ext4Writer};
use guestctl::fs::{FilesystemWrite, FsOptions};
use model::{Choices, Model};
use shared::{has_tool, is_root, skip, tool};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

/// Opens an image for writing.
fn open(image: &Path) -> Ext4Writer {
    let device: SharedDevice = Arc::new(RawDevice::open(image, true).expect("the image opens"));
    Ext4::open_for_writing(device, &FsOptions { cache: CachePool::new(16 << 20) }).expect("it can be written")
}

/// Has e2fsck look at an image, which must find nothing to say.
fn check(image: &Path) {
    let program = tool("e2fsck").expect("e2fsck comes with mke2fs");
    let output = Command::new("timeout").arg("60").arg(program).arg("-fn").arg(image).output().expect("e2fsck runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().filter(|line| !line.starts_with("Pass ") && !line.contains(" files ("));
    let said: Vec<&str> = said.collect();
    assert!(output.status.code() == Some(0) && said.is_empty(), "e2fsck of {}: {text}", image.display());
}

struct Set {
    name: &'static str,
    megabytes: u64,
    args: &'static [&'static str],
    choices: Choices,
    is_for_kernel: bool,
}

const COMMON: Choices = Choices { max_size: 2 << 20, has_extents: true, xattr_size: 900, may_fill: false };
const MAPPED: Choices = Choices { has_extents: false, ..COMMON };

/// Runs random operations on an image, compares with the model, e2fsck and the kernel after each batch.
fn run(set: &Set, seed: u64, batches: usize, operations: usize) {
    if !ext4::has_tools() || !has_tool("e2fsck") {
        return skip("e2fsprogs is missing");
    }
    let folder = TempDir::new().expect("a temporary folder");
    let image = folder.path().join(format!("{}.img", set.name));
    ext4::make(&image, set.megabytes, set.args);
    let mut fs = open(&image);
    let mut model = Model::new(&fs, seed, set.choices);
    for batch in 0..batches {
        for _ in 0..operations {
            model.step(&fs);
        }
        model.compare(&fs);
        model.close_all(&fs);
        fs.close().expect("it can be closed");
        drop(fs);
        check(&image);
        let reader = ext4::open(&image);
        model.compare(&reader);
        if set.is_for_kernel && is_root() && batch % 2 == 1 {
            let mount = ext4::Mount::new(&image, "ro,noload");
            let options = compare::Options::default();
            compare::compare_with_folder(&reader, &mount.path, &options).expect_same();
        }
        drop(reader);
        fs = open(&image);
    }
    assert!(model.changed > operations * batches / 3, "{} of {} did anything", model.changed, model.done);
    fs.close().expect("it can be closed");
}

macro_rules! model_tests {
    ($($test:ident: $megabytes:literal, $args:expr, $choices:expr, $is_for_kernel:literal;)*) => {$(
        #[test]
        fn $test() {
            let set = Set {
                name: stringify!($test),
                megabytes: $megabytes,
                args: &$args,
                choices: $choices,
                is_for_kernel: $is_for_kernel,
            };
            run(&set, 7, 4, 700);
        }
    )*};
}

model_tests! {
    random_operations_on_ext4_leave_what_the_model_has: 64, ["-t", "ext4", "-b", "4096"], COMMON, true;
    random_operations_on_ext4_with_small_blocks_leave_what_the_model_has: 64, ["-t", "ext4", "-b", "1024"], COMMON, true;
    random_operations_on_ext3_leave_what_the_model_has: 64, ["-t", "ext3", "-b", "1024"], MAPPED, true;
    random_operations_on_ext2_leave_what_the_model_has: 64, ["-t", "ext2", "-b", "4096", "-I", "256"], MAPPED, true;
    random_operations_without_a_journal_leave_what_the_model_has: 64,
        ["-t", "ext4", "-O", "^has_journal"], COMMON, true;
    random_operations_without_checksums_leave_what_the_model_has: 64,
        ["-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"], COMMON, true;
    random_operations_with_meta_bg_leave_what_the_model_has: 64,
        ["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "1024"], COMMON, true;
    random_operations_with_inline_data_leave_what_the_model_has: 64,
        ["-t", "ext4", "-O", "inline_data", "-I", "512"], COMMON, true;
    random_operations_with_small_inodes_leave_what_the_model_has: 64,
        ["-t", "ext4", "-I", "128", "-b", "2048"], COMMON, true;
    random_operations_with_a_small_journal_leave_what_the_model_has: 64,
        ["-t", "ext4", "-b", "1024", "-J", "size=1"], COMMON, true;
    random_operations_with_an_orphan_file_leave_what_the_model_has: 64,
        ["-t", "ext4", "-O", "orphan_file"], COMMON, true;
    random_operations_on_a_full_disk_leave_what_the_model_has: 8,
        ["-t", "ext4", "-b", "1024", "-m", "0", "-N", "128"], Choices { may_fill: true, ..COMMON }, true;
    random_operations_on_a_full_disk_with_block_maps_leave_what_the_model_has: 8,
        ["-t", "ext2", "-b", "1024", "-m", "0", "-N", "128"], Choices { may_fill: true, ..MAPPED }, true;
}
