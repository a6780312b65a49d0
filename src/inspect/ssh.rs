//! Fingerprints of the SSH host keys, as `ssh-keygen -l` shows them.
//!
//! The public key's file is specified in sshd(8), the fingerprint is the SHA-256 of the key in Base64 (RFC 4648) without
//! padding.

use super::read::{Guest, shorten, tidy};
use super::types::HostKey;
use sha2::{Digest, Sha256};

/// Reads the public host keys.
pub(super) fn host_keys(guest: &Guest<'_>) -> Vec<HostKey> {
    let mut keys = Vec::new();
    for folder in ["/etc/ssh", "/etc/dropbear", "/var/lib/ssh"] {
        for path in guest.list_ending(folder, ".pub").into_iter().take(64) {
            let named = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
            if !named.starts_with(b"ssh_host_") && !named.starts_with(b"dropbear_") {
                continue;
            }
            let Some(text) = guest.text(&path) else { continue };
            let mut words = text.split_whitespace();
            let key = words.next().zip(words.next().and_then(decode));
            let Some((algorithm, key)) = key else {
                guest.warn(format!("{}: it is no public key", tidy(&path)));
                continue;
            };
            keys.push(HostKey {
                path: tidy(&path),
                algorithm: shorten(algorithm).to_owned(),
                fingerprint: format!("SHA256:{}", encode(&Sha256::digest(&key))),
            });
        }
    }
    keys
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Decodes Base64.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits: u32 = 0;
        for &digit in group {
            let value = DIGITS.iter().position(|&known| known == digit)?;
            bits = bits << 6 | value as u32;
        }
        let bytes = (bits << (6 * (4 - group.len()))).to_be_bytes();
        out.extend_from_slice(bytes.get(1..group.len())?);
        if group.len() == 1 {
            return None;
        }
    }
    (!out.is_empty()).then_some(out)
}

/// Encodes Base64 without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for place in 0..=group.len() {
            let digit = bits >> (18 - 6 * place) & 63;
            out.push(char::from(DIGITS[digit as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn base64_goes_both_ways() {
        for text in ["Zg", "Zm8", "Zm9v", "Zm9vYg", "Zm9vYmFy"] {
            assert_eq!(encode(&decode(text).expect("whole")), text);
        }
        assert_eq!(crate::inspect::base64(b"fo"), "Zm8=");
        assert_eq!(decode("Zm8=").as_deref(), Some(b"fo".as_slice()));
        assert_eq!(decode("Z"), None);
        assert_eq!(decode("Zm9vZ"), None);
        assert_eq!(decode("Z!"), None);
        assert_eq!(decode(""), None);
    }

    #[test]
    fn a_fingerprint_is_that_of_ssh_keygen() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0sq2BvVjj5BGxPBD4iSxRbPEpuHFQHT5HZmEBpyTG1 root@host\n";
        let tree =
            Fixture::new().file("etc/ssh/ssh_host_ed25519_key.pub", key).file("etc/ssh/ssh_host_x.pub", "?").tree();
        let guest = Guest::new(&tree);
        let keys = host_keys(&guest);
        assert_eq!(keys.len(), 1);
        assert_eq!(keys[0].algorithm, "ssh-ed25519");
        assert_eq!(keys[0].fingerprint, "SHA256:lG6kTlzXwGipYj533XmTIKOZfSvWA8vopjAC6NvN7gw");
        assert_eq!(guest.into_warnings().len(), 1);
    }
}
