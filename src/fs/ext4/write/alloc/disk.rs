//! Bitmaps and descriptors as they are on disk: made where they were left out, checked, and changed in operations.

use super::super::super::checksum::crc32c;
use super::super::super::features::incompat;
use super::super::super::group::{self, BLOCK_UNINIT, GroupDescriptor, INODE_UNINIT, INODE_ZEROED, field};
use super::super::super::superblock::Superblock;
use super::super::counters;
use super::super::store::Handle;
use super::bits::{count_disk, fill_disk};
use super::{Allocator, Run, read_descriptor};
use crate::bytes::{le16, set_le16};
use crate::error::{Error, Result};

/// Returns the checksum of a bitmap of `bits` bits.
fn bitmap_checksum(superblock: &Superblock, bytes: &[u8], bits: u32) -> u32 {
    crc32c(superblock.checksum_seed, &bytes[..(bits / 8) as usize])
}

/// Checks that the blocks of a group's own structures are taken in its bitmap.
pub(super) fn verify_block_bitmap(
    superblock: &Superblock,
    number: u32,
    descriptor: &GroupDescriptor,
    stored: Option<u32>,
    bytes: &[u8],
) -> Result<()> {
    let damaged = |detail: &'static str| Error::corrupt(format!("block bitmap of group {number}"), detail);
    verify_checksum(superblock, bytes, superblock.clusters_per_group, stored).map_err(damaged)?;
    let first = superblock.group_first_block(number);
    let table = u64::from(superblock.inode_table_blocks());
    for (start, len) in [(descriptor.block_bitmap, 1), (descriptor.inode_bitmap, 1), (descriptor.inode_table, table)] {
        for block in start..start + len {
            let Some(bit) = block.checked_sub(first).filter(|&bit| bit < u64::from(superblock.blocks_per_group)) else {
                continue;
            };
            if count_disk(bytes, (bit >> superblock.cluster_bits) as u32, 1) == 0 {
                return Err(damaged("the group's own structures are free in it"));
            }
        }
    }
    Ok(())
}

/// Checks a bitmap against the checksum in the descriptor, of which `stored` has 16 or 32 bits.
pub(super) fn verify_checksum(
    superblock: &Superblock,
    bytes: &[u8],
    bits: u32,
    stored: Option<u32>,
) -> Result<(), &'static str> {
    let Some(stored) = stored.filter(|_| superblock.has_metadata_csum()) else { return Ok(()) };
    let mut crc = bitmap_checksum(superblock, bytes, bits);
    if superblock.descriptor_size < 64 {
        crc &= 0xffff;
    }
    if crc == stored { Ok(()) } else { Err("its checksum is wrong") }
}

/// Returns the checksums of a group's block and inode bitmaps by its raw descriptor.
pub(super) fn stored_checksums(descriptor: &[u8]) -> (u32, u32) {
    let wide = |lo, hi| {
        u32::from(le16(descriptor, lo)) | if descriptor.len() >= 64 { u32::from(le16(descriptor, hi)) << 16 } else { 0 }
    };
    (
        wide(field::BLOCK_BITMAP_CSUM_LO, field::BLOCK_BITMAP_CSUM_HI),
        wide(field::INODE_BITMAP_CSUM_LO, field::INODE_BITMAP_CSUM_HI),
    )
}

/// Returns the block bitmap of a group that was never written to.
pub(super) fn fresh_block_bitmap(
    superblock: &Superblock,
    number: u32,
    descriptor: &GroupDescriptor,
    clusters: u32,
) -> Vec<u8> {
    let mut bytes = vec![0; superblock.block_size as usize];
    let first = superblock.group_first_block(number);
    let mut used = u32::from(superblock.group_has_super(number));
    let per_block = superblock.descriptors_per_block();
    let row = number / per_block;
    if superblock.has_incompat(incompat::META_BG) && row >= superblock.first_meta_bg {
        let at = number % per_block;
        used += u32::from(at == 0 || at == 1 || at == per_block - 1);
    } else if superblock.group_has_super(number) {
        let rows = superblock.group_count.div_ceil(per_block);
        used += if superblock.has_incompat(incompat::META_BG) { superblock.first_meta_bg } else { rows };
        used += u32::from(superblock.reserved_gdt_blocks);
    }
    let bits = superblock.cluster_bits;
    fill_disk(&mut bytes, 0, used.div_ceil(1 << bits).min(clusters), true);
    let table = u64::from(superblock.inode_table_blocks());
    for (start, len) in [(descriptor.block_bitmap, 1), (descriptor.inode_bitmap, 1), (descriptor.inode_table, table)] {
        for block in start..start + len {
            if let Some(bit) = block.checked_sub(first).map(|at| at >> bits).filter(|&bit| bit < u64::from(clusters)) {
                fill_disk(&mut bytes, bit as u32, 1, true);
            }
        }
    }
    fill_disk(&mut bytes, clusters, superblock.block_size * 8 - clusters, true);
    bytes
}

/// Returns the inode bitmap of a group that was never written to.
pub(super) fn fresh_inode_bitmap(superblock: &Superblock) -> Vec<u8> {
    let mut bytes = vec![0; superblock.block_size as usize];
    let inodes = superblock.inodes_per_group;
    fill_disk(&mut bytes, inodes, superblock.block_size * 8 - inodes, true);
    bytes
}

/// Stores a count whose halves lie apart.
fn set_wide(bytes: &mut [u8], lo: usize, hi: usize, value: u32) {
    set_le16(bytes, lo, value as u16);
    if bytes.len() >= 64 {
        set_le16(bytes, hi, (value >> 16) as u16);
    }
}

/// What to change of a group's descriptor.
#[derive(Clone, Copy, Default)]
struct Change {
    clusters: i64,
    inodes: i64,
    dirs: i64,
    /// How many inodes at the table's end were never used, from now on.
    unused: Option<u32>,
    clear_flags: u16,
    block_checksum: Option<u32>,
    inode_checksum: Option<u32>,
}

impl Allocator {
    fn change_descriptor(&self, handle: &mut Handle<'_>, number: u32, old: &GroupDescriptor, by: Change) -> Result<()> {
        let superblock = &self.superblock;
        let (block, from) = group::place(superblock, self.base, number);
        let add = |count: u32, by: i64| u32::try_from((i64::from(count) + by).max(0)).unwrap_or(u32::MAX);
        handle.modify(block, |bytes| {
            let bytes = &mut bytes[from..from + superblock.descriptor_size as usize];
            set_wide(bytes, field::FREE_BLOCKS_LO, field::FREE_BLOCKS_HI, add(old.free_clusters, by.clusters));
            set_wide(bytes, field::FREE_INODES_LO, field::FREE_INODES_HI, add(old.free_inodes, by.inodes));
            set_wide(bytes, field::USED_DIRS_LO, field::USED_DIRS_HI, add(old.used_dirs, by.dirs));
            if let Some(unused) = by.unused {
                set_wide(bytes, field::UNUSED_INODES_LO, field::UNUSED_INODES_HI, unused);
            }
            set_le16(bytes, field::FLAGS, old.flags & !by.clear_flags);
            if superblock.has_metadata_csum() {
                if let Some(crc) = by.block_checksum {
                    set_wide(bytes, field::BLOCK_BITMAP_CSUM_LO, field::BLOCK_BITMAP_CSUM_HI, crc);
                }
                if let Some(crc) = by.inode_checksum {
                    set_wide(bytes, field::INODE_BITMAP_CSUM_LO, field::INODE_BITMAP_CSUM_HI, crc);
                }
            }
            group::set_checksum(superblock, number, bytes);
        })
    }

    /// Marks blocks as taken or free on disk, with all counts.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they are so already, and those of the store. Some may have been marked then.
    pub(in crate::fs::ext4) fn mark(&self, handle: &mut Handle<'_>, run: Run, taken: bool) -> Result<()> {
        let superblock = &self.superblock;
        for (number, first, len) in self.in_groups(run) {
            let group = self.group(number)?;
            let _disk = group.disk.lock();
            let descriptor = read_descriptor(superblock, &self.store, self.base, number)?;
            if self.has_lazy_groups() && descriptor.flags & BLOCK_UNINIT != 0 {
                let fresh = fresh_block_bitmap(superblock, number, &descriptor, self.clusters_in(number));
                handle.create(descriptor.block_bitmap, |bytes| bytes.copy_from_slice(&fresh))?;
            }
            let crc = handle.modify(descriptor.block_bitmap, |bytes| {
                let set = count_disk(bytes, first, len);
                if set != if taken { 0 } else { len } {
                    return None;
                }
                fill_disk(bytes, first, len, taken);
                Some(bitmap_checksum(superblock, bytes, superblock.clusters_per_group))
            })?;
            let Some(crc) = crc else {
                return Err(Error::corrupt(
                    format!("block bitmap of group {number}"),
                    format!("{len} clusters at block {} are not as they should be", run.start),
                ));
            };
            let clusters = if taken { -i64::from(len) } else { i64::from(len) };
            let change = Change { clusters, clear_flags: BLOCK_UNINIT, block_checksum: Some(crc), ..Change::default() };
            self.change_descriptor(handle, number, &descriptor, change)?;
            // The superblock counts blocks, unlike the groups.
            counters::add(handle, superblock, clusters << superblock.cluster_bits, 0)?;
        }
        Ok(())
    }

    /// Marks an inode as taken or free on disk, with all counts, and clears the part of the inode table that begins to be
    /// used.
    ///
    /// # Errors
    /// As [`mark`](Self::mark).
    pub(in crate::fs::ext4) fn mark_inode(
        &self,
        handle: &mut Handle<'_>,
        ino: u32,
        is_dir: bool,
        taken: bool,
    ) -> Result<()> {
        let superblock = &self.superblock;
        let (number, index) = ((ino - 1) / superblock.inodes_per_group, (ino - 1) % superblock.inodes_per_group);
        let group = self.group(number)?;
        let _disk = group.disk.lock();
        let descriptor = read_descriptor(superblock, &self.store, self.base, number)?;
        let is_lazy = self.has_lazy_groups();
        if is_lazy && descriptor.flags & INODE_UNINIT != 0 {
            let fresh = fresh_inode_bitmap(superblock);
            handle.create(descriptor.inode_bitmap, |bytes| bytes.copy_from_slice(&fresh))?;
        }
        let crc = handle.modify(descriptor.inode_bitmap, |bytes| {
            if (count_disk(bytes, index, 1) == 0) != taken {
                return None;
            }
            fill_disk(bytes, index, 1, taken);
            Some(bitmap_checksum(superblock, bytes, superblock.inodes_per_group))
        })?;
        let Some(crc) = crc else {
            return Err(Error::corrupt(
                format!("inode bitmap of group {number}"),
                format!("inode {ino} is not as it should be"),
            ));
        };
        let mut change = Change {
            inodes: if taken { -1 } else { 1 },
            dirs: if !is_dir {
                0
            } else if taken {
                1
            } else {
                -1
            },
            clear_flags: INODE_UNINIT,
            inode_checksum: Some(crc),
            ..Change::default()
        };
        if is_lazy && taken {
            let per_group = superblock.inodes_per_group;
            let unused = if descriptor.flags & INODE_UNINIT != 0 { per_group } else { descriptor.unused_inodes };
            let used = per_group - unused.min(per_group);
            if index >= used {
                change.unused = Some(per_group - index - 1);
                if descriptor.flags & INODE_ZEROED == 0 {
                    self.clear_table(handle, &descriptor, used, index + 1)?;
                }
            } else if descriptor.flags & INODE_UNINIT != 0 {
                change.unused = Some(unused);
            }
        }
        self.change_descriptor(handle, number, &descriptor, change)?;
        counters::add(handle, superblock, 0, change.inodes)
    }

    /// Clears the inodes of a group's table from one to before another, and the rest of the last one's block.
    fn clear_table(&self, handle: &mut Handle<'_>, descriptor: &GroupDescriptor, from: u32, to: u32) -> Result<()> {
        let size = u64::from(self.superblock.inode_size);
        let block_size = u64::from(self.superblock.block_size);
        let start = u64::from(from) * size;
        let mut at = start;
        while at < u64::from(to) * size {
            let (block, inside) = (descriptor.inode_table + at / block_size, (at % block_size) as usize);
            if inside == 0 {
                handle.create(block, |_| ())?;
            } else {
                handle.modify(block, |bytes| bytes[inside..].fill(0))?;
            }
            at = (at / block_size + 1) * block_size;
        }
        Ok(())
    }
}
