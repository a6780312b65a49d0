//! The log of a VHDX file: changes of its structures that were decided and perhaps not made yet.
//!
//! The log is a ring of entries. An entry is a header with descriptors, in sectors of 4096 bytes, and after them one data sector
//! for each descriptor of data. The entries to replay are those up to the newest one, from where that one says that they begin.

use super::header::{Header, is_whole};
use super::replayed::{PAGE, Page, Replayed};
use super::{MEGABYTE, corrupt};
use crate::block::{BlockDevice, SharedDevice};
use crate::bytes::{guid, le32, le64};
use crate::error::{Error, Result};
use std::sync::Arc;

/// The largest log that is replayed, in bytes. Hyper-V's has 1 MiB.
const MAX_LOG: u64 = 64 * MEGABYTE;
/// How many times as much as the log its entries may take, those that were overwritten in part among them.
const MAX_OVERLAP: u64 = 16;
const HEADER: usize = 64;
const DESCRIPTOR: usize = 32;
const STRUCTURE: &str = "VHDX log";

/// The head of an entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Its length, in sectors.
    sectors: usize,
    sequence: u64,
    /// The sector of the first entry to replay with this one.
    tail: usize,
    descriptors: usize,
    /// How long the file must be, and how long it becomes, in bytes.
    flushed: u64,
    last: u64,
}

impl Entry {
    fn parse(head: &[u8], log: &Log<'_>) -> Option<Self> {
        if !head.starts_with(b"loge") || head[32..48] != log.id {
            return None;
        }
        let (len, tail) = (u64::from(le32(head, 8)), u64::from(le32(head, 12)));
        let (sectors, descriptors) = ((len / PAGE) as usize, le32(head, 24) as usize);
        let head_sectors = sectors_of(descriptors)?;
        let fits =
            len.is_multiple_of(PAGE) && tail.is_multiple_of(PAGE) && sectors <= log.sectors && head_sectors <= sectors;
        let tail = (tail / PAGE) as usize;
        (fits && tail < log.sectors).then(|| Self {
            sectors,
            sequence: le64(head, 16),
            tail,
            descriptors,
            flushed: le64(head, 48),
            last: le64(head, 56),
        })
    }
}

/// Returns how many sectors a header and its descriptors take.
fn sectors_of(descriptors: usize) -> Option<usize> {
    let bytes = descriptors.checked_mul(DESCRIPTOR)?.checked_add(HEADER)?;
    Some(bytes.div_ceil(PAGE as usize))
}

/// Where a log lies.
struct Log<'a> {
    image: &'a dyn BlockDevice,
    start: u64,
    sectors: usize,
    id: [u8; 16],
}

impl Log<'_> {
    /// Returns where a sector lies in the file, counted round the ring.
    fn place(&self, sector: usize) -> u64 {
        self.start + (sector % self.sectors) as u64 * PAGE
    }

    /// Reads sectors, the first after the last.
    fn read(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count * PAGE as usize];
        let before_end = count.min(self.sectors - first) * PAGE as usize;
        let (one, two) = bytes.split_at_mut(before_end);
        self.image.read_at(one, self.start + first as u64 * PAGE)?;
        self.image.read_at(two, self.start)?;
        Ok(bytes)
    }

    /// Finds the entries that are whole, by their first sectors; says too whether there is any, whole or not.
    fn entries(&self) -> Result<(Vec<Option<Entry>>, bool)> {
        let mut found = vec![None; self.sectors];
        let (mut budget, mut is_any) = (self.sectors as u64 * MAX_OVERLAP, false);
        for (first, place) in found.iter_mut().enumerate() {
            let mut head = [0; HEADER];
            self.image.read_at(&mut head, self.start + first as u64 * PAGE)?;
            is_any |= head.starts_with(b"loge") && head[32..48] == self.id;
            let Some(entry) = Entry::parse(&head, self) else { continue };
            budget = budget
                .checked_sub(entry.sectors as u64)
                .ok_or_else(|| corrupt(STRUCTURE, "its entries overlap each other"))?;
            if is_whole(&self.read(first, entry.sectors)?) {
                *place = Some(entry);
            }
        }
        Ok((found, is_any))
    }
}

/// Returns the first sectors of the entries to replay, in their order, the newest entry last.
fn active(entries: &[Option<Entry>]) -> Option<Vec<usize>> {
    let mut heads: Vec<usize> = (0..entries.len()).filter(|&first| entries[first].is_some()).collect();
    heads.sort_by_key(|&first| std::cmp::Reverse(entries[first].map(|entry| entry.sequence)));
    heads.into_iter().find_map(|head| {
        let newest = entries[head]?;
        let mut at = newest.tail;
        let mut sequence = vec![at];
        while at != head {
            let entry = entries[at]?;
            let next = (at + entry.sectors) % entries.len();
            if entries[next]?.sequence != entry.sequence.checked_add(1)? || entry.sequence > newest.sequence {
                return None;
            }
            at = next;
            sequence.push(at);
        }
        Some(sequence)
    })
}

/// Returns a file as it is once its log is replayed.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Unsupported`] for a log of more than 64 MiB, and those of reading.
pub(super) fn replay(image: SharedDevice, header: &Header) -> Result<SharedDevice> {
    if header.log_id == [0; 16] {
        return Ok(image);
    }
    let len = header.log.end - header.log.start;
    if len > MAX_LOG {
        return Err(Error::unsupported(format!("a VHDX with a log of {} MiB", len / MEGABYTE)));
    }
    let device = Arc::clone(&image);
    let log = Log { image: &*image, start: header.log.start, sectors: (len / PAGE) as usize, id: header.log_id };
    let (entries, is_any) = log.entries()?;
    let Some(sequence) = active(&entries) else {
        if is_any {
            let detail = format!("it has entries of {}, none of which can be replayed", guid(&log.id));
            return Err(corrupt(STRUCTURE, detail));
        }
        return Ok(device);
    };
    let chosen: Vec<(usize, Entry)> = sequence.iter().filter_map(|&first| Some((first, entries[first]?))).collect();
    let Some(&(_, newest)) = chosen.last() else { return Ok(device) };
    if newest.flushed > image.size() {
        let detail = format!("the file has {} bytes of at least {}: it was cut short", image.size(), newest.flushed);
        return Err(corrupt(STRUCTURE, detail));
    }
    let mut replayed = Replayed::new(device, newest.last);
    for (first, entry) in chosen {
        apply(&mut replayed, &log, first, &entry)?;
    }
    Ok(Arc::new(replayed))
}

/// Makes the changes of the entry that begins at a sector.
fn apply(replayed: &mut Replayed, log: &Log<'_>, first: usize, entry: &Entry) -> Result<()> {
    let bytes = log.read(first, entry.sectors)?;
    let heads = sectors_of(entry.descriptors).unwrap_or(0);
    let (descriptors, data) = bytes.split_at(heads * PAGE as usize);
    let mut sectors = data.chunks_exact(PAGE as usize).enumerate();
    let wrong = |detail: &str| corrupt(STRUCTURE, format!("in the entry {}, {detail}", entry.sequence));
    for descriptor in descriptors[HEADER..].chunks_exact(DESCRIPTOR).take(entry.descriptors) {
        let offset = le64(descriptor, 16);
        if le64(descriptor, 24) != entry.sequence || !offset.is_multiple_of(PAGE) {
            return Err(wrong("a descriptor is none of its own"));
        }
        match &descriptor[..4] {
            b"zero" => {
                let end = offset.checked_add(le64(descriptor, 8)).filter(|end| end.is_multiple_of(PAGE));
                let end = end.ok_or_else(|| wrong("zeroes end nowhere"))?;
                if end > offset {
                    replayed.clear(offset, end);
                }
            }
            b"desc" => {
                let (index, sector) = sectors.next().ok_or_else(|| wrong("a sector of data is missing"))?;
                let high = u64::from(le32(sector, 4));
                let number = high << 32 | u64::from(le32(sector, PAGE as usize - 4));
                if !sector.starts_with(b"data") || number != entry.sequence || offset.checked_add(PAGE).is_none() {
                    return Err(wrong("a sector of data is none of its own"));
                }
                let page = Page {
                    at: log.place(first + heads + index),
                    first: descriptor[8..16].try_into().expect("8 bytes"),
                    last: descriptor[4..8].try_into().expect("4 bytes"),
                };
                replayed.put(offset, page);
            }
            _ => return Err(wrong("a descriptor is of no known kind")),
        }
    }
    Ok(())
}
