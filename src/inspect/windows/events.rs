//! The event log of the system: when Windows last booted.
//!
//! A log is a header and chunks of 64 KiB, of which a full log writes over the oldest. A chunk is a header and records. A record
//! is Binary XML: a template, which lies in the chunk where a record first needed it, and the values that go into it. Of an event
//! its provider and its number are looked for, which the provider's template has as text or as a value.
//!
//! The form is specified in Microsoft's [MS-EVEN6], section 2.2.12 and below, and by libevtx's "Windows XML Event Log (EVTX)
//! format".

use super::hive::filetime;
use crate::bytes::{le16, le32, le64};
use crate::inspect::read::Guest;
use std::collections::HashMap;

/// The size of the log's header, in bytes.
const HEADER: u64 = 4096;

/// The size of a chunk, in bytes.
const CHUNK: usize = 64 << 10;

/// Where the records of a chunk begin, in bytes.
const RECORDS: usize = 512;

/// The size of a record without its Binary XML, in bytes: 24 before it and 4 behind.
const RECORD: usize = 28;

/// The most chunks whose headers are looked at: a log of 256 MiB.
const MAX_CHUNKS: u64 = 4096;

/// The most chunks that are read, the newest first.
const MAX_READ: usize = 320;

/// The most templates of a chunk that are looked at, and the longest of them in bytes.
const MAX_TEMPLATES: usize = 128;
const MAX_TEMPLATE: usize = 16 << 10;

/// The most values of a record.
const MAX_VALUES: usize = 256;

/// The deepest that elements of a template lie in each other.
const MAX_DEPTH: usize = 32;

/// What happens when Windows boots: the kernel starts, and the event log.
const BOOTS: [(&str, u32); 2] = [("Microsoft-Windows-Kernel-General", 12), ("EventLog", 6005)];

/// What a log tells, in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// The last boot.
    pub boot: Option<i64>,
    /// The last event.
    pub last: Option<i64>,
}

/// A text of a template, or the place of the value that is put in there.
#[derive(Clone, Debug)]
enum Source {
    Text(String),
    Value(usize),
}

/// Where a template has what tells an event.
#[derive(Clone, Debug, Default)]
struct Template {
    provider: Option<Source>,
    event: Option<Source>,
}

/// Reads the newest chunks of a log until one tells of a boot.
pub(super) fn read(guest: &Guest<'_>, path: &[u8]) -> Option<Told> {
    let log = guest.chunks(path)?;
    let chunks = (log.size().checked_sub(HEADER)? / CHUNK as u64).min(MAX_CHUNKS);
    let signature = log.bytes(0, 8);
    if !signature.is_ok_and(|bytes| bytes == b"ElfFile\0") {
        guest.warn(format!("{}: it is no event log", super::tidy(path)));
        return None;
    }
    let place = |number: u64| HEADER + number * CHUNK as u64;
    let (node, _) = guest.file(path)?;
    // The numbers of records grow, wherever in the log the chunk lies.
    let newest = |number: u64| {
        let mut head = [0; 48];
        guest.tree().read(node, place(number), &mut head).ok().filter(|&read| read == head.len())?;
        let is_used = head.starts_with(b"ElfChnk\0") && le64(&head, 32) != u64::MAX;
        is_used.then(|| (le64(&head, 32), number))
    };
    let mut used: Vec<(u64, u64)> = (0..chunks).filter_map(newest).collect();
    used.sort_unstable_by(|one, other| other.cmp(one));
    let mut told = Told::default();
    for (_, number) in used.into_iter().take(MAX_READ) {
        match log.bytes(place(number), CHUNK) {
            Ok(bytes) => {
                let found = chunk(&bytes);
                told = Told { boot: found.boot, last: told.last.or(found.last) };
            }
            Err(error) => guest.warn_of(path, &error),
        }
        if told.boot.is_some() {
            break;
        }
    }
    Some(told)
}

/// Reads the records of a chunk, as far as they go.
fn chunk(bytes: &[u8]) -> Told {
    let mut told = Told::default();
    let mut templates = HashMap::new();
    let mut at = RECORDS;
    while let Some(head) = bytes.get(at..at + 24).filter(|head| head.starts_with(b"**\0\0")) {
        let size = le32(head, 4) as usize;
        let end = at.saturating_add(size);
        if size < RECORD || end > bytes.len() {
            break;
        }
        let written = filetime(le64(head, 16));
        told.last = told.last.max(written);
        if written > told.boot && is_boot(bytes, at + 24, end - 4, &mut templates) {
            told.boot = written;
        }
        at = end;
    }
    told
}

/// Says whether a record, whose Binary XML lies from `at` to `end`, tells of a boot.
fn is_boot(bytes: &[u8], at: usize, end: usize, templates: &mut HashMap<usize, Template>) -> bool {
    let mut read = || {
        // The beginning of a fragment, and of a template's instance: where the template is.
        let head = bytes.get(at..at + 14)?;
        if head[0] != 0x0f || head[4] != 0x0c {
            return None;
        }
        let definition = le32(head, 10) as usize;
        let len = le32(bytes.get(definition..definition.checked_add(24)?)?, 20) as usize;
        let body = definition + 24;
        if !templates.contains_key(&definition) {
            if templates.len() >= MAX_TEMPLATES || len > MAX_TEMPLATE {
                return None;
            }
            let template = template(bytes, body, body.checked_add(len)?).unwrap_or_default();
            templates.insert(definition, template);
        }
        let template = &templates[&definition];
        // The values lie behind the template where that lies here.
        let values = if definition == at + 14 { body.checked_add(len)? } else { at + 14 };
        let number = |source: &Source| match source {
            Source::Text(text) => text.trim().parse().ok(),
            Source::Value(place) => match value(bytes, values, end, *place)? {
                (0x06, &[low, high]) => Some(u32::from(u16::from_le_bytes([low, high]))),
                (0x08, bytes) if bytes.len() == 4 => Some(le32(bytes, 0)),
                _ => None,
            },
        };
        let name = |source: &Source| match source {
            Source::Text(text) => Some(text.clone()),
            Source::Value(place) => match value(bytes, values, end, *place)? {
                (0x01, bytes) => Some(super::hive::utf16(bytes)),
                _ => None,
            },
        };
        let event: u32 = number(template.event.as_ref()?)?;
        // Few events have these numbers, so the name is seldom looked at.
        let wanted = BOOTS.iter().find(|(_, number)| *number == event)?;
        Some(name(template.provider.as_ref()?)? == wanted.0)
    };
    read().unwrap_or(false)
}

/// Returns the type and the bytes of one of a record's values.
fn value(bytes: &[u8], at: usize, end: usize, place: usize) -> Option<(u8, &[u8])> {
    let count = le32(bytes.get(at..at.checked_add(4)?)?, 0) as usize;
    if count > MAX_VALUES {
        return None;
    }
    let table = bytes.get(at + 4..end)?.get(..count.checked_mul(4)?)?;
    let own = table.chunks_exact(4).nth(place)?;
    let before: usize = table.chunks_exact(4).take(place).map(|entry| usize::from(le16(entry, 0))).sum();
    let start = at + 4 + table.len() + before;
    Some((own[2], bytes.get(start..end)?.get(..usize::from(le16(own, 0)))?))
}

/// Binary XML that is being read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.end)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    /// Reads a name, which lies somewhere in the chunk; here too, where it is used for the first time.
    fn name(&mut self) -> Option<&'a [u8]> {
        let place = le32(self.take(4)?, 0) as usize;
        let len = usize::from(le16(self.bytes.get(place..place.checked_add(8)?)?, 6)) * 2;
        let name = self.bytes.get(place + 8..)?.get(..len)?;
        if place == self.at {
            self.take(8 + len + 2)?;
        }
        Some(name)
    }
}

/// Finds in a template what tells an event.
fn template(bytes: &[u8], at: usize, end: usize) -> Option<Template> {
    let mut reader = Reader { bytes, at, end };
    let mut found = Template::default();
    let mut elements: Vec<&[u8]> = Vec::new();
    let mut attribute: Option<&[u8]> = None;
    while found.provider.is_none() || found.event.is_none() {
        let token = reader.take(1)?[0];
        let source = match token & !0x40 {
            // The end.
            0x00 => break,
            // The beginning of an element, with the size of its attributes where there are some.
            0x01 => {
                reader.take(6)?;
                elements.push(reader.name()?);
                attribute = None;
                if token & 0x40 != 0 {
                    reader.take(4)?;
                }
                if elements.len() > MAX_DEPTH {
                    return None;
                }
                continue;
            }
            // The end of its attributes, and of the element.
            0x02 => {
                attribute = None;
                continue;
            }
            0x03 | 0x04 => {
                elements.pop()?;
                attribute = None;
                continue;
            }
            0x05 => {
                let kind = reader.take(1)?[0];
                let len = usize::from(le16(reader.take(2)?, 0));
                if kind != 0x01 {
                    return None;
                }
                Source::Text(super::hive::utf16(reader.take(len * 2)?))
            }
            0x06 => {
                attribute = Some(reader.name()?);
                continue;
            }
            0x08 => {
                reader.take(2)?;
                continue;
            }
            0x09 | 0x0a => {
                reader.name()?;
                continue;
            }
            // Text that tells nothing here.
            0x07 | 0x0b => {
                let len = usize::from(le16(reader.take(2)?, 0));
                reader.take(len * 2)?;
                continue;
            }
            0x0d | 0x0e => {
                let place = usize::from(le16(reader.take(3)?, 0));
                Source::Value(place)
            }
            0x0f => {
                reader.take(3)?;
                continue;
            }
            _ => return None,
        };
        let is = |name: &[u8], text: &str| name.iter().step_by(2).eq(text.as_bytes());
        match (elements.last()?, attribute) {
            (element, Some(name)) if is(element, "Provider") && is(name, "Name") => found.provider = Some(source),
            (element, None) if is(element, "EventID") => found.event = Some(source),
            _ => {}
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    fn log() -> Vec<u8> {
        let packed = &include_bytes!("../../../tests/data/inspect/windows/System.evtx.zst")[..];
        zstd::decode_all(packed).expect("whole")
    }

    fn told(bytes: Vec<u8>) -> (Option<Told>, usize) {
        let tree = Fixture::new().file("System.evtx", bytes).tree();
        let guest = Guest::new(&tree);
        let told = read(&guest, b"/System.evtx");
        (told, guest.into_warnings().len())
    }

    #[test]
    fn the_last_boot_is_the_newest_event_that_tells_of_one() {
        // The log's own start comes after the kernel's; the event of the same number of another provider is none.
        let expected = Told { boot: Some(1_700_000_030), last: Some(1_700_000_240) };
        assert_eq!(told(log()), (Some(expected), 0));
        // Without the newest chunk the older one tells.
        let mut bytes = log();
        bytes[4096..4104].fill(0);
        assert_eq!(told(bytes).0, Some(Told { boot: Some(1_699_990_030), last: Some(1_699_990_390) }));
        // The kernel's event is one too: the log's own is another's here.
        let mut bytes = log();
        let name: Vec<u8> = "EventLog".encode_utf16().flat_map(u16::to_le_bytes).collect();
        while let Some(at) = bytes.windows(name.len()).position(|window| window == name) {
            bytes[at] = b'X';
        }
        assert_eq!(told(bytes).0, Some(Told { boot: Some(1_700_000_010), last: Some(1_700_000_240) }));
    }

    #[test]
    fn a_damaged_log_is_said_or_read_as_far_as_it_goes() {
        assert_eq!(told(vec![1; 100_000]), (None, 1));
        assert_eq!(told(Vec::new()), (None, 0));
        let whole = log();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for round in 0..3000 {
            let mut bytes = whole.clone();
            for _ in 0..=round % 5 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Most of what is read lies in the first records of a chunk.
                let at = 4096 + (state as usize >> 8) % 3000 + if state & 1 == 0 { CHUNK } else { 0 };
                bytes[at] = [0, 0xff, (state >> 40) as u8][(state >> 50) as usize % 3];
            }
            if round % 7 == 0 {
                bytes.truncate(state as usize % whole.len());
            }
            told(bytes);
        }
    }
}
