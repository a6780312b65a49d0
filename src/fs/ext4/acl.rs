//! POSIX access control lists, between the form on disk and the one that `system.posix_acl_*` attributes have.
//!
//! Both are a little-endian version and entries of tag and permissions. On disk (version 1) only named users and groups
//! carry an id; the attribute (version 2) has one in every entry.

use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

const DISK_VERSION: u32 = 1;
const ATTRIBUTE_VERSION: u32 = 2;
const NO_ID: u32 = u32::MAX;

const USER: u16 = 0x02;
const GROUP: u16 = 0x08;

fn is_known(tag: u16) -> bool {
    matches!(tag, 0x01 | USER | 0x04 | GROUP | 0x10 | 0x20)
}

fn has_id(tag: u16) -> bool {
    matches!(tag, USER | GROUP)
}

/// Turns a list as it is on disk into an attribute's value; `None` for an empty list, which is none.
///
/// # Errors
/// [`Error::Corrupt`] for a list that cannot be.
pub(crate) fn from_disk(ino: u32, disk: &[u8]) -> Result<Option<Vec<u8>>> {
    let damaged = |detail| Error::corrupt(format!("access control list of inode {ino}"), detail);
    if disk.len() < 4 || le32(disk, 0) != DISK_VERSION {
        return Err(damaged("its version is wrong"));
    }
    let mut value = ATTRIBUTE_VERSION.to_le_bytes().to_vec();
    let mut rest = &disk[4..];
    if rest.is_empty() {
        return Ok(None);
    }
    while !rest.is_empty() {
        if rest.len() < 4 || !is_known(le16(rest, 0)) {
            return Err(damaged("an entry is wrong"));
        }
        let len = if has_id(le16(rest, 0)) { 8 } else { 4 };
        if rest.len() < len {
            return Err(damaged("an entry does not fit"));
        }
        value.extend(&rest[..4]);
        value.extend(if len == 8 { le32(rest, 4) } else { NO_ID }.to_le_bytes());
        rest = &rest[len..];
    }
    Ok(Some(value))
}

/// Turns an attribute's value into a list as it is on disk.
///
/// # Errors
/// `EINVAL` for a value that is no list.
pub(crate) fn to_disk(value: &[u8]) -> Result<Vec<u8>> {
    let is_list = value.len() >= 4 && value.len() % 8 == 4 && le32(value, 0) == ATTRIBUTE_VERSION;
    if !is_list || value[4..].chunks_exact(8).any(|entry| !is_known(le16(entry, 0))) {
        return Err(Error::Errno(libc::EINVAL));
    }
    let mut disk = DISK_VERSION.to_le_bytes().to_vec();
    for entry in value[4..].chunks_exact(8) {
        disk.extend(&entry[..if has_id(le16(entry, 0)) { 8 } else { 4 }]);
    }
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_survives_the_way_to_the_attribute_and_back() {
        let disk = [
            1, 0, 0, 0, 1, 0, 7, 0, 2, 0, 5, 0, 0xe8, 3, 0, 0, 4, 0, 5, 0, 8, 0, 1, 0, 9, 0, 0, 0, 16, 0, 7, 0, 32, 0,
            0, 0,
        ];
        let value = from_disk(12, &disk).expect("sound").expect("not empty");
        assert_eq!(value.len(), 4 + 6 * 8);
        assert_eq!(value[12..20], [2, 0, 5, 0, 0xe8, 3, 0, 0]);
        assert_eq!(to_disk(&value).expect("sound"), disk);
        from_disk(12, &disk[..15]).expect_err("cut short");
        to_disk(&value[1..]).expect_err("not a list");
    }
}
