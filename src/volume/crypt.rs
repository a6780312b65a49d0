//! Encrypted volumes: what they are known by, and where their keys come from.

use crate::block::{BlockDevice, SharedDevice};
use crate::error::{Error, Result};
use crate::volume::bitlocker::BitLocker;
use crate::volume::luks::{Label, Luks};
use std::fmt;

/// An encrypted volume, as it is known without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The scheme.
    pub scheme: Scheme,
    /// The name that what it holds is given when it is opened: `/dev/mapper/luks-UUID`.
    pub name: String,
    /// Its UUID, where it has one.
    pub uuid: Option<String>,
    /// The types of its tokens: the other ways by which its system gets the key, such as `systemd-tpm2`.
    pub tokens: Vec<String>,
}

/// How a volume is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// LUKS, with the version of its header.
    Luks(u16),
    /// BitLocker of Windows.
    BitLocker,
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Luks(version) => write!(formatter, "LUKS{version}"),
            Self::BitLocker => formatter.write_str("BitLocker"),
        }
    }
}

/// Gives the keys of encrypted volumes.
pub trait Unlock: Send + Sync {
    /// Opens the volume on `device`, which is known as `name` (`/dev/sda2`). `None` when there is no key for it.
    ///
    /// # Errors
    /// Those of opening it: a wrong key, a cipher that is not supported, a damaged header.
    fn unlock(&self, name: &str, encrypted: &Encrypted, device: &SharedDevice) -> Result<Option<SharedDevice>>;

    /// Returns what the device `name` is, where it is encrypted and its header lies elsewhere.
    fn detached(&self, name: &str) -> Option<Encrypted> {
        let _ = name;
        None
    }
}

/// Has no keys: what is opened is what needs none.
pub struct NoKeys;

impl Unlock for NoKeys {
    fn unlock(&self, _: &str, encrypted: &Encrypted, device: &SharedDevice) -> Result<Option<SharedDevice>> {
        open_clear(encrypted, device)
    }
}

/// Returns what an encrypted volume is known by; `None` where a device is none, or cannot be read.
pub fn probe(device: &dyn BlockDevice) -> Option<Encrypted> {
    luks(device).or_else(|| bitlocker(device))
}

fn luks(device: &dyn BlockDevice) -> Option<Encrypted> {
    let Label { version, uuid, .. } = Label::find(device)?;
    let is_plain = uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let uuid = Some(uuid).filter(|uuid| is_plain && !uuid.is_empty());
    // What is wrong with a header is told where it is opened.
    let tokens = match Luks::read(device) {
        Ok(Some(luks)) => luks.tokens().map(|(_, kind)| kind.to_owned()).collect(),
        _ => Vec::new(),
    };
    Some(Encrypted {
        scheme: Scheme::Luks(version),
        name: format!("/dev/mapper/luks-{}", uuid.as_deref().unwrap_or("unknown")),
        uuid,
        tokens,
    })
}

fn bitlocker(device: &dyn BlockDevice) -> Option<Encrypted> {
    // What is wrong with the metadata is told where it is opened.
    let (uuid, tokens) = match BitLocker::read(device) {
        Ok(None) | Err(Error::Io { .. }) => return None,
        Ok(Some(volume)) => (Some(volume.uuid().to_owned()), volume.elsewhere()),
        Err(_) => (None, Vec::new()),
    };
    Some(Encrypted {
        scheme: Scheme::BitLocker,
        name: format!("/dev/mapper/bitlk-{}", uuid.as_deref().unwrap_or("unknown")),
        uuid,
        tokens,
    })
}

/// Opens a volume whose key lies open beside it; `None` where there is none.
///
/// # Errors
/// Those of opening it.
pub fn open_clear(encrypted: &Encrypted, device: &SharedDevice) -> Result<Option<SharedDevice>> {
    match encrypted.scheme {
        Scheme::Luks(_) => Ok(None),
        Scheme::BitLocker => match BitLocker::read(device.as_ref())? {
            Some(volume) => volume.open_clear(device),
            None => Ok(None),
        },
    }
}
