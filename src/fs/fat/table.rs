//! The file allocation table: for each cluster the next one of its file.

use super::boot::{Boot, FIRST_CLUSTER, Width};
use crate::block::RunCache;
use crate::bytes::{le16, le32};
use crate::error::Result;
use std::sync::Arc;

/// What comes after a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The cluster is free.
    Free,
    /// The file goes on with this cluster.
    Next(u32),
    /// The file ends.
    End,
    /// The table holds what is no cluster's number.
    Damaged(u32),
}

/// A run of the table that was read last, for those who look at many entries.
#[derive(Default)]
pub struct Cursor {
    run: Arc<[u8]>,
    start: u64,
}

/// The table that counts.
pub struct Table {
    device: Arc<RunCache>,
    boot: Arc<Boot>,
}

impl Table {
    /// Makes the table of a filesystem.
    pub fn new(device: Arc<RunCache>, boot: Arc<Boot>) -> Self {
        Self { device, boot }
    }

    /// Returns what comes after a cluster, one of the filesystem's.
    ///
    /// # Errors
    /// Those of reading.
    pub fn link(&self, cluster: u32, cursor: &mut Cursor) -> Result<Link> {
        let raw = self.raw(cluster, cursor)?;
        let (bad, end) = match self.boot.width {
            Width::Fat12 => (0xff7, 0xff8),
            Width::Fat16 => (0xfff7, 0xfff8),
            Width::Fat32 => (0x0fff_fff7, 0x0fff_fff8),
        };
        Ok(match raw {
            0 => Link::Free,
            _ if raw >= end => Link::End,
            _ if raw != bad && self.boot.has_cluster(raw) => Link::Next(raw),
            _ => Link::Damaged(raw),
        })
    }

    /// Says whether the second entry tells that the filesystem was not unmounted as it should have been.
    ///
    /// # Errors
    /// Those of reading.
    pub fn is_dirty(&self) -> Result<bool> {
        let clean = match self.boot.width {
            Width::Fat12 => return Ok(false),
            Width::Fat16 => 0x8000,
            Width::Fat32 => 0x0800_0000,
        };
        Ok(self.raw(1, &mut Cursor::default())? & clean == 0)
    }

    /// Counts the free clusters.
    ///
    /// # Errors
    /// Those of reading.
    pub fn count_free(&self) -> Result<u32> {
        let mut cursor = Cursor::default();
        let mut free = 0;
        for cluster in FIRST_CLUSTER..FIRST_CLUSTER + self.boot.clusters {
            free += u32::from(self.raw(cluster, &mut cursor)? == 0);
        }
        Ok(free)
    }

    /// Returns the entry of a cluster. Entries of 16 and 32 bits never cross the end of a run.
    fn raw(&self, cluster: u32, cursor: &mut Cursor) -> Result<u32> {
        let index = u64::from(cluster);
        let at = |offset: u64| self.boot.table_offset + offset;
        Ok(match self.boot.width {
            Width::Fat12 => {
                let offset = at(index + index / 2);
                let pair = [self.piece(offset, cursor, 1)?[0], self.piece(offset + 1, cursor, 1)?[0]];
                u32::from(if index % 2 == 0 { le16(&pair, 0) & 0xfff } else { le16(&pair, 0) >> 4 })
            }
            Width::Fat16 => u32::from(le16(self.piece(at(index * 2), cursor, 2)?, 0)),
            Width::Fat32 => le32(self.piece(at(index * 4), cursor, 4)?, 0) & 0x0fff_ffff,
        })
    }

    fn piece<'a>(&self, offset: u64, cursor: &'a mut Cursor, len: usize) -> Result<&'a [u8]> {
        let is_inside = |cursor: &Cursor| {
            offset.checked_sub(cursor.start).is_some_and(|from| from + len as u64 <= cursor.run.len() as u64)
        };
        if !is_inside(cursor) {
            (cursor.run, cursor.start) = self.device.run(offset)?;
            if !is_inside(cursor) {
                return Err(crate::Error::corrupt("file allocation table", "the device ends in it"));
            }
        }
        Ok(&cursor.run[(offset - cursor.start) as usize..][..len])
    }
}
