//! Raw images: files and block devices, read by `pread`.

use super::{BlockDevice, Extent, ExtentKind, check_range};
use crate::error::{Error, IoContext, Result};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An open file or block device.
#[derive(Debug)]
pub struct RawDevice {
    file: File,
    path: PathBuf,
    size: u64,
    read_only: bool,
    discard: bool,
}

impl RawDevice {
    /// Opens a file or a block device.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be opened or its size cannot be told.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        let file = File::options()
            .read(true)
            .write(writable)
            .open(path)
            .doing(|| format!("cannot open {}", path.display()))?;
        Self::from_file(file, path, !writable)
    }

    /// Makes a device of a file that is open. `path` is what messages call it.
    ///
    /// # Errors
    /// [`Error::Io`] when its size cannot be told.
    pub fn from_file(file: File, path: &Path, read_only: bool) -> Result<Self> {
        // The end of a block device is found by seeking; its metadata says 0.
        let size = lseek(&file, 0, Whence::SeekEnd).doing(|| format!("cannot tell the size of {}", path.display()))?;
        Ok(Self { file, path: path.to_owned(), size: size.cast_unsigned(), read_only, discard: true })
    }

    /// Says whether discards give space back to the host, which they do at first, or do nothing.
    #[must_use]
    pub fn with_discard(self, discard: bool) -> Self {
        Self { discard, ..self }
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn fallocate(&self, mode: FallocateFlags, offset: u64, len: u64) -> nix::Result<()> {
        fallocate(&self.file, mode, offset.cast_signed(), len.cast_signed())
    }
}

impl BlockDevice for RawDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buf, offset)
            .doing(|| format!("cannot read {} bytes of {} at {offset}", buf.len(), self.path.display()))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        if self.read_only {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.size, offset, buf.len() as u64)?;
        self.file
            .write_all_at(buf, offset)
            .doing(|| format!("cannot write {} bytes of {} at {offset}", buf.len(), self.path.display()))
    }

    fn flush(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data().doing(|| format!("cannot flush {}", self.path.display()))
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        if self.read_only {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.size, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | keep_size;
        let zero = FallocateFlags::FALLOC_FL_ZERO_RANGE | keep_size;
        if !keep_space && self.fallocate(punch, offset, len).is_ok() {
            return Ok(());
        }
        if self.fallocate(zero, offset, len).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; len.min(1 << 20) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeroes.len() as u64);
            self.write_at(&zeroes[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        if self.read_only {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.size, offset, len)?;
        if len > 0 && self.discard {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match self.fallocate(mode, offset, len) {
                Ok(()) | Err(nix::Error::EOPNOTSUPP | nix::Error::ENODEV) => {}
                Err(errno) => {
                    return Err(Error::io(
                        format!("cannot discard {len} bytes of {}", self.path.display()),
                        errno.into(),
                    ));
                }
            }
        }
        Ok(())
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.size, offset, len)?;
        let end = offset + len;
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
        Ok(Extent { end: hole.clamp(offset + 1, end.max(offset + 1)), kind: ExtentKind::Data })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        // A hint: what the system answers changes nothing.
        let _ =
            posix_fadvise(&self.file, offset.cast_signed(), len.cast_signed(), PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn holes_of_the_file_are_holes_of_the_device() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&[1; 65536]).expect("data");
        file.as_file().set_len(1 << 20).expect("a hole");
        let device = RawDevice::open(file.path(), false).expect("opens");
        assert_eq!(device.size(), 1 << 20);
        let first = device.map(0, 1 << 20).expect("maps");
        assert_eq!(first.kind, ExtentKind::Data);
        let last = device.map(1 << 19, 1 << 19).expect("maps");
        assert!(last.end == 1 << 20, "{last:?}");
    }

    #[test]
    fn a_device_open_for_reading_refuses_to_be_written() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(&[1; 512]).expect("data");
        let device = RawDevice::open(file.path(), false).expect("opens");
        assert!(device.write_at(&[0], 0).expect_err("refused").is_errno(libc::EROFS));
        let device = RawDevice::open(file.path(), true).expect("opens");
        device.write_at(&[0], 511).expect("inside");
        device.write_at(&[0], 512).expect_err("an image does not grow");
    }
}
