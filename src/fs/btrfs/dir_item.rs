//! Directory entries and extended attributes: one layout, in `DIR_ITEM`, `DIR_INDEX` and `XATTR_ITEM`.
//!
//! An item found by a hash holds all entries of that hash, one after another.

use super::key::{KEY_LEN, Key};
use crate::bytes::le16;
use crate::error::{Error, Result};
use crate::fs::FileType;

const HEADER: usize = KEY_LEN + 13;
/// The bit of the type that says that the name is encrypted.
const ENCRYPTED: u8 = 0x80;

/// The type of a directory.
pub const TYPE_DIRECTORY: u8 = 2;

/// An entry of a directory, or an extended attribute.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The inode or subvolume that it names.
    pub target: Key,
    /// Its type.
    pub kind: u8,
    /// Its name.
    pub name: &'a [u8],
    /// Its value, of an extended attribute.
    pub value: &'a [u8],
    /// Its bytes in the item, all of them.
    pub whole: &'a [u8],
}

impl Entry<'_> {
    /// Returns the type of file.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a name that is encrypted.
    pub fn file_type(&self) -> Result<Option<FileType>> {
        if self.kind & ENCRYPTED != 0 {
            return Err(Error::unsupported("Btrfs directories with encrypted names"));
        }
        Ok(Some(match self.kind {
            1 => FileType::Regular,
            TYPE_DIRECTORY => FileType::Directory,
            3 => FileType::CharDevice,
            4 => FileType::BlockDevice,
            5 => FileType::Fifo,
            6 => FileType::Socket,
            7 => FileType::Symlink,
            _ => return Ok(None),
        }))
    }
}

/// Returns the number by which a directory's entry tells a type.
pub fn kind_of(file_type: FileType) -> u8 {
    match file_type {
        FileType::Regular => 1,
        FileType::Directory => TYPE_DIRECTORY,
        FileType::CharDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

/// Shows the entries of an item of `key`.
///
/// # Errors
/// Each [`Error::Corrupt`] ends it: an entry that does not lie within the item.
pub fn entries(key: Key, mut bytes: &[u8]) -> impl Iterator<Item = Result<Entry<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let lens = (bytes.len() >= HEADER)
            .then(|| (usize::from(le16(bytes, KEY_LEN + 10)), usize::from(le16(bytes, KEY_LEN + 8))));
        match lens {
            Some((name, value)) if HEADER + name + value <= bytes.len() => {
                let (whole, rest) = bytes.split_at(HEADER + name + value);
                bytes = rest;
                Some(Ok(Entry {
                    target: Key::read(whole),
                    kind: whole[KEY_LEN + 12],
                    name: &whole[HEADER..HEADER + name],
                    value: &whole[HEADER + name..],
                    whole,
                }))
            }
            _ => {
                bytes = &[];
                Some(Err(Error::corrupt(
                    format!("Btrfs item ({} {} {})", key.object, key.kind, key.offset),
                    "an entry passes its end",
                )))
            }
        }
    })
}

/// Finds the entry of a name in an item.
///
/// # Errors
/// As [`entries`].
pub fn find<'a>(key: Key, bytes: &'a [u8], name: &[u8]) -> Result<Option<Entry<'a>>> {
    for entry in entries(key, bytes) {
        let entry = entry?;
        if entry.name == name {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// Says whether a name may stand in a directory: not empty, not too long, no `/` or NUL, not `.` or `..`.
pub fn is_good_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Makes the bytes of an entry.
pub fn build(target: Key, transaction: u64, kind: u8, name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + name.len());
    bytes.extend(target.to_bytes());
    bytes.extend(transaction.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes.push(kind);
    bytes.extend(name);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_hash_share_an_item() {
        let key = Key::new(256, 84, 1);
        let mut bytes = build(Key::new(257, 1, 0), 9, 1, b"one");
        bytes.extend(build(Key::new(258, 1, 0), 9, 2, b"other"));
        let found = find(key, &bytes, b"other").expect("whole").expect("there");
        assert_eq!((found.target.object, found.kind), (258, 2));
        assert!(find(key, &bytes, b"two").expect("whole").is_none());
        bytes.pop();
        find(key, &bytes, b"two").expect_err("cut short");
    }
}
