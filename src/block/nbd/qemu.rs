//! Images that `qemu-nbd` reads for us: every format that QEMU knows.
//!
//! The child gets a listening unix socket as systemd would pass it, to which our connections are already made; the
//! socket's private folder is gone before the child runs, so nobody else can connect and nothing is left behind. The
//! child ends when its last connection does, and is told to end (`SIGTERM`, at which it closes the image in order) when
//! this process dies in any other way. Names of images are never read as options, protocols or JSON.
//!
//! Assumes that whoever calls has checked which other files the image refers to (backing files, extents): QEMU opens
//! them.

use super::client::{NbdDevice, Options};
use super::stream::Socket;
use super::wire::printable;
use crate::block::{BlockDevice, Extent, SharedDevice};
use crate::error::{Error, ErrorContext, IoContext, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, Pid, access};
use parking_lot::{Condvar, Mutex};
use std::ffi::{CString, OsStr, OsString, c_char};
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

/// The connections to one child: as many callers as this read straight into their own buffers at once.
const CONNECTIONS: usize = 4;

/// How long the child may take to open an image. One that fails says so at once.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the child may be silent while it owes a reply: as long as the storage below may hang.
const REPLY_TIMEOUT: Duration = Duration::from_secs(300);

/// How long the child may take to close an image before it is killed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of what the child says is kept, in bytes; the last of it.
const KEPT: usize = 4096;

/// The first file descriptor that systemd passes.
const LISTEN_FD: RawFd = 3;

/// How an image is opened by `qemu-nbd`.
#[derive(Clone, Copy, Debug, Default)]
pub struct QemuOptions<'a> {
    /// QEMU's name of the format; found out by QEMU where it is not given.
    pub format: Option<&'a str>,
    /// The internal snapshot to show, by its number or name; for reading only.
    pub snapshot: Option<&'a str>,
    /// Whether it is opened for writing.
    pub writable: bool,
    /// Whether what is discarded or zeroed gives its space back to the host.
    pub discard: bool,
    /// Whether it is opened even where another process, such as a running machine, holds its lock.
    pub force: bool,
    /// Where the image lies in the file and how long it is, in bytes, where it is not all of it.
    pub range: Option<(u64, u64)>,
}

/// Opens an image by a `qemu-nbd` child, which lives as long as the device.
///
/// # Errors
/// [`Error::NotFound`] when `qemu-nbd` is not installed or the image has no such snapshot, [`Error::InUse`] when another
/// process holds the image, [`Error::NotAnImage`] with QEMU's words when it cannot open it.
pub fn open(path: &Path, options: &QemuOptions<'_>) -> Result<SharedDevice> {
    if options.writable && options.snapshot.is_some() {
        return Err(Error::Usage("a snapshot of an image can be read only".into()));
    }
    let place = path.display().to_string();
    let opened = || {
        let program = find_program()?;
        let arguments = arguments(path, options)?;
        let (listener, clients) = private_socket().doing(|| "cannot make a socket for qemu-nbd")?;
        let image = arguments.last().cloned().unwrap_or_default();
        let server = Server::start(program, arguments, listener)?;
        let patience = Options {
            connections: CONNECTIONS,
            connect_timeout: OPEN_TIMEOUT,
            reply_timeout: REPLY_TIMEOUT,
            reconnect_time: Duration::ZERO,
        };
        let sockets = clients.into_iter().map(Socket::from).collect();
        match NbdDevice::over_sockets(sockets, place.clone(), options.writable, &patience) {
            Ok(device) => Ok(QemuDevice { device, server }),
            Err(error) => Err(server.why_not_opened(error, &image)),
        }
    };
    Ok(Arc::new(opened().at(|| place.clone())?))
}

fn find_program() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join("qemu-nbd"))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| Error::NotFound("this image needs qemu-nbd, of the package qemu-utils, on the PATH".into()))
}

/// Returns the arguments of `qemu-nbd` for an image.
fn arguments(path: &Path, options: &QemuOptions<'_>) -> Result<Vec<OsString>> {
    // What the system says of a file that is missing or forbidden is clearer than what QEMU says.
    let file = File::options().read(true).write(options.writable).open(path).doing(|| "cannot open it".to_owned())?;
    let kind = file.metadata().doing(|| "cannot look at it")?.file_type();
    let absolute = std::path::absolute(path).doing(|| "cannot tell its absolute path")?;

    let mut image = OsString::new();
    if let Some(format) = options.format {
        push_option(&mut image, "driver", OsStr::new(format));
    }
    let driver = OsStr::new(if kind.is_block_device() { "host_device" } else { "file" });
    match options.range {
        None => {
            push_option(&mut image, "file.driver", driver);
            push_option(&mut image, "file.filename", absolute.as_os_str());
        }
        Some((offset, size)) => {
            push_option(&mut image, "file.driver", OsStr::new("raw"));
            push_option(&mut image, "file.offset", OsStr::new(&offset.to_string()));
            push_option(&mut image, "file.size", OsStr::new(&size.to_string()));
            push_option(&mut image, "file.file.driver", driver);
            push_option(&mut image, "file.file.filename", absolute.as_os_str());
        }
    }
    if options.force {
        // Sharing is for readers only; a writer goes without locks.
        let (name, value) = if options.writable { ("file.locking", "off") } else { ("force-share", "on") };
        push_option(&mut image, name, OsStr::new(value));
    }

    let shared = format!("--shared={CONNECTIONS}");
    let mut list: Vec<OsString> = vec![shared.into(), "--cache=writeback".into(), "--aio=threads".into()];
    if !options.writable {
        list.push("--read-only".into());
    }
    if options.discard {
        list.push("--discard=unmap".into());
        list.push("--detect-zeroes=unmap".into());
    }
    if let Some(snapshot) = options.snapshot {
        // The name of a snapshot that looks like options is told as one.
        list.push(if snapshot.starts_with("snapshot.") {
            format!("--load-snapshot=snapshot.name={}", snapshot.replace(',', ",,")).into()
        } else {
            format!("--load-snapshot={snapshot}").into()
        });
    }
    list.push("--image-opts".into());
    list.push(image);
    Ok(list)
}

/// Appends `name=value`; a comma in the value is doubled, as QEMU reads it.
fn push_option(out: &mut OsString, name: &str, value: &OsStr) {
    if !out.is_empty() {
        out.push(",");
    }
    out.push(name);
    out.push("=");
    let mut bytes = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    out.push(OsString::from_vec(bytes));
}

/// Makes a listening socket and the connections to it, and removes its name.
fn private_socket() -> io::Result<(OwnedFd, Vec<UnixStream>)> {
    let private = |folder: &Path| {
        tempfile::Builder::new().prefix("guestctl-").permissions(Permissions::from_mode(0o700)).tempdir_in(folder)
    };
    let mut folder = private(&env::temp_dir())?;
    // A socket's address is short; the folder for temporary files may be deep.
    let listener = match UnixListener::bind(folder.path().join("nbd")) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            folder = private(Path::new("/tmp"))?;
            UnixListener::bind(folder.path().join("nbd"))?
        }
        other => other?,
    };
    let name = folder.path().join("nbd");
    let clients = (0..CONNECTIONS).map(|_| UnixStream::connect(&name)).collect::<io::Result<_>>()?;
    folder.close()?;
    Ok((listener.into(), clients))
}

/// A program, its arguments and its environment, as `execve` takes them.
struct Exec {
    /// The strings, each with its NUL. The first is the program, the variable with the process id comes last.
    strings: Vec<Vec<u8>>,
    /// Addresses of the arguments, and a null.
    argv: Vec<usize>,
    /// Addresses of the environment's variables, and a null.
    envp: Vec<usize>,
}

/// The variable by which a child knows that the sockets are meant for it; its digits are filled in by the child.
const LISTEN_PID: &[u8] = b"LISTEN_PID=0000000000\0";

impl Exec {
    fn new(program: &Path, arguments: &[OsString]) -> io::Result<Self> {
        let string = |bytes: Vec<u8>| CString::new(bytes).map(CString::into_bytes_with_nul).map_err(io::Error::from);
        let mut strings = vec![string(program.as_os_str().as_bytes().to_vec())?];
        for argument in arguments {
            strings.push(string(argument.as_bytes().to_vec())?);
        }
        let count = strings.len();
        for (name, value) in env::vars_os() {
            if !name.as_bytes().starts_with(b"LISTEN_") {
                strings.push(string([name.as_bytes(), b"=", value.as_bytes()].concat())?);
            }
        }
        strings.push(string(b"LISTEN_FDS=1".to_vec())?);
        strings.push(LISTEN_PID.to_vec());
        let address = |string: &Vec<u8>| string.as_ptr().addr();
        let argv = strings[..count].iter().map(address).chain([0]).collect();
        let envp = strings[count..].iter().map(address).chain([0]).collect();
        Ok(Self { strings, argv, envp })
    }

    /// Becomes the program, with `listener` as its first passed socket. Runs between `fork` and `exec`.
    fn run(&mut self, listener: RawFd, parent: Pid) -> io::Error {
        // A parent that died before it could be watched sends no signal.
        if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM) {
            return errno.into();
        }
        if nix::unistd::getppid() != parent {
            return io::Error::from_raw_os_error(libc::ESRCH);
        }
        let mut pid = nix::unistd::getpid().as_raw();
        if let Some(variable) = self.strings.last_mut() {
            let digits = LISTEN_PID.len() - 11..LISTEN_PID.len() - 1;
            for digit in variable[digits].iter_mut().rev() {
                *digit = b'0' + (pid % 10) as u8;
                pid /= 10;
            }
        }
        // SAFETY: plain system calls. The addresses are those of NUL-terminated strings that `self` owns and does not
        // move, and both lists end with a null.
        unsafe {
            let passed = if listener == LISTEN_FD {
                libc::fcntl(LISTEN_FD, libc::F_SETFD, 0)
            } else {
                libc::dup2(listener, LISTEN_FD)
            };
            if passed >= 0 {
                let argv = self.argv.as_ptr().cast::<*const c_char>();
                libc::execve(self.strings[0].as_ptr().cast(), argv, self.envp.as_ptr().cast());
            }
        }
        io::Error::last_os_error()
    }
}

/// Starts the child, whose standard error is a pipe.
fn spawn(program: &Path, arguments: &[OsString], listener: OwnedFd) -> io::Result<Child> {
    let mut exec = Exec::new(program, arguments)?;
    // At 3 or above: what the standard library needs between fork and exec is then not at 3.
    let raised = fcntl(&listener, FcntlArg::F_DUPFD_CLOEXEC(LISTEN_FD))?;
    // SAFETY: the system just made this descriptor, and nothing else owns it.
    let listener = unsafe { OwnedFd::from_raw_fd(raised) };
    let parent = nix::unistd::getpid();
    let mut command = Command::new(program);
    // A group of its own, so that an interrupt at the terminal does not end it before its device is flushed.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: the closure allocates nothing and makes only system calls that are safe after fork.
    unsafe {
        command.pre_exec(move || Err(exec.run(listener.as_raw_fd(), parent)));
    }
    // The closure, and with it our end of the listening socket, goes with `command`.
    command.spawn()
}

#[derive(Default)]
struct State {
    child: Option<Child>,
    said: Vec<u8>,
    ended: Option<ExitStatus>,
}

#[derive(Default)]
struct Watch {
    state: Mutex<State>,
    changed: Condvar,
}

impl Watch {
    /// Reads what the child says until it ends, and reaps it.
    fn keep(&self, mut stderr: ChildStderr) {
        let mut bytes = [0; 1024];
        while let Ok(count) = stderr.read(&mut bytes) {
            if count == 0 {
                break;
            }
            let said = &mut self.state.lock().said;
            said.extend_from_slice(&bytes[..count]);
            let surplus = said.len().saturating_sub(KEPT);
            said.drain(..surplus);
        }
        let mut pause = Duration::from_millis(1);
        loop {
            {
                let mut state = self.state.lock();
                match state.child.as_mut().map(Child::try_wait) {
                    Some(Ok(None)) => {}
                    Some(Ok(Some(status))) => state.ended = Some(status),
                    Some(Err(_)) | None => state.ended = Some(ExitStatus::default()),
                }
                if state.ended.is_some() {
                    self.changed.notify_all();
                    return;
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Waits for the child to end. Returns how it ended and what it said.
    fn wait(&self, patience: Duration) -> Option<(ExitStatus, Vec<u8>)> {
        let deadline = Instant::now() + patience;
        let mut state = self.state.lock();
        while state.ended.is_none() {
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.ended.map(|status| (status, state.said.clone()))
    }
}

/// Makes one line of what the child said, without its own name and the options that describe the image.
fn reason(said: &[u8], image: &[u8]) -> String {
    let said = said.strip_prefix(b"qemu-nbd: ").unwrap_or(said);
    let described = [b"Failed to blk_new_open '", image, b"': "].concat();
    printable(said.strip_prefix(described.as_slice()).unwrap_or(said))
}

/// A running `qemu-nbd`. Dropping it waits for its end.
struct Server {
    watch: Arc<Watch>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts the child from a thread that lives as long as it: the system watches the thread that made a child.
    fn start(program: PathBuf, arguments: Vec<OsString>, listener: OwnedFd) -> Result<Self> {
        let watch = Arc::new(Watch::default());
        let (sender, started) = mpsc::channel();
        let kept = Arc::clone(&watch);
        let keeper = thread::Builder::new()
            .name("qemu-nbd".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                let stderr = match spawn(&program, &arguments, listener) {
                    Ok(mut child) => {
                        let stderr = child.stderr.take();
                        kept.state.lock().child = Some(child);
                        // Whoever asked waits for this word.
                        let _ = sender.send(Ok(()));
                        stderr
                    }
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        None
                    }
                };
                if let Some(stderr) = stderr {
                    kept.keep(stderr);
                }
            })
            .doing(|| "cannot start a thread for qemu-nbd")?;
        let server = Self { watch, keeper: Some(keeper) };
        match started.recv() {
            Ok(result) => result.doing(|| "cannot start qemu-nbd")?,
            Err(_) => return Err(Error::io("cannot start qemu-nbd", io::ErrorKind::Other.into())),
        }
        Ok(server)
    }

    /// Returns why the child did not open its image, given how the connection failed.
    fn why_not_opened(&self, error: Error, image: &OsStr) -> Error {
        let Some((status, said)) = self.watch.wait(Duration::from_secs(2)) else { return error };
        let said = reason(&said, image.as_bytes());
        if said.contains("another process using") {
            return Error::InUse(format!("another process, such as a running machine, uses it ({said})").into());
        }
        if said.contains("find snapshot") || said.contains("find the snapshot") || said.contains("load snapshot") {
            return Error::NotFound(format!("it has no such snapshot ({said})").into());
        }
        if said.is_empty() {
            return error.at(format!("qemu-nbd ended ({status})"));
        }
        Error::NotAnImage(format!("qemu-nbd cannot open it: {said}").into())
    }

    /// Adds to the error of a lost connection why the child ended.
    fn explain(&self, error: Error) -> Error {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected, UnexpectedEof};
        let lost = match error.root() {
            Error::Io { source, .. } => {
                matches!(source.kind(), BrokenPipe | ConnectionReset | NotConnected | UnexpectedEof)
            }
            _ => false,
        };
        match lost.then(|| self.watch.wait(Duration::from_millis(500))).flatten() {
            Some((status, said)) if said.is_empty() => error.at(format!("qemu-nbd ended ({status})")),
            Some((status, said)) => error.at(format!("qemu-nbd ended ({status}: {})", reason(&said, &[]))),
            None => error,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        let started = self.watch.state.lock().child.is_some();
        if started && self.watch.wait(CLOSE_TIMEOUT).is_none() {
            log::warn!("qemu-nbd does not close its image; it is killed");
            if let Some(child) = &mut self.watch.state.lock().child {
                // It may just have ended, which is as good.
                let _ = child.kill();
            }
        }
        // A keeper that panicked has nothing left to keep.
        let _ = keeper.join();
    }
}

/// An image that a child reads. The connections end before the child is waited for.
struct QemuDevice {
    device: NbdDevice,
    server: Server,
}

impl QemuDevice {
    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.server.explain(error))
    }
}

impl BlockDevice for QemuDevice {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn is_read_only(&self) -> bool {
        self.device.is_read_only()
    }

    fn sector_size(&self) -> u32 {
        self.device.sector_size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.explained(self.device.read_at(buf, offset))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.explained(self.device.write_at(buf, offset))
    }

    fn flush(&self) -> Result<()> {
        self.explained(self.device.flush())
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        self.explained(self.device.write_zeroes(offset, len, keep_space))
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.explained(self.device.discard(offset, len))
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        self.explained(self.device.map(offset, len))
    }

    fn prefetch(&self, offset: u64, len: u64) {
        self.device.prefetch(offset, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_an_option() {
        let mut out = OsString::new();
        push_option(&mut out, "driver", OsStr::new("raw"));
        push_option(&mut out, "file.filename", OsStr::new("/a,b=c,,d"));
        assert_eq!(out, "driver=raw,file.filename=/a,,b=c,,,,d");
    }

    #[test]
    fn the_socket_leaves_no_name_behind() {
        let (listener, clients) = private_socket().expect("a socket");
        assert_eq!(clients.len(), CONNECTIONS);
        let name = UnixListener::from(listener).local_addr().expect("an address");
        assert!(!name.as_pathname().expect("a path").exists());
    }
}
