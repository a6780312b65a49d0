//! qcow2 images, versions 2 and 3, read and written in this process, from many threads at once.
//!
//! Reading knows every cluster size, zero clusters, compressed clusters (deflate, Zstandard), subclusters (extended L2),
//! external data files, backing files of any size and internal snapshots. It takes no lock while it waits for the host,
//! but where a slice of a writable image's L2 table is read for the first time.
//!
//! Writing ([`write`]) knows all of that but subclusters, external data files and images whose refcounts may be wrong.
//!
//! The image is not trusted: each table is bounded before it is read, each offset is checked before it is used. Which
//! other files may be opened for an image is not decided here; whoever opens it hands them in.
//!
//! The format is specified in `docs/interop/qcow2.rst` of QEMU.

pub(crate) mod bulk;
mod compressed;
mod create;
mod header;
mod mapping;
mod snapshot;
mod storage;
mod table;
mod write;

pub use create::{create, create_overlay};
pub use header::{Compression, Header, MAGIC, Reference};
pub use snapshot::Snapshot;
pub use storage::{DeviceStorage, FileStorage, Storage};

use super::{BlockDevice, Extent, ExtentKind, SharedDevice, check_range};
use crate::bytes::be64;
use crate::cache::{Cache, CachePool};
use crate::error::{Error, ErrorContext, Result};
use compressed::{Decompressor, Descriptor};
use mapping::Mapping;
use snapshot::Snapshots;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use table::Tables;
use write::Writer;

/// How many compressed clusters may wait to be decompressed ahead of their reading.
const MAX_AHEAD: usize = 64;
/// How far one hint reaches, in bytes.
const MAX_PREFETCH: u64 = 64 << 20;
/// How much of a L1 table is read at once, in bytes.
const L1_PIECE: u64 = 64 << 10;

/// What belongs to an image beside its own file.
pub struct Parts {
    /// What messages call the image.
    pub name: String,
    /// The external data file.
    pub data: Option<SharedDevice>,
    /// The backing file, of any size.
    pub backing: Option<SharedDevice>,
    /// The internal snapshot to open, by its number or its name, for reading.
    pub snapshot: Option<String>,
    /// Whether the image may be written.
    pub writable: bool,
    /// Whether space that is given back is given back to the host's filesystem too.
    pub discard: bool,
    /// The budget of what is kept in memory.
    pub cache: Arc<CachePool>,
}

/// An open qcow2 image.
pub struct Qcow2 {
    image: Arc<Image>,
}

struct Image {
    name: String,
    header: Header,
    /// The size of the disk in bytes; that of the snapshot, if one is open.
    size: u64,
    storage: Arc<dyn Storage>,
    /// A size that the file is known to have, at least.
    known_size: AtomicU64,
    l1: Vec<AtomicU64>,
    tables: Tables,
    snapshots: Vec<Snapshot>,
    data: Option<DeviceStorage>,
    backing: Option<SharedDevice>,
    decompressor: Decompressor,
    /// Decompressed clusters, by their entries of L2. We write none, so an entry never gets a second meaning.
    clusters: Cache<u64, Arc<[u8]>>,
    /// How many clusters wait to be decompressed ahead.
    ahead: AtomicUsize,
    writer: Option<Writer>,
}

impl Qcow2 {
    /// Opens an image whose header was read.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when a table is damaged, [`Error::NotFound`] for a snapshot that does not exist,
    /// [`Error::Unsupported`] for writing an image that only QEMU writes; those of the host.
    pub fn open(storage: Arc<dyn Storage>, header: Header, parts: Parts) -> Result<Self> {
        let name = parts.name.clone();
        Image::open(storage, header, parts).map(|image| Self { image: Arc::new(image) }).at(|| name)
    }

    /// Makes a writable image over a device: what is written goes to `file`, which is made a new qcow2 image and need
    /// not have a name.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub fn overlay_on(file: File, base: SharedDevice, cache: &Arc<CachePool>) -> Result<Self> {
        let size = base.size();
        create::write_new(&file, size, create::CLUSTER_SIZE, None)?;
        let storage = Arc::new(FileStorage::new(file, "the overlay"));
        let header = Header::read(&*storage)?;
        let parts = Parts {
            name: "the overlay".to_owned(),
            data: None,
            backing: Some(base),
            snapshot: None,
            writable: true,
            discard: true,
            cache: Arc::clone(cache),
        };
        Self::open(storage, header, parts)
    }

    /// Returns the header, as it was when the image was opened.
    pub fn header(&self) -> &Header {
        &self.image.header
    }

    /// Returns the internal snapshots.
    pub fn snapshots(&self) -> &[Snapshot] {
        &self.image.snapshots
    }
}

impl Image {
    fn open(storage: Arc<dyn Storage>, header: Header, parts: Parts) -> Result<Self> {
        let file_size = storage.size()?;
        // Damaged snapshots do not stand in the way of the disk itself, as long as it is not written.
        let snapshots = match Snapshots::read(&*storage, &header) {
            Ok(snapshots) => snapshots,
            Err(error) if parts.writable || parts.snapshot.is_some() => return Err(error),
            Err(error) => {
                log::warn!("{}: {error}", parts.name);
                Snapshots::default()
            }
        };
        let (mut size, mut l1_offset) = (header.size, header.l1_offset);
        if let Some(wanted) = &parts.snapshot {
            if parts.writable {
                return Err(Error::Usage("a snapshot cannot be written".into()));
            }
            let found = snapshots.all.iter().find(|one| one.id == *wanted);
            let found = found.or_else(|| snapshots.all.iter().find(|one| one.name == *wanted));
            let found =
                found.ok_or_else(|| Error::NotFound(format!("there is no snapshot {wanted:?} in it").into()))?;
            if found.size > i64::MAX.cast_unsigned() {
                return Err(Error::corrupt("snapshot table", "the disk of the snapshot is too large"));
            }
            header.check_l1(found.l1_offset, found.l1_entries, found.size, file_size)?;
            (size, l1_offset) = (found.size, found.l1_offset);
        }
        let l1 = Self::read_l1(&*storage, l1_offset, header.l1_entries_for(size) * 8)?;
        let writer = match parts.writable {
            true => Some(Writer::open(&storage, &header, &snapshots, &l1, &parts)?),
            false => None,
        };
        Ok(Self {
            name: parts.name,
            size,
            known_size: AtomicU64::new(file_size),
            l1,
            tables: Tables::new(Arc::clone(&storage), header.cluster_size(), parts.writable, &parts.cache),
            storage,
            snapshots: snapshots.all,
            data: parts.data.map(DeviceStorage::new),
            backing: parts.backing,
            decompressor: Decompressor::new(header.compression),
            clusters: Cache::new(&parts.cache),
            ahead: AtomicUsize::new(0),
            writer,
            header,
        })
    }

    /// Reads a L1 table that was checked to lie in the file, in pieces, because it may be long.
    fn read_l1(storage: &dyn Storage, offset: u64, len: u64) -> Result<Vec<AtomicU64>> {
        let mut l1 = Vec::with_capacity((len / 8) as usize);
        let mut piece = vec![0; len.min(L1_PIECE) as usize];
        let mut done = 0;
        while done < len {
            let piece = &mut piece[..(len - done).min(L1_PIECE) as usize];
            storage.read_at(piece, offset + done)?;
            l1.extend(piece.chunks_exact(8).map(|word| AtomicU64::new(be64(word, 0))));
            done += piece.len() as u64;
        }
        Ok(l1)
    }

    fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    /// Returns where the data clusters lie.
    fn data(&self) -> &dyn Storage {
        match &self.data {
            Some(data) => data,
            None => &*self.storage,
        }
    }

    /// Returns how much of a range, from its beginning, lies in the backing file.
    fn in_backing(&self, offset: u64, len: u64) -> u64 {
        self.backing.as_ref().map_or(0, |backing| backing.size().saturating_sub(offset).min(len))
    }

    /// Fills `buf` with the disk's bytes; the range lies in the disk.
    fn read(&self, mut buf: &mut [u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            let (mapping, len) = self.resolve(offset, buf.len() as u64)?;
            let (part, rest) = buf.split_at_mut(len as usize);
            match mapping {
                Mapping::Data { host, .. } => self.data().read_at(part, host)?,
                Mapping::Zero { .. } => part.fill(0),
                Mapping::Backing => self.read_backing(part, offset)?,
                Mapping::Compressed { entry, within } => self.read_compressed(part, entry, within)?,
            }
            buf = rest;
            offset += len;
        }
        Ok(())
    }

    fn read_backing(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let (inside, past) = buf.split_at_mut(self.in_backing(offset, buf.len() as u64) as usize);
        past.fill(0);
        match &self.backing {
            Some(backing) if !inside.is_empty() => backing.read_at(inside, offset),
            _ => Ok(()),
        }
    }

    fn read_compressed(&self, buf: &mut [u8], entry: u64, within: u64) -> Result<()> {
        let within = within as usize;
        if let Some(cluster) = self.clusters.get(&entry) {
            buf.copy_from_slice(&cluster[within..within + buf.len()]);
            return Ok(());
        }
        if buf.len() as u64 == self.header.cluster_size() {
            // A whole cluster goes straight to where it is wanted; what reads whole clusters seldom comes back.
            return self.decompress(entry, buf);
        }
        let cluster = self.decompress_kept(entry)?;
        buf.copy_from_slice(&cluster[within..within + buf.len()]);
        Ok(())
    }

    fn decompress_kept(&self, entry: u64) -> Result<Arc<[u8]>> {
        self.clusters.get_or_insert(entry, || {
            let mut cluster = vec![0; self.header.cluster_size() as usize];
            self.decompress(entry, &mut cluster)?;
            let len = cluster.len();
            Ok((Arc::from(cluster), len))
        })
    }

    fn decompress(&self, entry: u64, cluster: &mut [u8]) -> Result<()> {
        let place = Descriptor::parse(entry, &self.header);
        let size = self.storage.size()?;
        if place.offset >= size {
            let what = format!("it lies at {}, past the end of the file at {size}", place.offset);
            return Err(Error::corrupt("compressed cluster", what));
        }
        let mut bytes = vec![0; place.len.min(size - place.offset) as usize];
        self.storage.read_at(&mut bytes, place.offset)?;
        self.decompressor.decompress(&bytes, cluster).at(|| format!("at {} of the file", place.offset))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        let (mapping, len) = self.resolve(offset, len)?;
        let end = offset + len;
        match mapping {
            Mapping::Data { host, .. } => {
                // Clusters that were allocated ahead are holes of the file.
                let below = self.data().map(host, len)?;
                let kind = if below.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
                Ok(Extent { end: offset + below.end.saturating_sub(host).clamp(1, len), kind })
            }
            Mapping::Compressed { .. } => Ok(Extent { end, kind: ExtentKind::Data }),
            Mapping::Zero { allocated: true } => Ok(Extent { end, kind: ExtentKind::Zero }),
            Mapping::Zero { allocated: false } => Ok(Extent { end, kind: ExtentKind::Hole }),
            Mapping::Backing => match (&self.backing, self.in_backing(offset, len)) {
                (None, _) | (_, 0) => Ok(Extent { end, kind: ExtentKind::Hole }),
                (Some(backing), inside) => backing.map(offset, inside),
            },
        }
    }

    /// Begins to read a range, or the beginning of a long one.
    fn prefetch(self: &Arc<Self>, mut offset: u64, len: u64) -> Result<()> {
        let mut len = len.min(MAX_PREFETCH);
        while len > 0 {
            let (mapping, part) = self.resolve(offset, len)?;
            match (mapping, &self.backing) {
                (Mapping::Data { host, .. }, _) => self.data().prefetch(host, part),
                (Mapping::Backing, Some(backing)) => {
                    let inside = self.in_backing(offset, part);
                    if inside > 0 {
                        backing.prefetch(offset, inside);
                    }
                }
                (Mapping::Compressed { entry, .. }, _) => {
                    if !self.decompress_ahead(entry) {
                        break;
                    }
                }
                (Mapping::Zero { .. } | Mapping::Backing, _) => {}
            }
            offset += part;
            len -= part;
        }
        Ok(())
    }

    /// Lets a compressed cluster be decompressed by another thread. Returns whether more may follow.
    fn decompress_ahead(self: &Arc<Self>, entry: u64) -> bool {
        if self.clusters.get(&entry).is_some() {
            return true;
        }
        if self.ahead.fetch_add(1, Relaxed) >= MAX_AHEAD {
            self.ahead.fetch_sub(1, Relaxed);
            return false;
        }
        let image = Arc::clone(self);
        rayon::spawn(move || {
            // Who reads it meets the same error, and has somebody to tell.
            let _ = image.decompress_kept(entry);
            image.ahead.fetch_sub(1, Relaxed);
        });
        true
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.is_writable()
            && let Err(error) = self.flush()
        {
            log::error!("{}: {error}", self.name);
        }
    }
}

impl BlockDevice for Qcow2 {
    fn size(&self) -> u64 {
        self.image.size
    }

    fn is_read_only(&self) -> bool {
        !self.image.is_writable()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.image.size, offset, buf.len() as u64)?;
        let _inside = self.image.writer.as_ref().map(Writer::enter);
        self.image.read(buf, offset).at(|| &self.image.name)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        check_range(self.image.size, offset, buf.len() as u64)?;
        self.image.write(buf, offset).at(|| &self.image.name)
    }

    fn flush(&self) -> Result<()> {
        self.image.flush().at(|| &self.image.name)
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        check_range(self.image.size, offset, len)?;
        self.image.write_zeroes(offset, len, keep_space).at(|| &self.image.name)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(self.image.size, offset, len)?;
        self.image.discard(offset, len).at(|| &self.image.name)
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(self.image.size, offset, len)?;
        if len == 0 {
            return Ok(Extent { end: offset, kind: ExtentKind::Hole });
        }
        let _inside = self.image.writer.as_ref().map(Writer::enter);
        self.image.map(offset, len).at(|| &self.image.name)
    }

    fn prefetch(&self, offset: u64, len: u64) {
        if check_range(self.image.size, offset, len).is_ok() {
            // A hint: whoever reads the range meets the same error.
            let _ = self.image.prefetch(offset, len);
        }
    }
}

impl std::fmt::Debug for Qcow2 {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Qcow2").field("name", &self.image.name).field("size", &self.image.size).finish()
    }
}
