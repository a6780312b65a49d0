//! The filesystems of Apple: HFS, HFS+, APFS. Fields of the older two are big-endian.

use super::Identity;
use super::reader::Reader;
use crate::bytes::{be16, be32, le16, le32};
use md5::{Digest, Md5};

/// A container of APFS: the superblock in the first block.
pub fn apfs(reader: &Reader<'_>) -> Option<Identity> {
    const CONTAINER_SUPERBLOCK: u16 = 1;
    let bytes = reader.read(0, 128)?;
    let is_credible =
        bytes[32..36] == *b"NXSB" && le16(&bytes, 24) == CONTAINER_SUPERBLOCK && le32(&bytes, 36).is_power_of_two();
    is_credible.then(|| Identity::filesystem("apfs").uuid(&bytes, 72))
}

/// HFS and HFS+, the latter bare or in a wrapper of the former: the header at byte 1024.
pub fn hfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 162)?;
    match &bytes[..2] {
        b"H+" | b"HX" if matches!(be16(&bytes, 2), 4 | 5) && is_block_size(be32(&bytes, 40)) => {
            Some(Identity::filesystem("hfsplus").serial(unique(&bytes[104..112])))
        }
        // The wrapper names what it wraps.
        b"BD" if bytes[124..126] == *b"H+" => Some(Identity::filesystem("hfsplus")),
        // Blocks need not be powers of two here.
        b"BD" if be32(&bytes, 20) >= 512 && be32(&bytes, 20).is_multiple_of(512) => {
            let len = usize::from(bytes[36]).min(27);
            let identity = Identity::filesystem("hfs").serial(unique(&bytes[116..124]));
            Some(identity.label(&bytes[37..37 + len]))
        }
        _ => None,
    }
}

fn is_block_size(size: u32) -> bool {
    size >= 512 && size.is_power_of_two()
}

/// Makes a UUID from the 8 bytes that Finder identifies a volume by, as macOS does; empty where they are all zero.
fn unique(id: &[u8]) -> String {
    const NAME_SPACE: [u8; 16] =
        [0xb3, 0xe2, 0x0f, 0x39, 0xf2, 0x92, 0x11, 0xd6, 0x97, 0xa4, 0x00, 0x30, 0x65, 0x43, 0xec, 0xac];
    if id.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    let mut uuid: [u8; 16] = Md5::new().chain_update(NAME_SPACE).chain_update(id).finalize().into();
    uuid[6] = 0x30 | (uuid[6] & 0x0f);
    uuid[8] = 0x80 | (uuid[8] & 0x3f);
    crate::bytes::uuid(&uuid)
}
