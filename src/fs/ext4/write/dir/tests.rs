//! Directories in memory, changed at random and compared with a map, their trees checked by the reader's own parsers.

mod image;

use super::inline::InlineDir;
use super::*;
use crate::fs::ext4::dir_htree::{Node, parse_root};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Blocks in memory.
pub(super) struct Blocks {
    pub(super) blocks: Vec<Arc<[u8]>>,
    block_size: usize,
    /// How many blocks there may be.
    limit: u32,
}

impl Blocks {
    pub(super) fn new(format: &mut DirFormat, parent: u32) -> Self {
        let mut first = vec![0; format.layout.block_size];
        init(format, &mut first, parent);
        Self { blocks: vec![first.into()], block_size: format.layout.block_size, limit: u32::MAX }
    }
}

impl DirBlocks for Blocks {
    fn count(&self) -> u32 {
        self.blocks.len() as u32
    }

    fn read(&self, number: u32) -> Result<MetaBytes> {
        Ok(Arc::clone(&self.blocks[number as usize]).into())
    }

    fn modify(&mut self, number: u32, change: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let mut block = self.blocks[number as usize].to_vec();
        change(&mut block);
        self.blocks[number as usize] = block.into();
        Ok(())
    }

    fn append(&mut self) -> Result<u32> {
        if self.count() >= self.limit {
            return Err(Error::Errno(libc::ENOSPC));
        }
        self.blocks.push(vec![0; self.block_size].into());
        Ok(self.count() - 1)
    }
}

pub(super) fn format(block_size: usize, has_checksum: bool) -> DirFormat {
    DirFormat {
        ino: 12,
        layout: Layout { block_size, has_types: true, inodes_count: u32::MAX },
        inode_seed: has_checksum.then_some(0x1234_5678),
        default_hash: dir_hash::HALF_MD4,
        hash_seed: [1, 2, 3, 4],
        is_hash_unsigned: false,
        has_index: true,
        indexed: false,
        large_dir: false,
        folds_case: false,
    }
}

/// Numbers that look random and are the same each time (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// Checks a subtree and notes the blocks it reaches and the leaves' names; hashes lie in `low..=high`.
fn check_node(
    blocks: &Blocks,
    format: &DirFormat,
    (number, levels, version): (u32, usize, u8),
    (low, high): (u32, u32),
    seen: &mut HashSet<u32>,
) {
    assert!(seen.insert(number), "block {number} is reached twice");
    let block = &blocks.blocks[number as usize];
    if let Some(seed) = format.inode_seed {
        dir_htree::verify(seed, 12, u64::from(number), block).expect("a right checksum");
    }
    let node = Node::parse(12, u64::from(number), block, format.inode_seed.is_some()).expect("a sound node");
    for at in 0..node.count() {
        let first = if at == 0 { low } else { node.hash(at) };
        let last = if at + 1 == node.count() { high } else { node.hash(at + 1) };
        assert!(first >= low && last <= high && first <= last, "hashes are in order");
        let child = node.child(at) as u32;
        if levels > 0 {
            assert!(dir_htree::is_node(u64::from(child), &blocks.blocks[child as usize]));
            check_node(blocks, format, (child, levels - 1, version), (first, last), seen);
            continue;
        }
        assert!(seen.insert(child), "block {child} is reached twice");
        for entry in entries::each(&format.layout, 12, format.run(&blocks.blocks[child as usize])) {
            let entry = entry.expect("a sound entry");
            if entry.ino != 0 {
                let hash = format.hash(version, entry.name).expect("known");
                // An odd bound says that its hash is on both sides of it.
                assert!(hash >= first & !1 && (hash < last || last & 1 == 1 && hash == last & !1), "{:?}", entry.name);
            }
        }
    }
}

/// Checks every block and that the names are those of the model, each findable.
pub(super) fn check(blocks: &Blocks, format: &DirFormat, model: &BTreeMap<Vec<u8>, u32>) {
    if format.indexed {
        let root = parse_root(12, &blocks.blocks[0], format.large_dir).expect("a sound root");
        let mut seen = HashSet::new();
        check_node(blocks, format, (0, root.levels, root.hash_version), (0, u32::MAX), &mut seen);
        assert_eq!(seen.len(), blocks.blocks.len(), "the tree reaches every block");
    }
    let mut found = BTreeMap::new();
    for (number, block) in blocks.blocks.iter().enumerate() {
        if let Some(seed) = format.inode_seed
            && !(format.indexed && dir_htree::is_node(number as u64, block))
        {
            dir::verify(seed, 12, number as u64, block).expect("a right checksum");
        }
        for entry in entries::each(&format.layout, 12, block) {
            let entry = entry.expect("a sound entry");
            if entry.ino != 0 && !dir::is_dot(entry.name) {
                assert_eq!(found.insert(entry.name.to_vec(), entry.ino), None, "a name twice");
            }
        }
    }
    assert_eq!(&found, model);
    for (name, &ino) in model {
        let (number, spot) = find(blocks, format, name).expect("sound").expect("there");
        assert_eq!(spot.ino, ino);
        if format.indexed {
            assert_eq!(index::find(blocks, format, name).expect("sound").expect("in the tree"), (number, spot));
        }
    }
    assert_eq!(is_empty(blocks, format).expect("sound"), model.is_empty());
}

fn random_name(random: &mut Random, longest: u64) -> Vec<u8> {
    let len = 1 + random.next(longest);
    let mut name: Vec<u8> =
        (0..len).map(|_| b"abcdefghijklmnopqrstuvwxyz0123456789\xc3\xa4._-"[random.next(40) as usize]).collect();
    if dir::is_dot(&name) {
        name.push(b'x');
    }
    name
}

/// Puts in, takes away and replaces names at random.
fn churn(format: &mut DirFormat, steps: usize, longest: u64, seed: u64) -> (Blocks, BTreeMap<Vec<u8>, u32>) {
    let mut random = Random(seed);
    let mut blocks = Blocks::new(format, 2);
    let mut model = BTreeMap::new();
    for step in 0..steps {
        // Waves of growing and shrinking.
        let grows = random.next(10) < if (step / (steps / 5).max(1)).is_multiple_of(2) { 8 } else { 4 };
        if grows {
            let name = random_name(&mut random, longest);
            let ino = 11 + random.next(1 << 30) as u32;
            if let Some(old) = model.insert(name.clone(), ino) {
                assert_eq!(replace(&mut blocks, format, &name, ino, FileType::Fifo).expect("replaced"), old);
            } else {
                insert(&mut blocks, format, &name, ino, FileType::Regular).expect("inserted");
            }
        } else {
            let name = random_name(&mut random, longest);
            if let Some((name, ino)) = model.range(name.clone()..).next().map(|(name, ino)| (name.clone(), *ino)) {
                assert_eq!(remove(&mut blocks, format, &name).expect("removed"), ino);
                model.remove(&name);
            } else {
                let error = remove(&mut blocks, format, &name).expect_err("not there");
                assert!(error.is_errno(libc::ENOENT));
            }
        }
        if step % (steps / 8).max(1) == 0 {
            check(&blocks, format, &model);
        }
    }
    check(&blocks, format, &model);
    (blocks, model)
}

#[test]
fn random_changes_of_indexed_directories_match_a_map() {
    for (at, (block_size, has_checksum)) in
        [(1024, true), (1024, false), (4096, true), (65536, true), (65536, false)].into_iter().enumerate()
    {
        let mut format = format(block_size, has_checksum);
        format.default_hash = [dir_hash::HALF_MD4, dir_hash::TEA, dir_hash::LEGACY][at % 3];
        format.is_hash_unsigned = at % 2 == 1;
        churn(&mut format, 20_000, 40, 7 + at as u64);
        assert!(format.indexed);
    }
}

#[test]
fn long_names_in_small_blocks_leave_room_after_each_split() {
    let mut format = format(1024, true);
    churn(&mut format, 12_000, 255, 99);
}

#[test]
fn random_changes_of_linear_directories_match_a_map() {
    for (has_checksum, has_types) in [(true, true), (false, false)] {
        let mut format = format(1024, has_checksum);
        format.has_index = false;
        format.layout.has_types = has_types;
        let (blocks, _) = churn(&mut format, 3000, 60, 5);
        assert!(blocks.count() > 3 && !format.indexed);
    }
}

#[test]
fn a_tree_grows_to_its_last_level_and_is_then_full() {
    let fill = |large_dir: bool| {
        let mut format = format(1024, true);
        format.large_dir = large_dir;
        let mut blocks = Blocks::new(&mut format, 2);
        let mut model = BTreeMap::new();
        for number in 0..60_000_u32 {
            let name = format!("{number:0>200}").into_bytes();
            match insert(&mut blocks, &mut format, &name, number + 11, FileType::Regular) {
                Ok(()) => model.insert(name, number + 11),
                Err(error) => {
                    assert!(error.is_errno(libc::ENOSPC), "{error}");
                    break;
                }
            };
        }
        check(&blocks, &format, &model);
        let levels = blocks.blocks[0][dir_htree::LEVELS];
        (levels, model.len())
    };
    let (levels, names) = fill(false);
    assert_eq!(levels, 1);
    assert!((20_000..60_000).contains(&names), "{names}");
    assert_eq!(fill(true), (2, 60_000));
}

#[test]
fn names_that_share_a_hash_are_found_across_leaves_and_nodes() {
    // The same name again and again stands for names with the same hash, of which many are hard to come by.
    let mut format = format(1024, true);
    let mut blocks = Blocks::new(&mut format, 2);
    let same = [b's'; 200];
    for number in 0..2000_u32 {
        let name = format!("{number:0>100}");
        insert(&mut blocks, &mut format, name.as_bytes(), number + 11, FileType::Regular).expect("inserted");
        if number % 4 == 0 {
            insert(&mut blocks, &mut format, &same, 1_000_000 + number, FileType::Regular).expect("inserted");
        }
    }
    let root = parse_root(12, &blocks.blocks[0], false).expect("a sound root");
    assert_eq!(root.levels, 1, "there are nodes to cross");
    let mut seen = HashSet::new();
    check_node(&blocks, &format, (0, root.levels, root.hash_version), (0, u32::MAX), &mut seen);
    assert_eq!(seen.len(), blocks.blocks.len());
    let mut found = HashSet::new();
    while let Some((_, spot)) = index::find(&blocks, &format, &same).expect("sound") {
        assert_eq!(remove(&mut blocks, &format, &same).expect("removed"), spot.ino);
        assert!(found.insert(spot.ino));
    }
    assert_eq!(found.len(), 500);
    assert!(find(&blocks, &format, &same).expect("sound").is_none());
}

#[test]
fn a_directory_is_sound_when_blocks_run_out() {
    for limit in 1..9 {
        let mut format = format(1024, true);
        let mut blocks = Blocks::new(&mut format, 2);
        blocks.limit = limit;
        let mut model = BTreeMap::new();
        for number in 0..2000_u32 {
            let name = format!("{number:0>100}").into_bytes();
            match insert(&mut blocks, &mut format, &name, number + 11, FileType::Regular) {
                Ok(()) => assert_eq!(model.insert(name, number + 11), None),
                Err(error) => assert!(error.is_errno(libc::ENOSPC), "{error}"),
            }
        }
        check(&blocks, &format, &model);
        assert_eq!(blocks.count(), limit);
    }
}

#[test]
fn the_parent_changes_in_linear_and_indexed_directories() {
    let mut format = format(1024, true);
    let mut blocks = Blocks::new(&mut format, 2);
    assert_eq!(replace(&mut blocks, &format, b"..", 77, FileType::Directory).expect("replaced"), 2);
    let mut model = BTreeMap::new();
    for number in 0..100_u32 {
        let name = format!("file {number}").into_bytes();
        insert(&mut blocks, &mut format, &name, number + 11, FileType::Regular).expect("inserted");
        model.insert(name, number + 11);
    }
    assert!(format.indexed);
    assert_eq!(replace(&mut blocks, &format, b"..", 78, FileType::Directory).expect("replaced"), 77);
    check(&blocks, &format, &model);
    assert_eq!(find(&blocks, &format, b"..").expect("sound").expect("there").1.ino, 78);
}

#[test]
fn impossible_names_are_refused() {
    let mut format = format(1024, true);
    let mut blocks = Blocks::new(&mut format, 2);
    for (name, errno) in [
        (&b""[..], libc::EINVAL),
        (b".", libc::EINVAL),
        (b"..", libc::EINVAL),
        (b"a/b", libc::EINVAL),
        (b"a\0", libc::EINVAL),
        (&[b'a'; 256], libc::ENAMETOOLONG),
    ] {
        let error = insert(&mut blocks, &mut format, name, 12, FileType::Regular).expect_err("refused");
        assert!(error.is_errno(errno), "{error}");
    }
    assert!(remove(&mut blocks, &format, b"..").expect_err("refused").is_errno(libc::EINVAL));
}

#[test]
fn damaged_blocks_give_errors() {
    let mut random = Random(17);
    for seed in 0..300 {
        let mut format = format(1024, false);
        let mut blocks = Blocks::new(&mut format, 2);
        for number in 0..(random.next(300) as u32) {
            insert(&mut blocks, &mut format, format!("name {number}").as_bytes(), 11, FileType::Regular)
                .expect("inserted");
        }
        for _ in 0..1 + random.next(20) {
            let number = random.next(u64::from(blocks.count())) as u32;
            let (at, value) = (random.next(1024) as usize, random.next(256) as u8);
            blocks.modify(number, &mut |block| block[at] = value).expect("in memory");
        }
        // Whatever these answer, they end and do not panic.
        for number in 0..100 {
            let _ =
                insert(&mut blocks, &mut format, format!("other {number} {seed}").as_bytes(), 11, FileType::Regular);
            let _ = remove(&mut blocks, &format, format!("name {number}").as_bytes());
            let _ = replace(&mut blocks, &format, format!("name {}", number + 1).as_bytes(), 12, FileType::Fifo);
        }
        let _ = is_empty(&blocks, &format);
    }
}

#[test]
fn random_changes_of_inline_directories_match_a_map() {
    for seed in 1..40 {
        let mut random = Random(seed);
        let mut format = format(4096, true);
        let mut inline = InlineDir::new(&format.layout, 2);
        let mut model = BTreeMap::new();
        for _ in 0..200 {
            let name = random_name(&mut random, 12);
            if let Some(ino) = model.remove(&name) {
                assert_eq!(inline.remove(&format, &name).expect("removed"), ino);
            } else if inline.insert(&format, &name, 99, FileType::Symlink, 95).expect("sound") {
                model.insert(name, 99);
            } else if let Some(name) = model.keys().next().cloned() {
                assert_eq!(inline.replace(&format, &name, 99, FileType::Symlink).expect("replaced"), 99);
                assert_eq!(inline.remove(&format, &name).expect("removed"), 99);
                model.remove(&name);
            }
            assert_eq!(inline.is_empty(&format).expect("sound"), model.is_empty());
            assert!(inline.size() == 60 || inline.size() == 60 + 92);
        }
        inline.replace(&format, b"..", 55, FileType::Directory).expect("replaced");
        let block = inline.to_block(&mut format).expect("fits");
        let blocks = Blocks { blocks: vec![block.into()], block_size: 4096, limit: 9 };
        check(&blocks, &format, &model);
        assert_eq!(find(&blocks, &format, b"..").expect("sound").expect("there").1.ino, 55);
        for name in model.keys() {
            let (_, spot) = find(&blocks, &format, name).expect("sound").expect("there");
            assert_eq!(blocks.blocks[0][spot.offset + 7], dir::encode_type(FileType::Symlink));
        }
    }
}
