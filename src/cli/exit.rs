//! The exit codes.

use crate::error::Error;

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
const NOT_AN_IMAGE: u8 = 3;
pub(super) const DAMAGED: u8 = 4;
const UNSUPPORTED: u8 = 5;
const IN_USE: u8 = 6;
const NOT_FOUND: u8 = 7;

/// What `--help` says of them.
pub(super) const HELP: &str = "Exit codes: 0 done, 1 failed, 2 wrong use, 3 not an image that can be opened, 4 damaged, \
                               5 unsupported feature, 6 in use, 7 not found";

/// Returns the exit code for an error.
pub(super) fn code(error: &Error) -> u8 {
    match error.root() {
        Error::NotAnImage(_) => NOT_AN_IMAGE,
        Error::Corrupt { .. } => DAMAGED,
        Error::Unsupported(_) => UNSUPPORTED,
        Error::InUse(_) => IN_USE,
        Error::NotFound(_) | Error::Errno(libc::ENOENT | libc::ENOTDIR) => NOT_FOUND,
        Error::Usage(_) => USAGE,
        // A file of the host that was named.
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
        Error::Errno(libc::EBUSY) => IN_USE,
        Error::Errno(libc::EOPNOTSUPP) => UNSUPPORTED,
        _ => FAILED,
    }
}
