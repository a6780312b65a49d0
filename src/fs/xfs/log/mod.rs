//! The log: what was changed and had not reached its place when the machine stopped, replayed into memory.
//!
//! The log is a ring ([`ring`]) of records ([`record`]), whose operations make transactions ([`transaction`]) of items:
//! pieces of blocks ([`buffer`]), inodes ([`inode`]), new chunks of inodes ([`create`]) and promises ([`intent`]). A replay
//! goes from the tail to the head twice, first to learn which blocks were freed, then to put what was changed over what the
//! device says. Quota records are left out, and so are lists of inodes without names: neither is seen by a reader.
//!
//! A log that is damaged between tail and head is an error, as it is for Linux: without its changes the tree could be one
//! that never was. `xfs_repair -L` makes a filesystem readable that has such a log.
//!
//! Specified in "XFS Algorithms & Data Structures", chapter "Journaling Log", and by Linux `xfs_log_recover.c`.

mod buffer;
mod create;
mod inode;
mod intent;
mod record;
mod ring;
mod transaction;

use super::overlay::{Overlay, SECTOR};
use super::remap::Remap;
use super::superblock::Superblock;
use crate::block::RunCache;
use crate::error::{Error, Result};
use crate::fs::Ino;
use buffer::{Buffer, Place};
use create::Creation;
use inode::InodeItem;
use intent::Intents;
use record::{Expect, Lsn};
use ring::{Ring, Span};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use transaction::{Item, Transaction, Transactions};

/// Types of items that are replayed.
mod kinds {
    pub const INODE: u16 = 0x123b;
    pub const BUFFER: u16 = 0x123c;
    pub const CREATE: u16 = 0x123f;
}

/// What a replay brought.
#[derive(Default)]
pub struct Replay {
    /// What it changed.
    pub overlay: Overlay,
    /// Whether the filesystem was not unmounted.
    pub changed: bool,
    /// Whether the log could not be read, so that nobody knows.
    pub unread: bool,
    /// Inodes whose extent trees name another owner.
    pub exchanged: HashSet<Ino>,
    /// Changes of extents that are still to be done, by inode.
    pub remaps: HashMap<Ino, Vec<Remap>>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Makes an [`Error::Corrupt`] for the log.
fn corrupt(detail: impl Into<Cow<'static, str>>) -> Error {
    Error::corrupt("XFS log", detail)
}

/// Replays the log, where the filesystem was not unmounted.
///
/// # Errors
/// [`Error::Corrupt`] for a damaged log, [`Error::Unsupported`] for one that cannot be replayed here, and those of reading.
pub fn replay(runs: &RunCache, superblock: &Superblock) -> Result<Replay> {
    let Some(start) = superblock.log_start else {
        let warning = "the log is on another device and was not read: recent changes may be missing";
        return Ok(Replay { unread: true, warnings: vec![warning.into()], ..Replay::default() });
    };
    let blocks = u64::from(superblock.log_blocks);
    let offset = superblock.block_offset(start, blocks).filter(|_| blocks > 0);
    let offset = offset.ok_or_else(|| corrupt("it does not lie within an allocation group"))?;
    let sectors = (blocks << superblock.block_log) / SECTOR;
    if sectors < 2 {
        return Err(corrupt("it is too short"));
    }
    let ring = Ring::new(runs, offset, sectors, superblock.log_v2);
    let expect = Expect { checksums: superblock.v5, uuid: &superblock.uuid };
    let Some(span) = ring.find(expect)? else { return Ok(Replay::default()) };
    if superblock.unknown_log_features != 0 {
        let bits = superblock.unknown_log_features;
        return Err(Error::unsupported(format!("replaying an XFS log with features {bits:#x}")));
    }
    let mut replayer = Replayer {
        runs,
        superblock,
        overlay: Overlay::default(),
        cancelled: HashMap::new(),
        exchanged: HashSet::new(),
        intents: Intents::default(),
    };
    transactions(&ring, span, expect, |whole| replayer.note_cancelled(&whole))?;
    transactions(&ring, span, expect, |whole| replayer.replay(whole))?;
    let mut remaps: HashMap<Ino, Vec<Remap>> = HashMap::new();
    for remap in replayer.intents.unfinished_maps() {
        remaps.entry(remap.ino).or_default().push(remap);
    }
    let kib = replayer.overlay.len() >> 10;
    let mut warnings = vec![format!("it was not unmounted: its log was replayed in memory ({kib} KiB of changes)")];
    warnings.extend(replayer.intents.warnings());
    Ok(Replay {
        overlay: replayer.overlay,
        changed: true,
        unread: false,
        exchanged: replayer.exchanged,
        remaps,
        warnings,
    })
}

/// Shows every whole transaction of a span.
fn transactions(
    ring: &Ring<'_>,
    span: Span,
    expect: Expect<'_>,
    mut visit: impl FnMut(Transaction) -> Result<()>,
) -> Result<()> {
    let mut open = Transactions::default();
    ring.walk(span, |block| {
        let (header, data) = record::read(ring, block, expect)?;
        for operation in record::operations(&header, &data) {
            if let Some(whole) = open.take(header.lsn, &operation?)? {
                visit(whole)?;
            }
        }
        Ok(header.blocks())
    })
}

struct Replayer<'a> {
    runs: &'a RunCache,
    superblock: &'a Superblock,
    overlay: Overlay,
    /// Buffers that are freed further on in the log, and how often.
    cancelled: HashMap<Place, u32>,
    exchanged: HashSet<Ino>,
    intents: Intents,
}

/// The order in which Linux replays the items of one transaction.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Blocks,
    Others,
    UnlinkedLists,
    Cancels,
}

impl Replayer<'_> {
    fn note_cancelled(&mut self, transaction: &Transaction) -> Result<()> {
        for item in transaction.items.iter().filter(|item| item.kind() == kinds::BUFFER) {
            let buffer = Buffer::parse(item)?;
            if buffer.is_cancel() {
                *self.cancelled.entry(buffer.place).or_default() += 1;
            }
        }
        Ok(())
    }

    fn replay(&mut self, transaction: Transaction) -> Result<()> {
        let mut items = Vec::with_capacity(transaction.items.len());
        for item in &transaction.items {
            items.push((turn(item)?, item));
        }
        items.sort_by_key(|(turn, _)| *turn);
        for (_, item) in items {
            match item.kind() {
                kinds::BUFFER => self.replay_buffer(&Buffer::parse(item)?, transaction.lsn)?,
                kinds::INODE => self.replay_inode(&InodeItem::parse(item)?, transaction.lsn)?,
                kinds::CREATE => self.replay_creation(Creation::parse(item, self.superblock)?)?,
                _ => self.intents.take(item)?,
            }
        }
        Ok(())
    }

    fn is_cancelled(&self, place: &Place) -> bool {
        self.cancelled.contains_key(place)
    }

    fn replay_buffer(&mut self, buffer: &Buffer<'_>, lsn: Lsn) -> Result<()> {
        if buffer.is_cancel() {
            // From here on the block is what it is used for next, unless it is freed once more.
            if let Some(count) = self.cancelled.get_mut(&buffer.place) {
                *count -= 1;
                if *count == 0 {
                    self.cancelled.remove(&buffer.place);
                }
            }
            return Ok(());
        }
        if self.is_cancelled(&buffer.place) || buffer.is_unlinked_list() || buffer.is_quota() {
            return Ok(());
        }
        let (first, count) = buffer.place;
        let offset = first * SECTOR;
        let mut block = vec![0; count as usize * SECTOR as usize];
        self.overlay.read(self.runs, &mut block, offset)?;
        if self.superblock.v5 {
            let written = buffer::written_at(&block, &self.superblock.uuid, &self.superblock.meta_uuid);
            if written.is_some_and(|written| written >= lsn) {
                return Ok(());
            }
        }
        buffer.apply(&mut block)?;
        self.overlay.write(self.runs, &block, offset)
    }

    fn replay_inode(&mut self, item: &InodeItem<'_>, lsn: Lsn) -> Result<()> {
        if self.is_cancelled(&item.place) {
            return Ok(());
        }
        let offset = self.superblock.inode_offset(item.ino);
        let offset = offset.ok_or_else(|| corrupt(format!("inode {} cannot be", item.ino)))?;
        let mut bytes = vec![0; self.superblock.inode_size as usize];
        self.overlay.read(self.runs, &mut bytes, offset)?;
        item.apply(self.superblock, &mut bytes, lsn)?;
        if item.changes_owner() {
            self.exchanged.insert(item.ino);
        }
        self.overlay.write(self.runs, &bytes, offset)
    }

    fn replay_creation(&mut self, creation: Creation) -> Result<()> {
        if creation.places(self.superblock).iter().any(|place| self.is_cancelled(place)) {
            return Ok(());
        }
        match creation.bytes(self.superblock) {
            Some((offset, bytes)) => self.overlay.write(self.runs, &bytes, offset),
            None => Err(corrupt("a chunk of inodes lies nowhere")),
        }
    }
}

fn turn(item: &Item) -> Result<Turn> {
    Ok(match item.kind() {
        kinds::CREATE => Turn::Blocks,
        kinds::BUFFER => {
            let buffer = Buffer::parse(item)?;
            if buffer.is_cancel() {
                Turn::Cancels
            } else if buffer.is_unlinked_list() {
                Turn::UnlinkedLists
            } else {
                Turn::Blocks
            }
        }
        _ => Turn::Others,
    })
}
