//! The handle's writing calls, against what the host's own tools do on the kernel's mount. After every test e2fsck finds
//! nothing.

mod common;
#[allow(dead_code, reason = "each test program uses its own part")]
#[path = "common/ext4.rs"]
mod ext4;

use common::folders::assert_same_but_ctime;
use common::guest::{Workspace, run};
use common::{has_tool, is_root, is_there, skip, tool};
use ext4::Mount;
use guestctl::guestfs::{CopyOptions, TarInOptions};
use guestctl::{Error, Guestfs, Result};
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// An empty ext4 image, open for writing.
struct Bench {
    workspace: Workspace,
    image: PathBuf,
    guest: Guestfs,
}

impl Bench {
    fn new(megabytes: u64) -> Option<Self> {
        if !has_tool("mke2fs") || !is_root() {
            skip("there is no mke2fs, or no root to mount by the kernel");
            return None;
        }
        let workspace = Workspace::new();
        let image = workspace.path("disk.img");
        ext4::make(&image, megabytes, &["-t", "ext4", "-b", "4096", "-I", "256"]);
        let guest = open(&image).expect("the image mounts");
        guest.rm_rf("/lost+found").expect("an empty folder");
        Some(Self { workspace, image, guest })
    }

    /// Ends writing; lets e2fsck look, and the kernel mount the image.
    fn look(&mut self) -> Mount {
        self.close();
        Mount::new(&self.image, "ro")
    }

    fn close(&mut self) {
        self.guest.shutdown().expect("closes");
        check(&self.image);
    }
}

fn open(image: &Path) -> Result<Guestfs> {
    let mut guest = Guestfs::new()?;
    guest.add_drive(image)?;
    guest.launch()?;
    guest.mount("/dev/sda", "/")?;
    Ok(guest)
}

fn check(image: &Path) {
    run(tool("e2fsck").expect("it comes with mke2fs").to_str().expect("text"), &[OsStr::new("-fn"), image.as_ref()]);
}

/// Checks that something fails with an errno.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, errno: i32) {
    let error = result.expect_err("it is refused");
    assert!(error.is_errno(errno), "{error}");
}

/// Makes a tree with everything that a copy has to keep.
fn rich_tree(folder: &Path) {
    ext4::populate(folder, 300, 40, 4096);
    // No archive holds one.
    fs::remove_file(folder.join("sub/sock")).expect("ours");
}

#[test]
fn files_are_written_as_they_should_be() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    guest.mkdir_p("/etc/conf.d/deep")?;
    guest.mkdir_p("/etc/conf.d/deep")?;
    guest.write("/etc/hostname", "guest\n")?;
    guest.write_append("/etc/hostname", "more\n")?;
    guest.write_append("/etc/new", "begun\n")?;
    assert_eq!(guest.pwrite("/etc/hostname", "G", 0)?, 1);
    assert_eq!(guest.cat("/etc/hostname")?, "Guest\nmore\n");
    // What is written anew keeps owner, mode and attributes, but for set-user-id.
    guest.chown(7, 8, "/etc/hostname")?;
    guest.chmod(0o4640, "/etc/hostname")?;
    guest.setxattr("user.note", "kept", "/etc/hostname")?;
    guest.write("/etc/hostname", "third\n")?;
    let seen = guest.stat("/etc/hostname")?;
    assert_eq!((seen.uid, seen.gid, seen.permissions), (7, 8, 0o640));
    assert_eq!(guest.getxattr("/etc/hostname", "user.note")?, b"kept");
    // One with several names is one file afterwards too.
    guest.ln("/etc/hostname", "/etc/same")?;
    guest.write("/etc/same", "fourth\n")?;
    assert_eq!(guest.cat("/etc/hostname")?, "fourth\n");
    // A link is followed, also to what there is not yet; an absolute one within the guest.
    guest.ln_s("/etc/target", "/absolute")?;
    guest.ln_s("conf.d/relative", "/etc/relative")?;
    guest.write("/absolute", "by a link\n")?;
    guest.write("/etc/relative", "by another\n")?;
    guest.truncate_size("/etc/target", 1 << 20)?;
    guest.truncate("/etc/new")?;
    guest.touch("/touched")?;
    guest.touch("/touched")?;
    guest.fallocate64("/allocated", 3 << 20)?;
    guest.fill(b'x', 100_000, "/filled")?;
    guest.fill_pattern("abc", 100_001, "/pattern")?;
    let source = bench.workspace.path("source");
    let noise = ext4::noise(5_000_001, 7);
    fs::write(&source, &noise).expect("ours");
    assert_eq!(guest.upload(&source, "/uploaded")?, 5_000_001);
    let sparse = fs::File::create(bench.workspace.path("sparse")).expect("ours");
    (&sparse).write_all(b"begin").expect("ours");
    sparse.set_len(40 << 20).expect("ours");
    guest.upload(bench.workspace.path("sparse"), "/sparse")?;
    fs::write(&source, "12345").expect("ours");
    assert_eq!(guest.upload_offset(&source, "/uploaded", 1000)?, 5);
    // A file of /proc has no size, and still contents.
    assert!(guest.upload("/proc/self/status", "/proc")? > 0);
    let mount = bench.look();
    let at = |name: &str| mount.path.join(name);
    assert_eq!(fs::read(at("etc/same")).expect("reads"), b"fourth\n");
    assert_eq!(fs::metadata(at("etc/same")).expect("there").nlink(), 2);
    assert_eq!(fs::metadata(at("etc/target")).expect("there").len(), 1 << 20);
    assert_eq!(fs::read(at("etc/conf.d/relative")).expect("reads"), b"by another\n");
    assert_eq!(fs::metadata(at("etc/new")).expect("there").len(), 0);
    let allocated = fs::metadata(at("allocated")).expect("there");
    assert!(allocated.len() == 3 << 20 && allocated.blocks() >= 3 << 11);
    assert!(fs::read(at("filled")).expect("reads") == [b'x'; 100_000]);
    let pattern = fs::read(at("pattern")).expect("reads");
    assert!(pattern.len() == 100_001 && pattern.chunks(3).all(|part| b"abc".starts_with(part)));
    let mut wanted = noise;
    wanted[1000..1005].copy_from_slice(b"12345");
    assert!(fs::read(at("uploaded")).expect("reads") == wanted);
    let sparse = fs::metadata(at("sparse")).expect("there");
    assert!(sparse.len() == 40 << 20 && sparse.blocks() < 64, "holes stay holes");
    assert_eq!(fs::metadata(at("touched")).expect("there").mode(), 0o100_644);
    Ok(())
}

#[test]
fn names_are_made_moved_and_removed() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    guest.mkdir("/a")?;
    guest.mkdir_mode("/a/b", 0o1777)?;
    assert_eq!(guest.stat("/a/b")?.permissions, 0o1755);
    assert_eq!(guest.umask(0)?, 0o022);
    guest.mkdir_mode("/open", 0o777)?;
    assert_eq!(guest.stat("/open")?.permissions, 0o777);
    guest.umask(0o027)?;
    assert_eq!(guest.get_umask(), 0o027);
    let made = guest.mkdtemp("/a/tmp.XXXXXX")?;
    assert!(made.starts_with("/a/tmp.") && made.len() == 13 && guest.stat(&made)?.permissions == 0o700);
    guest.write("/a/file", "1")?;
    guest.ln("/a/file", "/a/hard")?;
    guest.ln_f("/a/file", "/a/hard")?;
    guest.write("/a/other", "2")?;
    guest.ln_f("/a/file", "/a/other")?;
    guest.ln_s("nowhere", "/a/soft")?;
    guest.ln_sf("file", "/a/soft")?;
    guest.mkfifo(0o666, "/pipe")?;
    guest.mknod(libc::S_IFSOCK | 0o600, 0, 0, "/socket")?;
    guest.mknod_c(0o666, 1, 3, "/null")?;
    guest.mknod_b(0o660, 259, 70_000, "/disk")?;
    guest.mv("/a/soft", "/open")?;
    guest.mv("/a/hard", "/open/renamed")?;
    guest.rename("/a/b", "/b")?;
    guest.mkdir_p("/deep/1/2/3")?;
    for number in 0..2000 {
        guest.touch(format!("/deep/1/{number}"))?;
    }
    guest.rm_rf("/deep")?;
    guest.rm_rf("/deep")?;
    guest.rm("/a/file")?;
    guest.rm_f("/a/file")?;
    guest.rmdir(&made)?;
    for (error, errno) in [
        (guest.mkdir("/a"), libc::EEXIST),
        (guest.mkdir("/none/at/all"), libc::ENOENT),
        (guest.mkdir_p("/pipe/x"), libc::ENOTDIR),
        (guest.rmdir("/open"), libc::ENOTEMPTY),
        (guest.rmdir("/pipe"), libc::ENOTDIR),
        (guest.rm("/open"), libc::EISDIR),
        (guest.rm("/none"), libc::ENOENT),
        (guest.rm("/"), libc::EEXIST),
        (guest.ln("/open", "/linked"), libc::EPERM),
        (guest.ln_s("x", "/open"), libc::EEXIST),
        (guest.ln_sf("x", "/open"), libc::EISDIR),
        (guest.mv("/open", "/open/renamed/x"), libc::ENOTDIR),
        (guest.rename("/b", "/b/c"), libc::EINVAL),
        (guest.mknod(libc::S_IFDIR, 0, 0, "/x"), libc::EINVAL),
        (guest.write("/open", ""), libc::EISDIR),
        (guest.write("/pipe", ""), libc::EINVAL),
        (guest.pwrite("/none", "", 0).map(drop), libc::ENOENT),
        (guest.truncate("/open"), libc::EISDIR),
        (guest.write("/none/file", ""), libc::ENOENT),
        (guest.chmod(0, "/none"), libc::ENOENT),
        (guest.removexattr("user.none", "/a"), libc::ENODATA),
    ] {
        refused(error, errno);
    }
    assert!(matches!(guest.mkdtemp("/a/tmp"), Err(Error::Usage(_))));
    assert!(matches!(guest.umask(0o1000), Err(Error::Usage(_))));
    let mount = bench.look();
    let at = |name: &str| mount.path.join(name);
    let list = String::from_utf8(run("find", &[mount.path.as_os_str(), "-printf".as_ref(), "%P %y %m %n\n".as_ref()]));
    let mut lines: Vec<String> = list.expect("text").lines().skip(1).map(str::to_owned).collect();
    lines.sort();
    let wanted = [
        "a d 755 2",
        "a/other f 644 2",
        "b d 1755 2",
        "disk b 640 1",
        "null c 640 1",
        "open d 777 2",
        "open/renamed f 644 2",
        "open/soft l 777 1",
        "pipe p 640 1",
        "socket s 600 1",
    ];
    assert_eq!(
        lines,
        wanted.map(|line| line.replace("a/other f 644", "a/other f 640").replace("renamed f 644", "renamed f 640"))
    );
    assert_eq!(fs::read_link(at("open/soft")).expect("a link"), Path::new("file"));
    let rdev = fs::metadata(at("disk")).expect("there").rdev();
    assert_eq!((nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev)), (259, 70_000));
    Ok(())
}

#[test]
fn attributes_are_set_to_the_nanosecond() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    guest.write("/file", "x")?;
    guest.ln_s("file", "/link")?;
    guest.chmod(0o6711, "/link")?;
    assert_eq!(guest.stat("/file")?.permissions, 0o6711);
    guest.chown(1000, 70_000, "/file")?;
    guest.lchown(5, 6, "/link")?;
    guest.utimens("/file", -5, 123_456_789, 4_102_444_800, 999_999_999)?;
    guest.utimens("/link", 0, -2, 1, 0)?;
    guest.utimens("/file", 7, 8, 0, -2)?;
    refused(guest.utimens("/file", 0, 1_000_000_000, 0, 0), libc::EINVAL);
    guest.setxattr("user.a", "1", "/file")?;
    guest.setxattr("user.b", [0, 255], "/link")?;
    guest.removexattr("user.a", "/file")?;
    guest.lsetxattr("trusted.of.link", "t", "/link")?;
    assert_eq!(guest.lgetxattrs("/link")?, [(b"trusted.of.link".to_vec(), b"t".to_vec())]);
    guest.lremovexattr("trusted.of.link", "/link")?;
    guest.mkdir("/folder")?;
    guest.acl_set_file("/file", "access", "u::rw-,u:1000:r--,g::r--,o::---")?;
    guest.acl_set_file("/folder", "default", "u::rwx,g::r-x,o::r-x,u:77:rwx")?;
    let text = "user::rw-\nuser:1000:r--\ngroup::r--\nmask::r--\nother::---\n";
    assert_eq!(guest.acl_get_file("/file", "access")?, text);
    assert_eq!(guest.acl_get_file("/file", "default")?, "");
    guest.mkdir("/plain")?;
    guest.acl_set_file("/plain", "default", "u::rwx,g::r-x,o::r-x,u:77:rwx")?;
    guest.acl_delete_def_file("/plain")?;
    guest.acl_delete_def_file("/plain")?;
    assert!(matches!(guest.acl_set_file("/file", "access", "u::rw-"), Err(Error::Usage(_))));
    assert!(matches!(guest.acl_get_file("/file", "other"), Err(Error::Usage(_))));
    let mount = bench.look();
    let seen = fs::metadata(mount.path.join("file")).expect("there");
    assert_eq!((seen.mtime(), seen.mtime_nsec(), seen.atime(), seen.atime_nsec()), (1, 0, 7, 8));
    assert_eq!((seen.uid(), seen.gid(), seen.mode() & 0o7777), (1000, 70_000, 0o640));
    let link = fs::symlink_metadata(mount.path.join("link")).expect("there");
    assert_eq!((link.uid(), link.gid()), (5, 6));
    assert_eq!(xattr::get(mount.path.join("file"), "user.b").expect("reads"), Some(vec![0, 255]));
    if is_there("getfacl") {
        let acl = run("getfacl", &[OsStr::new("-cnE"), mount.path.join("folder").as_ref()]);
        assert!(String::from_utf8_lossy(&acl).contains("default:user:77:rwx"));
        let acl = run("getfacl", &[OsStr::new("-cnE"), mount.path.join("file").as_ref()]);
        assert_eq!(String::from_utf8_lossy(&acl).trim(), text.trim());
    }
    Ok(())
}

#[test]
fn folders_are_copied_in_as_cp_a_does() -> Result<()> {
    let Some(mut bench) = Bench::new(256) else { return Ok(()) };
    let tree = bench.workspace.folder("tree");
    rich_tree(&tree);
    bench.guest.copy_in(&tree, "/")?;
    bench.guest.mkdir("/contents")?;
    let options = CopyOptions { recursive: true, attributes: true };
    bench.guest.copy_in_with(tree.join("."), "/contents", options, &mut |_, error| Err(error))?;
    // Onto what is there already: nothing changes.
    bench.guest.copy_in_with(&tree, "/", options, &mut |_, error| Err(error))?;
    bench.guest.cp_a("/tree", "/again")?;
    let mount = bench.look();
    assert_same_but_ctime(&tree, &mount.path.join("tree"));
    assert_same_but_ctime(&tree, &mount.path.join("again"));
    assert_same_but_ctime(&tree, &mount.path.join("contents"));
    Ok(())
}

#[test]
fn files_are_copied_and_moved_within_the_guest() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    guest.mkdir_p("/from/sub")?;
    guest.write("/from/one", "1")?;
    guest.chmod(0o755, "/from/one")?;
    guest.ln("/from/one", "/from/sub/same")?;
    guest.ln_s("/from/one", "/from/link")?;
    guest.mkfifo(0o600, "/from/pipe")?;
    guest.mkdir("/to")?;
    guest.cp("/from/one", "/to")?;
    guest.cp("/from/link", "/to/two")?;
    guest.cp_r("/from", "/to")?;
    guest.cp_a("/from", "/to/all")?;
    guest.cp_a("/from/.", "/to/all")?;
    refused(guest.cp("/from", "/to"), libc::EISDIR);
    refused(guest.cp("/none", "/to"), libc::ENOENT);
    refused(guest.cp_a("/to", "/to/all/deep"), libc::EINVAL);
    refused(guest.cp_a("/from/one", "/none/x"), libc::ENOENT);
    refused(guest.cp_a("/from/one", "/to/all/sub/same/"), libc::ENOTDIR);
    assert!(matches!(guest.cp("/from/one", "/from/one").expect_err("refused").root(), Error::Usage(_)));
    guest.mv("/to/two", "/moved")?;
    assert_eq!(guest.stat("/to/one")?.permissions, 0o755);
    assert_eq!(guest.stat("/to/from/one")?.nlink, 1, "anew");
    assert_eq!(guest.stat("/to/all/one")?.nlink, 2, "as it was");
    assert_eq!(guest.readlink("/to/all/link")?, "/from/one");
    assert!(guest.is_fifo("/to/from/pipe")?);
    let mount = bench.look();
    assert_same_but_ctime(&mount.path.join("from"), &mount.path.join("to/all"));
    assert_eq!(fs::read(mount.path.join("moved")).expect("reads"), b"1");
    Ok(())
}

#[test]
fn archives_are_unpacked_as_tar_does() -> Result<()> {
    let Some(mut bench) = Bench::new(512) else { return Ok(()) };
    let tree = bench.workspace.folder("tree");
    rich_tree(&tree);
    // Access control lists name users of this host.
    bench.guest.mkdir("/etc")?;
    bench.guest.copy_in("/etc/passwd", "/etc")?;
    bench.guest.copy_in("/etc/group", "/etc")?;
    let archive = bench.workspace.path("all.tar");
    let tar = |format: &str, more: &[&str]| {
        let mut arguments = vec!["--numeric-owner", "--sparse", "--xattrs", "--xattrs-include=*", "--acls"];
        let (format, file) = (format!("--format={format}"), format!("--file={}", archive.display()));
        arguments.extend([format.as_str(), file.as_str(), "--directory", tree.to_str().expect("text"), "--create"]);
        arguments.extend(more);
        arguments.push(".");
        run("tar", &arguments);
    };
    for (name, format, more) in [
        ("posix", "posix", &[][..]),
        ("gzip", "posix", &["--gzip"]),
        ("xz", "posix", &["--sparse-version=0.1", "--xz", "--exclude=large"]),
        ("bzip2", "posix", &["--sparse-version=0.0", "--bzip2", "--exclude=large"]),
        ("zstd", "posix", &["--zstd"]),
        ("lz4", "posix", &["--use-compress-program=lz4"]),
    ] {
        if is_there(if name == "posix" { "tar" } else { name }) {
            tar(format, more);
            let to = format!("/{name}");
            bench.guest.mkdir(&to)?;
            bench.guest.tar_in(&archive, &to)?;
        }
    }
    // What GNU's own form cannot hold, extended attributes among it, is left out on both sides.
    run(
        "tar",
        &["--format=gnu", "--sparse", "-cf", archive.to_str().expect("text"), "-C", tree.to_str().expect("text"), "."],
    );
    bench.guest.mkdir("/gnu")?;
    bench.guest.tar_in_opts(&archive, "/gnu", Some("none"))?;
    let gnu = bench.workspace.folder("gnu");
    run("tar", &["--numeric-owner", "-xpf", archive.to_str().expect("text"), "-C", gnu.to_str().expect("text")]);
    let mount = bench.look();
    assert_same_but_ctime(&tree, &mount.path.join("posix"));
    assert_same_but_ctime(&gnu, &mount.path.join("gnu"));
    for name in ["gzip", "zstd", "lz4"] {
        if has_tool(name) {
            assert_same_but_ctime(&tree, &mount.path.join(name));
        }
    }
    let when = fs::metadata(&tree).expect("ours").modified().expect("every filesystem has it");
    fs::remove_file(tree.join("large")).expect("ours");
    fs::File::open(&tree).and_then(|folder| folder.set_modified(when)).expect("ours");
    for name in ["xz", "bzip2"] {
        if has_tool(name) {
            assert_same_but_ctime(&tree, &mount.path.join(name));
        }
    }
    Ok(())
}

#[test]
fn what_tar_out_wrote_tar_in_reads() -> Result<()> {
    let Some(mut bench) = Bench::new(256) else { return Ok(()) };
    let tree = bench.workspace.folder("tree");
    rich_tree(&tree);
    bench.guest.copy_in(&tree, "/")?;
    let archive = bench.workspace.path("all.tar.zst");
    for (place, compression) in ["gzip", "bzip2", "xz", "zstd", "lz4"].into_iter().enumerate() {
        // Only the first and the last of them hold everything: the others are slow.
        let from = if place == 0 { "/tree" } else { "/tree/deep" };
        bench.guest.tar_out_opts(from, &archive, Some(compression))?;
        let to = format!("/{compression}");
        bench.guest.mkdir(&to)?;
        bench.guest.tar_in(&archive, &to)?;
    }
    bench.guest.mkdir("/again")?;
    bench.guest.tgz_in(
        &{
            bench.guest.tgz_out("/tree/deep", &archive)?;
            archive.clone()
        },
        "/again",
    )?;
    let mount = bench.look();
    assert_same_but_ctime(&tree, &mount.path.join("gzip"));
    for name in ["bzip2", "xz", "zstd", "lz4", "again"] {
        assert_same_but_ctime(&tree.join("deep"), &mount.path.join(name));
    }
    Ok(())
}

#[test]
fn a_hostile_archive_stays_where_it_is_put() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    guest.mkdir_p("/etc")?;
    guest.write("/etc/passwd", "root\n")?;
    guest.mkdir_p("/box/in")?;
    guest.ln_s("../etc", "/box/out")?;
    let path = bench.workspace.path("bad.tar");
    let member = |kind: tar::EntryType, name: &[u8], link: &[u8], data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name);
        header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let unpack = |members: &[Vec<u8>]| {
        fs::write(&path, [members.concat(), vec![0; 1024]].concat()).expect("ours");
        guest.tar_in(&path, "/box/in")
    };
    // Names above the folder, and absolute ones.
    unpack(&[member(Regular, b"../../etc/passwd", b"", b"evil"), member(Regular, b"/tmp/x", b"", b"evil")])?;
    assert_eq!(guest.cat("/etc/passwd")?, "root\n");
    assert_eq!(guest.cat("/box/in/etc/passwd")?, "evil");
    assert_eq!(guest.cat("/box/in/tmp/x")?, "evil");
    assert!(!Path::new("/tmp/x").exists());
    // Through a link that the archive brings: absolute, upwards, by way of another, and by a hard link to one.
    for (link, target, through) in [
        (&b"abs"[..], &b"/etc"[..], &b"abs/passwd"[..]),
        (b"up", b"../../etc", b"up/passwd"),
        (b"up2", b"../../etc/", b"up2//./passwd"),
    ] {
        let error = unpack(&[member(Symlink, link, target, b""), member(Regular, through, b"", b"evil")]);
        assert!(error.expect_err("refused").to_string().contains("link"), "{}", link.escape_ascii());
    }
    unpack(&[
        member(Symlink, b"a", b"/etc", b""),
        member(Symlink, b"b", b"a", b""),
        member(Regular, b"b/passwd", b"", b"evil"),
    ])
    .expect_err("by way of another");
    unpack(&[
        member(Symlink, b"c", b"/etc", b""),
        member(Link, b"d", b"c", b""),
        member(Regular, b"d/passwd", b"", b"evil"),
    ])
    .expect_err("by another name");
    unpack(&[member(Symlink, b"e", b"/etc", b""), member(Link, b"stolen", b"e/passwd", b"")]).expect_err("a hard link");
    unpack(&[member(Symlink, b"f", b"/etc/passwd", b""), member(Regular, b"f", b"", b"mine")])?;
    assert_eq!(guest.cat("/box/in/f")?, "mine", "the link itself is replaced");
    assert_eq!(guest.cat("/etc/passwd")?, "root\n");
    // A link that leads to within is fine, and so is one of the guest's own.
    unpack(&[
        member(Directory, b"real/", b"", b""),
        member(Symlink, b"in", b"real", b""),
        member(Regular, b"in/file", b"", b"fine"),
    ])?;
    assert_eq!(guest.cat("/box/in/real/file")?, "fine");
    fs::write(&path, [member(Regular, b"out/via", b"", b"fine"), vec![0; 1024]].concat()).expect("ours");
    guest.tar_in(&path, "/box")?;
    assert_eq!(guest.cat("/etc/via")?, "fine");
    // A folder where a link is: one of the guest's own to a folder stays, unless it is to make way.
    fs::write(&path, [member(Directory, b"out/", b"", b""), vec![0; 1024]].concat()).expect("ours");
    guest.tar_in(&path, "/box")?;
    assert!(guest.is_symlink("/box/out")?);
    guest.tar_in_from(&path, "/box", &TarInOptions { keep_folder_links: false, ..TarInOptions::default() })?;
    assert!(guest.is_dir("/box/out")?);
    // One that the archive brings and that leads elsewhere does not, nor does one that leads nowhere.
    unpack(&[
        member(Symlink, b"g", b"/etc", b""),
        member(Directory, b"g/", b"", b""),
        member(Regular, b"g/passwd", b"", b"mine"),
        member(Symlink, b"h", b"nowhere", b""),
        member(Directory, b"h/", b"", b""),
    ])?;
    assert!(guest.is_dir("/box/in/g")? && guest.is_dir("/box/in/h")?);
    assert_eq!(guest.cat("/etc/passwd")?, "root\n");
    // Damage: a size that the archive does not hold, a checksum, an endless extension, what is none at all.
    let cut = [member(Regular, b"cut", b"", &[7; 5000])[..2000].to_vec()].concat();
    fs::write(&path, &cut).expect("ours");
    let error = guest.tar_in(&path, "/box/in").expect_err("cut");
    assert!(matches!(error.root(), Error::Corrupt { .. }) && error.to_string().contains("cut"), "{error}");
    assert!(!guest.exists("/box/in/cut")?, "nothing half-written");
    let mut wrong = member(Regular, b"wrong", b"", b"");
    wrong[0] ^= 1;
    assert!(matches!(unpack(&[wrong]).expect_err("a checksum").root(), Error::Corrupt { .. }));
    let mut endless = member(tar::EntryType::GNULongName, b"x", b"", b"");
    endless[124..136].copy_from_slice(b"77777777777\0");
    let sum: u32 = endless
        .iter()
        .enumerate()
        .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
        .sum();
    endless[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(unpack(&[endless]).expect_err("endless").to_string().contains("too long"));
    fs::write(&path, vec![b'x'; 4096]).expect("ours");
    assert!(matches!(guest.tar_in(&path, "/box/in").expect_err("none").root(), Error::Corrupt { .. }));
    fs::write(&path, [&[0x1f, 0x8b, 8][..], &[0; 100]].concat()).expect("ours");
    guest.tar_in(&path, "/box/in").expect_err("damaged gzip");
    assert!(matches!(guest.tar_in_opts(&path, "/box/in", Some("rar")), Err(Error::Usage(_))));
    refused(guest.tar_in(&path, "/none"), libc::ENOENT);
    refused(guest.tar_in(&path, "/etc/passwd"), libc::ENOTDIR);
    guest.tar_in("/no/such/archive", "/box").expect_err("missing");
    bench.close();
    Ok(())
}

#[test]
fn links_to_folders_stay_as_tar_can_keep_them() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    // The folders of a system are often links to those below /usr.
    let guest = &bench.guest;
    let host = bench.workspace.folder("host");
    for folder in ["usr/bin", "usr/lib", "usr/lib64"] {
        guest.mkdir_p(format!("/{folder}"))?;
        guest.chmod(0o2711, format!("/{folder}"))?;
        fs::create_dir_all(host.join(folder)).expect("ours");
        fs::set_permissions(host.join(folder), fs::Permissions::from_mode(0o2711)).expect("ours");
    }
    for (name, target) in [("bin", "usr/bin"), ("lib64", "lib"), ("lib", "usr/lib")] {
        guest.ln_s(target, format!("/{name}"))?;
        symlink(target, host.join(name)).expect("ours");
    }
    guest.ln_s("/usr/lib64", "/absolute")?;
    let tree = bench.workspace.folder("tree");
    for folder in ["bin", "lib", "lib64"] {
        fs::create_dir(tree.join(folder)).expect("ours");
        fs::write(tree.join(folder).join(format!("of-{folder}")), folder).expect("ours");
    }
    let archive = bench.workspace.path("a.tar");
    let (file, folder) = (archive.to_str().expect("text"), tree.to_str().expect("text"));
    run("tar", &["-cf", file, "-C", folder, "."]);
    run("tar", &["--keep-directory-symlink", "-xpf", file, "-C", host.to_str().expect("text")]);
    guest.tar_in(&archive, "/")?;
    // An absolute one leads to the guest's folder.
    fs::create_dir(tree.join("absolute")).expect("ours");
    fs::write(tree.join("absolute/file"), "x").expect("ours");
    run("tar", &["-cf", file, "-C", folder, "absolute"]);
    guest.tar_in(&archive, "/")?;
    assert!(guest.is_symlink("/absolute")? && guest.is_file("/usr/lib64/file")?);
    guest.rm("/usr/lib64/file")?;
    guest.rm("/absolute")?;
    let mount = bench.look();
    let list = |folder: &Path| {
        let listed = run(
            "sh",
            &["-c", &format!("cd '{}' && find . -mindepth 1 -printf '%P %y %m %l\\n' | sort", folder.display())],
        );
        String::from_utf8_lossy(&listed).into_owned()
    };
    assert_eq!(list(&mount.path), list(&host));
    assert!(list(&host).contains("bin l 777 usr/bin"));
    Ok(())
}

#[test]
fn owners_of_archives_go_by_number_or_by_the_guests_names() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let tree = bench.workspace.folder("tree");
    fs::write(tree.join("file"), "x").expect("ours");
    let archive = bench.workspace.path("a.tar");
    let (file, folder) = (archive.to_str().expect("text"), tree.to_str().expect("text"));
    run("tar", &["--owner=guest:7", "--group=staff:8", "-cf", file, "-C", folder, "file"]);
    bench.guest.mkdir("/etc")?;
    bench.guest.write("/etc/passwd", "root:x:0:0::/:\nguest:x:1234:5::/:\n")?;
    let owner = |guest: &Guestfs| guest.stat("/file").map(|attr| (attr.uid, attr.gid));
    bench.guest.tar_in(&archive, "/")?;
    assert_eq!(owner(&bench.guest)?, (7, 8));
    let options = TarInOptions { numeric_owner: false, ..TarInOptions::default() };
    bench.guest.tar_in_from(&archive, "/", &options)?;
    assert_eq!(owner(&bench.guest)?, (1234, 8));
    let options = TarInOptions { owners: false, ..TarInOptions::default() };
    bench.guest.tar_in_with(&mut fs::File::open(&archive).expect("ours"), "/", &options)?;
    assert_eq!(owner(&bench.guest)?, (0, 0));
    bench.close();
    Ok(())
}

#[test]
fn a_full_guest_keeps_what_it_had() -> Result<()> {
    let Some(mut bench) = Bench::new(16) else { return Ok(()) };
    let guest = &bench.guest;
    guest.write("/precious", "as it was")?;
    let large = bench.workspace.folder("tree").join("large");
    fs::write(&large, ext4::noise(40 << 20, 3)).expect("ours");
    refused(guest.upload(&large, "/precious"), libc::ENOSPC);
    refused(guest.upload(&large, "/new"), libc::ENOSPC);
    refused(guest.copy_in(&large, "/"), libc::ENOSPC);
    refused(guest.write("/precious", fs::read(&large).expect("ours")), libc::ENOSPC);
    let archive = bench.workspace.path("a.tar");
    run(
        "tar",
        &[OsStr::new("-cf"), archive.as_ref(), "-C".as_ref(), large.parent().expect("a folder").as_ref(), ".".as_ref()],
    );
    refused(guest.tar_in(&archive, "/"), libc::ENOSPC);
    assert_eq!(guest.find("/")?, ["precious"], "nothing half-written");
    assert_eq!(guest.cat("/precious")?, "as it was");
    // A person who ends it leaves nothing either.
    fs::write(&large, ext4::noise(5 << 20, 3)).expect("ours");
    bench.guest.set_progress_callback(|progress| {
        if progress.done > 2 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let guest = &bench.guest;
    refused(guest.upload(&large, "/precious"), libc::EINTR);
    refused(guest.copy_in(&large, "/"), libc::EINTR);
    refused(guest.tar_in(&archive, "/"), libc::EINTR);
    assert_eq!(guest.find("/")?, ["precious"]);
    bench.close();
    Ok(())
}

#[test]
fn what_is_mounted_for_reading_says_what_to_do() -> Result<()> {
    let Some(mut bench) = Bench::new(16) else { return Ok(()) };
    bench.guest.write("/file", "x")?;
    bench.close();
    let before = fs::read(&bench.image).expect("reads");
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(&bench.image)?;
    guest.launch()?;
    guest.mount("/dev/sda", "/")?;
    let source = bench.workspace.path("a");
    fs::write(&source, "x").expect("ours");
    for result in [
        guest.write("/file", "y"),
        guest.write("/new", "y"),
        guest.write_append("/file", "y"),
        guest.upload(&source, "/file").map(drop),
        guest.mkdir("/d"),
        guest.rm("/file"),
        guest.rm_rf("/file"),
        guest.mv("/file", "/other"),
        guest.ln("/file", "/other"),
        guest.ln_s("file", "/other"),
        guest.cp("/file", "/other"),
        guest.cp_a("/file", "/other"),
        guest.chmod(0, "/file"),
        guest.truncate("/file"),
        guest.setxattr("user.a", "b", "/file"),
        guest.copy_in(&source, "/"),
        guest.tar_in(&source, "/"),
        guest.touch("/file"),
        guest.zero_free_space("/"),
        guest.fstrim("/").map(drop),
    ] {
        let error = result.expect_err("refused");
        assert!(error.is_errno(libc::EROFS) && error.to_string().contains("add_drive"), "{error}");
    }
    guest.shutdown()?;
    assert!(fs::read(&bench.image).expect("reads") == before);
    Ok(())
}

#[test]
fn a_link_of_the_guest_never_leads_to_the_host() -> Result<()> {
    let Some(mut bench) = Bench::new(16) else { return Ok(()) };
    let outside = bench.workspace.folder("outside");
    let guest = &bench.guest;
    let name = outside.to_str().expect("text");
    guest.ln_s(name, "/out")?;
    guest.ln_s(format!("{name}/file"), "/file")?;
    guest.ln_s("../../../../../..", "/up")?;
    refused(guest.write("/out/file", "x"), libc::ENOENT);
    refused(guest.write("/file", "x"), libc::ENOENT);
    guest.write(format!("/up/{}", "made-by-guestctl-test"), "x")?;
    assert!(guest.exists("/made-by-guestctl-test")? && !Path::new("/made-by-guestctl-test").exists());
    guest.mkdir_p(name)?;
    guest.write("/file", "x")?;
    guest.write("/out/other", "x")?;
    assert_eq!(guest.cat(format!("{name}/file"))?, "x");
    // A link of the host is copied, not followed.
    symlink("/etc/hostname", outside.join("link")).expect("ours");
    guest.copy_in(outside.join("link"), "/")?;
    assert!(guest.is_symlink("/link")?);
    assert!(fs::read_dir(&outside).expect("ours").count() == 1, "nothing went there");
    bench.close();
    Ok(())
}

#[test]
fn fifty_handles_write_side_by_side() {
    let Some(bench) = Bench::new(16) else { return };
    let Bench { workspace, image, mut guest } = bench;
    guest.shutdown().expect("closes");
    let images: Vec<PathBuf> = (0..50)
        .map(|number| {
            let copy = workspace.path(&format!("{number}.img"));
            run("cp", &[OsStr::new("--sparse=always"), image.as_ref(), copy.as_ref()]);
            copy
        })
        .collect();
    let handles: Vec<Guestfs> = images.iter().map(|image| open(image).expect("the image mounts")).collect();
    std::thread::scope(|scope| {
        for (number, mut guest) in handles.into_iter().enumerate() {
            scope.spawn(move || {
                guest.mkdir_p("/a/b").expect("writes");
                guest.write("/a/b/c", format!("{number}")).expect("writes");
                assert_eq!(guest.cat("/a/b/c").expect("reads"), format!("{number}"));
                guest.shutdown().expect("closes");
            });
        }
    });
    for image in images.iter().step_by(10) {
        check(image);
    }
}

#[test]
fn several_threads_write_through_one_handle() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    let guest = &bench.guest;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                guest.mkdir(format!("/{thread}")).expect("makes");
                for number in 0..100 {
                    let path = format!("/{thread}/{number}");
                    guest.write(&path, path.as_bytes()).expect("writes");
                    guest.write("/all", path.as_bytes()).expect("writes");
                }
            });
        }
    });
    let mount = bench.look();
    assert_eq!(fs::read(mount.path.join("7/99")).expect("reads"), b"/7/99");
    assert_eq!(fs::read_dir(&mount.path).expect("reads").count(), 9, "and nothing that was not complete");
    Ok(())
}

#[test]
fn the_tree_on_a_folder_is_written_there() -> Result<()> {
    let Some(mut bench) = Bench::new(64) else { return Ok(()) };
    if let Some(why) = common::guest::cannot_mount() {
        skip(why);
        return Ok(());
    }
    let folder = bench.workspace.folder("mnt");
    bench.guest.write("/before", "by the handle")?;
    bench.guest.mount_local(&folder)?;
    assert_eq!(fs::read(folder.join("before")).expect("reads"), b"by the handle");
    fs::write(folder.join("through"), "by the mount").expect("writes");
    fs::set_permissions(folder.join("through"), fs::Permissions::from_mode(0o711)).expect("changes");
    assert!(matches!(bench.guest.write("/not", "now").expect_err("refused").root(), Error::InUse(_)));
    bench.guest.umount_local()?;
    assert_eq!(bench.guest.cat("/through")?, "by the mount");
    assert_eq!(bench.guest.stat("/through")?.permissions, 0o711);
    bench.guest.write("/after", "by the handle")?;
    let mount = bench.look();
    assert_eq!(fs::read_dir(&mount.path).expect("reads").count(), 3);
    Ok(())
}

#[test]
fn what_was_deleted_is_zeroes_afterwards() -> Result<()> {
    let Some(mut bench) = Bench::new(24) else { return Ok(()) };
    const SECRET: &[u8] = b"a secret that nobody is to find";
    let holds =
        |image: &Path| fs::read(image).expect("reads").windows(SECRET.len()).filter(|bytes| *bytes == SECRET).count();
    bench.guest.write("/kept", SECRET)?;
    bench.guest.write("/secret", SECRET.repeat(100_000))?;
    bench.guest.sync()?;
    assert!(holds(&bench.image) > 90_000);
    bench.guest.rm("/secret")?;
    let free = bench.guest.statvfs("/")?.blocks_free;
    bench.guest.zero_free_space("/")?;
    assert_eq!(bench.guest.statvfs("/")?.blocks_free, free);
    assert_eq!(bench.guest.find("/")?, ["kept"], "nothing is left of it");
    refused(bench.guest.zero_free_space("/kept"), libc::ENOTDIR);
    refused(bench.guest.zero_free_space("/none"), libc::ENOENT);
    bench.guest.set_progress_callback(|progress| {
        assert!(progress.total > 8 << 20);
        if progress.done > 2 << 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    refused(bench.guest.zero_free_space("/"), libc::EINTR);
    assert_eq!(bench.guest.statvfs("/")?.blocks_free, free);
    bench.close();
    assert_eq!(holds(&bench.image), 1, "what is kept");
    Ok(())
}

#[test]
fn the_superblock_of_ext4_is_changed_as_tune2fs_changes_it() -> Result<()> {
    const UUID: &str = "01234567-89ab-4cde-8f01-23456789abcd";
    let (Some(mke2fs), Some(tune2fs)) = (tool("mke2fs"), tool("tune2fs")) else {
        skip("there is no mke2fs or no tune2fs");
        return Ok(());
    };
    let workspace = Workspace::new();
    let features = [
        "metadata_csum,metadata_csum_seed",
        "^metadata_csum,^uninit_bg",
        "metadata_csum,^metadata_csum_seed,^sparse_super,^resize_inode",
    ];
    for (place, features) in features.into_iter().enumerate() {
        let (ours, theirs) = (workspace.path(&format!("ours{place}")), workspace.path(&format!("theirs{place}")));
        run("truncate", &[OsStr::new("-s"), "60M".as_ref(), ours.as_ref()]);
        run(mke2fs.to_str().expect("text"), &["-q", "-t", "ext4", "-O", features, ours.to_str().expect("text")]);
        for (what, value) in [("-L", "a new label"), ("-L", ""), ("-U", UUID)] {
            fs::copy(&ours, &theirs).expect("room");
            run(tune2fs.to_str().expect("text"), &[what, value, theirs.to_str().expect("text")]);
            let mut guest = Guestfs::new()?;
            guest.add_drive(&ours)?;
            guest.launch()?;
            if what == "-L" {
                guest.set_label("/dev/sda", value)?
            } else {
                guest.set_uuid("/dev/sda", value)?
            }
            guest.shutdown()?;
            let (mut one, mut other) = (fs::read(&ours).expect("ours"), fs::read(&theirs).expect("ours"));
            // Superblocks say when they were written, and their checksums depend on that.
            for bytes in [&mut one, &mut other] {
                for block in bytes.chunks_exact_mut(1024).filter(|block| block[0x38..0x3a] == [0x53, 0xef]) {
                    block[0x30..0x34].fill(0);
                    block[0x3fc..].fill(0);
                }
            }
            assert!(one == other, "{features}: {what} {value:?}");
            check(&ours);
        }
    }
    Ok(())
}

#[test]
fn labels_and_uuids_are_set_as_blkid_shows_them() -> Result<()> {
    const UUID: &str = "01234567-89ab-4cde-8f01-23456789abcd";
    if !has_tool("mke2fs") || !has_tool("blkid") {
        skip("there is no mke2fs or no blkid");
        return Ok(());
    }
    let workspace = Workspace::new();
    for (kind, maker, megabytes) in [
        ("ext4", "mke2fs", 32),
        ("xfs", "mkfs.xfs", 320),
        ("btrfs", "mkfs.btrfs", 128),
        ("vfat", "mkfs.vfat", 40),
        ("swap", "mkswap", 8),
    ] {
        if !is_there(maker) {
            continue;
        }
        let image = workspace.path(kind);
        let mut guest = Guestfs::new()?;
        guest.disk_create(&image, "raw", megabytes << 20)?;
        guest.add_drive(&image)?;
        guest.launch()?;
        guest.mkfs(kind, "/dev/sda")?;
        let uuid = if kind == "vfat" { "1234-ABCD" } else { UUID };
        guest.set_label("/dev/sda", "NEW")?;
        guest.set_uuid("/dev/sda", uuid)?;
        assert_eq!(
            (guest.vfs_label("/dev/sda")?.as_str(), guest.vfs_uuid("/dev/sda")?.as_str()),
            ("NEW", uuid),
            "{kind}"
        );
        assert!(matches!(guest.set_label("/dev/sda", &"x".repeat(300)), Err(Error::Usage(_))));
        if kind == "ext4" {
            guest.mount("/dev/sda", "/")?;
            assert!(matches!(guest.set_label("/dev/sda", "x"), Err(Error::InUse(_))));
            guest.write("/file", "x")?;
            assert!(guest.fstrim("/")? > 0);
        }
        guest.shutdown()?;
        let shown = run("blkid", &[OsStr::new("-p"), "-o".as_ref(), "export".as_ref(), image.as_ref()]);
        let shown = String::from_utf8_lossy(&shown).into_owned();
        assert!(shown.contains("LABEL=NEW") && shown.contains(&format!("UUID={uuid}")), "{kind}: {shown}");
        if kind == "ext4" {
            check(&image);
        }
    }
    let image = workspace.path("none");
    let mut guest = Guestfs::new()?;
    guest.disk_create(&image, "raw", 1 << 20)?;
    guest.add_drive(&image)?;
    guest.launch()?;
    assert!(matches!(guest.set_label("/dev/sda", "x").expect_err("nothing there").root(), Error::NotAnImage(_)));
    Ok(())
}
