//! BitLocker: volumes of each kind that dislocker opens, opened to the same bytes, and volumes that lie.

mod common;

use common::guest::{Workspace, guestctl};
use common::volumes::{golden, save, sha256, sources};
use guestctl::Error;
use guestctl::block::{MemoryDevice, SharedDevice};
use guestctl::volume::bitlocker::BitLocker;
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::keys::{Keys, Selector};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const PASSWORD: &str = "correct horse";

/// Where the first copy of the metadata lies in the golden volumes of Windows 7 and later.
const FIRST_COPY: usize = 262_144;

fn volumes() -> BTreeMap<String, Vec<u8>> {
    golden("bitlocker").into_iter().collect()
}

fn device(bytes: &[u8]) -> SharedDevice {
    Arc::new(MemoryDevice::new(bytes.to_vec()))
}

fn read(bytes: &[u8]) -> guestctl::Result<Option<BitLocker>> {
    BitLocker::read(device(bytes).as_ref())
}

/// Stores the checksum of a copy of the metadata, so that a change in it is believed.
fn fix_checksum(volume: &mut [u8], place: usize) {
    let size = usize::from(u16::from_le_bytes([volume[place + 8], volume[place + 9]])) * 16;
    let sum = crc32fast::hash(&volume[place..place + size]);
    volume[place + size + 4..][..4].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn every_kind_of_volume_is_opened_to_the_bytes_that_dislocker_shows() {
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/volumes/bitlocker.list");
    let list = fs::read_to_string(list).expect("it is in the repository");
    let volumes = volumes();
    let mut shown: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for line in list.lines() {
        let [name, kind, secret, sum] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let device = device(&volumes[name]);
        let volume = BitLocker::read(device.as_ref()).expect(name).expect(name);
        let opened = match kind {
            "clear" => volume.open_clear(&device),
            "startup" => volume.open(&device, &volumes[&format!("{name}.BEK")]),
            _ => volume.open(&device, secret.as_bytes()),
        };
        let opened = opened.expect(line).expect("the key is right");
        assert!(opened.is_read_only());
        // Another key of the same volume gives the same cipher.
        let mut start = vec![0; 20_000];
        opened.read_at(&mut start, 0).expect("it lies inside");
        match shown.get(name) {
            Some(before) => assert!(*before == start, "{name} {kind}"),
            None => {
                assert_eq!(sha256(opened.as_ref()), sum, "{name} {kind}");
                shown.insert(name, start);
            }
        }
    }
    assert_eq!(list.lines().count(), 17);
}

#[test]
fn reads_that_begin_and_end_anywhere_show_the_same_bytes() {
    let volumes = volumes();
    for name in ["vista-elephant-128", "seven-cbc-256-4k", "ten-xts-128-paused", "togo-xts-128"] {
        let device = device(&volumes[name]);
        let volume = BitLocker::read(device.as_ref()).expect(name).expect(name);
        let key = volumes.get(&format!("{name}.BEK")).map_or(PASSWORD.as_bytes(), |bytes| bytes);
        let opened = volume.open(&device, key).expect(name).expect("the key is right");
        let mut whole = vec![0; opened.size() as usize];
        opened.read_at(&mut whole, 0).expect("it lies inside");
        for (at, count) in
            [(0, 1), (50, 20), (500, 30), (511, 8000), (8190, 5), (4095, 70000), (12_280, 20), (260_000, 9000)]
        {
            let mut part = vec![0; count];
            opened.read_at(&mut part, at as u64).expect("it lies inside");
            assert_eq!(part, whole[at..at + count], "{name} {at} {count}");
        }
        opened.read_at(&mut [0; 2], opened.size() - 1).expect_err("past the end");
    }
}

#[test]
fn keys_are_given_as_for_other_encrypted_volumes_and_wrong_ones_are_told_of() {
    let space = Workspace::new();
    let volumes = volumes();
    let image = save(&[volumes["ten-xts-128"].clone()], &space.folder("disks")).remove(0);
    let image = image.to_str().expect("a plain name");
    let run = |key: &str| {
        fs::write(space.path("key"), key).expect("there is room");
        let key = format!("all:file:{}", space.path("key").display());
        guestctl(&["cat", image, "/hello", "--key", &key])
    };
    let recovery = "500940-638000-112783-191851-157784-578820-650628-103697";
    for key in [PASSWORD, "correct horse\n", recovery, &format!("{recovery}\r\n"), &recovery.replace('-', "")] {
        let (code, out, error) = run(key);
        assert_eq!((code, out.as_slice()), (0, &b"hello from ten-xts-128"[..]), "{key:?}: {error}");
    }
    for key in ["wrong", "500940-638000-112783-191851-157784-578820-650628-103708"] {
        let (code, _, error) = run(key);
        assert_ne!(code, 0);
        assert!(error.contains("no protector opens with the given key"), "{error}");
        assert_eq!(error.lines().filter(|line| line.contains("protector")).count(), 1, "{error}");
    }
}

#[test]
fn the_tree_shows_what_an_encrypted_volume_holds_and_names_it_by_its_guid() {
    let space = Workspace::new();
    let volumes = volumes();
    let image = save(&[volumes["togo-xts-128"].clone()], &space.folder("disks")).remove(0);
    let image = image.to_str().expect("a plain name");
    fs::write(space.path("key"), PASSWORD).expect("there is room");
    let uuid = read(&volumes["togo-xts-128"]).expect("whole").expect("BitLocker").uuid().to_owned();
    let key = format!("{uuid}:file:{}", space.path("key").display());
    let (code, out, error) = guestctl(&["filesystems", "--tree", image, "--key", &key]);
    let out = String::from_utf8(out).expect("text");
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("BitLocker") && out.contains("vfat") && out.contains("BITLOCKER"), "{out}");
    assert!(out.contains(&format!("/dev/mapper/bitlk-{uuid}")), "{out}");
    let (code, out, error) = guestctl(&["filesystems", image]);
    assert_eq!(code, 0);
    assert!(String::from_utf8_lossy(&out).contains("BitLocker (locked)"), "{error}");
}

#[test]
fn a_volume_whose_key_lies_open_is_opened_without_one() {
    let disks = [volumes()["ten-xts-128-clear"].clone()];
    let stack = guestctl::volume::assemble(&sources(&disks), &NoKeys).expect("it is read");
    assert!(stack.locked.is_empty(), "{:?}", stack.warnings);
    assert_eq!(stack.volumes.len(), 2);
    let mut keys = Keys::new();
    keys.add(Selector::All, b"of another volume".to_vec().into());
    let stack = guestctl::volume::assemble(&sources(&disks), &keys).expect("it is read");
    assert!(stack.locked.is_empty(), "{:?}", stack.warnings);
}

#[test]
fn a_volume_that_only_a_tpm_opens_says_so() {
    let disks = [volumes()["seven-cbc-128"].clone()];
    let stack = guestctl::volume::assemble(&sources(&disks), &NoKeys).expect("it is read");
    assert_eq!(stack.locked.len(), 1);
    assert!(stack.warnings.iter().any(|warning| warning.contains("TPM")), "{:?}", stack.warnings);
}

#[test]
fn damaged_copies_of_the_metadata_are_passed_over_and_without_a_whole_one_it_is_told() {
    let volumes = volumes();
    for (name, key) in
        [("ten-xts-128", PASSWORD.as_bytes()), ("vista-elephant-128", &volumes["vista-elephant-128.BEK"])]
    {
        let mut bytes = volumes[name].clone();
        let boot = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
        let first = if name.starts_with("vista") { boot(56) * 512 } else { boot(176) };
        let copies: Vec<usize> = (0..3).map(|copy| boot(first + 32 + 8 * copy)).collect();
        assert_eq!(copies[0], first);
        for (index, copy) in copies.into_iter().enumerate() {
            bytes[copy + 200] ^= 1;
            match BitLocker::read(device(&bytes).as_ref()) {
                Ok(found) if index < 2 => {
                    let opened = found.expect("BitLocker").open(&device(&bytes), key).expect("it opens");
                    assert!(opened.is_some(), "{name}");
                }
                Err(error) if index == 2 => {
                    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                    assert!(error.to_string().contains("checksum"), "{error}");
                }
                other => panic!("{name} {index}: {:?}", other.map(|found| found.is_some())),
            }
        }
        let stack = guestctl::volume::assemble(&sources(&[bytes]), &NoKeys).expect("it is read");
        assert_eq!(stack.locked.len(), 1);
        assert!(stack.warnings.iter().any(|warning| warning.contains("checksum")), "{:?}", stack.warnings);
    }
}

#[test]
fn volumes_that_are_not_read_are_refused_by_name() {
    let volumes = volumes();
    for (name, said) in [("ten-xts-128-on-write", "only used space"), ("ten-xts-128-converting", "being converted")] {
        let device = device(&volumes[name]);
        let volume = BitLocker::read(device.as_ref()).expect(name).expect(name);
        let error = volume.open(&device, PASSWORD.as_bytes()).map(drop).expect_err("refused");
        assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains(said), "{error}");
    }
    let mut bytes = volumes["ten-xts-128"].clone();
    bytes[FIRST_COPY + 100..][..2].copy_from_slice(&0x8009_u16.to_le_bytes());
    fix_checksum(&mut bytes, FIRST_COPY);
    let device = device(&bytes);
    let volume = BitLocker::read(device.as_ref()).expect("whole").expect("BitLocker");
    let error = volume.open(&device, PASSWORD.as_bytes()).map(drop).expect_err("refused");
    assert!(error.to_string().contains("the cipher 0x8009 of BitLocker"), "{error}");
}

#[test]
fn metadata_that_lie_are_refused_and_nothing_is_read_past_the_device() {
    let whole = volumes()["ten-xts-128-clear"].clone();
    let boot = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().expect("8 bytes")) as usize;
    let copies = [boot(176), boot(184), boot(192)];
    let fields = [(8, 2), (10, 2), (12, 2), (16, 8), (28, 4), (32, 8), (56, 8), (64, 4), (68, 4), (72, 4), (100, 2)];
    for (at, width) in fields {
        for value in [0, 1, 7, 0x7fff, 0xffff, 0x10_0000, u64::MAX / 512, u64::MAX - 100_000, u64::MAX] {
            let mut bytes = whole.clone();
            for copy in copies {
                bytes[copy + at..][..width].copy_from_slice(&value.to_le_bytes()[..width]);
                let size = usize::from(u16::from_le_bytes([bytes[copy + 8], bytes[copy + 9]])) * 16;
                if copy + size + 8 <= bytes.len() {
                    fix_checksum(&mut bytes, copy);
                }
            }
            let device = device(&bytes);
            let Ok(Some(volume)) = BitLocker::read(device.as_ref()) else { continue };
            let Ok(Some(opened)) = volume.open_clear(&device) else { continue };
            for offset in [0, 8000, opened.size() / 2, opened.size() - 600] {
                opened.read_at(&mut [0; 600], offset).expect("it lies inside");
            }
        }
    }
    // Every entry's size in turn.
    assert_eq!(copies[0], FIRST_COPY);
    for at in (FIRST_COPY + 112..FIRST_COPY + 700).step_by(2) {
        let mut bytes = whole.clone();
        bytes[at..at + 2].copy_from_slice(&[0xff, 0x7f]);
        fix_checksum(&mut bytes, FIRST_COPY);
        if let Ok(Some(volume)) = read(&bytes) {
            assert!(volume.protectors().count() <= 3);
        }
    }
    for size in [0, 511, 512, 600, FIRST_COPY, FIRST_COPY + 100, FIRST_COPY + 300, 500_000] {
        let _ = read(&whole[..size]);
    }
}
