//! Rows of chunks with parity: RAID 4, 5 and 6, in every layout of Linux' MD.
//!
//! The layouts' numbers and names are those of MD (`drivers/md/raid5.h`); the order in which the chunks of a row count for Q
//! begins after Q, but for the layouts of DDF, where a chunk counts by the place of its member.

use super::{Layout, Members, Piece, member};
use crate::error::{Error, Result};
use crate::parity::{galois, xor};

/// Where a row has its chunks.
struct Row {
    /// The member of P.
    p: usize,
    /// The member of Q.
    q: Option<usize>,
    /// The members of the data, in order.
    data: Vec<usize>,
}

/// A layout with parity.
pub struct Parity {
    chunk: u64,
    count: usize,
    parities: usize,
    algorithm: u32,
}

/// Parity on the first member.
pub const PARITY_FIRST: u32 = 4;
/// Parity on the last member.
pub const PARITY_LAST: u32 = 5;

impl Parity {
    /// Makes a layout of `count` members, `parities` (1 or 2) of which hold parity in a row; `algorithm` is MD's number. `None`
    /// for one that there is not.
    pub fn new(chunk: u64, count: usize, parities: usize, algorithm: u32) -> Option<Self> {
        let is_known = match parities {
            1 => algorithm <= 5,
            2 => matches!(algorithm, 0..=5 | 8..=10 | 16..=20),
            _ => false,
        };
        (is_known && chunk > 0 && count > parities).then_some(Self { chunk, count, parities, algorithm })
    }

    /// Returns how many members hold data in a row.
    pub fn data(&self) -> usize {
        self.count - self.parities
    }

    fn row(&self, row: u64) -> Row {
        let count = self.count;
        let from_last = |count: usize, row: u64| count - 1 - (row % count as u64) as usize;
        let from_first = |count: usize| (row % count as u64) as usize;
        // Chunks of data follow a member, round all of `count`, or keep their order beside the parity.
        let after = |start: usize, count: usize| (0..self.data()).map(move |at| (start + at) % count).collect();
        let beside = |p: usize, q: Option<usize>| (0..count).filter(|&at| at != p && Some(at) != q).collect();
        if self.parities == 1 {
            let (p, symmetric) = match self.algorithm {
                0 => (from_last(count, row), false),
                1 => (from_first(count), false),
                2 => (from_last(count, row), true),
                3 => (from_first(count), true),
                PARITY_FIRST => (0, false),
                _ => (count - 1, false),
            };
            let data = if symmetric { after(p + 1, count) } else { beside(p, None) };
            return Row { p, q: None, data };
        }
        let (p, q, data) = match self.algorithm {
            0 => (from_last(count, row), None, None),
            1 | 8 => (from_first(count), None, None),
            2 => (from_last(count, row), None, Some(2)),
            3 => (from_first(count), None, Some(2)),
            PARITY_FIRST => (0, Some(1), None),
            PARITY_LAST => (count - 2, Some(count - 1), None),
            9 => (from_last(count, row + 1), None, None),
            10 => {
                let p = from_last(count, row);
                (p, Some((p + count - 1) % count), Some(1))
            }
            // Those that keep Q on the last member, and rotate P over the others.
            16 | 18 => (from_last(count - 1, row), Some(count - 1), None),
            17 | 19 => (from_first(count - 1), Some(count - 1), None),
            _ => (0, Some(count - 1), None),
        };
        let q = q.unwrap_or((p + 1) % count);
        let data = match (data, self.algorithm) {
            (Some(distance), _) => after(p + distance, count),
            (None, 18 | 19) => after(p + 1, count - 1),
            (None, _) => beside(p, Some(q)),
        };
        Row { p, q: Some(q), data }
    }

    /// Returns which power of 2 the chunk of a member counts as in Q.
    fn power(&self, row: &Row, index: usize) -> u8 {
        let Some(q) = row.q else { return 1 };
        if matches!(self.algorithm, 8..=10) {
            return galois::power(index);
        }
        let mut power = 0;
        for step in 1..=self.count {
            let at = (q + step) % self.count;
            if at == index {
                break;
            }
            if at != row.p && at != q {
                power += 1;
            }
        }
        galois::power(power)
    }

    /// Adds up a row without the members in `without`: the sum for P and that for Q, each with the parity itself.
    fn sums(
        &self,
        members: &Members,
        row: &Row,
        offset: u64,
        without: &[usize],
        len: usize,
        with: (bool, bool),
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut p_sum, mut q_sum, mut bytes) = (vec![0; len], vec![0; len], vec![0; len]);
        for &index in row.data.iter().filter(|index| !without.contains(index)) {
            member(members, index)?.read_at(&mut bytes, offset)?;
            xor(&mut p_sum, &bytes);
            if with.1 {
                galois::xor_times(&mut q_sum, &bytes, self.power(row, index));
            }
        }
        if with.0 {
            member(members, row.p)?.read_at(&mut bytes, offset)?;
            xor(&mut p_sum, &bytes);
        }
        if let Some(q) = row.q.filter(|_| with.1) {
            member(members, q)?.read_at(&mut bytes, offset)?;
            xor(&mut q_sum, &bytes);
        }
        Ok((p_sum, q_sum))
    }
}

impl Layout for Parity {
    fn piece(&self, offset: u64) -> Piece {
        let chunk = offset / self.chunk;
        let row = chunk / self.data() as u64;
        let unit = (chunk % self.data() as u64) as usize;
        let in_chunk = offset % self.chunk;
        Piece { member: self.row(row).data[unit], offset: row * self.chunk + in_chunk, len: self.chunk - in_chunk }
    }

    fn recover(&self, members: &Members, _: u64, piece: &Piece, buf: &mut [u8]) -> Result<()> {
        let row = self.row(piece.offset / self.chunk);
        let (own, len) = (piece.member, buf.len());
        // P alone, where every other member of the row can be read.
        if let Ok((sum, _)) = self.sums(members, &row, piece.offset, &[own], len, (true, false)) {
            buf.copy_from_slice(&sum);
            return Ok(());
        }
        if row.q.is_none() {
            return Err(Error::corrupt("array", "more members are missing than parity makes up for"));
        }
        // Q alone, where P is what is missing too.
        if let Ok((_, mut sum)) = self.sums(members, &row, piece.offset, &[own], len, (false, true)) {
            galois::scale(&mut sum, galois::inverse(self.power(&row, own)));
            buf.copy_from_slice(&sum);
            return Ok(());
        }
        // Both, where another member of the data is missing too.
        for &other in row.data.iter().filter(|&&other| other != own) {
            let Ok((p_sum, mut q_sum)) = self.sums(members, &row, piece.offset, &[own, other], len, (true, true))
            else {
                continue;
            };
            // p_sum = D + X and q_sum = g^d D + g^x X, so D = (q_sum + g^x p_sum) / (g^d + g^x).
            let (own_power, other_power) = (self.power(&row, own), self.power(&row, other));
            galois::xor_times(&mut q_sum, &p_sum, other_power);
            galois::scale(&mut q_sum, galois::inverse(own_power ^ other_power));
            buf.copy_from_slice(&q_sum);
            return Ok(());
        }
        Err(Error::corrupt("array", "more members are missing than parity makes up for"))
    }
}
