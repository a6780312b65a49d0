//! Opening: which superblock, which journal, and what there is to say about it.

use super::features::{self, compat, incompat};
use super::journal::superblock::INCOMPAT_FAST_COMMIT;
use super::journal::{Journal, fast_commit, replay};
use super::meta::{Meta, Overlay};
use super::superblock::{self, MAGIC, STATE_ERRORS, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use super::volume::Volume;
use crate::block::SharedDevice;
use crate::bytes::{self, le16, le32};
use crate::error::{Error, Result};
use crate::fs::{FsInfo, FsOptions};
use std::sync::Arc;

/// Where copies of the superblock lie by default: block number and block size, in bytes.
const COPIES: &[(u64, u64)] = &[
    (8193, 1024),
    (16384, 2048),
    (32768, 4096),
    (24577, 1024),
    (49152, 2048),
    (98304, 4096),
    (65536, 8192),
    (131_072, 16384),
    (262_144, 32768),
    (524_288, 65536),
];

fn read_superblock(device: &SharedDevice, offset: u64) -> Result<Option<[u8; SUPERBLOCK_SIZE]>> {
    let mut bytes = [0; SUPERBLOCK_SIZE];
    if device.size() < offset.saturating_add(SUPERBLOCK_SIZE as u64) {
        return Ok(None);
    }
    device.read_at(&mut bytes, offset)?;
    Ok(Some(bytes))
}

/// Says what filesystem is on a device, by the primary superblock alone; `None` where there is no ext2, ext3 or ext4.
///
/// # Errors
/// Those of reading.
pub fn probe(device: &SharedDevice) -> Result<Option<FsInfo>> {
    use superblock::field;
    let Some(bytes) = read_superblock(device, SUPERBLOCK_OFFSET)? else { return Ok(None) };
    let (compat, incompat) = (le32(&bytes, field::COMPAT), le32(&bytes, field::INCOMPAT));
    let log_block_size = le32(&bytes, field::LOG_BLOCK_SIZE);
    if le16(&bytes, field::MAGIC) != MAGIC || log_block_size > 6 || incompat & incompat::JOURNAL_DEV != 0 {
        return Ok(None);
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&bytes[field::UUID..field::UUID + 16]);
    let label = bytes::until_nul(&bytes[field::LABEL..field::LABEL + 16]);
    Ok(Some(FsInfo {
        kind: features::kind(compat, incompat, le32(&bytes, field::RO_COMPAT)),
        label: (!label.is_empty()).then(|| label.to_vec()),
        uuid: (uuid != [0; 16]).then(|| bytes::uuid(&uuid)),
        block_size: 1024 << log_block_size,
        warnings: Vec::new(),
    }))
}

/// Reads the primary superblock. A crash may have left it written in part, with a wrong checksum: then either the journal
/// has it whole, or the only thing that changed is whether the journal needs recovery.
///
/// # Errors
/// As [`Superblock::parse`], and those of reading.
pub(super) fn read_primary(device: &SharedDevice) -> Result<Superblock> {
    let Some(mut bytes) = read_superblock(device, SUPERBLOCK_OFFSET)? else {
        return Err(Error::NotAnImage("no ext2, ext3 or ext4 filesystem: the device is too small".into()));
    };
    let error = match Superblock::parse(&bytes) {
        Ok(superblock) => return Ok(superblock),
        Err(error) => error,
    };
    match Superblock::parse_unsealed(&bytes) {
        Ok(superblock) if superblock.has_compat(compat::HAS_JOURNAL) && superblock.has_incompat(incompat::RECOVER) => {
            Ok(superblock)
        }
        _ => Superblock::parse_mended(&mut bytes).map(|(superblock, _)| superblock).map_err(|_| error),
    }
}

/// Finds a sound copy of the superblock at one of the default places, and the block it lies in.
fn find_copy(device: &SharedDevice) -> Result<Option<(Superblock, u64)>> {
    for &(block, block_size) in COPIES {
        let Some(bytes) = read_superblock(device, block * block_size)? else { continue };
        let Ok(superblock) = Superblock::parse(&bytes) else { continue };
        let is_here = u64::from(superblock.block_size) == block_size
            && superblock.block_group > 0
            && superblock.group_first_block(u32::from(superblock.block_group)) == block;
        if is_here {
            return Ok(Some((superblock, block)));
        }
    }
    Ok(None)
}

/// Opens a filesystem; returns it with what it is.
///
/// # Errors
/// As [`Ext4::open`](super::Ext4::open).
pub(super) fn open(device: SharedDevice, options: &FsOptions) -> Result<(Volume, FsInfo)> {
    let primary = read_primary(&device).and_then(|superblock| {
        let base = superblock.primary_block();
        open_by(device.clone(), superblock, base, Vec::new(), options)
    });
    let error = match primary {
        Ok(opened) => return Ok(opened),
        Err(error @ Error::Unsupported(_)) => return Err(error),
        Err(error) => error,
    };
    match find_copy(&device)? {
        // What is wrong lies elsewhere where the primary one is sound.
        Some((superblock, base))
            if read_superblock(&device, SUPERBLOCK_OFFSET)?.is_some_and(|bytes| Superblock::parse(&bytes).is_err()) =>
        {
            let warnings = vec![format!("{error}; its copy in block {base} is used")];
            open_by(device, superblock, base, warnings, options)
        }
        _ => Err(error),
    }
}

/// Opens a filesystem by a superblock, which lies in block `base`.
fn open_by(
    device: SharedDevice,
    superblock: Superblock,
    base: u64,
    mut warnings: Vec<String>,
    options: &FsOptions,
) -> Result<(Volume, FsInfo)> {
    features::check_readable(superblock.incompat)?;
    // As the kernel, which refuses it too: what lies past the end cannot be told from damage.
    if device.size() < superblock.blocks_count.saturating_mul(u64::from(superblock.block_size)) {
        return Err(Error::corrupt(
            "ext4 superblock",
            format!(
                "the filesystem has {} blocks of {} bytes, more than its device of {} bytes holds: the image is truncated",
                superblock.blocks_count,
                superblock.block_size,
                device.size()
            ),
        ));
    }
    let meta = Meta::new(device, superblock.block_size, Overlay::new(), &options.cache);
    let mut volume = Volume::new(superblock, meta, base, &options.cache);
    if volume.superblock.has_incompat(incompat::RECOVER) {
        volume = replay_journal(volume, base, options, &mut warnings)?;
    }
    let superblock = &volume.superblock;
    if superblock.state & STATE_ERRORS != 0 {
        warnings.push("the filesystem is marked as having errors; e2fsck would look for them".into());
    }
    let info = FsInfo {
        kind: features::kind(superblock.compat, superblock.incompat, superblock.ro_compat),
        label: superblock.label(),
        uuid: (superblock.uuid != [0; 16]).then(|| bytes::uuid(&superblock.uuid)),
        block_size: superblock.block_size,
        warnings,
    };
    Ok((volume, info))
}

/// Lays what the journal holds over a filesystem that was not unmounted cleanly.
fn replay_journal(volume: Volume, base: u64, options: &FsOptions, warnings: &mut Vec<String>) -> Result<Volume> {
    let superblock = &volume.superblock;
    if !superblock.has_compat(compat::HAS_JOURNAL) {
        return Err(Error::corrupt("ext4 superblock", "a journal is to be replayed, but there is none"));
    }
    if superblock.journal_inode == 0 {
        return Err(Error::unsupported(
            "replaying a journal on another device: mount it once where both devices are, or run e2fsck",
        ));
    }
    let journal = Journal::open(&volume, superblock.journal_inode)?;
    let replayed = replay::replay(&volume, &journal)?;
    let has_fast_commits = journal.superblock.has(INCOMPAT_FAST_COMMIT) && journal.superblock.start != 0;
    let device = Arc::clone(volume.meta.device());
    let block_size = volume.superblock.block_size;
    drop(volume);
    let meta = Meta::new(device, block_size, replayed.overlay, &options.cache);
    let bytes = if base <= 1 { meta.superblock()? } else { meta.block(base)?.to_vec() };
    let mut bytes = bytes.first_chunk::<SUPERBLOCK_SIZE>().copied().expect("no block is smaller");
    let (superblock, _) = Superblock::parse_mended(&mut bytes)?;
    if superblock.block_size != block_size {
        return Err(Error::corrupt("ext4 superblock", "the journal holds one with another block size"));
    }
    features::check_readable(superblock.incompat)?;
    let mut volume = Volume::new(superblock, meta, base, &options.cache);
    if has_fast_commits {
        volume.fast_commits = fast_commit::replay(&volume, &journal, replayed.next_sequence)?;
    }
    match (replayed.transactions, volume.fast_commits.tags) {
        (0, 0) => {}
        (transactions, 0) => warnings.push(format!(
            "it was not unmounted cleanly; {transactions} transactions of its journal were replayed in memory"
        )),
        (transactions, tags) => warnings.push(format!(
            "it was not unmounted cleanly; {transactions} transactions and {tags} fast commit records of its journal were \
             replayed in memory"
        )),
    }
    Ok(volume)
}
