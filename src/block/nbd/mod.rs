//! Network block devices: disks that an NBD server exports.
//!
//! [`open_uri`] connects to a server that runs already, [`qemu::open`] starts `qemu-nbd` for an image on this host, and
//! [`kit::open`] starts `nbdkit` for one on a web server, on a host that is reached by SSH, or in a bucket of S3.
//! The protocol is specified in `doc/proto.md` of the NetworkBlockDevice/nbd repository, the URIs in its `doc/uri.md`.
//!
//! What is promised:
//! - A server is not trusted. Whatever it sends is checked against what was asked; when it breaks the protocol, the
//!   connection is dropped and the call fails with an error that says how.
//! - No call waits for ever: connecting, a reply and making a lost connection again each have a time-out ([`Options`]).
//! - A connection that was lost is made again, and what was not answered is asked again. What a server acknowledged but
//!   was not yet told to flush may be lost with it, so the next [`flush`](super::BlockDevice::flush) and all after it fail.

mod child;
mod chunks;
mod client;
mod connection;
mod handshake;
pub mod kit;
pub mod qemu;
mod stream;
mod tls;
mod uri;
mod wire;

pub use client::{NbdDevice, Options};
pub use uri::is_uri;

use super::SharedDevice;
use crate::error::Result;
use std::sync::Arc;

/// Opens the export that an NBD URI names.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) for a wrong URI, [`Error::NotFound`](crate::Error::NotFound) when the server
/// has no such export, [`Error::Io`](crate::Error::Io) when it cannot be reached, or is asked for writing (`EROFS`) and
/// exports read-only.
pub fn open_uri(uri: &str, writable: bool) -> Result<SharedDevice> {
    Ok(Arc::new(NbdDevice::open(uri, writable, &Options::default())?))
}
