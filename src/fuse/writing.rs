//! The operations that change a tree.

use super::attr::{from_rdev, from_system};
use super::face::{Face, errno};
use crate::error::{Error, Result};
use crate::fs::write::{Credentials, FallocateMode, RenameMode, SetAttr, XattrMode, inode_flags};
use crate::fs::{Attr, FileType, Timestamp};
use crate::tree::Node;
use fuser::{Generation, INodeNo, OpenAccMode, OpenFlags, RenameFlags, ReplyEntry, Request, TimeOrNow};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

/// `FS_IOC_GETFLAGS` and `FS_IOC_SETFLAGS` of Linux, as lsattr(1) and chattr(1) call them.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of Linux, by which the kernel reads flags before it sets any.
const GET_FSXATTR: u32 = 0x801c_581f;
const SET_FSXATTR: u32 = 0x401c_5820;

/// The size of `struct fsxattr`, in bytes.
const FSXATTR_SIZE: usize = 28;

/// Flags of `struct fsxattr`, and those of inodes that they are.
const FSXATTR_FLAGS: [(u32, u32); 8] = [
    (0x8, inode_flags::IMMUTABLE),
    (0x10, inode_flags::APPEND),
    (0x20, inode_flags::SYNC),
    (0x40, inode_flags::NO_ATIME),
    (0x80, inode_flags::NO_DUMP),
    (0x200, inode_flags::PROJECT_INHERIT),
    (0x8000, inode_flags::DAX),
    (0x2_0000, inode_flags::VERITY),
];

/// `FITRIM` of Linux, as fstrim(8) calls it: start, length and smallest extent, 64 bits each.
const TRIM: u32 = 0xc018_5879;

/// How much copy_file_range moves in one piece, in bytes.
const COPY_PIECE: usize = 1 << 20;

/// Returns what a change of attributes asks for.
#[expect(clippy::too_many_arguments, reason = "they are the protocol's")]
pub(super) fn set_attr(
    request: &Request,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
    ctime: Option<SystemTime>,
) -> SetAttr {
    let owner_changes = uid.is_some() || gid.is_some();
    SetAttr {
        permissions: mode.map(|mode| (mode & 0o7777) as u16),
        uid,
        gid,
        size,
        atime: atime.map(moment),
        mtime: mtime.map(moment),
        ctime: ctime.map(from_system),
        // With HANDLE_KILLPRIV_V2 that is the server's work; the protocol's flag for truncation is not passed on to us.
        drop_set_id: mode.is_none() && (owner_changes || (size.is_some() && request.uid() != 0)),
        // Where the kernel keeps times of change itself, only that of access says so.
        times_are_now: matches!(atime, Some(TimeOrNow::Now)),
        follows_writes: false,
    }
}

fn moment(time: TimeOrNow) -> Timestamp {
    match time {
        TimeOrNow::SpecificTime(time) => from_system(time),
        TimeOrNow::Now => from_system(SystemTime::now()),
    }
}

/// Returns what the flags of setxattr(2) ask for.
pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Error::Errno(libc::EINVAL)),
    }
}

/// Returns what the mode of fallocate(2) asks for.
pub(super) fn fallocate_mode(mode: i32) -> Result<FallocateMode> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | KEEP;
    Ok(match mode {
        0 => FallocateMode::Allocate,
        KEEP => FallocateMode::AllocateKeepSize,
        PUNCH => FallocateMode::PunchHole,
        libc::FALLOC_FL_ZERO_RANGE => FallocateMode::ZeroRange,
        ZERO_KEEP => FallocateMode::ZeroRangeKeepSize,
        _ => return Err(Error::Errno(libc::EOPNOTSUPP)),
    })
}

impl Face {
    fn credentials(request: &Request, umask: u32) -> Credentials {
        Credentials { uid: request.uid(), gid: request.gid(), umask: (umask & 0o777) as u16 }
    }

    pub(super) fn reply_made(&self, parent: INodeNo, made: Result<(Node, Attr)>, reply: ReplyEntry) {
        match made {
            Ok((node, attr)) => {
                let generation = Generation(attr.generation.into());
                let shown = self.entry(node, &attr);
                reply.entry(&self.name_lifetime(self.node(parent)), &shown, generation);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Makes a file of any type but a symbolic link.
    pub(super) fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<(Node, Attr)> {
        let dir = self.node(parent);
        let (writer, ino) = self.tree.writer(dir)?;
        let who = Self::credentials(request, umask);
        let permissions = (mode & 0o7777) as u16;
        let attr = match FileType::from_mode(mode).unwrap_or(FileType::Regular) {
            FileType::Directory => writer.mkdir(ino, name.as_bytes(), permissions, &who)?,
            FileType::Symlink => return Err(Error::Errno(libc::EINVAL)),
            file_type => writer.create(ino, name.as_bytes(), file_type, permissions, from_rdev(rdev), &who)?,
        };
        Ok((self.tree.sibling(dir, attr.ino)?, attr))
    }

    pub(super) fn make_symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
    ) -> Result<(Node, Attr)> {
        let dir = self.node(parent);
        let (writer, ino) = self.tree.writer(dir)?;
        let who = Self::credentials(request, 0);
        let attr = writer.symlink(ino, name.as_bytes(), target.as_os_str().as_bytes(), &who)?;
        Ok((self.tree.sibling(dir, attr.ino)?, attr))
    }

    pub(super) fn make_link(&self, id: INodeNo, parent: INodeNo, name: &OsStr) -> Result<(Node, Attr)> {
        let dir = self.node(parent);
        let (writer, into, ino) = self.tree.shared_writer(dir, self.node(id))?;
        let attr = writer.link(ino, into, name.as_bytes())?;
        Ok((self.tree.sibling(dir, attr.ino)?, attr))
    }

    pub(super) fn remove(&self, parent: INodeNo, name: &OsStr, folder: bool) -> Result<()> {
        let dir = self.node(parent);
        let (writer, ino) = self.tree.writer(dir)?;
        if self.tree.is_mountpoint(dir, name.as_bytes()) {
            return Err(Error::Errno(libc::EBUSY));
        }
        if folder { writer.rmdir(ino, name.as_bytes()) } else { writer.unlink(ino, name.as_bytes()) }
    }

    pub(super) fn move_name(
        &self,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            RenameMode::Exchange
        } else {
            return Err(Error::Errno(libc::EINVAL));
        };
        let (from, to) = (self.node(parent), self.node(new_parent));
        let (writer, dir, new_dir) = self.tree.shared_writer(from, to)?;
        if self.tree.is_mountpoint(from, name.as_bytes()) || self.tree.is_mountpoint(to, new_name.as_bytes()) {
            return Err(Error::Errno(libc::EBUSY));
        }
        writer.rename(dir, name.as_bytes(), new_dir, new_name.as_bytes(), mode)
    }

    pub(super) fn make_durable(&self, id: INodeNo, data_only: bool) -> Result<()> {
        match self.tree.writer(self.node(id)) {
            Ok((writer, ino)) => writer.fsync(ino, data_only),
            // What is only read is as durable as it can be.
            Err(error) if error.is_errno(libc::EROFS) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn copy_range(
        &self,
        from: INodeNo,
        from_offset: u64,
        to: INodeNo,
        to_offset: u64,
        len: u64,
    ) -> Result<u32> {
        let source = self.node(from);
        let (writer, target) = self.tree.writer(self.node(to))?;
        // The answer has 32 bits; the caller asks again for the rest.
        let len = len.min(1 << 30);
        let mut piece = vec![0; COPY_PIECE.min(len as usize)];
        let mut done = 0;
        while done < len {
            let wanted = ((len - done) as usize).min(piece.len());
            let count = self.tree.read(source, from_offset + done, &mut piece[..wanted])?;
            if count == 0 {
                break;
            }
            let written = match writer.write(target, to_offset + done, &piece[..count], true) {
                Ok(written) => written,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            };
            done += written as u64;
            if written < count {
                break;
            }
        }
        Ok(done as u32)
    }

    /// Refuses what the flags of a file do, as the kernel does where a file is opened: by the time that its pages are
    /// written, it is too late.
    pub(super) fn check_open(&self, id: INodeNo, flags: OpenFlags) -> Result<()> {
        let truncates = flags.0 & libc::O_TRUNC != 0;
        if flags.acc_mode() == OpenAccMode::O_RDONLY && !truncates {
            return Ok(());
        }
        let has = self.tree.attr(self.node(id))?.flags;
        let appends = flags.0 & libc::O_APPEND != 0 && !truncates;
        if has & inode_flags::IMMUTABLE != 0 || has & inode_flags::APPEND != 0 && !appends {
            return Err(Error::Errno(libc::EPERM));
        }
        Ok(())
    }

    fn set_flags(&self, request: &Request, node: Node, flags: u32) -> Result<Vec<u8>> {
        let (writer, ino) = self.tree.writer(node)?;
        if self.checks_permissions && ![0, self.tree.attr(node)?.uid].contains(&request.uid()) {
            return Err(Error::Errno(libc::EPERM));
        }
        writer.set_flags(ino, flags)?;
        Ok(Vec::new())
    }

    pub(super) fn control(&self, request: &Request, id: INodeNo, command: u32, data: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(id);
        match command {
            // The kernel makes room for 32 bits, whatever the command's number says.
            GET_FLAGS => Ok(self.tree.attr(node)?.flags.to_ne_bytes().to_vec()),
            SET_FLAGS => {
                let flags = data.first_chunk().ok_or(Error::Errno(libc::EINVAL))?;
                self.set_flags(request, node, u32::from_ne_bytes(*flags))
            }
            GET_FSXATTR => {
                let flags = self.tree.attr(node)?.flags;
                let shown = FSXATTR_FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(shown, _)| shown);
                let mut answer = vec![0; FSXATTR_SIZE];
                answer[..4].copy_from_slice(&shown.sum::<u32>().to_ne_bytes());
                Ok(answer)
            }
            SET_FSXATTR => {
                let asked: &[u8; FSXATTR_SIZE] = data.first_chunk().ok_or(Error::Errno(libc::EINVAL))?;
                let (asked, rest) = asked.split_first_chunk().expect("the struct is longer than its first field");
                let asked = u32::from_ne_bytes(*asked);
                let known = FSXATTR_FLAGS.iter().fold(0, |all, (shown, _)| all | shown);
                // What remains are hints of extent sizes and the project, of which there are none.
                if asked & !known != 0 || rest.iter().any(|&byte| byte != 0) {
                    return Err(Error::Errno(libc::EOPNOTSUPP));
                }
                let mut flags = self.tree.attr(node)?.flags;
                for (shown, flag) in FSXATTR_FLAGS {
                    flags = if asked & shown != 0 { flags | flag } else { flags & !flag };
                }
                self.set_flags(request, node, flags)
            }
            TRIM => {
                let range: &[u8; 24] = data.first_chunk().ok_or(Error::Errno(libc::EINVAL))?;
                let trimmed = self.tree.writer(node)?.0.trim()?;
                let mut answer = range.to_vec();
                answer[8..16].copy_from_slice(&trimmed.to_ne_bytes());
                Ok(answer)
            }
            _ => Err(Error::Errno(libc::ENOTTY)),
        }
    }
}
