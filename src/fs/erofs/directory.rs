//! Directories: blocks of entries that are sorted by their names, each with the names behind the entries.

use super::disk::Disk;
use super::inode::Inode;
use crate::bytes::{le16, le64};
use crate::error::{Error, Result};
use crate::fs::{DirEntry, FileType, Ino};
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// The size of an entry, in bytes.
const ENTRY: usize = 12;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 255;

/// How many bits of a cookie count the entries of a block.
const COOKIE_BITS: u32 = 16;

/// A directory.
pub struct Directory<'a> {
    disk: &'a Disk,
    inode: &'a Inode,
}

/// One entry.
struct Entry<'a> {
    name: &'a [u8],
    ino: Ino,
    file_type: Option<FileType>,
}

impl<'a> Directory<'a> {
    /// Takes an inode for a directory.
    ///
    /// # Errors
    /// `ENOTDIR`.
    pub fn new(disk: &'a Disk, inode: &'a Inode) -> Result<Self> {
        if inode.attr.is_dir() { Ok(Self { disk, inode }) } else { Err(Error::Errno(libc::ENOTDIR)) }
    }

    fn block_size(&self) -> u64 {
        1 << self.disk.superblock.dir_log
    }

    fn blocks(&self) -> u64 {
        self.inode.attr.size.div_ceil(self.block_size())
    }

    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let start = number * self.block_size();
        let len = (self.inode.attr.size - start).min(self.block_size());
        let mut bytes = vec![0; len as usize];
        self.disk.read(self.inode, start, &mut bytes, true)?;
        Ok(bytes)
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::corrupt(format!("directory {}", self.inode.attr.ino), what)
    }

    /// Returns how many entries a block has.
    fn count(&self, block: &[u8]) -> Result<usize> {
        let first = if block.len() < ENTRY { 0 } else { usize::from(le16(block, 8)) };
        if first < ENTRY || first >= block.len() || !first.is_multiple_of(ENTRY) {
            return Err(self.corrupt("the names of a block begin in the wrong place"));
        }
        Ok(first / ENTRY)
    }

    fn entry<'b>(&self, block: &'b [u8], number: usize, count: usize) -> Result<Entry<'b>> {
        let at = number * ENTRY;
        let start = usize::from(le16(block, at + 8));
        let is_last = number + 1 == count;
        let end = if is_last { block.len() } else { usize::from(le16(block, at + ENTRY + 8)) };
        let mut name = block.get(start..end).ok_or_else(|| self.corrupt("a name lies outside of its block"))?;
        if is_last {
            name = crate::bytes::until_nul(name);
        }
        if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|&byte| byte == 0 || byte == b'/') {
            return Err(self.corrupt("a name is empty, too long, or holds what no name may"));
        }
        let file_type = match block[at + 10] {
            1 => Some(FileType::Regular),
            2 => Some(FileType::Directory),
            3 => Some(FileType::CharDevice),
            4 => Some(FileType::BlockDevice),
            5 => Some(FileType::Fifo),
            6 => Some(FileType::Socket),
            7 => Some(FileType::Symlink),
            _ => None,
        };
        Ok(Entry { name, ino: le64(block, at), file_type })
    }

    /// Finds a name.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn find(&self, name: &[u8]) -> Result<Option<Ino>> {
        let (mut low, mut high) = (0, self.blocks());
        // The last block whose first name is not behind the one looked for.
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.block(middle)?;
            match self.entry(&block, 0, self.count(&block)?)?.name.cmp(name) {
                Ordering::Greater => high = middle,
                Ordering::Less | Ordering::Equal => low = middle + 1,
            }
        }
        let Some(number) = low.checked_sub(1) else { return Ok(None) };
        let block = self.block(number)?;
        let count = self.count(&block)?;
        for number in 0..count {
            let entry = self.entry(&block, number, count)?;
            if entry.name == name {
                return Ok(Some(entry.ino));
            }
        }
        Ok(None)
    }

    /// Shows the entries from a cookie on.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn list(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let (from, skip) = (cookie >> COOKIE_BITS, cookie & ((1 << COOKIE_BITS) - 1));
        for number in from..self.blocks() {
            let block = self.block(number)?;
            let count = self.count(&block)?;
            for place in (if number == from { skip as usize } else { 0 })..count {
                let entry = self.entry(&block, place, count)?;
                if matches!(entry.name, b"." | b"..") {
                    continue;
                }
                let next_cookie = number << COOKIE_BITS | (place as u64 + 1);
                let shown = DirEntry { name: entry.name, ino: entry.ino, file_type: entry.file_type, next_cookie };
                if visit(shown).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}
