//! The mount table of this process: `/proc/self/mountinfo`, as proc(5) describes it.

use crate::error::{IoContext, Result};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MountLine {
    /// The device number that files of this mount show, as `major:minor`.
    pub(super) device: String,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// The type of the filesystem, such as `fuse.guestctl`.
    pub(super) kind: Vec<u8>,
    /// What is mounted.
    pub(super) source: Vec<u8>,
}

/// Returns the mount that lies on top at a mount point, where there is one.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) when the table cannot be read.
pub(super) fn find(mountpoint: &Path) -> Result<Option<MountLine>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).doing(|| format!("cannot read {TABLE}"))?;
    Ok(table
        .split(|&byte| byte == b'\n')
        .filter_map(parse)
        .rfind(|line| line.mountpoint.as_os_str().as_bytes() == mountpoint.as_os_str().as_bytes()))
}

fn parse(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.by_ref().nth(2)?;
    let mountpoint = fields.by_ref().nth(1)?;
    fields.by_ref().find(|field| *field == b"-")?;
    let kind = fields.next()?;
    let source = fields.next()?;
    Some(MountLine {
        device: String::from_utf8(device.to_vec()).ok()?,
        mountpoint: PathBuf::from(std::ffi::OsString::from_vec(unescape(mountpoint))),
        kind: unescape(kind),
        source: unescape(source),
    })
}

/// Turns `\040` and its like back into the bytes they stand for.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\')
            .then(|| after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_escapes_and_optional_fields_is_read() {
        let line = parse(br"36 35 98:0 / /mnt/a\040b rw,nosuid shared:1 master:2 - fuse.guestctl disk\134.img rw");
        let line = line.expect("well formed");
        assert_eq!(line.device, "98:0");
        assert_eq!(line.mountpoint, Path::new("/mnt/a b"));
        assert_eq!(line.kind, b"fuse.guestctl");
        assert_eq!(line.source, br"disk\.img");
        assert_eq!(parse(b"36 35 98:0 / /mnt"), None);
    }
}
