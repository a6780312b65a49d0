//! Images in a tar archive, such as the OVA of virtual appliances, opened in place.
//!
//! The archive is walked by its headers (POSIX ustar, with GNU's and pax' large sizes), of which so many are read at
//! most. Members are known by their content, never by their names.

use super::{BlockDevice, ImageFormat, PROBE_LENGTH, SharedDevice, SliceDevice, TRAILER_LENGTH};
use crate::bytes::{be64, until_nul};
use crate::error::{Error, Result};
use std::sync::Arc;

const BLOCK: u64 = 512;
const AT_SIZE: usize = 124;
const AT_CHECKSUM: usize = 148;
const AT_TYPE: usize = 156;
const AT_MAGIC: usize = 257;

/// How many members are looked at.
const MAX_MEMBERS: usize = 4096;

/// The longest pax header that is read, in bytes.
const MAX_PAX: u64 = 64 << 10;

/// A disk image in an archive.
pub(super) struct Member {
    /// Its name in the archive.
    pub(super) name: String,
    /// Where its bytes begin in the archive, in bytes.
    pub(super) offset: u64,
    /// In bytes.
    pub(super) size: u64,
    pub(super) format: ImageFormat,
    /// Its bytes.
    pub(super) device: SharedDevice,
}

/// Says whether a device begins as an archive does.
pub(super) fn is_archive(device: &dyn BlockDevice) -> Result<bool> {
    let mut header = [0; BLOCK as usize];
    if device.size() < 2 * BLOCK {
        return Ok(false);
    }
    device.read_at(&mut header, 0)?;
    Ok(is_header(&header))
}

/// A header has a magic and the sum of its own bytes, so that a disk's boot sector is not taken for one.
fn is_header(header: &[u8; BLOCK as usize]) -> bool {
    let field = AT_CHECKSUM..AT_CHECKSUM + 8;
    let bytes = header.iter().enumerate();
    let sum: u64 = bytes.map(|(at, &byte)| u64::from(if field.contains(&at) { b' ' } else { byte })).sum();
    header[AT_MAGIC..].starts_with(b"ustar") && number(&header[field]) == Some(sum)
}

/// Reads a number: octal digits, or GNU's binary form.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        return Some(be64(field, field.len() - 8));
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?;
    u64::from_str_radix(text.trim(), 8).ok()
}

/// Returns the one disk image in an archive: a member of a known format, or the largest one that is raw.
///
/// # Errors
/// [`Error::NotAnImage`] where there is none, [`Error::Unsupported`], with their names, where there are several.
pub(super) fn find(device: &SharedDevice) -> Result<Member> {
    let mut known = Vec::new();
    let mut raw: Option<Member> = None;
    let mut sparse: Option<String> = None;
    let mut at = 0;
    let mut pax = Pax::default();
    for _ in 0..MAX_MEMBERS {
        let mut header = [0; BLOCK as usize];
        if device.size().saturating_sub(at) < BLOCK {
            break;
        }
        device.read_at(&mut header, at)?;
        if !is_header(&header) {
            break;
        }
        let wrong = || Error::corrupt("tar header", format!("the member at {at} passes the archive's end"));
        let offset = at + BLOCK;
        let told = std::mem::take(&mut pax);
        let size = told.size.or_else(|| number(&header[AT_SIZE..AT_SIZE + 12])).ok_or_else(wrong)?;
        let end = offset.checked_add(size).filter(|&end| end <= device.size()).ok_or_else(wrong)?;
        let name = || String::from_utf8_lossy(until_nul(&header[..100])).into_owned();
        match header[AT_TYPE] {
            b'x' => pax = Pax::read(device.as_ref(), offset, size)?,
            b'S' => sparse = Some(name()),
            b'0' | 0 | b'7' if told.is_sparse => sparse = Some(name()),
            b'0' | 0 | b'7' if size >= BLOCK => {
                let name = name();
                let slice: SharedDevice = Arc::new(SliceDevice::new(Arc::clone(device), offset, size)?);
                let format = ImageFormat::probe(slice.as_ref())?;
                let member = Member { name, offset, size, format, device: slice };
                if format != ImageFormat::Raw {
                    known.push(member);
                } else if size >= (PROBE_LENGTH + TRAILER_LENGTH) as u64
                    && raw.as_ref().is_none_or(|other| other.size < size)
                {
                    raw = Some(member);
                }
            }
            _ => {}
        }
        at = end.checked_next_multiple_of(BLOCK).ok_or_else(wrong)?;
    }
    if known.len() > 1 {
        let names: Vec<&str> = known.iter().map(|member| member.name.as_str()).collect();
        return Err(Error::unsupported(format!("an archive of several disks ({}); unpack it", names.join(", "))));
    }
    if let (true, Some(name)) = (known.is_empty(), sparse) {
        let detail = format!("{name} in an archive that was made with --sparse, which leaves out its holes; unpack it");
        return Err(Error::unsupported(detail));
    }
    known.pop().or(raw).ok_or_else(|| Error::NotAnImage("the archive holds no disk image".into()))
}

/// What a pax header says of the next member.
#[derive(Default)]
struct Pax {
    size: Option<u64>,
    /// Whether only what is no hole of it is in the archive.
    is_sparse: bool,
}

impl Pax {
    fn read(device: &dyn BlockDevice, offset: u64, size: u64) -> Result<Self> {
        let mut bytes = vec![0; size.min(MAX_PAX) as usize];
        device.read_at(&mut bytes, offset)?;
        let text = String::from_utf8_lossy(&bytes);
        let size = text.lines().find_map(|line| line.split_once(" size=")?.1.parse().ok());
        Ok(Self { size, is_sparse: text.lines().any(|line| line.contains(" GNU.sparse.")) })
    }
}
