//! Opening an image: what it is, who may open it, and how.
//!
//! Raw and qcow2 images are read and written in this process, and VHDX and differencing VHD read. All other formats, VHDX for
//! writing, and the few qcow2 images that only QEMU can write, are opened by a `qemu-nbd` child. An image that is opened for reading does not change by a byte.
//!
//! Every file is locked as QEMU locks it ([`lock`]), and whatever other files an image refers to are checked
//! ([`references`](super::references)) before anybody opens them.

use super::distant::Distant;
use super::nbd::{self, qemu::QemuOptions};
use super::qcow2::{self, DeviceStorage, FileStorage, Header, Parts, Qcow2, Reference, Snapshot, Storage};
use super::references::{Guard, of_vmdk};
use super::split::SplitDevice;
use super::{BlockDevice, ImageFormat, RawDevice, SharedDevice, archive, difference, ewf, lock};
use crate::cache::CachePool;
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a chain of images may take for its L1 tables, in bytes.
const MAX_CHAIN_L1: u64 = 64 << 20;
/// The budget of the default options, in bytes.
const DEFAULT_CACHE: usize = 128 << 20;

/// Where temporary files go that may be too large for memory, which `/tmp` often is.
const LARGE_TEMPORARY: &str = "/var/tmp";

/// Which way an image is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// In this process where that is possible, by `qemu-nbd` where not.
    #[default]
    Auto,
    /// In this process.
    Native,
    /// By a `qemu-nbd` child.
    Nbd,
}

/// How an image is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The format, when it is not to be told by the content.
    pub format: Option<ImageFormat>,
    /// Which way.
    pub via: Via,
    /// Whether it may be written.
    pub writable: bool,
    /// Folders beside the image's own whose files it may refer to.
    pub allow_backing: Vec<PathBuf>,
    /// Whether it is read although somebody writes it.
    pub force: bool,
    /// The internal snapshot of a qcow2 image to open, by its number or name, for reading.
    pub snapshot: Option<String>,
    /// Whether what is discarded is given back to the host.
    pub discard: bool,
    /// The budget of what is kept in memory.
    pub cache: Arc<CachePool>,
    /// How long a server that was lost is waited for.
    pub patience: Duration,
    /// Whether a remote image is read ahead, and what was read of it kept.
    pub read_ahead: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            format: None,
            via: Via::Auto,
            writable: false,
            allow_backing: Vec::new(),
            force: false,
            snapshot: None,
            discard: false,
            cache: CachePool::new(DEFAULT_CACHE),
            patience: nbd::Options::default().reconnect_time,
            read_ahead: true,
        }
    }
}

/// An image that was opened.
pub struct OpenImage {
    /// The disk.
    pub device: SharedDevice,
    /// The format.
    pub format: ImageFormat,
    /// The way that was taken: [`Via::Native`] or [`Via::Nbd`].
    pub via: Via,
    /// The internal snapshots, where this process read the image.
    pub snapshots: Vec<Snapshot>,
}

impl std::fmt::Debug for OpenImage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OpenImage")
            .field("format", &self.format)
            .field("via", &self.via)
            .finish_non_exhaustive()
    }
}

/// Says whether a text is meant as the URI of an image that is no file of this host.
pub fn is_remote(location: &str) -> bool {
    nbd::is_uri(location) || nbd::kit::is_url(location)
}

/// Opens an image: a file, a block device, the URI of an NBD export, or the URL of an image on another host (`http`, `https`,
/// `ssh`, `s3`).
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotAnImage`] (a folder, an empty file), [`Error::InUse`] when a virtual machine has it,
/// [`Error::Usage`] when it refers to files that it may not, [`Error::Unsupported`], [`Error::Corrupt`], [`Error::Io`].
pub fn open(location: impl AsRef<OsStr>, options: &OpenOptions) -> Result<OpenImage> {
    let location = location.as_ref();
    if let Some(uri) = location.to_str().filter(|text| is_remote(text)) {
        return open_uri(uri, options).at(|| uri);
    }
    let path = Path::new(location);
    open_path(path, options).at(|| path.display().to_string())
}

/// Opens an image for reading and puts a writable overlay over it: the qcow2 image `overlay`, which is made when it does
/// not exist, or one without a name in `$TMPDIR` or `/var/tmp`, which goes away with the device.
///
/// # Errors
/// As [`open`]; [`Error::Usage`] when `overlay` is an overlay of another image, or when an overlay that lasts is wanted
/// over a snapshot.
pub fn open_with_overlay(
    location: impl AsRef<OsStr>,
    overlay: Option<&Path>,
    options: &OpenOptions,
) -> Result<OpenImage> {
    let location = location.as_ref();
    let base = open(location, &OpenOptions { writable: false, ..options.clone() })?;
    let device = match overlay {
        Some(path) => open_overlay(path, location, &base, options).at(|| path.display().to_string())?,
        None => {
            let file = tempfile::tempfile_in(temporary_folder())
                .doing(|| "cannot make a temporary file for the overlay".to_owned())?;
            Qcow2::overlay_on(file, Arc::clone(&base.device), &options.cache)?
        }
    };
    Ok(OpenImage { device: Arc::new(device), ..base })
}

/// Returns the folder for temporary files that may become large.
fn temporary_folder() -> PathBuf {
    match std::env::var_os("TMPDIR") {
        Some(folder) => folder.into(),
        None if Path::new(LARGE_TEMPORARY).is_dir() => LARGE_TEMPORARY.into(),
        None => std::env::temp_dir(),
    }
}

fn open_overlay(path: &Path, location: &OsStr, base: &OpenImage, options: &OpenOptions) -> Result<Qcow2> {
    if options.snapshot.is_some() {
        return Err(Error::Usage("an overlay in a file cannot lie over a snapshot; leave the file's name out".into()));
    }
    let is_uri = location.to_str().is_some_and(is_remote);
    let real = |name: &Path| name.canonicalize().doing(|| format!("cannot find {}", name.display()));
    let base_name = if is_uri { PathBuf::from(location) } else { real(Path::new(location))? };
    if !path.try_exists().doing(|| "cannot look for it".to_owned())? {
        qcow2::create_overlay(path, &base_name, base.format, base.device.size())?;
    }
    let file = open_file(path, true)?;
    lock::lock(&file, path, true)?;
    let storage = Arc::new(FileStorage::new(file, path.display().to_string()));
    let header = Header::read(&*storage)?;
    let recorded = header.backing.as_ref().map(|backing| Path::new(&backing.name).to_owned());
    let recorded = match recorded {
        Some(name) if !is_uri => real(&path.parent().unwrap_or(Path::new(".")).join(name)).ok(),
        other => other,
    };
    if recorded.as_deref() != Some(&*base_name) {
        return Err(Error::Usage(format!("it exists, but is no overlay of {}", base_name.display()).into()));
    }
    let parts = Parts {
        name: path.display().to_string(),
        data: None,
        backing: Some(Arc::clone(&base.device)),
        snapshot: None,
        writable: true,
        discard: true,
        cache: Arc::clone(&options.cache),
    };
    Qcow2::open(storage, header, parts)
}

fn open_uri(uri: &str, options: &OpenOptions) -> Result<OpenImage> {
    let is_url = nbd::kit::is_url(uri);
    if is_url && options.writable {
        return Err(Error::unsupported("writing to an image on another host but by NBD; use --overlay"));
    }
    let patience = nbd::Options { reconnect_time: options.patience, ..nbd::Options::default() };
    let device = match is_url {
        true => nbd::kit::open(uri, &patience)?,
        false => Arc::new(nbd::NbdDevice::open(uri, options.writable, &patience)?),
    };
    // What is written would have to be forgotten.
    let device: SharedDevice = match options.read_ahead && !options.writable {
        true => Arc::new(Distant::new(device, &options.cache)),
        false => device,
    };
    let format = match options.format {
        Some(format) => format,
        // The bytes of an export are a disk's, which its guest may have written; a file has a format.
        None if is_url => ImageFormat::probe(&*device)?,
        None => ImageFormat::Raw,
    };
    if format.is_raw() {
        refuse_snapshot(options, format)?;
        return Ok(OpenImage { device, format, via: Via::Nbd, snapshots: Vec::new() });
    }
    match format {
        ImageFormat::Qcow2 { .. } => {
            open_alone(device, uri, format, "a remote qcow2 image that refers to other files", options)
        }
        ImageFormat::Vhdx => difference::open_alone(device, "a remote VHDX that differs from another one", options),
        _ => Err(Error::unsupported(format!("a remote {format} image; convert it to qcow2 or raw where it lies"))),
    }
}

/// Opens a qcow2 image on a device; one that refers to other files is `refused`.
fn open_alone(
    device: SharedDevice,
    name: &str,
    format: ImageFormat,
    refused: &'static str,
    options: &OpenOptions,
) -> Result<OpenImage> {
    let storage = Arc::new(DeviceStorage::new(device));
    let header = Header::read(&*storage)?;
    if header.backing.is_some() || header.data_file.is_some() {
        return Err(Error::unsupported(refused));
    }
    let image = Qcow2::open(storage, header, parts(name, options))?;
    let snapshots = image.snapshots().to_vec();
    Ok(OpenImage { device: Arc::new(image), format, via: Via::Native, snapshots })
}

fn open_path(path: &Path, options: &OpenOptions) -> Result<OpenImage> {
    let file = open_file(path, options.writable)?;
    let format = match options.format {
        Some(format) => format,
        None => format_of(&file, path)?,
    };
    let guard = Guard::new(path, &options.allow_backing)?;
    if options.format.is_none() && format == ImageFormat::Raw {
        let device = RawDevice::from_file(clone(&file)?, path, true)?;
        refuse_evidence(&device)?;
        if archive::is_archive(&device)? {
            return open_archive(file, path, options);
        }
        if let Some(parts) = parts_of_split(path, &guard)? {
            return open_split(&parts, options);
        }
    }
    if format == ImageFormat::Ewf {
        return open_evidence(file, path, &guard, options);
    }
    let is_native = format.is_raw() || matches!(format, ImageFormat::Qcow2 { .. });
    match options.via {
        Via::Native if !is_native => {
            let opened = difference::open(path, format, &guard, options)?;
            return opened.ok_or_else(|| Error::unsupported(format!("a {format} image without qemu-nbd")));
        }
        Via::Nbd => return open_by_qemu(path, format, &guard, options),
        Via::Auto if !is_native => return open_by_qemu(path, format, &guard, options),
        Via::Native | Via::Auto => {}
    }
    if format.is_raw() {
        refuse_snapshot(options, format)?;
        lock_file(&file, path, options)?;
        let device = RawDevice::from_file(file, path, !options.writable)?.with_discard(options.discard);
        return Ok(OpenImage { device: Arc::new(device), format, via: Via::Native, snapshots: Vec::new() });
    }
    let storage = FileStorage::new(clone(&file)?, path.display().to_string());
    let header = Header::read(&storage)?;
    let format = ImageFormat::Qcow2 { version: header.version };
    if options.via == Via::Auto && options.writable && header.check_writable().is_err() {
        return open_by_qemu(path, format, &guard, options);
    }
    let image = open_qcow2(file, path, &guard, options, &mut 0)?;
    let snapshots = image.snapshots().to_vec();
    Ok(OpenImage { device: Arc::new(image), format, via: Via::Native, snapshots })
}

/// Refuses by name what forensic tools make that is no image of a disk, or of the format's second version.
fn refuse_evidence(device: &RawDevice) -> Result<()> {
    let mut head = [0; 16];
    if device.size() >= head.len() as u64 {
        device.read_at(&mut head, 0)?;
    }
    ewf::kind(&head).map_or(Ok(()), ewf::check_kind)
}

/// Opens an image of forensic tools, for reading, with its segments beside the first.
fn open_evidence(file: File, path: &Path, guard: &Guard, options: &OpenOptions) -> Result<OpenImage> {
    if options.writable {
        return Err(Error::unsupported("writing to an E01 image; use --overlay"));
    }
    if options.via == Via::Nbd {
        return Err(Error::unsupported("an E01 image through qemu-nbd, which does not know the format"));
    }
    refuse_snapshot(options, ImageFormat::Ewf)?;
    refuse_evidence(&RawDevice::from_file(clone(&file)?, path, true)?)?;
    lock_file(&file, path, options)?;
    let shown = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut segments: Vec<(String, SharedDevice)> = Vec::new();
    segments.push((shown(path), Arc::new(RawDevice::from_file(file, path, true)?)));
    for next in segments_after(path, guard)? {
        segments.push((shown(&next), open_part(&next, options)?));
    }
    if segments.len() as u32 == ewf::MAX_SEGMENTS {
        return Err(Error::unsupported(format!("E01 images of {} segment files or more", ewf::MAX_SEGMENTS)));
    }
    let device = Arc::new(ewf::Ewf::open(segments, &options.cache)?);
    Ok(OpenImage { device, format: ImageFormat::Ewf, via: Via::Native, snapshots: Vec::new() })
}

/// Returns the segment files of an image of forensic tools that lie beside its first one.
pub(super) fn segments_after(path: &Path, guard: &Guard) -> Result<Vec<PathBuf>> {
    let first = path.extension().and_then(OsStr::to_str).filter(|ending| ending.len() == 3 && ending.ends_with("01"));
    siblings(path, guard, (2..=ewf::MAX_SEGMENTS).map_while(|number| ewf::ending(first?, number)))
}

/// Opens the disk image in an archive, for reading.
fn open_archive(file: File, path: &Path, options: &OpenOptions) -> Result<OpenImage> {
    if options.writable {
        return Err(Error::unsupported("writing to a disk image in an archive; unpack it, or use --overlay"));
    }
    lock_file(&file, path, options)?;
    let whole: SharedDevice = Arc::new(RawDevice::from_file(file, path, true)?);
    let member = archive::find(&whole)?;
    log::info!("{}: its member {} is opened", path.display(), member.name);
    let format = member.format;
    let opened = || {
        if format.is_raw() {
            refuse_snapshot(options, format)?;
            return Ok(OpenImage { device: member.device, format, via: Via::Native, snapshots: Vec::new() });
        }
        const REFERS: &str = "an image in an archive that refers to other files; unpack it";
        match format {
            ImageFormat::Qcow2 { .. } => return open_alone(member.device, &member.name, format, REFERS, options),
            ImageFormat::Vhdx => return difference::open_alone(member.device, REFERS, options),
            ImageFormat::Vmdk if !of_vmdk(&DeviceStorage::new(member.device))?.is_empty() => {
                return Err(Error::unsupported(REFERS));
            }
            ImageFormat::Vmdk | ImageFormat::Vdi => {}
            _ => return Err(Error::unsupported(format!("a {format} image in an archive; unpack it"))),
        }
        let qemu = QemuOptions {
            format: Some(format.driver()),
            range: Some((member.offset, member.size)),
            force: options.force,
            ..QemuOptions::default()
        };
        let device = nbd::qemu::open(path, &qemu)?;
        Ok(OpenImage { device, format, via: Via::Nbd, snapshots: Vec::new() })
    };
    let name = member.name.clone();
    opened().at(|| name)
}

/// Returns the names of the parts of a split image whose first part is `path`; `None` where it is whole.
pub(super) fn parts_of_split(path: &Path, guard: &Guard) -> Result<Option<Vec<PathBuf>>> {
    const MAX_PARTS: u32 = 999;
    if path.extension() != Some(OsStr::new("001")) {
        return Ok(None);
    }
    let others = siblings(path, guard, (2..=MAX_PARTS).map(|number| format!("{number:03}")))?;
    Ok((!others.is_empty()).then(|| [vec![path.to_owned()], others].concat()))
}

/// Returns the files beside `path` with these endings, up to the first that is not there.
fn siblings(path: &Path, guard: &Guard, endings: impl Iterator<Item = String>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for ending in endings {
        let next = path.with_extension(ending);
        if !next.try_exists().doing(|| format!("cannot look for {}", next.display()))? {
            break;
        }
        // One that is a link may lead as far as a backing file may.
        guard.follow(path, next.file_name().unwrap_or_default())?;
        found.push(next);
    }
    Ok(found)
}

/// Opens a file that is a part of an image, for reading.
fn open_part(path: &Path, options: &OpenOptions) -> Result<SharedDevice> {
    let file = open_file(path, false)?;
    lock_file(&file, path, options)?;
    Ok(Arc::new(RawDevice::from_file(file, path, true)?))
}

fn open_split(paths: &[PathBuf], options: &OpenOptions) -> Result<OpenImage> {
    if options.writable {
        return Err(Error::unsupported("writing to an image that is split into files; join them, or use --overlay"));
    }
    let devices = paths.iter().map(|path| open_part(path, options)).collect::<Result<_>>()?;
    let device: SharedDevice = Arc::new(SplitDevice::new(devices)?);
    let format = ImageFormat::probe(device.as_ref())?;
    if !format.is_raw() {
        return Err(Error::unsupported(format!("a {format} image that is split into files; join them")));
    }
    refuse_snapshot(options, format)?;
    Ok(OpenImage { device, format, via: Via::Native, snapshots: Vec::new() })
}

pub(super) fn refuse_snapshot(options: &OpenOptions, format: ImageFormat) -> Result<()> {
    match &options.snapshot {
        Some(name) => Err(Error::NotFound(format!("a {format} image has no snapshot {name:?}").into())),
        None => Ok(()),
    }
}

fn open_by_qemu(path: &Path, format: ImageFormat, guard: &Guard, options: &OpenOptions) -> Result<OpenImage> {
    if let Some(opened) = difference::open(path, format, guard, options)? {
        return Ok(opened);
    }
    if format == ImageFormat::Ewf {
        return Err(Error::unsupported("an E01 image below another one"));
    }
    guard.check_all(path, format)?;
    let qemu = QemuOptions {
        format: Some(format.driver()),
        snapshot: options.snapshot.as_deref(),
        writable: options.writable,
        discard: options.discard,
        force: options.force,
        range: None,
    };
    let device = nbd::qemu::open(path, &qemu)?;
    Ok(OpenImage { device, format, via: Via::Nbd, snapshots: Vec::new() })
}

fn parts(name: &str, options: &OpenOptions) -> Parts {
    Parts {
        name: name.to_owned(),
        data: None,
        backing: None,
        snapshot: options.snapshot.clone(),
        writable: options.writable,
        discard: options.discard,
        cache: Arc::clone(&options.cache),
    }
}

/// Opens a qcow2 image and all that it refers to. `l1_bytes` sums the L1 tables of its chain.
fn open_qcow2(file: File, path: &Path, guard: &Guard, options: &OpenOptions, l1_bytes: &mut u64) -> Result<Qcow2> {
    // Locked before it is read, so that what is read stays.
    lock_file(&file, path, options)?;
    let storage = Arc::new(FileStorage::new(file, path.display().to_string()));
    let header = Header::read(&*storage)?;
    *l1_bytes += storage.size()?.min(u64::from(header.l1_entries) * 8);
    if *l1_bytes > MAX_CHAIN_L1 {
        return Err(Error::unsupported("a chain of qcow2 images whose L1 tables take more than 64 MiB"));
    }
    let mut parts = parts(&path.display().to_string(), options);
    let below = OpenOptions { writable: false, snapshot: None, ..options.clone() };
    if let Some(reference) = &header.data_file {
        if reference.name.is_empty() {
            return Err(Error::unsupported("a qcow2 image that does not name its data file"));
        }
        parts.data = Some(open_reference(reference, path, guard, &below, l1_bytes)?);
    }
    if let Some(reference) = &header.backing {
        parts.backing = Some(open_reference(reference, path, guard, &below, l1_bytes)?);
    }
    // The place is in the parts' name; whoever asked knows it for the outermost image.
    Qcow2::open(storage, header, parts)
}

/// Opens for reading what the image at `from` refers to.
fn open_reference(
    reference: &Reference,
    from: &Path,
    guard: &Guard,
    options: &OpenOptions,
    l1_bytes: &mut u64,
) -> Result<SharedDevice> {
    let (path, guard) = guard.follow(from, &reference.name)?;
    open_below(&path, reference.format.as_deref(), &guard, options, l1_bytes).at(|| path.display().to_string())
}

/// Opens for reading a file that an image refers to; `guard` stands at it.
pub(super) fn open_below(
    path: &Path,
    format: Option<&str>,
    guard: &Guard,
    options: &OpenOptions,
    l1_bytes: &mut u64,
) -> Result<SharedDevice> {
    let file = open_file(guard.file(), false)?;
    let format = match format {
        // Drivers of QEMU that are no formats.
        Some("file" | "host_device") => ImageFormat::Raw,
        Some(name) => ImageFormat::from_name(name)?,
        None => format_of(&file, path)?,
    };
    if format.is_raw() {
        lock_file(&file, path, options)?;
        return Ok(Arc::new(RawDevice::from_file(file, path, true)?));
    }
    if matches!(format, ImageFormat::Qcow2 { .. }) {
        return Ok(Arc::new(open_qcow2(file, path, guard, options, l1_bytes)?));
    }
    Ok(open_by_qemu(path, format, guard, options)?.device)
}

pub(super) fn lock_file(file: &File, path: &Path, options: &OpenOptions) -> Result<()> {
    if options.force && !options.writable {
        return Ok(());
    }
    lock::lock(file, path, options.writable)
}

fn clone(file: &File) -> Result<File> {
    file.try_clone().doing(|| "cannot use the open file twice".to_owned())
}

fn format_of(file: &File, path: &Path) -> Result<ImageFormat> {
    ImageFormat::probe(&RawDevice::from_file(clone(file)?, path, true)?)
}

/// Opens a file or a block device that can be an image.
///
/// # Errors
/// [`Error::NotFound`], [`Error::NotAnImage`], [`Error::InUse`] for a block device that the host uses, [`Error::Io`].
pub(super) fn open_file(path: &Path, writable: bool) -> Result<File> {
    let refused = |what: String| Err(Error::NotAnImage(what.into()));
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound(format!("there is no file {}", path.display()).into()));
        }
        Err(error) => return Err(error).doing(|| format!("cannot open {}", path.display())),
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return refused(format!("{} is a folder; name the disk image's file", path.display()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return refused(format!("{} is neither a file nor a block device", path.display()));
    }
    if kind.is_file() && metadata.len() == 0 {
        return refused(format!("{} is empty: a disk image of 0 bytes holds nothing", path.display()));
    }
    // A block device that the host has mounted is not written beside it. Nothing here may block.
    let exclusive = if writable && kind.is_block_device() { libc::O_EXCL } else { 0 };
    let mut open = File::options();
    match open.read(true).write(writable).custom_flags(libc::O_NONBLOCK | exclusive).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            Err(Error::InUse(format!("{} is in use by this system", path.display()).into()))
        }
        result => result.doing(|| format!("cannot open {}", path.display())),
    }
}
