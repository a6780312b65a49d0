//! Tells a partition table from the boot sector of a filesystem that lies on the bare disk.
//!
//! Both end in the same signature. A filesystem's boot code or messages lie where a table has its entries, so the entries
//! seldom make sense; where they do, and lie within the disk after the sector itself, the table is believed, as Linux
//! believes it.

use super::mbr::{BootRecord, Entry, RECORD_SIZE};
use crate::block::BlockDevice;
use crate::bytes::{le16, le32};

/// Says whether a disk whose first sector is `sector`, with the boot record `record`, holds a filesystem and no table.
pub fn is_bare(disk: &dyn BlockDevice, sector: &[u8], record: &BootRecord, sector_size: u32) -> bool {
    if !record.is_partition_table() {
        return true;
    }
    let has_filesystem = is_boot_sector(sector) || has_ext_superblock(disk);
    has_filesystem && !is_plausible(record, disk.size() / u64::from(sector_size))
}

/// Says whether the disk holds an ISO 9660 filesystem. Images that boot from a disc and from a stick have both that and a
/// partition table.
pub fn has_iso9660(disk: &dyn BlockDevice) -> bool {
    let mut bytes = [0; 5];
    disk.read_at(&mut bytes, 0x8001).is_ok() && &bytes == b"CD001"
}

/// Says whether used entries lie on the disk after the sector that holds them, and none is cut by another.
fn is_plausible(record: &BootRecord, sectors: u64) -> bool {
    let used: Vec<&Entry> = record.entries.iter().filter(|entry| entry.is_used()).collect();
    let range = |entry: &Entry| (u64::from(entry.start), u64::from(entry.start) + u64::from(entry.count));
    let fits = |entry: &Entry| entry.type_byte != 0 && entry.start > 0 && range(entry).1 <= sectors;
    let overlaps = |one: &Entry, other: &Entry| range(one).0 < range(other).1 && range(other).0 < range(one).1;
    !used.is_empty()
        && used.iter().all(|entry| fits(entry))
        && used.iter().enumerate().all(|(at, one)| used[at + 1..].iter().all(|other| !overlaps(one, other)))
}

/// Says whether a sector is the boot sector of FAT, exFAT, NTFS or HPFS.
fn is_boot_sector(sector: &[u8]) -> bool {
    debug_assert!(sector.len() >= RECORD_SIZE);
    matches!(&sector[3..11], b"NTFS    " | b"EXFAT   ") || is_fat_boot_sector(sector)
}

/// Says whether the BIOS parameter block of a sector is one of FAT.
fn is_fat_boot_sector(sector: &[u8]) -> bool {
    let sector_size = le16(sector, 11);
    let (cluster, reserved, fats, media) = (sector[13], le16(sector, 14), sector[16], sector[21]);
    matches!(sector[0], 0xeb | 0xe9)
        && sector_size.is_power_of_two()
        && (512..=4096).contains(&sector_size)
        && cluster.is_power_of_two()
        && reserved != 0
        && (1..=4).contains(&fats)
        && (media == 0xf0 || media >= 0xf8)
}

/// Says whether the superblock of ext2, ext3 or ext4 lies where it does on a bare disk.
fn has_ext_superblock(disk: &dyn BlockDevice) -> bool {
    let mut bytes = [0; 128];
    disk.read_at(&mut bytes, 1024).is_ok() && le16(&bytes, 0x38) == 0xef53 && le32(&bytes, 0x18) <= 6
}
