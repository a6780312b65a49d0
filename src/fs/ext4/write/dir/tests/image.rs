//! Directories and attributes made in memory, laid into images that mke2fs made, and shown to e2fsck.

use super::Blocks;
use crate::block::RawDevice;
use crate::bytes::{le16, le32, set_le16, set_le32};
use crate::cache::CachePool;
use crate::fs::ext4::Ext4;
use crate::fs::ext4::dir_htree::LEVELS;
use crate::fs::ext4::inode::{Inode, field, flag, set_checksum};
use crate::fs::ext4::mapping::Place;
use crate::fs::ext4::write::dir::{DirBlocks, DirFormat, insert, remove, replace};
use crate::fs::ext4::write::xattr_edit::{BlockEdit, Edit, XattrAreas, apply, seal_block};
use crate::fs::ext4::xattr::index;
use crate::fs::write::XattrMode;
use crate::fs::{FileType, Filesystem, FsOptions};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;

const HASH_SEED: &str = "0a1b2c3d-1111-2222-3333-444455556666";

fn run(program: &str, args: &[&str]) -> (i32, String) {
    let output = Command::new("timeout").arg("60").arg(program).args(args).output().expect("timeout runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code().unwrap_or(-1), text)
}

fn has_tools() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/sbin", "/usr/sbin"].map(PathBuf::from));
    let missing = ["mke2fs", "e2fsck", "debugfs"]
        .into_iter()
        .find(|tool| !folders.iter().any(|folder| folder.join(tool).exists()));
    if let Some(tool) = missing {
        println!("SKIPPED: {tool} is missing");
        assert!(std::env::var_os("CI").is_none(), "{tool} is missing");
    }
    missing.is_none()
}

/// An image with a file `blob` of some blocks, a file `target` and a directory `lost+found`.
struct Image {
    _folder: TempDir,
    path: PathBuf,
    block_size: usize,
}

impl Image {
    fn new(block_size: usize, features: &str, blocks: usize) -> Self {
        let folder = TempDir::new().expect("a folder");
        let files = folder.path().join("files");
        std::fs::create_dir(&files).expect("made");
        std::fs::write(files.join("blob"), vec![0xff; blocks * block_size]).expect("written");
        std::fs::write(files.join("target"), b"text").expect("written");
        let path = folder.path().join("image");
        let size = blocks * block_size + 4000 * block_size.max(4096);
        File::create(&path).expect("made").set_len(size as u64).expect("grown");
        let (code, text) = run(
            "mke2fs",
            &[
                "-q",
                "-F",
                "-b",
                &block_size.to_string(),
                "-I",
                "256",
                "-O",
                &format!("^has_journal,^resize_inode,{features}"),
                "-E",
                &format!("hash_seed={HASH_SEED}"),
                "-d",
                files.to_str().expect("text"),
                path.to_str().expect("text"),
            ],
        );
        assert_eq!(code, 0, "{text}");
        Self { _folder: folder, path, block_size }
    }

    fn open(&self) -> Ext4 {
        let device = Arc::new(RawDevice::open(Path::new(&self.path), false).expect("opened"));
        Ext4::open(device, &FsOptions { cache: CachePool::new(8 << 20) }).expect("a filesystem")
    }

    fn write(&self, bytes: &[u8], block: u64, at: usize) {
        let file = File::options().write(true).open(&self.path).expect("opened");
        file.write_all_at(bytes, block * self.block_size as u64 + at as u64).expect("written");
    }

    fn change_inode(&self, fs: &Ext4, ino: u32, change: impl FnOnce(&mut [u8])) {
        let (block, range) = fs.volume.raw_inode(ino).expect("there");
        let mut raw = block[range].to_vec();
        change(&mut raw);
        set_checksum(&fs.volume.superblock, ino, &mut raw);
        let (block, at) = fs.volume.inode_place(ino).expect("there");
        self.write(&raw, block, at);
    }

    fn check(&self, what: &str) {
        let (code, text) = run("e2fsck", &["-fn", self.path.to_str().expect("text")]);
        assert_eq!(code, 0, "{what}: {text}");
        for complaint in ["HTREE", "htree", "optimi", "Fix?", "corrupt"] {
            assert!(!text.contains(complaint), "{what}: {text}");
        }
    }
}

fn blocks_of(fs: &Ext4, inode: &Inode) -> Vec<u64> {
    let bits = fs.volume.superblock.block_bits();
    (0..inode.size.div_ceil(1 << bits))
        .map(|number| match fs.volume.stretch(inode, number).expect("sound").place {
            Place::Block(block) => block,
            _ => panic!("the file has no holes"),
        })
        .collect()
}

/// Fills a directory with names of an inode, takes some away, and returns it with how many are left.
fn fill(format: &mut DirFormat, target: u32, names: u32, name_len: usize) -> (Blocks, u16) {
    let mut blocks = Blocks::new(format, 2);
    let mut left = 0;
    for number in 0..names {
        let name = format!("n\u{e4}me {number:0>name_len$}");
        insert(&mut blocks, format, name.as_bytes(), target, FileType::Regular).expect("inserted");
        left += 1;
        if number % 3 == 2 {
            let name = format!("n\u{e4}me {:0>name_len$}", number - number % 7);
            match remove(&mut blocks, format, name.as_bytes()) {
                Ok(_) => left -= 1,
                Err(error) => assert!(error.is_errno(libc::ENOENT)),
            }
        }
    }
    (blocks, left)
}

fn check_directory(block_size: usize, features: &str, names: u32, name_len: usize, levels: Option<u8>) {
    let what = format!("{block_size} {features}");
    // How many blocks it takes depends on nothing that a new image changes.
    let small = Image::new(block_size, features, 1);
    let fs = small.open();
    let blob = fs.volume.inode(fs.lookup(2, b"blob").expect("there").ino as u32).expect("there");
    let target = fs.lookup(2, b"target").expect("there").ino as u32;
    let mut format = DirFormat::new(&fs.volume, &blob).expect("plain");
    let (planned, _) = fill(&mut format, target, names, name_len);

    let image = Image::new(block_size, features, planned.count() as usize);
    let fs = image.open();
    let blob = fs.volume.inode(fs.lookup(2, b"blob").expect("there").ino as u32).expect("there");
    let target = fs.lookup(2, b"target").expect("there").ino as u32;
    let mut format = DirFormat::new(&fs.volume, &blob).expect("plain");
    let (blocks, links) = fill(&mut format, target, names, name_len);
    assert_eq!(blocks.count(), planned.count());
    assert_eq!(levels, format.indexed.then(|| blocks.blocks[0][LEVELS]), "{what}");
    for (block, bytes) in blocks_of(&fs, &blob).into_iter().zip(&blocks.blocks) {
        image.write(bytes, block, 0);
    }
    image.change_inode(&fs, blob.ino, |raw| {
        set_le16(raw, field::MODE, 0o40_755);
        set_le16(raw, field::LINKS, 2);
        let index = if format.indexed { flag::INDEX } else { 0 };
        let flags = le32(raw, field::FLAGS) | index;
        set_le32(raw, field::FLAGS, flags);
    });
    image.change_inode(&fs, target, |raw| set_le16(raw, field::LINKS, links + 1));
    image.change_inode(&fs, 2, |raw| {
        let count = le16(raw, field::LINKS) + 1;
        set_le16(raw, field::LINKS, count);
    });
    // The root's entry becomes one of a directory.
    let root = fs.volume.inode(2).expect("there");
    let root_block = blocks_of(&fs, &root)[0];
    let root_format = DirFormat::new(&fs.volume, &root).expect("plain");
    let bytes: Arc<[u8]> = fs.volume.meta.block(root_block).expect("read").to_vec().into();
    let mut root_blocks = Blocks { blocks: vec![bytes], block_size, limit: 1 };
    replace(&mut root_blocks, &root_format, b"blob", blob.ino, FileType::Directory).expect("there");
    image.write(&root_blocks.blocks[0], root_block, 0);
    for script in ["set_bg 0 used_dirs_count 3", "set_bg 0 checksum calc"] {
        let (code, text) = run("debugfs", &["-w", "-R", script, image.path.to_str().expect("text")]);
        assert_eq!(code, 0, "{text}");
    }
    image.check(&what);
    // And the reader finds the names.
    let fs = image.open();
    let mut seen = BTreeMap::new();
    fs.read_dir(u64::from(blob.ino), 0, &mut |entry| {
        assert_eq!(seen.insert(entry.name.to_vec(), entry.ino), None);
        std::ops::ControlFlow::Continue(())
    })
    .expect("sound");
    assert_eq!(seen.len(), usize::from(links));
    for (name, ino) in seen.iter().step_by(17) {
        assert_eq!(fs.lookup(u64::from(blob.ino), name).expect("there").ino, *ino);
    }
}

#[test]
fn e2fsck_agrees_with_small_directories() {
    if has_tools() {
        check_directory(1024, "metadata_csum", 5, 3, None);
        check_directory(4096, "^metadata_csum,^dir_index", 700, 10, None);
        check_directory(1024, "^filetype,^metadata_csum", 60, 10, Some(0));
        check_directory(4096, "metadata_csum", 300, 10, Some(0));
    }
}

#[test]
fn e2fsck_agrees_with_large_directories() {
    if has_tools() {
        check_directory(4096, "metadata_csum", 60_000, 7, Some(0));
        check_directory(4096, "metadata_csum", 60_000, 60, Some(1));
        check_directory(1024, "^metadata_csum", 20_000, 20, Some(1));
        check_directory(65536, "metadata_csum", 20_000, 20, Some(0));
    }
}

#[test]
fn e2fsck_agrees_with_a_third_level() {
    if has_tools() {
        check_directory(1024, "metadata_csum,large_dir", 60_000, 200, Some(2));
    }
}

#[test]
fn e2fsck_agrees_with_changed_attributes() {
    if !has_tools() {
        return;
    }
    for features in ["metadata_csum", "^metadata_csum"] {
        let image = Image::new(1024, features, 1);
        let big = format!("ea_set target user.big {}", "x".repeat(700));
        let (code, text) = run("debugfs", &["-w", "-R", &big, image.path.to_str().expect("text")]);
        assert_eq!(code, 0, "{text}");
        let ino = image.open().lookup(2, b"target").expect("there").ino;
        let mut expected = BTreeMap::from([(b"user.big".to_vec(), vec![b'x'; 700])]);
        for step in 0..30_u8 {
            let fs = image.open();
            let inode = fs.volume.inode(ino as u32).expect("there");
            assert_ne!(inode.xattr_block, 0);
            let block = fs.volume.meta.block(inode.xattr_block).expect("read");
            let (name, value) = (vec![b'a' + step % 11; 1 + usize::from(step % 4)], vec![step; usize::from(step) * 3]);
            let name = [&b"name"[..], &name].concat();
            let full = [&b"user."[..], &name].concat();
            let is_there = expected.contains_key(&full);
            let areas = XattrAreas {
                ino: inode.ino,
                in_inode: &inode.tail,
                block: Some((inode.xattr_block, &block)),
                block_size: 1024,
            };
            let edit = if is_there && step % 2 == 0 {
                expected.remove(&full);
                Edit::Remove { index: index::USER, name: &name }
            } else {
                Edit::Set { index: index::USER, name: &name, value: &value, mode: XattrMode::Set }
            };
            match apply(&areas, &edit, None) {
                Ok(edited) => {
                    if let Edit::Set { .. } = edit {
                        expected.insert(full, value.clone());
                    }
                    if let Some(tail) = edited.in_inode {
                        image.change_inode(&fs, inode.ino, |raw| {
                            let at = raw.len() - tail.len();
                            raw[at..].copy_from_slice(&tail);
                        });
                    }
                    if let BlockEdit::Write(mut block) = edited.block {
                        let superblock = &fs.volume.superblock;
                        let seed = superblock.has_metadata_csum().then_some(superblock.checksum_seed);
                        seal_block(seed, inode.xattr_block, &mut block);
                        image.write(&block, inode.xattr_block, 0);
                    }
                }
                Err(error) => assert!(error.is_errno(libc::ENOSPC), "{error}"),
            }
            image.check("attributes");
            let fs = image.open();
            let names = fs.xattrs(ino).expect("sound");
            let found: BTreeMap<_, _> =
                names.into_iter().map(|name| (name.clone(), fs.xattr(ino, &name).expect("sound"))).collect();
            assert_eq!(found, expected);
        }
        assert!(expected.len() > 5);
    }
}
