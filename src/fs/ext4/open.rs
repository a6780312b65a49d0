//! Opening: which superblock, which journal, and what there is to say about it.

use super::features::{self, compat, incompat};
use super::meta::{Meta, Overlay};
use super::superblock::{self, MAGIC, STATE_ERRORS, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock};
use super::volume::Volume;
use crate::block::SharedDevice;
use crate::bytes::{self, le16, le32};
use crate::error::{Error, Result};
use crate::fs::{FsInfo, FsOptions};

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

/// Finds a superblock that is sound: the primary one, or a copy at one of the default places. Returns it with the block it
/// lies in, and what is wrong with the primary one.
fn find_superblock(device: &SharedDevice) -> Result<(Superblock, u64, Option<String>)> {
    let primary = match read_superblock(device, SUPERBLOCK_OFFSET)? {
        Some(bytes) => Superblock::parse(&bytes),
        None => Err(Error::NotAnImage("no ext2, ext3 or ext4 filesystem: the device is too small".into())),
    };
    let error = match primary {
        Ok(superblock) => {
            let block = superblock.primary_block();
            return Ok((superblock, block, None));
        }
        Err(error @ Error::Unsupported(_)) => return Err(error),
        Err(error) => error,
    };
    for &(block, block_size) in COPIES {
        let Some(bytes) = read_superblock(device, block * block_size)? else { continue };
        let Ok(superblock) = Superblock::parse(&bytes) else { continue };
        let is_here = u64::from(superblock.block_size) == block_size
            && superblock.block_group > 0
            && superblock.group_first_block(u32::from(superblock.block_group)) == block;
        if is_here {
            return Ok((superblock, block, Some(error.to_string())));
        }
    }
    Err(error)
}

/// Opens a filesystem; returns it with what it is.
///
/// # Errors
/// As [`Ext4::open`](super::Ext4::open).
pub(super) fn open(device: SharedDevice, options: &FsOptions) -> Result<(Volume, FsInfo)> {
    let (superblock, base, damage) = find_superblock(&device)?;
    features::check_readable(superblock.incompat)?;
    let mut warnings = Vec::new();
    if let Some(damage) = damage {
        warnings.push(format!("{damage}; its copy in block {base} is used"));
    }
    let info = FsInfo {
        kind: features::kind(superblock.compat, superblock.incompat, superblock.ro_compat),
        label: superblock.label(),
        uuid: (superblock.uuid != [0; 16]).then(|| bytes::uuid(&superblock.uuid)),
        block_size: superblock.block_size,
        warnings,
    };
    let meta = Meta::new(device, superblock.block_size, Overlay::new(), &options.cache);
    let volume = Volume::new(superblock, meta, base, &options.cache);
    Ok((volume, info))
}
