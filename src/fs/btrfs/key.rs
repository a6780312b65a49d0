//! Keys: what every item of every tree is found by.
//!
//! A key orders first by object, then by the kind of item, then by an offset whose meaning depends on the kind. Specified
//! in "On-disk Format" of the Btrfs documentation (`btrfs.readthedocs.io`).

use crate::bytes::le64;

/// The length of a key on the disk, in bytes.
pub const KEY_LEN: usize = 17;

/// The kinds of items, by the kernel's names without their prefix.
pub mod kinds {
    /// An inode.
    pub const INODE_ITEM: u8 = 1;
    /// A name of an inode, by its directory.
    pub const INODE_REF: u8 = 12;
    /// A name of an inode that has too many in one directory, by a hash.
    pub const INODE_EXTREF: u8 = 13;
    /// An extended attribute, by the hash of its name.
    pub const XATTR_ITEM: u8 = 24;
    /// A range of a directory's indexes that a log tells everything about.
    pub const DIR_LOG_INDEX: u8 = 72;
    /// A directory's entry, by the hash of its name.
    pub const DIR_ITEM: u8 = 84;
    /// A directory's entry, by its index.
    pub const DIR_INDEX: u8 = 96;
    /// An extent of a file, by its place in the file.
    pub const EXTENT_DATA: u8 = 108;
    /// Checksums of data, by logical address.
    pub const EXTENT_CSUM: u8 = 128;
    /// The root of a tree.
    pub const ROOT_ITEM: u8 = 132;
    /// The parent of a subvolume.
    pub const ROOT_BACKREF: u8 = 144;
    /// A child of a subvolume.
    pub const ROOT_REF: u8 = 156;
    /// A block group and how full it is.
    pub const BLOCK_GROUP_ITEM: u8 = 192;
    /// A device of the filesystem.
    pub const DEV_ITEM: u8 = 216;
    /// A chunk: where a range of logical addresses lies on the devices.
    pub const CHUNK_ITEM: u8 = 228;
}

/// The objects that have fixed numbers.
pub mod objects {
    /// The extent tree.
    pub const EXTENT_TREE: u64 = 2;
    /// The top-level subvolume.
    pub const FS_TREE: u64 = 5;
    /// The directory in the root tree that names the default subvolume.
    pub const ROOT_TREE_DIR: u64 = 6;
    /// The checksum tree.
    pub const CSUM_TREE: u64 = 7;
    /// The free-space tree.
    pub const FREE_SPACE_TREE: u64 = 10;
    /// The block-group tree.
    pub const BLOCK_GROUP_TREE: u64 = 11;
    /// The first number of subvolumes and of inodes; a subvolume's root directory.
    pub const FIRST_FREE: u64 = 256;
    /// The last number of subvolumes and of inodes.
    pub const LAST_FREE: u64 = -256_i64 as u64;
    /// What checksums of data are items of.
    pub const EXTENT_CSUM: u64 = -10_i64 as u64;
    /// The trees of the log.
    pub const TREE_LOG: u64 = -6_i64 as u64;
}

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The object: an inode, a tree, a device.
    pub object: u64,
    /// The kind of item, one of [`kinds`].
    pub kind: u8,
    /// An offset, an index, a hash or an object, as the kind has it.
    pub offset: u64,
}

impl Key {
    /// The key before all others.
    pub const MIN: Self = Self::new(0, 0, 0);
    /// The key after all others.
    pub const MAX: Self = Self::new(u64::MAX, u8::MAX, u64::MAX);

    /// Makes a key.
    pub const fn new(object: u64, kind: u8, offset: u64) -> Self {
        Self { object, kind, offset }
    }

    /// Reads the key at the beginning of `bytes`, which holds at least [`KEY_LEN`].
    pub fn read(bytes: &[u8]) -> Self {
        Self::new(le64(bytes, 0), bytes[8], le64(bytes, 9))
    }

    /// Returns the key as it is stored.
    pub fn to_bytes(self) -> [u8; KEY_LEN] {
        let mut bytes = [0; KEY_LEN];
        bytes[..8].copy_from_slice(&self.object.to_le_bytes());
        bytes[8] = self.kind;
        bytes[9..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Returns the key just before this one, where there is one.
    pub fn before(self) -> Option<Self> {
        if self.offset > 0 {
            Some(Self { offset: self.offset - 1, ..self })
        } else if self.kind > 0 {
            Some(Self::new(self.object, self.kind - 1, u64::MAX))
        } else {
            Some(Self::new(self.object.checked_sub(1)?, u8::MAX, u64::MAX))
        }
    }

    /// Says whether this is a key of the object and kind given.
    pub fn is(self, object: u64, kind: u8) -> bool {
        self.object == object && self.kind == kind
    }
}

/// The kernel's CRC-32C with a seed and without the last inversion: the hash of names.
fn raw_crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Returns the hash by which a directory or an inode finds the name of an entry or an extended attribute.
pub fn name_hash(name: &[u8]) -> u64 {
    u64::from(raw_crc32c(!1, name))
}

/// Returns the hash by which an inode finds a name in a directory among its extended references.
pub fn extref_hash(parent: u64, name: &[u8]) -> u64 {
    u64::from(raw_crc32c(parent as u32, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_by_object_kind_and_offset() {
        let key = Key::new(256, kinds::DIR_INDEX, 0);
        assert_eq!(Key::read(&key.to_bytes()), key);
        assert_eq!(key.before(), Some(Key::new(256, 95, u64::MAX)));
        assert_eq!(Key::new(1, 0, 0).before(), Some(Key::new(0, 255, u64::MAX)));
        assert_eq!(Key::MIN.before(), None);
        assert!(key.before() < Some(key) && Key::new(255, 255, u64::MAX) < key);
    }

    #[test]
    fn names_hash_as_the_kernel_hashes_them() {
        // The key of the item that names the default subvolume: (6 DIR_ITEM 2378154706).
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
