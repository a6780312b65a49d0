//! A registry hive: keys and values, in cells of the file's bins.
//!
//! Only the cells that are asked for are read, so that a hive of a hundred megabytes costs little, and one that is damaged
//! here still tells what lies there. A hive that was not closed is read with its transaction logs applied, in memory. All
//! numbers are little-endian. The form is specified in "Windows registry file format specification" (M. Suhanov).

use super::log::{self, Pages};
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, Result};
use crate::inspect::read::{Chunks, Guest, tidy};
use std::cell::Cell;

/// The length of the base block; cells are counted from behind it.
pub(super) const BASE_BLOCK: u64 = 4096;

/// The most subkeys or values of a key that are looked at.
const MAX_ITEMS: usize = 1 << 16;

/// The largest value, in bytes.
const MAX_DATA: usize = 1 << 20;

/// The most that is read of one hive, in bytes: keys of a damaged one may hold each other.
const MAX_READ: u64 = 512 << 20;

/// How much of a large value each of its cells holds, in bytes.
const SEGMENT: usize = 16344;

/// A name is stored in one byte for each letter.
const KEY_NAME_IS_LATIN: u16 = 0x20;
const VALUE_NAME_IS_LATIN: u16 = 1;

const REG_SZ: u32 = 1;
const REG_EXPAND_SZ: u32 = 2;
const REG_DWORD: u32 = 4;
const REG_MULTI_SZ: u32 = 7;
const REG_QWORD: u32 = 11;

/// The first sector of a hive or of a transaction log.
#[derive(Clone, Debug)]
pub(super) struct BaseBlock {
    pub(super) primary: u32,
    pub(super) secondary: u32,
    pub(super) written: u64,
    pub(super) file_type: u32,
    pub(super) root: u32,
    pub(super) size: u32,
    /// Whether its checksum is right.
    pub(super) whole: bool,
}

impl BaseBlock {
    /// The part of the base block that counts, in bytes.
    pub(super) const LEN: usize = 512;

    /// Reads a base block; none where there is none.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::LEN || !bytes.starts_with(b"regf") {
            return None;
        }
        let sum = (0..508).step_by(4).fold(0, |sum, at| sum ^ le32(bytes, at));
        let sum = match sum {
            0 => 1,
            u32::MAX => u32::MAX - 1,
            sum => sum,
        };
        Some(Self {
            primary: le32(bytes, 4),
            secondary: le32(bytes, 8),
            written: le64(bytes, 12),
            file_type: le32(bytes, 28),
            root: le32(bytes, 36),
            size: le32(bytes, 40),
            whole: sum == le32(bytes, 508),
        })
    }
}

/// A hive.
pub(super) struct Hive<'a> {
    file: Chunks<'a>,
    /// Parts that the transaction logs hold newer.
    pages: Pages,
    root: u32,
    /// How long the bins are, in bytes.
    size: u64,
    read: Cell<u64>,
}

/// A key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: String,
    subkeys: u32,
    subkey_list: u32,
    values: u32,
    value_list: u32,
}

/// A value.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) name: String,
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

impl Value {
    /// Returns a text.
    pub(super) fn text(&self) -> Option<String> {
        if !matches!(self.kind, REG_SZ | REG_EXPAND_SZ | REG_MULTI_SZ) {
            return None;
        }
        let text = utf16(&self.data);
        let text = tidy(text.split('\0').next().unwrap_or_default().as_bytes());
        (!text.is_empty()).then_some(text)
    }

    /// Returns the texts of a list.
    pub(super) fn texts(&self) -> Vec<String> {
        if !matches!(self.kind, REG_SZ | REG_EXPAND_SZ | REG_MULTI_SZ) {
            return Vec::new();
        }
        let text = utf16(&self.data);
        text.split('\0').filter(|text| !text.is_empty()).take(64).map(|text| tidy(text.as_bytes())).collect()
    }

    /// Returns a number of 32 or 64 bits.
    pub(super) fn number(&self) -> Option<u64> {
        match (self.kind, self.data.len()) {
            (REG_DWORD, 4..) => Some(u64::from(le32(&self.data, 0))),
            (REG_QWORD, 8..) => Some(le64(&self.data, 0)),
            _ => None,
        }
    }
}

/// Decodes UTF-16 in little-endian order.
pub(super) fn utf16(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).map(|unit| le16(unit, 0));
    char::decode_utf16(units).map(|letter| letter.unwrap_or('\u{fffd}')).collect()
}

/// Returns a moment that Windows counts in 100 ns since 1601, in seconds since 1970.
pub(super) fn filetime(time: u64) -> Option<i64> {
    const EPOCH: i64 = 11_644_473_600;
    let seconds = i64::try_from(time / 10_000_000).ok()? - EPOCH;
    (seconds > 0).then_some(seconds)
}

impl<'a> Hive<'a> {
    /// Opens a hive with its transaction logs, which lie beside it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it has no base block that can be used, and those of reading.
    pub(super) fn open(guest: &Guest<'a>, path: &[u8]) -> Result<Option<Self>> {
        let Some(file) = guest.chunks(path) else { return Ok(None) };
        let base = file.bytes(0, BaseBlock::LEN)?;
        let base = BaseBlock::parse(&base);
        let dirty = base.as_ref().is_none_or(|base| !base.whole || base.primary != base.secondary);
        let replayed = if dirty { log::replay(guest, path, base.as_ref()) } else { None };
        if dirty && replayed.is_none() {
            guest.warn(format!("{}: it was not closed, and its transaction logs do not help", tidy(path)));
        }
        let (pages, base) = match (replayed, base) {
            (Some((pages, base)), _) => (pages, base),
            (None, Some(base)) => (Pages::default(), base),
            (None, None) => return Err(Error::corrupt("registry hive", "it has not the magic number of one")),
        };
        Ok(Some(Self { file, pages, root: base.root, size: u64::from(base.size), read: Cell::new(0) }))
    }

    fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let beyond = || Error::corrupt("registry hive", format!("there is nothing at {offset:#x}"));
        let end = offset.checked_add(len as u64).ok_or_else(beyond)?;
        if end > self.size {
            return Err(beyond());
        }
        self.read.set(self.read.get() + len as u64);
        if self.read.get() > MAX_READ {
            return Err(Error::corrupt("registry hive", "its keys hold each other"));
        }
        if !self.pages.touch(offset, end) {
            return self.file.bytes(BASE_BLOCK + offset, len);
        }
        // What lies behind the end of the file is in the logs alone.
        let mut bytes = vec![0; len];
        let in_file = self.file.size().saturating_sub(BASE_BLOCK).saturating_sub(offset).min(len as u64) as usize;
        self.file.read_at(BASE_BLOCK + offset, &mut bytes[..in_file])?;
        self.pages.apply(offset, &mut bytes);
        Ok(bytes)
    }

    /// Returns what a cell holds, at most `max` bytes of it.
    fn cell(&self, offset: u32, max: usize) -> Result<Vec<u8>> {
        let bad = |detail: &'static str| Error::corrupt(format!("registry cell {offset:#x}"), detail);
        let size = le32(&self.bytes(u64::from(offset), 4)?, 0).cast_signed();
        if size >= 0 {
            return Err(bad("it is free"));
        }
        let size = size.unsigned_abs() as usize;
        if size < 8 {
            return Err(bad("it is too short"));
        }
        self.bytes(u64::from(offset) + 4, (size - 4).min(max))
    }

    fn key_at(&self, offset: u32) -> Result<Key> {
        const NAME: usize = 76;
        let bad = |detail: &'static str| Error::corrupt(format!("registry key {offset:#x}"), detail);
        let cell = self.cell(offset, NAME + 1024)?;
        if cell.len() < NAME || !cell.starts_with(b"nk") {
            return Err(bad("it is no key"));
        }
        let len = usize::from(le16(&cell, 72));
        let name = cell.get(NAME..NAME + len).ok_or_else(|| bad("its name is cut off"))?;
        Ok(Key {
            name: name_of(name, le16(&cell, 2) & KEY_NAME_IS_LATIN != 0),
            subkeys: le32(&cell, 20),
            subkey_list: le32(&cell, 28),
            values: le32(&cell, 36),
            value_list: le32(&cell, 40),
        })
    }

    /// Returns the topmost key.
    pub(super) fn root(&self) -> Result<Key> {
        self.key_at(self.root)
    }

    /// Finds a key by its path, in any case of letters; none where there is none.
    pub(super) fn key(&self, path: &str) -> Result<Option<Key>> {
        let root = self.root()?;
        self.below(&root, path)
    }

    /// Finds a key below another.
    pub(super) fn below(&self, key: &Key, path: &str) -> Result<Option<Key>> {
        let mut key = key.clone();
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            let Some(next) = self.subkey(&key, name)? else { return Ok(None) };
            key = next;
        }
        Ok(Some(key))
    }

    fn subkey(&self, key: &Key, name: &str) -> Result<Option<Key>> {
        let wanted = name.is_ascii().then(|| hash_of(name));
        for (offset, hash) in self.subkey_offsets(key)? {
            if hash.is_some() && wanted.is_some() && hash != wanted {
                continue;
            }
            let found = self.key_at(offset)?;
            if same_name(&found.name, name) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Returns the keys below a key; those that are damaged are left out and counted.
    pub(super) fn subkeys(&self, key: &Key) -> Result<(Vec<Key>, usize)> {
        let mut damaged = 0;
        let mut keys = Vec::new();
        for (offset, _) in self.subkey_offsets(key)? {
            match self.key_at(offset) {
                Ok(key) => keys.push(key),
                Err(_) => damaged += 1,
            }
        }
        Ok((keys, damaged))
    }

    /// Returns where the subkeys lie, with the hash of each name where the list holds it.
    fn subkey_offsets(&self, key: &Key) -> Result<Vec<(u32, Option<u32>)>> {
        let mut offsets = Vec::new();
        if key.subkeys != 0 {
            self.subkey_list(key.subkey_list, 0, &mut offsets)?;
        }
        Ok(offsets)
    }

    fn subkey_list(&self, offset: u32, depth: usize, out: &mut Vec<(u32, Option<u32>)>) -> Result<()> {
        let bad = |detail: &'static str| Error::corrupt(format!("registry list {offset:#x}"), detail);
        let cell = self.cell(offset, 4 + 8 * MAX_ITEMS)?;
        if cell.len() < 4 {
            return Err(bad("it is too short"));
        }
        let count = usize::from(le16(&cell, 2));
        let width = match &cell[..2] {
            b"lf" | b"lh" => 8,
            b"li" | b"ri" => 4,
            _ => return Err(bad("it is no list of keys")),
        };
        let items = cell.get(4..4 + count * width).ok_or_else(|| bad("it is cut off"))?;
        for item in items.chunks_exact(width) {
            if &cell[..2] == b"ri" {
                // A list of lists holds no further ones.
                if depth > 0 {
                    return Err(bad("it lies within another of its kind"));
                }
                self.subkey_list(le32(item, 0), depth + 1, out)?;
            } else {
                out.push((le32(item, 0), (&cell[..2] == b"lh").then(|| le32(item, 4))));
            }
            if out.len() > MAX_ITEMS {
                return Err(bad("it has too many keys"));
            }
        }
        Ok(())
    }

    /// Returns the values of a key; those that are damaged are left out.
    pub(super) fn values(&self, key: &Key) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        for offset in self.value_offsets(key)? {
            values.extend(self.value_at(offset, None).ok().flatten());
        }
        Ok(values)
    }

    /// Finds a value of a key by its name, in any case of letters.
    pub(super) fn value(&self, key: &Key, name: &str) -> Result<Option<Value>> {
        for offset in self.value_offsets(key)? {
            if let Some(value) = self.value_at(offset, Some(name))? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    fn value_offsets(&self, key: &Key) -> Result<Vec<u32>> {
        let count = (key.values as usize).min(MAX_ITEMS);
        if count == 0 {
            return Ok(Vec::new());
        }
        let list = self.cell(key.value_list, count * 4)?;
        Ok(list.chunks_exact(4).map(|offset| le32(offset, 0)).collect())
    }

    fn value_at(&self, offset: u32, wanted: Option<&str>) -> Result<Option<Value>> {
        const NAME: usize = 20;
        const RESIDENT: u32 = 1 << 31;
        let bad = |detail: &'static str| Error::corrupt(format!("registry value {offset:#x}"), detail);
        let cell = self.cell(offset, NAME + 1024)?;
        if cell.len() < NAME || !cell.starts_with(b"vk") {
            return Err(bad("it is no value"));
        }
        let name = cell.get(NAME..NAME + usize::from(le16(&cell, 2))).ok_or_else(|| bad("its name is cut off"))?;
        let name = name_of(name, le16(&cell, 16) & VALUE_NAME_IS_LATIN != 0);
        if wanted.is_some_and(|wanted| !same_name(&name, wanted)) {
            return Ok(None);
        }
        let size = le32(&cell, 4);
        let len = (size & !RESIDENT) as usize;
        let data = if size & RESIDENT != 0 {
            cell[8..8 + len.min(4)].to_vec()
        } else if len == 0 {
            Vec::new()
        } else if len > MAX_DATA {
            return Err(bad("it is too large"));
        } else {
            self.data(le32(&cell, 8), len)?
        };
        Ok(Some(Value { name, kind: le32(&cell, 12), data }))
    }

    fn data(&self, offset: u32, len: usize) -> Result<Vec<u8>> {
        let cut = || Error::corrupt(format!("registry cell {offset:#x}"), "its data is cut off");
        let mut cell = self.cell(offset, len)?;
        if cell.len() < len && cell.len() >= 8 && cell.starts_with(b"db") {
            let count = usize::from(le16(&cell, 2));
            let list = self.cell(le32(&cell, 4), count * 4)?;
            cell = Vec::new();
            for segment in list.chunks_exact(4) {
                let wanted = (len - cell.len()).min(SEGMENT);
                cell.extend(self.cell(le32(segment, 0), wanted)?);
            }
        }
        if cell.len() < len { Err(cut()) } else { Ok(cell) }
    }
}

fn name_of(bytes: &[u8], latin: bool) -> String {
    if latin { bytes.iter().map(|&byte| char::from(byte)).collect() } else { utf16(bytes) }
}

fn same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.eq_ignore_ascii_case(other)
        || one.chars().flat_map(char::to_uppercase).eq(other.chars().flat_map(char::to_uppercase))
}

/// Returns the hash of a key's name that lists of the kind `lh` hold.
fn hash_of(name: &str) -> u32 {
    name.bytes().fold(0_u32, |hash, byte| hash.wrapping_mul(37).wrapping_add(u32::from(byte.to_ascii_uppercase())))
}
