//! Compressed files: clusters of the file, in which extents begin, and blocks that hold the extents.
//!
//! A file's list says of each logical cluster whether an extent begins in it (a head), and where that lies; or how far back the
//! extent that reaches into it began. The list has entries of 8 bytes (full), or of 4 and 2 bytes in packs (compact). LZ4 is
//! read; the other ways to compress, extents of which only a part is meant, and ends of files that lie elsewhere are refused by
//! name.

use super::disk::Disk;
use super::inode::Inode;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// The longest extent, in bytes of the file.
const MAX_EXTENT: u64 = 12 << 20;

/// The longest extent, in bytes on the device.
const MAX_PACKED: u64 = 1 << 20;

/// The bit that says that a list's entry holds how many blocks an extent has.
const BLOCK_COUNT: u32 = 1 << 11;

/// The bit of a full entry that says that only a part of the extent is meant.
const PARTIAL: u16 = 1 << 15;

/// What a list says in its header.
mod advise {
    pub const PACKS_OF_2: u16 = 0x01;
    pub const BIG_1: u16 = 0x02;
    pub const BIG_2: u16 = 0x04;
    pub const INLINE_END: u16 = 0x08;
    pub const INTERLACED: u16 = 0x10;
    pub const FRAGMENT: u16 = 0x20;
}

/// What begins in a logical cluster, or that nothing does.
#[derive(Clone, Copy, Debug)]
enum Cluster {
    /// An extent, at an offset in the cluster, from a block on. It is not compressed, or by the first or second algorithm.
    Head { kind: Kind, offset: u64, block: u64 },
    /// It belongs to an extent that began so many clusters before; which may have so many blocks.
    Inside { back: u64, blocks: Option<u64> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    First,
    Second,
}

impl Kind {
    fn of(bits: u32) -> Option<Self> {
        match bits & 3 {
            0 => Some(Self::Plain),
            1 => Some(Self::First),
            3 => Some(Self::Second),
            _ => None,
        }
    }
}

/// An extent that is read.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Where it begins in the file, in bytes.
    pub start: u64,
    /// Its length in the file, in bytes.
    pub len: u64,
    kind: Kind,
    block: u64,
    packed_len: u64,
}

/// The list of a file's clusters.
pub struct Clusters<'a> {
    disk: &'a Disk,
    inode: &'a Inode,
    advise: u16,
    algorithms: u8,
    /// The size of a logical cluster, as a power of two.
    log: u32,
    is_compact: bool,
    /// Where the list begins on the device, in bytes.
    base: u64,
}

impl<'a> Clusters<'a> {
    /// Reads the header of a file's list.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is not read, [`Error::Corrupt`], and those of reading.
    pub fn new(disk: &'a Disk, inode: &'a Inode, is_compact: bool) -> Result<Self> {
        let at = inode.tail().next_multiple_of(8);
        let mut head = [0; 8];
        disk.metadata(inode.attr.ino, &mut head, at)?;
        let has_header = is_compact || disk.superblock.has_configurations();
        let (advise, algorithms, bits) = if has_header { (le16(&head, 4), head[6], head[7]) } else { (0, 0, 0) };
        let unsupported = |what: &str| Error::unsupported(format!("{what} of EROFS (inode {})", inode.attr.ino));
        if bits & 0x80 != 0 || advise & (advise::INLINE_END | advise::FRAGMENT) != 0 {
            return Err(unsupported("compressed files whose end lies elsewhere"));
        }
        if !disk.superblock.pads_in_front() {
            return Err(unsupported("compressed files of the first form"));
        }
        let log = disk.superblock.block_log + u32::from(bits & 7);
        let base = if is_compact { at + 8 } else { at + 16 };
        if log > 16 {
            return Err(Error::corrupt(format!("inode {}", inode.attr.ino), "its clusters are too large"));
        }
        Ok(Self { disk, inode, advise, algorithms, log, is_compact, base })
    }

    fn corrupt(&self, what: &'static str) -> Error {
        Error::corrupt(format!("list of clusters of inode {}", self.inode.attr.ino), what)
    }

    fn count(&self) -> u64 {
        self.inode.attr.size.div_ceil(1 << self.log)
    }

    fn has_counts(&self) -> bool {
        self.advise & (advise::BIG_1 | advise::BIG_2) != 0
    }

    fn cluster(&self, number: u64) -> Result<Cluster> {
        let cluster = if self.is_compact { self.compact(number) } else { self.full(number) }?;
        if let Cluster::Head { offset, .. } = cluster
            && offset >= 1 << self.log
        {
            return Err(self.corrupt("an extent begins behind its cluster"));
        }
        Ok(cluster)
    }

    fn full(&self, number: u64) -> Result<Cluster> {
        let mut entry = [0; 8];
        self.disk.metadata(self.inode.attr.ino, &mut entry, self.base + number * 8)?;
        if le16(&entry, 0) & PARTIAL != 0 {
            return Err(Error::unsupported(format!("parts of extents of EROFS (inode {})", self.inode.attr.ino)));
        }
        Ok(match Kind::of(u32::from(le16(&entry, 0))) {
            Some(kind) => Cluster::Head { kind, offset: u64::from(le16(&entry, 2)), block: u64::from(le32(&entry, 4)) },
            None => self.inside(u32::from(le16(&entry, 4))),
        })
    }

    fn inside(&self, back: u32) -> Cluster {
        if back & BLOCK_COUNT != 0 {
            Cluster::Inside { back: 1, blocks: Some(u64::from(back & !BLOCK_COUNT)) }
        } else {
            Cluster::Inside { back: u64::from(back), blocks: None }
        }
    }

    /// Reads an entry of a pack: 2 of 4 bytes, or 16 of 2, whose last 4 bytes are the block of its first extent.
    fn compact(&self, number: u64) -> Result<Cluster> {
        let count = self.count();
        // Entries of 4 bytes up to an aligned place, then packs of those of 2, then the rest.
        let first = ((32 - self.base % 32) / 4) & 7;
        let small = if self.advise & advise::PACKS_OF_2 != 0 { count.saturating_sub(first) / 16 * 16 } else { 0 };
        let (at, width) = if number < first {
            (self.base + number * 4, 4)
        } else if number - first < small {
            (self.base + first * 4 + (number - first) * 2, 2)
        } else {
            (self.base + first * 4 + small * 2 + (number - first - small) * 4, 4)
        };
        let entries: u64 = match width {
            4 if self.log <= 14 => 2,
            2 if self.log <= 12 => 16,
            _ => return Err(self.corrupt("its clusters are too large for packs")),
        };
        let pack_len = entries * width;
        let start = at / pack_len * pack_len;
        // An entry may be taken with bytes that lie behind its pack, which do not count.
        let mut pack = [0; 36];
        self.disk.metadata(self.inode.attr.ino, &mut pack[..pack_len as usize], start)?;
        let bits = (pack_len - 4) * 8 / entries;
        let low = self.log.max(12);
        let decode = |place: i64| {
            let at = place as u64 * bits;
            let value = le32(&pack, (at / 8) as usize) >> (at % 8);
            (value & ((1 << low) - 1), Kind::of(value >> low))
        };
        let place = ((at - start) / width) as i64;
        let (value, kind) = decode(place);
        let Some(kind) = kind else {
            if value & BLOCK_COUNT != 0 && !self.has_counts() {
                return Err(self.corrupt("it has counts of blocks that it should not have"));
            }
            if value & BLOCK_COUNT != 0 || place + 1 != entries as i64 {
                return Ok(self.inside(value));
            }
            // The last one of a pack says how far the next extent is, so how far back goes by the one before.
            let back = match decode(place - 1) {
                (_, Some(_)) => 0,
                (value, None) if value & BLOCK_COUNT != 0 => 1,
                (value, None) => value,
            };
            return Ok(Cluster::Inside { back: u64::from(back) + 1, blocks: None });
        };
        // The blocks of the extents that began before in this pack.
        let mut before = place;
        let mut blocks = u64::from(!self.has_counts());
        while before > 0 {
            before -= 1;
            match decode(before) {
                (_, Some(_)) => blocks += 1,
                (value, None) if !self.has_counts() => {
                    before -= i64::from(value);
                    blocks += u64::from(before >= 0);
                }
                (value, None) if value & BLOCK_COUNT != 0 => {
                    before -= 1;
                    blocks += u64::from(value & !BLOCK_COUNT);
                }
                (value, None) if value <= 1 => return Err(self.corrupt("an extent has no count of blocks")),
                (value, None) => before -= i64::from(value) - 2,
            }
        }
        let block = u64::from(le32(&pack, pack_len as usize - 4)) + blocks;
        Ok(Cluster::Head { kind, offset: u64::from(value), block })
    }

    /// Finds the extent that an offset before the file's end lies in.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn extent(&self, offset: u64) -> Result<Extent> {
        let size = self.inode.attr.size;
        let mut number = offset >> self.log;
        let within = offset & ((1 << self.log) - 1);
        let mut found = self.cluster(number)?;
        if matches!(found, Cluster::Head { offset, .. } if offset > within) {
            number = number.checked_sub(1).ok_or_else(|| self.corrupt("nothing begins in its first cluster"))?;
            found = self.cluster(number)?;
        }
        // Each step goes back, so it ends.
        let (kind, from, block) = loop {
            match found {
                Cluster::Head { kind, offset, block } => break (kind, offset, block),
                Cluster::Inside { back, .. } => {
                    let next = number.checked_sub(back).filter(|_| back > 0);
                    number = next.ok_or_else(|| self.corrupt("an extent began before the file"))?;
                    found = self.cluster(number)?;
                }
            }
        };
        let start = (number << self.log) + from;
        let blocks = 1_u64 << (self.log - self.disk.superblock.block_log);
        let is_big = match kind {
            Kind::Plain => false,
            Kind::First => self.advise & advise::BIG_1 != 0,
            Kind::Second => self.advise & advise::BIG_2 != 0,
        };
        let mut packed = blocks;
        let mut next = number + 1;
        let end = loop {
            if next >= self.count() {
                break size;
            }
            match self.cluster(next)? {
                Cluster::Head { offset, .. } => break (next << self.log) + offset,
                Cluster::Inside { blocks, .. } if is_big && next == number + 1 => {
                    packed = blocks.ok_or_else(|| self.corrupt("an extent has no count of blocks"))?;
                }
                Cluster::Inside { .. } => {}
            }
            next += 1;
            if (next - number) << self.log > MAX_EXTENT {
                return Err(self.corrupt("an extent is too long"));
            }
        };
        let end = end.min(size);
        let packed_len = packed << self.disk.superblock.block_log;
        if start > offset || end <= offset || packed_len > MAX_PACKED || end - start > MAX_EXTENT {
            return Err(self.corrupt("an extent is not where it should be, or too long"));
        }
        Ok(Extent { start, len: end - start, kind, block, packed_len })
    }

    /// Reads an extent.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn read(&self, extent: &Extent) -> Result<Vec<u8>> {
        let algorithm = match extent.kind {
            Kind::Plain => None,
            Kind::First => Some(self.algorithms & 15),
            Kind::Second => Some(self.algorithms >> 4),
        };
        let name = match algorithm {
            None | Some(0) => None,
            Some(1) => Some("LZMA"),
            Some(2) => Some("DEFLATE"),
            Some(3) => Some("zstd"),
            Some(_) => Some("an algorithm that is not known"),
        };
        if let Some(name) = name {
            let ino = self.inode.attr.ino;
            return Err(Error::unsupported(format!("compressed files of EROFS by {name} (inode {ino})")));
        }
        let mut packed = vec![0; extent.packed_len as usize];
        self.disk.raw(self.inode.attr.ino, &mut packed, extent.block << self.disk.superblock.block_log)?;
        let len = extent.len as usize;
        if extent.kind == Kind::Plain {
            if len > packed.len() {
                return Err(self.corrupt("an extent that is not compressed is too long"));
            }
            if self.advise & advise::INTERLACED != 0 {
                // What lies at an offset of a block in the file does so on the device.
                let within = (extent.start as usize) & (packed.len() - 1);
                packed.rotate_left(within);
            }
            packed.truncate(len);
            return Ok(packed);
        }
        // Zeroes are in front, so that it ends with the last block.
        let from = packed.iter().position(|&byte| byte != 0).unwrap_or(packed.len());
        let mut bytes = vec![0; len];
        match lz4_flex::block::decompress_into(&packed[from..], &mut bytes) {
            Ok(done) if done == len => Ok(bytes),
            _ => Err(Error::corrupt(format!("inode {}", self.inode.attr.ino), "an extent is no LZ4 of its length")),
        }
    }
}
