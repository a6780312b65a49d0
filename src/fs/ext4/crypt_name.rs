//! Encrypted names as the kernel shows them without the key: base64url of a hash, the beginning of the encrypted name
//! and, for a long one, a digest of the rest.
//!
//! The form is that of `struct fscrypt_nokey_name` in the kernel's `fs/crypto/fname.c`: two little-endian 32-bit halves of
//! the directory hash, up to 149 bytes, and the SHA-256 of what does not fit.

use sha2::{Digest, Sha256};

/// How many bytes of an encrypted name are shown as they are.
const SHOWN: usize = 149;
/// The size of the two hashes, in bytes.
const HASHES: usize = 8;
/// The size of the digest, in bytes.
const DIGEST: usize = 32;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Encodes bytes as base64url without padding.
pub(crate) fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes.len() * 4 / 3 + 3);
    for chunk in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from(word[0]) << 16 | u32::from(word[1]) << 8 | u32::from(word[2]);
        for at in 0..=chunk.len() {
            text.push(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]);
        }
    }
    text
}

/// Decodes base64url without padding; `None` for anything else.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text {
        let value = ALPHABET.iter().position(|letter| letter == character)?;
        bits = (bits & 0x3fff) << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    (count < 6 && bits & ((1 << count) - 1) == 0).then_some(bytes)
}

/// Returns the form in which an encrypted name is shown; `hash` is its two halves of the directory hash.
pub(crate) fn show(hash: [u32; 2], name: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HASHES + SHOWN + DIGEST);
    bytes.extend(hash[0].to_le_bytes());
    bytes.extend(hash[1].to_le_bytes());
    bytes.extend(&name[..name.len().min(SHOWN)]);
    if name.len() > SHOWN {
        bytes.extend(Sha256::digest(&name[SHOWN..]));
    }
    encode(&bytes)
}

/// A shown name, decoded to be compared with encrypted ones.
pub(crate) struct NoKeyName {
    bytes: Vec<u8>,
}

impl NoKeyName {
    /// Decodes a shown name; `None` for a text that is none.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let bytes = decode(text)?;
        let len = bytes.len();
        (len > HASHES && (len <= HASHES + SHOWN || len == HASHES + SHOWN + DIGEST)).then_some(Self { bytes })
    }

    /// Says whether an encrypted name is the one that is shown so.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let shown = &self.bytes[HASHES..];
        if shown.len() <= SHOWN {
            return shown == name;
        }
        name.len() > SHOWN && name[..SHOWN] == shown[..SHOWN] && Sha256::digest(&name[SHOWN..])[..] == shown[SHOWN..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_name_leads_back_to_the_encrypted_one() {
        for len in [16, 32, 149, 150, 255] {
            let name: Vec<u8> = (0..len).map(|number| number as u8).collect();
            let shown = show([1, 2], &name);
            assert!(shown.len() <= 255);
            let parsed = NoKeyName::parse(&shown).expect("a shown name");
            assert!(parsed.matches(&name));
            assert!(!parsed.matches(&name[1..]));
        }
        assert_eq!(encode(b"\xfb\xff"), b"-_8");
        assert!(NoKeyName::parse(b"not base64!").is_none());
    }
}
