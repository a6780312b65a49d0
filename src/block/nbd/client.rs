//! A device made of one export and several connections to it.
//!
//! A call uses one connection, the least busy. When all are busy and the server allows several, another is made in the
//! background. A request that is longer than one part is split and its parts are in flight together. Requests that are
//! not aligned as the server demands are widened: a read takes more than it needs, a write first reads the blocks that it
//! fills in part.
//!
//! When a connection is lost, its calls go on over another one; with none left, one of them connects again, waiting
//! longer after each failure, for [`Options::reconnect_time`] at most. The export must then be what it was. A request
//! whose connection was lost is sent again. So is a read that timed out, once; a write that timed out is not, because the
//! server may yet act on it, and undo what is written later.

use super::connection::{Connection, Failure, State};
use super::handshake::{self, Export};
use super::stream::{Socket, Stream};
use super::tls::Tls;
use super::uri::{Address, Uri};
use super::wire::{self, Command, Style, transmission};
use crate::block::{BlockDevice, Extent, ExtentKind, check_range};
use crate::error::{Error, ErrorContext, IoContext, Result};
use parking_lot::{Mutex, RwLock};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The longest request of a read, in bytes.
const READ_PART: u32 = 512 << 10;

/// The shortest part into which a read is split, in bytes.
const READ_PART_MIN: u32 = 256 << 10;

/// A read is split in so many, within the limits above: the server works on one while another is on its way.
const READ_PARTS: usize = 4;

/// The longest request of a write, in bytes.
const WRITE_PART: u32 = 1 << 20;

/// The longest request to discard, in bytes.
const DISCARD_PART: u64 = 1 << 30;

/// The longest request to zero, in bytes: a server may have to write the zeroes.
const ZERO_PART: u64 = 128 << 20;

/// The longest prefetch request, in bytes.
const PREFETCH_PART: u32 = 4 << 20;

/// The most prefetch requests of one call.
const PREFETCH_PARTS: u64 = 8;

/// The most of a range that is asked for at once in 32-bit lengths, in bytes. More makes some servers stumble: nbdkit
/// 1.32 ends at an assertion when an extent passes 4 GiB.
const MAP_PART: u64 = 1 << 30;

/// The least that is asked for when a range is mapped, in bytes: its neighbours come next.
const MAP_AHEAD: u64 = 64 << 20;

/// The most of a block status that is kept, in ranges.
const MAP_KEPT: usize = 64 << 10;

/// An unaligned read up to this size is one request into a buffer, in bytes.
const WIDENED: u64 = 128 << 10;

/// The longest that a lost server is waited for between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a server that says it shuts down is left alone.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(50);

/// How patient a client is, and how many connections it makes.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most connections to one export.
    pub connections: usize,
    /// How long connecting may take, the handshake included.
    pub connect_timeout: Duration,
    /// How long a server may be silent while it owes a reply.
    pub reply_timeout: Duration,
    /// How long a lost server is waited for.
    pub reconnect_time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 4,
            connect_timeout: Duration::from_secs(10),
            reply_timeout: Duration::from_secs(60),
            reconnect_time: Duration::from_secs(30),
        }
    }
}

/// An export of an NBD server.
pub struct NbdDevice {
    client: Arc<Client>,
}

impl NbdDevice {
    /// Opens the export that an NBD URI names.
    ///
    /// # Errors
    /// As [`open_uri`](super::open_uri).
    pub fn open(uri: &str, writable: bool, options: &Options) -> Result<Self> {
        let Uri { address, export, tls } = Uri::parse(uri)?;
        let open = || {
            let tls = tls.as_ref().map(Tls::new).transpose()?;
            let target = Target { address, name: export, tls };
            let (stream, export) = target.connect(options.connect_timeout)?;
            Self::over(Some(target), vec![(stream, export)], uri.to_owned(), writable, options)
        };
        open().at(|| uri.to_owned())
    }

    /// Opens the default export of the server at the other end of sockets that are connected. None is made again.
    ///
    /// # Errors
    /// As [`open_uri`](super::open_uri).
    pub(super) fn over_sockets(sockets: Vec<Socket>, place: String, writable: bool, options: &Options) -> Result<Self> {
        let greet = |socket| greet(socket, &[], None, Instant::now() + options.connect_timeout);
        let mut sockets = sockets.into_iter();
        let mut streams = Vec::new();
        if let Some(first) = sockets.next() {
            streams.push(greet(first)?);
        }
        if streams.first().is_some_and(|(_, export)| export.has(transmission::MULTI_CONN)) {
            // A server that is itself a client opens what it serves anew for each; it does so for all at once.
            let others: Vec<Result<_>> = thread::scope(|scope| {
                let threads: Vec<_> = sockets.map(|socket| scope.spawn(|| greet(socket))).collect();
                threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
            });
            for other in others {
                streams.push(other?);
            }
        }
        Self::over(None, streams, place, writable, options)
    }

    fn over(
        target: Option<Target>,
        streams: Vec<(Stream, Export)>,
        place: String,
        writable: bool,
        options: &Options,
    ) -> Result<Self> {
        let export = match streams.first() {
            Some((_, export)) => export.clone(),
            None => return Err(Error::Usage("no connection to the server".into())),
        };
        if writable && export.has(transmission::READ_ONLY) {
            return Err(Error::io("cannot open the export for writing", io::Error::from_raw_os_error(libc::EROFS)));
        }
        log::debug!("{place}: {export:?}");
        let mut pool = Vec::new();
        for (stream, other) in streams {
            same(&export, &other)?;
            let connection =
                Connection::new(stream, &other, options.reply_timeout).doing(|| "cannot use the connection")?;
            pool.push(Arc::new(connection));
        }
        let several = export.has(transmission::MULTI_CONN) && target.is_some();
        let allowed = if several { options.connections.max(1) } else { 1 };
        Ok(Self {
            client: Arc::new(Client {
                target,
                place,
                writable,
                options: options.clone(),
                export,
                pool: RwLock::new(pool),
                allowed,
                most: AtomicUsize::new(allowed),
                growing: AtomicBool::new(false),
                closed: AtomicBool::new(false),
                lost: Mutex::default(),
                writes: Mutex::default(),
                edges: RwLock::default(),
                map: Mutex::default(),
            }),
        })
    }
}

impl Drop for NbdDevice {
    fn drop(&mut self) {
        self.client.closed.store(true, Ordering::Release);
        for connection in self.client.pool.write().drain(..) {
            connection.disconnect();
        }
    }
}

/// Where a server is, and which export of it is meant.
struct Target {
    address: Address,
    name: Vec<u8>,
    tls: Option<Tls>,
}

impl Target {
    fn connect(&self, timeout: Duration) -> Result<(Stream, Export)> {
        let deadline = Instant::now() + timeout;
        let socket = match &self.address {
            Address::Tcp { host, port } => Socket::connect_tcp(host, *port, deadline),
            Address::Unix(path) => Socket::connect_unix(path, deadline),
        };
        greet(socket.doing(|| "cannot connect")?, &self.name, self.tls.as_ref(), deadline)
    }
}

/// Makes the handshake on a socket, until `deadline`.
fn greet(socket: Socket, name: &[u8], tls: Option<&Tls>, deadline: Instant) -> Result<(Stream, Export)> {
    socket.set_tick(Duration::from_millis(100)).doing(|| "cannot use the socket")?;
    handshake::negotiate(socket, name, tls, &|| Instant::now() > deadline)
}

/// Checks that an export is what it was.
fn same(before: &Export, now: &Export) -> Result<()> {
    if before.size != now.size {
        return Err(Error::io(
            format!("the export's size changed from {} to {} bytes", before.size, now.size),
            io::ErrorKind::InvalidData.into(),
        ));
    }
    if before.flags != now.flags
        || before.min_block != now.min_block
        || before.max_payload > now.max_payload
        || before.style != now.style
        || before.allocation.is_some() != now.allocation.is_some()
    {
        return Err(Error::io(
            "the export changed while it was in use",
            io::Error::new(io::ErrorKind::InvalidData, format!("{before:?} became {now:?}")),
        ));
    }
    Ok(())
}

/// What is known of writes that are not flushed.
#[derive(Default)]
struct Writes {
    /// Writes that have begun.
    begun: u64,
    /// Writes that run.
    running: u64,
    /// The first so many writes are durable.
    durable: u64,
    /// A connection was lost with writes not flushed, so some that were acknowledged may be gone.
    doubtful: bool,
}

/// The ranges of the last block status, in order and without gaps.
#[derive(Default)]
struct Map {
    /// How many writes had begun when it was asked for.
    writes: u64,
    start: u64,
    extents: Vec<Extent>,
}

impl Map {
    fn find(&self, offset: u64, end: u64) -> Option<Extent> {
        if offset < self.start {
            return None;
        }
        let at = self.extents.partition_point(|extent| extent.end <= offset);
        let found = self.extents.get(at)?;
        Some(Extent { end: found.end.min(end), kind: found.kind })
    }
}

/// The state of a server that was lost.
#[derive(Default)]
struct Lost {
    /// When it was last given up.
    given_up: Option<Instant>,
}

/// Whether a request may be sent again while the server may yet act on the first one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It changes nothing.
    Safe,
    /// It could undo what is written after it.
    Unsafe,
}

struct Client {
    target: Option<Target>,
    /// What messages call it: the URI or the image.
    place: String,
    writable: bool,
    options: Options,
    export: Export,
    /// The connections that work, as far as is known.
    pool: RwLock<Vec<Arc<Connection>>>,
    /// The most connections that may be made.
    allowed: usize,
    /// The most connections that the server takes, as far as is known.
    most: AtomicUsize,
    /// A thread is making another connection.
    growing: AtomicBool,
    closed: AtomicBool,
    /// Held by the caller that connects again. Taken before `pool`.
    lost: Mutex<Lost>,
    writes: Mutex<Writes>,
    /// Held shared by a write of whole blocks, alone by one that reads a block, changes it and writes it back.
    edges: RwLock<()>,
    map: Mutex<Map>,
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
    fn leave(&self, connection: &Arc<Connection>) {
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
    fn run<T>(
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
    fn run_write(
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

    /// Returns the longest request, in bytes, of at most `most`, at the server's block sizes.
    fn part(&self, most: u32) -> usize {
        let Export { min_block, preferred_block, max_payload, .. } = self.export;
        let part = most.min(max_payload);
        let unit = if preferred_block <= part { preferred_block } else { min_block };
        (part - part % unit).max(min_block) as usize
    }

    /// Returns the range of whole blocks around a range; it ends where the export ends.
    fn widen(&self, offset: u64, len: u64) -> (u64, u64) {
        let block = u64::from(self.export.min_block);
        let start = offset - offset % block;
        (start, (offset + len).next_multiple_of(block).min(self.export.size))
    }

    /// Cuts a range into one before, of and after the whole blocks in it. Each but the middle lies in one block.
    fn cut(&self, offset: u64, len: u64) -> [(u64, u64); 3] {
        let block = u64::from(self.export.min_block);
        let end = offset + len;
        // The export's last block is whole even where it is short.
        let whole_end = if end == self.export.size { end } else { end - end % block };
        let whole_start = offset.next_multiple_of(block);
        if whole_start >= whole_end {
            // At most two blocks, none of them whole.
            let border = whole_start.clamp(offset, end);
            return [(offset, border), (border, border), (border, end)];
        }
        [(offset, whole_start), (whole_start, whole_end), (whole_end, end)]
    }

    fn read_whole(self: &Arc<Self>, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len();
        let part = self.part(((len / READ_PARTS).min(READ_PART as usize) as u32).max(READ_PART_MIN));
        self.run(
            Again::Safe,
            || format!("{} {len} bytes at {offset}", Command::Read.doing()),
            |connection| connection.read(buf, offset, part),
        )
    }

    fn write_whole(self: &Arc<Self>, buf: &[u8], offset: u64) -> Result<()> {
        let part = self.part(WRITE_PART);
        let flags = self.durability();
        self.run_write(
            || format!("{} {} bytes at {offset}", Command::Write.doing(), buf.len()),
            |connection| connection.write(buf, offset, flags, part),
        )
    }

    /// Returns the flag of a server that cannot flush but can write through.
    fn durability(&self) -> u16 {
        if !self.export.has(transmission::FLUSH) && self.export.has(transmission::FUA) { wire::FLAG_FUA } else { 0 }
    }

    /// Changes a part of one block by reading and writing all of it. `edges` is held alone.
    fn write_edge(self: &Arc<Self>, offset: u64, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, end) = self.widen(offset, bytes.len() as u64);
        let mut block = vec![0; (end - start) as usize];
        self.read_whole(&mut block, start)?;
        block[(offset - start) as usize..][..bytes.len()].copy_from_slice(bytes);
        self.write_whole(&block, start)
    }

    fn is_aligned(&self, offset: u64, len: u64) -> bool {
        self.export.min_block == 1 || self.widen(offset, len) == (offset, offset + len)
    }

    /// Runs a command without payload for whole blocks.
    fn command(self: &Arc<Self>, command: Command, flags: u16, offset: u64, len: u64, part: u64) -> Result<()> {
        self.run_write(
            || format!("{} {len} bytes at {offset}", command.doing()),
            |connection| connection.command(command, flags, offset, len, part),
        )
    }

    fn zero_whole(self: &Arc<Self>, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        if self.export.has(transmission::WRITE_ZEROES) {
            let flags = self.durability() | if keep_space { wire::FLAG_NO_HOLE } else { 0 };
            match self.command(Command::WriteZeroes, flags, offset, len, ZERO_PART) {
                Err(error) if error.errno() == libc::EOPNOTSUPP => {}
                other => return other,
            }
        }
        let zeroes = vec![0; len.min(self.part(WRITE_PART) as u64) as usize];
        let mut done = 0;
        while done < len {
            let count = (len - done).min(zeroes.len() as u64);
            self.write_whole(&zeroes[..count as usize], offset + done)?;
            done += count;
        }
        Ok(())
    }

    /// Flushes, over each connection that wrote since it last did. One flush would do for a server that lives; but a
    /// server that was started anew knows nothing of what the other connections wrote, and only they can tell.
    fn flush_all(self: &Arc<Self>) -> Result<()> {
        let flush = |connection: &Connection| connection.command(Command::Flush, 0, 0, 0, 1);
        let wrote: Vec<_> = self.pool.read().iter().filter(|connection| connection.take_dirty()).cloned().collect();
        let mut flushed = false;
        for connection in wrote {
            match flush(&connection) {
                Ok(()) => flushed = true,
                Err(Failure::Lost(..)) => self.leave(&connection),
                Err(failure) => {
                    if !matches!(failure, Failure::Refused(_)) {
                        self.leave(&connection);
                    }
                    return Err(failure.into_error(format!("{}: cannot flush", self.place)));
                }
            }
        }
        if flushed { Ok(()) } else { self.run(Again::Safe, || Command::Flush.doing().to_owned(), flush) }
    }

    fn check_writable(&self, offset: u64, len: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::Errno(libc::EROFS));
        }
        check_range(self.export.size, offset, len)
    }

    /// Keeps what a block status said, and returns the extent at `offset`.
    fn keep(&self, writes: u64, start: u64, states: &[State], offset: u64, end: u64) -> Option<Extent> {
        let mut extents: Vec<Extent> = Vec::with_capacity(states.len().min(MAP_KEPT));
        let mut at = start;
        for &(len, flags) in states {
            at = at.saturating_add(len).min(self.export.size);
            let kind = match (flags & wire::STATE_ZERO != 0, flags & wire::STATE_HOLE != 0) {
                (true, true) => ExtentKind::Hole,
                (true, false) => ExtentKind::Zero,
                // A hole that need not read as zeroes reads as something.
                (false, _) => ExtentKind::Data,
            };
            let room = extents.len() < MAP_KEPT;
            match extents.last_mut() {
                Some(last) if last.kind == kind => last.end = at,
                _ if room => extents.push(Extent { end: at, kind }),
                _ => break,
            }
        }
        let map = Map { writes, start, extents };
        let found = map.find(offset, end);
        *self.map.lock() = map;
        found
    }
}

impl BlockDevice for NbdDevice {
    fn size(&self) -> u64 {
        self.client.export.size
    }

    fn is_read_only(&self) -> bool {
        !self.client.writable
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let client = &self.client;
        let len = buf.len() as u64;
        check_range(client.export.size, offset, len)?;
        if len == 0 {
            return Ok(());
        }
        if client.is_aligned(offset, len) {
            return client.read_whole(buf, offset);
        }
        let widened = |buf: &mut [u8], offset: u64| {
            let (start, end) = client.widen(offset, buf.len() as u64);
            let mut bytes = vec![0; (end - start) as usize];
            client.read_whole(&mut bytes, start)?;
            buf.copy_from_slice(&bytes[(offset - start) as usize..][..buf.len()]);
            Ok(())
        };
        if len <= WIDENED {
            return widened(buf, offset);
        }
        let [before, whole, after] = client.cut(offset, len);
        for ((start, end), aligned) in [(before, false), (whole, true), (after, false)] {
            let piece = &mut buf[(start - offset) as usize..(end - offset) as usize];
            match (piece.is_empty(), aligned) {
                (true, _) => {}
                (false, true) => client.read_whole(piece, start)?,
                (false, false) => widened(piece, start)?,
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let client = &self.client;
        client.check_writable(offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        if client.is_aligned(offset, buf.len() as u64) {
            let _shared = (client.export.min_block > 1).then(|| client.edges.read());
            return client.write_whole(buf, offset);
        }
        let _alone = client.edges.write();
        let [before, whole, after] = client.cut(offset, buf.len() as u64);
        let piece = |(start, end): (u64, u64)| &buf[(start - offset) as usize..(end - offset) as usize];
        client.write_edge(before.0, piece(before))?;
        if whole.0 < whole.1 {
            client.write_whole(piece(whole), whole.0)?;
        }
        client.write_edge(after.0, piece(after))
    }

    fn flush(&self) -> Result<()> {
        let client = &self.client;
        if !client.writable {
            return Ok(());
        }
        let covered = {
            let writes = client.writes.lock();
            // What runs now may come after the flush; then nothing new is known to be durable.
            if writes.running == 0 { writes.begun } else { writes.durable }
        };
        if client.export.has(transmission::FLUSH) {
            client.flush_all()?;
        }
        let mut writes = client.writes.lock();
        if writes.doubtful {
            return Err(Error::io(
                format!("{}: cannot flush", client.place),
                io::Error::other("the server was lost while it held writes that were not flushed; they may be gone"),
            ));
        }
        writes.durable = writes.durable.max(covered);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, keep_space: bool) -> Result<()> {
        let client = &self.client;
        client.check_writable(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        if client.is_aligned(offset, len) {
            let _shared = (client.export.min_block > 1).then(|| client.edges.read());
            return client.zero_whole(offset, len, keep_space);
        }
        let _alone = client.edges.write();
        let [before, whole, after] = client.cut(offset, len);
        let zeroes = vec![0; client.export.min_block as usize];
        client.write_edge(before.0, &zeroes[..(before.1 - before.0) as usize])?;
        if whole.0 < whole.1 {
            client.zero_whole(whole.0, whole.1 - whole.0, keep_space)?;
        }
        client.write_edge(after.0, &zeroes[..(after.1 - after.0) as usize])
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        let client = &self.client;
        client.check_writable(offset, len)?;
        let [_, (start, end), _] = client.cut(offset, len);
        if start == end || !client.export.has(transmission::TRIM) {
            return Ok(());
        }
        let _shared = (client.export.min_block > 1).then(|| client.edges.read());
        match client.command(Command::Trim, client.durability(), start, end - start, DISCARD_PART) {
            Err(error) if error.errno() == libc::EOPNOTSUPP => Ok(()),
            other => other,
        }
    }

    fn map(&self, offset: u64, len: u64) -> Result<Extent> {
        let client = &self.client;
        check_range(client.export.size, offset, len)?;
        let end = offset + len;
        if client.export.allocation.is_none() || len == 0 {
            return Ok(Extent { end, kind: ExtentKind::Data });
        }
        // What was asked for while a write ran is not kept for after it.
        let (writes, running) = {
            let writes = client.writes.lock();
            (writes.begun, writes.running)
        };
        {
            let map = client.map.lock();
            if map.writes == writes
                && running == 0
                && let Some(extent) = map.find(offset, end)
            {
                return Ok(extent);
            }
        }
        let ahead = len.max(MAP_AHEAD).min(client.export.size - offset);
        let (start, stop) = client.widen(offset, ahead);
        let longest = if client.export.style == Style::Extended { u64::MAX } else { MAP_PART };
        let asked = (stop - start).min(longest);
        let states = client.run(
            Again::Safe,
            || format!("{} {len} bytes at {offset}", Command::BlockStatus.doing()),
            |connection| connection.status(start, asked),
        )?;
        let writes = if running == 0 { writes } else { u64::MAX };
        client.keep(writes, start, &states, offset, end).ok_or_else(|| {
            Error::io(
                format!("{}: cannot map {len} bytes at {offset}", client.place),
                io::Error::new(io::ErrorKind::InvalidData, "the server's block status does not reach them"),
            )
        })
    }

    fn prefetch(&self, offset: u64, len: u64) {
        let client = &self.client;
        if len == 0 || check_range(client.export.size, offset, len).is_err() || !client.export.has(transmission::CACHE)
        {
            return;
        }
        let (start, end) = client.widen(offset, len);
        let part = client.part(PREFETCH_PART) as u64;
        let idlest = client.pool.read().iter().min_by_key(|connection| connection.load()).cloned();
        let Some(connection) = idlest else { return };
        for number in 0..(end - start).div_ceil(part).min(PREFETCH_PARTS) {
            let at = start + number * part;
            connection.prefetch(at, part.min(end - at));
        }
    }
}
