//! What a device is part of, or wrapped in: RAID, LVM, LUKS, BitLocker, bcache.

use super::reader::Reader;
use super::{Identity, Usage};
use crate::bytes::{be16, be32, le16, le32, le64, set_le32, until_nul};

/// The signature of bcache, which early bcachefs shared.
pub const BCACHE_MAGIC: [u8; 16] =
    [0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca, 0x82, 0x65, 0xf5, 0x7f, 0x48, 0xba, 0x6d, 0x81];

/// The signature of Linux software RAID.
const MD_MAGIC: u32 = 0xa92b_4efc;

/// Returns the CRC-32 of `bytes` from the state `seed`, with no final inversion.
pub fn raw_crc32(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!seed);
    hasher.update(bytes);
    !hasher.finalize()
}

/// Linux software RAID: a superblock of version 1 at the end, the beginning or 4 KiB, or of version 0.90 at the end.
pub fn linux_raid(reader: &Reader<'_>) -> Option<Identity> {
    let sectors = reader.size() / 512;
    let end = (sectors.saturating_sub(16) & !7) * 512;
    [(end, "1.0"), (0, "1.1"), (4096, "1.2")]
        .into_iter()
        .find_map(|(offset, version)| raid_1(reader, offset, version))
        .or_else(|| raid_0(reader))
}

fn raid_1(reader: &Reader<'_>, offset: u64, version: &str) -> Option<Identity> {
    const CHECKSUM_OFFSET: usize = 216;
    let header = reader.read(offset, 256)?;
    let roles = le32(&header, 220) as usize;
    if le32(&header, 0) != MD_MAGIC || le32(&header, 4) != 1 || le64(&header, 144) != offset / 512 || roles > 1920 {
        return None;
    }
    let mut covered = reader.read(offset, 256 + 2 * roles)?;
    set_le32(&mut covered, CHECKSUM_OFFSET, 0);
    (raid_checksum(&covered) == le32(&header, CHECKSUM_OFFSET)).then(|| {
        Identity::new("linux_raid_member", Usage::Raid).uuid(&header, 16).label(&header[32..64]).version(version)
    })
}

fn raid_0(reader: &Reader<'_>) -> Option<Identity> {
    const CHECKSUM_OFFSET: usize = 38 * 4;
    let offset = (reader.size() / 65536).checked_sub(1)? * 65536;
    let mut bytes = reader.read(offset, 4096)?;
    if le32(&bytes, 0) != MD_MAGIC || le32(&bytes, 4) != 0 {
        return None;
    }
    let checksum = le32(&bytes, CHECKSUM_OFFSET);
    set_le32(&mut bytes, CHECKSUM_OFFSET, 0);
    if raid_checksum(&bytes) != checksum {
        return None;
    }
    // The UUID is four numbers in the byte order of the machine.
    let mut uuid = [0; 16];
    for (at, word) in [5, 13, 14, 15].into_iter().enumerate() {
        uuid[at * 4..at * 4 + 4].copy_from_slice(&le32(&bytes, word * 4).to_be_bytes());
    }
    let version = format!("0.{}.{}", le32(&bytes, 8), le32(&bytes, 12));
    Some(Identity::new("linux_raid_member", Usage::Raid).uuid(&uuid, 0).version(version))
}

/// Adds up 32-bit words, with a last half word where there is one, and folds what carries over.
fn raid_checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut sum: u64 = words.map(|word| u64::from(le32(word, 0))).sum();
    if rest.len() == 2 {
        sum += u64::from(le16(rest, 0));
    }
    (sum as u32).wrapping_add((sum >> 32) as u32)
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
    /// What the checksum of a label starts from.
    const SEED: u32 = 0xf597_a6cf;
    for sector in 0..4 {
        let Some(bytes) = reader.read(sector * 512, 512) else { break };
        if !bytes.starts_with(b"LABELONE") || bytes[24..32] != *b"LVM2 001" || le64(&bytes, 8) != sector {
            continue;
        }
        let header = le32(&bytes, 20) as usize;
        if raw_crc32(SEED, &bytes[20..]) != le32(&bytes, 16) || !(32..=480).contains(&header) {
            continue;
        }
        let id = String::from_utf8_lossy(&bytes[header..header + 32]).into_owned();
        let uuid = id.is_ascii().then(|| {
            let groups = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
            groups.map(|group| &id[group]).join("-")
        });
        let identity = Identity::new("LVM2_member", Usage::Volume).version("LVM2 001");
        return Some(identity.serial(uuid.unwrap_or_default()));
    }
    None
}

/// A volume of LUKS 1 or 2. The second header of version 2 does when the first is gone.
pub fn luks(reader: &Reader<'_>) -> Option<Identity> {
    let second = (14..=22).map(|shift| (1 << shift, b"SKUL\xba\xbe"));
    let (offset, _) = std::iter::once((0, b"LUKS\xba\xbe")).chain(second).find(|&(at, magic)| reader.has(at, magic))?;
    let bytes = reader.read(offset, 592)?;
    let version = be16(&bytes, 6);
    let uuid = String::from_utf8_lossy(until_nul(&bytes[168..208])).into_owned();
    let identity = Identity::new("crypto_LUKS", Usage::Crypto).serial(uuid).version(version.to_string());
    Some(if version == 2 { identity.label(&bytes[24..72]) } else { identity })
}

/// A volume of BitLocker: on a fixed disk, or on a stick, which looks like FAT to those who do not know it.
pub fn bitlocker(reader: &Reader<'_>) -> Option<Identity> {
    const TO_GO: [u8; 16] =
        [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];
    const SIGNATURE: &[u8; 8] = b"-FVE-FS-";
    let is_stick = reader.has(3, b"MSWIN4.1") && reader.has(424, &TO_GO);
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
