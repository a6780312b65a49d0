//! A directory, decoded: its names, and where their entries lie.

use super::boot::Width;
use super::entry::{ENTRY_SIZE, Slot};
use super::name::{self, LongName};
use crate::fs::{DirEntry, FileType, Ino};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The most bytes that a directory may have.
pub const MAX_SIZE: u64 = 65536 * ENTRY_SIZE as u64;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    name_at: u32,
    name_len: u16,
    short_name: [u8; 11],
    /// Whether it names a directory.
    pub is_directory: bool,
    /// The inode: where the entry lies on the device, in units of an entry's size.
    pub ino: Ino,
    /// The first cluster.
    pub cluster: u32,
}

/// A directory.
#[derive(Debug, Default)]
pub struct Directory {
    names: Vec<u8>,
    entries: Vec<Listed>,
    /// Hashes of folded names, long and short, with the entry they belong to; in their order.
    index: Vec<(u64, u32)>,
    /// How many directories it holds.
    pub subdirectories: u32,
    /// The label of the filesystem, which the root directory holds.
    pub label: Option<[u8; 11]>,
}

impl Directory {
    /// Returns how much memory it takes, about, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.names.capacity()
            + self.entries.capacity() * size_of::<Listed>()
            + self.index.capacity() * size_of::<(u64, u32)>()
    }

    /// Returns the entries.
    pub fn entries(&self) -> &[Listed] {
        &self.entries
    }

    /// Returns what is shown of the entry at `at`.
    pub fn shown(&self, at: usize) -> Option<DirEntry<'_>> {
        self.entries.get(at).map(|entry| DirEntry {
            name: self.name(entry),
            ino: entry.ino,
            file_type: Some(if entry.is_directory { FileType::Directory } else { FileType::Regular }),
            next_cookie: at as u64 + 1,
        })
    }

    fn name(&self, entry: &Listed) -> &[u8] {
        &self.names[entry.name_at as usize..][..usize::from(entry.name_len)]
    }

    /// Finds a name: as it is shown, or else in other letter case, or else by its short name.
    pub fn find(&self, name: &[u8]) -> Option<&Listed> {
        // Windows leaves dots at the end out, and so does Linux.
        let end = name.iter().rposition(|&byte| byte != b'.')?;
        let name = &name[..=end];
        let folded = name::fold(name);
        let wanted = hash(&folded);
        let from = self.index.partition_point(|&(hash, _)| hash < wanted);
        let candidates = || {
            let same = self.index[from..].iter().take_while(|&&(hash, _)| hash == wanted);
            same.filter_map(|&(_, at)| self.entries.get(at as usize))
        };
        let as_shown = candidates().find(|entry| self.name(entry) == name);
        as_shown
            .or_else(|| candidates().find(|entry| name::fold(self.name(entry)) == folded))
            .or_else(|| candidates().find(|entry| name::fold(name::short(&entry.short_name, 0).as_bytes()) == folded))
    }
}

fn hash(folded: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    folded.hash(&mut hasher);
    hasher.finish()
}

/// Decodes a directory slot by slot.
#[derive(Default)]
pub struct Builder {
    directory: Directory,
    long_name: LongName,
}

impl Builder {
    /// Adds the slots of `bytes`, which lie at `offset` of the device. Returns whether the directory goes on.
    pub fn add(&mut self, bytes: &[u8], offset: u64, width: Width) -> bool {
        let first = offset / ENTRY_SIZE as u64;
        for (ino, slot) in (first..).zip(bytes.chunks_exact(ENTRY_SIZE)) {
            match Slot::parse(slot, width) {
                Slot::End => return false,
                Slot::LongName(piece) => {
                    self.long_name.add(piece);
                    continue;
                }
                Slot::File(entry) => {
                    let long = self.long_name.take(&entry.short_name).and_then(name::presentable);
                    let short = || name::presentable(name::short(&entry.short_name, entry.case_flags));
                    if let Some(name) = long.or_else(short) {
                        let listed = Listed {
                            name_at: self.directory.names.len() as u32,
                            name_len: name.len() as u16,
                            short_name: entry.short_name,
                            is_directory: entry.is_directory,
                            ino,
                            cluster: entry.cluster,
                        };
                        self.push(listed, &name);
                    }
                }
                Slot::Label(label) => {
                    let mut field = [0; 11];
                    field.copy_from_slice(label);
                    self.directory.label.get_or_insert(field);
                }
                Slot::Free | Slot::Dots => {}
            }
            self.long_name.clear();
        }
        true
    }

    fn push(&mut self, listed: Listed, name: &[u8]) {
        let directory = &mut self.directory;
        let at = directory.entries.len() as u32;
        directory.names.extend_from_slice(name);
        directory.subdirectories += u32::from(listed.is_directory);
        let long = hash(&name::fold(name));
        directory.index.push((long, at));
        let short = hash(&name::fold(name::short(&listed.short_name, 0).as_bytes()));
        if short != long {
            directory.index.push((short, at));
        }
        directory.entries.push(listed);
    }

    /// Returns the directory.
    pub fn finish(self) -> Directory {
        let mut directory = self.directory;
        directory.index.sort_unstable();
        directory.names.shrink_to_fit();
        directory.entries.shrink_to_fit();
        directory.index.shrink_to_fit();
        directory
    }
}
