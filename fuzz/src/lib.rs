//! What the fuzz targets share: images with a few bytes changed, and walks over whatever opens.
//!
//! An input is no image, since mutating megabytes leads nowhere: its first byte chooses an image that the real tools made
//! (`fuzz/make-bases`), and the rest changes fields of it. Checksums count as right while fuzzing (`cfg(fuzzing)`), so that
//! the parsers behind them are reached.

use guestctl::block::{BlockDevice, MemoryDevice};
use guestctl::error::{Error, Result};
use guestctl::fs::{FileType, Filesystem, Ino};
use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// An image that inputs change.
pub struct Base {
    /// The name of its file.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where its metadata lies: the offsets of runs of 16 bytes that are not all zero.
    lines: Vec<u32>,
}

/// Returns the images whose names begin with one of `prefixes`, in the order of their names.
pub fn bases(prefixes: &[&str]) -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bases");
        let entries = fs::read_dir(&folder).expect("run fuzz/make-bases first");
        let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
        paths.sort();
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        });
        assert!(!paths.is_empty(), "run fuzz/make-bases first");
        let read = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Base::new(name, fs::read(path).expect("a base can be read"))
        };
        paths.iter().map(read).collect()
    })
}

/// An image with some bytes changed, for reading.
pub struct Patched {
    base: &'static Base,
    changes: Vec<(usize, u8)>,
}

impl Base {
    /// Makes a base of bytes.
    pub fn new(name: String, bytes: Vec<u8>) -> Self {
        let full = |line: &(usize, &[u8])| line.1.iter().any(|&byte| byte != 0);
        let lines = bytes.chunks(16).enumerate().filter(full).map(|(index, _)| index as u32 * 16).collect();
        Self { name, bytes, lines }
    }

    /// Returns the image as it is.
    pub fn whole(&'static self) -> Patched {
        Patched { base: self, changes: Vec::new() }
    }
}

impl Patched {
    /// Returns the image that it was made of.
    pub fn base(&self) -> &'static Base {
        self.base
    }

    /// Returns what was changed: offsets, and their new bytes.
    pub fn changes(&self) -> &[(usize, u8)] {
        &self.changes
    }

    /// Returns all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.base.bytes.clone();
        for &(at, byte) in &self.changes {
            bytes[at] = byte;
        }
        bytes
    }

    /// Returns a device to write to.
    pub fn writable(&self) -> Arc<dyn BlockDevice> {
        Arc::new(MemoryDevice::new(self.to_vec()))
    }
}

impl BlockDevice for Patched {
    fn size(&self) -> u64 {
        self.base.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size());
        let Some(end) = end else {
            return Err(Error::Errno(5));
        };
        let range = offset as usize..end as usize;
        buf.copy_from_slice(&self.base.bytes[range.clone()]);
        for &(at, byte) in self.changes.iter().filter(|(at, _)| range.contains(at)) {
            buf[at - range.start] = byte;
        }
        Ok(())
    }
}

/// Makes the image that an input stands for. What is left of the input is returned with it.
pub fn patched<'a>(bases: &'static [Base], input: &'a [u8]) -> Option<(Patched, &'a [u8])> {
    let (&[which, count], mut rest) = input.split_first_chunk::<2>()?;
    let base = &bases[usize::from(which) % bases.len()];
    let mut changes = Vec::new();
    for _ in 0..count % 16 {
        let Some((change, after)) = rest.split_first_chunk::<13>() else { break };
        rest = after;
        let line = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize % base.lines.len();
        let at = base.lines[line] as usize + usize::from(change[4] & 15);
        let size = 1 << ((change[4] >> 4) & 3);
        let value = &change[5..5 + size];
        for (offset, &byte) in value.iter().enumerate() {
            let Some(&before) = base.bytes.get(at + offset) else { break };
            // A small difference finds limits that a random value jumps over.
            changes.push((at + offset, if change[4] & 0x40 == 0 { byte } else { before.wrapping_add(byte) }));
        }
    }
    Some((Patched { base, changes }, rest))
}

/// Visits what a user could reach of a filesystem; errors are as good as answers.
pub fn walk(fs: &dyn Filesystem) {
    let mut open = vec![fs.root()];
    let mut seen: HashSet<Ino> = HashSet::new();
    let mut buf = vec![0; 1 << 15];
    let _ = fs.statfs();
    while let Some(ino) = open.pop() {
        if seen.len() > 200 || !seen.insert(ino) {
            continue;
        }
        let Ok(attr) = fs.attr(ino) else { continue };
        for name in fs.xattrs(ino).unwrap_or_default().iter().take(20) {
            let _ = fs.xattr(ino, name);
        }
        match attr.file_type {
            FileType::Directory => {
                let mut names = Vec::new();
                let _ = fs.read_dir(ino, 0, &mut |entry| {
                    names.push((entry.name.to_vec(), entry.ino));
                    if names.len() < 500 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
                let _ = fs.parent(ino);
                for (name, ino) in names.iter().take(60) {
                    let _ = fs.lookup(attr.ino, name);
                    open.push(*ino);
                }
                let _ = fs.lookup(attr.ino, b"no such name");
            }
            FileType::Symlink => {
                let _ = fs.read_link(ino);
            }
            FileType::Regular => {
                for offset in [0, attr.size / 2, attr.size.saturating_sub(100)] {
                    let _ = fs.read(ino, offset, &mut buf);
                }
                let mut at = 0;
                for _ in 0..20 {
                    let Ok(data) = fs.next_data(ino, at) else { break };
                    let Ok(hole) = fs.next_hole(ino, data) else { break };
                    at = hole;
                }
            }
            _ => {}
        }
    }
}
