//! Metadata blocks: read in long runs, covered by what the log's replay changed, checked once.
//!
//! On version 5 every metadata block carries a checksum (CRC-32C, the one little-endian field of XFS), its own place, the
//! filesystem's UUID and its owner. The first three are checked here when a block is first read; owners are compared by
//! who asks, since only they know. A block that a replay has touched is not checked against its checksum, which is only
//! made anew when a block is written to its place.

use super::overlay::Overlay;
use super::superblock::Superblock;
use crate::block::{RunCache, SharedDevice};
use crate::bytes::{be64, le32};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::fs::FsOptions;
use std::sync::Arc;

/// How much of the metadata is read at once, in bytes.
const RUN_SIZE: u32 = 64 << 10;

/// What a metadata block is, which says where its header's fields lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A block of a B-tree within an allocation group, with 32-bit pointers.
    ShortTree,
    /// A block of a file's extent B-tree, with 64-bit pointers.
    LongTree,
    /// A directory block that holds names.
    DirData,
    /// A node or leaf of a hash index, or a leaf of extended attributes.
    Da,
    /// The text of a symbolic link.
    Symlink,
    /// The value of an extended attribute.
    AttrValue,
}

/// Where the common fields lie in the header of a version 5 block, in bytes.
struct Layout {
    crc: usize,
    place: usize,
    uuid: usize,
    size: usize,
}

impl Kind {
    fn layout(self) -> Layout {
        match self {
            Self::ShortTree => Layout { crc: 52, place: 16, uuid: 32, size: 56 },
            Self::LongTree => Layout { crc: 64, place: 24, uuid: 40, size: 72 },
            Self::DirData => Layout { crc: 4, place: 8, uuid: 24, size: 64 },
            Self::Da => Layout { crc: 12, place: 16, uuid: 32, size: 64 },
            Self::Symlink | Self::AttrValue => Layout { crc: 12, place: 40, uuid: 16, size: 56 },
        }
    }

    /// Returns what messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShortTree => "B-tree block",
            Self::LongTree => "extent B-tree block",
            Self::DirData => "directory block",
            Self::Da => "hash index block",
            Self::Symlink => "symbolic link block",
            Self::AttrValue => "attribute value block",
        }
    }
}

/// Says whether a block's CRC-32C, stored little-endian at `at`, is right. Fuzzing passes over it, to reach the parsers.
pub fn checksum_fits(bytes: &[u8], at: usize) -> bool {
    let sum = crc32c::crc32c(&bytes[..at]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    cfg!(fuzzing) || crc32c::crc32c_append(sum, &bytes[at + 4..]) == le32(bytes, at)
}

/// The metadata of a filesystem.
pub struct Store {
    runs: RunCache,
    overlay: Overlay,
    blocks: Cache<(u64, u32, Kind), Arc<[u8]>>,
    v5: bool,
    uuid: [u8; 16],
}

impl Store {
    /// Makes the runs that metadata and log are read through.
    pub fn runs(device: SharedDevice, options: &FsOptions) -> RunCache {
        RunCache::new(device, RUN_SIZE, &options.cache)
    }

    /// Makes a store of runs and what lies over them.
    pub fn new(runs: RunCache, overlay: Overlay, superblock: &Superblock, options: &FsOptions) -> Self {
        Self { runs, overlay, blocks: Cache::new(&options.cache), v5: superblock.v5, uuid: superblock.meta_uuid }
    }

    /// Returns the device below.
    pub fn device(&self) -> &SharedDevice {
        self.runs.device()
    }

    /// Fills `buf` from `offset`; says whether the log's replay changed any of it.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<bool> {
        self.runs.read_at(buf, offset)?;
        Ok(self.overlay.cover(buf, offset))
    }

    /// Returns a metadata block of `len` bytes at `offset`, checked. The caller compares magic number and owner.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when checksum, place or UUID are wrong, and those of reading.
    pub fn block(&self, kind: Kind, offset: u64, len: u32) -> Result<Arc<[u8]>> {
        self.blocks.get_or_insert((offset, len, kind), || {
            let mut bytes = vec![0; len as usize];
            let logged = self.read(&mut bytes, offset)?;
            self.check(kind, &bytes, offset, logged)?;
            Ok((Arc::from(bytes), len as usize))
        })
    }

    /// Returns a metadata block that lies in pieces of so many bytes at such offsets, checked as a whole.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn scattered(&self, kind: Kind, pieces: &[(u64, u32)]) -> Result<Arc<[u8]>> {
        match pieces {
            [] => Err(Error::corrupt(kind.name(), "it has no space")),
            &[(offset, len)] => self.block(kind, offset, len),
            &[(first, _), ..] => {
                let mut bytes = vec![0; pieces.iter().map(|&(_, len)| len as usize).sum()];
                let mut logged = false;
                let mut rest = &mut bytes[..];
                for &(offset, len) in pieces {
                    let (piece, behind) = rest.split_at_mut(len as usize);
                    logged |= self.read(piece, offset)?;
                    rest = behind;
                }
                self.check(kind, &bytes, first, logged)?;
                Ok(Arc::from(bytes))
            }
        }
    }

    fn check(&self, kind: Kind, bytes: &[u8], offset: u64, logged: bool) -> Result<()> {
        if !self.v5 {
            return Ok(());
        }
        let layout = kind.layout();
        let what = || format!("{} at byte {offset}", kind.name());
        if bytes.len() < layout.size {
            return Err(Error::corrupt(what(), "it is too short"));
        }
        if !logged && !checksum_fits(bytes, layout.crc) {
            return Err(Error::corrupt(what(), "its checksum is wrong"));
        }
        if be64(bytes, layout.place) != offset / 512 {
            return Err(Error::corrupt(what(), "it names another place as its own"));
        }
        if bytes[layout.uuid..layout.uuid + 16] != self.uuid {
            return Err(Error::corrupt(what(), "it belongs to another filesystem"));
        }
        Ok(())
    }

    /// Hints that a range of metadata will be read soon.
    pub fn prefetch(&self, offset: u64, len: u64) {
        self.device().prefetch(offset, len.min(self.device().size().saturating_sub(offset)));
    }
}
