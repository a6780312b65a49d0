//! Images that `qemu-nbd` opens for us: foreign formats, and qcow2 that this crate does not write itself.

mod common;
#[path = "common/images.rs"]
mod images;

use guestctl::Error;
use guestctl::block::{BlockDevice, ImageFormat, OpenOptions, Via, open, open_with_overlay, qcow2};
use images::{Check, assert_same, check, convert, make_raw, qemu_img};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

macro_rules! needs {
    ($tool:literal) => {
        if !common::has_tool($tool) {
            return common::skip(concat!($tool, " is not installed"));
        }
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
        assert_eq!((opened.format.name(), opened.via), (format, Via::Nbd), "{what}");
        assert_same(&read_disk(&*opened.device)[..disk.len()], &disk, &what);
        assert!(opened.device.is_read_only());
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

#[test]
fn a_differencing_vhd_is_refused_because_its_parent_would_be_left_out() {
    needs!("qemu-img");
    let folder = TempDir::new().expect("a folder");
    qemu_img("create -f vpc image 1M", folder.path());
    let image = folder.path().join("image");
    let mut bytes = fs::read(&image).expect("reads");
    bytes[63] = 4;
    fs::write(&image, &bytes).expect("writes");
    let error = open(&image, &OpenOptions::default()).expect_err("refused");
    assert!(error.to_string().contains("differencing"), "{error}");
}
