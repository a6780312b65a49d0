//! Which inodes are free, and in which group a new one goes.
//!
//! Files go to their folder's group. Folders go there too, as long as it has room for what they will hold; those of the
//! root go to the emptiest groups, so that unrelated trees lie apart.

use super::super::super::group::INODE_UNINIT;
use super::super::super::superblock::ROOT_INO;
use super::{Allocator, Bits, Group, disk, read_descriptor};
use crate::error::{Error, Result};
use std::sync::atomic::Ordering;

impl Allocator {
    /// Claims an inode for a new entry of folder `parent`.
    ///
    /// # Errors
    /// `ENOSPC` when none is free, and those of reading bitmaps.
    pub(in crate::fs::ext4) fn claim_inode(&self, parent: u32, is_dir: bool) -> Result<u32> {
        let count = self.groups.len() as u32;
        let home = ((parent - 1) / self.superblock.inodes_per_group).min(count - 1);
        let home = if is_dir { self.group_for_dir(parent, home) } else { home };
        for step in 0..count {
            if let Some(ino) = self.claim_inode_in((home + step) % count)? {
                return Ok(ino);
            }
        }
        Err(Error::Errno(libc::ENOSPC))
    }

    fn group_for_dir(&self, parent: u32, home: u32) -> u32 {
        let count = self.groups.len() as u32;
        let average_free = (self.free.load(Ordering::Relaxed) / u64::from(count)) as u32;
        let average_inodes = (self.free_inodes.load(Ordering::Relaxed) / u64::from(count)) as u32;
        let free = |number: u32| self.groups[number as usize].free.load(Ordering::Relaxed);
        let inodes = |number: u32| self.groups[number as usize].free_inodes.load(Ordering::Relaxed);
        if parent == ROOT_INO {
            let mut best: Option<u32> = None;
            for number in 0..count {
                if inodes(number) == 0 || inodes(number) < average_inodes || free(number) < average_free {
                    continue;
                }
                let dirs = |number: u32| self.groups[number as usize].dirs.load(Ordering::Relaxed);
                if best.is_none_or(|best| dirs(number) < dirs(best)) {
                    best = Some(number);
                }
            }
            return best.unwrap_or(home);
        }
        (0..count)
            .map(|step| (home + step) % count)
            .find(|&number| {
                inodes(number) > 0 && inodes(number) >= average_inodes / 4 && free(number) >= average_free / 4
            })
            .unwrap_or(home)
    }

    fn claim_inode_in(&self, number: u32) -> Result<Option<u32>> {
        let group = self.group(number)?;
        if group.free_inodes.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        match self.load_inodes(number, group) {
            Ok(()) => {}
            Err(error) if matches!(error.root(), Error::Corrupt { .. }) => {
                log::warn!("{error}; no inode of group {number} is allocated");
                let free = group.free_inodes.swap(0, Ordering::Relaxed);
                self.free_inodes.fetch_sub(u64::from(free), Ordering::Relaxed);
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut space = group.space.lock();
        let Some(bits) = &mut space.inodes else { return Ok(None) };
        // The first inodes of the first group are the filesystem's own, whatever the bitmap says.
        let from = if number == 0 { self.superblock.first_inode - 1 } else { 0 };
        let Some(bit) = bits.next_free(from) else { return Ok(None) };
        bits.fill(bit, 1, true);
        group.free_inodes.fetch_sub(1, Ordering::Relaxed);
        self.free_inodes.fetch_sub(1, Ordering::Relaxed);
        Ok(Some(number * self.superblock.inodes_per_group + bit + 1))
    }

    fn load_inodes(&self, number: u32, group: &Group) -> Result<()> {
        if group.space.lock().inodes.is_some() {
            return Ok(());
        }
        let _disk = group.disk.lock();
        let superblock = &self.superblock;
        let descriptor = read_descriptor(superblock, &self.store, self.base, number)?;
        let bytes = if self.has_lazy_groups() && descriptor.flags & INODE_UNINIT != 0 {
            disk::fresh_inode_bitmap(superblock)
        } else {
            let bytes = self.store.read(descriptor.inode_bitmap)?;
            let stored = disk::stored_checksums(&self.raw_descriptor(number)?).1;
            disk::verify_checksum(superblock, &bytes, superblock.inodes_per_group, Some(stored))
                .map_err(|detail| Error::corrupt(format!("inode bitmap of group {number}"), detail))?;
            bytes.to_vec()
        };
        let bits = Bits::from_disk(&bytes, superblock.inodes_per_group);
        if bits.count_free() != descriptor.free_inodes {
            return Err(Error::corrupt(
                format!("inode bitmap of group {number}"),
                format!("{} inodes are free in it, {} by the descriptor", bits.count_free(), descriptor.free_inodes),
            ));
        }
        group.space.lock().inodes.get_or_insert(bits);
        Ok(())
    }

    /// Has the bitmap in memory of an inode that is to be freed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is free already, and those of reading the bitmap.
    pub(in crate::fs::ext4) fn check_inode_taken(&self, ino: u32) -> Result<()> {
        let (number, index) =
            ((ino - 1) / self.superblock.inodes_per_group, (ino - 1) % self.superblock.inodes_per_group);
        let group = self.group(number)?;
        self.load_inodes(number, group)?;
        let is_taken = group.space.lock().inodes.as_ref().is_some_and(|bits| bits.is_set(index));
        if is_taken {
            return Ok(());
        }
        Err(Error::corrupt(format!("inode bitmap of group {number}"), format!("inode {ino} is in use, but free in it")))
    }

    /// Makes an inode free in memory: one that was claimed and not used, or was freed.
    pub(in crate::fs::ext4) fn unclaim_inode(&self, ino: u32) {
        let (number, index) =
            ((ino - 1) / self.superblock.inodes_per_group, (ino - 1) % self.superblock.inodes_per_group);
        let Some(group) = self.groups.get(number as usize) else { return };
        let mut space = group.space.lock();
        if let Some(bits) = &mut space.inodes {
            let count = bits.fill(index, 1, false);
            group.free_inodes.fetch_add(count, Ordering::Relaxed);
            self.free_inodes.fetch_add(u64::from(count), Ordering::Relaxed);
        }
    }

    /// Counts a folder that was made or removed in the group of its inode.
    pub(in crate::fs::ext4) fn count_dir(&self, ino: u32, is_made: bool) {
        if let Some(group) = self.groups.get(((ino - 1) / self.superblock.inodes_per_group) as usize) {
            if is_made {
                group.dirs.fetch_add(1, Ordering::Relaxed);
            } else {
                let _ = group.dirs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |dirs| dirs.checked_sub(1));
            }
        }
    }
}
