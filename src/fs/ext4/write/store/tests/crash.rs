//! Crashes at every write, and with what was not flushed reaching the disk in part and in any order.
//!
//! A model knows what each block holds after each transaction. Whatever is recovered must be the whole state of one of
//! them, not older than the last one that somebody waited for. Some blocks are metadata, some are file data that is
//! written straight to the device in the space of metadata that was forgotten.

use super::super::format::Checksums;
use super::super::{Store, Tid};
use super::recording::Random;
use super::{BLOCK, Sample, block};
use crate::block::MemoryDevice;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const FIRST: u64 = 80;
const BLOCKS: u64 = 60;

/// What each block holds that is in use, as metadata or as data.
type State = BTreeMap<u64, Vec<u8>>;

struct Run {
    sample: Sample,
    /// The state at the end of each transaction.
    states: BTreeMap<u64, State>,
    /// How many events there were when a commit returned, and which transaction it was.
    acknowledged: Vec<(usize, u64)>,
}

struct Model {
    now: State,
    metadata: BTreeSet<u64>,
    data: BTreeSet<u64>,
    /// Free blocks whose freeing is durable.
    free: Arc<Mutex<BTreeSet<u64>>>,
    /// Blocks that were freed and whose freeing may not be durable.
    freed: Vec<u64>,
}

fn contents(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![random.number() as u8; BLOCK];
    bytes[..8].copy_from_slice(&random.number().to_le_bytes());
    // A sector that is missing must show.
    bytes[BLOCK - 8..].copy_from_slice(&random.number().to_le_bytes());
    if random.below(6) == 0 {
        bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
    }
    bytes
}

fn pick(set: &BTreeSet<u64>, random: &mut Random) -> Option<u64> {
    set.iter().nth(random.below(set.len().max(1) as u64) as usize).copied()
}

impl Model {
    /// One random operation through a handle.
    fn operate(&mut self, store: &Store, random: &mut Random) -> Tid {
        let mut handle = store.begin(6).expect("begins");
        for _ in 0..=random.below(5) {
            match random.below(10) {
                0..5 => {
                    let Some(number) = pick(&self.metadata, random) else { continue };
                    let bytes = contents(random);
                    handle.modify(number, |old| old.copy_from_slice(&bytes)).expect("changes");
                    self.now.insert(number, bytes);
                }
                5 => {
                    // New metadata, in free space or in what was freed a moment ago.
                    let durable = pick(&self.free.lock(), random);
                    let number = if random.below(2) == 0 { self.freed.pop().or(durable) } else { durable };
                    let Some(number) = number else { continue };
                    self.free.lock().remove(&number);
                    self.freed.retain(|&freed| freed != number);
                    let bytes = contents(random);
                    handle.create(number, |new| new.copy_from_slice(&bytes)).expect("creates");
                    self.now.insert(number, bytes);
                    self.metadata.insert(number);
                }
                6..8 => {
                    let Some(number) = pick(&self.metadata, random) else { continue };
                    handle.forget(number).expect("forgets");
                    self.metadata.remove(&number);
                    self.release(number);
                }
                8 => {
                    let number = pick(&self.free.lock(), random);
                    let Some(number) = number else { continue };
                    self.free.lock().remove(&number);
                    let bytes = contents(random);
                    store.device().write_at(&bytes, number * BLOCK as u64).expect("writes");
                    handle.ordered();
                    self.now.insert(number, bytes);
                    self.data.insert(number);
                }
                _ => {
                    let Some(number) = pick(&self.data, random) else { continue };
                    self.data.remove(&number);
                    self.release(number);
                }
            }
        }
        // Every operation that frees something says when that is durable; what was used again meanwhile stays used.
        let (free, freed) = (self.free.clone(), std::mem::take(&mut self.freed));
        if random.below(2) == 0 {
            handle.after_commit(Box::new(move || free.lock().extend(freed)));
        } else {
            self.freed = freed;
        }
        // A transaction is never empty, so that each is in the log.
        let bytes = contents(random);
        handle.modify(FIRST, |old| old.copy_from_slice(&bytes)).expect("changes");
        self.now.insert(FIRST, bytes);
        handle.tid()
    }

    fn release(&mut self, number: u64) {
        self.now.remove(&number);
        self.freed.push(number);
    }
}

fn run(checksums: Checksums, wide: bool, seed: u64) -> Run {
    let mut random = Random::new(seed);
    // Sequence numbers wrap on the way.
    let sample = Sample::new((FIRST + BLOCKS) as usize, 60, checksums, wide, u32::MAX - 9);
    let store = sample.open();
    let image = sample.device.image();
    let initial: State = (FIRST..FIRST + BLOCKS / 2).map(|number| (number, block(&image, number).to_vec())).collect();
    let mut model = Model {
        metadata: (FIRST + 1..FIRST + BLOCKS / 2).collect(),
        now: initial.clone(),
        data: BTreeSet::new(),
        free: Arc::new(Mutex::new((FIRST + BLOCKS / 2..FIRST + BLOCKS).collect())),
        freed: Vec::new(),
    };
    let mut states = BTreeMap::from([(0, initial)]);
    let mut acknowledged = vec![(0, 0)];
    for _ in 0..60 {
        let tid = model.operate(&store, &mut random);
        states.insert(tid.0, model.now.clone());
        if random.below(3) == 0 {
            store.commit_of(tid).expect("commits");
            acknowledged.push((sample.device.events(), tid.0));
        }
    }
    if seed.is_multiple_of(2) {
        store.close().expect("closes");
        let last = *states.keys().last().expect("there was an operation");
        acknowledged.push((sample.device.events(), last));
    } else {
        // A store that is dropped closes itself; this one leaves its log as it is.
        store.abort(&crate::Error::Errno(libc::EIO));
    }
    drop(store);
    Run { sample, states, acknowledged }
}

impl Run {
    fn check(&self, image: Vec<u8>, events: usize, what: &str) {
        let device = MemoryDevice::new(image);
        Store::recover(&device, BLOCK as u32, &self.sample.place)
            .unwrap_or_else(|error| panic!("{what}, {events} events: {error}"));
        let image = device.to_vec();
        let acknowledged = self.acknowledged.iter().rev().find(|(at, _)| *at <= events).map_or(0, |&(_, tid)| tid);
        let matches = |state: &State| state.iter().all(|(number, bytes)| block(&image, *number) == bytes);
        let found = self.states.iter().rev().find(|(_, state)| matches(state));
        let Some((&tid, _)) = found else { panic!("{what}, {events} events: the state of no transaction") };
        assert!(tid >= acknowledged, "{what}, {events} events: transaction {tid}, but {acknowledged} was waited for");
        let again = Store::recover(&device, BLOCK as u32, &self.sample.place).expect("recovers");
        assert!(!again, "{what}, {events} events: still dirty");
    }
}

#[test]
fn a_crash_at_any_point_leaves_the_state_of_a_transaction() {
    let formats = [
        (Checksums::None, false),
        (Checksums::V1, false),
        (Checksums::V2, true),
        (Checksums::V3, false),
        (Checksums::V3, true),
    ];
    for (number, (checksums, wide)) in formats.into_iter().cycle().take(20).enumerate() {
        let run = run(checksums, wide, number as u64);
        let total = run.sample.device.events();
        for events in 0..=total {
            let what = format!("run {number}, {checksums:?}");
            run.check(run.sample.device.image_at(events), events, &what);
            for seed in 0..3 {
                let image = run.sample.device.image_with_reordering(events, (events * 10 + seed) as u64);
                run.check(image, events, &format!("{what}, reordering {seed}"));
            }
        }
    }
}

#[test]
fn a_recovery_that_is_interrupted_can_be_done_again() {
    let run = run(Checksums::V3, true, 5);
    for events in (0..run.sample.device.events()).step_by(7) {
        let crashed = super::recording::RecordingDevice::new(run.sample.device.image_at(events));
        Store::recover(&crashed, BLOCK as u32, &run.sample.place).expect("recovers");
        for step in 0..=crashed.events() {
            run.check(crashed.image_with_reordering(step, step as u64), events, "recovery interrupted");
        }
    }
}

/// Flips bits in a log: recovery may refuse it, but neither panics nor hangs.
#[test]
fn a_damaged_log_is_refused_or_recovered() {
    for (number, checksums) in [Checksums::None, Checksums::V1, Checksums::V2, Checksums::V3].into_iter().enumerate() {
        let run = run(checksums, number % 2 == 0, 3 + 2 * number as u64);
        let clean = run.sample.device.image();
        let mut random = Random::new(number as u64);
        for _ in 0..500 {
            let mut image = clean.clone();
            for _ in 0..=random.below(4) {
                // The superblock's first bytes, or anywhere in the journal.
                let at = if random.below(4) == 0 { random.below(96) } else { random.below(60 * BLOCK as u64) };
                image[10 * BLOCK + at as usize] = random.number() as u8;
            }
            let device = MemoryDevice::new(image);
            let _ = Store::recover(&device, BLOCK as u32, &run.sample.place);
        }
    }
}

/// What lies in the log from before a crash must not be taken for transactions that came after it.
#[test]
fn a_filesystem_that_was_recovered_can_crash_again() {
    let home = |image: &[u8]| image[FIRST as usize * BLOCK..].to_vec();
    for (number, checksums) in [Checksums::None, Checksums::V1, Checksums::V3].into_iter().enumerate() {
        let first = run(checksums, true, 1 + 2 * number as u64);
        for events in (0..=first.sample.device.events()).step_by(5) {
            let crashed = MemoryDevice::new(first.sample.device.image_with_reordering(events, events as u64));
            Store::recover(&crashed, BLOCK as u32, &first.sample.place).expect("recovers");
            let device = Arc::new(super::recording::RecordingDevice::new(crashed.to_vec()));
            let mut now = home(&crashed.to_vec());
            let mut states = vec![now.clone()];
            let store = super::open(device.clone(), Some(first.sample.place.clone()));
            let mut random = Random::new(events as u64);
            for _ in 0..4 {
                let mut handle = store.begin(4).expect("begins");
                for _ in 0..=random.below(4) {
                    let number = random.below(BLOCKS);
                    let bytes = contents(&mut random);
                    now[number as usize * BLOCK..][..BLOCK].copy_from_slice(&bytes);
                    handle.modify(FIRST + number, |old| old.copy_from_slice(&bytes)).expect("changes");
                }
                drop(handle);
                store.commit().expect("commits");
                states.push(now.clone());
            }
            store.abort(&crate::Error::Errno(libc::EIO));
            let mut reached = 0;
            for step in 0..=device.events() {
                let again = MemoryDevice::new(device.image_at(step));
                Store::recover(&again, BLOCK as u32, &first.sample.place).expect("recovers");
                let found = home(&again.to_vec());
                let state = states.iter().position(|state| *state == found);
                let state = state.unwrap_or_else(|| panic!("{checksums:?}, {events} events, then {step}: no state"));
                assert!(state >= reached, "{checksums:?}, {events} events, then {step}");
                reached = state;
            }
            assert_eq!(reached, 4);
        }
    }
}
