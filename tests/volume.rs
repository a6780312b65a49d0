//! Partition tables that sfdisk, sgdisk and parted made, and what hostile ones do.

mod common;

use guestctl::block::{BlockDevice, MemoryDevice, RawDevice, SharedDevice};
use guestctl::volume::{PartitionType, Scan, Scheme, VolumeKind, scan};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

const MIB: u64 = 1 << 20;

/// A device that says that its sectors have 4096 bytes.
struct LargeSectors(SharedDevice);

impl BlockDevice for LargeSectors {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> u32 {
        4096
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> guestctl::Result<()> {
        self.0.read_at(buf, offset)
    }
}

/// Runs a program that may call sync, which must not reach the whole machine.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("timeout");
    command.arg("60");
    if common::has_tool("eatmydata") {
        command.arg("eatmydata");
    }
    command.arg(common::tool(program).expect("checked")).args(arguments);
    command.env("LC_ALL", "C.UTF-8").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn image(folder: &Path, size: u64) -> String {
    let path = folder.join("disk.img");
    File::create(&path).expect("creates").set_len(size).expect("grows");
    path.to_str().expect("text").to_owned()
}

fn open(path: &str) -> SharedDevice {
    Arc::new(RawDevice::open(Path::new(path), false).expect("opens"))
}

fn bytes_of(path: &str) -> Vec<u8> {
    std::fs::read(path).expect("reads")
}

fn scan_bytes(bytes: Vec<u8>) -> Scan {
    scan(Arc::new(MemoryDevice::new(bytes)), "sda").expect("scans")
}

fn names(scan: &Scan) -> Vec<&str> {
    scan.volumes.iter().map(|volume| volume.name.as_str()).collect()
}

/// Holds a scan against what sfdisk says of the same image.
fn compare_with_sfdisk(path: &str, found: &Scan) {
    let text = run("sfdisk", &["--json", path], "");
    compare(&text, path, 512, found);
}

/// Holds a scan against the JSON that sfdisk gave for the disk `node`.
fn compare(text: &str, node: &str, sector_size: u64, found: &Scan) {
    let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let table = &json["partitiontable"];
    let gpt = table["label"] == "gpt";
    assert_eq!(found.scheme, Some(if gpt { Scheme::Gpt } else { Scheme::Mbr }));
    let id = table["id"].as_str().expect("an id").trim_start_matches("0x").to_lowercase();
    assert_eq!(found.table_uuid.as_deref(), Some(id.as_str()));
    let expected: Vec<_> = table["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .filter(|part| !matches!(part["type"].as_str(), Some("5" | "f" | "85")))
        .collect();
    assert_eq!(expected.len(), found.volumes.len(), "{found:?}");
    for (part, volume) in expected.iter().zip(&found.volumes) {
        let VolumeKind::Partition(seen) = &volume.kind else { panic!("{volume:?} is no partition") };
        assert_eq!(part["node"].as_str().expect("a node"), format!("{node}{}", seen.number));
        assert_eq!(volume.name, format!("/dev/sda{}", seen.number));
        assert_eq!(part["start"].as_u64().expect("a start") * sector_size, seen.start);
        assert_eq!(part["size"].as_u64().expect("a size") * sector_size, seen.size);
        assert_eq!(volume.device.size(), seen.size);
        assert_eq!(part["name"].as_str(), seen.part_label.as_deref());
        let type_text = part["type"].as_str().expect("a type").to_lowercase();
        match &seen.type_id {
            PartitionType::Mbr(byte) => {
                assert_eq!(type_text, format!("{byte:x}"));
                assert_eq!(part["bootable"].as_bool().unwrap_or(false), seen.bootable);
                assert_eq!(seen.part_uuid, Some(format!("{id}-{:02x}", seen.number)));
            }
            PartitionType::Gpt(guid) => {
                assert_eq!(&type_text, guid);
                assert_eq!(part["uuid"].as_str().map(str::to_lowercase), seen.part_uuid);
                let attributes = part["attrs"].as_str().unwrap_or_default();
                assert_eq!(attributes.contains("LegacyBIOSBootable"), seen.bootable);
                assert_eq!(attributes.contains("RequiredPartition"), seen.attributes.is_required());
            }
        }
    }
}

/// Says whether the programs are there, and skips otherwise.
fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| !common::has_tool(program));
    if let Some(program) = missing {
        common::skip(&format!("{program} is not installed"));
    }
    missing.is_none()
}

const DOS_SCRIPT: &str = "label: dos\nlabel-id: 0xDEADBE0F\nstart=2048,size=10M,type=c,bootable\nsize=10M,type=83\n\
    size=60M,type=5\nsize=5M,type=8e\nsize=7M,type=82\nsize=8M,type=83\nsize=9M,type=7\n";

const GPT_SCRIPT: &str = "label: gpt\nsize=10M,type=U,name=\"EFI System\"\nsize=20M,type=L,name=\"Größe ∞ 🐧\",attrs=\"LegacyBIOSBootable\"\n\
    size=4M,type=S,attrs=\"RequiredPartition GUID:63\"\n";

#[test]
fn a_table_of_sfdisk_is_read_as_sfdisk_reads_it() {
    if !have(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    for script in [DOS_SCRIPT, GPT_SCRIPT] {
        let path = image(folder.path(), 100 * MIB);
        run("sfdisk", &[&path], script);
        let found = scan(open(&path), "sda").expect("scans");
        compare_with_sfdisk(&path, &found);
        assert_eq!(found.warnings, [""; 0]);
    }
}

/// A loop device with sectors of 4096 bytes over a file; it goes when this does.
struct Loop(String);

impl Loop {
    fn new(path: &str) -> Option<Self> {
        let arguments = ["60", "losetup", "--find", "--show", "--sector-size", "4096", path];
        for _ in 0..5 {
            let output = Command::new("timeout").args(arguments).output().expect("runs");
            if output.status.success() {
                return Some(Self(String::from_utf8(output.stdout).expect("text").trim().to_owned()));
            }
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("timeout").args(["60", "losetup", "--detach", &self.0]).status();
    }
}

#[test]
fn a_table_of_4096_byte_sectors_is_found_whatever_the_device_says() {
    if !have(&["sfdisk", "losetup"]) {
        return;
    }
    if !common::is_root() {
        return common::skip("a loop device needs root");
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    let Some(device) = Loop::new(&path) else { return common::skip("no loop device can be had") };
    let json = |script: &str| {
        run("sfdisk", &["--no-reread", "--no-tell-kernel", "--wipe=always", &device.0], script);
        run("sfdisk", &["--json", &device.0], "").replace(&format!("{}p", device.0), &device.0)
    };
    let text = json(GPT_SCRIPT);
    for large in [false, true] {
        let disk = if large { Arc::new(LargeSectors(open(&path))) } else { open(&path) };
        let found = scan(disk, "sda").expect("scans");
        compare(&text, &device.0, 4096, &found);
        assert_eq!(found.warnings, [""; 0]);
    }
    // The copy at the end alone does as well.
    let mut bytes = bytes_of(&path);
    bytes[4096..4096 + 92].fill(0);
    let found = scan_bytes(bytes);
    compare(&text, &device.0, 4096, &found);
    assert_eq!(found.warnings.len(), 1);
    let text = json(&DOS_SCRIPT.replace("start=2048", "start=256"));
    compare(&text, &device.0, 4096, &scan(Arc::new(LargeSectors(open(&path))), "sda").expect("scans"));
    drop(device);
    // A disk with larger sectors may have been copied from one with smaller ones.
    run("sfdisk", &["--wipe=always", &path], GPT_SCRIPT);
    compare_with_sfdisk(&path, &scan(Arc::new(LargeSectors(open(&path))), "sda").expect("scans"));
}

#[test]
fn a_damaged_first_header_gives_way_to_its_copy() {
    if !have(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    run("sfdisk", &[&path], GPT_SCRIPT);
    let whole = bytes_of(&path);
    for damaged in [512 + 16, 512, 1024 + 33] {
        let mut bytes = whole.clone();
        bytes[damaged] ^= 0x40;
        let found = scan_bytes(bytes);
        compare_with_sfdisk(&path, &found);
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
    }
    // The image was enlarged: the copy is not at its end, but where the first header says.
    let mut bytes = whole.clone();
    bytes[512 + 16] ^= 1;
    bytes.resize(whole.len() + 5 * MIB as usize, 0);
    compare_with_sfdisk(&path, &scan_bytes(bytes));
    // Both are gone: a disk as a whole, and a word about it.
    let mut bytes = whole.clone();
    let last = bytes.len() - 512;
    bytes[512 + 16] ^= 1;
    bytes[last + 16] ^= 1;
    let found = scan_bytes(bytes);
    assert_eq!(names(&found), ["/dev/sda"]);
    assert_eq!(found.warnings.len(), 1);
}

#[test]
fn a_partition_is_clipped_at_the_end_of_a_truncated_disk() {
    if !have(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    for script in [DOS_SCRIPT, GPT_SCRIPT] {
        run("sfdisk", &["--wipe=always", &path], script);
        let mut bytes = bytes_of(&path);
        bytes.truncate(15 * MIB as usize);
        let found = scan_bytes(bytes);
        assert_eq!(names(&found), ["/dev/sda1", "/dev/sda2"]);
        assert_eq!(found.volumes[1].device.size(), 4 * MIB);
        let told = |what: &str| found.warnings.iter().any(|warning| warning.contains(what));
        assert!(told("partition 2 passes the end"), "{:?}", found.warnings);
    }
}

#[test]
fn a_hybrid_table_is_read_by_its_gpt() {
    if !have(&["sfdisk", "sgdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    run("sfdisk", &[&path], GPT_SCRIPT);
    run("sgdisk", &["--hybrid=2:3", &path], "");
    let found = scan(open(&path), "sda").expect("scans");
    assert_eq!(found.scheme, Some(Scheme::Gpt));
    assert_eq!(names(&found), ["/dev/sda1", "/dev/sda2", "/dev/sda3"]);
    // Without any GPT header the other entries are what is left.
    let mut bytes = bytes_of(&path);
    let last = bytes.len() - 512;
    bytes[512] ^= 1;
    bytes[last] ^= 1;
    let found = scan_bytes(bytes);
    assert_eq!(found.scheme, Some(Scheme::Mbr));
    assert_eq!(names(&found), ["/dev/sda2", "/dev/sda3"]);
    assert_eq!(found.warnings.len(), 1);
}

#[test]
fn a_table_of_parted_or_sgdisk_is_read_as_sfdisk_reads_it() {
    if !have(&["sfdisk", "sgdisk", "parted"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    let dos = "mklabel msdos mkpart primary fat32 1MiB 9MiB mkpart extended 10MiB 90MiB \
        mkpart logical ext4 11MiB 20MiB mkpart logical ext4 30MiB 40MiB set 1 boot on";
    let gpt = "mklabel gpt mkpart ESP fat32 1MiB 9MiB mkpart root ext4 10MiB 90MiB set 2 legacy_boot on";
    for script in [dos, gpt] {
        let mut arguments = vec!["-s", path.as_str()];
        arguments.extend(script.split_whitespace());
        run("parted", &arguments, "");
        compare_with_sfdisk(&path, &scan(open(&path), "sda").expect("scans"));
    }
    // Numbers with a gap, in an array of 8 entries.
    run("sgdisk", &["--zap-all", &path], "");
    run("sgdisk", &["--resize-table=8", "--new=7:2048:+5M", "--new=2:40M:+5M", "--change-name=7:last", &path], "");
    let found = scan(open(&path), "sda").expect("scans");
    assert_eq!(names(&found), ["/dev/sda2", "/dev/sda7"]);
    compare_with_sfdisk(&path, &found);
}

#[test]
fn a_filesystem_on_the_bare_disk_is_one_volume() {
    let folder = tempfile::tempdir().expect("makes a folder");
    let makers: [(&str, &[&str]); 8] = [
        ("mkfs.vfat", &["-F", "32"]),
        ("mkfs.vfat", &["-F", "16"]),
        ("mkfs.vfat", &["--mbr=y"]),
        ("mkfs.ntfs", &["-F", "-Q"]),
        ("mkfs.ext4", &["-q", "-F"]),
        ("mkfs.xfs", &["-q", "-f"]),
        ("mkfs.btrfs", &["-q", "-f"]),
        ("mkswap", &[]),
    ];
    for (maker, arguments) in makers {
        if !have(&[maker]) {
            continue;
        }
        let path = image(folder.path(), 400 * MIB);
        let mut arguments = arguments.to_vec();
        arguments.push(&path);
        run(maker, &arguments, "");
        let found = scan(open(&path), "sdb").expect("scans");
        assert_eq!(names(&found), ["/dev/sdb"], "{maker} {arguments:?}");
        assert_eq!(found.volumes[0].kind, VolumeKind::WholeDisk);
        assert_eq!(found.scheme, None);
    }
}

#[test]
fn boot_code_before_a_bare_filesystem_is_no_partition_table() {
    if !have(&["mkfs.ext4", "sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let path = image(folder.path(), 100 * MIB);
    run("mkfs.ext4", &["-q", "-F", &path], "");
    let mut bytes = bytes_of(&path);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    for code in [0x00, 0x80, 0xeb] {
        bytes[446..510].fill(code);
        assert_eq!(names(&scan_bytes(bytes.clone())), ["/dev/sda"], "boot code of {code:#x}");
    }
    // What was left of a filesystem before a disk was partitioned does not hide the partitions.
    run("sfdisk", &["--wipe=never", "--force", &path], DOS_SCRIPT);
    assert_eq!(scan(open(&path), "sda").expect("scans").volumes.len(), 6);
}

#[test]
fn a_disk_with_nothing_on_it_is_one_volume() {
    for size in [0, 1, 511, 512, 4096, 1 << 20] {
        let found = scan_bytes(vec![0; size]);
        assert_eq!(names(&found), ["/dev/sda"]);
        assert_eq!(found.scheme, None);
    }
    let mut empty = vec![0; 1 << 20];
    empty[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(names(&scan_bytes(empty)), ["/dev/sda"]);
}

#[test]
fn an_image_for_discs_and_sticks_is_shown_as_both() {
    let mut bytes = vec![0; 1 << 20];
    bytes[0x8001..0x8006].copy_from_slice(b"CD001");
    bytes[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    let found = scan_bytes(bytes);
    assert_eq!(names(&found), ["/dev/sda", "/dev/sda1"]);
    assert_eq!(found.volumes[0].kind, VolumeKind::WholeDisk);
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
fn no_table_whatever_its_bytes_does_harm() {
    if !have(&["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().expect("makes a folder");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for script in [DOS_SCRIPT, GPT_SCRIPT] {
        let path = image(folder.path(), 100 * MIB);
        run("sfdisk", &["--wipe=always", &path], script);
        let whole = bytes_of(&path);
        let records: Vec<usize> =
            (0..whole.len()).step_by(512).filter(|&at| whole[at + 510..at + 512] == [0x55, 0xaa]).collect();
        let device = Arc::new(MemoryDevice::new(whole.clone()));
        for round in 0..20_000 {
            let mut changed = Vec::new();
            for _ in 0..1 + numbers.next(6) {
                let at = if script == DOS_SCRIPT {
                    records[numbers.next(records.len())] + 440 + numbers.next(72)
                } else {
                    [512 + numbers.next(92), 1024 + numbers.next(384), 446 + numbers.next(66)][numbers.next(3)]
                };
                let value = [0, 0xff, 1, 0x80, numbers.next(256) as u8][numbers.next(5)];
                device.write_at(&[value], at as u64).expect("writes");
                changed.push(at);
            }
            if script == GPT_SCRIPT && round % 4 != 0 {
                // Checksums that are right let the damage in.
                let bytes = |at: u64, len: usize| {
                    let mut bytes = vec![0; len];
                    device.read_at(&mut bytes, at).expect("reads");
                    bytes
                };
                let put = |at: u64, value: u32| device.write_at(&value.to_le_bytes(), at).expect("writes");
                put(512 + 88, crc32fast::hash(&bytes(1024, 128 * 128)));
                put(512 + 16, 0);
                put(512 + 16, crc32fast::hash(&bytes(512, 92)));
                changed.extend((512 + 88..512 + 92).chain(512 + 16..512 + 20));
            }
            let found = scan(device.clone(), "sda").expect("scans");
            assert!((1..=260).contains(&found.volumes.len()));
            for volume in &found.volumes {
                let mut byte = [0];
                volume.device.read_at(&mut byte, volume.device.size() - 1).expect("lies on the disk");
            }
            changed.iter().for_each(|&at| device.write_at(&whole[at..=at], at as u64).expect("writes"));
        }
    }
}
