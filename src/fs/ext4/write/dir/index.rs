//! Changes of a hash tree: making it, inserting through it, splitting leaves and nodes, and growing it by a level.
//!
//! A tree only grows. Its levels are the root and up to two more of nodes, or three with `large_dir`; each node's entries
//! are sorted by the least hash below them. Where names with the same hash lie in two leaves, the lowest bit of the second
//! one's hash says so.

use super::entries::{self, NewEntry, Spot};
use super::{DOT_SIZE, DirBlocks, DirFormat, append, change, insert_at};
use crate::bytes::{le16, le32, set_le16, set_le32};
use crate::error::{Error, Result};
use crate::fs::ext4::dir::{self, encode_len};
use crate::fs::ext4::dir_hash;
use crate::fs::ext4::dir_htree::{
    ENTRY_SIZE, HASH_VERSION, LEVELS, NODE_ENTRIES, Node, RootInfo, TAIL, entries_offset, parse_root,
};

/// What `info_length` in the root always is, in bytes.
const INFO_LENGTH: u8 = 8;
/// The offset of `info_length`, in bytes.
const INFO_LENGTH_AT: usize = 29;
/// Where what the root says of the tree begins, in bytes: after `.` and `..`.
const INFO: usize = 24;

/// A step of the way from the root to a leaf.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The block of the node.
    number: u32,
    /// The entry of the node that leads on.
    at: usize,
    /// How many entries the node has.
    count: usize,
    /// The block that the entry leads to.
    child: u32,
}

impl DirFormat {
    /// Returns how many entries a node may have.
    fn limit(&self, number: u32) -> usize {
        let tail = if self.inode_seed.is_some() { TAIL } else { 0 };
        (self.layout.block_size - entries_offset(u64::from(number)) - tail) / ENTRY_SIZE
    }

    /// Returns how many nodes may lie on the way to a leaf.
    fn most_steps(&self) -> usize {
        if self.large_dir { 3 } else { 2 }
    }

    fn root(&self, blocks: &dyn DirBlocks) -> Result<RootInfo> {
        if blocks.count() == 0 {
            return Err(self.damaged("it has no blocks"));
        }
        parse_root(self.ino, self.check(0, &blocks.read(0)?)?, self.large_dir)
    }
}

/// Makes a tree of a directory that has one block: its entries go to a second one, and it becomes the root.
pub(super) fn make(blocks: &mut dyn DirBlocks, format: &mut DirFormat) -> Result<()> {
    let block = blocks.read(0)?;
    let block = format.check(0, &block)?;
    let dot = dir::entry_at(&format.layout, format.ino, block, 0)?;
    let up = dir::entry_at(&format.layout, format.ino, block, DOT_SIZE)?;
    if dot.name != b"." || dot.len != DOT_SIZE || up.name != b".." {
        return Err(format.damaged("it does not begin with . and .."));
    }
    let mut moved = Vec::new();
    for entry in entries::each(&format.layout, format.ino, format.run(block)) {
        let entry = entry?;
        if entry.ino != 0 && entry.offset > DOT_SIZE {
            moved.push(&block[entry.offset..entry.offset + entry.len]);
        }
    }
    let leaf = append(blocks, format)?;
    change(blocks, format, leaf, |run| {
        entries::pack(&format.layout, run, moved.iter().copied());
        Ok(())
    })?;
    let version = if format.default_hash <= dir_hash::TEA { format.default_hash } else { dir_hash::HALF_MD4 };
    blocks.modify(0, &mut |root| {
        let up_len = root.len() - DOT_SIZE;
        set_le16(root, DOT_SIZE + 4, encode_len(up_len, root.len()));
        root[INFO..].fill(0);
        root[HASH_VERSION] = version;
        root[INFO_LENGTH_AT] = INFO_LENGTH;
        set_counts(root, 0, format.limit(0), 1);
        set_le32(root, entries_offset(0) + 4, leaf);
        format.seal_node(0, root);
    })?;
    format.indexed = true;
    Ok(())
}

/// Puts a name in where its hash belongs.
pub(super) fn insert(blocks: &mut dyn DirBlocks, format: &DirFormat, new: &NewEntry<'_>) -> Result<()> {
    let size = entries::needed(new.name.len());
    // Each turn but the last splits a node on the way; the way has three nodes at most, and grows by one.
    for _ in 0..super::MOST_APPENDED + 1 {
        let info = format.root(blocks)?;
        let hash = format.hash(info.hash_version, new.name)?;
        let steps = descend(blocks, format, &info, hash)?;
        let leaf = steps[steps.len() - 1].child;
        let block = blocks.read(leaf)?;
        let run = format.run(format.check(leaf, &block)?);
        if let Some(offset) = entries::room_for(&format.layout, format.ino, run, size)? {
            return insert_at(blocks, format, leaf, offset, new);
        }
        let in_use = in_use(format, info.hash_version, run)?;
        let total: usize = in_use.iter().map(|entry| entry.size).sum();
        if total + size <= format.room() {
            return pack_and_insert(blocks, format, leaf, run, in_use.iter(), new);
        }
        // The lowest node that can take an entry, if the ones below it are split.
        let last = steps.len() - 1;
        match (0..=last).rev().find(|&at| steps[at].count < format.limit(steps[at].number)) {
            Some(at) if at == last => return split_leaf(blocks, format, &steps[last], run, in_use, hash, new),
            Some(at) => split_node(blocks, format, &steps[at], &steps[at + 1])?,
            None if steps.len() == format.most_steps() => return Err(Error::Errno(libc::ENOSPC)),
            None => add_level(blocks, format)?,
        }
    }
    Err(format.damaged("its hash tree does not take a name"))
}

/// Finds a name by its hash; returns the leaf and where in it.
pub(super) fn find(blocks: &dyn DirBlocks, format: &DirFormat, name: &[u8]) -> Result<Option<(u32, Spot)>> {
    let info = format.root(blocks)?;
    let sought = format.sought(name);
    let hash = format.hash(info.hash_version, name)?;
    let mut steps = descend(blocks, format, &info, hash)?;
    // A sound tree leads to each leaf once; a damaged one must not be walked for ever.
    for _ in 0..blocks.count() {
        let leaf = steps[steps.len() - 1].child;
        let block = blocks.read(leaf)?;
        if let Some(spot) = entries::find(&format.layout, format.ino, format.run(format.check(leaf, &block)?), &sought)?
        {
            return Ok(Some((leaf, spot)));
        }
        if !next_with_hash(blocks, format, &mut steps, hash)? {
            return Ok(None);
        }
    }
    Err(format.damaged("its hash tree leads to more leaves than it has"))
}

/// Walks from the root to the leaf where a hash belongs.
fn descend(blocks: &dyn DirBlocks, format: &DirFormat, info: &RootInfo, hash: u32) -> Result<Vec<Step>> {
    let mut steps = Vec::with_capacity(info.levels + 1);
    let mut number = 0;
    for _ in 0..=info.levels {
        let step = step(blocks, format, number, |node| node.find(hash))?;
        if steps.iter().any(|passed: &Step| passed.number == step.child) || step.child == number {
            return Err(format.damaged("its hash tree leads back to itself"));
        }
        number = step.child;
        steps.push(step);
    }
    Ok(steps)
}

/// Goes to the next leaf that may hold names of a hash; says whether there is one.
fn next_with_hash(blocks: &dyn DirBlocks, format: &DirFormat, steps: &mut Vec<Step>, hash: u32) -> Result<bool> {
    let depth = steps.len();
    while let Some(last) = steps.pop() {
        if last.at + 1 >= last.count {
            continue;
        }
        let mut found = 0;
        let next = step(blocks, format, last.number, |node| {
            let at = (last.at + 1).min(node.count() - 1);
            found = node.hash(at);
            at
        })?;
        if found & !1 != hash {
            return Ok(false);
        }
        steps.push(next);
        while steps.len() < depth {
            let number = steps[steps.len() - 1].child;
            steps.push(step(blocks, format, number, |_| 0)?);
        }
        return Ok(true);
    }
    Ok(false)
}

/// Reads a node and takes the entry that `choose` returns.
fn step(
    blocks: &dyn DirBlocks,
    format: &DirFormat,
    number: u32,
    choose: impl FnOnce(&Node<'_>) -> usize,
) -> Result<Step> {
    let block = blocks.read(number)?;
    let has_checksum = format.inode_seed.is_some();
    let node = Node::parse(format.ino, u64::from(number), format.check(number, &block)?, has_checksum)?;
    let at = choose(&node);
    let child = node.child(at) as u32;
    if child == 0 || child >= blocks.count() {
        return Err(format.damaged(format!("its hash tree leads to block {child}")));
    }
    Ok(Step { number, at, count: node.count(), child })
}

/// An entry of a leaf.
#[derive(Clone, Copy, Debug)]
struct InUse {
    hash: u32,
    offset: usize,
    /// What it needs, in bytes.
    size: usize,
}

/// Returns the entries of a leaf that are in use, in their order.
fn in_use(format: &DirFormat, version: u8, run: &[u8]) -> Result<Vec<InUse>> {
    let mut found = Vec::new();
    for entry in entries::each(&format.layout, format.ino, run) {
        let entry = entry?;
        if entry.ino != 0 {
            let hash = format.hash(version, entry.name)?;
            found.push(InUse { hash, offset: entry.offset, size: entries::used(&entry) });
        }
    }
    Ok(found)
}

/// Rewrites a leaf with the entries given, which lie in `run`, and one more.
fn pack_and_insert<'a>(
    blocks: &mut dyn DirBlocks,
    format: &DirFormat,
    leaf: u32,
    run: &[u8],
    kept: impl Iterator<Item = &'a InUse> + Clone,
    new: &NewEntry<'_>,
) -> Result<()> {
    let size = entries::needed(new.name.len());
    change(blocks, format, leaf, |to| {
        entries::pack(&format.layout, to, kept.clone().map(|entry| &run[entry.offset..entry.offset + entry.size]));
        let offset = entries::room_for(&format.layout, format.ino, to, size)?;
        let offset = offset.ok_or_else(|| format.damaged("a packed leaf has no room for a name"))?;
        entries::insert(&format.layout, format.ino, to, offset, new)
    })
}

/// Moves the upper half of a full leaf's hashes to a new one and puts a name into the half where it belongs.
fn split_leaf(
    blocks: &mut dyn DirBlocks,
    format: &DirFormat,
    parent: &Step,
    run: &[u8],
    mut in_use: Vec<InUse>,
    hash: u32,
    new: &NewEntry<'_>,
) -> Result<()> {
    in_use.sort_by_key(|entry| entry.hash);
    // From the top, as many as come closest to half the block.
    let half = format.layout.block_size / 2;
    let (mut moved, mut split) = (0, in_use.len());
    while split > 0 && moved + in_use[split - 1].size / 2 <= half {
        split -= 1;
        moved += in_use[split].size;
    }
    // A name takes at most about a quarter of the smallest block, so each half has names, and room for one.
    let (low, high) = in_use.split_at(split);
    let (Some(below), Some(first)) = (low.last(), high.first()) else {
        return Err(format.damaged("a full leaf cannot be split"));
    };
    let least = first.hash;
    let goes_on = u32::from(below.hash == least);
    let target = if hash >= least { high } else { low };
    let total: usize = target.iter().map(|entry| entry.size).sum();
    if total + entries::needed(new.name.len()) > format.room() {
        return Err(format.damaged("half a leaf has no room for a name"));
    }
    let upper = append(blocks, format)?;
    let pack = |to: &mut [u8], kept: &[InUse]| {
        entries::pack(&format.layout, to, kept.iter().map(|entry| &run[entry.offset..entry.offset + entry.size]));
        Ok(())
    };
    if hash >= least {
        pack_and_insert(blocks, format, upper, run, high.iter(), new)?;
        change(blocks, format, parent.child, |to| pack(to, low))?;
    } else {
        change(blocks, format, upper, |to| pack(to, high))?;
        pack_and_insert(blocks, format, parent.child, run, low.iter(), new)?;
    }
    add_entry(blocks, format, parent, least | goes_on, upper)
}

/// Moves the upper half of a full node's entries to a new one, to which `parent`, which has room, leads.
fn split_node(blocks: &mut dyn DirBlocks, format: &DirFormat, parent: &Step, full: &Step) -> Result<()> {
    let kept = full.count / 2;
    let block = blocks.read(full.number)?;
    let moved = &block[NODE_ENTRIES + kept * ENTRY_SIZE..NODE_ENTRIES + full.count * ENTRY_SIZE];
    let least = le32(moved, 0);
    let upper = append(blocks, format)?;
    fill_node(blocks, format, upper, moved)?;
    blocks.modify(full.number, &mut |node| {
        set_counts(node, full.number, format.limit(full.number), kept);
        format.seal_node(full.number, node);
    })?;
    add_entry(blocks, format, parent, least, upper)
}

/// Moves the root's entries to a new node, to which the root's only entry then leads.
fn add_level(blocks: &mut dyn DirBlocks, format: &DirFormat) -> Result<()> {
    let root = blocks.read(0)?;
    let offset = entries_offset(0);
    let count = usize::from(le16(&root, offset + 2));
    let moved = &root[offset..offset + count * ENTRY_SIZE];
    let node = append(blocks, format)?;
    fill_node(blocks, format, node, moved)?;
    blocks.modify(0, &mut |root| {
        root[LEVELS] += 1;
        set_counts(root, 0, format.limit(0), 1);
        set_le32(root, offset + 4, node);
        format.seal_node(0, root);
    })
}

/// Makes a node of a block, with the entries given. The first one's hash gives way to the limit and the count.
fn fill_node(blocks: &mut dyn DirBlocks, format: &DirFormat, number: u32, moved: &[u8]) -> Result<()> {
    blocks.modify(number, &mut |node| {
        node.fill(0);
        let len = node.len();
        set_le16(node, 4, encode_len(len, len));
        node[NODE_ENTRIES..NODE_ENTRIES + moved.len()].copy_from_slice(moved);
        set_counts(node, number, format.limit(number), moved.len() / ENTRY_SIZE);
        format.seal_node(number, node);
    })
}

/// Puts an entry after the one that `parent` took. The node has room for it.
fn add_entry(blocks: &mut dyn DirBlocks, format: &DirFormat, parent: &Step, hash: u32, child: u32) -> Result<()> {
    blocks.modify(parent.number, &mut |node| {
        let first = entries_offset(u64::from(parent.number));
        let at = first + (parent.at + 1) * ENTRY_SIZE;
        let end = first + parent.count * ENTRY_SIZE;
        node.copy_within(at..end, at + ENTRY_SIZE);
        set_le32(node, at, hash);
        set_le32(node, at + 4, child);
        set_counts(node, parent.number, format.limit(parent.number), parent.count + 1);
        format.seal_node(parent.number, node);
    })
}

/// Stores how many entries a node may have and has.
fn set_counts(node: &mut [u8], number: u32, limit: usize, count: usize) {
    let first = entries_offset(u64::from(number));
    set_le16(node, first, limit as u16);
    set_le16(node, first + 2, count as u16);
}
