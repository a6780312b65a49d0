//! Clusters of files (`bigalloc`): a cluster of a file lies in one cluster of the device, which is taken with the first of
//! its blocks that is mapped and freed with the last one. Without the feature, a cluster is a block.
//!
//! Specified in the kernel's `Documentation/filesystems/ext4/bigalloc.rst`.

use super::super::super::superblock::Superblock;
use super::super::alloc::Run;
use super::super::edit::InodeEdit;
use super::super::op::Op;
use super::path::{load, next_key};
use crate::error::{Error, Result};

/// Blocks that were taken out of a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// The first block of the file.
    pub(super) logical: u64,
    pub(super) run: Run,
}

/// Checks that a block of a file lies at the same place of its cluster in the file and on the device.
///
/// # Errors
/// [`Error::Corrupt`].
pub(in crate::fs::ext4::write) fn check(superblock: &Superblock, ino: u32, logical: u64, physical: u64) -> Result<()> {
    if (logical ^ physical) & ((1 << superblock.cluster_bits) - 1) == 0 {
        return Ok(());
    }
    let detail = format!("block {logical} lies at another place of its cluster than block {physical} of the device");
    Err(Error::corrupt(format!("extent tree of inode {ino}"), detail))
}

/// Says whether any block of a file from `from` to before `to` is mapped.
fn is_mapped(op: &Op<'_>, edit: &InodeEdit, from: u64, to: u64) -> Result<bool> {
    let Ok(first) = u32::try_from(from) else { return Ok(false) };
    let mut path = load(op, edit, first)?;
    // A node's key is the first block that it holds.
    let is_next = next_key(&path).is_some_and(|next| u64::from(next) < to);
    let Some(leaf) = path.last_mut() else { return Ok(false) };
    Ok(is_next || leaf.extents().iter().any(|extent| u64::from(extent.logical) < to && from < extent.end()))
}

/// Returns how many clusters blocks that are to be mapped are the first of.
///
/// # Errors
/// Those of a damaged tree and of reading.
pub(in crate::fs::ext4::write) fn count_new(op: &Op<'_>, edit: &InodeEdit, logical: u64, len: u32) -> Result<u64> {
    let bits = op.core.volume.superblock.cluster_bits;
    if bits == 0 {
        return Ok(u64::from(len));
    }
    let (first, last) = (logical >> bits, (logical + u64::from(len) - 1) >> bits);
    let mut count = last - first + 1;
    let is_shared = |cluster: u64| is_mapped(op, edit, cluster << bits, (cluster + 1) << bits);
    if is_shared(first)? {
        count -= 1;
    }
    if last > first && is_shared(last)? {
        count -= 1;
    }
    Ok(count)
}

/// Frees the clusters that have no block any more after some were taken out of the tree, and counts them.
///
/// # Errors
/// [`Error::Corrupt`] for clusters that are free already, and those of the store.
pub(super) fn free(op: &mut Op<'_>, edit: &mut InodeEdit, taken: &[Taken]) -> Result<()> {
    let bits = op.core.volume.superblock.cluster_bits;
    let size = 1_u64 << bits;
    // The clusters of the file before this one are done.
    let mut done = 0;
    for &Taken { logical, run } in taken {
        op.forget_mapped(edit, run)?;
        let end = logical + u64::from(run.len);
        let (mut first, mut last) = ((logical >> bits).max(done), (end - 1) >> bits);
        done = last + 1;
        let is_kept = |op: &Op<'_>, cluster: u64| {
            let (from, to) = (cluster * size, (cluster + 1) * size);
            Ok::<_, Error>((from < logical || to > end) && is_mapped(op, edit, from, to)?)
        };
        if first < last && is_kept(op, last)? {
            last -= 1;
        }
        if first <= last && is_kept(op, first)? {
            first += 1;
        }
        if first > last {
            continue;
        }
        let start = run.start - logical % size + ((first - (logical >> bits)) << bits);
        let count = last - first + 1;
        op.free(Run { start, len: (count << bits) as u32 })?;
        edit.add_clusters(&op.core.volume.superblock, -(count as i64))?;
    }
    Ok(())
}
