//! Devices that are put together of others by arithmetic: stripes, copies, parity. MD and LVM share them.
//!
//! A [`Layout`] says where an offset lies, and how else its bytes can be had when that member is missing or fails.

pub mod concat;
pub mod mirror;
pub mod parity;
pub mod raid10;
pub mod stripes;

use crate::block::{BlockDevice, Extent, SharedDevice, check_range};
use crate::error::{Error, Result};

/// The members of an array in the order of their roles; none for one that is missing.
pub type Members = Vec<Option<SharedDevice>>;

/// Where an offset of the array lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The member.
    pub member: usize,
    /// The offset in the member, in bytes.
    pub offset: u64,
    /// How many bytes lie there in one piece; never 0.
    pub len: u64,
}

/// How an array is spread over its members.
pub trait Layout: Send + Sync {
    /// Returns where an offset below the array's size lies.
    fn piece(&self, offset: u64) -> Piece;

    /// Reads a piece without the member that it lies on.
    ///
    /// # Errors
    /// Those of the other members, and where there is no other way.
    fn recover(&self, members: &Members, offset: u64, piece: &Piece, buf: &mut [u8]) -> Result<()>;

    /// Says whether a write of each piece to its member is all that a write takes.
    fn is_plain(&self) -> bool {
        false
    }
}

/// A device of members and a layout.
pub struct Array<L> {
    members: Members,
    layout: L,
    size: u64,
    sector_size: u32,
}

impl<L: Layout> Array<L> {
    /// Makes a device of `size` bytes.
    pub fn new(members: Members, layout: L, size: u64) -> Self {
        let sector_size = members.iter().flatten().map(|member| member.sector_size()).max().unwrap_or(512);
        Self { members, layout, size, sector_size }
    }

    fn piece(&self, offset: u64, len: u64) -> Piece {
        let piece = self.layout.piece(offset);
        Piece { len: piece.len.clamp(1, len), ..piece }
    }

    /// Calls `each` with every piece of a range, and where in the range it begins.
    fn each(&self, offset: u64, len: u64, mut each: impl FnMut(&Piece, u64) -> Result<()>) -> Result<()> {
        let mut done = 0;
        while done < len {
            let piece = self.piece(offset + done, len - done);
            each(&piece, done)?;
            done += piece.len;
        }
        Ok(())
    }

    fn writable(&self, piece: &Piece) -> Result<&SharedDevice> {
        if !self.layout.is_plain() {
            return Err(Error::Errno(libc::EROFS));
        }
        member(&self.members, piece.member)
    }
}

/// Returns a member that is there.
///
/// # Errors
/// [`Error::Corrupt`] for one that is missing.
pub fn member(members: &Members, index: usize) -> Result<&SharedDevice> {
    members
        .get(index)
        .and_then(Option::as_ref)
        .ok_or_else(|| Error::corrupt("array", format!("member {index} is missing, and nothing stands in for it")))
}

impl<L: Layout> BlockDevice for Array<L> {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        let refuses = |member: &Option<SharedDevice>| member.as_ref().is_none_or(|member| member.is_read_only());
        !self.layout.is_plain() || self.members.iter().any(refuses)
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.each(offset, buf.len() as u64, |piece, done| {
            let buf = &mut buf[done as usize..(done + piece.len) as usize];
            let own = member(&self.members, piece.member).and_then(|member| member.read_at(buf, piece.offset));
            match own {
                Ok(()) => Ok(()),
                // What the member said tells more than that there is no other way.
                Err(error) => self.layout.recover(&self.members, offset + done, piece, buf).map_err(|_| error),
            }
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.each(offset, buf.len() as u64, |piece, done| {
            self.writable(piece)?.write_at(&buf[done as usize..(done + piece.len) as usize], piece.offset)
        })
    }

    fn flush(&self) -> Result<()> {
        self.members.iter().flatten().try_for_each(|member| member.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.each(offset, len, |piece, _| self.writable(piece)?.write_zeroes(piece.offset, piece.len, keep_space))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.size, offset, len)?;
        self.each(offset, len, |piece, _| self.writable(piece)?.discard(piece.offset, piece.len))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        let piece = self.piece(offset, len);
        match member(&self.members, piece.member) {
            Ok(member) => {
                let extent = member.map(piece.offset, piece.len)?;
                Ok(Extent { end: offset + (extent.end - piece.offset).min(piece.len), kind: extent.kind })
            }
            Err(_) => Ok(Extent { end: offset + piece.len, kind: crate::block::ExtentKind::Data }),
        }
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if check_range(self.size, offset, len).is_err() {
            return;
        }
        // Prefetching never fails, so there is no error to pass on.
        let _ = self.each(offset, len, |piece, _| {
            if let Some(Some(member)) = self.members.get(piece.member) {
                member.prefetch(piece.offset, piece.len);
            }
            Ok(())
        });
    }
}
