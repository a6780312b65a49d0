//! A program that serves an image by NBD, as a child of this process: `qemu-nbd` or `nbdkit`.
//!
//! The child gets a listening unix socket as systemd would pass it, to which our connections are already made; the
//! socket's private folder is gone before the child runs, so nobody else can connect and nothing is left behind. The
//! child ends when its last connection does, and is told to end (`SIGTERM`, at which it closes the image in order) when
//! this process dies in any other way.

use super::client::{NbdDevice, Options};
use super::stream::Socket;
use super::wire::printable;
use crate::block::{BlockDevice, Extent};
use crate::error::{Error, IoContext, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, Pid, access};
use parking_lot::{Condvar, Mutex};
use std::ffi::{CString, OsString, c_char};
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{env, thread};

/// How long the child may take to close an image before it is killed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How much of what the child says is kept, in bytes; the last of it.
const KEPT: usize = 4096;

/// The first file descriptor that systemd passes.
const LISTEN_FD: RawFd = 3;

/// Finds a program on the path.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// An export of a child. The connections end before the child is waited for.
pub(super) struct ChildDevice {
    device: NbdDevice,
    server: Server,
}

impl ChildDevice {
    /// Starts a program that serves `place` at the socket that it is passed, over as many connections as `options` say.
    ///
    /// # Errors
    /// That the program cannot be started; and what `why_not` makes of an error of the handshake, how the child ended and what
    /// it said.
    pub fn start(
        name: &'static str,
        program: PathBuf,
        arguments: Vec<OsString>,
        place: &str,
        writable: bool,
        options: &Options,
        why_not: impl FnOnce(Error, ExitStatus, &[u8]) -> Error,
    ) -> Result<Self> {
        let (listener, clients) =
            private_socket(options.connections).doing(|| format!("cannot make a socket for {name}"))?;
        let server = Server::start(name, program, arguments, listener)?;
        let sockets = clients.into_iter().map(Socket::from).collect();
        match NbdDevice::over_sockets(sockets, place.to_owned(), writable, options) {
            Ok(device) => Ok(Self { device, server }),
            Err(error) => Err(match server.end_now() {
                Some((status, said)) => why_not(error, status, &said),
                None => error,
            }),
        }
    }

    /// Says whether the child runs, as far as is known.
    pub fn is_running(&self) -> bool {
        self.server.watch.state.lock().ended.is_none()
    }

    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.server.explain(error))
    }
}

impl BlockDevice for ChildDevice {
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

/// Makes a listening socket and the connections to it, and removes its name.
fn private_socket(connections: usize) -> io::Result<(OwnedFd, Vec<UnixStream>)> {
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
    let clients = (0..connections).map(|_| UnixStream::connect(&name)).collect::<io::Result<_>>()?;
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
        if let Some(variable) = self.strings.last_mut() {
            write_number(&mut variable[LISTEN_PID.len() - 11..], nix::unistd::getpid().as_raw().unsigned_abs());
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

/// Writes a number in decimal and a NUL behind it. It begins with no zero, which nbdkit would take for the sign of octal digits.
fn write_number(out: &mut [u8], number: u32) {
    let mut divisor = 1_000_000_000;
    while divisor > 1 && number < divisor {
        divisor /= 10;
    }
    for place in out {
        if divisor == 0 {
            *place = 0;
            return;
        }
        *place = b'0' + (number / divisor % 10) as u8;
        divisor /= 10;
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

/// A running child. Dropping it waits for its end.
struct Server {
    /// What messages call the program.
    name: &'static str,
    watch: Arc<Watch>,
    keeper: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts the child from a thread that lives as long as it: the system watches the thread that made a child.
    fn start(name: &'static str, program: PathBuf, arguments: Vec<OsString>, listener: OwnedFd) -> Result<Self> {
        let watch = Arc::new(Watch::default());
        let (sender, started) = mpsc::channel();
        let kept = Arc::clone(&watch);
        let keeper = thread::Builder::new()
            .name(name.to_owned())
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
            .doing(|| format!("cannot start a thread for {name}"))?;
        let server = Self { name, watch, keeper: Some(keeper) };
        match started.recv() {
            Ok(result) => result.doing(|| format!("cannot start {name}"))?,
            Err(_) => return Err(Error::io(format!("cannot start {name}"), io::ErrorKind::Other.into())),
        }
        Ok(server)
    }

    /// Ends a child that serves nothing. One that failed has said why, and mostly ends by itself.
    fn end_now(&self) -> Option<(ExitStatus, Vec<u8>)> {
        self.watch.wait(Duration::from_millis(500)).or_else(|| {
            if let Some(child) = &self.watch.state.lock().child {
                // It may just have ended, which is as good.
                let _ = nix::sys::signal::kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
            }
            self.watch.wait(Duration::from_secs(2))
        })
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
            Some((status, said)) if said.is_empty() => error.at(format!("{} ended ({status})", self.name)),
            Some((status, said)) => error.at(format!("{} ended ({status}: {})", self.name, reason(self.name, &said))),
            None => error,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        let started = self.watch.state.lock().child.is_some();
        if started && self.watch.wait(CLOSE_TIMEOUT).is_none() {
            log::warn!("{} does not close its image; it is killed", self.name);
            if let Some(child) = &mut self.watch.state.lock().child {
                // It may just have ended, which is as good.
                let _ = child.kill();
            }
        }
        // A keeper that panicked has nothing left to keep.
        let _ = keeper.join();
    }
}

/// Makes one line of what a child said, without its own name.
pub(super) fn reason(name: &str, said: &[u8]) -> String {
    printable(said.strip_prefix([name.as_bytes(), b": "].concat().as_slice()).unwrap_or(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_no_zeroes_before_it() {
        for number in [0, 7, 10, 19112, 4_294_967_295] {
            let mut out = *b"xxxxxxxxxx\0";
            write_number(&mut out, number);
            let end = out.iter().position(|&byte| byte == 0).expect("a NUL");
            assert_eq!(out[..end], *number.to_string().as_bytes());
        }
    }

    #[test]
    fn the_socket_leaves_no_name_behind() {
        let (listener, clients) = private_socket(3).expect("a socket");
        assert_eq!(clients.len(), 3);
        let name = UnixListener::from(listener).local_addr().expect("an address");
        assert!(!name.as_pathname().expect("a path").exists());
    }
}
