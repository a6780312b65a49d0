//! Copying a whole disk into a new image: what is not stored is not read, zeroes are not written, and many threads work.

use super::fresh::{Aligned, Fresh};
use super::qcow2::Compression;
use super::qcow2::bulk::Bulk;
pub(crate) use super::qcow2::bulk::is_zero;
use super::{BlockDevice, ExtentKind};
use crate::error::{Error, IoContext, Result};
use parking_lot::{Condvar, Mutex};
use std::fs::File;

/// Zeroes that are left out of a raw image, in bytes: a page of the host.
const RAW_GRAIN: usize = 4096;

/// Told of bytes that are done, from any thread; an error ends the copying.
pub type Report<'a> = &'a (dyn Fn(u64) -> Result<()> + Sync);

/// Copies a disk into an empty file as a raw image with holes.
///
/// # Errors
/// Those of reading, of `report`, and [`Error::Io`] of the file.
pub fn to_raw(source: &dyn BlockDevice, file: &File, report: Report<'_>) -> Result<()> {
    let doing = || "cannot write the new image";
    file.set_len(source.size()).doing(doing)?;
    let fresh = Fresh::new(file);
    for_pieces(source, report, |offset, data, turn| {
        // Nobody waits: the place of everything is known.
        turn.done();
        write_sparse(&fresh, offset, data).doing(doing)
    })
}

fn write_sparse(file: &Fresh<'_>, offset: u64, data: &[u8]) -> std::io::Result<()> {
    // A run of grains that hold something is one write.
    let mut run: Option<usize> = None;
    for at in (0..data.len()).step_by(RAW_GRAIN) {
        let end = data.len().min(at + RAW_GRAIN);
        match (is_zero(&data[at..end]), run) {
            (false, None) => run = Some(at),
            (true, Some(start)) => {
                file.write_all_at(&data[start..at], offset + start as u64)?;
                run = None;
            }
            _ => {}
        }
    }
    match run {
        Some(start) => file.write_all_at(&data[start..], offset + start as u64),
        None => Ok(()),
    }
}

/// Copies a disk into an empty file as a qcow2 image, compressed if that is asked for.
///
/// # Errors
/// Those of reading, of `report`, [`Error::Usage`] for a disk that is too large, and [`Error::Io`] of the file.
pub fn to_qcow2(
    source: &dyn BlockDevice,
    file: &File,
    compression: Option<Compression>,
    report: Report<'_>,
) -> Result<()> {
    let image = Bulk::new(Fresh::new(file), source.size(), compression)?;
    for_pieces(source, report, |offset, data, turn| {
        let mut piece = image.prepare(offset, data)?;
        if !turn.wait() {
            return Ok(());
        }
        image.place(&mut piece);
        turn.done();
        image.write(&piece)
    })?;
    image.finish()
}

struct Turns {
    state: Mutex<TurnState>,
    changed: Condvar,
}

struct TurnState {
    /// The offset from which pieces are looked for.
    at: u64,
    /// How many pieces were handed out, and whose turn it is.
    given: u64,
    turn: u64,
    failed: Option<Error>,
    stopped: bool,
}

/// The right of one piece to be placed when all before it are.
struct Turn<'a> {
    turns: &'a Turns,
    number: u64,
    passed: std::cell::Cell<bool>,
}

impl Turn<'_> {
    /// Waits until it is this piece's turn; false when the work has ended.
    fn wait(&self) -> bool {
        let mut state = self.turns.state.lock();
        while state.turn != self.number && !state.stopped {
            self.turns.changed.wait(&mut state);
        }
        !state.stopped
    }

    /// Passes the turn on.
    fn done(&self) {
        if !self.passed.replace(true) {
            self.turns.state.lock().turn += 1;
            self.turns.changed.notify_all();
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.turns.state.lock().stopped = true;
            self.turns.changed.notify_all();
        } else if !self.passed.get() && self.wait() {
            self.done();
        }
    }
}

/// Gives the pieces of a disk that hold anything to `work`, on all cores. Who needs them in order uses the turn.
fn for_pieces(
    source: &dyn BlockDevice,
    report: Report<'_>,
    work: impl Fn(u64, &[u8], &Turn<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let state = TurnState { at: 0, given: 0, turn: 0, failed: None, stopped: false };
    let turns = Turns { state: Mutex::new(state), changed: Condvar::new() };
    // Twice as many as there are cores: some wait for the host or for their turn.
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get() * 2).min(64);
    let worker = || {
        let mut buffer = Aligned::new(Bulk::PIECE.min(source.size().max(1)) as usize);
        loop {
            let result = next_piece(source, &turns, report).and_then(|next| {
                let Some((number, offset, len)) = next else { return Ok(false) };
                let turn = Turn { turns: &turns, number, passed: std::cell::Cell::new(false) };
                let data = buffer.slice(len as usize);
                source.read_at(data, offset)?;
                work(offset, data, &turn)?;
                report(len)?;
                Ok(true)
            });
            match result {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let mut state = turns.state.lock();
                    state.stopped = true;
                    state.failed.get_or_insert(error);
                    turns.changed.notify_all();
                    return;
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            if let Err(error) = std::thread::Builder::new().spawn_scoped(scope, worker) {
                log::debug!("fewer threads: {error}");
            }
        }
        worker();
    });
    turns.state.into_inner().failed.map_or(Ok(()), Err)
}

/// Finds the next piece with data; returns its number, offset and length. What is left out is reported as done.
fn next_piece(source: &dyn BlockDevice, turns: &Turns, report: Report<'_>) -> Result<Option<(u64, u64, u64)>> {
    let size = source.size();
    let mut skipped = 0;
    let mut state = turns.state.lock();
    let found = loop {
        if state.stopped || state.at >= size {
            break None;
        }
        let at = state.at;
        let extent = source.map(at, size - at)?;
        let whole = extent.end.min(size);
        // Whole pieces that hold nothing are passed over; the last one of the disk may be short.
        let empty_to = if whole == size { size } else { whole - whole % Bulk::PIECE };
        if extent.kind != ExtentKind::Data && empty_to > at {
            state.at = empty_to;
            skipped += empty_to - at;
            continue;
        }
        let len = (size - at).min(Bulk::PIECE);
        state.at += len;
        let number = state.given;
        state.given += 1;
        break Some((number, at, len));
    };
    drop(state);
    report(skipped)?;
    Ok(found)
}

/// Gives back the space of the zeroes that a device holds, where it can.
///
/// # Errors
/// Those of reading and writing, and of `report`.
pub fn punch_zeroes(device: &dyn BlockDevice, report: Report<'_>) -> Result<()> {
    for_pieces(device, report, |offset, data, turn| {
        turn.done();
        let mut run: Option<usize> = None;
        for at in (0..=data.len()).step_by(RAW_GRAIN) {
            let end = data.len().min(at + RAW_GRAIN);
            let zero = at < data.len() && is_zero(&data[at..end]);
            match (zero, run) {
                (true, None) => run = Some(at),
                (false, Some(start)) => {
                    device.write_zeroes(offset + start as u64, (at - start) as u64, false)?;
                    run = None;
                }
                _ => {}
            }
        }
        match run {
            Some(start) => device.write_zeroes(offset + start as u64, (data.len() - start) as u64, false),
            None => Ok(()),
        }
    })
}
