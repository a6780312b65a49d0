//! Thin pools: volumes whose blocks are mapped by a tree for each, and shared between snapshots.
//!
//! The metadata begin with a superblock; it leads to a tree from a volume's number to the root of another, from the volume's
//! blocks to those of the data, with a time in the low 24 bits. Specified by `drivers/md/dm-thin-metadata.c` of Linux.

use super::btree::Blocks;
use crate::block::{BlockDevice, Extent, ExtentKind, SharedDevice, check_range, read_padded};
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};
use std::sync::Arc;

const SUPERBLOCK_SEED: u32 = 160_774;
const MAGIC: u64 = 27_022_010;

/// A pool.
pub struct Pool {
    blocks: Blocks,
    data: SharedDevice,
    /// The root of the tree of volumes.
    root: u64,
    /// The size of a block of data, in bytes.
    block: u64,
}

impl Pool {
    /// Reads the superblock of a pool.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged, [`Error::Unsupported`] for features that are not known.
    pub fn open(metadata: SharedDevice, data: SharedDevice) -> Result<Self> {
        let blocks = Blocks::new(metadata);
        let bytes = blocks.read(0, "thin pool superblock", SUPERBLOCK_SEED, 8)?;
        let corrupt = |detail: String| Error::corrupt("thin pool superblock", detail);
        if le64(&bytes, 32) != MAGIC {
            return Err(corrupt("its signature is wrong".into()));
        }
        let (version, incompatible) = (le32(&bytes, 40), le32(&bytes, 360));
        if !matches!(version, 1 | 2) || incompatible != 0 {
            return Err(Error::unsupported(format!("thin pools of version {version} with features {incompatible:#x}")));
        }
        let block = u64::from(le32(&bytes, 336)) * 512;
        if !(65536..=1 << 30).contains(&block) {
            return Err(corrupt(format!("blocks of {block} bytes")));
        }
        Ok(Self { blocks, data, root: le64(&bytes, 320), block })
    }
}

/// A volume of a pool.
pub struct ThinDevice {
    pool: Arc<Pool>,
    /// The root of the volume's tree.
    root: u64,
    size: u64,
    /// What is read where nothing is mapped; zeroes where there is none.
    external: Option<SharedDevice>,
}

/// What a range holds.
enum Place {
    /// Data, from this offset of the pool's data.
    Data(u64),
    /// Nothing that was written.
    Nothing,
}

impl ThinDevice {
    /// Opens the volume of a number.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the pool does not know it.
    pub fn open(pool: Arc<Pool>, id: u64, size: u64, external: Option<SharedDevice>) -> Result<Self> {
        let root = pool.blocks.find(pool.root, id)?;
        let root = root.ok_or_else(|| Error::corrupt("thin pool", format!("it does not know volume {id}")))?;
        Ok(Self { pool, root, size, external })
    }

    /// Returns what lies at an offset, and how far in one piece, at most `len`.
    fn place(&self, offset: u64, len: u64) -> Result<(Place, u64)> {
        let block = self.pool.block;
        let (first, within) = (offset / block, offset % block);
        let last = (offset + len - 1) / block;
        let (leaf, at, bound) = self.pool.blocks.leaf(self.root, first)?;
        let data_of = |index: usize| le64(leaf.value(index), 0) >> 24;
        let to = |count: u64| len.min(count.saturating_mul(block) - within);
        if at >= leaf.len() || leaf.key(at) != first {
            // Nothing is mapped up to the next entry of the leaf, or the next leaf.
            let next = if at < leaf.len() { Some(leaf.key(at)) } else { bound.filter(|&bound| bound > first) };
            let next = next.unwrap_or(last + 1).min(last + 1);
            return Ok((Place::Nothing, to(next - first)));
        }
        let start = data_of(at);
        let mut count = 1;
        while first + count <= last
            && at + (count as usize) < leaf.len()
            && leaf.key(at + count as usize) == first + count
            && data_of(at + count as usize) == start + count
        {
            count += 1;
        }
        let offset = start.checked_mul(block).and_then(|start| start.checked_add(within));
        let offset = offset.ok_or_else(|| Error::corrupt("thin pool", format!("data block {start}")))?;
        Ok((Place::Data(offset), to(count)))
    }

    fn read_external(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match &self.external {
            Some(external) => read_padded(&**external, buf, offset),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

impl BlockDevice for ThinDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.pool.data.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, len) = self.place(at, (buf.len() - done) as u64)?;
            let piece = &mut buf[done..done + len as usize];
            match place {
                Place::Data(data) => self.pool.data.read_at(piece, data)?,
                Place::Nothing => self.read_external(piece, at)?,
            }
            done += len as usize;
        }
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        if len == 0 {
            return Ok(Extent { end: offset, kind: ExtentKind::Hole });
        }
        match self.place(offset, len)? {
            (Place::Data(data), len) => {
                let extent = self.pool.data.map(data, len)?;
                Ok(Extent { end: offset + (extent.end - data), kind: extent.kind })
            }
            (Place::Nothing, len) => {
                let is_external = self.external.as_ref().is_some_and(|external| offset < external.size());
                let kind = if is_external { ExtentKind::Data } else { ExtentKind::Hole };
                Ok(Extent { end: offset + len, kind })
            }
        }
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A hint does not look the map up twice: only what begins the range is fetched.
        if len > 0
            && check_range(self.size, offset, len).is_ok()
            && let Ok((Place::Data(data), len)) = self.place(offset, len)
        {
            self.pool.data.prefetch(data, len);
        }
    }
}
