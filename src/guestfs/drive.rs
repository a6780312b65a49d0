//! How a drive is opened.

use crate::block::{ImageFormat, OpenOptions, Via};
use crate::cache::CachePool;
use std::path::PathBuf;
use std::sync::Arc;

/// The options of one drive.
#[derive(Clone, Debug, Default)]
pub struct DriveOptions {
    /// The format; told from the contents where it is `None`.
    pub format: Option<ImageFormat>,
    /// Whether the image is read by this program or through `qemu-nbd`.
    pub via: Via,
    /// Opens the image for writing.
    pub writable: bool,
    /// Folders whose files may be backing files, beside the image's own.
    pub allow_backing: Vec<PathBuf>,
    /// Reads an image that a running machine writes.
    pub force: bool,
    /// Opens this internal snapshot of a qcow2 image.
    pub snapshot: Option<String>,
    /// Gives space that is freed back to the host.
    pub discard: bool,
}

impl DriveOptions {
    pub(super) fn open_options(&self, cache: &Arc<CachePool>) -> OpenOptions {
        OpenOptions {
            format: self.format,
            via: self.via,
            writable: self.writable,
            allow_backing: self.allow_backing.clone(),
            force: self.force,
            snapshot: self.snapshot.clone(),
            discard: self.discard,
            cache: Arc::clone(cache),
        }
    }
}
