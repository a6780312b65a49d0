//! Btrfs images with one bit flipped in metadata: what lies there is lost, with one line, and nothing else.

mod common;
#[path = "common/damage.rs"]
mod damage;
#[path = "common/btrfs.rs"]
mod support;

use damage::Patched;
use guestctl::fs::btrfs::Btrfs;
use std::collections::BTreeMap;
use std::sync::Arc;
use support::{Mounted, can_mount, make, options, script};

/// The trees whose blocks are read, by the number that each block carries.
fn owner(block: &[u8]) -> &'static str {
    match u64::from_le_bytes(block[88..96].try_into().expect("8 bytes")) {
        1 => "root tree",
        3 => "chunk tree",
        7 => "checksum tree",
        5 | 256.. => "subvolume",
        _ => "tree that is not read",
    }
}

#[test]
fn a_flipped_bit_in_metadata_of_any_kind_costs_what_lies_there_and_nothing_else() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    make(&image, 128, &["-m", "single", "-d", "single", "-n", "4096"]);
    let mounted = Mounted::new(&image, "noatime,compress=zstd");
    script(
        mounted.path(),
        "for d in $(seq 1 40); do mkdir dir-$d; for n in $(seq 1 40); do echo $n > dir-$d/some-name-$n; done; done
        for n in $(seq 1 60); do head -c 20000 /dev/urandom > random-$n; seq $n 9000 > text-$n; ln -s target link-$n
        setfattr -n user.a -v $(seq 1 200 | tr -d '\\n') random-$n; done; truncate -s 1000000 sparse; btrfs subvolume snapshot . snap >&2",
    );
    drop(mounted);
    let base = Arc::new(std::fs::read(&image).expect("reads"));
    let open = |patches| Btrfs::open(Arc::new(Patched { base: Arc::clone(&base), patches }), &[], None, &options());
    let whole = damage::read_tree(&open(BTreeMap::new()).expect("opens"));
    let fsid = &base[(64 << 10) + 0x20..][..16];
    let generation = base[(64 << 10) + 0x48..][..8].to_vec();
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for at in (1 << 20..base.len()).step_by(4096) {
        let block = &base[at..at + 4096];
        if block[32..48] == *fsid && crc32c::crc32c(&block[32..]).to_le_bytes() == block[..4] {
            kinds.entry(owner(block)).or_default().push(at);
        }
    }
    let mut noticed = BTreeMap::new();
    for (kind, blocks) in &kinds {
        for &at in blocks.iter().step_by((blocks.len() / 20).max(1)) {
            let what = format!("a bit of the {kind} at {at}, written {:?}", base[at + 80..at + 88] == generation[..]);
            let mut block = base[at..at + 4096].to_vec();
            block[2000] ^= 4;
            let (refused, said) = match open(BTreeMap::from([(at, block)])) {
                Ok(filesystem) => {
                    let loss = damage::compare(&whole, &damage::read_tree(&filesystem), &what);
                    println!("{what}: {} parts as before, {} refused: {}", loss.same, loss.refused, loss.said);
                    (loss.refused > 0, loss.said)
                }
                Err(error) => {
                    println!("{what}: not opened: {error}");
                    assert_eq!(error.errno(), libc::EIO, "{what}: {error}");
                    (true, error.to_string())
                }
            };
            assert!(!said.contains('\n'), "{what}: {said}");
            *noticed.entry(*kind).or_insert(0) += usize::from(refused);
        }
    }
    for kind in ["root tree", "chunk tree", "checksum tree", "subvolume"] {
        assert!(noticed.get(kind).is_some_and(|&count| count > 0), "{kind}: {noticed:?}");
    }
}
