//! Tree blocks: leaves of items and nodes of pointers.
//!
//! A block that [`Node::parse`] accepted is what the pointer to it promised, its keys ascend, and every item lies within
//! it. Specified in "On-disk Format" of the Btrfs documentation.

use super::checksum::{Checksum, FIELD};
use super::key::{KEY_LEN, Key};
use crate::bytes::{le32, le64};
use std::ops::Range;

/// The highest level that a tree block may have.
pub const MAX_LEVEL: u8 = 7;

const HEADER: usize = 101;
const ITEM: usize = KEY_LEN + 8;
const POINTER: usize = KEY_LEN + 16;

/// What a pointer says of the block it points to.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The logical address.
    pub address: u64,
    /// The level.
    pub level: u8,
    /// The transaction that wrote it.
    pub generation: u64,
    /// The first key; `None` for the root of a tree.
    pub first_key: Option<Key>,
}

/// A tree block that is whole.
#[derive(Debug)]
pub struct Node {
    bytes: Box<[u8]>,
    level: u8,
    count: usize,
    generation: u64,
}

/// What all blocks of a filesystem have in common.
#[derive(Clone, Debug)]
pub struct NodeFormat {
    /// The kind of checksums.
    pub checksum: Checksum,
    /// The UUIDs that a block may bear: the filesystem's and those of its seeds.
    pub fsids: Vec<[u8; 16]>,
}

impl Node {
    /// Checks a block that was read for a pointer.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(bytes: Box<[u8]>, format: &NodeFormat, expected: &Expected) -> Result<Self, String> {
        if !format.checksum.matches(&bytes[FIELD..], &bytes) {
            return Err("its checksum is wrong".into());
        }
        if le64(&bytes, 48) != expected.address {
            return Err(format!("it says that it lies at {}", le64(&bytes, 48)));
        }
        if !format.fsids.iter().any(|fsid| fsid == &bytes[32..48]) {
            return Err("it belongs to another filesystem".into());
        }
        let level = bytes[100];
        let count = le32(&bytes, 96) as usize;
        let room = bytes.len() - HEADER;
        let node = Self { level, count, generation: le64(&bytes, 80), bytes };
        if level > MAX_LEVEL || count > room / if level == 0 { ITEM } else { POINTER } || (level > 0 && count == 0) {
            return Err(format!("{count} items at level {level}"));
        }
        node.check(expected)?;
        if let Some(at) = (1..count).find(|&at| node.key(at - 1) >= node.key(at)) {
            return Err(format!("item {at} is out of order"));
        }
        if level == 0 {
            for at in 0..count {
                let (offset, len) = node.item_place(at);
                if offset < count * ITEM || offset.checked_add(len).is_none_or(|end| end > room) {
                    return Err(format!("item {at} lies outside"));
                }
            }
        }
        Ok(node)
    }

    /// Checks a block that is whole against another pointer to it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self, expected: &Expected) -> Result<(), String> {
        if self.level != expected.level {
            return Err(format!("it has level {}, not {}", self.level, expected.level));
        }
        if self.generation != expected.generation {
            return Err(format!("it is of transaction {}, not {}", self.generation, expected.generation));
        }
        match expected.first_key {
            Some(key) if self.count == 0 || self.key(0) != key => Err("its first key is another".into()),
            _ => Ok(()),
        }
    }

    /// Returns the level; 0 is a leaf.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// Returns how many items or pointers there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the length, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn start(&self, at: usize) -> usize {
        HEADER + at * if self.level == 0 { ITEM } else { POINTER }
    }

    /// Returns the key of an item or pointer.
    pub fn key(&self, at: usize) -> Key {
        Key::read(&self.bytes[self.start(at)..])
    }

    fn item_place(&self, at: usize) -> (usize, usize) {
        let start = self.start(at) + KEY_LEN;
        (le32(&self.bytes, start) as usize, le32(&self.bytes, start + 4) as usize)
    }

    /// Returns where in the block an item of a leaf lies.
    pub fn item_range(&self, at: usize) -> Range<usize> {
        let (offset, len) = self.item_place(at);
        HEADER + offset..HEADER + offset + len
    }

    /// Returns a part of the block.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Returns what a pointer says of its block.
    pub fn pointer(&self, at: usize) -> Expected {
        let start = self.start(at);
        Expected {
            address: le64(&self.bytes, start + KEY_LEN),
            level: self.level - 1,
            generation: le64(&self.bytes, start + KEY_LEN + 8),
            first_key: Some(self.key(at)),
        }
    }

    /// Returns the number of the first item or pointer whose key is not before `key`; the count when there is none.
    pub fn lower_bound(&self, key: &Key) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < *key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Returns the number of the last item or pointer whose key is not after `key`.
    pub fn last_not_after(&self, key: &Key) -> Option<usize> {
        let at = self.lower_bound(key);
        if at < self.count && self.key(at) == *key { Some(at) } else { at.checked_sub(1) }
    }
}
