//! Reads the places where signatures lie.

use crate::block::BlockDevice;
use crate::error::{Error, Result};
use parking_lot::Mutex;

/// How much of the device is read at once: everything to the superblock of Btrfs, which most signatures lie before.
const PREFIX_SIZE: u64 = 72 << 10;

/// The largest piece that is read, in bytes. No structure of the probe is larger.
const MAX_PIECE: usize = 256 << 10;

/// A device that is probed.
///
/// A failure to read is noted and looks like the end of the device, so that a bad spot where nothing lies does no harm.
pub struct Reader<'a> {
    device: &'a dyn BlockDevice,
    prefix: Vec<u8>,
    error: Mutex<Option<Error>>,
}

impl<'a> Reader<'a> {
    /// Reads the beginning of a device.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn new(device: &'a dyn BlockDevice) -> Result<Self> {
        let mut prefix = vec![0; device.size().min(PREFIX_SIZE) as usize];
        device.read_at(&mut prefix, 0)?;
        Ok(Self { device, prefix, error: Mutex::new(None) })
    }

    /// Returns `len` bytes at `offset`; `None` when they do not all lie on the device or cannot be read.
    pub fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let end = offset.checked_add(len as u64).filter(|&end| end <= self.size() && len <= MAX_PIECE)?;
        if end <= self.prefix.len() as u64 {
            return Some(self.prefix[offset as usize..end as usize].to_vec());
        }
        let mut bytes = vec![0; len];
        match self.device.read_at(&mut bytes, offset) {
            Ok(()) => Some(bytes),
            Err(error) => {
                self.error.lock().get_or_insert(error);
                None
            }
        }
    }

    /// Says whether the bytes at `offset` are `magic`.
    pub fn has(&self, offset: u64, magic: &[u8]) -> bool {
        let end = offset.saturating_add(magic.len() as u64);
        if end <= self.prefix.len() as u64 {
            return &self.prefix[offset as usize..end as usize] == magic;
        }
        self.read(offset, magic.len()).is_some_and(|bytes| bytes == magic)
    }

    /// Returns the first failure to read.
    pub fn into_error(self) -> Option<Error> {
        self.error.into_inner()
    }
}

/// For the parsers of the floors below, which read a device.
impl BlockDevice for Reader<'_> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        crate::block::check_range(self.device.size(), offset, buf.len() as u64)?;
        let bytes = self.read(offset, buf.len()).ok_or(Error::Errno(libc::EIO))?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Returns UTF-16 units as UTF-8, up to the first zero.
pub fn utf16(units: impl Iterator<Item = u16>) -> Vec<u8> {
    let units = units.take_while(|&unit| unit != 0);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>().into_bytes()
}

/// Returns little-endian UTF-16 as UTF-8, up to the first zero.
pub fn utf16_le(bytes: &[u8]) -> Vec<u8> {
    utf16(bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])))
}

/// Returns big-endian UTF-16 as UTF-8, up to the first zero.
pub fn utf16_be(bytes: &[u8]) -> Vec<u8> {
    utf16(bytes.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]])))
}
