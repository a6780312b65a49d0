//! The two checksums of a journal: crc32c for versions 2 and 3, the big-endian CRC-32 for version 1.
//!
//! Neither is inverted at its beginning or its end: a sum is the state of the register, which the next sum goes on from.

/// The state that every sum begins with.
pub(super) const SEED: u32 = !0;

/// The polynomial of CRC-32, its highest power first.
const CRC32_POLYNOMIAL: u32 = 0x04c1_1db7;

const CRC32_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 0x8000_0000 == 0 { sum << 1 } else { sum << 1 ^ CRC32_POLYNOMIAL };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
};

/// Returns the crc32c of `bytes`, going on from `seed`.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

/// Returns the big-endian CRC-32 of `bytes`, going on from `seed`.
pub(super) fn crc32_be(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |sum, &byte| sum << 8 ^ CRC32_TABLE[usize::from((sum >> 24) as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_usual_check_text() {
        assert_eq!(crc32_be(SEED, b"123456789"), 0x0376_e6e7, "CRC-32/MPEG-2");
        assert_eq!(!crc32c(SEED, b"123456789"), 0xe306_9283, "CRC-32C");
        assert_eq!(crc32c(crc32c(SEED, b"1234"), b"56789"), crc32c(SEED, b"123456789"));
    }
}
