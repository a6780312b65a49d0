//! Changes of an inode's extended attributes, as new contents of the areas that hold them.
//!
//! An attribute goes into the inode where it fits, and into the block otherwise; it is never in both. Whoever calls writes
//! what [`apply`] returns: a block that other inodes share ([`refcount`]) stays as it is for them, and a new one is
//! written. A value lies in an inode of its own where the caller made one ([`Held`]); where such a value goes,
//! [`Edited`] names its inode.

pub(crate) mod acl;
mod area;
#[cfg(test)]
mod tests;

use crate::bytes::{le32, set_le32};
use crate::error::{Error, Result};

use crate::fs::ext4::xattr::{
    BLOCK_CHECKSUM, BLOCK_REFCOUNT, Entries, INLINE_DATA, VALUE_MAX, Value, block_checksum, entry_hash, index,
};
use crate::fs::write::XattrMode;
use area::{Attribute, Stored};

/// The longest name without its prefix, in bytes.
const NAME_MAX: usize = 255;

/// What holds an inode's attributes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct XattrAreas<'a> {
    /// The inode, for what errors say.
    pub(crate) ino: u32,
    /// The space after the inode's fields, all of it; empty for an inode without.
    pub(crate) in_inode: &'a [u8],
    /// The block of attributes, its number and its contents, whose checksum was verified.
    pub(crate) block: Option<(u64, &'a [u8])>,
    /// The block size, in bytes.
    pub(crate) block_size: usize,
}

/// A change of one attribute, named by its index and the rest of its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Edit<'a> {
    /// Sets it.
    Set {
        /// What stands for the prefix of the name.
        index: u8,
        /// The name without the prefix.
        name: &'a [u8],
        /// The value, as it is on disk.
        value: &'a [u8],
        /// What it does where there is one, or none.
        mode: XattrMode,
    },
    /// Removes it.
    Remove {
        /// What stands for the prefix of the name.
        index: u8,
        /// The name without the prefix.
        name: &'a [u8],
    },
}

/// An inode that holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Its number.
    pub(crate) ino: u32,
    /// The hash of the value.
    pub(crate) hash: u32,
}

/// What becomes of the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BlockEdit {
    /// It stays, or there is still none.
    Keep,
    /// These are its contents, used once; [`seal_block`] sets the checksum.
    Write(Vec<u8>),
    /// The inode needs it no more.
    Drop,
}

/// What a change makes of the areas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edited {
    /// The new space after the inode's fields, as long as the old; `None` where it stays.
    pub(crate) in_inode: Option<Vec<u8>>,
    /// What becomes of the block.
    pub(crate) block: BlockEdit,
    /// The inode that held the value that is gone from the space after the fields.
    pub(crate) gone_from_inode: Option<Gone>,
    /// The inode that held the value that is gone from the block.
    pub(crate) gone_from_block: Option<Gone>,
    /// The inodes that hold values which the block had and still has.
    pub(crate) kept_in_block: Vec<u32>,
}

impl Edited {
    /// Says whether nothing changes.
    pub(crate) fn is_nothing(&self) -> bool {
        self.in_inode.is_none() && self.block == BlockEdit::Keep
    }
}

/// An inode that held a value which is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    /// Its number.
    pub(crate) ino: u32,
    /// The size of the value, in bytes.
    pub(crate) size: u32,
}

/// The attributes of both areas.
struct Lists {
    in_inode: Vec<Attribute>,
    in_block: Vec<Attribute>,
}

impl XattrAreas<'_> {
    fn lists(&self) -> Result<Lists> {
        let room = area::inode_room(self.in_inode.len());
        let in_inode = area::attributes(self.ino, Entries::in_inode(self.ino, self.in_inode), room)?;
        let mut in_block = Vec::new();
        if let Some((number, block)) = self.block {
            if block.len() != self.block_size {
                let detail = format!("it has {} bytes", block.len());
                return Err(Error::corrupt(format!("block {number} of extended attributes"), detail));
            }
            let entries = Entries::in_block(self.ino, number, block, None)?;
            in_block = area::attributes(self.ino, entries, area::block_room(self.block_size))?;
        }
        Ok(Lists { in_inode, in_block })
    }
}

/// Works a change out. A value that is set lies in the inode that `held` names, or else beside its entry.
///
/// # Errors
/// `EEXIST` and `ENODATA` as the mode asks, `ERANGE` for a name that is too long, `E2BIG` for a value that is, `ENOSPC`
/// where it fits neither area, and [`Error::Corrupt`] for damaged attributes.
pub(crate) fn apply(areas: &XattrAreas<'_>, edit: &Edit<'_>, held: Option<Held>) -> Result<Edited> {
    let (index, name) = match *edit {
        Edit::Set { index, name, .. } | Edit::Remove { index, name } => (index, name),
    };
    if name.len() > NAME_MAX {
        return Err(Error::Errno(libc::ERANGE));
    }
    let Lists { mut in_inode, mut in_block } = areas.lists()?;
    let at_inode = in_inode.iter().position(|attribute| attribute.is(index, name));
    let at_block = in_block.iter().position(|attribute| attribute.is(index, name));
    let old = at_inode.map(|at| &in_inode[at]).or(at_block.map(|at| &in_block[at]));
    let gone = (at_inode.and_then(|at| in_inode[at].apart()), at_block.and_then(|at| in_block[at].apart()));
    let Edit::Set { value, mode, .. } = *edit else {
        old.ok_or(Error::Errno(libc::ENODATA))?;
        if let Some(at) = at_inode {
            in_inode.remove(at);
        }
        if let Some(at) = at_block {
            in_block.remove(at);
        }
        return Ok(finish(areas, at_inode.map(|_| in_inode), at_block.map(|_| in_block), gone, None));
    };
    match (mode, old) {
        (XattrMode::Create, Some(_)) => return Err(Error::Errno(libc::EEXIST)),
        (XattrMode::Replace, None) => return Err(Error::Errno(libc::ENODATA)),
        _ => {}
    }
    if value.len() > VALUE_MAX {
        return Err(Error::Errno(libc::E2BIG));
    }
    if old.is_some_and(|old| matches!(&old.value, Stored::Here(bytes) if bytes == value)) {
        return Ok(finish(areas, None, None, (None, None), None));
    }
    let (stored, hash) = match held {
        Some(Held { ino, hash }) => {
            (Stored::Inode { ino, size: value.len() as u32 }, entry_hash(name, &hash.to_le_bytes()))
        }
        None => (Stored::Here(value.to_vec()), 0),
    };
    let new = Attribute { index, name: name.to_vec(), value: stored, hash };
    let mut with_new = in_inode.clone();
    put(&mut with_new, at_inode, new.clone());
    if area::fits(&with_new, area::inode_room(areas.in_inode.len())) {
        if let Some(at) = at_block {
            in_block.remove(at);
        }
        return Ok(finish(areas, Some(with_new), at_block.map(|_| in_block), gone, None));
    }
    put(&mut in_block, at_block, new);
    let is_inline_data = index == index::SYSTEM && name == INLINE_DATA;
    if is_inline_data || !area::fits(&in_block, area::block_room(areas.block_size)) {
        return Err(Error::Errno(libc::ENOSPC));
    }
    if let Some(at) = at_inode {
        in_inode.remove(at);
    }
    Ok(finish(areas, at_inode.map(|_| in_inode), Some(in_block), gone, held.map(|held| held.ino)))
}

fn put(attributes: &mut Vec<Attribute>, at: Option<usize>, new: Attribute) {
    match at {
        Some(at) => attributes[at] = new,
        None => attributes.push(new),
    }
}

fn finish(
    areas: &XattrAreas<'_>,
    in_inode: Option<Vec<Attribute>>,
    in_block: Option<Vec<Attribute>>,
    (gone_from_inode, gone_from_block): (Option<Gone>, Option<Gone>),
    new: Option<u32>,
) -> Edited {
    let mut kept: Vec<u32> = in_block.iter().flatten().filter_map(Attribute::apart).map(|held| held.ino).collect();
    if let Some(at) = new.and_then(|new| kept.iter().position(|&ino| ino == new)) {
        kept.swap_remove(at);
    }
    let block = match in_block {
        None => BlockEdit::Keep,
        Some(list) if list.is_empty() => BlockEdit::Drop,
        Some(mut list) => BlockEdit::Write(area::build_block(&mut list, areas.block_size)),
    };
    let in_inode = in_inode.map(|list| area::build_in_inode(&list, areas.in_inode.len()));
    Edited { in_inode, block, gone_from_inode, gone_from_block, kept_in_block: kept }
}

/// Returns how long the value of `system.data` can be in an inode whose space after the fields is `tail`, in bytes; `None`
/// where the attribute does not fit at all. An empty `name` and value of it count as there already.
///
/// # Errors
/// [`Error::Corrupt`] for damaged attributes.
pub(crate) fn inline_room(ino: u32, tail: &[u8]) -> Result<Option<usize>> {
    let room = area::inode_room(tail.len());
    let mut others = area::attributes(ino, Entries::in_inode(ino, tail), room)?;
    others.retain(|attribute| !attribute.is(index::SYSTEM, INLINE_DATA));
    Ok(area::longest_value(&others, INLINE_DATA.len(), room))
}

/// Returns the inodes that hold values of a block of attributes.
///
/// # Errors
/// [`Error::Corrupt`] for damaged attributes.
pub(crate) fn values_of_block(number: u64, block: &[u8]) -> Result<Vec<u32>> {
    holders(Entries::in_block(0, number, block, None)?)
}

/// Returns the inodes that hold values of the space after an inode's fields.
///
/// # Errors
/// [`Error::Corrupt`] for damaged attributes.
pub(crate) fn values_of_inode(ino: u32, tail: &[u8]) -> Result<Vec<u32>> {
    holders(Entries::in_inode(ino, tail))
}

fn holders(entries: Entries<'_>) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in entries {
        if let Value::Inode { ino, .. } = entry?.value {
            found.push(ino);
        }
    }
    Ok(found)
}

/// Returns how many inodes share a block of attributes.
pub(crate) fn refcount(block: &[u8]) -> u32 {
    le32(block, BLOCK_REFCOUNT)
}

/// Sets how many inodes share a block of attributes; its checksum is to be set after this.
pub(crate) fn set_refcount(block: &mut [u8], count: u32) {
    set_le32(block, BLOCK_REFCOUNT, count);
}

/// Sets the checksum of a block of attributes, where the filesystem has checksums: `seed` is the filesystem's.
pub(crate) fn seal_block(seed: Option<u32>, number: u64, block: &mut [u8]) {
    if let Some(seed) = seed {
        let crc = block_checksum(seed, number, block);
        set_le32(block, BLOCK_CHECKSUM, crc);
    }
}
