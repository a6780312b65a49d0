//! The two headers of LUKS2: which of them counts.
//!
//! Specified in the LUKS2 On-Disk Format Specification, version 1.1.x. Each is a binary part of 4096 bytes and an area of
//! JSON; both have a checksum, and of two good ones that with the higher sequence number counts. Numbers are big-endian.

use super::header::Header;
use super::metadata;
use crate::block::BlockDevice;
use crate::bytes::{be16, be64, until_nul};
use crate::error::{Error, Result};
use crate::volume::hash::Hash;

pub(super) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
pub(super) const SECOND_MAGIC: &[u8; 6] = b"SKUL\xba\xbe";

/// The size of the binary part, in bytes.
const BINARY: usize = 4096;
const AT_VERSION: usize = 6;
/// The size of the header with its JSON, in bytes.
const AT_SIZE: usize = 8;
const AT_SEQUENCE: usize = 16;
const AT_LABEL: usize = 24;
const AT_CHECKSUM_NAME: usize = 72;
const AT_UUID: usize = 168;
/// Where this header lies, in bytes.
const AT_OFFSET: usize = 256;
const AT_CHECKSUM: usize = 448;
const CHECKSUM_SIZE: usize = 64;

/// The sizes that a header may have, and so the places of the second one.
pub(super) const SIZES: [u64; 9] =
    [16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

/// One header whose checksum is right.
struct Copy {
    sequence: u64,
    uuid: String,
    label: Option<String>,
    json: Vec<u8>,
}

/// Says whether a second header lies on a device whose first one is lost.
pub(super) fn has_second(device: &dyn BlockDevice) -> Result<bool> {
    for &offset in SIZES.iter().take_while(|&&offset| offset + BINARY as u64 <= device.size()) {
        let mut magic = [0; 6];
        device.read_at(&mut magic, offset)?;
        if magic == *SECOND_MAGIC && read_copy(device, offset)?.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads the header that counts.
///
/// # Errors
/// [`Error::Corrupt`] where neither is whole, and those of what it says.
pub(super) fn read(device: &dyn BlockDevice) -> Result<Header> {
    let first = read_copy(device, 0)?;
    let mut second = None;
    for offset in SIZES {
        if let Ok(copy) = read_copy(device, offset)? {
            second = Some(copy);
            break;
        }
    }
    let copy = match (first, second) {
        (Ok(first), Some(second)) if second.sequence > first.sequence => second,
        (Ok(first), _) => first,
        (Err(detail), Some(second)) => {
            log::warn!("the first LUKS header is damaged ({detail}); the second one is used");
            second
        }
        (Err(detail), None) => {
            return Err(Error::corrupt("LUKS2 header", format!("{detail}; nor is the second one whole")));
        }
    };
    let mut header = metadata::parse(&copy.json)?;
    header.uuid = copy.uuid;
    header.label = copy.label;
    Ok(header)
}

/// Reads the header at an offset; inside, what is wrong with it.
fn read_copy(device: &dyn BlockDevice, offset: u64) -> Result<std::result::Result<Copy, String>> {
    let wrong = |detail: &str| Ok(Err(detail.to_owned()));
    if offset + BINARY as u64 > device.size() {
        return wrong("it passes the end of the device");
    }
    let mut binary = [0; BINARY];
    device.read_at(&mut binary, offset)?;
    let magic = if offset == 0 { MAGIC } else { SECOND_MAGIC };
    if !binary.starts_with(magic) || be16(&binary, AT_VERSION) != 2 {
        return wrong("it has no magic of LUKS2");
    }
    let size = be64(&binary, AT_SIZE);
    if !SIZES.contains(&size) || be64(&binary, AT_OFFSET) != offset || (offset != 0 && size != offset) {
        return wrong("its size or place is wrong");
    }
    if offset + size > device.size() {
        return wrong("its JSON passes the end of the device");
    }
    let mut json = vec![0; size as usize - BINARY];
    device.read_at(&mut json, offset + BINARY as u64)?;
    let text = |at: usize, length: usize| String::from_utf8_lossy(until_nul(&binary[at..at + length])).into_owned();
    let (name, uuid, label) = (text(AT_CHECKSUM_NAME, 32), text(AT_UUID, 40), text(AT_LABEL, 48));
    let Ok(hash) = Hash::from_name(&name) else { return Ok(Err(format!("its checksum {name:?} is not known"))) };
    let sequence = be64(&binary, AT_SEQUENCE);
    let mut stored = [0; CHECKSUM_SIZE];
    stored.copy_from_slice(&binary[AT_CHECKSUM..AT_CHECKSUM + CHECKSUM_SIZE]);
    binary[AT_CHECKSUM..AT_CHECKSUM + CHECKSUM_SIZE].fill(0);
    let found = hash.digest(&[&binary, &json]);
    if stored[..found.len()] != found[..] && !cfg!(fuzzing) {
        return wrong("its checksum is wrong");
    }
    json.truncate(until_nul(&json).len());
    Ok(Ok(Copy { sequence, uuid, label: Some(label).filter(|label| !label.is_empty()), json }))
}
