//! The real-time device: a second device that holds the data of some files, and nothing else.
//!
//! It has no label to know it by. So of the devices at hand, that one is taken which nothing is recognised on and which is
//! large enough, when there is exactly one. Real-time space in groups (with metadata directories, and of zoned
//! filesystems) is not read.

use super::superblock::Superblock;
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use crate::fs::probe;

/// The device that holds the data of real-time files.
pub enum RealTime {
    /// This one.
    Device(SharedDevice),
    /// None, for this reason.
    None(String),
}

impl RealTime {
    /// Looks for the device among those at hand.
    pub fn find(superblock: &Superblock, devices: &[SharedDevice]) -> Self {
        if superblock.real_time_groups {
            return Self::None("real-time groups".into());
        }
        let size = superblock.real_time_blocks.saturating_mul(u64::from(superblock.block_size));
        if size == 0 {
            return Self::None("no real-time device that the superblock tells of".into());
        }
        let fits = |device: &&SharedDevice| device.size() >= size && matches!(probe::identify(&***device), Ok(None));
        let mut found = devices.iter().filter(fits);
        match (found.next(), found.next()) {
            (Some(device), None) => Self::Device(SharedDevice::clone(device)),
            (None, _) => Self::None("a real-time device that is not here; add it (--add)".into()),
            _ => Self::None("a real-time device, and several devices could be it; add that one alone".into()),
        }
    }

    /// Reads data of a file: `offset` bytes into the space that begins at a block.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the device is not here, [`Error::Corrupt`] past the end, and those of reading.
    pub fn read(&self, superblock: &Superblock, ino: u64, block: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let device = match self {
            Self::Device(device) => device,
            Self::None(why) => return Err(Error::unsupported(format!("the data of XFS files on {why}"))),
        };
        let start = block.checked_mul(u64::from(superblock.block_size)).and_then(|start| start.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(buf.len() as u64));
        match (start, end) {
            (Some(start), Some(end)) if end <= device.size() => device.read_at(buf, start),
            _ => Err(Error::corrupt(format!("inode {ino}"), "an extent passes the end of the real-time device")),
        }
    }
}
