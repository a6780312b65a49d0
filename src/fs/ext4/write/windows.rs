//! Space set aside for the next writes of a file, so that those of several files, or of several threads out of order, do
//! not tear it apart.

use super::alloc::Run;

/// The most stretches that are set aside for one file.
const MAX_WINDOWS: usize = 8;

/// Blocks set aside for a stretch of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    /// The block of the file that the first of them is for.
    pub(super) logical: u64,
    pub(super) run: Run,
}

impl Window {
    /// Returns the block of the file after it.
    pub(super) fn end(&self) -> u64 {
        self.logical + u64::from(self.run.len)
    }

    /// Returns its blocks from `skip` on, where it has more.
    fn after(self, skip: u32) -> Option<Self> {
        let len = self.run.len.checked_sub(skip).filter(|&len| len > 0)?;
        Some(Self {
            logical: self.logical + u64::from(skip),
            run: Run { start: self.run.start + u64::from(skip), len },
        })
    }
}

/// All that is set aside for a file.
#[derive(Debug, Default)]
pub(super) struct Windows(Vec<Window>);

impl Windows {
    /// Takes what is set aside for a block of the file and those after it, `want` at most.
    pub(super) fn take(&mut self, logical: u64, want: u32) -> Option<Run> {
        let at = self.0.iter().position(|window| (window.logical..window.end()).contains(&logical))?;
        let window = self.0.swap_remove(at);
        let skip = (logical - window.logical) as u32;
        if skip > 0 {
            self.0.push(Window { logical: window.logical, run: Run { start: window.run.start, len: skip } });
        }
        let taken = window.after(skip)?.run;
        let len = taken.len.min(want);
        self.0.extend(window.after(skip + len));
        Some(Run { start: taken.start, len })
    }

    /// Sets blocks aside; returns those that are given back for it.
    pub(super) fn put(&mut self, window: Window) -> Option<Run> {
        let oldest = (self.0.len() >= MAX_WINDOWS).then(|| self.0.remove(0).run);
        self.0.push(window);
        oldest
    }

    /// Returns the last window that ends at or before a block of the file.
    pub(super) fn before(&self, logical: u64) -> Option<Window> {
        self.0.iter().filter(|window| window.end() <= logical).max_by_key(|window| window.end()).copied()
    }

    /// Gives back what lies farther than `reach` blocks of the file from `logical`.
    pub(super) fn keep_near(&mut self, logical: u64, reach: u64, mut give_back: impl FnMut(Run)) {
        self.0.retain(|window| {
            let is_near = window.end() + reach >= logical && window.logical <= logical + reach;
            if !is_near {
                give_back(window.run);
            }
            is_near
        });
    }

    /// Gives back all that is set aside.
    pub(super) fn clear(&mut self, mut give_back: impl FnMut(Run)) {
        self.0.drain(..).for_each(|window| give_back(window.run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_from_the_middle_leaves_what_is_before_and_after_it() {
        let mut windows = Windows::default();
        assert_eq!(windows.put(Window { logical: 100, run: Run { start: 5000, len: 50 } }), None);
        assert_eq!(windows.take(99, 1), None);
        assert_eq!(windows.take(110, 20), Some(Run { start: 5010, len: 20 }));
        assert_eq!(windows.before(110), Some(Window { logical: 100, run: Run { start: 5000, len: 10 } }));
        assert_eq!(windows.take(100, 90), Some(Run { start: 5000, len: 10 }));
        assert_eq!(windows.take(110, 1), None);
        assert_eq!(windows.take(149, 9), Some(Run { start: 5049, len: 1 }));
        let mut back = Vec::new();
        windows.keep_near(1000, 10, |run| back.push(run));
        assert_eq!(back, [Run { start: 5030, len: 19 }]);
        windows.clear(|_| panic!("nothing is left"));
    }

    #[test]
    fn the_oldest_of_too_many_is_given_back() {
        let mut windows = Windows::default();
        let back = (0..10).filter_map(|number| {
            windows.put(Window { logical: number * 100, run: Run { start: number * 1000 + 1, len: 7 } })
        });
        assert_eq!(back.map(|run| run.start).collect::<Vec<_>>(), [1, 1001]);
    }
}
