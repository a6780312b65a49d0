//! Writes VHDX files, those that differ from a parent and those with a log among them, after MS-VHDX.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::collections::BTreeMap;

pub const MIB: usize = 1 << 20;
const LOG: usize = MIB;
const METADATA: usize = 2 * MIB;
pub const BAT: usize = 3 * MIB;
pub const HEADERS: [usize; 2] = [64 << 10, 128 << 10];

/// What is stored of a block.
#[derive(Clone)]
pub enum Block {
    /// The state alone: 1, 2, 3 (undefined, zero, unmapped).
    State(u64),
    Whole(Vec<u8>),
    /// Some of its sectors, by their numbers in the block.
    Partly(BTreeMap<usize, Vec<u8>>),
}

/// A file to write.
#[derive(Clone)]
pub struct Vhdx {
    pub size: u64,
    pub block: usize,
    pub sector: usize,
    pub id: [u8; 16],
    /// The keys and values of the parent locator.
    pub parent: Vec<(&'static str, String)>,
    pub blocks: BTreeMap<usize, Block>,
}

fn guid(text: &str) -> [u8; 16] {
    let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'-').collect();
    let text = std::str::from_utf8(&digits).expect("it is ASCII");
    let mut bytes: [u8; 16] =
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("digits"));
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

/// Formats a GUID as a locator has it.
pub fn braced(id: &[u8; 16]) -> String {
    let hex = |range: &[u8]| range.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let turned = |range: &[u8]| hex(&range.iter().rev().copied().collect::<Vec<u8>>());
    let (first, second, third) = (turned(&id[..4]), turned(&id[4..6]), turned(&id[6..8]));
    format!("{{{first}-{second}-{third}-{}-{}}}", hex(&id[8..10]), hex(&id[10..]))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Sets the sum of a structure, at its offset 4.
pub fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c::crc32c(bytes);
    put(bytes, 4, &sum.to_le_bytes());
}

/// Returns the GUID of what a file holds, by its newer header.
pub fn id_of(file: &[u8]) -> [u8; 16] {
    let sequence = |at: usize| u64::from_le_bytes(file[at + 8..at + 16].try_into().expect("8 bytes"));
    let newer = HEADERS.into_iter().max_by_key(|&at| sequence(at)).expect("there are two");
    file[newer + 32..newer + 48].try_into().expect("16 bytes")
}

impl Vhdx {
    fn locator(&self) -> Vec<u8> {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let mut bytes = guid("b04aefb7-d19e-4a81-b789-25b8e9445913").to_vec();
        bytes.extend([0, 0]);
        bytes.extend((self.parent.len() as u16).to_le_bytes());
        let mut texts = Vec::new();
        let start = 20 + 12 * self.parent.len();
        for (key, value) in &self.parent {
            let (key, value) = (utf16(key), utf16(value));
            bytes.extend(((start + texts.len()) as u32).to_le_bytes());
            bytes.extend(((start + texts.len() + key.len()) as u32).to_le_bytes());
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            texts.extend([key, value].concat());
        }
        bytes.extend(texts);
        bytes
    }

    fn metadata(&self) -> Vec<u8> {
        let has_parent = !self.parent.is_empty();
        let parameters = [self.block as u32, if has_parent { 2 } else { 0 }].map(u32::to_le_bytes).concat();
        let mut items = vec![
            ("caa16737-fa36-4d43-b3b6-33f0aa44e76b", 4_u32, parameters),
            ("2fa54224-cd1b-4876-b211-5dbed83bf4b8", 6, self.size.to_le_bytes().to_vec()),
            ("beca12ab-b2e6-4523-93ef-c309e000c746", 6, vec![self.id[0]; 16]),
            ("8141bf1d-a96f-4709-ba47-f233a8faab5f", 6, (self.sector as u32).to_le_bytes().to_vec()),
            ("cda348c7-445d-4471-9cc9-e9885251c556", 6, 4096_u32.to_le_bytes().to_vec()),
        ];
        if has_parent {
            items.push(("a8d35f2d-b30b-454d-abf7-d3d84834ab0c", 4, self.locator()));
        }
        let mut bytes = vec![0; MIB];
        put(&mut bytes, 0, b"metadata");
        put(&mut bytes, 10, &(items.len() as u16).to_le_bytes());
        let mut at = 64 << 10;
        for (index, (id, flags, item)) in items.iter().enumerate() {
            let entry = 32 + 32 * index;
            put(&mut bytes, entry, &guid(id));
            put(&mut bytes, entry + 16, &[at as u32, item.len() as u32, *flags].map(u32::to_le_bytes).concat());
            put(&mut bytes, at, item);
            at += item.len().next_multiple_of(8);
        }
        bytes
    }

    /// Returns the bytes of the file.
    pub fn write(&self) -> Vec<u8> {
        let ratio = (8 * MIB * self.sector) / self.block;
        let blocks = (self.size as usize).div_ceil(self.block);
        let entries = blocks.div_ceil(ratio) * (ratio + 1);
        let bat_size = (entries * 8).next_multiple_of(MIB);
        let mut file = vec![0; BAT + bat_size];
        put(&mut file, 0, b"vhdxfile");
        for (at, sequence) in HEADERS.into_iter().zip([7_u64, 6]) {
            let mut header = vec![0; 4096];
            put(&mut header, 0, b"head");
            put(&mut header, 8, &sequence.to_le_bytes());
            // What an older header says counts no more.
            put(&mut header, 32, &if sequence == 7 { self.id } else { [0xee; 16] });
            put(&mut header, 66, &1_u16.to_le_bytes());
            put(&mut header, 68, &(MIB as u32).to_le_bytes());
            put(&mut header, 72, &(LOG as u64).to_le_bytes());
            seal(&mut header);
            put(&mut file, at, &header);
        }
        let mut table = vec![0; 64 << 10];
        put(&mut table, 0, b"regi");
        put(&mut table, 8, &2_u32.to_le_bytes());
        for (at, id, start, len) in [
            (16, "2dc27766-f623-4200-9d64-115e9bfd4a08", BAT, bat_size),
            (48, "8b7ca206-4790-4b9a-b8fe-575f050f886e", METADATA, MIB),
        ] {
            put(&mut table, at, &guid(id));
            put(&mut table, at + 16, &(start as u64).to_le_bytes());
            put(&mut table, at + 24, &[len as u32, 1].map(u32::to_le_bytes).concat());
        }
        seal(&mut table);
        put(&mut file, 192 << 10, &table);
        put(&mut file, 256 << 10, &table);
        put(&mut file, METADATA, &self.metadata());
        let mut bitmaps: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        let set = |file: &mut Vec<u8>, index: usize, state: u64, bytes: Option<&[u8]>| {
            let place = bytes.map_or(0, |_| file.len() as u64);
            put(file, BAT + 8 * index, &(place | state).to_le_bytes());
            file.extend(bytes.unwrap_or_default());
        };
        for (&number, block) in &self.blocks {
            let index = number + number / ratio;
            match block {
                Block::State(state) => set(&mut file, index, *state, None),
                Block::Whole(bytes) => set(&mut file, index, 6, Some(bytes)),
                Block::Partly(sectors) => {
                    // What no bit is set for is there too, and is not to be read.
                    let mut bytes = vec![0xdb; self.block];
                    let bitmap = bitmaps.entry(number / ratio).or_insert_with(|| vec![0; MIB]);
                    for (&sector, content) in sectors {
                        put(&mut bytes, sector * self.sector, content);
                        let bit = number % ratio * (self.block / self.sector) + sector;
                        bitmap[bit / 8] |= 1 << (bit % 8);
                    }
                    set(&mut file, index, 7, Some(&bytes));
                }
            }
        }
        for (chunk, bitmap) in bitmaps {
            set(&mut file, (chunk + 1) * (ratio + 1) - 1, 6, Some(&bitmap));
        }
        file
    }
}

/// A change that a log keeps: a page of 4096 bytes, or zeroes.
pub enum Change {
    Page(u64, Vec<u8>),
    Zeroes(u64, u64),
}

/// Puts entries into the log of a file, each with its changes; the log's ring goes round within them. `len` is how long the
/// file is when the log is replayed.
pub fn log(file: &mut [u8], entries: &[Vec<Change>], len: u64) {
    let id = [0x5a; 16];
    for at in HEADERS {
        put(file, at + 48, &id);
        seal(&mut file[at..at + 4096]);
    }
    let sectors = MIB / 4096;
    let tail = sectors - 1;
    let mut first = tail;
    // An entry of an earlier turn of the ring, which counts no more.
    let stale = entry(&id, 3, first as u32, &[Change::Page(MIB as u64, vec![0xbb; 4096])], len);
    put_ring(file, (first + 40) % sectors, &stale);
    for (number, changes) in entries.iter().enumerate() {
        let bytes = entry(&id, 10 + number as u64, tail as u32, changes, len);
        put_ring(file, first, &bytes);
        first = (first + bytes.len() / 4096) % sectors;
    }
}

fn put_ring(file: &mut [u8], first: usize, bytes: &[u8]) {
    for (number, sector) in bytes.chunks(4096).enumerate() {
        put(file, LOG + (first + number) % (MIB / 4096) * 4096, sector);
    }
}

fn entry(id: &[u8; 16], sequence: u64, tail: u32, changes: &[Change], len: u64) -> Vec<u8> {
    let mut bytes = vec![0; (64 + 32 * changes.len()).next_multiple_of(4096)];
    put(&mut bytes, 0, b"loge");
    put(&mut bytes, 12, &(tail * 4096).to_le_bytes());
    put(&mut bytes, 16, &sequence.to_le_bytes());
    put(&mut bytes, 24, &(changes.len() as u32).to_le_bytes());
    put(&mut bytes, 32, id);
    put(&mut bytes, 48, &[len, len].map(u64::to_le_bytes).concat());
    for (number, change) in changes.iter().enumerate() {
        let at = 64 + 32 * number;
        let offset = match change {
            Change::Page(offset, page) => {
                put(&mut bytes, at, b"desc");
                put(&mut bytes, at + 4, &page[4092..]);
                put(&mut bytes, at + 8, &page[..8]);
                let mut sector = page.clone();
                put(&mut sector, 0, b"data");
                put(&mut sector, 4, &((sequence >> 32) as u32).to_le_bytes());
                put(&mut sector, 4092, &(sequence as u32).to_le_bytes());
                bytes.extend(sector);
                offset
            }
            Change::Zeroes(offset, len) => {
                put(&mut bytes, at, b"zero");
                put(&mut bytes, at + 8, &len.to_le_bytes());
                offset
            }
        };
        put(&mut bytes, at + 16, &[*offset, sequence].map(u64::to_le_bytes).concat());
    }
    let len = bytes.len() as u32;
    put(&mut bytes, 8, &len.to_le_bytes());
    seal(&mut bytes);
    bytes
}
