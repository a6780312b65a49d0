//! Which other files an image may make us open.
//!
//! An image names its backing file, its data file, its extents. A hostile image names `/etc/shadow`. So a file that an
//! image names is opened only when it lies, all links followed, below the folder of the image that the user named or below
//! a folder that the user allowed; when it is a plain name of a file and not something else that QEMU would understand
//! (`json:…`, `nbd:…`); and when the chain of files is finite and short.
//!
//! [`references`] finds the names that an image of a foreign format holds, before QEMU is let near it. What QEMU opens for
//! each format: a VMDK its extents and its parent, a QCOW and a QED its backing file. VDI, VHDX, VHD (VPC), Parallels and
//! DMG images make QEMU open nothing else. A VHD or VHDX that differs from its parent is not for QEMU, which would leave out the
//! one's parent in silence and knows no other; it is refused here.

use super::open::open_file;
use super::qcow2::{FileStorage, Header, Reference, Storage};
use super::{ImageFormat, RawDevice, difference};
use crate::bytes::{be32, be64, le32, le64, until_nul};
use crate::error::{Error, IoContext, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// How long a chain of images may be.
pub const MAX_DEPTH: usize = 64;
/// The longest text of a VMDK that is read, in bytes.
const MAX_DESCRIPTOR: u64 = 4 << 20;
/// The longest name of an extent that QEMU reads, in bytes.
const MAX_EXTENT_NAME: usize = 511;
const SECTOR: u64 = 512;

/// What one image and all that it refers to may open.
#[derive(Clone, Debug)]
pub struct Guard {
    allowed: Vec<PathBuf>,
    /// The files that were opened on the way here, from the first.
    chain: Vec<PathBuf>,
}

impl Guard {
    /// Makes the guard of an image that the user named. `allow` holds more folders that it may refer to.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder does not exist.
    pub fn new(image: &Path, allow: &[PathBuf]) -> Result<Self> {
        let resolve = |path: &Path| path.canonicalize().doing(|| format!("cannot find {}", path.display()));
        let real = resolve(image)?;
        // The folder of the name that the user gave, and that of the file it links to.
        let mut allowed = vec![resolve(folder_of(image))?, folder_of(&real).to_owned()];
        for folder in allow {
            allowed.push(resolve(folder)?);
        }
        Ok(Self { allowed, chain: vec![real] })
    }

    /// Returns the file that this guard stands at, all links followed.
    pub fn file(&self) -> &Path {
        self.chain.last().map_or(Path::new(""), |path| path)
    }

    /// Returns the file that an image at `from` means by a name, if it may be opened, and the guard for what that file
    /// refers to in turn.
    ///
    /// # Errors
    /// [`Error::Usage`] when it may not be opened, [`Error::NotFound`] when it does not exist, [`Error::Corrupt`] when
    /// the chain does not end.
    pub fn follow(&self, from: &Path, name: &OsStr) -> Result<(PathBuf, Self)> {
        let shown = name.to_string_lossy();
        let plain = plain_name(name)?;
        let path = folder_of(from).join(plain);
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(format!("it refers to {shown:?}, which does not exist").into()));
            }
            Err(error) => return Err(Error::io(format!("cannot find {shown:?}, which it refers to"), error)),
        };
        if !self.allowed.iter().any(|folder| real.starts_with(folder)) {
            return Err(Error::Usage(
                format!(
                    "it refers to {shown:?}, outside its own folder; if you trust the image, allow that with \
                     --allow-backing {}",
                    folder_of(&real).display()
                )
                .into(),
            ));
        }
        if self.chain.contains(&real) {
            return Err(Error::corrupt("chain of backing files", format!("{shown:?} comes round again")));
        }
        if self.chain.len() >= MAX_DEPTH {
            return Err(Error::corrupt("chain of backing files", format!("it is longer than {MAX_DEPTH}")));
        }
        let mut next = self.clone();
        next.chain.push(real);
        Ok((path, next))
    }

    /// Checks everything that an image refers to, and what that refers to in turn. Such files are for QEMU to open.
    ///
    /// # Errors
    /// As [`follow`](Self::follow), and those of reading the images.
    pub fn check_all(&self, path: &Path, format: ImageFormat) -> Result<()> {
        for reference in references(path, format)? {
            let (next_path, next) = self.follow(path, &reference.name)?;
            let next_format = match reference.format.as_deref() {
                Some(name) => ImageFormat::from_name(name)?,
                None => {
                    let file = open_file(next.file(), false)?;
                    ImageFormat::probe(&RawDevice::from_file(file, &next_path, true)?)?
                }
            };
            next.check_all(&next_path, next_format).map_err(|error| error.at(next_path.display().to_string()))?;
        }
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => path,
    }
}

/// Returns a name as a path, if it is nothing but that.
fn plain_name(name: &OsStr) -> Result<&Path> {
    let bytes = name.as_bytes();
    let colon = bytes.iter().position(|&byte| byte == b':');
    let slash = bytes.iter().position(|&byte| byte == b'/');
    let path = match (colon, slash) {
        // QEMU takes what stands before a colon for a protocol, unless there is a slash before it.
        (Some(colon), slash) if slash.is_none_or(|slash| colon < slash) => {
            // A relative name after `file:` is relative to nothing that the image could know.
            let rest = bytes.strip_prefix(b"file:").filter(|rest| rest.starts_with(b"/") && !rest.starts_with(b"//"));
            rest.ok_or_else(|| {
                Error::unsupported(format!(
                    "an image that refers to {:?}, which is no plain file",
                    name.to_string_lossy()
                ))
            })?
        }
        _ => bytes,
    };
    if path.is_empty() {
        return Err(Error::corrupt("name of a backing file", "it is empty"));
    }
    Ok(Path::new(OsStr::from_bytes(path)))
}

/// Returns the names of the files that an image makes its reader open.
///
/// # Errors
/// [`Error::Corrupt`] when they cannot be told, [`Error::Unsupported`] for an image that QEMU would misread; those of
/// reading it.
pub fn references(path: &Path, format: ImageFormat) -> Result<Vec<Reference>> {
    let file = open_file(path, false)?;
    let storage = FileStorage::new(file, path.display().to_string());
    match format {
        ImageFormat::Qcow2 { .. } => {
            let header = Header::read(&storage)?;
            if header.data_file.as_ref().is_some_and(|data| !data.name.as_bytes().starts_with(b"/")) {
                // QEMU looks for it in its own working folder, and not beside the image.
                return Err(Error::unsupported("a qcow2 image with a relative name of its data file, by qemu-nbd"));
            }
            Ok(header.data_file.into_iter().chain(header.backing).collect())
        }
        ImageFormat::Qcow => of_qcow(&storage),
        ImageFormat::Qed => of_qed(&storage),
        ImageFormat::Vmdk => of_vmdk(&storage),
        ImageFormat::Vpc | ImageFormat::Vhdx if !difference::parent_names(path, format)?.is_empty() => {
            let name = if format == ImageFormat::Vpc { "VHD" } else { "VHDX" };
            Err(Error::unsupported(format!(
                "a differencing {name} below an image that QEMU opens; it is read when it is opened by itself, or below a qcow2"
            )))
        }
        _ => Ok(Vec::new()),
    }
}

/// Reads `len` bytes at `offset`, or what there is of them.
fn bytes_at(storage: &dyn Storage, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; storage.size()?.saturating_sub(offset).min(len) as usize];
    storage.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn name_at(storage: &dyn Storage, offset: u64, len: u64) -> Result<OsString> {
    if len > 1023 {
        return Err(Error::corrupt("image header", "the name of its backing file is too long"));
    }
    Ok(OsString::from_vec(until_nul(&bytes_at(storage, offset, len)?).to_vec()))
}

fn of_qcow(storage: &dyn Storage) -> Result<Vec<Reference>> {
    let header = bytes_at(storage, 0, 48)?;
    if header.len() < 48 {
        return Err(Error::corrupt("qcow header", "it is cut short"));
    }
    let (offset, len) = (be64(&header, 8), u64::from(be32(&header, 16)));
    if offset == 0 || len == 0 {
        return Ok(Vec::new());
    }
    Ok(vec![Reference { name: name_at(storage, offset, len)?, format: None }])
}

fn of_qed(storage: &dyn Storage) -> Result<Vec<Reference>> {
    const HAS_BACKING: u64 = 1;
    const BACKING_IS_RAW: u64 = 4;
    let header = bytes_at(storage, 0, 64)?;
    if header.len() < 64 {
        return Err(Error::corrupt("qed header", "it is cut short"));
    }
    let features = le64(&header, 16);
    if features & HAS_BACKING == 0 {
        return Ok(Vec::new());
    }
    let name = name_at(storage, u64::from(le32(&header, 56)), u64::from(le32(&header, 60)))?;
    let format = (features & BACKING_IS_RAW != 0).then(|| "raw".to_owned());
    Ok(vec![Reference { name, format }])
}

pub(super) fn of_vmdk(storage: &dyn Storage) -> Result<Vec<Reference>> {
    const HEADER: u64 = 80;
    const FOOTER_FROM_END: u64 = 1024;
    let size = storage.size()?;
    let head = bytes_at(storage, 0, HEADER)?;
    if head.starts_with(b"COWD") {
        return Ok(Vec::new());
    }
    if !head.starts_with(b"KDMV") {
        if size > MAX_DESCRIPTOR {
            return Err(Error::corrupt("VMDK descriptor", "it is too long"));
        }
        return Ok(in_descriptor(&bytes_at(storage, 0, size)?, true));
    }
    let mut found = Vec::new();
    // Images that are streamed have a second header near their end, which counts more than the first.
    for at in [0, size.saturating_sub(FOOTER_FROM_END)] {
        let header = bytes_at(storage, at, HEADER)?;
        if header.len() < HEADER as usize || !header.starts_with(b"KDMV") {
            continue;
        }
        let (capacity, sector, sectors) = (le64(&header, 12), le64(&header, 28), le64(&header, 36));
        if sector == 0 {
            continue;
        }
        let (Some(start), Some(len)) = (sector.checked_mul(SECTOR), sectors.checked_mul(SECTOR)) else {
            return Err(Error::corrupt("VMDK header", "its descriptor lies nowhere"));
        };
        if len > MAX_DESCRIPTOR {
            return Err(Error::corrupt("VMDK descriptor", "it is too long"));
        }
        // QEMU reads at least 20 sectors, whatever the header says; extents count only in an image of no size of its own.
        found.extend(in_descriptor(&bytes_at(storage, start, len.max(20 * SECTOR))?, capacity == 0));
    }
    Ok(found)
}

/// Finds the names in a VMDK's descriptor: every one that QEMU could find, and maybe more.
fn in_descriptor(text: &[u8], with_extents: bool) -> Vec<Reference> {
    const KINDS: [&[u8]; 6] = [b"FLAT", b"VMFS", b"SPARSE", b"ZERO", b"VMFSSPARSE", b"SESPARSE"];
    const PARENT: &[u8] = b"parentFileNameHint=";
    let text = until_nul(text);
    let mut found = Vec::new();
    for (at, &byte) in text.iter().enumerate() {
        if with_extents && byte == b'"' && KINDS.iter().any(|kind| text[..at].trim_ascii_end().ends_with(kind)) {
            let rest = &text[at + 1..];
            let end = rest.iter().position(|byte| b"\n\r\"".contains(byte)).unwrap_or(rest.len());
            let name = rest[..end.min(MAX_EXTENT_NAME)].to_vec();
            // A flat extent is raw; a sparse one is a VMDK again. Its own content says which.
            found.push(Reference { name: OsString::from_vec(name), format: None });
        }
        if text[at..].starts_with(PARENT) {
            let rest = text.get(at + PARENT.len() + 1..).unwrap_or_default();
            let end = rest.iter().position(|&byte| byte == b'"').unwrap_or(rest.len());
            if end > 0 {
                found.push(Reference { name: OsString::from_vec(rest[..end].to_vec()), format: None });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_a_descriptor_is_found_however_it_is_written() {
        let names = |text: &str| -> Vec<String> {
            let found = in_descriptor(text.as_bytes(), true);
            found.into_iter().map(|one| one.name.to_string_lossy().into_owned()).collect()
        };
        let text = "# Disk DescriptorFile\nparentFileNameHint=\"p.vmdk\"\nRW 4192256 SPARSE \"a-s001.vmdk\"\n\
                    RW\n10\n FLAT\n\"/etc/passwd\" 0\nddb.adapterType = \"ide\"\nRW 1 FLAT \"open";
        assert_eq!(names(text), ["p.vmdk", "a-s001.vmdk", "/etc/passwd", "open"]);
    }

    #[test]
    fn only_a_plain_name_is_a_file() {
        for name in
            ["json:{}", "nbd:localhost:10809", "nbd://host/x", "file:///etc/passwd", "fat:rw:/tmp", "file:base.img", ""]
        {
            plain_name(OsStr::new(name)).expect_err(name);
        }
        for name in ["base.img", "a/b:c", "/x/y", "./x:y", "file:/base.img"] {
            plain_name(OsStr::new(name)).expect(name);
        }
    }

    #[test]
    fn a_name_that_leads_outside_is_refused_unless_it_is_allowed() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).expect("makes");
        for file in [folder.path().join("outside"), inner.join("image"), inner.join("base")] {
            std::fs::write(file, b"x").expect("writes");
        }
        std::os::unix::fs::symlink("../outside", inner.join("link")).expect("links");
        let image = inner.join("image");
        let guard = Guard::new(&image, &[]).expect("a guard");
        guard.follow(&image, OsStr::new("base")).expect("beside the image");
        guard.follow(&image, OsStr::new("./base")).expect("beside the image");
        for name in ["../outside", "link", "/etc/passwd"] {
            let error = guard.follow(&image, OsStr::new(name)).expect_err("outside");
            assert!(error.to_string().contains("--allow-backing"), "{error}");
        }
        assert!(matches!(guard.follow(&image, OsStr::new("nothing")), Err(Error::NotFound(_))));
        assert!(matches!(guard.follow(&image, OsStr::new("image")), Err(Error::Corrupt { .. })));
        let guard = Guard::new(&image, &[folder.path().to_owned()]).expect("a guard");
        guard.follow(&image, OsStr::new("link")).expect("allowed");
    }
}
