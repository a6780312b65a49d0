//! Standard input that an interruption ends, also while nothing comes.

use crate::error::{IoContext, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How long it waits between two looks at whether it was interrupted, in milliseconds.
const PATIENCE: u8 = 100;

/// Standard input.
pub(super) struct Input {
    file: File,
    interrupted: Arc<AtomicBool>,
}

impl Input {
    /// Takes standard input; SIGINT and SIGTERM end what reads from it from here on.
    pub(super) fn new() -> Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).doing(|| "cannot handle signals")?;
        }
        let file = io::stdin().as_fd().try_clone_to_owned().doing(|| "cannot read standard input")?;
        Ok(Self { file: file.into(), interrupted })
    }
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                // Not the kind `Interrupted`, after which readers try again.
                return Err(io::Error::other("interrupted"));
            }
            match poll(&mut [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE)) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Ok(_) => return self.file.read(buf),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
