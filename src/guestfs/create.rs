//! New disk images.

use super::Guestfs;
use crate::block::{ImageFormat, qcow2};
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How an image is made.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// The size of the disk, in bytes; that of the backing file where there is one and this is `None`.
    pub size: Option<u64>,
    /// The image below it, for qcow2.
    pub backing: Option<PathBuf>,
    /// Takes the place of a file that exists.
    pub force: bool,
}

/// The size of a qcow2 image's clusters, in bytes.
const CLUSTER_SIZE: u64 = 64 << 10;

/// Returns an error where a file exists that must not be replaced.
pub(super) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    if !force && path.symlink_metadata().is_ok() {
        return Err(Error::Errno(libc::EEXIST).at(format!("{}: use --force to replace it", path.display())));
    }
    Ok(())
}

/// Runs one of QEMU's tools to its end.
pub(super) fn qemu_img(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound("this needs qemu-img (package qemu-utils)".into()));
        }
        output => output.doing(|| "cannot run qemu-img")?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::io("qemu-img failed", std::io::Error::other(said)))
}

/// Returns a name that no program takes for an option or a protocol.
pub(super) fn plain(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).doing(|| format!("cannot find {}", path.display()))
}

/// Makes a new, empty image.
///
/// # Errors
/// `EEXIST` without `force`, [`Error::Usage`] for sizes and options that cannot be, and those of the host.
pub fn create(path: &Path, format: ImageFormat, options: &CreateOptions) -> Result<()> {
    let place = || path.display().to_string();
    refuse_existing(path, options.force)?;
    refuse_evidence(format)?;
    if options.backing.is_some() && !matches!(format, ImageFormat::Qcow2 { .. }) {
        return Err(Error::Usage(format!("a {format} image has no backing file here; make a qcow2 image").into()));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = options.backing.as_deref().map(|backing| open_backing(folder, backing)).transpose()?;
    let size = match (options.size, &base) {
        (Some(size), _) => size,
        (None, Some((_, _, size))) => *size,
        (None, None) => return Err(Error::Usage("say how large the disk is".into())),
    };
    let scratch = tempfile::Builder::new().prefix(".guestctl-").tempdir_in(folder).doing(place)?;
    let new = scratch.path().join("image");
    match (format, base) {
        (ImageFormat::Qcow2 { .. }, Some((name, base_format, _))) => {
            qcow2::create_overlay(&new, &name, base_format, size)?;
        }
        (ImageFormat::Qcow2 { .. }, None) => qcow2::create(&new, size, CLUSTER_SIZE)?,
        (format, _) if format.is_raw() => {
            let file = File::create_new(&new).doing(place)?;
            file.set_len(size).doing(place)?;
        }
        (format, _) => {
            let mut command = Command::new("qemu-img");
            command.args(["create", "-q", "-f", format.name(), "--"]).arg(plain(&new)?).arg(size.to_string());
            qemu_img(&mut command)?;
        }
    }
    std::fs::rename(&new, path).doing(place)
}

/// Refuses to make an image of a format that is only read.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn refuse_evidence(format: ImageFormat) -> Result<()> {
    match format {
        ImageFormat::Ewf => Err(Error::Usage("E01 images are read, and not made; make a raw or a qcow2 image".into())),
        _ => Ok(()),
    }
}

/// Opens a backing file, whose name counts from the new image's folder; returns the name, the format and the size.
fn open_backing(folder: &Path, backing: &Path) -> Result<(PathBuf, ImageFormat, u64)> {
    // As in QEMU, a relative name is relative to the image.
    let opened = crate::block::open(folder.join(backing), &crate::block::OpenOptions::default())
        .at(|| format!("backing file {}", backing.display()))?;
    Ok((backing.to_owned(), opened.format, opened.device.size()))
}

impl Guestfs {
    /// Makes a new, empty image on the host, `format` being `raw`, `qcow2` or another of QEMU's; it needs no launch.
    ///
    /// # Errors
    /// `EEXIST`, [`Error::Usage`] for an unknown format or a size that cannot be, and those of the host.
    pub fn disk_create(&self, path: impl AsRef<Path>, format: &str, size: u64) -> Result<()> {
        let options = CreateOptions { size: Some(size), ..CreateOptions::default() };
        create(path.as_ref(), ImageFormat::from_name(format)?, &options)
    }
}
