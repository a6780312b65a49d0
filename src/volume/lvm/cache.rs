//! Caches before a slow volume: dm-cache, and dm-writecache where it holds nothing.
//!
//! A block that dm-cache has mapped is as new as that of the origin, or newer, and so it is what is read, as the kernel does.
//! Only a cache that writes through is left aside. Specified by `drivers/md/dm-cache-metadata.c` and `dm-writecache.c` of
//! Linux.

use super::btree::Blocks;
use super::build::ReadOnly;
use super::patched::{Patched, Patches, Piece};
use crate::block::{BlockDevice, SharedDevice, check_range};
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, Result};
use std::sync::Arc;

const SUPERBLOCK_SEED: u32 = 9_031_977;
/// The kernel writes it in octal.
const MAGIC: u64 = 0o6_142_003;
const ARRAY_SEED: u32 = 595_846_735;

/// The most blocks of a cache: their map takes 64 MiB.
const MAX_BLOCKS: u32 = 4 << 20;

/// Opens a cached volume; `metadata` and its data may be missing where the cache writes through.
///
/// # Errors
/// [`Error::Corrupt`] when the metadata are damaged, [`Error::Unsupported`] for a version that is not known.
pub fn open(origin: SharedDevice, cache: Option<(SharedDevice, SharedDevice)>, mode: &str) -> Result<SharedDevice> {
    if matches!(mode, "writethrough" | "passthrough") {
        return Ok(Arc::new(ReadOnly(origin)));
    }
    let (metadata, data) =
        cache.ok_or_else(|| Error::corrupt("LVM metadata", "a cached volume does not say where its cache is"))?;
    let blocks = Blocks::new(metadata);
    let bytes = blocks.read(0, "cache superblock", SUPERBLOCK_SEED, 8)?;
    let corrupt = |detail: String| Error::corrupt("cache superblock", detail);
    if le64(&bytes, 32) != MAGIC {
        return Err(corrupt("its signature is wrong".into()));
    }
    let (version, incompatible) = (le32(&bytes, 40), le32(&bytes, 252));
    if version != 2 || incompatible != 0 {
        return Err(Error::unsupported(format!("caches of version {version} with features {incompatible:#x}")));
    }
    let (block, count) = (u64::from(le32(&bytes, 232)) * 512, le32(&bytes, 240));
    if !(32768..=1 << 30).contains(&block) {
        return Err(corrupt(format!("blocks of {block} bytes")));
    }
    if count > MAX_BLOCKS {
        return Err(Error::unsupported(format!("caches of more than {MAX_BLOCKS} blocks")));
    }
    let mut map = mappings(&blocks, le64(&bytes, 192), count)?;
    map.sort_unstable();
    if map.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(corrupt("two blocks of the cache stand for one of the origin".into()));
    }
    Ok(Arc::new(Patched(Cached { origin, data, block, map })))
}

/// Reads the map: pairs of a block of the origin and one of the cache.
fn mappings(blocks: &Blocks, root: u64, count: u32) -> Result<Vec<(u64, u64)>> {
    const VALID: u64 = 1;
    const HEADER: usize = 24;
    let mut map = Vec::new();
    let mut number = 0_u64;
    let mut index = 0_u64;
    while number < u64::from(count) {
        let block = blocks
            .find(root, index)?
            .ok_or_else(|| Error::corrupt("cache map", format!("its block {index} is missing")))?;
        let bytes = blocks.read(block, "cache map block", ARRAY_SEED, 16)?;
        let (entries, size) = (le32(&bytes, 8) as usize, le32(&bytes, 12));
        if size != 8 || entries == 0 || HEADER + entries * 8 > bytes.len() {
            return Err(Error::corrupt("cache map block", format!("{entries} entries of {size} bytes")));
        }
        for entry in bytes[HEADER..HEADER + entries * 8].chunks_exact(8) {
            let entry = le64(entry, 0);
            if number < u64::from(count) && entry & VALID != 0 {
                map.push((entry >> 16, number));
            }
            number += 1;
        }
        index += 1;
    }
    Ok(map)
}

/// An origin with the blocks of its cache before it.
struct Cached {
    origin: SharedDevice,
    data: SharedDevice,
    block: u64,
    /// Blocks of the origin and those of the cache, in the order of the former.
    map: Vec<(u64, u64)>,
}

impl Patches for Cached {
    fn origin(&self) -> &SharedDevice {
        &self.origin
    }

    fn piece(&self, offset: u64, len: u64) -> Piece<'_> {
        let (block, within) = (offset / self.block, offset % self.block);
        let at = self.map.partition_point(|&(own, _)| own < block);
        match self.map.get(at) {
            Some(&(own, cached)) if own == block => {
                (&self.data, cached * self.block + within, len.min(self.block - within))
            }
            Some(&(own, _)) => (&self.origin, offset, len.min(own.saturating_mul(self.block) - offset)),
            None => (&self.origin, offset, len),
        }
    }
}

/// Checks that a writecache holds nothing that its origin lacks.
///
/// # Errors
/// [`Error::Unsupported`] when it does, [`Error::Corrupt`] when it is damaged.
pub fn check_writecache(fast: &dyn BlockDevice) -> Result<()> {
    const MAGIC: u32 = 0x2348_9321;
    const ENTRIES: u64 = 64;
    let corrupt = |detail: String| Error::corrupt("writecache superblock", detail);
    let mut header = [0; ENTRIES as usize];
    check_range(fast.size(), 0, ENTRIES)?;
    fast.read_at(&mut header, 0)?;
    if le32(&header, 0) != MAGIC {
        return Err(corrupt("its signature is wrong".into()));
    }
    if le16(&header, 4) != 1 {
        return Err(Error::unsupported(format!("writecaches of version {}", le16(&header, 4))));
    }
    let (count, sequence) = (le64(&header, 16), le64(&header, 24));
    let end = count.checked_mul(16).and_then(|len| len.checked_add(ENTRIES)).filter(|&end| end <= fast.size());
    let end = end.ok_or_else(|| corrupt(format!("{count} entries")))?;
    let mut piece = vec![0; 1 << 20];
    let mut at = ENTRIES;
    while at < end {
        let len = (end - at).min(piece.len() as u64) as usize;
        fast.read_at(&mut piece[..len], at)?;
        // An entry counts once the sequence that it was written in is over; those that are free have the last number.
        if piece[..len].chunks_exact(16).any(|entry| le64(entry, 8) < sequence) {
            return Err(Error::unsupported("a writecache that holds what its origin lacks; let LVM flush it first"));
        }
        at += len as u64;
    }
    Ok(())
}
