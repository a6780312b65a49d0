//! Compressed clusters: raw deflate or Zstandard, each cluster by itself.

use super::header::{Compression, Header};
use crate::error::{Error, Result};
use flate2::{Decompress, FlushDecompress, Status};
use parking_lot::Mutex;
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// The largest window that a Zstandard frame may ask for, as a power of two: four times the largest cluster.
const MAX_ZSTD_WINDOW: u32 = 23;
/// Decoders that wait to be used again.
const MAX_IDLE: usize = 16;

/// Where the bytes of a compressed cluster lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// The host offset, in bytes; of no alignment.
    pub offset: u64,
    /// How many bytes may belong to it: to the end of its last sector of 512 bytes.
    pub len: u64,
}

impl Descriptor {
    /// Parses the entry of L2 of a compressed cluster.
    pub fn parse(entry: u64, header: &Header) -> Self {
        let sectors_bits = header.cluster_bits - 8;
        let shift = 62 - sectors_bits;
        let offset = entry & ((1 << shift) - 1);
        let sectors = ((entry >> shift) & ((1 << sectors_bits) - 1)) + 1;
        Self { offset, len: sectors * 512 - offset % 512 }
    }
}

/// Decompresses clusters, in any number of threads.
pub(super) struct Decompressor {
    kind: Compression,
    deflate: Mutex<Vec<Decompress>>,
    zstd: Mutex<Vec<Decoder<'static>>>,
}

impl Decompressor {
    pub fn new(kind: Compression) -> Self {
        Self { kind, deflate: Mutex::new(Vec::new()), zstd: Mutex::new(Vec::new()) }
    }

    /// Fills `cluster` from `bytes`, which may go on behind the compressed cluster's end.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they do not decompress to a whole cluster.
    pub fn decompress(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
        match self.kind {
            Compression::Zlib => self.inflate(bytes, cluster),
            Compression::Zstd => self.unzstd(bytes, cluster),
        }
    }

    fn inflate(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
        let mut decoder = match take(&self.deflate) {
            Some(mut decoder) => {
                decoder.reset(false);
                decoder
            }
            None => Decompress::new(false),
        };
        let status = decoder.decompress(bytes, cluster, FlushDecompress::Finish);
        let is_whole = decoder.total_out() == cluster.len() as u64;
        give(&self.deflate, decoder);
        match status {
            Ok(Status::StreamEnd | Status::Ok | Status::BufError) if is_whole => Ok(()),
            Ok(_) => Err(damaged("it does not fill the cluster")),
            Err(_) => Err(damaged("it does not inflate")),
        }
    }

    fn unzstd(&self, bytes: &[u8], cluster: &mut [u8]) -> Result<()> {
        let failed = |_| damaged("it does not decompress");
        let mut decoder = match take(&self.zstd) {
            Some(decoder) => decoder,
            None => {
                let mut decoder = Decoder::new().map_err(failed)?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW)).map_err(failed)?;
                decoder
            }
        };
        decoder.reinit().map_err(failed)?;
        let mut input = InBuffer::around(bytes);
        let mut output = OutBuffer::around(cluster);
        loop {
            let before = (input.pos(), output.pos());
            let left = decoder.run(&mut input, &mut output).map_err(failed)?;
            let is_full = output.pos() == output.capacity();
            // A frame that ended leaves nothing over; a frame that did not, and makes no progress, never will.
            if is_full || left == 0 || (input.pos(), output.pos()) == before {
                break;
            }
        }
        let is_whole = output.pos() == output.capacity();
        give(&self.zstd, decoder);
        if is_whole { Ok(()) } else { Err(damaged("it does not fill the cluster")) }
    }
}

fn take<T>(idle: &Mutex<Vec<T>>) -> Option<T> {
    idle.lock().pop()
}

fn give<T>(idle: &Mutex<Vec<T>>, decoder: T) {
    let mut idle = idle.lock();
    if idle.len() < MAX_IDLE {
        idle.push(decoder);
    }
}

fn damaged(what: &'static str) -> Error {
    Error::corrupt("compressed cluster", what)
}
