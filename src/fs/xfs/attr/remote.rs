//! A block of an extended attribute's value, on version 5: a header that says which part of whose value it is.

use crate::bytes::{be32, be64};

/// `XARM`.
const MAGIC: u32 = 0x5841_524d;
/// The size of the header, in bytes.
const HEADER: usize = 56;

/// Returns the part of a value that a block holds. `None` when it is not the part at `offset` of a value of inode `ino`.
pub fn payload(bytes: &[u8], ino: u64, offset: usize) -> Option<&[u8]> {
    let len = be32(bytes, 8) as usize;
    let right = be32(bytes, 0) == MAGIC && be32(bytes, 4) as usize == offset && be64(bytes, 32) == ino && len > 0;
    if right { bytes.get(HEADER..HEADER + len) } else { None }
}
