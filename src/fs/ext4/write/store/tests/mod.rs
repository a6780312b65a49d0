//! Tests of the whole store: its calls, crashes at every point, many threads, and the real tools.

mod calls;
mod crash;
#[path = "../../../../../../tests/common/recording.rs"]
mod recording;
#[path = "../../../../../../tests/common/mod.rs"]
mod skipping;
mod threads;
mod tools;

use super::format::Checksums;
use super::superblock::making;
use super::{JournalPlace, Store, StoreOptions};
use crate::cache::CachePool;
use recording::RecordingDevice;
use std::sync::Arc;
use std::time::Duration;

pub(super) const BLOCK: usize = 1024;

/// A small image with a journal in three pieces, and a device of it.
pub(super) struct Sample {
    pub(super) device: Arc<RecordingDevice>,
    pub(super) place: JournalPlace,
}

impl Sample {
    pub(super) fn new(blocks: usize, journal: u32, checksums: Checksums, wide: bool, sequence: u32) -> Self {
        let third = journal / 3;
        // The pieces lie in another order on the device.
        let place = JournalPlace::new([
            (10, third),
            (10 + u64::from(journal - third), third),
            (10 + u64::from(third), journal - 2 * third),
        ]);
        let mut image: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / BLOCK) as u8 ^ 0x5a).collect();
        let superblock = making::superblock(BLOCK as u32, journal, checksums, wide, sequence);
        image[10 * BLOCK..][..superblock.len()].copy_from_slice(&superblock);
        Self { device: Arc::new(RecordingDevice::new(image)), place }
    }

    pub(super) fn plain() -> Self {
        Self::new(1000, 200, Checksums::V3, true, 7)
    }

    pub(super) fn open(&self) -> Store {
        open(self.device.clone(), Some(self.place.clone()))
    }
}

pub(super) fn open(device: Arc<RecordingDevice>, journal: Option<JournalPlace>) -> Store {
    let options = StoreOptions { commit_interval: Duration::from_secs(3600) };
    Store::open(device, BLOCK as u32, journal, options, &CachePool::new(1 << 20)).expect("opens")
}

pub(super) fn block(image: &[u8], number: u64) -> &[u8] {
    &image[number as usize * BLOCK..][..BLOCK]
}
