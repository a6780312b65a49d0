//! Directory blocks: entries one after another, each an inode number and a name.
//!
//! Little-endian. A block may end with a checksum that looks like an unused entry; the inner blocks of a hash tree look
//! like one unused entry too, so that a reader that knows only this module sees no names in them. Specified in the
//! kernel's `Documentation/filesystems/ext4/directory.rst`.

use super::checksum::crc32c;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};
use crate::fs::FileType;

/// The size of an entry without its name, in bytes.
pub(crate) const HEADER: usize = 8;
/// The size of the checksum at the end of a block, in bytes.
pub(crate) const TAIL: usize = 12;
/// The type of the entry that the checksum looks like.
pub(crate) const TAIL_TYPE: u8 = 0xde;
/// The longest name, in bytes.
pub(crate) const NAME_MAX: usize = 255;

/// An entry of a directory block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Where it begins in the block, in bytes.
    pub(crate) offset: usize,
    /// How long it is, in bytes: up to the next entry.
    pub(crate) len: usize,
    /// The inode; 0 for an unused entry.
    pub(crate) ino: u32,
    /// The type as the directory stores it; 0 when it does not.
    pub(crate) file_type: u8,
    /// The name.
    pub(crate) name: &'a [u8],
}

/// How entries of a filesystem are laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// The block size, in bytes.
    pub(crate) block_size: usize,
    /// Whether entries carry the type (`filetype`).
    pub(crate) has_types: bool,
    /// How many inodes there are.
    pub(crate) inodes_count: u32,
}

/// Decodes the length of an entry: 16 bits that stand for up to 64 KiB in steps of 4.
pub(crate) fn decode_len(raw: u16, block_size: usize) -> usize {
    let raw = usize::from(raw);
    if block_size < 1 << 16 {
        return raw;
    }
    if raw == 0xffff || raw == 0 { block_size } else { raw & 0xfffc | (raw & 3) << 16 }
}

/// Encodes the length of an entry.
pub(crate) fn encode_len(len: usize, block_size: usize) -> u16 {
    if block_size < 1 << 16 || len < 1 << 16 {
        len as u16
    } else if len == block_size {
        if block_size == 1 << 16 { 0xffff } else { 0 }
    } else {
        (len & 0xfffc | len >> 16 & 3) as u16
    }
}

/// Returns the type of file that an entry's type byte names.
pub(crate) fn decode_type(file_type: u8) -> Option<FileType> {
    Some(match file_type {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}

/// Returns the byte by which an entry names a type of file.
pub(crate) fn encode_type(file_type: FileType) -> u8 {
    match file_type {
        FileType::Regular => 1,
        FileType::Directory => 2,
        FileType::CharDevice => 3,
        FileType::BlockDevice => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
        FileType::Symlink => 7,
    }
}

/// Decodes the entry at `offset` of `block`, which is a directory block or a stretch of inline entries.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` for an entry that does not fit.
#[inline]
pub(crate) fn entry_at<'a>(layout: &Layout, dir: u32, block: &'a [u8], offset: usize) -> Result<Entry<'a>> {
    let damaged = |detail: &'static str| {
        Error::corrupt(format!("directory block of inode {dir}"), format!("the entry at byte {offset} {detail}"))
    };
    if block.len() - offset < HEADER {
        return Err(damaged("does not fit"));
    }
    let len = decode_len(le16(block, offset + 4), layout.block_size);
    let name_len = if layout.has_types { usize::from(block[offset + 6]) } else { usize::from(le16(block, offset + 6)) };
    let ino = le32(block, offset);
    if len < HEADER + 4 || !len.is_multiple_of(4) || len > block.len() - offset {
        return Err(damaged("has an impossible length"));
    }
    if name_len + HEADER > len || name_len > NAME_MAX {
        return Err(damaged("has a name longer than itself"));
    }
    if ino > layout.inodes_count {
        return Err(damaged("names an inode that does not exist"));
    }
    Ok(Entry {
        offset,
        len,
        ino,
        file_type: if layout.has_types { block[offset + 7] } else { 0 },
        name: &block[offset + HEADER..offset + HEADER + name_len],
    })
}

/// Says whether a name could be one component of a path.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.iter().any(|&byte| byte == 0 || byte == b'/')
}

/// Says whether a name is `.` or `..`.
#[inline]
pub(crate) fn is_dot(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// Returns the checksum of a directory block that ends with one.
pub(crate) fn checksum(inode_seed: u32, block: &[u8]) -> u32 {
    crc32c(inode_seed, &block[..block.len() - TAIL])
}

/// Says whether a directory block ends with what looks like a checksum.
pub(crate) fn has_tail(block: &[u8]) -> bool {
    let tail = &block[block.len() - TAIL..];
    le32(tail, 0) == 0 && le16(tail, 4) == TAIL as u16 && tail[6] == 0 && tail[7] == TAIL_TYPE
}

/// Checks the checksum of a directory block.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` and the block.
pub(crate) fn verify(inode_seed: u32, dir: u32, number: u64, block: &[u8]) -> Result<()> {
    let detail = if !has_tail(block) {
        "has no checksum"
    } else if checksum(inode_seed, block) != le32(block, block.len() - 4) {
        "has a wrong checksum"
    } else {
        return Ok(());
    };
    Err(Error::corrupt(format!("directory block {number} of inode {dir}"), detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_entries_survive_at_every_block_size() {
        for block_size in [1024, 4096, 32768, 65536] {
            for len in [12, 264, block_size - 12, block_size] {
                assert_eq!(decode_len(encode_len(len, block_size), block_size), len, "{len} of {block_size}");
            }
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_is_damage() {
        let layout = Layout { block_size: 1024, has_types: true, inodes_count: 100 };
        let mut block = vec![0; 1024];
        block[..12].copy_from_slice(&[12, 0, 0, 0, 0, 4, 3, 1, b'a', b'b', b'c', 0]);
        let entry = entry_at(&layout, 2, &block, 0).expect("sound");
        assert_eq!((entry.ino, entry.len, entry.name, entry.file_type), (12, 1024, &b"abc"[..], 1));
        for (at, value) in [(0, 101), (4, 8), (4, 14), (5, 8)] {
            let mut broken = block.clone();
            broken[at] = value;
            if at == 4 {
                broken[5] = 0;
            }
            entry_at(&layout, 2, &broken, 0).expect_err("damaged");
        }
        block[4..7].copy_from_slice(&[12, 0, 5]);
        entry_at(&layout, 2, &block, 0).expect_err("the name is longer than the entry");
        entry_at(&layout, 2, &block, 1020).expect_err("no room for a header");
    }
}
