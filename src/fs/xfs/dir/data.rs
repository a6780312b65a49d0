//! A directory's data block: names with their inodes, and the space between them.
//!
//! Each entry has the inode number, the length of the name, the name, its type where directories tell it, padding to 8
//! bytes and at its end its own offset. Unused space begins with 0xffff and its length. The only data block of a directory
//! (block form) ends with an index: pairs of hash and address in order, their count, and how many of them are stale.

use super::super::bmap_tree::partition;
use super::Entry;
use crate::bytes::{be16, be32, be64};
use std::sync::Arc;

/// `XD2B`: data with an index in its tail, version 4.
const BLOCK_V4: u32 = 0x5844_3242;
/// `XD2D`: data, version 4.
const DATA_V4: u32 = 0x5844_3244;
/// `XDB3`: data with an index in its tail, version 5.
const BLOCK_V5: u32 = 0x5844_4233;
/// `XDD3`: data, version 5.
const DATA_V5: u32 = 0x5844_4433;

/// Marks unused space.
const FREE_TAG: u16 = 0xffff;

/// A data block, whose header has been checked.
pub struct DataBlock {
    bytes: Arc<[u8]>,
    start: u64,
    header: usize,
    /// Where entries end.
    end: usize,
    /// How many pairs the index in the tail has, where there is one.
    pairs: Option<usize>,
    file_types: bool,
}

impl DataBlock {
    /// Takes the bytes of a block that begins at `start` bytes in its directory. On version 5, `owner` is the directory.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(bytes: Arc<[u8]>, start: u64, owner: Option<u64>, file_types: bool) -> Result<Self, &'static str> {
        let (header, magics) = if owner.is_some() { (64, [BLOCK_V5, DATA_V5]) } else { (16, [BLOCK_V4, DATA_V4]) };
        let magic = be32(&bytes, 0);
        if !magics.contains(&magic) {
            return Err("a block of it has a wrong magic number");
        }
        if owner.is_some_and(|owner| be64(&bytes, 40) != owner) {
            return Err("a block of it belongs to another inode");
        }
        let mut end = bytes.len();
        let mut pairs = None;
        if magic == magics[0] {
            let count = be32(&bytes, end - 8) as usize;
            if start != 0 || count > (end - 8 - header) / 8 {
                return Err("the index of its block is damaged");
            }
            end -= 8 + count * 8;
            pairs = Some(count);
        }
        Ok(Self { bytes, start, header, end, pairs, file_types })
    }

    /// Returns where it begins in the directory, in bytes.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the entries in order; `None` among them stands for damage, after which there are no more.
    pub fn entries(&self) -> impl Iterator<Item = Option<Entry<'_>>> {
        let mut at = self.header;
        std::iter::from_fn(move || {
            while at < self.end {
                // Offsets are multiples of 8 and so is the end, so that a whole word lies here.
                if be16(&self.bytes, at) == FREE_TAG {
                    let len = usize::from(be16(&self.bytes, at + 2));
                    // 0 stands for all of a block of 64 KiB, which no block with a header can have free.
                    if len == 0 || len % 8 != 0 || len > self.end - at {
                        at = self.end;
                        return Some(None);
                    }
                    at += len;
                    continue;
                }
                let Some((entry, size)) = self.parse(at) else {
                    at = self.end;
                    return Some(None);
                };
                at += size;
                return Some(Some(entry));
            }
            None
        })
    }

    /// Returns the entry at an address: bytes from the directory's beginning.
    pub fn entry_at(&self, address: u64) -> Option<Entry<'_>> {
        let at = usize::try_from(address.checked_sub(self.start)?).ok()?;
        if at < self.header || at >= self.end || be16(&self.bytes, at) == FREE_TAG {
            return None;
        }
        self.parse(at).map(|(entry, _)| entry)
    }

    fn parse(&self, at: usize) -> Option<(Entry<'_>, usize)> {
        let bytes = &self.bytes[at..self.end];
        let name_len = usize::from(*bytes.get(8)?);
        let types = usize::from(self.file_types);
        let size = (8 + 1 + name_len + types + 2).next_multiple_of(8);
        if size > bytes.len() {
            return None;
        }
        let entry = Entry {
            name: &bytes[9..9 + name_len],
            ino: be64(bytes, 0),
            type_code: if self.file_types { bytes[9 + name_len] } else { 0 },
            place: (self.start + at as u64) / 8,
        };
        Some((entry, size))
    }

    /// Returns the addresses, in bytes, that the index in the tail has for a hash. `None` when there is no index.
    pub fn find(&self, hash: u32) -> Option<impl Iterator<Item = u64>> {
        let count = self.pairs?;
        let pair = move |index: usize| be32(&self.bytes, self.end + index * 8);
        let first = partition(count, |index| pair(index) < hash);
        Some(
            (first..count)
                .take_while(move |&index| pair(index) == hash)
                .map(|index| u64::from(be32(&self.bytes, self.end + index * 8 + 4)) * 8)
                .filter(|&address| address != 0),
        )
    }
}
