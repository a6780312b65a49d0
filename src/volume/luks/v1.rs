//! The header of LUKS1.
//!
//! Specified in the LUKS1 On-Disk Format Specification, version 1.2.3. Numbers are big-endian.

use super::header::{Digest, Header, Segment, Slot};
use super::kdf::Kdf;
use crate::bytes::{be32, until_nul};
use crate::error::{Error, Result};
use crate::volume::hash::Hash;
use crate::volume::sectors::CipherSpec;

/// The size of the header, in bytes.
pub(super) const SIZE: usize = 592;

const AT_CIPHER: usize = 8;
const AT_MODE: usize = 40;
const AT_HASH: usize = 72;
/// Where the encrypted bytes begin, in sectors of 512.
const AT_PAYLOAD: usize = 104;
const AT_KEY_SIZE: usize = 108;
const AT_DIGEST: usize = 112;
const AT_DIGEST_SALT: usize = 132;
const AT_DIGEST_ITERATIONS: usize = 164;
const AT_UUID: usize = 168;
const AT_SLOTS: usize = 208;
const SLOTS: usize = 8;
const SLOT_SIZE: usize = 48;

const SLOT_ITERATIONS: usize = 4;
const SLOT_SALT: usize = 8;
/// Where the slot's bytes lie, in sectors of 512.
const SLOT_AREA: usize = 40;
const SLOT_STRIPES: usize = 44;
/// The mark of a slot that holds a key.
const SLOT_ACTIVE: u32 = 0x00ac_71f3;

const SALT_SIZE: usize = 32;
const DIGEST_SIZE: usize = 20;
const SECTOR: u64 = 512;

/// Reads a header.
///
/// # Errors
/// [`Error::Corrupt`], and [`Error::Unsupported`] for a cipher or a hash that is not known.
pub(super) fn parse(bytes: &[u8; SIZE]) -> Result<Header> {
    let text = |at: usize, length: usize, what: &str| {
        std::str::from_utf8(until_nul(&bytes[at..at + length]))
            .map_err(|_| Error::corrupt("LUKS header", format!("its {what} is no text")))
    };
    let name = format!("{}-{}", text(AT_CIPHER, 32, "cipher")?, text(AT_MODE, 32, "mode")?);
    let cipher = CipherSpec::parse(&name)?;
    let hash = Hash::from_name(text(AT_HASH, 32, "hash")?)?;
    let key_size = be32(bytes, AT_KEY_SIZE);
    let mut slots = Vec::new();
    for id in 0..SLOTS {
        let slot = &bytes[AT_SLOTS + id * SLOT_SIZE..][..SLOT_SIZE];
        if be32(slot, 0) != SLOT_ACTIVE {
            continue;
        }
        slots.push(Slot {
            id: id as u32,
            priority: 1,
            key_size,
            kdf: Kdf::Pbkdf2 {
                hash,
                iterations: be32(slot, SLOT_ITERATIONS),
                salt: slot[SLOT_SALT..SLOT_SALT + SALT_SIZE].to_vec(),
            },
            stripes: be32(slot, SLOT_STRIPES),
            af_hash: hash,
            area: u64::from(be32(slot, SLOT_AREA)) * SECTOR,
            cipher: cipher.clone(),
            area_key_size: key_size,
        });
    }
    let digest = Digest {
        slots: slots.iter().map(|slot| slot.id).collect(),
        segments: vec![0],
        hash,
        iterations: be32(bytes, AT_DIGEST_ITERATIONS),
        salt: bytes[AT_DIGEST_SALT..AT_DIGEST_SALT + SALT_SIZE].to_vec(),
        digest: bytes[AT_DIGEST..AT_DIGEST + DIGEST_SIZE].to_vec(),
    };
    let offset = u64::from(be32(bytes, AT_PAYLOAD)) * SECTOR;
    let segment = Segment { id: 0, offset, size: None, first: 0, cipher, sector: SECTOR as u32 };
    Ok(Header {
        version: 1,
        uuid: text(AT_UUID, 40, "UUID")?.to_owned(),
        label: None,
        slots,
        digests: vec![digest],
        segments: vec![segment],
        tokens: Vec::new(),
    })
}
