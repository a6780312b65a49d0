//! The superblock of a RAID leg (dm-raid), which tells whether the leg is up to date.

use crate::block::{BlockDevice, SharedDevice};
use crate::bytes::{le32, le64};
use crate::volume::raid::Members;

const MAGIC: u32 = 0x6452_6d44;

/// A leg and what its superblock says.
pub struct Leg {
    /// Its data, where they are there.
    pub device: Option<SharedDevice>,
    superblock: Option<Superblock>,
}

#[derive(Clone, Copy)]
struct Superblock {
    events: u64,
    /// The legs that failed, by bit.
    failed: u64,
    /// How far this leg has been rebuilt, in sectors; all ones where it is whole.
    recovered: u64,
}

impl Leg {
    /// Reads a leg's superblock from its metadata volume.
    pub fn read(meta: Option<&dyn BlockDevice>, device: Option<SharedDevice>) -> Self {
        let superblock = meta.and_then(|meta| {
            let mut bytes = [0; 512];
            meta.read_at(&mut bytes, 0).ok()?;
            (le32(&bytes, 0) == MAGIC).then(|| Superblock {
                events: le64(&bytes, 16),
                failed: le64(&bytes, 24),
                recovered: le64(&bytes, 32),
            })
        });
        Self { device, superblock }
    }

    /// Returns the legs that can be read, each of `size` bytes, and the places of those that are out of date.
    pub fn usable(legs: Vec<Self>, size: u64) -> (Members, Vec<usize>) {
        let newest = legs.iter().filter_map(|leg| leg.superblock).max_by_key(|superblock| superblock.events);
        let mut stale = Vec::new();
        let members = legs.into_iter().enumerate().map(|(index, leg)| {
            let Some(newest) = newest else { return leg.device };
            let is_behind = match leg.superblock {
                Some(own) => own.events.saturating_add(1) < newest.events || own.recovered.saturating_mul(512) < size,
                // Only a leg that was just added has none while others do.
                None => true,
            };
            let has_failed = index < 64 && newest.failed >> index & 1 != 0;
            if leg.device.is_some() && (is_behind || has_failed) {
                stale.push(index);
                return None;
            }
            leg.device
        });
        (members.collect(), stale)
    }
}
