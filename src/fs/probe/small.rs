//! Small and packed filesystems: squashfs, EROFS, cramfs, romfs, BFS, Minix.

use super::Identity;
use super::reader::Reader;
use crate::block::BlockDevice;
use crate::bytes::{be32, le16, le32};

/// squashfs; versions before 4 have the byte order of the machine that made them.
pub fn squashfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(0, 96)?;
    let (major, minor) = match &bytes[..4] {
        b"hsqs" => (le16(&bytes, 28), le16(&bytes, 30)),
        b"sqsh" => (le16(&bytes, 28).swap_bytes(), le16(&bytes, 30).swap_bytes()),
        _ => return None,
    };
    let kind = if major >= 4 { "squashfs" } else { "squashfs3" };
    Some(Identity::filesystem(kind).version(format!("{major}.{minor}")))
}

/// EROFS: the superblock at byte 1024.
pub fn erofs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 128)?;
    let is_credible = le32(&bytes, 0) == 0xe0f5_e1e2 && (9..=16).contains(&bytes[12]);
    is_credible.then(|| Identity::filesystem("erofs").uuid(&bytes, 48).label(&bytes[64..80]))
}

/// cramfs of either byte order.
pub fn cramfs(reader: &Reader<'_>) -> Option<Identity> {
    const MAGIC: u32 = 0x28cd_3d45;
    let bytes = reader.read(0, 76)?;
    if le32(&bytes, 0) != MAGIC && be32(&bytes, 0) != MAGIC {
        return None;
    }
    (bytes[16..32] == *b"Compressed ROMFS").then(|| Identity::filesystem("cramfs").label(&bytes[48..64]))
}

/// romfs.
pub fn romfs(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(0, 32)?;
    bytes.starts_with(b"-rom1fs-").then(|| Identity::filesystem("romfs").label(&bytes[16..32]))
}

/// The boot filesystem of SCO.
pub fn bfs(reader: &Reader<'_>) -> Option<Identity> {
    reader.has(0, &0x1bad_face_u32.to_le_bytes()).then(|| Identity::filesystem("bfs"))
}

/// Minix of versions 1 to 3: the superblock at byte 1024. Its signature has 16 bits, so its maps have to fit as well.
pub fn minix(reader: &Reader<'_>) -> Option<Identity> {
    let bytes = reader.read(1024, 64)?;
    let (version, inodes, zones, inode_map, zone_map, first_zone, log, block_size);
    if le16(&bytes, 24) == 0x4d5a {
        version = "3";
        (inodes, zones) = (u64::from(le32(&bytes, 0)), u64::from(le32(&bytes, 20)));
        (inode_map, zone_map, first_zone, log) = (le16(&bytes, 6), le16(&bytes, 8), le16(&bytes, 10), le16(&bytes, 12));
        block_size = u64::from(le16(&bytes, 28));
    } else {
        inodes = u64::from(le16(&bytes, 0));
        (version, zones) = match le16(&bytes, 16) {
            0x137f | 0x138f => ("1", u64::from(le16(&bytes, 2))),
            0x2468 | 0x2478 => ("2", u64::from(le32(&bytes, 20))),
            _ => return None,
        };
        (inode_map, zone_map, first_zone, log) = (le16(&bytes, 4), le16(&bytes, 6), le16(&bytes, 8), le16(&bytes, 10));
        block_size = 1024;
    }
    let bits = |blocks: u16| u64::from(blocks) * block_size * 8;
    let is_credible = block_size.is_power_of_two()
        && block_size >= 1024
        && log == 0
        && inodes > 0
        && first_zone > 4
        && u64::from(first_zone) < zones
        && bits(inode_map) > inodes
        && bits(zone_map) > zones - u64::from(first_zone)
        && zones * block_size <= reader.size();
    is_credible.then(|| Identity::filesystem("minix").version(version))
}
