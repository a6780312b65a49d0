//! Which transactions there are, and who waits for what.

use crate::error::{Error, Result};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// A transaction, counted from when the store was opened. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub(super) u64);

/// Something to be done once a transaction is durable.
pub type AfterCommit = Box<dyn FnOnce() + Send>;

/// The transaction that handles join.
pub(super) struct Running {
    pub(super) tid: Tid,
    pub(super) started: Instant,
    /// How many handles are open.
    pub(super) handles: usize,
    /// Nobody may join: it waits for its handles, to be committed.
    pub(super) is_closing: bool,
    /// Data outside of the log must be durable before it is.
    pub(super) has_data: bool,
    /// Somebody waits for all that was written, even if nothing of it is the transaction's.
    pub(super) must_flush: bool,
    pub(super) after: Vec<AfterCommit>,
}

/// Why nothing is written any more.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    what: Arc<str>,
    errno: i32,
}

impl Failure {
    pub(super) fn new(error: &Error) -> Self {
        Self { what: error.to_string().into(), errno: error.errno() }
    }

    /// Returns the error once more.
    pub(super) fn error(&self) -> Error {
        Error::io(
            format!("the filesystem is read-only since a failure: {}", self.what),
            io::Error::from_raw_os_error(self.errno),
        )
    }
}

/// Which transactions there are.
pub(super) struct State {
    pub(super) running: Option<Running>,
    pub(super) committing: Option<Tid>,
    /// The newest transaction that is durable.
    pub(super) committed: Tid,
    /// Transactions up to this one shall be committed now.
    pub(super) wanted: Tid,
    pub(super) failure: Option<Failure>,
    /// No handle is given out any more.
    pub(super) is_closed: bool,
    /// The committing thread has nothing more to do.
    pub(super) is_stopped: bool,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            running: None,
            committing: None,
            committed: Tid(0),
            wanted: Tid(0),
            failure: None,
            is_closed: false,
            is_stopped: false,
        }
    }

    /// Returns the transaction that handles join; makes it where there is none.
    pub(super) fn running(&mut self) -> &mut Running {
        let Self { running, committing, committed, .. } = self;
        running.get_or_insert_with(|| Running {
            tid: Tid(committing.unwrap_or(*committed).0 + 1),
            started: Instant::now(),
            handles: 0,
            is_closing: false,
            has_data: false,
            must_flush: false,
            after: Vec::new(),
        })
    }

    /// Returns the newest transaction that is not durable.
    pub(super) fn newest(&self) -> Option<Tid> {
        self.running.as_ref().map(|running| running.tid).or(self.committing)
    }

    /// # Errors
    /// `EROFS` when nothing may be changed any more.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.failure.is_some() || self.is_closed { Err(Error::Errno(libc::EROFS)) } else { Ok(()) }
    }
}
