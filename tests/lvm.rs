//! Volume groups that LVM made: whole, in any order, without members, and damaged.

mod common;

use common::volumes::{Members, golden, sha256, sources};
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Assembled, Stack, VolumeKind, assemble};
use std::collections::BTreeMap;

fn sums() -> BTreeMap<String, (u64, String)> {
    let line = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        let name = fields.next().expect("a name");
        let size = fields.next().and_then(|size| size.parse().ok()).expect("a size");
        (name, (size, fields.next().expect("a checksum")))
    };
    include_str!("data/volumes/lvm.sums").lines().map(line).collect()
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

#[test]
fn every_volume_reads_as_the_kernel_reads_it_in_whatever_order_the_disks_come() {
    let mut disks = disks();
    for _ in 0..2 {
        let stack = assemble(&sources(&disks), &NoKeys).expect("assembles");
        assert_eq!(compare(&stack, &[]), sums().len(), "{:?}", stack.warnings);
        assert_eq!(stack.warnings, [""; 0]);
        disks.reverse();
    }
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
        compare(&stack, &[]);
        for name in ["raid1", "raid5-ls", "mirror"] {
            assert!(volume(&stack, &format!("/dev/vg-0/{name}")).is_some(), "{name} without disk {missing}: {text}");
        }
        for name in sums().keys() {
            let path = format!("/dev/vg-0/{name}");
            assert!(volume(&stack, &path).is_some() || text.contains(&path), "{path}: {text}");
        }
    }
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
    for name in ["raid1", "raid5-ls", "snap", "origin"] {
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

/// Reads a little of every volume; an error is as good as bytes, a panic is not.
fn touch(stack: &Stack) {
    let mut buf = [0; 4096];
    for found in &stack.volumes {
        let size = found.volume.device.size();
        for offset in [0, size / 2, size.saturating_sub(4096)] {
            let _ = found.volume.device.read_at(&mut buf, offset);
        }
    }
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
