//! The checksums of ext4: CRC-32C over metadata (`metadata_csum`) and CRC-16 over group descriptors (`gdt_csum`).
//!
//! The functions serve both to verify and to set. The kernel documents what each one covers in
//! `Documentation/filesystems/ext4/checksums.rst`.

/// Continues a CRC-32C as ext4 keeps it: not inverted before or after.
#[inline]
pub(crate) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Continues a CRC-32C over `bytes` as though the `width` bytes at `hole` were zero.
pub(crate) fn crc32c_with_hole(seed: u32, bytes: &[u8], hole: usize, width: usize) -> u32 {
    const ZEROES: [u8; 8] = [0; 8];
    let crc = crc32c(seed, &bytes[..hole]);
    let crc = crc32c(crc, &ZEROES[..width]);
    crc32c(crc, &bytes[hole + width..])
}

/// Continues a CRC-16 (polynomial 0x8005, reflected), not inverted.
pub(crate) fn crc16(mut crc: u16, bytes: &[u8]) -> u16 {
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
    }
    crc
}

/// Returns the seed of the checksums of an inode's own structures: its extents, directory blocks and itself.
pub(crate) fn inode_seed(filesystem_seed: u32, ino: u32, generation: u32) -> u32 {
    crc32c(crc32c(filesystem_seed, &ino.to_le_bytes()), &generation.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_known_text_are_the_known_ones() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
        assert_eq!(crc32c_with_hole(!0, b"12xx5678", 2, 2), crc32c(!0, b"12\0\x005678"));
    }
}
