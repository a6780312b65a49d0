//! Opens, reads and writes damaged qcow2 images.
#![no_main]

use guestctl::block::{self, OpenOptions, Via};
use guestctl::cache::CachePool;
use guestctl_fuzz::{bases, patched};
use libfuzzer_sys::fuzz_target;
use std::io::Write;

fuzz_target!(|input: &[u8]| {
    let Some((image, script)) = patched(bases(&["qcow2"]), input) else { return };
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(&image.to_vec()).expect("writes");
    for writable in [false, true] {
        let options = OpenOptions { via: Via::Native, writable, cache: CachePool::new(4 << 20), ..OpenOptions::default() };
        let Ok(disk) = block::open(file.path(), &options) else { continue };
        let size = disk.device.size();
        let mut buf = vec![0; 70_000];
        let _ = disk.device.read_at(&mut buf[..size.min(70_000) as usize], 0);
        for step in script.chunks_exact(4).take(30) {
            let offset = u64::from(u16::from_le_bytes([step[1], step[2]])) * 1024 % size.max(1);
            let len = (u64::from(step[3]) * 300).min(size - offset);
            let _ = match step[0] % 6 {
                0 => disk.device.read_at(&mut buf[..len.min(70_000) as usize], offset),
                1 => disk.device.map(offset, len).map(|_| ()),
                2 => disk.device.write_at(&buf[..len.min(70_000) as usize], offset),
                3 => disk.device.write_zeroes(offset, len, step[3] & 1 == 0),
                4 => disk.device.discard(offset, len),
                _ => disk.device.flush(),
            };
        }
    }
});
