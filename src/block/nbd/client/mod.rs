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

mod pool;
mod requests;
mod target;

use super::connection::Connection;
use super::handshake::Export;
use super::stream::{Socket, Stream};
use super::tls::Tls;
use super::uri::Uri;
use super::wire::{Command, Style, transmission};
use crate::block::{BlockDevice, Extent, ExtentKind, check_range};
use crate::error::{Error, ErrorContext, IoContext, Result};
use parking_lot::{Mutex, RwLock};
use pool::{Again, Lost};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use target::{Target, greet, same};

/// The longest request to discard, in bytes.
const DISCARD_PART: u64 = 1 << 30;

/// The longest prefetch request, in bytes.
const PREFETCH_PART: u32 = 4 << 20;

/// The most prefetch requests of one call.
const PREFETCH_PARTS: u64 = 8;

/// The most of a range that is asked for at once in 32-bit lengths, in bytes. More makes some servers stumble: nbdkit
/// 1.32 ends at an assertion when an extent passes 4 GiB.
const MAP_PART: u64 = 1 << 30;

/// The least that is asked for when a range is mapped, in bytes: its neighbours come next.
const MAP_AHEAD: u64 = 64 << 20;

/// An unaligned read up to this size is one request into a buffer, in bytes.
const WIDENED: u64 = 128 << 10;

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
