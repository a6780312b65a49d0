//! SQLite, as far as reading all rows of a table needs it: pages, table b-trees, records, and the write-ahead log.
//!
//! Indexes, views and SQL are not here. Every page is visited at most once, so a damaged tree ends. The form is specified
//! in "Database File Format" and "WAL-mode File Format" of SQLite's documentation.

use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};
use crate::inspect::read::{Chunks, Guest};
use std::collections::{HashMap, HashSet};

/// The most of a write-ahead log that is read, in bytes.
const MAX_LOG: u64 = 64 << 20;

/// The largest row, in bytes.
const MAX_ROW: u64 = 64 << 20;

/// The deepest b-tree.
const MAX_DEPTH: usize = 20;

/// A database.
pub(super) struct Database<'a> {
    file: Chunks<'a>,
    page_size: usize,
    /// How much of a page holds data.
    usable: usize,
    pages: u32,
    /// The pages that the write-ahead log holds newer.
    log: Option<Log>,
}

struct Log {
    bytes: Vec<u8>,
    /// Where each page begins in `bytes`.
    pages: HashMap<u32, usize>,
}

/// A table: where its b-tree begins, and its columns in lower case.
pub(super) struct Table {
    root: u32,
    columns: Vec<Vec<u8>>,
    /// The column that is the row's number.
    row_number: Option<usize>,
}

/// A row that is being shown.
pub(super) struct Row<'r> {
    table: &'r Table,
    payload: &'r [u8],
    values: Vec<Value>,
    number: i64,
}

#[derive(Clone, Copy)]
enum Value {
    Null,
    Number(i64),
    /// Where a text or blob lies in the payload.
    Bytes(usize, usize),
}

impl Row<'_> {
    fn value(&self, column: &str) -> Option<Value> {
        let place = self.table.columns.iter().position(|name| name == column.as_bytes())?;
        match self.values.get(place).copied().unwrap_or(Value::Null) {
            Value::Null if self.table.row_number == Some(place) => Some(Value::Number(self.number)),
            Value::Null => None,
            value => Some(value),
        }
    }

    /// Returns a number.
    pub(super) fn number(&self, column: &str) -> Option<i64> {
        match self.value(column)? {
            Value::Number(number) => Some(number),
            _ => None,
        }
    }

    /// Returns a text or a blob.
    pub(super) fn text(&self, column: &str) -> Option<&[u8]> {
        match self.value(column)? {
            Value::Bytes(start, end) => self.payload.get(start..end),
            _ => None,
        }
    }
}

impl<'a> Database<'a> {
    /// Opens a database; none where there is no such file or an empty one.
    pub(super) fn open(guest: &Guest<'a>, path: &str) -> Result<Option<Self>> {
        let Some(file) = guest.chunks(path) else { return Ok(None) };
        let log = guest.read(format!("{path}-wal"), MAX_LOG).and_then(Log::parse);
        if file.size() == 0 && log.is_none() {
            return Ok(None);
        }
        let head = match log.as_ref().and_then(|(log, _)| log.page(1, 100)) {
            Some(page) => page.to_vec(),
            None => file.bytes(0, 100)?,
        };
        if !head.starts_with(b"SQLite format 3\0") {
            return Err(Error::corrupt("SQLite database", "it has not the magic number of one"));
        }
        let page_size = match be16(&head, 16) {
            1 => 65536,
            size => usize::from(size),
        };
        let usable = page_size.saturating_sub(usize::from(head[20]));
        if !page_size.is_power_of_two() || page_size < 512 || usable < 480 {
            return Err(Error::corrupt("SQLite database", format!("its pages are {page_size} bytes long")));
        }
        let log = log.filter(|(_, size)| *size == page_size).map(|(log, _)| log);
        let in_file = u32::try_from(file.size() / page_size as u64).unwrap_or(u32::MAX);
        let in_log = log.as_ref().and_then(|log| log.pages.keys().max().copied()).unwrap_or(0);
        if guest.file(format!("{path}-journal")).is_some_and(|(_, attr)| attr.size > 512) {
            guest.warn(format!("{path}: a transaction was not finished, its rollback journal is not read"));
        }
        Ok(Some(Self { file, page_size, usable, pages: in_file.max(in_log), log }))
    }

    fn page(&self, number: u32) -> Result<Vec<u8>> {
        if number == 0 || number > self.pages {
            return Err(Error::corrupt("SQLite database", format!("there is no page {number}")));
        }
        if let Some(page) = self.log.as_ref().and_then(|log| log.page(number, self.page_size)) {
            return Ok(page.to_vec());
        }
        self.file.bytes(u64::from(number - 1) * self.page_size as u64, self.page_size)
    }

    /// Finds a table.
    pub(super) fn table(&self, name: &[u8]) -> Result<Option<Table>> {
        let columns = ["type", "name", "tbl_name", "rootpage", "sql"].map(|name| name.as_bytes().to_vec()).to_vec();
        let schema = Table { root: 1, columns, row_number: None };
        let mut found = None;
        self.rows(&schema, &mut |row| {
            let is_it = row.text("type") == Some(b"table")
                && row.text("name").is_some_and(|own| own.eq_ignore_ascii_case(name));
            if is_it && let Some(root) = row.number("rootpage").and_then(|root| u32::try_from(root).ok()) {
                let (columns, row_number) = columns_of(row.text("sql").unwrap_or_default());
                found = Some(Table { root, columns, row_number });
            }
            !is_it
        })?;
        Ok(found)
    }

    /// Shows all rows of a table, in the order of their numbers, until `visit` returns false.
    pub(super) fn rows(&self, table: &Table, visit: &mut dyn FnMut(&Row<'_>) -> bool) -> Result<()> {
        let mut seen = HashSet::new();
        // Rows that share their overflow pages must not make a small file cost more than it holds.
        let limit = self.file.size().saturating_add(self.log.as_ref().map_or(0, |log| log.bytes.len() as u64));
        let mut budget = limit.saturating_mul(2);
        // The pages still to be visited, the next one last, with their depth.
        let mut todo = vec![(table.root, 0)];
        while let Some((number, depth)) = todo.pop() {
            if !seen.insert(number) || depth > MAX_DEPTH {
                return Err(Error::corrupt("SQLite database", format!("page {number} lies in its b-tree twice")));
            }
            let page = self.page(number)?;
            let start = if number == 1 { 100 } else { 0 };
            let kind = page[start];
            let cells = usize::from(be16(&page, start + 3));
            let array = start + if kind == 5 { 12 } else { 8 };
            if array + cells * 2 > page.len() {
                return Err(Error::corrupt(format!("SQLite page {number}"), "its cells lie outside of it"));
            }
            let cell = |place: usize| {
                let offset = usize::from(be16(&page, array + place * 2));
                page.get(offset..).ok_or_else(|| Error::corrupt(format!("SQLite page {number}"), "a cell lies outside"))
            };
            match kind {
                5 => {
                    todo.push((be32(&page, start + 8), depth + 1));
                    for place in (0..cells).rev() {
                        let cell = cell(place)?;
                        if cell.len() < 4 {
                            return Err(Error::corrupt(format!("SQLite page {number}"), "a cell is cut off"));
                        }
                        todo.push((be32(cell, 0), depth + 1));
                    }
                    if todo.len() > self.pages as usize {
                        return Err(Error::corrupt("SQLite database", "its b-tree has more pages than there are"));
                    }
                }
                13 => {
                    for place in 0..cells {
                        if !self.row(table, cell(place)?, &mut budget, visit)? {
                            return Ok(());
                        }
                    }
                }
                other => {
                    return Err(Error::corrupt(format!("SQLite page {number}"), format!("its type is {other}")));
                }
            }
        }
        Ok(())
    }

    fn row(
        &self,
        table: &Table,
        cell: &[u8],
        budget: &mut u64,
        visit: &mut dyn FnMut(&Row<'_>) -> bool,
    ) -> Result<bool> {
        let cut = || Error::corrupt("SQLite row", "it is cut off");
        let (size, rest) = varint(cell).ok_or_else(cut)?;
        let (number, rest) = varint(rest).ok_or_else(cut)?;
        if size > MAX_ROW.min(*budget) {
            return Err(Error::corrupt("SQLite row", format!("it is {size} bytes long")));
        }
        *budget -= size;
        let size = size as usize;
        let local = self.local(size);
        let mut payload = rest.get(..local).ok_or_else(cut)?.to_vec();
        if local < size {
            let next = rest.get(local..local + 4).ok_or_else(cut)?;
            self.overflow(be32(next, 0), size, &mut payload)?;
        }
        let values = values(&payload).ok_or_else(cut)?;
        Ok(visit(&Row { table, payload: &payload, values, number: number.cast_signed() }))
    }

    /// Returns how much of a row lies on the page of the b-tree.
    fn local(&self, size: usize) -> usize {
        let most = self.usable - 35;
        if size <= most {
            return size;
        }
        let least = (self.usable - 12) * 32 / 255 - 23;
        let local = least + (size - least) % (self.usable - 4);
        if local <= most { local } else { least }
    }

    fn overflow(&self, first: u32, size: usize, payload: &mut Vec<u8>) -> Result<()> {
        let mut next = first;
        while payload.len() < size {
            // Each page adds some, so this ends even where the chain goes round.
            let page = self.page(next)?;
            let take = (size - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(&page[4..4 + take]);
            next = be32(&page, 0);
        }
        Ok(())
    }
}

impl Log {
    /// Reads a write-ahead log up to its last transaction that was committed; returns it with its page size.
    fn parse(bytes: Vec<u8>) -> Option<(Self, usize)> {
        if bytes.len() < 32 || be32(&bytes, 0) | 1 != 0x377f_0683 {
            return None;
        }
        let big = be32(&bytes, 0) & 1 == 1;
        let page_size = be32(&bytes, 8) as usize;
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return None;
        }
        let mut sums = checksum((0, 0), &bytes[..24], big);
        if sums != (be32(&bytes, 24), be32(&bytes, 28)) {
            return None;
        }
        let mut pages = HashMap::new();
        let mut open = Vec::new();
        let mut at = 32;
        while let Some(frame) = bytes.get(at..at + 24 + page_size) {
            sums = checksum(checksum(sums, &frame[..8], big), &frame[24..], big);
            if frame[8..16] != bytes[16..24] || sums != (be32(frame, 16), be32(frame, 20)) {
                break;
            }
            open.push((be32(frame, 0), at + 24));
            if be32(frame, 4) != 0 {
                pages.extend(open.drain(..));
            }
            at += 24 + page_size;
        }
        (!pages.is_empty()).then_some((Self { bytes, pages }, page_size))
    }

    fn page(&self, number: u32, size: usize) -> Option<&[u8]> {
        let start = *self.pages.get(&number)?;
        self.bytes.get(start..start + size)
    }
}

/// Goes on with the checksum of a write-ahead log.
fn checksum(mut sums: (u32, u32), bytes: &[u8], big: bool) -> (u32, u32) {
    for pair in bytes.chunks_exact(8) {
        let word = |offset| if big { be32(pair, offset) } else { be32(pair, offset).swap_bytes() };
        sums.0 = sums.0.wrapping_add(word(0)).wrapping_add(sums.1);
        sums.1 = sums.1.wrapping_add(word(4)).wrapping_add(sums.0);
    }
    sums
}

/// Reads a number of one to nine bytes; returns it with what follows.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value: u64 = 0;
    for (place, &byte) in bytes.iter().take(9).enumerate() {
        if place == 8 {
            return Some((value << 8 | u64::from(byte), &bytes[9..]));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

/// Finds the values of a record.
fn values(payload: &[u8]) -> Option<Vec<Value>> {
    let (header, rest) = varint(payload)?;
    let header = usize::try_from(header).ok()?;
    let mut types = payload.get(payload.len() - rest.len()..header)?;
    let mut at = header;
    let mut values = Vec::new();
    while !types.is_empty() {
        let (kind, rest) = varint(types)?;
        types = rest;
        let len = match kind {
            0 | 8 | 9 | 10 | 11 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            kind => usize::try_from((kind - 12) / 2).ok()?,
        };
        let end = at.checked_add(len)?;
        let field = payload.get(at..end)?;
        values.push(match kind {
            1..=6 => {
                let negative = field[0] & 0x80 != 0;
                let mut wide = [if negative { 0xff } else { 0 }; 8];
                wide[8 - len..].copy_from_slice(field);
                Value::Number(be64(&wide, 0).cast_signed())
            }
            8 => Value::Number(0),
            9 => Value::Number(1),
            0 | 7 | 10 | 11 => Value::Null,
            _ => Value::Bytes(at, end),
        });
        at = end;
    }
    Some(values)
}

/// Returns the names of the columns that a `CREATE TABLE` names, in lower case, and which is the row's number.
fn columns_of(sql: &[u8]) -> (Vec<Vec<u8>>, Option<usize>) {
    let sql: Vec<u8> =
        sql.iter().map(|byte| if byte.is_ascii_whitespace() { b' ' } else { byte.to_ascii_lowercase() }).collect();
    let Some(open) = sql.iter().position(|&byte| byte == b'(') else { return (Vec::new(), None) };
    let inside = &sql[open + 1..sql.iter().rposition(|&byte| byte == b')').map_or(sql.len(), |end| end.max(open + 1))];
    let mut depth = 0;
    let definitions = inside.split(|&byte| {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            _ => {}
        }
        byte == b',' && depth == 0
    });
    let mut names = Vec::new();
    let mut row_number = None;
    for definition in definitions {
        let mut words = definition.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
        let Some(name) = words.next() else { continue };
        if matches!(name, b"unique" | b"primary" | b"foreign" | b"check" | b"constraint") {
            continue;
        }
        let rest: Vec<&[u8]> = words.take(3).collect();
        if rest.first() == Some(&&b"integer"[..]) && rest.get(1) == Some(&&b"primary"[..]) {
            row_number = Some(names.len());
        }
        let name = name.iter().copied().filter(|byte| !matches!(byte, b'"' | b'\'' | b'`' | b'[' | b']')).collect();
        names.push(name);
    }
    (names, row_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        assert_eq!(varint(&[5, 9]).map(|(value, rest)| (value, rest.len())), Some((5, 1)));
        assert_eq!(varint(&[0x81, 0x00]).map(|(value, _)| value), Some(128));
        assert_eq!(varint(&[0xff; 9]).map(|(value, _)| value), Some(u64::MAX));
        assert!(varint(&[0x80; 3]).is_none());
    }

    #[test]
    fn columns_are_read_from_the_statement_that_made_them() {
        let (names, number) =
            columns_of(b"CREATE TABLE 'Packages' (\nhnum INTEGER PRIMARY KEY AUTOINCREMENT,\n\"Blob\" BLOB NOT NULL,\tx NUMERIC(1,2), UNIQUE (x))");
        assert_eq!(names, [b"hnum".to_vec(), b"blob".to_vec(), b"x".to_vec()]);
        assert_eq!(number, Some(0));
        columns_of(b")(");
        columns_of(b"");
    }

    #[test]
    fn a_record_that_is_cut_off_has_no_values() {
        assert_eq!(values(&[3, 1, 15, 7, b'a']).map(|values| values.len()), Some(2));
        assert!(values(&[3, 1, 15, 7]).is_none());
        assert!(values(&[200]).is_none());
        assert!(values(&[]).is_none());
        assert!(values(&[0, 1]).is_none());
    }
}
