//! The item of a device in the chunk tree.

use crate::bytes::le64;
use crate::error::{Error, Result};

/// A device that the filesystem has.
#[derive(Clone, Debug)]
pub struct DeviceItem {
    /// Its number.
    pub devid: u64,
    /// Its size, in bytes.
    pub total_bytes: u64,
    /// How much of it chunks take, in bytes.
    pub bytes_used: u64,
    /// Its UUID.
    pub uuid: [u8; 16],
}

impl DeviceItem {
    /// Reads the item.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is too short.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < 98 {
            return Err(Error::corrupt("Btrfs device item", format!("it has {} bytes", bytes.len())));
        }
        Ok(Self {
            devid: le64(bytes, 0),
            total_bytes: le64(bytes, 8),
            bytes_used: le64(bytes, 16),
            uuid: bytes[66..82].try_into().expect("16 bytes"),
        })
    }
}
