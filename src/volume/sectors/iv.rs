//! Initialisation vectors: what a sector's number becomes.

use super::Block;
use cipher::BlockCipherEncrypt;
use cipher::consts::U16;

/// A cipher that encrypts the numbers of sectors.
type Numbers = Box<dyn Fn(&mut Block) + Send + Sync>;

/// How the number of a sector, in units of 512 bytes, becomes an initialisation vector.
pub(super) enum Iv {
    /// None: zeroes.
    Null,
    /// The low 32 bits of the number, little-endian.
    Plain,
    /// The number, little-endian.
    Plain64,
    /// The number that counts sectors of this many units (a power of two, by its exponent), little-endian.
    Plain64Large(u32),
    /// The number, big-endian, at the end.
    Plain64Be,
    /// The number of the sector's first block of the cipher, from 1, big-endian, at the end.
    Benbi,
    /// The number encrypted with a hash of the key.
    Essiv(Numbers),
    /// The sector's place in bytes, encrypted with the key.
    Place(Numbers),
}

impl Iv {
    /// Makes the kind that encrypts numbers with a hash of the key, of which `cipher` is made.
    pub(super) fn essiv(cipher: impl BlockCipherEncrypt<BlockSize = U16> + Send + Sync + 'static) -> Self {
        Self::Essiv(Box::new(move |block| cipher.encrypt_block(block)))
    }

    /// Makes the kind that encrypts the place in bytes by `cipher`.
    pub(super) fn place(cipher: impl BlockCipherEncrypt<BlockSize = U16> + Send + Sync + 'static) -> Self {
        Self::Place(Box::new(move |block| cipher.encrypt_block(block)))
    }

    /// Returns the vector for the sector `number`.
    pub(super) fn of(&self, number: u64) -> Block {
        let mut block = Block::default();
        match self {
            Self::Null => {}
            Self::Plain => block[..4].copy_from_slice(&(number as u32).to_le_bytes()),
            Self::Plain64 => block[..8].copy_from_slice(&number.to_le_bytes()),
            Self::Plain64Large(units) => block[..8].copy_from_slice(&(number >> units).to_le_bytes()),
            Self::Plain64Be => block[8..].copy_from_slice(&number.to_be_bytes()),
            Self::Benbi => block[8..].copy_from_slice(&number.wrapping_shl(5).wrapping_add(1).to_be_bytes()),
            Self::Essiv(encrypt) => {
                block[..8].copy_from_slice(&number.to_le_bytes());
                encrypt(&mut block);
            }
            Self::Place(encrypt) => {
                block[..8].copy_from_slice(&number.wrapping_shl(9).to_le_bytes());
                encrypt(&mut block);
            }
        }
        block
    }
}
