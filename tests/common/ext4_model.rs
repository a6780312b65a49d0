//! A filesystem in memory that random operations are done on beside a driver that writes, and compared with it.

use crate::recording::Random;
use guestctl::fs::write::{Credentials, FallocateMode, RenameMode, SetAttr, XattrMode};
use guestctl::fs::{Attr, FileType, Filesystem, FilesystemWrite, Ino, Timestamp};
use guestctl::{Error, Result};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What the operations may be.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// The largest size that a file is given, in bytes.
    pub max_size: u64,
    /// Files may be allocated ahead (`extent`).
    pub has_extents: bool,
    /// The longest value of an attribute, in bytes; 0 for none at all.
    pub xattr_size: u64,
    /// Running out of space is an answer.
    pub may_fill: bool,
}

#[derive(Clone, Debug)]
enum Body {
    File(Vec<u8>),
    Folder(BTreeMap<Vec<u8>, usize>),
    Link(Vec<u8>),
    Other(FileType, (u32, u32)),
}

#[derive(Clone, Debug)]
struct Node {
    ino: Ino,
    body: Body,
    permissions: u16,
    uid: u32,
    gid: u32,
    links: u32,
    mtime: Option<Timestamp>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// It is held open.
    is_open: bool,
}

/// The model.
pub struct Model {
    nodes: Vec<Option<Node>>,
    random: Random,
    choices: Choices,
    /// How many operations were done, and how many of them changed anything.
    pub done: usize,
    pub changed: usize,
}

const WHO: Credentials = Credentials { uid: 1000, gid: 1001, umask: 0o022 };
const ROOT: usize = 0;

impl Model {
    /// Begins with the filesystem as it is, which holds nothing but `lost+found`.
    pub fn new(fs: &dyn Filesystem, seed: u64, choices: Choices) -> Self {
        Self::below(fs, fs.root(), seed, choices)
    }

    /// Begins with a folder as it is, which holds nothing, or nothing but `lost+found`.
    pub fn below(fs: &dyn Filesystem, root: Ino, seed: u64, choices: Choices) -> Self {
        let root = fs.attr(root).expect("a root");
        let mut model = Self {
            nodes: vec![Some(Node {
                ino: root.ino,
                body: Body::Folder(BTreeMap::new()),
                permissions: root.permissions,
                uid: root.uid,
                gid: root.gid,
                links: 2,
                mtime: None,
                xattrs: BTreeMap::new(),
                is_open: false,
            })],
            random: Random::new(seed),
            choices,
            done: 0,
            changed: 0,
        };
        if let Ok(attr) = fs.lookup(root.ino, b"lost+found") {
            let mut node = model.node_of(&attr, Body::Folder(BTreeMap::new()));
            node.is_open = false;
            model.nodes.push(Some(node));
            model.folder_mut(ROOT).insert(b"lost+found".to_vec(), 1);
            model.node_mut(ROOT).links = 3;
        }
        model
    }

    fn node_of(&self, attr: &Attr, body: Body) -> Node {
        Node {
            ino: attr.ino,
            body,
            permissions: attr.permissions,
            uid: attr.uid,
            gid: attr.gid,
            links: attr.nlink,
            mtime: None,
            xattrs: BTreeMap::new(),
            is_open: false,
        }
    }

    fn node(&self, id: usize) -> &Node {
        self.nodes[id].as_ref().expect("a node in use")
    }

    fn node_mut(&mut self, id: usize) -> &mut Node {
        self.nodes[id].as_mut().expect("a node in use")
    }

    fn folder_mut(&mut self, id: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.node_mut(id).body {
            Body::Folder(names) => names,
            _ => panic!("a folder"),
        }
    }

    fn folder(&self, id: usize) -> &BTreeMap<Vec<u8>, usize> {
        match &self.node(id).body {
            Body::Folder(names) => names,
            _ => panic!("a folder"),
        }
    }

    fn is_folder(&self, id: usize) -> bool {
        matches!(self.node(id).body, Body::Folder(_))
    }

    fn pick(&mut self, wanted: impl Fn(&Node) -> bool) -> Option<usize> {
        let found: Vec<usize> = (0..self.nodes.len())
            .filter(|&id| self.nodes[id].as_ref().is_some_and(|node| node.links > 0 && wanted(node)))
            .collect();
        if found.is_empty() { None } else { Some(found[self.random.below(found.len() as u64) as usize]) }
    }

    fn pick_folder(&mut self) -> usize {
        self.pick(|node| matches!(node.body, Body::Folder(_))).expect("the root is one")
    }

    fn pick_file(&mut self) -> Option<usize> {
        self.pick(|node| matches!(node.body, Body::File(_)))
    }

    fn name(&mut self) -> Vec<u8> {
        let number = self.random.below(40);
        let len = if self.random.below(10) == 0 { self.random.below(200) } else { self.random.below(12) };
        let mut name = format!("n{number}").into_bytes();
        name.resize(name.len() + len as usize, b'a' + (number % 26) as u8);
        name
    }

    /// Picks a name that is there, mostly, or a new one.
    fn some_name(&mut self, folder: usize) -> Vec<u8> {
        let names: Vec<Vec<u8>> = self.folder(folder).keys().filter(|name| *name != b"lost+found").cloned().collect();
        if names.is_empty() || self.random.below(12) == 0 {
            return self.name();
        }
        names[self.random.below(names.len() as u64) as usize].clone()
    }

    fn data(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::with_capacity(len + 8);
        while data.len() < len {
            data.extend(self.random.number().to_le_bytes());
        }
        data.truncate(len);
        data
    }

    fn length(&mut self) -> u64 {
        let limit = match self.random.below(8) {
            0 => self.choices.max_size,
            1..4 => 64 << 10,
            _ => 6000,
        };
        self.random.below(limit.min(self.choices.max_size)) + 1
    }

    fn expect(&self, what: &str, got: Result<()>, errno: i32) {
        match got {
            Ok(()) => panic!("operation {}: {what} succeeded; expected errno {errno}", self.done),
            Err(error) => assert_eq!(error.errno(), errno, "operation {}: {what}: {error}", self.done),
        }
    }

    /// Says whether a call did what it should; running out of space counts as nothing done.
    fn is_done<T>(&mut self, what: &str, got: Result<T>) -> Option<T> {
        match got {
            Ok(value) => {
                self.changed += 1;
                Some(value)
            }
            Err(error) if self.choices.may_fill && error.errno() == libc::ENOSPC => None,
            Err(error) => panic!("operation {}: {what}: {error}", self.done),
        }
    }

    /// Does one random operation on both, and compares the answers.
    pub fn step(&mut self, fs: &dyn FilesystemWrite) {
        self.done += 1;
        match self.random.below(100) {
            0..16 => self.make(fs),
            16..20 => self.link(fs),
            20..30 => self.remove(fs),
            30..40 => self.rename(fs),
            40..62 => self.write(fs),
            62..68 => self.truncate(fs),
            68..76 => self.fallocate(fs),
            76..83 => self.set_attr(fs),
            83..91 => self.xattr(fs),
            91..95 => self.read(fs),
            95..97 => self.open_or_close(fs),
            97 => {
                if let Some(id) = self.pick(|_| true) {
                    fs.fsync(self.node(id).ino, false).expect("fsync");
                }
            }
            98 => fs.sync().expect("sync"),
            _ => self.unnamed(fs),
        }
    }

    fn add(&mut self, folder: usize, name: Vec<u8>, node: Node) -> usize {
        let is_folder = matches!(node.body, Body::Folder(_));
        self.nodes.push(Some(node));
        let id = self.nodes.len() - 1;
        self.folder_mut(folder).insert(name, id);
        if is_folder {
            self.node_mut(folder).links += 1;
        }
        self.node_mut(folder).mtime = None;
        id
    }

    fn make(&mut self, fs: &dyn FilesystemWrite) {
        let folder = self.pick_folder();
        let dir = self.node(folder).ino;
        let name = self.name();
        let permissions = self.random.below(0o1000) as u16;
        let is_there = self.folder(folder).contains_key(&name);
        let (what, got, body) = match self.random.below(10) {
            0..3 => ("mkdir", fs.mkdir(dir, &name, permissions, &WHO), Body::Folder(BTreeMap::new())),
            3 => {
                let len = if self.random.below(2) == 0 { self.random.below(58) } else { self.random.below(900) };
                let text = vec![b't'; len as usize + 1];
                ("symlink", fs.symlink(dir, &name, &text, &WHO), Body::Link(text))
            }
            4 => {
                let (file_type, rdev) = match self.random.below(4) {
                    0 => (FileType::Fifo, (0, 0)),
                    1 => (FileType::Socket, (0, 0)),
                    2 => (FileType::CharDevice, (5, 1)),
                    _ => (FileType::BlockDevice, (259, 70_000)),
                };
                ("mknod", fs.create(dir, &name, file_type, permissions, rdev, &WHO), Body::Other(file_type, rdev))
            }
            _ => {
                ("create", fs.create(dir, &name, FileType::Regular, permissions, (0, 0), &WHO), Body::File(Vec::new()))
            }
        };
        if is_there {
            return self.expect(what, got.map(|_| ()), libc::EEXIST);
        }
        let Some(attr) = self.is_done(what, got) else { return };
        let mut node = self.node_of(&attr, body);
        let is_link = matches!(node.body, Body::Link(_));
        node.permissions = if is_link { 0o777 } else { permissions & !WHO.umask };
        (node.uid, node.gid) = (WHO.uid, WHO.gid);
        if self.node(folder).permissions & 0o2000 != 0 {
            node.gid = self.node(folder).gid;
            if matches!(node.body, Body::Folder(_)) {
                node.permissions |= 0o2000;
            }
        }
        node.links = if matches!(node.body, Body::Folder(_)) { 2 } else { 1 };
        self.check_attr(&node, &attr);
        self.add(folder, name, node);
    }

    fn unnamed(&mut self, fs: &dyn FilesystemWrite) {
        let folder = self.pick_folder();
        let dir = self.node(folder).ino;
        let Some(attr) = self.is_done("create_unnamed", fs.create_unnamed(dir, 0o600, &WHO)) else { return };
        fs.open(attr.ino);
        let data = self.data(3000);
        let written = fs.write(attr.ino, 0, &data, true);
        let written = self.is_done("write", written);
        let name = self.name();
        if self.random.below(2) == 0 && !self.folder(folder).contains_key(&name) && written == Some(data.len()) {
            let got = fs.link(attr.ino, dir, &name);
            if let Some(attr) = self.is_done("link", got) {
                let node = self.node_of(&attr, Body::File(data));
                assert_eq!(node.links, 1);
                self.add(folder, name, node);
            }
        }
        fs.forget(attr.ino, 1);
    }

    fn link(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick(|_| true) else { return };
        let folder = self.pick_folder();
        let name = self.name();
        let got = fs.link(self.node(id).ino, self.node(folder).ino, &name);
        if self.is_folder(id) {
            return self.expect("link", got.map(|_| ()), libc::EPERM);
        }
        if self.folder(folder).contains_key(&name) {
            return self.expect("link", got.map(|_| ()), libc::EEXIST);
        }
        if self.is_done("link", got).is_none() {
            return;
        }
        self.folder_mut(folder).insert(name, id);
        self.node_mut(id).links += 1;
        self.node_mut(folder).mtime = None;
    }

    fn drop_link(&mut self, id: usize) {
        let node = self.node_mut(id);
        node.links = if matches!(node.body, Body::Folder(_)) { 0 } else { node.links - 1 };
        if node.links == 0 && !node.is_open {
            self.nodes[id] = None;
        }
    }

    fn remove(&mut self, fs: &dyn FilesystemWrite) {
        let folder = self.pick_folder();
        let name = self.some_name(folder);
        let dir = self.node(folder).ino;
        let as_folder = self.random.below(3) == 0;
        let got = if as_folder { fs.rmdir(dir, &name) } else { fs.unlink(dir, &name) };
        let Some(&id) = self.folder(folder).get(&name) else { return self.expect("remove", got, libc::ENOENT) };
        if self.is_folder(id) != as_folder {
            let errno = if as_folder { libc::ENOTDIR } else { libc::EISDIR };
            return self.expect("remove", got, errno);
        }
        if as_folder && !self.folder(id).is_empty() {
            return self.expect("rmdir", got, libc::ENOTEMPTY);
        }
        if self.is_done("remove", got).is_none() {
            return;
        }
        self.folder_mut(folder).remove(&name);
        self.node_mut(folder).mtime = None;
        if as_folder {
            self.node_mut(folder).links -= 1;
        }
        self.drop_link(id);
    }

    fn is_within(&self, id: usize, upper: usize) -> bool {
        id == upper
            || self.is_folder(upper)
                && self.folder(upper).values().any(|&lower| self.is_folder(lower) && self.is_within(id, lower))
    }

    fn rename(&mut self, fs: &dyn FilesystemWrite) {
        let (from, to) = (self.pick_folder(), self.pick_folder());
        let name = self.some_name(from);
        let new_name = if self.random.below(2) == 0 { self.name() } else { self.some_name(to) };
        let mode = match self.random.below(6) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let got = fs.rename(self.node(from).ino, &name, self.node(to).ino, &new_name, mode);
        let source = self.folder(from).get(&name).copied();
        let target = self.folder(to).get(&new_name).copied();
        let Some(source) = source else { return self.expect("rename", got, libc::ENOENT) };
        let errno = match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => Some(libc::EEXIST),
            (RenameMode::Exchange, None) => Some(libc::ENOENT),
            _ if self.is_folder(source) && self.is_within(to, source) => Some(libc::EINVAL),
            (_, Some(target)) if self.is_folder(target) && self.is_within(from, target) => {
                Some(if mode == RenameMode::Exchange { libc::EINVAL } else { libc::ENOTEMPTY })
            }
            (RenameMode::Replace, Some(target)) if target != source => {
                match (self.is_folder(source), self.is_folder(target)) {
                    (true, false) => Some(libc::ENOTDIR),
                    (false, true) => Some(libc::EISDIR),
                    (true, true) if !self.folder(target).is_empty() => Some(libc::ENOTEMPTY),
                    _ => None,
                }
            }
            _ => None,
        };
        if let Some(errno) = errno {
            return self.expect("rename", got, errno);
        }
        if self.is_done("rename", got).is_none() || target == Some(source) {
            return;
        }
        self.node_mut(from).mtime = None;
        self.node_mut(to).mtime = None;
        let is_folder = self.is_folder(source);
        if mode == RenameMode::Exchange {
            let target = target.expect("checked");
            self.folder_mut(from).insert(name, target);
            self.folder_mut(to).insert(new_name, source);
            if is_folder && !self.is_folder(target) {
                self.node_mut(from).links -= 1;
                self.node_mut(to).links += 1;
            } else if !is_folder && self.is_folder(target) {
                self.node_mut(from).links += 1;
                self.node_mut(to).links -= 1;
            }
            return;
        }
        self.folder_mut(from).remove(&name);
        self.folder_mut(to).insert(new_name, source);
        if is_folder {
            self.node_mut(from).links -= 1;
            self.node_mut(to).links += 1;
        }
        if let Some(target) = target {
            if self.is_folder(target) {
                self.node_mut(to).links -= 1;
            }
            self.drop_link(target);
        }
    }

    fn write(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick_file() else { return };
        let Body::File(contents) = &self.node(id).body else { return };
        let size = contents.len() as u64;
        let len = self.length();
        let limit = self.choices.max_size.saturating_sub(len);
        let offset = match self.random.below(4) {
            0 => self.random.below(limit + 1),
            1 if size > 0 => self.random.below(size),
            _ => size,
        };
        let data = self.data(len as usize);
        let keeps = self.random.below(2) == 0;
        let got = fs.write(self.node(id).ino, offset, &data, keeps);
        let Some(count) = self.is_done("write", got) else {
            // The rights may be gone before the space was.
            return self.resync(fs, id);
        };
        if !self.choices.may_fill {
            assert_eq!(count, data.len(), "operation {}", self.done);
        }
        let node = self.node_mut(id);
        node.mtime = None;
        if !keeps {
            node.permissions &= if node.permissions & 0o10 != 0 { !0o6000 } else { !0o4000 };
        }
        let Body::File(contents) = &mut node.body else { return };
        let end = offset as usize + count;
        if contents.len() < end {
            contents.resize(end, 0);
        }
        contents[offset as usize..end].copy_from_slice(&data[..count]);
    }

    /// Takes a file's size and mode from the filesystem, after a failure that may have done a part. Contents are kept.
    fn resync(&mut self, fs: &dyn FilesystemWrite, id: usize) {
        let attr = fs.attr(self.node(id).ino).expect("it is there");
        let node = self.node_mut(id);
        node.permissions = attr.permissions;
        node.mtime = None;
        if let Body::File(contents) = &mut node.body {
            contents.resize(attr.size as usize, 0);
        }
    }

    fn truncate(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick_file() else { return };
        let size = if self.random.below(4) == 0 { 0 } else { self.length() };
        let got = fs.set_attr(self.node(id).ino, &SetAttr { size: Some(size), ..SetAttr::default() });
        let Some(attr) = self.is_done("truncate", got) else { return };
        let node = self.node_mut(id);
        node.mtime = None;
        if let Body::File(contents) = &mut node.body {
            contents.resize(size as usize, 0);
        }
        let node = node.clone();
        self.check_attr(&node, &attr);
    }

    fn fallocate(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick_file() else { return };
        let len = self.length();
        let offset = self.random.below(self.choices.max_size.saturating_sub(len) + 1);
        let offset = if self.random.below(2) == 0 { offset & !4095 } else { offset };
        let mode = match self.random.below(5) {
            0 => FallocateMode::Allocate,
            1 => FallocateMode::AllocateKeepSize,
            2 => FallocateMode::ZeroRange,
            3 => FallocateMode::ZeroRangeKeepSize,
            _ => FallocateMode::PunchHole,
        };
        let got = fs.fallocate(self.node(id).ino, offset, len, mode);
        if !self.choices.has_extents && mode != FallocateMode::PunchHole {
            return self.expect("fallocate", got, libc::EOPNOTSUPP);
        }
        let is_whole = self.is_done("fallocate", got).is_some();
        let node = self.node_mut(id);
        node.mtime = None;
        // Rights are dropped as by a write.
        node.permissions &= if node.permissions & 0o10 != 0 { !0o6000 } else { !0o4000 };
        let Body::File(contents) = &mut node.body else { return };
        let grows = matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange);
        if is_whole && grows && contents.len() < (offset + len) as usize {
            contents.resize((offset + len) as usize, 0);
        }
        if is_whole && !matches!(mode, FallocateMode::Allocate | FallocateMode::AllocateKeepSize) {
            let end = contents.len().min((offset + len) as usize);
            if (offset as usize) < end {
                contents[offset as usize..end].fill(0);
            }
        }
        if !is_whole {
            let ino = node.ino;
            self.resync(fs, id);
            // What was zeroed before space ran out is zero.
            let size = fs.attr(ino).expect("it is there").size;
            let mut found = vec![0; size as usize];
            fs.read(ino, 0, &mut found).expect("it can be read");
            if let Body::File(contents) = &mut self.node_mut(id).body {
                for (at, byte) in contents.iter().enumerate() {
                    assert!(found[at] == *byte || found[at] == 0, "byte {at} is neither old nor zero");
                }
                *contents = found;
            }
        } else if !self.choices.may_fill {
            let attr = fs.attr(self.node(id).ino).expect("it is there");
            let node = self.node(id).clone();
            if attr.permissions != node.permissions {
                // A hole punched past the end changes nothing, not even the mode.
                self.node_mut(id).permissions = attr.permissions;
            }
        } else {
            self.resync(fs, id);
        }
    }

    fn set_attr(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick(|node| !matches!(node.body, Body::Link(_))) else { return };
        let mut set = SetAttr::default();
        match self.random.below(3) {
            0 => set.permissions = Some(self.random.below(0o10000) as u16),
            1 => {
                set.uid = Some(self.random.below(100_000) as u32);
                set.gid = Some(self.random.below(100_000) as u32);
            }
            _ => {
                let seconds = self.random.below(8_000_000_000) as i64 - 2_000_000_000;
                let seconds = seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
                set.mtime = Some(Timestamp { seconds, nanoseconds: 0 });
                set.atime = set.mtime;
            }
        }
        let got = fs.set_attr(self.node(id).ino, &set);
        let Some(attr) = self.is_done("set_attr", got) else { return };
        let node = self.node_mut(id);
        node.permissions = set.permissions.unwrap_or(node.permissions);
        node.uid = set.uid.unwrap_or(node.uid);
        node.gid = set.gid.unwrap_or(node.gid);
        if set.mtime.is_some() {
            node.mtime = set.mtime;
        }
        let node = node.clone();
        self.check_attr(&node, &attr);
    }

    fn xattr(&mut self, fs: &dyn FilesystemWrite) {
        if self.choices.xattr_size == 0 {
            return;
        }
        let Some(id) = self.pick(|node| matches!(node.body, Body::File(_) | Body::Folder(_))) else { return };
        let name = format!("user.x{}", self.random.below(5)).into_bytes();
        let ino = self.node(id).ino;
        let is_there = self.node(id).xattrs.contains_key(&name);
        if self.random.below(3) == 0 {
            let got = fs.remove_xattr(ino, &name);
            if !is_there {
                return self.expect("remove_xattr", got, libc::ENODATA);
            }
            if self.is_done("remove_xattr", got).is_some() {
                self.node_mut(id).xattrs.remove(&name);
            }
            return;
        }
        let limit = if self.random.below(3) == 0 { self.choices.xattr_size } else { 40 };
        let len = self.random.below(limit.min(self.choices.xattr_size));
        let mut value = self.data(len as usize);
        if self.choices.xattr_size > 1000 && self.random.below(4) == 0 {
            // Values that others have, too.
            value = vec![b's'; 1000 + self.random.below(3) as usize * 5000];
        }
        let mode = match self.random.below(4) {
            0 => XattrMode::Create,
            1 => XattrMode::Replace,
            _ => XattrMode::Set,
        };
        let got = fs.set_xattr(ino, &name, &value, mode);
        match mode {
            XattrMode::Create if is_there => return self.expect("set_xattr", got, libc::EEXIST),
            XattrMode::Replace if !is_there => return self.expect("set_xattr", got, libc::ENODATA),
            _ => {}
        }
        match got {
            Ok(()) => {
                self.changed += 1;
                self.node_mut(id).xattrs.insert(name, value);
            }
            // They may not fit beside the others.
            Err(error) => assert_eq!(error.errno(), libc::ENOSPC, "operation {}: {error}", self.done),
        }
    }

    fn read(&mut self, fs: &dyn FilesystemWrite) {
        let Some(id) = self.pick_file() else { return };
        let offset = self.random.below(self.choices.max_size);
        let len = self.length() as usize;
        let node = self.node(id);
        let Body::File(contents) = &node.body else { return };
        let mut found = vec![1; len];
        let count = fs.read(node.ino, offset, &mut found).expect("reading");
        let from = (offset as usize).min(contents.len());
        let expected = &contents[from..(from + len).min(contents.len())];
        assert!(&found[..count] == expected, "operation {}: contents at {offset} differ", self.done);
    }

    fn open_or_close(&mut self, fs: &dyn FilesystemWrite) {
        let opened: Vec<usize> =
            (0..self.nodes.len()).filter(|&id| self.nodes[id].as_ref().is_some_and(|node| node.is_open)).collect();
        if opened.len() < 5 {
            if let Some(id) = self.pick_file()
                && !self.node(id).is_open
            {
                fs.open(self.node(id).ino);
                self.node_mut(id).is_open = true;
            }
            return;
        }
        let id = opened[self.random.below(opened.len() as u64) as usize];
        self.check_contents(fs, self.node(id));
        fs.forget(self.node(id).ino, 1);
        let node = self.node_mut(id);
        node.is_open = false;
        if node.links == 0 {
            let ino = node.ino;
            self.nodes[id] = None;
            let error = fs.attr(ino).expect_err("it is gone");
            assert_eq!(error.errno(), libc::ENOENT);
        }
    }

    /// Gives all references back, as a program does at its end.
    pub fn close_all(&mut self, fs: &dyn FilesystemWrite) {
        for id in 0..self.nodes.len() {
            let Some(node) = &mut self.nodes[id] else { continue };
            if std::mem::take(&mut node.is_open) {
                fs.forget(node.ino, 1);
                if node.links == 0 {
                    self.nodes[id] = None;
                }
            }
        }
    }

    fn check_attr(&self, node: &Node, attr: &Attr) {
        let context = format!("operation {}, inode {}", self.done, node.ino);
        assert_eq!(attr.ino, node.ino, "{context}");
        assert_eq!(attr.permissions, node.permissions, "{context}: permissions {:o}", attr.permissions);
        assert_eq!((attr.uid, attr.gid), (node.uid, node.gid), "{context}");
        assert_eq!(attr.nlink, node.links, "{context}: links");
        match &node.body {
            Body::File(contents) => assert_eq!(attr.size, contents.len() as u64, "{context}: size"),
            Body::Link(text) => assert_eq!(attr.size, text.len() as u64, "{context}: size"),
            Body::Other(file_type, rdev) => assert_eq!((attr.file_type, attr.rdev), (*file_type, *rdev), "{context}"),
            Body::Folder(_) => assert!(attr.is_dir(), "{context}"),
        }
        if let Some(mtime) = node.mtime {
            assert_eq!(attr.mtime, mtime, "{context}: mtime");
        }
    }

    fn check_contents(&self, fs: &dyn Filesystem, node: &Node) {
        let Body::File(contents) = &node.body else { return };
        let mut found = vec![0; contents.len() + 1];
        let count = fs.read(node.ino, 0, &mut found).expect("reading");
        assert_eq!(count, contents.len(), "inode {}", node.ino);
        if let Some(at) = (0..count).find(|&at| found[at] != contents[at]) {
            panic!("operation {}: inode {} of {count} bytes differs at byte {at}", self.done, node.ino);
        }
    }

    /// Compares everything.
    pub fn compare(&self, fs: &dyn Filesystem) {
        self.compare_node(fs, ROOT);
    }

    fn compare_node(&self, fs: &dyn Filesystem, id: usize) {
        let node = self.node(id);
        self.check_attr(node, &fs.attr(node.ino).unwrap_or_else(|error| panic!("inode {}: {error}", node.ino)));
        self.check_contents(fs, node);
        for (name, value) in &node.xattrs {
            let found = fs.xattr(node.ino, name).unwrap_or_else(|error: Error| panic!("inode {}: {error}", node.ino));
            assert_eq!(&found, value, "inode {}", node.ino);
        }
        let mut names: Vec<Vec<u8>> = fs.xattrs(node.ino).expect("attributes can be listed");
        names.sort();
        assert!(names.iter().eq(node.xattrs.keys()), "inode {}: other attributes", node.ino);
        match &node.body {
            Body::Link(text) => assert_eq!(&fs.read_link(node.ino).expect("a link"), text),
            Body::Folder(names) => {
                let mut found = BTreeMap::new();
                fs.read_dir(node.ino, 0, &mut |entry| {
                    found.insert(entry.name.to_vec(), entry.ino);
                    ControlFlow::Continue(())
                })
                .expect("a folder can be listed");
                let expected: BTreeMap<Vec<u8>, Ino> =
                    names.iter().map(|(name, &id)| (name.clone(), self.node(id).ino)).collect();
                assert_eq!(found, expected, "folder {}", node.ino);
                for (name, &lower) in names {
                    assert_eq!(fs.lookup(node.ino, name).expect("it is there").ino, self.node(lower).ino);
                    self.compare_node(fs, lower);
                }
            }
            _ => {}
        }
    }
}
