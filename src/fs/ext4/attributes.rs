//! Extended attributes of an inode as a whole: those in the inode, those in its block, those in inodes of their own.

use super::acl;
use super::checksum::crc32c;
use super::inode::{Inode, flag};
use super::meta::MetaBytes;
use super::volume::Volume;
use super::xattr::{Entries, Entry, VALUE_MAX, Value, index, split_name};
use crate::error::{Error, Result};
use std::ops::ControlFlow;

impl Volume {
    /// Returns the block of attributes that an inode names.
    fn xattr_block(&self, inode: &Inode) -> Result<Option<MetaBytes>> {
        if inode.xattr_block == 0 {
            return Ok(None);
        }
        self.check_block(inode.xattr_block, "the extended attributes", inode.ino)?;
        self.meta.block(inode.xattr_block).map(Some)
    }

    /// Shows every attribute of an inode until `visit` breaks, the filesystem's own among them.
    fn visit_xattrs(&self, inode: &Inode, visit: &mut dyn FnMut(&Entry<'_>) -> Result<ControlFlow<()>>) -> Result<()> {
        for entry in Entries::in_inode(inode.ino, &inode.tail) {
            if visit(&entry?)?.is_break() {
                return Ok(());
            }
        }
        if let Some(block) = self.xattr_block(inode)? {
            let seed = self.superblock.has_metadata_csum().then_some(self.superblock.checksum_seed);
            for entry in Entries::in_block(inode.ino, inode.xattr_block, &block, seed)? {
                if visit(&entry?)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn xattr_value(&self, inode: &Inode, value: Value<'_>) -> Result<Vec<u8>> {
        let (ino, size) = match value {
            Value::Here(bytes) => return Ok(bytes.to_vec()),
            Value::Inode { ino, size } => (ino, size),
        };
        let damaged = |detail: &'static str| {
            Error::corrupt(format!("extended attribute of inode {} in inode {ino}", inode.ino), detail)
        };
        let holder = match self.inode(ino) {
            Ok(holder) => holder,
            Err(error) if error.is_errno(libc::ENOENT) => return Err(damaged("the inode is not in use")),
            Err(error) => return Err(error),
        };
        if !holder.has_flag(flag::EA_INODE) || holder.size != u64::from(size) || holder.is_dir() {
            return Err(damaged("the inode holds no such value"));
        }
        let bytes = self.read_whole(&holder, VALUE_MAX)?;
        // The hash lies in the access time. Inodes made by Lustre have none; they name their owner in the modification time.
        let is_lustre = holder.mtime.seconds as u32 == inode.ino && holder.generation == inode.generation;
        let hash = crc32c(self.superblock.checksum_seed, &bytes);
        if holder.atime.seconds as u32 != hash && !is_lustre {
            return Err(damaged("the hash of the value is wrong"));
        }
        Ok(bytes)
    }

    /// Returns the value of an attribute by its full name.
    ///
    /// # Errors
    /// `ENODATA` when there is none, [`Error::Corrupt`] for damaged attributes, and those of reading.
    pub(crate) fn xattr(&self, inode: &Inode, name: &[u8]) -> Result<Vec<u8>> {
        let (wanted, rest) = split_name(name).ok_or(Error::Errno(libc::ENODATA))?;
        let mut value = None;
        self.visit_xattrs(inode, &mut |entry| {
            if (entry.index, entry.name) != (wanted, rest) {
                return Ok(ControlFlow::Continue(()));
            }
            value = Some(self.xattr_value(inode, entry.value)?);
            Ok(ControlFlow::Break(()))
        })?;
        if matches!(wanted, index::ACL_ACCESS | index::ACL_DEFAULT)
            && let Some(list) = value
        {
            value = acl::from_disk(inode.ino, &list)?;
        }
        value.ok_or(Error::Errno(libc::ENODATA))
    }

    /// Returns the full names of an inode's attributes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for damaged attributes, and those of reading.
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        self.visit_xattrs(inode, &mut |entry| {
            names.extend(entry.full_name());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }
}
