//! Extended attributes, in each of their forms.
//!
//! Few and short ones lie in the inode ([`short`]), others in leaves of a hash index in the attribute fork ([`leaf`]), and
//! values that do not fit in a leaf in blocks of their own ([`remote`]). An attribute is in one of three name spaces;
//! parent pointers are attributes too and are hidden, and so are those that a crash left incomplete. ACLs are kept in the
//! root name space in a form of their own and shown as Linux shows them ([`acl`]).
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Extended Attributes".

mod acl;
mod leaf;
mod remote;
mod short;

use super::da::{Block, Index, Role};
use super::disk::{Disk, ForkOf};
use super::hash::name_hash;
use super::inode::{Fork, Inode};
use super::store::Kind;
use crate::error::{Error, Result};

/// The longest value, in bytes.
const MAX_VALUE: u32 = 65536;

/// Bits of an attribute's flags.
mod flags {
    pub const LOCAL: u8 = 0x01;
    pub const ROOT: u8 = 0x02;
    pub const SECURE: u8 = 0x04;
    pub const PARENT: u8 = 0x08;
    pub const INCOMPLETE: u8 = 0x80;
    pub const SPACE: u8 = ROOT | SECURE | PARENT | INCOMPLETE;
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The bytes themselves.
    Local(&'a [u8]),
    /// Blocks of the attribute fork from `block` on hold `len` bytes.
    Remote {
        /// The first block in the fork.
        block: u32,
        /// The length, in bytes.
        len: u32,
    },
}

/// An attribute as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// The name without its name space.
    pub name: &'a [u8],
    /// The flags, of which some name the space.
    pub flags: u8,
    /// Where the value is.
    pub value: Value<'a>,
}

/// The names under which ACLs are stored in the root name space, and those that Linux shows them by.
const ACLS: [(&[u8], &[u8]); 2] =
    [(b"SGI_ACL_FILE", b"system.posix_acl_access"), (b"SGI_ACL_DEFAULT", b"system.posix_acl_default")];

/// Name spaces by the flags that stand for them.
const SPACES: [(u8, &[u8]); 3] = [(0, b"user."), (flags::ROOT, b"trusted."), (flags::SECURE, b"security.")];

/// Returns the full name of an attribute; `None` for one that is hidden.
fn shown_name(stored: &Stored<'_>) -> Option<Vec<u8>> {
    let space = stored.flags & flags::SPACE;
    if space == flags::ROOT
        && let Some((_, shown)) = ACLS.iter().find(|(name, _)| *name == stored.name)
    {
        return Some(shown.to_vec());
    }
    let (_, prefix) = SPACES.iter().find(|(flags, _)| *flags == space)?;
    Some([prefix, stored.name].concat())
}

/// Splits a full name into the flags of its space and the name in it; says whether it is an ACL. `None` when no attribute
/// can have that name.
fn stored_name(full: &[u8]) -> Option<(u8, &[u8], bool)> {
    if let Some((name, _)) = ACLS.iter().find(|(_, shown)| *shown == full) {
        return Some((flags::ROOT, name, true));
    }
    let (space, name) = SPACES.iter().find_map(|(flags, prefix)| Some((*flags, full.strip_prefix(*prefix)?)))?;
    let hidden = space == flags::ROOT && ACLS.iter().any(|(acl, _)| *acl == name);
    (!name.is_empty() && !hidden).then_some((space, name, false))
}

/// The attributes of an inode.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    disk: &'a Disk,
    of: ForkOf<'a>,
}

impl<'a> Attributes<'a> {
    /// Returns the attributes of an inode; `None` when it has no room for any.
    pub fn new(disk: &'a Disk, inode: &'a Inode) -> Option<Self> {
        let fork = inode.attributes.as_ref()?;
        Some(Self { disk, of: ForkOf { ino: inode.attr.ino, fork, real_time: false } })
    }

    fn corrupt(&self, detail: &'static str) -> Error {
        Error::corrupt(format!("extended attributes of inode {}", self.of.ino), detail)
    }

    /// Returns the index, unless there are no attributes.
    fn index(&self) -> Result<Option<Index<'a>>> {
        if self.disk.map(self.of, 0)?.extent.is_none() {
            return Ok(None);
        }
        Ok(Some(Index { disk: self.disk, of: self.of, block_size: self.disk.superblock.block_size, root: 0 }))
    }

    fn stored<'b>(&self, leaf: &'b Block, index: usize) -> Result<Stored<'b>> {
        if leaf.role != Role::AttrLeaf {
            return Err(self.corrupt("their index has leaves of another kind"));
        }
        leaf::entry(&leaf.bytes, leaf.entries + index * 8).ok_or_else(|| self.corrupt("an entry is damaged"))
    }

    /// Returns the full names.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn names(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        if let Fork::Local(bytes) = self.of.fork {
            for stored in short::entries(bytes) {
                names.extend(shown_name(&stored.ok_or_else(|| self.corrupt("an entry is damaged"))?));
            }
            return Ok(names);
        }
        if let Some(index) = self.index()? {
            index.leaves(|leaf| {
                for at in 0..leaf.count {
                    names.extend(shown_name(&self.stored(leaf, at)?));
                }
                Ok(())
            })?;
        }
        Ok(names)
    }

    /// Returns the value of an attribute by its full name; `None` when there is none.
    ///
    /// # Errors
    /// [`Error::Corrupt`], and those of reading.
    pub fn value(&self, full: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some((space, name, is_acl)) = stored_name(full) else { return Ok(None) };
        let fits = |stored: &Stored<'_>| stored.flags & flags::SPACE == space && stored.name == name;
        let found = if let Fork::Local(bytes) = self.of.fork {
            let mut found = None;
            for stored in short::entries(bytes) {
                let stored = stored.ok_or_else(|| self.corrupt("an entry is damaged"))?;
                if fits(&stored) {
                    found = Some(self.load(stored.value)?);
                    break;
                }
            }
            found
        } else {
            let Some(index) = self.index()? else { return Ok(None) };
            index.find(name_hash(name), |leaf, at| {
                let stored = self.stored(leaf, at)?;
                fits(&stored).then(|| self.load(stored.value)).transpose()
            })?
        };
        match found {
            Some(value) if is_acl => acl::to_linux(&value).ok_or_else(|| self.corrupt("an ACL is damaged")).map(Some),
            found => Ok(found),
        }
    }

    fn load(&self, value: Value<'_>) -> Result<Vec<u8>> {
        match value {
            Value::Local(bytes) => Ok(bytes.to_vec()),
            Value::Remote { len, .. } if len > MAX_VALUE => Err(self.corrupt("a value is too long")),
            Value::Remote { block, len } => {
                let v5 = self.disk.superblock.v5;
                let size = self.disk.superblock.block_size;
                let mut bytes = Vec::with_capacity(len as usize);
                let mut at = u64::from(block);
                while bytes.len() < len as usize {
                    let block = self
                        .disk
                        .fork_block(self.of, Kind::AttrValue, at, size)?
                        .ok_or_else(|| self.corrupt("a value lies in a hole"))?;
                    let part = if v5 {
                        remote::payload(&block, self.of.ino, bytes.len())
                            .ok_or_else(|| self.corrupt("a block of a value is damaged"))?
                    } else {
                        &block[..]
                    };
                    bytes.extend_from_slice(&part[..part.len().min(len as usize - bytes.len())]);
                    at += 1;
                }
                Ok(bytes)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acls_are_shown_as_linux_names_them_and_not_twice() {
        assert_eq!(stored_name(b"system.posix_acl_access"), Some((flags::ROOT, &b"SGI_ACL_FILE"[..], true)));
        assert_eq!(stored_name(b"trusted.SGI_ACL_FILE"), None);
        assert_eq!(stored_name(b"trusted.x"), Some((flags::ROOT, &b"x"[..], false)));
        assert_eq!(stored_name(b"user."), None);
        assert_eq!(stored_name(b"system.other"), None);
        let parent = Stored { name: b"a", flags: flags::PARENT | flags::LOCAL, value: Value::Local(b"") };
        assert_eq!(shown_name(&parent), None);
    }
}
