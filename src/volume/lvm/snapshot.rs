//! A snapshot of the old kind: an origin, and a store of the chunks in which the snapshot differs from it.
//!
//! The store begins with a header in its first chunk. Areas of metadata follow, each of one chunk of pairs (old chunk, new
//! chunk), with as many chunks of data behind it as it has pairs. Specified by `drivers/md/dm-snap-persistent.c` of Linux.

use super::patched::{Patches, Piece};
use crate::block::{SharedDevice, check_range};
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};

const MAGIC: u32 = 0x7041_6e53;

/// The most chunks that are remembered: 64 MiB of them.
const MAX_CHUNKS: usize = 4 << 20;

/// The largest chunk, in bytes.
const MAX_CHUNK: u64 = 1 << 20;

/// Chunks that follow each other in the origin and in the store.
struct Run {
    old: u64,
    new: u64,
    count: u64,
}

/// An origin with what a store changes in it.
pub struct Snapshot {
    origin: SharedDevice,
    store: SharedDevice,
    chunk: u64,
    runs: Vec<Run>,
}

impl Snapshot {
    /// Reads the store.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it is damaged or was given up by the kernel; [`Error::Unsupported`] for another version.
    pub fn open(origin: SharedDevice, store: SharedDevice) -> Result<Self> {
        let corrupt = |detail: String| Error::corrupt("LVM snapshot store", detail);
        let mut header = [0; 16];
        check_range(store.size(), 0, 512)?;
        store.read_at(&mut header, 0)?;
        if le32(&header, 0) != MAGIC {
            return Err(corrupt("it has no header".into()));
        }
        if le32(&header, 4) == 0 {
            return Err(corrupt("the kernel gave it up: it ran full".into()));
        }
        if le32(&header, 8) != 1 {
            return Err(Error::unsupported(format!("LVM snapshots of version {}", le32(&header, 8))));
        }
        let chunk = u64::from(le32(&header, 12)) * 512;
        if !chunk.is_power_of_two() || chunk > MAX_CHUNK {
            return Err(corrupt(format!("chunks of {chunk} bytes")));
        }
        let (chunks, per_area) = (store.size() / chunk, chunk / 16);
        let mut pairs = Vec::new();
        let mut area = vec![0; chunk as usize];
        let mut at = 1;
        'areas: while at < chunks {
            store.read_at(&mut area, at * chunk)?;
            for pair in area.chunks_exact(16) {
                let (old, new) = (le64(pair, 0), le64(pair, 8));
                if new == 0 {
                    break 'areas;
                }
                if new >= chunks || old > u64::MAX / chunk - 1 {
                    return Err(corrupt(format!("chunk {old} at {new} of {chunks} chunks")));
                }
                if pairs.len() >= MAX_CHUNKS {
                    return Err(Error::unsupported(format!(
                        "LVM snapshots that differ in more than {MAX_CHUNKS} chunks"
                    )));
                }
                pairs.push((old, new));
            }
            at += per_area + 1;
        }
        pairs.sort_unstable();
        let mut runs: Vec<Run> = Vec::new();
        for (old, new) in pairs {
            match runs.last_mut() {
                Some(last) if last.old + last.count == old && last.new + last.count == new => last.count += 1,
                Some(last) if last.old + last.count > old => {
                    return Err(corrupt(format!("chunk {old} is there twice")));
                }
                _ => runs.push(Run { old, new, count: 1 }),
            }
        }
        Ok(Self { origin, store, chunk, runs })
    }
}

impl Patches for Snapshot {
    fn origin(&self) -> &SharedDevice {
        &self.origin
    }

    fn piece(&self, offset: u64, len: u64) -> Piece<'_> {
        let at = self.runs.partition_point(|run| (run.old + run.count) * self.chunk <= offset);
        let Some(run) = self.runs.get(at) else { return (&self.origin, offset, len) };
        let (start, end) = (run.old * self.chunk, (run.old + run.count) * self.chunk);
        if offset < start {
            return (&self.origin, offset, len.min(start - offset));
        }
        (&self.store, run.new * self.chunk + (offset - start), len.min(end - offset))
    }
}
