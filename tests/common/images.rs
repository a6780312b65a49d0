//! Images made by QEMU's tools, and what these tools say about images.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Numbers that look random and are the same each time.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Bytes that compress a little.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 16);
        while bytes.len() < len {
            let word = self.next().to_le_bytes();
            bytes.extend_from_slice(&word[..6]);
            bytes.extend_from_slice(&[word[0]; 10]);
        }
        bytes.truncate(len);
        bytes
    }
}

/// Runs one of QEMU's programs, which must succeed.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
    let output = run_any(program, arguments);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Runs one of QEMU's programs.
pub fn run_any<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new("timeout").arg("60").arg(program).args(arguments).output().expect("the program starts")
}

pub fn qemu_img(line: &str, folder: &Path) {
    let output = Command::new("timeout")
        .args(["60", "qemu-img"])
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("qemu-img starts");
    assert!(output.status.success(), "qemu-img {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A raw disk with data, zeroes and holes in runs of many lengths.
pub fn make_raw(path: &Path, size: u64, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut disk = vec![0; size as usize];
    let mut at = 0;
    while at < size {
        let len = (1 << random.below(19)).min(size - at);
        if random.below(3) > 0 {
            let bytes = random.bytes(len as usize);
            disk[at as usize..(at + len) as usize].copy_from_slice(&bytes);
        }
        at += len;
    }
    fs::write(path, &disk).expect("writes");
    disk
}

/// The disk that QEMU sees in an image.
pub fn convert(image: &Path) -> Vec<u8> {
    let out = image.with_extension("converted");
    // In the image's folder: QEMU looks for a data file in the folder that it is run in.
    let folder = image.parent().expect("an absolute path");
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    qemu_img(&format!("convert -O raw {} {}", name(image), name(&out)), folder);
    let disk = fs::read(&out).expect("reads");
    fs::remove_file(&out).expect("removes");
    disk
}

/// What `qemu-img check` finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    pub corruptions: u64,
    pub leaks: u64,
    pub errors: u64,
}

pub fn check(image: &Path) -> Check {
    let output = run_any("qemu-img", ["check".as_ref(), "--output=json".as_ref(), image.as_os_str()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("qemu-img check: {}", String::from_utf8_lossy(&output.stderr)));
    let number = |name: &str| json[name].as_u64().unwrap_or(0);
    Check { corruptions: number("corruptions"), leaks: number("leaks"), errors: number("check-errors") }
}

/// Compares two disks and says where they differ first.
pub fn assert_same(ours: &[u8], theirs: &[u8], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}: the sizes differ");
    if let Some(at) = ours.iter().zip(theirs).position(|(one, other)| one != other) {
        panic!("{what}: the first difference is at {at} ({:#x}): {} against {}", at, ours[at], theirs[at]);
    }
}
