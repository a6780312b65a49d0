//! Floor 1: disk images as random-access bytes.

mod archive;
pub mod convert;
mod describe;
mod difference;
mod distant;
mod ewf;
pub(crate) mod fresh;
pub mod lock;
mod memory;
pub mod nbd;
mod open;
mod probe;
pub mod qcow2;
mod raw;
pub mod references;
mod runs;
mod scratch;
mod sectors;
mod slice;
mod split;
mod vhd;
mod vhdx;
mod windows;

pub use describe::{ChainLink, Container, ImageInfo, describe};
pub use memory::MemoryDevice;
pub use open::{OpenImage, OpenOptions, Via, is_remote, open, open_with_overlay};
pub use probe::{ImageFormat, PROBE_LENGTH, TRAILER_LENGTH};
pub use raw::RawDevice;
pub use runs::RunCache;
pub(crate) use scratch::ScratchDevice;
pub use slice::SliceDevice;

use crate::error::{Error, Result};
use std::sync::Arc;

/// A device that is shared by the volumes and filesystems made of it.
pub type SharedDevice = Arc<dyn BlockDevice>;

/// What a range of a device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes that are stored.
    Data,
    /// Reads as zeroes, but has space of its own in the image.
    Zero,
    /// Reads as zeroes and takes no space in the image.
    Hole,
}

/// A range of a device and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it ends, in bytes from the device's beginning; past the offset that was asked for.
    pub end: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// Random-access bytes: an image, a partition of it, or a device made of others.
///
/// Everything is `&self` and is called from many threads at once. Offsets and lengths are bytes and need no alignment.
pub trait BlockDevice: Send + Sync {
    /// Returns the size, in bytes.
    fn size(&self) -> u64;

    /// Says whether writing is refused.
    fn is_read_only(&self) -> bool {
        true
    }

    /// Returns the sector size that the device tells its guest, in bytes: 512 or 4096.
    fn sector_size(&self) -> u32 {
        512
    }

    /// Reads exactly `buf.len()` bytes at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`] when the host fails or the range passes the end; [`Error::Corrupt`] when the image is damaged there.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `buf` at `offset`. It is durable after the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// `EROFS` on a device that is open for reading, [`Error::Io`] when the host fails or the range passes the end.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let _ = (buf, offset);
        Err(Error::Errno(libc::EROFS))
    }

    /// Makes every write that has returned durable.
    ///
    /// # Errors
    /// [`Error::Io`] when the host fails; what was written before may then be lost.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    /// Makes a range read as zeroes; it keeps its space where `keep_space` is set, and may give it back elsewhere.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        let _ = keep_space;
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeroes.len() as u64);
            self.write_at(&zeroes[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Gives the space of a range back to the host where that is possible. What it reads as afterwards is not defined.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at); that a device cannot discard is not an error.
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let _ = (offset, len);
        Ok(())
    }

    /// Returns what lies at `offset` and how far it goes, at most to `offset + len`. `offset + len` lies in the device.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { end: offset + len, kind: ExtentKind::Data })
    }

    /// Hints that a range will be read soon; returns at once.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// Fills `buf` from a device, past whose end there are zeroes.
///
/// # Errors
/// Those of reading.
pub(crate) fn read_padded(device: &dyn BlockDevice, buf: &mut [u8], offset: u64) -> Result<()> {
    let inside = device.size().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (inside, past) = buf.split_at_mut(inside);
    past.fill(0);
    if inside.is_empty() { Ok(()) } else { device.read_at(inside, offset) }
}

/// Checks that a range lies within a device of `size` bytes.
///
/// # Errors
/// [`Error::Io`] (unexpected end of file) when it does not.
pub(crate) fn check_range(size: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::io(
            format!("{len} bytes at {offset} pass the end of a device of {size} bytes"),
            std::io::ErrorKind::UnexpectedEof.into(),
        )),
    }
}
