//! XTS and LRW: each block is encrypted between two additions of a mask that depends on its place.
//!
//! XTS is specified in IEEE 1619-2007. LRW is that standard's draft of 2005, which old volumes use. The many blocks of a
//! chunk are encrypted by one call, so that the cipher's instructions run side by side.

use super::iv::Iv;
use super::{Block, BlockCipher, CHUNK, IV_UNIT, SectorCipher, add, blocks};
use zeroize::Zeroize;

/// What each doubling adds when a bit falls out, in both modes' fields.
const POLYNOMIAL: u128 = 0x87;

/// Where the masks of a sector come from.
pub(super) enum Masks<C> {
    /// XTS: the initialisation vector, encrypted by this cipher, and doubled for each block.
    Xts(C),
    /// LRW: a product of the block's number and a key.
    Lrw(Box<Products>),
}

/// Sectors encrypted by XTS or LRW.
pub(super) struct Xex<C> {
    pub(super) cipher: C,
    pub(super) masks: Masks<C>,
    pub(super) iv: Iv,
    /// The size of a sector, in bytes: 512 to 4096.
    pub(super) sector: usize,
    /// The number of the first sector.
    pub(super) first: u64,
}

/// Multiples of the key of LRW: by the integers whose lowest 1, 2, … 128 bits are all set.
pub(super) struct Products([u128; 128]);

impl Products {
    /// Makes the multiples of a key.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let mut power = u128::from_be_bytes(*key);
        let mut sum = 0;
        let products = std::array::from_fn(|_| {
            sum ^= power;
            power = double(power);
            sum
        });
        Self(products)
    }

    /// Returns the product of the key and a number.
    fn times(&self, number: u128) -> u128 {
        // The bit k alone is the sum of the lowest k + 1 bits and the lowest k.
        (0..128).filter(|bit| number >> bit & 1 == 1).fold(0, |sum, bit| {
            let below = if bit == 0 { 0 } else { self.0[bit - 1] };
            sum ^ self.0[bit] ^ below
        })
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn double(value: u128) -> u128 {
    value << 1 ^ ((value >> 127) * POLYNOMIAL)
}

impl<C: BlockCipher> Xex<C> {
    /// Fills `masks` for the blocks from `offset` on.
    fn fill(&self, masks: &mut [Block], offset: u64) {
        let width = self.sector / 16;
        let count = masks.len() / width;
        let mut vectors = [Block::default(); CHUNK / IV_UNIT];
        let vectors = &mut vectors[..count];
        for (index, vector) in vectors.iter_mut().enumerate() {
            let units = offset / IV_UNIT as u64 + (index * self.sector / IV_UNIT) as u64;
            *vector = self.iv.of(self.first.wrapping_add(units));
        }
        match &self.masks {
            Masks::Xts(cipher) => {
                cipher.encrypt_blocks(vectors);
                for (sector, vector) in masks.chunks_mut(width).zip(vectors.iter()) {
                    let mut mask = u128::from_le_bytes(vector.0);
                    for block in sector {
                        block.0 = mask.to_le_bytes();
                        mask = double(mask);
                    }
                }
            }
            Masks::Lrw(products) => {
                for (sector, vector) in masks.chunks_mut(width).zip(vectors.iter()) {
                    let mut number = u128::from_be_bytes(vector.0);
                    let mut mask = products.times(number);
                    for block in sector {
                        block.0 = mask.to_be_bytes();
                        // The next number differs in its lowest bits, up to the first that is not set.
                        mask ^= products.0[(number.trailing_ones() as usize).min(127)];
                        number = number.wrapping_add(1);
                    }
                }
            }
        }
    }

    fn run(&self, sectors: &mut [u8], offset: u64, crypt: impl Fn(&mut [Block])) {
        let mut masks = [Block::default(); CHUNK / 16];
        for (index, chunk) in sectors.chunks_mut(CHUNK).enumerate() {
            let chunk = blocks(chunk);
            let masks = &mut masks[..chunk.len()];
            self.fill(masks, offset + (index * CHUNK) as u64);
            chunk.iter_mut().zip(masks.iter()).for_each(|(block, mask)| add(block, mask));
            crypt(chunk);
            chunk.iter_mut().zip(masks.iter()).for_each(|(block, mask)| add(block, mask));
        }
    }
}

impl<C: BlockCipher> SectorCipher for Xex<C> {
    fn decrypt(&self, sectors: &mut [u8], offset: u64) {
        self.run(sectors, offset, |blocks| self.cipher.decrypt_blocks(blocks));
    }

    fn encrypt(&self, sectors: &mut [u8], offset: u64) {
        self.run(sectors, offset, |blocks| self.cipher.encrypt_blocks(blocks));
    }
}
