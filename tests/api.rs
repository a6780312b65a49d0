//! The handle's calls: what they return, what they refuse, and many handles at once.

mod common;

use common::guest::{Workspace, cannot_mount, run, small_guest};
use common::{has_tool, is_there, skip};
use guestctl::guestfs::{Layout, MkfsOptions};
use guestctl::tree::Visit;
use guestctl::{Error, Guestfs, Result};
use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Can only be called with what may go to another thread.
fn must_be_send<T: Send>(_: &T) {}

fn mounted(image: &Path) -> Result<Guestfs> {
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(image)?;
    guest.launch()?;
    guest.mount_ro("/dev/sda", "/")?;
    Ok(guest)
}

fn small() -> Option<(Workspace, Guestfs)> {
    let (workspace, _, image) = small_guest()?;
    let guest = mounted(&image).expect("the image mounts");
    Some((workspace, guest))
}

#[test]
fn a_handle_goes_to_another_thread() {
    let guest = Guestfs::new().expect("a handle");
    must_be_send(&guest);
}

#[test]
fn calls_out_of_order_are_clear_errors() -> Result<(), Box<dyn std::error::Error>> {
    let mut guest = Guestfs::new()?;
    assert!(!guest.is_ready());
    assert!(matches!(guest.launch(), Err(Error::Usage(_))), "no drive");
    assert!(matches!(guest.list_devices(), Err(Error::Usage(_))));
    assert!(matches!(guest.cat("/etc/fstab"), Err(Error::Usage(_))));
    assert!(matches!(guest.add_drive_opts("x", Some("zip"), true), Err(Error::Usage(_))));
    guest.add_drive_ro("/no/such/image")?;
    let error = guest.launch().expect_err("it does not exist");
    assert!(matches!(error.root(), Error::NotFound(_)) && error.to_string().contains("/no/such/image"), "{error}");
    guest.shutdown()?;
    Ok(())
}

#[test]
fn files_are_read_as_they_are() -> Result<()> {
    let Some((workspace, guest)) = small() else { return Ok(()) };
    let tree = workspace.path("tree");
    assert_eq!(guest.cat("/absolute")?, "guest\n");
    assert_eq!(guest.read_file("/usr/bin/large")?, fs::read(tree.join("usr/bin/large")).expect("reads"));
    assert_eq!(guest.read_lines("/var/file-003")?, ["3"; 3]);
    assert_eq!(guest.head("/var/file-100")?.len(), 10);
    assert_eq!(guest.head_n(0, "/var/file-100")?.len(), 0);
    assert_eq!(guest.tail_n(3, "/var/file-002")?.len(), 2);
    assert_eq!(guest.pread("/etc/hostname", 3, 2)?, b"est");
    assert_eq!(guest.pread("/etc/hostname", 10, 1 << 60)?, b"");
    assert_eq!(guest.filesize("/usr/bin/large")?, 3_000_000);
    assert_eq!(guest.readlink("/absolute")?, "/etc/hostname");
    assert_eq!(guest.realpath("/bin/../bin/same")?, "/usr/bin/same");
    assert!(guest.exists("/bin")? && !guest.exists("/none")?);
    assert!(guest.is_dir("/etc")? && guest.is_symlink("/bin")? && guest.is_file("/etc/empty")?);
    assert!(
        !guest.is_fifo("/etc")?
            && !guest.is_socket("/etc")?
            && !guest.is_blockdev("/etc")?
            && !guest.is_chardev("/etc")?
    );
    assert!(guest.equal("/usr/bin/large", "/usr/bin/same")? && !guest.equal("/etc/hostname", "/etc/empty")?);
    assert_eq!(guest.ls("/usr/bin")?, ["large", "same"]);
    assert_eq!(guest.ls("/etc")?, ["empty", "hostname"]);
    assert_eq!(guest.readdir("/etc")?.len(), 2);
    assert_eq!(guest.stat("/bin")?.file_type, guestctl::fs::FileType::Directory);
    assert_eq!(guest.lstat("/bin")?.file_type, guestctl::fs::FileType::Symlink);
    assert_eq!(guest.statns("/etc/hostname")?.st_size, 6);
    assert_eq!(guest.find("/usr")?, ["bin", "bin/large", "bin/same"]);
    assert_eq!(guest.statvfs("/")?.block_size, 1024);
    assert!(guest.ll("/etc")?.contains("hostname"));
    assert_eq!(guest.getxattrs("/etc/hostname")?.len(), 0);
    for (error, errno) in [
        (guest.cat("/none").map(drop), libc::ENOENT),
        (guest.cat("/etc").map(drop), libc::EISDIR),
        (guest.ls("/etc/hostname").map(drop), libc::ENOTDIR),
        (guest.find("/etc/hostname").map(drop), libc::ENOTDIR),
        (guest.readlink("/etc").map(drop), libc::EINVAL),
        (guest.download_offset("/etc/hostname", workspace.path("x"), u64::MAX, 5).map(drop), libc::EINVAL),
    ] {
        let error = error.expect_err("refused");
        assert!(error.is_errno(errno), "{error}");
    }
    Ok(())
}

#[test]
fn files_are_searched() -> Result<()> {
    let Some((_workspace, guest)) = small() else { return Ok(()) };
    assert_eq!(guest.grep("^gu.*t$", "/etc/hostname")?, ["guest"]);
    assert!(matches!(guest.grep("(", "/etc/hostname"), Err(Error::Usage(_))));
    assert_eq!(guest.strings("/etc/hostname")?, ["guest"]);
    assert_eq!(guest.glob_expand("/var/file-00[1-3]")?, ["/var/file-001", "/var/file-002", "/var/file-003"]);
    assert_eq!(guest.glob_expand("/*/bin/l*")?, ["/usr/bin/large"]);
    assert_eq!(guest.glob_expand("/bin/same")?, ["/bin/same"]);
    assert_eq!(guest.glob_expand("/none*")?, [""; 0]);
    assert_eq!(guest.file_type("/etc/hostname")?, "ASCII text");
    assert_eq!(guest.file_type("/etc/empty")?, "empty");
    assert_eq!(guest.file_type("/bin")?, "directory");
    let mut names = 0;
    guest.walk("/var", |file| {
        names += 1;
        Ok(if file.depth == 0 { Visit::Enter } else { Visit::Skip })
    })?;
    assert_eq!(names, 302);
    Ok(())
}

#[test]
fn files_come_to_the_host_whole_or_not_at_all() -> Result<()> {
    let Some((workspace, mut guest)) = small() else { return Ok(()) };
    let to = workspace.path("large");
    assert_eq!(guest.download("/usr/bin/large", &to)?, 3_000_000);
    assert_eq!(fs::read(&to).expect("reads"), guest.read_file("/usr/bin/large")?);
    fs::write(&to, "precious").expect("ours");
    let seen = Arc::new(AtomicU64::new(0));
    let last = Arc::clone(&seen);
    guest.set_progress_callback(move |progress| {
        last.store(progress.done, Ordering::Relaxed);
        assert_eq!(progress.total, 3_000_000);
        if progress.done > 1_500_000 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(guest.download("/usr/bin/large", &to).expect_err("ended").is_errno(libc::EINTR));
    assert_eq!(fs::read(&to).expect("reads"), b"precious");
    assert!(seen.load(Ordering::Relaxed) > 1_500_000);
    guest.clear_progress_callback();
    assert_eq!(guest.download_offset("/usr/bin/large", &to, 1_000_000, 10)?, 10);
    assert_eq!(fs::metadata(&to).expect("ours").len(), 1_000_010);
    assert!(guest.download("/etc/hostname", "/nowhere/at/all").is_err());
    let archive = workspace.path("etc.tar.gz");
    guest.tgz_out("/etc", &archive)?;
    guest.tar_out("/etc", "/dev/null")?;
    assert!(matches!(guest.tar_out_opts("/etc", &archive, Some("rar")), Err(Error::Usage(_))));
    guest.checksums_out("md5", "/etc", workspace.path("sums"))?;
    guest.find0("/etc", workspace.path("names"))?;
    assert_eq!(fs::read(workspace.path("names")).expect("reads"), b"empty\0hostname\0");
    guest.copy_out("/etc", workspace.folder("copied"))?;
    assert_eq!(fs::read(workspace.path("copied/etc/hostname")).expect("reads"), b"guest\n");
    if is_there("cpio") {
        let archive = workspace.path("all.cpio");
        guest.cpio_out("/", &archive)?;
        let folder = workspace.folder("from-cpio");
        let script = format!("cd {} && cpio -idm --quiet <{}", folder.display(), archive.display());
        run("sh", &["-c", &script]);
        fs::remove_dir_all(folder.join("lost+found")).expect("mke2fs made it");
        let tree = workspace.path("tree");
        run("diff", &[OsStr::new("-r"), "--no-dereference".as_ref(), tree.as_ref(), folder.as_ref()]);
        let same = |name: &str| fs::metadata(folder.join(name)).expect("unpacked").ino();
        assert_eq!(same("usr/bin/large"), same("usr/bin/same"), "one file with two names");
    }
    Ok(())
}

#[test]
fn fifty_handles_live_side_by_side() {
    let Some((workspace, _)) = small() else { return };
    let image = workspace.path("disk.img");
    let handles: Vec<Guestfs> = (0..50).map(|_| mounted(&image).expect("the image mounts")).collect();
    std::thread::scope(|scope| {
        for guest in handles {
            scope.spawn(move || {
                assert_eq!(guest.cat("/etc/hostname").expect("reads"), "guest\n");
                assert_eq!(guest.find("/").expect("reads").len(), 312);
            });
        }
    });
}

#[test]
fn devices_have_many_names_and_one_meaning() -> Result<()> {
    let Some((_workspace, guest)) = small() else { return Ok(()) };
    assert_eq!(guest.list_devices()?, ["/dev/sda"]);
    assert_eq!(guest.list_partitions()?, [""; 0]);
    let filesystems: std::collections::BTreeMap<_, _> = guest.list_filesystems()?.into_iter().collect();
    assert_eq!(filesystems["/dev/sda"], "ext4");
    assert_eq!(guest.vfs_type("/dev/vda")?, "ext4");
    assert_eq!(guest.blockdev_getsize64("sda")?, 32 << 20);
    assert_eq!(guest.device_index("/dev/hda")?, 0);
    assert_eq!(guest.vfs_label("/dev/sda")?, "");
    assert_eq!(guest.mounts(), ["/dev/sda"]);
    assert_eq!(guest.mountpoints(), [(String::from("/"), String::from("/dev/sda"))]);
    assert!(matches!(guest.vfs_type("/dev/sdb"), Err(Error::NotFound(_))));
    assert!(matches!(guest.part_get_parttype("/dev/sda"), Err(Error::NotFound(_))));
    Ok(())
}

#[test]
fn a_drive_that_is_read_only_stays_as_it_is() -> Result<()> {
    let Some((workspace, mut guest)) = small() else { return Ok(()) };
    let image = workspace.path("disk.img");
    let before = fs::read(&image).expect("reads");
    guest.umount_all()?;
    assert!(guest.mkfs("ext4", "/dev/sda").expect_err("refused").is_errno(libc::EROFS));
    assert!(guest.part_init("/dev/sda", "gpt").expect_err("refused").is_errno(libc::EROFS));
    assert!(guest.zero("/dev/sda").expect_err("refused").is_errno(libc::EROFS));
    assert!(fs::read(&image).expect("reads") == before);
    let taken = guest.disk_create(&image, "raw", 1 << 20).expect_err("the file exists");
    assert!(taken.is_errno(libc::EEXIST), "{taken}");
    Ok(())
}

/// Opens a new image for writing.
fn fresh(path: &Path, format: &str, size: u64) -> Result<Guestfs> {
    let mut guest = Guestfs::new()?;
    guest.disk_create(path, format, size)?;
    guest.add_drive(path)?;
    guest.launch()?;
    Ok(guest)
}

#[test]
fn partitions_are_what_sfdisk_sees() -> Result<()> {
    if !has_tool("sfdisk") {
        skip("there is no sfdisk");
        return Ok(());
    }
    let workspace = Workspace::new();
    for (kind, label) in [("gpt", "gpt"), ("mbr", "dos")] {
        let path = workspace.path(&format!("{kind}.img"));
        let mut guest = fresh(&path, "raw", 100 << 20)?;
        assert!(guest.part_add_size("/dev/sda", None).is_err(), "there is no table yet");
        guest.part_init("/dev/sda", kind)?;
        assert_eq!(guest.part_add_size("/dev/sda", Some(10 << 20))?, "/dev/sda1");
        guest.part_add("/dev/sda", "primary", 40960, 61439)?;
        assert_eq!(guest.part_add_size("/dev/sda", None)?, "/dev/sda3");
        assert!(guest.part_add("/dev/sda", "primary", 40960, 61439).is_err(), "it would lie over another");
        guest.part_set_bootable("/dev/sda", 1, true)?;
        match kind {
            "gpt" => {
                guest.part_set_name("/dev/sda", 2, "d\u{e4}ta")?;
                guest.part_set_gpt_type("/dev/sda", 1, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B")?;
                assert_eq!(guest.part_get_name("/dev/sda", 2)?, "d\u{e4}ta");
                assert_eq!(guest.part_get_gpt_type("/dev/sda", 1)?, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
                assert!(guest.part_set_mbr_id("/dev/sda", 1, 7).is_err());
            }
            _ => {
                guest.part_set_mbr_id("/dev/sda", 1, 7)?;
                assert_eq!(guest.part_get_mbr_id("/dev/sda", 1)?, 7);
                assert!(guest.part_set_name("/dev/sda", 1, "x").is_err());
            }
        }
        guest.part_del("/dev/sda", 3)?;
        assert!(guest.part_del("/dev/sda", 3).is_err());
        assert!(guest.part_get_bootable("/dev/sda", 1)? && !guest.part_get_bootable("/dev/sda", 2)?);
        assert_eq!(guest.part_to_dev("/dev/sda2")?, "/dev/sda");
        assert_eq!(guest.part_to_partnum("/dev/sda2")?, 2);
        let ours = guest.part_list("/dev/sda")?;
        guest.shutdown()?;
        let table = run("sfdisk", &[OsStr::new("--json"), path.as_ref()]);
        let table: serde_json::Value = serde_json::from_slice(&table).expect("JSON");
        let table = &table["partitiontable"];
        assert_eq!(table["label"], label);
        let theirs = table["partitions"].as_array().expect("a list");
        assert_eq!(theirs.len(), 2);
        for (one, other) in ours.iter().zip(theirs) {
            assert_eq!(Some(one.start / 512), other["start"].as_u64());
            assert_eq!(Some(one.size / 512), other["size"].as_u64());
        }
        run("sfdisk", &[OsStr::new("--verify"), path.as_ref()]);
        if kind == "gpt" && is_there("sgdisk") {
            let said = run("sgdisk", &[OsStr::new("-v"), path.as_ref()]);
            assert!(String::from_utf8_lossy(&said).contains("No problems found"), "{}", String::from_utf8_lossy(&said));
        }
    }
    Ok(())
}

#[test]
fn filesystems_are_made_by_the_tools_of_the_distribution() -> Result<()> {
    let workspace = Workspace::new();
    for (kind, program, check, arguments) in [
        ("ext4", "mke2fs", "e2fsck", &["-fn"][..]),
        ("ext2", "mke2fs", "e2fsck", &["-fn"]),
        ("xfs", "mkfs.xfs", "xfs_repair", &["-n"]),
        ("btrfs", "mkfs.btrfs", "btrfs", &["check", "--readonly"]),
        ("vfat", "mkfs.vfat", "fsck.vfat", &["-n"]),
        ("ntfs", "mkfs.ntfs", "ntfsfix", &["-n"]),
        ("swap", "mkswap", "swaplabel", &[]),
    ] {
        if !has_tool(program) || !has_tool(check) {
            skip(&format!("there is no {program} or no {check}"));
            continue;
        }
        let path = workspace.path(&format!("{kind}.qcow2"));
        let mut guest = fresh(&path, "qcow2", 400 << 20)?;
        // Old bytes must not shine through.
        guest.part_disk("/dev/sda", "gpt")?;
        let options = MkfsOptions { label: Some("NEW".into()), ..MkfsOptions::default() };
        guest.mkfs_opts(kind, "/dev/sda1", &options)?;
        assert_eq!(guest.vfs_type("/dev/sda1")?, kind);
        assert_eq!(guest.vfs_label("/dev/sda1")?, "NEW");
        if guestctl::fs::has_driver(kind) {
            guest.mount_ro("/dev/sda1", "/")?;
            assert!(guest.ls("/")?.len() <= 1, "{kind}");
            assert!(matches!(guest.mkfs(kind, "/dev/sda1"), Err(Error::InUse(_))), "it is mounted");
            guest.umount_all()?;
        }
        let partition = guest.part_list("/dev/sda")?.remove(0);
        guest.shutdown()?;
        assert!(fs::metadata(&path).expect("made").blocks() * 512 < 100 << 20, "{kind} fills the image");
        // The tools want the partition alone.
        let (raw, alone) = (workspace.path("whole"), workspace.path("alone"));
        let options = guestctl::guestfs::convert::ConvertOptions {
            format: Some(guestctl::block::ImageFormat::Raw),
            force: true,
            ..Default::default()
        };
        guestctl::guestfs::convert::convert(path.to_str().expect("text"), &raw, &options)?;
        let script = format!(
            "dd if={} of={} bs=1M iflag=skip_bytes,count_bytes skip={} count={} conv=sparse status=none",
            raw.display(),
            alone.display(),
            partition.start,
            partition.size
        );
        run("sh", &["-c", &script]);
        let mut command: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        command.push(alone.as_ref());
        run(check, &command);
        fs::remove_file(&alone).expect("ours");
    }
    let mut guest = fresh(&workspace.path("x.img"), "raw", 100 << 20)?;
    assert!(matches!(guest.mkfs("zfs", "/dev/sda").expect_err("unknown").root(), Error::Usage(_)));
    assert!(guest.mkfs("ext4", "/dev/sdb").is_err());
    let long = MkfsOptions { label: Some("x".repeat(17)), ..MkfsOptions::default() };
    assert!(matches!(guest.mkfs_opts("ext4", "/dev/sda", &long).expect_err("too long").root(), Error::Usage(_)));
    guest.mkfs("ext4", "/dev/sda")?;
    guest.wipefs("/dev/sda")?;
    assert_eq!(guest.vfs_type("/dev/sda")?, "");
    guest.zero("/dev/sda")?;
    guest.shutdown()?;
    let bytes = fs::read(workspace.path("x.img")).expect("reads");
    assert!(bytes.iter().all(|&byte| byte == 0), "all of it is zero");
    Ok(())
}

#[test]
fn mounting_for_writing_what_is_read_is_refused() -> Result<()> {
    let Some((workspace, _)) = small() else { return Ok(()) };
    if !guestctl::fs::has_writer("ext4") {
        return Ok(());
    }
    let mut guest = Guestfs::new()?;
    guest.add_drive(workspace.path("disk.img"))?;
    guest.launch()?;
    guest.mount_ro("/dev/sda", "/")?;
    assert!(matches!(guest.mount("/dev/sda", "/"), Err(Error::InUse(_))));
    Ok(())
}

#[test]
fn the_tree_is_mounted_on_the_host() -> Result<()> {
    if let Some(why) = cannot_mount() {
        skip(why);
        return Ok(());
    }
    let Some((workspace, mut guest)) = small() else { return Ok(()) };
    let folder = workspace.folder("mnt");
    assert!(matches!(guest.umount_local(), Err(Error::Usage(_))));
    guest.mount_local(&folder)?;
    assert!(matches!(guest.mount_local(&folder), Err(Error::InUse(_))));
    assert_eq!(fs::read(folder.join("etc/hostname")).expect("reads"), b"guest\n");
    guest.umount_local()?;
    assert!(!folder.join("etc").exists());
    guest.mount_local(&folder)?;
    drop(guest);
    assert!(!folder.join("etc").exists(), "the handle cleans up");
    Ok(())
}

#[test]
fn a_layout_of_several_filesystems_has_a_folder_for_each() -> Result<()> {
    if !has_tool("mke2fs") || !has_tool("sfdisk") || !has_tool("mkfs.vfat") {
        skip("the disk needs mke2fs, sfdisk and mkfs.vfat");
        return Ok(());
    }
    let workspace = Workspace::new();
    let disk = workspace.gpt_disk("gpt.img", &workspace.small_tree());
    let mut guest = Guestfs::new()?;
    guest.add_drive_ro(&disk)?;
    guest.launch()?;
    guest.mount_layout(Layout::Devices, false)?;
    assert_eq!(guest.ls("/")?, ["sda1", "sda2"]);
    assert_eq!(guest.cat("/sda2/etc/hostname")?, "guest\n");
    let checks = guest.check_filesystems(true)?;
    assert!(checks.iter().all(|check| check.damage_count == 0), "{checks:?}");
    assert_eq!(checks.len(), 2);
    Ok(())
}
