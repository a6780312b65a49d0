//! One connection in transmission: many callers, many requests in flight.
//!
//! There is no thread of its own. Of the callers that wait for replies, one leads: it reads the socket, its own data
//! straight into its buffer, that of others into buffers that they copy from. When its own call is complete, another
//! that waits takes the lead. A lone caller thus sends and receives in its own thread, and nothing is woken.
//!
//! No reply is waited for by nobody, except that of a prefetch, which is short; so the server is never kept from reading
//! requests by replies that are not read, for as long as all requests of one read are sent at once.
//!
//! Every reply is checked against its request: its cookie, its kind, its length, that each byte comes once and none is
//! left out. What does not fit fails the connection and all calls on it.

mod failure;
mod reader;
mod replies;

pub(super) use failure::Failure;

use super::chunks::{Awaited, Coverage, Refusal};
use super::handshake::Export;
use super::stream::{Socket, Stream, WriteHalf};
use super::wire::{Command, Request, Style};
use parking_lot::{Mutex, MutexGuard};
use reader::Reader;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// The most requests of one read that are sent at once. Few enough that a socket's buffer holds them all.
const READS_AT_ONCE: usize = 64;

/// The most requests of one write that are in flight.
const WRITES_AT_ONCE: usize = 16;

/// The most prefetches in flight. More are dropped.
const PREFETCHES: usize = 16;

/// The most buffers that are kept for the data of callers that do not lead.
const SPARES: usize = 8;

/// A call ends after this many time-outs, even when others are answered meanwhile.
const PATIENCE: u32 = 10;

/// A range of the export that holds the same throughout: its length in bytes and its state bits.
pub(super) type State = (u64, u64);

/// Data that another caller read for a call: where it goes, the bytes, and which of them came.
struct Delivered {
    start: usize,
    bytes: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

#[derive(Default)]
struct Outcome {
    refusal: Option<Refusal>,
    delivered: Vec<Delivered>,
    states: Vec<State>,
}

/// One caller that waits for the replies to its requests.
struct Call {
    thread: Thread,
    started: Instant,
    /// The requests that are not answered.
    left: AtomicUsize,
    outcome: Mutex<Outcome>,
}

impl Call {
    fn new(requests: usize) -> Arc<Self> {
        Arc::new(Self {
            thread: thread::current(),
            started: Instant::now(),
            left: AtomicUsize::new(requests),
            outcome: Mutex::default(),
        })
    }

    fn is_complete(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }
}

/// A request in flight.
struct Pending {
    /// Who waits for it; nobody waits for a prefetch.
    call: Option<Arc<Call>>,
    awaited: Awaited,
    chunks: usize,
    coverage: Coverage,
    refusal: Option<Refusal>,
    states: Vec<State>,
    /// The data that a caller other than the one who waits has read, and which of it came.
    inbox: Option<(Vec<u8>, Vec<Range<usize>>)>,
}

struct Shared {
    /// The half that receives, while nobody leads.
    reader: Option<Box<Reader>>,
    pending: HashMap<u64, Pending>,
    /// Callers that sleep until their call is complete or the lead is free.
    waiters: Vec<Arc<Call>>,
    failure: Option<Failure>,
    next_cookie: u64,
    prefetches: usize,
    spares: Vec<Vec<u8>>,
}

struct Sender {
    stream: WriteHalf,
    headers: Vec<u8>,
}

/// A connection in transmission.
///
/// `sender` is taken before `shared`; `shared` is never held over I/O.
pub(super) struct Connection {
    sender: Mutex<Sender>,
    shared: Mutex<Shared>,
    socket: Arc<Socket>,
    style: Style,
    allocation: Option<u32>,
    timeout: Duration,
    born: Instant,
    /// When a request was last answered, in milliseconds since `born`.
    answered: AtomicU64,
    load: AtomicUsize,
    /// A write through it was answered since it was last asked to flush.
    dirty: AtomicBool,
}

/// Counts a call while it runs.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(load: &'a AtomicUsize) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Makes a connection of a stream whose handshake is done. A request waits at most `timeout` for progress.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub fn new(stream: Stream, export: &Export, timeout: Duration) -> io::Result<Self> {
        stream.socket.set_tick((timeout / 8).min(Duration::from_secs(1)))?;
        let reader = Reader::new(stream.reader);
        Ok(Self {
            sender: Mutex::new(Sender { stream: stream.writer, headers: Vec::new() }),
            shared: Mutex::new(Shared {
                reader: Some(Box::new(reader)),
                pending: HashMap::new(),
                waiters: Vec::new(),
                failure: None,
                next_cookie: 1,
                prefetches: 0,
                spares: Vec::new(),
            }),
            socket: stream.socket,
            style: export.style,
            allocation: export.allocation,
            timeout,
            born: Instant::now(),
            answered: AtomicU64::new(0),
            load: AtomicUsize::new(0),
            dirty: AtomicBool::new(false),
        })
    }

    /// Returns how many calls use it now.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Says whether a write through it was answered since this was last asked.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Fills `buf` from `offset`, by requests of at most `part` bytes.
    ///
    /// # Errors
    /// Why it failed.
    pub fn read(&self, buf: &mut [u8], offset: u64, part: usize) -> Result<(), Failure> {
        let _busy = Busy::new(&self.load);
        let mut at = offset;
        for batch in buf.chunks_mut(part * READS_AT_ONCE) {
            let call = Call::new(batch.len().div_ceil(part));
            let requests = (0..batch.len()).step_by(part).map(|start| {
                let len = part.min(batch.len() - start);
                let offset = at + start as u64;
                let request = Request { command: Command::Read, flags: 0, offset, len: len as u64 };
                (request, Awaited::Data { start, offset, len })
            });
            self.send(Some(&call), requests, &[])?;
            self.wait(&call, batch)?;
            at += batch.len() as u64;
        }
        Ok(())
    }

    /// Writes all of `buf` at `offset`, by requests of at most `part` bytes.
    ///
    /// # Errors
    /// Why it failed.
    pub fn write(&self, buf: &[u8], offset: u64, flags: u16, part: usize) -> Result<(), Failure> {
        let _busy = Busy::new(&self.load);
        let mut at = offset;
        for batch in buf.chunks(part * WRITES_AT_ONCE) {
            let call = Call::new(batch.len().div_ceil(part));
            for payload in batch.chunks(part) {
                let request = Request { command: Command::Write, flags, offset: at, len: payload.len() as u64 };
                self.send(Some(&call), [(request, Awaited::Done)].into_iter(), payload)?;
                at += payload.len() as u64;
            }
            self.wait(&call, &mut [])?;
        }
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Has a command without data done for a range, by requests of at most `part` bytes.
    ///
    /// # Errors
    /// Why it failed.
    pub fn command(&self, command: Command, flags: u16, offset: u64, len: u64, part: u64) -> Result<(), Failure> {
        let _busy = Busy::new(&self.load);
        let mut done = 0;
        loop {
            let left = len - done;
            let count = left.div_ceil(part).clamp(1, WRITES_AT_ONCE as u64);
            let call = Call::new(count as usize);
            let requests = (0..count).map(|number| {
                let start = done + number * part;
                let request = Request { command, flags, offset: offset + start, len: part.min(len - start) };
                (request, Awaited::Done)
            });
            self.send(Some(&call), requests, &[])?;
            self.wait(&call, &mut [])?;
            done = len.min(done + count * part);
            if done == len {
                if command != Command::Flush {
                    self.dirty.store(true, Ordering::Release);
                }
                return Ok(());
            }
        }
    }

    /// Asks what a range holds. The answer begins at `offset`, and may end before the range or after it.
    ///
    /// # Errors
    /// Why it failed.
    pub fn status(&self, offset: u64, len: u64) -> Result<Vec<State>, Failure> {
        let _busy = Busy::new(&self.load);
        let call = Call::new(1);
        let request = Request { command: Command::BlockStatus, flags: 0, offset, len };
        self.send(Some(&call), [(request, Awaited::Status { offset })].into_iter(), &[])?;
        self.wait(&call, &mut [])
    }

    /// Asks the server to make a range ready for reading, and waits for nothing. It is dropped when others send.
    pub fn prefetch(&self, offset: u64, len: u64) {
        let Some(sender) = self.sender.try_lock() else { return };
        let request = Request { command: Command::Cache, flags: 0, offset, len };
        // A hint: that it failed is seen by the next call.
        let _ = self.send_by(sender, None, [(request, Awaited::Done)].into_iter(), &[]);
    }

    /// Tells the server goodbye, and ends the connection.
    pub fn disconnect(&self) {
        if let Some(mut sender) = self.sender.try_lock() {
            let Sender { stream, headers } = &mut *sender;
            headers.clear();
            let request = Request { command: Command::Disconnect, flags: 0, offset: 0, len: 0 };
            request.encode(self.style, 0, headers);
            // The server sees the end either way.
            let _ = stream.send(headers, &[], &|| true);
        }
        self.fail(Failure::Lost(io::ErrorKind::NotConnected, "it was closed".to_owned()));
    }

    /// Says whether a caller that began at `started` has waited too long.
    fn expired(&self, started: Instant) -> bool {
        let answered = self.born + Duration::from_millis(self.answered.load(Ordering::Relaxed));
        let now = Instant::now();
        now.saturating_duration_since(started.max(answered)) > self.timeout
            || now.saturating_duration_since(started) > self.timeout.saturating_mul(PATIENCE)
    }

    /// Ends the connection for a reason, unless it has ended. Returns the reason of the end.
    fn fail(&self, failure: Failure) -> Failure {
        let failure = {
            let mut shared = self.shared.lock();
            shared.pending.clear();
            for call in shared.waiters.drain(..) {
                call.thread.unpark();
            }
            shared.failure.get_or_insert(failure).clone()
        };
        self.socket.shutdown();
        failure
    }

    fn send(
        &self,
        call: Option<&Arc<Call>>,
        requests: impl Iterator<Item = (Request, Awaited)>,
        payload: &[u8],
    ) -> Result<(), Failure> {
        self.send_by(self.sender.lock(), call, requests, payload)
    }

    fn send_by(
        &self,
        mut sender: MutexGuard<'_, Sender>,
        call: Option<&Arc<Call>>,
        requests: impl Iterator<Item = (Request, Awaited)>,
        payload: &[u8],
    ) -> Result<(), Failure> {
        let Sender { stream, headers } = &mut *sender;
        headers.clear();
        {
            let mut shared = self.shared.lock();
            if let Some(failure) = &shared.failure {
                return Err(failure.clone());
            }
            if call.is_none() {
                if shared.prefetches >= PREFETCHES {
                    return Ok(());
                }
                shared.prefetches += 1;
            }
            for (request, awaited) in requests {
                let cookie = shared.next_cookie;
                shared.next_cookie = cookie.wrapping_add(1);
                request.encode(self.style, cookie, headers);
                let pending = Pending {
                    call: call.cloned(),
                    awaited,
                    chunks: 0,
                    coverage: Coverage::default(),
                    refusal: None,
                    states: Vec::new(),
                    inbox: None,
                };
                shared.pending.insert(cookie, pending);
            }
        }
        let started = Instant::now();
        stream.send(headers, payload, &|| self.expired(started)).map_err(|error| self.fail(Failure::lost(&error)))
    }

    /// Waits until all requests of the call are answered; their data is in `out` afterwards.
    fn wait(&self, call: &Arc<Call>, out: &mut [u8]) -> Result<Vec<State>, Failure> {
        let result = self.wait_for_replies(call, out);
        let delivered = {
            let mut outcome = call.outcome.lock();
            result?;
            if let Some(refusal) = outcome.refusal.take() {
                return Err(Failure::Refused(refusal));
            }
            let outcome = &mut *outcome;
            if outcome.delivered.is_empty() {
                return Ok(std::mem::take(&mut outcome.states));
            }
            std::mem::take(&mut outcome.delivered)
        };
        for Delivered { start, bytes, ranges } in &delivered {
            for range in ranges {
                out[start + range.start..start + range.end].copy_from_slice(&bytes[range.clone()]);
            }
        }
        let mut shared = self.shared.lock();
        for Delivered { bytes, .. } in delivered {
            if shared.spares.len() < SPARES {
                shared.spares.push(bytes);
            }
        }
        Ok(Vec::new())
    }

    fn wait_for_replies(&self, call: &Arc<Call>, out: &mut [u8]) -> Result<(), Failure> {
        let mut shared = self.shared.lock();
        let result = loop {
            if call.is_complete() {
                break Ok(());
            }
            if let Some(failure) = &shared.failure {
                return Err(failure.clone());
            }
            if let Some(mut reader) = shared.reader.take() {
                drop(shared);
                let led = self.lead(&mut reader, call, out);
                shared = self.shared.lock();
                match led {
                    Ok(()) => shared.reader = Some(reader),
                    Err(failure) => {
                        drop(shared);
                        return Err(self.fail(failure));
                    }
                }
                continue;
            }
            shared.waiters.push(Arc::clone(call));
            drop(shared);
            thread::park_timeout(self.timeout);
            let late = self.expired(call.started);
            shared = self.shared.lock();
            shared.waiters.retain(|waiter| !Arc::ptr_eq(waiter, call));
            if late && !call.is_complete() {
                drop(shared);
                return Err(self.fail(Failure::TimedOut));
            }
        };
        if shared.reader.is_some()
            && let Some(next) = shared.waiters.first()
        {
            next.thread.unpark();
        }
        result
    }

    /// Reads replies until the call is complete.
    fn lead(&self, reader: &mut Reader, call: &Arc<Call>, out: &mut [u8]) -> Result<(), Failure> {
        let expired = || self.expired(call.started);
        while !call.is_complete() {
            self.reply(reader, call, out, &expired)?;
        }
        Ok(())
    }
}
