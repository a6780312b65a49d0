//! Images that `qemu-nbd` opens for us: foreign formats, and qcow2 that this crate does not write itself.

mod common;
#[path = "common/images.rs"]
mod images;

use guestctl::Error;
use guestctl::block::{BlockDevice, ImageFormat, OpenOptions, Via, describe, open, open_with_overlay, qcow2};
use images::{Check, Random, assert_same, check, convert, make_raw, qemu_img};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

macro_rules! needs {
    ($($tool:literal),+) => {
        $(if !common::has_tool($tool) {
            return common::skip(concat!($tool, " is not installed"));
        })+
    };
}

fn read_disk(device: &dyn BlockDevice) -> Vec<u8> {
    let mut disk = vec![0xee; device.size() as usize];
    device.read_at(&mut disk, 0).expect("reads");
    disk
}

#[test]
fn every_foreign_format_reads_as_qemu_reads_it() {
    needs!("qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let disk = make_raw(&folder.path().join("raw"), 3 << 20, 1);
    for (format, options) in [
        ("qcow", ""),
        ("qed", ""),
        ("vdi", ""),
        ("vhdx", ""),
        ("vpc", "-o force_size=on"),
        ("vpc", "-o subformat=fixed,force_size=on"),
        ("parallels", ""),
        ("vmdk", ""),
        ("vmdk", "-o subformat=monolithicFlat"),
        ("vmdk", "-o subformat=twoGbMaxExtentSparse"),
        ("vmdk", "-o subformat=streamOptimized"),
    ] {
        let what = format!("{format} {options}");
        qemu_img(&format!("convert -O {format} {options} raw image"), folder.path());
        let image = folder.path().join("image");
        let opened = open(&image, &OpenOptions::default()).unwrap_or_else(|error| panic!("{what}: {error}"));
        // A VHDX is read in this process, too.
        let via = if format == "vhdx" { Via::Native } else { Via::Nbd };
        assert_eq!((opened.format.name(), opened.via), (format, via), "{what}");
        assert_same(&read_disk(&*opened.device)[..disk.len()], &disk, &what);
        assert!(opened.device.is_read_only());
        if via == Via::Native {
            let by_qemu = open(&image, &OpenOptions { via: Via::Nbd, ..OpenOptions::default() }).expect("opens");
            assert_eq!(by_qemu.via, Via::Nbd);
            assert_same(&read_disk(&*by_qemu.device), &disk, "by QEMU");
            continue;
        }
        let native = OpenOptions { via: Via::Native, ..OpenOptions::default() };
        assert!(matches!(open(&image, &native).expect_err("refused").root(), Error::Unsupported(_)));
    }
}

#[test]
fn a_snapshot_and_a_chain_are_opened_by_qemu_when_that_is_asked() {
    needs!("qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    make_raw(&folder.path().join("raw"), 1 << 20, 2);
    qemu_img("create -f qcow2 -b raw -F raw image", folder.path());
    qemu_img("snapshot -c one image", folder.path());
    let image = folder.path().join("image");
    for snapshot in [None, Some("one".to_owned())] {
        let native = open(&image, &OpenOptions { snapshot: snapshot.clone(), ..OpenOptions::default() });
        let by_qemu = open(&image, &OpenOptions { snapshot, via: Via::Nbd, ..OpenOptions::default() });
        let (native, by_qemu) = (native.expect("opens").device, by_qemu.expect("opens").device);
        assert_same(&read_disk(&*native), &read_disk(&*by_qemu), "both ways");
    }
}

#[test]
fn a_qcow2_image_that_only_qemu_writes_is_written_by_qemu() {
    needs!("qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let image = folder.path().join("image");
    qemu_img("create -f qcow2 -o extended_l2=on image 1M", folder.path());
    let opened = open(&image, &OpenOptions { writable: true, ..OpenOptions::default() }).expect("opens");
    assert_eq!(opened.via, Via::Nbd);
    opened.device.write_at(&[5; 3000], 5000).expect("writes");
    opened.device.flush().expect("flushes");
    drop(opened);
    assert_eq!(check(&image), Check::default());
    assert_eq!(convert(&image)[4999..8001], [&[0][..], &[5; 3000], &[0]].concat());
    // QEMU looks for a data file in its own working folder, so that its name must not be relative.
    qemu_img("create -f qcow2 -o data_file=data image 1M", folder.path());
    let error = open(&image, &OpenOptions { writable: true, ..OpenOptions::default() }).expect_err("refused");
    assert!(matches!(error.root(), Error::Unsupported(_)), "{error}");
}

#[test]
fn a_vhdx_is_written_by_qemu_and_read_here_again() {
    needs!("qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let mut disk = make_raw(&folder.path().join("raw"), 9 << 20, 4);
    qemu_img("convert -O vhdx -o block_size=1M raw image", folder.path());
    let image = folder.path().join("image");
    let opened = open(&image, &OpenOptions { writable: true, ..OpenOptions::default() }).expect("opens");
    assert_eq!(opened.via, Via::Nbd);
    for (at, len) in [(5000, 3000), (3 << 20, 2 << 20), ((8 << 20) + 77, 100_000)] {
        opened.device.write_at(&vec![6; len], at as u64).expect("writes");
        disk[at..at + len].fill(6);
    }
    opened.device.flush().expect("flushes");
    drop(opened);
    let opened = open(&image, &OpenOptions::default()).expect("opens");
    assert_eq!(opened.via, Via::Native);
    assert_same(&read_disk(&*opened.device), &disk, "read here");
    assert_same(&convert(&image), &disk, "as QEMU reads it");
}

#[test]
fn an_overlay_lies_over_a_foreign_image_too() {
    needs!("qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let mut disk = make_raw(&folder.path().join("raw"), 1 << 20, 3);
    qemu_img("convert -O vmdk raw image", folder.path());
    let (image, overlay) = (folder.path().join("image"), folder.path().join("overlay"));
    let before = fs::read(&image).expect("reads");
    let opened = open_with_overlay(&image, Some(&overlay), &OpenOptions::default()).expect("opens");
    opened.device.write_at(&[9; 1000], 70_000).expect("writes");
    disk[70_000..71_000].fill(9);
    assert_same(&read_disk(&*opened.device), &disk, "the overlay");
    drop(opened);
    assert_same(&convert(&overlay), &disk, "as QEMU reads it");
    let options = OpenOptions { via: Via::Native, ..OpenOptions::default() };
    let device = open(&overlay, &options).expect("opens with its foreign base").device;
    assert_same(&read_disk(&*device), &disk, "opened by itself");
    assert!(before == fs::read(&image).expect("reads"), "the base changed");
    let other = folder.path().join("other");
    qcow2::create_overlay(&other, Path::new("image"), ImageFormat::Vmdk, 1 << 20).expect("makes");
    assert_eq!(check(&other), Check::default());
}

/// Makes a differencing VHD by hand over a VHD that QEMU made, some of whose sectors differ; returns the disk that it is.
fn make_difference(folder: &Path, parent: &str, name: &str, disk: &[u8], seed: u64) -> Vec<u8> {
    const BLOCK: usize = 2 << 20;
    let below = fs::read(folder.join(parent)).expect("reads");
    let mut footer = below[below.len() - 512..].to_vec();
    let blocks = disk.len().div_ceil(BLOCK);
    let parent_uuid = footer[68..84].to_vec();
    footer[16..24].copy_from_slice(&512_u64.to_be_bytes());
    footer[60..64].copy_from_slice(&4_u32.to_be_bytes());
    footer[68..84].fill(seed as u8);
    let mut header = vec![0; 1024];
    header[..8].copy_from_slice(b"cxsparse");
    header[16..24].copy_from_slice(&2048_u64.to_be_bytes());
    header[28..32].copy_from_slice(&(blocks as u32).to_be_bytes());
    header[32..36].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    header[40..56].copy_from_slice(&parent_uuid);
    let utf16 = |text: &str| text.encode_utf16().collect::<Vec<u16>>();
    for (at, unit) in utf16(&format!("C:\\disks\\{parent}")).into_iter().enumerate() {
        header[64 + 2 * at..66 + 2 * at].copy_from_slice(&unit.to_be_bytes());
    }
    let locator: Vec<u8> = utf16(&format!(".\\{parent}")).into_iter().flat_map(u16::to_le_bytes).collect();
    header[576..580].copy_from_slice(b"W2ru");
    header[580..584].copy_from_slice(&512_u32.to_be_bytes());
    header[584..588].copy_from_slice(&(locator.len() as u32).to_be_bytes());
    header[592..600].copy_from_slice(&1536_u64.to_be_bytes());
    let mut image = [footer.as_slice(), &header, &locator].concat();
    image.resize(2048, 0);
    let table = image.len();
    image.resize((table + 4 * blocks).next_multiple_of(512), 0xff);
    let (mut random, mut disk) = (Random::new(seed), disk.to_vec());
    // Every other block, as the parent's own blocks are left alone too.
    for block in (0..blocks).step_by(2) {
        let sector = (image.len() / 512) as u32;
        image[table + 4 * block..table + 4 * block + 4].copy_from_slice(&sector.to_be_bytes());
        let start = image.len();
        image.resize(start + 512 + BLOCK, 0);
        for number in 0..(BLOCK / 512).min((disk.len() - block * BLOCK) / 512) {
            if random.below(3) == 0 {
                let bytes = random.bytes(512);
                image[start + number / 8] |= 0x80 >> (number % 8);
                image[start + 512 + number * 512..][..512].copy_from_slice(&bytes);
                disk[block * BLOCK + number * 512..][..512].copy_from_slice(&bytes);
            }
        }
    }
    image.extend(&footer);
    fs::write(folder.join(name), image).expect("writes");
    disk
}

#[test]
fn a_chain_of_differencing_vhds_is_read_through_to_its_base() {
    needs!("qemu-img", "qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let disk = make_raw(&folder.path().join("raw"), 7 << 20, 9);
    for options in ["subformat=dynamic", "subformat=fixed"] {
        qemu_img(&format!("convert -O vpc -o {options},force_size=on raw base.vhd"), folder.path());
        let middle = make_difference(folder.path(), "base.vhd", "middle.vhd", &disk, 17);
        let top = make_difference(folder.path(), "middle.vhd", "top.vhd", &middle, 23);
        let open = |name: &str| open(folder.path().join(name), &OpenOptions::default());
        assert_same(&read_disk(&*open("middle.vhd").expect("opens").device), &middle, "one over the base");
        let device = open("top.vhd").expect("opens").device;
        assert_same(&read_disk(&*device), &top, "two over the base");
        let mut random = Random::new(5);
        for _ in 0..200 {
            let len = 1 + random.below(5000) as usize;
            let at = random.below((top.len() - len) as u64) as usize;
            let mut buf = vec![0; len];
            device.read_at(&mut buf, at as u64).expect("inside");
            assert!(buf == top[at..at + len], "{len} bytes at {at}");
        }
        drop(device);
        // QEMU would leave out the parents of what lies below one of its images.
        let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                          createType=\"monolithicSparse\"\nRW 14336 SPARSE \"top.vhd\"\n";
        fs::write(folder.path().join("sparse.vmdk"), descriptor).expect("writes");
        let error = open("sparse.vmdk").expect_err("refused");
        assert!(matches!(error.root(), Error::Unsupported(_)), "{error}");
        assert!(error.to_string().contains("a differencing VHD below an image that QEMU opens"), "{error}");
        let info = describe(folder.path().join("top.vhd").to_str().expect("a plain name"), &OpenOptions::default());
        let names: Vec<String> = info.expect("known").chain.into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["middle.vhd", "base.vhd"]);
        // Another disk of the name is not the parent.
        fs::copy(folder.path().join("base.vhd"), folder.path().join("kept.vhd")).expect("copies");
        qemu_img("create -f vpc -o force_size=on base.vhd 7M", folder.path());
        let error = open("middle.vhd").expect_err("another base").to_string();
        assert!(error.contains("base.vhd") && error.contains("not the parent"), "{error}");
        fs::remove_file(folder.path().join("base.vhd")).expect("removes");
        let error = open("middle.vhd").expect_err("no base").to_string();
        assert!(error.contains("base.vhd") && error.contains("does not exist"), "{error}");
    }
}

#[test]
fn a_damaged_differencing_vhd_does_no_harm() {
    needs!("qemu-img", "qemu-nbd");
    let folder = TempDir::new().expect("a folder");
    let disk = make_raw(&folder.path().join("raw"), 3 << 20, 9);
    qemu_img("convert -O vpc -o subformat=fixed,force_size=on raw base.vhd", folder.path());
    make_difference(folder.path(), "base.vhd", "top.vhd", &disk, 17);
    let image = fs::read(folder.path().join("top.vhd")).expect("reads");
    // The footer counts that lies at the end, so the header and the table are changed.
    for at in (512..2056).step_by(if at_leisure() { 1 } else { 41 }) {
        for value in [0, 0x7f, 0xff] {
            let mut changed = image.clone();
            changed[at] = value;
            fs::write(folder.path().join("top.vhd"), &changed).expect("writes");
            if let Ok(opened) = open(folder.path().join("top.vhd"), &OpenOptions::default()) {
                let mut buf = vec![0; 4096];
                for offset in [0, opened.device.size() / 2, opened.device.size().saturating_sub(4096)] {
                    let _ = opened.device.read_at(&mut buf, offset);
                }
            }
        }
    }
}

fn at_leisure() -> bool {
    std::env::var_os("GUESTCTL_LARGE").is_some()
}

#[test]
fn a_chain_of_vmdk_snapshots_is_opened_with_its_parents() {
    needs!("qemu-img", "qemu-nbd", "qemu-io");
    let folder = TempDir::new().expect("a folder");
    make_raw(&folder.path().join("raw"), 5 << 20, 3);
    for subformat in ["monolithicSparse", "twoGbMaxExtentSparse", "monolithicFlat"] {
        qemu_img(&format!("convert -O vmdk -o subformat={subformat} raw base-{subformat}.vmdk"), folder.path());
        let base = format!("base-{subformat}.vmdk");
        for (below, name) in [(base.as_str(), "one.vmdk"), ("one.vmdk", "two.vmdk")] {
            let _ = fs::remove_file(folder.path().join(name));
            qemu_img(&format!("create -f vmdk -b {below} -F vmdk {name}"), folder.path());
            let write = format!("write -P {} {}k 100k", name.len() * 7 + below.len(), below.len() * 50);
            let image = folder.path().join(name);
            images::run("qemu-io", ["-c".as_ref(), write.as_ref(), image.as_os_str()]);
        }
        let image = folder.path().join("two.vmdk");
        let device = open(&image, &OpenOptions::default()).expect("opens").device;
        assert_same(&read_disk(&*device), &convert(&image), subformat);
        drop(device);
        fs::rename(folder.path().join(&base), folder.path().join("away")).expect("renames");
        let error = open(&image, &OpenOptions::default()).expect_err("its base is away").to_string();
        assert!(error.contains(&base) && error.contains("does not exist"), "{error}");
    }
}
