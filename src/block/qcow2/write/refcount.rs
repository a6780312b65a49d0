//! Refcounts: the table, its blocks, and the clusters that are free.
//!
//! All changes happen in memory, under the writer's lock; [`super::meta`] writes them in the right order. A refcount
//! block is raw big-endian bytes, as on disk; counts narrower than a byte begin at its lowest bit.

use super::Protected;
use crate::block::qcow2::header::{AT_REFCOUNT_TABLE, Header, MAX_REFCOUNT_TABLE_BYTES, OFFSET_MASK};
use crate::block::qcow2::storage::Storage;
use crate::bytes::{be16, be32, be64, set_be16, set_be32, set_be64};
use crate::error::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// How many bytes of clean blocks are kept.
const MAX_CLEAN: usize = 16 << 20;
/// Entries of the table that are written together: a sector of 512 bytes.
const ENTRIES_WRITTEN: usize = 64;

/// Contiguous clusters that were allocated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The number of the first cluster in the file.
    pub first: u64,
    /// How many there are.
    pub count: u64,
    /// Nothing was ever written there: they lie past the end of the file.
    pub is_fresh: bool,
}

struct Block {
    bytes: Vec<u8>,
    is_dirty: bool,
}

/// The refcounts of a writable image.
pub(super) struct Refcounts {
    storage: Arc<dyn Storage>,
    cluster_bits: u32,
    order: u32,
    protected: Arc<Protected>,
    /// Host offsets of the blocks; 0 where there is none.
    table: Vec<u64>,
    table_offset: u64,
    table_clusters: u64,
    /// The table lies somewhere else than the header on disk says.
    is_moved: bool,
    /// Groups of entries that differ from the disk.
    dirty_groups: BTreeSet<usize>,
    blocks: HashMap<usize, Block>,
    /// No cluster below this is free.
    hint: u64,
    /// The first cluster past the end of the file and of all that is counted.
    end: u64,
    /// Clusters of an old table, to be given back.
    pub released: Vec<u64>,
}

impl Refcounts {
    pub fn open(storage: Arc<dyn Storage>, header: &Header, protected: Arc<Protected>) -> Result<Self> {
        let clusters = u64::from(header.refcount_table_clusters);
        let offset = header.refcount_table_offset;
        let bytes = clusters << header.cluster_bits;
        let file_size = storage.size()?;
        let damaged = |what: &'static str| Error::corrupt("refcount table", what);
        if clusters == 0 || offset == 0 || !offset.is_multiple_of(header.cluster_size()) {
            return Err(damaged("it lies nowhere"));
        }
        if bytes > MAX_REFCOUNT_TABLE_BYTES || offset.checked_add(bytes).is_none_or(|end| end > file_size) {
            return Err(damaged("it passes the end of the file"));
        }
        let mut raw = vec![0; bytes as usize];
        storage.read_at(&mut raw, offset)?;
        let table: Vec<u64> = raw.chunks_exact(8).map(|word| be64(word, 0)).collect();
        let mut refcounts = Self {
            storage,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            protected,
            table,
            table_offset: offset,
            table_clusters: clusters,
            is_moved: false,
            dirty_groups: BTreeSet::new(),
            blocks: HashMap::new(),
            hint: 0,
            end: file_size.div_ceil(header.cluster_size()),
            released: Vec::new(),
        };
        refcounts.protected.add(offset >> header.cluster_bits, clusters);
        for region in 0..refcounts.table.len() {
            if let Some(block) = refcounts.block_offset(region)? {
                if block >= file_size {
                    return Err(damaged("it points past the end of the file"));
                }
                let cluster = block >> header.cluster_bits;
                if refcounts.protected.first_of(cluster, 1).is_some() {
                    return Err(damaged("two structures lie in the same place"));
                }
                refcounts.protected.add(cluster, 1);
            }
        }
        refcounts.find_end()?;
        Ok(refcounts)
    }

    /// Moves the end past what is counted behind the end of the file.
    fn find_end(&mut self) -> Result<()> {
        let per_block = self.per_block();
        let region = (self.end / per_block) as usize;
        if let Some(last) = self.table.iter().rposition(|&entry| entry != 0) {
            if last > region {
                self.end = (last as u64 + 1) * per_block;
            } else if last == region {
                let first = self.end % per_block;
                let in_use = (first..per_block).rev();
                let order = self.order;
                let block = self.block(region)?;
                if let Some(last) = in_use.into_iter().find(|&index| get(&block.bytes, order, index as usize) != 0) {
                    self.end = region as u64 * per_block + last + 1;
                }
            }
        }
        Ok(())
    }

    /// Returns how many clusters a block counts.
    fn per_block(&self) -> u64 {
        1 << (self.cluster_bits + 3 - self.order)
    }

    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn block_offset(&self, region: usize) -> Result<Option<u64>> {
        let entry = self.table.get(region).copied().unwrap_or(0);
        let offset = entry & OFFSET_MASK;
        if !offset.is_multiple_of(self.cluster_size()) {
            return Err(Error::corrupt("refcount table", format!("entry {region} points into a cluster")));
        }
        Ok((offset != 0).then_some(offset))
    }

    fn block(&mut self, region: usize) -> Result<&mut Block> {
        if !self.blocks.contains_key(&region) {
            let offset = self
                .block_offset(region)?
                .ok_or_else(|| Error::corrupt("refcount table", format!("it has no block {region}")))?;
            let mut bytes = vec![0; self.cluster_size() as usize];
            self.storage.read_at(&mut bytes, offset)?;
            self.forget_clean();
            self.blocks.insert(region, Block { bytes, is_dirty: false });
        }
        Ok(self.blocks.get_mut(&region).expect("it is there, or was put there just now"))
    }

    fn forget_clean(&mut self) {
        if self.blocks.len() << self.cluster_bits > MAX_CLEAN {
            self.blocks.retain(|_, block| block.is_dirty);
        }
    }

    fn locate(&self, cluster: u64) -> (usize, usize) {
        ((cluster / self.per_block()) as usize, (cluster % self.per_block()) as usize)
    }

    fn set(&mut self, cluster: u64, count: u64) -> Result<()> {
        let (region, index) = self.locate(cluster);
        let order = self.order;
        let block = self.block(region)?;
        set(&mut block.bytes, order, index, count);
        block.is_dirty = true;
        Ok(())
    }

    /// Allocates up to `want` contiguous clusters, at least one.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when refcounts are damaged, `EFBIG` when the file can grow no more; those of reading blocks.
    pub fn alloc(&mut self, want: u64) -> Result<Run> {
        while self.hint < self.end {
            let (region, index) = self.locate(self.hint);
            let per_block = self.per_block();
            if self.block_offset(region)?.is_none() {
                // Nothing of the region is in use: its first cluster becomes its block.
                let at = self.hint;
                self.make_block(region, at)?;
                self.hint = at + 1;
                continue;
            }
            let (order, start) = (self.order, region as u64 * per_block);
            let limit = per_block.min(self.end - start) as usize;
            let block = self.block(region)?;
            let Some(free) = (index..limit).find(|&index| get(&block.bytes, order, index) == 0) else {
                self.hint = start + limit as u64;
                continue;
            };
            let most = limit.min(free.saturating_add(want as usize));
            let past = (free..most).find(|&index| get(&block.bytes, order, index) != 0).unwrap_or(most);
            let run = Run { first: start + free as u64, count: (past - free) as u64, is_fresh: false };
            self.take(run)?;
            self.hint = run.first + run.count;
            return Ok(run);
        }
        self.alloc_at_end(want)
    }

    fn alloc_at_end(&mut self, want: u64) -> Result<Run> {
        while self.block_offset(self.locate(self.end).0)?.is_none() {
            self.make_block_at_end(self.locate(self.end).0)?;
        }
        let left = self.per_block() - self.end % self.per_block();
        let run = Run { first: self.end, count: want.min(left), is_fresh: true };
        self.check_end(run.count)?;
        self.take(run)?;
        self.end += run.count;
        self.hint = self.end;
        Ok(run)
    }

    fn check_end(&self, more: u64) -> Result<()> {
        match (self.end + more).checked_mul(self.cluster_size()) {
            Some(end) if end <= OFFSET_MASK => Ok(()),
            _ => Err(Error::Errno(libc::EFBIG)),
        }
    }

    /// Counts free clusters of one region as used once.
    fn take(&mut self, run: Run) -> Result<()> {
        if let Some(cluster) = self.protected.first_of(run.first, run.count) {
            return Err(Error::corrupt(
                format!("refcount of cluster {cluster}"),
                "it is zero, but the cluster holds metadata; qemu-img check -r all repairs that",
            ));
        }
        for cluster in run.first..run.first + run.count {
            self.set(cluster, 1)?;
        }
        Ok(())
    }

    /// Makes a new block for a region in a free cluster, which lies in this region or in one that has a block.
    fn make_block(&mut self, region: usize, cluster: u64) -> Result<()> {
        if region >= self.table.len() {
            self.grow_table(region)?;
            if self.block_offset(region)?.is_some() {
                return Ok(());
            }
        }
        self.put_block(region, cluster)
    }

    fn put_block(&mut self, region: usize, cluster: u64) -> Result<()> {
        self.forget_clean();
        let bytes = vec![0; self.cluster_size() as usize];
        self.blocks.insert(region, Block { bytes, is_dirty: true });
        self.table[region] = cluster << self.cluster_bits;
        self.dirty_groups.insert(region / ENTRIES_WRITTEN);
        self.take(Run { first: cluster, count: 1, is_fresh: false })?;
        self.protected.add(cluster, 1);
        Ok(())
    }

    /// Makes a block for a region, at the end of the file. The end's own region gets its block first.
    fn make_block_at_end(&mut self, region: usize) -> Result<()> {
        self.check_end(1)?;
        if region >= self.table.len() {
            return self.grow_table(region);
        }
        let at = self.end;
        self.put_block(region, at)?;
        self.end = at + 1;
        Ok(())
    }

    /// Gives the table a new and larger place, at the end of the file.
    fn grow_table(&mut self, region: usize) -> Result<()> {
        let per_cluster = (self.cluster_size() / 8) as usize;
        let mut entries = region + 1 + self.table.len() / 2;
        let clusters = loop {
            entries = entries.next_multiple_of(per_cluster);
            if entries as u64 * 8 > MAX_REFCOUNT_TABLE_BYTES.max(self.table.len() as u64 * 8) {
                return Err(Error::Errno(libc::EFBIG));
            }
            self.table.resize(entries, 0);
            let clusters = (entries / per_cluster) as u64;
            self.check_end(clusters + 1)?;
            // The first region without a block that the new table touches, if there is one.
            let (from, to) = (self.locate(self.end).0, self.locate(self.end + clusters - 1).0);
            let missing = (from..=to).find(|&region| self.table.get(region).copied().unwrap_or(0) == 0);
            let Some(missing) = missing else { break clusters };
            if missing >= entries {
                entries = missing + 1;
                continue;
            }
            let at = self.end;
            self.put_block(missing, at)?;
            self.end = at + 1;
        };
        for cluster in self.end..self.end + clusters {
            self.set(cluster, 1)?;
        }
        let old = self.table_offset >> self.cluster_bits;
        self.released.extend(old..old + self.table_clusters);
        self.protected.add(self.end, clusters);
        self.table_offset = self.end << self.cluster_bits;
        self.table_clusters = clusters;
        self.end += clusters;
        self.is_moved = true;
        Ok(())
    }

    /// Takes one reference from a cluster. Returns whether that was the last.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there was none; those of reading the block.
    pub fn release(&mut self, cluster: u64) -> Result<bool> {
        let (region, index) = self.locate(cluster);
        let order = self.order;
        let block = self.block(region)?;
        let count = get(&block.bytes, order, index);
        if count == 0 {
            return Err(Error::corrupt(
                format!("refcount of cluster {cluster}"),
                "it is zero, but the cluster is used",
            ));
        }
        set(&mut block.bytes, order, index, count - 1);
        block.is_dirty = true;
        if count == 1 {
            self.protected.remove(cluster);
            self.hint = self.hint.min(cluster);
        }
        Ok(count == 1)
    }

    /// Says whether anything differs from the disk.
    pub fn is_dirty(&self) -> bool {
        self.is_moved || !self.dirty_groups.is_empty() || self.blocks.values().any(|block| block.is_dirty)
    }

    /// Writes the blocks that differ from the disk, and a table that moved to its new place.
    ///
    /// # Errors
    /// Those of the host; what was not written stays dirty.
    pub fn write_blocks(&mut self) -> Result<()> {
        let mut regions: Vec<usize> =
            self.blocks.iter().filter(|(_, block)| block.is_dirty).map(|(&region, _)| region).collect();
        regions.sort_unstable();
        for region in regions {
            let offset = self.table[region] & OFFSET_MASK;
            if let Some(block) = self.blocks.get_mut(&region) {
                self.storage.write_at(&block.bytes, offset)?;
                block.is_dirty = false;
            }
        }
        if self.is_moved {
            let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.storage.write_at(&bytes, self.table_offset)?;
        }
        Ok(())
    }

    /// Says whether [`write_table`](Self::write_table) has something to write.
    pub fn is_table_dirty(&self) -> bool {
        self.is_moved || !self.dirty_groups.is_empty()
    }

    /// Writes the entries of the table that differ from the disk, or the header's reference to a table that moved.
    /// The blocks are durable before.
    ///
    /// # Errors
    /// Those of the host; what was not written stays dirty.
    pub fn write_table(&mut self) -> Result<()> {
        if self.is_moved {
            let mut place = [0; 12];
            set_be64(&mut place, 0, self.table_offset);
            set_be32(&mut place, 8, self.table_clusters as u32);
            self.storage.write_at(&place, AT_REFCOUNT_TABLE)?;
            self.is_moved = false;
            self.dirty_groups.clear();
        }
        while let Some(&group) = self.dirty_groups.first() {
            let from = group * ENTRIES_WRITTEN;
            let entries = &self.table[from..self.table.len().min(from + ENTRIES_WRITTEN)];
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.storage.write_at(&bytes, self.table_offset + from as u64 * 8)?;
            self.dirty_groups.remove(&group);
        }
        Ok(())
    }
}

/// Returns a refcount of a block.
fn get(block: &[u8], order: u32, index: usize) -> u64 {
    match order {
        0..=2 => {
            let (bits, per_byte) = (1_usize << order, 8 >> order);
            let mask = (1_u64 << bits) - 1;
            u64::from(block[index / per_byte]) >> (index % per_byte * bits) & mask
        }
        3 => u64::from(block[index]),
        4 => u64::from(be16(block, index * 2)),
        5 => u64::from(be32(block, index * 4)),
        _ => be64(block, index * 8),
    }
}

/// Stores a refcount, which is no larger than the one before, or 1.
fn set(block: &mut [u8], order: u32, index: usize, count: u64) {
    match order {
        0..=2 => {
            let (bits, per_byte) = (1_usize << order, 8 >> order);
            let (shift, mask) = (index % per_byte * bits, ((1_u16 << bits) - 1) as u8);
            let byte = &mut block[index / per_byte];
            *byte = *byte & !(mask << shift) | (count as u8 & mask) << shift;
        }
        3 => block[index] = count as u8,
        4 => set_be16(block, index * 2, count as u16),
        5 => set_be32(block, index * 4, count as u32),
        _ => set_be64(block, index * 8, count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refcount_of_any_width_leaves_its_neighbours_alone() {
        for order in 0..=6 {
            let mut block = vec![0; 512];
            for index in [0, 1, 5, 7, 63] {
                set(&mut block, order, index, 1);
            }
            for index in 0..64 {
                let expected = u64::from([0, 1, 5, 7, 63].contains(&index));
                assert_eq!(get(&block, order, index), expected, "order {order}, index {index}");
            }
            set(&mut block, order, 5, 0);
            assert_eq!((get(&block, order, 4), get(&block, order, 5), get(&block, order, 7)), (0, 0, 1));
        }
    }
}
