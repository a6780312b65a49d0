//! Recovery: what the log of a filesystem that was not closed says is written to where it belongs.
//!
//! One walk through the log collects the copies and the revocations of every transaction that has its commit block. Then
//! the newest copy of each block that was not revoked is written, in the order of the device.

use super::checksum::{SEED, crc32_be};
use super::commit_block;
use super::descriptor::{self, Tag};
use super::format::{Checksums, Format, Header, MAGIC, kind};
use super::home::{BlockBytes, Gather};
use super::log::Log;
use super::place::JournalPlace;
use super::revoke;
use super::superblock::{JournalSuperblock, byte_offset};
use crate::block::{BlockDevice, SharedDevice};
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, HashMap};

/// The tag that a fast commit begins with.
const FAST_COMMIT_HEAD: u16 = 9;

/// A copy in the log.
struct Copy {
    tag: Tag,
    /// Where in the log it lies.
    at: u32,
    /// How many transactions lie between the first of the log and its own.
    transaction: u32,
}

/// What one transaction, or several, ask for.
#[derive(Default)]
struct Found {
    copies: Vec<Copy>,
    /// The blocks that must not be replayed from the transaction with the number given, or from older ones.
    revoked: HashMap<u64, u32>,
}

impl Found {
    fn add(&mut self, later: &mut Found) {
        self.copies.append(&mut later.copies);
        for (block, transaction) in later.revoked.drain() {
            self.revoked.insert(block, transaction);
        }
    }
}

struct Walk<'a> {
    device: &'a dyn BlockDevice,
    place: &'a JournalPlace,
    superblock: &'a JournalSuperblock,
    format: Format,
    at: u32,
    /// How many blocks of the log the walk has not come to.
    left: u32,
    /// Behind the last transaction that has its commit block, and how many blocks lie before that.
    end: (u32, u32),
}

impl<'a> Walk<'a> {
    fn new(device: &'a dyn BlockDevice, place: &'a JournalPlace, superblock: &'a JournalSuperblock) -> Self {
        let left = superblock.end() - superblock.first();
        let at = superblock.start();
        Self { device, place, format: superblock.format(), at, left, superblock, end: (at, 0) }
    }

    fn read(&self, at: u32, block: &mut [u8]) -> Result<()> {
        let at = byte_offset(self.place.on_device(at)?, self.format.block_size as u32)?;
        self.device.read_at(block, at)
    }

    /// Returns the next block's place in the log and steps past it; `None` when the walk has gone all the way round.
    fn step(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let at = self.at;
        self.at += 1;
        if self.at == self.superblock.end() {
            self.at = self.superblock.first();
        }
        Some(at)
    }

    /// Collects all transactions that have their commit block; returns how many there are, too.
    fn collect(&mut self) -> Result<(Found, u32)> {
        let mut block = vec![0; self.format.block_size];
        let mut copy = vec![0; self.format.block_size];
        let mut committed = Found::default();
        let mut open = Found::default();
        let mut transaction = 0_u32;
        let mut last_commit = 0_u64;
        // Blocks of the log before it was ever written, or of an unfinished transaction, may hold anything.
        let mut is_doubtful = false;
        let mut sum = SEED;
        while let Some(at) = self.step() {
            self.read(at, &mut block)?;
            let Some(header) = Header::parse(&block) else { break };
            if header.sequence != self.superblock.sequence().wrapping_add(transaction) {
                break;
            }
            match header.kind {
                kind::DESCRIPTOR => {
                    is_doubtful |= !self.format.is_sealed(&block);
                    let is_summed = self.format.checksums == Checksums::V1;
                    if is_summed {
                        sum = crc32_be(sum, &block);
                    }
                    for tag in descriptor::parse(&self.format, &block) {
                        let Some(at) = self.step() else { return Ok((committed, transaction)) };
                        if is_summed {
                            self.read(at, &mut copy)?;
                            sum = crc32_be(sum, &copy);
                        }
                        open.copies.push(Copy { tag, at, transaction });
                    }
                }
                kind::REVOKE => match revoke::parse(&self.format, &block) {
                    Some(blocks) if self.format.is_sealed(&block) => {
                        open.revoked.extend(blocks.into_iter().map(|block| (block, transaction)));
                    }
                    _ => is_doubtful = true,
                },
                kind::COMMIT => {
                    let commit = commit_block::parse(&self.format, &block, sum);
                    if !commit.is_valid {
                        ::log::warn!("the journal ends before transaction {}, which is torn", header.sequence);
                        break;
                    }
                    if is_doubtful {
                        if commit.seconds < last_commit {
                            break;
                        }
                        return Err(Error::corrupt(
                            "journal",
                            format!("transaction {} is committed but its blocks are not sound", header.sequence),
                        ));
                    }
                    last_commit = commit.seconds;
                    committed.add(&mut open);
                    transaction += 1;
                    let all = self.superblock.end() - self.superblock.first();
                    self.end = (self.at, all - self.left);
                    sum = SEED;
                }
                _ => break,
            }
        }
        Ok((committed, transaction))
    }

    /// Writes the newest copy of each block that was not revoked since.
    fn replay(&self, found: Found) -> Result<()> {
        let mut newest = BTreeMap::new();
        for copy in found.copies {
            let is_revoked =
                found.revoked.get(&copy.tag.home).is_some_and(|&transaction| copy.transaction <= transaction);
            if !is_revoked {
                newest.insert(copy.tag.home, copy);
            }
        }
        let mut block = vec![0; self.format.block_size];
        let mut gather = Gather::new(self.device, self.format.block_size as u32);
        for (home, copy) in newest {
            self.read(copy.at, &mut block)?;
            let sequence = self.superblock.sequence().wrapping_add(copy.transaction);
            if self.format.copy_sum(sequence, &block) != copy.tag.sum {
                return Err(Error::corrupt("journal", format!("the copy of block {home} has a wrong checksum")));
            }
            if copy.tag.is_escaped {
                block[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            gather.push(home, &block)?;
        }
        gather.finish()
    }

    /// Says whether fast commits follow the transaction before `sequence`.
    fn has_fast_commits(&self, sequence: u32) -> Result<bool> {
        let Some(first) = self.superblock.first_fast_commit() else { return Ok(false) };
        let mut block = vec![0; self.format.block_size];
        self.read(first, &mut block)?;
        // A tag, the size of what follows it, features, and the transaction that it belongs to: little-endian.
        Ok(le16(&block, 0) == FAST_COMMIT_HEAD && le32(&block, 8) == sequence)
    }
}

/// Recovers a filesystem: writes what its log holds to where it belongs and marks the log empty. Returns whether there
/// was anything to do.
///
/// It may be interrupted and begun again at any time.
///
/// # Errors
/// [`Error::Corrupt`] when the journal is damaged, [`Error::Unsupported`] for features of the journal and for fast commits
/// that wait to be replayed, and those of reading and writing. Unless writing failed or a copy is damaged, nothing has
/// been written then; the journal still asks for recovery in any case.
pub(super) fn recover(device: &dyn BlockDevice, block_size: u32, place: &JournalPlace) -> Result<bool> {
    recover_but(device, block_size, place, |walk, next| match walk.has_fast_commits(next)? {
        true => Err(Error::unsupported("replaying fast commits of ext4; run e2fsck or mount it with Linux once")),
        false => Ok(()),
    })
}

/// Recovers a filesystem as [`recover`] does, and leaves fast commits where they are.
///
/// # Errors
/// As [`recover`], but for fast commits.
pub(super) fn recover_log(device: &dyn BlockDevice, block_size: u32, place: &JournalPlace) -> Result<bool> {
    recover_but(device, block_size, place, |_, _| Ok(()))
}

fn recover_but(
    device: &dyn BlockDevice,
    block_size: u32,
    place: &JournalPlace,
    check: impl FnOnce(&Walk<'_>, u32) -> Result<()>,
) -> Result<bool> {
    let mut superblock = JournalSuperblock::read(device, block_size, place)?;
    if superblock.start() == 0 {
        return Ok(false);
    }
    let mut walk = Walk::new(device, place, &superblock);
    let (found, transactions) = walk.collect()?;
    let next = superblock.sequence().wrapping_add(transactions);
    check(&walk, next)?;
    ::log::info!("the journal holds {transactions} transactions, {} blocks; replaying", found.copies.len());
    walk.replay(found)?;
    device.flush()?;
    // The number after the next: blocks of a transaction that was being written must never seem to be the next one's.
    superblock.set_tail(0, next.wrapping_add(1));
    superblock.write(device, place)?;
    device.flush()?;
    Ok(true)
}

/// Returns the number of the transaction that fast commits of the journal stand for, where some wait to be replayed.
///
/// # Errors
/// As [`recover`], but for fast commits.
pub(super) fn fast_commits(device: &dyn BlockDevice, block_size: u32, place: &JournalPlace) -> Result<Option<u32>> {
    let superblock = JournalSuperblock::read(device, block_size, place)?;
    if superblock.start() == 0 || superblock.first_fast_commit().is_none() {
        return Ok(None);
    }
    let mut walk = Walk::new(device, place, &superblock);
    let (_, transactions) = walk.collect()?;
    let next = superblock.sequence().wrapping_add(transactions);
    Ok(walk.has_fast_commits(next)?.then_some(next))
}

/// Writes a transaction of whole blocks behind those that the log of a filesystem holds that was not closed. When this
/// returns, they are as durable as those before them, and fast commits that waited count no more.
///
/// # Errors
/// `ENOSPC` where the log has no room for them, and then nothing was written; those of reading and writing.
pub(super) fn append(
    device: &SharedDevice,
    block_size: u32,
    place: &JournalPlace,
    blocks: &[BlockBytes],
) -> Result<()> {
    let superblock = JournalSuperblock::read(&**device, block_size, place)?;
    let mut walk = Walk::new(&**device, place, &superblock);
    let (_, transactions) = walk.collect()?;
    let (end, next) = (walk.end, superblock.sequence().wrapping_add(transactions));
    let mut log = Log::behind(device.clone(), block_size, place.clone(), end, next)?;
    if log.blocks_for(blocks.len(), 0) > log.free() as usize {
        return Err(Error::Errno(libc::ENOSPC));
    }
    log.write(blocks, &[])
}
