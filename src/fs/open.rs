//! Opens whatever filesystem lies on a device.

use super::probe::{self, Usage};
use super::{Filesystem, FsOptions};
use crate::block::SharedDevice;
use crate::error::{Error, Result};
use std::sync::Arc;

/// What a filesystem may need beside its device.
#[derive(Clone, Copy, Default)]
pub struct OpenWith<'a> {
    /// Devices among which the other members of a filesystem of several devices are looked for.
    pub members: &'a [SharedDevice],
}

/// Identifies what lies on `device` and opens it with its driver.
///
/// # Errors
/// [`Error::NotAnImage`] when nothing known lies there, [`Error::Unsupported`] when no driver reads what does, and those
/// of the driver.
pub fn open(device: SharedDevice, with: &OpenWith<'_>, options: &FsOptions) -> Result<Arc<dyn Filesystem>> {
    let _ = with;
    let Some(identity) = probe::identify(&*device)? else {
        return Err(Error::NotAnImage("no filesystem is known that looks like this".into()));
    };
    let kind = identity.kind;
    match (kind, identity.usage) {
        ("vfat", _) => Ok(Arc::new(super::fat::Fat::open(device, options)?)),
        (_, Usage::Filesystem) => Err(Error::unsupported(format!("no driver reads {kind}"))),
        (_, Usage::Swap) => Err(Error::unsupported(format!("{kind} is swap space and holds no files"))),
        (_, Usage::Crypto) => Err(Error::unsupported(format!("{kind} is encrypted"))),
        (_, Usage::Raid | Usage::Volume | Usage::Other) => {
            Err(Error::unsupported(format!("{kind} is part of something larger and holds no files by itself")))
        }
    }
}
