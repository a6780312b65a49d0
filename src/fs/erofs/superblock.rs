//! The superblock: 128 bytes at byte 1024.

use crate::bytes::{le16, le32, le64, until_nul};
use crate::error::{Error, Result};
use crate::fs::Timestamp;

/// Where it lies on the device, in bytes.
pub const OFFSET: u64 = 1024;

/// Its size, in bytes.
pub const SIZE: usize = 128;

const MAGIC: u32 = 0xe0f5_e1e2;

/// The compatible feature that says that there is a checksum.
const CHECKSUM: u32 = 0x1;

/// The compatible feature that says that long prefixes of attributes lie among the metadata, wherever else there could be.
const PLAIN_PREFIXES: u32 = 0x10;

/// The incompatible features that are known: those of compression among them, whose files are told of and not read.
const KNOWN: u32 = 0x7f;

const NAMES: [(u32, &str); 2] = [(0x80, "block addresses of 48 bits"), (0x100, "a metadata box")];

/// Fields of the superblock.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// The block size, as a power of two.
    pub block_log: u32,
    /// The size of a directory's block, as a power of two.
    pub dir_log: u32,
    /// The number of the root's inode.
    pub root: u64,
    /// How many inodes there are.
    pub inodes: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// The time of inodes that have none of their own.
    pub time: Timestamp,
    /// Where inode 0 would lie, in bytes.
    pub meta_start: u64,
    /// Where the shared attributes begin, in bytes.
    pub xattr_start: u64,
    /// The UUID.
    pub uuid: [u8; 16],
    /// The label; empty where there is none.
    pub label: Vec<u8>,
    /// How many further devices hold data of files.
    pub extra_devices: u16,
    /// How many long prefixes of attributes there are.
    pub prefixes: u8,
    /// Where those lie, in bytes.
    pub prefixes_start: u64,
    /// The inode that holds those, where that is not 0.
    pub prefixes_inode: u64,
    features: u32,
    has_checksum: bool,
    checksum: u32,
}

impl Superblock {
    /// Reads the fields.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] where there is no superblock, [`Error::Corrupt`] and [`Error::Unsupported`].
    pub fn parse(bytes: &[u8; SIZE]) -> Result<Self> {
        if le32(bytes, 0) != MAGIC {
            return Err(Error::NotAnImage("this is no EROFS filesystem".into()));
        }
        let block_log = u32::from(bytes[12]);
        if !(9..=16).contains(&block_log) {
            return Err(Error::corrupt("superblock", format!("blocks of 2^{block_log} bytes")));
        }
        let features = le32(bytes, 80);
        if features & !KNOWN != 0 {
            let name = NAMES.iter().find(|(bit, _)| features & bit != 0);
            let name = name.map_or_else(|| format!("feature {:#x}", features & !KNOWN), |(_, name)| (*name).to_owned());
            return Err(Error::unsupported(format!("EROFS with {name}")));
        }
        let dir_log = block_log + u32::from(bytes[90]);
        if dir_log > 16 {
            return Err(Error::corrupt("superblock", format!("directory blocks of 2^{dir_log} bytes")));
        }
        let compatible = le32(bytes, 8);
        let nanoseconds = le32(bytes, 32);
        if nanoseconds >= 1_000_000_000 {
            return Err(Error::corrupt("superblock", "its time has too many nanoseconds"));
        }
        let seconds = le64(bytes, 24).cast_signed();
        Ok(Self {
            block_log,
            dir_log,
            root: u64::from(le16(bytes, 14)),
            inodes: le64(bytes, 16),
            blocks: u64::from(le32(bytes, 36)),
            time: Timestamp { seconds, nanoseconds },
            meta_start: u64::from(le32(bytes, 40)) << block_log,
            xattr_start: u64::from(le32(bytes, 44)) << block_log,
            uuid: bytes[48..64].try_into().expect("16 bytes"),
            label: until_nul(&bytes[64..80]).to_vec(),
            // The feature's bit is shared with one of compression, which leaves the field zero.
            extra_devices: le16(bytes, 86),
            prefixes: bytes[91],
            prefixes_start: u64::from(le32(bytes, 92)) << 2,
            prefixes_inode: if compatible & PLAIN_PREFIXES == 0 { le64(bytes, 96) } else { 0 },
            features,
            has_checksum: compatible & CHECKSUM != 0,
            checksum: le32(bytes, 4),
        })
    }

    /// Says whether compressed extents have zeroes in front, and end with their last block.
    pub fn pads_in_front(&self) -> bool {
        self.features & 0x1 != 0
    }

    /// Says whether lists of clusters of the full form have headers.
    pub fn has_configurations(&self) -> bool {
        self.features & 0x32 != 0
    }

    /// Returns how many bytes from [`OFFSET`] on the checksum covers; none where there is no checksum.
    pub fn checked_len(&self) -> Option<usize> {
        let block = 1_usize << self.block_log;
        self.has_checksum.then(|| if block > OFFSET as usize { block - OFFSET as usize } else { block })
    }

    /// Compares the checksum with the bytes that it covers.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where they differ.
    pub fn verify(&self, covered: &[u8]) -> Result<()> {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&covered[..4]), &[0; 4]);
        // It is kept without the last step of the usual sum, its inversion.
        let sum = !crc32c::crc32c_append(sum, &covered[8..]);
        if sum == self.checksum { Ok(()) } else { Err(Error::corrupt("superblock", "its checksum is wrong")) }
    }
}
