//! The root item: where a tree begins, and what a subvolume is.

use super::tree::Root;
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};

const SHORT: usize = 239;
const FLAG_READ_ONLY: u64 = 1;

/// The root of a tree.
#[derive(Clone, Debug)]
pub struct RootItem {
    /// Where the tree begins.
    pub root: Root,
    /// The inode of its root directory.
    pub root_dir: u64,
    /// How much metadata it takes, in bytes.
    pub bytes_used: u64,
    /// How many names it has; a subvolume with none is deleted.
    pub refs: u32,
    /// Whether it is a subvolume that nothing may be written to.
    pub is_read_only: bool,
}

impl RootItem {
    /// Reads the item of tree `number`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is too short.
    pub fn parse(bytes: &[u8], number: u64) -> Result<Self> {
        if bytes.len() < SHORT {
            return Err(Error::corrupt(format!("Btrfs root {number}"), format!("its item has {} bytes", bytes.len())));
        }
        Ok(Self {
            root: Root { address: le64(bytes, 176), level: bytes[238], generation: le64(bytes, 160) },
            root_dir: le64(bytes, 168),
            bytes_used: le64(bytes, 192),
            refs: le32(bytes, 216),
            is_read_only: le64(bytes, 208) & FLAG_READ_ONLY != 0,
        })
    }
}
