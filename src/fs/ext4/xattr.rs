//! Extended attributes: entries in the space after an inode's fields, and in one block that inodes may share.
//!
//! Little-endian. An entry is 16 bytes and a name without its prefix, which a number stands for; values lie at the end of
//! the same space, or are the contents of an inode (`ea_inode`). Specified in the kernel's
//! `Documentation/filesystems/ext4/attributes.rst`.

use super::superblock::holed;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// The magic number before the entries in an inode and of a block.
pub(crate) const MAGIC: u32 = 0xea02_0000;
/// The size of the header in an inode, in bytes.
pub(crate) const INODE_HEADER: usize = 4;
/// The size of the header of a block, in bytes.
pub(crate) const BLOCK_HEADER: usize = 32;
/// The size of an entry without its name, in bytes.
pub(crate) const ENTRY_HEADER: usize = 16;
/// The longest value, in bytes: what Linux lets through.
pub(crate) const VALUE_MAX: usize = 1 << 16;
/// `h_refcount` of a block, its offset in bytes.
pub(crate) const BLOCK_REFCOUNT: usize = 4;
/// `h_blocks` of a block, its offset in bytes.
pub(crate) const BLOCK_BLOCKS: usize = 8;
/// `h_hash` of a block, its offset in bytes.
pub(crate) const BLOCK_HASH: usize = 12;
/// `h_checksum` of a block, its offset in bytes.
pub(crate) const BLOCK_CHECKSUM: usize = 16;

/// Name indexes.
#[allow(missing_docs)]
pub(crate) mod index {
    pub(crate) const USER: u8 = 1;
    pub(crate) const ACL_ACCESS: u8 = 2;
    pub(crate) const ACL_DEFAULT: u8 = 3;
    pub(crate) const TRUSTED: u8 = 4;
    pub(crate) const SECURITY: u8 = 6;
    pub(crate) const SYSTEM: u8 = 7;
    pub(crate) const ENCRYPTION: u8 = 9;
    pub(crate) const HURD: u8 = 10;
}

/// The name of the attribute (of index [`index::SYSTEM`]) that holds what of inline data does not fit `i_block`.
pub(crate) const INLINE_DATA: &[u8] = b"data";

/// Prefixes that users see, by index. What is not here is the filesystem's own.
const PREFIXES: &[(u8, &[u8])] = &[
    (index::USER, b"user."),
    (index::ACL_ACCESS, b"system.posix_acl_access"),
    (index::ACL_DEFAULT, b"system.posix_acl_default"),
    (index::TRUSTED, b"trusted."),
    (index::SECURITY, b"security."),
    (index::HURD, b"gnu."),
];

/// Where an attribute's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Beside the entry.
    Here(&'a [u8]),
    /// The contents of an inode.
    Inode {
        /// Its number.
        ino: u32,
        /// The size of the value, in bytes.
        size: u32,
    },
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// What stands for the prefix of the name.
    pub(crate) index: u8,
    /// The name without the prefix.
    pub(crate) name: &'a [u8],
    /// The value.
    pub(crate) value: Value<'a>,
    /// `e_hash`.
    pub(crate) hash: u32,
}

impl Entry<'_> {
    /// Returns the full name; `None` for an attribute that users do not see.
    pub(crate) fn full_name(&self) -> Option<Vec<u8>> {
        let (_, prefix) = PREFIXES.iter().find(|(index, _)| *index == self.index)?;
        let whole = matches!(self.index, index::ACL_ACCESS | index::ACL_DEFAULT);
        if whole != self.name.is_empty() {
            return None;
        }
        Some([prefix, self.name].concat())
    }
}

/// Splits a full name into the index of its prefix and the rest; `None` when no prefix fits.
pub(crate) fn split_name(name: &[u8]) -> Option<(u8, &[u8])> {
    PREFIXES.iter().find_map(|(index, prefix)| {
        let rest = name.strip_prefix(*prefix)?;
        let whole = matches!(*index, index::ACL_ACCESS | index::ACL_DEFAULT);
        (whole == rest.is_empty()).then_some((*index, rest))
    })
}

/// The entries in a space.
pub(crate) struct Entries<'a> {
    ino: u32,
    space: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    /// Returns the entries in the space after an inode's fields; none when it holds none.
    pub(crate) fn in_inode(ino: u32, tail: &'a [u8]) -> Self {
        let has_header = tail.len() >= INODE_HEADER && le32(tail, 0) == MAGIC;
        let space = if has_header { &tail[INODE_HEADER..] } else { &[] };
        Self { ino, space, at: 0 }
    }

    /// Returns the entries in a block that inode `ino` names; `seed` verifies its checksum.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a wrong magic number or checksum.
    pub(crate) fn in_block(ino: u32, number: u64, block: &'a [u8], seed: Option<u32>) -> Result<Self> {
        let damaged = |detail| Error::corrupt(format!("block {number} of extended attributes of inode {ino}"), detail);
        if le32(block, 0) != MAGIC || le32(block, BLOCK_BLOCKS) != 1 {
            return Err(damaged("its header is wrong"));
        }
        if seed.is_some_and(|seed| block_checksum(seed, number, block) != le32(block, BLOCK_CHECKSUM)) {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(Self { ino, space: block, at: BLOCK_HEADER })
    }

    fn parse(&mut self) -> Result<Option<Entry<'a>>> {
        let damaged = |detail| Error::corrupt(format!("extended attributes of inode {}", self.ino), detail);
        let rest = &self.space[self.at..];
        if rest.len() < 4 || le32(rest, 0) == 0 {
            // A full space may leave no room for the end mark in a damaged inode only; there is nothing after it either way.
            return Ok(None);
        }
        if rest.len() < ENTRY_HEADER {
            return Err(damaged("an entry does not fit"));
        }
        let name_len = usize::from(rest[0]);
        let len = (ENTRY_HEADER + name_len).next_multiple_of(4);
        if len > rest.len() {
            return Err(damaged("a name does not fit"));
        }
        let (offset, ino, size) = (usize::from(le16(rest, 2)), le32(rest, 4), le32(rest, 8));
        let value = if ino != 0 {
            if size as usize > VALUE_MAX {
                return Err(damaged("a value is too long"));
            }
            Value::Inode { ino, size }
        } else if size == 0 {
            Value::Here(&[])
        } else {
            let end = offset.checked_add(size as usize).filter(|&end| end <= self.space.len());
            let end = end.ok_or_else(|| damaged("a value does not fit"))?;
            Value::Here(&self.space[offset..end])
        };
        let name = &rest[ENTRY_HEADER..ENTRY_HEADER + name_len];
        let entry = Entry { index: rest[1], name, value, hash: le32(rest, 12) };
        self.at += len;
        Ok(Some(entry))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.parse();
        if entry.is_err() {
            self.at = self.space.len();
        }
        entry.transpose()
    }
}

/// Returns the checksum that a block of attributes should have.
pub(crate) fn block_checksum(seed: u32, number: u64, block: &[u8]) -> u32 {
    holed(super::checksum::crc32c(seed, &number.to_le_bytes()), block, BLOCK_CHECKSUM)
}

/// Returns `e_hash` of an attribute whose value lies beside its entry. Bytes count as unsigned.
pub(crate) fn entry_hash(name: &[u8], value: &[u8]) -> u32 {
    let hash = name.iter().fold(0_u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
    value.chunks(4).fold(hash, |hash, word| {
        let mut padded = [0; 4];
        padded[..word.len()].copy_from_slice(word);
        hash.rotate_left(16) ^ u32::from_le_bytes(padded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_split_into_prefix_and_rest() {
        assert_eq!(split_name(b"user.a"), Some((index::USER, &b"a"[..])));
        assert_eq!(split_name(b"system.posix_acl_access"), Some((index::ACL_ACCESS, &b""[..])));
        assert_eq!(split_name(b"system.posix_acl_accessible"), None);
        assert_eq!(split_name(b"user."), None);
        assert_eq!(split_name(b"system.data"), None);
    }

    #[test]
    fn a_value_outside_its_space_is_damage_and_ends_the_entries() {
        let mut tail = vec![0; 96];
        tail[..4].copy_from_slice(&MAGIC.to_le_bytes());
        tail[4..24].copy_from_slice(&[1, 1, 88, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, b'a', 0, 0, 0]);
        tail[92..].copy_from_slice(b"text");
        let entry = Entries::in_inode(12, &tail).next().expect("one").expect("sound");
        assert_eq!((entry.name, entry.value), (&b"a"[..], Value::Here(b"text")));
        assert_eq!(entry.full_name().as_deref(), Some(&b"user.a"[..]));
        tail[6] = 89;
        let mut entries = Entries::in_inode(12, &tail);
        assert!(entries.next().expect("one").is_err());
        assert!(entries.next().is_none());
    }
}
