//! What a device is part of, or wrapped in: RAID, LVM, LUKS, BitLocker, bcache.

use super::reader::Reader;
use super::{Identity, Usage};
use crate::block::BlockDevice;
use crate::bytes::{be32, le16, le64, until_nul};
use crate::volume::bitlocker::{ENCRYPTED, SIGNATURE};
use crate::volume::luks::Label;
use crate::volume::{ArrayMember, BCACHE_MAGIC, array_member, physical_volume};

/// Returns the CRC-32 of `bytes` from the state `seed`, with no final inversion.
pub fn raw_crc32(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!seed);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Linux software RAID: a superblock of version 1 at the end, the beginning or 4 KiB, or of version 0.90 at the end.
pub fn linux_raid(reader: &Reader<'_>) -> Option<Identity> {
    let ArrayMember { uuid, name, version } = array_member(reader)?;
    let identity = Identity::new("linux_raid_member", Usage::Raid).uuid(&uuid, 0).version(version);
    Some(identity.label(name.unwrap_or_default().as_bytes()))
}

/// RAID of a mainboard's firmware: Intel's, and the common format of others. The anchor lies in the last sectors.
pub fn firmware_raid(reader: &Reader<'_>) -> Option<Identity> {
    let last = (reader.size() / 512).checked_sub(1)? * 512;
    let intel = last.checked_sub(512).and_then(|anchor| reader.read(anchor, 30));
    if let Some(anchor) = intel.filter(|anchor| anchor.starts_with(b"Intel Raid ISM Cfg Sig. ")) {
        let version = String::from_utf8_lossy(until_nul(&anchor[24..]));
        return Some(Identity::new("isw_raid_member", Usage::Raid).version(version));
    }
    reader.has(last, &0xde11_de11_u32.to_be_bytes()).then(|| Identity::new("ddf_raid_member", Usage::Raid))
}

/// A physical volume of LVM 2: a label in one of the first four sectors.
pub fn lvm(reader: &Reader<'_>) -> Option<Identity> {
    Some(Identity::new("LVM2_member", Usage::Volume).version("LVM2 001").serial(physical_volume(reader)?))
}

/// A volume of LUKS 1 or 2. The second header of version 2 does when the first is gone.
pub fn luks(reader: &Reader<'_>) -> Option<Identity> {
    let Label { version, uuid, label } = Label::find(reader)?;
    Some(Identity::new("crypto_LUKS", Usage::Crypto).serial(uuid).version(version.to_string()).label(&label))
}

/// A volume of BitLocker: on a fixed disk, or on a stick, which looks like FAT to those who do not know it.
pub fn bitlocker(reader: &Reader<'_>) -> Option<Identity> {
    let is_stick = reader.has(3, b"MSWIN4.1") && reader.has(424, &ENCRYPTED);
    if !reader.has(3, SIGNATURE) && !is_stick {
        return None;
    }
    let identity = Identity::new("BitLocker", Usage::Crypto);
    // Behind the volume's GUID stands where the first metadata lie, which tell the version.
    let metadata = reader.read(if is_stick { 440 } else { 176 }, 8).and_then(|at| reader.read(le64(&at, 0), 12));
    Some(match metadata.filter(|metadata| metadata.starts_with(SIGNATURE)) {
        Some(metadata) => identity.version(le16(&metadata, 10).to_string()),
        None => identity,
    })
}

/// A device of bcache: the superblock at 4 KiB.
pub fn bcache(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(4096, 256)?;
    // The superblock names its own sector; the versions end at 6.
    let is_credible = bytes[24..40] == BCACHE_MAGIC && le64(&bytes, 8) == 8 && le64(&bytes, 16) <= 6;
    is_credible.then(|| Identity::new("bcache", Usage::Other).uuid(&bytes, 40).label(&bytes[72..104]))
}

/// Returns the pairs of an XDR list of names and values, as type, name and the value's bytes, until one makes no sense.
pub fn name_value_pairs(mut bytes: &[u8]) -> Vec<(u32, &[u8], &[u8])> {
    let mut pairs = Vec::new();
    while bytes.len() >= 12 {
        let (size, name_len) = (be32(bytes, 0) as usize, be32(bytes, 8) as usize);
        let value_at = name_len.checked_next_multiple_of(4).and_then(|padded| padded.checked_add(12 + 8));
        let Some(value_at) = value_at.filter(|&at| at <= size && size <= bytes.len()) else { break };
        let type_code = be32(bytes, value_at - 8);
        pairs.push((type_code, &bytes[12..12 + name_len], &bytes[value_at..size]));
        bytes = &bytes[size..];
    }
    pairs
}
