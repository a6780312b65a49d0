//! Where the bytes of inodes and files lie.

use super::compressed::Clusters;
use super::inode::{COMPACT, EXTENDED, Inode, Layout, SLOT};
use super::superblock::Superblock;
use crate::block::RunCache;
use crate::bytes::{le16, le32};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fs::Ino;
use std::sync::Arc;

/// The most chunks that are looked at for one mapping.
const MAX_CHUNKS: u64 = 512;

/// What a chunk's address is where it is a hole.
const HOLE: u32 = u32::MAX;

/// A device with an EROFS filesystem.
pub struct Disk {
    /// The superblock.
    pub superblock: Superblock,
    /// The device, and what of its metadata is kept in mind.
    pub runs: RunCache,
    /// Extents of compressed files, by the inode and where they begin in it.
    pub extents: Cache<(Ino, u64), Arc<[u8]>>,
}

/// What a stretch of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it lies on the device, in bytes; none for a hole.
    pub at: Option<u64>,
    /// Where it ends in the file, in bytes.
    pub end: u64,
}

/// Returns the error of something that lies outside of the device.
fn outside(ino: Ino) -> Error {
    Error::corrupt(format!("inode {ino}"), "what belongs to it lies past the end")
}

impl Disk {
    /// Reads an inode.
    ///
    /// # Errors
    /// `ENOENT` for a number whose inode would lie past the end, [`Error::Corrupt`], and those of reading.
    pub fn inode(&self, ino: Ino) -> Result<Inode> {
        let size = self.runs.device().size();
        let at = ino.checked_mul(SLOT).and_then(|at| at.checked_add(self.superblock.meta_start));
        let at = at.filter(|at| at.checked_add(COMPACT as u64).is_some_and(|end| end <= size));
        let at = at.ok_or(Error::Errno(libc::ENOENT))?;
        let mut bytes = [0; COMPACT];
        self.runs.read_at(&mut bytes, at)?;
        if Inode::len(&bytes) == COMPACT {
            return Inode::parse(&self.superblock, ino, at, &bytes);
        }
        let mut whole = [0; EXTENDED];
        self.metadata(ino, &mut whole, at)?;
        Inode::parse(&self.superblock, ino, at, &whole)
    }

    /// Reads what belongs to an inode and is kept in mind.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it lies past the end, and those of reading.
    pub fn metadata(&self, ino: Ino, buf: &mut [u8], at: u64) -> Result<()> {
        self.check(ino, at, buf.len() as u64)?;
        self.runs.read_at(buf, at)
    }

    fn check(&self, ino: Ino, at: u64, len: u64) -> Result<()> {
        let end = at.checked_add(len).filter(|&end| end <= self.runs.device().size());
        end.map(drop).ok_or_else(|| outside(ino))
    }

    /// Reads what belongs to an inode and is not kept in mind.
    ///
    /// # Errors
    /// As [`metadata`](Self::metadata).
    pub fn raw(&self, ino: Ino, buf: &mut [u8], at: u64) -> Result<()> {
        self.check(ino, at, buf.len() as u64)?;
        self.runs.device().read_at(buf, at)
    }

    fn read_compressed(&self, inode: &Inode, offset: u64, buf: &mut [u8], compact: bool) -> Result<()> {
        let clusters = Clusters::new(self, inode, compact)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let extent = clusters.extent(at)?;
            let bytes = self.extents.get_or_insert((inode.attr.ino, extent.start), || {
                let bytes: Arc<[u8]> = clusters.read(&extent)?.into();
                let len = bytes.len();
                Ok::<_, Error>((bytes, len))
            })?;
            let rest = &bytes[(at - extent.start) as usize..];
            let count = rest.len().min(buf.len() - done);
            buf[done..done + count].copy_from_slice(&rest[..count]);
            done += count;
        }
        Ok(())
    }

    /// Finds the stretch of a file that an offset lies in; there is nothing at and past its end.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for files that lie on another device, `EOPNOTSUPP` for those that are
    /// compressed, and those of reading.
    pub fn map(&self, inode: &Inode, offset: u64) -> Result<Mapping> {
        let (size, ino) = (inode.attr.size, inode.attr.ino);
        let log = self.superblock.block_log;
        if offset >= size {
            return Ok(Mapping { at: None, end: size });
        }
        let within = |block: u32, end: u64| {
            let at = (u64::from(block) << log).checked_add(offset).ok_or_else(|| outside(ino))?;
            Ok(Mapping { at: Some(at), end })
        };
        match inode.layout {
            Layout::Plain { block } => within(block, size),
            Layout::Inline { block } => {
                let whole = (size.div_ceil(1 << log).saturating_sub(1)) << log;
                if offset < whole {
                    return within(block, whole);
                }
                let tail = inode.tail();
                if (tail & ((1 << log) - 1)) + (size - whole) > 1 << log {
                    return Err(Error::corrupt(format!("inode {ino}"), "the end of its data crosses a block"));
                }
                Ok(Mapping { at: Some(tail + (offset - whole)), end: size })
            }
            Layout::Chunks { log, indexes } => self.map_chunks(inode, offset, log, indexes),
            // It lies nowhere as it is.
            Layout::Compressed { .. } => Err(Error::Errno(libc::EOPNOTSUPP)),
        }
    }

    fn map_chunks(&self, inode: &Inode, offset: u64, log: u32, indexes: bool) -> Result<Mapping> {
        let (size, ino) = (inode.attr.size, inode.attr.ino);
        let first = offset >> log;
        let start = self.chunk(inode, first, indexes)?;
        let in_blocks = 1_u64 << (log - self.superblock.block_log);
        let count = ((size - 1) >> log) + 1;
        let mut next = first + 1;
        // Chunks that follow each other on the device are one stretch, and so are holes.
        while next < count && next - first < MAX_CHUNKS {
            let follows = match (start, self.chunk(inode, next, indexes)?) {
                (Some(start), Some(other)) => u64::from(start) + in_blocks * (next - first) == u64::from(other),
                (None, None) => true,
                _ => false,
            };
            if !follows {
                break;
            }
            next += 1;
        }
        let end = if next >= count { size } else { next << log };
        let at = |block: u32| {
            let start = u64::from(block) << self.superblock.block_log;
            start.checked_add(offset - (first << log)).ok_or_else(|| outside(ino))
        };
        Ok(Mapping { at: start.map(at).transpose()?, end })
    }

    /// Returns the block that a chunk begins at; none for a hole.
    fn chunk(&self, inode: &Inode, number: u64, indexes: bool) -> Result<Option<u32>> {
        let ino = inode.attr.ino;
        let unit = if indexes { 8 } else { 4 };
        let at = number.checked_mul(unit).and_then(|at| at.checked_add(inode.tail().next_multiple_of(unit)));
        let mut entry = [0; 8];
        self.metadata(ino, &mut entry[8 - unit as usize..], at.ok_or_else(|| outside(ino))?)?;
        let block = le32(&entry, 4);
        let mask = (usize::from(self.superblock.extra_devices) + 1).next_power_of_two() - 1;
        if indexes && block != HOLE && usize::from(le16(&entry, 2)) & mask != 0 {
            return Err(Error::unsupported(format!(
                "files of EROFS whose data lies on a further device (inode {ino})"
            )));
        }
        Ok(Some(block).filter(|&block| block != HOLE))
    }

    /// Fills `buf` from `offset` of a file, all of which lies before its end. With `keep` what is read is kept in mind.
    ///
    /// # Errors
    /// As [`map`](Self::map).
    pub fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8], keep: bool) -> Result<()> {
        if let Layout::Compressed { compact } = inode.layout {
            return self.read_compressed(inode, offset, buf, compact);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let mapping = self.map(inode, at)?;
            let count = (mapping.end - at).min((buf.len() - done) as u64) as usize;
            let part = &mut buf[done..done + count];
            match mapping.at {
                None => part.fill(0),
                Some(from) if keep => self.metadata(inode.attr.ino, part, from)?,
                Some(from) => self.raw(inode.attr.ino, part, from)?,
            }
            done += count;
        }
        Ok(())
    }
}
