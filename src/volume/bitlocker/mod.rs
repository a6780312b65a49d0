//! BitLocker, the encrypted volumes of Windows, for reading.
//!
//! [`BitLocker::read`] takes the boot sector and the metadata, of which there are three copies; [`BitLocker::open`] tries a
//! password, the 48 digits of a recovery key or the contents of a startup key's file (`.BEK`) with the protectors of the
//! volume's master key, and gives the device that is encrypted. The layouts of Windows Vista and of 7 and later are read,
//! also those of sticks (To Go), and volumes that are encrypted in part. Volumes of which only what is used is encrypted as
//! it is written, and those whose conversion broke off, are refused by name.
//!
//! There is no specification by the vendor. The structures are those of the "BitLocker Drive Encryption (BDE) format
//! specification" of the libbde project, numbers are little-endian, and offsets count bytes from the volume's beginning.

mod boot;
mod entry;
mod key;
mod layout;
mod metadata;
mod protector;

use super::sectors::CryptDevice;
use crate::block::{BlockDevice, SharedDevice};
use crate::error::{Error, Result};
use boot::BootSector;
pub(crate) use boot::{ENCRYPTED, SIGNATURE};
use metadata::Metadata;
use protector::Protector;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The most protectors that a key is tried with: each takes a good part of a second.
const MAX_TRIED: usize = 16;

/// The metadata of an encrypted volume.
#[derive(Clone, Debug)]
pub struct BitLocker {
    boot: BootSector,
    metadata: Metadata,
    protectors: Vec<Protector>,
}

impl BitLocker {
    /// Reads the metadata on a device; `None` where its boot sector is not that of BitLocker.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where no copy of the metadata is whole, and those of reading.
    pub fn read(device: &dyn BlockDevice) -> Result<Option<Self>> {
        let Some(boot) = BootSector::read(device)? else { return Ok(None) };
        let metadata = Metadata::read(device, &boot)?;
        let protectors = protector::all(&metadata.entries()?)?;
        Ok(Some(Self { boot, metadata, protectors }))
    }

    /// Returns the volume's GUID.
    pub fn uuid(&self) -> &str {
        &self.metadata.guid
    }

    /// Returns the kinds of its protectors: `password`, `recovery key`, `TPM`, ….
    pub fn protectors(&self) -> impl Iterator<Item = &'static str> {
        self.protectors.iter().map(|protector| protector.kind.name())
    }

    /// Says which of its protectors take something else than a key that can be given.
    pub(super) fn elsewhere(&self) -> Vec<String> {
        self.protectors().filter(|name| name.starts_with("TPM") || *name == "smart card").map(str::to_owned).collect()
    }

    /// Opens the encrypted `device`, which this was read from, by the key that lies open beside it; `None` where none does.
    /// Windows leaves it there while protection is suspended.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_clear(&self, device: &SharedDevice) -> Result<Option<SharedDevice>> {
        for protector in &self.protectors {
            if let Some(master) = protector.open_clear()? {
                return self.device(device, &master).map(Some);
            }
        }
        Ok(None)
    }

    /// Opens the encrypted `device`, which this was read from, by a password, the digits of a recovery key or the contents
    /// of a startup key's file.
    ///
    /// Returns `None` where no protector opens with the key.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] and [`Error::Io`].
    pub fn open(&self, device: &SharedDevice, key: &[u8]) -> Result<Option<SharedDevice>> {
        let given = key::Given::new(key);
        let fitting = self.protectors.iter().filter(|protector| protector.takes(&given));
        for protector in fitting.take(MAX_TRIED) {
            if let Some(master) = protector.open(&given)? {
                return self.device(device, &master).map(Some);
            }
        }
        Ok(None)
    }

    /// Makes the device of the volume's bytes with its master key.
    fn device(&self, device: &SharedDevice, master: &[u8]) -> Result<SharedDevice> {
        if self.boot.encrypts_on_write {
            return Err(Error::unsupported(
                "a BitLocker volume of which only used space is encrypted so far; let Windows finish (manage-bde -status)",
            ));
        }
        let key = self.volume_key(master)?;
        let shown = layout::shown(device, &self.boot, &self.metadata)?;
        let pieces = layout::pieces(shown.size(), &self.boot, &self.metadata, &key)?;
        Ok(Arc::new(CryptDevice::new(shown, pieces, true)?))
    }

    /// Returns the key that sectors are encrypted with.
    fn volume_key(&self, master: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        const FULL_VOLUME_KEY: u16 = 3;
        let wrong = |detail: &'static str| Error::corrupt("BitLocker volume key", detail);
        let entries = self.metadata.entries()?;
        let entry = entries.iter().find(|entry| entry.kind == FULL_VOLUME_KEY && entry.value == entry::WRAPPED_KEY);
        let wrapped = entry.ok_or_else(|| wrong("there is none"))?;
        key::unwrap(master, wrapped.data)?.ok_or_else(|| wrong("the master key does not open it"))
    }
}
