//! Values of extended attributes in inodes of their own (`ea_inode`): made, shared, counted and freed.
//!
//! Such an inode is a file without a name that never changes. The halves of its count of references lie in its time of
//! change and its version, the hash of the value in its access time. Whoever names it in an inode or in a block of
//! attributes has one reference, however many inodes share the block. Values that are equal share an inode, as far as
//! those made lately are known.

use super::super::checksum::crc32c;
use super::super::inode::{Inode, flag};
use super::super::superblock::Superblock;
use super::core::Core;
use super::edit::{InodeEdit, now};
use super::op::Op;
use super::store::Handle;
use super::xattr_edit::Held;
use super::{mapping, space};
use crate::error::{Error, Result};
use crate::fs::FileType;
use parking_lot::Mutex;
use std::collections::HashMap;

/// How many values are remembered that may be shared.
const REMEMBERED: usize = 4096;

#[derive(Default)]
struct Known {
    /// Inodes that hold values, by hash and size.
    by_hash: HashMap<(u32, u64), u32>,
    /// How many operations under way will add a reference to an inode, which is not freed meanwhile.
    pins: HashMap<u32, u32>,
    /// Inodes that lost their last reference.
    dead: Vec<u32>,
}

/// What is known of values in memory.
#[derive(Default)]
pub(super) struct Values {
    /// Guards the counts on disk, too. Taken with a handle, before the orphans.
    known: Mutex<Known>,
}

/// A change of how many references an inode has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Up,
    Down,
}

impl Values {
    /// Pins an inode that holds a value with this hash and size.
    fn pin_equal(&self, hash: u32, size: u64) -> Option<u32> {
        let mut known = self.known.lock();
        let ino = *known.by_hash.get(&(hash, size))?;
        *known.pins.entry(ino).or_default() += 1;
        Some(ino)
    }

    /// Pins an inode that is in use.
    fn pin(&self, ino: u32) {
        *self.known.lock().pins.entry(ino).or_default() += 1;
    }

    /// Gives a pin back whose reference was added, or never will be.
    pub(super) fn unpin(&self, core: &Core, ino: u32) {
        let mut known = self.known.lock();
        if let Some(pins) = known.pins.get_mut(&ino) {
            *pins -= 1;
            if *pins == 0 {
                known.pins.remove(&ino);
                if core.volume.unnamed.read().contains(&ino) {
                    known.dead.push(ino);
                }
            }
        }
    }

    /// Remembers an inode that holds a value, which is durable with the operation that is ending.
    pub(super) fn remember(&self, hash: u32, size: u64, ino: u32) {
        let mut known = self.known.lock();
        if known.by_hash.len() >= REMEMBERED {
            known.by_hash.clear();
        }
        known.by_hash.insert((hash, size), ino);
    }

    /// Changes how many references an inode has, at the end of an operation. One that loses its last reference becomes an
    /// orphan.
    ///
    /// # Errors
    /// Those of reading and of the store.
    pub(super) fn count(&self, core: &Core, handle: &mut Handle<'_>, ino: u32, count: Count) -> Result<()> {
        let mut known = self.known.lock();
        let (inode, mut edit) = core.edit(ino)?;
        let (hash, before) = edit.value_fields();
        let after = match count {
            Count::Up => before.checked_add(1),
            Count::Down => before.checked_sub(1),
        };
        let Some(after) = after else {
            log::warn!("inode {ino} of a value has {before} references already");
            return Ok(());
        };
        edit.set_value_fields(hash, after);
        edit.set_links(u16::from(after > 0));
        core.write_inode(handle, &edit)?;
        match (before, after) {
            (_, 0) => {
                if known.by_hash.get(&(hash, inode.size)) == Some(&ino) {
                    known.by_hash.remove(&(hash, inode.size));
                }
                core.orphans.add(core, handle, ino)?;
                if !known.pins.contains_key(&ino) {
                    known.dead.push(ino);
                }
            }
            (0, _) => core.orphans.remove(core, handle, ino)?,
            _ => {}
        }
        Ok(())
    }

    /// Frees the inodes that lost their last reference. No handle is held.
    pub(super) fn sweep(&self, core: &Core) {
        loop {
            let Some(ino) = self.known.lock().dead.pop() else { return };
            if let Err(error) = free(core, ino)
                && !core.store.is_aborted()
            {
                log::warn!("inode {ino}, which held the value of an attribute, could not be freed: {error}");
            }
        }
    }
}

fn free(core: &Core, ino: u32) -> Result<()> {
    let state = core.state(ino);
    // Nobody else has use for it; were it locked all the same, it would stay an orphan.
    let Some(_inner) = state.lock.try_lock() else { return Ok(()) };
    if !core.volume.unnamed.read().contains(&ino) || core.values.known.lock().pins.contains_key(&ino) {
        return Ok(());
    }
    let (inode, edit) = core.edit(ino)?;
    if !inode.has_flag(flag::EA_INODE) {
        return Ok(());
    }
    let mut op = Op::begin(core, space::FREE_CREDITS)?;
    space::delete_within(&mut op, &inode, edit)?;
    op.finish_alone()?;
    Ok(())
}

/// Returns how many clusters a value of `size` bytes adds to the count of the inode whose attribute it is.
pub(super) fn clusters(superblock: &Superblock, size: usize) -> i64 {
    let cluster = u64::from(superblock.block_size) << superblock.cluster_bits;
    (size as u64).div_ceil(cluster) as i64
}

/// Checks that an inode holds a value whose references can be counted.
///
/// # Errors
/// [`Error::Corrupt`] naming both inodes, [`Error::Unsupported`] for one that has its owner instead of a count.
pub(super) fn check(core: &Core, owner: &InodeEdit, ino: u32) -> Result<()> {
    let damaged = |detail: &'static str| {
        Error::corrupt(format!("extended attribute of inode {} in inode {ino}", owner.ino), detail)
    };
    let is_possible = ino >= core.volume.superblock.first_inode && ino != owner.ino;
    let holder = match core.volume.inode(ino) {
        Ok(holder) if is_possible => holder,
        Err(error) if !error.is_errno(libc::ENOENT) => return Err(error),
        _ => return Err(damaged("the inode is not in use")),
    };
    if !holder.has_flag(flag::EA_INODE) || holder.file_type() != FileType::Regular || holder.is_inline() {
        return Err(damaged("the inode holds no such value"));
    }
    if holder.mtime.seconds as u32 == owner.ino && holder.generation == owner.generation() {
        return Err(Error::unsupported(
            "changing an attribute whose inode has no count of references, as Lustre makes them",
        ));
    }
    core.alloc.check_inode_taken(ino)
}

/// Has an inode that is in use get one reference more when the operation ends.
///
/// # Errors
/// As [`check`].
pub(super) fn add(op: &mut Op<'_>, owner: &InodeEdit, ino: u32) -> Result<()> {
    check(op.core, owner, ino)?;
    op.core.values.pin(ino);
    op.pinned_values.push(ino);
    Ok(())
}

/// Has an inode get one reference less when the operation ends.
///
/// # Errors
/// As [`check`].
pub(super) fn drop(op: &mut Op<'_>, owner: &InodeEdit, ino: u32) -> Result<()> {
    check(op.core, owner, ino)?;
    op.dropped_values.push(ino);
    Ok(())
}

/// Puts a value into an inode, which is a new one unless an equal value is known to have one. That inode has one reference
/// more when the operation ends.
///
/// # Errors
/// `ENOSPC`, and those of the device and the store.
pub(super) fn hold(op: &mut Op<'_>, owner: &InodeEdit, value: &[u8]) -> Result<Held> {
    let core = op.core;
    let hash = crc32c(core.volume.superblock.checksum_seed, value);
    if let Some(ino) = core.values.pin_equal(hash, value.len() as u64) {
        op.pinned_values.push(ino);
        let holder = core.volume.inode(ino)?;
        if ino != owner.ino && is_value(core, &holder, value)? {
            return Ok(Held { ino, hash });
        }
        op.pinned_values.pop();
        core.values.unpin(core, ino);
    }
    let ino = make(op, owner, value, hash)?;
    Ok(Held { ino, hash })
}

fn is_value(core: &Core, holder: &Inode, value: &[u8]) -> Result<bool> {
    Ok(holder.has_flag(flag::EA_INODE)
        && holder.size == value.len() as u64
        && core.volume.read_whole(holder, value.len())? == value)
}

fn make(op: &mut Op<'_>, owner: &InodeEdit, value: &[u8], hash: u32) -> Result<u32> {
    let core = op.core;
    let ino = op.new_inode(owner.ino, false)?;
    let mut edit = InodeEdit::fresh(&core.volume.superblock, ino, core.next_generation());
    edit.set_mode(libc::S_IFREG as u16 | 0o600);
    edit.set_uid(owner.uid());
    edit.set_gid(owner.gid());
    edit.set_links(1);
    let time = now();
    edit.set_mtime(time);
    edit.set_btime(time);
    edit.set_value_fields(hash, 1);
    super::file::init_mapping(core, &mut edit);
    edit.set_flags(edit.flags() | flag::EA_INODE);
    edit.set_size(value.len() as u64);
    let block_size = core.volume.superblock.block_size as usize;
    let mut goal = core.alloc.goal_of_inode(owner.ino);
    let mut done = 0;
    while done < value.len() {
        let want = (value.len() - done).div_ceil(block_size) as u32;
        let run = op.claim_run(goal, want)?;
        let count = (run.len as usize * block_size).min(value.len() - done);
        super::file::write_padded(core, run.start, 0, &value[done..done + count])?;
        mapping::insert(op, &mut edit, (done / block_size) as u64, run, false)?;
        goal = run.end();
        done += count;
    }
    op.ordered();
    op.put(edit);
    op.new_values.push((hash, value.len() as u64, ino));
    Ok(ino)
}
