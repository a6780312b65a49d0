//! Hash trees: the index of a large directory, which leads from the hash of a name to the block that may hold it.
//!
//! The root is the directory's first block, after `.` and `..`; inner nodes are blocks of their own; leaves are ordinary
//! directory blocks. Little-endian. Specified in the kernel's `Documentation/filesystems/ext4/directory.rst`.

use super::checksum::crc32c;
use super::dir::decode_len;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// Where the entries of the root begin, in bytes.
pub(crate) const ROOT_ENTRIES: usize = 32;
/// Where the entries of another node begin, in bytes.
pub(crate) const NODE_ENTRIES: usize = 8;
/// The size of an entry, in bytes: a hash and a block. The first one's hash is the limit and the count.
pub(crate) const ENTRY_SIZE: usize = 8;
/// The size of the checksum at the end of a node, in bytes.
pub(crate) const TAIL: usize = 8;
/// Where the hash version lies in the root, in bytes.
pub(crate) const HASH_VERSION: usize = 28;
/// Where the number of levels below the root lies in the root, in bytes.
pub(crate) const LEVELS: usize = 30;

/// Says whether a block of an indexed directory is the root or an inner node.
pub(crate) fn is_node(number: u64, block: &[u8]) -> bool {
    number == 0 || le32(block, 0) == 0 && decode_len(le16(block, 4), block.len()) == block.len()
}

/// Returns where the entries of a node begin, in bytes.
pub(crate) fn entries_offset(number: u64) -> usize {
    if number == 0 { ROOT_ENTRIES } else { NODE_ENTRIES }
}

/// A node's index: pairs of a hash and a block of the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    entries: &'a [u8],
}

impl<'a> Node<'a> {
    /// Checks the index of a node, the block `number` of directory `dir`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a limit or count that cannot be.
    pub(crate) fn parse(dir: u32, number: u64, block: &'a [u8], has_checksum: bool) -> Result<Self> {
        let offset = entries_offset(number);
        let room = block.len() - offset - if has_checksum { TAIL } else { 0 };
        let (limit, count) = (usize::from(le16(block, offset)), usize::from(le16(block, offset + 2)));
        if limit != room / ENTRY_SIZE || count == 0 || count > limit {
            let detail = format!("the node in block {number} has {count} of {limit} entries");
            return Err(Error::corrupt(format!("hash tree of directory {dir}"), detail));
        }
        Ok(Self { entries: &block[offset..offset + count * ENTRY_SIZE] })
    }

    /// Returns how many entries it has, at least 1.
    pub(crate) fn count(&self) -> usize {
        self.entries.len() / ENTRY_SIZE
    }

    /// Returns the least hash below an entry; its lowest bit says that the entry before ends with the same hash.
    pub(crate) fn hash(&self, at: usize) -> u32 {
        if at == 0 { 0 } else { le32(self.entries, at * ENTRY_SIZE) }
    }

    /// Returns the block of the directory that an entry leads to.
    pub(crate) fn child(&self, at: usize) -> u64 {
        u64::from(le32(self.entries, at * ENTRY_SIZE + 4) & 0x0fff_ffff)
    }

    /// Returns the entry below which a hash belongs.
    pub(crate) fn find(&self, hash: u32) -> usize {
        let (mut low, mut high) = (1, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.hash(middle) > hash {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low - 1
    }
}

/// What the root says of the whole tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RootInfo {
    /// The hash, without whether bytes are unsigned.
    pub(crate) hash_version: u8,
    /// How many levels of nodes lie between the root and the leaves.
    pub(crate) levels: usize,
}

/// Checks what the root, a directory's first block, says of the tree.
///
/// # Errors
/// [`Error::Corrupt`] for a tree that cannot be.
pub(crate) fn parse_root(dir: u32, block: &[u8], large_dir: bool) -> Result<RootInfo> {
    let info = RootInfo { hash_version: block[HASH_VERSION], levels: usize::from(block[LEVELS]) };
    let is_sound = le32(block, 24) == 0 && block[29] == 8 && block[31] & 1 == 0;
    if !is_sound || info.levels >= if large_dir { 3 } else { 2 } {
        return Err(Error::corrupt(format!("hash tree of directory {dir}"), "its root is wrong"));
    }
    Ok(info)
}

/// Returns the checksum of a node and where it lies, in bytes; `None` when the node leaves no room for it.
pub(crate) fn checksum(inode_seed: u32, number: u64, block: &[u8]) -> Option<(u32, usize)> {
    let offset = entries_offset(number);
    let (limit, count) = (usize::from(le16(block, offset)), usize::from(le16(block, offset + 2)));
    let tail = offset + limit * ENTRY_SIZE;
    if count > limit || tail + TAIL > block.len() {
        return None;
    }
    let crc = crc32c(inode_seed, &block[..offset + count * ENTRY_SIZE]);
    let crc = crc32c(crc, &block[tail..tail + 4]);
    Some((crc32c(crc, &[0; 4]), tail + 4))
}

/// Checks the checksum of a node.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` and the block.
pub(crate) fn verify(inode_seed: u32, dir: u32, number: u64, block: &[u8]) -> Result<()> {
    match checksum(inode_seed, number, block) {
        Some((crc, at)) if crc == le32(block, at) => Ok(()),
        _ => Err(Error::corrupt(
            format!("hash tree of directory {dir}"),
            format!("the checksum of the node in block {number} is wrong"),
        )),
    }
}
