//! Golden members of arrays and volume groups, made by the real tools.

use guestctl::block::{BlockDevice, MemoryDevice};
use guestctl::volume::{Source, Stack};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The bytes of the disks of a group.
pub type Members = Vec<Vec<u8>>;

/// What the kernel said of each volume: its size, in bytes, and its checksum.
pub type Sums = BTreeMap<String, (u64, String)>;

/// Reads lines of a name, a size and a checksum.
pub fn sums(text: &str) -> Sums {
    let line = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        let name = fields.next().expect("a name");
        let size = fields.next().and_then(|size| size.parse().ok()).expect("a size");
        (name, (size, fields.next().expect("a checksum")))
    };
    text.lines().map(line).collect()
}

/// Reads a little of every volume; an error is as good as bytes, a panic is not.
pub fn touch(stack: &Stack) {
    let mut buf = [0; 4096];
    for found in &stack.volumes {
        let size = found.volume.device.size();
        for offset in [0, size / 2, size.saturating_sub(4096)] {
            let _ = found.volume.device.read_at(&mut buf, offset);
        }
        let _ = found.volume.device.map(0, size);
    }
}

/// Unpacks the golden images of a kind, in the order of their names.
pub fn golden(kind: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/volumes/{kind}.tar.zst"));
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut decoder = zstd::Decoder::new(&packed[..]).expect("zstd");
    decoder.window_log_max(27).expect("a number that zstd takes");
    let mut archive = tar::Archive::new(decoder);
    let mut files = Vec::new();
    for entry in archive.entries().expect("tar") {
        let mut entry = entry.expect("tar");
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let name = entry.path().expect("a name").file_name().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("zstd");
        files.push((name, bytes));
    }
    files.sort();
    files
}

/// Returns disks of bytes, in their order.
pub fn sources(disks: &[Vec<u8>]) -> Vec<Source> {
    let source = |(index, bytes): (usize, &Vec<u8>)| Source {
        name: guestctl::volume::disk_name(index),
        device: Arc::new(MemoryDevice::new(bytes.clone())),
        location: format!("disk {index}"),
    };
    disks.iter().enumerate().map(source).collect()
}

/// Writes disks into a folder, each to a file of its own that is sparse; returns their paths.
pub fn save(disks: &[Vec<u8>], folder: &Path) -> Vec<PathBuf> {
    const PIECE: usize = 64 << 10;
    let zeroes = vec![0; PIECE];
    let save = |(index, bytes): (usize, &Vec<u8>)| {
        let path = folder.join(format!("disk-{index}"));
        let file = std::fs::File::create(&path).expect("a new file");
        file.set_len(bytes.len() as u64).expect("a new size");
        for (at, piece) in bytes.chunks(PIECE).enumerate().filter(|(_, piece)| *piece != &zeroes[..piece.len()]) {
            file.write_all_at(piece, (at * PIECE) as u64).expect("room");
        }
        path
    };
    disks.iter().enumerate().map(save).collect()
}

/// Returns the checksum of a device, read in pieces that fit no chunk.
pub fn sha256(device: &dyn BlockDevice) -> String {
    let mut state = Sha256::new();
    let mut buffer = vec![0; 99_999];
    let mut offset = 0;
    while offset < device.size() {
        let count = (device.size() - offset).min(buffer.len() as u64) as usize;
        device.read_at(&mut buffer[..count], offset).expect("reads");
        state.update(&buffer[..count]);
        offset += count as u64;
    }
    state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Stores the checksum of a superblock of MD, so that a change in it is believed.
pub fn fix_md_checksum(superblock: &mut [u8], is_old: bool) {
    let (field, len) = if is_old {
        (152, 4096)
    } else {
        let roles = u32::from_le_bytes(superblock[220..224].try_into().expect("4 bytes")) as usize;
        (216, (256 + 2 * roles).min(superblock.len()))
    };
    superblock[field..field + 4].fill(0);
    let words = superblock[..len].chunks_exact(4);
    let rest = words.remainder();
    let mut sum: u64 = words.map(|word| u64::from(u32::from_le_bytes(word.try_into().expect("4 bytes")))).sum();
    if rest.len() == 2 {
        sum += u64::from(u16::from_le_bytes(rest.try_into().expect("2 bytes")));
    }
    let sum = (sum as u32).wrapping_add((sum >> 32) as u32);
    superblock[field..field + 4].copy_from_slice(&sum.to_le_bytes());
}
