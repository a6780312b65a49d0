//! Chunks: where logical addresses lie on the devices, and how they are spread or copied.
//!
//! A chunk is a range of logical addresses with a profile and a list of stripes. Striped profiles go round the stripes in
//! units of 64 KiB. A [`Place`] is what one address comes to; reading copies and rebuilding from parity is `volume.rs`.
//! Specified in "On-disk Format" of the Btrfs documentation, item `CHUNK_ITEM`.

use super::key::{KEY_LEN, Key, kinds};
use crate::bytes::{le16, le64};
use crate::error::{Error, Result};

/// The unit in which striped profiles change devices, in bytes; there is no other.
pub const STRIPE_LEN: u64 = 64 << 10;

const HEADER: usize = 48;
const STRIPE: usize = 32;

/// The types of chunks and block groups, by bit.
pub mod types {
    /// Data.
    pub const DATA: u64 = 1;
    /// Metadata.
    pub const METADATA: u64 = 1 << 2;
    pub(super) const RAID0: u64 = 1 << 3;
    pub(super) const RAID1: u64 = 1 << 4;
    pub(super) const DUP: u64 = 1 << 5;
    pub(super) const RAID10: u64 = 1 << 6;
    pub(super) const RAID5: u64 = 1 << 7;
    pub(super) const RAID6: u64 = 1 << 8;
    pub(super) const RAID1C3: u64 = 1 << 9;
    pub(super) const RAID1C4: u64 = 1 << 10;
    pub(super) const KNOWN: u64 = (1 << 11) - 1;
    pub(super) const PROFILES: u64 = KNOWN & !7;
}

/// How a chunk is spread over its stripes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One stripe, or several that are copies of each other: single, DUP, RAID1, RAID1C3, RAID1C4.
    Copies,
    /// Striped.
    Raid0,
    /// Striped over pairs of copies.
    Raid10,
    /// Striped with this many stripes of parity, 1 or 2: RAID5, RAID6.
    Parity(usize),
}

/// One stripe of a chunk.
#[derive(Clone, Debug)]
pub struct Stripe {
    /// The number of its device.
    pub devid: u64,
    /// The UUID of its device.
    pub device_uuid: [u8; 16],
    /// Where it begins on the device, in bytes.
    pub physical: u64,
}

/// A range of logical addresses and where it lies.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Its first logical address.
    pub logical: u64,
    /// Its length, in bytes.
    pub len: u64,
    /// Its type and profile, by bit.
    pub flags: u64,
    /// How it is spread.
    pub profile: Profile,
    /// Its stripes.
    pub stripes: Vec<Stripe>,
}

/// Where a logical address lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many bytes from there on lie in one piece.
    pub len: u64,
    /// The stripe; with copies, the first of them.
    pub stripe: usize,
    /// How far into each stripe, in bytes.
    pub offset: u64,
    /// With parity: which row of 64 KiB units.
    pub row: u64,
    /// With parity: which of the row's units of data.
    pub unit: usize,
}

impl Chunk {
    /// Reads a chunk item; `key` is its key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when it makes no sense, [`Error::Unsupported`] for a profile that is not known.
    pub fn parse(key: Key, bytes: &[u8]) -> Result<Self> {
        let logical = key.offset;
        let corrupt = |detail: String| Error::corrupt(format!("Btrfs chunk {logical}"), detail);
        if bytes.len() < HEADER {
            return Err(corrupt(format!("its item has {} bytes", bytes.len())));
        }
        let len = le64(bytes, 0);
        let flags = le64(bytes, 24);
        let count = usize::from(le16(bytes, 44));
        let sub_stripes = le16(bytes, 46);
        if len == 0 || !len.is_multiple_of(4096) || logical.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(corrupt(format!("a length of {len}")));
        }
        if le64(bytes, 16) != STRIPE_LEN {
            return Err(corrupt(format!("stripes of {} bytes", le64(bytes, 16))));
        }
        if flags & !types::KNOWN != 0 {
            return Err(Error::unsupported(format!("Btrfs chunks of type {flags:#x}")));
        }
        let (profile, fits) = match flags & types::PROFILES {
            0 => (Profile::Copies, count == 1),
            types::DUP | types::RAID1 | types::RAID1C3 | types::RAID1C4 => (Profile::Copies, (1..=4).contains(&count)),
            types::RAID0 => (Profile::Raid0, count >= 1),
            types::RAID10 => (Profile::Raid10, count >= 2 && count.is_multiple_of(2) && sub_stripes == 2),
            types::RAID5 => (Profile::Parity(1), count >= 2),
            types::RAID6 => (Profile::Parity(2), count >= 3),
            _ => return Err(corrupt(format!("several profiles: {flags:#x}"))),
        };
        if !fits || bytes.len() < HEADER + count * STRIPE {
            return Err(corrupt(format!("{count} stripes of type {flags:#x} in {} bytes", bytes.len())));
        }
        let stripes: Vec<Stripe> = bytes[HEADER..HEADER + count * STRIPE]
            .chunks_exact(STRIPE)
            .map(|stripe| Stripe {
                devid: le64(stripe, 0),
                physical: le64(stripe, 8),
                device_uuid: stripe[16..32].try_into().expect("16 bytes"),
            })
            .collect();
        let most = stripes.iter().map(|stripe| stripe.physical).max().unwrap_or(0);
        if most.checked_add(len).is_none_or(|end| end > i64::MAX as u64) {
            return Err(corrupt(format!("a stripe at {most}")));
        }
        if flags & (types::DUP | types::PROFILES) != types::DUP {
            let mut devices: Vec<u64> = stripes.iter().map(|stripe| stripe.devid).collect();
            devices.sort_unstable();
            if devices.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(corrupt("two of its stripes lie on one device".into()));
            }
        }
        Ok(Self { logical, len, flags, profile, stripes })
    }

    /// How many units of data a row has, where there is parity.
    pub fn data_units(&self) -> usize {
        match self.profile {
            Profile::Parity(parity) => self.stripes.len() - parity,
            _ => self.stripes.len(),
        }
    }

    /// Returns the stripe that holds a unit of a row, where there is parity: P follows the units of data, Q follows P.
    pub fn stripe_of_unit(&self, row: u64, unit: usize) -> usize {
        let count = self.stripes.len() as u64;
        ((row % count + unit as u64) % count) as usize
    }

    /// Returns how many ways there are to read an address.
    pub fn ways(&self) -> usize {
        match self.profile {
            Profile::Copies => self.stripes.len(),
            Profile::Raid0 => 1,
            Profile::Raid10 => 2,
            // As it lies there; from P; from Q; from both, for each of the other units.
            Profile::Parity(1) => 2,
            Profile::Parity(_) => 2 + self.data_units(),
        }
    }

    /// Returns how many times data is stored, counting parity as none.
    pub fn copies(&self) -> u64 {
        match self.profile {
            Profile::Copies => self.stripes.len() as u64,
            Profile::Raid10 => 2,
            Profile::Raid0 | Profile::Parity(_) => 1,
        }
    }

    /// Returns where the address lies that is `within` bytes into the chunk.
    pub fn place(&self, within: u64) -> Place {
        let rest = self.len - within;
        let (unit_number, in_unit) = (within / STRIPE_LEN, within % STRIPE_LEN);
        let in_row = STRIPE_LEN - in_unit;
        let striped = |columns: u64| {
            let row = unit_number / columns;
            (row, (unit_number % columns) as usize, row * STRIPE_LEN + in_unit)
        };
        match self.profile {
            Profile::Copies => Place { len: rest, stripe: 0, offset: within, row: 0, unit: 0 },
            Profile::Raid0 | Profile::Raid10 => {
                let width = if self.profile == Profile::Raid0 { 1 } else { 2 };
                let (row, column, offset) = striped(self.stripes.len() as u64 / width);
                Place { len: rest.min(in_row), stripe: column * width as usize, offset, row, unit: column }
            }
            Profile::Parity(_) => {
                let (row, unit, offset) = striped(self.data_units() as u64);
                Place { len: rest.min(in_row), stripe: self.stripe_of_unit(row, unit), offset, row, unit }
            }
        }
    }
}

/// All chunks, in the order of their addresses.
#[derive(Debug, Default)]
pub struct ChunkMap {
    chunks: Vec<Chunk>,
}

impl ChunkMap {
    /// Makes the map of chunks that do not overlap.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when they do.
    pub fn new(mut chunks: Vec<Chunk>) -> Result<Self> {
        chunks.sort_by_key(|chunk| chunk.logical);
        for pair in chunks.windows(2) {
            if pair[0].logical + pair[0].len > pair[1].logical {
                return Err(Error::corrupt(format!("Btrfs chunk {}", pair[1].logical), "it overlaps another"));
            }
        }
        Ok(Self { chunks })
    }

    /// Makes the map of the system chunks that a superblock holds.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when one makes no sense.
    pub fn of_system_chunks(mut bytes: &[u8]) -> Result<Self> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let corrupt = || Error::corrupt("Btrfs superblock", "its list of system chunks makes no sense");
            if bytes.len() < KEY_LEN + HEADER {
                return Err(corrupt());
            }
            let key = Key::read(bytes);
            let len = HEADER + usize::from(le16(bytes, KEY_LEN + 44)) * STRIPE;
            if key.kind != kinds::CHUNK_ITEM || bytes.len() < KEY_LEN + len {
                return Err(corrupt());
            }
            chunks.push(Chunk::parse(key, &bytes[KEY_LEN..KEY_LEN + len])?);
            bytes = &bytes[KEY_LEN + len..];
        }
        Self::new(chunks)
    }

    /// Returns the chunk that holds an address.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when there is none.
    pub fn find(&self, logical: u64) -> Result<&Chunk> {
        let after = self.chunks.partition_point(|chunk| chunk.logical <= logical);
        match after.checked_sub(1).map(|at| &self.chunks[at]) {
            Some(chunk) if logical - chunk.logical < chunk.len => Ok(chunk),
            _ => Err(Error::corrupt("Btrfs chunk tree", format!("no chunk holds the address {logical}"))),
        }
    }

    /// Shows all chunks.
    pub fn iter(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(flags: u64, count: u16, sub_stripes: u16) -> Result<Chunk> {
        let mut bytes = vec![0; HEADER];
        bytes[0..8].copy_from_slice(&(1_u64 << 30).to_le_bytes());
        bytes[16..24].copy_from_slice(&STRIPE_LEN.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[44..46].copy_from_slice(&count.to_le_bytes());
        bytes[46..48].copy_from_slice(&sub_stripes.to_le_bytes());
        for number in 0..u64::from(count) {
            bytes.extend((number + 1).to_le_bytes());
            bytes.extend((number << 30).to_le_bytes());
            bytes.extend([number as u8; 16]);
        }
        Chunk::parse(Key::new(256, kinds::CHUNK_ITEM, 1 << 20), &bytes)
    }

    #[test]
    fn stripes_go_round_and_parity_with_them() {
        let raid0 = chunk(types::DATA | types::RAID0, 3, 1).expect("valid");
        let place = raid0.place(4 * STRIPE_LEN + 5);
        assert_eq!((place.stripe, place.offset, place.len), (1, STRIPE_LEN + 5, STRIPE_LEN - 5));
        let raid10 = chunk(types::DATA | types::RAID10, 4, 2).expect("valid");
        assert_eq!(raid10.place(3 * STRIPE_LEN).stripe, 2);
        let raid6 = chunk(types::DATA | types::RAID6, 4, 1).expect("valid");
        let place = raid6.place(3 * STRIPE_LEN);
        assert_eq!((place.row, place.unit, place.stripe), (1, 1, 2));
        assert_eq!(raid6.stripe_of_unit(1, 3), 0);
    }

    #[test]
    fn a_chunk_that_makes_no_sense_is_refused() {
        chunk(types::DATA, 2, 1).expect_err("single has one stripe");
        chunk(types::RAID10, 3, 2).expect_err("pairs");
        chunk(types::RAID0 | types::RAID1, 2, 1).expect_err("one profile");
        chunk(types::RAID6, 2, 1).expect_err("two are parity");
        chunk(1 << 20, 1, 1).expect_err("not known");
        let one = chunk(types::DATA, 1, 1).expect("valid");
        ChunkMap::new(vec![one.clone(), one]).expect_err("overlap");
    }
}
