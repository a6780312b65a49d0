//! Damaged and hostile images: the ext4 driver answers with errors, never with a panic or a hang.

mod common;
#[path = "common/ext4.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod images;

use guestctl::Error;
use guestctl::block::MemoryDevice;
use guestctl::cache::CachePool;
use guestctl::fs::ext4::{Ext4, probe};
use guestctl::fs::write::{Credentials, FallocateMode, RenameMode, SetAttr, XattrMode};
use guestctl::fs::{FileType, Filesystem, FilesystemWrite, FsOptions, Ino};
use images::{has_tools, make, noise, open_device, run};
use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub use common::{has_tool, is_root, skip, tool};

/// Makes a small image with something of everything, and returns its bytes.
fn small_image(args: &[&str]) -> Vec<u8> {
    let folder = TempDir::new().expect("a folder");
    let (image, source) = (folder.path().join("image"), folder.path().join("source"));
    fs::create_dir_all(source.join("sub/deeper")).expect("makes");
    fs::create_dir_all(source.join("many")).expect("makes");
    for number in 0..120 {
        fs::write(source.join("many").join(format!("a file with a name of some length {number}")), b"x")
            .expect("writes");
    }
    fs::write(source.join("file"), noise(30_000, 1)).expect("writes");
    fs::write(source.join("small"), noise(100, 2)).expect("writes");
    let scattered = fs::File::create(source.join("scattered")).expect("makes");
    for piece in 0..200 {
        std::os::unix::fs::FileExt::write_all_at(&scattered, &noise(900, piece), u64::from(piece) * 8192)
            .expect("writes");
    }
    std::os::unix::fs::symlink("x".repeat(100), source.join("link")).expect("links");
    std::os::unix::fs::symlink("file", source.join("sub/short")).expect("links");
    for (file, name, len) in [("file", "user.large", 500), ("small", "user.a", 10), ("sub", "user.dir", 40)] {
        // Not every place for temporary files has attributes.
        let _ = xattr::set(source.join(file), name, &noise(len, 3));
    }
    let mut all = args.to_vec();
    all.extend(["-b", "1024", "-N", "256", "-d", source.to_str().expect("text")]);
    make(&image, 4, &all);
    images::reindex(&image);
    fs::read(&image).expect("reads")
}

/// Visits everything of an open filesystem that a user could reach; errors are as good as answers.
fn walk_all(fs: &Ext4) {
    let mut open = vec![fs.root()];
    let mut seen: HashSet<Ino> = HashSet::new();
    let mut buf = vec![0; 1 << 16];
    let mut entries_left = 5000;
    let _ = fs.statfs();
    while let Some(ino) = open.pop() {
        if !seen.insert(ino) || seen.len() > 1000 {
            continue;
        }
        let Ok(attr) = fs.attr(ino) else { continue };
        for name in fs.xattrs(ino).unwrap_or_default() {
            let _ = fs.xattr(ino, &name);
        }
        match attr.file_type {
            FileType::Directory => {
                let mut names = Vec::new();
                let _ = fs.read_dir(ino, 0, &mut |entry| {
                    names.push((entry.name.to_vec(), entry.ino));
                    entries_left -= 1;
                    if entries_left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                let _ = fs.parent(ino);
                for (name, ino) in names.iter().take(300) {
                    let _ = fs.lookup(attr.ino, name);
                    open.push(*ino);
                }
                let _ = fs.lookup(ino, b"no such name");
            }
            FileType::Symlink => {
                let _ = fs.read_link(ino);
            }
            FileType::Regular => {
                for offset in [0, 1000, 12 << 10, 300 << 10, attr.size / 2, attr.size.saturating_sub(9000)] {
                    let _ = fs.read(ino, offset, &mut buf);
                }
                let mut at = 0;
                for _ in 0..50 {
                    let Ok(data) = fs.next_data(ino, at) else { break };
                    let Ok(hole) = fs.next_hole(ino, data) else { break };
                    at = hole;
                }
                let _ = fs.disk_order(ino);
                fs.prefetch(ino, 0, attr.size);
            }
            _ => {}
        }
    }
}

/// Flips bits of the metadata of an image, a few at a time, and has `work` do something with it each time.
fn survive_flips(bytes: &[u8], rounds: u32, seed: u32, work: impl Fn(Arc<MemoryDevice>, u32)) {
    let mut state = seed;
    let mut next = |limit: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((u64::from(state >> 4) * limit as u64) >> 28) as usize
    };
    // Blocks that hold nothing are not worth changing.
    let used: Vec<usize> = (1..bytes.len() / 1024)
        .filter(|block| bytes[block * 1024..(block + 1) * 1024].iter().any(|&byte| byte != 0))
        .collect();
    let start = Instant::now();
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let mut changed = bytes.to_vec();
        for _ in 0..1 + next(8) {
            // The first blocks, where everything begins, are hit more often.
            let block = if next(3) == 0 { used[next(20.min(used.len()))] } else { used[next(used.len())] };
            let at = block * 1024 + next(1024);
            match next(3) {
                0 => changed[at] ^= 1 << next(8),
                1 => changed[at] = next(256) as u8,
                _ => {
                    let value = [0, u32::MAX, 0x8000_0000, 1, 0xf30a][next(5)];
                    let at = at & !3;
                    changed[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
                }
            }
        }
        let began = Instant::now();
        work(Arc::new(MemoryDevice::new(changed)), round);
        longest = longest.max(began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(10), "round {round} took {:?}", began.elapsed());
    }
    println!("{rounds} rounds in {:?}, the longest took {longest:?}", start.elapsed());
}

/// Visits everything of a filesystem, if it opens.
fn visit(device: Arc<MemoryDevice>, _round: u32) {
    let _ = probe(&(device.clone() as _));
    if let Ok(fs) = open_device(device) {
        walk_all(&fs);
    }
}

/// Changes some of everything in a filesystem, if it opens for writing.
fn change(device: Arc<MemoryDevice>, round: u32) {
    let options = FsOptions { cache: CachePool::new(4 << 20) };
    let Ok(fs) = Ext4::open_for_writing(device, &options) else { return };
    let who = Credentials { uid: 0, gid: 0, umask: 0 };
    let mut found = Vec::new();
    let mut folders = vec![fs.root()];
    while let Some(folder) = folders.pop().filter(|_| found.len() < 60) {
        let _ = fs.read_dir(folder, 0, &mut |entry| {
            found.push((folder, entry.name.to_vec(), entry.ino));
            if entry.file_type == Some(FileType::Directory) {
                folders.push(entry.ino);
            }
            if found.len() < 60 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    }
    for (number, (dir, name, ino)) in found.into_iter().enumerate() {
        let at = number as u64 * 1700;
        let fresh = format!("fresh {number}").into_bytes();
        let value = noise(if number % 2 == 0 { 30 } else { 3000 }, number as u32 % 3);
        let _ = match (number as u32 + round) % 12 {
            0 => fs.unlink(dir, &name),
            1 => fs.rmdir(dir, &name),
            2 => fs.write(ino, at, &noise(2500, 1), false).map(|_| ()),
            3 => fs.set_attr(ino, &SetAttr { size: Some(at / 2), ..SetAttr::default() }).map(|_| ()),
            4 => fs.fallocate(ino, at, 9000, FallocateMode::PunchHole),
            5 => fs.fallocate(ino, at, 9000, FallocateMode::ZeroRange),
            6 | 7 => fs.set_xattr(ino, b"user.large", &value, XattrMode::Set),
            8 => fs.remove_xattr(ino, b"user.large"),
            9 => fs.rename(dir, &name, fs.root(), &fresh, RenameMode::Replace),
            10 => fs.create(dir, &fresh, FileType::Regular, 0o644, (0, 0), &who).map(|_| ()),
            _ => fs.mkdir(dir, &fresh, 0o755, &who).map(|_| ()),
        };
    }
    let _ = fs.close();
}

#[test]
fn changes_of_damaged_filesystems_give_errors_at_worst() {
    if !has_tools() {
        return;
    }
    for (number, features) in ["ea_inode", "bigalloc,ea_inode", "inline_data", "^extent,^64bit"].into_iter().enumerate()
    {
        let features = format!("^metadata_csum,{features}");
        let mut args = vec!["-t", "ext4", "-O", &features, "-J", "size=1"];
        if features.contains("bigalloc") {
            args.extend(["-C", "4096"]);
        }
        let device = Arc::new(MemoryDevice::new(small_image(&args)));
        let options = FsOptions { cache: CachePool::new(4 << 20) };
        let fs = Ext4::open_for_writing(device.clone(), &options).expect("it can be written");
        for (name, seed) in [(&b"file"[..], 1), (b"small", 1), (b"scattered", 2)] {
            let ino = fs.lookup(fs.root(), name).expect("it is there").ino;
            let size = if features.contains("ea_inode") { 3000 } else { 700 };
            fs.set_xattr(ino, b"user.large", &noise(size, seed), XattrMode::Set).expect("a value");
        }
        fs.close().expect("it can be closed");
        drop(fs);
        survive_flips(&device.to_vec(), 250, number as u32 + 10, change);
    }
}

#[test]
fn flipped_bits_give_errors_at_worst() {
    if !has_tools() {
        return;
    }
    // Without checksums, so that the damage is seen by more than the checks of those.
    survive_flips(&small_image(&["-t", "ext4", "-O", "^metadata_csum,^64bit", "-J", "size=1"]), 1500, 1, visit);
    survive_flips(
        &small_image(&["-t", "ext4", "-O", "^metadata_csum,inline_data,ea_inode", "-I", "256"]),
        1000,
        2,
        visit,
    );
    survive_flips(&small_image(&["-t", "ext2", "-I", "128"]), 1000, 3, visit);
    survive_flips(&small_image(&["-t", "ext4"]), 500, 4, visit);
}

/// An image with checksums, and what of it is to be damaged.
struct Patient {
    bytes: Vec<u8>,
}

impl Patient {
    fn new(args: &[&str]) -> Self {
        Self { bytes: small_image(args) }
    }

    fn open(&self) -> guestctl::Result<Ext4> {
        open_device(Arc::new(MemoryDevice::new(self.bytes.clone())))
    }

    /// Asks debugfs; returns what it says.
    fn debugfs(&self, request: &str) -> String {
        let folder = TempDir::new().expect("a folder");
        let image = folder.path().join("image");
        fs::write(&image, &self.bytes).expect("writes");
        run("debugfs", &["-R", request, image.to_str().expect("text")])
    }

    /// Lets debugfs change the image.
    fn change(&mut self, request: &str) {
        let folder = TempDir::new().expect("a folder");
        let image = folder.path().join("image");
        fs::write(&image, &self.bytes).expect("writes");
        run("debugfs", &["-w", "-R", request, image.to_str().expect("text")]);
        self.bytes = fs::read(&image).expect("reads");
    }

    /// Returns the first number after a word in what debugfs says.
    fn number(&self, request: &str, word: &str) -> usize {
        let text = self.debugfs(request);
        let rest = &text[text.find(word).unwrap_or_else(|| panic!("no {word} in {text}")) + word.len()..];
        let digits: String =
            rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }

    fn block(&mut self, number: usize) -> &mut [u8] {
        &mut self.bytes[number * 1024..(number + 1) * 1024]
    }

    /// Returns where an inode lies in the image.
    fn inode(&self, path: &str) -> usize {
        let text = self.debugfs(&format!("imap {path}"));
        let after = |word: &str| {
            let rest = text.rsplit(word).next().expect("at least one part").trim_start();
            rest.trim_start_matches("0x").to_owned()
        };
        let block: String = after("at block").chars().take_while(char::is_ascii_digit).collect();
        let offset: String = after("offset").chars().take_while(char::is_ascii_hexdigit).collect();
        block.parse::<usize>().expect("a block") * 1024 + usize::from_str_radix(&offset, 16).expect("an offset")
    }
}

fn expect_corrupt<T>(result: guestctl::Result<T>, structure: &str) {
    match result {
        Err(error) => {
            assert!(matches!(error.root(), Error::Corrupt { .. }), "{error}");
            assert!(error.to_string().contains(structure), "{error} does not name {structure}");
        }
        Ok(_) => panic!("damage to {structure} was not noticed"),
    }
}

fn child(fs: &Ext4, path: &str) -> Ino {
    Path::new(path).iter().fold(fs.root(), |dir, name| {
        fs.lookup(dir, name.as_encoded_bytes()).unwrap_or_else(|error| panic!("{path}: {error}")).ino
    })
}

#[test]
fn a_damaged_superblock_is_replaced_by_its_copy_with_a_warning() {
    if !has_tools() {
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 40, &["-t", "ext4", "-b", "1024"]);
    let sound = fs::read(&image).expect("reads");
    for at in [1024 + 0x38, 1024 + 0x70, 1024 + 0x18] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x55;
        let fs = open_device(Arc::new(MemoryDevice::new(bytes))).expect("the copy is sound");
        assert!(fs.info().warnings[0].contains("copy in block 8193"), "{:?}", fs.info().warnings);
        assert_eq!(fs.lookup(fs.root(), b"lost+found").expect("it is there").ino, 11);
    }
    let mut bytes = sound;
    bytes[1024 + 0x70] ^= 0x55;
    for block in [8193, 24577] {
        bytes[block * 1024 + 0x70] ^= 0x55;
    }
    expect_corrupt(open_device(Arc::new(MemoryDevice::new(bytes))), "ext4 superblock");
}

#[test]
fn a_damaged_group_descriptor_is_named_where_it_is_needed() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4"]);
    patient.block(2)[8] ^= 1;
    let fs = patient.open().expect("opens all the same");
    expect_corrupt(fs.attr(fs.root()), "group descriptor 0");
    expect_corrupt(fs.statfs(), "group descriptor 0");
}

#[test]
fn a_damaged_inode_is_named_and_its_neighbours_still_read() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4"]);
    let at = patient.inode("/file");
    patient.bytes[at + 4] ^= 1;
    let fs = patient.open().expect("opens");
    expect_corrupt(fs.lookup(fs.root(), b"file"), "inode ");
    fs.lookup(fs.root(), b"small").expect("a neighbour is sound");
}

#[test]
fn an_extent_tree_that_leads_to_itself_is_damage() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4", "-O", "^metadata_csum"]);
    let at = patient.inode("/scattered") + 0x28;
    assert_eq!(patient.bytes[at + 6], 1, "the tree has a level below its root");
    let leaf = u32::from_le_bytes(patient.bytes[at + 16..at + 20].try_into().expect("four bytes"));
    // The leaf becomes an inner node that leads to itself; the root says that it has three levels.
    patient.bytes[at + 6] = 3;
    let block = patient.block(leaf as usize);
    block[2..4].copy_from_slice(&[1, 0]);
    block[6] = 2;
    block[12..24].fill(0);
    block[16..20].copy_from_slice(&leaf.to_le_bytes());
    let fs = patient.open().expect("opens");
    let ino = child(&fs, "scattered");
    expect_corrupt(fs.read(ino, 0, &mut [0; 100]), "extent tree of inode");
    expect_corrupt(fs.next_data(ino, 0), "extent tree of inode");
}

#[test]
fn damaged_blocks_of_extents_directories_and_attributes_are_named() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4"]);
    let at = patient.inode("/scattered") + 0x28;
    let leaf = u32::from_le_bytes(patient.bytes[at + 16..at + 20].try_into().expect("four bytes"));
    patient.block(leaf as usize)[20] ^= 1;
    let dir = patient.number("bmap /sub 0", "");
    patient.block(dir)[40] ^= 1;
    let root_of_tree = patient.number("bmap /many 0", "");
    patient.block(root_of_tree)[36] ^= 1;
    let attributes = patient.number("stat /file", "File ACL:");
    if attributes != 0 {
        patient.block(attributes)[900] ^= 1;
    }
    let fs = patient.open().expect("opens");
    expect_corrupt(fs.read(child(&fs, "scattered"), 0, &mut [0; 100]), "extent tree of inode");
    expect_corrupt(fs.lookup(child(&fs, "sub"), b"deeper"), "directory block 0 of inode");
    expect_corrupt(fs.read_dir(child(&fs, "many"), 0, &mut |_| ControlFlow::Continue(())), "hash tree of directory");
    if attributes != 0 {
        expect_corrupt(fs.xattr(child(&fs, "file"), b"user.large"), "extended attributes of inode");
    }
    let name = b"a file with a name of some length 7";
    fs.lookup(child(&fs, "many"), name).expect_err("the first block is damaged");
}

#[test]
fn a_damaged_journal_is_named_only_when_it_is_needed() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4", "-J", "size=1"]);
    let journal = patient.number("bmap <8> 0", "");
    patient.block(journal)[0] ^= 1;
    patient.open().expect("a clean filesystem needs no journal");
    patient.change("feature +needs_recovery");
    expect_corrupt(patient.open(), "journal superblock");
}

#[test]
fn a_journal_on_another_device_is_refused_by_name_only_when_it_is_needed() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4", "-O", "^has_journal"]);
    patient.change("feature +has_journal");
    patient.change("set_super_value journal_dev 0x801");
    patient.open().expect("a clean filesystem needs no journal");
    patient.change("feature +needs_recovery");
    let Err(error) = patient.open() else { panic!("the journal cannot be replayed") };
    assert!(matches!(error.root(), Error::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("journal on another device"), "{error}");
}

#[test]
fn an_unknown_feature_is_refused_by_name_and_an_unknown_way_of_writing_is_not() {
    if !has_tools() {
        return;
    }
    let mut patient = Patient::new(&["-t", "ext4", "-O", "^metadata_csum"]);
    patient.bytes[1024 + 0x64 + 3] |= 0x40;
    patient.open().expect("what only writers must know");
    patient.bytes[1024 + 0x60 + 1] |= 0x10;
    let Err(error) = patient.open() else { panic!("dirdata cannot be read") };
    assert!(error.to_string().contains("ext4 with dirdata"), "{error}");
}

#[test]
fn the_kind_label_and_uuid_are_those_that_blkid_shows() {
    if !has_tools() {
        return;
    }
    let uuid = "12345678-9abc-def0-1234-56789abcdef0";
    let kinds: [(&str, &[&str]); 4] = [
        ("ext2", &["-t", "ext2"]),
        ("ext3", &["-t", "ext3"]),
        ("ext4", &["-t", "ext4"]),
        ("ext4", &["-t", "ext2", "-O", "extents"]),
    ];
    for (kind, args) in kinds {
        let mut all = args.to_vec();
        all.extend(["-L", "a label", "-U", uuid]);
        let patient = Patient::new(&all);
        let device: guestctl::block::SharedDevice = Arc::new(MemoryDevice::new(patient.bytes.clone()));
        let info = probe(&device).expect("reads").expect("it is there");
        assert_eq!((info.kind, info.label.as_deref(), info.uuid.as_deref()), (kind, Some(&b"a label"[..]), Some(uuid)));
        assert_eq!(&info, open_device(device).expect("opens").info());
    }
    let nothing: guestctl::block::SharedDevice = Arc::new(MemoryDevice::new(vec![0; 4096]));
    assert_eq!(probe(&nothing).expect("reads"), None);
}
