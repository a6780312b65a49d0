//! The superblock of a member: versions 1.0 (at the end), 1.1 (at the beginning), 1.2 (at 4 KiB) and 0.90 (in the last
//! 64 KiB).
//!
//! Numbers of version 1 are little-endian; those of 0.90 have the byte order of the machine that made it, and only
//! little-endian ones are read. Specified by `include/uapi/linux/raid/md_p.h` of Linux.

use crate::block::BlockDevice;
use crate::bytes::{le16, le32, le64, set_le32, until_nul};

const MAGIC: u32 = 0xa92b_4efc;
const SECTOR: u64 = 512;

/// The most members that an array may have; superblocks of version 1 have no room for more roles.
const MAX_ROLES: usize = 1920;

/// What a member is in its array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The member of this number.
    Active(u32),
    /// Waits to take the place of another.
    Spare,
    /// Was taken out.
    Faulty,
    /// Holds the journal of the array.
    Journal,
}

/// A superblock, of whatever version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The version: `1.2`.
    pub version: &'static str,
    /// The version with all its numbers, as blkid shows it: `0.90.0`.
    pub full_version: String,
    /// The array's UUID.
    pub uuid: [u8; 16],
    /// The name of version 1: `host:name`.
    pub name: Option<String>,
    /// The number that version 0.90 would be given: `/dev/md0`.
    pub minor: Option<u32>,
    /// The level: -1 linear, 0, 1, 4, 5, 6, 10, and others that are refused by their numbers.
    pub level: i32,
    /// The layout, by the level.
    pub layout: u32,
    /// The chunk, in bytes; 0 for none.
    pub chunk: u64,
    /// How many members the array has.
    pub devices: u32,
    /// How much of a member the array uses, in bytes; 0 where all.
    pub used: u64,
    /// Where the member's data begin, in bytes.
    pub data_start: u64,
    /// How many bytes of data the member has.
    pub data_size: u64,
    /// How often the array was changed.
    pub events: u64,
    /// Whether all copies and parities agree.
    pub in_sync: bool,
    /// Whether the array is being reshaped.
    pub reshaping: bool,
    /// Whether writes may lie in a journal alone.
    pub journaled: bool,
    /// How far the member has been rebuilt, in bytes; none where it is whole.
    pub recovered: Option<u64>,
    /// The member's number among all that there have been.
    pub number: u32,
    /// The roles by that number.
    pub roles: Vec<Role>,
    /// Where the list of the member's bad blocks lies and how long it is, in bytes; none where there is none.
    pub bad_blocks: Option<(u64, usize)>,
    /// By how many bits the list's sectors are shifted.
    pub bad_block_shift: u8,
}

impl Superblock {
    /// Finds the superblock of a device; `None` where it has none, or cannot be read.
    pub(crate) fn find(device: &dyn BlockDevice) -> Option<Self> {
        let sectors = device.size() / SECTOR;
        [(sectors.saturating_sub(16) & !7, "1.0"), (0, "1.1"), (8, "1.2")]
            .into_iter()
            .find_map(|(sector, version)| Self::read_1(device, sector, version))
            .or_else(|| Self::read_0(device))
    }

    fn read_1(device: &dyn BlockDevice, sector: u64, version: &'static str) -> Option<Self> {
        const HEADER: usize = 256;
        const CHECKSUM_OFFSET: usize = 216;
        let mut bytes = read(device, sector * SECTOR, HEADER)?;
        if le32(&bytes, 0) != MAGIC || le32(&bytes, 4) != 1 || le64(&bytes, 144) != sector {
            return None;
        }
        let count = le32(&bytes, 220) as usize;
        if count > MAX_ROLES {
            return None;
        }
        bytes = read(device, sector * SECTOR, HEADER + 2 * count)?;
        let stored = le32(&bytes, CHECKSUM_OFFSET);
        set_le32(&mut bytes, CHECKSUM_OFFSET, 0);
        if checksum(&bytes) != stored && !cfg!(fuzzing) {
            return None;
        }
        let features = le32(&bytes, 8);
        let roles = bytes[HEADER..].chunks_exact(2).map(|role| match le16(role, 0) {
            0xffff => Role::Spare,
            0xfffe => Role::Faulty,
            0xfffd => Role::Journal,
            role => Role::Active(u32::from(role)),
        });
        let in_bytes = |offset: usize| le64(&bytes, offset).saturating_mul(SECTOR);
        let bad_block_sectors = usize::from(le16(&bytes, 186));
        let bad_block_start = (sector as i64).checked_add(i64::from(le32(&bytes, 188) as i32))?;
        Some(Self {
            version,
            full_version: version.to_owned(),
            uuid: bytes[16..32].try_into().expect("16 bytes"),
            name: Some(String::from_utf8_lossy(until_nul(&bytes[32..64])).into_owned()).filter(|name| !name.is_empty()),
            minor: None,
            level: le32(&bytes, 72) as i32,
            layout: le32(&bytes, 76),
            chunk: u64::from(le32(&bytes, 88)) * SECTOR,
            devices: le32(&bytes, 92),
            used: in_bytes(80),
            data_start: in_bytes(128),
            data_size: in_bytes(136),
            events: le64(&bytes, 200),
            in_sync: le64(&bytes, 208) == u64::MAX,
            reshaping: features & 4 != 0,
            journaled: features & 0x200 != 0,
            recovered: (features & 2 != 0).then(|| in_bytes(152)),
            number: le32(&bytes, 160),
            roles: roles.collect(),
            bad_blocks: (features & 8 != 0 && bad_block_sectors > 0 && bad_block_start >= 0)
                .then(|| (bad_block_start as u64 * SECTOR, bad_block_sectors.min(8) * SECTOR as usize)),
            bad_block_shift: bytes[185],
        })
    }

    fn read_0(device: &dyn BlockDevice) -> Option<Self> {
        const SIZE: usize = 4096;
        const CHECKSUM_OFFSET: usize = 38 * 4;
        const DISKS_WORD: usize = 128;
        const DISK_WORDS: usize = 32;
        const MAX_DISKS: usize = 27;
        let start = (device.size() / 65536).checked_sub(1)? * 65536;
        let mut bytes = read(device, start, SIZE)?;
        let word = |bytes: &[u8], index: usize| le32(bytes, index * 4);
        if word(&bytes, 0) != MAGIC || word(&bytes, 1) != 0 {
            return None;
        }
        let stored = le32(&bytes, CHECKSUM_OFFSET);
        set_le32(&mut bytes, CHECKSUM_OFFSET, 0);
        if checksum(&bytes) != stored && !cfg!(fuzzing) {
            return None;
        }
        let word = |index: usize| word(&bytes, index);
        let level = word(7) as i32;
        let used = u64::from(word(8)) * 1024;
        // The last partition of a disk ends where the disk does, and the superblock lies in both: it belongs to the one that
        // it has the size of.
        let slack = start.checked_sub(used)?;
        if level > 0 && slack > used.max(1 << 20) {
            return None;
        }
        let mut uuid = [0; 16];
        for (at, index) in [5, 13, 14, 15].into_iter().enumerate() {
            uuid[at * 4..at * 4 + 4].copy_from_slice(&word(index).to_be_bytes());
        }
        let role = |disk: usize| {
            let state = word(DISKS_WORD + disk * DISK_WORDS + 4);
            match state {
                state if state & 1 != 0 || state & 8 != 0 => Role::Faulty,
                state if state & 6 == 6 => Role::Active(word(DISKS_WORD + disk * DISK_WORDS + 3)),
                _ => Role::Spare,
            }
        };
        Some(Self {
            version: "0.90",
            full_version: format!("0.{}.{}", word(2), word(3)),
            uuid,
            name: None,
            minor: Some(word(11)),
            level,
            layout: word(64),
            chunk: u64::from(word(65)),
            devices: word(10),
            used: if level > 0 { used } else { 0 },
            data_start: 0,
            data_size: start,
            events: u64::from(word(40)) << 32 | u64::from(word(39)),
            in_sync: word(33) & 1 != 0,
            reshaping: word(2) > 90,
            journaled: false,
            recovered: None,
            number: word(992),
            roles: (0..MAX_DISKS).map(role).collect(),
            bad_blocks: None,
            bad_block_shift: 0,
        })
    }

    /// Returns the UUID as mdadm shows it.
    pub fn uuid_text(&self) -> String {
        let words = self.uuid.chunks_exact(4).map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect());
        words.collect::<Vec<String>>().join(":")
    }

    /// Returns the level as the kernel names it.
    pub fn level_name(&self) -> String {
        match self.level {
            -1 => "linear".into(),
            -4 => "multipath".into(),
            -5 => "faulty".into(),
            level => format!("raid{level}"),
        }
    }
}

fn read(device: &dyn BlockDevice, offset: u64, len: usize) -> Option<Vec<u8>> {
    offset.checked_add(len as u64).filter(|&end| end <= device.size())?;
    let mut bytes = vec![0; len];
    device.read_at(&mut bytes, offset).ok().map(|()| bytes)
}

/// Adds up 32-bit words, with a last half word where there is one, and folds what carries over.
fn checksum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(4);
    let rest = words.remainder();
    let mut sum: u64 = words.map(|word| u64::from(le32(word, 0))).sum();
    if rest.len() == 2 {
        sum += u64::from(le16(rest, 0));
    }
    (sum as u32).wrapping_add((sum >> 32) as u32)
}
