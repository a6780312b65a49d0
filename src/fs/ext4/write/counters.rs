//! The counts and states of the superblock that change while the filesystem is written.

use super::super::features::incompat;
use super::super::superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, field};
use super::store::Handle;
use crate::bytes::{le32, set_le32};
use crate::error::Result;

/// Changes the primary superblock within an operation and sets its checksum.
///
/// # Errors
/// Those of the store.
pub(super) fn modify<R>(
    handle: &mut Handle<'_>,
    superblock: &Superblock,
    change: impl FnOnce(&mut [u8]) -> R,
) -> Result<R> {
    let block_size = u64::from(superblock.block_size);
    let from = (SUPERBLOCK_OFFSET % block_size) as usize;
    handle.modify(SUPERBLOCK_OFFSET / block_size, |bytes| {
        let bytes = &mut bytes[from..from + SUPERBLOCK_SIZE];
        let result = change(bytes);
        superblock.set_checksum(bytes);
        result
    })
}

/// Adds to the counts of free blocks and free inodes.
///
/// # Errors
/// Those of the store.
pub(super) fn add(handle: &mut Handle<'_>, superblock: &Superblock, blocks: i64, inodes: i64) -> Result<()> {
    modify(handle, superblock, |bytes| {
        let free = u64::from(le32(bytes, field::FREE_BLOCKS_LO)) | u64::from(le32(bytes, field::FREE_BLOCKS_HI)) << 32;
        let free_inodes = u64::from(le32(bytes, field::FREE_INODES));
        set(bytes, superblock, free.saturating_add_signed(blocks), free_inodes.saturating_add_signed(inodes));
    })
}

/// Sets the counts of free blocks and free inodes in the bytes of a superblock.
pub(super) fn set(bytes: &mut [u8], superblock: &Superblock, blocks: u64, inodes: u64) {
    set_le32(bytes, field::FREE_BLOCKS_LO, blocks as u32);
    if superblock.has_incompat(incompat::BIT64) {
        set_le32(bytes, field::FREE_BLOCKS_HI, (blocks >> 32) as u32);
    }
    set_le32(bytes, field::FREE_INODES, u32::try_from(inodes).unwrap_or(u32::MAX));
}
