//! From a passphrase to the key of a key slot.

use crate::error::{Error, Result};
use crate::volume::hash::Hash;
use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

/// Iterations of PBKDF2 that a header may ask for: minutes of a fast processor.
pub(super) const MAX_ITERATIONS: u32 = 1 << 27;

/// How much memory a header may ask for, in KiB: cryptsetup's own limit.
const MAX_MEMORY: u32 = 4 << 20;

/// How much memory, in KiB, times how many passes a header may ask for.
const MAX_WORK: u64 = 64 << 20;

/// What a process needs beside the memory that is asked for, in bytes.
const RESERVE: u64 = 32 << 20;

/// How the key of a slot is derived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kdf {
    /// PBKDF2 with an HMAC.
    Pbkdf2 { hash: Hash, iterations: u32, salt: Vec<u8> },
    /// Argon2i, or Argon2id where `mixed` is set; memory in KiB.
    Argon2 { mixed: bool, passes: u32, memory: u32, lanes: u32, salt: Vec<u8> },
}

impl Kdf {
    /// Derives a key of `length` bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for parameters out of all bounds; [`Error::Unsupported`] where this process may not use as much
    /// memory as is asked for, with both numbers.
    pub(super) fn derive(&self, passphrase: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>> {
        let wrong = |detail: String| Error::corrupt("key derivation of a LUKS key slot", detail);
        let mut key = Zeroizing::new(vec![0; length]);
        match self {
            Self::Pbkdf2 { hash, iterations, salt } => {
                check_iterations(*iterations)?;
                hash.pbkdf2(passphrase, salt, *iterations, &mut key);
            }
            Self::Argon2 { mixed, passes, memory, lanes, salt } => {
                let (passes, memory, lanes) = (*passes, *memory, *lanes);
                if memory > MAX_MEMORY || u64::from(memory) * u64::from(passes) > MAX_WORK {
                    return Err(wrong(format!("it asks for {passes} passes over {memory} KiB")));
                }
                check_memory(u64::from(memory) << 10, available())?;
                let algorithm = if *mixed { Algorithm::Argon2id } else { Algorithm::Argon2i };
                let params =
                    Params::new(memory, passes, lanes, Some(length)).map_err(|error| wrong(error.to_string()))?;
                let argon2 = Argon2::new(algorithm, Version::V0x13, params);
                argon2.hash_password_into(passphrase, salt, &mut key).map_err(|error| match error {
                    argon2::Error::OutOfMemory => too_much(u64::from(memory) << 10, 0),
                    other => wrong(other.to_string()),
                })?;
            }
        }
        Ok(key)
    }
}

/// Refuses numbers of iterations that are none, or would take hours.
///
/// # Errors
/// [`Error::Corrupt`].
pub(super) fn check_iterations(iterations: u32) -> Result<()> {
    if iterations == 0 || iterations > MAX_ITERATIONS {
        return Err(Error::corrupt("key derivation of LUKS", format!("it asks for {iterations} iterations")));
    }
    Ok(())
}

/// Returns how many bytes this process can still use, as far as that is known.
fn available() -> u64 {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let host = field("/proc/meminfo", "MemAvailable").unwrap_or(u64::MAX);
    let used = field("/proc/self/status", "VmSize").unwrap_or(0);
    let limit = crate::sys::address_limit().map_or(u64::MAX, |limit| limit.saturating_sub(used));
    host.min(limit)
}

fn check_memory(wanted: u64, available: u64) -> Result<()> {
    if wanted.saturating_add(RESERVE) > available {
        return Err(too_much(wanted, available));
    }
    Ok(())
}

fn too_much(wanted: u64, available: u64) -> Error {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (wanted, available) = (mib(wanted + RESERVE), available >> 20);
    Error::unsupported(format!(
        "deriving the key (Argon2) with so little memory: it takes {wanted} MiB, and {available} MiB can be used; raise \
         the limit (ulimit -v), free memory, or add a key slot with PBKDF2 (cryptsetup luksAddKey --pbkdf pbkdf2)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_not_there_is_not_asked_for() {
        check_memory(1 << 30, 2 << 30).expect("there is enough");
        let error = check_memory(1 << 30, 512 << 20).expect_err("there is too little").to_string();
        assert!(error.contains("it takes 1056 MiB, and 512 MiB can be used"), "{error}");
    }

    #[test]
    fn absurd_parameters_are_refused_before_anything_is_done() {
        let salt = vec![0; 32];
        let pbkdf2 = Kdf::Pbkdf2 { hash: Hash::Sha256, iterations: u32::MAX, salt: salt.clone() };
        assert!(matches!(pbkdf2.derive(b"", 32), Err(Error::Corrupt { .. })));
        for (passes, memory, lanes) in [(4, u32::MAX, 4), (u32::MAX, 1024, 4), (4, 8, 1000), (0, 1024, 1), (1, 1024, 0)]
        {
            let argon2 = Kdf::Argon2 { mixed: true, passes, memory, lanes, salt: salt.clone() };
            assert!(matches!(argon2.derive(b"", 32), Err(Error::Corrupt { .. })), "{passes} {memory} {lanes}");
        }
    }
}
