//! The hash of names by which directories and extended attributes are indexed.

/// Returns the hash of a name.
pub fn name_hash(name: &[u8]) -> u32 {
    let mut words = name.chunks_exact(4);
    let mut hash = 0_u32;
    for word in &mut words {
        hash = fold(word) ^ hash.rotate_left(28);
    }
    let rest = words.remainder();
    if rest.is_empty() { hash } else { fold(rest) ^ hash.rotate_left(7 * rest.len() as u32) }
}

/// Puts up to four bytes together, seven bits apart.
fn fold(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |word, &byte| word << 7 ^ u32::from(byte))
}

/// Returns the hash of a name in a directory that does not tell the case of letters.
pub fn folded_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, &byte| u32::from(lower(byte)) ^ hash.rotate_left(7))
}

/// Says whether two names are the same but for the case of letters.
pub fn same_folded(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(&one, &other)| lower(one) == lower(other))
}

/// Returns a letter of ISO 8859-1 in lower case, as XFS folds it.
fn lower(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 0x20,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_that_xfs_db_prints() {
        for (name, hash) in [("a", 0x61), ("..", 0x172e), ("lost+found", 0x021a_a60c), ("abcdefg", 0x3c98_f471)] {
            assert_eq!(name_hash(name.as_bytes()), hash, "{name}");
        }
    }

    #[test]
    fn a_folded_hash_is_the_same_for_either_case() {
        assert_eq!(folded_hash(b"ReadMe.TXT"), folded_hash(b"readme.txt"));
        assert_eq!(folded_hash(b"readme.txt"), name_hash(b"readme.txt"));
        assert!(same_folded(b"\xc4pfel", b"\xe4PFEL"));
        assert!(!same_folded(b"\xd7", b"\xf7"));
    }
}
