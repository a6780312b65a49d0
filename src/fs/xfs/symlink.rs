//! The text of a symbolic link: in its inode, or in blocks of their own with, on version 5, a header before each extent.
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Symbolic Links".

use super::disk::{Disk, ForkOf};
use super::inode::{Fork, Inode};
use super::store::Kind;
use crate::bytes::{be32, be64};
use crate::error::{Error, Result};

/// The longest text, in bytes.
const MAX_LEN: u64 = 1024;
/// `XSLM`.
const MAGIC: u32 = 0x5853_4c4d;
/// The size of the header, in bytes.
const HEADER: usize = 56;

/// Reads the text of a symbolic link.
///
/// # Errors
/// `EINVAL` when it is none, [`Error::Corrupt`], and those of reading.
pub fn read(disk: &Disk, inode: &Inode) -> Result<Vec<u8>> {
    let ino = inode.attr.ino;
    let corrupt = |detail: &'static str| Error::corrupt(format!("symbolic link {ino}"), detail);
    if inode.attr.file_type != crate::fs::FileType::Symlink {
        return Err(Error::Errno(libc::EINVAL));
    }
    if let Fork::Local(bytes) = &inode.data {
        return Ok(bytes.to_vec());
    }
    if inode.attr.size == 0 || inode.attr.size > MAX_LEN {
        return Err(corrupt("its length is impossible"));
    }
    let len = inode.attr.size as usize;
    let superblock = &disk.superblock;
    let of = ForkOf { ino, fork: &inode.data, real_time: false };
    let mut text = Vec::with_capacity(len);
    let mut block = 0;
    while text.len() < len {
        let mapping = disk.map(of, block)?;
        // No text needs more blocks than these, headers and all.
        let most = (MAX_LEN * 2).div_ceil(u64::from(superblock.block_size)) + 1;
        let count = (mapping.end - block).min(most);
        let bytes = disk
            .fork_block(of, Kind::Symlink, block, (count as u32) << superblock.block_log)?
            .ok_or_else(|| corrupt("a part of it lies in a hole"))?;
        let mut part = &bytes[..];
        if superblock.v5 {
            let right = be32(part, 0) == MAGIC && be64(part, 32) == ino && be32(part, 4) as usize == text.len();
            let held = be32(part, 8) as usize;
            if !right || held == 0 || held > part.len() - HEADER {
                return Err(corrupt("the header of a part is wrong"));
            }
            part = &part[HEADER..HEADER + held];
        }
        text.extend_from_slice(&part[..part.len().min(len - text.len())]);
        block += count;
    }
    Ok(text)
}
