//! The bytes of file extents: read, checked sector by sector, repaired in the reading, decompressed.

use super::checksum::Checksum;
use super::compress;
use super::file_extent::{CompressedExtent, Content, FileExtent};
use super::key::{Key, kinds, objects};
use super::store::Store;
use super::tree::{Item, Tree};
use crate::cache::Cache;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Extents after decompression.
pub type ExtentCache = Cache<CompressedExtent, Arc<[u8]>>;

/// What is needed to read data.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// The devices.
    pub store: &'a Store,
    /// The trees that hold checksums, those of logs first; `None` where the data has none.
    pub sums: Option<&'a [Tree<'a>]>,
    /// What is decompressed already.
    pub extents: &'a ExtentCache,
}

impl Data<'_> {
    /// Fills the beginning of `buf` with what `extent` holds from `offset` of the file on; returns how many bytes. All of
    /// `buf` may be written to, but only the first `wanted` bytes are asked for.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when no copy of the data is good, and those of reading.
    pub fn read(&self, extent: &FileExtent, offset: u64, wanted: usize, buf: &mut [u8]) -> Result<usize> {
        let skip = offset - extent.start;
        let len = (extent.end - offset).min(wanted as u64) as usize;
        match &extent.content {
            Content::Hole | Content::Prealloc => buf[..len].fill(0),
            Content::Inline { compression: None, bytes, .. } => copy_padded(&mut buf[..len], bytes, skip),
            Content::Inline { compression: Some(compression), ram_bytes, bytes } => {
                let mut all = vec![0; *ram_bytes as usize];
                compress::decompress(*compression, bytes, self.store.sector_size, &mut all)?;
                copy_padded(&mut buf[..len], &all, skip);
            }
            Content::Plain(address) => self.read_plain(address + skip, len, buf)?,
            Content::Compressed { extent, offset } => {
                let from = offset + skip;
                if from == 0 && len == extent.ram_bytes as usize {
                    // Who reads all of it at once will not soon read it again.
                    match self.extents.get(extent) {
                        Some(all) => buf[..len].copy_from_slice(&all),
                        None => self.decompress(extent, &mut buf[..len])?,
                    }
                } else {
                    let all = self.extents.get_or_insert(*extent, || {
                        let mut all = vec![0; extent.ram_bytes as usize];
                        self.decompress(extent, &mut all)?;
                        Ok::<_, Error>((Arc::from(all), extent.ram_bytes as usize))
                    })?;
                    copy_padded(&mut buf[..len], &all, from);
                }
            }
        }
        Ok(len)
    }

    fn decompress(&self, extent: &CompressedExtent, out: &mut [u8]) -> Result<()> {
        let mut stored = vec![0; extent.stored as usize];
        self.read_sectors(extent.address, &mut stored)?;
        compress::decompress(extent.compression, &stored, self.store.sector_size, out)
            .map_err(|error| error.at(format!("data at {}", extent.address)))
    }

    /// Reads `len` bytes, in whole sectors where they have checksums.
    fn read_plain(&self, address: u64, len: usize, buf: &mut [u8]) -> Result<()> {
        let sector = u64::from(self.store.sector_size);
        if self.sums.is_none() {
            return self.read_sectors(address, &mut buf[..len]);
        }
        let before = (address % sector) as usize;
        let whole = (before + len).next_multiple_of(sector as usize);
        if before == 0 && whole <= buf.len() {
            return self.read_sectors(address, &mut buf[..whole]);
        }
        let mut sectors = vec![0; whole];
        self.read_sectors(address - before as u64, &mut sectors)?;
        buf[..len].copy_from_slice(&sectors[before..before + len]);
        Ok(())
    }

    /// Reads and checks whole sectors.
    fn read_sectors(&self, address: u64, buf: &mut [u8]) -> Result<()> {
        let sector = self.store.sector_size as usize;
        if self.store.volume.read_any(buf, address).is_err() {
            // One copy may be readable here and another there.
            for (number, part) in buf.chunks_mut(sector).enumerate() {
                self.store.volume.read_any(part, address + (number * sector) as u64)?;
            }
        }
        match self.sums {
            Some(trees) => self.check(trees, address, buf),
            None => Ok(()),
        }
    }

    fn check(&self, trees: &[Tree<'_>], address: u64, buf: &mut [u8]) -> Result<()> {
        let Some((tree, others)) = trees.split_first() else {
            return Err(Error::corrupt(format!("Btrfs data at {address}"), "it has no checksum"));
        };
        let kind = self.store.format.checksum;
        let sector = self.store.sector_size as usize;
        let end = address + buf.len() as u64;
        let key = |offset| Key::new(objects::EXTENT_CSUM, kinds::EXTENT_CSUM, offset);
        let mut at = address;
        let mut more = None;
        let mut next = tree.last_not_after(&key(address))?;
        while at < end {
            // The first item may begin before the range, and may end before it too.
            if let Some(sums) = Sums::new(next.take(), kind, sector as u64)?
                && sums.end > at
            {
                let stop = sums.start.clamp(at, end);
                if stop > at {
                    self.check(others, at, &mut buf[(at - address) as usize..(stop - address) as usize])?;
                }
                let last = sums.end.min(end);
                for place in (stop..last).step_by(sector) {
                    let from = (place - address) as usize;
                    let stored = sums.of(place);
                    if !kind.matches(&buf[from..from + sector], stored) {
                        self.repair(place, &mut buf[from..from + sector], stored)?;
                    }
                }
                at = last.max(stop);
                continue;
            }
            let items = match &mut more {
                None => more.insert(tree.range(key(at), key(end - 1))?),
                Some(items) => items,
            };
            next = items.next()?;
            if next.is_none() {
                self.check(others, at, &mut buf[(at - address) as usize..])?;
                at = end;
            }
        }
        Ok(())
    }

    /// Reads a sector that is damaged from every other copy until one is good.
    fn repair(&self, address: u64, buf: &mut [u8], stored: &[u8]) -> Result<()> {
        for way in 0..self.store.volume.ways(address)? {
            if self.store.volume.read_way(buf, address, way).is_ok() && self.store.format.checksum.matches(buf, stored)
            {
                log::warn!("data at {address} is damaged; copy {way} was read");
                return Ok(());
            }
        }
        Err(Error::corrupt(format!("Btrfs data at {address}"), "its checksum is wrong, and no other copy is good"))
    }
}

/// An item of checksums.
struct Sums {
    item: Item,
    start: u64,
    end: u64,
    sector: u64,
    len: usize,
}

impl Sums {
    fn new(found: Option<(Key, Item)>, kind: Checksum, sector: u64) -> Result<Option<Self>> {
        let Some((key, item)) = found.filter(|(key, _)| key.is(objects::EXTENT_CSUM, kinds::EXTENT_CSUM)) else {
            return Ok(None);
        };
        let count = (item.len() / kind.len()) as u64;
        match key.offset.checked_add(count * sector) {
            Some(end) if key.offset.is_multiple_of(sector) => {
                Ok(Some(Self { item, start: key.offset, end, sector, len: kind.len() }))
            }
            _ => Err(Error::corrupt("Btrfs checksum tree", format!("an item of checksums at {}", key.offset))),
        }
    }

    fn of(&self, address: u64) -> &[u8] {
        &self.item[((address - self.start) / self.sector) as usize * self.len..][..self.len]
    }
}

/// Copies from `skip` of `from` on; past its end come zeroes.
fn copy_padded(to: &mut [u8], from: &[u8], skip: u64) {
    let from = from.get(skip.min(from.len() as u64) as usize..).unwrap_or_default();
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
    to[len..].fill(0);
}
