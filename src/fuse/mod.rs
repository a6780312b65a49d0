//! Floor 5: the FUSE face.
//!
//! This module knows the protocol and the kernel's caching; what a file operation means is the tree's and the drivers'
//! affair. [`Server`] mounts a [`Tree`](crate::tree::Tree) and serves it with several threads until it is unmounted.

mod ahead;
mod attr;
mod control;
mod face;
mod mount;
mod mountinfo;
mod options;
mod serve;
mod writing;

pub use control::{Unmount, unmount};
pub use options::MountOptions;
pub use serve::{Server, Stopper};
