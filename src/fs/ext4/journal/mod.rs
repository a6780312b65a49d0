//! The journal (JBD2), replayed into memory: what it holds is laid over the device, which is never written.
//!
//! The format is specified in the kernel's `Documentation/filesystems/ext4/journal.rst`; the rules of replaying are those
//! of its `fs/jbd2/recovery.c`. [`replay`] reads whole transactions, [`fast_commit`] the small changes after the last one.

pub(crate) mod block;
pub(crate) mod descriptor;
pub(crate) mod fast_commit;
pub(crate) mod replay;
pub(crate) mod superblock;

use super::data::is_plain_file;
use super::mapping::Place;
use super::meta::MetaBytes;
use super::volume::Volume;
use crate::error::{Error, Result};
use superblock::JournalSuperblock;

/// `h_magic`, big-endian, at the beginning of every block of the journal's own.
pub(crate) const MAGIC: u32 = 0xc03b_3998;

/// A journal in an inode of the filesystem.
pub(crate) struct Journal {
    /// Its superblock.
    pub(crate) superblock: JournalSuperblock,
    /// Its blocks on the device: the first block of the journal in each run, the block of the device, and the length.
    runs: Vec<(u64, u64, u64)>,
}

impl Journal {
    /// Opens the journal in inode `ino`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for one that cannot be, [`Error::Unsupported`] for a feature that is not known; those of reading.
    pub(crate) fn open(volume: &Volume, ino: u32) -> Result<Self> {
        let damaged = |detail: &'static str| Error::corrupt(format!("journal in inode {ino}"), detail);
        let inode = match volume.inode(ino) {
            Ok(inode) => inode,
            Err(error) if error.is_errno(libc::ENOENT) => return Err(damaged("the inode is not in use")),
            Err(error) => return Err(error),
        };
        if !is_plain_file(&inode) {
            return Err(damaged("the inode is no plain file"));
        }
        let blocks = (inode.size >> volume.superblock.block_bits()).min(u64::from(u32::MAX));
        let mut runs = Vec::new();
        let mut at = 0;
        while at < blocks {
            let stretch = volume.stretch(&inode, at)?;
            let Place::Block(block) = stretch.place else { return Err(damaged("it has a hole")) };
            let len = stretch.end.min(blocks) - at;
            runs.push((at, block, len));
            at += len;
        }
        let Some(&(_, first, _)) = runs.first() else { return Err(damaged("it is empty")) };
        let superblock = JournalSuperblock::parse(&volume.meta.block(first)?, blocks)?;
        Ok(Self { superblock, runs })
    }

    /// Returns where a block of the journal lies on the device.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a block that the journal has not.
    pub(crate) fn place(&self, block: u32) -> Result<u64> {
        let block = u64::from(block);
        let after = self.runs.partition_point(|(start, ..)| *start <= block);
        after
            .checked_sub(1)
            .map(|at| self.runs[at])
            .filter(|(start, _, len)| block < start + len)
            .map(|(start, physical, _)| physical + (block - start))
            .ok_or_else(|| Error::corrupt("journal", format!("it has no block {block}")))
    }

    /// Returns the runs of the device's blocks that the journal lies in, in its order: first block and length.
    pub(crate) fn places(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|&(_, physical, len)| (physical, len))
    }

    /// Reads a block of the journal.
    ///
    /// # Errors
    /// As [`place`](Self::place), and those of reading.
    pub(crate) fn block(&self, volume: &Volume, block: u32) -> Result<MetaBytes> {
        volume.meta.block(self.place(block)?)
    }
}
