//! Disks that differ from another one, their parent: differencing VHD and VHDX. And VHDX that have none, for reading.

use super::open::{OpenImage, OpenOptions, Via, lock_file, open_below, open_file, refuse_snapshot};
use super::references::Guard;
use super::vhd::{self, Difference, DifferenceDevice};
use super::vhdx::Vhdx;
use super::{ImageFormat, RawDevice, SharedDevice};
use crate::error::{Error, ErrorContext, Result};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NOT_THE_PARENT: &str = "this is not the parent that the image was made over, or it was written since";

/// Returns the names that an image has for its parent, the likeliest first; nothing where it has none, or is of a format
/// whose parents QEMU opens.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Unsupported`], and those of reading.
pub(super) fn parent_names(path: &Path, format: ImageFormat) -> Result<Vec<OsString>> {
    let image = || RawDevice::from_file(open_file(path, false)?, path, true);
    Ok(match format {
        ImageFormat::Vpc => Difference::read(&image()?)?.map(|difference| difference.names).unwrap_or_default(),
        ImageFormat::Vhdx => {
            let vhdx = Vhdx::open(Arc::new(image()?))?;
            vhdx.parent().map(|parent| parent.names.clone()).unwrap_or_default()
        }
        _ => Vec::new(),
    })
}

/// Returns the file of a parent that has one of these names, and the guard for what it refers to in turn.
///
/// # Errors
/// Those of [`Guard::follow`]: that a file may not be opened counts more than that another one does not exist.
pub(super) fn follow_any(path: &Path, names: &[OsString], guard: &Guard) -> Result<(PathBuf, Guard)> {
    let mut refused: Option<Error> = None;
    for name in names {
        match guard.follow(path, name) {
            Ok(found) => return Ok(found),
            Err(error) => {
                if refused.as_ref().is_none_or(|before| is_absent(before) && !is_absent(&error)) {
                    refused = Some(error);
                }
            }
        }
    }
    Err(refused.unwrap_or_else(|| Error::corrupt("image header", "it does not name its parent")))
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::NotFound(_))
}

/// Opens for reading the file of a parent that has one of these names, if `is_parent` says that it is the one.
fn open_parent(
    path: &Path,
    names: &[OsString],
    guard: &Guard,
    options: &OpenOptions,
    is_parent: impl FnOnce(SharedDevice) -> Result<bool>,
) -> Result<SharedDevice> {
    let (below, guard) = follow_any(path, names, guard)?;
    let open = || {
        if !is_parent(Arc::new(RawDevice::from_file(open_file(guard.file(), false)?, &below, true)?))? {
            return Err(Error::corrupt("chain of images", NOT_THE_PARENT));
        }
        open_below(&below, None, &guard, &OpenOptions { snapshot: None, ..options.clone() }, &mut 0)
    };
    open().at(|| below.display().to_string())
}

/// Opens an image in this process that is of one of these formats; `None` where QEMU is to open it.
///
/// # Errors
/// As [`open`](super::open()).
pub(super) fn open(
    path: &Path,
    format: ImageFormat,
    guard: &Guard,
    options: &OpenOptions,
) -> Result<Option<OpenImage>> {
    if !matches!(format, ImageFormat::Vpc | ImageFormat::Vhdx) {
        return Ok(None);
    }
    let file = open_file(path, false)?;
    if !options.writable {
        // Locked before it is read, so that what is read stays.
        lock_file(&file, path, options)?;
    }
    let image: SharedDevice = Arc::new(RawDevice::from_file(file, path, true)?);
    let device: SharedDevice = if format == ImageFormat::Vpc {
        let Some(difference) = Difference::read(&*image)? else { return Ok(None) };
        refuse_writing(options)?;
        let parent = open_parent(path, &difference.names, guard, options, |parent| {
            Ok(vhd::uuid(&*parent)?.is_none_or(|uuid| uuid == difference.parent))
        })?;
        Arc::new(DifferenceDevice::new(image, parent, difference))
    } else {
        let vhdx = Vhdx::open(image)?;
        match vhdx.parent() {
            None if options.writable || options.via == Via::Nbd => return Ok(None),
            None => Arc::new(vhdx),
            Some(named) => {
                refuse_writing(options)?;
                let parent =
                    open_parent(path, &named.names, guard, options, |parent| Ok(named.is(&Vhdx::open(parent)?.id())))?;
                Arc::new(vhdx.over(parent))
            }
        }
    };
    refuse_snapshot(options, format)?;
    Ok(Some(OpenImage { device, format, via: Via::Native, snapshots: Vec::new() }))
}

/// Opens for reading a VHDX that lies in no file of its own; one that has a parent is `refused`.
///
/// # Errors
/// As [`open`](super::open()).
pub(super) fn open_alone(image: SharedDevice, refused: &'static str, options: &OpenOptions) -> Result<OpenImage> {
    let vhdx = Vhdx::open(image)?;
    if vhdx.parent().is_some() {
        return Err(Error::unsupported(refused));
    }
    let format = ImageFormat::Vhdx;
    refuse_snapshot(options, format)?;
    Ok(OpenImage { device: Arc::new(vhdx), format, via: Via::Native, snapshots: Vec::new() })
}

fn refuse_writing(options: &OpenOptions) -> Result<()> {
    match options.writable {
        true => Err(Error::unsupported("writing to a disk that differs from its parent; use --overlay")),
        false => Ok(()),
    }
}
