//! The hashes that key derivation names, as cryptsetup names them.

use crate::error::{Error, Result};
use hmac::SimpleHmac;
use sha2::Digest;
use zeroize::Zeroizing;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Ripemd160,
    Whirlpool,
    Sha3_256,
    Sha3_512,
    Blake2b512,
    Blake2s256,
}

/// Runs a generic call with the type of a hash.
macro_rules! with_hash {
    ($hash:expr, $call:ident($($argument:expr),*)) => {
        match $hash {
            Hash::Sha1 => $call::<sha1::Sha1>($($argument),*),
            Hash::Sha224 => $call::<sha2::Sha224>($($argument),*),
            Hash::Sha256 => $call::<sha2::Sha256>($($argument),*),
            Hash::Sha384 => $call::<sha2::Sha384>($($argument),*),
            Hash::Sha512 => $call::<sha2::Sha512>($($argument),*),
            Hash::Ripemd160 => $call::<ripemd::Ripemd160>($($argument),*),
            Hash::Whirlpool => $call::<whirlpool::Whirlpool>($($argument),*),
            Hash::Sha3_256 => $call::<sha3::Sha3_256>($($argument),*),
            Hash::Sha3_512 => $call::<sha3::Sha3_512>($($argument),*),
            Hash::Blake2b512 => $call::<blake2::Blake2b512>($($argument),*),
            Hash::Blake2s256 => $call::<blake2::Blake2s256>($($argument),*),
        }
    };
}

impl Hash {
    /// Returns the hash of a name.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with the name, for one that is not known.
    pub(super) fn from_name(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "ripemd160" => Self::Ripemd160,
            "whirlpool" => Self::Whirlpool,
            "sha3-256" => Self::Sha3_256,
            "sha3-512" => Self::Sha3_512,
            "blake2b-512" => Self::Blake2b512,
            "blake2s-256" => Self::Blake2s256,
            _ => return Err(Error::unsupported(format!("the hash {name:?}"))),
        })
    }

    /// Returns the hash of some bytes in a row.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        fn digest<D: Digest>(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
            let mut hash = D::new();
            parts.iter().for_each(|part| hash.update(part));
            Zeroizing::new(hash.finalize().to_vec())
        }
        with_hash!(self, digest(parts))
    }

    /// Fills `out` by PBKDF2 with an HMAC of this hash.
    pub(super) fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        match self {
            // These have a faster HMAC, which keeps the state after the key's block.
            Self::Sha1 => pbkdf2::pbkdf2_hmac::<sha1::Sha1>(password, salt, iterations, out),
            Self::Sha224 => pbkdf2::pbkdf2_hmac::<sha2::Sha224>(password, salt, iterations, out),
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password, salt, iterations, out),
            Self::Sha384 => pbkdf2::pbkdf2_hmac::<sha2::Sha384>(password, salt, iterations, out),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password, salt, iterations, out),
            Self::Ripemd160 => pbkdf2::pbkdf2_hmac::<ripemd::Ripemd160>(password, salt, iterations, out),
            Self::Whirlpool => pbkdf2::pbkdf2_hmac::<whirlpool::Whirlpool>(password, salt, iterations, out),
            Self::Sha3_256 => simple::<sha3::Sha3_256>(password, salt, iterations, out),
            Self::Sha3_512 => simple::<sha3::Sha3_512>(password, salt, iterations, out),
            Self::Blake2b512 => simple::<blake2::Blake2b512>(password, salt, iterations, out),
            Self::Blake2s256 => simple::<blake2::Blake2s256>(password, salt, iterations, out),
        }
    }
}

fn simple<D: Digest + cipher::BlockSizeUser + Clone>(password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    pbkdf2::pbkdf2::<SimpleHmac<D>>(password, salt, iterations, out).expect("an HMAC takes a key of any length");
}
