//! Log records: a header of 512 bytes or more, and the operations behind it.
//!
//! So that a torn write shows, the first word of each 512-byte block behind the header is replaced by the log's cycle; the
//! header keeps the words that stood there, 64 of them in its own block and 64 in each further block of it (version 2).
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Journaling Log", and by Linux `xfs_log_format.h`.

use super::super::overlay::SECTOR;
use super::corrupt;
use super::ring::Ring;
use crate::bytes::{be32, be64, le32, set_be32};
use crate::error::{Error, Result};

/// The magic number of a header.
pub const MAGIC: u32 = 0xfeed_babe;

/// The block of the log, in bytes.
const BLOCK: usize = SECTOR as usize;

/// How many bytes of a record one block of its header keeps the first words of.
const PER_HEADER: usize = 64 * BLOCK;

/// The longest record, in bytes, with room to spare: Linux writes up to 256 KiB.
const MAX_LEN: usize = 512 << 10;

/// The format of a log written by a little-endian Linux.
const FORMAT_LITTLE_ENDIAN: u32 = 1;

/// Sizes of a header that are summed, in bytes, on 64-bit machines and on 32-bit x86.
const HEADER_SIZES: [usize; 2] = [328, 324];

/// Clients that write operations: transactions and the log itself.
const CLIENTS: [u8; 2] = [0x69, 0xaa];

/// A place in the log's history: its cycle in the high half, a block in the low one.
pub type Lsn = u64;

/// Returns the block that a place names.
pub fn lsn_block(lsn: Lsn) -> u64 {
    lsn & 0xffff_ffff
}

/// A record's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The place of the record.
    pub lsn: Lsn,
    /// The oldest record that was needed when this one was written.
    pub tail: Lsn,
    /// How many operations begin in it.
    pub operations: u32,
    /// How many blocks the header takes.
    pub header_blocks: u64,
    /// How many bytes follow the header.
    pub len: usize,
    /// The checksum; 0 where there is none.
    checksum: u32,
    /// The byte order and machine that wrote it.
    format: u32,
    uuid: [u8; 16],
}

impl Header {
    /// Reads the first block of a header. `None` when it is none.
    pub fn parse(block: &[u8]) -> Option<Self> {
        if be32(block, 0) != MAGIC {
            return None;
        }
        let version = be32(block, 8);
        let size = be32(block, 320) as usize;
        let len = be32(block, 12) as usize;
        if !(1..=3).contains(&version) || len > MAX_LEN || size > MAX_LEN {
            return None;
        }
        let more = version & 2 != 0 && size > PER_HEADER;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&block[304..320]);
        Some(Self {
            lsn: be64(block, 16),
            tail: be64(block, 24),
            operations: be32(block, 40),
            header_blocks: if more { size.div_ceil(PER_HEADER) as u64 } else { 1 },
            len,
            checksum: le32(block, 32),
            format: be32(block, 300),
            uuid,
        })
    }

    /// Returns how many blocks the whole record takes.
    pub fn blocks(&self) -> u64 {
        self.header_blocks + self.len.div_ceil(BLOCK) as u64
    }
}

/// What a record is checked against.
#[derive(Clone, Copy)]
pub struct Expect<'a> {
    /// Whether a wrong checksum is damage: on version 5.
    pub checksums: bool,
    /// The filesystem's UUID.
    pub uuid: &'a [u8; 16],
}

/// Reads the record at a block and checks it; returns its header and the bytes of its operations.
///
/// # Errors
/// [`Error::Corrupt`] when there is none or its checksum is wrong, [`Error::Unsupported`] for another byte order, and those
/// of reading.
pub fn read(ring: &Ring<'_>, block: u64, expect: Expect<'_>) -> Result<(Header, Vec<u8>)> {
    let first = ring.read(block, 1)?;
    let header = Header::parse(&first).ok_or_else(|| corrupt(format!("there is no record at its block {block}")))?;
    if header.len == 0 || header.blocks() > ring.blocks() {
        return Err(corrupt(format!("the record at its block {block} has an impossible length")));
    }
    if header.format != FORMAT_LITTLE_ENDIAN {
        return Err(Error::unsupported("replaying an XFS log that a big-endian machine wrote"));
    }
    if header.uuid != [0; 16] && header.uuid != *expect.uuid {
        return Err(corrupt("it belongs to another filesystem"));
    }
    if lsn_block(header.lsn) != block {
        return Err(corrupt(format!("the record at its block {block} names another place as its own")));
    }
    let mut bytes = ring.read(block, header.blocks())?;
    let (head, data) = bytes.split_at_mut(header.header_blocks as usize * BLOCK);
    let data = &mut data[..header.len];
    let fits = cfg!(fuzzing) || HEADER_SIZES.iter().any(|&size| checksum(head, size, data) == header.checksum);
    if expect.checksums && !fits {
        return Err(corrupt(format!("the checksum of the record at its block {block} is wrong")));
    }
    if header.len > header.header_blocks as usize * PER_HEADER {
        return Err(corrupt(format!("the record at its block {block} is longer than its header allows for")));
    }
    for (index, block) in data.chunks_mut(BLOCK).enumerate() {
        let (part, word) = (index / 64, index % 64);
        let at = if part == 0 { 44 } else { part * BLOCK + 4 } + word * 4;
        if block.len() >= 4 {
            set_be32(block, 0, be32(head, at));
        }
    }
    let data = data.to_vec();
    Ok((header, data))
}

/// Sums a record as it lies in the log.
fn checksum(head: &[u8], size: usize, data: &[u8]) -> u32 {
    let mut sum = crc32c::crc32c(&head[..32]);
    sum = crc32c::crc32c_append(sum, &[0; 4]);
    sum = crc32c::crc32c_append(sum, &head[36..size]);
    for part in head.chunks(BLOCK).take(data.len().div_ceil(PER_HEADER)).skip(1) {
        sum = crc32c::crc32c_append(sum, &part[..260]);
    }
    crc32c::crc32c_append(sum, data)
}

/// An operation: a piece of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// Which transaction it belongs to.
    pub transaction: u32,
    /// What it does (`flags`).
    pub flags: u8,
    /// What it carries.
    pub data: &'a [u8],
}

/// Bits of an operation's flags.
pub mod flags {
    /// A transaction begins.
    pub const START: u8 = 0x01;
    /// A transaction is whole.
    pub const COMMIT: u8 = 0x02;
    /// Its data goes on in the next record.
    pub const CONTINUE: u8 = 0x04;
    /// Its data began in the record before.
    pub const WAS_CONTINUED: u8 = 0x08;
    /// The last part of what went on.
    pub const END: u8 = 0x10;
    /// The filesystem was unmounted.
    pub const UNMOUNT: u8 = 0x20;
}

/// Returns the operations of a record's data.
pub fn operations<'a>(header: &Header, data: &'a [u8]) -> impl Iterator<Item = Result<Operation<'a>>> {
    let mut rest = data;
    let mut left = header.operations;
    std::iter::from_fn(move || {
        if left == 0 || rest.is_empty() {
            return None;
        }
        left -= 1;
        let operation = parse_operation(rest);
        match operation {
            Some((operation, behind)) => {
                rest = behind;
                Some(Ok(operation))
            }
            None => {
                left = 0;
                Some(Err(corrupt("an operation does not fit in its record")))
            }
        }
    })
}

fn parse_operation(bytes: &[u8]) -> Option<(Operation<'_>, &[u8])> {
    let (head, rest) = bytes.split_at_checked(12)?;
    let len = usize::try_from(be32(head, 4)).ok()?;
    let (data, rest) = rest.split_at_checked(len)?;
    CLIENTS.contains(&head[8]).then_some((Operation { transaction: be32(head, 0), flags: head[9], data }, rest))
}
