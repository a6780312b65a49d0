//! The half of a connection that receives.

use super::Failure;
use crate::block::nbd::stream::{Expired, ReadHalf};
use std::io;

/// What is received at once, in bytes; longer payloads go past this buffer.
const STAGED: usize = 16 << 10;

/// The half that receives, with what was received ahead.
pub(super) struct Reader {
    stream: ReadHalf,
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Reader {
    pub(super) fn new(stream: ReadHalf) -> Self {
        Self { stream, bytes: vec![0; STAGED].into(), start: 0, end: 0 }
    }

    /// Fills `buf`. What is long goes straight into it.
    pub(super) fn exact(&mut self, mut buf: &mut [u8], expired: Expired<'_>) -> Result<(), Failure> {
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
