//! The boot sector: where everything lies.
//!
//! There is no signature that counts. The fields are those of the BIOS parameter block; which of the three formats it is
//! follows from them: FAT32 where the 16-bit length of a table is zero, otherwise FAT12 or FAT16 by the number of
//! clusters.

use super::entry::ENTRY_SIZE;
use crate::bytes::{le16, le32};
use crate::error::{Error, Result};

/// The part of the boot sector that has fields, in bytes.
pub const BOOT_SIZE: usize = 512;

/// The number of the first cluster; the table's first two entries mean something else.
pub const FIRST_CLUSTER: u32 = 2;

/// The most clusters that a FAT12 may have.
const MAX_CLUSTERS_12: u64 = 0xff4;

/// The most clusters that a FAT16 may have.
const MAX_CLUSTERS_16: u64 = 0xfff4;

/// The most clusters that a FAT32 may have.
const MAX_CLUSTERS_32: u64 = 0x0fff_fff4;

/// How wide the table's entries are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 12 bits.
    Fat12,
    /// 16 bits.
    Fat16,
    /// 32 bits, of which 28 count.
    Fat32,
}

impl Width {
    /// Returns the width, in bits.
    pub fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// Where a directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a place of its own, as the root of FAT12 and FAT16 does.
    Fixed {
        /// Where it begins on the device.
        offset: u64,
        /// How long it is.
        len: u64,
    },
    /// In a chain of clusters that begins with this one.
    Chain(u32),
}

/// What the boot sector says, checked. Offsets and lengths are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// How wide the table's entries are.
    pub width: Width,
    /// The size of a cluster.
    pub cluster_size: u32,
    /// How many clusters there are.
    pub clusters: u32,
    /// Where the table that counts begins.
    pub table_offset: u64,
    /// How long a table is.
    pub table_len: u64,
    /// Where the root directory lies.
    pub root: Place,
    /// Where the first cluster lies.
    pub data_offset: u64,
    /// Where the filesystem ends.
    pub end: u64,
    /// Where the sector with the count of free clusters lies, in FAT32.
    pub fs_info_offset: Option<u64>,
    /// The serial number; 0 where there is none.
    pub serial: u32,
    /// The label as the boot sector has it, which the root directory's overrides.
    pub label: Option<[u8; 11]>,
    /// Whether it was not unmounted as it should have been.
    pub is_dirty: bool,
}

impl Boot {
    /// Parses the device's first [`BOOT_SIZE`] bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the fields make no sense, alone or together.
    pub fn parse(bytes: &[u8; BOOT_SIZE]) -> Result<Self> {
        let damaged = |detail: String| Err(Error::corrupt("boot sector", detail));
        let sector_size = u64::from(le16(bytes, 11));
        let cluster_sectors = u64::from(bytes[13]);
        let reserved = u64::from(le16(bytes, 14));
        let tables = u64::from(bytes[16]);
        let root_entries = u64::from(le16(bytes, 17));
        if !sector_size.is_power_of_two() || !(512..=4096).contains(&sector_size) {
            return damaged(format!("sectors of {sector_size} bytes"));
        }
        if !cluster_sectors.is_power_of_two() {
            return damaged(format!("clusters of {cluster_sectors} sectors"));
        }
        if reserved == 0 || tables == 0 {
            return damaged(format!("{reserved} reserved sectors and {tables} tables"));
        }
        let is_32 = le16(bytes, 22) == 0;
        let table_sectors = if is_32 { u64::from(le32(bytes, 36)) } else { u64::from(le16(bytes, 22)) };
        let total = if le16(bytes, 19) != 0 { u64::from(le16(bytes, 19)) } else { u64::from(le32(bytes, 32)) };
        let root_at = reserved + tables * table_sectors;
        let root_sectors = (root_entries * ENTRY_SIZE as u64).div_ceil(sector_size);
        let data_at = root_at + root_sectors;
        let Some(clusters) = total.checked_sub(data_at).map(|sectors| sectors / cluster_sectors) else {
            return damaged(format!("{total} sectors in all, {data_at} of them before the first cluster"));
        };
        let width = match clusters {
            ..=MAX_CLUSTERS_32 if is_32 => Width::Fat32,
            ..=MAX_CLUSTERS_12 if !is_32 => Width::Fat12,
            ..=MAX_CLUSTERS_16 if !is_32 => Width::Fat16,
            _ => return damaged(format!("{clusters} clusters")),
        };
        // A table may be too short for all the clusters that would have room; those are not there then.
        let in_table = table_sectors * sector_size * 8 / width.bits();
        let clusters = clusters.min(in_table.saturating_sub(u64::from(FIRST_CLUSTER)));
        if clusters == 0 {
            return damaged("no cluster".into());
        }
        let root = if is_32 {
            Place::Chain(le32(bytes, 44) & 0x0fff_ffff)
        } else if root_entries > 0 {
            Place::Fixed { offset: root_at * sector_size, len: root_entries * ENTRY_SIZE as u64 }
        } else {
            return damaged("a root directory without entries".into());
        };
        let active = if is_32 { active_table(le16(bytes, 40), tables) } else { 0 };
        let fs_info = u64::from(le16(bytes, 48));
        let has_fs_info = is_32 && fs_info != 0 && fs_info < reserved;
        let extended = if is_32 { 64 } else { 36 };
        let signature = bytes[extended + 2];
        Ok(Self {
            width,
            cluster_size: (cluster_sectors * sector_size) as u32,
            clusters: clusters as u32,
            table_offset: (reserved + active * table_sectors) * sector_size,
            table_len: table_sectors * sector_size,
            root,
            data_offset: data_at * sector_size,
            end: total * sector_size,
            fs_info_offset: has_fs_info.then(|| fs_info * sector_size),
            serial: if is_32 || matches!(signature, 0x28 | 0x29) { le32(bytes, extended + 3) } else { 0 },
            label: (is_32 || signature == 0x29).then(|| {
                let mut label = [0; 11];
                label.copy_from_slice(&bytes[extended + 7..extended + 18]);
                label
            }),
            is_dirty: bytes[extended + 1] & 1 != 0,
        })
    }

    /// Says whether a cluster is one of the filesystem's.
    pub fn has_cluster(&self, cluster: u32) -> bool {
        cluster >= FIRST_CLUSTER && cluster - FIRST_CLUSTER < self.clusters
    }

    /// Returns where a cluster lies, in bytes. The cluster is one of the filesystem's.
    pub fn cluster_offset(&self, cluster: u32) -> u64 {
        debug_assert!(self.has_cluster(cluster));
        self.data_offset + u64::from(cluster - FIRST_CLUSTER) * u64::from(self.cluster_size)
    }

    /// Returns the cluster that holds the byte at `offset` of the device.
    pub fn cluster_at(&self, offset: u64) -> Option<u32> {
        let index = offset.checked_sub(self.data_offset)? / u64::from(self.cluster_size);
        (index < u64::from(self.clusters)).then(|| FIRST_CLUSTER + index as u32)
    }

    /// Returns the serial number as `blkid` shows it.
    pub fn uuid(&self) -> Option<String> {
        (self.serial != 0).then(|| format!("{:04X}-{:04X}", self.serial >> 16, self.serial & 0xffff))
    }
}

/// Returns which table counts: the first, unless the flags of FAT32 say that tables are not kept alike.
fn active_table(flags: u16, tables: u64) -> u64 {
    const NOT_MIRRORED: u16 = 0x80;
    let active = u64::from(flags & 0xf);
    if flags & NOT_MIRRORED != 0 && active < tables { active } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{set_le16, set_le32};

    fn sector() -> [u8; BOOT_SIZE] {
        let mut bytes = [0; BOOT_SIZE];
        set_le16(&mut bytes, 11, 512);
        bytes[13] = 4;
        set_le16(&mut bytes, 14, 1);
        bytes[16] = 2;
        set_le16(&mut bytes, 17, 512);
        set_le16(&mut bytes, 22, 64);
        set_le32(&mut bytes, 32, 65536);
        bytes
    }

    #[test]
    fn the_width_follows_from_the_number_of_clusters() {
        let mut bytes = sector();
        let boot = Boot::parse(&bytes).expect("is right");
        assert_eq!((boot.width, boot.clusters), (Width::Fat16, (65536 - 1 - 128 - 32) / 4));
        assert_eq!(boot.root, Place::Fixed { offset: 129 * 512, len: 512 * 32 });
        assert_eq!(boot.cluster_at(boot.cluster_offset(77) + 2047), Some(77));
        set_le32(&mut bytes, 32, 161 + 4 * 0xff4);
        assert_eq!(Boot::parse(&bytes).expect("is right").width, Width::Fat12);
        set_le32(&mut bytes, 32, 161 + 4 * 0xff5);
        assert_eq!(Boot::parse(&bytes).expect("is right").width, Width::Fat16);
    }

    #[test]
    fn a_table_that_is_not_mirrored_may_be_another_than_the_first() {
        assert_eq!(active_table(0, 2), 0);
        assert_eq!(active_table(1, 2), 0);
        assert_eq!(active_table(0x81, 2), 1);
        assert_eq!(active_table(0x82, 2), 0);
    }

    #[test]
    fn fields_that_make_no_sense_are_told_of() {
        let change: [fn(&mut [u8; BOOT_SIZE]); 7] = [
            |bytes| set_le16(bytes, 11, 513),
            |bytes| bytes[13] = 0,
            |bytes| bytes[16] = 0,
            |bytes| set_le16(bytes, 14, 0),
            |bytes| set_le16(bytes, 17, 0),
            |bytes| set_le32(bytes, 32, 10),
            |bytes| set_le32(bytes, 32, u32::MAX),
        ];
        for change in change {
            let mut bytes = sector();
            change(&mut bytes);
            assert!(matches!(Boot::parse(&bytes), Err(Error::Corrupt { .. })));
        }
    }
}
