//! The byte stream to a server: a TCP or unix socket, with TLS or without.
//!
//! The two halves are used by different threads at once. Both wait in ticks, and between ticks ask the caller whether to
//! give up, so that a time-out can depend on what other threads see.

use super::tls::Session;
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, IoSlice};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Says whether to give up waiting.
pub(super) type Expired<'a> = &'a dyn Fn() -> bool;

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time")
}

/// A connected stream socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Connects to a host, trying each of its addresses.
    ///
    /// # Errors
    /// What the last address answered; a time-out after `deadline`.
    pub fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in (host, port).to_socket_addrs()? {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(timed_out());
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    // Requests are small, and each waits for its reply.
                    stream.set_nodelay(true)?;
                    return Ok(Self { fd: stream.into() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to a unix socket. A server that is too busy to take the connection is tried until `deadline`.
    ///
    /// # Errors
    /// What the system says; a time-out after `deadline`.
    pub fn connect_unix(path: &Path, deadline: Instant) -> io::Result<Self> {
        let address = UnixAddr::new(path)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        loop {
            match socket::connect(fd.as_raw_fd(), &address) {
                Ok(()) => break,
                Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(Errno::EAGAIN) => return Err(timed_out()),
                Err(errno) => return Err(errno.into()),
            }
        }
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(false)?;
        Ok(Self { fd: stream.into() })
    }

    /// Sets how long a wait lasts before the caller is asked whether to give up.
    ///
    /// # Errors
    /// What the system says.
    pub fn set_tick(&self, tick: Duration) -> io::Result<()> {
        let tick = tick.max(Duration::from_millis(1));
        let value = TimeVal::new(tick.as_secs().cast_signed(), i64::from(tick.subsec_micros()));
        socket::setsockopt(&self.fd, sockopt::ReceiveTimeout, &value)?;
        socket::setsockopt(&self.fd, sockopt::SendTimeout, &value)?;
        Ok(())
    }

    /// Receives at least one byte, or all of `buf` where `all` is set and nothing interrupts; 0 is the end.
    ///
    /// # Errors
    /// What the system says; a time-out when `expired` says so.
    pub fn recv(&self, buf: &mut [u8], all: bool, expired: Expired<'_>) -> io::Result<usize> {
        let flags = if all { MsgFlags::MSG_WAITALL } else { MsgFlags::empty() };
        loop {
            match socket::recv(self.fd.as_raw_fd(), buf, flags) {
                Ok(count) => return Ok(count),
                Err(Errno::EAGAIN) if expired() => return Err(timed_out()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends all bytes of both slices, in order.
    ///
    /// # Errors
    /// What the system says; a time-out when `expired` says so.
    pub fn send(&self, head: &[u8], payload: &[u8], expired: Expired<'_>) -> io::Result<()> {
        let mut slices = [IoSlice::new(head), IoSlice::new(payload)];
        let mut left = slices.as_mut_slice();
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            // A broken connection is an error here, never a signal.
            match socket::sendmsg::<UnixAddr>(self.fd.as_raw_fd(), left, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    IoSlice::advance_slices(&mut left, count);
                    if !left.is_empty() && expired() {
                        return Err(timed_out());
                    }
                }
                Err(Errno::EAGAIN) if expired() => return Err(timed_out()),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Ends the connection; threads that wait in it return.
    pub fn shutdown(&self) {
        // It may be closed already, which is as good.
        let _ = socket::shutdown(self.fd.as_raw_fd(), Shutdown::Both);
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { fd: stream.into() }
    }
}

/// The half that receives.
pub(super) struct ReadHalf {
    socket: Arc<Socket>,
    session: Option<Arc<Session>>,
}

impl ReadHalf {
    /// Receives at least one byte, at most `buf`, and not a byte more from a plain socket; 0 is the end.
    ///
    /// # Errors
    /// What the system or TLS says; a time-out when `expired` says so.
    pub fn recv(&mut self, buf: &mut [u8], all: bool, expired: Expired<'_>) -> io::Result<usize> {
        match &self.session {
            None => self.socket.recv(buf, all, expired),
            Some(session) => session.recv(&self.socket, buf, expired),
        }
    }

    /// Fills `buf`, and takes not a byte more from a plain socket.
    ///
    /// # Errors
    /// As [`recv`](Self::recv); an unexpected end of file when the server closed the connection.
    pub fn exact(&mut self, mut buf: &mut [u8], expired: Expired<'_>) -> io::Result<()> {
        while !buf.is_empty() {
            let count = self.recv(buf, false, expired)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
            buf = &mut buf[count..];
            if !buf.is_empty() && expired() {
                return Err(timed_out());
            }
        }
        Ok(())
    }
}

/// The half that sends.
pub(super) struct WriteHalf {
    socket: Arc<Socket>,
    session: Option<Arc<Session>>,
}

impl WriteHalf {
    /// Sends all bytes of both slices, in order.
    ///
    /// # Errors
    /// What the system or TLS says; a time-out when `expired` says so.
    pub fn send(&mut self, head: &[u8], payload: &[u8], expired: Expired<'_>) -> io::Result<()> {
        match &self.session {
            None => self.socket.send(head, payload, expired),
            Some(session) => session.send(&self.socket, head, payload, expired),
        }
    }
}

/// Both halves, before transmission.
pub(super) struct Stream {
    pub socket: Arc<Socket>,
    pub reader: ReadHalf,
    pub writer: WriteHalf,
}

impl Stream {
    /// Makes a stream of a socket, through TLS where there is a session.
    pub fn new(socket: Arc<Socket>, session: Option<Session>) -> Self {
        let session = session.map(Arc::new);
        Self {
            reader: ReadHalf { socket: Arc::clone(&socket), session: session.clone() },
            writer: WriteHalf { socket: Arc::clone(&socket), session },
            socket,
        }
    }
}
