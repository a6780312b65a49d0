//! The XFS driver against the kernel: images that mkfs.xfs made and the kernel filled, compared in everything that a user
//! could notice.

mod common;
#[path = "common/xfs.rs"]
mod xfs;

use common::noise;
use guestctl::fs::Filesystem;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, mknod};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;
use xfs::{Except, Mount, compare, compare_statfs, make_image, open, run, text, try_run};

/// Says whether the kernel's mounts can be used, and if not, that the test is skipped.
fn can_mount() -> bool {
    for tool in ["mkfs.xfs", "xfs_io", "getfattr", "setfattr", "setfacl"] {
        if !common::has_tool(tool) {
            common::skip(&format!("{tool} is not installed"));
            return false;
        }
    }
    if !common::is_root() {
        common::skip("mounting needs root");
        return false;
    }
    true
}

fn fill_files(root: &Path) {
    for (number, size) in [0, 1, 511, 512, 4095, 4096, 4097, 100_000, 3 << 20].into_iter().enumerate() {
        fs::write(root.join(format!("file-{size}")), noise(size, number as u64)).expect("writes");
    }
    let sparse = File::create(root.join("sparse")).expect("makes");
    for at in [0, 70_000, 1 << 20, 1 << 30, (1 << 40) + 12_345] {
        sparse.write_all_at(&noise(5000, at), at).expect("writes");
    }
    sparse.set_len(1 << 41).expect("sizes");
    File::create(root.join("hole only")).expect("makes").set_len(10_000_000).expect("sizes");
    let fragmented = File::create(root.join("fragmented")).expect("makes");
    for number in 0..6000 {
        fragmented.write_all_at(&noise(900, number), number * 8192 + 100).expect("writes");
    }
    let reserved = File::create(root.join("reserved")).expect("makes");
    fallocate(&reserved, FallocateFlags::empty(), 0, 1 << 20).expect("reserves");
    reserved.write_all_at(&noise(50_000, 9), 300_000).expect("writes");
    fallocate(&reserved, FallocateFlags::FALLOC_FL_KEEP_SIZE, 1 << 20, 1 << 20).expect("reserves");
    fs::hard_link(root.join("file-4097"), root.join("another name")).expect("links");
    fs::set_permissions(root.join("file-1"), fs::Permissions::from_mode(0o6751)).expect("sets");
    std::os::unix::fs::chown(root.join("file-1"), Some(70_000), Some(0xffff_fff0)).expect("sets");
    // Where the filesystem has no reflinks, there is nothing to share.
    let (from, to) = (root.join("file-3145728"), root.join("shared"));
    if try_run("cp", &["--reflink=always", text(&from), text(&to)]).status.success() {
        File::options().write(true).open(&to).expect("opens").write_all_at(b"changed", 1 << 20).expect("writes");
    }
    for (name, when) in [("old", "1901-12-14 00:00:00.123456789"), ("new", "2105-06-07 08:09:10.987654321")] {
        fs::write(root.join(name), when).expect("writes");
        run("touch", &["-d", when, text(&root.join(name))]);
    }
    let mode = Mode::from_bits_truncate(0o640);
    mknod(&root.join("char"), SFlag::S_IFCHR, mode, nix::sys::stat::makedev(200, 70_000)).expect("makes");
    mknod(&root.join("block"), SFlag::S_IFBLK, mode, nix::sys::stat::makedev(8, 1)).expect("makes");
    mknod(&root.join("fifo"), SFlag::S_IFIFO, mode, 0).expect("makes");
    mknod(&root.join("socket"), SFlag::S_IFSOCK, mode, 0).expect("makes");
    for len in [1, 20, 300, 400, 950, 1023] {
        symlink("x".repeat(len), root.join(format!("link-{len}"))).expect("links");
    }
}

fn fill_folders(root: &Path, most: usize) {
    let target = root.join("target of links");
    fs::write(&target, "a file of many names").expect("writes");
    for count in [1, 5, 40, 200, 1000, most] {
        let folder = root.join(format!("folder-{count}"));
        let other = root.join(format!("other-{count}"));
        fs::create_dir(&folder).expect("makes");
        fs::create_dir(&other).expect("makes");
        // Two folders that grow in turn take blocks in turn.
        for number in 0..count {
            fs::hard_link(&target, folder.join(format!("a name with the number {number}"))).expect("links");
            fs::hard_link(&target, other.join(format!("{number}"))).expect("links");
        }
        for number in (0..count).filter(|number| number % 7 == 3) {
            fs::remove_file(folder.join(format!("a name with the number {number}"))).expect("unlinks");
        }
    }
    let odd = root.join("odd names");
    fs::create_dir(&odd).expect("makes");
    for name in [&b"\xff\xfe not text"[..], &[b'n'; 255], b"new\nline", b"...", b" ", b"\\"] {
        fs::write(odd.join(OsStr::from_bytes(name)), name).expect("writes");
    }
    // Names of one hash: in each word, a bit may go to the next byte without a change of the sum.
    let alike = root.join("alike");
    fs::create_dir(&alike).expect("makes");
    for number in 0..1024_u32 {
        let mut name = Vec::new();
        for bit in 0..10 {
            name.extend(if number >> bit & 1 == 0 { b"axcd" } else { b"axb\xe4" });
        }
        fs::hard_link(&target, alike.join(OsStr::from_bytes(&name))).expect("links");
    }
    let mut deep = root.to_owned();
    for number in 0..60 {
        deep.push(format!("{number}"));
        fs::create_dir(&deep).expect("makes");
    }
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    run("setfattr", &["-h", "-n", name, "-v", &format!("0x{hex}"), text(path)]);
}

fn fill_xattrs(root: &Path) {
    let file = |name: &str| {
        let path = root.join(name);
        fs::write(&path, name).expect("writes");
        path
    };
    let few = file("xattr-few");
    set_xattr(&few, "user.short", b"value");
    set_xattr(&few, "user.empty", b"");
    set_xattr(&few, "trusted.short", b"\0\x01");
    set_xattr(&few, "security.short", b"label");
    let many = file("xattr-many");
    for number in 0..60 {
        set_xattr(&many, &format!("user.number {number}"), &noise(number * 9, number as u64));
        set_xattr(&many, &format!("trusted.number {number}"), b"other space");
    }
    let long = file("xattr-long");
    for size in [1000, 2100, 4040, 4041, 20_000, 60_000] {
        set_xattr(&long, &format!("user.long {size}"), &noise(size, size as u64));
    }
    let more = file("xattr-more");
    let lines: String =
        (0..1500).map(|number| format!("user.a rather long name with number {number}=\"{number}\"\n")).collect();
    let dump = root.join("xattr-dump");
    fs::write(&dump, format!("# file: {}\n{lines}", text(&more))).expect("writes");
    run("setfattr", &["-h", &format!("--restore={}", text(&dump))]);
    let acl = file("acl");
    run("setfacl", &["-m", "u:1000:rwx,g:1001:r,u:70000:-,m::rw", text(&acl)]);
    let folder = root.join("acl folder");
    fs::create_dir(&folder).expect("makes");
    run("setfacl", &["-m", "u:1000:rx", text(&folder)]);
    run("setfacl", &["-d", "-m", "u:1000:rwx,g:5:rx", text(&folder)]);
    fs::write(folder.join("inherits"), "x").expect("writes");
    let link = root.join("link with attributes");
    symlink("nowhere", &link).expect("links");
    set_xattr(&link, "trusted.link", b"of the link itself");
    for (name, flags) in [("immutable", "+i"), ("append", "+a"), ("others", "+dAS")] {
        run("chattr", &[flags, text(&file(name))]);
    }
}

/// Makes a filesystem with such options, fills it and compares.
fn check(args: &[&str], folder: usize) {
    if !can_mount() {
        return;
    }
    let temp = TempDir::new().expect("a folder");
    let (image, dir) = (temp.path().join("disk.img"), temp.path().join("mnt"));
    if !make_image(&image, 512 << 20, args) {
        return common::skip(&format!("this mkfs.xfs does not know {args:?}"));
    }
    let Some(mount) = Mount::new(&image, &dir, "rw") else {
        return common::skip(&format!("this kernel does not mount {args:?}"));
    };
    fill_files(mount.path());
    fill_folders(mount.path(), folder);
    fill_xattrs(mount.path());
    drop(mount);
    let mount = Mount::new(&image, &dir, "ro").expect("mounts");
    let filesystem = open(&image).expect("opens");
    assert_eq!(filesystem.info().warnings, [""; 0]);
    compare_statfs(&filesystem, mount.path());
    let compared = compare(&filesystem, mount.path(), Except::default());
    assert!(compared.files > 100 && compared.names > folder * 3 / 2 && compared.xattrs > 1600, "{compared:?}");
    for (name, flags) in [("immutable", 0x10), ("append", 0x20), ("others", 0x40 | 0x80 | 0x8), ("file-1", 0)] {
        assert_eq!(filesystem.lookup(filesystem.root(), name.as_bytes()).expect("is there").flags, flags, "{name}");
    }
}

#[test]
fn the_default_filesystem_reads_as_the_kernel_reads_it() {
    check(&[], 3000);
}

#[test]
fn blocks_of_1_kib_and_a_large_folder_read_as_the_kernel_reads_them() {
    check(&["-b", "size=1024", "-m", "rmapbt=1"], 50_000);
}

#[test]
fn blocks_of_64_kib_read_as_the_kernel_reads_them() {
    check(&["-b", "size=65536"], 3000);
}

#[test]
fn blocks_of_16_kib_read_as_the_kernel_reads_them() {
    check(&["-b", "size=16384", "-s", "size=4096", "-i", "nrext64=1"], 3000);
}

#[test]
fn directory_blocks_larger_than_blocks_read_as_the_kernel_reads_them() {
    check(&["-b", "size=1024", "-n", "size=16384", "-i", "nrext64=1"], 5000);
}

#[test]
fn large_inodes_and_sectors_read_as_the_kernel_reads_them() {
    check(&["-i", "size=2048", "-s", "size=4096", "-n", "size=65536"], 5000);
}

#[test]
fn a_filesystem_without_the_newer_features_reads_as_the_kernel_reads_it() {
    check(&["-m", "bigtime=0,reflink=0,finobt=0,inobtcount=0", "-i", "sparse=0,nrext64=0,maxpct=0"], 3000);
}

/// Makes and fills a filesystem, and does things to its image before it is compared.
fn check_after(args: &[&str], fill: impl FnOnce(&Path), change: impl FnOnce(&Path), mounted_with: &str) {
    if !can_mount() {
        return;
    }
    let temp = TempDir::new().expect("a folder");
    let (image, dir) = (temp.path().join("disk.img"), temp.path().join("mnt"));
    if !make_image(&image, 64 << 20, args) {
        return common::skip(&format!("this mkfs.xfs does not know {args:?}"));
    }
    let mount = Mount::new(&image, &dir, "rw").expect("mounts");
    fill(mount.path());
    drop(mount);
    change(&image);
    let mount = Mount::new(&image, &dir, mounted_with).expect("mounts");
    let filesystem = open(&image).expect("opens");
    assert_eq!(filesystem.info().warnings, [""; 0]);
    compare_statfs(&filesystem, mount.path());
    compare(&filesystem, mount.path(), Except::default());
    // Whole trees may be read by many at once.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| compare(&filesystem, mount.path(), Except::default()));
        }
    });
}

#[test]
fn inodes_in_sparse_chunks_read_as_the_kernel_reads_them() {
    // Once single blocks are all that is left, only a part of a chunk of inodes finds room.
    let fill = |root: &Path| {
        let mut number = 0;
        while fs::write(root.join(format!("{number}")), [7; 4096]).is_ok() {
            number += 1;
        }
        run("xfs_io", &["-c", "fsync", text(&root.join("0"))]);
        // Holes of two blocks are too small for a chunk of eight, and large enough for a part of four with larger ones.
        for first in (0..number).step_by(10) {
            for file in first..(first + 5).min(number) {
                fs::remove_file(root.join(format!("{file}"))).expect("unlinks");
            }
        }
        fs::create_dir(root.join("new")).expect("makes");
        let mut made = 0;
        while made < 3000 && File::create(root.join("new").join(format!("{made}"))).is_ok() {
            made += 1;
        }
    };
    let sparse = |image: &Path| {
        let output = run("xfs_db", &["-r", "-c", "agi 0", "-c", "addr root", "-c", "p", text(image)]);
        let output = String::from_utf8_lossy(&output);
        assert!(output.contains(",0xff"), "a chunk is sparse: {output}");
    };
    check_after(&["-d", "agcount=1", "-i", "maxpct=100"], fill, sparse, "ro");
}

#[test]
fn a_filesystem_with_a_new_uuid_reads_as_the_kernel_reads_it() {
    let fill = |root: &Path| {
        fill_xattrs(root);
        fill_folders(root, 1500);
    };
    let uuid = "12345678-9abc-def0-1234-56789abcdef0";
    let change = |image: &Path| drop(run("xfs_admin", &["-U", uuid, "-L", "label", text(image)]));
    check_after(&["-L", "first"], fill, change, "ro");
    if can_mount() {
        let temp = TempDir::new().expect("a folder");
        let image = temp.path().join("disk.img");
        assert!(make_image(&image, 64 << 20, &[]));
        change(&image);
        let device: guestctl::block::SharedDevice =
            std::sync::Arc::new(guestctl::block::RawDevice::open(&image, false).expect("opens"));
        let info = guestctl::fs::xfs::probe(&device).expect("reads").expect("is XFS");
        assert_eq!((info.kind, info.block_size), ("xfs", 4096));
        assert_eq!(info.label.as_deref(), Some(&b"label"[..]));
        assert_eq!(info.uuid.as_deref(), Some(uuid));
    }
}

#[test]
fn an_inode_that_is_free_or_never_was_is_not_found() {
    if !can_mount() {
        return;
    }
    let temp = TempDir::new().expect("a folder");
    let (image, dir) = (temp.path().join("disk.img"), temp.path().join("mnt"));
    assert!(make_image(&image, 64 << 20, &[]));
    let mount = Mount::new(&image, &dir, "rw").expect("mounts");
    let mut gone = Vec::new();
    for number in 0..500 {
        let path = mount.path().join(format!("{number}"));
        fs::write(&path, "x").expect("writes");
        gone.push(std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).expect("is there")));
    }
    // Written to their places before they are removed, they still look like inodes in use.
    drop(mount);
    let mount = Mount::new(&image, &dir, "rw").expect("mounts");
    for number in 0..500 {
        fs::remove_file(mount.path().join(format!("{number}"))).expect("unlinks");
    }
    drop(mount);
    let filesystem = open(&image).expect("opens");
    for ino in gone.into_iter().chain([0, 1, 63, u64::MAX, 1 << 40, 1 << 55]) {
        let error = filesystem.attr(ino).expect_err("is not in use");
        assert!(error.is_errno(libc::ENOENT), "{ino}: {error}");
    }
}

#[test]
fn a_log_on_another_device_is_told_of() {
    if !can_mount() {
        return;
    }
    let temp = TempDir::new().expect("a folder");
    let (image, log, proto) = (temp.path().join("disk.img"), temp.path().join("log.img"), temp.path().join("proto"));
    File::create(&log).expect("makes").set_len(64 << 20).expect("sizes");
    fs::write(&proto, "/nothing\n0 0\nd--755 0 0\nfolder d--755 0 0\n$\n$\n").expect("writes");
    let device = format!("logdev={}", text(&log));
    if !make_image(&image, 320 << 20, &["-l", &device, "-p", text(&proto)]) {
        return common::skip("this mkfs.xfs puts no log elsewhere");
    }
    let filesystem = open(&image).expect("opens");
    assert_eq!(filesystem.info().warnings.len(), 1);
    assert!(filesystem.lookup(filesystem.root(), b"folder").expect("is there").is_dir());
    let filled = filesystem.statfs().expect("counts");
    assert_eq!(filled.blocks, 320 << 8);
}

#[test]
fn the_data_of_a_real_time_file_is_read_from_its_device_and_refused_without_it() {
    if !can_mount() {
        return;
    }
    let temp = TempDir::new().expect("a folder");
    let (image, real_time) = (temp.path().join("disk.img"), temp.path().join("rt.img"));
    let (proto, source) = (temp.path().join("proto"), temp.path().join("source"));
    File::create(&real_time).expect("makes").set_len(64 << 20).expect("sizes");
    fs::write(&source, noise(100_000, 3)).expect("writes");
    let lines =
        format!("/nothing\n0 0\nd--755 0 0\nfile ---644 0 0 {}\nempty ---644 0 0 /dev/null\n$\n", text(&source));
    fs::write(&proto, lines).expect("writes");
    let device = format!("rtdev={}", text(&real_time));
    if !make_image(&image, 320 << 20, &["-r", &device, "-p", text(&proto), "-m", "reflink=0"]) {
        return common::skip("this mkfs.xfs makes no real-time device");
    }
    let file = open(&image).expect("opens");
    let ino = file.lookup(file.root(), b"file").expect("is there").ino;
    drop(file);
    run("xfs_db", &["-x", "-c", &format!("inode {ino}"), "-c", "write core.realtime 1", text(&image)]);
    let filesystem = open(&image).expect("opens");
    assert_eq!(filesystem.attr(ino).expect("is there").size, 100_000);
    let error = filesystem.read(ino, 0, &mut [0; 10]).expect_err("is elsewhere");
    assert!(error.to_string().contains("real-time") && error.to_string().contains("--add"), "{error}");
    assert_eq!(filesystem.next_data(ino, 0).expect("has data"), 0);
    drop(filesystem);
    // The file's blocks are those of the real-time device now, counted from its beginning.
    let printed = run("xfs_db", &["-c", &format!("inode {ino}"), "-c", "print u3.bmx[0]", text(&image)]);
    let printed = String::from_utf8(printed).expect("text");
    // u3.bmx[0] = [startoff,startblock,blockcount,extentflag] [0,42,25,0]
    let fields = printed.rsplit('[').next().and_then(|last| last.split(']').next()).expect("an extent");
    let block: u64 = fields.split(',').nth(1).and_then(|number| number.parse().ok()).expect("a number");
    let content = noise(100_000, 77);
    use std::os::unix::fs::FileExt;
    let device = File::options().write(true).open(&real_time).expect("opens");
    device.write_all_at(&content, block * 4096).expect("writes");
    let mut guest = guestctl::Guestfs::new().expect("a handle");
    for path in [&image, &real_time] {
        guest.add_drive_ro(text(path)).expect("is added");
    }
    guest.launch().expect("opens");
    guest.mount_ro("/dev/sda", "/").expect("mounts");
    assert_eq!(guest.read_file("/file").expect("is read"), content);
    // One that is too small is not taken for it.
    device.set_len(8 << 20).expect("sizes");
    let mut guest = guestctl::Guestfs::new().expect("a handle");
    for path in [&image, &real_time] {
        guest.add_drive_ro(text(path)).expect("is added");
    }
    guest.launch().expect("opens");
    guest.mount_ro("/dev/sda", "/").expect("mounts");
    let error = guest.read_file("/file").expect_err("is elsewhere");
    assert!(error.to_string().contains("real-time"), "{error}");
}
