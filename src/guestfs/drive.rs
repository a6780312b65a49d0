//! How a drive is opened.

use crate::block::{self, ImageFormat, OpenImage, OpenOptions, Via};
use crate::cache::CachePool;
use crate::error::Result;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    /// Sends writes to a qcow2 image over this one, which stays as it is.
    pub overlay: Option<Overlay>,
    /// How long a server that was lost is waited for; 30 seconds where it is `None`.
    pub patience: Option<Duration>,
    /// Reads a remote image only where and when it is asked for, and keeps nothing of it.
    pub no_read_ahead: bool,
}

/// Where writes go that leave the image as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlay {
    /// A file without a name, which goes away with the handle.
    Temporary,
    /// A qcow2 image, which is made where it does not exist.
    File(PathBuf),
}

impl DriveOptions {
    /// Says whether the drive can be written.
    pub(super) fn is_writable(&self) -> bool {
        self.writable || self.overlay.is_some()
    }

    /// Opens an image with these options.
    pub(super) fn open(&self, location: &str, cache: &Arc<CachePool>) -> Result<OpenImage> {
        let options = self.open_options(cache);
        match &self.overlay {
            None => block::open(location, &options),
            Some(Overlay::Temporary) => block::open_with_overlay(location, None, &options),
            Some(Overlay::File(path)) => block::open_with_overlay(location, Some(path), &options),
        }
    }

    fn open_options(&self, cache: &Arc<CachePool>) -> OpenOptions {
        OpenOptions {
            format: self.format,
            via: self.via,
            writable: self.writable,
            allow_backing: self.allow_backing.clone(),
            force: self.force,
            snapshot: self.snapshot.clone(),
            discard: self.discard,
            cache: Arc::clone(cache),
            patience: self.patience.unwrap_or(OpenOptions::default().patience),
            read_ahead: !self.no_read_ahead,
        }
    }
}
