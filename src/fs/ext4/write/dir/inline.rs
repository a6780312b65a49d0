//! Changes of inline directories, whose entries lie in the inode.
//!
//! `i_block` holds the number of the parent, in place of `.` and `..`, and 56 bytes of entries; the value of the attribute
//! `system.data` (the rest) holds more, as a run of its own. The directory's size is the sum of both: 60 bytes and the
//! length of the rest. Here too the layout is that of Linux: the rest grows to all the room the inode has at once.

use super::entries;
use super::{DOT_SIZE, DirFormat, new_entry};
use crate::bytes::set_le32;
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::fs::ext4::dir::{self, Layout};
use crate::fs::ext4::inode::BLOCK_AREA;

/// The size of the parent's number, in bytes.
const PARENT: usize = 4;

/// The bytes of an inline directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InlineDir {
    /// `i_block`.
    pub(crate) block: [u8; BLOCK_AREA],
    /// The value of `system.data`; empty where all fits `i_block`.
    pub(crate) rest: Vec<u8>,
}

impl InlineDir {
    /// Makes an empty directory.
    pub(crate) fn new(layout: &Layout, parent: u32) -> Self {
        let mut block = [0; BLOCK_AREA];
        set_le32(&mut block, 0, parent);
        entries::store_unused(layout, &mut block[PARENT..], 0, BLOCK_AREA - PARENT);
        Self { block, rest: Vec::new() }
    }

    /// Returns the size of the directory, in bytes.
    pub(crate) fn size(&self) -> u64 {
        (BLOCK_AREA + self.rest.len()) as u64
    }

    fn runs(&mut self) -> [&mut [u8]; 2] {
        [&mut self.block[PARENT..], &mut self.rest]
    }

    /// Puts a name in; says whether it fits. `rest_limit` is how long the value of `system.data` can be, in bytes
    /// ([`inline_room`](super::super::xattr_edit::inline_room)).
    ///
    /// # Errors
    /// `EINVAL` for an impossible name, `ENAMETOOLONG`, and [`Error::Corrupt`] for a damaged directory.
    pub(crate) fn insert(
        &mut self,
        format: &DirFormat,
        name: &[u8],
        ino: u32,
        file_type: FileType,
        rest_limit: usize,
    ) -> Result<bool> {
        let new = new_entry(name, ino, file_type)?;
        let (layout, size) = (&format.layout, entries::needed(name.len()));
        for run in self.runs() {
            if let Some(offset) = entries::room_for(layout, format.ino, run, size)? {
                entries::insert(layout, format.ino, run, offset, &new)?;
                return Ok(true);
            }
        }
        let limit = rest_limit & !3;
        let old = self.rest.len();
        let last = entries::each(layout, format.ino, &self.rest).last().transpose()?;
        let (last, spare) = last.map_or((0, 0), |last| (last.offset, last.len - entries::used(&last)));
        if limit < old + entries::needed(1) || spare + limit - old < size {
            return Ok(false);
        }
        self.rest.resize(limit, 0);
        if old == 0 {
            entries::store_unused(layout, &mut self.rest, 0, limit);
        } else {
            crate::bytes::set_le16(&mut self.rest, last + 4, dir::encode_len(limit - last, layout.block_size));
        }
        entries::insert(layout, format.ino, &mut self.rest, last, &new)?;
        Ok(true)
    }

    /// Takes a name away; returns the inode it led to.
    ///
    /// # Errors
    /// `ENOENT`, and [`Error::Corrupt`] for a damaged directory.
    pub(crate) fn remove(&mut self, format: &DirFormat, name: &[u8]) -> Result<u32> {
        let sought = format.sought(name);
        for run in self.runs() {
            if let Some(spot) = entries::find(&format.layout, format.ino, run, &sought)? {
                entries::remove(&format.layout, format.ino, run, &spot)?;
                return Ok(spot.ino);
            }
        }
        Err(Error::Errno(libc::ENOENT))
    }

    /// Makes a name, which may be `..`, lead to another inode; returns the one before.
    ///
    /// # Errors
    /// `ENOENT`, and [`Error::Corrupt`] for a damaged directory.
    pub(crate) fn replace(&mut self, format: &DirFormat, name: &[u8], ino: u32, file_type: FileType) -> Result<u32> {
        if name == b".." {
            let old = crate::bytes::le32(&self.block, 0);
            set_le32(&mut self.block, 0, ino);
            return Ok(old);
        }
        let sought = format.sought(name);
        for run in self.runs() {
            if let Some(spot) = entries::find(&format.layout, format.ino, run, &sought)? {
                entries::replace(&format.layout, run, spot.offset, ino, file_type);
                return Ok(spot.ino);
            }
        }
        Err(Error::Errno(libc::ENOENT))
    }

    /// Says whether the directory holds no names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory.
    pub(crate) fn is_empty(&self, format: &DirFormat) -> Result<bool> {
        Ok(entries::is_empty(&format.layout, format.ino, &self.block[PARENT..])?
            && entries::is_empty(&format.layout, format.ino, &self.rest)?)
    }

    /// Returns the first block of the ordinary directory that this one becomes, with all its names.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged directory.
    pub(crate) fn to_block(&self, format: &mut DirFormat) -> Result<Vec<u8>> {
        let mut block = vec![0; format.layout.block_size];
        super::init(format, &mut block, crate::bytes::le32(&self.block, 0));
        let up = block[DOT_SIZE..2 * DOT_SIZE].to_vec();
        let mut kept = vec![&up[..]];
        for run in [&self.block[PARENT..], &self.rest] {
            for entry in entries::each(&format.layout, format.ino, run) {
                let entry = entry?;
                if entry.ino != 0 {
                    kept.push(&run[entry.offset..entry.offset + entries::used(&entry)]);
                }
            }
        }
        let room = format.room();
        if DOT_SIZE + kept.iter().map(|entry| entry.len()).sum::<usize>() > room {
            return Err(format.damaged("its inline entries are longer than a block"));
        }
        entries::pack(&format.layout, &mut block[DOT_SIZE..room], kept.into_iter());
        format.seal(&mut block);
        Ok(block)
    }
}
