//! The sector of FAT32 that holds how many clusters are free.

use crate::bytes::le32;

/// The size of the sector's part that has fields, in bytes.
pub const FS_INFO_SIZE: usize = 512;

/// Parses the sector; returns the number of free clusters, where it is known.
pub fn free_clusters(bytes: &[u8; FS_INFO_SIZE]) -> Option<u32> {
    const UNKNOWN: u32 = u32::MAX;
    let is_signed = bytes.starts_with(b"RRaA") && bytes[484..488] == *b"rrAa";
    Some(le32(bytes, 488)).filter(|&free| is_signed && free != UNKNOWN)
}
