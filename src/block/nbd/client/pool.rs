//! The connections of a client: which one a call uses, and what is done when one is lost.

use super::Client;
use super::target::same;
use crate::block::nbd::connection::{Connection, Failure};
use crate::block::nbd::wire::transmission;
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

/// The longest that a lost server is waited for between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a server that says it shuts down is left alone.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(50);

/// The state of a server that was lost.
#[derive(Default)]
pub(super) struct Lost {
    /// When it was last given up.
    given_up: Option<Instant>,
}

/// Whether a request may be sent again while the server may yet act on the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It changes nothing.
    Safe,
    /// It could undo what is written after it.
    Unsafe,
}

impl Client {
    /// Returns the connection to use next, making one where there is none.
    fn pick(self: &Arc<Self>) -> Result<Arc<Connection>> {
        {
            let pool = self.pool.read();
            if let Some(best) = pool.iter().min_by_key(|connection| connection.load()) {
                if best.load() > 0 && pool.len() < self.most.load(Ordering::Relaxed) {
                    self.grow();
                }
                return Ok(Arc::clone(best));
            }
        }
        self.connect_again()
    }

    /// Makes another connection in the background, unless one is being made.
    fn grow(self: &Arc<Self>) {
        if self.growing.swap(true, Ordering::AcqRel) {
            return;
        }
        let client = Arc::downgrade(self);
        let spawned = thread::Builder::new().name("nbd-connect".to_owned()).stack_size(256 << 10).spawn(move || {
            let Some(client) = client.upgrade() else { return };
            if let Err(error) = client.connect() {
                // A server may take one connection only, whatever it says.
                log::debug!("{}: no further connection: {error}", client.place);
                client.most.store(1, Ordering::Relaxed);
            }
            client.growing.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.most.store(1, Ordering::Relaxed);
        }
    }

    /// Makes a connection and adds it to the others.
    fn connect(&self) -> Result<Arc<Connection>> {
        let Some(target) = &self.target else {
            return Err(Error::io("the server is gone", io::ErrorKind::NotConnected.into()));
        };
        let (stream, export) = target.connect(self.options.connect_timeout)?;
        same(&self.export, &export)?;
        let connection = Connection::new(stream, &export, self.options.reply_timeout);
        let connection = Arc::new(connection.doing(|| "cannot use the connection")?);
        let mut pool = self.pool.write();
        if self.closed.load(Ordering::Acquire) {
            connection.disconnect();
            return Err(Error::io("the device is closed", io::ErrorKind::NotConnected.into()));
        }
        pool.push(Arc::clone(&connection));
        Ok(connection)
    }

    /// Connects to a server that was lost.
    fn connect_again(&self) -> Result<Arc<Connection>> {
        let began = Instant::now();
        let mut lost = self.lost.lock();
        if let Some(other) = self.pool.read().first() {
            return Ok(Arc::clone(other));
        }
        // Once it was given up, it is tried, but no longer waited for.
        let patience = if lost.given_up.is_some() { Duration::ZERO } else { self.options.reconnect_time };
        if lost.given_up.is_some_and(|when| when > began) {
            return Err(Error::io("the server is gone", io::ErrorKind::NotConnected.into()));
        }
        let mut pause = Duration::from_millis(20);
        loop {
            match self.connect() {
                Ok(connection) => {
                    log::info!("{}: connected again", self.place);
                    lost.given_up = None;
                    self.most.store(self.allowed, Ordering::Relaxed);
                    return Ok(connection);
                }
                Err(error) => {
                    let waited = began.elapsed();
                    let retry =
                        matches!(&error, Error::Io { source, .. } if source.kind() != io::ErrorKind::InvalidData);
                    if self.target.is_none() || !retry || waited + pause > patience {
                        lost.given_up = Some(Instant::now());
                        return Err(error.at("the connection is lost"));
                    }
                    log::debug!("{}: {error}; trying again", self.place);
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Leaves a connection that failed.
    pub(super) fn leave(&self, connection: &Arc<Connection>) {
        let mut pool = self.pool.write();
        let before = pool.len();
        pool.retain(|other| !Arc::ptr_eq(other, connection));
        if pool.len() < before {
            let mut writes = self.writes.lock();
            // Without a flush, a server's word for a write is for good.
            if self.export.has(transmission::FLUSH) && writes.begun > writes.durable {
                writes.doubtful = true;
            }
        }
    }

    /// Runs a call on a connection, and again on another when that is lost.
    pub(super) fn run<T>(
        self: &Arc<Self>,
        again: Again,
        doing: impl Fn() -> String,
        mut call: impl FnMut(&Connection) -> Result<T, Failure>,
    ) -> Result<T> {
        // Each connection of the pool may prove to be lost, one after another.
        let mut attempts = self.options.connections + 4;
        let mut late = again == Again::Safe;
        loop {
            let connection = self.pick().at(&doing).at(|| self.place.clone())?;
            let failure = match call(&connection) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            // A server that shuts down is as good as lost; another may take its place.
            let shutdown = matches!(&failure, Failure::Refused(refusal) if refusal.errno == libc::ESHUTDOWN);
            if shutdown || !matches!(failure, Failure::Refused(_)) {
                self.leave(&connection);
            }
            attempts -= 1;
            let retry = match failure {
                Failure::Lost(..) => true,
                // A connection may be dead without either end being told; once is enough to find out.
                Failure::TimedOut => std::mem::take(&mut late),
                Failure::Refused(_) | Failure::Broken(_) => shutdown,
            };
            if attempts == 0 || !retry {
                return Err(failure.into_error(format!("{}: cannot {}", self.place, doing())));
            }
            if shutdown {
                connection.disconnect();
                thread::sleep(SHUTDOWN_PAUSE);
            }
            log::info!("{}: a connection is lost", self.place);
        }
    }

    /// Runs a call that changes the export.
    pub(super) fn run_write(
        self: &Arc<Self>,
        doing: impl Fn() -> String,
        call: impl FnMut(&Connection) -> Result<(), Failure>,
    ) -> Result<()> {
        {
            let mut writes = self.writes.lock();
            writes.begun += 1;
            writes.running += 1;
        }
        let result = self.run(Again::Unsafe, doing, call);
        self.writes.lock().running -= 1;
        result
    }
}
