//! Volumes made to do harm: metadata whose checksums are right and whose words are not, and disks that do not belong together.
//! Each ends in one clear line, and none in a panic, a hang, or memory that the image chose.

mod common;
#[path = "common/images.rs"]
mod images;

use common::volumes::{Members, fix_md_checksum, golden, sources, touch};
use guestctl::block::{BlockDevice, MemoryDevice};
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Source, Stack, VolumeKind, assemble};
use images::Random;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

thread_local! {
    /// The largest piece of memory that this thread asked for.
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

struct Watched;

impl Watched {
    fn note(size: usize) {
        LARGEST.with(|largest| largest.set(largest.get().max(size)));
    }
}

// SAFETY: everything is the system's; only a number is noted besides, which allocates nothing.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: the caller keeps to the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::note(size);
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Where the metadata area of a physical volume made here begins, in bytes.
const AREA: usize = 4096;

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    (!hasher.finalize()).to_le_bytes()
}

/// Makes the header of a metadata area whose text follows at once.
fn area_header(start: u64, size: u64, text: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[4..20].copy_from_slice(b" LVM2 x[5A%r0N*>");
    header[20] = 1;
    header[24..32].copy_from_slice(&start.to_le_bytes());
    header[32..40].copy_from_slice(&size.to_le_bytes());
    if !text.is_empty() {
        header[40..48].copy_from_slice(&512_u64.to_le_bytes());
        header[48..56].copy_from_slice(&(text.len() as u64).to_le_bytes());
        header[56..60].copy_from_slice(&checksum(text));
    }
    let sum = checksum(&header[4..]);
    header[..4].copy_from_slice(&sum);
    header
}

/// Makes a disk that is a physical volume with this text; its UUID is `id` over and over.
fn physical(id: char, text: &str, size: usize) -> Vec<u8> {
    let area = (text.len() + 2 * AREA).next_multiple_of(4096).max(1 << 20) - AREA;
    let mut disk = vec![0; size.max(AREA + area)];
    let label = &mut disk[512..1024];
    label[..8].copy_from_slice(b"LABELONE");
    label[8] = 1;
    label[20] = 32;
    label[24..32].copy_from_slice(b"LVM2 001");
    label[32..64].fill(id as u8);
    // One area of data, and one of metadata.
    label[72..80].copy_from_slice(&((AREA + area) as u64).to_le_bytes());
    label[104..112].copy_from_slice(&(AREA as u64).to_le_bytes());
    label[112..120].copy_from_slice(&(area as u64).to_le_bytes());
    let sum = checksum(&label[20..]);
    label[16..20].copy_from_slice(&sum);
    disk[AREA..AREA + 512].copy_from_slice(&area_header(AREA as u64, area as u64, text.as_bytes()));
    disk[AREA + 512..AREA + 512 + text.len()].copy_from_slice(text.as_bytes());
    disk
}

fn id(letter: char) -> String {
    [6, 4, 4, 4, 4, 4, 6].map(|count| letter.to_string().repeat(count)).join("-")
}

/// Makes the text of a group with the physical volume `a` and these logical ones.
fn group(volumes: &str) -> String {
    format!(
        "vg {{ id = \"{}\" seqno = 1 extent_size = 8 physical_volumes {{ pv0 {{ id = \"{}\" pe_start = 2048 pe_count = 256 }} }} \
         logical_volumes {{ {volumes} }} }}",
        id('g'),
        id('a')
    )
}

fn logical(name: &str, segments: &str) -> String {
    format!("{name} {{ id = \"{}\" status = [\"READ\", \"WRITE\", \"VISIBLE\"] {segments} }}\n", id('v'))
}

/// A segment of one area.
fn linear(number: usize, start: u64, count: u64, area: &str, at: u64) -> String {
    format!(
        "segment{number} {{ start_extent = {start} extent_count = {count} type = \"striped\" stripe_count = 1 \
         stripes = [\"{area}\", {at}] }}\n"
    )
}

fn put_together(disks: &[Vec<u8>]) -> Stack {
    assemble(&sources(disks), &NoKeys).expect("assembles")
}

/// Puts a group together; returns what is said of it, one line each.
fn said_of(volumes: &str) -> Vec<String> {
    let stack = put_together(&[physical('a', &group(volumes), 2 << 20)]);
    touch(&stack);
    assert!(stack.warnings.iter().all(|line| !line.contains('\n')), "{:?}", stack.warnings);
    stack.warnings
}

fn names(stack: &Stack) -> Vec<&str> {
    stack.volumes.iter().map(|found| found.volume.name.as_str()).collect()
}

#[test]
fn a_group_that_is_as_it_should_be_is_opened() {
    let stack = put_together(&[physical('a', &group(&logical("good", &linear(1, 0, 4, "pv0", 0))), 2 << 20)]);
    assert_eq!(names(&stack), ["/dev/sda", "/dev/vg/good"], "{:?}", stack.warnings);
    assert_eq!(stack.warnings, [""; 0]);
}

#[test]
fn volumes_made_of_themselves_are_named() {
    for (volumes, left_out) in [
        (logical("a", &linear(1, 0, 1, "a", 0)), vec!["a"]),
        (logical("a", &linear(1, 0, 1, "b", 0)) + &logical("b", &linear(1, 0, 1, "a", 0)), vec!["a", "b"]),
        (
            logical(
                "a",
                "segment1 { start_extent = 0 extent_count = 1 type = \"mirror\" mirrors = [\"a\", 0, \"a\", 0] }",
            ),
            vec!["a"],
        ),
        (
            logical(
                "a",
                "segment1 { start_extent = 0 extent_count = 1 type = \"raid1\" raid0_lvs = [\"a\"] raids = [\"a\", \"a\"] }",
            ),
            vec!["a"],
        ),
        (
            logical(
                "a",
                "segment1 { start_extent = 0 extent_count = 1 type = \"cache\" cache_pool = \"a\" origin = \"a\" }",
            ),
            vec!["a"],
        ),
        (
            logical(
                "a",
                "segment1 { start_extent = 0 extent_count = 1 type = \"thin\" thin_pool = \"a\" device_id = 1 transaction_id = 0 }",
            ),
            vec!["a"],
        ),
    ] {
        let said = said_of(&volumes);
        for name in left_out {
            let line = said.iter().find(|line| line.starts_with(&format!("/dev/vg/{name}: left out: ")));
            assert!(line.is_some(), "{name}: {said:?}");
        }
    }
}

#[test]
fn copies_of_copies_of_copies_cost_no_more_than_their_names() {
    let began = Instant::now();
    // Each level has eight legs, all of which are the next one.
    let level = |number: usize| {
        let below = format!("v{}", number + 1);
        let legs = format!("\"{below}\", ").repeat(8);
        logical(
            &format!("v{number}"),
            &format!(
                "segment1 {{ start_extent = 0 extent_count = 1 type = \"raid1\" raids = [{}] }}",
                &legs[..legs.len() - 2]
            ),
        )
    };
    let volumes: String = (0..15).map(level).collect();
    let said = said_of(&(volumes + &logical("v15", &linear(1, 0, 1, "pv0", 0))));
    assert!(said.iter().any(|line| line.contains("which has copies itself")), "{said:?}");
    assert!(said.len() < 300 && began.elapsed() < Duration::from_secs(5), "{} lines", said.len());
}

#[test]
fn volumes_that_share_an_extent_are_named() {
    let volumes = logical("a", &(linear(1, 0, 4, "pv0", 0) + &linear(2, 4, 4, "pv0", 20)))
        + &logical("b", &linear(1, 0, 8, "pv0", 23))
        + &logical("c", &(linear(1, 0, 2, "pv0", 40) + &linear(2, 2, 2, "pv0", 41)))
        + &logical("d", &linear(1, 0, 4, "pv0", 4));
    let stack = put_together(&[physical('a', &group(&volumes), 2 << 20)]);
    assert_eq!(names(&stack), ["/dev/sda", "/dev/vg/d"], "{:?}", stack.warnings);
    let said = stack.warnings.join("\n");
    assert_eq!(stack.warnings.len(), 3, "{said}");
    assert!(said.contains("/dev/vg/a: left out: ") && said.contains("extent 23 of pv0 belongs to b too"), "{said}");
    assert!(said.contains("/dev/vg/b: left out: ") && said.contains("extent 23 of pv0 belongs to a too"), "{said}");
    assert!(said.contains("/dev/vg/c: left out: ") && said.contains("extent 41 of pv0 belongs to it twice"), "{said}");
}

#[test]
fn sizes_past_the_device_are_named() {
    const MOST: u64 = i64::MAX as u64;
    for (segments, said) in [
        (linear(1, 0, 4, "pv0", 254), "pass the end of pv0"),
        (linear(1, 0, 4, "pv0", 253), "pass the end of pv0"),
        (linear(1, 0, 4, "pv0", MOST), "extents of 4096 bytes"),
        (linear(1, 0, MOST, "pv0", 0), "extents of 4096 bytes"),
        (linear(1, 0, 1 << 50, "pv0", 0), "pass the end of pv0"),
        (linear(1, 0, 4, "pv9", 0), "there is no volume pv9"),
        (linear(1, 0, 4, "pv0", 0) + &linear(2, 9, 4, "pv0", 9), "overlap or leave a gap"),
        (linear(1, 0, 4, "pv0", 0) + &linear(2, 2, 4, "pv0", 9), "overlap or leave a gap"),
        (linear(1, 0, MOST, "pv0", 0) + &linear(2, MOST, MOST, "pv0", MOST), "extents of 4096 bytes"),
    ] {
        let lines = said_of(&logical("a", &segments));
        assert!(lines.len() == 1 && lines[0].contains(said), "{said}: {lines:?}");
    }
    // The device is cut short: what lies before the cut is read, and the rest is named.
    let text = group(&(logical("near", &linear(1, 0, 4, "pv0", 0)) + &logical("far", &linear(1, 0, 4, "pv0", 200))));
    let mut disk = physical('a', &text, 2 << 20);
    disk.truncate((1 << 20) + (100 << 12));
    let stack = put_together(&[disk]);
    assert_eq!(names(&stack), ["/dev/sda", "/dev/vg/near"]);
    assert!(stack.warnings.len() == 1 && stack.warnings[0].contains("/dev/vg/far: left out"), "{:?}", stack.warnings);
    // So are metadata that lie past its end.
    let mut disk = physical('a', &text, 2 << 20);
    disk.truncate(64 << 10);
    let stack = put_together(&[disk]);
    assert!(stack.warnings[0].contains("do not lie in a device of 65536 bytes"), "{:?}", stack.warnings);
}

#[test]
fn a_volume_of_as_many_segments_as_metadata_can_hold_is_read_at_once() {
    let began = Instant::now();
    let text = |count: u64| {
        let segment = |at| {
            format!(
                "segment{at}{{start_extent={at} extent_count=1 type=\"striped\" stripes=[\"pv0\",{}]}}",
                count - 1 - at
            )
        };
        let segments: String = (0..count).map(segment).collect();
        group(&logical("many", &segments)).replace("pe_count = 256", &format!("pe_count = {count}"))
    };
    // The disk is too small for nearly all of it, which costs one line.
    let largest = text(180_000);
    assert!(largest.len() < 16 << 20 && largest.len() > 13 << 20, "{}", largest.len());
    let stack = put_together(&[physical('a', &largest, 0)]);
    let said = &stack.warnings;
    assert!(said.len() == 1 && said[0].contains("/dev/vg/many: left out") && said[0].len() < 300, "{said:?}");
    // A million do not fit, whatever they say.
    let stack = put_together(&[physical('a', &text(1_000_000), 0)]);
    assert!(stack.warnings.len() == 1 && stack.warnings[0].contains("a text of"), "{:?}", stack.warnings);
    // Where the disk is large enough they are a volume, whose extents lie in the other direction.
    let count = 10_000;
    let mut disk = physical('a', &text(count), (1 << 20) + ((count as usize) << 12));
    for at in 0..count as usize {
        let start = disk.len() - ((at + 1) << 12);
        disk[start..start + 8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    let stack = put_together(&[disk]);
    let found = stack.volumes.iter().find(|found| found.volume.name == "/dev/vg/many").expect("it is opened");
    let mut bytes = vec![0; (count as usize) << 12];
    found.volume.device.read_at(&mut bytes, 0).expect("reads");
    let number =
        |(at, extent): (usize, &[u8])| u64::from_le_bytes(extent[..8].try_into().expect("8 bytes")) == at as u64;
    assert!(bytes.chunks(1 << 12).enumerate().all(number));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn metadata_that_are_cut_short_are_named() {
    let text = group(&logical("a", &linear(1, 0, 4, "pv0", 0)));
    for len in (1..text.len()).step_by(7) {
        let stack = put_together(&[physical('a', &text[..len], 2 << 20)]);
        assert_eq!(names(&stack), ["/dev/sda"], "{}", &text[..len]);
        assert!(stack.warnings.len() <= 1, "{:?}", stack.warnings);
    }
    // Nor is a text believed that its header's checksum does not match.
    let mut disk = physical('a', &text, 2 << 20);
    disk[AREA + 600] ^= 1;
    let stack = put_together(&[disk]);
    assert!(stack.warnings.len() == 1 && stack.warnings[0].contains("wrong checksum"), "{:?}", stack.warnings);
}

#[test]
fn disks_of_two_groups_are_told_apart_and_what_is_missing_is_named() {
    let first = group(&logical("a", &linear(1, 0, 4, "pv0", 0)));
    // Two groups of one name, each of whose physical volumes is `pv0`.
    let second = first.replace(&id('g'), &id('h')).replace(&id('a'), &id('b'));
    let stack = put_together(&[physical('a', &first, 2 << 20), physical('b', &second, 2 << 20)]);
    assert_eq!(names(&stack), ["/dev/sda", "/dev/sdb", "/dev/vg/a", "/dev/vg/a~2"], "{:?}", stack.warnings);
    assert!(stack.warnings.len() == 1 && stack.warnings[0].contains("two volumes are named /dev/vg/a"));
    // Each disk holds the metadata of a group that has not got it.
    let stack = put_together(&[physical('b', &first, 2 << 20), physical('a', &second, 2 << 20)]);
    assert_eq!(stack.volumes.len(), 4, "{:?}", stack.warnings);
    // A disk of another group in the place of a missing one is no help.
    let pair =
        first.replacen("pv0 {", &format!("pv1 {{ id = \"{}\" pe_start = 2048 pe_count = 256 }} pv0 {{", id('c')), 1);
    let pair = pair.replace("[\"pv0\", 0]", "[\"pv1\", 0]");
    let stack = put_together(&[physical('a', &pair, 2 << 20), physical('b', &second, 2 << 20)]);
    let said = stack.warnings.join("\n");
    assert!(said.contains("1 of 2 physical volumes are missing") && said.contains(&id('c')), "{said}");
    assert!(said.contains("/dev/vg/a: left out: ") && said.contains("pv1"), "{said}");
}

/// Returns the members of an array that mdadm made.
fn array(name: &str) -> Members {
    golden("md")
        .into_iter()
        .filter(|(file, _)| file.split_once('.').is_some_and(|(array, _)| array == name))
        .map(|(_, bytes)| bytes)
        .collect()
}

fn is_raid(stack: &Stack) -> bool {
    stack.volumes.iter().any(|found| matches!(found.volume.kind, VolumeKind::Raid(_)))
}

#[test]
fn members_of_another_array_in_the_same_place_are_no_help() {
    let (ours, theirs) = (array("raid5-ls"), array("raid5-rs"));
    let mixed: Members = (0..ours.len()).map(|at| if at < 2 { theirs[at].clone() } else { ours[at].clone() }).collect();
    let stack = put_together(&mixed);
    assert!(!is_raid(&stack), "{stack:?}");
    assert_eq!(stack.warnings.len(), 2, "{:?}", stack.warnings);
    assert!(
        stack.warnings.iter().all(|line| line.contains("cannot do without the missing members")),
        "{:?}",
        stack.warnings
    );
}

#[test]
fn a_second_device_in_the_same_place_of_an_array_is_named() {
    let mut members = array("raid5-ls");
    let copy = members[1].clone();
    members.push(copy);
    let stack = put_together(&members);
    assert!(is_raid(&stack), "{stack:?}");
    let said = &stack.warnings;
    assert!(said.len() == 1 && said[0].contains("another device is member "), "{said:?}");
}

#[test]
fn an_array_that_is_being_reshaped_is_refused_by_name() {
    let mut members = array("raid5-ls");
    for member in &mut members {
        let superblock = &mut member[4096..];
        superblock[8] |= 4;
        fix_md_checksum(superblock, false);
    }
    let stack = put_together(&members);
    assert!(!is_raid(&stack));
    assert!(stack.warnings.len() == 1 && stack.warnings[0].contains("reshape"), "{:?}", stack.warnings);
}

#[test]
fn arrays_that_would_be_read_wrongly_are_refused_by_name() {
    type Edit = fn(&mut [u8]);
    let cases: [(&str, bool, Edit, &str); 4] = [
        ("raid5-ra", true, |superblock| superblock[8] = 91, "being reshaped"),
        ("raid5-ls", false, |superblock| superblock[9] |= 2, "a journal of writes"),
        ("raid0-zones-original", false, |superblock| superblock[76..80].fill(0), "layout was not recorded"),
        ("raid6-ls", false, |superblock| superblock[76] = 99, "raid6 of 5 members in layout 99"),
    ];
    for (name, is_old, edit, why) in cases {
        let mut members = array(name);
        for member in &mut members {
            let start = if is_old { member.len() / 65536 * 65536 - 65536 } else { 4096 };
            edit(&mut member[start..]);
            fix_md_checksum(&mut member[start..], is_old);
        }
        let stack = put_together(&members);
        assert!(!is_raid(&stack), "{name}");
        assert!(stack.warnings.len() == 1 && stack.warnings[0].contains(why), "{name}: {:?}", stack.warnings);
    }
}

#[test]
fn what_lvm_can_and_this_program_cannot_is_refused_by_name() {
    for (kind, said) in [
        ("vdo", "VDO"),
        ("vdo-pool", "VDO"),
        ("moon", "segments of type moon"),
        ("raid1", "reshaped"),
        ("error", "errors"),
    ] {
        let segment = format!(
            "segment1 {{ start_extent = 0 extent_count = 1 type = \"{kind}\" vdo_pool = \"p\" vdo_offset = 0 \
             raids = [\"p\"] data_offset = 2048 }}"
        );
        let lines = said_of(&logical("a", &segment));
        assert!(kind == "vdo-pool" || lines.len() == 1 && lines[0].contains(said), "{kind}: {lines:?}");
    }
}

#[test]
fn a_snapshot_that_is_being_merged_is_refused_by_name() {
    let store = logical("store", &linear(1, 0, 4, "pv0", 8)).replace(", \"VISIBLE\"", "");
    let merge = "segment1 { start_extent = 0 extent_count = 4 type = \"snapshot\" chunk_size = 8 origin = \"origin\" \
                 merging_store = \"store\" }";
    let volumes = logical("origin", &linear(1, 0, 4, "pv0", 0)) + &store + &logical("snapshot0", merge);
    let stack = put_together(&[physical('a', &group(&volumes), 2 << 20)]);
    let said = stack.warnings.join("\n");
    assert!(said.contains("/dev/vg/origin: left out: ") && said.contains("a snapshot is being merged into"), "{said}");
    assert!(said.contains("let LVM finish first"), "{said}");
    assert_eq!(names(&stack), ["/dev/sda"], "{said}");
}

#[test]
fn groups_on_volumes_of_groups_are_looked_into_to_a_bounded_depth() {
    // Each group has one volume, which is the physical volume of the next.
    const LEVELS: usize = 20;
    let mut disk = vec![0; 4096];
    for level in (0..LEVELS).rev() {
        let letter = char::from(b'A' + level as u8);
        let extents = disk.len().div_ceil(4096) as u64;
        let text = group(&logical("next", &linear(1, 0, extents, "pv0", 0)))
            .replace("vg {", &format!("vg{level} {{"))
            .replace(&id('a'), &id(letter))
            .replace(&id('g'), &id(char::from(b'a' + level as u8)))
            .replace("pe_count = 256", &format!("pe_count = {extents}"));
        let mut outer = physical(letter, &text, 0);
        outer.resize(1 << 20, 0);
        outer.extend(&disk);
        outer.resize((1 << 20) + extents as usize * 4096, 0);
        disk = outer;
    }
    let stack = put_together(&[disk]);
    assert_eq!(stack.warnings.len(), 1, "{:?}", stack.warnings);
    assert!(stack.warnings[0].contains("it lies on 16 other volumes"), "{:?}", stack.warnings);
    assert_eq!(stack.volumes.len(), 17, "{:?}", names(&stack));
}

#[test]
fn of_a_mirror_that_is_not_in_sync_only_the_first_leg_is_read() {
    let leg = |name: &str, at: u64| logical(name, &linear(1, 0, 1, "pv0", at)).replace(", \"VISIBLE\"", "");
    let mirror = |areas: &str| {
        let segment = format!("segment1 {{ start_extent = 0 extent_count = 1 type = \"mirror\" mirrors = [{areas}] }}");
        logical("m", &segment).replace("\"WRITE\"", "\"WRITE\", \"NOTSYNCED\"")
    };
    let read = |areas: &str| {
        let text = group(&(leg("first", 3) + &leg("second", 7) + &mirror(areas)));
        let mut disk = physical('a', &text, 3 << 20);
        disk[(1 << 20) + 3 * 4096] = b'1';
        disk[(1 << 20) + 7 * 4096] = b'2';
        let stack = put_together(&[disk]);
        let found = stack.volumes.iter().find(|found| found.volume.name == "/dev/vg/m");
        let mut byte = [0];
        if let Some(found) = found {
            found.volume.device.read_at(&mut byte, 0).expect("reads");
        }
        (byte[0], stack.warnings)
    };
    assert_eq!(read("\"first\", 0, \"second\", 0"), (b'1', Vec::new()));
    assert_eq!(read("\"second\", 0, \"first\", 0"), (b'2', Vec::new()));
    let (byte, said) = read("\"gone\", 0, \"first\", 0");
    assert!(byte == 0 && said.len() == 1 && said[0].contains("/dev/vg/m: left out: "), "{said:?}");
}

/// Changes a text in one of many ways.
fn mutate(text: &str, words: &[&str], random: &mut Random) -> String {
    const NUMBERS: [&str; 16] = [
        "0",
        "1",
        "2",
        "3",
        "7",
        "-1",
        "4096",
        "65535",
        "1000000",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "281474976710656",
        "0.5",
    ];
    let mut text = text.to_owned();
    for _ in 0..=random.below(3) {
        // A word of letters and digits somewhere, and what it becomes.
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let bytes = text.as_bytes();
        let mut start = random.below(text.len() as u64) as usize;
        while start > 0 && is_word(bytes[start - 1]) {
            start -= 1;
        }
        while start < bytes.len() && !is_word(bytes[start]) {
            start += 1;
        }
        let end = start + bytes[start..].iter().position(|&byte| !is_word(byte)).unwrap_or(bytes.len() - start);
        let is_number = start < end && bytes[start..end].iter().all(u8::is_ascii_digit);
        match random.below(12) {
            0..=5 if is_number => text.replace_range(start..end, NUMBERS[random.below(16) as usize]),
            0..=8 => text.replace_range(start..end, words[random.below(words.len() as u64) as usize]),
            9 => {
                // A line is lost, or comes twice.
                let line = text[..start].rfind('\n').map_or(0, |at| at + 1);
                let stop = text[start..].find('\n').map_or(text.len(), |at| start + at + 1);
                let again = text[line..stop].to_owned();
                let twice = random.below(2) == 0;
                text.replace_range(line..stop, if twice { again.repeat(2) } else { String::new() }.as_str());
            }
            10 => text.replace_range(start..end, "{"),
            _ => text.truncate(start),
        }
        if text.is_empty() {
            break;
        }
    }
    text
}

#[test]
fn thousands_of_changed_texts_do_no_harm() {
    const AREA_SIZE: u64 = 1 << 19;
    let disks = golden("lvm").into_iter().map(|(_, bytes)| bytes);
    let devices: Vec<_> = disks.map(|bytes| Arc::new(MemoryDevice::new(bytes))).collect();
    let source = |(index, device): (usize, &Arc<MemoryDevice>)| Source {
        name: guestctl::volume::disk_name(index),
        device: Arc::clone(device) as _,
        location: format!("disk {index}"),
    };
    let sources: Vec<Source> = devices.iter().enumerate().map(source).collect();
    // The text as it is; it may go on at the beginning of its area.
    let mut head = vec![0; 1 << 20];
    devices[0].read_at(&mut head, 4096).expect("reads");
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("8 bytes")) as usize;
    let (size, offset, len) = (number(32), number(40), number(48));
    let first = len.min(size - offset);
    let text = [&head[offset..offset + first], &head[512..512 + len - first]].concat();
    let text = String::from_utf8(text).expect("text").trim_end_matches('\0').to_owned();
    let words: Vec<&str> = text
        .split(|byte: char| !byte.is_ascii_alphanumeric() && byte != '_' && byte != '-')
        .filter(|word| !word.is_empty())
        .collect();
    // Only the first disk tells of the group.
    let write = |disk: usize, start: u64, text: &[u8]| {
        devices[disk].write_at(&area_header(start, size as u64, text), start).expect("room");
        devices[disk].write_at(text, start + 512).expect("room");
    };
    for disk in 1..5 {
        write(disk, if disk == 2 { (1 << 20) + 4096 } else { 4096 }, b"");
    }
    write(0, 4096, text.as_bytes());
    let before = assemble(&sources, &NoKeys).expect("assembles");
    assert!(before.volumes.len() > 20, "{:?}", before.warnings);
    let count = std::env::var("GUESTCTL_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(1500);
    assert!(text.len() < size - 512 && (size as u64) > AREA_SIZE, "{} in {size}", text.len());
    LARGEST.set(0);
    let (began, mut random) = (Instant::now(), Random::new(4));
    let mut kinds: BTreeMap<bool, u32> = BTreeMap::new();
    for round in 0..count {
        let changed = mutate(&text, &words, &mut random);
        if changed.len() > size - 512 {
            continue;
        }
        write(0, 4096, changed.as_bytes());
        let started = Instant::now();
        let stack = assemble(&sources, &NoKeys).expect("assembles");
        touch(&stack);
        assert!(started.elapsed() < Duration::from_secs(5), "round {round}: {:?}", started.elapsed());
        assert!(stack.warnings.iter().all(|line| !line.contains('\n') && line.len() < 4096), "round {round}");
        *kinds.entry(stack.volumes.len() > 6).or_default() += 1;
    }
    assert!(kinds.len() == 2 && kinds.values().all(|&rounds| rounds > count / 50), "{kinds:?}");
    let largest = LARGEST.get();
    assert!(largest <= 64 << 20, "a piece of {largest} bytes was asked for");
    println!("{count} mutations in {:?}, the largest piece of memory had {largest} bytes", began.elapsed());
}
