//! Chunks with copies on other members: near each other, far away, or in the next row.
//!
//! The arithmetic is that of MD's RAID 10 (md(4), "RAID10").

use super::{Layout, Members, Piece, member};
use crate::error::{Error, Result};

/// A layout of RAID 10.
pub struct Raid10 {
    chunk: u64,
    count: u64,
    near: u64,
    far: u64,
    /// Whether far copies lie in the next row.
    offset: bool,
    /// Within how many members far copies are moved on.
    set: u64,
    /// How far the far copies lie behind each other on a member, in bytes.
    stride: u64,
    size: u64,
}

impl Raid10 {
    /// Makes a layout of MD's number, on `count` members of `member_size` bytes each. `None` for one that there is not.
    pub fn new(chunk: u64, count: usize, layout: u32, member_size: u64) -> Option<Self> {
        let count = count as u64;
        let (near, far) = (u64::from(layout & 0xff), u64::from(layout >> 8 & 0xff));
        let offset = layout & 1 << 16 != 0;
        if chunk == 0 || near == 0 || far == 0 || layout >> 19 != 0 || near * far > count {
            return None;
        }
        let set = match layout >> 17 {
            0 => count,
            1 => count / far,
            2 => near * far,
            _ => return None,
        };
        // A set that does not divide the members has a larger last one, which MD makes in no released tool.
        if set == 0 || !count.is_multiple_of(set) {
            return None;
        }
        let chunks = (member_size / chunk / far).checked_mul(count)? / near;
        let used = chunks.checked_mul(near * far)?.div_ceil(count);
        let stride = if offset { chunk } else { (used / far).checked_mul(chunk)? };
        Some(Self { chunk, count, near, far, offset, set, stride, size: chunks.checked_mul(chunk)? })
    }

    /// Returns the size of the whole, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Says whether every chunk has a copy on a member that is there. The pattern of members repeats with the rows.
    pub fn can_do_without(&self, members: &Members) -> bool {
        let chunks = (self.size / self.chunk).min(self.count);
        (0..chunks).all(|chunk| self.copies(chunk * self.chunk).any(|piece| members[piece.member].is_some()))
    }

    /// Returns the place of every copy of an offset, the first one first.
    fn copies(&self, offset: u64) -> impl Iterator<Item = Piece> + '_ {
        let in_chunk = offset % self.chunk;
        let first = offset / self.chunk * self.near;
        (0..self.near).flat_map(move |near| {
            let at = first + near;
            let (mut row, mut index) = (first / self.count, at % self.count);
            if self.offset {
                row *= self.far;
            }
            // Near copies that pass the last member go on in the next row.
            row += at / self.count - first / self.count;
            let start = row * self.chunk + in_chunk;
            (0..self.far).map(move |far| {
                if far > 0 {
                    let set = index / self.set * self.set;
                    index = set + (index - set + self.near) % self.set;
                }
                Piece { member: index as usize, offset: start + far * self.stride, len: self.chunk - in_chunk }
            })
        })
    }
}

impl Layout for Raid10 {
    fn piece(&self, offset: u64) -> Piece {
        self.copies(offset).next().expect("there is one near and one far copy at least")
    }

    fn recover(&self, members: &Members, offset: u64, _: &Piece, buf: &mut [u8]) -> Result<()> {
        for piece in self.copies(offset).skip(1) {
            if member(members, piece.member).and_then(|member| member.read_at(buf, piece.offset)).is_ok() {
                return Ok(());
            }
        }
        Err(Error::corrupt("array", "every copy is missing"))
    }
}
