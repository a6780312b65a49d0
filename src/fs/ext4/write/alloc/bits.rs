//! A group's bitmap in memory: which of its blocks or inodes are taken, and where runs of free ones lie.

/// Bits, each set for what is taken. Those past the end are set.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: Box<[u64]>,
    len: u32,
}

impl Bits {
    /// Makes a bitmap of the first `len` bits of bytes as they are on disk.
    pub(super) fn from_disk(bytes: &[u8], len: u32) -> Self {
        let mut words: Box<[u64]> = bytes
            .chunks(8)
            .take(len.div_ceil(64) as usize)
            .map(|chunk| {
                let mut word = [0xff; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            })
            .collect();
        if let Some(last) = words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last |= u64::MAX << (len % 64);
        }
        Self { words, len }
    }

    /// Returns how many bits are clear.
    pub(super) fn count_free(&self) -> u32 {
        self.words.iter().map(|word| word.count_zeros()).sum()
    }

    /// Says whether a bit is set; bits past the end are.
    pub(super) fn is_set(&self, bit: u32) -> bool {
        self.words.get((bit / 64) as usize).is_none_or(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Sets or clears a run of bits that lies inside; returns how many changed.
    pub(super) fn fill(&mut self, start: u32, len: u32, value: bool) -> u32 {
        let mut changed = 0;
        let mut bit = start;
        let end = (start + len).min(self.len);
        while bit < end {
            let (word, shift) = ((bit / 64) as usize, bit % 64);
            let count = (64 - shift).min(end - bit);
            let mask = (u64::MAX >> (64 - count)) << shift;
            let old = self.words[word];
            let new = if value { old | mask } else { old & !mask };
            changed += (old ^ new).count_ones();
            self.words[word] = new;
            bit += count;
        }
        changed
    }

    /// Returns the first clear bit from `from` on.
    pub(super) fn next_free(&self, from: u32) -> Option<u32> {
        self.next(from, 0)
    }

    /// Returns the first set bit from `from` on, or the end.
    pub(super) fn next_taken(&self, from: u32) -> u32 {
        self.next(from, u64::MAX).unwrap_or(self.len)
    }

    /// Finds the first bit from `from` on that is clear, or set where `invert` is all ones.
    fn next(&self, from: u32, invert: u64) -> Option<u32> {
        let mut word = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while word < self.words.len() {
            let wanted = (!self.words[word] ^ invert) & mask;
            if wanted != 0 {
                let bit = word as u32 * 64 + wanted.trailing_zeros();
                return (bit < self.len).then_some(bit);
            }
            mask = u64::MAX;
            word += 1;
        }
        None
    }

    /// Finds the first free run of at least `want` bits that begins at `from` or later, else the longest one; returns its
    /// beginning and its whole length up to `want`, and the longest run that was seen.
    pub(super) fn find_run(&self, from: u32, want: u32) -> (Option<(u32, u32)>, u32) {
        let mut best: Option<(u32, u32)> = None;
        let mut at = from;
        while let Some(start) = self.next_free(at) {
            let end = self.next_taken(start);
            let len = end - start;
            if best.is_none_or(|(_, longest)| len > longest) {
                best = Some((start, len));
                if len >= want {
                    return (Some((start, want)), len);
                }
            }
            at = end;
        }
        (best, best.map_or(0, |(_, len)| len))
    }

    /// Returns how many bits are clear in a row from `start` on, `limit` at most.
    pub(super) fn free_from(&self, start: u32, limit: u32) -> u32 {
        if self.is_set(start) { 0 } else { (self.next_taken(start) - start).min(limit) }
    }
}

/// Sets or clears a run of bits in a bitmap as it is on disk.
pub(super) fn fill_disk(bytes: &mut [u8], start: u32, len: u32, value: bool) {
    for bit in start..start + len {
        let byte = &mut bytes[(bit / 8) as usize];
        if value {
            *byte |= 1 << (bit % 8);
        } else {
            *byte &= !(1 << (bit % 8));
        }
    }
}

/// Counts the bits of a run that are set in a bitmap as it is on disk.
pub(super) fn count_disk(bytes: &[u8], start: u32, len: u32) -> u32 {
    (start..start + len).filter(|bit| bytes[(bit / 8) as usize] >> (bit % 8) & 1 == 1).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_across_words_and_not_past_the_end() {
        let mut bits = Bits::from_disk(&[0; 16], 100);
        assert_eq!(bits.count_free(), 100);
        assert_eq!(bits.fill(10, 80, true), 80);
        assert_eq!(bits.find_run(0, 10), (Some((0, 10)), 10));
        assert_eq!(bits.find_run(0, 50), (Some((0, 10)), 10));
        assert_eq!(bits.find_run(5, 50), (Some((90, 10)), 10));
        assert_eq!(bits.free_from(95, 50), 5);
        assert_eq!(bits.fill(60, 10, false), 10);
        assert_eq!(bits.find_run(12, 10), (Some((60, 10)), 10));
        assert!(bits.is_set(100) && bits.is_set(5000));
    }

    #[test]
    fn bits_on_disk_are_filled_one_by_one() {
        let mut bytes = [0; 4];
        fill_disk(&mut bytes, 6, 5, true);
        assert_eq!(bytes, [0xc0, 0x07, 0, 0]);
        assert_eq!(count_disk(&bytes, 0, 32), 5);
        fill_disk(&mut bytes, 7, 1, false);
        assert_eq!(bytes, [0x40, 0x07, 0, 0]);
    }
}
