//! Unmounting from another process, which waits until the image is closed.
//!
//! A server listens on an abstract Unix socket whose name holds the device number of its mount. Whoever unmounts connects
//! first; the server never writes. When the connection ends, the server has closed the image and is about to exit: the
//! socket is the last thing that it closes.

use super::mountinfo::MountLine;
use super::{mount, mountinfo};
use crate::error::{Error, IoContext, Result};
use nix::sys::socket::{getsockopt, sockopt};
use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Lets others wait for this server's end.
#[derive(Debug)]
pub(super) struct Control {
    /// Connections wait in its backlog; the end of this process ends them.
    _listener: UnixListener,
}

fn address(device: &str) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("guestctl/mount/{device}"))
}

impl Control {
    /// Begins to listen for those who wait for the end of a mount. Where that is impossible, nobody can
    /// wait, and everything else works.
    pub(super) fn listen(line: &MountLine) -> Option<Self> {
        let listener = address(&line.device).and_then(|address| UnixListener::bind_addr(&address));
        match listener {
            Ok(listener) => Some(Self { _listener: listener }),
            Err(error) => {
                log::warn!("`guestctl umount` cannot wait for this mount: {error}");
                None
            }
        }
    }
}

/// How to unmount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unmount {
    /// Takes the mount out of the tree while files of it are open.
    pub lazy: bool,
    /// How long to wait for the server to close the image; for ever where there is none.
    pub timeout: Option<Duration>,
}

/// Unmounts what `guestctl mount` mounted and waits until its server has closed the image.
///
/// # Errors
/// [`Error::NotFound`] when nothing of ours is mounted there, [`Error::InUse`] when files are open there or the server has
/// not ended in time, [`Error::Io`].
pub fn unmount(mountpoint: &Path, how: &Unmount) -> Result<()> {
    let shown = mountpoint.display();
    let whole = whole_path(mountpoint);
    let line = mountinfo::find(&whole)?
        .filter(|line| line.kind.starts_with(b"fuse"))
        .ok_or_else(|| Error::NotFound(format!("nothing that guestctl mounted is at {shown}").into()))?;
    let waiting = address(&line.device).and_then(|address| UnixStream::connect_addr(&address)).ok().filter(|stream| {
        // The name could have been taken by another user, who would keep us waiting.
        let us = nix::unistd::geteuid();
        us.is_root() || [0, us.as_raw()].contains(&peer(stream).1)
    });
    mount::unmount(&whole, how.lazy)?;
    let Some(mut stream) = waiting else {
        log::info!("the server of {shown} cannot be waited for");
        return Ok(());
    };
    stream
        .set_read_timeout(how.timeout.map(|timeout| timeout.max(Duration::from_millis(1))))
        .doing(|| "cannot wait")?;
    let mut byte = [0; 1];
    match stream.read(&mut byte) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            Err(Error::InUse(
                format!("{shown} is unmounted, but its server (process {}) still holds the image", peer(&stream).0)
                    .into(),
            ))
        }
        _ => Ok(()),
    }
}

/// Returns the process and the user at the other end.
fn peer(stream: &UnixStream) -> (i32, u32) {
    getsockopt(stream, sockopt::PeerCredentials).map_or((0, u32::MAX), |peer| (peer.pid(), peer.uid()))
}

/// Returns the path without links. The mount point itself is not touched: its server may be gone.
fn whole_path(mountpoint: &Path) -> PathBuf {
    let absolute = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_owned());
    if let Ok(whole) = absolute.canonicalize() {
        return whole;
    }
    match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    }
}
