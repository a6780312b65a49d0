//! The table of internal snapshots. All fields are big-endian; entries begin at multiples of 8 bytes.

use super::header::Header;
use super::storage::Storage;
use crate::bytes::{be16, be32, be64};
use crate::error::{Error, Result};

const FIXED_LENGTH: usize = 40;
const MAX_SNAPSHOTS: u32 = 65536;
/// The longest extra data that makes sense, in bytes, as QEMU has it.
const MAX_EXTRA: usize = 1024;
/// The longest table that is read, in bytes.
const MAX_TABLE: u64 = 16 << 20;

/// An internal snapshot of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, as text.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970 and nanoseconds.
    pub time: (u32, u32),
    /// The size of its disk, in bytes.
    pub size: u64,
    pub(super) l1_offset: u64,
    pub(super) l1_entries: u32,
}

/// The table of snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// The snapshots, in the table's order.
    pub all: Vec<Snapshot>,
    /// How long the table is, in bytes.
    pub bytes: u64,
}

impl Snapshots {
    /// Reads the snapshots of an image.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the table is damaged; those of reading it.
    pub fn read(storage: &dyn Storage, header: &Header) -> Result<Self> {
        let damaged = |what: &'static str| Error::corrupt("snapshot table", what);
        if header.snapshots > MAX_SNAPSHOTS {
            return Err(damaged("it has too many entries"));
        }
        let file_size = storage.size()?;
        let mut at = header.snapshots_offset;
        if header.snapshots > 0 && !at.is_multiple_of(header.cluster_size()) {
            return Err(damaged("its offset is not that of a cluster"));
        }
        let mut snapshots = Vec::new();
        for _ in 0..header.snapshots {
            let mut fixed = [0; FIXED_LENGTH];
            let inside = |at: u64, len: usize| at.checked_add(len as u64).is_some_and(|end| end <= file_size);
            if at - header.snapshots_offset > MAX_TABLE {
                return Err(damaged("it is too long"));
            }
            if !inside(at, FIXED_LENGTH) {
                return Err(damaged("it passes the end of the file"));
            }
            storage.read_at(&mut fixed, at)?;
            let (id_len, name_len) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
            let extra_len = be32(&fixed, 36) as usize;
            if extra_len > MAX_EXTRA {
                return Err(damaged("an entry has too much extra data"));
            }
            let rest_len = extra_len + id_len + name_len;
            if !inside(at, FIXED_LENGTH + rest_len) {
                return Err(damaged("it passes the end of the file"));
            }
            let mut rest = vec![0; rest_len];
            storage.read_at(&mut rest, at + FIXED_LENGTH as u64)?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            snapshots.push(Snapshot {
                id: text(&rest[extra_len..extra_len + id_len]),
                name: text(&rest[extra_len + id_len..]),
                time: (be32(&fixed, 16), be32(&fixed, 20)),
                // Images of version 2 may leave it out; their disks never changed size then.
                size: if extra_len >= 16 { be64(&rest, 8) } else { header.size },
                l1_offset: be64(&fixed, 0),
                l1_entries: be32(&fixed, 8),
            });
            at = (at + (FIXED_LENGTH + rest_len) as u64).next_multiple_of(8);
        }
        Ok(Self { all: snapshots, bytes: at - header.snapshots_offset })
    }
}
