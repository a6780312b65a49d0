//! The anti-forensic splitter: a key stretched over many stripes, each of which is needed to get it back.
//!
//! Specified in the LUKS1 On-Disk Format Specification.

use crate::volume::hash::Hash;
use zeroize::Zeroizing;

/// Returns the key that `material` holds, which is `stripes` times as long.
pub(super) fn merge(material: &[u8], stripes: usize, hash: Hash) -> Zeroizing<Vec<u8>> {
    let length = material.len() / stripes;
    let mut sum = Zeroizing::new(vec![0; length]);
    let mut stripes = material.chunks_exact(length).peekable();
    while let Some(stripe) = stripes.next() {
        sum.iter_mut().zip(stripe).for_each(|(sum, byte)| *sum ^= byte);
        if stripes.peek().is_some() {
            diffuse(&mut sum, hash);
        }
    }
    sum
}

/// Replaces each run of bytes as long as the hash's result by the hash of its number and itself.
fn diffuse(bytes: &mut [u8], hash: Hash) {
    let width = hash.digest(&[]).len();
    for (number, run) in bytes.chunks_mut(width).enumerate() {
        let digest = hash.digest(&[&(number as u32).to_be_bytes(), run]);
        run.copy_from_slice(&digest[..run.len()]);
    }
}
