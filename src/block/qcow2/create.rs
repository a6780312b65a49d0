//! New images: version 3, refcounts of 16 bits, with or without a backing file.
//!
//! A new image holds, in this order, the header, the refcount table, the refcount blocks that the metadata needs, and the
//! L1 table.

use super::header::{Compression, Header, MAX_L1_BYTES, Reference};
use crate::block::ImageFormat;
use crate::bytes::{set_be16, set_be64};
use crate::error::{Error, IoContext, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The usual size of a cluster, in bytes.
pub(super) const CLUSTER_SIZE: u64 = 64 << 10;

/// Makes a new, empty image of `size` bytes with clusters of `cluster_size` bytes: a power of two, 512 to 2 MiB.
///
/// # Errors
/// [`Error::Usage`] for sizes that cannot be, [`Error::Io`] when the file exists or cannot be written.
pub fn create(path: &Path, size: u64, cluster_size: u64) -> Result<()> {
    in_new_file(path, |file| write_new(file, size, cluster_size, None))
}

/// Makes a new image of `size` bytes over `base`, which is recorded as it is given: relative to the new image's folder,
/// or absolute.
///
/// # Errors
/// [`Error::Usage`] for a name that is too long, [`Error::Io`] when the file exists or cannot be written.
pub fn create_overlay(path: &Path, base: &Path, base_format: ImageFormat, size: u64) -> Result<()> {
    let backing = Reference { name: base.as_os_str().to_owned(), format: Some(base_format.driver().to_owned()) };
    in_new_file(path, |file| write_new(file, size, CLUSTER_SIZE, Some(backing)))
}

/// Fills a new file, which goes away again when that fails.
fn in_new_file(path: &Path, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .doing(|| format!("cannot make {}", path.display()))?;
    fill(&file).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(path);
    })
}

/// Writes a new image to a file, in the place of what it held.
pub(super) fn write_new(file: &File, size: u64, cluster_size: u64, backing: Option<Reference>) -> Result<()> {
    if !cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&cluster_size) {
        return Err(Error::Usage(format!("clusters of {cluster_size} bytes cannot be").into()));
    }
    let mut header = Header {
        version: 3,
        cluster_bits: cluster_size.trailing_zeros(),
        size,
        l1_entries: 0,
        l1_offset: 0,
        refcount_table_offset: cluster_size,
        refcount_table_clusters: 1,
        refcount_order: 4,
        snapshots: 0,
        snapshots_offset: 0,
        autoclear: 0,
        compression: Compression::Zlib,
        is_dirty: false,
        has_extended_l2: false,
        backing,
        data_file: None,
    };
    let l1_entries = header.l1_entries_for(size);
    if size > i64::MAX.cast_unsigned() || l1_entries * 8 > MAX_L1_BYTES {
        return Err(Error::Usage(format!("a disk of {size} bytes is too large for clusters of {cluster_size}").into()));
    }
    // The metadata counts itself: blocks and their table are added until they cover themselves.
    let l1_clusters = (l1_entries * 8).div_ceil(cluster_size);
    let (mut table, mut blocks) = (1, 1);
    let total = loop {
        let total = 1 + table + blocks + l1_clusters;
        let needed_blocks = total.div_ceil(cluster_size / 2);
        let needed_table = (needed_blocks * 8).div_ceil(cluster_size);
        if needed_blocks <= blocks && needed_table <= table {
            break total;
        }
        (table, blocks) = (table.max(needed_table), blocks.max(needed_blocks));
    };
    header.l1_entries = l1_entries as u32;
    header.l1_offset = (1 + table + blocks) * cluster_size;
    header.refcount_table_clusters = table as u32;

    let mut tables = vec![0; ((table + blocks) * cluster_size) as usize];
    let (table_bytes, block_bytes) = tables.split_at_mut((table * cluster_size) as usize);
    for block in 0..blocks {
        set_be64(table_bytes, block as usize * 8, (1 + table + block) * cluster_size);
    }
    for cluster in 0..total {
        set_be16(block_bytes, cluster as usize * 2, 1);
    }
    let first = header.encode()?;
    let doing = || "cannot write the new image".to_owned();
    file.set_len(0).doing(doing)?;
    file.set_len(total * cluster_size).doing(doing)?;
    file.write_all_at(&tables, cluster_size).doing(doing)?;
    // The header comes last: until it is there, this is no image.
    file.write_all_at(&first, 0).doing(doing)
}
