//! The filesystem's metadata as the structures above see it: forks by file block, inodes by number.

use super::bmap_tree::Tree;
use super::extent::{self, MAX_FILE_BLOCK, Mapping};
use super::inode::{Fork, Inode};
use super::remap::{self, Remap};
use super::store::{Kind, Store};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::fs::Ino;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Geometry and metadata of a filesystem.
pub struct Disk {
    /// The geometry, as it is after the log's replay.
    pub superblock: Superblock,
    /// The metadata blocks.
    pub store: Store,
    /// Inodes whose extent trees still name their former owner, because the log has them exchanged.
    pub exchanged: HashSet<Ino>,
    /// Changes of extents that the log promises, by inode.
    pub remaps: HashMap<Ino, Vec<Remap>>,
}

/// A fork of an inode.
#[derive(Clone, Copy)]
pub struct ForkOf<'a> {
    /// Whose it is.
    pub ino: Ino,
    /// The fork.
    pub fork: &'a Fork,
    /// Whether its extents lie on the real-time device.
    pub real_time: bool,
}

impl Disk {
    /// Reads an inode from its place. Whether it is in use is told by its mode alone.
    ///
    /// # Errors
    /// `ENOENT` for a number that no inode has or one that is not in use, [`Error::Corrupt`], and those of reading.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        let offset = self.superblock.inode_offset(ino).ok_or(Error::Errno(libc::ENOENT))?;
        let mut buf = [0; 2048];
        let bytes = &mut buf[..self.superblock.inode_size as usize];
        let logged = self.store.read(bytes, offset)?;
        let inode = Inode::parse(&self.superblock, ino, bytes, !logged)?;
        match self.remaps.get(&ino) {
            Some(changes) if !inode.real_time => self.remap(inode, changes),
            _ => Ok(inode),
        }
    }

    /// Does changes of extents that the log promises.
    fn remap(&self, mut inode: Inode, changes: &[Remap]) -> Result<Inode> {
        let ino = inode.attr.ino;
        let of = ForkOf { ino, fork: &inode.data, real_time: false };
        let mut extents = Vec::new();
        let mut at = 0;
        while at < MAX_FILE_BLOCK {
            let mapping = self.map(of, at)?;
            // Extents that overlap, or more of them than there are blocks, would make this go on for long.
            if extents.len() as u64 > self.superblock.data_blocks {
                return Err(Error::corrupt(
                    format!("inode {ino}"),
                    "it has more extents than the filesystem has blocks",
                ));
            }
            extents.extend(mapping.extent.filter(|extent| extent.file_block == at));
            at = mapping.end;
        }
        let mut blocks = 0_i64;
        for change in changes {
            blocks = blocks.saturating_add(remap::apply(&self.superblock, &mut extents, change)?);
        }
        let sectors = blocks.saturating_mul(i64::from(self.superblock.block_size / 512));
        inode.attr.blocks = inode.attr.blocks.saturating_add_signed(sectors);
        inode.data = Fork::Extents(extents.into());
        Ok(inode)
    }

    /// Finds what lies at a block of a fork. A fork that has no blocks is all hole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged extent tree, and those of reading.
    pub fn map(&self, of: ForkOf<'_>, block: u64) -> Result<Mapping> {
        if block >= MAX_FILE_BLOCK {
            return Ok(Mapping { end: u64::MAX, extent: None });
        }
        match of.fork {
            Fork::Extents(extents) => Ok(extent::find(block, extents.len(), MAX_FILE_BLOCK, |index| extents[index])),
            Fork::Tree(root) => {
                let tree = Tree {
                    store: &self.store,
                    superblock: &self.superblock,
                    ino: of.ino,
                    check_owner: !self.exchanged.contains(&of.ino),
                    real_time: of.real_time,
                };
                tree.find(root, block)
            }
            Fork::Device(_) | Fork::Local(_) => Ok(Mapping { end: MAX_FILE_BLOCK, extent: None }),
        }
    }

    /// Returns the pieces of the device, as offsets and lengths in bytes, that hold `count` blocks of a fork from `block`
    /// on. `None` when the first is a hole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there is a hole or unwritten space further on, and as [`map`](Self::map).
    pub fn pieces(&self, of: ForkOf<'_>, block: u64, count: u32) -> Result<Option<Vec<(u64, u32)>>> {
        let mut pieces: Vec<(u64, u32)> = Vec::with_capacity(1);
        let end = block.saturating_add(u64::from(count));
        let mut at = block;
        while at < end {
            let mapping = self.map(of, at)?;
            let Some(extent) = mapping.extent.filter(|extent| !extent.unwritten) else {
                if at == block && mapping.extent.is_none() {
                    return Ok(None);
                }
                return Err(Error::corrupt(format!("inode {}", of.ino), "a block of it lies partly in a hole"));
            };
            let blocks = mapping.end.min(end) - at;
            let first = extent.block + (at - extent.file_block);
            let offset = self
                .superblock
                .block_offset(first, blocks)
                .ok_or_else(|| Error::corrupt(format!("inode {}", of.ino), "an extent passes the filesystem's end"))?;
            let len = (blocks as u32) << self.superblock.block_log;
            match pieces.last_mut() {
                Some((last, size)) if *last + u64::from(*size) == offset => *size += len,
                _ => pieces.push((offset, len)),
            }
            at += blocks;
        }
        Ok(Some(pieces))
    }

    /// Returns the metadata block at a block of a fork, `len` bytes long. `None` when there is a hole.
    ///
    /// # Errors
    /// As [`pieces`](Self::pieces) and [`Store::block`].
    pub fn fork_block(&self, of: ForkOf<'_>, kind: Kind, block: u64, len: u32) -> Result<Option<Arc<[u8]>>> {
        match self.pieces(of, block, len >> self.superblock.block_log)? {
            Some(pieces) => self.store.scattered(kind, &pieces).map(Some),
            None => Ok(None),
        }
    }
}
