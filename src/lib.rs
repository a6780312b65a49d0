//! guestctl opens a virtual machine's disk image as an ordinary folder: no root, no kernel module, no appliance.
//!
//! The crate is built as floors, each of which knows only those below it:
//!
//! | floor | module | what it holds |
//! | --- | --- | --- |
//! | 6 | [`guestfs`] | the handle: drives, mounts, calls by path |
//! | 5 | [`fuse`] | the FUSE mount |
//! | 5 | [`inspect`] | what operating system a tree holds |
//! | 4 | [`tree`] | many filesystems as one tree, paths inside the guest |
//! | 3 | [`fs`] | the filesystem traits, the probe, one driver for each format |
//! | 2 | [`volume`] | partitions, arrays, volume groups: devices made of devices |
//! | 1 | [`block`] | disk images: raw, qcow2, NBD |
//! | 0 | [`error`], [`cache`], [`bytes`] | errors, the bounded cache, fields of on-disk structures, parity |

pub mod block;
pub mod bytes;
pub mod cache;
#[doc(hidden)]
pub mod cli;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod guestfs;
pub mod inspect;
pub(crate) mod parity;
pub mod sys;
pub mod tree;
pub mod volume;

// Unit tests share parts of `tests/common/`, which name the crate as integration tests do.
#[cfg(test)]
extern crate self as guestctl;

/// The guide's own snippets, compiled and run by the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../docs/performance.md")]
struct PerformanceGuide;

pub use error::{Error, Result};
pub use guestfs::Guestfs;
