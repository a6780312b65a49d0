//! Contents of files: reading, seeking for data and holes, and the short contents that lie in the inode itself.

use super::inode::{BLOCK_AREA, Inode, flag};
use super::mapping::Place;
use super::volume::Volume;
use super::xattr::{self, Entries, Value, index};
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::seek;
use std::borrow::Cow;

/// `ENOKEY`, which refuses contents of an encrypted file.
const NO_KEY: i32 = libc::ENOKEY;

impl Volume {
    /// Reads contents of a file from `offset` on; returns how many bytes. They end at the inode's size.
    ///
    /// # Errors
    /// `ENOKEY` for an encrypted file, [`Error::Corrupt`] for a damaged tree, and those of reading.
    pub(crate) fn read(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if inode.has_flag(flag::ENCRYPT) && inode.file_type() == FileType::Regular {
            return Err(Error::Errno(NO_KEY));
        }
        let count = inode.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        if inode.is_inline() {
            self.read_inline(inode, offset, buf)?;
        } else {
            self.read_blocks(inode, offset, buf)?;
        }
        Ok(count)
    }

    fn read_inline(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<()> {
        let rest = inline_rest(inode)?;
        buf.fill(0);
        // The offset lies before the size, or the buffer is empty.
        let mut start = 0_u64;
        for part in [&inode.block[..], rest] {
            let end = start + part.len() as u64;
            let (from, to) = (offset.max(start), end.min(offset.saturating_add(buf.len() as u64)));
            if from < to {
                let piece = &part[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..][..piece.len()].copy_from_slice(piece);
            }
            start = end;
        }
        Ok(())
    }

    /// Reads blocks of a file, whatever its size and kind, with one read of the device for each run of blocks.
    fn read_blocks(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<()> {
        let bits = self.superblock.block_bits();
        let end = offset + buf.len() as u64;
        let mut at = offset;
        while at < end {
            let first = at >> bits;
            let mut stretch = self.stretch(inode, first)?;
            let wanted = end.div_ceil(1 << bits);
            if let Place::Block(block) = stretch.place {
                // Extents that happen to follow each other on the device are one read too.
                while stretch.end < wanted {
                    let next = self.stretch(inode, stretch.end)?;
                    if next.place != Place::Block(block + (stretch.end - first)) {
                        break;
                    }
                    stretch.end = next.end;
                }
            }
            let to = if stretch.end >= wanted { end } else { stretch.end << bits };
            let piece = &mut buf[(at - offset) as usize..(to - offset) as usize];
            match stretch.place {
                Place::Hole | Place::Unwritten(_) => piece.fill(0),
                Place::Block(block) => self.meta.read_data(piece, (block << bits) + (at & ((1 << bits) - 1)))?,
            }
            at = to;
        }
        Ok(())
    }

    /// Returns the whole contents of a short file: a symbolic link's text or an attribute's value.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is longer than `limit` bytes, and those of [`read`](Self::read).
    pub(crate) fn read_whole(&self, inode: &Inode, limit: usize) -> Result<Vec<u8>> {
        if inode.size > limit as u64 {
            let detail = format!("{} bytes are more than such a file may have", inode.size);
            return Err(Error::corrupt(format!("inode {}", inode.ino), detail));
        }
        let mut bytes = vec![0; inode.size as usize];
        if inode.is_inline() {
            self.read_inline(inode, 0, &mut bytes)?;
        } else if inode.is_fast_symlink() {
            bytes.copy_from_slice(&inode.block[..inode.size as usize]);
        } else {
            self.read_blocks(inode, 0, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// Finds data or a hole from `offset` on, as `SEEK_DATA` and `SEEK_HOLE` do.
    ///
    /// # Errors
    /// Those of [`seek::find`] and of a damaged tree.
    pub(crate) fn seek(&self, inode: &Inode, offset: u64, want_data: bool) -> Result<u64> {
        let bits = self.superblock.block_bits();
        seek::find(offset, inode.size, want_data, |at| {
            if inode.is_inline() {
                return Ok(seek::Stretch { end: inode.size, data: true });
            }
            let stretch = self.stretch(inode, at >> bits)?;
            let end = if stretch.end >= 1 << (63 - bits) { u64::MAX } else { stretch.end << bits };
            Ok(seek::Stretch { end, data: matches!(stretch.place, Place::Block(_)) })
        })
    }

    /// Calls `visit` with each run of data in a range of a file, as offset and length on the device in bytes, until it
    /// returns `false` or `limit` runs were found.
    ///
    /// # Errors
    /// Those of a damaged tree.
    pub(crate) fn data_runs(
        &self,
        inode: &Inode,
        offset: u64,
        len: u64,
        limit: usize,
        mut visit: impl FnMut(u64, u64) -> bool,
    ) -> Result<()> {
        let bits = self.superblock.block_bits();
        let end = offset.saturating_add(len).min(inode.size).div_ceil(1 << bits);
        let mut at = offset >> bits;
        for _ in 0..limit {
            if at >= end || inode.is_inline() {
                break;
            }
            let stretch = self.stretch(inode, at)?;
            let to = stretch.end.min(end);
            if let Place::Block(block) = stretch.place
                && !visit(block << bits, (to - at) << bits)
            {
                break;
            }
            at = to;
        }
        Ok(())
    }
}

/// Returns what of inline contents does not fit `i_block`.
///
/// # Errors
/// [`Error::Corrupt`] for damaged attributes, or contents longer than the space for them.
pub(crate) fn inline_rest(inode: &Inode) -> Result<&[u8]> {
    for entry in Entries::in_inode(inode.ino, &inode.tail) {
        let entry = entry?;
        if entry.index == index::SYSTEM && entry.name == xattr::INLINE_DATA {
            return match entry.value {
                Value::Here(value) => Ok(value),
                Value::Inode { .. } => {
                    Err(Error::corrupt(format!("inode {}", inode.ino), "its inline data lies in another inode"))
                }
            };
        }
    }
    if inode.size > BLOCK_AREA as u64 {
        return Err(Error::corrupt(format!("inode {}", inode.ino), "its inline data is missing"));
    }
    Ok(&[])
}

/// Returns the two stretches of entries that an inline directory has: in `i_block` after the parent's number, and the
/// rest.
///
/// # Errors
/// As [`inline_rest`].
pub(crate) fn inline_dir(inode: &Inode) -> Result<[Cow<'_, [u8]>; 2]> {
    Ok([Cow::Borrowed(&inode.block[4..]), Cow::Borrowed(inline_rest(inode)?)])
}

/// Says whether an inode is a regular file whose contents lie in blocks, as a journal's are.
pub(crate) fn is_plain_file(inode: &Inode) -> bool {
    inode.file_type() == FileType::Regular && !inode.is_inline() && !inode.has_flag(flag::ENCRYPT)
}
