//! What the test programs share.

#![allow(dead_code, reason = "each test program uses its own part")]

pub mod folders;
pub mod guest;
pub mod volumes;

use std::env;
use std::path::{Path, PathBuf};

/// Says that a test cannot run here, and why. On a machine for continuous integration (`CI` is set) that is a failure.
pub fn skip(why: &str) {
    assert!(env::var_os("CI").is_none(), "cannot be tested here: {why}");
    println!("SKIPPED: {why}");
}

/// Says whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Finds a program on the path, and where a plain user's path leaves administrators' programs out.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok() && file.is_file()
}

/// Says whether a program is installed; a part of a test that goes without it is skipped, and that is said.
pub fn is_there(name: &str) -> bool {
    let found = has_tool(name);
    if !found {
        skip(&format!("there is no {name}"));
    }
    found
}

/// Says whether a program is installed.
pub fn has_tool(name: &str) -> bool {
    tool(name).is_some()
}

/// Returns bytes that do not repeat soon.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}
