//! Opens and reads damaged VHDX files: one by itself, one with a log that waits, one that differs from a parent.
#![no_main]

#[path = "../../tests/common/vhdx.rs"]
mod writer;

use guestctl::block::{self, OpenOptions, Via};
use guestctl::cache::CachePool;
use guestctl_fuzz::{Base, patched};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use tempfile::TempDir;
use writer::{BAT, Block, Change, MIB, Vhdx, braced};

/// The files, in a folder where each of them lies as a file that inputs change and change back.
struct Files {
    bases: &'static [Base],
    folder: TempDir,
}

fn files() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let plain = Vhdx {
            size: 3 * MIB as u64,
            block: MIB,
            sector: 512,
            id: [9; 16],
            parent: Vec::new(),
            blocks: [(0, Block::Whole(vec![7; MIB])), (2, Block::State(2))].into(),
        };
        let sectors: BTreeMap<usize, Vec<u8>> = (0..200).step_by(3).map(|sector| (sector, vec![1; 512])).collect();
        let parent = vec![("parent_linkage", braced(&[9; 16])), ("relative_path", ".\\plain".into())];
        let top = Vhdx { parent, id: [8; 16], blocks: [(1, Block::Partly(sectors))].into(), ..plain.clone() };
        let mut log = plain.write();
        let page = log[BAT..BAT + 4096].to_vec();
        let entries = [vec![Change::Zeroes(BAT as u64, 8192)], vec![Change::Page(BAT as u64, page)]];
        let len = log.len() as u64;
        writer::log(&mut log, &entries, len);
        let folder = TempDir::new().expect("a temporary folder");
        let named = [("log", log), ("plain", plain.write()), ("top", top.write())];
        let bases: Vec<Base> = named.into_iter().map(|(name, bytes)| Base::new(name.to_owned(), bytes)).collect();
        for base in &bases {
            fs::write(folder.path().join(&base.name), &base.bytes).expect("writes");
        }
        Files { bases: bases.leak(), folder }
    })
}

fuzz_target!(|input: &[u8]| {
    let files = files();
    let Some((image, script)) = patched(files.bases, input) else { return };
    let path: PathBuf = files.folder.path().join(&image.base().name);
    let file = File::options().write(true).open(&path).expect("opens");
    for &(at, byte) in image.changes() {
        file.write_all_at(&[byte], at as u64).expect("writes");
    }
    let options = OpenOptions { via: Via::Native, cache: CachePool::new(4 << 20), ..OpenOptions::default() };
    if let Ok(disk) = block::open(&path, &options) {
        let size = disk.device.size();
        let mut buf = vec![0; 70_000];
        for step in [&[0; 4], &[0, 0, 8, 200], &[0, 0, 4, 100]].into_iter().map(|step| &step[..]).chain(script.chunks_exact(4)).take(30) {
            let offset = u64::from(u16::from_le_bytes([step[1], step[2]])) * 1024 % size.max(1);
            let len = (u64::from(step[3]) * 300).min(size - offset);
            let _ = disk.device.read_at(&mut buf[..len.min(70_000) as usize], offset);
            let _ = disk.device.map(offset, len);
        }
    }
    for &(at, _) in image.changes() {
        file.write_all_at(&image.base().bytes[at..=at], at as u64).expect("writes");
    }
});
