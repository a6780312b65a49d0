//! The ext4 writer against a model in memory, e2fsck and the kernel.

#[path = "common/compare.rs"]
mod compare;
#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "images are filled by the writer here")]
mod ext4;
#[path = "common/ext4_model.rs"]
mod model;
#[path = "common/recording.rs"]
#[allow(dead_code, reason = "only its numbers are needed here")]
mod recording;
#[path = "common/mod.rs"]
mod shared;

use ext4::{check_clean as check, open_for_writing as open};
use guestctl::fs::ext4::Ext4Writer;
use guestctl::fs::write::{Credentials, FallocateMode, RenameMode, SetAttr, XattrMode, inode_flags};
use guestctl::fs::{FileType, Filesystem, FilesystemWrite};
use model::{Choices, Model};
use shared::{has_tool, is_root, skip, tool};
use std::path::Path;
use tempfile::TempDir;

struct Set {
    name: &'static str,
    megabytes: u64,
    args: &'static [&'static str],
    choices: Choices,
    is_for_kernel: bool,
}

const COMMON: Choices = Choices { max_size: 2 << 20, has_extents: true, xattr_size: 900, may_fill: false };
const LARGE_VALUES: Choices = Choices { xattr_size: 20_000, ..COMMON };
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
        let kept = fs.statfs().expect("statfs");
        drop(fs);
        check(&image);
        let reader = ext4::open(&image);
        // What is free in memory is what is free on disk.
        assert_eq!(kept, reader.statfs().expect("statfs"));
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

/// Returns the seeds of this run: from `GUESTCTL_SEED` on, or always the same, as many as `GUESTCTL_SEEDS` says, or one.
fn seeds() -> std::ops::Range<u64> {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first = number("GUESTCTL_SEED", 7);
    first..first + number("GUESTCTL_SEEDS", 1)
}

const BATCHES: usize = 4;
const OPERATIONS: usize = 700;

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
            let seeds = seeds();
            // 1002 once left trees that were deeper than they need be; it takes as long as all others, so one set has it.
            let kept = (set.name == "random_operations_with_small_inodes_leave_what_the_model_has").then_some(1002);
            for seed in seeds.clone().chain(kept) {
                println!("{}: seed {seed}", set.name);
                run(&set, seed, BATCHES, OPERATIONS);
            }
            println!("{}: {} operations", set.name, (seeds.end - seeds.start) * (BATCHES * OPERATIONS) as u64);
        }
    )*};
}

model_tests! {
    random_operations_on_ext4_leave_what_the_model_has: 256, ["-t", "ext4", "-b", "4096"], COMMON, true;
    random_operations_on_ext4_with_small_blocks_leave_what_the_model_has: 256, ["-t", "ext4", "-b", "1024"], COMMON, true;
    random_operations_on_ext3_leave_what_the_model_has: 256, ["-t", "ext3", "-b", "1024"], MAPPED, true;
    random_operations_on_ext2_leave_what_the_model_has: 256, ["-t", "ext2", "-b", "4096", "-I", "256"], MAPPED, true;
    random_operations_without_a_journal_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "^has_journal"], COMMON, true;
    random_operations_without_checksums_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "^metadata_csum,uninit_bg,^64bit"], COMMON, true;
    random_operations_with_meta_bg_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "1024"], COMMON, true;
    random_operations_with_inline_data_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "inline_data", "-I", "512"], COMMON, true;
    random_operations_with_inline_data_and_large_values_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "inline_data,ea_inode,bigalloc", "-C", "16384"], LARGE_VALUES, true;
    random_operations_with_small_inodes_leave_what_the_model_has: 256,
        ["-t", "ext4", "-I", "128", "-b", "2048"], COMMON, true;
    random_operations_with_a_small_journal_leave_what_the_model_has: 256,
        ["-t", "ext4", "-b", "1024", "-J", "size=1"], COMMON, true;
    random_operations_with_an_orphan_file_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "orphan_file"], COMMON, true;
    random_operations_with_clusters_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "bigalloc", "-b", "4096", "-C", "16384"], COMMON, true;
    random_operations_with_large_clusters_leave_what_the_model_has: 512,
        ["-t", "ext4", "-O", "bigalloc,ea_inode", "-b", "1024", "-C", "65536"], LARGE_VALUES, true;
    random_operations_on_a_full_disk_with_clusters_leave_what_the_model_has: 24,
        ["-t", "ext4", "-O", "bigalloc", "-b", "1024", "-C", "8192", "-m", "0", "-N", "160", "-J", "size=1"],
        Choices { may_fill: true, ..COMMON }, true;
    random_operations_with_values_in_inodes_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "ea_inode", "-b", "1024"], LARGE_VALUES, true;
    random_operations_with_values_in_inodes_and_small_inodes_leave_what_the_model_has: 256,
        ["-t", "ext4", "-O", "ea_inode,^metadata_csum,^64bit", "-I", "128", "-b", "4096"], LARGE_VALUES, true;
    random_operations_on_a_full_disk_with_values_in_inodes_leave_what_the_model_has: 8,
        ["-t", "ext4", "-O", "ea_inode", "-b", "1024", "-m", "0", "-N", "160"],
        Choices { may_fill: true, ..LARGE_VALUES }, true;
    random_operations_on_a_full_disk_leave_what_the_model_has: 8,
        ["-t", "ext4", "-b", "1024", "-m", "0", "-N", "128"], Choices { may_fill: true, ..COMMON }, true;
    random_operations_on_a_full_disk_with_block_maps_leave_what_the_model_has: 8,
        ["-t", "ext2", "-b", "1024", "-m", "0", "-N", "128"], Choices { may_fill: true, ..MAPPED }, true;
}

/// Makes an ext4 image and opens it.
fn fresh(folder: &TempDir, megabytes: u64, args: &[&str]) -> Option<(std::path::PathBuf, Ext4Writer)> {
    if !ext4::has_tools() || !has_tool("e2fsck") {
        skip("e2fsprogs is missing");
        return None;
    }
    let image = folder.path().join("disk.img");
    ext4::make(&image, megabytes, args);
    let fs = open(&image);
    Some((image, fs))
}

const WHO: Credentials = Credentials { uid: 0, gid: 0, umask: 0o022 };

/// Closes the filesystem, and has e2fsck and the kernel look at it.
fn finish(image: &Path, fs: Ext4Writer) {
    fs.close().expect("it can be closed");
    drop(fs);
    check(image);
    if is_root() {
        let reader = ext4::open(image);
        let mount = ext4::Mount::new(image, "ro,noload");
        compare::compare_with_folder(&reader, &mount.path, &compare::Options::default()).expect_same();
    }
}

#[test]
fn extent_trees_grow_to_several_levels_and_shrink_again() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 64, &["-t", "ext4", "-b", "1024"]) else { return };
    let file = fs.create(fs.root(), b"file", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file").ino;
    // Every other block, so that each is an extent: over 84 leaves of 84 extents make three levels.
    for number in 0..9000_u64 {
        assert_eq!(fs.write(file, number * 2048, &number.to_le_bytes(), true).expect("a write"), 8);
    }
    for number in (0..9000_u64).step_by(7) {
        let mut found = [0; 8];
        fs.read(file, number * 2048, &mut found).expect("a read");
        assert_eq!(u64::from_le_bytes(found), number);
    }
    fs.sync().expect("sync");
    // Filling the holes backwards splits leaves in their middle.
    for number in (0..3000_u64).rev() {
        fs.write(file, number * 2048 + 1024, b"x", true).expect("a write");
    }
    fs.fallocate(file, 3 << 20, 5 << 20, FallocateMode::PunchHole).expect("a hole");
    fs.close().expect("it can be closed");
    drop(fs);
    check(&image);
    let fs = open(&image);
    let before = fs.statfs().expect("statfs").blocks_free;
    fs.set_attr(file, &SetAttr { size: Some(100), ..SetAttr::default() }).expect("a truncation");
    assert!(fs.attr(file).expect("it is there").blocks <= 4);
    fs.sync().expect("sync");
    assert!(fs.statfs().expect("statfs").blocks_free > before + 5000);
    finish(&image, fs);
}

#[test]
fn threads_that_write_side_by_side_leave_a_sound_filesystem_with_whole_files() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 128, &["-t", "ext4"]) else { return };
    let content = |thread: u64, number: u64| vec![(thread * 37 + number) as u8; 1000 + (number * 777 % 30000) as usize];
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let fs = &fs;
            scope.spawn(move || {
                let dir = fs.mkdir(fs.root(), format!("t{thread}").as_bytes(), 0o755, &WHO).expect("a folder").ino;
                for number in 0..300 {
                    let name = format!("file{number}");
                    let made = fs.create(dir, name.as_bytes(), FileType::Regular, 0o644, (0, 0), &WHO).expect("a file");
                    let data = content(thread, number);
                    for piece in data.chunks(8192).enumerate() {
                        fs.write(made.ino, piece.0 as u64 * 8192, piece.1, true).expect("a write");
                    }
                    if number % 3 == 0 {
                        fs.unlink(dir, name.as_bytes()).expect("an unlink");
                    } else if number % 3 == 1 {
                        let moved = format!("moved{thread}-{number}");
                        fs.rename(dir, name.as_bytes(), fs.root(), moved.as_bytes(), RenameMode::Replace)
                            .expect("moved");
                    }
                    if number % 50 == 0 {
                        fs.fsync(made.ino, false).expect("fsync");
                    }
                }
            });
        }
        for _ in 0..2 {
            let fs = &fs;
            scope.spawn(move || {
                for _ in 0..150 {
                    let mut names = Vec::new();
                    fs.read_dir(fs.root(), 0, &mut |entry| {
                        names.push(entry.name.to_vec());
                        std::ops::ControlFlow::Continue(())
                    })
                    .expect("the root can be listed");
                    for name in names.iter().filter(|name| name.starts_with(b"moved")) {
                        // What was moved here is whole.
                        let attr = fs.lookup(fs.root(), name).expect("nothing is taken away again");
                        let mut bytes = vec![0; attr.size as usize];
                        assert_eq!(fs.read(attr.ino, 0, &mut bytes).expect("a read"), bytes.len());
                        assert!(bytes.iter().all(|&byte| byte == bytes[0]));
                    }
                }
            });
        }
    });
    for thread in 0..4 {
        let dir = fs.lookup(fs.root(), format!("t{thread}").as_bytes()).expect("the folder").ino;
        for number in 0..300 {
            let (dir, name) = match number % 3 {
                0 => continue,
                1 => (fs.root(), format!("moved{thread}-{number}")),
                _ => (dir, format!("file{number}")),
            };
            let attr = fs.lookup(dir, name.as_bytes()).expect("the file");
            let mut bytes = vec![0; attr.size as usize];
            fs.read(attr.ino, 0, &mut bytes).expect("a read");
            assert!(bytes == content(thread, number), "{name} of thread {thread}");
        }
    }
    finish(&image, fs);
}

#[test]
fn files_that_are_written_side_by_side_lie_in_few_extents() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 256, &["-t", "ext4"]) else { return };
    let files: Vec<u64> = (0..3)
        .map(|number| {
            let name = format!("stream{number}");
            fs.create(fs.root(), name.as_bytes(), FileType::Regular, 0o644, (0, 0), &WHO).expect("a file").ino
        })
        .collect();
    let piece = vec![7; 128 << 10];
    for number in 0..200_u64 {
        for &file in &files {
            fs.write(file, number * piece.len() as u64, &piece, true).expect("a write");
        }
    }
    finish(&image, fs);
    for number in 0..3 {
        let request = format!("ex /stream{number}");
        let text = ext4::run("debugfs", &["-R", &request, image.to_str().expect("text")]);
        let extents = text.lines().filter(|line| line.trim_start().starts_with("0/") || line.contains("/ ")).count();
        assert!(extents <= 24, "{extents} extents for 25 MiB:\n{text}");
    }
}

#[test]
fn a_file_whose_pieces_come_out_of_order_lies_in_few_extents() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 256, &["-t", "ext4"]) else { return };
    let file = fs.create(fs.root(), b"stream", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file").ino;
    let piece = vec![7; 1 << 20];
    for number in 0..64_u64 {
        // 2, 1, 0, 5, 4, 3 and so on, as threads of a server might pass them on.
        let place = number / 3 * 3 + 2 - number % 3;
        fs.write(file, place * piece.len() as u64, &piece, true).expect("a write");
    }
    finish(&image, fs);
    let text = ext4::run("debugfs", &["-R", "ex /stream", image.to_str().expect("text")]);
    let extents = text.lines().filter(|line| line.contains("/ ")).count();
    assert!((1..=8).contains(&extents), "{extents} extents for 66 MiB:\n{text}");
}

#[test]
fn a_large_folder_gets_a_third_level_that_e2fsck_and_the_kernel_read() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 128, &["-t", "ext4", "-b", "1024", "-O", "large_dir"]) else { return };
    let file = fs.create(fs.root(), b"file", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file").ino;
    let dir = fs.mkdir(fs.root(), b"dir", 0o755, &WHO).expect("a folder").ino;
    // Three names of this length fill a block, so that few names need many blocks.
    let name = |number: u32| format!("{number:0>250}").into_bytes();
    // A root of 123 nodes with 126 leaves each.
    let mut names = 0;
    while fs.attr(dir).expect("it is there").size < (123 * 126 + 300) << 10 {
        for number in names..names + 100 {
            fs.link(file, dir, &name(number)).expect("a name");
        }
        names += 100;
    }
    for number in (0..names).step_by(9) {
        fs.unlink(dir, &name(number)).expect("it is there");
    }
    assert!(fs.lookup(dir, &name(9)).is_err());
    assert_eq!(fs.lookup(dir, &name(4)).expect("a name").ino, file);
    finish(&image, fs);
    let dumped = ext4::run("debugfs", &["-R", "htree_dump /dir", image.to_str().expect("text")]);
    assert!(dumped.contains("Indirect levels: 2"), "{:?}", dumped.lines().take(12).collect::<Vec<_>>());
}

#[test]
fn names_in_a_casefolded_folder_are_found_in_any_case_and_hashed_as_e2fsck_does() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 64, &["-t", "ext4", "-b", "1024", "-O", "casefold"]) else { return };
    let errno = |result: guestctl::Result<()>| result.map_err(|error| error.errno());
    let dir = fs.mkdir(fs.root(), b"dir", 0o755, &WHO).expect("a folder");
    let plain = fs.create(fs.root(), b"plain", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file");
    assert_eq!(errno(fs.set_flags(plain.ino, plain.flags | inode_flags::CASEFOLD)), Err(libc::ENOTDIR));
    assert_eq!(errno(fs.set_flags(fs.root(), inode_flags::CASEFOLD)), Err(libc::ENOTEMPTY));
    fs.set_flags(dir.ino, dir.flags | inode_flags::CASEFOLD).expect("chattr +F");
    // So many that the folder gets a hash tree of two levels.
    let upper = |number: u32| format!("Some Name ÄÖÜ Straße {number}").into_bytes();
    let lower = |number: u32| format!("some name äöü strasse {number}").into_bytes();
    for number in 0..1500 {
        fs.link(plain.ino, dir.ino, &upper(number)).expect("a name");
    }
    assert_eq!(errno(fs.link(plain.ino, dir.ino, &lower(7)).map(|_| ())), Err(libc::EEXIST));
    assert_eq!(fs.lookup(dir.ino, &lower(8)).expect("it is the same").ino, plain.ino);
    for number in (0..1500).step_by(2) {
        fs.unlink(dir.ino, &lower(number)).expect("it is the same");
    }
    fs.rename(dir.ino, &lower(1), dir.ino, b"moved", RenameMode::Replace).expect("a rename");
    assert_eq!(fs.lookup(dir.ino, b"MOVED").expect("it is there").ino, plain.ino);
    let below = fs.mkdir(dir.ino, b"Below", 0o755, &WHO).expect("a folder");
    assert_ne!(below.flags & inode_flags::CASEFOLD, 0);
    let file = fs.create(below.ino, b"File", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file");
    assert_eq!(file.flags & inode_flags::CASEFOLD, 0);
    fs.close().expect("it can be closed");
    drop(fs);
    // The kernel may have no casefolding; e2fsck checks the hashes.
    check(&image);
    assert_eq!(ext4::open(&image).lookup(dir.ino, b"below").expect("it is there").ino, below.ino);
}

#[test]
fn lists_of_access_follow_the_default_list_and_chmod() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 32, &["-t", "ext4"]) else { return };
    let list = |entries: &[(u16, u16, u32)]| {
        let mut value = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend(tag.to_le_bytes());
            value.extend(permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    };
    const NONE: u32 = u32::MAX;
    let default = list(&[(1, 7, NONE), (2, 6, 1000), (4, 5, NONE), (16, 7, NONE), (32, 0, NONE)]);
    let dir = fs.mkdir(fs.root(), b"dir", 0o755, &WHO).expect("a folder").ino;
    fs.set_xattr(dir, b"system.posix_acl_default", &default, XattrMode::Set).expect("a default list");
    let made = fs.create(dir, b"file", FileType::Regular, 0o664, (0, 0), &WHO).expect("a file");
    // The umask does not count where there is a default list.
    assert_eq!(made.permissions, 0o660);
    let access = fs.xattr(made.ino, b"system.posix_acl_access").expect("an access list");
    assert_eq!(access, list(&[(1, 6, NONE), (2, 6, 1000), (4, 5, NONE), (16, 6, NONE), (32, 0, NONE)]));
    let set = SetAttr { permissions: Some(0o640), ..SetAttr::default() };
    assert_eq!(fs.set_attr(made.ino, &set).expect("chmod").permissions, 0o640);
    let access = fs.xattr(made.ino, b"system.posix_acl_access").expect("an access list");
    assert_eq!(access, list(&[(1, 6, NONE), (2, 6, 1000), (4, 5, NONE), (16, 4, NONE), (32, 0, NONE)]));
    let below = fs.mkdir(dir, b"below", 0o755, &WHO).expect("a folder");
    assert_eq!(fs.xattr(below.ino, b"system.posix_acl_default").expect("inherited"), default);
    finish(&image, fs);
}

#[test]
fn what_chattr_made_immutable_or_append_only_is_refused() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 32, &["-t", "ext4"]) else { return };
    let errno = |result: guestctl::Result<()>| result.map_err(|error| error.errno());
    let file = fs.create(fs.root(), b"file", FileType::Regular, 0o644, (0, 0), &WHO).expect("a file");
    fs.write(file.ino, 0, b"text", true).expect("a write");
    fs.set_flags(file.ino, file.flags | inode_flags::IMMUTABLE).expect("chattr");
    assert_eq!(errno(fs.write(file.ino, 0, b"x", true).map(|_| ())), Err(libc::EPERM));
    assert_eq!(errno(fs.unlink(fs.root(), b"file")), Err(libc::EPERM));
    assert_eq!(
        errno(fs.set_attr(file.ino, &SetAttr { size: Some(0), ..SetAttr::default() }).map(|_| ())),
        Err(libc::EPERM)
    );
    fs.set_flags(file.ino, file.flags | inode_flags::APPEND).expect("chattr");
    assert_eq!(errno(fs.write(file.ino, 0, b"x", true).map(|_| ())), Err(libc::EPERM));
    assert_eq!(fs.write(file.ino, 4, b" more", true).expect("an append"), 5);
    assert_eq!(errno(fs.rename(fs.root(), b"file", fs.root(), b"other", RenameMode::Replace)), Err(libc::EPERM));
    fs.set_flags(file.ino, file.flags).expect("chattr");
    fs.set_attr(file.ino, &SetAttr { permissions: Some(0o6755), ..SetAttr::default() }).expect("chmod");
    fs.write(file.ino, 0, b"x", false).expect("a write");
    assert_eq!(fs.attr(file.ino).expect("it is there").permissions, 0o755);
    finish(&image, fs);
}

#[test]
fn a_folder_of_thousands_of_names_is_filled_and_emptied() {
    let folder = TempDir::new().expect("a temporary folder");
    let Some((image, fs)) = fresh(&folder, 64, &["-t", "ext4", "-b", "1024", "-N", "8000"]) else { return };
    let dir = fs.mkdir(fs.root(), b"many", 0o755, &WHO).expect("a folder").ino;
    for number in 0..6000 {
        let name = format!("a name of some length {number}");
        fs.create(dir, name.as_bytes(), FileType::Regular, 0o644, (0, 0), &WHO).expect("a file");
    }
    fs.sync().expect("sync");
    for number in (0..6000).step_by(2) {
        fs.unlink(dir, format!("a name of some length {number}").as_bytes()).expect("an unlink");
    }
    for number in 0..6000 {
        let found = fs.lookup(dir, format!("a name of some length {number}").as_bytes());
        assert_eq!(found.is_ok(), number % 2 == 1);
    }
    fs.close().expect("it can be closed");
    drop(fs);
    check(&image);
    let fs = open(&image);
    for number in (1..6000).step_by(2) {
        fs.unlink(dir, format!("a name of some length {number}").as_bytes()).expect("an unlink");
    }
    fs.rmdir(fs.root(), b"many").expect("it is empty");
    assert!(fs.trim().expect("trim") > 10 << 20);
    finish(&image, fs);
}
