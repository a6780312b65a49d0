//! The headers of a VHDX file, of which the newer one that is whole counts.

use super::{MEGABYTE, corrupt};
use crate::block::{BlockDevice, check_range};
use crate::bytes::{le16, le32, le64};
use crate::error::{Error, Result};
use std::ops::Range;

const SIZE: usize = 4096;
const PLACES: [u64; 2] = [64 << 10, 128 << 10];
const VERSION: u16 = 1;
const LOG_VERSION: u16 = 0;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    sequence: u64,
    /// The GUID of what the disk holds.
    pub data: [u8; 16],
    /// The GUID of the log's entries; zero where the log is empty.
    pub log_id: [u8; 16],
    /// Where the log lies, in bytes.
    pub log: Range<u64>,
}

/// Says whether a structure is whole: its sum is a CRC-32C, at offset 4, of all of it with the sum's own field zeroed.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let sum = crc32c::crc32c(&bytes[..4]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    cfg!(fuzzing) || crc32c::crc32c_append(sum, &bytes[8..]) == le32(bytes, 4)
}

impl Header {
    /// Reads the header that counts.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where none is whole, [`Error::Unsupported`] for another version, and those of reading.
    pub fn read(image: &dyn BlockDevice) -> Result<Self> {
        let mut best: Option<Self> = None;
        for at in PLACES {
            let mut bytes = [0; SIZE];
            if check_range(image.size(), at, SIZE as u64).is_err() {
                return Err(corrupt("VHDX file", "it ends before its headers"));
            }
            image.read_at(&mut bytes, at)?;
            if !bytes.starts_with(b"head") || !is_whole(&bytes) {
                continue;
            }
            let one = Self::parse(&bytes)?;
            if best.as_ref().is_none_or(|best| one.sequence > best.sequence) {
                best = Some(one);
            }
        }
        let header = best.ok_or_else(|| corrupt("VHDX headers", "neither of the two is whole"))?;
        let log = &header.log;
        if log.start % MEGABYTE != 0 || log.end % MEGABYTE != 0 || log.end > image.size() {
            return Err(corrupt("VHDX header", "its log lies past the end of the file, or in no right place"));
        }
        Ok(header)
    }

    fn parse(bytes: &[u8; SIZE]) -> Result<Self> {
        let (log_version, version) = (le16(bytes, 64), le16(bytes, 66));
        if version != VERSION || log_version != LOG_VERSION {
            return Err(Error::unsupported(format!("a VHDX of version {version} with a log of version {log_version}")));
        }
        let (len, start) = (u64::from(le32(bytes, 68)), le64(bytes, 72));
        let end = start.checked_add(len).ok_or_else(|| corrupt("VHDX header", "its log lies nowhere"))?;
        let guid = |at: usize| bytes[at..at + 16].try_into().expect("16 bytes");
        Ok(Self { sequence: le64(bytes, 8), data: guid(32), log_id: guid(48), log: start..end })
    }
}
