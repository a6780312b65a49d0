//! Which bytes of the volume lie where, and which are encrypted.
//!
//! The first sectors were moved elsewhere, where Windows 7 and later keep them encrypted; the metadata, and the place that
//! the first sectors were moved to, read as zeroes. On Vista the first sectors are as they were, but for two fields of the
//! first.

use super::boot::{AT_MIRROR, AT_NAME, BootSector, SIZE};
use super::metadata::{self, Metadata};
use crate::block::{BlockDevice, SharedDevice, SliceDevice, check_range};
use crate::bytes::set_le64;
use crate::error::{Error, Result};
use crate::volume::sectors::{CipherSpec, Piece, SectorCipher};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How many bytes at the beginning of a volume of Vista are not encrypted.
const PLAIN_VISTA: u64 = 16 * 512;

/// The unit of the numbers that ciphers count sectors by, in bytes.
const UNIT: u64 = 512;

/// Returns the device that the pieces lie on: whole sectors of the volume, with its first one as the filesystem made it.
///
/// # Errors
/// [`Error::Corrupt`].
pub(super) fn shown(device: &SharedDevice, boot: &BootSector, metadata: &Metadata) -> Result<SharedDevice> {
    let size = device.size() / u64::from(boot.sector) * u64::from(boot.sector);
    let whole: SharedDevice = Arc::new(SliceDevice::new(device.clone(), 0, size)?);
    if !boot.is_vista {
        return Ok(whole);
    }
    let mut first = boot.bytes;
    first[AT_NAME..AT_NAME + 8].copy_from_slice(b"NTFS    ");
    set_le64(&mut first, AT_MIRROR, metadata.header);
    Ok(Arc::new(Restored { inner: whole, first }))
}

/// A device whose first bytes are others.
struct Restored {
    inner: SharedDevice,
    first: [u8; SIZE],
}

impl BlockDevice for Restored {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let shared = (SIZE as u64).saturating_sub(offset).min(buf.len() as u64) as usize;
        let (start, rest) = buf.split_at_mut(shared);
        if shared > 0 {
            start.copy_from_slice(&self.first[offset as usize..][..shared]);
        }
        if rest.is_empty() { Ok(()) } else { self.inner.read_at(rest, offset + shared as u64) }
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.inner.prefetch(offset, len);
    }
}

/// What a range of the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    /// Bytes that lie at another place by so much.
    Moved(u64),
    /// Zeroes, whatever lies there.
    Blank,
    /// Bytes as they lie there.
    Plain,
    /// Encrypted bytes.
    Encrypted,
}

/// Returns the pieces of a volume of `size` bytes whose sectors are encrypted with `key`.
///
/// # Errors
/// [`Error::Unsupported`] for a cipher that is not known and a volume that is being converted; [`Error::Corrupt`] for
/// ranges that are no whole sectors, or do not lie on the device.
pub(super) fn pieces(size: u64, boot: &BootSector, metadata: &Metadata, key: &[u8]) -> Result<Vec<Piece>> {
    let wrong = |detail: String| Error::corrupt("BitLocker metadata", detail);
    let sector = u64::from(boot.sector);
    let cipher = Cipher::new(metadata.method, key, boot.sector)?;
    let encrypted = metadata.encrypted()?.min(size);
    let header = if boot.is_vista { PLAIN_VISTA } else { metadata.header_size }.min(size);
    let area = metadata::area(boot);
    let mut blanks: Vec<_> = metadata.copies.iter().map(|&start| (start, start.saturating_add(area))).collect();
    if !boot.is_vista {
        check_range(size, metadata.header, header)
            .map_err(|_| wrong(format!("the volume's first {header} bytes lie at byte {}", metadata.header)))?;
        blanks.push((metadata.header, metadata.header + header));
    }
    // Where what a byte is may change.
    let mut edges = vec![0, header, encrypted, size];
    edges.extend(blanks.iter().flat_map(|&(start, end)| [start, end]));
    // The moved sectors are encrypted or not by the place that they lie at.
    edges.extend(encrypted.checked_sub(metadata.header).filter(|&edge| !boot.is_vista && edge < header));
    edges.retain(|&edge| edge <= size);
    edges.sort_unstable();
    edges.dedup();
    if let Some(edge) = edges.iter().find(|edge| !edge.is_multiple_of(sector)) {
        return Err(wrong(format!("a range ends at byte {edge}, within a sector of {sector} bytes")));
    }
    let what = |start: u64| {
        if start < header {
            return if boot.is_vista { Range::Plain } else { Range::Moved(metadata.header) };
        }
        match blanks.iter().any(|&(first, end)| first <= start && start < end) {
            true => Range::Blank,
            false if start < encrypted => Range::Encrypted,
            false => Range::Plain,
        }
    };
    let mut pieces = Vec::new();
    for edge in edges.windows(2) {
        let (start, size) = (edge[0], edge[1] - edge[0]);
        let (offset, cipher) = match what(start) {
            Range::Moved(by) if start + by < encrypted => (start + by, Some(cipher.at(start + by)?)),
            Range::Moved(by) => (start + by, None),
            Range::Blank => (start, Some(Box::new(Zeroes) as Box<dyn SectorCipher>)),
            Range::Plain => (start, None),
            Range::Encrypted => (start, Some(cipher.at(start)?)),
        };
        pieces.push(Piece { size, offset, sector: boot.sector, cipher });
    }
    Ok(pieces)
}

/// What sectors are encrypted with.
struct Cipher {
    spec: CipherSpec,
    key: Zeroizing<Vec<u8>>,
    sector: u32,
}

impl Cipher {
    /// Makes the cipher of a number in the metadata.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another number, [`Error::Corrupt`] where the key is too short.
    fn new(method: u16, key: &[u8], sector: u32) -> Result<Self> {
        // The diffuser's key lies 32 bytes behind that of the cipher, whatever their sizes.
        let (name, parts): (_, &[_]) = match method {
            0x8000 => ("aes-cbc-elephant", &[0..16, 32..48]),
            0x8001 => ("aes-cbc-elephant", &[0..32, 32..64]),
            0x8002 => ("aes-cbc-eboiv", &[0..16]),
            0x8003 => ("aes-cbc-eboiv", &[0..32]),
            0x8004 => ("aes-xts-plain64large", &[0..32]),
            0x8005 => ("aes-xts-plain64large", &[0..64]),
            other => return Err(Error::unsupported(format!("the cipher {other:#06x} of BitLocker"))),
        };
        let mut whole = Zeroizing::new(Vec::with_capacity(64));
        for part in parts {
            let short = || Error::corrupt("BitLocker volume key", format!("it has {} bytes", key.len()));
            whole.extend_from_slice(key.get(part.clone()).ok_or_else(short)?);
        }
        Ok(Self { spec: CipherSpec::parse(name)?, key: whole, sector })
    }

    /// Makes the cipher for sectors from a place on.
    fn at(&self, offset: u64) -> Result<Box<dyn SectorCipher>> {
        self.spec.make(&self.key, self.sector, offset / UNIT)
    }
}

/// Replaces what lies there.
struct Zeroes;

impl SectorCipher for Zeroes {
    fn decrypt(&self, sectors: &mut [u8], _: u64) {
        sectors.fill(0);
    }

    fn encrypt(&self, _: &mut [u8], _: u64) {}
}
