//! Changing attributes: modes, owners, times, extended attributes, access control lists.

use super::put::{ACL_ACCESS, ACL_DEFAULT, now, read_xattrs, writer};
use super::{Guestfs, acl};
use crate::error::{Error, ErrorContext, Result};
use crate::fs::Timestamp;
use crate::fs::write::{SetAttr, XattrMode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

/// Nanoseconds that mean this moment, and the time as it is.
const NOW: i64 = -1;
const OMIT: i64 = -2;

/// Returns the attribute of a kind of access control list.
fn acl_name(kind: &str) -> Result<&'static [u8]> {
    match kind {
        "access" => Ok(ACL_ACCESS),
        "default" => Ok(ACL_DEFAULT),
        _ => Err(Error::Usage(format!("no access control list {kind:?}; there are access, default").into())),
    }
}

impl Guestfs {
    /// Changes attributes of what a path names. Errors carry the path.
    pub(super) fn set(&self, path: &OsStr, follow: bool, set: &SetAttr) -> Result<()> {
        let here = || path.display().to_string();
        let (tree, found) = self.find_to_change(path, follow)?;
        let (writer, ino) = writer(tree, found.node).at(here)?;
        writer.set_attr(ino, set).at(here)?;
        Ok(())
    }

    /// Sets the low 12 bits of a file's mode; a link is followed.
    ///
    /// # Errors
    /// `ENOENT`, `EPERM` for a file that is immutable, `EROFS` with what to do.
    pub fn chmod(&self, mode: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.set(path.as_ref(), true, &SetAttr { permissions: Some((mode & 0o7777) as u16), ..SetAttr::default() })
    }

    /// Sets the owner and the group of a file; a link is followed.
    ///
    /// # Errors
    /// As [`chmod`](Self::chmod).
    pub fn chown(&self, uid: u32, gid: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.set_owner(uid, gid, path.as_ref(), true)
    }

    /// Sets the owner and the group of a file, of a link itself.
    ///
    /// # Errors
    /// As [`chmod`](Self::chmod).
    pub fn lchown(&self, uid: u32, gid: u32, path: impl AsRef<OsStr>) -> Result<()> {
        self.set_owner(uid, gid, path.as_ref(), false)
    }

    fn set_owner(&self, uid: u32, gid: u32, path: &OsStr, follow: bool) -> Result<()> {
        // As Linux does for whoever: a change of owner takes set-user-id away.
        self.set(path, follow, &SetAttr { uid: Some(uid), gid: Some(gid), drop_set_id: true, ..SetAttr::default() })
    }

    /// Sets the times of the last read and the last change of a file, in seconds since 1970 and nanoseconds; nanoseconds of
    /// -1 mean now, of -2 the time as it is. A link is followed.
    ///
    /// # Errors
    /// `EINVAL` for other nanoseconds, and as [`chmod`](Self::chmod).
    pub fn utimens(
        &self,
        path: impl AsRef<OsStr>,
        atime_sec: i64,
        atime_nsec: i64,
        mtime_sec: i64,
        mtime_nsec: i64,
    ) -> Result<()> {
        let path = path.as_ref();
        let time = |seconds, nanoseconds| match nanoseconds {
            NOW => Ok(Some(now())),
            OMIT => Ok(None),
            0..1_000_000_000 => Ok(Some(Timestamp { seconds, nanoseconds: nanoseconds as u32 })),
            _ => Err(Error::Errno(libc::EINVAL).at(path.display().to_string())),
        };
        let (atime, mtime) = (time(atime_sec, atime_nsec)?, time(mtime_sec, mtime_nsec)?);
        self.set(path, true, &SetAttr { atime, mtime, ..SetAttr::default() })
    }

    /// Sets the bits that new files and folders do not get, 022 at first; returns those that were set.
    ///
    /// # Errors
    /// [`Error::Usage`] for more than 0777.
    pub fn umask(&self, mask: u32) -> Result<u32> {
        match u16::try_from(mask) {
            Ok(mask @ ..=0o777) => Ok(self.umask.swap(mask, Ordering::Relaxed).into()),
            _ => Err(Error::Usage(format!("{mask:o} is no mask of permissions").into())),
        }
    }

    /// Returns the bits that new files and folders do not get.
    pub fn get_umask(&self) -> u16 {
        self.umask.load(Ordering::Relaxed)
    }

    /// Returns the value of an extended attribute by its full name (`user.note`); a link is followed.
    ///
    /// # Errors
    /// `ENODATA` where there is none, `ENOENT`, and those of reading.
    pub fn getxattr(&self, path: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        tree.xattr(found.node, name.as_ref().as_bytes()).at(|| path.display().to_string())
    }

    /// Returns the names and values of a file's extended attributes, of a link itself.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn lgetxattrs(&self, path: impl AsRef<OsStr>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, false)?;
        read_xattrs(tree, found.node).at(|| path.display().to_string())
    }

    /// Sets an extended attribute by its full name (`user.note`); a link is followed.
    ///
    /// # Errors
    /// `ENOENT`, `ENOSPC`, `EOPNOTSUPP` for a name that the filesystem cannot keep, `EROFS` with what to do.
    pub fn setxattr(&self, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>, path: impl AsRef<OsStr>) -> Result<()> {
        self.change_xattr(name.as_ref(), Some(value.as_ref()), path.as_ref(), true)
    }

    /// Sets an extended attribute, of a link itself.
    ///
    /// # Errors
    /// As [`setxattr`](Self::setxattr).
    pub fn lsetxattr(&self, name: impl AsRef<OsStr>, value: impl AsRef<[u8]>, path: impl AsRef<OsStr>) -> Result<()> {
        self.change_xattr(name.as_ref(), Some(value.as_ref()), path.as_ref(), false)
    }

    /// Removes an extended attribute; a link is followed.
    ///
    /// # Errors
    /// `ENODATA` where there is none, and as [`setxattr`](Self::setxattr).
    pub fn removexattr(&self, name: impl AsRef<OsStr>, path: impl AsRef<OsStr>) -> Result<()> {
        self.change_xattr(name.as_ref(), None, path.as_ref(), true)
    }

    /// Removes an extended attribute, of a link itself.
    ///
    /// # Errors
    /// As [`removexattr`](Self::removexattr).
    pub fn lremovexattr(&self, name: impl AsRef<OsStr>, path: impl AsRef<OsStr>) -> Result<()> {
        self.change_xattr(name.as_ref(), None, path.as_ref(), false)
    }

    fn change_xattr(&self, name: &OsStr, value: Option<&[u8]>, path: &OsStr, follow: bool) -> Result<()> {
        let here = || path.display().to_string();
        let (tree, found) = self.find_to_change(path, follow)?;
        let (writer, ino) = writer(tree, found.node).at(here)?;
        match value {
            Some(value) => writer.set_xattr(ino, name.as_bytes(), value, XattrMode::Set),
            None => writer.remove_xattr(ino, name.as_bytes()),
        }
        .at(here)
    }

    /// Returns a file's access control list (`access`), or the one that a folder's new files get (`default`), in the text
    /// form of acl(5) with numbers; empty where there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] for another kind, `ENOENT`, [`Error::Corrupt`], and those of reading.
    pub fn acl_get_file(&self, path: impl AsRef<OsStr>, kind: &str) -> Result<String> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let name = acl_name(kind)?;
        let (tree, found) = self.find_path(path, true)?;
        match tree.xattr(found.node, name) {
            Ok(value) => acl::to_text(&value)
                .ok_or_else(|| Error::corrupt("access control list", "it has an unknown form").at(here())),
            Err(error) if matches!(error.errno(), libc::ENODATA | libc::EOPNOTSUPP) => Ok(String::new()),
            Err(error) => Err(error.at(here())),
        }
    }

    /// Sets a file's access control list (`access`), or the one that a folder's new files get (`default`), from the text
    /// form of acl(5): entries with numbers, divided by commas or lines.
    ///
    /// # Errors
    /// [`Error::Usage`] for another kind or a text that is no such list, and as [`setxattr`](Self::setxattr).
    pub fn acl_set_file(&self, path: impl AsRef<OsStr>, kind: &str, text: &str) -> Result<()> {
        let name = acl_name(kind)?;
        let value = acl::from_text(text.as_bytes(), &acl::no_names)
            .ok_or_else(|| Error::Usage(format!("{text:?} is no access control list").into()))?;
        self.setxattr(OsStr::from_bytes(name), value, path)
    }

    /// Takes away the access control list that a folder's new files get, if there is one.
    ///
    /// # Errors
    /// As [`setxattr`](Self::setxattr).
    pub fn acl_delete_def_file(&self, path: impl AsRef<OsStr>) -> Result<()> {
        match self.removexattr(OsStr::from_bytes(ACL_DEFAULT), path) {
            Err(error) if error.is_errno(libc::ENODATA) => Ok(()),
            done => done,
        }
    }
}
