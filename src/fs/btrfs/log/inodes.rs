//! The replay of inodes, extended attributes and extents.

use super::super::dir_item;
use super::super::file_extent::{self, Content, FileExtent};
use super::super::inode_item::{LEN, at};
use super::super::key::{Key, kinds};
use super::Replay;
use crate::bytes::{le32, le64, set_le64};
use crate::error::Result;

fn type_of(inode: &[u8]) -> u32 {
    le32(inode, at::MODE) & libc::S_IFMT
}

impl Replay<'_> {
    /// Takes an inode over, and takes away what the log shows to be deleted.
    pub(super) fn replay_inode(&mut self, key: Key, logged: &[u8]) -> Result<()> {
        let number = key.object;
        self.delete_xattrs(number)?;
        let kind = type_of(logged);
        if kind == libc::S_IFDIR {
            self.replay_deletions(number)?;
        }
        let mut new = logged[..LEN].to_vec();
        let size = le64(&new, at::SIZE);
        match self.inode(number)? {
            Some(mut old) if le64(&new, at::GENERATION) == 0 => {
                // Only that it exists was logged; a size that is not 0 counts.
                if kind == libc::S_IFREG && type_of(&old) == libc::S_IFREG && size != 0 {
                    set_le64(&mut old, at::SIZE, size);
                }
                new = old;
            }
            Some(old) => {
                // Space, and a directory's size, follow from what is replayed besides.
                set_le64(&mut new, at::NBYTES, le64(&old, at::NBYTES));
                if kind == libc::S_IFDIR {
                    let kept = if type_of(&old) == libc::S_IFDIR { le64(&old, at::SIZE) } else { 0 };
                    set_le64(&mut new, at::SIZE, kept);
                }
            }
            None => {
                set_le64(&mut new, at::NBYTES, 0);
                if kind == libc::S_IFDIR {
                    set_le64(&mut new, at::SIZE, 0);
                }
                if le64(&new, at::GENERATION) == 0 {
                    set_le64(&mut new, at::GENERATION, self.transaction);
                }
            }
        }
        let size = le64(&new, at::SIZE);
        self.overlay.put(key, new)?;
        if kind == libc::S_IFREG {
            // Before extents are replayed: those past the size that the log holds are meant to stay.
            let end = size.checked_next_multiple_of(u64::from(self.store.sector_size)).unwrap_or(u64::MAX);
            self.drop_extents(number, end, u64::MAX)?;
        }
        self.fix.insert(number);
        Ok(())
    }

    /// Takes away the extended attributes that the log does not hold: it holds all that there were.
    fn delete_xattrs(&mut self, number: u64) -> Result<()> {
        let mut changes = Vec::new();
        let mut items = self.tree().items(number, kinds::XATTR_ITEM)?;
        while let Some((key, item)) = items.next()? {
            let logged = self.log.get(&key)?;
            let mut kept = Vec::new();
            for entry in dir_item::entries(key, &item) {
                let entry = entry?;
                if let Some(logged) = &logged
                    && dir_item::find(key, logged, entry.name)?.is_some()
                {
                    kept.extend_from_slice(entry.whole);
                }
            }
            if kept.len() != item.len() {
                changes.push((key, kept));
            }
        }
        for (key, kept) in changes {
            self.put_or_remove(key, kept)?;
        }
        Ok(())
    }

    /// Lays an item over the tree, or takes it away where nothing is left of it.
    pub(super) fn put_or_remove(&mut self, key: Key, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() { self.overlay.remove(key) } else { self.overlay.put(key, bytes) }
    }

    /// Takes an extent over in the place of what was there.
    pub(super) fn replay_extent(&mut self, key: Key, item: &[u8]) -> Result<()> {
        let extent = FileExtent::parse(key, item, self.store.sector_size)?;
        if !self.exists(key.object)? {
            return Ok(());
        }
        let is_inline = matches!(extent.content, Content::Inline { .. });
        if !is_inline && self.tree().get(&key)?.is_some_and(|old| old[..] == *item) {
            return Ok(());
        }
        self.drop_extents(key.object, extent.start, extent.end)?;
        if !(self.no_holes && matches!(extent.content, Content::Hole)) {
            self.overlay.put(key, item)?;
        }
        self.change_inode(key.object, at::NBYTES, |bytes| bytes.saturating_add(extent.space))
    }

    /// Takes away what a file holds from `start` to `end`; extents that reach beyond are cut.
    fn drop_extents(&mut self, number: u64, start: u64, end: u64) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        let sector_size = self.store.sector_size;
        let mut from = Key::new(number, kinds::EXTENT_DATA, start);
        let last = Key { offset: end - 1, ..from };
        if let Some((key, _)) = self.tree().last_not_after(&from)?
            && key.is(number, kinds::EXTENT_DATA)
        {
            from = key;
        }
        let mut space = 0_u64;
        let mut changes: Vec<(Key, Option<Vec<u8>>)> = Vec::new();
        let mut items = self.tree().range(from, last)?;
        while let Some((key, item)) = items.next()? {
            let extent = FileExtent::parse(key, &item, sector_size)?;
            if extent.end <= start || extent.start >= end {
                continue;
            }
            if matches!(extent.content, Content::Inline { .. }) {
                if start <= extent.start {
                    changes.push((key, None));
                    space = space.saturating_add(extent.space);
                }
                continue;
            }
            let cut = |from: u64, to: u64| {
                let mut item = item.to_vec();
                if !matches!(extent.content, Content::Hole) {
                    let offset = le64(&item, file_extent::at::OFFSET);
                    set_le64(&mut item, file_extent::at::OFFSET, offset + (from - extent.start));
                }
                set_le64(&mut item, file_extent::at::NUM_BYTES, to - from);
                Some(item)
            };
            changes.push((key, (extent.start < start).then(|| cut(extent.start, start)).flatten()));
            if extent.end > end {
                changes.push((Key { offset: end, ..key }, cut(end, extent.end)));
            }
            if extent.space > 0 {
                space = space.saturating_add(extent.end.min(end) - extent.start.max(start));
            }
        }
        for (key, item) in changes {
            match item {
                Some(item) => self.overlay.put(key, item)?,
                None => self.overlay.remove(key)?,
            }
        }
        if space > 0 {
            self.change_inode(number, at::NBYTES, |bytes| bytes.saturating_sub(space))?;
        }
        Ok(())
    }
}
