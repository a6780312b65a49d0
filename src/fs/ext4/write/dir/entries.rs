//! Edits of a run of entries: one directory block, or one stretch of an inline directory.
//!
//! A run is covered by its entries from end to end. An entry may be longer than its name needs, and what it has to spare
//! is where new entries go. Everything here works on a checked run: [`find`] and [`room_for`] check each entry they pass,
//! and the edits take the places that those return.

use super::Sought;
use crate::bytes::{set_le16, set_le32};
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::ext4::dir::{self, Entry, HEADER, Layout, encode_len, encode_type};

/// Where an entry of a run lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Where it begins, in bytes.
    pub(crate) offset: usize,
    /// Where the entry before it begins, in bytes; `None` for the first.
    pub(crate) before: Option<usize>,
    /// The inode it names.
    pub(crate) ino: u32,
}

/// A name and what it leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEntry<'a> {
    /// The name, 1 to 255 bytes.
    pub(crate) name: &'a [u8],
    /// The inode.
    pub(crate) ino: u32,
    /// Its type.
    pub(crate) file_type: FileType,
}

/// Returns how many bytes an entry with a name of `name_len` bytes needs.
pub(crate) fn needed(name_len: usize) -> usize {
    (HEADER + name_len).next_multiple_of(4)
}

/// Shows the entries of a run in their order, unused ones among them.
pub(crate) fn each<'a>(layout: &'a Layout, dir: u32, run: &'a [u8]) -> impl Iterator<Item = Result<Entry<'a>>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset >= run.len() {
            return None;
        }
        let entry = dir::entry_at(layout, dir, run, offset);
        offset = entry.as_ref().map_or(run.len(), |entry| offset + entry.len);
        Some(entry)
    })
}

/// Returns where the entry with a name lies.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` for a damaged run.
pub(crate) fn find(layout: &Layout, dir: u32, run: &[u8], name: &Sought<'_>) -> Result<Option<Spot>> {
    let mut before = None;
    for entry in each(layout, dir, run) {
        let entry = entry?;
        if entry.ino != 0 && name.matches(entry.name) {
            return Ok(Some(Spot { offset: entry.offset, before, ino: entry.ino }));
        }
        before = Some(entry.offset);
    }
    Ok(None)
}

/// Returns where the first entry begins that has `size` bytes to spare.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` for a damaged run.
pub(crate) fn room_for(layout: &Layout, dir: u32, run: &[u8], size: usize) -> Result<Option<usize>> {
    for entry in each(layout, dir, run) {
        let entry = entry?;
        if entry.len - used(&entry) >= size {
            return Ok(Some(entry.offset));
        }
    }
    Ok(None)
}

/// Returns how many bytes an entry uses of its length.
pub(crate) fn used(entry: &Entry<'_>) -> usize {
    if entry.ino == 0 { 0 } else { needed(entry.name.len()) }
}

/// Stores an entry at `offset` with a length of `len` bytes.
pub(crate) fn store(layout: &Layout, run: &mut [u8], offset: usize, len: usize, new: &NewEntry<'_>) {
    let entry = &mut run[offset..offset + len];
    set_le32(entry, 0, new.ino);
    set_le16(entry, 4, encode_len(len, layout.block_size));
    entry[6] = new.name.len() as u8;
    entry[7] = if layout.has_types { encode_type(new.file_type) } else { 0 };
    entry[HEADER..HEADER + new.name.len()].copy_from_slice(new.name);
    entry[HEADER + new.name.len()..needed(new.name.len())].fill(0);
}

/// Stores an unused entry at `offset` with a length of `len` bytes.
pub(crate) fn store_unused(layout: &Layout, run: &mut [u8], offset: usize, len: usize) {
    let entry = &mut run[offset..offset + len];
    entry[..HEADER].fill(0);
    set_le16(entry, 4, encode_len(len, layout.block_size));
}

/// Puts an entry into what the one at `offset`, which [`room_for`] returned, has to spare.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged run.
pub(crate) fn insert(layout: &Layout, dir: u32, run: &mut [u8], offset: usize, new: &NewEntry<'_>) -> Result<()> {
    let entry = dir::entry_at(layout, dir, run, offset)?;
    let (kept, len) = (used(&entry), entry.len);
    if len - kept < needed(new.name.len()) {
        return Err(Error::corrupt(format!("directory block of inode {dir}"), "an entry has less room than it had"));
    }
    if kept != 0 {
        set_le16(run, offset + 4, encode_len(kept, layout.block_size));
    }
    store(layout, run, offset + kept, len - kept, new);
    Ok(())
}

/// Takes an entry away: the one before it gets its length; a first one becomes unused. Its name is wiped.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged run.
pub(crate) fn remove(layout: &Layout, dir: u32, run: &mut [u8], spot: &Spot) -> Result<()> {
    let entry = dir::entry_at(layout, dir, run, spot.offset)?;
    let (len, used) = (entry.len, used(&entry));
    let Some(before) = spot.before else {
        run[spot.offset..spot.offset + used].fill(0);
        store_unused(layout, run, spot.offset, len);
        return Ok(());
    };
    run[spot.offset..spot.offset + used].fill(0);
    let merged = spot.offset - before + len;
    set_le16(run, before + 4, encode_len(merged, layout.block_size));
    Ok(())
}

/// Makes an entry lead to another inode.
pub(crate) fn replace(layout: &Layout, run: &mut [u8], offset: usize, ino: u32, file_type: FileType) {
    set_le32(run, offset, ino);
    if layout.has_types {
        run[offset + 7] = encode_type(file_type);
    }
}

/// Says whether a run holds no names but `.` and `..`.
///
/// # Errors
/// [`Error::Corrupt`] naming directory `dir` for a damaged run.
pub(crate) fn is_empty(layout: &Layout, dir: u32, run: &[u8]) -> Result<bool> {
    for entry in each(layout, dir, run) {
        let entry = entry?;
        if entry.ino != 0 && !dir::is_dot(entry.name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lays copies of whole entries, which are in use, one after another from the beginning of `run`; the last one has all
/// that is left.
pub(crate) fn pack<'a>(layout: &Layout, run: &mut [u8], entries: impl Iterator<Item = &'a [u8]>) {
    let (mut last, mut end) = (0, 0);
    for entry in entries {
        let name_len = usize::from(entry[6]);
        let len = needed(name_len);
        last = end;
        end += len;
        run[last..last + HEADER + name_len].copy_from_slice(&entry[..HEADER + name_len]);
        run[last + HEADER + name_len..end].fill(0);
        set_le16(run, last + 4, encode_len(len, layout.block_size));
    }
    run[end..].fill(0);
    if end == 0 {
        store_unused(layout, run, 0, run.len());
    } else {
        let len = run.len() - last;
        set_le16(run, last + 4, encode_len(len, layout.block_size));
    }
}
