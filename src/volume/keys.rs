//! The keys that a person gives, and which encrypted volumes they are for.
//!
//! Keys are wiped from memory when they go. A volume is opened by the first of its keys that fits.

use super::bitlocker::BitLocker;
use super::crypt::{Encrypted, Scheme, Unlock};
use super::luks::Luks;
use crate::block::SharedDevice;
use crate::error::{Error, ErrorContext, Result};
use std::fmt;
use zeroize::Zeroizing;

/// How often a person is asked for the key of one volume.
const ATTEMPTS: usize = 3;

/// What is said of a key that opens no protector of BitLocker.
const WRONG_BITLOCKER: &str =
    "no protector opens with the given key: a password, the 48 digits of a recovery key, or a startup key's .BEK file";

/// A passphrase or the contents of a key file; wiped when it goes.
pub type Secret = Zeroizing<Vec<u8>>;

/// Which volumes a key is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All of them.
    All,
    /// That with this name or UUID.
    One(String),
}

impl Selector {
    /// Reads `all`, a device (`/dev/sda2`, `sda2`), or a UUID, also as `UUID=…`.
    pub fn parse(text: &str) -> Self {
        match text {
            "all" => Self::All,
            _ => Self::One(text.strip_prefix("UUID=").unwrap_or(text).to_owned()),
        }
    }

    fn fits(&self, name: &str, encrypted: Option<&Encrypted>) -> bool {
        let Self::One(wanted) = self else { return true };
        let is_name = |name: &str| wanted == name || Some(wanted.as_str()) == name.strip_prefix("/dev/");
        let has_uuid =
            |encrypted: &Encrypted| encrypted.uuid.as_ref().is_some_and(|uuid| uuid.eq_ignore_ascii_case(wanted));
        is_name(name) || encrypted.is_some_and(|encrypted| is_name(&encrypted.name) || has_uuid(encrypted))
    }
}

/// Asks a person for the key of the volume that is named; `None` when there is nobody, or no answer.
pub type Prompt = Box<dyn Fn(&str) -> Result<Option<Secret>> + Send + Sync>;

/// Keys, headers that lie apart, and whom to ask.
#[derive(Default)]
pub struct Keys {
    keys: Vec<(Selector, Secret)>,
    headers: Vec<(Selector, SharedDevice)>,
    prompt: Option<Prompt>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Keys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Keys {
    /// Makes a set without keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key.
    pub fn add(&mut self, selector: Selector, key: Secret) {
        self.keys.push((selector, key));
    }

    /// Adds the device that holds the LUKS header of another.
    pub fn add_header(&mut self, selector: Selector, header: SharedDevice) {
        self.headers.push((selector, header));
    }

    /// Sets whom to ask for keys that were not given.
    pub fn set_prompt(&mut self, prompt: Prompt) {
        self.prompt = Some(prompt);
    }

    fn header(&self, name: &str) -> Option<&SharedDevice> {
        self.headers.iter().find(|(selector, _)| selector.fits(name, None)).map(|(_, header)| header)
    }

    /// Opens a volume by the first key with which `open` gives a device.
    fn open(
        &self,
        name: &str,
        encrypted: &Encrypted,
        wrong: &'static str,
        open: impl Fn(&[u8]) -> Result<Option<SharedDevice>>,
    ) -> Result<Option<SharedDevice>> {
        let mut keys = self.keys.iter().filter(|(selector, _)| selector.fits(name, Some(encrypted))).peekable();
        if keys.peek().is_none() {
            return self.ask(name, encrypted, wrong, open);
        }
        for (_, key) in keys {
            if let Some(device) = open(key)? {
                return Ok(Some(device));
            }
        }
        Err(Error::Usage(wrong.into()))
    }

    fn ask(
        &self,
        name: &str,
        encrypted: &Encrypted,
        wrong: &'static str,
        open: impl Fn(&[u8]) -> Result<Option<SharedDevice>>,
    ) -> Result<Option<SharedDevice>> {
        let Some(prompt) = &self.prompt else { return Ok(None) };
        let which = match &encrypted.uuid {
            Some(uuid) => format!("{name} ({}, {uuid})", encrypted.scheme),
            None => format!("{name} ({})", encrypted.scheme),
        };
        for _ in 0..ATTEMPTS {
            let Some(key) = prompt(&which)? else { return Ok(None) };
            if let Some(device) = open(&key)? {
                return Ok(Some(device));
            }
            log::warn!("{name}: {wrong}");
        }
        Err(Error::Usage(wrong.into()))
    }
}

impl Unlock for Keys {
    fn unlock(&self, name: &str, encrypted: &Encrypted, device: &SharedDevice) -> Result<Option<SharedDevice>> {
        match encrypted.scheme {
            Scheme::Luks(_) => {
                let header = self.header(name).unwrap_or(device);
                let gone = || Error::NotAnImage("it has no LUKS header".into());
                let luks = Luks::read(header.as_ref())?.ok_or_else(gone)?;
                if luks.is_detached() && std::sync::Arc::ptr_eq(header, device) {
                    return Err(Error::Usage("this is the header of another device; give it with --header".into()));
                }
                let open = |key: &[u8]| luks.open(device, header.as_ref(), key);
                self.open(name, encrypted, "no key slot opens with the given key", open)
            }
            Scheme::BitLocker => {
                let gone = || Error::NotAnImage("it has no BitLocker metadata".into());
                let volume = BitLocker::read(device.as_ref())?.ok_or_else(gone)?;
                if let Some(opened) = volume.open_clear(device)? {
                    return Ok(Some(opened));
                }
                self.open(name, encrypted, WRONG_BITLOCKER, |key| volume.open(device, key))
            }
        }
    }

    fn detached(&self, name: &str) -> Option<Encrypted> {
        super::crypt::probe(self.header(name)?.as_ref())
    }
}

/// Opens a device that holds the header of another.
///
/// # Errors
/// [`Error::NotAnImage`] where it holds none.
pub fn check_header(header: &SharedDevice, place: &str) -> Result<()> {
    match Luks::read(header.as_ref()).at(|| place.to_owned())? {
        Some(_) => Ok(()),
        None => Err(Error::NotAnImage("it holds no LUKS header".into()).at(place.to_owned())),
    }
}
