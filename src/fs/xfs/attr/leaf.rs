//! A leaf of extended attributes: entries of 8 bytes in the order of their hashes (hash, where the name is, flags), and the
//! names with their values, or with where their values are, from the block's end downwards.

use super::{Stored, Value, flags};
use crate::bytes::{be16, be32};

/// Returns the attribute whose entry lies at `at`, which is inside the block.
pub fn entry(bytes: &[u8], at: usize) -> Option<Stored<'_>> {
    let place = usize::from(be16(bytes, at + 4));
    let bits = bytes[at + 6];
    let body = bytes.get(place..)?;
    let (name, value) = if bits & flags::LOCAL != 0 {
        let head = body.get(..3)?;
        let (value_len, name_len) = (usize::from(be16(head, 0)), usize::from(head[2]));
        let both = body.get(3..3 + name_len + value_len)?;
        let (name, value) = both.split_at(name_len);
        (name, Value::Local(value))
    } else {
        let head = body.get(..9)?;
        let name = body.get(9..9 + usize::from(head[8]))?;
        (name, Value::Remote { block: be32(head, 0), len: be32(head, 4) })
    };
    (!name.is_empty()).then_some(Stored { name, flags: bits & !flags::LOCAL, value })
}
