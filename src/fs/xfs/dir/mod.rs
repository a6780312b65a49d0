//! Directories, in each of their forms.
//!
//! A small directory lies in its inode ([`short`]). A larger one has data blocks from the beginning of its data fork
//! ([`data`]), which hold the names in no order, and a hash index that begins 32 GiB into the fork. A directory of one data
//! block has its index in that block's tail.
//!
//! A place in a listing is a name's offset in the data blocks, divided by 8, as Linux has it; the short form keeps the
//! offsets that its names would have there.

pub mod data;
pub mod short;

use super::da::{Block, Index, Role};
use super::disk::{Disk, ForkOf};
use super::hash::{folded_hash, name_hash, same_folded};
use super::inode::{Fork, Inode};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::fs::{DirEntry, FileType, Ino};
use data::DataBlock;
use std::ops::ControlFlow;

/// Where the hash index begins in the data fork, in bytes.
const INDEX_START: u64 = 32 << 30;

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode it names.
    pub ino: Ino,
    /// The type's code; 0 when it is not told.
    pub type_code: u8,
    /// Its offset in the data blocks, divided by 8.
    pub place: u64,
}

/// Returns the type that a code in a directory entry names.
fn file_type(code: u8) -> Option<FileType> {
    Some(match code {
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

/// A directory that is read.
#[derive(Clone, Copy)]
pub struct Directory<'a> {
    disk: &'a Disk,
    inode: &'a Inode,
}

impl<'a> Directory<'a> {
    /// Takes an inode as a directory.
    ///
    /// # Errors
    /// `ENOTDIR` when it is none.
    pub fn new(disk: &'a Disk, inode: &'a Inode) -> Result<Self> {
        if !inode.attr.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        Ok(Self { disk, inode })
    }

    fn corrupt(&self, detail: &'static str) -> Error {
        Error::corrupt(format!("directory {}", self.inode.attr.ino), detail)
    }

    fn superblock(&self) -> &'a Superblock {
        &self.disk.superblock
    }

    fn fork(&self) -> ForkOf<'a> {
        ForkOf { ino: self.inode.attr.ino, fork: &self.inode.data, real_time: false }
    }

    /// Checks a name and the inode it leads to.
    fn check(&self, entry: &Entry<'_>) -> Result<()> {
        if entry.name.is_empty() || entry.name.iter().any(|&byte| byte == 0 || byte == b'/') {
            return Err(self.corrupt("a name is empty, or has a slash or NUL"));
        }
        if self.superblock().inode_offset(entry.ino).is_none() {
            return Err(self.corrupt("a name leads to an inode that cannot be"));
        }
        Ok(())
    }

    /// Shows the entries from `cookie` on until `visit` breaks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub fn list(&self, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        let mut show = |entry: Entry<'_>| -> Result<ControlFlow<()>> {
            if entry.place < cookie || entry.name == b"." || entry.name == b".." {
                return Ok(ControlFlow::Continue(()));
            }
            self.check(&entry)?;
            Ok(visit(DirEntry {
                name: entry.name,
                ino: entry.ino,
                file_type: file_type(entry.type_code),
                next_cookie: entry.place + 1,
            }))
        };
        if let Fork::Local(bytes) = &self.inode.data {
            for entry in short::parse(bytes, self.superblock().file_types).ok_or_else(|| self.damaged())?.entries {
                if show(entry?)?.is_break() {
                    break;
                }
            }
            return Ok(());
        }
        let step = u64::from(self.superblock().dir_block_size);
        let mut at = cookie.saturating_mul(8) / step * step;
        let mut left = self.superblock().data_blocks;
        while at < INDEX_START {
            let Some(next) = self.next_data_block(at)? else { break };
            if left == 0 {
                return Err(self.corrupt("it has more blocks than the filesystem"));
            }
            left -= 1;
            let Some(block) = self.data_block(next)? else { break };
            for entry in block.entries() {
                if show(entry.ok_or_else(|| self.damaged())?)?.is_break() {
                    return Ok(());
                }
            }
            at = next + step;
        }
        Ok(())
    }

    fn damaged(&self) -> Error {
        self.corrupt("an entry is damaged")
    }

    /// Returns where the first data block from `at` on begins, in bytes, that has space.
    fn next_data_block(&self, at: u64) -> Result<Option<u64>> {
        let log = self.superblock().block_log;
        let mapping = self.disk.map(self.fork(), at >> log)?;
        if mapping.extent.is_some() {
            return Ok(Some(at));
        }
        let step = u64::from(self.superblock().dir_block_size);
        let next = mapping.end.min(INDEX_START >> log) << log;
        // A hole that ends within a directory block leaves a damaged one, which reading it then tells.
        let next = (next / step * step).max(at + step);
        if next >= INDEX_START {
            return Ok(None);
        }
        if self.disk.map(self.fork(), next >> log)?.extent.is_none() {
            return Err(self.corrupt("a block of it lies partly in a hole"));
        }
        Ok(Some(next))
    }

    /// Reads the data block that begins at `start` bytes; `None` when there is a hole.
    fn data_block(&self, start: u64) -> Result<Option<DataBlock>> {
        let superblock = self.superblock();
        let size = superblock.dir_block_size;
        let kind = super::store::Kind::DirData;
        let Some(bytes) = self.disk.fork_block(self.fork(), kind, start >> superblock.block_log, size)? else {
            return Ok(None);
        };
        let owner = superblock.v5.then_some(self.inode.attr.ino);
        DataBlock::new(bytes, start, owner, superblock.file_types).map(Some).map_err(|detail| self.corrupt(detail))
    }

    /// Finds a name; returns the inode it names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub fn find(&self, name: &[u8]) -> Result<Option<Ino>> {
        let mut search = Search { directory: self, name, folded: None };
        let found = match &self.inode.data {
            Fork::Local(bytes) => {
                for entry in short::parse(bytes, self.superblock().file_types).ok_or_else(|| self.damaged())?.entries {
                    if let Some(ino) = search.take(&entry?)? {
                        return Ok(Some(ino));
                    }
                }
                None
            }
            _ => self.find_by_hash(&mut search)?,
        };
        Ok(found.or(search.folded))
    }

    fn find_by_hash(&self, search: &mut Search<'_, '_>) -> Result<Option<Ino>> {
        let superblock = self.superblock();
        let hash = if superblock.ascii_ci { folded_hash(search.name) } else { name_hash(search.name) };
        let first = self.data_block(0)?.ok_or_else(|| self.corrupt("it has no first block"))?;
        if let Some(addresses) = first.find(hash) {
            for address in addresses {
                let entry = first.entry_at(address).ok_or_else(|| self.damaged())?;
                if let Some(ino) = search.take(&entry)? {
                    return Ok(Some(ino));
                }
            }
            return Ok(None);
        }
        let index = Index {
            disk: self.disk,
            of: self.fork(),
            block_size: superblock.dir_block_size,
            root: (INDEX_START >> superblock.block_log) as u32,
        };
        let mut held: Option<DataBlock> = None;
        index.find(hash, |leaf: &Block, at| {
            if leaf.role == Role::AttrLeaf {
                return Err(self.corrupt("its index has leaves of another kind"));
            }
            let address = u64::from(leaf.value(at)) * 8;
            // A removed name's entry.
            if address == 0 {
                return Ok(None);
            }
            let step = u64::from(superblock.dir_block_size);
            let start = address / step * step;
            if held.as_ref().is_none_or(|block| block.start() != start) {
                held = self.data_block(start)?;
            }
            let block = held.as_ref().ok_or_else(|| self.corrupt("its index leads into a hole"))?;
            let entry = block.entry_at(address).ok_or_else(|| self.damaged())?;
            search.take(&entry)
        })
    }

    /// Returns the inode number of its parent.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub fn parent(&self) -> Result<Ino> {
        let parent = match &self.inode.data {
            Fork::Local(bytes) => {
                short::parse(bytes, self.superblock().file_types).ok_or_else(|| self.damaged())?.parent
            }
            _ => self.find(b"..")?.ok_or_else(|| self.corrupt("it has no parent"))?,
        };
        if self.superblock().inode_offset(parent).is_none() {
            return Err(self.corrupt("its parent is an inode that cannot be"));
        }
        Ok(parent)
    }
}

/// A name that is looked for, and what was found but for the case of letters.
struct Search<'a, 'b> {
    directory: &'a Directory<'b>,
    name: &'a [u8],
    folded: Option<Ino>,
}

impl Search<'_, '_> {
    /// Compares an entry; returns its inode when the name is the one looked for.
    fn take(&mut self, entry: &Entry<'_>) -> Result<Option<Ino>> {
        if entry.name == self.name {
            self.directory.check(entry)?;
            return Ok(Some(entry.ino));
        }
        if self.directory.superblock().ascii_ci && self.folded.is_none() && same_folded(entry.name, self.name) {
            self.directory.check(entry)?;
            self.folded = Some(entry.ino);
        }
        Ok(None)
    }
}
