//! The protectors of the master key: each holds it encrypted in another way.

use super::entry::{self, Entry};
use super::key::{self, Given};
use crate::bytes::le16;
use crate::error::{Error, Result};
use zeroize::Zeroizing;

/// Where the protector's properties begin.
const AT_PROPERTIES: usize = 28;
const AT_KIND: usize = 26;

/// The place and the size of what the stretching begins with.
const SALT: std::ops::Range<usize> = 4..20;

/// How a protector holds the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Encrypted by a key that lies beside it.
    ClearKey,
    /// Sealed by the machine's TPM, also together with a PIN or a startup key.
    Tpm,
    /// Encrypted by the key in a file.
    StartupKey,
    /// Encrypted by the 48 digits of a recovery key.
    RecoveryKey,
    /// Encrypted for a smart card.
    SmartCard,
    /// Encrypted by a password.
    Password,
    /// Another way, by its number.
    Other(u16),
}

impl Kind {
    /// Returns the name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ClearKey => "clear key",
            Self::Tpm => "TPM",
            Self::StartupKey => "startup key",
            Self::RecoveryKey => "recovery key",
            Self::SmartCard => "smart card",
            Self::Password => "password",
            Self::Other(_) => "unknown",
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::ClearKey,
            0x0100..=0x01ff | 0x0300..=0x07ff => Self::Tpm,
            0x0200 => Self::StartupKey,
            0x0800 => Self::RecoveryKey,
            0x1000 => Self::SmartCard,
            0x2000 => Self::Password,
            other => Self::Other(other),
        }
    }
}

/// A protector.
#[derive(Clone, Debug)]
pub(super) struct Protector {
    /// Its GUID, by which a startup key's file names it.
    id: [u8; 16],
    /// How it holds the key.
    pub kind: Kind,
    /// What stretching a key begins with, where the key is stretched.
    salt: Option<[u8; 16]>,
    /// The key that lies beside it.
    clear: Option<Zeroizing<Vec<u8>>>,
    /// The master key, encrypted.
    wrapped: Vec<u8>,
}

/// Returns the protectors among entries. What holds no encrypted key is none.
///
/// # Errors
/// [`Error::Corrupt`].
pub(super) fn all(entries: &[Entry<'_>]) -> Result<Vec<Protector>> {
    let mut protectors = Vec::new();
    for entry in entries.iter().filter(|entry| entry.value == entry::MASTER_KEY) {
        if entry.data.len() < AT_PROPERTIES {
            return Err(Error::corrupt("BitLocker protector", format!("it has {} bytes", entry.data.len())));
        }
        let properties = entry::all(&entry.data[AT_PROPERTIES..])?;
        let find = |value: u16| properties.iter().find(|property| property.value == value).map(|found| found.data);
        let Some(wrapped) = find(entry::WRAPPED_KEY) else { continue };
        let mut id = [0; 16];
        id.copy_from_slice(&entry.data[..16]);
        let salt = find(entry::STRETCH_KEY).and_then(|stretch| stretch.get(SALT)).map(|salt| {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(salt);
            bytes
        });
        let clear = find(entry::KEY).and_then(key::plain);
        let kind = Kind::from_number(le16(entry.data, AT_KIND));
        protectors.push(Protector { id, kind, salt, clear, wrapped: wrapped.to_vec() });
    }
    Ok(protectors)
}

impl Protector {
    /// Says whether a key that was given may be the one of this protector.
    pub(super) fn takes(&self, given: &Given) -> bool {
        match self.kind {
            Kind::StartupKey => given.external.as_ref().is_some_and(|external| external.protector == self.id),
            Kind::RecoveryKey => given.recovery.is_some() && self.salt.is_some(),
            Kind::Password => given.password.is_some() && self.salt.is_some(),
            Kind::ClearKey | Kind::Tpm | Kind::SmartCard | Kind::Other(_) => false,
        }
    }

    /// Returns the master key; `None` where the key does not open it.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn open(&self, given: &Given) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let stretched = |hash: &Option<key::Hash>| Some(key::stretch(hash.as_ref()?, self.salt.as_ref()?));
        match self.kind {
            Kind::StartupKey => match &given.external {
                Some(external) => self.unwrap(&external.key),
                None => Ok(None),
            },
            Kind::RecoveryKey => stretched(&given.recovery).map_or(Ok(None), |key| self.unwrap(&*key)),
            Kind::Password => stretched(&given.password).map_or(Ok(None), |key| self.unwrap(&*key)),
            Kind::ClearKey | Kind::Tpm | Kind::SmartCard | Kind::Other(_) => Ok(None),
        }
    }

    /// Returns the master key where what encrypts it lies beside it.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub(super) fn open_clear(&self) -> Result<Option<Zeroizing<Vec<u8>>>> {
        match &self.clear {
            Some(clear) if self.kind == Kind::ClearKey => self.unwrap(clear),
            _ => Ok(None),
        }
    }

    fn unwrap(&self, key: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        key::unwrap(key, &self.wrapped)
    }
}
