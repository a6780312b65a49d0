//! POSIX access control lists as the rules of POSIX.1e draft 17 change them: on creation, by chmod, and against the mode.

use crate::bytes::{le16, le32};
use crate::error::{Error, Result};
use crate::fs::ext4::acl;

const USER_OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OWNER: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The version of an attribute's value.
const VERSION: u32 = 2;
/// The size of its header and of each entry, in bytes.
const HEADER: usize = 4;
const ENTRY: usize = 8;

/// An entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    /// Three bits: read, write, execute.
    permissions: u16,
    /// The user or group, of those entries that name one.
    id: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl {
    entries: Vec<AclEntry>,
}

/// What a new inode gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inherited {
    /// Its mode.
    pub(crate) mode: u16,
    /// Its access list; `None` where the mode says all.
    pub(crate) access: Option<Acl>,
    /// Its default list.
    pub(crate) default: Option<Acl>,
}

impl Acl {
    /// Reads the value of a `system.posix_acl_*` attribute; `None` for a list without entries, which stands for none.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for another version, `EINVAL` for a value that is no valid list.
    pub(crate) fn from_xattr(value: &[u8]) -> Result<Option<Self>> {
        if value.len() < HEADER {
            return Err(Error::Errno(libc::EINVAL));
        }
        if le32(value, 0) != VERSION {
            return Err(Error::Errno(libc::EOPNOTSUPP));
        }
        let (entries, rest) = value[HEADER..].as_chunks::<ENTRY>();
        if !rest.is_empty() {
            return Err(Error::Errno(libc::EINVAL));
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entry =
            |entry: &[u8; ENTRY]| AclEntry { tag: le16(entry, 0), permissions: le16(entry, 2), id: le32(entry, 4) };
        let acl = Self { entries: entries.iter().map(entry).collect() };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Error::Errno(libc::EINVAL)) }
    }

    /// Reads a list as it is on disk; `None` for one without entries.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming inode `ino` for one that cannot be.
    pub(crate) fn from_disk(ino: u32, disk: &[u8]) -> Result<Option<Self>> {
        let Some(value) = acl::from_disk(ino, disk)? else { return Ok(None) };
        Self::from_xattr(&value).map_err(|_| {
            Error::corrupt(format!("access control list of inode {ino}"), "its entries contradict each other")
        })
    }

    /// Returns the value of a `system.posix_acl_*` attribute.
    pub(crate) fn to_xattr(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            let id = if matches!(entry.tag, USER | GROUP) { entry.id } else { u32::MAX };
            value.extend(entry.tag.to_le_bytes());
            value.extend(entry.permissions.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        value
    }

    /// Returns the list as it is on disk.
    pub(crate) fn to_disk(&self) -> Vec<u8> {
        acl::to_disk(&self.to_xattr()).expect("a valid list has a form on disk")
    }

    /// Says whether the entries come in their order, each of the necessary ones once, and none impossible.
    fn is_valid(&self) -> bool {
        let mut rank = 0;
        let mut has_named = false;
        let mut counts = [0_usize; 6];
        for entry in &self.entries {
            let next = match entry.tag {
                USER_OWNER => 0,
                USER => 1,
                GROUP_OWNER => 2,
                GROUP => 3,
                MASK => 4,
                OTHER => 5,
                _ => return false,
            };
            if next < rank || entry.permissions > 7 {
                return false;
            }
            if matches!(entry.tag, USER | GROUP) {
                has_named = true;
                if entry.id == u32::MAX {
                    return false;
                }
            }
            rank = next;
            counts[next] += 1;
        }
        let is_once = |rank: usize| counts[rank] == 1;
        is_once(0) && is_once(2) && is_once(5) && (is_once(4) || counts[4] == 0 && !has_named)
    }

    /// Returns the permission bits that the list gives the mode, and whether they say all that the list says.
    pub(crate) fn equiv_mode(&self) -> (u16, bool) {
        let group = self.find(MASK).or(self.find(GROUP_OWNER)).unwrap_or(0);
        let bits = self.find(USER_OWNER).unwrap_or(0) << 6 | group << 3 | self.find(OTHER).unwrap_or(0);
        let says_all = self.entries.iter().all(|entry| matches!(entry.tag, USER_OWNER | GROUP_OWNER | OTHER));
        (bits, says_all)
    }

    /// Changes the list as chmod to the permission bits of `mode` does.
    pub(crate) fn chmod(&mut self, mode: u16) {
        self.set(USER_OWNER, mode >> 6 & 7);
        self.set(self.group_class(), mode >> 3 & 7);
        self.set(OTHER, mode & 7);
    }

    /// Restricts the list to what `mode` allows, and returns the permission bits that are left.
    fn restrict(&mut self, mode: u16) -> u16 {
        let mut bits = 0;
        for (tag, shift) in [(USER_OWNER, 6), (self.group_class(), 3), (OTHER, 0)] {
            let permissions = self.find(tag).unwrap_or(0) & mode >> shift;
            self.set(tag, permissions);
            bits |= permissions << shift;
        }
        bits
    }

    /// Returns the entry that the group bits of the mode stand for.
    fn group_class(&self) -> u16 {
        if self.find(MASK).is_some() { MASK } else { GROUP_OWNER }
    }

    fn find(&self, tag: u16) -> Option<u16> {
        self.entries.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn set(&mut self, tag: u16, permissions: u16) {
        for entry in self.entries.iter_mut().filter(|entry| entry.tag == tag) {
            entry.permissions = permissions;
        }
    }
}

/// Returns what an inode gets that is made with `mode` in a directory with the default list given. A symbolic link has no
/// lists, and is not for this.
pub(crate) fn inherit(default: Option<&Acl>, mode: u16, umask: u16, is_dir: bool) -> Inherited {
    let Some(default) = default else {
        return Inherited { mode: mode & !(umask & 0o777), access: None, default: None };
    };
    let mut access = default.clone();
    let bits = access.restrict(mode);
    let (_, says_all) = access.equiv_mode();
    Inherited {
        mode: mode & !0o777 | bits,
        access: (!says_all).then_some(access),
        default: is_dir.then(|| default.clone()),
    }
}
