//! A new file that is written once, in large pieces, and then made durable.
//!
//! Large aligned pieces go past the page cache where the host's filesystem lets them (`O_DIRECT`): that saves a copy, and
//! nothing is left to wait for at the end. The rest goes through the page cache, and the host is asked to write it down
//! in time. Both kinds never share a page.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What places, lengths and memory are multiples of when the page cache is passed by, in bytes.
const ALIGNMENT: usize = 4096;

/// The shortest piece that passes the page cache by, in bytes: the thread waits for each one.
const LARGE: usize = 256 << 10;

/// How much is written before the host is asked to begin to write it down, in bytes: at the end little is left to wait for.
const WRITEBACK_STEP: u64 = 32 << 20;

/// A new file.
pub(crate) struct Fresh<'a> {
    file: &'a File,
    /// The same file, opened to be written past the page cache.
    direct: Option<File>,
    /// Whether the host takes such writes.
    takes_direct: AtomicBool,
    /// How many bytes went through the page cache.
    cached: AtomicU64,
}

impl<'a> Fresh<'a> {
    pub(crate) fn new(file: &'a File) -> Self {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
        Self { file, takes_direct: AtomicBool::new(direct.is_some()), direct, cached: AtomicU64::new(0) }
    }

    /// Writes at an offset.
    pub(crate) fn write_all_at(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        if let Some(direct) = &self.direct
            && data.len() >= LARGE
            && offset.is_multiple_of(ALIGNMENT as u64)
            && data.as_ptr().addr().is_multiple_of(ALIGNMENT)
            && self.takes_direct.load(Ordering::Relaxed)
        {
            let whole = data.len() - data.len() % ALIGNMENT;
            match direct.write_all_at(&data[..whole], offset) {
                Ok(()) => return self.write_cached(&data[whole..], offset + whole as u64),
                // This filesystem wants another alignment, or none of it. What was written is written again.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    self.takes_direct.store(false, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        self.write_cached(data, offset)
    }

    fn write_cached(&self, data: &[u8], offset: u64) -> std::io::Result<()> {
        self.file.write_all_at(data, offset)?;
        let before = self.cached.fetch_add(data.len() as u64, Ordering::Relaxed);
        if before / WRITEBACK_STEP != (before + data.len() as u64) / WRITEBACK_STEP {
            crate::sys::start_writeback(self.file);
        }
        Ok(())
    }

    /// Gives the file its size.
    pub(crate) fn set_len(&self, size: u64) -> std::io::Result<()> {
        self.file.set_len(size)
    }
}

/// Memory that may be written past the page cache.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    begin: usize,
}

impl Aligned {
    /// Makes zeroed memory of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let memory = vec![0; size + ALIGNMENT];
        let begin = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, begin }
    }

    /// Returns the first `size` bytes.
    pub(crate) fn slice(&mut self, size: usize) -> &mut [u8] {
        &mut self.memory[self.begin..][..size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_size_and_place_arrive() {
        let mut expected = vec![0_u8; 3 << 20];
        let file = tempfile::tempfile().expect("a temporary file");
        let fresh = Fresh::new(&file);
        let mut memory = Aligned::new(1 << 20);
        for (size, skip, offset, byte) in [
            (1 << 20, 0, 0, 1),
            ((512 << 10) + 77, 0, 1 << 20, 2),
            (300 << 10, 5, (1 << 20) + (600 << 10), 3),
            (100, 0, (2 << 20) + 3, 4),
            (512 << 10, 0, (2 << 20) + 4096, 5),
        ] {
            let data = &mut memory.slice(size)[skip..];
            data.fill(byte);
            expected[offset..][..data.len()].copy_from_slice(data);
            fresh.write_all_at(data, offset as u64).expect("room");
        }
        fresh.set_len(expected.len() as u64).expect("room");
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).expect("all of it is there");
        assert!(found == expected);
    }
}
