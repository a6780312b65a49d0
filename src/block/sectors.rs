//! Disks in blocks, of which a block may be here in parts: what VHD and VHDX have in common.

use super::BlockDevice;
use crate::error::Result;

/// Calls `read` for what of each block a range holds: a part of `buf`, and where that lies on the disk.
///
/// # Errors
/// Those of `read`.
pub(super) fn in_blocks(
    buf: &mut [u8],
    offset: u64,
    block: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<()> {
    let (mut rest, mut at) = (buf, offset);
    while !rest.is_empty() {
        let count = (block - at % block).min(rest.len() as u64);
        let (piece, after) = rest.split_at_mut(count as usize);
        read(piece, at)?;
        (rest, at) = (after, at + count);
    }
    Ok(())
}

/// Which sectors of a block are here.
pub(super) struct Bitmap<'a> {
    pub device: &'a dyn BlockDevice,
    /// Where the block's bits begin, in bytes.
    pub at: u64,
    /// The size of a sector, in bytes.
    pub sector: u64,
    /// Returns the bit of a sector, whose number in its byte is given.
    pub bit: fn(u64) -> u8,
}

impl Bitmap<'_> {
    /// Calls `read` for what of a block a range holds, from byte `within` of it on: whether that is here, a part of `buf`, and
    /// where that lies in the block. Sectors of one side that follow each other are one call.
    ///
    /// # Errors
    /// Those of `read`, and of reading the bits.
    pub(super) fn split(
        &self,
        buf: &mut [u8],
        within: u64,
        mut read: impl FnMut(bool, &mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        let Self { device, at: bits_at, sector, bit } = *self;
        let first = within / sector;
        let last = (within + buf.len() as u64 - 1) / sector;
        let mut bits = vec![0; (last / 8 - first / 8 + 1) as usize];
        device.read_at(&mut bits, bits_at + first / 8)?;
        let is_here = |sector: u64| bits[(sector / 8 - first / 8) as usize] & bit(sector % 8) != 0;
        let (mut from, mut at, mut rest) = (first, within, buf);
        while !rest.is_empty() {
            let mut end = from + 1;
            while end <= last && is_here(end) == is_here(from) {
                end += 1;
            }
            let count = (end * sector - at).min(rest.len() as u64);
            let (piece, after) = rest.split_at_mut(count as usize);
            read(is_here(from), piece, at)?;
            (rest, at, from) = (after, at + count, end);
        }
        Ok(())
    }
}
