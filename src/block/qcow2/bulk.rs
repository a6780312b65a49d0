//! A new image written in one pass by many threads: the way to convert.
//!
//! The file holds the header, the L1 table, the data in the order of the disk, then the L2 tables, the refcount table and
//! its blocks. Clusters that are all zeroes are left out. Compressed clusters are packed without gaps, as QEMU packs them;
//! one that does not get smaller is stored as it is.
//!
//! Everybody prepares pieces of the disk on its own ([`Bulk::prepare`]), gives them their places in turn
//! ([`Bulk::place`]), which takes no time, and writes them on its own again ([`Bulk::write`]). So the image is the same
//! whatever the number of threads.

use super::create::CLUSTER_SIZE;
use super::header::{COMPRESSED, COPIED, Compression, Header, MAX_L1_BYTES};
use crate::block::fresh::Fresh;
use crate::bytes::{set_be16, set_be64};
use crate::error::{Error, IoContext, Result};
use flate2::{Compress, FlushCompress, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The window of QEMU's deflate, as a power of two. It refuses streams that look further back.
const WINDOW_BITS: u8 = 12;

const CLUSTER: usize = CLUSTER_SIZE as usize;
const ENTRIES_PER_TABLE: u64 = CLUSTER_SIZE / 8;

/// The refcounts in one block: 16 bits each.
const COUNTS_PER_BLOCK: u64 = CLUSTER_SIZE / 2;

/// Says whether bytes are all zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let mut pieces = bytes.chunks_exact(64);
    pieces.by_ref().all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
        && pieces.remainder().iter().all(|&byte| byte == 0)
}

/// What a cluster of the disk becomes.
enum Prepared {
    Zero,
    Plain,
    Packed(Vec<u8>),
}

/// A piece of the disk on its way into the image.
pub(crate) struct Piece<'a> {
    first: u64,
    data: &'a [u8],
    clusters: Vec<Prepared>,
    /// Where each cluster goes, in bytes; 0 for nowhere.
    places: Vec<u64>,
}

struct State {
    /// Where the next cluster goes, in clusters.
    next: u64,
    /// Where the next compressed bytes go, within a cluster that has room; 0 when there is none.
    packed_at: u64,
    tables: BTreeMap<u64, Vec<u64>>,
    /// How many compressed clusters lie in each cluster where any does.
    shared: BTreeMap<u64, u16>,
}

/// Compressors of one thread.
enum Compressor {
    Deflate(Compress),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// An image that is being written.
pub(crate) struct Bulk<'a> {
    file: Fresh<'a>,
    size: u64,
    l1_entries: u64,
    compression: Option<Compression>,
    idle: Mutex<Vec<Compressor>>,
    state: Mutex<State>,
}

fn doing() -> String {
    String::from("cannot write the new image")
}

impl<'a> Bulk<'a> {
    /// How many bytes of the disk a piece should have; all but the last must be a multiple of the cluster size.
    pub(crate) const PIECE: u64 = 16 * CLUSTER_SIZE;

    /// Begins an image of a disk of `size` bytes in an empty file.
    ///
    /// # Errors
    /// [`Error::Usage`] for a disk that is too large.
    pub(crate) fn new(file: Fresh<'a>, size: u64, compression: Option<Compression>) -> Result<Self> {
        let l1_entries = size.div_ceil(CLUSTER_SIZE * ENTRIES_PER_TABLE);
        if size > i64::MAX.cast_unsigned() || l1_entries * 8 > MAX_L1_BYTES {
            return Err(Error::Usage(format!("a disk of {size} bytes is too large for a qcow2 image").into()));
        }
        let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER_SIZE);
        let state = State { next: 1 + l1_clusters, packed_at: 0, tables: BTreeMap::new(), shared: BTreeMap::new() };
        Ok(Self { file, size, l1_entries, compression, idle: Mutex::new(Vec::new()), state: Mutex::new(state) })
    }

    fn compressor(&self, kind: Compression) -> Result<Compressor> {
        if let Some(idle) = self.idle.lock().pop() {
            return Ok(idle);
        }
        Ok(match kind {
            Compression::Zlib => {
                Compressor::Deflate(Compress::new_with_window_bits(flate2::Compression::default(), false, WINDOW_BITS))
            }
            Compression::Zstd => {
                Compressor::Zstd(Box::new(zstd::bulk::Compressor::new(0).doing(|| "cannot compress")?))
            }
        })
    }

    /// Finds out what becomes of a piece of the disk that begins at `offset`, a multiple of the cluster size.
    ///
    /// # Errors
    /// Those of compressing.
    pub(crate) fn prepare<'d>(&self, offset: u64, data: &'d [u8]) -> Result<Piece<'d>> {
        let mut clusters = Vec::with_capacity(data.len().div_ceil(CLUSTER));
        let mut compressor = self.compression.map(|kind| self.compressor(kind)).transpose()?;
        for cluster in data.chunks(CLUSTER) {
            clusters.push(match &mut compressor {
                _ if is_zero(cluster) => Prepared::Zero,
                Some(compressor) => compress(compressor, cluster)?.map_or(Prepared::Plain, Prepared::Packed),
                None => Prepared::Plain,
            });
        }
        self.idle.lock().extend(compressor);
        Ok(Piece { first: offset / CLUSTER_SIZE, data, clusters, places: Vec::new() })
    }

    /// Gives the clusters of a piece their places. Pieces come in the order of the disk.
    pub(crate) fn place(&self, piece: &mut Piece<'_>) {
        let mut state = self.state.lock();
        for (cluster, prepared) in (piece.first..).zip(&piece.clusters) {
            let (place, entry) = match prepared {
                Prepared::Zero => {
                    piece.places.push(0);
                    continue;
                }
                Prepared::Plain => {
                    let place = state.next * CLUSTER_SIZE;
                    state.next += 1;
                    (place, place | COPIED)
                }
                Prepared::Packed(bytes) => state.pack(bytes.len() as u64),
            };
            piece.places.push(place);
            let table = state.tables.entry(cluster / ENTRIES_PER_TABLE);
            let table = table.or_insert_with(|| vec![0; ENTRIES_PER_TABLE as usize]);
            table[(cluster % ENTRIES_PER_TABLE) as usize] = entry;
        }
    }

    /// Writes a piece to its places.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub(crate) fn write(&self, piece: &Piece<'_>) -> Result<()> {
        let mut index = 0;
        while index < piece.clusters.len() {
            match &piece.clusters[index] {
                Prepared::Zero => index += 1,
                Prepared::Packed(_) => index += self.write_packed(piece, index)?,
                Prepared::Plain => {
                    // Clusters that follow one another are one write.
                    let follows = |next: usize| {
                        matches!(piece.clusters.get(next), Some(Prepared::Plain))
                            && piece.places[next] == piece.places[index] + ((next - index) * CLUSTER) as u64
                    };
                    let mut end = index + 1;
                    while follows(end) {
                        end += 1;
                    }
                    let data = &piece.data[index * CLUSTER..piece.data.len().min(end * CLUSTER)];
                    self.file.write_all_at(data, piece.places[index]).doing(doing)?;
                    index = end;
                }
            }
        }
        Ok(())
    }

    /// Writes the compressed clusters from one on that lie side by side; returns how many.
    fn write_packed(&self, piece: &Piece<'_>, first: usize) -> Result<usize> {
        let mut bytes = Vec::new();
        let mut count = 0;
        while let Some(Prepared::Packed(cluster)) = piece.clusters.get(first + count)
            && piece.places[first + count] == piece.places[first] + bytes.len() as u64
        {
            bytes.extend_from_slice(cluster);
            count += 1;
        }
        self.file.write_all_at(&bytes, piece.places[first]).doing(doing)?;
        Ok(count)
    }

    /// Writes all metadata, the header last.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written.
    pub(crate) fn finish(self) -> Result<()> {
        let State { next, tables, shared, .. } = self.state.into_inner();
        let mut at = next;
        let mut l1 = vec![0; (self.l1_entries * 8) as usize];
        for (&index, table) in &tables {
            let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.file.write_all_at(&bytes, at * CLUSTER_SIZE).doing(doing)?;
            set_be64(&mut l1, index as usize * 8, (at * CLUSTER_SIZE) | COPIED);
            at += 1;
        }
        // The refcounts count themselves too: blocks and their table are added until they cover all.
        let (mut blocks, mut table) = (1, 1);
        let total = loop {
            let total = at + table + blocks;
            let (need_blocks, need_table) = (total.div_ceil(COUNTS_PER_BLOCK), (blocks * 8).div_ceil(CLUSTER_SIZE));
            if need_blocks <= blocks && need_table <= table {
                break total;
            }
            (blocks, table) = (need_blocks.max(blocks), need_table.max(table));
        };
        let mut table_bytes = vec![0; (table * CLUSTER_SIZE) as usize];
        for block in 0..blocks {
            let place = at + table + block;
            set_be64(&mut table_bytes, block as usize * 8, place * CLUSTER_SIZE);
            let mut counts = vec![0; CLUSTER];
            for index in 0..COUNTS_PER_BLOCK {
                let cluster = block * COUNTS_PER_BLOCK + index;
                if cluster < total {
                    set_be16(&mut counts, index as usize * 2, shared.get(&cluster).copied().unwrap_or(1));
                }
            }
            self.file.write_all_at(&counts, place * CLUSTER_SIZE).doing(doing)?;
        }
        self.file.write_all_at(&table_bytes, at * CLUSTER_SIZE).doing(doing)?;
        self.file.write_all_at(&l1, CLUSTER_SIZE).doing(doing)?;
        self.file.set_len(total * CLUSTER_SIZE).doing(doing)?;
        let header = Header {
            version: 3,
            cluster_bits: CLUSTER_SIZE.trailing_zeros(),
            size: self.size,
            l1_entries: self.l1_entries as u32,
            l1_offset: CLUSTER_SIZE,
            refcount_table_offset: at * CLUSTER_SIZE,
            refcount_table_clusters: table as u32,
            refcount_order: 4,
            snapshots: 0,
            snapshots_offset: 0,
            autoclear: 0,
            compression: self.compression.unwrap_or(Compression::Zlib),
            is_dirty: false,
            has_extended_l2: false,
            backing: None,
            data_file: None,
        };
        self.file.write_all_at(&header.encode()?, 0).doing(doing)
    }
}

impl State {
    /// Finds room for compressed bytes; returns their place and the entry of L2 for it.
    fn pack(&mut self, len: u64) -> (u64, u64) {
        let room = if self.packed_at == 0 { 0 } else { CLUSTER_SIZE - self.packed_at % CLUSTER_SIZE };
        // They may pass the end of the cluster where the next one is free too.
        let goes_on = self.packed_at != 0 && self.packed_at / CLUSTER_SIZE + 1 == self.next;
        if len > room {
            if !goes_on {
                self.packed_at = self.next * CLUSTER_SIZE;
            }
            self.next += 1;
        }
        let place = self.packed_at;
        let last = place + len - 1;
        for cluster in place / CLUSTER_SIZE..=last / CLUSTER_SIZE {
            *self.shared.entry(cluster).or_insert(0) += 1;
        }
        self.packed_at = if (last + 1).is_multiple_of(CLUSTER_SIZE) { 0 } else { last + 1 };
        // The number of sectors of 512 bytes past the first lies above the offset.
        let sectors = last / 512 - place / 512;
        let shift = 62 - (CLUSTER_SIZE.trailing_zeros() - 8);
        (place, COMPRESSED | sectors << shift | place)
    }
}

/// Compresses a cluster; the last one of the disk is filled up with zeroes. `None` when it does not get smaller.
fn compress(compressor: &mut Compressor, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    let whole: Vec<u8>;
    let cluster = if cluster.len() < CLUSTER {
        whole = [cluster, &vec![0; CLUSTER - cluster.len()]].concat();
        &whole
    } else {
        cluster
    };
    let failed = |error: std::io::Error| Error::io("cannot compress a cluster", error);
    match compressor {
        Compressor::Deflate(deflate) => {
            deflate.reset();
            let mut out = vec![0; CLUSTER - 1];
            let status = deflate
                .compress(cluster, &mut out, FlushCompress::Finish)
                .map_err(|error| failed(std::io::Error::other(error)))?;
            if status != Status::StreamEnd {
                return Ok(None);
            }
            out.truncate(deflate.total_out() as usize);
            Ok(Some(out))
        }
        Compressor::Zstd(zstd) => {
            let out = zstd.compress(cluster).map_err(failed)?;
            Ok((out.len() < CLUSTER).then_some(out))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_seen_in_any_length() {
        for len in [0, 1, 63, 64, 65, 4096, 4100] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            if let Some(last) = bytes.last_mut() {
                *last = 1;
                assert!(!is_zero(&bytes), "{len}");
            }
        }
    }

    #[test]
    fn compressed_clusters_are_packed_and_counted() {
        let mut state = State { next: 2, packed_at: 0, tables: BTreeMap::new(), shared: BTreeMap::new() };
        assert_eq!(state.pack(60_000).0, 2 * CLUSTER_SIZE);
        // Goes on into the next cluster, which is free.
        assert_eq!(state.pack(60_000).0, 2 * CLUSTER_SIZE + 60_000);
        assert_eq!(state.next, 4);
        // A plain cluster takes the next one, so that the third begins anew.
        state.next += 1;
        assert_eq!(state.pack(60_000).0, 5 * CLUSTER_SIZE);
        assert_eq!(state.shared[&2], 2);
        assert_eq!(state.shared[&3], 1);
    }
}
