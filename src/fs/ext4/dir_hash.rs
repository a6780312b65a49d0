//! The hashes by which a hash tree sorts the names of a directory.
//!
//! Half MD4, TEA and the first one ("legacy"), each of bytes taken as signed or as unsigned, as the machine that made the
//! filesystem did. The algorithms are those of the kernel's `fs/ext4/hash.c` and the published MD4 and TEA.

/// `s_def_hash_version` and `hash_version` of a tree: legacy.
pub(crate) const LEGACY: u8 = 0;
/// Half MD4.
pub(crate) const HALF_MD4: u8 = 1;
/// Tiny Encryption Algorithm.
pub(crate) const TEA: u8 = 2;
/// What is added to a version where bytes count as unsigned.
pub(crate) const UNSIGNED: u8 = 3;
/// SipHash, of directories that are both encrypted and case-insensitive.
pub(crate) const SIPHASH: u8 = 6;

/// A name's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NameHash {
    /// What the tree sorts by; its lowest bit is 0.
    pub(crate) major: u32,
    /// A second half that readers of hash order use.
    pub(crate) minor: u32,
}

/// Returns the hash of a name; `None` for a version that is not known or needs a key. `seed` is the superblock's.
pub(crate) fn hash(version: u8, seed: &[u32; 4], name: &[u8]) -> Option<NameHash> {
    let is_unsigned = (UNSIGNED..SIPHASH).contains(&version);
    let widen: fn(u8) -> u32 = if is_unsigned { u32::from } else { |byte| byte as i8 as u32 };
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if seed.iter().any(|&word| word != 0) {
        state = *seed;
    }
    let (major, minor) = match if is_unsigned { version - UNSIGNED } else { version } {
        LEGACY => (legacy(name, widen), 0),
        HALF_MD4 => {
            for at in (0..name.len()).step_by(32) {
                half_md4(&mut state, &words::<8>(&name[at..], widen));
            }
            (state[1], state[2])
        }
        TEA => {
            for at in (0..name.len()).step_by(16) {
                tea(&mut state, &words::<4>(&name[at..], widen));
            }
            (state[0], state[1])
        }
        _ => return None,
    };
    // The highest hash of all marks the end of a listing.
    const END: u32 = 0x7fff_ffff << 1;
    let major = major & !1;
    Some(NameHash { major: if major == END { END - 2 } else { major }, minor })
}

/// Packs the beginning of a name into words, filled up with its length.
fn words<const N: usize>(name: &[u8], widen: fn(u8) -> u32) -> [u32; N] {
    let pad = (name.len() as u32 & 0xff) * 0x0101_0101;
    let mut words = [pad; N];
    for (word, bytes) in words.iter_mut().zip(name.chunks(4)) {
        *word = bytes.iter().fold(pad, |word, &byte| widen(byte).wrapping_add(word << 8));
    }
    words
}

fn legacy(name: &[u8], widen: fn(u8) -> u32) -> u32 {
    let (mut newer, mut older) = (0x12a3_fe2d_u32, 0x37ab_e8f9_u32);
    for &byte in name {
        let mut next = older.wrapping_add(newer ^ widen(byte).wrapping_mul(7_152_373));
        if next & 0x8000_0000 != 0 {
            next = next.wrapping_sub(0x7fff_ffff);
        }
        (older, newer) = (newer, next);
    }
    newer << 1
}

fn half_md4(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [0, 1, 2, 3, 4, 5, 6, 7], [3, 7, 11, 19]),
        (|x, y, z| (x & y).wrapping_add((x ^ y) & z), 0x5a82_7999, [1, 3, 5, 7, 0, 2, 4, 6], [3, 5, 9, 13]),
        (|x, y, z| x ^ y ^ z, 0x6ed9_eba1, [3, 7, 2, 6, 1, 5, 0, 4], [3, 9, 11, 15]),
    ];
    let mut work = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, &word) in order.iter().enumerate() {
            let at = (4 - step % 4) % 4;
            let [b, c, d] = [1, 2, 3].map(|next| work[(at + next) % 4]);
            work[at] = work[at]
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word].wrapping_add(constant))
                .rotate_left(shifts[step % 4]);
        }
    }
    for (word, change) in state.iter_mut().zip(work) {
        *word = word.wrapping_add(change);
    }
}

fn tea(state: &mut [u32; 4], input: &[u32; 4]) {
    let (mut left, mut right) = (state[0], state[1]);
    let mut sum = 0_u32;
    let mix = |word: u32, sum: u32, low: u32, high: u32| {
        (word << 4).wrapping_add(low) ^ word.wrapping_add(sum) ^ (word >> 5).wrapping_add(high)
    };
    for _ in 0..16 {
        sum = sum.wrapping_add(0x9e37_79b9);
        left = left.wrapping_add(mix(right, sum, input[0], input[1]));
        right = right.wrapping_add(mix(left, sum, input[2], input[3]));
    }
    state[0] = state[0].wrapping_add(left);
    state[1] = state[1].wrapping_add(right);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_debugfs_gives() {
        let name = "a_name_of_more_than_thirty_two_bytes_\u{fc}".as_bytes();
        let known = [(LEGACY, 0x5f1e_b5a6, 0), (HALF_MD4, 0xb059_bada, 0x2a05_4c2a), (TEA, 0xecd2_92da, 0x1fb1_aaca)];
        for (version, major, minor) in known {
            assert_eq!(hash(version, &[0; 4], name), Some(NameHash { major, minor }), "version {version}");
            // Bytes over 127 count otherwise; below, there is no difference.
            assert_ne!(hash(version + UNSIGNED, &[0; 4], name), hash(version, &[0; 4], name));
            assert_eq!(hash(version + UNSIGNED, &[0; 4], b"ascii"), hash(version, &[0; 4], b"ascii"));
        }
        let seed = [0x7856_3412, 0xf0de_bc9a, 0x7856_3412, 0xf0de_bc9a];
        assert_eq!(hash(HALF_MD4, &seed, b"file"), Some(NameHash { major: 0x7a7b_ef4a, minor: 0xe0bf_8667 }));
        assert_eq!(hash(SIPHASH, &[0; 4], b"file"), None);
    }
}
