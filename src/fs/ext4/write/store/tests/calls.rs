//! Each call by itself.

use super::super::{JournalPlace, Store};
use super::{BLOCK, Sample, block, open};
use crate::block::{BlockDevice, MemoryDevice};
use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn a_reader_keeps_the_version_that_it_has() {
    let sample = Sample::plain();
    let store = sample.open();
    let old = store.read(500).expect("reads");
    let mut handle = store.begin(1).expect("begins");
    handle.modify(500, |bytes| bytes[0] = 1).expect("changes");
    let first = store.read(500).expect("reads");
    handle.modify(500, |bytes| bytes[0] = 2).expect("changes");
    assert_eq!((old[0], first[0], store.read(500).expect("reads")[0]), (500_u64 as u8 ^ 0x5a, 1, 2));
    drop(handle);
    store.commit().expect("commits");
    assert_eq!(sample.device.image()[500 * BLOCK], old[0], "it goes home at the checkpoint");
    store.close().expect("closes");
    assert_eq!(sample.device.image()[500 * BLOCK], 2);
    assert_eq!(store.read(500).expect("reads")[0], 2);
    assert!(!Store::recover(&*sample.device, BLOCK as u32, &sample.place).expect("recovers"), "it is clean");
}

#[test]
fn a_store_that_changed_nothing_writes_nothing() {
    let sample = Sample::plain();
    let store = sample.open();
    drop(store.begin(5).expect("begins"));
    store.close().expect("closes");
    assert_eq!(sample.device.events(), sample.device.flushes(), "only flushes");
    assert!(matches!(store.begin(1), Err(Error::Errno(libc::EROFS))));
    store.close().expect("closes again");
}

#[test]
fn a_block_past_the_end_is_damage() {
    let sample = Sample::plain();
    let store = sample.open();
    for number in [1000, u64::MAX / 1024, u64::MAX] {
        assert!(matches!(store.read(number), Err(Error::Corrupt { .. })));
        let mut handle = store.begin(1).expect("begins");
        handle.modify(number, |_| ()).expect_err("past the end");
        handle.create(number, |_| ()).expect_err("past the end");
    }
    assert_eq!(store.read(999).expect("the last").len(), BLOCK);
    store.close().expect("closes");
}

#[test]
fn what_waits_for_a_commit_runs_once_it_is_durable() {
    let sample = Sample::plain();
    let store = sample.open();
    let ran = Arc::new(AtomicBool::new(false));
    let mut handle = store.begin(1).expect("begins");
    let tid = handle.tid();
    handle.modify(600, |bytes| bytes.fill(9)).expect("changes");
    let noted = ran.clone();
    handle.after_commit(Box::new(move || noted.store(true, Ordering::SeqCst)));
    drop(handle);
    assert_eq!(store.running(), Some(tid));
    assert!(!ran.load(Ordering::SeqCst));
    store.commit_of(tid).expect("commits");
    assert!(ran.load(Ordering::SeqCst));
    assert_eq!(store.running(), None);
    store.commit_of(tid).expect("is committed");
    let mut image = MemoryDevice::new(sample.device.image());
    assert!(Store::recover(&image, BLOCK as u32, &sample.place).expect("recovers"));
    assert_eq!(block(&image.to_vec(), 600), [9; BLOCK]);
    image = MemoryDevice::new(image.to_vec());
    assert!(!Store::recover(&image, BLOCK as u32, &sample.place).expect("recovers"), "once is enough");
}

#[test]
fn a_dropped_store_is_closed() {
    let sample = Sample::plain();
    let store = sample.open();
    store.begin(1).expect("begins").create(700, |bytes| bytes.fill(3)).expect("creates");
    drop(store);
    assert_eq!(block(&sample.device.image(), 700), [3; BLOCK]);
    assert!(!Store::recover(&*sample.device, BLOCK as u32, &sample.place).expect("recovers"));
}

#[test]
fn a_journal_that_needs_recovery_is_not_opened() {
    let sample = Sample::plain();
    let store = sample.open();
    store.begin(1).expect("begins").create(700, |bytes| bytes.fill(3)).expect("creates");
    store.commit().expect("commits");
    let dirty = Arc::new(MemoryDevice::new(sample.device.image()));
    let pool = crate::cache::CachePool::new(1 << 20);
    let result = Store::open(dirty, BLOCK as u32, Some(sample.place.clone()), super::StoreOptions::default(), &pool);
    assert!(matches!(result, Err(Error::Usage(_))));
}

#[test]
fn a_panic_amid_an_operation_keeps_all_of_it_from_the_disk() {
    let sample = Sample::plain();
    let store = sample.open();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut handle = store.begin(2).expect("begins");
        handle.modify(800, |bytes| bytes.fill(1)).expect("changes");
        handle.modify(801, |_| panic!("amid a change")).expect("never comes here")
    }));
    result.expect_err("panics");
    assert!(store.is_aborted());
    assert!(matches!(store.begin(1), Err(Error::Errno(libc::EROFS))));
    store.commit().expect_err("is aborted");
    assert_eq!(store.read(802).expect("reads")[0], 802_u64 as u8 ^ 0x5a);
    store.close().expect_err("is aborted");
    assert_eq!(sample.device.events(), sample.device.flushes());
}

#[test]
fn a_failed_write_makes_the_store_read_only_and_tells_each_waiter() {
    for fails_after in 0..5 {
        let sample = Sample::plain();
        let store = sample.open();
        let mut handle = store.begin(1).expect("begins");
        let tid = handle.tid();
        handle.modify(800, |bytes| bytes.fill(1)).expect("changes");
        drop(handle);
        sample.device.fail_after(fails_after);
        let result = std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..3).map(|_| scope.spawn(|| store.commit_of(tid))).collect();
            waiters.into_iter().map(|waiter| waiter.join().expect("no panic").map_err(|error| error.errno())).collect()
        });
        let results: Vec<Result<(), i32>> = result;
        // The superblock, the copies (in two writes where the journal has a gap), a flush, the commit block, a flush.
        assert_eq!(results, vec![Err(libc::EIO); 3], "after {fails_after} writes");
        assert!(store.is_aborted());
        assert_eq!(store.read(800).expect("reads"), vec![1; BLOCK].into(), "memory keeps it");
        assert!(matches!(store.begin(1), Err(Error::Errno(libc::EROFS))));
        sample.device.fail_after(usize::MAX);
        store.close().expect_err("is aborted");
    }
}

#[test]
fn a_failed_checkpoint_leaves_the_log_to_recovery() {
    let sample = Sample::plain();
    let store = sample.open();
    store.begin(1).expect("begins").modify(800, |bytes| bytes.fill(1)).expect("changes");
    store.commit().expect("commits");
    sample.device.fail_after(1);
    store.close().expect_err("the home write fails");
    let image = MemoryDevice::new(sample.device.image());
    assert!(Store::recover(&image, BLOCK as u32, &sample.place).expect("recovers"));
    assert_eq!(block(&image.to_vec(), 800), [1; BLOCK]);
}

#[test]
fn a_transaction_that_is_full_is_committed_and_another_begins() {
    let sample = Sample::plain();
    let store = sample.open();
    let limit = store.max_credits();
    assert!((40..=50).contains(&limit), "{limit}");
    assert!(matches!(store.begin(limit + 1), Err(Error::Usage(_))));
    let mut handle = store.begin(limit).expect("begins");
    assert!(!handle.extend(1).expect("asks"), "there is no room");
    let first = handle.tid();
    for number in 0..u64::from(limit) {
        handle.modify(400 + number, |bytes| bytes.fill(1)).expect("changes");
    }
    handle.restart(5).expect("begins again");
    assert!(handle.tid() > first);
    assert!(handle.extend(10).expect("asks"));
    assert_eq!(handle.credits(), 15);
    drop(handle);
    // Much more than the log holds, so that it wraps many times.
    for round in 0..100_u64 {
        let mut handle = store.begin(30).expect("begins");
        for number in 0..30 {
            handle.modify(400 + (round * 7 + number) % 500, |bytes| bytes.fill(round as u8)).expect("changes");
        }
    }
    let expected: Vec<_> = (0..1000).map(|number| store.read(number).expect("reads")).collect();
    store.close().expect("closes");
    let image = sample.device.image();
    for number in 400..1000 {
        assert_eq!(block(&image, number), &*expected[number as usize], "block {number}");
    }
}

#[test]
fn an_operation_that_asked_for_too_little_is_stopped_before_the_log_overflows() {
    let sample = Sample::plain();
    let store = sample.open();
    let mut handle = store.begin(1).expect("begins");
    let done = (0..500).take_while(|number| handle.modify(400 + number, |bytes| bytes.fill(1)).is_ok()).count();
    assert_eq!(done, 2 * store.max_credits() as usize);
    handle.modify(400, |bytes| bytes.fill(2)).expect("a block that is in it already");
    drop(handle);
    store.commit().expect("commits");
    store.close().expect("closes");
}

#[test]
fn blocks_that_look_like_the_journals_own_come_back_whole() {
    let sample = Sample::plain();
    let store = sample.open();
    let mut handle = store.begin(3).expect("begins");
    for number in 900..903_u64 {
        handle
            .create(number, |bytes| {
                bytes.fill(number as u8);
                bytes[..4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
                bytes[4..12].copy_from_slice(&[0, 0, 0, 2, 0, 0, 0, 8]);
            })
            .expect("creates");
    }
    drop(handle);
    store.commit().expect("commits");
    let expected = store.read(901).expect("reads");
    let image = MemoryDevice::new(sample.device.image());
    assert!(Store::recover(&image, BLOCK as u32, &sample.place).expect("recovers"));
    assert_eq!(block(&image.to_vec(), 901), &*expected);
}

#[test]
fn without_a_journal_a_commit_writes_blocks_home() {
    let sample = Sample::plain();
    let store = open(sample.device.clone(), None);
    let mut handle = store.begin(3).expect("begins");
    handle.modify(500, |bytes| bytes.fill(5)).expect("changes");
    handle.create(501, |bytes| bytes.fill(6)).expect("creates");
    handle.create(502, |bytes| bytes.fill(7)).expect("creates");
    handle.forget(502).expect("forgets");
    drop(handle);
    store.commit().expect("commits");
    assert_eq!(sample.device.events(), 2, "one write and one flush");
    let image = sample.device.image();
    assert_eq!((block(&image, 500)[0], block(&image, 501)[0], block(&image, 502)[0]), (5, 6, 502_u64 as u8 ^ 0x5a));
    let mut handle = store.begin(3).expect("begins");
    handle.ordered();
    handle.modify(501, |bytes| bytes[1] = 1).expect("changes");
    drop(handle);
    store.close().expect("closes");
    assert_eq!(block(&sample.device.image(), 501)[..3], [6, 1, 6]);
}

#[test]
fn a_neighbour_that_was_cached_before_is_seen_as_it_was_written() {
    let sample = Sample::plain();
    let store = sample.open();
    let _ = store.read(640).expect("reads the whole run");
    for round in 1..=20_u8 {
        let mut handle = store.begin(4).expect("begins");
        handle.modify(641, |bytes| bytes.fill(round)).expect("changes");
        handle.create(642, |bytes| bytes.fill(round)).expect("creates");
        drop(handle);
        for number in 0..60 {
            let mut handle = store.begin(1).expect("begins");
            handle.modify(300 + number, |bytes| bytes.fill(round)).expect("changes");
        }
        store.commit().expect("commits");
        assert_eq!((store.read(641).expect("reads")[7], store.read(642).expect("reads")[9]), (round, round));
    }
    store.close().expect("closes");
}

#[test]
fn a_journal_whose_blocks_are_not_all_there_is_damage() {
    let sample = Sample::plain();
    let short = JournalPlace::new([(10, 66)]);
    assert!(matches!(Store::recover(&*sample.device, BLOCK as u32, &short), Err(Error::Corrupt { .. })));
    let nowhere = JournalPlace::new([(sample.device.size(), 200)]);
    Store::recover(&*sample.device, BLOCK as u32, &nowhere).expect_err("past the end");
}
