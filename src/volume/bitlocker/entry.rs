//! The entries that metadata are made of, which hold others in their turn.

use crate::bytes::le16;
use crate::error::{Error, Result};

/// The value of an entry that is a key as it is.
pub(super) const KEY: u16 = 1;
/// The value of an entry that tells how a key is stretched.
pub(super) const STRETCH_KEY: u16 = 3;
/// The value of an entry that is a key encrypted by another.
pub(super) const WRAPPED_KEY: u16 = 5;
/// The value of an entry that is a protector of the master key.
pub(super) const MASTER_KEY: u16 = 8;
/// The value of an entry of a startup key's file.
pub(super) const EXTERNAL_KEY: u16 = 9;
/// The value of an entry that tells a place and a size.
pub(super) const PLACE: u16 = 15;

/// The size of an entry's head, in bytes.
const HEAD: usize = 8;

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    /// What it is for.
    pub kind: u16,
    /// What it holds.
    pub value: u16,
    /// Its bytes after its head.
    pub data: &'a [u8],
}

/// Returns the entries in a row of bytes; zeroes end them early.
///
/// # Errors
/// [`Error::Corrupt`] where an entry passes the end of the bytes, or is shorter than its head.
pub(super) fn all(mut bytes: &[u8]) -> Result<Vec<Entry<'_>>> {
    let mut entries = Vec::new();
    while bytes.len() >= HEAD {
        let size = usize::from(le16(bytes, 0));
        if size == 0 {
            break;
        }
        if size < HEAD || size > bytes.len() {
            return Err(Error::corrupt("BitLocker metadata entry", format!("its size is {size} of {}", bytes.len())));
        }
        entries.push(Entry { kind: le16(bytes, 2), value: le16(bytes, 4), data: &bytes[HEAD..size] });
        bytes = &bytes[size..];
    }
    Ok(entries)
}
