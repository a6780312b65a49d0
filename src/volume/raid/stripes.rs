//! Chunks that go round the members. Members may differ in size: where the smallest ends, a zone of the others follows.

use super::{Layout, Members, Piece};
use crate::error::{Error, Result};

/// Where a chunk of a zone after the first begins its round, which Linux changed in 3.14.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounds {
    /// Chunks are counted from the beginning of the array.
    OfArray,
    /// Chunks are counted from the beginning of the zone.
    OfZone,
}

struct Zone {
    /// Where it ends in the array, in bytes.
    end: u64,
    /// Where it begins on each member, in bytes.
    member_start: u64,
    /// The members that take part.
    members: Vec<usize>,
}

/// A striped layout.
pub struct Stripes {
    chunk: u64,
    rounds: Rounds,
    zones: Vec<Zone>,
}

impl Stripes {
    /// Makes a layout of chunks of `chunk` bytes, which is not 0, on members of these sizes, in bytes.
    pub fn new(chunk: u64, sizes: &[u64], rounds: Rounds) -> Self {
        let whole: Vec<u64> = sizes.iter().map(|size| size / chunk * chunk).collect();
        let mut zones: Vec<Zone> = Vec::new();
        let mut done = 0;
        loop {
            let members: Vec<usize> = (0..whole.len()).filter(|&index| whole[index] > done).collect();
            let Some(next) = members.iter().map(|&index| whole[index]).min() else { break };
            let start = zones.last().map_or(0, |zone| zone.end);
            let Some(end) = (next - done).checked_mul(members.len() as u64).and_then(|len| start.checked_add(len))
            else {
                break;
            };
            zones.push(Zone { end, member_start: done, members });
            done = next;
        }
        Self { chunk, rounds, zones }
    }

    /// Returns the size of the whole, in bytes.
    pub fn size(&self) -> u64 {
        self.zones.last().map_or(0, |zone| zone.end)
    }

    /// Returns how many zones there are.
    pub fn zones(&self) -> usize {
        self.zones.len()
    }
}

impl Layout for Stripes {
    fn piece(&self, offset: u64) -> Piece {
        let at = self.zones.partition_point(|zone| zone.end <= offset);
        let zone = &self.zones[at];
        let within = offset - if at == 0 { 0 } else { self.zones[at - 1].end };
        let count = zone.members.len() as u64;
        let chunk = within / self.chunk;
        let turn = match self.rounds {
            Rounds::OfArray => offset / self.chunk,
            Rounds::OfZone => chunk,
        };
        let in_chunk = within % self.chunk;
        Piece {
            member: zone.members[(turn % count) as usize],
            offset: zone.member_start + chunk / count * self.chunk + in_chunk,
            len: self.chunk - in_chunk,
        }
    }

    fn recover(&self, _: &Members, _: u64, piece: &Piece, _: &mut [u8]) -> Result<()> {
        Err(Error::corrupt("array", format!("member {} is missing", piece.member)))
    }

    fn is_plain(&self) -> bool {
        true
    }
}
