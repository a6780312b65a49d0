//! What an image is, without reading its disk.

use super::open::{OpenOptions, open, open_file, parts_of_split, segments_after};
use super::qcow2::{Compression, DeviceStorage, FileStorage, Header, Reference};
use super::references::{Guard, references};
use super::{ImageFormat, RawDevice, SharedDevice, archive, difference};
use crate::error::{ErrorContext, IoContext, Result};
use serde::Serialize;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file below an image.
#[derive(Clone, Debug, Serialize)]
pub struct ChainLink {
    /// Its name, as the image above gives it.
    pub name: String,
    /// Its format, by QEMU's name, where that is known.
    pub format: Option<String>,
    /// Why it cannot be opened, if it cannot.
    pub problem: Option<String>,
}

/// What is known of an internal snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct SnapshotInfo {
    /// Its number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970 in UTC.
    pub time: u32,
    /// The size of the disk in it, in bytes.
    pub size: u64,
}

/// What an image lies in, where its file is not the image itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// `tar` for an archive, an appliance among them, and `split` for an image in several files, segments of forensic tools among them.
    pub kind: &'static str,
    /// The member of the archive that is the image.
    pub member: Option<String>,
    /// How many files it is.
    pub files: usize,
}

/// What is known of an image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageInfo {
    /// The image, as it was named.
    pub image: String,
    /// The format, by QEMU's name.
    pub format: String,
    /// The size of the disk that a guest sees, in bytes; nothing where it cannot be opened.
    pub virtual_size: Option<u64>,
    /// The length of the file, in bytes; of all of them, where it is several.
    pub file_size: u64,
    /// The space that the file takes on this host, in bytes; that of all of them, where it is several.
    pub allocated: u64,
    /// The version of the format, where it has several.
    pub version: Option<u32>,
    /// The size of a cluster, in bytes, of a qcow2 image.
    pub cluster_size: Option<u64>,
    /// How compressed clusters of a qcow2 image are compressed.
    pub compression: Option<&'static str>,
    /// Whether a qcow2 image was not closed by its last writer.
    pub dirty: bool,
    /// The files that it needs: backing files from the next one down, and data files.
    pub chain: Vec<ChainLink>,
    /// The internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// What it lies in, where the file is not the image itself.
    pub container: Option<Container>,
    /// Why the disk cannot be opened, if it cannot.
    pub problem: Option<String>,
}

/// Describes an image. One that cannot be opened for what lies below it is described all the same.
///
/// # Errors
/// [`Error::NotFound`](crate::Error::NotFound), [`Error::NotAnImage`](crate::Error::NotAnImage), [`Error::Corrupt`](crate::Error::Corrupt), [`Error::Unsupported`](crate::Error::Unsupported) for an encrypted qcow2 image,
/// [`Error::Io`](crate::Error::Io).
pub fn describe(image: &str, options: &OpenOptions) -> Result<ImageInfo> {
    if super::is_remote(image) {
        let opened = open(image, options)?;
        let size = Some(opened.device.size());
        return Ok(ImageInfo { virtual_size: size, ..ImageInfo::new(image, opened.format) });
    }
    let path = Path::new(image);
    let describe = || {
        let file = open_file(path, false)?;
        let metadata = file.metadata().doing(|| "cannot look at it")?;
        let format = match options.format {
            Some(format) => format,
            None => {
                ImageFormat::probe(&RawDevice::from_file(file.try_clone().doing(|| "cannot read it")?, path, true)?)?
            }
        };
        let mut info = ImageInfo::new(image, format);
        info.file_size = metadata.len();
        info.allocated = metadata.blocks() * 512;
        if matches!(format, ImageFormat::Qcow2 { .. }) {
            info.tell_header(&Header::read(&FileStorage::new(file.try_clone().doing(|| "cannot read it")?, image))?);
        }
        let guard = Guard::new(path, &options.allow_backing)?;
        if options.format.is_none() && format == ImageFormat::Raw {
            info.look_inside(file, path, &guard)?;
        }
        if format == ImageFormat::Ewf {
            info.tell_parts(&[vec![path.to_owned()], segments_after(path, &guard).unwrap_or_default()].concat())?;
        }
        if info.container.is_none() {
            follow(path, format, &guard, &mut info.chain);
        }
        match open(image, options) {
            Ok(opened) => {
                info.virtual_size = Some(opened.device.size());
                info.snapshots = opened
                    .snapshots
                    .iter()
                    .map(|one| SnapshotInfo {
                        id: one.id.clone(),
                        name: one.name.clone(),
                        time: one.time.0,
                        size: one.size,
                    })
                    .collect();
            }
            Err(error) => info.problem = Some(error.root().to_string()),
        }
        Ok(info)
    };
    describe().at(|| image)
}

impl ImageInfo {
    /// Tells what the header of a qcow2 image says.
    fn tell_header(&mut self, header: &Header) {
        self.virtual_size = Some(header.size);
        self.version = Some(header.version);
        self.cluster_size = Some(header.cluster_size());
        self.compression = Some(match header.compression {
            Compression::Zlib => "zlib",
            Compression::Zstd => "zstd",
        });
        self.dirty = header.is_dirty;
    }

    /// Finds the image in an archive, or the other files of one that is split.
    fn look_inside(&mut self, file: File, path: &Path, guard: &Guard) -> Result<()> {
        let whole: SharedDevice = Arc::new(RawDevice::from_file(file, path, true)?);
        if archive::is_archive(&*whole)? {
            let member = match archive::find(&whole) {
                Ok(member) => member,
                Err(error) => {
                    self.container = Some(Container { kind: "tar", member: None, files: 1 });
                    self.problem = Some(error.root().to_string());
                    return Ok(());
                }
            };
            self.format = member.format.name().to_owned();
            if matches!(member.format, ImageFormat::Qcow2 { .. }) {
                self.tell_header(&Header::read(&DeviceStorage::new(member.device))?);
            }
            self.container = Some(Container { kind: "tar", member: Some(member.name), files: 1 });
        } else if let Some(parts) = parts_of_split(path, guard)? {
            self.tell_parts(&parts)?;
        }
        Ok(())
    }

    /// Tells of the files that an image is, the first of them among them.
    fn tell_parts(&mut self, parts: &[PathBuf]) -> Result<()> {
        if parts.len() < 2 {
            return Ok(());
        }
        (self.file_size, self.allocated) = (0, 0);
        for part in parts {
            let metadata = part.metadata().doing(|| format!("cannot look at {}", part.display()))?;
            self.file_size = self.file_size.saturating_add(metadata.len());
            self.allocated = self.allocated.saturating_add(metadata.blocks().saturating_mul(512));
        }
        self.container = Some(Container { kind: "split", member: None, files: parts.len() });
        Ok(())
    }

    fn new(image: &str, format: ImageFormat) -> Self {
        Self {
            image: image.to_owned(),
            format: format.name().to_owned(),
            virtual_size: None,
            file_size: 0,
            allocated: 0,
            version: None,
            cluster_size: None,
            compression: None,
            dirty: false,
            chain: Vec::new(),
            snapshots: Vec::new(),
            container: None,
            problem: None,
        }
    }
}

/// Returns what an image refers to: of the names that a parent may have, that of a file that is there.
fn parents(path: &Path, format: ImageFormat, guard: &Guard) -> Result<Vec<Reference>> {
    let names = difference::parent_names(path, format)?;
    let Some(first) = names.first() else { return references(path, format) };
    let is_there = |name: &&OsString| guard.follow(path, name).is_ok();
    let name = names.iter().find(is_there).unwrap_or(first).clone();
    Ok(vec![Reference { name, format: None }])
}

/// Lists what an image refers to, and what that refers to in turn, as far as it may be opened.
fn follow(path: &Path, format: ImageFormat, guard: &Guard, chain: &mut Vec<ChainLink>) {
    let found = match parents(path, format, guard) {
        Ok(found) => found,
        Err(error) => {
            log::warn!("{}: {error}", path.display());
            return;
        }
    };
    for reference in found {
        let name = reference.name.to_string_lossy().into_owned();
        let opened = guard.follow(path, &reference.name).and_then(|(path, guard)| {
            let format = match reference.format.as_deref() {
                Some("file" | "host_device") => ImageFormat::Raw,
                Some(name) => ImageFormat::from_name(name)?,
                None => ImageFormat::probe(&RawDevice::from_file(open_file(guard.file(), false)?, &path, true)?)?,
            };
            Ok((path, guard, format))
        });
        match opened {
            Ok((path, guard, format)) => {
                chain.push(ChainLink { name, format: Some(format.name().to_owned()), problem: None });
                follow(&path, format, &guard, chain);
            }
            Err(error) => {
                let problem = Some(error.to_string());
                chain.push(ChainLink { name, format: reference.format, problem });
            }
        }
    }
}
