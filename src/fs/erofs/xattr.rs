//! Extended attributes: behind the inode, or in a place that several inodes share.

use super::disk::Disk;
use super::inode::Inode;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// The size of what stands before an inode's own attributes, in bytes.
const HEADER: usize = 12;

/// The bit of a name's index that stands for a long prefix.
const LONG: u8 = 0x80;

/// A long prefix, which the names of many attributes have.
#[derive(Clone, Debug)]
pub struct Prefix(pub Vec<u8>);

/// Returns the beginning of a name by its index.
fn beginning(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        _ => return None,
    })
}

impl Prefix {
    /// Reads a prefix: the index of its beginning, and the rest.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&index, rest) = bytes.split_first()?;
        Some(Self([beginning(index)?, rest].concat()))
    }
}

/// Shows the attributes of an inode, names and values, until `visit` says that it is enough.
///
/// # Errors
/// [`Error::Corrupt`], and those of reading.
pub fn each(
    disk: &Disk,
    prefixes: &[Option<Prefix>],
    inode: &Inode,
    visit: &mut dyn FnMut(Vec<u8>, &[u8]) -> bool,
) -> Result<()> {
    let ino = inode.attr.ino;
    if inode.xattrs_len < HEADER {
        return Ok(());
    }
    let corrupt = || Error::corrupt(format!("attributes of inode {ino}"), "an attribute passes the end");
    let mut own = vec![0; inode.xattrs_len];
    disk.metadata(ino, &mut own, inode.xattrs)?;
    let shared = usize::from(own[4]);
    let mut rest = own.get(HEADER + 4 * shared..).ok_or_else(corrupt)?;
    while rest.len() >= 4 {
        let (name_len, value_len) = (usize::from(rest[0]), usize::from(le16(rest, 2)));
        let (from, end) = (4 + name_len, 4 + name_len + value_len);
        let whole = rest.get(..end).ok_or_else(corrupt)?;
        if let Some(name) = name_of(prefixes, whole[1], &whole[4..from])
            && !visit(name, &whole[from..])
        {
            return Ok(());
        }
        rest = rest.get(end.next_multiple_of(4)..).unwrap_or_default();
    }
    for number in 0..shared {
        let at = disk.superblock.xattr_start + u64::from(le32(&own, HEADER + 4 * number)) * 4;
        let mut head = [0; 4];
        disk.metadata(ino, &mut head, at)?;
        let (name_len, value_len) = (usize::from(head[0]), usize::from(le16(&head, 2)));
        let mut body = vec![0; name_len + value_len];
        disk.metadata(ino, &mut body, at + 4)?;
        if let Some(name) = name_of(prefixes, head[1], &body[..name_len])
            && !visit(name, &body[name_len..])
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns a whole name; none where its beginning is not known.
fn name_of(prefixes: &[Option<Prefix>], index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let start =
        if index & LONG == 0 { beginning(index)? } else { &prefixes.get(usize::from(index & !LONG))?.as_ref()?.0 };
    Some([start, rest].concat())
}
