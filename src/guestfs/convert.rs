//! Converting images from one format to another.
//!
//! raw and qcow2 are written in this process, from any format that can be read; the other formats by `qemu-img`, after the
//! source and all that it refers to were checked as for opening. The new image is made beside its name and gets it when it
//! is complete and on the disk.

use super::create::{plain, qemu_img, refuse_existing};
use super::progress::{Meter, ProgressCallback};
use crate::block::qcow2::Compression;
use crate::block::{self, ImageFormat, OpenOptions, convert};
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// How an image is converted.
#[derive(Clone, Default)]
pub struct ConvertOptions {
    /// How the source is opened.
    pub source: OpenOptions,
    /// The new format; qcow2 where it is `None`.
    pub format: Option<ImageFormat>,
    /// Compresses the clusters of a qcow2 image.
    pub compress: Option<Compression>,
    /// Drops the chain of backing files: the new image holds all that they do.
    pub flatten: bool,
    /// Takes the place of a file that exists.
    pub force: bool,
    /// Told how far it has come.
    pub progress: Option<ProgressCallback>,
}

/// What a conversion came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Converted {
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The space that the new image takes on this host, in bytes.
    pub allocated: u64,
}

/// Returns the name of the file that an image lies over, and its format, where it is a file that lies over one.
fn backing_of(image: &str, options: &OpenOptions, format: ImageFormat) -> Result<Option<(PathBuf, ImageFormat)>> {
    if block::is_remote(image) || !matches!(format, ImageFormat::Qcow2 { .. }) {
        return Ok(None);
    }
    let path = Path::new(image);
    let file = File::open(path).doing(|| "cannot read the image")?;
    let header = block::qcow2::Header::read(&block::qcow2::FileStorage::new(file, image))?;
    let Some(backing) = header.backing else { return Ok(None) };
    let guard = block::references::Guard::new(path, &options.allow_backing)?;
    let (_, below) = guard.follow(path, &backing.name)?;
    let format = match backing.format.as_deref() {
        Some("file" | "host_device") => ImageFormat::Raw,
        Some(name) => ImageFormat::from_name(name)?,
        None => ImageFormat::probe(&block::RawDevice::open(below.file(), false)?)?,
    };
    Ok(Some((below.file().to_owned(), format)))
}

/// Converts an image: a file or a URL (NBD, HTTP, SSH, S3).
///
/// # Errors
/// `EEXIST` without `force`, [`Error::Usage`] for options that do not go together, those of opening the source and of
/// reading it, and those of the host; nothing is left of the new image then.
pub fn convert(image: &str, to: &Path, options: &ConvertOptions) -> Result<Converted> {
    let started = Instant::now();
    let format = options.format.unwrap_or(ImageFormat::Qcow2 { version: 3 });
    let is_qcow2 = matches!(format, ImageFormat::Qcow2 { .. });
    if options.compress.is_some() && !is_qcow2 {
        return Err(Error::Usage(format!("a {format} image is not compressed here; qcow2 images are").into()));
    }
    super::create::refuse_evidence(format)?;
    refuse_existing(to, options.force)?;
    if to.is_dir() {
        return Err(Error::Errno(libc::EISDIR).at(to.display().to_string()));
    }
    if to.exists() && same_file(Path::new(image), to) {
        return Err(Error::Usage("the new image would take the place of the one it is made of; use compact".into()));
    }
    let source = block::open(image, &options.source)?;
    let backing = if options.source.snapshot.is_some() {
        None
    } else {
        backing_of(image, &options.source, source.format).at(|| image)?
    };
    if source.format == block::ImageFormat::Ewf && !format.is_raw() && !is_qcow2 {
        return Err(Error::Usage("an E01 image is converted to raw or qcow2; convert that one further".into()));
    }
    let size = source.device.size();
    let meter = Meter::new(options.progress.clone(), size);
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = || format!("cannot write {}", to.display());
    let new = tempfile::Builder::new()
        .prefix(".guestctl-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(folder)
        .doing(place)?;
    match backing {
        Some(_) if !options.flatten && !is_qcow2 => {
            return Err(Error::Usage(
                format!("{image} has a backing file, and a {format} image cannot; use --flatten").into(),
            ));
        }
        Some((below, below_format)) if !options.flatten => {
            by_qemu(image, source.format, new.path(), format, options, Some((&below, below_format)))?;
        }
        _ if format.is_raw() => {
            convert::to_raw(&*source.device, new.as_file(), &|done| meter.add(done)).at(|| image)?
        }
        _ if is_qcow2 => {
            convert::to_qcow2(&*source.device, new.as_file(), options.compress, &|done| meter.add(done))
                .at(|| image)?;
        }
        _ => by_qemu(image, source.format, new.path(), format, options, None)?,
    }
    // The end is told once more, which also sees an interruption that came while qemu-img worked.
    meter.add(0)?;
    // qemu-img may have made the file anew.
    let file = File::options().read(true).write(true).open(new.path()).doing(place)?;
    file.sync_all().doing(place)?;
    let allocated = std::os::unix::fs::MetadataExt::blocks(&file.metadata().doing(place)?) * 512;
    new.persist(to).map_err(|failed| Error::io(place(), failed.error))?;
    log::info!(
        "operation=convert duration_ms={:.1} disk_size_gb={:.2} allocated_gb={:.2}",
        started.elapsed().as_secs_f64() * 1000.0,
        size as f64 / 1e9,
        allocated as f64 / 1e9
    );
    Ok(Converted { size, allocated })
}

fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn by_qemu(
    image: &str,
    from: ImageFormat,
    to: &Path,
    format: ImageFormat,
    options: &ConvertOptions,
    backing: Option<(&Path, ImageFormat)>,
) -> Result<()> {
    if block::is_remote(image) {
        return Err(Error::unsupported(format!(
            "converting a remote image to {format} in one step; convert it to raw or qcow2 first"
        )));
    }
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-q", "-W", "-m", "8", "-f", from.driver(), "-O", format.name()]);
    if let Some(compression) = options.compress {
        let kind = if compression == Compression::Zstd { "zstd" } else { "zlib" };
        command.args(["-c", "-o", &format!("compression_type={kind}")]);
    }
    if let Some(snapshot) = &options.source.snapshot {
        command.args(["-l", &format!("snapshot.name={snapshot}")]);
    }
    if let Some((below, below_format)) = backing {
        command.arg("-B").arg(below).args(["-F", below_format.driver()]);
    }
    command.arg("--").arg(plain(Path::new(image))?).arg(plain(to)?);
    qemu_img(&mut command).at(|| image)
}

/// What a compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// The space that the image took before, in bytes.
    pub before: u64,
    /// The space that it takes now, in bytes.
    pub after: u64,
}

/// Gives back the space of zeroes: of a raw image by holes in its place; a qcow2 image is written anew beside itself and
/// takes its own place when that is complete.
///
/// # Errors
/// [`Error::InUse`], [`Error::Unsupported`] for other formats and for a qcow2 image with internal snapshots or a backing
/// file, and those of reading and writing.
pub fn compact(path: &Path, options: &ConvertOptions) -> Result<Compacted> {
    let place = || path.display().to_string();
    let allocated = || {
        let metadata = path.metadata().doing(|| "cannot look at the image")?;
        Ok::<u64, Error>(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
    };
    let name = path.to_str().ok_or_else(|| Error::Usage("names of images are UTF-8".into()))?;
    // Opened for writing, so that nobody else has it.
    let source = OpenOptions { writable: true, discard: true, ..options.source.clone() };
    let opened = block::open(path, &source)?;
    let before = allocated()?;
    if opened.format.is_raw() {
        let meter = Meter::new(options.progress.clone(), opened.device.size());
        convert::punch_zeroes(&*opened.device, &|done| meter.add(done)).at(place)?;
        opened.device.flush().at(place)?;
        return Ok(Compacted { before, after: allocated()? });
    }
    if !matches!(opened.format, ImageFormat::Qcow2 { .. }) {
        return Err(Error::unsupported(format!("compacting a {} image; convert it instead", opened.format)).at(place()));
    }
    if !opened.snapshots.is_empty() {
        return Err(Error::unsupported("compacting an image with internal snapshots, which would be lost").at(place()));
    }
    let header = block::qcow2::Header::read(&block::qcow2::FileStorage::new(
        File::open(path).doing(|| "cannot read the image")?,
        name,
    ))
    .at(place)?;
    if header.backing.is_some() {
        return Err(Error::unsupported("compacting an image with a backing file; convert it instead").at(place()));
    }
    let format = Some(opened.format);
    let convert_options = ConvertOptions {
        source: OpenOptions { writable: false, format, ..options.source.clone() },
        format,
        compress: options.compress,
        flatten: false,
        force: true,
        progress: options.progress.clone(),
    };
    let new = path.with_file_name(format!(
        ".guestctl-compact-{}-{}",
        std::process::id(),
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    drop(opened);
    let mode = path.metadata().doing(place)?.permissions();
    let done = convert(name, &new, &convert_options).and_then(|_| {
        std::fs::set_permissions(&new, mode).doing(place)?;
        std::fs::rename(&new, path).doing(place)
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(&new);
    }
    done?;
    Ok(Compacted { before, after: allocated()? })
}
