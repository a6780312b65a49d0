//! Buffer items: changed pieces of 128 bytes of a metadata block, and blocks that were freed (cancelled).
//!
//! A block that is freed and used for something else must not be overwritten with what it was; so the log is gone through
//! once to learn of all cancellations. On version 5 a block that reached its place after the transaction was logged is
//! newer and stays as it is: it carries the place of its last change in the log.

use super::super::overlay::SECTOR;
use super::corrupt;
use super::record::Lsn;
use super::transaction::Item;
use crate::bytes::{be16, be32, be64, le16, le32, le64};
use crate::error::Result;

/// The unit in which changes of a block are logged, in bytes.
const PIECE: usize = 128;
/// The most words of the map of changed pieces.
const MAX_MAP: usize = 17;

/// The longest buffer, in bytes.
const MAX_BYTES: u64 = 65536;

/// Bits of a buffer's flags.
mod flags {
    /// Only the links of unlinked inodes are meant.
    pub const INODES: u16 = 0x01;
    pub const CANCEL: u16 = 0x02;
    /// Quota records of users, projects or groups.
    pub const QUOTA: u16 = 0x04 | 0x08 | 0x10;
}

/// A buffer by its first 512-byte block on the device and its count of them.
pub type Place = (u64, u32);

/// What a buffer item changes.
pub struct Buffer<'a> {
    /// Where.
    pub place: Place,
    flags: u16,
    map: Vec<u32>,
    regions: &'a [Vec<u8>],
}

impl<'a> Buffer<'a> {
    /// Reads an item.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when it is damaged.
    pub fn parse(item: &'a Item) -> Result<Self> {
        let format = item.format(20)?;
        let words = le32(format, 16) as usize;
        if words > MAX_MAP || format.len() < 20 + words * 4 {
            return Err(corrupt("the map of a buffer is damaged"));
        }
        let count = u32::from(le16(format, 6));
        let first = le64(format, 8);
        if first > i64::MAX as u64 / SECTOR || count == 0 || u64::from(count) * SECTOR > MAX_BYTES {
            return Err(corrupt("a buffer lies nowhere"));
        }
        Ok(Self {
            place: (first, count),
            flags: le16(format, 4),
            map: (0..words).map(|word| le32(format, 20 + word * 4)).collect(),
            regions: &item.regions[1..],
        })
    }

    /// Says whether the block was freed.
    pub fn is_cancel(&self) -> bool {
        self.flags & flags::CANCEL != 0
    }

    /// Says whether it is about inodes without names, which nobody sees.
    pub fn is_unlinked_list(&self) -> bool {
        self.flags & flags::INODES != 0
    }

    /// Says whether it holds quota records, which nobody sees.
    pub fn is_quota(&self) -> bool {
        self.flags & flags::QUOTA != 0
    }

    /// Puts the changed pieces over a block's bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) when a piece lies outside, or has no bytes.
    pub fn apply(&self, block: &mut [u8]) -> Result<()> {
        let changed = |bit: usize| self.map.get(bit / 32).is_some_and(|word| word >> (bit % 32) & 1 == 1);
        let end = self.map.len() * 32;
        let mut regions = self.regions.iter();
        let mut bit = 0;
        while bit < end {
            if !changed(bit) {
                bit += 1;
                continue;
            }
            let run = (bit..end).take_while(|&bit| changed(bit)).count();
            let region = regions.next().ok_or_else(|| corrupt("a changed piece of a buffer has no bytes"))?;
            // One run of the map may have been logged as several regions.
            let count = run.min(region.len() / PIECE);
            if count == 0 {
                return Err(corrupt("a changed piece of a buffer is cut short"));
            }
            let target = block.get_mut(bit * PIECE..(bit + count) * PIECE);
            let target = target.ok_or_else(|| corrupt("a changed piece lies outside of its buffer"))?;
            target.copy_from_slice(&region[..count * PIECE]);
            bit += count;
        }
        Ok(())
    }
}

/// Returns the place in the log of a block's last change before it reached its own place, of version 5. `None` when the
/// block does not tell, or is of another filesystem.
pub fn written_at(block: &[u8], uuid: &[u8; 16], meta_uuid: &[u8; 16]) -> Option<Lsn> {
    let (lsn, id, expect) = match be32(block, 0) {
        // AB3B, AB3C, IAB3, FIB3, RMB3, R3FC.
        0x4142_3342 | 0x4142_3343 | 0x4941_4233 | 0x4649_4233 | 0x524d_4233 | 0x5233_4643 => (24, 32, meta_uuid),
        // BMA3.
        0x424d_4133 => (32, 40, meta_uuid),
        // XAGF, XAFL, XAGI.
        0x5841_4746 => (208, 64, meta_uuid),
        0x5841_464c => (24, 8, meta_uuid),
        0x5841_4749 => (320, 296, meta_uuid),
        // XSLM.
        0x5853_4c4d => (48, 16, meta_uuid),
        // XDB3, XDD3, XDF3.
        0x5844_4233 | 0x5844_4433 | 0x5844_4633 => (16, 24, meta_uuid),
        // XFSB.
        0x5846_5342 => (240, 32, uuid),
        // Nodes and leaves of a hash index.
        _ if matches!(be16(block, 8), 0x3ebe | 0x3df1 | 0x3dff | 0x3bee) => (24, 32, meta_uuid),
        _ => return None,
    };
    let lsn = be64(block, lsn);
    (block[id..id + 16] == *expect && lsn != 0 && lsn != Lsn::MAX).then_some(lsn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::xfs::log::record::{Operation, flags};
    use crate::fs::xfs::log::transaction::Transactions;

    fn item(map: u32, regions: &[&[u8]]) -> Item {
        let mut format = vec![0x3c, 0x12, 1 + regions.len() as u8, 0, 0, 0, 8, 0];
        format.extend(40_u64.to_le_bytes());
        format.extend(1_u32.to_le_bytes());
        format.extend(map.to_le_bytes());
        let mut all = Transactions::default();
        let mut header = 0x5452_414e_u32.to_le_bytes().to_vec();
        header.resize(16, 0);
        let mut take = |flags, data: &[u8]| all.take(1, &Operation { transaction: 1, flags, data }).expect("is whole");
        take(flags::START, &[]);
        take(0, &header);
        take(0, &format);
        for region in regions {
            take(0, region);
        }
        take(flags::COMMIT, &[]).expect("is whole").items.remove(0)
    }

    #[test]
    fn changed_pieces_are_put_where_the_map_says() {
        let item = item(0b1011, &[&[1; 256], &[2; 128]]);
        let buffer = Buffer::parse(&item).expect("is whole");
        assert_eq!(buffer.place, (40, 8));
        let mut block = vec![0; 512];
        buffer.apply(&mut block).expect("fits");
        assert_eq!(block[..256], [1; 256]);
        assert_eq!(block[256..384], [0; 128]);
        assert_eq!(block[384..], [2; 128]);
        buffer.apply(&mut block[..400]).expect_err("a piece lies outside");
    }
}
