//! Where a qcow2 image's own bytes lie: a file that may grow, or a device of a fixed size.

use crate::block::{Extent, ExtentKind, SharedDevice, read_padded};
use crate::error::{IoContext, Result};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// The bytes that hold an image: host offsets in, bytes out. Offsets and lengths are bytes.
pub trait Storage: Send + Sync {
    /// Returns the present size.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails.
    fn size(&self) -> Result<u64>;

    /// Fills `buf` from `offset`; what lies past the end reads as zeroes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// Writes all of `buf` at `offset`, and grows where need be.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails, `ENOSPC` among it.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()>;

    /// Gives the space of a range back to the host where that is possible.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes durable all that was written before.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the host fails; what was written before may then be lost.
    fn sync(&self) -> Result<()>;

    /// Returns what lies at `offset`, at most to `offset + len`.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        Ok(Extent { end: offset.saturating_add(len), kind: ExtentKind::Data })
    }

    /// Hints that a range will be read soon; returns at once.
    fn prefetch(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// An image in a file or on a block device of the host.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    name: String,
}

impl FileStorage {
    /// Makes a storage of an open file. `name` is what messages call it.
    pub fn new(file: File, name: impl Into<String>) -> Self {
        Self { file, name: name.into() }
    }
}

impl Storage for FileStorage {
    fn size(&self) -> Result<u64> {
        // The end of a block device is found by seeking; its metadata says 0.
        let size = lseek(&self.file, 0, Whence::SeekEnd).doing(|| format!("cannot tell the size of {}", self.name))?;
        Ok(size.cast_unsigned())
    }

    fn read_at(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                Ok(0) => {
                    buf.fill(0);
                    break;
                }
                Ok(count) => {
                    buf = &mut buf[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(error)
                        .doing(|| format!("cannot read {} bytes of {} at {offset}", buf.len(), self.name));
                }
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(buf, offset)
            .doing(|| format!("cannot write {} bytes of {} at {offset}", buf.len(), self.name))
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, mode, offset.cast_signed(), len.cast_signed()) {
            Ok(()) | Err(nix::Error::EOPNOTSUPP | nix::Error::ENODEV | nix::Error::EINVAL) => Ok(()),
            Err(errno) => Err(errno).doing(|| format!("cannot discard {len} bytes of {}", self.name)),
        }
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().doing(|| format!("cannot flush {}", self.name))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        let end = offset.saturating_add(len);
        // The file's own offset moves, which nothing else uses: every read and write names its place.
        let data = match lseek(self.file.as_fd(), offset.cast_signed(), Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            Err(nix::Error::ENXIO) => return Ok(Extent { end, kind: ExtentKind::Hole }),
            Err(_) => return Ok(Extent { end, kind: ExtentKind::Data }),
        };
        if data > offset {
            return Ok(Extent { end: data.min(end), kind: ExtentKind::Hole });
        }
        let hole = lseek(self.file.as_fd(), offset.cast_signed(), Whence::SeekHole).map_or(end, i64::cast_unsigned);
        Ok(Extent { end: if hole > offset { hole.min(end) } else { end }, kind: ExtentKind::Data })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A hint: what the system answers changes nothing.
        let _ =
            posix_fadvise(&self.file, offset.cast_signed(), len.cast_signed(), PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    }
}

/// An image on another device, which cannot grow.
pub struct DeviceStorage {
    device: SharedDevice,
}

impl DeviceStorage {
    /// Makes a storage of a device.
    pub fn new(device: SharedDevice) -> Self {
        Self { device }
    }
}

impl Storage for DeviceStorage {
    fn size(&self) -> Result<u64> {
        Ok(self.device.size())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        read_padded(&*self.device, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.device.write_at(buf, offset)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let len = self.device.size().saturating_sub(offset).min(len);
        if len == 0 { Ok(()) } else { self.device.discard(offset, len) }
    }

    fn sync(&self) -> Result<()> {
        self.device.flush()
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        let inside = self.device.size().saturating_sub(offset).min(len);
        if inside == 0 {
            return Ok(Extent { end: offset.saturating_add(len), kind: ExtentKind::Hole });
        }
        self.device.map(offset, inside)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        let len = self.device.size().saturating_sub(offset).min(len);
        if len > 0 {
            self.device.prefetch(offset, len);
        }
    }
}
