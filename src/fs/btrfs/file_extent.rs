//! File extents: what a range of a file holds, and the map of a whole file.

use super::key::{Key, kinds};
use super::tree::Tree;
use crate::bytes::{le16, le64};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The most that a compressed extent holds, before and after, in bytes.
pub const COMPRESSED_MAX: u64 = 128 << 10;
/// The most that an inline extent comes to, in bytes: a page of the largest kind.
const INLINE_MAX: u64 = 64 << 10;
/// How many extents of a file are kept as a map.
const MAP_MAX: usize = 4096;
const HEADER: usize = 21;
const LEN: usize = 53;

/// Where fields lie, for who changes them.
pub mod at {
    /// Where in the extent, decompressed, the range begins.
    pub const OFFSET: usize = 37;
    /// The length of the range.
    pub const NUM_BYTES: usize = 45;
}

/// How an extent is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// zlib.
    Zlib,
    /// LZO, a block for each sector.
    Lzo,
    /// Zstandard.
    Zstd,
}

/// What a range of a file holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Nothing.
    Hole,
    /// Space without data.
    Prealloc,
    /// Data in the item itself.
    Inline {
        /// How it is compressed.
        compression: Option<Compression>,
        /// How long it is decompressed, in bytes.
        ram_bytes: u64,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// Data as it is, from this logical address on.
    Plain(u64),
    /// A part of an extent that is compressed.
    Compressed {
        /// The extent.
        extent: CompressedExtent,
        /// Where in the extent, decompressed, the range begins.
        offset: u64,
    },
}

/// An extent that is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CompressedExtent {
    /// Its logical address.
    pub address: u64,
    /// Its length, in bytes.
    pub stored: u32,
    /// Its length decompressed, in bytes.
    pub ram_bytes: u32,
    /// How it is compressed.
    pub compression: Compression,
}

/// A range of a file.
#[derive(Clone, Debug)]
pub struct FileExtent {
    /// Its first byte in the file.
    pub start: u64,
    /// Where it ends in the file.
    pub end: u64,
    /// How much space it takes, in bytes, as `nbytes` of the inode counts.
    pub space: u64,
    /// What it holds.
    pub content: Content,
}

impl FileExtent {
    /// Reads the item of `key`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it makes no sense; [`Error::Unsupported`] for a compression, encryption or encoding that is
    /// not known.
    pub fn parse(key: Key, bytes: &[u8], sector_size: u32) -> Result<Self> {
        let sector = u64::from(sector_size);
        let start = key.offset;
        let corrupt =
            |detail: String| Error::corrupt(format!("extent at {start} of Btrfs inode {}", key.object), detail);
        if bytes.len() < HEADER {
            return Err(corrupt(format!("its item has {} bytes", bytes.len())));
        }
        let ram_bytes = le64(bytes, 8);
        let compression = match bytes[16] {
            0 => None,
            1 => Some(Compression::Zlib),
            2 => Some(Compression::Lzo),
            3 => Some(Compression::Zstd),
            other => return Err(Error::unsupported(format!("Btrfs extents with the compression {other}"))),
        };
        if bytes[17] != 0 {
            return Err(Error::unsupported("Btrfs extents that are encrypted"));
        }
        if le16(bytes, 18) != 0 {
            return Err(Error::unsupported(format!("Btrfs extents with the encoding {}", le16(bytes, 18))));
        }
        let kind = bytes[20];
        if kind == 0 {
            let stored = bytes.len() - HEADER;
            if start != 0 || ram_bytes > INLINE_MAX || (compression.is_none() && ram_bytes != stored as u64) {
                return Err(corrupt(format!("{ram_bytes} bytes in an inline extent of {stored}")));
            }
            let content = Content::Inline { compression, ram_bytes, bytes: bytes[HEADER..].into() };
            return Ok(Self { start, end: ram_bytes.next_multiple_of(sector), space: ram_bytes, content });
        }
        if kind > 2 || bytes.len() < LEN {
            return Err(corrupt(format!("an item of {} bytes of kind {kind}", bytes.len())));
        }
        let (address, stored) = (le64(bytes, HEADER), le64(bytes, HEADER + 8));
        let (offset, len) = (le64(bytes, at::OFFSET), le64(bytes, at::NUM_BYTES));
        let end = start.checked_add(len).filter(|&end| end <= i64::MAX as u64 + sector);
        let aligned = [start, len, address, stored, offset].iter().all(|value| value.is_multiple_of(sector));
        let Some(end) = end.filter(|_| len > 0 && aligned) else {
            return Err(corrupt(format!("{len} bytes from {address}+{offset} of {stored}")));
        };
        if address == 0 {
            return Ok(Self { start, end, space: 0, content: Content::Hole });
        }
        let within = |size: u64| offset.checked_add(len).is_some_and(|end| end <= size);
        let content = match (kind, compression) {
            (2, _) => Content::Prealloc,
            (_, None) if within(stored) && address.checked_add(stored).is_some() => Content::Plain(address + offset),
            (_, Some(compression)) if within(ram_bytes) && ram_bytes <= COMPRESSED_MAX && stored <= COMPRESSED_MAX => {
                let extent =
                    CompressedExtent { address, stored: stored as u32, ram_bytes: ram_bytes as u32, compression };
                Content::Compressed { extent, offset }
            }
            _ => {
                return Err(corrupt(format!(
                    "{len} bytes from {offset} of an extent of {stored}, {ram_bytes} in memory"
                )));
            }
        };
        Ok(Self { start, end, space: len, content })
    }

    /// Says whether the range counts as data for `SEEK_DATA`.
    pub fn is_data(&self) -> bool {
        !matches!(self.content, Content::Hole | Content::Prealloc)
    }

    /// Takes the next range in where both are one on the disk.
    fn merge(&mut self, next: &Self) -> bool {
        let joins = match (&self.content, &next.content) {
            (Content::Plain(one), Content::Plain(other)) => one + (self.end - self.start) == *other,
            (Content::Prealloc, Content::Prealloc) | (Content::Hole, Content::Hole) => true,
            _ => false,
        };
        if joins && self.end == next.start {
            self.end = next.end;
            return true;
        }
        false
    }

    /// What the cache counts for it, in bytes.
    fn weight(&self) -> usize {
        size_of::<Self>() + if let Content::Inline { bytes, .. } = &self.content { bytes.len() } else { 0 }
    }
}

/// The extents of a file, or that there are too many to keep.
#[derive(Debug)]
pub enum FileMap {
    /// All of them, in order.
    Whole(Vec<FileExtent>),
    /// They are looked up in the tree one by one.
    Large,
}

impl FileMap {
    /// Reads the map of inode `number`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when extents overlap, and those of reading.
    pub fn read(tree: &Tree<'_>, number: u64) -> Result<Self> {
        let mut extents: Vec<FileExtent> = Vec::new();
        let mut items = tree.items(number, kinds::EXTENT_DATA)?;
        while let Some((key, item)) = items.next()? {
            let extent = FileExtent::parse(key, &item, tree.store.sector_size)?;
            if let Some(last) = extents.last_mut() {
                if extent.start < last.end {
                    return Err(Error::corrupt(
                        format!("Btrfs inode {number}"),
                        format!("extents overlap at {}", key.offset),
                    ));
                }
                if last.merge(&extent) {
                    continue;
                }
            }
            if extents.len() == MAP_MAX {
                return Ok(Self::Large);
            }
            extents.push(extent);
        }
        extents.shrink_to_fit();
        Ok(Self::Whole(extents))
    }

    /// What the cache counts for it, in bytes.
    pub fn weight(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Whole(extents) => extents.iter().map(FileExtent::weight).sum(),
                Self::Large => 0,
            }
    }

    /// Returns the range that holds `offset`; where no extent does, a hole up to the next extent.
    ///
    /// # Errors
    /// Those of reading.
    pub fn at(&self, tree: &Tree<'_>, number: u64, offset: u64) -> Result<FileExtent> {
        let hole = |end| FileExtent { start: offset, end, space: 0, content: Content::Hole };
        match self {
            Self::Whole(extents) => {
                let after = extents.partition_point(|extent| extent.start <= offset);
                if let Some(extent) = after.checked_sub(1).map(|at| &extents[at])
                    && offset < extent.end
                {
                    return Ok(extent.clone());
                }
                Ok(hole(extents.get(after).map_or(u64::MAX, |next| next.start)))
            }
            Self::Large => {
                let key = Key::new(number, kinds::EXTENT_DATA, offset);
                if let Some((found, item)) = tree.last_not_after(&key)?
                    && found.is(number, kinds::EXTENT_DATA)
                {
                    let mut extent = FileExtent::parse(found, &item, tree.store.sector_size)?;
                    if offset < extent.end {
                        let last = Key { offset: u64::MAX, ..key };
                        let mut items = tree.range(Key { offset: extent.end, ..key }, last)?;
                        // Pieces that lie together are read together, a few at a time.
                        for _ in 0..8 {
                            let Some((key, item)) = items.next()? else { break };
                            if !extent.merge(&FileExtent::parse(key, &item, tree.store.sector_size)?) {
                                break;
                            }
                        }
                        return Ok(extent);
                    }
                }
                let mut items = tree.range(key, Key { offset: u64::MAX, ..key })?;
                Ok(hole(items.next()?.map_or(u64::MAX, |(key, _)| key.offset)))
            }
        }
    }
}
