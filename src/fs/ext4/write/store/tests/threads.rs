//! Many threads at once.

use super::super::{Store, StoreOptions};
use super::{BLOCK, Sample, block};
use crate::block::MemoryDevice;
use crate::bytes::{le64, set_le64};
use crate::cache::CachePool;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const THREADS: u64 = 8;
const ROUNDS: u64 = 200;

/// Each thread counts in its own field of shared blocks, and what it waited for must be in the log.
#[test]
fn threads_that_change_parts_of_the_same_blocks_lose_nothing() {
    let sample = Sample::plain();
    let store = sample.open();
    let mut handle = store.begin(2).expect("begins");
    handle.create(500, |_| ()).expect("creates");
    handle.create(501, |_| ()).expect("creates");
    drop(handle);
    store.commit().expect("commits");
    let acknowledged: Vec<AtomicU64> = (0..THREADS).map(|_| AtomicU64::new(0)).collect();
    let images = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, acknowledged) = (&store, &acknowledged);
            scope.spawn(move || {
                for round in 1..=ROUNDS {
                    let mut handle = store.begin(4).expect("begins");
                    let tid = handle.tid();
                    for number in [500, 501, 600 + (round * THREADS + thread) % 90] {
                        handle
                            .modify(number, |bytes| {
                                set_le64(bytes, 8 * thread as usize, round);
                                let sum = le64(bytes, 512).wrapping_add(1);
                                set_le64(bytes, 512, sum);
                            })
                            .expect("changes");
                    }
                    drop(handle);
                    if round % 10 == thread {
                        store.commit_of(tid).expect("commits");
                        acknowledged[thread as usize].store(round, Ordering::SeqCst);
                    }
                }
            });
        }
        let (store, acknowledged, device) = (&store, &acknowledged, &sample.device);
        let reader = scope.spawn(move || {
            let mut images = Vec::new();
            for _ in 0..20 {
                let _ = store.read(500).expect("reads");
                let known: Vec<u64> = acknowledged.iter().map(|round| round.load(Ordering::SeqCst)).collect();
                images.push((known, device.image()));
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            images
        });
        reader.join().expect("no panic")
    });
    let mut last = vec![0; THREADS as usize];
    for (known, image) in images {
        let image = MemoryDevice::new(image);
        Store::recover(&image, BLOCK as u32, &sample.place).expect("recovers");
        let image = image.to_vec();
        let (first, second) = (block(&image, 500), block(&image, 501));
        assert_eq!(first[..64], second[..64], "an operation is whole");
        for thread in 0..THREADS as usize {
            let round = le64(first, 8 * thread);
            assert!((known[thread]..=ROUNDS).contains(&round), "{round} after {} was waited for", known[thread]);
            assert!(round >= last[thread]);
            last[thread] = round;
        }
    }
    store.close().expect("closes");
    let image = sample.device.image();
    for thread in 0..THREADS as usize {
        assert_eq!(le64(block(&image, 500), 8 * thread), ROUNDS);
    }
    assert_eq!(le64(block(&image, 500), 512), THREADS * ROUNDS);
}

#[test]
fn those_who_wait_at_once_share_a_commit() {
    let sample = Sample::plain();
    let store = sample.open();
    let handles: Vec<_> = (0..THREADS).map(|_| store.begin(1).expect("begins")).collect();
    std::thread::scope(|scope| {
        for (number, mut handle) in handles.into_iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                handle.modify(500 + number as u64, |bytes| bytes.fill(1)).expect("changes");
                let tid = handle.tid();
                drop(handle);
                store.commit_of(tid).expect("commits");
            });
        }
    });
    assert_eq!(sample.device.flushes(), 2);
    store.close().expect("closes");
}

/// Blocks wander between the running transaction, the log, the device and a cache that holds next to nothing; a reader
/// never sees one go back.
#[test]
fn a_reader_never_sees_an_older_version_than_before() {
    const FIRST: u64 = 300;
    const BLOCKS: u64 = 96;
    for journal in [true, false] {
        let sample = Sample::plain();
        let place = journal.then(|| sample.place.clone());
        let options = StoreOptions { commit_interval: Duration::from_millis(2) };
        let pool = CachePool::new(80 * BLOCK);
        let store = Store::open(sample.device.clone(), BLOCK as u32, place, options, &pool).expect("opens");
        let mut handle = None;
        for number in FIRST..FIRST + BLOCKS {
            let handle = handle.get_or_insert_with(|| store.begin(1).expect("begins"));
            handle.create(number, |_| ()).expect("creates");
            handle.restart(1).expect("begins again");
        }
        drop(handle);
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..3_u64 {
                let (store, is_done) = (&store, &is_done);
                scope.spawn(move || {
                    let mut seen = vec![0; BLOCKS as usize];
                    let mut number = reader;
                    while !is_done.load(Ordering::Relaxed) {
                        number = (number * 5 + 7 + reader) % BLOCKS;
                        let bytes = store.read(FIRST + number).expect("reads");
                        let version = le64(&bytes, 0);
                        assert_eq!(version, le64(&bytes, BLOCK - 8), "a version is whole");
                        assert!(version >= seen[number as usize], "block {number} went back to {version}");
                        seen[number as usize] = version;
                    }
                });
            }
            let writers: Vec<_> = (0..2_u64)
                .map(|writer| {
                    let store = &store;
                    scope.spawn(move || {
                        for round in 1..=6000_u64 {
                            let mut handle = store.begin(1).expect("begins");
                            // Each writer has blocks of its own, so that it knows what they hold.
                            let number = round * 11 % (BLOCKS / 2) * 2 + writer;
                            handle
                                .modify(FIRST + number, |bytes| {
                                    assert!(le64(bytes, 0) < round, "a change was lost");
                                    set_le64(bytes, 0, round);
                                    set_le64(bytes, BLOCK - 8, round);
                                })
                                .expect("changes");
                            drop(handle);
                            if round % 100 == 0 {
                                store.commit().expect("commits");
                            }
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.join().expect("no panic");
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let expected: Vec<_> = (0..BLOCKS).map(|number| store.read(FIRST + number).expect("reads")).collect();
        store.close().expect("closes");
        let image = sample.device.image();
        for (number, bytes) in (FIRST..).zip(expected) {
            assert_eq!(block(&image, number), &*bytes);
        }
    }
}
