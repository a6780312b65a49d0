//! Devices that are part of something: disks behind bcache, members of RAID arrays of firmware and of pools.

mod common;

use common::guest::{Workspace, guestctl, output, run};
use guestctl::block::MemoryDevice;
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Source, Stack, VolumeKind, assemble};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn open(bytes: Vec<u8>) -> Stack {
    let device = Arc::new(MemoryDevice::new(bytes));
    let source = Source { name: "sda".into(), device, location: "disk".into() };
    assemble(&[source], &NoKeys).expect("the first sector is read")
}

/// Makes a disk behind bcache with an ext4 filesystem.
fn behind_bcache(space: &Workspace, options: &[&str]) -> std::path::PathBuf {
    let image = space.path("backing");
    fs::File::create(&image).and_then(|file| file.set_len(8 << 20)).expect("there is room");
    run("make-bcache", &[&["-B"], options, &[text(&image)]].concat());
    let inner = space.ext4_image("inner", &space.small_tree());
    let offset = if options.is_empty() { 8192 } else { 65536 };
    let file = fs::OpenOptions::new().write(true).open(&image).expect("it is there");
    file.write_all_at(&fs::read(inner).expect("it is there"), offset).expect("there is room");
    image
}

/// Stores a state and a mode of the cache in the superblock, with its checksum.
fn set_state(bytes: &mut [u8], state: u64, mode: u64) {
    let flags = state << 61 | mode;
    bytes[4096 + 104..][..8].copy_from_slice(&flags.to_le_bytes());
    let sum = crc::Crc::<u64>::new(&crc::CRC_64_WE).checksum(&bytes[4096 + 8..4096 + 208]);
    bytes[4096..][..8].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn a_disk_behind_bcache_is_read_past_its_superblock() {
    if !common::has_tool("make-bcache") {
        return common::skip("make-bcache is not installed");
    }
    for options in [&[][..], &["--data-offset", "128"]] {
        let space = Workspace::new();
        let image = behind_bcache(&space, options);
        let (code, out, error) = guestctl(&["filesystems", "--tree", text(&image)]);
        let out = String::from_utf8(out).expect("text");
        assert_eq!(code, 0, "{error}");
        assert!(out.contains("/dev/bcache0") && out.contains("bcache") && out.contains("ext4"), "{out}");
        let (code, out, error) = guestctl(&["ls", text(&image), "/"]);
        assert_eq!(code, 0, "{error}");
        assert!(!out.is_empty());
    }
}

#[test]
fn a_disk_behind_bcache_whose_cache_holds_newer_data_is_refused_by_name() {
    if !common::has_tool("make-bcache") {
        return common::skip("make-bcache is not installed");
    }
    let space = Workspace::new();
    let whole = fs::read(behind_bcache(&space, &[])).expect("it is there");
    for (state, mode, said) in [
        (0, 0, None),
        (1, 0, None),
        (1, 1, None),
        (2, 1, Some("its cache holds newer data")),
        (3, 1, Some("whose cache was lost")),
    ] {
        let mut bytes = whole.clone();
        set_state(&mut bytes, state, mode);
        let stack = open(bytes);
        let is_open = stack.volumes.iter().any(|found| matches!(found.volume.kind, VolumeKind::Backing { .. }));
        assert_eq!(is_open, said.is_none(), "{state} {mode}: {:?}", stack.warnings);
        if let Some(said) = said {
            assert!(stack.warnings.iter().any(|warning| warning.contains(said)), "{:?}", stack.warnings);
        }
    }
    let mut bytes = whole.clone();
    bytes[4096 + 200] ^= 1;
    let stack = open(bytes);
    assert!(stack.warnings.iter().any(|warning| warning.contains("checksum")), "{:?}", stack.warnings);
}

#[test]
fn members_of_arrays_of_firmware_are_named() {
    let mut intel = vec![0; 4 << 20];
    let at = intel.len() - 1024;
    intel[at..at + 30].copy_from_slice(b"Intel Raid ISM Cfg Sig. 1.3.00");
    let mut common = vec![0; 4 << 20];
    let at = common.len() - 512;
    common[at..at + 4].copy_from_slice(&[0xde, 0x11, 0xde, 0x11]);
    common[at + 32..at + 40].copy_from_slice(b"01.02.00");
    let space = Workspace::new();
    for (bytes, name, kind) in [(intel, "IMSM", "isw_raid_member"), (common, "DDF", "ddf_raid_member")] {
        let image = space.path(name);
        fs::write(&image, &bytes).expect("there is room");
        let stack = open(bytes);
        assert!(stack.warnings.iter().any(|warning| warning.contains(name)), "{:?}", stack.warnings);
        let (code, out, error) = guestctl(&["filesystems", text(&image)]);
        assert_eq!(code, 0, "{error}");
        assert!(String::from_utf8_lossy(&out).contains(kind) && error.contains(name), "{error}");
        if common::is_there("blkid") {
            let told = output("blkid", &["-p", "-o", "value", "-s", "TYPE", text(&image)]);
            assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), kind);
        }
    }
}

/// Appends a pair of a list of names and values of ZFS, in XDR.
fn pair(list: &mut Vec<u8>, name: &str, kind: u32, value: &[u8]) {
    let padded = |len: usize| len.next_multiple_of(4);
    let size = 12 + padded(name.len()) + 8 + value.len();
    for number in [size as u32, size as u32, name.len() as u32] {
        list.extend(number.to_be_bytes());
    }
    list.extend(name.bytes().chain(std::iter::repeat(0)).take(padded(name.len())));
    list.extend(kind.to_be_bytes());
    list.extend(1_u32.to_be_bytes());
    list.extend(value);
}

#[test]
fn members_of_pools_are_shown_with_their_pool() {
    let mut zfs = vec![0; 4 << 20];
    let mut list = vec![1, 1, 0, 0];
    list.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    pair(&mut list, "version", 8, &5000_u64.to_be_bytes());
    pair(&mut list, "name", 9, b"\0\0\0\x04tank");
    pair(&mut list, "pool_guid", 8, &1_234_567_890_123_456_789_u64.to_be_bytes());
    zfs[16 << 10..][..list.len()].copy_from_slice(&list);
    for slot in 0..8 {
        let at = (128 << 10) + 1024 * slot;
        zfs[at..at + 8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
        zfs[at + 8..at + 16].copy_from_slice(&5000_u64.to_le_bytes());
    }
    let space = Workspace::new();
    let image = space.path("zfs");
    fs::write(&image, zfs).expect("there is room");
    let (code, out, error) = guestctl(&["filesystems", text(&image)]);
    let out = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("zfs_member") && out.contains("tank") && out.contains("1234567890123456789"), "{out}");

    if !common::has_tool("mkfs.btrfs") {
        return common::skip("mkfs.btrfs is not installed");
    }
    let disks = [space.path("one"), space.path("two")];
    for disk in &disks {
        fs::File::create(disk).and_then(|file| file.set_len(128 << 20)).expect("there is room");
    }
    let uuid = "01234567-89ab-cdef-0123-456789abcdef";
    run("mkfs.btrfs", &["-q", "-f", "-L", "pool", "-U", uuid, "-d", "raid1", text(&disks[0]), text(&disks[1])]);
    let (code, out, error) = guestctl(&["filesystems", text(&disks[0]), "--add", text(&disks[1])]);
    let out = String::from_utf8_lossy(&out).into_owned();
    assert_eq!(code, 0, "{error}");
    let members: Vec<&str> = out.lines().filter(|line| line.contains("pool") && line.contains(uuid)).collect();
    assert_eq!(members.len(), 2, "{out}");
}
