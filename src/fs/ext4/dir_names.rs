//! Where the names of a large directory without a hash tree lie, remembered so that each lookup need not read all of it.
//!
//! It serves a filesystem that does not change while it is open: nothing here follows changes.

use super::checksum::crc32c;
use super::dir;
use super::directory::Wanted;
use super::inode::Inode;
use super::volume::Volume;
use crate::error::Result;
use std::ops::ControlFlow;
use std::sync::Arc;

/// The least size of a directory that is worth it, in blocks.
const LEAST_BLOCKS: u64 = 4;
/// The largest directory that is remembered, in bytes: what is kept of it is at most as large again.
const LARGEST: u64 = 32 << 20;

/// The places of a directory's names, by hash.
#[derive(Debug)]
pub(crate) struct DirNames {
    /// Hash of a name and byte of the directory at which its entry begins, sorted.
    places: Vec<(u32, u32)>,
}

fn hash(name: &[u8]) -> u32 {
    crc32c(!0, name)
}

impl DirNames {
    fn read(volume: &Volume, dir: &Inode) -> Result<Self> {
        let mut places = Vec::new();
        let _ = volume.list_stored(dir, 0, &mut |entry, next| {
            places.push((hash(entry.name), (next - entry.len as u64) as u32));
            ControlFlow::Continue(())
        })?;
        places.sort_unstable();
        places.shrink_to_fit();
        Ok(Self { places })
    }
}

impl Volume {
    /// Finds a name through the remembered places of a directory; `None` where they are not to be used.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) for a damaged directory, and those of reading.
    pub(crate) fn find_remembered(&self, dir: &Inode, wanted: &Wanted<'_>) -> Result<Option<Option<(u32, u8)>>> {
        let (Some(cache), Wanted::Bytes(name)) = (&self.dir_names, wanted) else { return Ok(None) };
        let bits = self.superblock.block_bits();
        if dir.is_inline() || dir.size < LEAST_BLOCKS << bits || dir.size > LARGEST {
            return Ok(None);
        }
        let names = match cache.get(&dir.ino) {
            Some(names) => names,
            None => {
                // In a damaged directory the names before the damage are found by going from end to end.
                let Ok(names) = DirNames::read(self, dir) else { return Ok(None) };
                let names = Arc::new(names);
                cache.insert(dir.ino, Arc::clone(&names), names.places.len() * size_of::<(u32, u32)>());
                names
            }
        };
        let wanted_hash = hash(name);
        let layout = self.layout();
        let first = names.places.partition_point(|(hash, _)| *hash < wanted_hash);
        for (_, place) in names.places[first..].iter().take_while(|(hash, _)| *hash == wanted_hash) {
            let (number, offset) = (u64::from(*place) >> bits, *place as usize & ((1 << bits) - 1));
            let Ok(block) = self.dir_block(dir, number)? else { continue };
            let entry = dir::entry_at(&layout, dir.ino, &block, offset)?;
            if entry.name == *name && entry.ino != 0 {
                return Ok(Some(Some((entry.ino, entry.file_type))));
            }
        }
        Ok(Some(None))
    }
}
