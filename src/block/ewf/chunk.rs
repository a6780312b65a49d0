//! Chunks: pieces of the disk, compressed by zlib, or as they are with a sum behind them.

use crate::block::BlockDevice;
use crate::bytes::le32;
use crate::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use parking_lot::Mutex;

/// Where a chunk lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it begins, in bytes.
    pub start: u64,
    /// Where the next one begins, or the chunks end.
    pub end: u64,
    /// Whether it is compressed.
    pub is_compressed: bool,
}

/// Decompressors that wait to be used again.
const MAX_IDLE: usize = 16;

/// Inflates chunks, in any number of threads.
#[derive(Default)]
pub(super) struct Inflater(Mutex<Vec<Decompress>>);

impl Inflater {
    /// Fills `out` with what `bytes` inflate to, and at most so much more as the rest of a chunk.
    fn run(&self, bytes: &[u8], out: &mut [u8], chunk: u64) -> Option<()> {
        let idle = self.0.lock().pop();
        let mut decoder = match idle {
            Some(mut decoder) => {
                decoder.reset(true);
                decoder
            }
            None => Decompress::new(true),
        };
        let mut status = decoder.decompress(bytes, out, FlushDecompress::Finish);
        // The last chunk of a disk may be filled up; its sum is that of the whole.
        if matches!(status, Ok(Status::Ok | Status::BufError)) && decoder.total_out() == out.len() as u64 {
            let mut rest = vec![0; (chunk as usize).saturating_sub(out.len()) + 1];
            let used = decoder.total_in() as usize;
            status = decoder.decompress(bytes.get(used..)?, &mut rest, FlushDecompress::Finish);
        }
        let is_whole = matches!(status, Ok(Status::StreamEnd)) && decoder.total_out() >= out.len() as u64;
        let mut idle = self.0.lock();
        if idle.len() < MAX_IDLE {
            idle.push(decoder);
        }
        is_whole.then_some(())
    }
}

/// Fills `buf` with the chunk `number`, of `chunk` bytes or, at the disk's end, fewer.
///
/// # Errors
/// [`Error::Corrupt`] where it does not inflate or its sum is wrong, and those of reading.
pub(super) fn read(
    segment: &dyn BlockDevice,
    place: &Place,
    buf: &mut [u8],
    chunk: u64,
    inflater: &Inflater,
    number: u64,
) -> Result<()> {
    const SUM: u64 = 4;
    let wrong = |detail: &'static str| Error::corrupt(format!("EWF chunk {number}"), detail);
    let room = place.end - place.start;
    if !place.is_compressed {
        // The last chunk of a disk may be shorter than its place.
        let size = chunk.min(room.saturating_sub(SUM));
        if size < buf.len() as u64 {
            return Err(wrong("it is shorter than a chunk"));
        }
        let mut bytes = vec![0; (size + SUM) as usize];
        segment.read_at(&mut bytes, place.start)?;
        let fits = |len: usize| bytes.len() >= len + 4 && is_sum(&bytes[..len], le32(&bytes, len));
        if !fits(size as usize) && !fits(buf.len()) {
            return Err(wrong("its checksum is wrong"));
        }
        buf.copy_from_slice(&bytes[..buf.len()]);
        return Ok(());
    }
    // What does not compress is stored as it is, so a compressed chunk is hardly larger than a plain one.
    let most = chunk + chunk / 8 + 1024;
    let mut bytes = vec![0; room.min(most) as usize];
    segment.read_at(&mut bytes, place.start)?;
    inflater.run(&bytes, buf, chunk).ok_or_else(|| wrong("it does not inflate to a whole chunk"))
}

/// Says whether a sum is that of bytes.
pub(super) fn is_sum(bytes: &[u8], sum: u32) -> bool {
    cfg!(fuzzing) || adler32(bytes) == sum
}

/// Returns the Adler-32 sum of bytes, as RFC 1950 has it.
fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65521;
    /// So many bytes can be summed before the sums could overflow.
    const RUN: usize = 5552;
    let (mut low, mut high) = (1_u32, 0_u32);
    for run in bytes.chunks(RUN) {
        for &byte in run {
            low += u32::from(byte);
            high += low;
        }
        low %= MODULUS;
        high %= MODULUS;
    }
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_zlib() {
        assert_eq!(adler32(b""), 1);
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(adler32(&[0xff; 100_000]), 0x149a_302c);
    }
}
