//! A block of metadata: what the volume is, and the keys, encrypted by others.
//!
//! A block is a header, a second header and entries. A checksum follows them. There are three equal copies.

use super::boot::{BootSector, SIGNATURE};
use super::entry::{self, Entry};
use crate::block::BlockDevice;
use crate::bytes::{guid, le16, le32, le64};
use crate::error::{Error, Result};

/// How much of the volume a copy takes, in bytes.
const AREA: u64 = 64 << 10;
/// The same on Windows Vista, which rounds it up to whole clusters.
const AREA_VISTA: u64 = 16 << 10;

/// The size of the block's header, in bytes.
const BLOCK_HEADER: usize = 64;
const AT_SIZE: usize = 8;
const AT_VERSION: usize = 10;
const AT_STATE: usize = 12;
const AT_ENCRYPTED: usize = 16;
const AT_HEADER_SECTORS: usize = 28;
const AT_COPIES: usize = 32;
/// Where the volume's first sectors lie; on Vista, the cluster of the MFT's mirror.
const AT_HEADER: usize = 56;

/// The size of the second header, in bytes.
const HEADER: usize = 48;
const AT_METADATA_SIZE: usize = BLOCK_HEADER;
const AT_METADATA_VERSION: usize = BLOCK_HEADER + 4;
const AT_METADATA_HEADER: usize = BLOCK_HEADER + 8;
const AT_GUID: usize = BLOCK_HEADER + 16;
const AT_METHOD: usize = BLOCK_HEADER + 36;

/// The size of what stands before the checksum, and of the checksum, in bytes.
const CHECKSUM: usize = 8;

/// The state of a volume that is wholly decrypted.
const DECRYPTED: u16 = 1;
/// The state of a volume that is wholly encrypted.
const ENCRYPTED: u16 = 4;
/// The state of a volume whose conversion was stopped on the way.
const PAUSED: u16 = 5;

/// The kind of the entry that tells where the volume's first sectors lie.
const VOLUME_HEADER: u16 = 15;

/// What a block of metadata tells.
#[derive(Clone, Debug)]
pub(super) struct Metadata {
    /// The volume's GUID.
    pub guid: String,
    /// The number of the cipher.
    pub method: u16,
    /// The state: whether all of the volume is encrypted.
    state: u16,
    /// How much of the volume is encrypted when not all of it is, in bytes.
    encrypted: u64,
    /// Where the copies lie, in bytes.
    pub copies: [u64; 3],
    /// Where the volume's first sectors lie, in bytes; on Vista, the cluster of the MFT's mirror.
    pub header: u64,
    /// How many bytes lie there.
    pub header_size: u64,
    /// The entries' bytes.
    bytes: Vec<u8>,
}

impl Metadata {
    /// Reads the first copy that is whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where none is, [`Error::Unsupported`] for a version that is not known, and those of reading.
    pub(super) fn read(device: &dyn BlockDevice, boot: &BootSector) -> Result<Self> {
        let mut failed = None;
        let mut places = boot.metadata.clone();
        let mut tried = 0;
        while let Some(&place) = places.get(tried) {
            tried += 1;
            match Self::read_copy(device, boot, place) {
                Ok(metadata) => return Ok(metadata),
                // The boot sector of Vista tells the first copy alone, which tells the others.
                Err((error, copies)) => {
                    places.extend(copies.into_iter().filter(|_| boot.is_vista && tried == 1));
                    failed.get_or_insert(error);
                }
            }
        }
        Err(failed.unwrap_or_else(|| Error::corrupt("BitLocker boot sector", "it tells of no metadata")))
    }

    /// Reads a copy; an error comes with where the copy says that there are others.
    fn read_copy(device: &dyn BlockDevice, boot: &BootSector, place: u64) -> Result<Self, (Error, Vec<u64>)> {
        let room = device.size().saturating_sub(place).min(area(boot));
        let mut block = vec![0; room as usize];
        let no_others = |error| (error, Vec::new());
        if block.len() < BLOCK_HEADER + HEADER + CHECKSUM {
            let detail = format!("it begins at byte {place} of {}", device.size());
            return Err(no_others(Error::corrupt("BitLocker metadata", detail)));
        }
        device.read_at(&mut block, place).map_err(no_others)?;
        if !block.starts_with(SIGNATURE) {
            let detail = format!("there is no signature at byte {place}");
            return Err(no_others(Error::corrupt("BitLocker metadata", detail)));
        }
        let copies = [0, 1, 2].map(|copy| le64(&block, AT_COPIES + 8 * copy));
        Self::parse(&block, place, boot, copies).map_err(|error| (error, copies.to_vec()))
    }

    fn parse(block: &[u8], place: u64, boot: &BootSector, copies: [u64; 3]) -> Result<Self> {
        let wrong = |detail: String| Error::corrupt(format!("BitLocker metadata at byte {place}"), detail);
        let size = usize::from(le16(block, AT_SIZE));
        let size = match le16(block, AT_VERSION) {
            1 if boot.is_vista => size,
            2 if !boot.is_vista => size * 16,
            other => return Err(Error::unsupported(format!("BitLocker metadata of the version {other}"))),
        };
        if size < BLOCK_HEADER + HEADER || size + CHECKSUM > block.len() {
            return Err(wrong(format!("they have {size} bytes")));
        }
        let (known, found) = (le32(block, size + 4), crc32fast::hash(&block[..size]));
        if known != found && !cfg!(fuzzing) {
            return Err(wrong(format!("their checksum is {found:08x}, and {known:08x} is recorded")));
        }
        let metadata = le32(block, AT_METADATA_SIZE) as usize;
        if le32(block, AT_METADATA_VERSION) != 1 || le32(block, AT_METADATA_HEADER) as usize != HEADER {
            return Err(Error::unsupported("BitLocker metadata whose inner header is of another version"));
        }
        if metadata < HEADER || metadata > size - BLOCK_HEADER {
            return Err(wrong(format!("the entries have {metadata} bytes of {size}")));
        }
        let bytes = block[BLOCK_HEADER + HEADER..BLOCK_HEADER + metadata].to_vec();
        let header = le64(block, AT_HEADER);
        let (header, header_size) = if boot.is_vista {
            (header, 0)
        } else {
            let sectors = u64::from(le32(block, AT_HEADER_SECTORS)) * u64::from(boot.sector);
            volume_header(&bytes)?.unwrap_or((header, sectors))
        };
        let mut id = [0; 16];
        id.copy_from_slice(&block[AT_GUID..AT_GUID + 16]);
        let encrypted = if boot.is_vista { u64::MAX } else { le64(block, AT_ENCRYPTED) };
        Ok(Self {
            guid: guid(&id),
            method: le16(block, AT_METHOD),
            state: le16(block, AT_STATE),
            encrypted,
            copies,
            header,
            header_size,
            bytes,
        })
    }

    /// Returns the entries.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn entries(&self) -> Result<Vec<Entry<'_>>> {
        entry::all(&self.bytes)
    }

    /// Returns how much of the volume, from its beginning, is encrypted, in bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a volume that is being converted: it is not known how far that went.
    pub(super) fn encrypted(&self) -> Result<u64> {
        match self.state {
            ENCRYPTED => Ok(u64::MAX),
            PAUSED | DECRYPTED => Ok(self.encrypted),
            other => Err(Error::unsupported(format!(
                "a BitLocker volume that is being converted (state {other}); let Windows finish, or stop it (manage-bde -pause)"
            ))),
        }
    }
}

/// Returns how much of the volume a copy takes, in bytes.
pub(super) fn area(boot: &BootSector) -> u64 {
    if boot.is_vista { AREA_VISTA.next_multiple_of(boot.cluster) } else { AREA }
}

/// Returns where the volume's first sectors lie and how many bytes they are, where the entries tell both.
fn volume_header(bytes: &[u8]) -> Result<Option<(u64, u64)>> {
    let entries = entry::all(bytes)?;
    let found = entries.iter().find(|entry| entry.kind == VOLUME_HEADER && entry.value == entry::PLACE);
    Ok(found.filter(|entry| entry.data.len() >= 16).map(|entry| (le64(entry.data, 0), le64(entry.data, 8))))
}
