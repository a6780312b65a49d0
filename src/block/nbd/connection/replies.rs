//! What a server answers, checked against what was asked.

use super::reader::Reader;
use super::{Call, Connection, Delivered, Failure, Pending};
use crate::block::nbd::chunks::{Awaited, Refusal};
use crate::block::nbd::stream::Expired;
use crate::block::nbd::wire::{self, REPLY_MAX, REPLY_MIN, Reply, Style, chunk};
use crate::bytes::{be16, be32, be64};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most ranges of one block status reply; the protocol's servers stop there.
const MOST_STATES: u64 = 1 << 20;

/// The longest error chunk: its message has at most 4096 bytes.
const LONGEST_ERROR: u64 = 8 << 10;

impl Connection {
    /// Reads one reply, or one chunk of a reply, for whomever it is.
    pub(super) fn reply(
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
