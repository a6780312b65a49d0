//! Transaction logs of registry hives: what was to be written to a hive that was not closed.
//!
//! Windows 8.1 and later write entries that begin with `HvLE`, each with a checksum, into two logs in turn. Before, one log
//! held the pages that were dirty (`DIRT`). The forms are specified in "Windows registry file format specification"
//! (M. Suhanov).

use super::hive::BaseBlock;
use crate::bytes::{le32, le64};
use crate::inspect::read::Guest;
use std::collections::BTreeMap;

/// The most that is read of a log, in bytes.
const MAX_LOG: u64 = 64 << 20;

/// The unit in which pages are logged, in bytes.
const SECTOR: usize = 512;

const TYPE_OLD_LOGS: [u32; 2] = [1, 2];
const TYPE_NEW_LOG: u32 = 6;

/// Parts of a hive's bins that are newer than the hive, by their offsets.
#[derive(Debug, Default)]
pub(super) struct Pages(BTreeMap<u64, [u8; SECTOR]>);

impl Pages {
    fn put(&mut self, offset: u64, bytes: &[u8]) {
        for (sector, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
            let mut page = [0; SECTOR];
            page.copy_from_slice(bytes);
            self.0.insert(offset + (sector * SECTOR) as u64, page);
        }
    }

    /// Says whether any part lies between two offsets.
    pub(super) fn touch(&self, start: u64, end: u64) -> bool {
        self.0.range(start.saturating_sub(SECTOR as u64 - 1)..end).next().is_some()
    }

    /// Puts the parts over what the hive holds from an offset on.
    pub(super) fn apply(&self, start: u64, bytes: &mut [u8]) {
        let end = start + bytes.len() as u64;
        for (&offset, page) in self.0.range(start.saturating_sub(SECTOR as u64 - 1)..end) {
            let from = offset.max(start);
            let to = (offset + SECTOR as u64).min(end);
            bytes[(from - start) as usize..(to - start) as usize]
                .copy_from_slice(&page[(from - offset) as usize..(to - offset) as usize]);
        }
    }
}

/// Reads the logs of a hive. Returns what they hold and the hive's base block afterwards; none where they do not belong to it.
pub(super) fn replay(guest: &Guest<'_>, path: &[u8], base: Option<&BaseBlock>) -> Option<(Pages, BaseBlock)> {
    let mut logs = Vec::new();
    for ending in [".LOG1", ".LOG2", ".LOG", ".log1", ".log2", ".log"] {
        let own = [path, ending.as_bytes()].concat();
        if !guest.is_file(&own) {
            continue;
        }
        let bytes = guest.read(&own, MAX_LOG).unwrap_or_default();
        if let Some(head) = BaseBlock::parse(&bytes).filter(|head| head.whole) {
            logs.push((head, bytes));
        }
    }
    new_logs(&logs, base).or_else(|| old_log(&logs, base))
}

/// An entry of a log of the new kind.
struct Entry<'a> {
    sequence: u32,
    size: u32,
    bytes: &'a [u8],
    pages: usize,
}

fn entries(bytes: &[u8]) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    let mut at = SECTOR;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= 40 && rest.starts_with(b"HvLE")) {
        let len = le32(rest, 4) as usize;
        let Some(entry) = rest.get(..len).filter(|_| len >= SECTOR && len.is_multiple_of(SECTOR)) else { break };
        let pages = le32(entry, 20) as usize;
        let sound = pages <= (len - 40) / 8
            && le64(entry, 24) == marvin32(&entry[40..])
            && le64(entry, 32) == marvin32(&entry[..32]);
        if !sound {
            break;
        }
        entries.push(Entry { sequence: le32(entry, 12), size: le32(entry, 16), bytes: entry, pages });
        at += len;
    }
    entries
}

fn new_logs(logs: &[(BaseBlock, Vec<u8>)], base: Option<&BaseBlock>) -> Option<(Pages, BaseBlock)> {
    let mut all: Vec<Vec<Entry<'_>>> =
        logs.iter().filter(|(head, _)| head.file_type == TYPE_NEW_LOG).map(|(_, bytes)| entries(bytes)).collect();
    all.retain(|entries| !entries.is_empty());
    all.sort_by_key(|entries| entries.first().map(|entry| entry.sequence));
    // Entries that are older than the hive were written to it before.
    let oldest = base.filter(|base| base.whole).map_or(0, |base| base.secondary);
    let mut pages = Pages::default();
    let mut last: Option<&Entry<'_>> = None;
    for entry in all.iter().flatten().filter(|entry| entry.sequence >= oldest) {
        if last.is_some_and(|last| last.sequence.checked_add(1) != Some(entry.sequence)) {
            break;
        }
        put_entry(entry, &mut pages)?;
        last = Some(entry);
    }
    let last = last?;
    let head = base.filter(|base| base.whole).or_else(|| logs.first().map(|(head, _)| head))?;
    Some((pages, BaseBlock { size: last.size, ..head.clone() }))
}

fn put_entry(entry: &Entry<'_>, pages: &mut Pages) -> Option<()> {
    let mut data = entry.bytes.get(40 + entry.pages * 8..)?;
    for page in 0..entry.pages {
        let (offset, len) = (le32(entry.bytes, 40 + page * 8), le32(entry.bytes, 44 + page * 8) as usize);
        let (own, rest) = data.split_at_checked(len)?;
        pages.put(u64::from(offset), own);
        data = rest;
    }
    Some(())
}

fn old_log(logs: &[(BaseBlock, Vec<u8>)], base: Option<&BaseBlock>) -> Option<(Pages, BaseBlock)> {
    let (head, bytes) = logs.iter().find(|(head, bytes)| {
        let fits = base.filter(|base| base.whole).is_none_or(|base| base.written == head.written);
        TYPE_OLD_LOGS.contains(&head.file_type)
            && head.primary == head.secondary
            && fits
            && bytes.get(SECTOR..).is_some_and(|rest| rest.starts_with(b"DIRT"))
    })?;
    // A bit for each sector of the bins, then the sectors whose bits are set.
    let bitmap = bytes.get(SECTOR + 4..)?.get(..(head.size as usize).div_ceil(SECTOR * 8))?;
    let mut data = (SECTOR + 4 + bitmap.len()).next_multiple_of(SECTOR);
    let mut pages = Pages::default();
    for sector in 0..bitmap.len() * 8 {
        if bitmap[sector / 8] >> (sector % 8) & 1 == 1 {
            pages.put((sector * SECTOR) as u64, bytes.get(data..data + SECTOR)?);
            data += SECTOR;
        }
    }
    Some((pages, head.clone()))
}

/// Returns the checksum of a log's entry: Marvin32 with the seed that the registry has.
fn marvin32(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0x82ef_4d88_7a4e_55c5;
    marvin32_of(SEED, bytes)
}

fn marvin32_of(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = (seed as u32, (seed >> 32) as u32);
    let mix = |state: &mut (u32, u32), word: u32| {
        state.0 = state.0.wrapping_add(word);
        state.1 ^= state.0;
        state.0 = state.0.rotate_left(20).wrapping_add(state.1);
        state.1 = state.1.rotate_left(9) ^ state.0;
        state.0 = state.0.rotate_left(27).wrapping_add(state.1);
        state.1 = state.1.rotate_left(19);
    };
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        mix(&mut state, le32(word, 0));
    }
    // The rest is closed by a byte of its own.
    let rest = words.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()] = 0x80;
    mix(&mut state, u32::from_le_bytes(last));
    mix(&mut state, 0);
    u64::from(state.1) << 32 | u64::from(state.0)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bytes::{set_le32, set_le64};

    /// Makes an entry of a log that writes pages of the bins.
    pub(in crate::inspect::windows) fn entry(sequence: u32, size: u32, pages: &[(u32, &[u8])]) -> Vec<u8> {
        let mut entry = vec![0; 40];
        entry[..4].copy_from_slice(b"HvLE");
        for (offset, bytes) in pages {
            entry.extend(offset.to_le_bytes());
            entry.extend((bytes.len() as u32).to_le_bytes());
        }
        pages.iter().for_each(|(_, bytes)| entry.extend_from_slice(bytes));
        entry.resize(entry.len().next_multiple_of(SECTOR), 0);
        let len = entry.len() as u32;
        for (offset, value) in [(4, len), (12, sequence), (16, size), (20, pages.len() as u32)] {
            set_le32(&mut entry, offset, value);
        }
        let sum = marvin32(&entry[40..]);
        set_le64(&mut entry, 24, sum);
        let sum = marvin32(&entry[..32]);
        set_le64(&mut entry, 32, sum);
        entry
    }

    #[test]
    fn the_checksum_is_marvin32() {
        // Values that .NET's tests hold the same algorithm to.
        assert_eq!(marvin32_of(0x004f_b61a_001b_dbcc, &[]), 0x30ed_35c1_00cd_3c7d);
        assert_eq!(marvin32_of(0x004f_b61a_001b_dbcc, &[0x37, 0xf4, 0x95]), 0xf0b0_7c78_9b8c_f7e8);
        assert_eq!(marvin32_of(0x004f_b61a_001b_dbcc, &[0x86, 0x42, 0xdc, 0x59]), 0x7008_f2e8_7e9c_f556);
    }

    #[test]
    fn pages_lie_over_what_is_read() {
        let mut pages = Pages::default();
        pages.put(512, &[7; 1024]);
        let mut bytes = vec![0; 600];
        assert!(pages.touch(400, 513) && !pages.touch(0, 512) && !pages.touch(1536, 2000));
        pages.apply(500, &mut bytes);
        assert_eq!(bytes.iter().position(|&byte| byte == 7), Some(12));
        assert_eq!(bytes.last(), Some(&7));
    }
}
