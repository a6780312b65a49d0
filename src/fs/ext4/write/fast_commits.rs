//! Fast commits that wait to be replayed, made a transaction like any other before anything else is written.
//!
//! What they change is worked out on a copy in memory, by the same operations that all writing is made of: the log is
//! recovered there, the changes are made, and the copy is closed. The blocks that differ then go to the log of the
//! filesystem as one transaction, in the number that the fast commits stand for. Until its commit block is durable, they
//! still count and all may be begun again; afterwards they count no more, and the log is recovered as ever.

use super::super::features::incompat;
use super::super::inode::{Inode, field};
use super::super::journal::Journal;
use super::super::journal::fast_commit::{self, Changes, State};
use super::super::mapping::Place;
use super::super::superblock::Superblock;
use super::alloc::{Allocator, Run};
use super::core::Core;
use super::dirs::Dir;
use super::edit::InodeEdit;
use super::extents;
use super::names;
use super::op::Op;
use super::open;
use super::store::{JournalPlace, Store};
use crate::block::{ScratchDevice, SharedDevice};
use crate::bytes::le16;
use crate::error::{Error, Result};
use crate::fs::{FileType, FsOptions};
use std::sync::Arc;

/// The most that the copy in memory keeps of what is written to it, in bytes.
const MOST_WRITTEN: usize = 64 << 20;

/// The most blocks that are marked at once.
const LONGEST_RUN: u64 = 1 << 15;

/// Makes fast commits that wait a transaction of the log. Returns how many records there were.
///
/// # Errors
/// [`Error::Unsupported`] for what is not replayed and for more than the log has room for, [`Error::Corrupt`] for changes
/// that cannot be, and those of reading and writing; the fast commits still wait then.
pub(super) fn settle(
    device: &SharedDevice,
    superblock: &Superblock,
    place: &JournalPlace,
    options: &FsOptions,
) -> Result<usize> {
    let block_size = superblock.block_size;
    let Some(sequence) = Store::fast_commits(&**device, block_size, place)? else { return Ok(0) };
    if superblock.has_incompat(incompat::INLINE_DATA) || superblock.cluster_bits > 0 {
        return Err(unsupported("with inline_data or bigalloc"));
    }
    let most = MOST_WRITTEN / block_size as usize;
    let copy = Arc::new(ScratchDevice::new(device.clone(), block_size, most));
    let written: SharedDevice = copy.clone();
    Store::recover_log(&*written, block_size, place)?;
    let superblock = open::reread_superblock(&written)?;
    open::check_writable(&superblock)?;
    let core = open::core(written, superblock, Some(place.clone()), options)?;
    open::find_orphans(&core)?;
    let journal = Journal::open(&core.volume, core.volume.superblock.journal_inode)?;
    let changes = fast_commit::collect(&core.volume, &journal, sequence)?;
    let make = || -> Result<()> {
        Replay { core: &core, changes: &changes }.run()?;
        core.store.close()?;
        let mut blocks = copy.changed()?;
        blocks.retain(|&(block, _)| !place.holds(block));
        Store::append(device, block_size, place, &blocks)
    };
    make().map_err(|error| match error.is_errno(libc::ENOSPC) {
        true => unsupported("that change more than there is room for"),
        false => error,
    })?;
    Ok(changes.tags)
}

fn unsupported(which: &str) -> Error {
    Error::unsupported(format!("replaying fast commits of ext4 {which}; run e2fsck or mount it with Linux once"))
}

/// Runs of blocks: the first block of each, and the one behind its last.
#[derive(Default)]
struct Blocks(Vec<(u64, u64)>);

impl Blocks {
    fn add(&mut self, start: u64, len: u64) {
        self.0.push((start, start + len));
    }

    /// Sorts the runs; returns a block that two of them hold.
    fn sort(&mut self) -> Option<u64> {
        self.0.sort_unstable();
        self.0.windows(2).find(|pair| pair[1].0 < pair[0].1).map(|pair| pair[1].0)
    }

    /// Returns what of these runs no other one holds. Both are sorted.
    fn without(&self, other: &Self) -> Vec<Run> {
        let mut left = Vec::new();
        let mut next = 0;
        for &(mut start, end) in &self.0 {
            while start < end {
                while other.0.get(next).is_some_and(|&(_, other_end)| other_end <= start) {
                    next += 1;
                }
                let (other_start, other_end) = other.0.get(next).copied().unwrap_or((u64::MAX, u64::MAX));
                let len = other_start.min(end).saturating_sub(start).min(LONGEST_RUN);
                if len > 0 {
                    left.push(Run { start, len: len as u32 });
                    start += len;
                } else {
                    start = other_end;
                }
            }
        }
        left
    }
}

/// An inode that fast commits change.
struct Changed<'a> {
    ino: u32,
    state: &'a State,
    /// What they leave it as; none where its last name went.
    inode: Option<Inode>,
}

impl Changed<'_> {
    /// Says whether the stored extents make room for others, or for none.
    fn replaces_extents(&self) -> bool {
        self.state.extents.is_some() || self.inode.as_ref().is_none_or(|inode| !inode.uses_extents())
    }
}

struct Replay<'a> {
    core: &'a Core,
    changes: &'a Changes,
}

impl Replay<'_> {
    fn run(&self) -> Result<()> {
        let decoded = self.changes.inodes.iter().map(|(&ino, state)| {
            let inode = match Inode::decode(&self.core.volume.superblock, ino, &state.raw) {
                Err(error) if error.is_errno(libc::ENOENT) => None,
                inode => Some(inode?),
            };
            Ok(Changed { ino, state, inode })
        });
        let mut changed: Vec<Changed<'_>> = decoded.collect::<Result<_>>()?;
        // In the order of their numbers, so that it comes out the same each time.
        changed.sort_by_key(|changed| changed.ino);
        self.mark(&changed)?;
        for changed in &changed {
            self.put_inode(changed)?;
        }
        let mut dirs: Vec<u32> = self.changes.dirs.keys().copied().collect();
        dirs.sort_unstable();
        for ino in dirs {
            self.put_names(ino)?;
        }
        for changed in changed.iter().filter(|changed| changed.inode.is_none()) {
            self.delete(changed.ino)?;
        }
        Ok(())
    }

    /// Returns an inode as it is stored, where it is in use.
    fn stored(&self, ino: u32) -> Result<Option<Arc<Inode>>> {
        match self.core.volume.stored_inode(ino) {
            Ok(inode) => Ok(Some(inode)),
            Err(error) if error.is_errno(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks blocks and inodes as taken or free on disk, before anything looks for free ones.
    fn mark(&self, changed: &[Changed<'_>]) -> Result<()> {
        let (volume, store) = (&self.core.volume, &self.core.store);
        let (mut old, mut new) = (Blocks::default(), Blocks::default());
        let mut inodes = Vec::new();
        for changed @ Changed { ino, state, inode } in changed {
            let ino = *ino;
            let Some(inode) = inode else { continue };
            let was_dir = self.stored(ino)?.is_some_and(|stored| stored.is_dir());
            inodes.push((ino, was_dir, inode.is_dir()));
            if inode.blocks_are_mapped() {
                return Err(unsupported("to files with block maps"));
            }
            if let Some(stored) = self.stored(ino)?
                && stored.uses_extents()
                && changed.replaces_extents()
            {
                let mut at = 0;
                while at < 1 << 32 {
                    let stretch = volume.stretch(&stored, at)?;
                    if let Place::Block(block) | Place::Unwritten(block) = stretch.place {
                        old.add(block, stretch.end - at);
                    }
                    at = stretch.end;
                }
            }
            if inode.uses_extents() {
                for extent in state.extents.iter().flat_map(|extents| extents.values()) {
                    new.add(extent.physical, u64::from(extent.len));
                }
            }
        }
        if let Some(block) = old.sort().or(new.sort()) {
            return Err(Error::corrupt("fast commit in the journal", format!("block {block} is used twice")));
        }
        // What looks does not see what is marked, so all is looked at before.
        let bitmaps = Allocator::open(&volume.superblock, store, volume.descriptor_base())?;
        let mut taken = Vec::new();
        for run in new.without(&old) {
            taken.append(&mut bitmaps.free_within(run)?);
        }
        let freed = old.without(&new);
        for run in &freed {
            bitmaps.check_taken(*run)?;
        }
        let inodes: Vec<_> =
            inodes.into_iter().map(|(ino, was, is)| (ino, was, is, bitmaps.check_inode_taken(ino).is_ok())).collect();
        let credits = store.max_credits();
        for (runs, is_taken) in [(taken, true), (freed, false)] {
            for run in runs {
                bitmaps.mark(&mut store.begin(credits)?, run, is_taken)?;
            }
        }
        for (ino, was_dir, is_dir, was_taken) in inodes {
            let mut handle = store.begin(credits)?;
            if was_taken && was_dir != is_dir {
                // Its number went to something else, which groups count apart.
                bitmaps.mark_inode(&mut handle, ino, was_dir, false)?;
            }
            if !was_taken || was_dir != is_dir {
                bitmaps.mark_inode(&mut handle, ino, is_dir, true)?;
            }
        }
        Ok(())
    }

    fn op(&self) -> Result<Op<'_>> {
        Op::begin(self.core, self.core.store.max_credits())
    }

    /// Stores an inode with its extents; a folder that was made gets its first block, and one that was there before keeps
    /// its own.
    fn put_inode(&self, changed: &Changed<'_>) -> Result<()> {
        let Changed { ino, state, inode } = changed;
        let (ino, Some(inode)) = (*ino, inode) else { return Ok(()) };
        let superblock = &self.core.volume.superblock;
        let made_in = self.changes.dirs.get(&ino).and_then(|changes| changes.made_in);
        if inode.is_dir() && made_in.is_none() {
            let mut op = self.op()?;
            let (_, mut edit) = self.core.edit(ino)?;
            edit.set_links(le16(&state.raw, field::LINKS));
            op.put(edit);
            return op.finish().map(|_| ());
        }
        let mut op = self.op()?;
        let mut edit = InodeEdit::new(ino, &state.raw);
        edit.is_new = true;
        if let Some(stored) = self.stored(ino)?
            && stored.uses_extents()
            && changed.replaces_extents()
        {
            // The nodes of the old tree go; its blocks were marked before.
            let (_, mut before) = self.core.edit(ino)?;
            let mut from = 0;
            while let Some(next) = extents::remove_some(&mut op, &mut before, from, 1 << 32, usize::MAX, false)? {
                from = next;
            }
        }
        if let Some(extents) = state.extents.as_ref().filter(|_| inode.uses_extents()) {
            edit.init_extents();
            let data: i64 = extents.values().map(|extent| i64::from(extent.len)).sum();
            let attributes = i64::from(edit.xattr_block(superblock) != 0);
            edit.clear_blocks();
            edit.add_blocks(superblock, data + attributes)?;
            for extent in extents.values() {
                extents::insert(&mut op, &mut edit, *extent)?;
            }
        }
        if let Some(parent) = made_in {
            edit.set_size(0);
            edit = Dir::init(&mut op, edit, parent)?.edit;
        }
        op.put(edit);
        op.finish().map(|_| ())
    }

    /// Takes names out of a folder, and puts others in.
    fn put_names(&self, ino: u32) -> Result<()> {
        let changes = &self.changes.dirs[&ino];
        if self.stored(ino)?.is_none() {
            // It was removed again.
            return Ok(());
        }
        let mut dir = Dir::load(self.core, ino)?;
        for name in changes.removed() {
            let mut op = self.op()?;
            match dir.remove(&mut op, name) {
                Ok(_) => {}
                Err(error) if error.is_errno(libc::ENOENT) => continue,
                Err(error) => return Err(error),
            }
            op.put(dir.edit.clone());
            op.finish()?;
        }
        for (_, added) in changes.added(0) {
            let file_type = match self.stored(added.ino)? {
                Some(inode) => inode.file_type(),
                None => FileType::Regular,
            };
            let mut op = self.op()?;
            dir.insert(&mut op, &added.name, added.ino, file_type)?;
            op.put(dir.edit.clone());
            op.finish()?;
        }
        let mut op = self.op()?;
        names::put_dir_times(&mut dir.edit);
        op.put(dir.edit);
        op.finish().map(|_| ())
    }

    /// Has an inode freed whose last name went, when the filesystem is opened next.
    fn delete(&self, ino: u32) -> Result<()> {
        if self.stored(ino)?.is_none() {
            return Ok(());
        }
        let (_, mut edit) = self.core.edit(ino)?;
        let mut op = self.op()?;
        edit.set_links(0);
        op.put(edit);
        op.add_orphan(ino);
        op.finish().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart() {
        let blocks = |runs: &[(u64, u64)]| {
            let mut blocks = Blocks(runs.to_vec());
            assert_eq!(blocks.sort(), None);
            blocks
        };
        let without = |some: &[(u64, u64)], others: &[(u64, u64)]| -> Vec<(u64, u32)> {
            blocks(some).without(&blocks(others)).iter().map(|run| (run.start, run.len)).collect()
        };
        assert_eq!(without(&[(20, 30), (5, 10)], &[]), [(5, 5), (20, 10)]);
        assert_eq!(without(&[(5, 10), (20, 30)], &[(0, 6), (8, 25), (29, 90)]), [(6, 2), (25, 4)]);
        assert_eq!(without(&[(5, 10)], &[(5, 7), (7, 10)]), []);
        assert_eq!(without(&[(0, 40_000)], &[(50_000, 50_001)]), [(0, 32_768), (32_768, 7232)]);
        assert_eq!(Blocks(vec![(4, 6), (0, 5)]).sort(), Some(4));
    }
}
