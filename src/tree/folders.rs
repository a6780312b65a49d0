//! A read-only filesystem of empty folders: the root of a tree whose filesystems lie side by side.

use crate::error::{Error, Result};
use crate::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, Ino, StatFs, Timestamp};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

const ROOT: Ino = 2;

#[derive(Debug)]
struct Folder {
    parent: Ino,
    entries: BTreeMap<Vec<u8>, Ino>,
}

/// Folders in memory. Inode numbers count from the root's up.
#[derive(Debug)]
pub(super) struct Folders {
    info: FsInfo,
    folders: Vec<Folder>,
    made: Timestamp,
}

impl Folders {
    /// Makes the folders of the paths given, with those above them.
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut folders = vec![Folder { parent: ROOT, entries: BTreeMap::new() }];
        for path in paths {
            let mut at = ROOT;
            for name in super::path::components(path) {
                let next = ROOT + folders.len() as Ino;
                let here = &mut folders[(at - ROOT) as usize];
                let parent = at;
                at = *here.entries.entry(name.to_vec()).or_insert(next);
                if at == next {
                    folders.push(Folder { parent, entries: BTreeMap::new() });
                }
            }
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            info: FsInfo { kind: "folders", block_size: 4096, ..FsInfo::default() },
            folders,
            made: Timestamp { seconds: now.as_secs().cast_signed(), nanoseconds: now.subsec_nanos() },
        }
    }

    fn folder(&self, ino: Ino) -> Result<&Folder> {
        let place = ino.checked_sub(ROOT).ok_or(Error::Errno(libc::ENOENT))?;
        self.folders.get(place as usize).ok_or(Error::Errno(libc::ENOENT))
    }
}

impl Filesystem for Folders {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { block_size: 4096, files: self.folders.len() as u64, name_max: 255, ..StatFs::default() })
    }

    fn root(&self) -> Ino {
        ROOT
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        let folder = self.folder(ino)?;
        Ok(Attr {
            ino,
            size: 0,
            blocks: 0,
            file_type: FileType::Directory,
            permissions: 0o755,
            nlink: 2 + folder.entries.len() as u32,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            btime: Some(self.made),
            generation: 0,
            flags: 0,
        })
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let ino = self.folder(dir)?.entries.get(name).ok_or(Error::Errno(libc::ENOENT))?;
        self.attr(*ino)
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        for (place, (name, &ino)) in self.folder(dir)?.entries.iter().enumerate().skip(cookie as usize) {
            let entry = DirEntry { name, ino, file_type: Some(FileType::Directory), next_cookie: place as u64 + 1 };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        Ok(self.folder(dir)?.parent)
    }

    fn read_link(&self, _: Ino) -> Result<Vec<u8>> {
        Err(Error::Errno(libc::EINVAL))
    }

    fn read(&self, _: Ino, _: u64, _: &mut [u8]) -> Result<usize> {
        Err(Error::Errno(libc::EISDIR))
    }

    fn xattr(&self, _: Ino, _: &[u8]) -> Result<Vec<u8>> {
        Err(Error::Errno(libc::ENODATA))
    }

    fn xattrs(&self, _: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn has_xattrs(&self) -> bool {
        false
    }
}
