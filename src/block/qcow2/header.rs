//! The header of a qcow2 image, versions 2 and 3, with its extensions. All fields are big-endian.
//!
//! The format is specified in `docs/interop/qcow2.rst` of QEMU.

use super::storage::Storage;
use crate::bytes::{be16, be32, be64, set_be32, set_be64, until_nul};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// The first four bytes of every qcow, version 1 to 3.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";

/// The host offset in an entry of L1, L2 and the refcount table: bits 9 to 55.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// The cluster of this entry has a refcount of exactly one, and may be written in place.
pub(super) const COPIED: u64 = 1 << 63;
/// The cluster of this entry is compressed.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// The cluster of this entry reads as zeroes (version 3).
pub(super) const ZERO: u64 = 1;

const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_f857;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

const V2_LENGTH: usize = 72;
const V3_LENGTH: usize = 104;
const FEATURE_NAME_LENGTH: usize = 48;

/// The largest L1 table, in bytes, as QEMU has it.
pub(super) const MAX_L1_BYTES: u64 = 32 << 20;
/// The largest refcount table, in bytes, as QEMU has it.
pub(super) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// The longest name of a backing file, in bytes.
pub(super) const MAX_BACKING_NAME: usize = 1023;

/// Where the refcount table's offset lies in the header; its clusters follow.
pub(super) const AT_REFCOUNT_TABLE: u64 = 48;
/// Where the autoclear features lie in the header.
pub(super) const AT_AUTOCLEAR: u64 = 88;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate.
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A file that an image refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its name as it stands in the image, relative to the image's folder or absolute.
    pub name: OsString,
    /// QEMU's name of its format, where the image tells it.
    pub format: Option<String>,
}

/// The header of an image.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The size of a cluster, as a power of two: 9 to 21.
    pub cluster_bits: u32,
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The entries of the L1 table.
    pub l1_entries: u32,
    /// Where the L1 table lies, in bytes.
    pub l1_offset: u64,
    /// Where the refcount table lies, in bytes.
    pub refcount_table_offset: u64,
    /// How long the refcount table is, in clusters.
    pub refcount_table_clusters: u32,
    /// The width of a refcount in bits, as a power of two: 0 to 6.
    pub refcount_order: u32,
    /// How many internal snapshots there are.
    pub snapshots: u32,
    /// Where the table of snapshots lies, in bytes.
    pub snapshots_offset: u64,
    /// The features that a writer clears when it does not keep them up.
    pub autoclear: u64,
    /// How compressed clusters are compressed.
    pub compression: Compression,
    /// The image was not closed by its last writer; its refcounts may be wrong.
    pub is_dirty: bool,
    /// Clusters have 32 subclusters, and entries of L2 are 16 bytes long.
    pub has_extended_l2: bool,
    /// The file with what the image leaves out.
    pub backing: Option<Reference>,
    /// The file with the data clusters, when they lie outside. A name that the image does not tell is empty.
    pub data_file: Option<Reference>,
}

impl Header {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] when this is no qcow2, [`Error::Corrupt`] when a field makes no sense,
    /// [`Error::Unsupported`] for a feature that is not known or an encrypted image.
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let file_size = storage.size()?;
        let mut start = [0; V2_LENGTH];
        if file_size >= V2_LENGTH as u64 {
            storage.read_at(&mut start, 0)?;
        }
        if start[..4] != MAGIC {
            return Err(Error::NotAnImage("this is no qcow2 image".into()));
        }
        // Extensions and the backing file's name all lie in the first cluster.
        let cluster_bits = be32(&start, 20);
        check_cluster_bits(cluster_bits)?;
        let mut first = vec![0; (1 << cluster_bits).min(file_size) as usize];
        storage.read_at(&mut first, 0)?;
        Self::parse(&first, file_size)
    }

    /// Parses the first cluster of an image whose file has `file_size` bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(first: &[u8], file_size: u64) -> Result<Self> {
        if first.len() < V2_LENGTH || first[..4] != MAGIC {
            return Err(Error::NotAnImage("this is no qcow2 image".into()));
        }
        let version = be32(first, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(format!("qcow version {version}")));
        }
        let cluster_bits = be32(first, 20);
        check_cluster_bits(cluster_bits)?;
        match be32(first, 32) {
            0 => {}
            1 => return Err(Error::unsupported("a qcow2 image encrypted by AES (crypt_method 1)")),
            2 => return Err(Error::unsupported("a qcow2 image encrypted by LUKS inside (crypt_method 2)")),
            other => return Err(Error::unsupported(format!("a qcow2 image encrypted by method {other}"))),
        }
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(first, 24),
            l1_entries: be32(first, 36),
            l1_offset: be64(first, 40),
            refcount_table_offset: be64(first, AT_REFCOUNT_TABLE as usize),
            refcount_table_clusters: be32(first, 56),
            refcount_order: 4,
            snapshots: be32(first, 60),
            snapshots_offset: be64(first, 64),
            autoclear: 0,
            compression: Compression::Zlib,
            is_dirty: false,
            has_extended_l2: false,
            backing: None,
            data_file: None,
        };
        let (mut incompatible, mut length) = (0, V2_LENGTH);
        if version == 3 {
            if first.len() < V3_LENGTH {
                return Err(Error::corrupt("qcow2 header", "it is cut short"));
            }
            incompatible = be64(first, 72);
            header.autoclear = be64(first, AT_AUTOCLEAR as usize);
            header.refcount_order = be32(first, 96);
            length = be32(first, 100) as usize;
            if length < V3_LENGTH || length > first.len() {
                return Err(Error::corrupt("qcow2 header", format!("its length of {length} bytes makes no sense")));
            }
        }
        header.parse_names(first, length, incompatible)?;
        header.parse_features(first, length, incompatible)?;
        header.check(file_size)?;
        Ok(header)
    }

    fn parse_features(&mut self, first: &[u8], length: usize, incompatible: u64) -> Result<()> {
        if incompatible & CORRUPT != 0 {
            return Err(Error::corrupt(
                "qcow2 image",
                "it is marked corrupt; make a copy, then try qemu-img check -r all on it",
            ));
        }
        self.is_dirty = incompatible & DIRTY != 0;
        self.has_extended_l2 = incompatible & EXTENDED_L2 != 0;
        let compression = if length > V3_LENGTH { first[V3_LENGTH] } else { 0 };
        if (compression != 0) != (incompatible & COMPRESSION_TYPE != 0) {
            return Err(Error::corrupt("qcow2 header", "its compression type contradicts its features"));
        }
        self.compression = match compression {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(Error::unsupported(format!("qcow2 compression type {other}"))),
        };
        Ok(())
    }

    /// Reads the extensions and the names of other files, and refuses the features that are not known.
    fn parse_names(&mut self, first: &[u8], length: usize, incompatible: u64) -> Result<()> {
        let damaged = |what: &'static str| Error::corrupt("qcow2 header", what);
        let name_offset = be64(first, 8);
        let name_length = be32(first, 16) as usize;
        let mut extensions_end = first.len();
        let mut backing = None;
        if name_offset != 0 {
            let start = usize::try_from(name_offset).map_err(|_| damaged("its backing file's name lies outside"))?;
            let end = start.checked_add(name_length).filter(|&end| end <= first.len());
            let end = end.ok_or_else(|| damaged("its backing file's name lies outside the first cluster"))?;
            if start < length || name_length > MAX_BACKING_NAME {
                return Err(damaged("its backing file's name makes no sense"));
            }
            extensions_end = start;
            if name_length > 0 {
                let name = until_nul(&first[start..end]).to_vec();
                backing = Some(Reference { name: OsString::from_vec(name), format: None });
            }
        }

        let (mut format, mut data_name, mut feature_names) = (None, OsString::new(), &[][..]);
        let mut at = length;
        while at + 8 <= extensions_end {
            let (kind, size) = (be32(first, at), be32(first, at + 4) as usize);
            if kind == EXTENSION_END {
                break;
            }
            at += 8;
            let end = at.checked_add(size).filter(|&end| end <= extensions_end);
            let end = end.ok_or_else(|| damaged("an extension passes the end"))?;
            let body = &first[at..end];
            match kind {
                EXTENSION_BACKING_FORMAT => format = Some(String::from_utf8_lossy(until_nul(body)).into_owned()),
                EXTENSION_DATA_FILE => data_name = OsString::from_vec(until_nul(body).to_vec()),
                EXTENSION_FEATURE_NAMES => feature_names = body,
                _ => {}
            }
            at = end.next_multiple_of(8);
        }

        let known = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
        if incompatible & !known != 0 {
            let bit = (incompatible & !known).trailing_zeros();
            return Err(Error::unsupported(format!("qcow2 feature {}", feature_name(feature_names, bit))));
        }
        if let Some(backing) = &mut backing {
            backing.format = format.filter(|format| !format.is_empty());
        }
        self.backing = backing;
        if incompatible & DATA_FILE != 0 {
            self.data_file = Some(Reference { name: data_name, format: Some("raw".to_owned()) });
        }
        Ok(())
    }

    fn check(&self, file_size: u64) -> Result<()> {
        let damaged = |what: String| Error::corrupt("qcow2 header", what);
        if self.refcount_order > 6 {
            return Err(damaged(format!("refcounts of 2^{} bits do not exist", self.refcount_order)));
        }
        if self.has_extended_l2 && self.cluster_bits < 14 {
            return Err(damaged("its clusters are too small for subclusters".to_owned()));
        }
        if self.size > i64::MAX.cast_unsigned() {
            return Err(damaged(format!("a disk of {} bytes does not exist", self.size)));
        }
        self.check_l1(self.l1_offset, self.l1_entries, self.size, file_size)?;
        let bytes = u64::from(self.refcount_table_clusters) << self.cluster_bits;
        if bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(damaged(format!("its refcount table of {bytes} bytes is too large")));
        }
        Ok(())
    }

    /// Checks that a L1 table lies in the file and is long enough for a disk of `size` bytes.
    pub(super) fn check_l1(&self, offset: u64, entries: u32, size: u64, file_size: u64) -> Result<()> {
        let damaged = |what: String| Error::corrupt("L1 table", what);
        let bytes = u64::from(entries) * 8;
        if bytes > MAX_L1_BYTES {
            return Err(damaged(format!("{entries} entries are too many")));
        }
        let needed = self.l1_entries_for(size);
        if u64::from(entries) < needed {
            return Err(damaged(format!("it has {entries} entries, the disk needs {needed}")));
        }
        if entries > 0 && !offset.is_multiple_of(self.cluster_size()) {
            return Err(damaged(format!("its offset {offset} is not that of a cluster")));
        }
        match offset.checked_add(needed * 8) {
            Some(end) if end <= file_size || needed == 0 => Ok(()),
            _ => Err(damaged(format!("it lies past the end of the file, at {offset}"))),
        }
    }

    /// Checks that this crate can write the image; QEMU can write every image.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with what stands in the way.
    pub fn check_writable(&self) -> Result<()> {
        if self.is_dirty {
            return Err(Error::unsupported("writing a qcow2 image that was not closed (its refcounts may be wrong)"));
        }
        if self.has_extended_l2 {
            return Err(Error::unsupported("writing a qcow2 image with subclusters (extended L2)"));
        }
        if self.data_file.is_some() {
            return Err(Error::unsupported("writing a qcow2 image with an external data file"));
        }
        Ok(())
    }

    /// Returns the size of a cluster, in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Returns how many entries a L2 table has, as a power of two.
    pub(super) fn l2_bits(&self) -> u32 {
        self.cluster_bits - if self.has_extended_l2 { 4 } else { 3 }
    }

    /// Returns how many entries of L1 a disk of `size` bytes needs.
    pub(super) fn l1_entries_for(&self, size: u64) -> u64 {
        size.div_ceil(1 << (self.cluster_bits + self.l2_bits()))
    }

    /// Returns the first cluster of a new image of version 3: the header and its extensions.
    ///
    /// # Errors
    /// [`Error::Usage`] when the backing file's name is too long.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let mut first = vec![0; self.cluster_size() as usize];
        first[..4].copy_from_slice(&MAGIC);
        set_be32(&mut first, 4, 3);
        set_be32(&mut first, 20, self.cluster_bits);
        set_be64(&mut first, 24, self.size);
        set_be32(&mut first, 36, self.l1_entries);
        set_be64(&mut first, 40, self.l1_offset);
        set_be64(&mut first, 48, self.refcount_table_offset);
        set_be32(&mut first, 56, self.refcount_table_clusters);
        set_be32(&mut first, 96, self.refcount_order);
        // 8 bytes past the last field: the compression type and padding.
        if self.compression == Compression::Zstd {
            set_be64(&mut first, 72, COMPRESSION_TYPE);
            first[V3_LENGTH] = 1;
        }
        let mut at = V3_LENGTH + 8;
        set_be32(&mut first, 100, at as u32);
        if let Some(backing) = &self.backing {
            let name = backing.name.as_encoded_bytes();
            let format = backing.format.as_deref().unwrap_or_default().as_bytes();
            let needed = at + 8 + format.len().next_multiple_of(8) + 8 + name.len();
            if name.len() > MAX_BACKING_NAME || needed > first.len() {
                return Err(Error::Usage("the name of the backing file is too long for a qcow2 image".into()));
            }
            if !format.is_empty() {
                set_be32(&mut first, at, EXTENSION_BACKING_FORMAT);
                set_be32(&mut first, at + 4, format.len() as u32);
                first[at + 8..][..format.len()].copy_from_slice(format);
                at += 8 + format.len().next_multiple_of(8);
            }
            at += 8; // The end of the extensions, which is all zeroes.
            set_be64(&mut first, 8, at as u64);
            set_be32(&mut first, 16, name.len() as u32);
            first[at..][..name.len()].copy_from_slice(name);
        }
        Ok(first)
    }
}

fn check_cluster_bits(bits: u32) -> Result<()> {
    if (9..=21).contains(&bits) {
        return Ok(());
    }
    Err(Error::corrupt("qcow2 header", format!("clusters of 2^{bits} bytes do not exist")))
}

/// Returns the name that an image gives one of its incompatible features.
fn feature_name(table: &[u8], bit: u32) -> String {
    // Each entry has a kind (0: incompatible), a bit and a name. (The fields are single bytes, so `be16` reads both.)
    let entry = table.chunks_exact(FEATURE_NAME_LENGTH).find(|entry| u32::from(be16(entry, 0)) == bit);
    match entry.map(|entry| String::from_utf8_lossy(until_nul(&entry[2..])).into_owned()) {
        Some(name) if !name.is_empty() => format!("{name:?} (incompatible bit {bit})"),
        _ => format!("incompatible bit {bit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Header {
        Header {
            version: 3,
            cluster_bits: 16,
            size: 1 << 30,
            l1_entries: 2,
            l1_offset: 3 << 16,
            refcount_table_offset: 1 << 16,
            refcount_table_clusters: 1,
            refcount_order: 4,
            snapshots: 0,
            snapshots_offset: 0,
            autoclear: 0,
            compression: Compression::Zlib,
            is_dirty: false,
            has_extended_l2: false,
            backing: Some(Reference { name: "base.raw".into(), format: Some("raw".into()) }),
            data_file: None,
        }
    }

    #[test]
    fn a_header_is_parsed_as_it_was_encoded() {
        let first = small().encode().expect("encodes");
        let header = Header::parse(&first, 1 << 20).expect("parses");
        assert_eq!(header.backing, small().backing);
        assert_eq!((header.size, header.l1_entries, header.l1_offset), (1 << 30, 2, 3 << 16));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        let mut first = small().encode().expect("encodes");
        set_be64(&mut first, 72, 1 << 9);
        assert!(Header::parse(&first, 1 << 20).expect_err("refused").to_string().contains("incompatible bit 9"));
        set_be64(&mut first, 72, CORRUPT);
        assert!(Header::parse(&first, 1 << 20).expect_err("refused").to_string().contains("marked corrupt"));
        set_be64(&mut first, 72, 0);
        set_be32(&mut first, 32, 2);
        assert!(Header::parse(&first, 1 << 20).expect_err("refused").to_string().contains("LUKS"));
    }

    #[test]
    fn a_header_cut_anywhere_is_refused_and_never_panics() {
        let first = small().encode().expect("encodes");
        for len in 0..200 {
            let _ = Header::parse(&first[..len], len as u64);
        }
        for at in 0..160 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = first.clone();
                damaged[at] = value;
                let _ = Header::parse(&damaged, 1 << 20);
            }
        }
    }
}
