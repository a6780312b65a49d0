//! One file of a guest, as the commands show it in JSON.
//!
//! A name or a link's text that is no UTF-8 has its wrong bytes replaced there, and stands in full, in hexadecimal digits,
//! under the same key with `_hex` after it.

use crate::bytes::hex;
use crate::error::Result;
use crate::fs::{Attr, FileType, Timestamp};
use crate::tree::{Node, Tree};
use serde::Serialize;

/// A moment: seconds since 1970 in UTC, and nanoseconds of that second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Time {
    seconds: i64,
    nanoseconds: u32,
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        Self { seconds: time.seconds, nanoseconds: time.nanoseconds }
    }
}

/// One file.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    nlink: u32,
    uid: u32,
    gid: u32,
    size: u64,
    blocks: u64,
    inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    atime: Time,
    mtime: Time,
    ctime: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    btime: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
}

/// Returns bytes as text, and in hexadecimal digits where the text does not tell all.
pub(super) fn text(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex(bytes))),
    }
}

impl Row {
    /// Describes a file.
    pub(super) fn new(tree: &Tree, path: &[u8], node: Node, attr: &Attr) -> Result<Self> {
        let target = if attr.file_type == FileType::Symlink { Some(text(&tree.read_link(node)?)) } else { None };
        let (path, path_hex) = text(path);
        let (target, target_hex) = target.map_or((None, None), |(target, hex)| (Some(target), hex));
        let is_device = matches!(attr.file_type, FileType::CharDevice | FileType::BlockDevice);
        Ok(Self {
            path,
            path_hex,
            kind: type_name(attr.file_type),
            mode: format!("{:04o}", attr.permissions),
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            blocks: attr.blocks,
            inode: attr.ino,
            device: is_device.then_some(attr.rdev),
            atime: attr.atime.into(),
            mtime: attr.mtime.into(),
            ctime: attr.ctime.into(),
            btime: attr.btime.map(Into::into),
            target,
            target_hex,
        })
    }

    /// Returns the file as one line of JSON.
    pub(super) fn line(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers can be written as JSON")
    }
}

/// Returns the word for a type that `stat` and JSON have.
pub(super) fn type_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::CharDevice => "char",
        FileType::BlockDevice => "block",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
    }
}
