//! Access control lists: from the form that XFS stores (big-endian) to the one of Linux's `system.posix_acl_*`
//! (little-endian).

use crate::bytes::{be16, be32};

/// The version of Linux's form.
const VERSION: u32 = 2;
/// Tags of entries that name a user or group; the others have no number.
const USER: u32 = 0x02;
const GROUP: u32 = 0x08;
/// Tags of the owner, the owning group, the mask and everybody else.
const UNNAMED: [u32; 4] = [0x01, 0x04, 0x10, 0x20];
/// The number where there is none.
const NO_ID: u32 = u32::MAX;
/// The size of a stored entry, in bytes.
const ENTRY: usize = 12;

/// Returns an ACL in Linux's form. `None` when it is damaged.
pub fn to_linux(stored: &[u8]) -> Option<Vec<u8>> {
    let count = be32(stored.get(..4)?, 0) as usize;
    let entries = stored.get(4..4 + count.checked_mul(ENTRY)?)?;
    let mut linux = Vec::with_capacity(4 + count * 8);
    linux.extend(VERSION.to_le_bytes());
    for entry in entries.chunks_exact(ENTRY) {
        let tag = be32(entry, 0);
        let id = match tag {
            USER | GROUP => be32(entry, 4),
            _ if UNNAMED.contains(&tag) => NO_ID,
            _ => return None,
        };
        linux.extend((tag as u16).to_le_bytes());
        linux.extend(be16(entry, 8).to_le_bytes());
        linux.extend(id.to_le_bytes());
    }
    Some(linux)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_is_turned_into_linuxs_form() {
        let stored = [0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0xe8, 0, 5, 0, 0];
        let linux = to_linux(&stored).expect("is whole");
        assert_eq!(linux, [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 0xe8, 3, 0, 0]);
        assert_eq!(to_linux(&stored[..20]), None);
        assert_eq!(to_linux(&[255; 8]), None);
    }
}
