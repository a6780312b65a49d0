//! Attributes as the protocol carries them.

use super::MountOptions;
use crate::fs::{Attr, FileType, Timestamp};
use crate::tree::{Node, Tree};
use fuser::{FileAttr, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which owners and permissions are shown in the place of the guest's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    uid: Option<u32>,
    gid: Option<u32>,
    umask: u16,
}

impl Shown {
    pub(super) fn new(options: &MountOptions) -> Self {
        Self { uid: options.uid, gid: options.gid, umask: options.umask }
    }

    /// Returns attributes as the kernel is to show them, under a node id.
    pub(super) fn attr(self, id: INodeNo, attr: &Attr) -> FileAttr {
        FileAttr {
            ino: id,
            size: attr.size,
            blocks: attr.blocks,
            atime: to_system(attr.atime),
            mtime: to_system(attr.mtime),
            ctime: to_system(attr.ctime),
            crtime: to_system(attr.btime.unwrap_or_default()),
            kind: to_kind(attr.file_type),
            perm: attr.permissions & !self.umask,
            nlink: attr.nlink,
            uid: self.uid.unwrap_or(attr.uid),
            gid: self.gid.unwrap_or(attr.gid),
            rdev: to_rdev(attr.rdev),
            blksize: 4096,
            flags: 0,
        }
    }
}

/// The node ids of a tree. The protocol has the root at 1; whatever node the tree has there changes places with it.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeIds {
    root: u64,
}

impl NodeIds {
    pub(super) fn new(tree: &Tree) -> Self {
        Self { root: tree.root().to_bits() }
    }

    fn swap(self, id: u64) -> u64 {
        if id == INodeNo::ROOT.0 {
            self.root
        } else if id == self.root {
            INodeNo::ROOT.0
        } else {
            id
        }
    }

    pub(super) fn node(self, id: INodeNo) -> Node {
        Node::from_bits(self.swap(id.0))
    }

    pub(super) fn id(self, node: Node) -> INodeNo {
        INodeNo(self.swap(node.to_bits()))
    }
}

pub(super) fn to_kind(file_type: FileType) -> fuser::FileType {
    match file_type {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::Symlink => fuser::FileType::Symlink,
        FileType::CharDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
    }
}

pub(super) fn to_system(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(Duration::from_nanos(time.nanoseconds.into()))).unwrap_or(UNIX_EPOCH)
}

pub(super) fn from_system(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { seconds: since.as_secs().cast_signed(), nanoseconds: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            let seconds = -before.as_secs().cast_signed();
            match before.subsec_nanos() {
                0 => Timestamp { seconds, nanoseconds: 0 },
                nanoseconds => Timestamp { seconds: seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
            }
        }
    }
}

/// Puts a device's numbers into the 32 bits of the protocol: 12 of the major, 20 of the minor, as `new_encode_dev`.
fn to_rdev((major, minor): (u32, u32)) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// Takes a device's numbers out of the 32 bits of the protocol.
pub(super) fn from_rdev(rdev: u32) -> (u32, u32) {
    ((rdev & 0xf_ff00) >> 8, (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_come_back_as_they_were() {
        for time in [(-1, 999_999_999), (-5, 0), (0, 1), (4_000_000_000, 7), (-2_147_483_648, 1)] {
            let time = Timestamp { seconds: time.0, nanoseconds: time.1 };
            assert_eq!(from_system(to_system(time)), time);
        }
    }

    #[test]
    fn device_numbers_come_back_as_they_were() {
        for numbers in [(8, 1), (259, 1_000_000), (0xfff, 0xf_ffff)] {
            assert_eq!(from_rdev(to_rdev(numbers)), numbers);
        }
    }
}
