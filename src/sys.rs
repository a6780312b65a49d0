//! The few system calls that have no safe wrapper.

use crate::error::{Error, Result};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Takes over a file descriptor that this process inherited.
///
/// # Errors
/// [`Error::Usage`] when no file is open there.
#[expect(unsafe_code, reason = "an inherited descriptor is only known by its number")]
pub fn take_fd(fd: RawFd) -> Result<OwnedFd> {
    // SAFETY: F_GETFD reads no memory; a number that is not open gives EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(Error::Usage(format!("file descriptor {fd} is not open").into()));
    }
    // SAFETY: the descriptor is open, and the caller was given it to own.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that forked.
    Parent,
    /// The new process.
    Child,
}

/// Forks. The caller must not have started a thread.
///
/// # Errors
/// [`Error::Io`] when the host has no room for another process.
#[expect(unsafe_code, reason = "fork has no safe wrapper")]
pub fn fork() -> Result<Fork> {
    // SAFETY: only this thread exists (the caller's promise), so the child may go on as the parent would.
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { .. }) => Ok(Fork::Parent),
        Ok(nix::unistd::ForkResult::Child) => Ok(Fork::Child),
        Err(errno) => Err(Error::io("cannot start the serving process", errno.into())),
    }
}

/// Lets a write to a closed pipe end the program, as it does other Unix tools.
#[expect(unsafe_code, reason = "setting a signal's disposition has no safe wrapper")]
pub fn default_sigpipe() {
    // SAFETY: the default disposition runs no code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Lets a write to a closed pipe fail instead.
#[expect(unsafe_code, reason = "setting a signal's disposition has no safe wrapper")]
pub fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Keeps the allocator's arenas few: each reserves 64 MiB of addresses, which a limit on them would count.
#[expect(unsafe_code, reason = "mallopt has no safe wrapper")]
pub fn limit_allocator_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and is called before any thread starts.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Asks the host to begin writing what a file has in its page cache; does not wait for it. A hint: what the system answers
/// changes nothing.
#[expect(unsafe_code, reason = "sync_file_range has no safe wrapper")]
pub fn start_writeback(file: &File) {
    // SAFETY: the descriptor is open as long as the borrow lives, and no memory is handed over. A length of 0 means to the
    // end of the file.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Returns the limit on this process's addresses (`ulimit -v`), in bytes, where there is one.
pub fn address_limit() -> Option<u64> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_AS).ok()?;
    (soft != libc::RLIM_INFINITY).then_some(soft)
}
