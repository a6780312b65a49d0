//! Work that several threads do, taken in order.

use crate::error::{IoContext, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;

/// Ends the work when it goes: a worker that panics, or the taker in any case, must leave nobody waiting.
struct Ending<'a, I, R> {
    always: bool,
    state: &'a Mutex<State<I, R>>,
    changed: &'a Condvar,
}

impl<I, R> Drop for Ending<'_, I, R> {
    fn drop(&mut self) {
        if self.always || std::thread::panicking() {
            self.state.lock().stopped = true;
            self.changed.notify_all();
        }
    }
}

struct State<I, R> {
    items: I,
    /// How many items have been handed out, and how many results taken.
    given: usize,
    taken: usize,
    results: BTreeMap<usize, R>,
    exhausted: bool,
    stopped: bool,
}

/// Does `work` on every item with `threads` threads, and gives the results to `take` in the order of the items, on this
/// thread. No more than `window` items are in work or waiting to be taken.
///
/// A panic of `work` ends the work and goes on here.
///
/// # Errors
/// Those of `take`, which end it.
pub(crate) fn in_order<T: Send, R: Send>(
    items: impl Iterator<Item = T> + Send,
    threads: usize,
    window: usize,
    work: impl Fn(T) -> R + Sync,
    mut take: impl FnMut(R) -> Result<()>,
) -> Result<()> {
    let state =
        Mutex::new(State { items, given: 0, taken: 0, results: BTreeMap::new(), exhausted: false, stopped: false });
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        let _ending = Ending { state: &state, changed: &changed, always: true };
        for _ in 0..threads.max(1) {
            let worker = || {
                let _ending = Ending { state: &state, changed: &changed, always: false };
                loop {
                    let mut now = state.lock();
                    while !now.stopped && !now.exhausted && now.given >= now.taken + window {
                        changed.wait(&mut now);
                    }
                    if now.stopped || now.exhausted {
                        return;
                    }
                    let Some(item) = now.items.next() else {
                        now.exhausted = true;
                        changed.notify_all();
                        return;
                    };
                    let place = now.given;
                    now.given += 1;
                    drop(now);
                    let result = work(item);
                    state.lock().results.insert(place, result);
                    changed.notify_all();
                }
            };
            std::thread::Builder::new().spawn_scoped(scope, worker).doing(|| "cannot start a thread")?;
        }
        loop {
            let mut now = state.lock();
            let next = now.taken;
            let result = loop {
                if let Some(result) = now.results.remove(&next) {
                    break result;
                }
                if now.stopped || (now.exhausted && now.given == next) {
                    return Ok(());
                }
                changed.wait(&mut now);
            };
            now.taken += 1;
            changed.notify_all();
            drop(now);
            take(result)?;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_and_few_are_held() {
        let held = AtomicUsize::new(0);
        let mut next = 0;
        in_order(
            0..1000,
            4,
            8,
            |number| {
                assert!(held.fetch_add(1, Ordering::SeqCst) < 8 + 1);
                number
            },
            |number| {
                held.fetch_sub(1, Ordering::SeqCst);
                assert_eq!(number, next);
                next += 1;
                Ok(())
            },
        )
        .expect("nothing fails");
        assert_eq!(next, 1000);
    }

    #[test]
    fn an_error_ends_the_work() {
        let done = AtomicUsize::new(0);
        let ended = in_order(
            0..1_000_000,
            2,
            4,
            |number| done.fetch_add(1, Ordering::SeqCst) + number,
            |_| Err(Error::Errno(libc::EIO)),
        );
        assert!(ended.expect_err("the first result fails").is_errno(libc::EIO));
        assert!(done.into_inner() < 100);
    }

    #[test]
    fn a_panic_ends_the_work_instead_of_hanging() {
        let worker = std::panic::catch_unwind(|| {
            in_order(0..1000, 4, 8, |number| assert!(number != 50, "the work of one item fails"), |()| Ok(()))
        });
        worker.expect_err("the panic goes on");
        let taker = std::panic::catch_unwind(|| in_order(0..1000, 4, 8, |_| (), |()| panic!("the taker fails")));
        taker.expect_err("the panic goes on");
    }
}
