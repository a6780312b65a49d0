//! Swap space, and what a sleeping machine left in it. The signature ends the first page, whose size is the machine's.

use super::reader::Reader;
use super::{Identity, Usage};
use crate::bytes::{be32, le32, until_nul};

const SLEEPING: [&[u8; 10]; 4] = [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"];

/// Swap space of either version.
pub fn swap(reader: &Reader<'_>) -> Option<Identity> {
    for page_size in [4096, 8192, 16384, 32768, 65536] {
        let Some(signature) = reader.read(page_size - 10, 10) else { break };
        if SLEEPING.iter().any(|sleeping| signature == *sleeping) {
            let version = String::from_utf8_lossy(until_nul(&signature)).to_lowercase();
            return Some(described(reader, "swsuspend").version(version));
        }
        if signature == b"SWAP-SPACE" {
            return Some(Identity::new("swap", Usage::Swap).version("0"));
        }
        if signature == b"SWAPSPACE2" {
            // Version and the number of the last page, in the machine's byte order.
            let header = reader.read(1024, 8)?;
            let is_credible = (le32(&header, 0) == 1 || be32(&header, 0) == 1) && le32(&header, 4) != 0;
            return is_credible.then(|| described(reader, "swap").version("1"));
        }
    }
    None
}

fn described(reader: &Reader<'_>, kind: &'static str) -> Identity {
    let identity = Identity::new(kind, Usage::Swap);
    match reader.read(1024, 44) {
        Some(header) => identity.uuid(&header, 12).label(&header[28..44]),
        None => identity,
    }
}
