//! Fast commits.
use crate::error::Result;
use crate::fs::ext4::inode::Inode;
use std::sync::Arc;
/// What fast commits changed.
#[derive(Default)]
pub(crate) struct FastCommits {}
impl FastCommits {
    /// Returns an inode that they changed.
    pub(crate) fn inode(&self, _ino: u32) -> Option<Result<Arc<Inode>>> {
        None
    }
}
