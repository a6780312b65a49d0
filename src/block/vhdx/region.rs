//! The table of a VHDX file's regions, of which there are two copies.

use super::header::is_whole;
use super::{MEGABYTE, corrupt};
use crate::block::{BlockDevice, check_range};
use crate::bytes::{guid, le32, le64};
use crate::error::{Error, Result};
use std::ops::Range;

const SIZE: usize = 64 << 10;
const PLACES: [u64; 2] = [192 << 10, 256 << 10];
const HEADER: usize = 16;
const ENTRY: usize = 32;
/// What a table has room for.
const MAX_ENTRIES: usize = (SIZE - HEADER) / ENTRY;
const BAT: &str = "2dc27766-f623-4200-9d64-115e9bfd4a08";
const METADATA: &str = "8b7ca206-4790-4b9a-b8fe-575f050f886e";

/// Where the regions lie, in bytes.
pub(super) struct Regions {
    /// The block allocation table.
    pub bat: Range<u64>,
    pub metadata: Range<u64>,
}

impl Regions {
    /// Reads the first copy of the table that is whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for a region that is not known and must be, and those of reading.
    pub fn read(image: &dyn BlockDevice) -> Result<Self> {
        for at in PLACES {
            let mut bytes = vec![0; SIZE];
            if check_range(image.size(), at, SIZE as u64).is_err() {
                break;
            }
            image.read_at(&mut bytes, at)?;
            if bytes.starts_with(b"regi") && is_whole(&bytes) {
                return Self::parse(&bytes, image.size());
            }
        }
        Err(corrupt("VHDX region tables", "neither of the two is whole"))
    }

    fn parse(bytes: &[u8], size: u64) -> Result<Self> {
        const STRUCTURE: &str = "VHDX region table";
        let count = le32(bytes, 8) as usize;
        if count > MAX_ENTRIES {
            return Err(corrupt(STRUCTURE, format!("{count} entries")));
        }
        let (mut bat, mut metadata) = (None, None);
        for entry in bytes[HEADER..].chunks_exact(ENTRY).take(count) {
            let id = guid(entry[..16].try_into().expect("16 bytes"));
            let (start, len, is_required) = (le64(entry, 16), u64::from(le32(entry, 24)), le32(entry, 28) & 1 != 0);
            let found = match id.as_str() {
                BAT => &mut bat,
                METADATA => &mut metadata,
                _ if is_required => return Err(Error::unsupported(format!("a VHDX with the region {id}"))),
                _ => continue,
            };
            let end = start.checked_add(len).filter(|&end| end <= size);
            match end {
                Some(end) if start % MEGABYTE == 0 && start >= MEGABYTE && len > 0 && found.is_none() => {
                    *found = Some(start..end);
                }
                None => return Err(corrupt(STRUCTURE, format!("the region {id} lies past the end of the file"))),
                Some(_) => return Err(corrupt(STRUCTURE, format!("the region {id} lies in no right place, or twice"))),
            }
        }
        match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok(Self { bat, metadata }),
            _ => Err(corrupt(STRUCTURE, "it lacks the block allocation table or the metadata")),
        }
    }
}
