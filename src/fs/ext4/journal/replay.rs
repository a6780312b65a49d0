//! Replaying transactions: which blocks of the filesystem have newer copies in the log.
//!
//! Two passes: the first finds where the log ends, by sequence numbers and checksums of commits; the second notes, for
//! each block that a committed transaction holds and no later one revoked, where its newest copy lies.

use super::Journal;
use super::block::{self, BlockType, COMMIT_CHECKSUM};
use super::descriptor::{self, ESCAPED};
use super::superblock::{COMPAT_CHECKSUM, INCOMPAT_ASYNC_COMMIT};
use crate::bytes::be32;
use crate::error::{Error, Result};
use crate::fs::ext4::meta::{Copy, MetaBytes, Overlay};
use crate::fs::ext4::volume::Volume;
use std::collections::HashMap;

/// What a journal held.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// The newest copies of blocks.
    pub(crate) overlay: Overlay,
    /// How many transactions were replayed.
    pub(crate) transactions: u32,
    /// The sequence number that the next transaction would have; fast commits after the log belong to it.
    pub(crate) next_sequence: u32,
}

/// Says whether sequence number `left` comes after `right`; they wrap.
fn is_after(left: u32, right: u32) -> bool {
    (left.wrapping_sub(right) as i32) > 0
}

/// A walk over the blocks of the log, which ends when it has come round once.
struct Log<'a> {
    volume: &'a Volume,
    journal: &'a Journal,
    at: u32,
    left: u32,
}

impl<'a> Log<'a> {
    fn new(volume: &'a Volume, journal: &'a Journal) -> Self {
        let superblock = &journal.superblock;
        Self { volume, journal, at: superblock.start, left: superblock.log_end() - superblock.first }
    }

    /// Moves on; returns the block of the device that holds the log's next block, or `None` at the end.
    fn step(&mut self) -> Result<Option<u64>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let place = self.journal.place(self.at)?;
        self.at = self.journal.superblock.next(self.at);
        Ok(Some(place))
    }

    fn next(&mut self) -> Result<Option<MetaBytes>> {
        match self.step()? {
            Some(place) => self.volume.meta.block(place).map(Some),
            None => Ok(None),
        }
    }
}

/// Reads the transactions of a journal that was not replayed.
///
/// # Errors
/// [`Error::Corrupt`] for a log that is damaged before its end, and those of reading.
pub(crate) fn replay(volume: &Volume, journal: &Journal) -> Result<Replayed> {
    let superblock = &journal.superblock;
    if superblock.start == 0 {
        return Ok(Replayed { next_sequence: superblock.sequence.wrapping_add(1), ..Replayed::default() });
    }
    let end = find_end(volume, journal)?;
    let revoked = find_revoked(volume, journal, end)?;
    let mut replayed =
        Replayed { overlay: Overlay::new(), transactions: end.wrapping_sub(superblock.sequence), next_sequence: end };
    let mut log = Log::new(volume, journal);
    let mut sequence = superblock.sequence;
    while sequence != end {
        let Some(bytes) = log.next()? else { break };
        let Some(header) = block::header(&bytes) else { break };
        match header.block_type {
            BlockType::Descriptor => {
                if superblock.has_checksums() && !block::verify_tail(superblock.seed, &bytes) {
                    return Err(damaged(format!("a descriptor of transaction {sequence} has a wrong checksum")));
                }
                for tag in descriptor::tags(superblock, &bytes) {
                    let Some(place) = log.step()? else { break };
                    if tag.flags & descriptor::DELETED != 0
                        || revoked.get(&tag.block).is_some_and(|&by| !is_after(sequence, by))
                    {
                        continue;
                    }
                    if tag.block >= volume.superblock.blocks_count {
                        return Err(damaged(format!(
                            "transaction {sequence} holds block {}, which does not exist",
                            tag.block
                        )));
                    }
                    if superblock.has_checksums()
                        && !descriptor::verify_block(superblock, sequence, &tag, &volume.meta.block(place)?)
                    {
                        let detail = format!("the checksum of block {} in transaction {sequence} is wrong", tag.block);
                        return Err(damaged(detail));
                    }
                    let copy = if tag.flags & ESCAPED != 0 { Copy::Escaped(place) } else { Copy::Block(place) };
                    replayed.overlay.insert(tag.block, copy);
                }
            }
            BlockType::Commit => sequence = sequence.wrapping_add(1),
            _ => {}
        }
    }
    Ok(replayed)
}

fn damaged(detail: String) -> Error {
    Error::corrupt("journal", detail)
}

/// Returns the sequence number after the last transaction that was committed whole.
fn find_end(volume: &Volume, journal: &Journal) -> Result<u32> {
    let superblock = &journal.superblock;
    let mut log = Log::new(volume, journal);
    let mut sequence = superblock.sequence;
    let mut last_commit_time = 0;
    // The checksum of version 1 covers a transaction from its first descriptor on.
    let has_version_1 = superblock.compat & COMPAT_CHECKSUM != 0;
    let mut running = !0;
    // A descriptor or revoke block with a wrong checksum is left over from before, unless its commit proves it young.
    let mut suspect: Option<&'static str> = None;
    let mut is_whole = true;
    while let Some(bytes) = log.next()? {
        let Some(header) = block::header(&bytes).filter(|header| header.sequence == sequence) else { break };
        match header.block_type {
            BlockType::Descriptor => {
                if superblock.has_checksums() && !block::verify_tail(superblock.seed, &bytes) {
                    suspect = Some("a descriptor");
                }
                if has_version_1 {
                    running = block::crc32_be(running, &bytes);
                }
                for tag in descriptor::tags(superblock, &bytes) {
                    let Some(place) = log.step()? else { return Ok(sequence) };
                    if has_version_1 {
                        running = block::crc32_be(running, &volume.meta.block(place)?);
                    }
                    if superblock.has(INCOMPAT_ASYNC_COMMIT) {
                        is_whole &= descriptor::verify_block(superblock, sequence, &tag, &volume.meta.block(place)?);
                    }
                }
            }
            BlockType::Revoke => {
                if superblock.has_checksums() && !block::verify_tail(superblock.seed, &bytes) {
                    suspect = Some("a revoke block");
                }
            }
            BlockType::Commit => {
                let time = block::commit_seconds(&bytes);
                if let Some(what) = suspect {
                    if time < last_commit_time {
                        break;
                    }
                    return Err(damaged(format!("{what} of transaction {sequence} has a wrong checksum")));
                }
                let is_sound = if superblock.has_checksums() {
                    block::commit_checksum(superblock.seed, &bytes) == be32(&bytes, COMMIT_CHECKSUM)
                } else {
                    !has_version_1 || is_version_1_sound(&bytes, running)
                };
                if !is_sound {
                    // With asynchronous commits, or a commit older than the one before it, the log simply ends here; so
                    // does the kernel's replay in the remaining case, which marks the filesystem as damaged.
                    break;
                }
                // An asynchronous commit may have come before the blocks that it commits.
                if !is_whole {
                    break;
                }
                running = !0;
                last_commit_time = time;
                sequence = sequence.wrapping_add(1);
            }
            _ => break,
        }
    }
    Ok(sequence)
}

fn is_version_1_sound(commit: &[u8], running: u32) -> bool {
    const CRC32: u8 = 1;
    let (kind, size, found) = (commit[12], commit[13], be32(commit, COMMIT_CHECKSUM));
    if (kind, size, found) == (0, 0, 0) {
        return true;
    }
    (kind, size) == (CRC32, 4) && found == running
}

/// Returns the blocks that were revoked, with the last transaction that did.
fn find_revoked(volume: &Volume, journal: &Journal, end: u32) -> Result<HashMap<u64, u32>> {
    let superblock = &journal.superblock;
    let mut log = Log::new(volume, journal);
    let mut sequence = superblock.sequence;
    let mut revoked = HashMap::new();
    while sequence != end {
        let Some(bytes) = log.next()? else { break };
        let Some(header) = block::header(&bytes) else { break };
        match header.block_type {
            BlockType::Descriptor => {
                for _ in descriptor::tags(superblock, &bytes) {
                    log.step()?;
                }
            }
            BlockType::Revoke => {
                for block in descriptor::revoked(superblock, &bytes)? {
                    revoked.insert(block, sequence);
                }
            }
            BlockType::Commit => sequence = sequence.wrapping_add(1),
            _ => {}
        }
    }
    Ok(revoked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap() {
        assert!(is_after(1, 0));
        assert!(is_after(0, u32::MAX));
        assert!(!is_after(5, 5));
        assert!(!is_after(u32::MAX, 3));
    }
}
