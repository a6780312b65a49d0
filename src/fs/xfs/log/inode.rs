//! Inode items: the core of an inode and what changed of its forks, in the byte order of the machine that logged them.
//!
//! The logged core has the layout of the one on disk, field for field. Forks are logged as they lie on disk, but the root of
//! an extent tree as a whole tree block, whose pointers begin elsewhere.

use super::super::inode::{MAGIC, core_size};
use super::super::superblock::Superblock;
use super::buffer::Place;
use super::corrupt;
use super::record::Lsn;
use super::transaction::Item;
use crate::bytes::{be16, be64, le16, le32, le64, set_be16, set_be64};
use crate::error::Result;

/// Bits that say what was logged.
mod fields {
    pub const DATA_LOCAL: u32 = 0x002;
    pub const DATA_EXTENTS: u32 = 0x004;
    pub const DATA_TREE: u32 = 0x008;
    pub const DEVICE: u32 = 0x010;
    pub const ATTR_LOCAL: u32 = 0x040;
    pub const ATTR_EXTENTS: u32 = 0x080;
    pub const ATTR_TREE: u32 = 0x100;
    pub const DATA_OWNER: u32 = 0x200;
    pub const ATTR_OWNER: u32 = 0x400;
    pub const DATA: u32 = DATA_LOCAL | DATA_EXTENTS | DATA_TREE;
    pub const ATTR: u32 = ATTR_LOCAL | ATTR_EXTENTS | ATTR_TREE;
}

/// The format of a data fork that only internal files have.
const META_TREE: u8 = 5;

/// The bit of `di_flags2` for times in one 64-bit number, and the one for large extent counts.
const BIG_TIME: u64 = 0x08;
const LARGE_COUNTS: u64 = 0x10;

/// Where fields of a width lie in a core, in bytes; the rest is single bytes. Times, the counts at 24 and 76 and what only
/// version 3 has come on their own.
const WIDTH_2: [usize; 7] = [0, 2, 20, 22, 80, 88, 90];
const WIDTH_4: [usize; 7] = [8, 12, 16, 72, 76, 84, 92];
const WIDTH_8: [usize; 2] = [56, 64];
const TIMES: [usize; 3] = [32, 40, 48];
/// Where the creation time of version 3 lies.
const CREATION: usize = 144;

/// What an inode item changes.
pub struct InodeItem<'a> {
    /// The inode.
    pub ino: u64,
    /// The buffer that it was in, by which it may be cancelled.
    pub place: Place,
    fields: u32,
    device: u32,
    /// The core and what follows it.
    regions: &'a [Vec<u8>],
}

impl<'a> InodeItem<'a> {
    /// Reads an item. The format has 56 bytes, or 52 from a 32-bit machine.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when it is damaged.
    pub fn parse(item: &'a Item) -> Result<Self> {
        let format = item.format(52)?;
        let wide = if format.len() >= 56 { 4 } else { 0 };
        Ok(Self {
            ino: le64(format, 12 + wide),
            place: (le64(format, 36 + wide), le32(format, 44 + wide)),
            fields: le32(format, 4),
            device: le32(format, 20 + wide),
            regions: &item.regions[1..],
        })
    }

    /// Says whether the blocks of an extent tree name another owner than before.
    pub fn changes_owner(&self) -> bool {
        self.fields & (fields::DATA_OWNER | fields::ATTR_OWNER) != 0
    }

    /// Puts what was logged over an inode's bytes, unless these are newer.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when item or inode are damaged.
    pub fn apply(&self, superblock: &Superblock, inode: &mut [u8], lsn: Lsn) -> Result<()> {
        let damaged = |detail: &str| corrupt(format!("inode {} {detail}", self.ino));
        if be16(inode, 0) != MAGIC {
            return Err(damaged("has no magic number where it is to be replayed"));
        }
        let version = if superblock.v5 { 3 } else { 2 };
        let core = self.regions.first().ok_or_else(|| damaged("is logged without its core"))?;
        // The link of unlinked inodes, at 96, is not logged with them.
        let least = if superblock.v5 { 176 } else { 96 };
        if core.len() < least || le16(core, 0) != MAGIC || (core[4] >= 3) != superblock.v5 {
            return Err(damaged("is logged with a damaged core"));
        }
        if superblock.v5 {
            let written = be64(inode, 112);
            if written != 0 && written != Lsn::MAX && written > lsn {
                return Ok(());
            }
        } else {
            // Version 4 counts how often an inode was written instead; the count starts anew after its end.
            let (logged, written) = (le16(core, 30), be16(inode, 30));
            if logged < written && !(written == u16::MAX && logged < u16::MAX / 2) {
                return Ok(());
            }
        }
        core_to_disk(core, inode, version, lsn);
        if self.fields & fields::DEVICE != 0 {
            inode[core_size(version)..][..4].copy_from_slice(&self.device.to_be_bytes());
        }
        self.apply_forks(inode, version).ok_or_else(|| damaged("is logged with a damaged fork"))
    }

    fn apply_forks(&self, inode: &mut [u8], version: u8) -> Option<()> {
        let mut regions = self.regions[1..].iter();
        let format = inode[5];
        let split = usize::from(inode[82]) * 8;
        let literal = &mut inode[core_size(version)..];
        let data_size = if split == 0 { literal.len() } else { split };
        let (data, attributes) = literal.split_at_mut_checked(data_size)?;
        let header = if version == 3 { 72 } else { 24 };
        for (bits, tree, area) in
            [(fields::DATA, fields::DATA_TREE, data), (fields::ATTR, fields::ATTR_TREE, attributes)]
        {
            if self.fields & bits == 0 {
                continue;
            }
            let region = regions.next()?;
            if bits == fields::DATA && format == META_TREE {
                continue;
            }
            if self.fields & tree != 0 {
                root_to_disk(region, header, area)?;
            } else {
                area.get_mut(..region.len())?.copy_from_slice(region);
            }
        }
        Some(())
    }
}

/// Turns a logged core into one on disk.
fn core_to_disk(core: &[u8], inode: &mut [u8], version: u8, lsn: Lsn) {
    let turn = |inode: &mut [u8], at: usize, width: usize| {
        for (byte, logged) in inode[at..at + width].iter_mut().zip(core[at..at + width].iter().rev()) {
            *byte = *logged;
        }
    };
    let more = if version == 3 { le64(core, 120) } else { 0 };
    WIDTH_2.iter().for_each(|&at| turn(inode, at, 2));
    WIDTH_4.iter().for_each(|&at| turn(inode, at, 4));
    WIDTH_8.iter().for_each(|&at| turn(inode, at, 8));
    inode[4] = core[4].max(2);
    inode[5] = core[5];
    inode[82..84].copy_from_slice(&core[82..84]);
    set_be16(inode, 6, 0);
    if more & LARGE_COUNTS != 0 {
        turn(inode, 24, 8);
    } else {
        inode[24..32].fill(0);
    }
    let time = |inode: &mut [u8], at: usize| {
        if more & BIG_TIME != 0 {
            turn(inode, at, 8);
        } else {
            turn(inode, at, 4);
            turn(inode, at + 4, 4);
        }
    };
    TIMES.iter().for_each(|&at| time(inode, at));
    if version == 3 {
        inode[4] = 3;
        turn(inode, 104, 8);
        set_be64(inode, 112, lsn);
        turn(inode, 120, 8);
        turn(inode, 128, 4);
        time(inode, CREATION);
        turn(inode, 152, 8);
        inode[160..176].copy_from_slice(&core[160..176]);
    }
}

/// Turns the root of an extent tree from a tree block into what an inode holds.
fn root_to_disk(block: &[u8], header: usize, area: &mut [u8]) -> Option<()> {
    let room = block.len().checked_sub(header)? / 16;
    let area_room = area.len().checked_sub(4)? / 16;
    let count = usize::from(be16(block, 6));
    if count > room || count > area_room {
        return None;
    }
    area[..4].copy_from_slice(&block[4..8]);
    area[4..4 + count * 8].copy_from_slice(&block[header..header + count * 8]);
    let (from, to) = (header + room * 8, 4 + area_room * 8);
    area[to..to + count * 8].copy_from_slice(&block[from..from + count * 8]);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{be32, set_be32};
    use crate::fs::xfs::superblock::tests::bytes;

    fn set(core: &mut [u8], at: usize, value: &[u8]) {
        core[at..at + value.len()].copy_from_slice(value);
    }

    /// Returns a logged core of version 2 with a size of 77 bytes and a flush count.
    fn core(flushes: u16) -> Vec<u8> {
        let mut core = vec![0; 96];
        set(&mut core, 0, &MAGIC.to_le_bytes());
        set(&mut core, 2, &0o100_644_u16.to_le_bytes());
        set(&mut core, 4, &[2, 3]);
        set(&mut core, 8, &1000_u32.to_le_bytes());
        set(&mut core, 30, &flushes.to_le_bytes());
        set(&mut core, 40, &12_u32.to_le_bytes());
        set(&mut core, 44, &34_u32.to_le_bytes());
        set(&mut core, 56, &77_u64.to_le_bytes());
        core
    }

    #[test]
    fn a_logged_core_is_turned_round_and_a_tree_root_moved() {
        let superblock = Superblock::parse(&bytes(), true).expect("is whole");
        let mut inode = vec![0; 256];
        set_be16(&mut inode, 0, MAGIC);
        // A tree block with room for two entries, of which it has one.
        let mut root = vec![0; 24 + 32];
        set_be16(&mut root, 4, 1);
        set_be16(&mut root, 6, 1);
        set_be64(&mut root, 24, 5);
        set_be64(&mut root, 40, 99);
        let regions = [core(0), root];
        let item = InodeItem { ino: 9, place: (0, 0), fields: fields::DATA_TREE | 1, device: 0, regions: &regions };
        item.apply(&superblock, &mut inode, 1).expect("fits");
        assert_eq!((be16(&inode, 2), be32(&inode, 8), be64(&inode, 56)), (0o100_644, 1000, 77));
        assert_eq!((be32(&inode, 40), be32(&inode, 44)), (12, 34));
        // 156 bytes of literal area have room for nine entries.
        assert_eq!((be16(&inode, 100), be16(&inode, 102)), (1, 1));
        assert_eq!((be64(&inode, 104), be64(&inode, 104 + 72)), (5, 99));
    }

    #[test]
    fn an_inode_that_was_written_more_often_stays() {
        let superblock = Superblock::parse(&bytes(), true).expect("is whole");
        let mut inode = vec![0; 256];
        set_be16(&mut inode, 0, MAGIC);
        set_be16(&mut inode, 30, 3);
        set_be32(&mut inode, 8, 4);
        let replay = |inode: &mut [u8], flushes| {
            let regions = [core(flushes)];
            let item = InodeItem { ino: 9, place: (0, 0), fields: 1, device: 0, regions: &regions };
            item.apply(&superblock, inode, 1).expect("fits");
            be32(inode, 8)
        };
        assert_eq!(replay(&mut inode, 2), 4);
        assert_eq!(replay(&mut inode, 3), 1000);
        set_be32(&mut inode, 8, 4);
        set_be16(&mut inode, 30, u16::MAX);
        assert_eq!(replay(&mut inode, 1), 1000, "the count began anew");
    }
}
