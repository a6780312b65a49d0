//! Names and what they lead to, as users see them: stored entries, with encryption and fast commits on top.

use super::casefold::{self, Folded};
use super::crypt_name::{self, NoKeyName};
use super::dir::{NAME_MAX, decode_type};
use super::dir_hash::SIPHASH;
use super::dir_htree;
use super::directory::Wanted;
use super::inode::{Inode, flag};
use super::journal::fast_commit::DirChanges;
use super::volume::Volume;
use crate::bytes::le16;
use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, FileType};
use std::ops::ControlFlow;

/// Where a listing goes on to names that fast commits added: the cookie of the first.
const ADDED: u64 = 1 << 62;

/// The longest text of a symbolic link, in bytes.
const LINK_MAX: usize = 65536;

impl Volume {
    /// Returns what `stat` shows of an inode.
    ///
    /// # Errors
    /// Those of reading an encrypted link, whose size is that of the text shown.
    pub(crate) fn attr(&self, inode: &Inode) -> Result<Attr> {
        let mut attr = inode.attr();
        if inode.has_flag(flag::ENCRYPT) && attr.file_type == FileType::Symlink {
            attr.size = self.link_text(inode)?.len() as u64;
        }
        Ok(attr)
    }

    /// Returns the text of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged one, and those of reading.
    pub(crate) fn link_text(&self, inode: &Inode) -> Result<Vec<u8>> {
        let damaged = |detail| Error::corrupt(format!("symbolic link in inode {}", inode.ino), detail);
        let text = self.read_whole(inode, LINK_MAX)?;
        if !inode.has_flag(flag::ENCRYPT) {
            let text = crate::bytes::until_nul(&text);
            return if text.is_empty() { Err(damaged("its text is empty")) } else { Ok(text.to_vec()) };
        }
        if text.len() < 2 || usize::from(le16(&text, 0)) > text.len() - 2 {
            return Err(damaged("its encrypted text does not fit"));
        }
        Ok(crypt_name::show([0, 0], &text[2..2 + usize::from(le16(&text, 0))]))
    }

    /// Returns the hash version by which an encrypted directory's names are shown; `None` where they show no hash.
    fn shown_hash_version(&self, dir: &Inode) -> Option<u8> {
        if self.is_casefolded(dir) {
            return Some(SIPHASH);
        }
        if !self.superblock.has_compat(super::features::compat::DIR_INDEX) {
            return None;
        }
        if self.is_indexed(dir) {
            let root = self.dir_block(dir, 0).ok()?.ok()?;
            return Some(root[dir_htree::HASH_VERSION]);
        }
        let is_small = dir.size <= u64::from(self.superblock.block_size) || dir.is_inline();
        is_small.then_some(self.superblock.default_hash)
    }

    /// Finds the inode that a name leads to.
    ///
    /// # Errors
    /// `ENAMETOOLONG`, [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub(crate) fn find(&self, dir: &Inode, name: &[u8]) -> Result<Option<u32>> {
        if name.len() > NAME_MAX {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        let wanted = if dir.has_flag(flag::ENCRYPT) {
            match NoKeyName::parse(name) {
                Some(encoded) => Wanted::Encrypted(encoded),
                None => return Ok(None),
            }
        } else if self.is_casefolded(dir) {
            let folded = Folded::new(name);
            if folded.is_invalid() && casefold::is_strict(&self.superblock) {
                return Err(Error::Errno(libc::EINVAL));
            }
            Wanted::Folded(folded)
        } else {
            Wanted::Bytes(name)
        };
        if let Some(changes) = self.fast_commits.dir(dir.ino) {
            return self.find_changed(dir, changes, &wanted);
        }
        Ok(self.find_stored(dir, &wanted)?.map(|(ino, _)| ino))
    }

    fn find_changed(&self, dir: &Inode, changes: &DirChanges, wanted: &Wanted<'_>) -> Result<Option<u32>> {
        let added = match wanted {
            Wanted::Bytes(name) => changes.find(name),
            _ => changes.added(0).find(|(_, added)| wanted.matches(&added.name)).map(|(_, added)| added.ino),
        };
        if added.is_some() || changes.made_in.is_some() {
            return Ok(added);
        }
        if let Wanted::Bytes(name) = wanted {
            if changes.hides(name) {
                return Ok(None);
            }
            return Ok(self.find_stored(dir, wanted)?.map(|(ino, _)| ino));
        }
        let mut found = None;
        let _ = self.list_stored(dir, 0, &mut |entry, _| {
            if wanted.matches(entry.name) && !changes.hides(entry.name) {
                found = Some(entry.ino);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Shows the entries of a directory from `cookie` on.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory, and those of reading.
    pub(crate) fn list(
        &self,
        dir: &Inode,
        cookie: u64,
        visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let is_encrypted = dir.has_flag(flag::ENCRYPT);
        let version = if is_encrypted { self.shown_hash_version(dir) } else { None };
        let changes = self.fast_commits.dir(dir.ino);
        if cookie < ADDED && changes.is_none_or(|changes| changes.made_in.is_none()) {
            let flow = self.list_stored(dir, cookie, &mut |entry, next| {
                if changes.is_some_and(|changes| changes.hides(entry.name)) {
                    return ControlFlow::Continue(());
                }
                let shown;
                let mut name = entry.name;
                if is_encrypted {
                    let hash = version.and_then(|version| self.name_hash(version, name));
                    shown = crypt_name::show(hash.map_or([0, 0], |hash| [hash.major, hash.minor]), name);
                    name = &shown;
                }
                visit(DirEntry {
                    name,
                    ino: u64::from(entry.ino),
                    file_type: decode_type(entry.file_type),
                    next_cookie: next,
                })
            })?;
            if flow.is_break() {
                return Ok(());
            }
        }
        let Some(changes) = changes else { return Ok(()) };
        for (at, added) in changes.added(cookie.saturating_sub(ADDED) as usize) {
            let entry = DirEntry {
                name: &added.name,
                ino: u64::from(added.ino),
                file_type: self.inode(added.ino).ok().map(|inode| inode.file_type()),
                next_cookie: ADDED + at as u64 + 1,
            };
            if visit(entry).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the inode number of a directory's parent.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a directory without one, and those of reading.
    pub(crate) fn parent(&self, dir: &Inode) -> Result<u32> {
        match self.fast_commits.dir(dir.ino).and_then(|changes| changes.made_in) {
            Some(parent) => Ok(parent),
            None => self.stored_parent(dir),
        }
    }
}
