//! Where a server is, and that its export stays what it was.

use crate::block::nbd::handshake::{self, Export};
use crate::block::nbd::stream::{Socket, Stream};
use crate::block::nbd::tls::Tls;
use crate::block::nbd::uri::Address;
use crate::error::{Error, IoContext, Result};
use std::io;
use std::time::{Duration, Instant};

/// Where a server is, and which export of it is meant.
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) name: Vec<u8>,
    pub(super) tls: Option<Tls>,
}

impl Target {
    pub(super) fn connect(&self, timeout: Duration) -> Result<(Stream, Export)> {
        let deadline = Instant::now() + timeout;
        let socket = match &self.address {
            Address::Tcp { host, port } => Socket::connect_tcp(host, *port, deadline),
            Address::Unix(path) => Socket::connect_unix(path, deadline),
        };
        greet(socket.doing(|| "cannot connect")?, &self.name, self.tls.as_ref(), deadline)
    }
}

/// Makes the handshake on a socket, until `deadline`.
pub(super) fn greet(socket: Socket, name: &[u8], tls: Option<&Tls>, deadline: Instant) -> Result<(Stream, Export)> {
    socket.set_tick(Duration::from_millis(100)).doing(|| "cannot use the socket")?;
    handshake::negotiate(socket, name, tls, &|| Instant::now() > deadline)
}

/// Checks that an export is what it was.
pub(super) fn same(before: &Export, now: &Export) -> Result<()> {
    if before.size != now.size {
        return Err(Error::io(
            format!("the export's size changed from {} to {} bytes", before.size, now.size),
            io::ErrorKind::InvalidData.into(),
        ));
    }
    if before.flags != now.flags
        || before.min_block != now.min_block
        || before.max_payload > now.max_payload
        || before.style != now.style
        || before.allocation.is_some() != now.allocation.is_some()
    {
        return Err(Error::io(
            "the export changed while it was in use",
            io::Error::new(io::ErrorKind::InvalidData, format!("{before:?} became {now:?}")),
        ));
    }
    Ok(())
}
