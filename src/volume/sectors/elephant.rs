//! CBC with the Elephant diffuser, of the first versions of BitLocker.
//!
//! Specified in N. Ferguson, "AES-CBC + Elephant diffuser: A Disk Encryption Algorithm for Windows Vista" (2006). The whole
//! sector is mixed, so that a change of one bit changes all of it.

use super::cbc::Cbc;
use super::{Block, BlockCipher, IV_UNIT, SectorCipher, add, blocks};
use crate::bytes::{le32, set_le32};

/// How often each diffuser passes over a sector.
const CYCLES: [usize; 2] = [5, 3];
/// By how many bits words are turned, by their numbers.
const TURNS: [[u32; 4]; 2] = [[9, 0, 13, 0], [0, 10, 0, 25]];

/// The most words of a sector.
const WORDS: usize = 1024;

/// Sectors that are mixed before they are chained.
pub(super) struct Elephant<C> {
    pub(super) cbc: Cbc<C>,
    /// Encrypts the place of a sector to the key that it is added to.
    pub(super) tweak: C,
}

impl<C: BlockCipher> Elephant<C> {
    /// Adds the key of the sector `number`.
    fn add_key(&self, sector: &mut [u8], number: u64) {
        let mut key = [Block::default(); 2];
        for half in &mut key {
            half[..8].copy_from_slice(&number.wrapping_mul(IV_UNIT as u64).to_le_bytes());
        }
        key[1][15] = 0x80;
        self.tweak.encrypt_blocks(&mut key);
        blocks(sector).iter_mut().zip(key.iter().cycle()).for_each(|(block, key)| add(block, key));
    }

    /// Returns the number of a sector, in units of 512 bytes.
    fn number(&self, offset: u64, index: usize) -> u64 {
        let units = offset / IV_UNIT as u64 + (index * self.cbc.sector / IV_UNIT) as u64;
        self.cbc.first.wrapping_add(units)
    }
}

impl<C: BlockCipher> SectorCipher for Elephant<C> {
    fn decrypt(&self, sectors: &mut [u8], offset: u64) {
        self.cbc.decrypt(sectors, offset);
        let mut words = [0; WORDS];
        for (index, sector) in sectors.chunks_mut(self.cbc.sector).enumerate() {
            let words = &mut words[..sector.len() / 4];
            words.iter_mut().enumerate().for_each(|(at, word)| *word = le32(sector, 4 * at));
            let count = words.len();
            for _ in 0..CYCLES[1] {
                for at in 0..count {
                    let mixed = words[(at + 2) % count] ^ words[(at + 5) % count].rotate_left(TURNS[1][at % 4]);
                    words[at] = words[at].wrapping_add(mixed);
                }
            }
            for _ in 0..CYCLES[0] {
                for at in 0..count {
                    let (second, fifth) = ((at + count - 2) % count, (at + count - 5) % count);
                    let mixed = words[second] ^ words[fifth].rotate_left(TURNS[0][at % 4]);
                    words[at] = words[at].wrapping_add(mixed);
                }
            }
            words.iter().enumerate().for_each(|(at, word)| set_le32(sector, 4 * at, *word));
            self.add_key(sector, self.number(offset, index));
        }
    }

    fn encrypt(&self, sectors: &mut [u8], offset: u64) {
        let mut words = [0; WORDS];
        for (index, sector) in sectors.chunks_mut(self.cbc.sector).enumerate() {
            self.add_key(sector, self.number(offset, index));
            let words = &mut words[..sector.len() / 4];
            words.iter_mut().enumerate().for_each(|(at, word)| *word = le32(sector, 4 * at));
            let count = words.len();
            for _ in 0..CYCLES[0] {
                for at in (0..count).rev() {
                    let (second, fifth) = ((at + count - 2) % count, (at + count - 5) % count);
                    let mixed = words[second] ^ words[fifth].rotate_left(TURNS[0][at % 4]);
                    words[at] = words[at].wrapping_sub(mixed);
                }
            }
            for _ in 0..CYCLES[1] {
                for at in (0..count).rev() {
                    let mixed = words[(at + 2) % count] ^ words[(at + 5) % count].rotate_left(TURNS[1][at % 4]);
                    words[at] = words[at].wrapping_sub(mixed);
                }
            }
            words.iter().enumerate().for_each(|(at, word)| set_le32(sector, 4 * at, *word));
        }
        self.cbc.encrypt(sectors, offset);
    }
}
