//! Cipher block chaining (CBC) and the electronic code book (ECB) over sectors.

use super::iv::Iv;
use super::{Block, BlockCipher, CHUNK, IV_UNIT, SectorCipher, add, blocks};

/// Sectors whose blocks are chained, each sector from its own initialisation vector.
pub(super) struct Cbc<C> {
    pub(super) cipher: C,
    pub(super) iv: Iv,
    /// The size of a sector, in bytes: 512 to 4096.
    pub(super) sector: usize,
    /// The number of the first sector.
    pub(super) first: u64,
}

impl<C> Cbc<C> {
    fn number(&self, offset: u64, index: usize) -> u64 {
        self.first.wrapping_add(offset / IV_UNIT as u64).wrapping_add((index * self.sector / IV_UNIT) as u64)
    }
}

impl<C: BlockCipher> SectorCipher for Cbc<C> {
    fn decrypt(&self, sectors: &mut [u8], offset: u64) {
        let mut before = [Block::default(); CHUNK / 16];
        for (index, sector) in sectors.chunks_mut(self.sector).enumerate() {
            let sector = blocks(sector);
            let before = &mut before[..sector.len()];
            before[0] = self.iv.of(self.number(offset, index));
            before[1..].copy_from_slice(&sector[..sector.len() - 1]);
            self.cipher.decrypt_blocks(sector);
            sector.iter_mut().zip(before.iter()).for_each(|(block, before)| add(block, before));
        }
    }

    fn encrypt(&self, sectors: &mut [u8], offset: u64) {
        for (index, sector) in sectors.chunks_mut(self.sector).enumerate() {
            let mut before = self.iv.of(self.number(offset, index));
            for block in blocks(sector) {
                add(block, &before);
                self.cipher.encrypt_block(block);
                before = *block;
            }
        }
    }
}

/// Blocks that are encrypted each by itself.
pub(super) struct Ecb<C>(pub(super) C);

impl<C: BlockCipher> SectorCipher for Ecb<C> {
    fn decrypt(&self, sectors: &mut [u8], _: u64) {
        self.0.decrypt_blocks(blocks(sectors));
    }

    fn encrypt(&self, sectors: &mut [u8], _: u64) {
        self.0.encrypt_blocks(blocks(sectors));
    }
}
