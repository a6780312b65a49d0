//! Arrays that mdadm made, whole, in any order, and without members; and what hostile superblocks do.

mod common;

use common::volumes::{self, Members, Sums, golden, sha256, sources};
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Assembled, Stack, VolumeKind, assemble};
use std::collections::BTreeMap;

fn sums() -> Sums {
    volumes::sums(include_str!("data/volumes/md.sums"))
}

/// Returns the members of every array, by its name.
fn arrays() -> BTreeMap<String, Members> {
    let mut arrays: BTreeMap<String, Members> = BTreeMap::new();
    for (name, bytes) in golden("md") {
        let (array, _) = name.split_once('.').expect("ARRAY.DISK");
        arrays.entry(array.to_owned()).or_default().push(bytes);
    }
    arrays
}

fn put_together(members: &[Vec<u8>]) -> Stack {
    assemble(&sources(members), &NoKeys).expect("assembles")
}

fn raids(stack: &Stack) -> Vec<&Assembled> {
    stack.volumes.iter().filter(|found| matches!(found.volume.kind, VolumeKind::Raid(_))).collect()
}

/// Says that an array reads as the kernel read it; returns what was put together.
fn check(name: &str, members: &[Vec<u8>], (size, sum): &(u64, String)) -> Stack {
    let stack = put_together(members);
    let [raid] = raids(&stack)[..] else { panic!("{name}: {stack:?}") };
    assert_eq!(raid.volume.device.size(), *size, "{name}: {stack:?}");
    assert_eq!(&sha256(&*raid.volume.device), sum, "{name}: {stack:?}");
    stack
}

#[test]
fn every_array_reads_as_the_kernel_reads_it() {
    let arrays = arrays();
    for (name, sum) in &sums() {
        let mut members = arrays[name].clone();
        check(name, &members, sum);
        members.reverse();
        check(name, &members, sum);
    }
}

#[test]
fn arrays_are_read_without_the_members_that_they_can_do_without() {
    let sums = sums();
    for (name, members) in &arrays() {
        let spare = match name.split('-').next() {
            Some("raid1") => members.len() - 1,
            Some("raid4" | "raid5") => 1,
            Some("raid6") => 2,
            Some("raid10") => usize::from(name.ends_with('3')) + 1,
            _ => continue,
        };
        let whole: Vec<usize> = (0..members.len()).collect();
        // Every pair of members of two layouts, which have all cases of the arithmetic; neighbours of the others.
        let all_pairs = matches!(name.as_str(), "raid6-ls" | "raid6-ddf-zr");
        for first in 0..members.len() {
            let others: Vec<usize> = match spare {
                1 => vec![first],
                _ if all_pairs => (first + 1..members.len()).collect(),
                _ => vec![(first + 1) % members.len()],
            };
            for second in others {
                let kept = whole.iter().filter(|&&index| index != first && index != second);
                let kept: Vec<Vec<u8>> = kept.map(|&index| members[index].clone()).collect();
                let warnings = check(name, &kept, &sums[name]).warnings;
                assert!(warnings.iter().any(|warning| warning.contains("lacks")), "{name}: {warnings:?}");
            }
        }
    }
}

#[test]
fn what_lacks_too_many_members_is_left_out_and_named() {
    let arrays = arrays();
    for name in ["linear-12", "raid0-zones-original", "raid5-ls", "raid6-ls", "raid10-n2"] {
        let kept = &arrays[name][..arrays[name].len() - if name.starts_with("raid6") { 3 } else { 2 }];
        let stack = put_together(kept);
        assert!(raids(&stack).is_empty(), "{name}");
        assert!(stack.warnings.iter().any(|warning| warning.contains("cannot do without")), "{name}: {stack:?}");
    }
}

#[test]
fn a_member_that_was_taken_out_is_not_read() {
    let sums = sums();
    for name in ["stale-raid1", "stale-raid5"] {
        let members = &arrays()[name];
        let warnings = check(name, members, &sums[name]).warnings;
        assert!(warnings.iter().any(|warning| warning.contains("out of")), "{name}: {warnings:?}");
    }
}

#[test]
fn the_members_of_many_arrays_are_told_apart() {
    let arrays = arrays();
    let mut members = Vec::new();
    for place in 0..5 {
        for name in ["raid5-ls", "raid6-ls", "raid1-12", "raid0-zones-original", "raid10-f2"] {
            members.extend(arrays[name].get(place).cloned());
        }
    }
    let stack = put_together(&members);
    assert_eq!(raids(&stack).len(), 5, "{stack:?}");
    assert_eq!(stack.warnings, [""; 0]);
    let sums = sums();
    for raid in raids(&stack) {
        let sum = sha256(&*raid.volume.device);
        assert!(sums.values().any(|(size, known)| *size == raid.volume.device.size() && *known == sum), "{raid:?}");
    }
}

#[test]
fn a_changed_superblock_does_no_harm() {
    let arrays = arrays();
    for name in ["raid6-ls", "raid0-zones-alternate", "raid10-o2", "raid5-ra"] {
        let members = &arrays[name];
        let is_old = name == "raid5-ra";
        let start = if is_old { members[0].len() / 65536 * 65536 - 65536 } else { 4096 };
        for at in (0..if is_old { 1100 } else { 264 }).step_by(11) {
            for value in [0, 0x7f, 0xff] {
                let mut changed = members.clone();
                changed[0][start + at] = value;
                volumes::fix_md_checksum(&mut changed[0][start..], is_old);
                let stack = put_together(&changed);
                for raid in raids(&stack) {
                    let mut buf = [0; 4096];
                    let size = raid.volume.device.size();
                    for offset in [0, size / 2, size.saturating_sub(4096)] {
                        // An error is as good as bytes here; a panic is not.
                        let _ = raid.volume.device.read_at(&mut buf, offset);
                    }
                }
            }
        }
    }
}
