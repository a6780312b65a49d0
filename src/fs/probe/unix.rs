//! The filesystems of BSD and Solaris: UFS, ZFS.

use super::reader::Reader;
use super::{Identity, Usage};
use crate::bytes::{be32, be64, le32, le64, until_nul};

/// UFS of either version and byte order.
pub fn ufs(reader: &Reader<'_>) -> Option<Identity> {
    const UFS1: u32 = 0x0001_1954;
    const UFS2: u32 = 0x1954_0119;
    for offset in [8192, 65536, 0, 262_144] {
        let Some(bytes) = reader.read(offset, 1376) else { continue };
        let get = match le32(&bytes, 1372) {
            UFS1 | UFS2 => le32,
            other if matches!(other.swap_bytes(), UFS1 | UFS2) => be32,
            _ => continue,
        };
        let version = if get(&bytes, 1372) == UFS2 { "2" } else { "1" };
        let identity = Identity::filesystem("ufs").version(version).label(&bytes[680..712]);
        let id = (get(&bytes, 144), get(&bytes, 148));
        return Some(if id == (0, 0) { identity } else { identity.serial(format!("{:08x}{:08x}", id.0, id.1)) });
    }
    None
}

/// A device of a ZFS pool: the first label, with the pool's description at 16 KiB and uberblocks from 128 KiB on.
pub fn zfs(reader: &Reader<'_>) -> Option<Identity> {
    const UBERBLOCK: u64 = 0x00ba_b10c;
    const NUMBER: u32 = 8;
    const STRING: u32 = 9;
    let ring = reader.read(128 << 10, 128 << 10)?;
    let version = ring.chunks_exact(1024).find_map(|block| match (le64(block, 0), be64(block, 0)) {
        (UBERBLOCK, _) => Some(le64(block, 8)),
        (_, UBERBLOCK) => Some(be64(block, 8)),
        _ => None,
    })?;
    let mut identity = Identity::new("zfs_member", Usage::Raid).version(version.to_string());
    let list = reader.read(16 << 10, 112 << 10)?;
    // The list begins with how it is encoded (1: XDR), its version and its flags.
    if list[0] == 1 {
        for (kind, name, value) in super::member::name_value_pairs(&list[12..]) {
            match (kind, name) {
                (STRING, b"name") if value.len() >= 4 => identity = identity.label(until_nul(&value[4..])),
                (NUMBER, b"pool_guid") if value.len() >= 8 => identity = identity.serial(be64(value, 0).to_string()),
                _ => {}
            }
        }
    }
    Some(identity)
}
