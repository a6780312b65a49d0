//! Intents: what a transaction promises that later ones do, and what they say when it is done.
//!
//! Of an intent that was never done, only some change what a reader sees. Blocks to be freed (EFI), reverse mappings (RUI)
//! and reference counts (CUI) do not. A change of a file's extents (BUI), as the end of a write to shared blocks makes it, is
//! done by the driver. An exchange of ranges (XMI) and a change of attributes (ATTRI) that were cut off leave both old and
//! new whole at each step; they stay as far as they came, and are told of.

use super::super::extent::{Extent, MAX_FILE_BLOCK};
use super::super::remap::Remap;
use super::corrupt;
use super::transaction::Item;
use crate::bytes::{le32, le64};
use crate::error::Result;
use std::collections::BTreeMap;

/// Types of items.
mod kinds {
    pub const MAP: u16 = 0x1244;
    pub const MAP_DONE: u16 = 0x1245;
    pub const ATTRIBUTE: u16 = 0x1246;
    pub const ATTRIBUTE_DONE: u16 = 0x1247;
    pub const EXCHANGE: u16 = 0x1248;
    pub const EXCHANGE_DONE: u16 = 0x1249;
}

/// Bits of a change of extents.
mod map_flags {
    pub const KIND: u32 = 0xff;
    pub const MAP: u32 = 1;
    pub const UNMAP: u32 = 2;
    pub const REAL_TIME: u32 = 1 << 29;
    pub const UNWRITTEN: u32 = 1 << 30;
    pub const ATTRIBUTES: u32 = 1 << 31;
}

/// The most changes in one intent that is believed.
const MAX_CHANGES: usize = 64;

/// Intents that are not done yet, by the number that they go by.
#[derive(Default)]
pub struct Intents {
    maps: BTreeMap<u64, (usize, Vec<Remap>)>,
    attributes: BTreeMap<u64, ()>,
    exchanges: BTreeMap<u64, ()>,
    seen: usize,
}

impl Intents {
    /// Takes an item that is an intent or says that one is done; others are ignored.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when it is damaged.
    pub fn take(&mut self, item: &Item) -> Result<()> {
        let number = || Ok::<_, crate::Error>(le64(item.format(16)?, 8));
        match item.kind() {
            kinds::MAP => {
                self.seen += 1;
                let changes = changes(item.format(16)?)?;
                self.maps.insert(number()?, (self.seen, changes));
            }
            kinds::MAP_DONE => drop(self.maps.remove(&number()?)),
            kinds::ATTRIBUTE => drop(self.attributes.insert(number()?, ())),
            kinds::ATTRIBUTE_DONE => drop(self.attributes.remove(&number()?)),
            kinds::EXCHANGE => drop(self.exchanges.insert(number()?, ())),
            kinds::EXCHANGE_DONE => drop(self.exchanges.remove(&number()?)),
            _ => {}
        }
        Ok(())
    }

    /// Returns the changes of extents that were never done, in the order in which they were promised.
    pub fn unfinished_maps(&mut self) -> impl Iterator<Item = Remap> {
        let mut left: Vec<_> = std::mem::take(&mut self.maps).into_values().collect();
        left.sort_by_key(|(seen, _)| *seen);
        left.into_iter().flat_map(|(_, changes)| changes)
    }

    /// Returns what a person should know of the others.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.exchanges.is_empty() {
            warnings.push("an exchange of file ranges was cut off: the files are as far as it came".into());
        }
        if !self.attributes.is_empty() {
            warnings.push("a change of extended attributes was cut off".into());
        }
        warnings
    }
}

fn changes(format: &[u8]) -> Result<Vec<Remap>> {
    let count = le32(format, 4) as usize;
    if count > MAX_CHANGES || format.len() < 16 + count * 32 {
        return Err(corrupt("a change of extents is damaged"));
    }
    let mut changes = Vec::with_capacity(count);
    for bytes in format[16..16 + count * 32].chunks_exact(32) {
        let bits = le32(bytes, 28);
        // The extents of attributes and of real-time files are not remapped by what is logged this way today.
        if bits & (map_flags::ATTRIBUTES | map_flags::REAL_TIME) != 0 {
            continue;
        }
        let extent = Extent {
            file_block: le64(bytes, 16),
            block: le64(bytes, 8),
            count: u64::from(le32(bytes, 24)),
            unwritten: bits & map_flags::UNWRITTEN != 0,
        };
        if extent.file_block >= MAX_FILE_BLOCK {
            return Err(corrupt("a change of extents lies behind the end of files"));
        }
        let add = match bits & map_flags::KIND {
            map_flags::MAP => true,
            map_flags::UNMAP => false,
            _ => return Err(corrupt("a change of extents is of no known kind")),
        };
        changes.push(Remap { ino: le64(bytes, 0), add, extent });
    }
    Ok(changes)
}
