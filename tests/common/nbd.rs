//! NBD servers for the tests: real ones as children, and one in this process that says what a test wants.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

/// A server that runs as a child, behind a time limit.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a program.
    pub fn start(program: &str, arguments: &[impl AsRef<OsStr>]) -> Self {
        let child = Command::new("timeout")
            .args(["-k", "2", "60"])
            .arg(super::common::tool(program).expect("the test asked for it"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        Self { child }
    }

    /// Starts a program that listens at a unix socket, and waits until it does.
    pub fn at_socket(program: &str, arguments: &[impl AsRef<OsStr>], socket: &Path) -> Self {
        let mut server = Self::start(program, arguments);
        let deadline = Instant::now() + Duration::from_secs(15);
        while !socket.exists() || UnixStream::connect(socket).is_err() {
            assert!(Instant::now() < deadline, "{program} does not listen");
            assert!(server.child.try_wait().expect("waits").is_none(), "{program} ended");
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// Ends it at once.
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Starts nbdkit at a socket in `folder`.
pub fn nbdkit(folder: &Path, arguments: &[&str]) -> (Server, PathBuf) {
    let socket = folder.join("nbdkit.sock");
    let _ = fs::remove_file(&socket);
    let mut all = vec!["-f".to_owned(), "--exit-with-parent".to_owned(), "-U".to_owned(), text(&socket)];
    all.extend(arguments.iter().map(|&argument| argument.to_owned()));
    (Server::at_socket("nbdkit", &all, &socket), socket)
}

/// Returns a path as text.
pub fn text(path: &Path) -> String {
    path.to_str().expect("a path of the test is UTF-8").to_owned()
}

/// Returns the URI of an export at a unix socket.
pub fn unix_uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", text(socket))
}

/// How the server of a test answers in transmission.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Simple,
    Structured,
    Extended,
}

pub const HAS_FLAGS: u16 = 1;
pub const READ_ONLY: u16 = 2;
pub const FLUSH: u16 = 4;
pub const MULTI_CONN: u16 = 256;
pub const CACHE: u16 = 1024;

/// A request that the server of a test has read.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u64,
}

/// One connection of the server of a test.
pub struct Peer {
    pub stream: UnixStream,
    pub style: Style,
    /// Which connection it is, from 0.
    pub number: usize,
}

impl Peer {
    pub fn read(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn answer(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        self.send(&option_reply(option, kind, data))
    }

    /// Plays an honest server's part of the handshake.
    pub fn handshake(&mut self, size: u64, flags: u16, blocks: Option<[u32; 3]>) -> io::Result<()> {
        self.send(b"NBDMAGICIHAVEOPT\x00\x03")?;
        self.read(4)?;
        loop {
            let head = self.read(16)?;
            let option = be32(&head, 8);
            let data = self.read(be32(&head, 12) as usize)?;
            match option {
                11 if self.style == Style::Extended => self.answer(option, 1, &[])?,
                8 if self.style == Style::Structured => self.answer(option, 1, &[])?,
                10 => {
                    self.answer(option, 4, b"\x00\x00\x00\x07base:allocation")?;
                    self.answer(option, 1, &[])?;
                }
                7 => {
                    let _ = data;
                    let export = [&[0, 0], &size.to_be_bytes()[..], &flags.to_be_bytes()].concat();
                    self.answer(option, 3, &export)?;
                    if let Some(blocks) = blocks {
                        let mut info = vec![0, 3];
                        for block in blocks {
                            info.extend_from_slice(&block.to_be_bytes());
                        }
                        self.answer(option, 3, &info)?;
                    }
                    return self.answer(option, 1, &[]);
                }
                _ => self.answer(option, (1 << 31) | 1, &[])?,
            }
        }
    }

    /// Reads a request's header.
    pub fn request(&mut self) -> io::Result<Request> {
        let extended = self.style == Style::Extended;
        let head = self.read(if extended { 32 } else { 28 })?;
        let len = if extended { be64(&head, 24) } else { u64::from(be32(&head, 24)) };
        let short = |at| u16::from_be_bytes([head[at], head[at + 1]]);
        Ok(Request { flags: short(4), command: short(6), cookie: be64(&head, 8), offset: be64(&head, 16), len })
    }

    /// Sends the header of a simple reply.
    pub fn simple(&mut self, error: u32, cookie: u64) -> io::Result<()> {
        self.send(&[&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat())
    }

    /// Sends a chunk whose header tells `len`, whatever the payload's length is.
    pub fn chunk(&mut self, flags: u16, kind: u16, cookie: u64, len: u64, payload: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        let extended = self.style == Style::Extended;
        bytes.extend_from_slice(&(if extended { 0x6e8a_278c_u32 } else { 0x668e_33ef }).to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        if extended {
            bytes.extend_from_slice(&[0; 8]);
            bytes.extend_from_slice(&len.to_be_bytes());
        } else {
            bytes.extend_from_slice(&(len as u32).to_be_bytes());
        }
        bytes.extend_from_slice(payload);
        self.send(&bytes)
    }

    /// Sends a data chunk.
    pub fn data(&mut self, flags: u16, cookie: u64, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let payload = [&offset.to_be_bytes()[..], bytes].concat();
        self.chunk(flags, 1, cookie, payload.len() as u64, &payload)
    }
}

/// Makes one reply to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
    for number in [option, kind, data.len() as u32] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend_from_slice(data);
    bytes
}

pub fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// A server in this process: `serve` plays each connection, in a thread of its own.
pub struct Fake {
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
    pub connections: Arc<AtomicUsize>,
}

impl Fake {
    pub fn new(style: Style, serve: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
        let stop = Arc::new(AtomicBool::new(false));
        let connections = Arc::new(AtomicUsize::new(0));
        let (stopped, counter, serve) = (Arc::clone(&stop), Arc::clone(&connections), Arc::new(serve));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let number = counter.fetch_add(1, Ordering::AcqRel);
                let (stream, serve) = (stream.expect("a connection"), Arc::clone(&serve));
                thread::spawn(move || {
                    let mut peer = Peer { stream, style, number };
                    // What a test looks at is what the client makes of it.
                    let _ = serve(&mut peer);
                });
            }
        });
        Self { folder, stop, connections }
    }

    pub fn uri(&self) -> String {
        unix_uri(&self.folder.path().join("s"), "disk")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let _ = UnixStream::connect(self.folder.path().join("s"));
    }
}
