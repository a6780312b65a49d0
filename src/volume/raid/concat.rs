//! One device after another: linear arrays, the segments of a logical volume.

use super::{Layout, Members, Piece, member};
use crate::error::Result;

/// A range of the whole, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it ends in the whole, in bytes.
    pub end: u64,
    /// The member.
    pub member: usize,
    /// Where it begins in the member, in bytes.
    pub offset: u64,
}

/// Parts that follow each other.
pub struct Concat {
    parts: Vec<Part>,
}

impl Concat {
    /// Makes a layout of parts in the order of their ends; empty ones are left out.
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut kept: Vec<Part> = Vec::new();
        for part in parts {
            let start = kept.last().map_or(0, |last| last.end);
            if part.end <= start {
                continue;
            }
            // Parts that lie next to each other are one, so that a read of both is one.
            if let [.., before, last] = kept.as_mut_slice() {
                let start = before.end;
                if last.member == part.member && last.offset.checked_add(last.end - start) == Some(part.offset) {
                    last.end = part.end;
                    continue;
                }
            }
            kept.push(part);
        }
        Self { parts: kept }
    }

    /// Returns the size of the whole, in bytes.
    pub fn size(&self) -> u64 {
        self.parts.last().map_or(0, |last| last.end)
    }
}

impl Layout for Concat {
    fn piece(&self, offset: u64) -> Piece {
        let at = self.parts.partition_point(|part| part.end <= offset);
        let part = &self.parts[at];
        let start = if at == 0 { 0 } else { self.parts[at - 1].end };
        Piece { member: part.member, offset: part.offset + (offset - start), len: part.end - offset }
    }

    fn recover(&self, members: &Members, _: u64, piece: &Piece, _: &mut [u8]) -> Result<()> {
        member(members, piece.member).map(drop).and(Err(crate::error::Error::Errno(libc::EIO)))
    }

    fn is_plain(&self) -> bool {
        true
    }
}
