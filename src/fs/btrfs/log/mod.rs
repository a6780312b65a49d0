//! The log: what was synced since the last commit, replayed into memory.
//!
//! The superblock points to a tree of logs, which holds a log tree for each subvolume with synced files. A log tree holds
//! copies of items: inodes, names, extended attributes, extents, checksums, and ranges of directories about which it tells
//! everything. The replay follows the kernel's, so that what is seen is what a mount would show: first inodes with what
//! was deleted, then the entries of directories, then all else; link counts come last. Nothing is written: each change
//! goes to the subvolume's [`Overlay`]. Checksums stay in the log and are looked up there.
//!
//! Times of directories are those that the log holds; a kernel that replays marks the ones that it unlinks from as changed
//! at that moment.

mod entries;
mod inodes;
mod names;

use super::inode_item::{self, InodeItem};
use super::key::{Key, kinds, objects};
use super::overlay::Overlay;
use super::root_item::RootItem;
use super::store::Store;
use super::subvolumes::Table;
use super::superblock::{Superblock, incompat};
use super::tree::{Root, Tree};
use crate::bytes::{le32, le64, set_le32, set_le64};
use crate::error::{Error, Result};
use std::collections::BTreeSet;

/// How many items a replay may go through on its way to others before it is given up.
const STEPS_MAX: u64 = 200_000_000;

/// Replays the logs of all subvolumes; returns what a person should know.
///
/// A log that is damaged is left out: what was committed before is there without it.
pub fn replay(store: &Store, superblock: &Superblock, table: &mut Table) -> String {
    match replay_all(store, superblock, table) {
        Ok(0) => "the log holds nothing to replay".into(),
        Ok(1) => "the log was replayed in memory".into(),
        Ok(count) => format!("the logs of {count} subvolumes were replayed in memory"),
        Err(error) => {
            format!("the log cannot be replayed, what was synced just before a crash may be missing: {error}")
        }
    }
}

fn replay_all(store: &Store, superblock: &Superblock, table: &mut Table) -> Result<usize> {
    // Logs belong to the transaction that was never committed.
    let transaction = superblock.generation.saturating_add(1);
    let root = Root { address: superblock.log_root, level: superblock.log_root_level, generation: transaction };
    let mut done = 0;
    let mut logs = Tree::new(store, root).items(objects::TREE_LOG, kinds::ROOT_ITEM)?;
    while let Some((key, item)) = logs.next()? {
        let log = RootItem::parse(&item, key.offset)?.root;
        // The subvolume may have been deleted since.
        let Some(entry) = table.find(key.offset).and_then(|at| table.get_mut(at)) else { continue };
        let mut replay = Replay {
            store,
            root: entry.item.root,
            log: Tree::new(store, log),
            overlay: Overlay::default(),
            fix: BTreeSet::new(),
            transaction,
            no_holes: superblock.incompat & incompat::NO_HOLES != 0,
        };
        replay.run()?;
        entry.overlay = Some(replay.overlay);
        entry.log = Some(log);
        done += 1;
    }
    Ok(done)
}

/// In which order the items of a log are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Inodes, and what was deleted of them.
    Inodes,
    /// Entries of directories.
    Entries,
    /// Names, extents and attributes.
    All,
}

/// The replay of one log.
struct Replay<'a> {
    store: &'a Store,
    root: Root,
    log: Tree<'a>,
    overlay: Overlay,
    /// Inodes whose link counts are to be counted again.
    fix: BTreeSet<u64>,
    transaction: u64,
    no_holes: bool,
}

impl Replay<'_> {
    fn run(&mut self) -> Result<()> {
        for stage in [Stage::Inodes, Stage::Entries, Stage::All] {
            let mut ignored = false;
            let mut items = self.log.range(Key::MIN, Key::new(objects::LAST_FREE, u8::MAX, u64::MAX))?;
            while let Some((key, item)) = items.next()? {
                if self.overlay.steps() > STEPS_MAX {
                    return Err(Error::unsupported("a Btrfs log of which a replay has no end"));
                }
                if key.kind == kinds::INODE_ITEM {
                    // A file without a name was synced: it is gone after a crash.
                    ignored = InodeItem::parse(&item, key.object)?.nlink == 0;
                }
                if ignored {
                    continue;
                }
                match (stage, key.kind) {
                    (Stage::Inodes, kinds::INODE_ITEM) => self.replay_inode(key, &item)?,
                    (Stage::Entries, kinds::DIR_INDEX) => self.replay_entry(key, &item)?,
                    (Stage::All, kinds::XATTR_ITEM) => self.overlay.put(key, &item[..])?,
                    (Stage::All, kinds::INODE_REF | kinds::INODE_EXTREF) => self.replay_names(key, &item)?,
                    (Stage::All, kinds::EXTENT_DATA) => self.replay_extent(key, &item)?,
                    _ => {}
                }
            }
        }
        self.fix_link_counts()
    }

    /// The subvolume's tree as the replay has it so far.
    fn tree(&self) -> Tree<'_> {
        Tree { store: self.store, root: self.root, overlay: Some(&self.overlay) }
    }

    /// Returns the bytes of an inode's item, where there is one.
    fn inode(&self, number: u64) -> Result<Option<Vec<u8>>> {
        match self.tree().get(&Key::new(number, kinds::INODE_ITEM, 0))? {
            Some(item) if item.len() >= inode_item::LEN => Ok(Some(item.to_vec())),
            Some(_) => Err(Error::corrupt(format!("Btrfs inode {number}"), "its item is too short")),
            None => Ok(None),
        }
    }

    fn exists(&self, number: u64) -> Result<bool> {
        Ok(self.tree().get(&Key::new(number, kinds::INODE_ITEM, 0))?.is_some())
    }

    /// Changes a field of 8 bytes of an inode's item by what `change` makes of it.
    fn change_inode(&mut self, number: u64, at: usize, change: impl FnOnce(u64) -> u64) -> Result<()> {
        if let Some(mut item) = self.inode(number)? {
            let value = change(le64(&item, at));
            set_le64(&mut item, at, value);
            self.overlay.put(Key::new(number, kinds::INODE_ITEM, 0), item)?;
        }
        Ok(())
    }

    fn fix_link_counts(&mut self) -> Result<()> {
        while let Some(number) = self.fix.pop_last() {
            let Some(mut inode) = self.inode(number)? else { continue };
            let count = self.count_names(number)?;
            if le32(&inode, inode_item::at::NLINK) != count {
                set_le32(&mut inode, inode_item::at::NLINK, count);
                self.overlay.put(Key::new(number, kinds::INODE_ITEM, 0), &inode[..])?;
            }
            if count == 0 && le32(&inode, inode_item::at::MODE) & libc::S_IFMT == libc::S_IFDIR {
                self.delete_entries(number, 0, u64::MAX, false)?;
            }
        }
        Ok(())
    }
}
