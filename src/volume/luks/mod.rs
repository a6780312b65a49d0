//! LUKS, the encrypted devices of Linux, in both versions.
//!
//! [`Luks::read`] takes a header that may lie on the device itself or apart from it (detached); [`Luks::open`] tries a
//! passphrase or the contents of a key file with the key slots and gives the device that is encrypted. What is read are
//! all ciphers of [`CipherSpec`](super::sectors::CipherSpec), PBKDF2 and Argon2. Devices with integrity protection, and
//! those whose reencryption is in progress, are refused by name.
//!
//! Nothing of the header is trusted: sizes, counts and the costs of key derivation are bounded before they are used.

mod af;
mod header;
mod kdf;
mod label;
mod metadata;
mod v1;
mod v2;

use super::sectors::{CryptDevice, Piece};
use crate::block::{BlockDevice, SharedDevice};
use crate::bytes::be16;
use crate::error::{Error, Result};
use header::Header;
pub use label::Label;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// The header of an encrypted device.
#[derive(Clone, Debug)]
pub struct Luks {
    header: Header,
}

impl Luks {
    /// Reads the header on a device; `None` where it has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and [`Error::Unsupported`], by name, for what is not read.
    pub fn read(device: &dyn BlockDevice) -> Result<Option<Self>> {
        let mut start = [0; v1::SIZE];
        if device.size() < start.len() as u64 {
            return Ok(None);
        }
        device.read_at(&mut start, 0)?;
        let header = if !start.starts_with(v2::MAGIC) {
            if !v2::has_second(device)? {
                return Ok(None);
            }
            v2::read(device)?
        } else {
            match be16(&start, 6) {
                1 => v1::parse(&start)?,
                2 => v2::read(device)?,
                other => return Err(Error::unsupported(format!("LUKS of the version {other}"))),
            }
        };
        Ok(Some(Self { header }))
    }

    /// Returns the version: 1 or 2.
    pub fn version(&self) -> u16 {
        self.header.version
    }

    /// Returns the UUID.
    pub fn uuid(&self) -> &str {
        &self.header.uuid
    }

    /// Returns the label, where it has one.
    pub fn label(&self) -> Option<&str> {
        self.header.label.as_deref()
    }

    /// Returns the numbers of the key slots that hold a key, in the order in which they are tried.
    pub fn slots(&self) -> Vec<u32> {
        self.by_priority().into_iter().map(|slot| slot.id).collect()
    }

    /// Returns the tokens: how a key may be had elsewhere, such as from a TPM (`systemd-tpm2`).
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header.tokens.iter().map(|(number, kind)| (number.as_str(), kind.as_str()))
    }

    /// Says whether this header lies apart from what it describes: its data begin at the first byte.
    pub fn is_detached(&self) -> bool {
        self.header.segments.first().is_some_and(|segment| segment.offset == 0)
    }

    fn by_priority(&self) -> Vec<&header::Slot> {
        let mut slots: Vec<_> = self.header.slots.iter().filter(|slot| slot.priority > 0).collect();
        slots.sort_by_key(|slot| (std::cmp::Reverse(slot.priority), slot.id));
        slots
    }

    /// Opens the encrypted `device` with a passphrase or the contents of a key file. `header` is the device that this
    /// header was read from: the same one, or another where it is detached.
    ///
    /// Returns `None` where no key slot opens with the key.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] and [`Error::Io`].
    pub fn open(&self, device: &SharedDevice, header: &dyn BlockDevice, key: &[u8]) -> Result<Option<SharedDevice>> {
        let keys = self.volume_keys(header, key)?;
        if self.header.segments.iter().any(|segment| !keys.contains_key(&segment.id)) {
            return Ok(None);
        }
        let mut pieces = Vec::with_capacity(self.header.segments.len());
        for segment in &self.header.segments {
            let sector = u64::from(segment.sector);
            if !matches!(sector, 512 | 1024 | 2048 | 4096) {
                return Err(Error::unsupported(format!("encrypted sectors of {sector} bytes")));
            }
            let past = || Error::corrupt("LUKS segment", "it begins past the end of the device");
            let room = device.size().checked_sub(segment.offset).ok_or_else(past)?;
            let size = segment.size.unwrap_or(room / sector * sector);
            let cipher = segment.cipher.make(&keys[&segment.id], segment.sector, segment.first)?;
            pieces.push(Piece { size, offset: segment.offset, sector: segment.sector, cipher: Some(cipher) });
        }
        let device = CryptDevice::new(device.clone(), pieces, false)?;
        Ok(Some(std::sync::Arc::new(device)))
    }

    /// Returns the volume's keys that a passphrase gives, by segment.
    fn volume_keys(&self, header: &dyn BlockDevice, passphrase: &[u8]) -> Result<BTreeMap<u32, Zeroizing<Vec<u8>>>> {
        let mut keys = BTreeMap::new();
        // A slot that is damaged or cannot be tried does not keep the others from opening.
        let mut failed = None;
        for slot in self.by_priority() {
            let found = slot.key(header, passphrase).and_then(|key| {
                for digest in self.header.digests.iter().filter(|digest| digest.slots.contains(&slot.id)) {
                    if digest.verifies(&key)? {
                        keys.extend(digest.segments.iter().map(|&segment| (segment, key.clone())));
                    }
                }
                Ok(())
            });
            if let Err(error) = found {
                failed.get_or_insert(error);
            }
            if !keys.is_empty() && self.header.segments.iter().all(|segment| keys.contains_key(&segment.id)) {
                return Ok(keys);
            }
        }
        match failed {
            Some(error) if keys.is_empty() => Err(error),
            _ => Ok(keys),
        }
    }
}

/// Opens an encrypted device whose header lies on it, or on `header` where one is given.
///
/// # Errors
/// [`Error::NotAnImage`] where there is no header, [`Error::Usage`] where no key slot opens with the key; otherwise as
/// [`Luks::open`].
pub fn open(device: &SharedDevice, header: Option<&SharedDevice>, key: &[u8]) -> Result<SharedDevice> {
    let on = header.unwrap_or(device);
    let luks = Luks::read(on.as_ref())?.ok_or_else(|| Error::NotAnImage("it has no LUKS header".into()))?;
    luks.open(device, on.as_ref(), key)?.ok_or_else(|| Error::Usage("no key slot opens with the given key".into()))
}
