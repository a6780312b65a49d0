//! From guest offsets to host offsets: L1, L2, and the kinds of clusters and subclusters.

use super::Image;
use super::header::{COMPRESSED, COPIED, OFFSET_MASK, ZERO};
use super::storage::Storage;
use super::table::Table;
use crate::error::{Error, Result};
use std::sync::atomic::Ordering;

/// How much work one look-up does at most: what an entry of L1 without a table costs is 1.
const MAX_WORK: u32 = 1 << 16;
/// What a slice of L2 costs.
const SLICE_WORK: u32 = 256;

/// What a range of the disk maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// Stored bytes that begin at `host`. Where `owned` is set, nothing else refers to them.
    Data { host: u64, owned: bool },
    /// Zeroes; with clusters of their own in the file where `allocated` is set.
    Zero { allocated: bool },
    /// What the backing file holds, or zeroes without one.
    Backing,
    /// A compressed cluster (the entry of L2), and how far into it the range begins.
    Compressed { entry: u64, within: u64 },
}

impl Image {
    /// Returns what lies at `offset` of the disk and how many bytes, at most `len`, are contiguous with it there.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when a table is damaged; those of reading it.
    pub(super) fn resolve(&self, offset: u64, len: u64) -> Result<(Mapping, u64)> {
        let header = &self.header;
        let (unit, subclusters) =
            if header.has_extended_l2 { (header.cluster_size() / 32, 32) } else { (header.cluster_size(), 1) };
        let words = if header.has_extended_l2 { 2 } else { 1 };
        let slice_entries = self.tables.slice_size() / 8 / words;
        let end = offset + len;
        let mut first = None;
        let mut at = offset;
        let mut work = 0;
        while at < end && work < MAX_WORK {
            let cluster = at >> header.cluster_bits;
            let l2_offset = self.l2_offset(cluster)?;
            if l2_offset == 0 {
                match first {
                    None => first = Some(Mapping::Backing),
                    Some(Mapping::Backing) => {}
                    Some(_) => break,
                }
                let covered = header.cluster_bits + header.l2_bits();
                at = (((at >> covered) + 1) << covered).min(end);
                work += 1;
                continue;
            }
            work += SLICE_WORK;
            let index = cluster & ((1 << header.l2_bits()) - 1);
            let table = self.tables.get(l2_offset + index / slice_entries * self.tables.slice_size())?;
            let mut in_slice = index % slice_entries;
            let mut subcluster = (at % header.cluster_size()) / unit;
            while at < end && in_slice < slice_entries {
                let base = (in_slice * words) as usize;
                let kind = self.kind(&table, base, subcluster, at)?;
                let Some(start) = first else {
                    first = Some(kind);
                    if let Mapping::Compressed { within, .. } = kind {
                        return Ok((kind, (header.cluster_size() - within).min(len)));
                    }
                    at = (at / unit + 1) * unit;
                    subcluster += 1;
                    if subcluster == subclusters {
                        (subcluster, in_slice) = (0, in_slice + 1);
                    }
                    continue;
                };
                let goes_on = match (start, kind) {
                    (Mapping::Data { host, owned }, Mapping::Data { host: next, owned: next_owned }) => {
                        host.checked_add(at - offset) == Some(next) && (!self.is_writable() || owned == next_owned)
                    }
                    (start, kind) => start == kind,
                };
                if !goes_on {
                    return Ok((start, at - offset));
                }
                at += unit;
                subcluster += 1;
                if subcluster == subclusters {
                    (subcluster, in_slice) = (0, in_slice + 1);
                }
            }
        }
        let first = first.ok_or_else(|| Error::Usage("an empty range maps to nothing".into()))?;
        Ok((first, at.min(end) - offset))
    }

    /// Returns the host offset of the L2 table for a cluster of the disk; 0 when there is none.
    pub(super) fn l2_offset(&self, cluster: u64) -> Result<u64> {
        let index = cluster >> self.header.l2_bits();
        let word = self
            .l1
            .get(index as usize)
            .ok_or_else(|| Error::corrupt("L1 table", format!("it has no entry {index}")))?
            .load(Ordering::Acquire);
        let offset = word & OFFSET_MASK;
        if !offset.is_multiple_of(self.header.cluster_size()) {
            return Err(Error::corrupt("L1 table", format!("entry {index} points to {offset}, into a cluster")));
        }
        if offset != 0 {
            self.check_host(offset, || format!("L2 table {index}"))?;
        }
        Ok(offset)
    }

    /// Says what an entry of L2 (at word `base` of a slice) holds for one subcluster, from `at` of the disk.
    fn kind(&self, table: &Table, base: usize, subcluster: u64, at: u64) -> Result<Mapping> {
        let header = &self.header;
        let entry = table.get(base);
        let within = at % header.cluster_size();
        let damaged = |what: String| {
            Error::corrupt(format!("L2 entry for cluster {} ({entry:#x})", at >> header.cluster_bits), what)
        };
        if entry & COMPRESSED != 0 {
            if self.data.is_some() {
                return Err(damaged("a compressed cluster with an external data file".to_owned()));
            }
            return Ok(Mapping::Compressed { entry: entry & !COPIED, within });
        }
        let host = entry & OFFSET_MASK;
        if !host.is_multiple_of(header.cluster_size()) {
            return Err(damaged(format!("it points to {host}, into a cluster")));
        }
        // In an external data file, offset 0 is a place like any other; COPIED says that it is meant.
        let allocated = host != 0 || (self.data.is_some() && entry & COPIED != 0);
        let data = || {
            self.check_data(host, || format!("L2 entry for cluster {}", at >> header.cluster_bits))?;
            Ok(Mapping::Data { host: host + within, owned: entry & COPIED != 0 })
        };
        if header.has_extended_l2 {
            let bitmap = table.get(base + 1);
            let (is_data, is_zero) = (bitmap >> subcluster & 1 != 0, bitmap >> (32 + subcluster) & 1 != 0);
            return match (is_data, is_zero) {
                (true, true) => Err(damaged(format!("subcluster {subcluster} is both data and zeroes"))),
                (true, false) if !allocated => Err(damaged(format!("subcluster {subcluster} has no cluster"))),
                (true, false) => data(),
                (false, true) => Ok(Mapping::Zero { allocated }),
                (false, false) => Ok(Mapping::Backing),
            };
        }
        if entry & ZERO != 0 {
            if header.version < 3 {
                return Err(damaged("a zero cluster in an image of version 2".to_owned()));
            }
            return Ok(Mapping::Zero { allocated });
        }
        if allocated { data() } else { Ok(Mapping::Backing) }
    }

    /// Checks that a host offset lies in the image's own file.
    fn check_host(&self, host: u64, what: impl FnOnce() -> String) -> Result<()> {
        // Writers let the file grow; a cluster that is there lies below the end for good.
        if host < self.known_size.load(Ordering::Relaxed) {
            return Ok(());
        }
        let size = self.storage.size()?;
        self.known_size.fetch_max(size, Ordering::Relaxed);
        check_end(host, size, what)
    }

    /// Checks that a host offset lies in the file that holds the data.
    fn check_data(&self, host: u64, what: impl FnOnce() -> String) -> Result<()> {
        match &self.data {
            Some(data) => check_end(host, data.size()?, what),
            None => self.check_host(host, what),
        }
    }
}

fn check_end(host: u64, size: u64, what: impl FnOnce() -> String) -> Result<()> {
    if host < size {
        return Ok(());
    }
    Err(Error::corrupt(what(), format!("it points to {host}, past the end of the file at {size}")))
}
