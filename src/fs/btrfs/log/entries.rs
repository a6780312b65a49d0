//! The replay of directories' entries, and the linking and unlinking of names.

use super::super::dir_item::{self, Entry};
use super::super::inode_item::at;
use super::super::inode_ref;
use super::super::key::{Key, extref_hash, kinds, name_hash};
use super::super::tree::Item;
use super::Replay;
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};
use crate::fs::FileType;

/// What an entry of a directory names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The key of the inode or subvolume.
    pub key: Key,
    /// Its type.
    pub kind: u8,
}

impl Target {
    fn of(entry: &Entry<'_>) -> Self {
        Self { key: entry.target, kind: entry.kind }
    }
}

/// Returns the bytes of an item without one of its parts.
fn without(item: &[u8], part: &[u8]) -> Vec<u8> {
    let start = part.as_ptr() as usize - item.as_ptr() as usize;
    [&item[..start], &item[start + part.len()..]].concat()
}

fn index_key(dir: u64, index: u64) -> Key {
    Key::new(dir, kinds::DIR_INDEX, index)
}

impl Replay<'_> {
    fn item(&self, key: &Key) -> Result<Option<Item>> {
        self.tree().get(key)
    }

    /// Returns what a name in a directory names, found by its hash.
    pub(super) fn by_name(&self, dir: u64, name: &[u8]) -> Result<Option<Target>> {
        self.in_item(&Key::new(dir, kinds::DIR_ITEM, name_hash(name)), name)
    }

    /// Returns what a name in a directory names, found by its index.
    pub(super) fn by_index(&self, dir: u64, index: u64, name: &[u8]) -> Result<Option<Target>> {
        self.in_item(&index_key(dir, index), name)
    }

    fn in_item(&self, key: &Key, name: &[u8]) -> Result<Option<Target>> {
        let Some(item) = self.item(key)? else { return Ok(None) };
        Ok(dir_item::find(*key, &item, name)?.as_ref().map(Target::of))
    }

    /// Takes away the entries of a directory that the log shows to be deleted.
    pub(super) fn replay_deletions(&mut self, dir: u64) -> Result<()> {
        if !self.exists(dir)? {
            return Ok(());
        }
        let mut ranges = self.log.items(dir, kinds::DIR_LOG_INDEX)?;
        let mut from = 0;
        while let Some((key, item)) = ranges.next()? {
            if item.len() < 8 {
                return Err(Error::corrupt(format!("Btrfs log of directory {dir}"), "a range has no end"));
            }
            let to = le64(&item, 0);
            let start = key.offset.max(from);
            if start > to {
                continue;
            }
            self.delete_entries(dir, start, to, true)?;
            match to.checked_add(1) {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Takes away a directory's entries with indexes from `from` to `to`, but not those that the log holds, where
    /// `but_logged`.
    pub(super) fn delete_entries(&mut self, dir: u64, from: u64, to: u64, but_logged: bool) -> Result<()> {
        let mut gone = Vec::new();
        let mut items = self.tree().range(index_key(dir, from), index_key(dir, to))?;
        while let Some((key, item)) = items.next()? {
            let logged = if but_logged { self.log.get(&key)? } else { None };
            for entry in dir_item::entries(key, &item) {
                let entry = entry?;
                if let Some(logged) = &logged
                    && dir_item::find(key, logged, entry.name)?.is_some()
                {
                    continue;
                }
                gone.push((key.offset, entry.target, entry.name.to_vec()));
            }
        }
        for (index, target, name) in gone {
            self.unlink(dir, target, &name, Some(index))?;
        }
        Ok(())
    }

    /// Takes a name away: the entry under both its keys, and the inode's own note of it.
    pub(super) fn unlink(&mut self, dir: u64, target: Key, name: &[u8], index: Option<u64>) -> Result<()> {
        let key = Key::new(dir, kinds::DIR_ITEM, name_hash(name));
        let mut found = false;
        if let Some(item) = self.item(&key)?
            && let Some(entry) = dir_item::find(key, &item, name)?
            && entry.target == target
        {
            found = true;
            self.put_or_remove(key, without(&item, entry.whole))?;
        }
        let noted = if target.kind == kinds::INODE_ITEM { self.remove_note(target.object, dir, name)? } else { None };
        if let Some(index) = noted.or(index) {
            let key = index_key(dir, index);
            if let Some(item) = self.item(&key)?
                && dir_item::find(key, &item, name)?.is_some()
            {
                self.overlay.remove(key)?;
                found = true;
            }
        }
        if found {
            self.change_inode(dir, at::SIZE, |size| size.saturating_sub(2 * name.len() as u64))?;
        }
        if target.kind == kinds::INODE_ITEM {
            self.fix.insert(target.object);
        }
        Ok(())
    }

    /// Takes away an inode's note of a name; returns the index that it bore.
    fn remove_note(&mut self, number: u64, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        let keys =
            [Key::new(number, kinds::INODE_REF, dir), Key::new(number, kinds::INODE_EXTREF, extref_hash(dir, name))];
        for key in keys {
            let Some(item) = self.item(&key)? else { continue };
            for noted in inode_ref::names(key, &item) {
                let noted = noted?;
                if noted.parent == dir && noted.name == name {
                    let index = noted.index;
                    self.put_or_remove(key, without(&item, noted.whole))?;
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    /// Adds a name to a directory under both its keys, and to the inode's own notes where `note`. A name that is there
    /// stays as it is.
    pub(super) fn link(&mut self, dir: u64, target: Target, name: &[u8], index: u64, note: bool) -> Result<()> {
        if self.by_name(dir, name)?.is_some() || self.item(&index_key(dir, index))?.is_some() {
            return Ok(());
        }
        let number = target.key.object;
        if note {
            let key = Key::new(number, kinds::INODE_REF, dir);
            let mut notes = self.item(&key)?.map(|item| item.to_vec()).unwrap_or_default();
            notes.extend(inode_ref::build(index, name));
            self.overlay.put(key, notes)?;
        }
        let entry = dir_item::build(target.key, self.transaction, target.kind, name);
        let key = Key::new(dir, kinds::DIR_ITEM, name_hash(name));
        let mut entries = self.item(&key)?.map(|item| item.to_vec()).unwrap_or_default();
        entries.extend(&entry);
        self.overlay.put(key, entries)?;
        self.overlay.put(index_key(dir, index), entry)?;
        self.change_inode(dir, at::SIZE, |size| size.saturating_add(2 * name.len() as u64))
    }

    /// Returns how an entry of a directory names an inode that exists.
    pub(super) fn target_of(&self, number: u64) -> Result<Option<Target>> {
        let Some(inode) = self.inode(number)? else { return Ok(None) };
        let file_type = FileType::from_mode(le32(&inode, at::MODE))
            .ok_or_else(|| Error::corrupt(format!("Btrfs inode {number}"), "its mode makes no sense"))?;
        Ok(Some(Target { key: Key::new(number, kinds::INODE_ITEM, 0), kind: dir_item::kind_of(file_type) }))
    }

    /// Takes an entry of a directory over.
    pub(super) fn replay_entry(&mut self, key: Key, item: &[u8]) -> Result<()> {
        for entry in dir_item::entries(key, item) {
            let entry = entry?;
            if dir_item::is_good_name(entry.name) {
                self.replay_one_entry(key, &entry)?;
            }
        }
        Ok(())
    }

    fn replay_one_entry(&mut self, key: Key, entry: &Entry<'_>) -> Result<()> {
        let (dir, name, target) = (key.object, entry.name, Target::of(entry));
        if !self.exists(dir)? {
            return Err(Error::corrupt(format!("Btrfs log of directory {dir}"), "there is no such directory"));
        }
        let is_inode = target.key.kind == kinds::INODE_ITEM;
        let exists = is_inode && self.exists(target.key.object)?;
        let mut matches = true;
        // The entry may conflict with one of its name and with one of its index.
        for by_name in [true, false] {
            let old = if by_name { self.by_name(dir, name)? } else { self.by_index(dir, key.offset, name)? };
            match old {
                Some(old) if old == target => {}
                Some(old) => {
                    matches = false;
                    // Without an inode for the new name the old one stays.
                    if exists {
                        self.unlink(dir, old.key, name, (!by_name).then_some(key.offset))?;
                    }
                }
                None => matches = false,
            }
        }
        if matches || !exists {
            return Ok(());
        }
        // A name that the inode's notes in the log hold comes with these.
        let number = target.key.object;
        if self.is_noted_in_log(Key::new(number, kinds::INODE_REF, dir), dir, name)?
            || self.is_noted_in_log(Key::new(number, kinds::INODE_EXTREF, extref_hash(dir, name)), dir, name)?
        {
            return Ok(());
        }
        self.link(dir, target, name, key.offset, true)?;
        if target.kind != dir_item::TYPE_DIRECTORY {
            self.fix.insert(number);
        }
        Ok(())
    }
}
