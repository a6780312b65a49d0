//! Directories as a whole: listing their blocks in order, and finding a name by hash tree or from end to end.

use super::casefold::Folded;
use super::crypt_name;
use super::data::inline_dir;
use super::dir::{self, Entry};
use super::dir_hash;
use super::dir_htree::{self, Node};
use super::features::{compat, incompat};
use super::inode::{Inode, flag};
use super::mapping::Place;
use super::meta::MetaBytes;
use super::superblock::FLAG_UNSIGNED_HASH;
use super::volume::Volume;
use crate::bytes::le32;
use crate::error::{Error, Result};
use std::ops::ControlFlow;

/// What a lookup compares names with.
pub(crate) enum Wanted<'a> {
    /// The bytes themselves.
    Bytes(&'a [u8]),
    /// Names in a case-insensitive directory.
    Folded(Folded<'a>),
    /// The encoded form of an encrypted name.
    Encrypted(crypt_name::NoKeyName),
}

impl Wanted<'_> {
    /// Says whether a stored name is the one that is looked for.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => *bytes == name,
            Self::Folded(folded) => folded.matches(name),
            Self::Encrypted(encoded) => encoded.matches(name),
        }
    }
}

impl Volume {
    /// Says whether a directory has a hash tree.
    pub(crate) fn is_indexed(&self, dir: &Inode) -> bool {
        dir.has_flag(flag::INDEX) && self.superblock.has_compat(compat::DIR_INDEX) && !dir.is_inline()
    }

    /// Says whether a directory ignores case.
    pub(crate) fn is_casefolded(&self, dir: &Inode) -> bool {
        dir.has_flag(flag::CASEFOLD) && self.superblock.has_incompat(incompat::CASEFOLD)
    }

    /// Returns how many blocks a directory has.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for more than the filesystem has.
    pub(crate) fn dir_blocks(&self, dir: &Inode) -> Result<u64> {
        let blocks = dir.size.div_ceil(u64::from(self.superblock.block_size));
        if blocks > self.superblock.blocks_count {
            let detail = format!("a directory of {} bytes is larger than the filesystem", dir.size);
            return Err(Error::corrupt(format!("inode {}", dir.ino), detail));
        }
        Ok(blocks)
    }

    /// Returns a block of a directory whose checksum is right; for a hole, where it ends.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged one, and those of reading.
    pub(crate) fn dir_block(&self, dir: &Inode, number: u64) -> Result<Result<MetaBytes, u64>> {
        let stretch = self.stretch(dir, number)?;
        let Place::Block(block) = stretch.place else { return Ok(Err(stretch.end)) };
        let bytes = self.meta.block(block)?;
        if self.superblock.has_metadata_csum() {
            if self.is_indexed(dir) && dir_htree::is_node(number, &bytes) {
                dir_htree::verify(dir.seed, dir.ino, number, &bytes)?;
            } else {
                dir::verify(dir.seed, dir.ino, number, &bytes)?;
            }
        }
        Ok(Ok(bytes))
    }

    /// Shows the entries that a directory's blocks hold from byte `from` of it on, in their order, with the byte at which
    /// the next one begins. `.` and `..` and unused entries are not among them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged block, and those of reading.
    pub(crate) fn list_stored(
        &self,
        dir: &Inode,
        from: u64,
        visit: &mut dyn FnMut(Entry<'_>, u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        if dir.is_inline() {
            let mut start = 0;
            for part in inline_dir(dir)? {
                if self.list_part(dir, &part, start, from, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                start += part.len() as u64;
            }
            return Ok(ControlFlow::Continue(()));
        }
        let bits = self.superblock.block_bits();
        let blocks = self.dir_blocks(dir)?;
        let mut number = from >> bits;
        while number < blocks {
            match self.dir_block(dir, number)? {
                Err(end) => number = end,
                Ok(block) => {
                    if self.list_part(dir, &block, number << bits, from, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    number += 1;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn list_part(
        &self,
        dir: &Inode,
        part: &[u8],
        start: u64,
        from: u64,
        visit: &mut dyn FnMut(Entry<'_>, u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let layout = self.layout();
        let mut offset = 0;
        while offset < part.len() {
            let entry = dir::entry_at(&layout, dir.ino, part, offset)?;
            offset += entry.len;
            if entry.ino == 0 || start + (entry.offset as u64) < from || dir::is_dot(entry.name) {
                continue;
            }
            if !dir.has_flag(flag::ENCRYPT) && !dir::is_name(entry.name) {
                let detail = format!("the entry at byte {} has an impossible name", entry.offset);
                return Err(Error::corrupt(format!("directory block of inode {}", dir.ino), detail));
            }
            if visit(entry, start + offset as u64).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Finds a name in what a directory's blocks hold; returns the inode and the type byte of its entry.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub(crate) fn find_stored(&self, dir: &Inode, wanted: &Wanted<'_>) -> Result<Option<(u32, u8)>> {
        if self.is_indexed(dir) {
            let hashed = match wanted {
                Wanted::Bytes(name) => Some(*name),
                Wanted::Folded(folded) => Some(folded.hashed()),
                Wanted::Encrypted(_) => None,
            };
            if let Some(hashed) = hashed {
                match self.find_by_hash(dir, hashed, wanted) {
                    // Folding may differ from the kernel's for new characters, which only their hash would show.
                    Ok(None) if matches!(wanted, Wanted::Folded(_)) && !hashed.is_ascii() => {}
                    Ok(found) => return Ok(found),
                    // A tree that is damaged leaves the blocks readable, as they are for the kernel.
                    Err(error) if matches!(error.root(), Error::Corrupt { .. } | Error::Unsupported(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(found) = self.find_remembered(dir, wanted)? {
            return Ok(found);
        }
        let mut found = None;
        let _ = self.list_stored(dir, 0, &mut |entry, _| {
            if wanted.matches(entry.name) {
                found = Some((entry.ino, entry.file_type));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Returns the hash of a name in a directory whose tree has a hash version.
    pub(crate) fn name_hash(&self, version: u8, name: &[u8]) -> Option<dir_hash::NameHash> {
        let is_unsigned = self.superblock.flags & FLAG_UNSIGNED_HASH != 0 && version <= dir_hash::TEA;
        let version = if is_unsigned { version + dir_hash::UNSIGNED } else { version };
        dir_hash::hash(version, &self.superblock.hash_seed, name)
    }

    fn find_by_hash(&self, dir: &Inode, hashed: &[u8], wanted: &Wanted<'_>) -> Result<Option<(u32, u8)>> {
        let damaged = |detail: &'static str| Error::corrupt(format!("hash tree of directory {}", dir.ino), detail);
        let tree_block = |number: u64| self.dir_block(dir, number)?.map_err(|_| damaged("it leads to a hole"));
        let root = tree_block(0)?;
        let info = dir_htree::parse_root(dir.ino, &root, self.superblock.has_incompat(incompat::LARGE_DIR))?;
        let hash = self
            .name_hash(info.hash_version, hashed)
            .ok_or_else(|| Error::unsupported(format!("directory hash version {}", info.hash_version)))?
            .major;
        let has_checksum = self.superblock.has_metadata_csum();
        let mut path = vec![(0_u64, root, 0_usize)];
        // A sound tree leads to each leaf once; a damaged one must not be walked for ever.
        for _ in 0..self.dir_blocks(dir)? {
            // Down to the leaf from the lowest node of the path.
            while path.len() <= info.levels + 1 {
                let (number, block, at) = path.last_mut().expect("the path begins with the root");
                let node = Node::parse(dir.ino, *number, block, has_checksum)?;
                if *at == 0 {
                    *at = node.find(hash);
                }
                let child = node.child(*at);
                if path.len() == info.levels + 1 {
                    let leaf = tree_block(child)?;
                    if let Some(found) = self.find_in_leaf(dir, &leaf, wanted)? {
                        return Ok(Some(found));
                    }
                    break;
                }
                let block = tree_block(child)?;
                path.push((child, block, 0));
            }
            // A hash that several names share may go on in the next leaf, which the entry's lowest bit tells.
            loop {
                let Some((number, block, at)) = path.last_mut() else { return Ok(None) };
                let node = Node::parse(dir.ino, *number, block, has_checksum)?;
                if *at + 1 < node.count() {
                    *at += 1;
                    if node.hash(*at) & !1 != hash {
                        return Ok(None);
                    }
                    break;
                }
                path.pop();
            }
        }
        Err(damaged("it leads to more leaves than the directory has"))
    }

    fn find_in_leaf(&self, dir: &Inode, block: &[u8], wanted: &Wanted<'_>) -> Result<Option<(u32, u8)>> {
        let layout = self.layout();
        let mut offset = 0;
        while offset < block.len() {
            let entry = dir::entry_at(&layout, dir.ino, block, offset)?;
            offset += entry.len;
            if entry.ino != 0 && wanted.matches(entry.name) {
                return Ok(Some((entry.ino, entry.file_type)));
            }
        }
        Ok(None)
    }

    /// Returns the inode number of a directory's parent, from its `..`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a directory without one, and those of reading.
    pub(crate) fn stored_parent(&self, dir: &Inode) -> Result<u32> {
        let parent = if dir.is_inline() {
            le32(&dir.block, 0)
        } else {
            let block = self.dir_block(dir, 0)?.ok();
            let block =
                block.ok_or_else(|| Error::corrupt(format!("inode {}", dir.ino), "its first block is a hole"))?;
            let layout = self.layout();
            let dot = dir::entry_at(&layout, dir.ino, &block, 0)?;
            let up = dir::entry_at(&layout, dir.ino, &block, dot.len.min(block.len() - dir::HEADER))?;
            if up.name == b".." { up.ino } else { 0 }
        };
        if parent == 0 || parent > self.superblock.inodes_count {
            return Err(Error::corrupt(format!("inode {}", dir.ino), "the directory does not name its parent"));
        }
        Ok(parent)
    }
}
