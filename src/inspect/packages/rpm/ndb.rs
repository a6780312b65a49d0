//! `Packages.db`: rpm's own database, with a table of slots at the beginning and headers in blobs behind it.
//!
//! All numbers are little-endian. The form is specified by rpm's source (`lib/backend/ndb/rpmpkg.c`).

use crate::bytes::le32;
use crate::error::{Error, Result};
use crate::inspect::read::Guest;

/// The unit that slots count blobs in, in bytes.
const BLOCK: u64 = 16;

/// The unit that the header counts slots in, in bytes.
const SLOT_PAGE: u64 = 4096;

/// The length of a slot; the header takes the place of the first two.
const SLOT: u64 = 16;

/// The largest header of a package, in bytes.
const MAX_BLOB: u64 = 64 << 20;

const MAGIC: &[u8] = b"RpmP";
const SLOT_MAGIC: &[u8] = b"Slot";
const BLOB_MAGIC: &[u8] = b"BlbS";

/// Shows the headers, in the order of their slots.
pub(super) fn read(guest: &Guest<'_>, path: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
    let Some(file) = guest.chunks(path).filter(|file| file.size() > 0) else { return Ok(()) };
    let head = file.bytes(0, 32)?;
    if !head.starts_with(MAGIC) {
        return Err(Error::corrupt("rpm database", "it has not the magic number of its form"));
    }
    if le32(&head, 4) != 0 {
        return Err(Error::unsupported(format!("version {} of rpm's ndb databases", le32(&head, 4))));
    }
    let slots = u64::from(le32(&head, 12)) * SLOT_PAGE;
    if slots > file.size() {
        return Err(Error::corrupt("rpm database", "its table of slots is longer than the file"));
    }
    let mut total: u64 = 0;
    for at in (2 * SLOT..slots).step_by(SLOT as usize) {
        let slot = file.bytes(at, SLOT as usize)?;
        let number = le32(&slot, 4);
        if !slot.starts_with(SLOT_MAGIC) {
            return Err(Error::corrupt("rpm database", format!("the slot at {at} has not its magic number")));
        }
        // A slot without a place is free.
        if le32(&slot, 8) == 0 {
            continue;
        }
        let start = u64::from(le32(&slot, 8)) * BLOCK;
        let room = u64::from(le32(&slot, 12)) * BLOCK;
        let blob = file.bytes(start, 16)?;
        let len = u64::from(le32(&blob, 12));
        if !blob.starts_with(BLOB_MAGIC) || le32(&blob, 4) != number || len + 28 > room || len > MAX_BLOB {
            return Err(Error::corrupt(
                "rpm database",
                format!("the blob of package {number} is not where its slot says"),
            ));
        }
        // Slots that share one blob must not make a small file cost more than it holds.
        total += len;
        if total > file.size() {
            return Err(Error::corrupt("rpm database", "its blobs lie upon each other"));
        }
        if !visit(&file.bytes(start + 16, len as usize)?) {
            break;
        }
    }
    Ok(())
}
