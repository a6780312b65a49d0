//! An open filesystem's shared parts: its superblock, its metadata and the caches of what was decoded.

use super::dir::Layout;
use super::dir_names::DirNames;
use super::extent::{self, Node};
use super::features::incompat;
use super::group::GroupDescriptor;
use super::inode::{Inode, field};
use super::journal::fast_commit::FastCommits;
use super::meta::{Meta, MetaBytes};
use super::superblock::Superblock;
use crate::bytes::le16;
use crate::cache::{Cache, CachePool};
use crate::error::{Error, Result};
use parking_lot::RwLock;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many counters of changes there are; inodes share them by number.
const EPOCHS: usize = 256;

/// A filesystem whose structures can be read.
pub(crate) struct Volume {
    pub(crate) superblock: Superblock,
    pub(crate) meta: Meta,
    /// The block of the superblock copy whose group descriptors are used.
    base: u64,
    /// What fast commits changed.
    pub(crate) fast_commits: FastCommits,
    groups: Cache<u32, GroupDescriptor>,
    inodes: Cache<u32, Arc<Inode>>,
    nodes: Cache<(u32, u64), Arc<Node>>,
    /// How often inodes changed, so that what was decoded from older bytes is not kept.
    epochs: Vec<AtomicU64>,
    /// Inodes without names that are in use all the same.
    pub(crate) unnamed: RwLock<HashSet<u32>>,
    /// Where names of large directories lie, on a filesystem that does not change.
    pub(crate) dir_names: Option<Cache<u32, Arc<DirNames>>>,
}

impl Volume {
    /// Puts a filesystem together; `base` is the block of the superblock copy whose group descriptors are used.
    pub(crate) fn new(superblock: Superblock, meta: Meta, base: u64, pool: &Arc<CachePool>) -> Self {
        Self {
            superblock,
            meta,
            base,
            fast_commits: FastCommits::default(),
            groups: Cache::new(pool),
            inodes: Cache::new(pool),
            nodes: Cache::new(pool),
            epochs: (0..EPOCHS).map(|_| AtomicU64::new(0)).collect(),
            unnamed: RwLock::default(),
            dir_names: None,
        }
    }

    /// Returns the descriptor of a group.
    ///
    /// # Errors
    /// Those of [`GroupDescriptor::read`].
    pub(crate) fn group(&self, group: u32) -> Result<GroupDescriptor> {
        self.groups.get_or_insert(group, || {
            let descriptor = GroupDescriptor::read(&self.superblock, &self.meta, self.base, group)?;
            Ok((descriptor, size_of::<GroupDescriptor>()))
        })
    }

    /// Returns the block that holds an inode, and where in it, in bytes.
    ///
    /// # Errors
    /// `ENOENT` for a number that no inode has, and those of reading the group descriptor.
    pub(crate) fn inode_place(&self, ino: u32) -> Result<(u64, usize)> {
        if ino == 0 || ino > self.superblock.inodes_count {
            return Err(Error::Errno(libc::ENOENT));
        }
        let (group, index) =
            ((ino - 1) / self.superblock.inodes_per_group, (ino - 1) % self.superblock.inodes_per_group);
        let byte = u64::from(index) * u64::from(self.superblock.inode_size);
        let block_size = u64::from(self.superblock.block_size);
        Ok((self.group(group)?.inode_table + byte / block_size, (byte % block_size) as usize))
    }

    /// Returns the raw bytes of an inode, from the table.
    ///
    /// # Errors
    /// As [`inode_place`](Self::inode_place), and those of reading.
    pub(crate) fn raw_inode(&self, ino: u32) -> Result<(MetaBytes, std::ops::Range<usize>)> {
        let (block, from) = self.inode_place(ino)?;
        Ok((self.meta.block(block)?, from..from + self.superblock.inode_size as usize))
    }

    /// Returns an inode that is in use.
    ///
    /// # Errors
    /// `ENOENT` for one that is not, [`Error::Corrupt`] for a damaged one, and those of reading.
    pub(crate) fn inode(&self, ino: u32) -> Result<Arc<Inode>> {
        if let Some(inode) = self.inodes.get(&ino) {
            return Ok(inode);
        }
        let epoch = self.epoch(ino).load(Ordering::Acquire);
        let inode = match self.fast_commits.inode(ino) {
            Some(inode) => inode?,
            None => self.stored_inode(ino)?,
        };
        let memory = inode.memory();
        self.inodes.insert(ino, Arc::clone(&inode), memory);
        if self.epoch(ino).load(Ordering::Acquire) != epoch {
            self.inodes.remove(&ino);
        }
        Ok(inode)
    }

    fn epoch(&self, ino: u32) -> &AtomicU64 {
        &self.epochs[ino as usize % EPOCHS]
    }

    /// Puts a newer inode in the place of what was decoded before; its bytes were changed already.
    pub(crate) fn renew_inode(&self, inode: Arc<Inode>) {
        self.epoch(inode.ino).fetch_add(1, Ordering::AcqRel);
        let memory = inode.memory();
        self.inodes.insert(inode.ino, inode, memory);
    }

    /// Forgets the node of an inode's extent tree in a block, whose bytes were changed already.
    pub(crate) fn forget_node(&self, ino: u32, block: u64) {
        self.epoch(ino).fetch_add(1, Ordering::AcqRel);
        self.nodes.remove(&(ino, block));
    }

    /// Forgets a group's descriptor.
    pub(crate) fn forget_group(&self, group: u32) {
        self.groups.remove(&group);
    }

    /// Returns the block of the superblock copy whose group descriptors are used.
    pub(crate) fn descriptor_base(&self) -> u64 {
        self.base
    }

    /// Returns an inode as the table has it, whatever fast commits changed.
    ///
    /// # Errors
    /// As [`inode`](Self::inode).
    pub(crate) fn stored_inode(&self, ino: u32) -> Result<Arc<Inode>> {
        let (block, range) = self.raw_inode(ino)?;
        let raw = &block[range];
        if le16(raw, field::LINKS) == 0 && le16(raw, field::MODE) != 0 && self.unnamed.read().contains(&ino) {
            return Inode::parse_unnamed(&self.superblock, ino, raw).map(Arc::new);
        }
        Inode::parse(&self.superblock, ino, raw).map(Arc::new)
    }

    /// Returns an inode by the number that the traits use.
    ///
    /// # Errors
    /// As [`inode`](Self::inode).
    pub(crate) fn inode_of(&self, ino: u64) -> Result<Arc<Inode>> {
        self.inode(u32::try_from(ino).map_err(|_| Error::Errno(libc::ENOENT))?)
    }

    /// Returns the node of an extent tree in a block, which has `depth` levels below it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged one, and those of reading.
    pub(crate) fn extent_node(&self, inode: &Inode, block: u64, depth: u16) -> Result<Arc<Node>> {
        let epoch = self.epoch(inode.ino).load(Ordering::Acquire);
        let node = self.nodes.get_or_insert((inode.ino, block), || {
            self.check_block(block, "an extent tree", inode.ino)?;
            let bytes = self.meta.block(block)?;
            let seed = self.superblock.has_metadata_csum().then_some(inode.seed);
            let node = extent::parse_node(inode.ino, &bytes, Some(depth), seed, self.superblock.blocks_count)?;
            let memory = node.memory();
            Ok::<_, Error>((Arc::new(node), memory))
        })?;
        if self.epoch(inode.ino).load(Ordering::Acquire) != epoch {
            self.nodes.remove(&(inode.ino, block));
        }
        // The cached node may have been reached at another depth, by a tree that leads to one block twice.
        let found = match &*node {
            Node::Leaf(_) => 0,
            Node::Inner { depth, .. } => *depth,
        };
        if found != depth {
            return Err(Error::corrupt(format!("extent tree of inode {}", inode.ino), "it leads to a block twice"));
        }
        Ok(node)
    }

    /// Checks that a block number lies in the filesystem.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming what names it, and inode `ino`.
    pub(crate) fn check_block(&self, block: u64, what: &str, ino: u32) -> Result<()> {
        if block > u64::from(self.superblock.first_data_block) && block < self.superblock.blocks_count {
            return Ok(());
        }
        Err(Error::corrupt(format!("inode {ino}"), format!("{what} leads to block {block}, which does not exist")))
    }

    /// Returns how directory entries are laid out.
    pub(crate) fn layout(&self) -> Layout {
        Layout {
            block_size: self.superblock.block_size as usize,
            has_types: self.superblock.has_incompat(incompat::FILETYPE),
            inodes_count: self.superblock.inodes_count,
        }
    }

    /// Forgets what was decoded of an inode, whose bytes were changed already.
    pub(crate) fn forget_inode(&self, ino: u32) {
        self.epoch(ino).fetch_add(1, Ordering::AcqRel);
        self.inodes.remove(&ino);
    }
}
