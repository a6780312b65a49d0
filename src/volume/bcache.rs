//! The disk behind a cache of Linux' bcache: its bytes lie past a superblock.
//!
//! The cache itself is not read. While it holds what the disk does not, the disk alone would show old and torn data, so one
//! whose superblock does not say that it is clean is refused by name. The superblock is that of the kernel's
//! `drivers/md/bcache/bcache_ondisk.h`; numbers are little-endian.

use super::assemble::{Candidate, Collector, Made};
use super::{Volume, VolumeKind};
use crate::block::{BlockDevice, SliceDevice};
use crate::bytes::{le16, le64, uuid};
use crate::error::{Error, Result};
use std::sync::Arc;

/// Where the superblock lies, in bytes.
const SUPERBLOCK: u64 = 4096;
/// The size of its fixed part, in bytes; a list of numbers follows.
const FIXED: usize = 208;
/// The most numbers in the list.
const MAX_KEYS: usize = 256;

const SECTOR: u64 = 512;

/// The signature, which early bcachefs shared.
pub(crate) const MAGIC: [u8; 16] =
    [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];

const AT_PLACE: usize = 8;
const AT_VERSION: usize = 16;
const AT_MAGIC: usize = 24;
const AT_UUID: usize = 40;
const AT_LABEL: usize = 72;
const AT_FLAGS: usize = 104;
const AT_DATA: usize = 184;
const AT_KEYS: usize = 206;

/// Where the data of the first version of backing devices begin, in sectors.
const FIRST_DATA: u64 = 16;

/// The sum of a superblock.
static SUM: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_WE);

/// What the superblock of a backing device tells.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Superblock {
    uuid: String,
    label: Vec<u8>,
    /// Where the data begin, in bytes.
    data: u64,
    state: State,
}

/// Whether the disk has all data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It has no cache.
    Detached,
    /// The cache holds nothing else.
    Clean,
    /// The cache holds what the disk does not.
    Dirty,
    /// The cache was lost while it did.
    Stale,
}

impl Superblock {
    /// Reads the superblock of a device; `None` where it is that of a cache, or there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the sum is wrong, and [`Error::Unsupported`] for a version that is not known.
    fn read(device: &dyn BlockDevice) -> Result<Option<Self>> {
        let mut bytes = vec![0; FIXED + 8 * MAX_KEYS];
        if device.size() < SUPERBLOCK + bytes.len() as u64 {
            return Ok(None);
        }
        device.read_at(&mut bytes, SUPERBLOCK)?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let wrong = |detail: String| Error::corrupt("bcache superblock", detail);
        if bytes[AT_MAGIC..AT_UUID] != MAGIC || le64(bytes, AT_PLACE) != SUPERBLOCK / SECTOR {
            return Ok(None);
        }
        let data = match le64(bytes, AT_VERSION) {
            0 | 3 | 5 => return Ok(None),
            1 => FIRST_DATA,
            4 | 6 => le64(bytes, AT_DATA),
            other => return Err(Error::unsupported(format!("bcache of the version {other}"))),
        };
        let keys = usize::from(le16(bytes, AT_KEYS));
        if keys > MAX_KEYS {
            return Err(wrong(format!("it lists {keys} buckets")));
        }
        if SUM.checksum(&bytes[8..FIXED + 8 * keys]) != le64(bytes, 0) && !cfg!(fuzzing) {
            return Err(wrong("its checksum is wrong".into()));
        }
        let data = data.checked_mul(SECTOR).filter(|&data| data > SUPERBLOCK);
        let data = data.ok_or_else(|| wrong("its data begin before its end".into()))?;
        let state = match le64(bytes, AT_FLAGS) >> 61 & 3 {
            0 => State::Detached,
            1 => State::Clean,
            2 => State::Dirty,
            _ => State::Stale,
        };
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[AT_UUID..AT_UUID + 16]);
        let label = crate::bytes::until_nul(&bytes[AT_LABEL..AT_FLAGS]).to_vec();
        Ok(Some(Self { uuid: uuid(&id), label, data, state }))
    }
}

/// The disks behind caches.
#[derive(Default)]
pub(super) struct Backings {
    found: Vec<Made>,
    count: usize,
}

impl Collector for Backings {
    fn take(&mut self, candidate: &Candidate, warnings: &mut Vec<String>) -> bool {
        let superblock = match Superblock::read(&*candidate.device) {
            Ok(Some(superblock)) => superblock,
            // Another reader may say more of a device that cannot be read.
            Ok(None) | Err(Error::Io { .. }) => return false,
            Err(error) => {
                warnings.push(format!("{}: left out: {error}", candidate.name));
                return true;
            }
        };
        match self.open(candidate, &superblock) {
            Ok(made) => self.found.push(made),
            Err(error) => warnings.push(format!("{}: left out: {error}", candidate.name)),
        }
        true
    }

    fn give(&mut self, _: bool, _: &mut Vec<String>) -> Vec<Made> {
        std::mem::take(&mut self.found)
    }
}

impl Backings {
    fn open(&mut self, candidate: &Candidate, superblock: &Superblock) -> Result<Made> {
        match superblock.state {
            State::Detached | State::Clean => {}
            State::Dirty => {
                return Err(Error::unsupported(
                    "a disk behind bcache while its cache holds newer data; write them back first (echo none > \
                     /sys/block/bcache0/bcache/cache_mode, or detach the cache)",
                ));
            }
            State::Stale => {
                return Err(Error::unsupported("a disk behind bcache whose cache was lost with newer data"));
            }
        }
        let size = candidate.device.size().checked_sub(superblock.data).filter(|&size| size > 0);
        let past = || Error::corrupt("bcache superblock", "its data begin past the end of the device");
        let device = SliceDevice::new(candidate.device.clone(), superblock.data, size.ok_or_else(past)?)?;
        let name = format!("/dev/bcache{}", self.count);
        self.count += 1;
        let mut aliases = vec![format!("/dev/bcache/by-uuid/{}", superblock.uuid)];
        if let Some(label) = std::str::from_utf8(&superblock.label).ok().filter(|label| !label.is_empty()) {
            aliases.push(format!("/dev/bcache/by-label/{label}"));
        }
        let volume = Volume {
            name,
            aliases,
            device: Arc::new(device),
            kind: VolumeKind::Backing { uuid: superblock.uuid.clone() },
            parents: vec![candidate.name.clone()],
        };
        Ok(Made { volume, disk: candidate.disk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::set_le64;

    /// Stores a state and the checksum in a superblock that a test changes.
    fn set_state(bytes: &mut [u8], state: u64) {
        let flags = le64(bytes, AT_FLAGS) & !(3 << 61) | state << 61;
        set_le64(bytes, AT_FLAGS, flags);
        let keys = usize::from(le16(bytes, AT_KEYS));
        let sum = SUM.checksum(&bytes[8..FIXED + 8 * keys]);
        set_le64(bytes, 0, sum);
    }

    #[test]
    fn what_a_superblock_says_is_checked() {
        let mut bytes = vec![0; FIXED + 8 * MAX_KEYS];
        assert_eq!(Superblock::parse(&bytes).expect("none"), None);
        set_le64(&mut bytes, AT_PLACE, 8);
        set_le64(&mut bytes, AT_VERSION, 1);
        bytes[AT_MAGIC..AT_UUID].copy_from_slice(&MAGIC);
        Superblock::parse(&bytes).expect_err("the checksum is wrong");
        for (number, state) in [(0, State::Detached), (1, State::Clean), (2, State::Dirty), (3, State::Stale)] {
            set_state(&mut bytes, number);
            let found = Superblock::parse(&bytes).expect("whole").expect("a superblock");
            assert_eq!((found.state, found.data), (state, 8192));
        }
        set_le64(&mut bytes, AT_VERSION, 4);
        for data in [0, 8, u64::MAX, u64::MAX / 512 + 1] {
            set_le64(&mut bytes, AT_DATA, data);
            set_state(&mut bytes, 1);
            Superblock::parse(&bytes).expect_err("no place for data");
        }
        set_le64(&mut bytes, AT_VERSION, 3);
        assert_eq!(Superblock::parse(&bytes).expect("a cache"), None);
    }
}
