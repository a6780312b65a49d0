//! Large files of a guest, read here and there.

use super::read_range;
use crate::error::{Error, Result};
use crate::tree::{Node, Tree};
use lru::LruCache;
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

/// How much of a file [`Chunks`] reads at once, in bytes.
const CHUNK: u64 = 64 << 10;

/// How many chunks are kept: 8 MiB.
const CHUNKS_KEPT: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// A regular file that is read here and there: a database, a registry hive. Little of it is kept in memory.
pub(in crate::inspect) struct Chunks<'a> {
    tree: &'a Tree,
    node: Node,
    size: u64,
    kept: RefCell<LruCache<u64, Rc<[u8]>>>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(tree: &'a Tree, node: Node, size: u64) -> Self {
        Self { tree, node, size, kept: RefCell::new(LruCache::new(CHUNKS_KEPT)) }
    }

    /// Returns the size of the file, in bytes.
    pub(in crate::inspect) fn size(&self) -> u64 {
        self.size
    }

    fn chunk(&self, number: u64) -> Result<Rc<[u8]>> {
        if let Some(chunk) = self.kept.borrow_mut().get(&number) {
            return Ok(chunk.clone());
        }
        let start = number * CHUNK;
        let bytes = read_range(self.tree, self.node, start, CHUNK.min(self.size.saturating_sub(start)))?;
        let chunk: Rc<[u8]> = bytes.into();
        self.kept.borrow_mut().put(number, chunk.clone());
        Ok(chunk)
    }

    /// Fills a buffer from an offset.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the file ends before, and those of the driver.
    pub(in crate::inspect) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let chunk = self.chunk(offset / CHUNK)?;
            let within = (offset % CHUNK) as usize;
            let bytes = chunk.get(within..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| Error::corrupt("database", format!("it ends before byte {offset}")))?;
            let step = bytes.len().min(buf.len());
            buf[..step].copy_from_slice(&bytes[..step]);
            buf = &mut buf[step..];
            offset += step as u64;
        }
        Ok(())
    }

    /// Returns `len` bytes from an offset; `len` is checked against the file before anything is allocated.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub(in crate::inspect) fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            return Err(Error::corrupt("database", format!("{len} bytes at {offset} lie beyond its end")));
        }
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use crate::inspect::fixture::Fixture;
    use crate::inspect::read::Guest;

    #[test]
    fn a_file_is_read_across_its_chunks() {
        let bytes: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        let tree = Fixture::new().file("db", bytes.clone()).tree();
        let guest = Guest::new(&tree);
        let chunks = guest.chunks("db").expect("a file");
        assert_eq!(chunks.bytes(65_000, 70_000).expect("inside"), bytes[65_000..135_000]);
        chunks.bytes(199_999, 2).expect_err("past the end");
        chunks.bytes(u64::MAX, 2).expect_err("past the end");
    }
}
