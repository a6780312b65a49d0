//! A filesystem in memory, made of a list of files: guests whose operating systems cannot be installed here.

use guestctl::fs::{Attr, DirEntry, FileType, Filesystem, FsInfo, Ino, StatFs, Timestamp};
use guestctl::tree::{Mount, Tree};
use guestctl::{Error, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const ROOT: Ino = 2;

enum Content {
    Folder(BTreeMap<Vec<u8>, Ino>),
    File(Vec<u8>),
    Link(Vec<u8>),
    Fifo,
    Device,
}

struct Inode {
    parent: Ino,
    content: Content,
    mtime: i64,
}

/// A filesystem that is being made, and then read.
pub struct Fixture {
    info: FsInfo,
    inodes: Vec<Inode>,
}

#[allow(dead_code, reason = "each test program uses its own part")]
impl Fixture {
    /// Makes an empty filesystem.
    pub fn new() -> Self {
        let root = Inode { parent: ROOT, content: Content::Folder(BTreeMap::new()), mtime: 0 };
        Self { info: FsInfo { kind: "ext4", block_size: 4096, ..FsInfo::default() }, inodes: vec![root] }
    }

    fn add(mut self, path: &[u8], content: Content, mtime: i64) -> Self {
        let mut at = ROOT;
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
        let (last, folders) = names.split_last().expect("a path has a name");
        for name in folders {
            at = self.enter(at, name, None, 0);
        }
        self.enter(at, last, Some(content), mtime);
        self
    }

    fn enter(&mut self, dir: Ino, name: &[u8], content: Option<Content>, mtime: i64) -> Ino {
        let next = ROOT + self.inodes.len() as Ino;
        let Content::Folder(entries) = &mut self.inodes[(dir - ROOT) as usize].content else {
            panic!("{} lies in no folder", name.escape_ascii())
        };
        if let Some(&old) = entries.get(name) {
            if let Some(content) = content.filter(|content| !matches!(content, Content::Folder(_))) {
                self.inodes[(old - ROOT) as usize].content = content;
            }
            return old;
        }
        entries.insert(name.to_vec(), next);
        let content = content.unwrap_or(Content::Folder(BTreeMap::new()));
        self.inodes.push(Inode { parent: dir, content, mtime });
        next
    }

    /// Adds a file and the folders above it.
    pub fn file(self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.add(path.as_bytes(), Content::File(content.into()), 0)
    }

    /// Adds a file that was changed at a time, in seconds since 1970.
    pub fn file_at(self, path: &str, content: impl Into<Vec<u8>>, mtime: i64) -> Self {
        self.add(path.as_bytes(), Content::File(content.into()), mtime)
    }

    /// Adds a symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.add(path.as_bytes(), Content::Link(target.as_bytes().to_vec()), 0)
    }

    /// Adds a folder.
    pub fn dir(self, path: &str) -> Self {
        self.add(path.as_bytes(), Content::Folder(BTreeMap::new()), 0)
    }

    /// Adds a named pipe.
    pub fn fifo(self, path: &str) -> Self {
        self.add(path.as_bytes(), Content::Fifo, 0)
    }

    /// Adds a character device.
    pub fn device(self, path: &str) -> Self {
        self.add(path.as_bytes(), Content::Device, 0)
    }

    /// Adds everything below a folder of this machine.
    pub fn copy(mut self, folder: &Path, to: &str) -> Self {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::MetadataExt;
        let mut todo = vec![(folder.to_owned(), to.as_bytes().to_vec())];
        while let Some((from, to)) = todo.pop() {
            for entry in std::fs::read_dir(&from).expect("a folder") {
                let entry = entry.expect("an entry");
                let path = [to.as_slice(), b"/", entry.file_name().as_bytes()].concat();
                let meta = entry.metadata().expect("its attributes");
                let content = if meta.is_dir() {
                    todo.push((entry.path(), path.clone()));
                    Content::Folder(BTreeMap::new())
                } else if meta.is_symlink() {
                    let target = std::fs::read_link(entry.path()).expect("a link");
                    Content::Link(target.as_os_str().as_bytes().to_vec())
                } else if meta.is_file() {
                    Content::File(std::fs::read(entry.path()).expect("a file"))
                } else {
                    Content::Device
                };
                self = self.add(&path, content, meta.mtime());
            }
        }
        self
    }

    /// Returns the filesystem as a mount of a tree.
    pub fn mount(self, source: &str, mountpoint: &str) -> Mount {
        Mount { filesystem: Arc::new(self), mountpoint: mountpoint.into(), source: source.into() }
    }

    /// Returns a tree of this filesystem alone.
    pub fn tree(self) -> Tree {
        Tree::new(vec![self.mount("/dev/sda1", "/")]).expect("one mount")
    }

    fn inode(&self, ino: Ino) -> Result<&Inode> {
        let place = ino.checked_sub(ROOT).ok_or(Error::Errno(libc::ENOENT))?;
        self.inodes.get(place as usize).ok_or(Error::Errno(libc::ENOENT))
    }

    fn entries(&self, dir: Ino) -> Result<&BTreeMap<Vec<u8>, Ino>> {
        match &self.inode(dir)?.content {
            Content::Folder(entries) => Ok(entries),
            _ => Err(Error::Errno(libc::ENOTDIR)),
        }
    }
}

impl Filesystem for Fixture {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { block_size: 4096, name_max: 255, ..StatFs::default() })
    }

    fn root(&self) -> Ino {
        ROOT
    }

    fn attr(&self, ino: Ino) -> Result<Attr> {
        let inode = self.inode(ino)?;
        let (file_type, size) = match &inode.content {
            Content::Folder(_) => (FileType::Directory, 0),
            Content::File(bytes) => (FileType::Regular, bytes.len()),
            Content::Link(target) => (FileType::Symlink, target.len()),
            Content::Fifo => (FileType::Fifo, 0),
            Content::Device => (FileType::CharDevice, 0),
        };
        let time = Timestamp { seconds: inode.mtime, nanoseconds: 0 };
        Ok(Attr {
            ino,
            size: size as u64,
            blocks: 0,
            file_type,
            permissions: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: (0, 0),
            atime: time,
            mtime: time,
            ctime: time,
            btime: None,
            generation: 0,
            flags: 0,
        })
    }

    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attr> {
        let ino = self.entries(dir)?.get(name).ok_or(Error::Errno(libc::ENOENT))?;
        self.attr(*ino)
    }

    fn read_dir(&self, dir: Ino, cookie: u64, visit: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>) -> Result<()> {
        for (place, (name, &ino)) in self.entries(dir)?.iter().enumerate().skip(cookie as usize) {
            let entry = DirEntry { name, ino, file_type: None, next_cookie: place as u64 + 1 };
            if visit(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino> {
        Ok(self.inode(dir)?.parent)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.inode(ino)?.content {
            Content::Link(target) => Ok(target.clone()),
            _ => Err(Error::Errno(libc::EINVAL)),
        }
    }

    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        match &self.inode(ino)?.content {
            Content::File(bytes) => {
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                let read = rest.len().min(buf.len());
                buf[..read].copy_from_slice(&rest[..read]);
                Ok(read)
            }
            Content::Folder(_) => Err(Error::Errno(libc::EISDIR)),
            Content::Fifo | Content::Device => panic!("a pipe or a device was opened"),
            Content::Link(_) => Err(Error::Errno(libc::EINVAL)),
        }
    }

    fn xattr(&self, _: Ino, _: &[u8]) -> Result<Vec<u8>> {
        Err(Error::Errno(libc::ENODATA))
    }

    fn xattrs(&self, _: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}
