//! Images that `qemu-nbd` opens.

use crate::block::SharedDevice;
use crate::error::{Error, Result};
use std::path::Path;

/// How an image is opened.
#[derive(Clone, Copy, Debug)]
pub struct QemuOptions<'a> {
    /// QEMU's name of the format.
    pub format: Option<&'a str>,
    /// The internal snapshot.
    pub snapshot: Option<&'a str>,
    /// Whether it may be written.
    pub writable: bool,
    /// Whether discards reach the host.
    pub discard: bool,
    /// Whether it is read although somebody writes it.
    pub force: bool,
}

/// Opens an image.
///
/// # Errors
/// [`Error::Unsupported`] always.
pub fn open(path: &Path, _options: &QemuOptions<'_>) -> Result<SharedDevice> {
    Err(Error::unsupported(format!("the image {}", path.display())))
}
