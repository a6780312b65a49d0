//! Dynamic disks of Windows: groups that ldmtool and libguestfs read, opened to the bytes that were written, and disks that
//! lie.

mod common;

use common::guest::{Workspace, guestctl};
use common::volumes::{Members, golden, save, sha256, sources};
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Stack, VolumeKind, assemble};
use std::fs;
use std::path::Path;

/// Where the database of the disks with an MBR begins, in bytes: its head, and the blocks behind it.
const DATABASE: usize = (63 + 4096 + 17) * 512;
const BLOCKS: usize = DATABASE + 512;

fn group(kind: &str) -> Members {
    golden("ldm").into_iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, bytes)| bytes).collect()
}

fn open(disks: &[Vec<u8>]) -> Stack {
    assemble(&sources(disks), &NoKeys).expect("the first sectors are read")
}

/// Returns name, layout and checksum of the dynamic volumes, in the order of their names.
fn dynamic(stack: &Stack) -> Vec<[String; 3]> {
    let told = |assembled: &guestctl::volume::Assembled| match &assembled.volume.kind {
        VolumeKind::Dynamic(dynamic) => {
            let sum = sha256(assembled.volume.device.as_ref());
            Some([dynamic.name.clone(), dynamic.layout.to_owned(), sum])
        }
        _ => None,
    };
    let mut volumes: Vec<_> = stack.volumes.iter().filter_map(told).collect();
    volumes.sort();
    volumes
}

fn expected(kind: &str) -> Vec<[String; 3]> {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/volumes/ldm.list");
    let list = fs::read_to_string(list).expect("it is in the repository");
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut volumes: Vec<_> = list
        .lines()
        .map(words)
        .filter(|words| words[0] == kind)
        .map(|words| [words[1].clone(), words[2].clone(), words[3].clone()])
        .collect();
    volumes.sort();
    volumes
}

#[test]
fn every_volume_of_a_group_is_opened_whatever_the_order_of_its_disks() {
    for kind in ["mbr", "gpt"] {
        let mut disks = group(kind);
        for _ in 0..disks.len() {
            disks.rotate_left(1);
            let stack = open(&disks);
            assert_eq!(dynamic(&stack), expected(kind), "{:?}", stack.warnings);
            assert_eq!(stack.warnings, Vec::<String>::new());
        }
    }
    assert_eq!((expected("mbr").len(), expected("gpt").len()), (5, 2));
}

#[test]
fn files_on_a_volume_are_read_and_the_tree_shows_the_disks_below_it() {
    let space = Workspace::new();
    let disks = [group("mbr"), group("gpt")].concat();
    let paths = save(&disks, &space.folder("disks"));
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().expect("a plain name")).collect();
    let mut arguments = vec!["filesystems", "--tree", paths[0]];
    let others: Vec<&str> = paths[1..].iter().flat_map(|path| ["--add", path]).collect();
    arguments.extend(&others);
    let (code, out, error) = guestctl(&arguments);
    let out = String::from_utf8(out).expect("text");
    assert_eq!(code, 0, "{error}");
    assert_eq!(out.matches("/dev/mapper/ldm_vol_Host-mbr-Dg0_Raid1").count(), 3, "{out}");
    assert_eq!(out.matches("/dev/mapper/ldm_vol_Host-gpt-Dg0_Volume1").count(), 2, "{out}");
    assert!(out.contains("dynamic") && !out.contains("/dev/sda1"), "{out}");
    for (group, name) in [("mbr", "Raid1"), ("mbr", "Stripe1"), ("gpt", "Volume1")] {
        let device = format!("/dev/mapper/ldm_vol_Host-{group}-Dg0_{name}");
        let mut arguments = vec!["cat", paths[0], "/hello", "--mount", &device];
        arguments.extend(&others);
        let (code, out, error) = guestctl(&arguments);
        assert_eq!((code, out), (0, format!("hello from {name}").into_bytes()), "{error}");
    }
}

#[test]
fn mirrors_and_raid_5_are_read_without_a_disk_and_the_rest_is_named() {
    let disks = group("mbr");
    for missing in 0..3 {
        let mut some = disks.clone();
        some.remove(missing);
        let stack = open(&some);
        let expected: Vec<_> = expected("mbr")
            .into_iter()
            .filter(|[name, ..]| match name.as_str() {
                "Volume1" => missing != 0,
                "Volume2" | "Stripe1" => false,
                _ => true,
            })
            .collect();
        assert_eq!(dynamic(&stack), expected, "{:?}", stack.warnings);
        let said =
            |name: &str| stack.warnings.iter().any(|warning| warning.contains(name) && warning.contains("missing"));
        let disk = format!("Disk{}", missing + 1);
        assert!(said("Stripe1") && said("Volume2") && said("Raid1") && said(&disk), "{:?}", stack.warnings);
    }
    let stack = open(&disks[..1]);
    assert_eq!(dynamic(&stack).len(), 1);
    assert!(stack.warnings.iter().any(|warning| warning.contains("Disk2, Disk3 missing")), "{:?}", stack.warnings);
}

#[test]
fn the_newest_copy_of_the_database_counts() {
    let mut disks = group("mbr");
    // An old copy: it knows a volume by another name.
    disks[1][DATABASE + 117..][..8].copy_from_slice(&3_u64.to_be_bytes());
    let database = &disks[1][BLOCKS..];
    let at = BLOCKS + database.windows(7).position(|bytes| bytes == b"Stripe1").expect("it is there");
    disks[1][at..at + 7].copy_from_slice(b"Strife1");
    let stack = open(&disks);
    assert_eq!(dynamic(&stack), expected("mbr"));
    assert!(stack.warnings.iter().any(|warning| warning.contains("out of date")), "{:?}", stack.warnings);
}

#[test]
fn copies_of_a_disk_and_changes_that_were_not_finished_are_told_of() {
    let mut disks = group("mbr");
    disks.push(disks[0].clone());
    let stack = open(&disks);
    assert_eq!(dynamic(&stack), expected("mbr"));
    assert!(stack.warnings.iter().any(|warning| warning.contains("same dynamic disk")), "{:?}", stack.warnings);
    let mut disks = group("mbr");
    disks.iter_mut().for_each(|disk| disk[DATABASE + 17] = 3);
    let stack = open(&disks);
    assert!(dynamic(&stack).is_empty());
    assert!(stack.warnings.iter().any(|warning| warning.contains("while Windows changes")), "{:?}", stack.warnings);
}

#[test]
fn databases_that_lie_cost_their_volumes_and_nothing_more() {
    let sources = sources(&group("mbr"));
    let change = |at: usize, value: &[u8]| {
        let mut before = vec![0; value.len()];
        for source in &sources {
            source.device.read_at(&mut before, at as u64).expect("it lies inside");
            source.device.write_at(value, at as u64).expect("it lies inside");
        }
        let stack = assemble(&sources, &NoKeys).expect("the first sectors are read");
        for assembled in stack.volumes.iter().filter(|found| matches!(found.volume.kind, VolumeKind::Dynamic(_))) {
            let device = &assembled.volume.device;
            assert!(device.size() <= 3 << 20);
            for offset in [0, device.size() / 2, device.size() - 512] {
                device.read_at(&mut [0; 512], offset).expect("it lies inside");
            }
        }
        for source in &sources {
            source.device.write_at(&before, at as u64).expect("it lies inside");
        }
    };
    // The private header, the table of contents, and the head of the database.
    let places = [(3072 + 0x11b, 8), (3072 + 0x12b, 8), (3072 + 0x133, 8), (DATABASE - 16 * 512 + 0x2e, 8)];
    let head = [(DATABASE + 8, 4), (DATABASE + 12, 4), (DATABASE + 16, 2), (DATABASE + 18, 2), (DATABASE + 4, 4)];
    for (at, width) in places.into_iter().chain(head) {
        for value in [0, 1, 63, 0x7fff_ffff, u64::MAX / 512, u64::MAX] {
            change(at, &value.to_be_bytes()[8 - width..]);
        }
    }
    // Every byte of a few blocks, where lengths, counts and numbers of others lie.
    for block in 0..12 {
        for byte in 4..100 {
            for value in [0, 0x7f] {
                change(BLOCKS + 128 * block + byte, &[value]);
            }
        }
    }
}
