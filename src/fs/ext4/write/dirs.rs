//! A directory within an operation: its names changed, in blocks or in the inode.

use super::super::dir as reader_dir;
use super::super::dir_htree;
use super::super::features::incompat;
use super::super::inode::{BLOCK_AREA, Inode, flag};
use super::super::mapping::Place;
use super::super::meta::MetaBytes;
use super::alloc::Run;
use super::core::Core;
use super::dir::inline::InlineDir;
use super::dir::{self, DirBlocks, DirFormat};
use super::edit::InodeEdit;
use super::op::Op;
use super::xattr_edit;
use super::{inline, mapping};
use crate::error::{Error, Result};
use crate::fs::FileType;
use std::sync::Arc;

/// A directory whose lock is held.
#[derive(Clone)]
pub(super) struct Dir {
    pub(super) inode: Arc<Inode>,
    pub(super) edit: InodeEdit,
}

/// The blocks of a directory within an operation.
struct Blocks<'o, 'a> {
    op: &'o mut Op<'a>,
    inode: &'o Inode,
    edit: &'o mut InodeEdit,
    /// Blocks that the operation has changed, which need no check, and where they lie.
    changed: Vec<(u32, u64)>,
}

impl Blocks<'_, '_> {
    fn place(&self, number: u32) -> Result<u64> {
        if let Some(&(_, block)) = self.changed.iter().find(|&&(changed, _)| changed == number) {
            return Ok(block);
        }
        match self.op.core.volume.stretch(self.inode, u64::from(number))?.place {
            Place::Block(block) => Ok(block),
            _ => Err(Error::corrupt(format!("directory {}", self.inode.ino), format!("its block {number} is a hole"))),
        }
    }
}

impl DirBlocks for Blocks<'_, '_> {
    fn count(&self) -> u32 {
        let superblock = &self.op.core.volume.superblock;
        (self.edit.size(superblock) / u64::from(superblock.block_size)).min(u64::from(u32::MAX)) as u32
    }

    fn read(&self, number: u32) -> Result<MetaBytes> {
        let block = self.place(number)?;
        let bytes = self.op.read(block)?;
        let is_checked = self.changed.iter().any(|&(changed, _)| changed == number);
        if !is_checked && self.op.core.volume.superblock.has_metadata_csum() {
            let (seed, ino) = (self.inode.seed, self.inode.ino);
            if self.op.core.volume.is_indexed(self.inode) && dir_htree::is_node(u64::from(number), &bytes) {
                dir_htree::verify(seed, ino, u64::from(number), &bytes)?;
            } else {
                reader_dir::verify(seed, ino, u64::from(number), &bytes)?;
            }
        }
        Ok(MetaBytes::from(bytes))
    }

    fn modify(&mut self, number: u32, change: &mut dyn FnMut(&mut [u8])) -> Result<()> {
        let block = self.place(number)?;
        self.op.modify(block, change)?;
        if !self.changed.iter().any(|&(changed, _)| changed == number) {
            self.changed.push((number, block));
        }
        Ok(())
    }

    fn append(&mut self) -> Result<u32> {
        let number = self.count();
        let goal = match number.checked_sub(1) {
            Some(last) => self.place(last)? + 1,
            None => self.op.core.alloc.goal_of_inode(self.inode.ino),
        };
        // But for the first block of a cluster, there is room after the last one.
        let is_first = number.is_multiple_of(1 << self.op.core.volume.superblock.cluster_bits);
        let block = if is_first { self.op.claim(goal)? } else { goal };
        self.op.create(block, |_| ())?;
        mapping::insert(self.op, self.edit, u64::from(number), Run { start: block, len: 1 }, false)?;
        let block_size = u64::from(self.op.core.volume.superblock.block_size);
        self.edit.set_size((u64::from(number) + 1) * block_size);
        self.changed.push((number, block));
        Ok(number)
    }
}

impl Dir {
    /// Begins with a directory as it is.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENOENT` for one that was removed, and those of reading.
    pub(super) fn load(core: &Core, ino: u32) -> Result<Self> {
        let (inode, edit) = core.edit(ino)?;
        if !inode.is_dir() {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        Ok(Self { inode, edit })
    }

    pub(super) fn ino(&self) -> u32 {
        self.inode.ino
    }

    fn format(&self, core: &Core) -> Result<DirFormat> {
        DirFormat::new(&core.volume, &self.inode)
    }

    fn with_blocks<T>(
        &mut self,
        op: &mut Op<'_>,
        work: impl FnOnce(&mut Blocks<'_, '_>, &mut DirFormat) -> Result<T>,
    ) -> Result<T> {
        let mut format = self.format(op.core)?;
        op.gate(self.inode.ino);
        let mut blocks = Blocks { op, inode: &self.inode, edit: &mut self.edit, changed: Vec::new() };
        let result = work(&mut blocks, &mut format)?;
        let flags = self.edit.flags() & !flag::INDEX;
        self.edit.set_flags(if format.indexed { flags | flag::INDEX } else { flags });
        // What the directory is by now is what later changes of the same operation begin with.
        self.inode = Arc::new(self.edit.decode(&op.core.volume.superblock)?);
        Ok(result)
    }

    fn inline(&self) -> Result<InlineDir> {
        let mut block = [0; BLOCK_AREA];
        block.copy_from_slice(self.edit.block_area());
        Ok(InlineDir { block, rest: super::super::data::inline_rest(&self.inode)?.to_vec() })
    }

    fn put_inline(&mut self, op: &mut Op<'_>, dir: &InlineDir) -> Result<()> {
        op.gate(self.inode.ino);
        self.edit.block_area_mut().copy_from_slice(&dir.block);
        inline::begin(op, &mut self.edit, &dir.rest)?;
        self.edit.set_size(dir.size());
        self.inode = Arc::new(self.edit.decode(&op.core.volume.superblock)?);
        Ok(())
    }

    /// Puts a name in, which is not there yet.
    ///
    /// # Errors
    /// `ENOSPC`, [`Error::Corrupt`] for a damaged directory, and those of the store.
    pub(super) fn insert(&mut self, op: &mut Op<'_>, name: &[u8], ino: u32, file_type: FileType) -> Result<()> {
        if self.inode.is_inline() {
            let format = self.format(op.core)?;
            let mut dir = self.inline()?;
            let limit = xattr_edit::inline_room(self.ino(), self.edit.tail())?.unwrap_or(0);
            if dir.insert(&format, name, ino, file_type, limit)? {
                return self.put_inline(op, &dir);
            }
            self.move_out(op, &self.inline()?)?;
        }
        self.with_blocks(op, |blocks, format| dir::insert(blocks, format, name, ino, file_type))
    }

    /// Moves the names of an inline directory to a block.
    fn move_out(&mut self, op: &mut Op<'_>, dir: &InlineDir) -> Result<()> {
        let mut format = self.format(op.core)?;
        let bytes = dir.to_block(&mut format)?;
        op.gate(self.ino());
        inline::empty(op, &mut self.edit)?;
        self.put_first_block(op, &bytes)
    }

    fn put_first_block(&mut self, op: &mut Op<'_>, bytes: &[u8]) -> Result<()> {
        let block = op.claim(op.core.alloc.goal_of_inode(self.edit.ino))?;
        op.create(block, |now| now.copy_from_slice(bytes))?;
        mapping::insert(op, &mut self.edit, 0, Run { start: block, len: 1 }, false)?;
        self.edit.set_size(bytes.len() as u64);
        self.inode = Arc::new(self.edit.decode(&op.core.volume.superblock)?);
        Ok(())
    }

    /// Makes a new directory, which `edit` begins, in its inode where that may be, else with a first block.
    ///
    /// # Errors
    /// `ENOSPC`, and those of the store.
    pub(super) fn init(op: &mut Op<'_>, edit: InodeEdit, parent: u32) -> Result<Self> {
        let superblock = &op.core.volume.superblock;
        let inode = Arc::new(edit.decode(superblock)?);
        let mut made = Self { inode, edit };
        let may_be_inline = superblock.has_incompat(incompat::INLINE_DATA) && !made.edit.has_flag(flag::CASEFOLD);
        if may_be_inline && xattr_edit::inline_room(made.ino(), made.edit.tail())?.is_some() {
            let dir = InlineDir::new(&op.core.volume.layout(), parent);
            made.put_inline(op, &dir)?;
            return Ok(made);
        }
        let mut format = made.format(op.core)?;
        let mut bytes = vec![0; superblock.block_size as usize];
        dir::init(&mut format, &mut bytes, parent);
        made.put_first_block(op, &bytes)?;
        Ok(made)
    }

    /// Takes a name away.
    ///
    /// # Errors
    /// `ENOENT`, [`Error::Corrupt`] for a damaged directory, and those of the store.
    pub(super) fn remove(&mut self, op: &mut Op<'_>, name: &[u8]) -> Result<u32> {
        if self.inode.is_inline() {
            let mut dir = self.inline()?;
            let ino = dir.remove(&self.format(op.core)?, name)?;
            self.put_inline(op, &dir)?;
            return Ok(ino);
        }
        self.with_blocks(op, |blocks, format| dir::remove(blocks, format, name))
    }

    /// Makes a name, which may be `..`, lead to another inode.
    ///
    /// # Errors
    /// As [`remove`](Self::remove).
    pub(super) fn replace(&mut self, op: &mut Op<'_>, name: &[u8], ino: u32, file_type: FileType) -> Result<u32> {
        if self.inode.is_inline() {
            let mut dir = self.inline()?;
            let old = dir.replace(&self.format(op.core)?, name, ino, file_type)?;
            self.put_inline(op, &dir)?;
            return Ok(old);
        }
        self.with_blocks(op, |blocks, format| dir::replace(blocks, format, name, ino, file_type))
    }

    /// Says whether it holds no names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub(super) fn is_empty(&mut self, op: &mut Op<'_>) -> Result<bool> {
        if self.inode.is_inline() {
            return self.inline()?.is_empty(&self.format(op.core)?);
        }
        let format = self.format(op.core)?;
        let blocks = Blocks { op, inode: &self.inode, edit: &mut self.edit, changed: Vec::new() };
        dir::is_empty(&blocks, &format)
    }
}
