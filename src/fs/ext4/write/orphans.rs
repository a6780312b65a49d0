//! Orphans: inodes without names that are still open, and files whose end is being cut off. Whoever opens the filesystem
//! after a crash frees or cuts them.
//!
//! They are a list through the inodes' times of deletion that begins in the superblock, or slots of a file
//! (`orphan_file`). Specified in the kernel's `Documentation/filesystems/ext4/orphan.rst`.

use super::super::checksum::{crc32c, inode_seed};
use super::super::inode::{self, field};
use super::super::superblock::field as super_field;
use super::core::Core;
use super::counters;
use super::edit::now;
use super::store::Handle;
use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};
use parking_lot::Mutex;
use std::collections::HashMap;

/// `ob_magic`, at the end of each block of the file.
const BLOCK_MAGIC: u32 = 0x0b10_ca04;
/// The size of a block's end, in bytes: the magic number and the checksum.
const TAIL: usize = 8;

/// The file of orphans.
#[derive(Default)]
struct File {
    /// What the checksums of its blocks begin with.
    seed: u32,
    blocks: Vec<u64>,
    /// Slots that are empty: which block, which slot of it.
    free: Vec<(u32, u32)>,
    used: HashMap<u32, (u32, u32)>,
}

#[derive(Default)]
struct Known {
    /// The list; the last one is the one that the superblock names.
    list: Vec<u32>,
    file: File,
}

/// All orphans.
#[derive(Default)]
pub(super) struct Orphans {
    /// Guards the list on disk, too. Taken with a handle, never during I/O but that of the store.
    known: Mutex<Known>,
}

/// Returns the checksum of a block of the file of orphans.
fn block_checksum(seed: u32, block: u64, bytes: &[u8]) -> u32 {
    crc32c(crc32c(seed, &block.to_le_bytes()), &bytes[..bytes.len() - TAIL])
}

impl Orphans {
    /// Takes in the file of orphans, which lies in these blocks; returns those it names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged one, and those of reading.
    pub(super) fn load_file(&self, core: &Core, ino: u32, generation: u32, blocks: Vec<u64>) -> Result<Vec<u32>> {
        let superblock = &core.volume.superblock;
        let seed = inode_seed(superblock.checksum_seed, ino, generation);
        let mut found = Vec::new();
        let mut file = File { seed, ..File::default() };
        for (number, &block) in blocks.iter().enumerate() {
            let bytes = core.store.read(block)?;
            let slots = bytes.len() - TAIL;
            let is_sound = le32(&bytes, slots) == BLOCK_MAGIC
                && (!superblock.has_metadata_csum() || le32(&bytes, slots + 4) == block_checksum(seed, block, &bytes));
            if !is_sound {
                return Err(Error::corrupt("orphan file", format!("its block {number} is damaged")));
            }
            for (slot, entry) in bytes[..slots].chunks_exact(4).enumerate() {
                let place = (number as u32, slot as u32);
                match le32(entry, 0) {
                    0 => file.free.push(place),
                    orphan => {
                        found.push(orphan);
                        file.used.insert(orphan, place);
                    }
                }
            }
        }
        // The first slots are used first.
        file.free.reverse();
        file.blocks = blocks;
        self.known.lock().file = file;
        Ok(found)
    }

    /// Takes in the list that the superblock begins; `list` is in its order.
    pub(super) fn load_list(&self, mut list: Vec<u32>) {
        list.reverse();
        self.known.lock().list = list;
    }

    /// Says whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        let known = self.known.lock();
        known.list.is_empty() && known.file.used.is_empty()
    }

    /// Adds an inode, which has been written already.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn add(&self, core: &Core, handle: &mut Handle<'_>, ino: u32) -> Result<()> {
        let mut known = self.known.lock();
        if known.list.contains(&ino) || known.file.used.contains_key(&ino) {
            return Ok(());
        }
        if let Some(place) = known.file.free.pop() {
            set_slot(handle, &known.file, place, ino)?;
            known.file.used.insert(ino, place);
            return Ok(());
        }
        set_dtime(core, handle, ino, known.list.last().copied().unwrap_or(0))?;
        counters::modify(handle, &core.volume.superblock, |bytes| set_le32(bytes, super_field::LAST_ORPHAN, ino))?;
        known.list.push(ino);
        Ok(())
    }

    /// Takes an inode away, if it is one.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn remove(&self, core: &Core, handle: &mut Handle<'_>, ino: u32) -> Result<()> {
        let mut known = self.known.lock();
        if let Some(place) = known.file.used.remove(&ino) {
            known.file.free.push(place);
            return set_slot(handle, &known.file, place, 0);
        }
        let Some(at) = known.list.iter().rposition(|&orphan| orphan == ino) else { return Ok(()) };
        let next = if at == 0 { 0 } else { known.list[at - 1] };
        match known.list.get(at + 1) {
            Some(&newer) => set_dtime(core, handle, newer, next)?,
            None => counters::modify(handle, &core.volume.superblock, |bytes| {
                set_le32(bytes, super_field::LAST_ORPHAN, next);
            })?,
        }
        known.list.remove(at);
        set_dtime(core, handle, ino, 0)
    }

    /// Notes in an inode that it is deleted now.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) fn set_deleted(&self, core: &Core, handle: &mut Handle<'_>, ino: u32) -> Result<()> {
        set_dtime(core, handle, ino, (now().seconds as u32).max(1))
    }
}

fn set_slot(handle: &mut Handle<'_>, file: &File, (number, slot): (u32, u32), ino: u32) -> Result<()> {
    let block = file.blocks[number as usize];
    handle.modify(block, |bytes| {
        set_le32(bytes, slot as usize * 4, ino);
        let crc = block_checksum(file.seed, block, bytes);
        let at = bytes.len() - 4;
        set_le32(bytes, at, crc);
    })
}

fn set_dtime(core: &Core, handle: &mut Handle<'_>, ino: u32, time: u32) -> Result<()> {
    let superblock = &core.volume.superblock;
    let (block, from) = core.volume.inode_place(ino)?;
    handle.modify(block, |bytes| {
        let slot = &mut bytes[from..from + superblock.inode_size as usize];
        set_le32(slot, field::DTIME, time);
        inode::set_checksum(superblock, ino, slot);
    })
}
