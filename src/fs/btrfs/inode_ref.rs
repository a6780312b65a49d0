//! The names of an inode, as the inode knows them: `INODE_REF` and `INODE_EXTREF`; and those of subvolumes, `ROOT_REF`.

use super::key::{Key, kinds};
use crate::bytes::{le16, le64};
use crate::error::{Error, Result};

/// A name of an inode.
#[derive(Clone, Copy, Debug)]
pub struct NameRef<'a> {
    /// The directory.
    pub parent: u64,
    /// The index in the directory.
    pub index: u64,
    /// The name.
    pub name: &'a [u8],
    /// Its bytes in the item, all of them.
    pub whole: &'a [u8],
}

/// Shows the names in an item of `key`, of either kind.
///
/// # Errors
/// [`Error::Corrupt`], which ends it, for a name that does not lie within the item.
pub fn names(key: Key, mut bytes: &[u8]) -> impl Iterator<Item = Result<NameRef<'_>>> {
    let extended = key.kind == kinds::INODE_EXTREF;
    let header = if extended { 18 } else { 10 };
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let len = (bytes.len() >= header).then(|| header + usize::from(le16(bytes, header - 2)));
        match len {
            Some(len) if len <= bytes.len() => {
                let (whole, rest) = bytes.split_at(len);
                bytes = rest;
                let (parent, index) =
                    if extended { (le64(whole, 0), le64(whole, 8)) } else { (key.offset, le64(whole, 0)) };
                Some(Ok(NameRef { parent, index, name: &whole[header..], whole }))
            }
            _ => {
                bytes = &[];
                Some(Err(Error::corrupt(
                    format!("Btrfs inode {}", key.object),
                    "one of its names passes its item's end",
                )))
            }
        }
    })
}

/// Makes the bytes of a name in an `INODE_REF`.
pub fn build(index: u64, name: &[u8]) -> Vec<u8> {
    let mut bytes = index.to_le_bytes().to_vec();
    bytes.extend((name.len() as u16).to_le_bytes());
    bytes.extend(name);
    bytes
}

/// Where a subvolume's name stands, in its parent.
#[derive(Clone, Copy, Debug)]
pub struct RootRef<'a> {
    /// The directory in the parent.
    pub dir: u64,
    /// The name.
    pub name: &'a [u8],
}

impl<'a> RootRef<'a> {
    /// Reads an item of the kind `ROOT_REF` or `ROOT_BACKREF`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the name passes its end.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let corrupt = || Error::corrupt("Btrfs reference of a subvolume", "the name passes its end");
        if bytes.len() < 18 {
            return Err(corrupt());
        }
        let end = 18 + usize::from(le16(bytes, 16));
        Ok(Self { dir: le64(bytes, 0), name: bytes.get(18..end).ok_or_else(corrupt)? })
    }
}
