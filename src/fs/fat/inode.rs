//! From an inode's number to its entry, its clusters, its directory and its parent.

use super::boot::Place;
use super::directory::{self, Builder, Directory};
use super::entry::{ENTRY_SIZE, Entry, Slot, first_cluster};
use super::fs_info::{FS_INFO_SIZE, free_clusters};
use super::table::{Cursor, Link};
use super::{Fat, MAX_COUNTED, ROOT, RUN_SIZE, name};
use crate::error::{Error, Result};
use crate::fs::Ino;
use std::sync::Arc;

impl Fat {
    /// Returns the entry of an inode other than the root.
    ///
    /// # Errors
    /// `ENOENT` where none lies, and those of reading.
    pub(super) fn entry(&self, ino: Ino) -> Result<Entry> {
        let none = || Error::Errno(libc::ENOENT);
        let offset = ino.checked_mul(ENTRY_SIZE as u64).ok_or_else(none)?;
        let is_in_root = match self.boot.root {
            Place::Fixed { offset: start, len } => (start..start + len).contains(&offset),
            Place::Chain(_) => false,
        };
        if !is_in_root {
            let cluster = self.boot.cluster_at(offset).ok_or_else(none)?;
            if self.chains.table().link(cluster, &mut Cursor::default())? == Link::Free {
                return Err(none());
            }
        }
        let mut bytes = [0; ENTRY_SIZE];
        self.metadata.read_at(&mut bytes, offset)?;
        match Slot::parse(&bytes, self.boot.width) {
            Slot::File(entry) => Ok(entry),
            _ => Err(none()),
        }
    }

    /// Returns the entry of a file.
    ///
    /// # Errors
    /// `EISDIR`, and as [`entry`](Self::entry).
    pub(super) fn file(&self, ino: Ino) -> Result<Entry> {
        if ino == ROOT {
            return Err(Error::Errno(libc::EISDIR));
        }
        let entry = self.entry(ino)?;
        if entry.is_directory { Err(Error::Errno(libc::EISDIR)) } else { Ok(entry) }
    }

    /// Returns where the directory lies whose entry names `cluster`; the root is named by 0.
    pub(super) fn place_of(&self, cluster: u32) -> Place {
        if cluster == 0 { self.boot.root } else { Place::Chain(cluster) }
    }

    /// Returns where the directory of an inode lies.
    ///
    /// # Errors
    /// `ENOTDIR`, and as [`entry`](Self::entry).
    pub(super) fn directory_place(&self, ino: Ino) -> Result<Place> {
        if ino == ROOT {
            return Ok(self.boot.root);
        }
        let entry = self.entry(ino)?;
        if !entry.is_directory {
            return Err(Error::Errno(libc::ENOTDIR));
        }
        if entry.cluster == 0 {
            return Err(Error::corrupt(format!("directory {ino}"), "it has no cluster"));
        }
        Ok(Place::Chain(entry.cluster))
    }

    /// Returns the size of a directory: that of its clusters, in bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its chain is damaged or too long, and those of reading.
    pub(super) fn directory_size(&self, place: Place) -> Result<u64> {
        let first = match place {
            Place::Fixed { len, .. } => return Ok(len),
            Place::Chain(first) => first,
        };
        let mut size = 0;
        self.chains.runs(first, 0, |run| {
            size += u64::from(run.count) * u64::from(self.boot.cluster_size);
            // A single cluster may be larger than any directory needs to be.
            if size > directory::MAX_SIZE.next_multiple_of(u64::from(self.boot.cluster_size)) {
                return Err(too_long(first));
            }
            Ok(true)
        })?;
        Ok(size)
    }

    /// Returns a directory, decoded.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when its chain is damaged or it has no end, and those of reading.
    pub(super) fn directory(&self, place: Place) -> Result<Arc<Directory>> {
        let key = if let Place::Chain(first) = place { first } else { 0 };
        self.directories.get_or_insert(key, || {
            let directory = self.decode(place)?;
            let memory = directory.memory();
            Ok((Arc::new(directory), memory))
        })
    }

    fn decode(&self, place: Place) -> Result<Directory> {
        let mut builder = Builder::default();
        match place {
            Place::Fixed { offset, len } => {
                self.add_range(&mut builder, offset, len)?;
            }
            Place::Chain(first) => {
                let mut room = directory::MAX_SIZE;
                self.chains.runs(first, 0, |run| {
                    if room == 0 {
                        return Err(too_long(first));
                    }
                    let len = room.min(u64::from(run.count) * u64::from(self.boot.cluster_size));
                    room -= len;
                    self.add_range(&mut builder, self.boot.cluster_offset(run.cluster), len)
                })?;
            }
        }
        Ok(builder.finish())
    }

    /// Adds what lies in a range of the device to a directory; returns whether it goes on after that.
    fn add_range(&self, builder: &mut Builder, offset: u64, len: u64) -> Result<bool> {
        let mut bytes = vec![0; len.min(u64::from(RUN_SIZE)) as usize];
        let mut at = offset;
        while at < offset + len {
            let piece = &mut bytes[..(offset + len - at).min(u64::from(RUN_SIZE)) as usize];
            self.metadata.read_at(piece, at)?;
            if !builder.add(piece, at, self.boot.width) {
                return Ok(false);
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    /// Finds the inode of the parent of a directory other than the root.
    pub(super) fn find_parent(&self, place: Place) -> Result<Ino> {
        let parent = self.dot_dot(place)?;
        if parent == self.boot.root {
            return Ok(ROOT);
        }
        let Place::Chain(cluster) = parent else { return Ok(ROOT) };
        let grandparent = self.directory(self.dot_dot(parent)?)?;
        let mut directories = grandparent.entries().iter().filter(|entry| entry.is_directory);
        directories
            .find(|entry| entry.cluster == cluster)
            .map(|entry| entry.ino)
            .ok_or_else(|| Error::corrupt(format!("directory at cluster {cluster}"), "its parent does not hold it"))
    }

    /// Returns where the parent of a directory lies, as the directory's second entry says.
    fn dot_dot(&self, place: Place) -> Result<Place> {
        let Place::Chain(cluster) = place else { return Ok(place) };
        let damaged = |detail: &'static str| Error::corrupt(format!("directory at cluster {cluster}"), detail);
        if !self.boot.has_cluster(cluster) {
            return Err(damaged("that is none of the filesystem's"));
        }
        let mut bytes = [0; ENTRY_SIZE];
        self.metadata.read_at(&mut bytes, self.boot.cluster_offset(cluster) + ENTRY_SIZE as u64)?;
        if !name::is_parent(&bytes[..11]) {
            return Err(damaged("it does not say what its parent is"));
        }
        Ok(self.place_of(first_cluster(&bytes, self.boot.width)))
    }

    /// Shows where the `len` bytes at `offset` of the file that begins with cluster `first` lie on the device.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the chain is damaged or ends too early, and those of reading and of `visit`.
    pub(super) fn ranges(
        &self,
        first: u32,
        offset: u64,
        len: u64,
        mut visit: impl FnMut(u64, usize) -> Result<()>,
    ) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let cluster_size = u64::from(self.boot.cluster_size);
        let (mut at, end) = (offset, offset + len);
        let is_whole = self.chains.runs(first, (offset / cluster_size) as u32, |run| {
            let run_start = u64::from(run.index) * cluster_size;
            let into = at - run_start;
            let count = (u64::from(run.count) * cluster_size - into).min(end - at);
            visit(self.boot.cluster_offset(run.cluster) + into, count as usize)?;
            at += count;
            Ok(at < end)
        })?;
        if is_whole {
            return Ok(());
        }
        Err(Error::corrupt("cluster chain", format!("from cluster {first} it ends before the file does, at byte {at}")))
    }

    /// Returns the number of free clusters.
    pub(super) fn find_free(&self) -> Result<u32> {
        if self.boot.table_len > MAX_COUNTED
            && let Some(offset) = self.boot.fs_info_offset
        {
            let mut sector = [0; FS_INFO_SIZE];
            self.device.read_at(&mut sector, offset)?;
            if let Some(free) = free_clusters(&sector).filter(|&free| free <= self.boot.clusters) {
                return Ok(free);
            }
        }
        self.chains.table().count_free()
    }
}

fn too_long(cluster: u32) -> Error {
    let limit = directory::MAX_SIZE;
    Error::corrupt(format!("directory at cluster {cluster}"), format!("it is longer than {limit} bytes"))
}
