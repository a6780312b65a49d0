//! What both versions of LUKS say, in one form.

use super::kdf::{Kdf, check_iterations};
use crate::block::BlockDevice;
use crate::error::{Error, Result};
use crate::volume::hash::Hash;
use crate::volume::sectors::CipherSpec;
use zeroize::Zeroizing;

/// The longest key of a volume, in bytes.
pub(super) const MAX_KEY: u32 = 512;

/// The most that the area of one key slot is read of, in bytes.
const MAX_MATERIAL: u64 = 16 << 20;

/// A key slot: the volume's key, encrypted with a passphrase.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: u32,
    /// 0 for slots that are not tried, 1, or 2 for those that are tried first.
    pub(super) priority: u32,
    /// The length of the key that it holds, in bytes.
    pub(super) key_size: u32,
    pub(super) kdf: Kdf,
    pub(super) stripes: u32,
    pub(super) af_hash: Hash,
    /// Where its bytes lie in the header's device.
    pub(super) area: u64,
    /// The cipher of its bytes.
    pub(super) cipher: CipherSpec,
    /// The length of the key of its bytes.
    pub(super) area_key_size: u32,
}

/// What a right key is known by.
#[derive(Clone, Debug)]
pub(super) struct Digest {
    pub(super) slots: Vec<u32>,
    pub(super) segments: Vec<u32>,
    pub(super) hash: Hash,
    pub(super) iterations: u32,
    pub(super) salt: Vec<u8>,
    pub(super) digest: Vec<u8>,
}

/// A part of the encrypted device.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) id: u32,
    /// Where it lies on the device that is encrypted, in bytes.
    pub(super) offset: u64,
    /// In bytes; to the device's end where there is none.
    pub(super) size: Option<u64>,
    /// The number of its first sector.
    pub(super) first: u64,
    pub(super) cipher: CipherSpec,
    /// The size of its sectors, in bytes.
    pub(super) sector: u32,
}

/// A header of either version.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u16,
    pub(super) uuid: String,
    pub(super) label: Option<String>,
    pub(super) slots: Vec<Slot>,
    pub(super) digests: Vec<Digest>,
    pub(super) segments: Vec<Segment>,
    /// The numbers and types of the tokens.
    pub(super) tokens: Vec<(String, String)>,
}

impl Slot {
    /// Decrypts the key that the slot holds. Whether the passphrase was right is for a [`Digest`] to say.
    pub(super) fn key(&self, header: &dyn BlockDevice, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = |detail: &str| Error::corrupt(format!("LUKS key slot {}", self.id), detail.to_owned());
        if self.key_size == 0 || self.key_size > MAX_KEY || self.area_key_size == 0 || self.area_key_size > MAX_KEY {
            return Err(wrong("its key's length is out of bounds"));
        }
        let length = u64::from(self.key_size) * u64::from(self.stripes);
        let stored = length.next_multiple_of(512);
        if length == 0 || stored > MAX_MATERIAL {
            return Err(wrong("it is too large"));
        }
        if self.area.checked_add(stored).is_none_or(|end| end > header.size()) {
            return Err(wrong("it passes the end of the device"));
        }
        let mut material = Zeroizing::new(vec![0; stored as usize]);
        header.read_at(&mut material, self.area)?;
        let key = self.kdf.derive(passphrase, self.area_key_size as usize)?;
        self.cipher.make(&key, 512, 0)?.decrypt(&mut material, 0);
        Ok(super::af::merge(&material[..length as usize], self.stripes as usize, self.af_hash))
    }
}

impl Digest {
    /// Says whether a key is the right one.
    pub(super) fn verifies(&self, key: &[u8]) -> Result<bool> {
        check_iterations(self.iterations)?;
        if self.digest.is_empty() || self.digest.len() > 256 {
            return Err(Error::corrupt("LUKS digest", "its length is out of bounds"));
        }
        let mut found = Zeroizing::new(vec![0; self.digest.len()]);
        self.hash.pbkdf2(key, &self.salt, self.iterations, &mut found);
        Ok(*found == self.digest)
    }
}
