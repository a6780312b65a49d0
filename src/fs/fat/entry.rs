//! A directory entry: 32 bytes that are the file's inode as well.

use super::boot::Width;
use super::{name, time};
use crate::bytes::{le16, le32};
use crate::fs::Timestamp;

/// The size of an entry, in bytes.
pub const ENTRY_SIZE: usize = 32;

const READ_ONLY: u8 = 0x01;
const VOLUME: u8 = 0x08;
const DIRECTORY: u8 = 0x10;

/// The attributes of an entry that holds a piece of a long name.
const LONG_NAME: u8 = 0x0f;

/// The bits of the attributes that mean something.
const ATTRIBUTES: u8 = 0x3f;

/// What a slot of a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot<'a> {
    /// Nothing, and nothing after it.
    End,
    /// Nothing: it was never used or its file was deleted.
    Free,
    /// A piece of the long name of the file whose entry follows.
    LongName(&'a [u8]),
    /// The label of the filesystem.
    Label(&'a [u8]),
    /// The directory itself, or its parent.
    Dots,
    /// A file or directory.
    File(Entry),
}

/// The entry of a file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name in 8 and 3 characters, as it is stored.
    pub short_name: [u8; 11],
    /// Bits that Windows NT stores instead of a long name, when base or extension are in lower case throughout.
    pub case_flags: u8,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Whether it may not be written to.
    pub is_read_only: bool,
    /// The first cluster; 0 for an empty file.
    pub cluster: u32,
    /// The size of a file, in bytes.
    pub size: u32,
    /// When it was last written to.
    pub modified: Timestamp,
    /// The day when it was last read.
    pub accessed: Timestamp,
    /// When it was made, where that was noted.
    pub created: Option<Timestamp>,
}

impl<'a> Slot<'a> {
    /// Parses a slot of [`ENTRY_SIZE`] bytes.
    pub fn parse(bytes: &'a [u8], width: Width) -> Self {
        const DELETED: u8 = 0xe5;
        let attributes = bytes[11] & ATTRIBUTES;
        match bytes[0] {
            0 => Self::End,
            DELETED => Self::Free,
            _ if attributes == LONG_NAME => Self::LongName(bytes),
            _ if attributes & VOLUME != 0 => Self::Label(&bytes[..11]),
            _ if name::is_dots(&bytes[..11]) => Self::Dots,
            _ => Self::File(Entry::parse(bytes, width)),
        }
    }
}

impl Entry {
    fn parse(bytes: &[u8], width: Width) -> Self {
        let mut short_name = [0; 11];
        short_name.copy_from_slice(&bytes[..11]);
        let (created_date, created_time) = (le16(bytes, 16), le16(bytes, 14));
        Self {
            short_name,
            case_flags: bytes[12],
            is_directory: bytes[11] & DIRECTORY != 0,
            is_read_only: bytes[11] & READ_ONLY != 0,
            cluster: first_cluster(bytes, width),
            size: le32(bytes, 28),
            modified: time::timestamp(le16(bytes, 24), le16(bytes, 22), 0),
            accessed: time::timestamp(le16(bytes, 18), 0, 0),
            created: (created_date != 0).then(|| time::timestamp(created_date, created_time, bytes[13])),
        }
    }
}

/// Returns the first cluster that an entry of [`ENTRY_SIZE`] bytes names. The upper half means something else but in
/// FAT32.
pub fn first_cluster(bytes: &[u8], width: Width) -> u32 {
    let low = u32::from(le16(bytes, 26));
    if width == Width::Fat32 { ((u32::from(le16(bytes, 20)) << 16) | low) & 0x0fff_ffff } else { low }
}
