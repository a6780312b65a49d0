//! Remote images and foreign formats, by the NBD protocol.

pub mod qemu;

use super::SharedDevice;
use crate::error::{Error, Result};

/// Says whether a text is the URI of an export.
pub fn is_uri(text: &str) -> bool {
    ["nbd://", "nbds://", "nbd+unix://", "nbds+unix://"].iter().any(|scheme| text.starts_with(scheme))
}

/// Opens an export.
///
/// # Errors
/// [`Error::Unsupported`] always.
pub fn open_uri(uri: &str, _writable: bool) -> Result<SharedDevice> {
    Err(Error::unsupported(format!("the NBD export {uri}")))
}
