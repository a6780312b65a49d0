//! Reading a device of which other devices hold parts: a snapshot over its origin, a cache before it.

use crate::block::{Extent, SharedDevice, check_range};
use crate::error::Result;

/// A device, an offset on it, and how many bytes lie there in one piece.
pub(super) type Piece<'a> = (&'a SharedDevice, u64, u64);

/// Fills `buf` from the pieces that `piece` tells of an offset and a length, on a device of `size` bytes.
///
/// # Errors
/// Those of the devices; [`Error::Io`](crate::Error::Io) past the end.
pub(super) fn read<'a>(size: u64, piece: impl Fn(u64, u64) -> Piece<'a>, buf: &mut [u8], offset: u64) -> Result<()> {
    check_range(size, offset, buf.len() as u64)?;
    let mut done = 0;
    while done < buf.len() {
        let (device, at, len) = piece(offset + done as u64, (buf.len() - done) as u64);
        device.read_at(&mut buf[done..done + len as usize], at)?;
        done += len as usize;
    }
    Ok(())
}

/// Returns what lies at `offset`, at most to `offset + len`, on a device of `size` bytes.
///
/// # Errors
/// As [`read`].
pub(super) fn map<'a>(size: u64, piece: impl Fn(u64, u64) -> Piece<'a>, offset: u64, len: u64) -> Result<Extent> {
    check_range(size, offset, len)?;
    let (device, at, len) = piece(offset, len);
    let extent = device.map(at, len)?;
    Ok(Extent { end: offset + (extent.end - at), kind: extent.kind })
}
