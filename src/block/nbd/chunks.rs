//! What has come of the reply to one request.

use std::ops::Range;

/// What a request awaits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Awaited {
    /// Bytes of a read.
    Data {
        /// Where they go in the call's buffer.
        start: usize,
        /// Where they lie in the export.
        offset: u64,
        /// How many.
        len: usize,
    },
    /// What the range holds, from this offset.
    Status { offset: u64 },
    /// Nothing but that it was done.
    Done,
}

/// A request that the server answered by an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// An errno of Linux.
    pub errno: i32,
    /// What the server said of it; often nothing.
    pub said: String,
}

/// The bytes of a reply that have come; each byte may come once only.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// All bytes before this one have come.
    low: usize,
    /// Ranges past `low` that have come, in order, apart from one another.
    rest: Vec<Range<usize>>,
}

impl Coverage {
    /// Notes a range that is not empty. Says whether all of it is new.
    pub fn insert(&mut self, range: Range<usize>) -> bool {
        if range.start < self.low {
            return false;
        }
        let at = self.rest.partition_point(|other| other.start < range.start);
        if self.rest.get(at).is_some_and(|next| next.start < range.end)
            || at.checked_sub(1).is_some_and(|before| self.rest[before].end > range.start)
        {
            return false;
        }
        if range.start == self.low {
            self.low = range.end;
            let joined = self.rest.iter().take_while(|next| {
                let joins = next.start == self.low;
                if joins {
                    self.low = next.end;
                }
                joins
            });
            let joined = joined.count();
            self.rest.drain(..joined);
        } else {
            self.rest.insert(at, range);
        }
        true
    }

    /// Says whether the first `len` bytes have all come, and nothing else.
    pub fn is_full(&self, len: usize) -> bool {
        self.low == len && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_byte_that_comes_twice_is_noticed() {
        let mut coverage = Coverage::default();
        assert!(coverage.insert(10..20));
        assert!(!coverage.insert(15..16));
        assert!(!coverage.insert(5..11));
        assert!(!coverage.insert(19..30));
        assert!(!coverage.insert(0..40));
        assert!(coverage.insert(0..10));
        assert!(!coverage.insert(0..1));
        assert!(!coverage.is_full(30));
        assert!(coverage.insert(20..30));
        assert!(coverage.is_full(30));
    }

    proptest! {
        #[test]
        fn coverage_agrees_with_a_set_of_bytes(ranges in prop::collection::vec((0_usize..60, 1_usize..12), 1..40)) {
            let mut coverage = Coverage::default();
            let mut seen = [false; 80];
            for (start, len) in ranges {
                let range = start..start + len;
                let new = seen[range.clone()].iter().all(|&byte| !byte);
                prop_assert_eq!(coverage.insert(range.clone()), new);
                if new {
                    seen[range].fill(true);
                }
                let low = seen.iter().take_while(|&&byte| byte).count();
                let full = seen[low..].iter().all(|&byte| !byte);
                prop_assert_eq!(coverage.is_full(low), full);
            }
        }
    }
}
