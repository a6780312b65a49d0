//! Volume groups that LVM made: whole, in any order, without members, and damaged.

mod common;

use common::guest::guestctl;
use common::volumes::{self, Members, Sums, golden, sha256, sources, touch};
use guestctl::block::ExtentKind;
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Assembled, Stack, VolumeKind, assemble};
use std::ffi::OsStr;

fn sums() -> Sums {
    volumes::sums(include_str!("data/volumes/lvm.sums"))
}

fn disks() -> Members {
    golden("lvm").into_iter().map(|(_, bytes)| bytes).collect()
}

fn volume<'a>(stack: &'a Stack, name: &str) -> Option<&'a Assembled> {
    stack.volumes.iter().find(|found| found.volume.name == name)
}

/// Holds every volume that is there against what the kernel read; returns how many there are.
fn compare(stack: &Stack, but: &[&str]) -> usize {
    let mut count = 0;
    for (name, (size, sum)) in &sums() {
        let Some(found) = volume(stack, &format!("/dev/vg-0/{name}")) else { continue };
        if but.contains(&name.as_str()) {
            continue;
        }
        assert_eq!(found.volume.device.size(), *size, "{name}");
        assert_eq!(&sha256(&*found.volume.device), sum, "{name}: {:?}", stack.warnings);
        count += 1;
    }
    count
}

/// What is said of the group when all disks are there: legs that are out of date are not read, and a cache that holds what its
/// volume lacks is refused.
fn check_warnings(stack: &Stack) {
    let known = [
        "vg-0/stale1: read without stale1_rimage_0: it is out of date",
        "vg-0/stale5: read without stale5_rimage_0: it is out of date",
        "/dev/vg-0/write-held: left out: ",
    ];
    let text = stack.warnings.join("\n");
    assert_eq!(stack.warnings.len(), known.len(), "{text}");
    assert!(known.iter().all(|known| text.contains(known)), "{text}");
    assert!(text.contains("a writecache that holds what its origin lacks"), "{text}");
}

#[test]
fn every_volume_reads_as_the_kernel_reads_it_in_whatever_order_the_disks_come() {
    let mut disks = disks();
    for _ in 0..2 {
        let stack = assemble(&sources(&disks), &NoKeys).expect("assembles");
        assert_eq!(compare(&stack, &[]), sums().len(), "{:?}", stack.warnings);
        check_warnings(&stack);
        disks.reverse();
    }
}

#[test]
fn a_large_thin_volume_is_zeroes_but_where_it_was_written() {
    const BLOCK: u64 = 64 << 10;
    let stack = assemble(&sources(&disks()), &NoKeys).expect("assembles");
    let device = &volume(&stack, "/dev/vg-0/thin-large").expect("thin-large").volume.device;
    assert_eq!(device.size(), 40 << 30);
    let mut buf = vec![0; 5 * BLOCK as usize];
    device.read_at(&mut buf, 299_999 * BLOCK).expect("reads");
    let (before, rest) = buf.split_at(BLOCK as usize);
    let (written, after) = rest.split_at(3 * BLOCK as usize);
    assert!(before.iter().chain(after).all(|&byte| byte == 0));
    for (sector, bytes) in written.chunks(512).enumerate() {
        assert!(bytes.starts_with(format!("linear {sector:08}\n").as_bytes()), "sector {sector}");
    }
    device.read_at(&mut buf[..17], 655_351 * BLOCK).expect("reads");
    assert_eq!(&buf[..17], b"linear 00000128\nl");
    // A hole ends where something was written, however far away.
    let mut holes = Vec::new();
    let mut offset = 0;
    while offset < device.size() {
        let extent = device.map(offset, device.size() - offset).expect("a map");
        if extent.kind == ExtentKind::Hole {
            holes.push((offset / BLOCK, extent.end / BLOCK));
        }
        assert!(extent.end > offset);
        offset = extent.end;
    }
    assert_eq!(holes, [(0, 300_000), (300_003, 655_350), (655_352, 655_360)]);
}

#[test]
fn what_a_cache_holds_is_read_from_the_cache() {
    const BLOCK: usize = 32 << 10;
    let mut disks = disks();
    let read = |disks: &Members| {
        let stack = assemble(&sources(disks), &NoKeys).expect("assembles");
        let mut bytes = vec![0; 2 << 20];
        volume(&stack, "/dev/vg-0/cached").expect("cached").volume.device.read_at(&mut bytes, 0).expect("reads");
        bytes
    };
    let before = read(&disks);
    // The kernel has written every block back, so the origin's are changed here.
    let text = String::from_utf8_lossy(&disks[0][..1 << 20]).into_owned();
    let place = text.rsplit_once("\ncached_corig {").expect("the origin").1;
    let place = place.split_once("\"pv0\", ").expect("its place").1;
    let extent: usize = place.split(']').next().expect("a number").trim().parse().expect("a number");
    let start = (1 << 20) + extent * (64 << 10);
    disks[0][start..start + before.len()].iter_mut().for_each(|byte| *byte = !*byte);
    let after = read(&disks);
    let mut cached = 0;
    for (old, new) in before.chunks(BLOCK).zip(after.chunks(BLOCK)) {
        cached += usize::from(old == new);
        assert!(old == new || old.iter().zip(new).all(|(old, new)| *old == !*new));
    }
    assert!((10..60).contains(&cached), "{cached} blocks");
}

#[test]
fn metadata_that_go_on_at_the_beginning_of_their_area_are_read() {
    let disk = &disks()[0];
    let number = |at: usize| u64::from_le_bytes(disk[4096 + at..][..8].try_into().expect("8 bytes"));
    let (area, offset, len) = (number(32), number(40), number(48));
    assert!(offset + len > area, "the text of {len} bytes lies at {offset} of {area}: it does not wrap");
    assert!(
        assemble(&sources(std::slice::from_ref(disk)), &NoKeys)
            .expect("assembles")
            .warnings
            .iter()
            .all(|warning| !warning.contains("metadata area"))
    );
}

#[test]
fn without_a_disk_what_can_be_opened_is_and_the_rest_is_named() {
    let disks = disks();
    for missing in 0..5 {
        let kept: Members =
            disks.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, disk)| disk.clone()).collect();
        let stack = assemble(&sources(&kept), &NoKeys).expect("assembles");
        let text = stack.warnings.join("\n");
        assert!(text.contains("volume group vg-0: 1 of 5 physical volumes are missing"), "{text}");
        // Without its newer leg, nothing tells that the other one of stale1 is out of date.
        compare(&stack, if missing == 1 { &["stale1"] } else { &[] });
        for name in sums().keys() {
            let path = format!("/dev/vg-0/{name}");
            let is_there = volume(&stack, &path).is_some();
            let is_redundant = name == "mirror" || name.starts_with("raid") && !name.starts_with("raid0");
            assert!(is_there || !is_redundant, "{name} without disk {missing}: {text}");
            assert!(is_there || text.contains(&path), "{path}: {text}");
        }
    }
}

#[test]
fn raid6_does_without_any_two_disks() {
    let disks = disks();
    let sums = sums();
    for first in 0..5 {
        for second in first + 1..5 {
            let kept = disks.iter().enumerate().filter(|(index, _)| *index != first && *index != second);
            let kept: Members = kept.map(|(_, disk)| disk.clone()).collect();
            let stack = assemble(&sources(&kept), &NoKeys).expect("assembles");
            let raids: Vec<_> = sums.iter().filter(|(name, _)| name.starts_with("raid6")).collect();
            assert_eq!(raids.len(), 8);
            for (name, (_, sum)) in raids {
                let found = volume(&stack, &format!("/dev/vg-0/{name}"));
                let found = found.unwrap_or_else(|| panic!("{name}: {:?}", stack.warnings));
                assert_eq!(&sha256(&*found.volume.device), sum, "{name} without {first} and {second}");
            }
        }
    }
}

#[test]
fn raid_volumes_that_lack_more_legs_than_they_can_do_without_are_named() {
    let disks = disks();
    let said_of = |missing: &[usize]| {
        let kept = disks.iter().enumerate().filter(|(index, _)| !missing.contains(index));
        let kept: Members = kept.map(|(_, disk)| disk.clone()).collect();
        let stack = assemble(&sources(&kept), &NoKeys).expect("assembles");
        let names: Vec<String> = stack.volumes.iter().map(|found| found.volume.name.clone()).collect();
        (names, stack.warnings)
    };
    // Of three legs of data and one of parity, or two of it, some lie on each disk.
    for (missing, kinds) in [(&[0, 1, 2][..], &["raid6"][..]), (&[0, 1], &["raid4", "raid5"]), (&[0], &["raid0"])] {
        let (names, said) = said_of(missing);
        for kind in kinds {
            let line = |line: &&String| {
                line.starts_with(&format!("/dev/vg-0/{kind}"))
                    && line.contains("cannot do without the legs that are missing")
            };
            let left_out: Vec<&String> = said.iter().filter(line).collect();
            assert!(!left_out.is_empty(), "{kind} without {missing:?}: {said:?}");
            for line in left_out {
                let name = line.split_once(": left out").expect("it says so").0;
                assert!(!names.iter().any(|other| other == name), "{name} is there and left out");
            }
        }
    }
}

#[test]
fn caches_of_another_version_are_refused_by_name() {
    // The superblocks of dm-cache and dm-writecache, wherever they lie: their signatures, and what is changed.
    let cache = 0o6_142_003_u64.to_le_bytes();
    let mut disks = disks();
    let mut found = 0;
    for disk in &mut disks {
        for at in (0..disk.len() - 4096).step_by(4096) {
            let block = &mut disk[at..at + 4096];
            if block[32..40] == cache {
                block[40..44].copy_from_slice(&3_u32.to_le_bytes());
                let sum = !crc32c::crc32c(&block[4..]) ^ 9_031_977;
                block[..4].copy_from_slice(&sum.to_le_bytes());
                found += 1;
            } else if block[..4] == 0x2348_9321_u32.to_le_bytes() {
                block[4..6].copy_from_slice(&7_u16.to_le_bytes());
                found += 1;
            }
        }
    }
    assert!(found >= 4, "{found}");
    let stack = assemble(&sources(&disks), &NoKeys).expect("assembles");
    let said = stack.warnings.join("\n");
    for (name, why) in [
        ("cached", "caches of version 3"),
        ("cached-vol", "caches of version 3"),
        ("write-back", "writecaches of version 7"),
        ("write-held", "writecaches of version 7"),
    ] {
        let start = format!("/dev/vg-0/{name}: left out: ");
        let line = stack.warnings.iter().find(|line| line.starts_with(&start));
        assert!(line.is_some_and(|line| line.contains(why)), "{name}: {said}");
        assert!(volume(&stack, &format!("/dev/vg-0/{name}")).is_none());
    }
    // One that writes through is read without its cache.
    assert!(volume(&stack, "/dev/vg-0/cached-through").is_some(), "{said}");
}

/// Returns what a tree of devices says of each, with the device that it lies on.
fn flatten(nodes: &serde_json::Value, parent: &str, all: &mut Vec<(String, String, String)>) {
    for node in nodes.as_array().into_iter().flatten() {
        let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        all.push((parent.to_owned(), text("device"), text("holds")));
        flatten(&node["children"], &text("device"), all);
    }
}

#[test]
fn filesystems_shows_the_group_as_a_tree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let paths = volumes::save(&disks(), folder.path());
    let mut arguments = vec![OsStr::new("filesystems"), OsStr::new("--tree"), paths[0].as_os_str()];
    for path in &paths[1..] {
        arguments.extend([OsStr::new("-a"), path.as_os_str()]);
    }
    let (code, printed, said) = guestctl(&arguments);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("/dev/vg-0/write-held: left out: "), "{said}");
    let printed = String::from_utf8(printed).expect("text");
    let line = |start: &str| {
        let line = printed.lines().find(|line| line.split_whitespace().next() == Some(start));
        line.unwrap_or_else(|| panic!("{start}: {printed}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(line("/dev/sda")[1..4], ["40M", "disk", "LVM2_member"], "{printed}");
    assert_eq!(line("└─/dev/sdc1")[2..4], ["part", "LVM2_member"], "{printed}");
    assert_eq!(line("├─/dev/vg-0/root")[2..5], ["lvm", "ext4", "root"], "{printed}");
    assert!(printed.contains("\n  ├─/dev/vg-0/"), "the volumes on a partition lie below it: {printed}");

    arguments.push(OsStr::new("--json"));
    let (code, printed, said) = guestctl(&arguments);
    assert_eq!(code, 0, "{said}");
    let report: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    let mut all = Vec::new();
    flatten(&report["devices"], "", &mut all);
    let has = |parent: &str, device: &str, holds: &str| {
        all.iter().any(|one| (one.0.as_str(), one.1.as_str(), one.2.as_str()) == (parent, device, holds))
    };
    for (parent, device, holds) in [
        ("", "/dev/sda", "LVM2_member"),
        ("", "/dev/sdc", ""),
        ("/dev/sdc", "/dev/sdc1", "LVM2_member"),
        ("/dev/sdc1", "/dev/vg-0/raid6-zr", ""),
        ("/dev/sde", "/dev/vg-0/raid6-zr", ""),
    ] {
        assert!(has(parent, device, holds), "{device} on {parent}: {all:?}");
    }
    assert!(all.iter().any(|(_, device, holds)| device == "/dev/vg-0/home" && holds == "ext4"), "{all:?}");
    let warnings = report["warnings"].as_array().expect("warnings");
    assert!(warnings.iter().any(|one| one.as_str().is_some_and(|one| one.contains("write-held"))), "{warnings:?}");
}

#[test]
fn linear_striped_and_mirrored_volumes_are_written_and_others_are_not() {
    let disks = sources(&disks());
    let stack = assemble(&disks, &NoKeys).expect("assembles");
    for name in ["linear", "striped", "mirror"] {
        let device = &volume(&stack, &format!("/dev/vg-0/{name}")).expect(name).volume.device;
        assert!(!device.is_read_only(), "{name}");
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        device.write_at(&bytes, 70_001).expect(name);
        device.flush().expect(name);
    }
    let again = assemble(&disks, &NoKeys).expect("assembles");
    for name in ["linear", "striped", "mirror"] {
        let device = &volume(&again, &format!("/dev/vg-0/{name}")).expect(name).volume.device;
        let mut buf = vec![0; 200_000];
        device.read_at(&mut buf, 70_001).expect(name);
        assert!(buf.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251), "{name}");
    }
    assert!(compare(&again, &["linear", "striped", "mirror"]) >= 5);
    for name in [
        "raid1",
        "raid5-ls",
        "snap",
        "origin",
        "thin",
        "thin-ext",
        "external",
        "cached",
        "cached-vol",
        "write-back",
        "raid0",
    ] {
        let device = &volume(&again, &format!("/dev/vg-0/{name}")).expect(name).volume.device;
        assert!(device.is_read_only(), "{name}");
        assert!(device.write_at(&[0], 0).is_err_and(|error| error.is_errno(libc::EROFS)), "{name}");
    }
}

#[test]
fn a_system_on_logical_volumes_is_one_tree() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut guest = guestctl::Guestfs::new().expect("a handle");
    for (index, disk) in disks().iter().rev().enumerate() {
        let path = folder.path().join(index.to_string());
        std::fs::write(&path, disk).expect("a new file");
        guest.add_drive_ro(path).expect("before launch");
    }
    guest.launch().expect("launches");
    let roots = guest.inspect_os().expect("inspects");
    assert_eq!(roots, ["/dev/vg-0/root"]);
    guest.mount_layout(guestctl::guestfs::Layout::Os, false).expect("mounts");
    assert_eq!(guest.mounts(), ["/dev/vg-0/root", "/dev/vg-0/home"]);
    let numbers = |last: u32| (1..=last).map(|number| format!("{number}\n")).collect::<String>();
    assert_eq!(guest.cat("/srv/numbers").expect("reads"), numbers(20_000));
    assert_eq!(guest.cat("/home/ann/numbers").expect("reads"), numbers(30_000));
    assert_eq!(guest.vfs_label("/dev/mapper/vg--0-root").expect("an alias"), "root");
}

#[test]
fn a_copy_of_a_physical_volume_is_named() {
    let mut disks = disks();
    disks.push(disks[0].clone());
    let stack = assemble(&sources(&disks), &NoKeys).expect("assembles");
    let text = stack.warnings.join("\n");
    assert!(text.contains("/dev/sdf: left out: it has the UUID of the physical volume /dev/sda"), "{text}");
}

#[test]
fn a_volume_knows_what_it_is_made_of() {
    let stack = assemble(&sources(&disks()), &NoKeys).expect("assembles");
    let striped = volume(&stack, "/dev/vg-0/striped").expect("striped");
    let VolumeKind::Logical(logical) = &striped.volume.kind else { panic!("{striped:?}") };
    assert_eq!((logical.group.as_str(), logical.layout.as_str()), ("vg-0", "striped"));
    assert!(striped.volume.parents.len() >= 3, "{striped:?}");
    assert!(striped.volume.aliases.iter().any(|alias| alias == "/dev/mapper/vg--0-striped"));
}

#[test]
fn changed_metadata_do_no_harm() {
    let disks = disks();
    // The label, the headers of the metadata areas, and the texts: what has a checksum is refused, and each change is one line.
    for disk in [0, 2] {
        let start = if disk == 2 { 1 << 20 } else { 0 };
        for at in (512..1100).chain(4096..4700).step_by(97) {
            let mut changed = disks.clone();
            changed[disk][start + at] ^= 0x55;
            touch(&assemble(&sources(&changed), &NoKeys).expect("assembles"));
        }
    }
}
