//! The tables: where chunks lie. Each is a count, a base, and a list of places with a bit for what is compressed.

use super::chunk::{Place, is_sum};
use super::section::Section;
use crate::block::BlockDevice;
use crate::bytes::{le32, le64};
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The size of a table's head, in bytes.
const HEAD: u64 = 24;
const AT_BASE: usize = 8;
const AT_SUM: usize = 20;

/// The size of a place, in bytes.
const ENTRY: u64 = 4;
/// The bit of a place whose chunk is compressed.
const COMPRESSED: u32 = 1 << 31;

/// The most places in a table: four times what tools make at most.
const MAX_ENTRIES: u64 = 1 << 22;

/// A table.
#[derive(Debug)]
pub(super) struct Table {
    /// The index of its segment.
    pub segment: usize,
    /// The number of its first chunk.
    pub first: u64,
    count: u64,
    /// What places are counted from, in bytes of the segment.
    base: u64,
    /// Where its list begins, in bytes of the segment.
    list: u64,
    /// Where the section ends that holds the list.
    end: u64,
    /// Where the chunks' bytes end.
    data_end: u64,
    /// Where the list of its copy begins, and where that section ends.
    copy: Option<(u64, u64)>,
    /// Where the list begins that is whole, once that is known.
    whole: OnceLock<Option<u64>>,
}

impl Table {
    /// Reads the head of a table. `data` is the section that its chunks lie in; where there is none, they follow the list.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is damaged, and those of reading.
    pub(super) fn read(
        device: &dyn BlockDevice,
        segment: usize,
        section: &Section,
        data: Option<&Section>,
        first: u64,
    ) -> Result<Self> {
        let wrong = |detail: String| Error::corrupt(format!("EWF table at byte {}", section.data), detail);
        let room = section.end - section.data;
        if room < HEAD {
            return Err(wrong(format!("it has {room} bytes")));
        }
        let mut head = [0; HEAD as usize];
        device.read_at(&mut head, section.data)?;
        if !is_sum(&head[..AT_SUM], le32(&head, AT_SUM)) {
            return Err(wrong("the checksum of its head is wrong".into()));
        }
        let count = u64::from(le32(&head, 0));
        if count > MAX_ENTRIES || count * ENTRY > room - HEAD {
            return Err(wrong(format!("{count} chunks in {room} bytes")));
        }
        Ok(Self {
            segment,
            first,
            count,
            base: le64(&head, AT_BASE),
            list: section.data + HEAD,
            end: section.end,
            data_end: data.map_or(section.end, |data| data.end),
            copy: None,
            whole: OnceLock::new(),
        })
    }

    /// Returns the number of the first chunk after those of the table.
    pub(super) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Gives it its copy.
    pub(super) fn set_copy(&mut self, section: &Section) {
        let list = section.data.saturating_add(HEAD);
        if section.end.saturating_sub(list) >= self.count * ENTRY {
            self.copy = Some((list, section.end));
        }
    }

    /// Returns where a chunk of the table lies.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where both the table and its copy are damaged, or the place lies nowhere; those of reading.
    pub(super) fn place(&self, device: &dyn BlockDevice, number: u64) -> Result<Place> {
        let wrong = |detail: String| Error::corrupt(format!("EWF table at byte {}", self.list), detail);
        let list = match self.whole.get() {
            Some(list) => *list,
            None => {
                let list = self.whole_list(device)?;
                *self.whole.get_or_init(|| list)
            }
        };
        let list = list.ok_or_else(|| wrong("its checksum is wrong, and that of its copy".into()))?;
        let index = number - self.first;
        let mut entries = [0; 2 * ENTRY as usize];
        let is_last = index + 1 == self.count;
        let read = if is_last { ENTRY } else { 2 * ENTRY };
        device.read_at(&mut entries[..read as usize], list + index * ENTRY)?;
        let place = |at: usize| self.base.checked_add(u64::from(le32(&entries, at) & !COMPRESSED));
        let (start, end) = (place(0), if is_last { Some(self.data_end) } else { place(ENTRY as usize) });
        match (start, end) {
            (Some(start), Some(end)) if start < end && end <= self.data_end => {
                Ok(Place { start, end, is_compressed: le32(&entries, 0) & COMPRESSED != 0 })
            }
            _ => Err(wrong(format!("chunk {number} lies at no place in the file"))),
        }
    }

    /// Returns where the list begins that is whole: the table's own, or that of its copy.
    fn whole_list(&self, device: &dyn BlockDevice) -> Result<Option<u64>> {
        if self.is_whole(device, self.list, self.end)? {
            return Ok(Some(self.list));
        }
        match self.copy {
            Some((list, end)) if self.is_whole(device, list, end)? => Ok(Some(list)),
            _ => Ok(None),
        }
    }

    /// Says whether a list has the sum that follows it. In images of SMART none does: the chunks follow at once.
    fn is_whole(&self, device: &dyn BlockDevice, list: u64, end: u64) -> Result<bool> {
        let size = self.count * ENTRY;
        if end - list != size + 4 {
            return Ok(true);
        }
        let mut bytes = vec![0; size as usize + 4];
        device.read_at(&mut bytes, list)?;
        let (entries, sum) = bytes.split_at(size as usize);
        Ok(is_sum(entries, le32(sum, 0)))
    }
}
