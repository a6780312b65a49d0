//! Zeroes and discards: whole clusters change in the tables alone, parts of clusters are written.

use super::meta::Meta;
use super::{Image, Writer};
use crate::block::qcow2::header::{COMPRESSED, COPIED, OFFSET_MASK, ZERO};
use crate::block::qcow2::mapping::Mapping;
use crate::error::Result;

/// What becomes of clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// They read as zeroes; their space is given back.
    Zero,
    /// They read as zeroes and keep what space they have.
    ZeroInPlace,
    /// Their space is given back; what was never there stays so.
    Discard,
}

impl Image {
    /// Makes a range of the disk read as zeroes; the range lies in the disk.
    pub(in super::super) fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        let writer = self.writer()?;
        let _inside = writer.enter();
        let end = offset + len;
        let change = if keep_space { Change::ZeroInPlace } else { Change::Zero };
        let bits = self.header.cluster_bits;
        let (first, last) = self.whole_clusters(offset, end);
        // Version 2 cannot say that a cluster hides the backing file's but by writing it.
        if first >= last || (self.header.version < 3 && self.backing.is_some()) {
            return self.zero_bytes(writer, offset, end);
        }
        self.zero_bytes(writer, offset, first << bits)?;
        self.change_clusters(writer, first, last, change)?;
        self.zero_bytes(writer, (last << bits).min(end), end)
    }

    /// Gives the space of the whole clusters in a range back; the range lies in the disk.
    pub(in super::super) fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let writer = self.writer()?;
        if !writer.discard || (self.header.version < 3 && self.backing.is_some()) {
            return Ok(());
        }
        let _inside = writer.enter();
        let (first, last) = self.whole_clusters(offset, offset + len);
        self.change_clusters(writer, first, last, Change::Discard)
    }

    /// Returns the first of the whole clusters in a range, and the one after the last.
    fn whole_clusters(&self, offset: u64, end: u64) -> (u64, u64) {
        let size = self.header.cluster_size();
        // The cluster at the disk's end is whole as far as the disk goes.
        let last = if end == self.size { end.div_ceil(size) } else { end / size };
        (offset.div_ceil(size), last)
    }

    /// Writes zeroes where there are none.
    fn zero_bytes(&self, writer: &Writer, mut offset: u64, end: u64) -> Result<()> {
        let mut zeroes = Vec::new();
        while offset < end {
            let (mapping, mut len) = self.resolve(offset, end - offset)?;
            let is_zero = match mapping {
                Mapping::Zero { .. } => true,
                Mapping::Backing => self.in_backing(offset, len) == 0,
                _ => false,
            };
            if !is_zero {
                zeroes.resize(len.min(1 << 20).max(zeroes.len() as u64) as usize, 0);
                len = len.min(zeroes.len() as u64);
                self.write_inside(writer, &zeroes[..len as usize], offset)?;
            }
            offset += len;
        }
        Ok(())
    }

    fn change_clusters(&self, writer: &Writer, first: u64, last: u64, change: Change) -> Result<()> {
        let bits = self.header.cluster_bits;
        let mut cluster = first;
        while cluster < last {
            if self.l2_offset(cluster)? == 0 {
                let stop = (((cluster >> self.header.l2_bits()) + 1) << self.header.l2_bits()).min(last);
                if change == Change::Discard || self.in_backing(cluster << bits, (stop - cluster) << bits) == 0 {
                    cluster = stop;
                    continue;
                }
            }
            let stop = (cluster + self.left_in_slice(cluster)).min(last);
            let _range = writer.ranges.lock(cluster, stop);
            let mut meta = writer.meta.lock();
            self.change_in_slice(writer, &mut meta, cluster, stop, change)?;
            self.flush_when_full(writer, &mut meta)?;
            cluster = stop;
        }
        Ok(())
    }

    /// Changes clusters whose entries lie in one slice of L2.
    fn change_in_slice(&self, writer: &Writer, meta: &mut Meta, first: u64, last: u64, change: Change) -> Result<()> {
        let mut changed = None;
        for cluster in first..last {
            let old = self.l2_entry(cluster)?;
            if self.changed(old, cluster, change) != old {
                let (from, _) = *changed.get_or_insert((cluster, cluster));
                changed = Some((from, cluster + 1));
            }
        }
        let Some((first, last)) = changed else { return Ok(()) };
        let l2_offset = self.own_l2(writer, meta, first)?;
        let (slice, index) = self.place_in_l2(l2_offset, first);
        let count = (last - first) as usize;
        let table = self.tables.get_dirty(slice, index..index + count)?;
        for number in 0..count {
            let old = table.get(index + number);
            let new = self.changed(old, first + number as u64, change);
            table.set(index + number, new);
            if new & OFFSET_MASK == 0 && new != old {
                self.give_back(writer, meta, old);
            }
        }
        Ok(())
    }

    /// Returns what an entry of L2 becomes.
    fn changed(&self, entry: u64, cluster: u64, change: Change) -> u64 {
        let has_below = self.in_backing(cluster << self.header.cluster_bits, 1) > 0;
        let is_unallocated = entry & (COMPRESSED | ZERO | OFFSET_MASK) == 0;
        if is_unallocated && (change == Change::Discard || !has_below) {
            return entry;
        }
        let is_owned = entry & (COMPRESSED | COPIED) == COPIED && entry & OFFSET_MASK != 0;
        if change == Change::ZeroInPlace && is_owned && self.header.version >= 3 {
            return entry | ZERO;
        }
        if has_below { ZERO } else { 0 }
    }
}
