//! Changes of directories: names are put in, taken away and led elsewhere, in blocks that [`DirBlocks`] gives.
//!
//! A directory begins as one block of entries. When that is full and the filesystem has `dir_index`, it becomes a hash
//! tree; without, blocks are added at its end. The algorithms give the layouts that Linux gives, but for one thing: a full
//! leaf whose entries only lie apart is packed, not split.
//!
//! Nothing is changed before all that the change needs has been read and checked. Where blocks run out in the middle of an
//! insertion the directory is sound, and may have grown or become a hash tree; [`DirFormat::indexed`] says so.
//!
//! Checksums are set here; [`DirBlocks::read`] gives blocks whose checksums were verified. Names are compared as bytes, or
//! without regard to case where the directory says so; encrypted directories are refused by [`DirFormat::new`].

pub(crate) mod entries;
mod index;
pub(crate) mod inline;
#[cfg(test)]
pub(crate) mod tests;

use crate::bytes::set_le32;
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::ext4::casefold::Folded;
use crate::fs::ext4::dir::{self, HEADER, Layout, NAME_MAX, TAIL, TAIL_TYPE};
use crate::fs::ext4::dir_hash;
use crate::fs::ext4::dir_htree;
use crate::fs::ext4::features::{compat, incompat};
use crate::fs::ext4::inode::{Inode, flag};
use crate::fs::ext4::meta::MetaBytes;
use crate::fs::ext4::superblock::FLAG_UNSIGNED_HASH;
use crate::fs::ext4::volume::Volume;
use entries::{NewEntry, Spot};

/// The most blocks that one insertion appends.
pub(crate) const MOST_APPENDED: u32 = 4;
/// The most blocks of a directory that one insertion changes, those that it appends among them.
pub(crate) const MOST_CHANGED: u32 = 9;

/// The most blocks a directory may have: what an index can name.
const MOST_BLOCKS: u32 = 0x0fff_ffff;
/// The largest directory without `large_dir`, in bytes.
const LARGEST_SMALL: u64 = 1 << 31;

/// The blocks of one directory, by their number in it.
pub(crate) trait DirBlocks {
    /// Returns how many blocks the directory has.
    fn count(&self) -> u32;

    /// Returns a block whose checksum, where the filesystem has them, was verified; always its newest version.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a hole or a damaged block, and those of reading.
    fn read(&self, number: u32) -> Result<MetaBytes>;

    /// Changes a whole block.
    ///
    /// # Errors
    /// Those of writing.
    fn modify(&mut self, number: u32, change: &mut dyn FnMut(&mut [u8])) -> Result<()>;

    /// Adds a block of zeroes at the end and returns its number; the directory's size grows by it.
    ///
    /// # Errors
    /// `ENOSPC`, and those of writing.
    fn append(&mut self) -> Result<u32>;
}

/// How a directory is stored, as far as its blocks depend on it.
#[derive(Clone, Debug)]
pub(crate) struct DirFormat {
    /// The directory's inode, for what errors say.
    pub(crate) ino: u32,
    /// How entries are laid out.
    pub(crate) layout: Layout,
    /// What the checksums of the blocks begin with, where they have checksums.
    pub(crate) inode_seed: Option<u32>,
    /// The hash version of a new tree, without whether bytes are unsigned.
    pub(crate) default_hash: u8,
    /// The superblock's hash seed.
    pub(crate) hash_seed: [u32; 4],
    /// Whether hashes take bytes as unsigned.
    pub(crate) is_hash_unsigned: bool,
    /// Whether the filesystem has hash trees (`dir_index`).
    pub(crate) has_index: bool,
    /// Whether this directory has one: its flag `INDEX`. Whoever calls stores the flag when this has changed, after a
    /// failure too.
    pub(crate) indexed: bool,
    /// Whether a tree may have a third level and a directory 2 GiB and more (`large_dir`).
    pub(crate) large_dir: bool,
    /// Whether names that differ only in case are the same, and hashed as such.
    pub(crate) folds_case: bool,
}

/// A name that is looked for.
pub(crate) enum Sought<'a> {
    /// The bytes themselves.
    Bytes(&'a [u8]),
    /// A name in a case-insensitive directory.
    Folded(Folded<'a>),
}

impl Sought<'_> {
    /// Says whether a stored name is the one that is looked for.
    fn matches(&self, name: &[u8]) -> bool {
        match self {
            Self::Bytes(bytes) => *bytes == name,
            Self::Folded(folded) => folded.matches(name),
        }
    }
}

impl DirFormat {
    /// Returns the format of a directory.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a directory that is encrypted.
    pub(crate) fn new(volume: &Volume, inode: &Inode) -> Result<Self> {
        if inode.has_flag(flag::ENCRYPT) {
            return Err(Error::unsupported("changing an encrypted directory without its key"));
        }
        let superblock = &volume.superblock;
        Ok(Self {
            ino: inode.ino,
            layout: volume.layout(),
            inode_seed: superblock.has_metadata_csum().then_some(inode.seed),
            default_hash: superblock.default_hash,
            hash_seed: superblock.hash_seed,
            is_hash_unsigned: superblock.flags & FLAG_UNSIGNED_HASH != 0,
            has_index: superblock.has_compat(compat::DIR_INDEX),
            indexed: inode.has_flag(flag::INDEX),
            large_dir: superblock.has_incompat(incompat::LARGE_DIR),
            folds_case: volume.is_casefolded(inode),
        })
    }

    /// Returns a name as it is looked for here.
    fn sought<'a>(&self, name: &'a [u8]) -> Sought<'a> {
        if self.folds_case { Sought::Folded(Folded::new(name)) } else { Sought::Bytes(name) }
    }

    /// Returns how many bytes of a block entries have.
    fn room(&self) -> usize {
        self.layout.block_size - if self.inode_seed.is_some() { TAIL } else { 0 }
    }

    /// Returns the entries of a block.
    fn run<'a>(&self, block: &'a [u8]) -> &'a [u8] {
        &block[..self.room()]
    }

    /// Says whether the directory is used by its hash tree.
    fn is_indexed(&self) -> bool {
        self.indexed && self.has_index
    }

    /// Returns the hash by which a tree of `version` sorts a name.
    fn hash(&self, version: u8, name: &[u8]) -> Result<u32> {
        let unknown = || Error::unsupported(format!("directory hash version {version}"));
        if version > dir_hash::TEA {
            return Err(unknown());
        }
        let version = if self.is_hash_unsigned { version + dir_hash::UNSIGNED } else { version };
        let hash = match self.sought(name) {
            Sought::Bytes(name) => dir_hash::hash(version, &self.hash_seed, name),
            Sought::Folded(folded) => dir_hash::hash(version, &self.hash_seed, folded.hashed()),
        };
        hash.map(|hash| hash.major).ok_or_else(unknown)
    }

    fn damaged(&self, detail: impl Into<std::borrow::Cow<'static, str>>) -> Error {
        Error::corrupt(format!("directory {}", self.ino), detail)
    }

    /// Sets the checksum of a block of entries, where there are checksums.
    fn seal(&self, block: &mut [u8]) {
        if let Some(seed) = self.inode_seed {
            let tail = block.len() - TAIL;
            block[tail..].fill(0);
            block[tail + 4] = TAIL as u8;
            block[tail + 7] = TAIL_TYPE;
            let crc = dir::checksum(seed, block);
            set_le32(block, tail + 8, crc);
        }
    }

    /// Sets the checksum of a node of the tree, where there are checksums.
    fn seal_node(&self, number: u32, block: &mut [u8]) {
        if let Some(seed) = self.inode_seed
            && let Some((crc, at)) = dir_htree::checksum(seed, u64::from(number), block)
        {
            set_le32(block, at, crc);
        }
    }

    /// Checks a block's length, which all else relies on.
    fn check<'a>(&self, number: u32, block: &'a [u8]) -> Result<&'a [u8]> {
        if block.len() != self.layout.block_size {
            return Err(self.damaged(format!("block {number} has {} bytes", block.len())));
        }
        Ok(block)
    }
}

/// Fills the first block of a new directory: `.`, `..` and the checksum. Any tree the directory had is gone.
pub(crate) fn init(format: &mut DirFormat, block: &mut [u8], parent: u32) {
    let (ino, file_type) = (format.ino, FileType::Directory);
    let room = format.room();
    block.fill(0);
    entries::store(&format.layout, block, 0, entries::needed(1), &NewEntry { name: b".", ino, file_type });
    let at = entries::needed(1);
    entries::store(&format.layout, block, at, room - at, &NewEntry { name: b"..", ino: parent, file_type });
    format.seal(block);
    format.indexed = false;
}

/// Puts a name in, which the directory does not have yet.
///
/// # Errors
/// `EINVAL` for an impossible name, `ENAMETOOLONG`, `ENOSPC` where the directory cannot grow, [`Error::Corrupt`] for a
/// damaged directory, and those of reading and writing.
pub(crate) fn insert(
    blocks: &mut dyn DirBlocks,
    format: &mut DirFormat,
    name: &[u8],
    ino: u32,
    file_type: FileType,
) -> Result<()> {
    let new = new_entry(name, ino, file_type)?;
    if format.is_indexed() {
        return index::insert(blocks, format, &new);
    }
    // The entries take the place of an index that the filesystem does not know.
    format.indexed = false;
    let size = entries::needed(name.len());
    for number in 0..blocks.count() {
        let block = blocks.read(number)?;
        let run = format.run(format.check(number, &block)?);
        if let Some(offset) = entries::room_for(&format.layout, format.ino, run, size)? {
            return insert_at(blocks, format, number, offset, &new);
        }
    }
    if format.has_index && blocks.count() == 1 {
        index::make(blocks, format)?;
        return index::insert(blocks, format, &new);
    }
    let number = append(blocks, format)?;
    insert_at(blocks, format, number, 0, &new)
}

/// Takes a name away; returns the inode it led to.
///
/// # Errors
/// `ENOENT`, [`Error::Corrupt`] for a damaged directory, and those of reading and writing.
pub(crate) fn remove(blocks: &mut dyn DirBlocks, format: &DirFormat, name: &[u8]) -> Result<u32> {
    if dir::is_dot(name) {
        return Err(Error::Errno(libc::EINVAL));
    }
    let (number, spot) = find(blocks, format, name)?.ok_or(Error::Errno(libc::ENOENT))?;
    if number == 0 && format.is_indexed() {
        return Err(format.damaged("a name lies in the root of its hash tree"));
    }
    change(blocks, format, number, |run| entries::remove(&format.layout, format.ino, run, &spot))?;
    Ok(spot.ino)
}

/// Makes a name, which may be `..`, lead to another inode; returns the one before.
///
/// # Errors
/// `ENOENT`, [`Error::Corrupt`] for a damaged directory, and those of reading and writing.
pub(crate) fn replace(
    blocks: &mut dyn DirBlocks,
    format: &DirFormat,
    name: &[u8],
    ino: u32,
    file_type: FileType,
) -> Result<u32> {
    let (number, spot) = find(blocks, format, name)?.ok_or(Error::Errno(libc::ENOENT))?;
    if number == 0 && format.is_indexed() {
        blocks.modify(0, &mut |block| {
            entries::replace(&format.layout, block, spot.offset, ino, file_type);
            format.seal_node(0, block);
        })?;
    } else {
        change(blocks, format, number, |run| {
            entries::replace(&format.layout, run, spot.offset, ino, file_type);
            Ok(())
        })?;
    }
    Ok(spot.ino)
}

/// Says whether a directory holds no names but `.` and `..`.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged directory, and those of reading.
pub(crate) fn is_empty(blocks: &dyn DirBlocks, format: &DirFormat) -> Result<bool> {
    for number in 0..blocks.count() {
        let block = blocks.read(number)?;
        // A block of the index looks like one without names, up to its end, which the first one's `..` reaches too.
        if !entries::is_empty(&format.layout, format.ino, format.check(number, &block)?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Finds a name; returns the block and where in it.
fn find(blocks: &dyn DirBlocks, format: &DirFormat, name: &[u8]) -> Result<Option<(u32, Spot)>> {
    if format.is_indexed() && !dir::is_dot(name) {
        match index::find(blocks, format, name) {
            // The leaves of a damaged tree are blocks like any other.
            Err(error) if matches!(error.root(), Error::Corrupt { .. } | Error::Unsupported(_)) => {}
            // Folding may differ from the kernel's for new characters, which only their hash would show.
            Ok(None) if format.folds_case && !name.is_ascii() => {}
            found => return found,
        }
    }
    let sought = format.sought(name);
    let count = if dir::is_dot(name) { blocks.count().min(1) } else { blocks.count() };
    for number in 0..count {
        let block = blocks.read(number)?;
        if let Some(spot) = entries::find(&format.layout, format.ino, format.check(number, &block)?, &sought)? {
            return Ok(Some((number, spot)));
        }
    }
    Ok(None)
}

fn new_entry(name: &[u8], ino: u32, file_type: FileType) -> Result<NewEntry<'_>> {
    if name.len() > NAME_MAX {
        return Err(Error::Errno(libc::ENAMETOOLONG));
    }
    if !dir::is_name(name) || dir::is_dot(name) {
        return Err(Error::Errno(libc::EINVAL));
    }
    Ok(NewEntry { name, ino, file_type })
}

/// Adds a block that holds one unused entry.
fn append(blocks: &mut dyn DirBlocks, format: &DirFormat) -> Result<u32> {
    let count = blocks.count();
    let grown = (u64::from(count) + 1) * format.layout.block_size as u64;
    if count >= MOST_BLOCKS || !format.large_dir && grown > LARGEST_SMALL {
        return Err(Error::Errno(libc::ENOSPC));
    }
    let number = blocks.append()?;
    blocks.modify(number, &mut |block| {
        block.fill(0);
        entries::store_unused(&format.layout, block, 0, format.room());
        format.seal(block);
    })?;
    Ok(number)
}

/// Puts an entry into the room found at `offset` of a block of entries.
fn insert_at(
    blocks: &mut dyn DirBlocks,
    format: &DirFormat,
    number: u32,
    offset: usize,
    new: &NewEntry<'_>,
) -> Result<()> {
    change(blocks, format, number, |run| entries::insert(&format.layout, format.ino, run, offset, new))
}

/// Changes the entries of a block of entries and sets its checksum. An edit that fails has changed nothing.
fn change(
    blocks: &mut dyn DirBlocks,
    format: &DirFormat,
    number: u32,
    mut edit: impl FnMut(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let mut done = Ok(());
    blocks.modify(number, &mut |block| {
        let room = format.room();
        done = edit(&mut block[..room]);
        if done.is_ok() {
            format.seal(block);
        }
    })?;
    done
}

/// The size of `.` and of `..` in a first block, in bytes.
const DOT_SIZE: usize = HEADER + 4;
