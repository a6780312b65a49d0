//! The four kinds of checksums, over tree blocks, superblocks and data.

use crate::bytes::le16;
use crate::error::{Error, Result};
use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};

/// The room that a superblock or a tree block has for its checksum, in bytes.
pub const FIELD: usize = 32;

/// A kind of checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32C, 4 bytes.
    Crc32c,
    /// XXH64 with seed 0, 8 bytes.
    Xxhash64,
    /// SHA-256, 32 bytes.
    Sha256,
    /// BLAKE2b of 32 bytes, without a key.
    Blake2b,
}

impl Checksum {
    /// Returns the kind that a superblock names in the field at `offset`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a kind that is not known.
    pub fn read(superblock: &[u8], offset: usize) -> Result<Self> {
        Ok(match le16(superblock, offset) {
            0 => Self::Crc32c,
            1 => Self::Xxhash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            other => return Err(Error::unsupported(format!("Btrfs checksums of kind {other}"))),
        })
    }

    /// Returns the length of a checksum, in bytes.
    pub const fn len(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// Returns the checksum of `data` in the first [`len`](Self::len) bytes.
    pub fn of(self, data: &[u8]) -> [u8; FIELD] {
        let mut sum = [0; FIELD];
        match self {
            Self::Crc32c => sum[..4].copy_from_slice(&crc32c::crc32c(data).to_le_bytes()),
            Self::Xxhash64 => sum[..8].copy_from_slice(&xxhash_rust::xxh64::xxh64(data, 0).to_le_bytes()),
            Self::Sha256 => sum.copy_from_slice(&Sha256::digest(data)),
            Self::Blake2b => sum.copy_from_slice(&Blake2b::<U32>::digest(data)),
        }
        sum
    }

    /// Says whether `stored`, [`len`](Self::len) bytes or more, is the checksum of `data`. Fuzzing passes
    /// over it, to reach the parsers.
    pub fn matches(self, data: &[u8], stored: &[u8]) -> bool {
        cfg!(fuzzing) || self.of(data)[..self.len()] == stored[..self.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_the_one_of_its_kind() {
        let hex = |kind: Checksum| kind.of(b"abc")[..4].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(Checksum::Crc32c.of(b"123456789")[..4], 0xe306_9283_u32.to_le_bytes());
        assert_eq!(Checksum::Xxhash64.of(b"")[..8], 0xef46_db37_51d8_e999_u64.to_le_bytes());
        assert_eq!(hex(Checksum::Sha256), "ba7816bf");
        assert_eq!(hex(Checksum::Blake2b), "bddd813c");
    }
}
