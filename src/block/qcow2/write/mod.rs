//! Writing qcow2 images: clusters are allocated, copied where others refer to them, and given back.
//!
//! Data goes to the file at once; tables change in memory and reach the file at a flush ([`meta`]), in an order that
//! leaves a sound image wherever the host stops: at worst some clusters are counted that nobody uses.
//!
//! Writes in place take no lock. A write that needs new clusters holds its range of clusters ([`range`]) while it moves
//! data, and the lock of the tables only while it changes them. Locks are taken in this order: a range, the tables
//! ([`Meta`]), a slice's loading lock.

mod epoch;
mod meta;
mod protected;
mod range;
mod refcount;
mod zero;

use super::compressed::Descriptor;
use super::header::{AT_AUTOCLEAR, COMPRESSED, COPIED, Header, OFFSET_MASK, ZERO};
use super::mapping::Mapping;
use super::snapshot::Snapshots;
use super::storage::Storage;
use super::{Image, Parts};
use crate::error::{Error, Result};
use epoch::{Epochs, Inside};
use meta::Meta;
use parking_lot::Mutex;
use protected::Protected;
use range::RangeLock;
use refcount::{Refcounts, Run};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The most that one write moves to new clusters at a time, in bytes.
const MAX_RUN: u64 = 4 << 20;
/// The most that is put together in memory to be written at once, in bytes.
const MAX_TOGETHER: u64 = 256 << 10;

/// How many clusters the L1 tables of snapshots may take in an image that is written.
const MAX_SNAPSHOT_CLUSTERS: u64 = 1 << 20;

/// What makes an image writable.
pub(super) struct Writer {
    /// All that changes together. Held while tables are written, never while data is.
    meta: Mutex<Meta>,
    ranges: RangeLock,
    epochs: Epochs,
    protected: Arc<Protected>,
    /// A flush failed: what the host holds is not known any more.
    has_failed: AtomicBool,
    discard: bool,
}

impl Writer {
    pub fn open(
        storage: &Arc<dyn Storage>,
        header: &Header,
        snapshots: &Snapshots,
        l1: &[AtomicU64],
        parts: &Parts,
    ) -> Result<Self> {
        header.check_writable()?;
        let bits = header.cluster_bits;
        let protected = Arc::new(Protected::default());
        let protect = |offset: u64, bytes: u64| {
            protected.add(offset >> bits, bytes.div_ceil(header.cluster_size()));
        };
        protect(0, 1);
        protect(header.l1_offset, u64::from(header.l1_entries) * 8);
        protect(header.snapshots_offset, snapshots.bytes);
        let file_size = storage.size()?;
        let mut left = MAX_SNAPSHOT_CLUSTERS;
        for snapshot in &snapshots.all {
            header.check_l1(snapshot.l1_offset, snapshot.l1_entries, 0, file_size)?;
            let bytes = u64::from(snapshot.l1_entries) * 8;
            left = left
                .checked_sub(bytes.div_ceil(header.cluster_size()))
                .ok_or_else(|| Error::unsupported("writing a qcow2 image whose snapshots have so long L1 tables"))?;
            protect(snapshot.l1_offset, bytes);
        }
        for entry in l1 {
            let offset = entry.load(Ordering::Acquire) & OFFSET_MASK;
            if offset != 0 {
                protect(offset, 1);
            }
        }
        let refcounts = Refcounts::open(Arc::clone(storage), header, Arc::clone(&protected))?;
        if header.autoclear != 0 {
            // Bitmaps and whatever else others keep up go stale with the first write: nobody may trust them.
            storage.write_at(&0_u64.to_be_bytes(), AT_AUTOCLEAR)?;
            storage.sync()?;
        }
        Ok(Self {
            meta: Mutex::new(Meta::new(refcounts)),
            ranges: RangeLock::default(),
            epochs: Epochs::default(),
            protected,
            has_failed: AtomicBool::new(false),
            discard: parts.discard,
        })
    }

    /// Says that clusters are about to be looked up and used.
    pub fn enter(&self) -> Inside<'_> {
        self.epochs.enter()
    }

    fn check(&self) -> Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            let source = std::io::Error::from_raw_os_error(libc::EIO);
            return Err(Error::io("an earlier flush failed, so nothing more is written", source));
        }
        Ok(())
    }
}

impl Image {
    fn writer(&self) -> Result<&Writer> {
        let writer = self.writer.as_ref().ok_or(Error::Errno(libc::EROFS))?;
        writer.check()?;
        Ok(writer)
    }

    /// Writes `buf` at `offset` of the disk; the range lies in the disk.
    pub(super) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let writer = self.writer()?;
        let _inside = writer.enter();
        self.write_inside(writer, buf, offset)
    }

    fn write_inside(&self, writer: &Writer, mut buf: &[u8], mut offset: u64) -> Result<()> {
        while !buf.is_empty() {
            let (mapping, len) = self.resolve(offset, buf.len() as u64)?;
            let done = match mapping {
                Mapping::Data { host, owned: true } => {
                    self.check_place(writer, host, len)?;
                    self.storage.write_at(&buf[..len as usize], host)?;
                    len
                }
                _ => self.write_new(writer, buf, offset)?,
            };
            buf = &buf[done as usize..];
            offset += done;
        }
        Ok(())
    }

    /// Refuses to write data where metadata lies.
    fn check_place(&self, writer: &Writer, host: u64, len: u64) -> Result<()> {
        let bits = self.header.cluster_bits;
        let (first, last) = (host >> bits, (host + len - 1) >> bits);
        match writer.protected.first_of(first, last - first + 1) {
            None => Ok(()),
            Some(cluster) => Err(Error::corrupt(
                "L2 table",
                format!("it gives cluster {cluster} of the file to the disk, which holds metadata"),
            )),
        }
    }

    /// Returns how many clusters from `cluster` on have their entries in the same slice of L2.
    fn left_in_slice(&self, cluster: u64) -> u64 {
        let entries = self.tables.slice_size() / 8;
        entries - cluster % entries
    }

    /// Returns the host offset of the slice with a cluster's entry, and the entry's place in it.
    fn place_in_l2(&self, l2_offset: u64, cluster: u64) -> (u64, usize) {
        let entries = self.tables.slice_size() / 8;
        let index = cluster & ((1 << self.header.l2_bits()) - 1);
        (l2_offset + index / entries * self.tables.slice_size(), (index % entries) as usize)
    }

    /// Returns a cluster's entry of L2; 0 when there is no table.
    fn l2_entry(&self, cluster: u64) -> Result<u64> {
        let l2_offset = self.l2_offset(cluster)?;
        if l2_offset == 0 {
            return Ok(0);
        }
        let (slice, index) = self.place_in_l2(l2_offset, cluster);
        Ok(self.tables.get(slice)?.get(index))
    }

    /// Writes the beginning of `buf` to clusters that cannot be written in place. Returns how many bytes; 0 when the
    /// first cluster can be written in place by now.
    fn write_new(&self, writer: &Writer, buf: &[u8], offset: u64) -> Result<u64> {
        let bits = self.header.cluster_bits;
        let first = offset >> bits;
        let last = (offset + buf.len() as u64 - 1) >> bits;
        let most = (last - first + 1).min(self.left_in_slice(first)).min((MAX_RUN >> bits).max(1));
        let _range = writer.ranges.lock(first, first + most);

        // Nobody else changes what these clusters map to now.
        let (run, is_new) = match self.place_of(self.l2_entry(first)?) {
            Place::Owned => return Ok(0),
            Place::OwnedZero(host) => {
                self.check_place(writer, host, 1)?;
                (Run { first: host >> bits, count: 1, is_fresh: false }, false)
            }
            Place::Elsewhere => {
                let mut want = 1;
                while want < most && matches!(self.place_of(self.l2_entry(first + want)?), Place::Elsewhere) {
                    want += 1;
                }
                (self.alloc(writer, &mut writer.meta.lock(), want)?, true)
            }
        };
        let done = self.fill_run(run, buf, offset).and_then(|done| {
            self.link(writer, first, run, is_new)?;
            Ok(done)
        });
        done.inspect_err(|_| {
            if is_new {
                self.unalloc(writer, run);
            }
        })
    }

    fn place_of(&self, entry: u64) -> Place {
        let host = entry & OFFSET_MASK & !(self.header.cluster_size() - 1);
        if entry & (COMPRESSED | COPIED) != COPIED || host == 0 {
            Place::Elsewhere
        } else if entry & ZERO != 0 {
            Place::OwnedZero(host)
        } else {
            Place::Owned
        }
    }

    /// Fills whole clusters with the beginning of `buf` and, around it, what the disk held before.
    fn fill_run(&self, run: Run, buf: &[u8], offset: u64) -> Result<u64> {
        let bits = self.header.cluster_bits;
        let start = offset >> bits << bits;
        let stop = start + (run.count << bits);
        let done = (stop - offset).min(buf.len() as u64);
        let data = &buf[..done as usize];
        let data_end = offset + done;
        let head = if run.is_fresh && self.reads_zero(start, offset)? { offset..offset } else { start..offset };
        let tail = if run.is_fresh && self.reads_zero(data_end, stop)? { data_end..data_end } else { data_end..stop };
        let host = |at: u64| (run.first << bits) + (at - start);

        if head.is_empty() && tail.is_empty() {
            self.storage.write_at(data, host(offset))?;
        } else if tail.end - head.start <= MAX_TOGETHER {
            let mut whole = vec![0; (tail.end - head.start) as usize];
            let (before, rest) = whole.split_at_mut((head.end - head.start) as usize);
            let (middle, after) = rest.split_at_mut(data.len());
            self.read_old(before, head.start)?;
            middle.copy_from_slice(data);
            self.read_old(after, tail.start)?;
            self.storage.write_at(&whole, host(head.start))?;
        } else {
            for range in [head, tail] {
                let mut around = vec![0; (range.end - range.start) as usize];
                if !around.is_empty() {
                    self.read_old(&mut around, range.start)?;
                    self.storage.write_at(&around, host(range.start))?;
                }
            }
            self.storage.write_at(data, host(offset))?;
        }
        Ok(done)
    }

    /// Reads the disk; past its end there are zeroes.
    fn read_old(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let inside = self.size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, past) = buf.split_at_mut(inside);
        past.fill(0);
        self.read(inside, offset)
    }

    /// Says whether a range of the disk, or past its end, is known to read as zeroes.
    fn reads_zero(&self, mut start: u64, end: u64) -> Result<bool> {
        let end = end.min(self.size);
        while start < end {
            let (mapping, len) = self.resolve(start, end - start)?;
            match mapping {
                Mapping::Zero { .. } => {}
                Mapping::Backing if self.in_backing(start, len) == 0 => {}
                _ => return Ok(false),
            }
            start += len;
        }
        Ok(true)
    }

    /// Makes clusters of the disk, from `first`, refer to a run of clusters of the file.
    fn link(&self, writer: &Writer, first: u64, run: Run, is_new: bool) -> Result<()> {
        let bits = self.header.cluster_bits;
        let mut meta = writer.meta.lock();
        let l2_offset = self.own_l2(writer, &mut meta, first)?;
        let (slice, index) = self.place_in_l2(l2_offset, first);
        let count = run.count as usize;
        let table = self.tables.get_dirty(slice, index..index + count)?;
        for number in 0..count {
            let old = table.get(index + number);
            table.set(index + number, (run.first + number as u64) << bits | COPIED);
            if is_new {
                self.give_back(writer, &mut meta, old);
            }
        }
        // The write itself is done: what a flush between meets is told by the next one too.
        if let Err(error) = self.flush_when_full(writer, &mut meta) {
            log::error!("{}: {error}", self.name);
        }
        Ok(())
    }

    /// Counts the clusters that an entry of L2 refers to as to be given back.
    fn give_back(&self, writer: &Writer, meta: &mut Meta, entry: u64) {
        let bits = self.header.cluster_bits;
        let (first, last) = if entry & COMPRESSED != 0 {
            let place = Descriptor::parse(entry, &self.header);
            (place.offset >> bits, (place.offset + place.len - 1) >> bits)
        } else if entry & OFFSET_MASK != 0 {
            let cluster = (entry & OFFSET_MASK) >> bits;
            (cluster, cluster)
        } else {
            return;
        };
        for cluster in first..=last {
            if writer.protected.first_of(cluster, 1).is_some() {
                log::warn!("{}: a damaged L2 table had given cluster {cluster}, metadata, to the disk", self.name);
            } else {
                meta.give_back(cluster);
            }
        }
    }
}

/// Where a cluster of the disk lies, as far as writing is concerned.
enum Place {
    /// In a cluster of the file that nothing else refers to.
    Owned,
    /// It reads as zeroes, and has a cluster of the file, at this offset, that nothing else refers to.
    OwnedZero(u64),
    /// Nowhere, or in clusters that others refer to.
    Elsewhere,
}
