//! Keys: what a person gives, how it is stretched, and how keys are encrypted by keys.
//!
//! Keys are encrypted by AES-CCM of RFC 3610 with nonces of 12 bytes and sums of 16, by keys of 32 bytes.

use super::entry;
use crate::bytes::{le32, set_le64};
use crate::error::{Error, Result};
use ccm::aead::{AeadInOut, KeyInit};
use ccm::consts::{U12, U16};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// A hash of what was given, which is stretched.
pub(super) type Hash = Zeroizing<[u8; 32]>;

/// How often a stretched key is hashed.
const ROUNDS: u64 = 0x10_0000;

/// The size of keys that encrypt keys, in bytes.
const KEY_SIZE: usize = 32;

const NONCE: usize = 12;
const SUM: usize = 16;

/// What stands before a key: its size, a version, and the number of a cipher.
const CONTAINER: usize = 12;

/// A key as it was given, in every way that it can be read.
pub(super) struct Given {
    /// As a password.
    pub password: Option<Hash>,
    /// As the digits of a recovery key.
    pub recovery: Option<Hash>,
    /// As the file of a startup key.
    pub external: Option<External>,
}

/// What the file of a startup key holds.
pub(super) struct External {
    /// The GUID of the protector that it is for.
    pub protector: [u8; 16],
    /// The key.
    pub key: Zeroizing<Vec<u8>>,
}

impl Given {
    /// Reads a key.
    pub(super) fn new(key: &[u8]) -> Self {
        let external = external(key);
        let text = std::str::from_utf8(key).ok().filter(|_| external.is_none());
        Self { password: text.map(password), recovery: text.and_then(recovery), external }
    }
}

fn sha256(bytes: &[u8]) -> Hash {
    Zeroizing::new(Sha256::digest(bytes).into())
}

/// Returns the hash of the hash of a password in UTF-16.
fn password(text: &str) -> Hash {
    let mut units = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    text.encode_utf16().for_each(|unit| units.extend(unit.to_le_bytes()));
    sha256(&*sha256(&units))
}

/// Returns the hash of a recovery key: eight numbers of six digits, each eleven times a number of 16 bits. Whatever stands
/// between them, hyphens or blanks, is left out.
fn recovery(text: &str) -> Option<Hash> {
    const DIGITS: usize = 48;
    let mut digits = Zeroizing::new(Vec::with_capacity(DIGITS));
    for character in text.chars() {
        match character {
            '0'..='9' if digits.len() < DIGITS => digits.push(character as u8 - b'0'),
            '-' | ' ' | '\t' | '\r' | '\n' => {}
            _ => return None,
        }
    }
    if digits.len() != DIGITS {
        return None;
    }
    let mut key = Zeroizing::new(Vec::with_capacity(16));
    for group in digits.chunks_exact(6) {
        let number = group.iter().fold(0_u32, |number, digit| number * 10 + u32::from(*digit));
        let half = u16::try_from(number / 11).ok().filter(|_| number.is_multiple_of(11))?;
        key.extend(half.to_le_bytes());
    }
    Some(sha256(&key))
}

/// Returns what the file of a startup key holds; `None` for anything else.
fn external(bytes: &[u8]) -> Option<External> {
    /// The size of the file's head, in bytes, which is like that of the metadata.
    const HEAD: usize = 48;
    /// Where an external key's properties begin.
    const AT_PROPERTIES: usize = 24;
    if bytes.len() < HEAD || le32(bytes, 4) != 1 || le32(bytes, 8) as usize != HEAD {
        return None;
    }
    let size = le32(bytes, 0) as usize;
    let entries = entry::all(bytes.get(HEAD..size)?).ok()?;
    let external = entries.iter().find(|entry| entry.value == entry::EXTERNAL_KEY)?;
    let properties = entry::all(external.data.get(AT_PROPERTIES..)?).ok()?;
    let key = plain(properties.iter().find(|property| property.value == entry::KEY)?.data)?;
    let mut protector = [0; 16];
    protector.copy_from_slice(&external.data[..16]);
    Some(External { protector, key })
}

/// Returns the key of an entry that holds one as it is, behind the number of a cipher.
pub(super) fn plain(data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    data.get(4..4 + KEY_SIZE).map(|key| Zeroizing::new(key.to_vec()))
}

/// Stretches the hash of a key: about a million rounds over the last hash, the first one, the salt and the round's number.
pub(super) fn stretch(initial: &Hash, salt: &[u8; 16]) -> Hash {
    const AT_ROUND: usize = 80;
    const STATE: usize = AT_ROUND + 8;
    let mut state = Zeroizing::new([0; STATE]);
    state[32..64].copy_from_slice(&**initial);
    state[64..AT_ROUND].copy_from_slice(salt);
    for round in 0..ROUNDS {
        set_le64(&mut *state, AT_ROUND, round);
        let hash = sha256(&*state);
        state[..32].copy_from_slice(&*hash);
    }
    let mut last = Zeroizing::new([0; 32]);
    last.copy_from_slice(&state[..32]);
    last
}

/// Returns the key that another encrypts; `None` where it is not this one.
///
/// # Errors
/// [`Error::Corrupt`] where it is too short to be a key.
pub(super) fn unwrap(key: &[u8], wrapped: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let wrong = |detail: String| Error::corrupt("encrypted key of BitLocker", detail);
    let Some(inner) = wrapped.len().checked_sub(NONCE + SUM + CONTAINER).filter(|&inner| inner > 0) else {
        return Err(wrong(format!("it has {} bytes", wrapped.len())));
    };
    let Ok(cipher) = ccm::Ccm::<aes::Aes256, U16, U12>::new_from_slice(key) else { return Ok(None) };
    let (nonce, rest) = wrapped.split_at(NONCE);
    let (sum, rest) = rest.split_at(SUM);
    let nonce = nonce.try_into().expect("the nonce's size is that of the cipher");
    let sum = sum.try_into().expect("the sum's size is that of the cipher");
    let mut plain = Zeroizing::new(rest.to_vec());
    if cipher.decrypt_inout_detached(nonce, &[], plain.as_mut_slice().into(), sum).is_err() {
        return Ok(None);
    }
    Ok(Some(Zeroizing::new(plain[plain.len() - inner..].to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_of_a_recovery_key_are_checked() {
        let key = "471207-278498-422125-177177-561902-537405-468006-693451";
        let found = recovery(key).expect("a recovery key");
        assert_eq!(recovery(&key.replace('-', "")).as_deref(), Some(&*found));
        assert_eq!(recovery(&format!(" {}\r\n", key.replace('-', " - "))).as_deref(), Some(&*found));
        for wrong in [&key[1..], &key.replace('7', "8"), &key.replacen("471207", "720896", 1), &format!("{key}0"), ""] {
            assert!(recovery(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn any_bytes_can_be_given_as_a_key() {
        for length in 0..200 {
            let mut bytes = vec![0xff; length];
            for head in [[length as u8, 0, 0, 0, 1, 0, 0, 0, 48, 0, 0, 0], [255; 12]] {
                let count = length.min(head.len());
                bytes[..count].copy_from_slice(&head[..count]);
                assert!(Given::new(&bytes).external.is_none());
            }
        }
    }
}
