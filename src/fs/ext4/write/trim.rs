//! Telling the device of free space.

use super::core::Core;
use crate::error::Result;

/// Discards all free blocks; returns how many bytes. Blocks are claimed while the device is told of them.
///
/// # Errors
/// Those of committing, of reading bitmaps and of the device.
pub(super) fn trim(core: &Core) -> Result<u64> {
    core.check_writable()?;
    // What was freed before counts, too.
    core.store.commit()?;
    let block_size = u64::from(core.volume.superblock.block_size);
    let device = core.store.device();
    let mut bytes = 0;
    for group in 0..core.volume.superblock.group_count {
        let mut from = 0;
        while let Some((run, next)) = core.alloc.claim_next(group, from)? {
            let len = u64::from(run.len) * block_size;
            let result = device.discard(run.start * block_size, len);
            core.alloc.unclaim(run);
            result?;
            bytes += len;
            from = next;
        }
    }
    Ok(bytes)
}
