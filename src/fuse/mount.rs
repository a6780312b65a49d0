//! Mounting and unmounting: by mount(2) as root, by fusermount3(1) as an ordinary user.
//!
//! The protocol with fusermount3 is libfuse's: it finds one end of a socket pair by the number in `_FUSE_COMMFD`, and
//! sends an opened /dev/fuse through it. Here that end is its standard input.

use super::MountOptions;
use super::mountinfo::MountLine;
use crate::error::{Error, IoContext, Result};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IoSliceMut, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEVICE: &str = "/dev/fuse";

/// How far ahead of a reader the kernel asks, in KiB: a request of the largest size.
const READ_AHEAD_KIB: u32 = 1024;

/// An opened /dev/fuse, and what is needed to unmount.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The device.
    pub(super) device: OwnedFd,
    /// Where it is mounted.
    pub(super) mountpoint: PathBuf,
    /// While this is open, fusermount3 waits to unmount (`auto_unmount`).
    pub(super) watched: Option<UnixStream>,
}

/// Checks that a folder can be mounted on, and returns it without links.
///
/// # Errors
/// `NotFound`, [`Error::Usage`] for what is no folder, [`Error::InUse`] where something of ours is mounted already.
pub(super) fn check(mountpoint: &Path) -> Result<PathBuf> {
    let shown = mountpoint.display();
    let metadata = match std::fs::metadata(mountpoint) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound(format!("the mount point {shown} does not exist; make it with mkdir").into()));
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(Error::InUse(
                format!("{shown} holds a mount whose server is gone; unmount it with `guestctl umount --lazy {shown}`")
                    .into(),
            ));
        }
        Err(error) => return Err(Error::io(format!("cannot mount on {shown}"), error)),
    };
    if !metadata.is_dir() {
        return Err(Error::Usage(format!("the mount point {shown} is not a folder").into()));
    }
    let whole = mountpoint.canonicalize().doing(|| format!("cannot mount on {shown}"))?;
    if let Some(line) = super::mountinfo::find(&whole)?
        && line.kind.starts_with(b"fuse")
    {
        return Err(Error::InUse(
            format!("{} is mounted on {shown} already; unmount it first", line.source.escape_ascii()).into(),
        ));
    }
    Ok(whole)
}

/// Mounts on a folder that [`check`] returned.
///
/// # Errors
/// [`Error::Io`] and [`Error::NotFound`], saying what is missing: /dev/fuse, fusermount3, a right.
pub(super) fn mount(mountpoint: &Path, source: &str, read_only: bool, options: &MountOptions) -> Result<Mounted> {
    let mut flags = options.flags;
    flags.set(MsFlags::MS_RDONLY, read_only);
    if !Path::new(DEVICE).exists() {
        return Err(Error::NotFound(
            "/dev/fuse is missing: load the fuse module, or give this container the device (--device /dev/fuse); \
             `guestctl ls`, `cat`, `cp` and `tar-out` work without it"
                .into(),
        ));
    }
    if nix::unistd::geteuid().is_root() && !options.auto_unmount {
        match mount_as_root(mountpoint, source, flags, options) {
            // A container's root may not mount, and may still have fusermount3.
            Err(nix::Error::EPERM) => {}
            Err(errno) => {
                return Err(Error::io(format!("cannot mount on {}", mountpoint.display()), errno.into()));
            }
            Ok(device) => return Ok(Mounted { device, mountpoint: mountpoint.to_owned(), watched: None }),
        }
    }
    mount_by_fusermount(mountpoint, source, flags, options)
}

fn mount_as_root(mountpoint: &Path, source: &str, flags: MsFlags, options: &MountOptions) -> nix::Result<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    let mode = std::fs::metadata(mountpoint).map_or(libc::S_IFDIR, |metadata| metadata.mode() & libc::S_IFMT);
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={}",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid()
    );
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let kind = format!("fuse.{}", options.subtype);
    nix::mount::mount(Some(source), mountpoint, Some(kind.as_str()), flags, Some(data.as_str()))?;
    Ok(device.into())
}

fn mount_by_fusermount(mountpoint: &Path, source: &str, flags: MsFlags, options: &MountOptions) -> Result<Mounted> {
    let place = || format!("cannot mount on {}", mountpoint.display());
    let (ours, theirs) = UnixStream::pair().doing(place)?;
    let mut list = OsString::from("nosuid,nodev");
    let escape = |text: &str| text.replace('\\', "\\\\").replace(',', "\\,");
    list.push(format!(",fsname={},subtype={}", escape(source), escape(&options.subtype)));
    list.push(if flags.contains(MsFlags::MS_RDONLY) { ",ro" } else { ",rw" });
    for (flag, name) in [
        (MsFlags::MS_NOEXEC, ",noexec"),
        (MsFlags::MS_SYNCHRONOUS, ",sync"),
        (MsFlags::MS_DIRSYNC, ",dirsync"),
        (MsFlags::MS_NOATIME, ",noatime"),
    ] {
        if flags.contains(flag) {
            list.push(name);
        }
    }
    for (wanted, name) in [
        (options.default_permissions, ",default_permissions"),
        (options.allow_other, ",allow_other"),
        (options.auto_unmount, ",auto_unmount"),
    ] {
        if wanted {
            list.push(name);
        }
    }
    let mut child = Command::new("fusermount3")
        .arg("-o")
        .arg(&list)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotFound("fusermount3 is missing: install the package fuse3, or mount as root".into())
            }
            _ => Error::io("cannot run fusermount3", error),
        })?;
    let device = receive_fd(&ours);
    if options.auto_unmount && device.is_ok() {
        // It lives as long as we do. A thread reaps it, so that it never is a zombie.
        let _ = std::thread::Builder::new().name(String::from("fusermount3")).spawn(move || child.wait());
        return Ok(Mounted { device: device?, mountpoint: mountpoint.to_owned(), watched: Some(ours) });
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // What it says is only for the message; that it cannot be read changes nothing.
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let status = child.wait().doing(|| "cannot wait for fusermount3")?;
    match device {
        Ok(device) if status.success() => Ok(Mounted { device, mountpoint: mountpoint.to_owned(), watched: None }),
        Ok(_) | Err(_) => {
            let said = said.trim();
            let hint = if said.contains("user_allow_other") {
                "; the administrator allows it by `user_allow_other` in /etc/fuse.conf"
            } else {
                ""
            };
            let why = if said.is_empty() { status.to_string() } else { said.to_owned() };
            Err(Error::io(place(), std::io::Error::other(format!("{why}{hint}"))))
        }
    }
}

fn receive_fd(socket: &UnixStream) -> Result<OwnedFd> {
    let failed = || "fusermount3 gave no device";
    let mut byte = [0; 1];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).doing(failed)?;
    for control in message.cmsgs().doing(failed)? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(&fd) = fds.first()
        {
            return crate::sys::take_fd(fd);
        }
    }
    Err(Error::io(failed(), std::io::ErrorKind::UnexpectedEof.into()))
}

/// Lets the kernel ask further ahead than the 128 KiB that it grants FUSE, where the process may say so: as root, with
/// /sys writable. Requests of 1 MiB read a large file half as fast again.
pub(super) fn read_further_ahead(line: &MountLine) {
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", line.device);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        log::debug!("{setting} stays as it is: {error}");
    }
}

/// Unmounts a folder; `lazy` takes it out of the tree while files of it are open.
///
/// # Errors
/// [`Error::InUse`] when files are open there, [`Error::Io`].
pub(super) fn unmount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let place = || format!("cannot unmount {}", mountpoint.display());
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() } | MntFlags::UMOUNT_NOFOLLOW;
    match umount2(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(nix::Error::EBUSY) => Err(busy(mountpoint)),
        Err(nix::Error::EPERM) => unmount_by_fusermount(mountpoint, lazy),
        Err(errno) => Err(Error::io(place(), errno.into())),
    }
}

fn busy(mountpoint: &Path) -> Error {
    let shown = mountpoint.display();
    Error::InUse(
        format!("{shown} is in use: a program has a file open there or stands in it (`fuser -vm {shown}` tells which)")
            .into(),
    )
}

fn unmount_by_fusermount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("-u")];
    if lazy {
        arguments.push(OsStr::new("-z"));
    }
    arguments.extend([OsStr::new("--"), mountpoint.as_os_str()]);
    let output = Command::new("fusermount3")
        .args(&arguments)
        .stdin(Stdio::null())
        .output()
        .doing(|| "cannot run fusermount3 (package fuse3)")?;
    if output.status.success() {
        return Ok(());
    }
    if output.stderr.windows(4).any(|word| word.eq_ignore_ascii_case(b"busy")) {
        return Err(busy(mountpoint));
    }
    let said = OsStr::from_bytes(output.stderr.trim_ascii()).display().to_string();
    Err(Error::io(format!("cannot unmount {}", mountpoint.display()), std::io::Error::other(said)))
}
