//! What the probe says of images, held against `blkid`: images that the tools at hand make, and superblocks written by
//! hand for formats whose tools are seldom installed.

mod common;

use guestctl::block::{BlockDevice, MemoryDevice, RawDevice};
use guestctl::fs::probe::{Identity, Usage, identify};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const MIB: u64 = 1 << 20;

fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new("timeout");
    command.arg("60");
    if common::has_tool("eatmydata") {
        command.arg("eatmydata");
    }
    command.arg(common::tool(program).expect("checked")).args(arguments);
    let output = command.output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

fn image(folder: &Path, size: u64) -> PathBuf {
    let path = folder.join("image");
    let _ = std::fs::remove_file(&path);
    File::create(&path).expect("creates").set_len(size).expect("grows");
    path
}

fn probe(path: &Path) -> Option<Identity> {
    identify(&RawDevice::open(path, false).expect("opens")).expect("probes")
}

/// Undoes `\x2f`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut parts = text.split("\\x");
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        bytes.extend(part[2..].bytes());
    }
    bytes
}

/// Holds the probe against blkid; returns the kind.
fn compare(path: &Path, what: &str) -> &'static str {
    let output = Command::new(common::tool("blkid").expect("checked"))
        .args(["--probe", "--output", "udev"])
        .arg(path)
        .output()
        .expect("runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let said: HashMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let found = probe(path).unwrap_or_else(|| panic!("{what}: nothing found, blkid says {text}"));
    assert_eq!(said.get("ID_FS_TYPE"), Some(&found.kind), "{what}: {text}");
    let label = said.get("ID_FS_LABEL_ENC").map(|text| unescape(text));
    // FAT and NTFS pass through no encoding, and udev replaces what is not UTF-8.
    let plain = label.as_deref().is_none_or(|label| label.is_ascii());
    assert!(!plain || found.label == label, "{what}: {:?} instead of {label:?}", found.label);
    assert_eq!(said.get("ID_FS_UUID_ENC").map(|text| (*text).to_owned()), found.uuid, "{what}");
    if let Some(version) = said.get("ID_FS_VERSION") {
        assert_eq!(found.version.map(String::into_bytes), Some(unescape(version)), "{what}");
    }
    let usage = match found.usage {
        Usage::Filesystem => "filesystem",
        Usage::Raid | Usage::Volume => "raid",
        Usage::Crypto => "crypto",
        Usage::Swap | Usage::Other => "other",
    };
    // A device of a pool is no filesystem by itself, whatever blkid calls it.
    let said_usage = if found.kind == "zfs_member" { "raid" } else { said["ID_FS_USAGE"] };
    assert_eq!(said_usage, usage, "{what}");
    found.kind
}

#[test]
fn what_tools_make_is_what_blkid_says_it_is() {
    if !common::has_tool("blkid") {
        return common::skip("blkid is not installed");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let makers: &[(&str, &[&str], &str)] = &[
        ("mkfs.ext2", &["-q", "-F", "-L", "two"], "ext2"),
        ("mkfs.ext3", &["-q", "-F"], "ext3"),
        ("mkfs.ext4", &["-q", "-F", "-L", "a label of 16 by"], "ext4"),
        ("mkfs.ext4", &["-q", "-F", "-O", "^has_journal"], "ext4"),
        ("mkfs.ext4", &["-q", "-F", "-O", "journal_dev"], "jbd"),
        ("mkfs.xfs", &["-q", "-f", "-L", "twelve bytes"], "xfs"),
        ("mkfs.xfs", &["-q", "-f", "-m", "crc=0", "-b", "size=1024"], "xfs"),
        ("mkfs.btrfs", &["-q", "-f", "-L", "some label"], "btrfs"),
        ("mkfs.vfat", &["-F", "32", "-n", "LABEL"], "vfat"),
        ("mkfs.vfat", &["-F", "32", "-S", "4096", "-i", "0000abcd"], "vfat"),
        ("mkfs.vfat", &["-F", "16", "-n", "TWO WORDS"], "vfat"),
        ("mkfs.vfat", &["-F", "12", "-S", "4096", "-s", "64"], "vfat"),
        ("mkfs.ntfs", &["-F", "-Q", "-q", "-L", "some label"], "ntfs"),
        ("mkfs.ntfs", &["-F", "-Q", "-q", "-s", "4096"], "ntfs"),
        ("mkfs.exfat", &["-L", "some label"], "exfat"),
        ("mkfs.f2fs", &["-q", "-l", "some label"], "f2fs"),
        ("mkfs.jfs", &["-q", "-L", "some label"], "jfs"),
        ("mkfs.reiserfs", &["-q", "-f", "-l", "some label"], "reiserfs"),
        ("mkudffs", &["--label=some label"], "udf"),
        ("mkfs.minix", &["-1"], "minix"),
        ("mkfs.minix", &["-2"], "minix"),
        ("mkfs.minix", &["-3"], "minix"),
        ("mkfs.bfs", &[], "bfs"),
        ("mkswap", &["-L", "some label"], "swap"),
        ("mkswap", &["-p", "65536"], "swap"),
        (
            "cryptsetup",
            &["luksFormat", "--type=luks1", "--pbkdf-force-iterations=1000", "-q", "--key-file=/bin/true"],
            "crypto_LUKS",
        ),
        (
            "cryptsetup",
            &[
                "luksFormat",
                "--type=luks2",
                "--pbkdf=pbkdf2",
                "--pbkdf-force-iterations=1000",
                "--label=some label",
                "-q",
                "--key-file=/bin/true",
            ],
            "crypto_LUKS",
        ),
    ];
    let mut tried = 0;
    for (maker, arguments, kind) in makers {
        if !common::is_there(maker) {
            continue;
        }
        tried += 1;
        let path = image(folder.path(), 400 * MIB);
        let mut arguments = arguments.to_vec();
        arguments.push(path.to_str().expect("text"));
        run(maker, &arguments);
        assert_eq!(compare(&path, &format!("{maker} {arguments:?}")), *kind);
    }
    println!("{tried} of {} images made", makers.len());
}

#[test]
fn packed_filesystems_are_what_blkid_says_they_are() {
    if !common::has_tool("blkid") {
        return common::skip("blkid is not installed");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let (source, path) = (folder.path().join("source"), folder.path().join("image"));
    std::fs::create_dir(&source).expect("makes a folder");
    std::fs::write(source.join("file"), vec![7; 100_000]).expect("writes");
    let (source, target) = (source.to_str().expect("text"), path.to_str().expect("text"));
    let makers: &[(&str, &[&str], &str)] = &[
        ("mksquashfs", &[source, target, "-quiet", "-no-progress"], "squashfs"),
        ("mkfs.cramfs", &["-n", "some label", source, target], "cramfs"),
        ("mkfs.erofs", &["--quiet", target, source], "erofs"),
        ("genromfs", &["-V", "some label", "-d", source, "-f", target], "romfs"),
        ("genisoimage", &["-quiet", "-J", "-V", "some label", "-o", target, source], "iso9660"),
        ("genisoimage", &["-quiet", "-V", "LABEL", "-udf", "-o", target, source], "udf"),
    ];
    for (maker, arguments, kind) in makers {
        if common::is_there(maker) {
            let _ = std::fs::remove_file(&path);
            run(maker, arguments);
            assert_eq!(compare(&path, maker), *kind);
        }
    }
}

/// A label in a language that has more letters than ASCII.
#[test]
fn labels_are_utf_8_where_the_format_has_unicode() {
    if !common::has_tool("mkfs.ntfs") {
        return common::skip("mkfs.ntfs is not installed");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 20 * MIB);
    run("mkfs.ext4", &["-q", "-F", "-L", "Größe ∞", path.to_str().expect("text")]);
    assert_eq!(probe(&path).expect("found").label.as_deref(), Some("Größe ∞".as_bytes()));
    let mut command = Command::new(common::tool("mkfs.ntfs").expect("checked"));
    command.env("LC_ALL", "C.UTF-8").args(["-F", "-Q", "-q", "-L", "Größe ∞"]).arg(&path);
    assert!(command.output().expect("runs").status.success());
    assert_eq!(probe(&path).expect("found").label.as_deref(), Some("Größe ∞".as_bytes()));
}

const SIZE: u64 = 4 * MIB;
const UUID: [u8; 16] = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10";

/// An image that is zero but for some bytes.
struct Crafted(Vec<u8>);

impl Crafted {
    fn new() -> Self {
        Self(vec![0; SIZE as usize])
    }

    fn put(mut self, offset: u64, bytes: &[u8]) -> Self {
        self.0[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        self
    }

    fn le16(self, offset: u64, value: u16) -> Self {
        self.put(offset, &value.to_le_bytes())
    }

    fn le32(self, offset: u64, value: u32) -> Self {
        self.put(offset, &value.to_le_bytes())
    }

    fn le64(self, offset: u64, value: u64) -> Self {
        self.put(offset, &value.to_le_bytes())
    }

    /// Puts the sum of the words of a RAID superblock of `len` bytes at `offset` into its field at `field`.
    fn raid_checksum(self, offset: u64, len: usize, field: u64) -> Self {
        let words = self.0[offset as usize..][..len].chunks_exact(4);
        let sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("four bytes")))).sum();
        self.le32(offset + field, (sum as u32).wrapping_add((sum >> 32) as u32))
    }

    /// Puts a CRC-32 that starts from `seed` and is not inverted into `field`.
    fn crc(self, seed: u32, offset: u64, len: usize, field: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new_with_initial(!seed);
        hasher.update(&self.0[offset as usize..][..len]);
        self.le32(field, !hasher.finalize())
    }
}

fn raid_1(offset: u64) -> Crafted {
    Crafted::new()
        .le32(offset, 0xa92b_4efc)
        .le32(offset + 4, 1)
        .put(offset + 16, &UUID)
        .put(offset + 32, b"host:name")
        .le64(offset + 144, offset / 512)
        .le32(offset + 220, 4)
        .put(offset + 256, &[1, 0, 2, 0, 0xff, 0xff, 3, 0])
        .raid_checksum(offset, 264, 216)
}

fn crafted() -> Vec<(&'static str, Crafted)> {
    let raid_0_at = SIZE - 65536;
    let raid_0 = Crafted::new()
        .le32(raid_0_at, 0xa92b_4efc)
        .le32(raid_0_at + 8, 90)
        .le32(raid_0_at + 20, 0x0123_4567)
        .le32(raid_0_at + 52, 0x89ab_cdef)
        .le32(raid_0_at + 56, 0xfedc_ba98)
        .le32(raid_0_at + 60, 0x7654_3210)
        .raid_checksum(raid_0_at, 4096, 152);
    let lvm = Crafted::new()
        .put(512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001")
        .put(544, b"YYIShIysROdfJaLH2rRnXdDn03wB3Yk9")
        .crc(0xf597_a6cf, 512 + 20, 512 - 20, 512 + 16);
    let reiserfs = |offset: u64, magic: &[u8]| {
        Crafted::new()
            .le32(offset, 1024)
            .le32(offset + 12, 40)
            .le16(offset + 44, 4096)
            .put(offset + 52, magic)
            .put(offset + 84, &UUID)
            .put(offset + 100, b"some label")
    };
    let nilfs2 = Crafted::new()
        .le32(1024, 2)
        .le16(1024 + 6, 0x3434)
        .le16(1024 + 8, 280)
        .le32(1024 + 12, 0x1234_5678)
        .le64(1024 + 32, SIZE)
        .put(1024 + 152, &UUID)
        .put(1024 + 168, b"some label")
        .crc(0x1234_5678, 1024, 280, 1024 + 16);
    let iso = Crafted::new().put(32768, b"\x01CD001\x01").put(32808, b"LABEL                           ");
    let iso = iso
        .put(32768 + 813, b"2024010203040506\0")
        .put(32768 + 830, b"0000000000000000\0")
        .put(34816, b"\xffCD001\x01");
    let joliet = Crafted::new().put(32768, b"\x01CD001\x01").put(32808, b"SOME_LABEL                      ");
    let joliet = joliet.put(32768 + 830, b"2024010203040507\0").put(34816, b"\x02CD001\x01").put(34816 + 88, b"%/E");
    let joliet =
        joliet.put(34816 + 40, b"\0s\0o\0m\0e\0 \0l\0a\0b\0e\0l\0 \0 \0 \0 \0 \0 ").put(36864, b"\xffCD001\x01");
    let ufs2 = Crafted::new()
        .le32(65536 + 1372, 0x1954_0119)
        .put(65536 + 680, b"some label")
        .le32(65536 + 144, 0x1234_5678)
        .le32(65536 + 148, 0x0abc_def0);
    let ufs1 =
        Crafted::new().put(8192 + 1372, &0x0001_1954_u32.to_be_bytes()).put(8192 + 144, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut zfs = Crafted::new();
    for ring in [0, 256 << 10, SIZE - (512 << 10), SIZE - (256 << 10)] {
        for number in 0..8 {
            let at = ring + (128 << 10) + number * 1024;
            zfs = zfs.le64(at, 0x00ba_b10c).le64(at + 8, 5000);
        }
        let list = ring + (16 << 10);
        let string = b"\0\0\0\x24\0\0\0\x20\0\0\0\x04name\0\0\0\x09\0\0\0\x01\0\0\0\x04pool";
        let number =
            b"\0\0\0\x28\0\0\0\x20\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01\x01\x23\x45\x67\x89\xab\xcd\xef";
        zfs = zfs.put(list, b"\x01\x01\0\0\0\0\0\0\0\0\0\x01").put(list + 12, string).put(list + 48, number);
    }
    let hfs_plus =
        Crafted::new().put(1024, b"H+\0\x04").put(1024 + 40, &4096_u32.to_be_bytes()).put(1024 + 104, &UUID[..8]);
    let hfs = Crafted::new().put(1024, b"BD").put(1024 + 14, &[0, 3]).put(1024 + 20, &512_u32.to_be_bytes());
    let hfs = hfs.put(1024 + 36, b"\x0asome label").put(1024 + 116, &UUID[..8]);
    let exfat = Crafted::new()
        .put(0, b"\xeb\x76\x90EXFAT   ")
        .le64(72, SIZE / 512)
        .le32(80, 128)
        .le32(84, 64)
        .le32(88, 256)
        .le32(92, 900)
        .le32(96, 5)
        .le32(100, 0x1234_abcd)
        .le16(104, 0x100)
        .put(108, &[9, 3, 1])
        .le16(510, 0xaa55)
        .le32(128 * 512 + 5 * 4, 0xffff_ffff)
        .put(256 * 512 + 3 * 4096, b"\x81\0")
        .put(256 * 512 + 3 * 4096 + 32, b"\x83\x05l\0a\0b\0e\0l\0");
    let apfs = Crafted::new().le16(24, 1).put(32, b"NXSB").le32(36, 4096).put(72, &UUID);
    let jfs = Crafted::new().put(32768, b"JFS1").le32(32772, 1).le32(32768 + 16, 4096).le16(32768 + 20, 12);
    let jfs = jfs
        .le16(32768 + 22, 3)
        .le32(32768 + 24, 512)
        .le16(32768 + 28, 9)
        .put(32768 + 136, &UUID)
        .put(32768 + 152, b"some label");
    let ocfs2 =
        Crafted::new().put(8192, b"OCFSV2").le16(8192 + 194, 90).put(8192 + 272, b"some label").put(8192 + 336, &UUID);
    let f2fs = Crafted::new().le32(1024, 0xf2f5_2010).le16(1028, 1).le16(1030, 14).le32(1024 + 16, 12);
    let f2fs = f2fs.put(1024 + 108, &UUID).put(1024 + 124, b"l\0a\0b\0e\0l\0");
    let erofs =
        Crafted::new().le32(1024, 0xe0f5_e1e2).put(1036, &[12]).put(1024 + 48, &UUID).put(1024 + 64, b"some label");
    let bcache = Crafted::new()
        .le64(4096 + 8, 8)
        .put(4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")
        .put(4096 + 40, &UUID);
    let bitlocker = Crafted::new()
        .put(0, b"\xeb\x58\x90-FVE-FS-")
        .put(160, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")
        .le64(176, 0x10000)
        .put(0x10000, b"-FVE-FS-\x40\0\x02\0");
    vec![
        ("linux_raid_member", raid_0),
        ("linux_raid_member", raid_1(0)),
        ("linux_raid_member", raid_1(4096)),
        ("linux_raid_member", raid_1(SIZE - 8192)),
        ("LVM2_member", lvm),
        ("isw_raid_member", Crafted::new().put(SIZE - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00")),
        ("BitLocker", bitlocker),
        ("bcache", bcache),
        ("swsuspend", Crafted::new().put(4086, b"S1SUSPEND\0").put(1036, &UUID)),
        ("reiserfs", reiserfs(65536, b"ReIsEr2Fs")),
        ("reiserfs", reiserfs(65536, b"ReIsEr3Fs")),
        ("jfs", jfs),
        ("nilfs2", nilfs2),
        ("ocfs2", ocfs2),
        ("f2fs", f2fs),
        ("erofs", erofs),
        ("romfs", Crafted::new().put(0, b"-rom1fs-").put(16, b"some label")),
        ("iso9660", iso),
        ("iso9660", joliet),
        ("ufs", ufs2),
        ("ufs", ufs1),
        ("zfs_member", zfs),
        ("hfsplus", hfs_plus),
        ("hfs", hfs),
        ("exfat", exfat),
        ("apfs", apfs),
    ]
}

#[test]
fn superblocks_made_by_hand_are_what_blkid_says_they_are() {
    if !common::has_tool("blkid") {
        return common::skip("blkid is not installed");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    for (number, (kind, crafted)) in crafted().into_iter().enumerate() {
        let path = folder.path().join("image");
        std::fs::write(&path, &crafted.0).expect("writes");
        if matches!(kind, "jfs" | "ocfs2" | "zfs_member") {
            // blkid does not look for these on a small device.
            File::options().write(true).open(&path).expect("opens").set_len(64 * MIB).expect("grows");
        }
        assert_eq!(compare(&path, &format!("{kind}, {number}")), kind);
    }
}

#[test]
fn nothing_is_nothing() {
    for size in [0, 1, 511, 512, 4095, 4096, 65536, 100_000, 1 << 20] {
        for fill in [0, 0xff, 0x55] {
            let device = MemoryDevice::new(vec![fill; size]);
            assert_eq!(identify(&device).expect("probes"), None, "{size} bytes of {fill:#x}");
        }
    }
}

#[test]
fn a_member_is_no_filesystem_even_with_one_at_its_beginning() {
    if !common::has_tool("mkfs.ext4") {
        return common::skip("mkfs.ext4 is not installed");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), SIZE);
    run("mkfs.ext4", &["-q", "-F", path.to_str().expect("text")]);
    assert_eq!(probe(&path).expect("found").kind, "ext4");
    let raid = &raid_1(SIZE - 8192).0[SIZE as usize - 8192..];
    let file = File::options().write(true).open(&path).expect("opens");
    file.write_all_at(raid, SIZE - 8192).expect("writes");
    let found = probe(&path).expect("found");
    assert_eq!((found.kind, found.usage), ("linux_raid_member", Usage::Raid));
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn no_superblock_whatever_its_bytes_does_harm() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut images: Vec<Vec<u8>> = crafted().into_iter().map(|(_, crafted)| crafted.0).collect();
    let folder = tempfile::tempdir().expect("makes a folder");
    let makers: [(&str, &[&str]); 4] = [
        ("mkfs.vfat", &["-n", "LABEL"]),
        ("mkfs.ntfs", &["-F", "-Q", "-q", "-L", "label"]),
        ("mkfs.minix", &["-3"]),
        ("mkswap", &[]),
    ];
    for (maker, arguments) in makers {
        if common::is_there(maker) {
            let path = image(folder.path(), SIZE);
            let mut arguments = arguments.to_vec();
            arguments.push(path.to_str().expect("text"));
            run(maker, &arguments);
            images.push(std::fs::read(path).expect("reads"));
        }
    }
    for bytes in images {
        let used: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
        let device = MemoryDevice::new(bytes.clone());
        for _ in 0..1500 {
            let changed: Vec<usize> = (0..1 + numbers.next(4))
                .map(|_| (used[numbers.next(used.len())] + numbers.next(9)).saturating_sub(4).min(bytes.len() - 1))
                .collect();
            for &at in &changed {
                let value = [0, 0xff, 0x80, 0x7f, numbers.next(256) as u8][numbers.next(5)];
                device.write_at(&[value], at as u64).expect("writes");
            }
            identify(&device).expect("probes");
            changed.iter().for_each(|&at| device.write_at(&bytes[at..=at], at as u64).expect("writes"));
        }
        // A device that ends anywhere.
        for _ in 0..50 {
            let len = [numbers.next(bytes.len()), numbers.next(140_000)][numbers.next(2)];
            identify(&MemoryDevice::new(bytes[..len].to_vec())).expect("probes");
        }
    }
}
