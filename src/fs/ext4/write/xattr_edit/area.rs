//! The two areas that hold attributes, rebuilt from a list of their entries.
//!
//! Entries lie one after another from the beginning and end with four zero bytes; values lie at the end. In the inode the
//! entries keep their order and carry no hash; in the block they are sorted by index, length of the name and name, and
//! both they and the block carry hashes, which tell blocks apart that could be shared.

use super::Gone;
use crate::bytes::{set_le16, set_le32};
use crate::error::{Error, Result};
use crate::fs::ext4::xattr::{
    self, BLOCK_BLOCKS, BLOCK_HASH, BLOCK_HEADER, BLOCK_REFCOUNT, ENTRY_HEADER, Entries, Entry, INODE_HEADER, MAGIC,
    Value,
};

/// The size of the zeroes after the last entry, in bytes.
const END: usize = 4;

/// An attribute with what it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    pub(super) index: u8,
    pub(super) name: Vec<u8>,
    pub(super) value: Stored,
    /// The hash of an entry whose value lies in an inode of its own, which cannot be computed here.
    pub(super) hash: u32,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// In the area.
    Here(Vec<u8>),
    /// In an inode of its own.
    Inode { ino: u32, size: u32 },
}

impl Attribute {
    fn of(entry: &Entry<'_>) -> Self {
        let value = match entry.value {
            Value::Here(bytes) => Stored::Here(bytes.to_vec()),
            Value::Inode { ino, size } => Stored::Inode { ino, size },
        };
        Self { index: entry.index, name: entry.name.to_vec(), value, hash: entry.hash }
    }

    /// Says whether this is the attribute with a name.
    pub(super) fn is(&self, index: u8, name: &[u8]) -> bool {
        self.index == index && self.name == name
    }

    /// Returns the inode that holds the value, where one does.
    pub(super) fn apart(&self) -> Option<Gone> {
        match self.value {
            Stored::Inode { ino, size } => Some(Gone { ino, size }),
            Stored::Here(_) => None,
        }
    }

    /// Returns how much of an area it takes, in bytes.
    fn size(&self) -> usize {
        let value = match &self.value {
            Stored::Here(bytes) => bytes.len().next_multiple_of(4),
            Stored::Inode { .. } => 0,
        };
        entry_size(self.name.len()) + value
    }

    fn order(&self) -> (u8, usize, &[u8]) {
        (self.index, self.name.len(), &self.name)
    }
}

/// Returns the size of an entry with a name of `name_len` bytes, in bytes.
fn entry_size(name_len: usize) -> usize {
    (ENTRY_HEADER + name_len).next_multiple_of(4)
}

/// Returns the attributes of an area.
///
/// # Errors
/// [`Error::Corrupt`] naming inode `ino` for a damaged area, or one that holds more than fits.
pub(super) fn attributes(ino: u32, entries: Entries<'_>, room: usize) -> Result<Vec<Attribute>> {
    let all: Vec<Attribute> = entries.map(|entry| entry.map(|entry| Attribute::of(&entry))).collect::<Result<_>>()?;
    if !fits(&all, room) {
        let detail = "they take more space than there is";
        return Err(Error::corrupt(format!("extended attributes of inode {ino}"), detail));
    }
    Ok(all)
}

/// Returns how many bytes of the space after an inode's fields attributes have.
pub(super) fn inode_room(space: usize) -> usize {
    space.saturating_sub(INODE_HEADER)
}

/// Returns how many bytes of a block attributes have.
pub(super) fn block_room(block_size: usize) -> usize {
    block_size - BLOCK_HEADER
}

/// Says whether attributes fit.
pub(super) fn fits(attributes: &[Attribute], room: usize) -> bool {
    attributes.is_empty() || total(attributes) + END <= room
}

fn total(attributes: &[Attribute]) -> usize {
    attributes.iter().map(Attribute::size).sum()
}

/// Returns how long the value of an attribute can be that shares an area with others, in bytes; a multiple of 4.
pub(super) fn longest_value(others: &[Attribute], name_len: usize, room: usize) -> Option<usize> {
    room.checked_sub(total(others) + END + entry_size(name_len)).map(|longest| longest & !3)
}

/// Builds the space after an inode's fields, `space` bytes. The attributes fit.
pub(super) fn build_in_inode(attributes: &[Attribute], space: usize) -> Vec<u8> {
    let mut area = vec![0; space];
    if !attributes.is_empty() {
        set_le32(&mut area, 0, MAGIC);
        fill(&mut area[INODE_HEADER..], 0, attributes, false);
    }
    area
}

/// Builds a block of attributes, used once and without its checksum. The attributes fit; they are sorted.
pub(super) fn build_block(attributes: &mut [Attribute], block_size: usize) -> Vec<u8> {
    attributes.sort_by(|one, other| one.order().cmp(&other.order()));
    let mut block = vec![0; block_size];
    set_le32(&mut block, 0, MAGIC);
    set_le32(&mut block, BLOCK_REFCOUNT, 1);
    set_le32(&mut block, BLOCK_BLOCKS, 1);
    let hash = fill(&mut block, BLOCK_HEADER, attributes, true);
    set_le32(&mut block, BLOCK_HASH, hash);
    block
}

/// Stores entries from `at` on and their values at the end; returns the hash of all of them.
fn fill(area: &mut [u8], mut at: usize, attributes: &[Attribute], hashed: bool) -> u32 {
    let mut values = area.len();
    let (mut all, mut is_shareable) = (0_u32, true);
    for attribute in attributes {
        let mut hash = 0;
        let (size, ino) = match &attribute.value {
            Stored::Here(bytes) => {
                if !bytes.is_empty() {
                    values -= bytes.len().next_multiple_of(4);
                    area[values..values + bytes.len()].copy_from_slice(bytes);
                    set_le16(area, at + 2, values as u16);
                }
                if hashed {
                    hash = xattr::entry_hash(&attribute.name, bytes);
                }
                (bytes.len() as u32, 0)
            }
            Stored::Inode { ino, size } => {
                hash = attribute.hash;
                (*size, *ino)
            }
        };
        area[at] = attribute.name.len() as u8;
        area[at + 1] = attribute.index;
        set_le32(area, at + 4, ino);
        set_le32(area, at + 8, size);
        set_le32(area, at + 12, hash);
        area[at + ENTRY_HEADER..at + ENTRY_HEADER + attribute.name.len()].copy_from_slice(&attribute.name);
        at += entry_size(attribute.name.len());
        all = all.rotate_left(16) ^ hash;
        // An entry without a hash makes the block one that is not shared.
        is_shareable &= hash != 0;
    }
    if is_shareable { all } else { 0 }
}
