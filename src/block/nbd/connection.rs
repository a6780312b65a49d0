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

use super::chunks::{Awaited, Coverage, Refusal};
use super::handshake::Export;
use super::stream::{Expired, ReadHalf, Socket, Stream, WriteHalf};
use super::wire::{self, Command, REPLY_MAX, REPLY_MIN, Reply, Request, Style, chunk};
use crate::bytes::{be16, be32, be64};
use crate::error::Error;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// What is received at once, in bytes; longer payloads go past this buffer.
const STAGED: usize = 16 << 10;

/// The most requests of one read that are sent at once. Few enough that a socket's buffer holds them all.
const READS_AT_ONCE: usize = 64;

/// The most requests of one write that are in flight.
const WRITES_AT_ONCE: usize = 16;

/// The most prefetches in flight. More are dropped.
const PREFETCHES: usize = 16;

/// The most ranges of one block status reply; the protocol's servers stop there.
const MOST_STATES: u64 = 1 << 20;

/// The longest error chunk: its message has at most 4096 bytes.
const LONGEST_ERROR: u64 = 8 << 10;

/// The most buffers that are kept for the data of callers that do not lead.
const SPARES: usize = 8;

/// A call ends after this many time-outs, even when others are answered meanwhile.
const PATIENCE: u32 = 10;

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The connection was lost, so the request may be sent again.
    Lost(io::ErrorKind, String),
    /// The server did not answer in time. It may yet act on the request.
    TimedOut,
    /// The server breaks the protocol.
    Broken(String),
    /// The server answered by an error.
    Refused(Refusal),
}

impl Failure {
    fn lost(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::InvalidData => Self::Broken(error.to_string()),
            kind => Self::Lost(kind, error.to_string()),
        }
    }

    /// Returns the error of what was being done.
    pub fn into_error(self, doing: String) -> Error {
        match self {
            Self::Lost(kind, why) => Error::io(format!("{doing}: the connection is lost"), io::Error::new(kind, why)),
            Self::TimedOut => {
                Error::io(doing, io::Error::new(io::ErrorKind::TimedOut, "the server did not answer in time"))
            }
            Self::Broken(why) => Error::io(
                format!("{doing}: the server breaks the NBD protocol"),
                io::Error::new(io::ErrorKind::InvalidData, why),
            ),
            Self::Refused(Refusal { errno, said }) => {
                let error = io::Error::from_raw_os_error(errno);
                if said.is_empty() {
                    Error::io(doing, error)
                } else {
                    Error::io(format!("{doing}: the server says \"{said}\""), error)
                }
            }
        }
    }
}

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
        let reader = Reader { stream: stream.reader, bytes: vec![0; STAGED].into(), start: 0, end: 0 };
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

    /// Reads one reply, or one chunk of a reply, for whomever it is.
    fn reply(
        &self,
        reader: &mut Reader,
        leader: &Arc<Call>,
        out: &mut [u8],
        expired: Expired<'_>,
    ) -> Result<(), Failure> {
        let mut header = [0; REPLY_MAX];
        let (start, rest) = header.split_at_mut(REPLY_MIN);
        reader.exact(start, expired)?;
        let start: &[u8; REPLY_MIN] = (&*start).try_into().expect("it was split there");
        let len = Reply::header_len(start, self.style).map_err(Failure::Broken)?;
        reader.exact(&mut rest[..len - REPLY_MIN], expired)?;
        let reply = Reply::parse(&header[..len]);
        let cookie = reply.cookie();
        let pending = self.shared.lock().pending.remove(&cookie);
        let mut pending =
            pending.ok_or_else(|| Failure::Broken(format!("it answers a request that there is not ({cookie})")))?;
        let own = pending.call.as_ref().is_some_and(|call| Arc::ptr_eq(call, leader));
        let last = match reply {
            Reply::Simple { error, .. } => {
                self.simple(reader, &mut pending, error, own.then_some(out), expired)?;
                true
            }
            Reply::Chunk { flags, kind, len, .. } => {
                self.chunk(reader, &mut pending, (flags, kind, len), own.then_some(out), expired)?;
                flags & chunk::DONE != 0
            }
        };
        if !last {
            let mut shared = self.shared.lock();
            // A connection that failed meanwhile has told all its callers.
            if shared.failure.is_none() {
                shared.pending.insert(cookie, pending);
            }
            return Ok(());
        }
        self.answered.store(self.born.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.complete(pending, own)
    }

    /// Hands the whole reply to the caller that waits for it.
    fn complete(&self, pending: Pending, own: bool) -> Result<(), Failure> {
        if pending.refusal.is_none() {
            match pending.awaited {
                Awaited::Data { len, .. } if !pending.coverage.is_full(len) => {
                    return Err(Failure::Broken("the reply to a read leaves bytes out".to_owned()));
                }
                Awaited::Status { .. } if pending.states.is_empty() => {
                    return Err(Failure::Broken("the reply to a block status holds none".to_owned()));
                }
                _ => {}
            }
        }
        let Some(call) = pending.call else {
            self.shared.lock().prefetches -= 1;
            return Ok(());
        };
        if pending.refusal.is_some() || pending.inbox.is_some() || !pending.states.is_empty() {
            let mut outcome = call.outcome.lock();
            outcome.states = pending.states;
            if outcome.refusal.is_none() {
                outcome.refusal = pending.refusal;
            }
            if let (Some((bytes, ranges)), Awaited::Data { start, .. }) = (pending.inbox, pending.awaited) {
                outcome.delivered.push(Delivered { start, bytes, ranges });
            }
        }
        if call.left.fetch_sub(1, Ordering::AcqRel) == 1 && !own {
            call.thread.unpark();
        }
        Ok(())
    }

    fn simple(
        &self,
        reader: &mut Reader,
        pending: &mut Pending,
        error: u32,
        own: Option<&mut [u8]>,
        expired: Expired<'_>,
    ) -> Result<(), Failure> {
        if pending.chunks > 0 {
            return Err(Failure::Broken("a simple reply follows chunks".to_owned()));
        }
        match pending.awaited {
            _ if error != 0 => pending.refusal = Some(Refusal { errno: wire::errno(error), said: String::new() }),
            Awaited::Data { len, .. } if self.style == Style::Simple => {
                self.data(reader, pending, 0..len, own, expired)?;
            }
            Awaited::Data { .. } | Awaited::Status { .. } => {
                return Err(Failure::Broken("a simple reply to a request that is answered in chunks".to_owned()));
            }
            Awaited::Done => {}
        }
        Ok(())
    }

    fn chunk(
        &self,
        reader: &mut Reader,
        pending: &mut Pending,
        (flags, kind, len): (u16, u16, u64),
        own: Option<&mut [u8]>,
        expired: Expired<'_>,
    ) -> Result<(), Failure> {
        let wrong =
            || Failure::Broken(format!("a chunk of type {kind} with {len} bytes that does not fit its request"));
        pending.chunks += 1;
        let most = match pending.awaited {
            Awaited::Data { len, .. } => 64 + len / 512,
            _ => 16,
        };
        if pending.chunks > most {
            return Err(Failure::Broken("a reply in too many chunks".to_owned()));
        }
        match (kind, pending.awaited) {
            (chunk::NONE, _) if len == 0 && flags & chunk::DONE != 0 => {}
            (chunk::OFFSET_DATA, Awaited::Data { offset, len: whole, .. }) if len > 8 => {
                let mut at = [0; 8];
                reader.exact(&mut at, expired)?;
                let range = place(be64(&at, 0), len - 8, offset, whole).ok_or_else(wrong)?;
                self.data(reader, pending, range, own, expired)?;
            }
            (chunk::OFFSET_HOLE, Awaited::Data { offset, len: whole, .. }) if len == 12 => {
                let mut hole = [0; 12];
                reader.exact(&mut hole, expired)?;
                let size = u64::from(be32(&hole, 8));
                let range = place(be64(&hole, 0), size, offset, whole).ok_or_else(wrong)?;
                self.with_target(pending, range, own, |target| {
                    target.fill(0);
                    Ok(())
                })?;
            }
            (chunk::BLOCK_STATUS, Awaited::Status { offset }) if self.style == Style::Structured => {
                self.states(reader, pending, offset, len, expired)?;
            }
            (chunk::BLOCK_STATUS_EXT, Awaited::Status { offset }) if self.style == Style::Extended => {
                self.states(reader, pending, offset, len, expired)?;
            }
            (error, _) if error & chunk::ERROR != 0 && (6..=LONGEST_ERROR).contains(&len) => {
                let mut payload = vec![0; len as usize];
                reader.exact(&mut payload, expired)?;
                let said = payload.get(6..6 + usize::from(be16(&payload, 4))).ok_or_else(wrong)?;
                if be32(&payload, 0) == 0 {
                    return Err(Failure::Broken("an error chunk without error".to_owned()));
                }
                let refusal = Refusal { errno: wire::errno(be32(&payload, 0)), said: wire::printable(said) };
                pending.refusal.get_or_insert(refusal);
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Reads the payload of a reply into its place.
    fn data(
        &self,
        reader: &mut Reader,
        pending: &mut Pending,
        range: Range<usize>,
        own: Option<&mut [u8]>,
        expired: Expired<'_>,
    ) -> Result<(), Failure> {
        self.with_target(pending, range, own, |target| reader.exact(target, expired))
    }

    /// Calls `fill` with the place of a range of the request: in the caller's buffer, or else in an inbox.
    fn with_target(
        &self,
        pending: &mut Pending,
        range: Range<usize>,
        own: Option<&mut [u8]>,
        fill: impl FnOnce(&mut [u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Awaited::Data { start, len, .. } = pending.awaited else {
            return Err(Failure::Broken("data for a request that reads none".to_owned()));
        };
        if !pending.coverage.insert(range.clone()) {
            return Err(Failure::Broken("the reply to a read gives bytes twice".to_owned()));
        }
        if let Some(out) = own {
            return fill(&mut out[start + range.start..start + range.end]);
        }
        let (bytes, ranges) = pending.inbox.get_or_insert_with(|| {
            let mut bytes = self.shared.lock().spares.pop().unwrap_or_default();
            // What a spare held before is not seen: only ranges that came are copied.
            if bytes.len() < len {
                bytes.resize(len, 0);
            }
            (bytes, Vec::new())
        });
        fill(&mut bytes[range.clone()])?;
        ranges.push(range);
        Ok(())
    }

    /// Reads the payload of a block status chunk.
    fn states(
        &self,
        reader: &mut Reader,
        pending: &mut Pending,
        offset: u64,
        len: u64,
        expired: Expired<'_>,
    ) -> Result<(), Failure> {
        let wrong = |why: &str| Failure::Broken(format!("a block status of {len} bytes {why}"));
        let (head, each) = if self.style == Style::Extended { (8, 16) } else { (4, 8) };
        let count = len.saturating_sub(head) / each;
        if count == 0 || count > MOST_STATES || head + count * each != len {
            return Err(wrong("has the wrong length"));
        }
        let mut first = [0; 8];
        reader.exact(&mut first[..head as usize], expired)?;
        if self.style == Style::Extended && u64::from(be32(&first, 4)) != count {
            return Err(wrong("has the wrong count"));
        }
        if Some(be32(&first, 0)) != self.allocation || !pending.states.is_empty() {
            return Err(wrong("was not asked for"));
        }
        let mut end = offset;
        let mut bytes = vec![0; 4096 * each as usize];
        let mut left = count;
        while left > 0 {
            let now = left.min(4096);
            let piece = &mut bytes[..(now * each) as usize];
            reader.exact(piece, expired)?;
            for state in piece.chunks_exact(each as usize) {
                let (len, flags) = if each == 16 {
                    (be64(state, 0), be64(state, 8))
                } else {
                    (u64::from(be32(state, 0)), u64::from(be32(state, 4)))
                };
                end = end.checked_add(len).filter(|_| len > 0).ok_or_else(|| wrong("holds a senseless range"))?;
                pending.states.push((len, flags));
            }
            left -= now;
        }
        Ok(())
    }
}

/// Returns where a range of the export lies in a request, when it is not empty and lies within it.
fn place(at: u64, len: u64, offset: u64, whole: usize) -> Option<Range<usize>> {
    let start = at.checked_sub(offset)?;
    let end = start.checked_add(len)?;
    (len > 0 && end <= whole as u64).then_some(start as usize..end as usize)
}

/// The half that receives, with what was received ahead.
struct Reader {
    stream: ReadHalf,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Reader {
    /// Fills `buf`. What is long goes straight into it.
    fn exact(&mut self, mut buf: &mut [u8], expired: Expired<'_>) -> Result<(), Failure> {
        loop {
            let ready = (self.end - self.start).min(buf.len());
            buf[..ready].copy_from_slice(&self.bytes[self.start..self.start + ready]);
            self.start += ready;
            buf = &mut buf[ready..];
            if buf.is_empty() {
                return Ok(());
            }
            let direct = buf.len() >= self.bytes.len();
            let received = if direct {
                self.stream.recv(buf, true, expired)
            } else {
                self.stream.recv(&mut self.bytes, false, expired)
            };
            let count = received.map_err(|error| Failure::lost(&error))?;
            if count == 0 {
                return Err(Failure::Lost(io::ErrorKind::UnexpectedEof, "the server closed it".to_owned()));
            }
            if direct {
                buf = &mut buf[count..];
            } else {
                (self.start, self.end) = (0, count);
            }
            if !buf.is_empty() && expired() {
                return Err(Failure::TimedOut);
            }
        }
    }
}
