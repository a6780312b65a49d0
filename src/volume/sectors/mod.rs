//! Encrypted devices: ciphers over sectors, and a device of them.
//!
//! LUKS and BitLocker differ in how a key is found; once it is, both are sectors that are each encrypted by themselves.
//! Names of ciphers are those of the Linux kernel (`aes-xts-plain64`). All keys are wiped when they go.

mod cbc;
mod device;
mod elephant;
mod iv;
mod spec;
mod xex;

pub(super) use device::{CryptDevice, Piece};
pub(super) use spec::CipherSpec;

use cipher::array::Array;
use cipher::consts::U16;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser};

/// A block of a cipher: 16 bytes.
type Block = Array<u8, U16>;

/// How many bytes a sector has whose number counts for an initialisation vector, whatever the sectors' size.
const IV_UNIT: usize = 512;

/// How many bytes are worked on at once: as much as stays in the nearest cache, and whole sectors of any size.
const CHUNK: usize = 4096;

/// Encrypts and decrypts whole sectors.
pub(super) trait SectorCipher: Send + Sync {
    /// Decrypts in place. `offset` is the place of `sectors` in what is encrypted, in bytes; both are whole sectors.
    fn decrypt(&self, sectors: &mut [u8], offset: u64);

    /// Encrypts in place; otherwise as [`decrypt`](Self::decrypt).
    fn encrypt(&self, sectors: &mut [u8], offset: u64);
}

/// A cipher of blocks of 16 bytes.
trait BlockCipher: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync {}

impl<C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16> + Send + Sync> BlockCipher for C {}

/// Returns a slice as blocks; its length is a multiple of theirs.
fn blocks(bytes: &mut [u8]) -> &mut [Block] {
    let (blocks, rest) = Block::slice_as_chunks_mut(bytes);
    debug_assert!(rest.is_empty(), "sectors are whole blocks");
    blocks
}

/// Adds (XOR) the bytes of `other` to `block`.
fn add(block: &mut Block, other: &Block) {
    let sum = u128::from_ne_bytes(block.0) ^ u128::from_ne_bytes(other.0);
    block.0 = sum.to_ne_bytes();
}
