//! The short form of a directory, which lies in its inode.
//!
//! A header of two counts and the parent's number; then entries, each with the length of its name, the offset that it would
//! have in a data block, the name, its type where directories tell it, and the inode number. Inode numbers have 4 bytes, or
//! 8 when any of them needs them.

use super::Entry;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};

/// A directory in its short form.
pub struct Short<'a> {
    /// The parent's inode number.
    pub parent: u64,
    /// The names, in order.
    pub entries: Entries<'a>,
}

/// The names of a short directory.
pub struct Entries<'a> {
    rest: &'a [u8],
    left: usize,
    wide: bool,
    file_types: bool,
    last: Option<u64>,
}

/// Reads the header. `None` when it is cut short.
pub fn parse(bytes: &[u8], file_types: bool) -> Option<Short<'_>> {
    let (&count, &wide) = (bytes.first()?, bytes.get(1)?);
    let wide = wide != 0;
    let header = if wide { 10 } else { 6 };
    let rest = bytes.get(header..)?;
    let parent = if wide { be64(bytes, 2) } else { u64::from(be32(bytes, 2)) };
    Some(Short { parent, entries: Entries { rest, left: usize::from(count), wide, file_types, last: None } })
}

impl<'a> Entries<'a> {
    fn parse(&mut self) -> Option<Entry<'a>> {
        let name_len = usize::from(*self.rest.first()?);
        let number = if self.wide { 8 } else { 4 };
        let types = usize::from(self.file_types);
        let size = 3 + name_len + types + number;
        let (bytes, rest) = self.rest.split_at_checked(size)?;
        let place = u64::from(be16(bytes, 1)) / 8;
        if self.last.is_some_and(|last| last >= place) {
            return None;
        }
        self.last = Some(place);
        self.rest = rest;
        let at = size - number;
        Some(Entry {
            name: &bytes[3..3 + name_len],
            ino: if self.wide { be64(bytes, at) } else { u64::from(be32(bytes, at)) },
            type_code: if self.file_types { bytes[3 + name_len] } else { 0 },
            place,
        })
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let entry =
            self.parse().ok_or_else(|| Error::corrupt("short directory", "an entry does not fit or is out of order"));
        if entry.is_err() {
            self.left = 0;
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_short_numbers_and_long_ones() {
        let narrow = [1, 0, 0, 0, 0, 128, 3, 0, 0x60, b'a', b'b', b'c', 1, 0, 0, 0, 131];
        let short = parse(&narrow, true).expect("a header");
        assert_eq!(short.parent, 128);
        let entries: Vec<_> = short.entries.collect::<Result<_>>().expect("whole");
        assert_eq!(entries, [Entry { name: b"abc", ino: 131, type_code: 1, place: 12 }]);
        let wide = [1, 1, 0, 0, 0, 1, 0, 0, 0, 128, 1, 0, 0x60, b'a', 0, 0, 0, 1, 0, 0, 0, 131];
        let short = parse(&wide, false).expect("a header");
        assert_eq!(short.parent, 1 << 32 | 128);
        assert_eq!(short.entries.last().expect("one").expect("whole").ino, 1 << 32 | 131);
        parse(&narrow[..15], true).expect("a header").entries.last().expect("one").expect_err("is cut short");
    }
}
