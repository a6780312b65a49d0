//! The replay of an inode's own notes of its names.

use super::super::inode_ref;
use super::super::key::{Key, extref_hash, kinds};
use super::Replay;
use crate::error::{Error, Result};

impl Replay<'_> {
    /// Says whether an item of the log notes a name.
    pub(super) fn is_noted_in_log(&self, key: Key, dir: u64, name: &[u8]) -> Result<bool> {
        let Some(item) = self.log.get(&key)? else { return Ok(false) };
        is_noted(key, &item, dir, name)
    }

    /// Counts the names that an inode notes.
    pub(super) fn count_names(&self, number: u64) -> Result<u32> {
        let last = Key::new(number, kinds::INODE_EXTREF, u64::MAX);
        let mut items = self.tree().range(Key::new(number, kinds::INODE_REF, 0), last)?;
        let mut count = 0_u32;
        while let Some((key, item)) = items.next()? {
            for name in inode_ref::names(key, &item) {
                name?;
                count = count.saturating_add(1);
            }
        }
        Ok(count)
    }

    /// Takes an item of names over: links those that are new, unlinks those that are no more.
    pub(super) fn replay_names(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let number = key.object;
        if key.is(key.offset, kinds::INODE_REF) {
            // The root directory's note of itself stands in no directory.
            return self.overlay.put(key, item);
        }
        let Some(target) = self.target_of(number)? else {
            return Err(Error::corrupt(format!("Btrfs log of inode {number}"), "there is no such inode"));
        };
        let mut is_complete = true;
        for noted in inode_ref::names(key, item) {
            let noted = noted?;
            // Not every directory above is logged. Names in those that are not there are left out.
            if !self.exists(noted.parent)? {
                is_complete = false;
                continue;
            }
            let by_index = self.by_index(noted.parent, noted.index, noted.name)?;
            let by_name = self.by_name(noted.parent, noted.name)?;
            let is_there = |found: Option<super::entries::Target>| found.is_some_and(|found| found.key == target.key);
            if is_there(by_index) && is_there(by_name) {
                continue;
            }
            self.clear_way(number, &noted)?;
            self.link(noted.parent, target, noted.name, noted.index, false)?;
        }
        if key.kind == kinds::INODE_REF && !is_complete {
            return Ok(());
        }
        self.unlink_old_names(key, item)?;
        self.overlay.put(key, item)
    }

    /// Takes away whatever stands where a name is to stand: names of the inode in that directory that the log does not
    /// hold, an entry with its index, an entry with its name.
    fn clear_way(&mut self, number: u64, noted: &inode_ref::NameRef<'_>) -> Result<()> {
        let (dir, target) = (noted.parent, Key::new(number, kinds::INODE_ITEM, 0));
        for key in [
            Key::new(number, kinds::INODE_REF, dir),
            Key::new(number, kinds::INODE_EXTREF, extref_hash(dir, noted.name)),
        ] {
            let mut victims = Vec::new();
            if let Some(item) = self.tree().get(&key)? {
                for old in inode_ref::names(key, &item) {
                    let old = old?;
                    if old.parent == dir && !self.is_noted_in_log(key, dir, old.name)? {
                        victims.push((old.index, old.name.to_vec()));
                    }
                }
            }
            for (index, name) in victims {
                self.unlink(dir, target, &name, Some(index))?;
            }
        }
        if let Some(old) = self.by_index(dir, noted.index, noted.name)? {
            self.unlink(dir, old.key, noted.name, Some(noted.index))?;
        }
        if let Some(old) = self.by_name(dir, noted.name)? {
            self.unlink(dir, old.key, noted.name, None)?;
        }
        Ok(())
    }

    /// Takes away the names that the item to be replaced holds and the new one does not.
    fn unlink_old_names(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let mut victims = Vec::new();
        if let Some(old_item) = self.tree().get(&key)? {
            for old in inode_ref::names(key, &old_item) {
                let old = old?;
                if !is_noted(key, item, old.parent, old.name)? {
                    victims.push((old.parent, old.index, old.name.to_vec()));
                }
            }
        }
        for (dir, index, name) in victims {
            self.unlink(dir, Key::new(key.object, kinds::INODE_ITEM, 0), &name, Some(index))?;
        }
        Ok(())
    }
}

fn is_noted(key: Key, item: &[u8], dir: u64, name: &[u8]) -> Result<bool> {
    for noted in inode_ref::names(key, item) {
        let noted = noted?;
        if noted.parent == dir && noted.name == name {
            return Ok(true);
        }
    }
    Ok(false)
}
