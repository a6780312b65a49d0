//! Parity: the sums over which RAID 5 and 6 rebuild what is missing.
//!
//! P is the exclusive or of a row. Q is the sum over GF(2^8) with the polynomial 0x11d, where each unit counts as often as a
//! power of the generator 2, as in Linux' MD and in Btrfs.

/// Adds `bytes` to `into`.
pub fn xor(into: &mut [u8], bytes: &[u8]) {
    for (to, from) in into.iter_mut().zip(bytes) {
        *to ^= from;
    }
}

/// Arithmetic in GF(2^8) with the polynomial 0x11d and the generator 2.
pub mod galois {
    const EXP: [u8; 510] = {
        let mut table = [0; 510];
        let mut value: u16 = 1;
        let mut at = 0;
        while at < 510 {
            table[at] = value as u8;
            value <<= 1;
            if value & 0x100 != 0 {
                value ^= 0x11d;
            }
            at += 1;
        }
        table
    };
    const LOG: [u8; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 255 {
            table[EXP[at] as usize] = at as u8;
            at += 1;
        }
        table
    };

    /// Returns 2 to a power.
    pub fn power(exponent: usize) -> u8 {
        EXP[exponent % 255]
    }

    fn times(one: u8, other: u8) -> u8 {
        if one == 0 || other == 0 {
            0
        } else {
            EXP[usize::from(LOG[usize::from(one)]) + usize::from(LOG[usize::from(other)])]
        }
    }

    /// Returns what times `value` is 1; 0 for 0.
    pub fn inverse(value: u8) -> u8 {
        if value == 0 { 0 } else { EXP[255 - usize::from(LOG[usize::from(value)])] }
    }

    fn table(factor: u8) -> [u8; 256] {
        std::array::from_fn(|value| times(value as u8, factor))
    }

    /// Adds `bytes` times `factor`.
    pub fn xor_times(into: &mut [u8], bytes: &[u8], factor: u8) {
        let table = table(factor);
        for (to, from) in into.iter_mut().zip(bytes) {
            *to ^= table[usize::from(*from)];
        }
    }

    /// Multiplies by `factor`.
    pub fn scale(bytes: &mut [u8], factor: u8) {
        let table = table(factor);
        for byte in bytes {
            *byte = table[usize::from(*byte)];
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_value_has_its_inverse() {
            for value in 1..=255 {
                assert_eq!(times(value, inverse(value)), 1);
            }
            assert_eq!(power(8), 0x1d);
        }
    }
}
