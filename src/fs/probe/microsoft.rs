//! The filesystems of DOS and Windows: FAT, exFAT, NTFS, ReFS.

use super::Identity;
use super::reader::{Reader, utf16_le};
use crate::bytes::{le16, le32, le64};

/// How many clusters of a root directory are searched for a label.
const MAX_CLUSTERS: usize = 100;

/// The size of a directory entry of FAT and exFAT, in bytes.
const ENTRY_SIZE: usize = 32;

/// FAT12, FAT16 and FAT32: the parameter block in the first sector, which has no signature but must be consistent.
pub fn fat(reader: &Reader<'_>) -> Option<Identity> {
    let boot = reader.read(0, 512)?;
    let (sector_size, cluster_sectors) = (u64::from(le16(&boot, 11)), u64::from(boot[13]));
    let (reserved, fats, media) = (u64::from(le16(&boot, 14)), u64::from(boot[16]), boot[21]);
    let named = boot[54..].starts_with(b"FAT") || boot[82..].starts_with(b"FAT32   ");
    let is_credible = (matches!(boot[0], 0xeb | 0xe9) || named)
        && sector_size.is_power_of_two()
        && (512..=4096).contains(&sector_size)
        && cluster_sectors.is_power_of_two()
        && reserved > 0
        && (1..=4).contains(&fats)
        && (media == 0xf0 || media >= 0xf8);
    if !is_credible {
        return None;
    }
    let (fat_16, fat_32) = (u64::from(le16(&boot, 22)), u64::from(le32(&boot, 36)));
    let (total_16, total_32) = (u64::from(le16(&boot, 19)), u64::from(le32(&boot, 32)));
    let is_32 = fat_16 == 0;
    let fat_sectors = if is_32 { fat_32 } else { fat_16 };
    let total = if total_16 != 0 { total_16 } else { total_32 };
    let root_entries = u64::from(le16(&boot, 17));
    let root_at = reserved + fats * fat_sectors;
    let data_at = root_at + (root_entries * ENTRY_SIZE as u64).div_ceil(sector_size);
    let clusters = total.checked_sub(data_at)? / cluster_sectors;
    if fat_sectors == 0 || clusters == 0 || (!is_32 && root_entries == 0) || (is_32 && clusters > 0x0fff_fff5) {
        return None;
    }
    let (version, extended) = match (is_32, clusters) {
        (true, _) => ("FAT32", 66),
        (false, ..=0xff4) => ("FAT12", 38),
        (false, ..=0xfff4) => ("FAT16", 38),
        (false, _) => return None,
    };
    let cluster_size = cluster_sectors * sector_size;
    let mut label = None;
    if is_32 {
        let mut cluster = le32(&boot, 44);
        for _ in 0..MAX_CLUSTERS {
            if !(2..clusters + 2).contains(&u64::from(cluster)) {
                break;
            }
            let at = data_at * sector_size + u64::from(cluster - 2) * cluster_size;
            label = fat_label(reader, at, cluster_size.min(65536) as usize);
            let next = reader.read(reserved * sector_size + u64::from(cluster) * 4, 4);
            match next {
                Some(next) if label.is_none() => cluster = le32(&next, 0) & 0x0fff_ffff,
                _ => break,
            }
        }
    } else {
        label = fat_label(reader, root_at * sector_size, (root_entries as usize * ENTRY_SIZE).min(65536));
    }
    let has_serial = is_32 || matches!(boot[extended], 0x28 | 0x29);
    let serial = le32(&boot, extended + 1);
    let has_label = is_32 || boot[extended] == 0x29;
    let boot_label = has_label.then(|| boot[extended + 5..extended + 16].to_vec());
    let mut identity = Identity::filesystem("vfat").version(version);
    if let Some(label) = label.or(boot_label).filter(|label| label != b"NO NAME    ") {
        identity = identity.label(&label);
    }
    if has_serial && serial != 0 {
        identity = identity.serial(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff));
    }
    Some(identity)
}

/// Finds the entry of the volume's label in a piece of the root directory.
fn fat_label(reader: &Reader<'_>, at: u64, len: usize) -> Option<Vec<u8>> {
    let bytes = reader.read(at, len)?;
    let entries = bytes.chunks_exact(ENTRY_SIZE).take_while(|entry| entry[0] != 0);
    let is_label = |entry: &&[u8]| {
        let attributes = entry[11] & 0x3f;
        entry[0] != 0xe5
            && attributes & 0x18 == 0x08
            && attributes != 0x0f
            && le16(entry, 26) == 0
            && le16(entry, 20) == 0
    };
    let mut label = entries.into_iter().find(is_label)?[..11].to_vec();
    if label[0] == 0x05 {
        label[0] = 0xe5;
    }
    Some(label)
}

/// exFAT: the boot sector, and the label in the root directory.
pub fn exfat(reader: &Reader<'_>) -> Option<Identity> {
    let boot = reader.read(0, 512)?;
    let (sector_shift, cluster_shift) = (boot[108], boot[109]);
    if boot[3..11] != *b"EXFAT   " || !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift {
        return None;
    }
    let sectors = |offset: usize| u64::from(le32(&boot, offset)) << sector_shift;
    let (fat_at, heap_at, clusters) = (sectors(80), sectors(88), le32(&boot, 92));
    let cluster_size = 1_u64 << (sector_shift + cluster_shift);
    let mut cluster = le32(&boot, 96);
    let mut label = None;
    for _ in 0..MAX_CLUSTERS {
        if cluster < 2 || cluster - 2 >= clusters || label.is_some() {
            break;
        }
        let at = heap_at + u64::from(cluster - 2) * cluster_size;
        // The label comes among the first entries; a large cluster need not be read whole.
        let bytes = reader.read(at, cluster_size.min(4096) as usize)?;
        let mut entries = bytes.chunks_exact(ENTRY_SIZE);
        label = entries.find(|entry| entry[0] == 0x83).map(|entry| {
            let len = usize::from(entry[1]).min(11);
            utf16_le(&entry[2..2 + 2 * len])
        });
        cluster = le32(&reader.read(fat_at + u64::from(cluster) * 4, 4)?, 0);
    }
    let serial = le32(&boot, 100);
    let version = format!("{}.{}", boot[105], boot[104]);
    let identity = Identity::filesystem("exfat").version(version).label(&label.unwrap_or_default());
    Some(identity.serial(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)))
}

/// NTFS: the boot sector, and the label in the master file table's fourth record.
pub fn ntfs(reader: &Reader<'_>) -> Option<Identity> {
    let boot = reader.read(0, 512)?;
    let sector_size = u64::from(le16(&boot, 11));
    let cluster_size = match boot[13] {
        sectors @ 1..=128 if sectors.is_power_of_two() => sector_size * u64::from(sectors),
        shift @ 0xf4.. => sector_size << (256 - u16::from(shift)),
        _ => return None,
    };
    let is_credible = boot[3..11] == *b"NTFS    "
        && sector_size.is_power_of_two()
        && (256..=4096).contains(&sector_size)
        && le16(&boot, 14) == 0
        && boot[16] == 0
        && le16(&boot, 22) == 0;
    if !is_credible {
        return None;
    }
    let identity = Identity::filesystem("ntfs").serial(format!("{:016X}", le64(&boot, 72)));
    let label = ntfs_label(reader, &boot, cluster_size).unwrap_or_default();
    Some(identity.label(&label))
}

fn ntfs_label(reader: &Reader<'_>, boot: &[u8], cluster_size: u64) -> Option<Vec<u8>> {
    const VOLUME_RECORD: u64 = 3;
    const VOLUME_NAME: u32 = 0x60;
    const END: u32 = 0xffff_ffff;
    let record_size = match boot[64] as i8 {
        clusters @ 1.. => cluster_size.checked_mul(clusters as u64)?,
        shift @ -31..=-1 => 1 << -shift,
        _ => return None,
    };
    if !(512..=65536).contains(&record_size) {
        return None;
    }
    let at = le64(boot, 48).checked_mul(cluster_size)?.checked_add(VOLUME_RECORD * record_size)?;
    let record = reader.read(at, record_size as usize)?;
    if !record.starts_with(b"FILE") {
        return None;
    }
    let mut rest = record.get(usize::from(le16(&record, 20))..)?;
    while rest.len() >= 24 {
        let (kind, len) = (le32(rest, 0), le32(rest, 4) as usize);
        if kind == END || len < 24 || len > rest.len() {
            break;
        }
        if kind == VOLUME_NAME && rest[8] == 0 {
            let (value_len, value_at) = (le32(rest, 16) as usize, usize::from(le16(rest, 20)));
            return rest[..len].get(value_at..value_at.checked_add(value_len)?).map(utf16_le);
        }
        rest = &rest[len..];
    }
    None
}

/// ReFS.
pub fn refs(reader: &Reader<'_>) -> Option<Identity> {
    reader.has(3, b"ReFS\0\0\0\0").then(|| Identity::filesystem("ReFS"))
}
