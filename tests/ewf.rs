//! Images of forensic tools (E01): those that ewfacquire makes, in each of its formats, and ones that are damaged.

mod common;
#[path = "common/images.rs"]
mod images;

use common::guest::{GUESTCTL, Workspace, guestctl, output, run};
use guestctl::block::{self, OpenOptions, SharedDevice};
use guestctl::{Error, block::ImageFormat};
use images::Random;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The names of ewfacquire's formats, and how the names of their first segments end.
const FORMATS: [(&str, &str); 8] = [
    ("encase2", "E01"),
    ("encase5", "E01"),
    ("encase6", "E01"),
    ("encase7", "E01"),
    ("linen6", "E01"),
    ("ftk", "E01"),
    ("ewf", "e01"),
    ("smart", "s01"),
];

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

fn has_tools() -> bool {
    let there = common::has_tool("ewfacquire");
    if !there {
        common::skip("ewfacquire is not installed");
    }
    there
}

/// Makes a disk whose bytes partly compress, of no whole number of chunks; returns its path and its bytes.
fn disk(space: &Workspace) -> (PathBuf, Vec<u8>) {
    let mut bytes = vec![0; (4 << 20) + 3 * 512];
    let mut random = Random::new(7);
    for (index, piece) in bytes.chunks_mut(100_000).enumerate() {
        match index % 3 {
            0 => piece.iter_mut().for_each(|byte| *byte = random.below(256) as u8),
            1 => piece.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 50) as u8),
            _ => {}
        }
    }
    let path = space.path("disk.raw");
    fs::write(&path, &bytes).expect("there is room");
    (path, bytes)
}

/// Lets ewfacquire make an image of a disk; returns the path of its first segment.
fn acquire(space: &Workspace, disk: &Path, name: &str, format: &str, ending: &str, more: &[&str]) -> PathBuf {
    let target = space.path(name);
    let arguments = ["-u", "-q", "-t", text(&target), "-f", format, "-S", "1048576"];
    run("ewfacquire", &[&arguments[..], more, &[text(disk)]].concat());
    space.path(&format!("{name}.{ending}"))
}

fn open(path: &Path) -> guestctl::Result<SharedDevice> {
    block::open(text(path), &OpenOptions::default()).map(|image| image.device)
}

fn whole(device: &SharedDevice) -> guestctl::Result<Vec<u8>> {
    let mut bytes = vec![0; device.size() as usize];
    device.read_at(&mut bytes, 0).map(|()| bytes)
}

#[test]
fn every_format_of_ewfacquire_is_read_in_one_segment_and_in_several() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, bytes) = disk(&space);
    for (format, ending) in FORMATS {
        for compression in ["none", "fast"] {
            let name = format!("{format}-{compression}");
            let first = acquire(&space, &disk, &name, format, ending, &["-c", compression]);
            let second = first.with_extension(format!("{}2", &ending[..2]));
            assert!(second.exists(), "{name} has several segments");
            let image = block::open(text(&first), &OpenOptions::default()).expect(&name);
            assert_eq!(image.format, ImageFormat::Ewf);
            assert!(image.device.is_read_only());
            assert!(whole(&image.device).expect(&name) == bytes, "{name}");
            let mut random = Random::new(11);
            for _ in 0..200 {
                let at = random.below(bytes.len() as u64 - 1) as usize;
                let count = (random.below(100_000) as usize).min(bytes.len() - at);
                let mut part = vec![0; count];
                image.device.read_at(&mut part, at as u64).expect(&name);
                assert!(part == bytes[at..at + count], "{name}: {count} bytes at {at}");
            }
        }
    }
    for sectors in ["16", "4096"] {
        let first = acquire(&space, &disk, &format!("chunks-{sectors}"), "encase6", "E01", &["-b", sectors]);
        assert!(whole(&open(&first).expect("whole")).expect("whole") == bytes, "{sectors}");
    }
}

#[test]
fn files_are_read_from_an_image_within_little_memory_and_info_names_it() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let disk = space.ext4_image("disk.raw", &space.small_tree());
    let first = acquire(&space, &disk, "disk", "encase6", "E01", &["-c", "best"]);
    let (code, expected, error) = guestctl(&["checksum", "-r", text(&disk), "/"]);
    assert_eq!(code, 0, "{error}");
    let line = format!("ulimit -v 524288; exec {GUESTCTL} checksum -r {} /", text(&first));
    let told = output("sh", &["-c", &line]);
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    assert_eq!(String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&expected));
    let (code, out, error) = guestctl(&["info", text(&first)]);
    assert_eq!(code, 0, "{error}");
    assert!(String::from_utf8_lossy(&out).contains("ewf"), "{}", String::from_utf8_lossy(&out));
    let (code, _, error) = guestctl(&["rm", text(&first), "/x"]);
    assert_ne!(code, 0);
    assert!(error.contains("--overlay"), "{error}");
}

#[test]
fn info_tells_of_all_segments() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, _) = disk(&space);
    let first = acquire(&space, &disk, "many", "encase6", "E01", &["-c", "none"]);
    let folder = fs::read_dir(first.parent().expect("a folder")).expect("it can be listed");
    let segments: Vec<PathBuf> = folder
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_stem() == first.file_stem())
        .collect();
    let length: u64 = segments.iter().map(|path| path.metadata().expect("it is there").len()).sum();
    let (code, out, error) = guestctl(&["info", "--json", text(&first)]);
    assert_eq!(code, 0, "{error}");
    let told: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    let told = &told[0];
    assert!(segments.len() > 2);
    assert_eq!(told["file_size"], length, "{told}");
    let space_of = |path: &PathBuf| path.metadata().expect("it is there").blocks() * 512;
    assert_eq!(told["allocated"], segments.iter().map(space_of).sum::<u64>(), "{told}");
    assert_eq!(told["container"], serde_json::json!({ "kind": "split", "member": null, "files": segments.len() }));
    // An image in one segment is its file.
    let one = space.path("one");
    run("ewfacquire", &["-u", "-q", "-t", text(&one), "-f", "encase6", text(&disk)]);
    let (code, out, error) = guestctl(&["info", "--json", text(&space.path("one.E01"))]);
    assert_eq!(code, 0, "{error}");
    let told: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
    assert_eq!(told[0]["container"], serde_json::Value::Null);
}

#[test]
fn missing_segments_and_segments_that_are_links_elsewhere_are_refused() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, _) = disk(&space);
    let first = acquire(&space, &disk, "disk", "encase6", "E01", &["-c", "none"]);
    let second = first.with_extension("E02");
    let error = open(&second).map(drop).expect_err("it is not the first").to_string();
    assert!(error.contains("segment 2"), "{error}");
    let third = first.with_extension("E03");
    let moved = space.folder("elsewhere").join("E03");
    fs::rename(&third, &moved).expect("ours");
    let error = open(&first).map(drop).expect_err("a segment is missing");
    assert!(matches!(error.root(), Error::NotFound(_)) && error.to_string().contains(".E02"), "{error}");
    std::os::unix::fs::symlink("/etc/passwd", &third).expect("ours");
    let error = open(&first).map(drop).expect_err("it leads elsewhere").to_string();
    assert!(error.contains("outside"), "{error}");
    fs::remove_file(&third).expect("ours");
    fs::copy(&second, &third).expect("ours");
    let error = open(&first).map(drop).expect_err("it is the second").to_string();
    assert!(error.contains("not segment 3"), "{error}");
}

#[test]
fn the_second_version_of_the_format_and_archives_of_files_are_refused_by_name() {
    let space = Workspace::new();
    let image = space.path("disk.Ex01");
    for magic in [b"EVF2\x0d\x0a\x81\0", b"LVF\x09\x0d\x0a\xff\0"] {
        fs::write(&image, [&magic[..], &[0; 4096]].concat()).expect("ours");
        let (code, _, error) = guestctl(&["ls", text(&image), "/"]);
        assert_eq!(code, 5, "{error}");
        assert!(error.contains("Ex01"), "{error}");
    }
}

#[test]
fn a_damaged_table_is_replaced_by_its_copy_and_a_damaged_chunk_is_named() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, bytes) = disk(&space);
    let options = ["-c", "none", "-S", "9000000"];
    let first = acquire(&space, &disk, "disk", "encase6", "E01", &options);
    let image = fs::read(&first).expect("ours");
    let find = |name: &[u8]| image.windows(16).position(|window| window == name).expect("there is one") + 76 + 24;
    let (table, copy) = (find(b"table\0\0\0\0\0\0\0\0\0\0\0"), find(b"table2\0\0\0\0\0\0\0\0\0\0"));
    let mut damaged = image.clone();
    damaged[table + 40] ^= 1;
    fs::write(&first, &damaged).expect("ours");
    assert!(whole(&open(&first).expect("the copy is whole")).expect("the copy is whole") == bytes);
    damaged[copy + 40] ^= 1;
    fs::write(&first, &damaged).expect("ours");
    let error = whole(&open(&first).expect("the sections are whole")).expect_err("both are damaged");
    assert!(matches!(error.root(), Error::Corrupt { .. }) && error.to_string().contains("table"), "{error}");
    let mut damaged = image.clone();
    let at = image.windows(512).position(|window| window == &bytes[40_000..40_512]).expect("it is there as it is");
    damaged[at] ^= 1;
    fs::write(&first, &damaged).expect("ours");
    let device = open(&first).expect("the sections are whole");
    let error = device.read_at(&mut [0; 100], 40_000).expect_err("it is damaged").to_string();
    assert!(error.contains("EWF chunk 1") && error.contains("checksum"), "{error}");
    device.read_at(&mut [0; 100], 0).expect("its neighbour is whole");
}

#[test]
fn images_that_lie_end_in_an_error_or_the_same_size() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, bytes) = disk(&space);
    let first = acquire(&space, &disk, "disk", "encase6", "E01", &["-c", "fast", "-S", "9000000"]);
    let image = fs::read(&first).expect("ours");
    let adler = |bytes: &[u8]| {
        let (low, high) = bytes.iter().fold((1_u32, 0_u32), |(low, high), &byte| {
            let low = (low + u32::from(byte)) % 65521;
            (low, (high + low) % 65521)
        });
        (high << 16 | low).to_le_bytes()
    };
    // The sections' heads and the data of those that tell sizes, with sums that fit.
    let mut at = 13;
    let mut places = Vec::new();
    loop {
        let kind = image[at..at + 16].split(|&byte| byte == 0).next().expect("a name").to_vec();
        places.extend([(at + 16, at, 72), (at + 24, at, 72)]);
        match kind.as_slice() {
            b"volume" => places.extend([4, 8, 12, 16].map(|field| (at + 76 + field, at + 76, 1048))),
            b"table" | b"table2" => {
                places.extend([0, 8].map(|field| (at + 76 + field, at + 76, 20)));
                let count = u32::from_le_bytes(image[at + 76..at + 80].try_into().expect("4 bytes")) as usize;
                places.extend([0, 4, 4 * count - 4].map(|field| (at + 100 + field, at + 100, 4 * count)));
            }
            b"done" => break,
            _ => {}
        }
        at = u64::from_le_bytes(image[at + 16..at + 24].try_into().expect("8 bytes")) as usize;
    }
    for (place, from, len) in places {
        for value in [0, 1, 0x7fff_ffff_u64, 0xffff_ffff, u64::MAX / 512, u64::MAX] {
            let mut lying = image.clone();
            let width = if place - from >= 16 && len == 72 { 8 } else { 4 };
            lying[place..place + width].copy_from_slice(&value.to_le_bytes()[..width]);
            let sum = adler(&lying[from..from + len]);
            lying[from + len..from + len + 4].copy_from_slice(&sum);
            fs::write(&first, &lying).expect("ours");
            let Ok(device) = open(&first) else { continue };
            for offset in [0, 40_000, bytes.len() as u64 / 2, device.size().saturating_sub(600)] {
                let _ = device.read_at(&mut [0; 512], offset);
            }
        }
    }
    for size in [13, 14, 88, 89, 500, 2000, image.len() / 2, image.len() - 100, image.len() - 1] {
        fs::write(&first, &image[..size]).expect("ours");
        open(&first).map(drop).expect_err("it is cut");
    }
}

#[test]
fn images_are_converted_to_other_formats_and_not_made() {
    if !has_tools() {
        return;
    }
    let space = Workspace::new();
    let (disk, bytes) = disk(&space);
    let first = acquire(&space, &disk, "disk", "encase6", "E01", &[]);
    let raw = space.path("out.raw");
    let (code, _, error) = guestctl(&["convert", "-O", "raw", text(&first), "--output", text(&raw)]);
    assert_eq!(code, 0, "{error}");
    assert!(fs::read(&raw).expect("it was made") == bytes);
    for (arguments, said) in [
        (&["convert", "-O", "ewf", text(&raw), "--output", text(&space.path("new.E01"))][..], "not made"),
        (&["convert", "-O", "vmdk", text(&first), "--output", text(&space.path("new.vmdk"))], "raw or qcow2"),
    ] {
        let (code, _, error) = guestctl(arguments);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains(said) && error.lines().count() == 1, "{error}");
    }
}
