//! `guestctl mount`.
//!
//! The program forks before it starts a thread. The parent waits for one byte, the exit code, and is gone; the child is
//! the server, in a session of its own. What goes wrong before the mount answers is said on the caller's standard error.

use super::image::{Choosing, Opening};
use super::{exit, logging, output};
use crate::error::{Error, IoContext, Result};
use crate::fuse::{MountOptions, Server, Stopper};
use crate::guestfs::Overlay;
use crate::sys::{self, Fork};
use crate::tree::Tree;
use crate::volume::crypt::NoKeys;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Weak};

/// Mount a disk image on a folder
///
/// The tree is the guest's own, as its system mounts it, where there is one operating system; several have a folder each.
/// Without one it is that of the image's one filesystem, or has a folder for each. IMAGE is a file in any format
/// that is known (the format is told by its contents), a block device, an NBD URI (nbd://host[:port]/export,
/// nbds://host/export, nbd+unix:///export?socket=PATH), or the URL of an image on another host (https://host/path,
/// ssh://user@host/path, s3://bucket/key). A mount is read-only unless --rw or --overlay is given; without --rw, not one byte
/// of the image changes.
///
/// The program returns when the mount answers; a server stays in the background until `guestctl umount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl mount debian.qcow2 /mnt/guest
  guestctl mount -m /dev/sda2:/ -m /dev/sda1:/boot/efi disk.img /mnt/guest
  guestctl mount -o allow_other,uid=1000 nbd://backup/disk7 /mnt/guest
  guestctl mount --rw debian.qcow2 /mnt/guest
  guestctl mount --overlay=changes.qcow2 base.qcow2 /mnt/guest

Mount options (-o): allow_other, default_permissions, auto_unmount, uid=N, gid=N, umask=OCTAL, fsname=NAME,
subtype=NAME, ro, noexec, sync, dirsync, noatime, nodiratime, relatime, strictatime, nosymfollow; nosuid and nodev
always hold. Those that mount(8) keeps for itself (defaults, auto, user, _netdev, ...) are taken and ignored.")]
pub(super) struct Args {
    /// Disk image or URL
    image: String,

    /// Folder to mount on, or /dev/fd/N: a /dev/fuse that is mounted already
    mountpoint: PathBuf,

    #[command(flatten)]
    choosing: Choosing,

    #[command(flatten)]
    opening: Opening,

    /// Mount read-only; this is the default
    #[arg(long)]
    ro: bool,

    /// Mount for writing; the image must not be in use
    #[arg(long, conflicts_with = "ro")]
    rw: bool,

    /// Mount for writing, and send what is written to a qcow2 image over IMAGE, which stays as it is: to FILE, made where it
    /// does not exist, or to one that goes away with the mount
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with_all = ["ro", "rw"])]
    overlay: Option<OsString>,

    /// Give the space of what is deleted back to the host
    #[arg(long)]
    discard: bool,

    /// Mount options, as for mount(8), with commas between them (repeatable)
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,

    /// Stay in the foreground
    #[arg(short, long)]
    foreground: bool,

    /// Write the server's process id to this file once the mount answers
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// Write a line feed to this file descriptor once the mount answers, and close it
    #[arg(long, value_name = "N")]
    ready_fd: Option<RawFd>,

    /// Write the server's log to the end of this file instead of the system's log
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
}

/// Where the tree is served.
enum Place {
    Folder(PathBuf),
    Device(RawFd),
}

pub(super) fn run(args: &Args, sink: &logging::Sink) -> Result<ExitCode> {
    let mut options = MountOptions::default();
    for list in &args.options {
        options.apply(list)?;
    }
    let writable = wants_writing(args, &options)?;
    let place = match args.mountpoint.to_str().and_then(|path| path.strip_prefix("/dev/fd/")) {
        Some(number) => Place::Device(number.parse().map_err(|_| {
            Error::Usage(format!("{}: write /dev/fd/N with a number", args.mountpoint.display()).into())
        })?),
        None => Place::Folder(Server::check_mountpoint(&args.mountpoint)?),
    };
    if let Some(path) = &args.log_file {
        // Opened before the server leaves this folder, and tried while errors can be said.
        sink.to_file(path)?;
    }
    if args.foreground {
        serve(args, &place, &options, writable, || Ok(()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut reader, writer) = std::io::pipe().doing(|| "cannot make a pipe")?;
    match sys::fork()? {
        Fork::Parent => {
            drop(writer);
            let mut code = [0; 1];
            match reader.read_exact(&mut code) {
                Ok(()) => Ok(ExitCode::from(code[0])),
                Err(_) => Err(Error::io(
                    "the serving process ended before the mount answered",
                    std::io::ErrorKind::Other.into(),
                )),
            }
        }
        Fork::Child => {
            drop(reader);
            Ok(ExitCode::from(be_server(args, &place, &options, writable, sink, writer)))
        }
    }
}

fn wants_writing(args: &Args, options: &MountOptions) -> Result<bool> {
    let asked = args.rw || args.overlay.is_some() || (options.writable == Some(true) && !args.ro);
    if asked && options.writable == Some(false) {
        return Err(Error::Usage("--rw and -o ro contradict each other".into()));
    }
    if args.discard && !asked {
        return Err(Error::Usage("--discard needs --rw or --overlay".into()));
    }
    Ok(asked)
}

/// Runs the server in the child; returns its exit code.
fn be_server(
    args: &Args,
    place: &Place,
    options: &MountOptions,
    writable: bool,
    sink: &logging::Sink,
    mut parent: std::io::PipeWriter,
) -> u8 {
    let mut told = false;
    let served = serve(args, place, options, writable, || {
        if args.log_file.is_none() {
            sink.to_syslog();
        }
        detach()?;
        told = true;
        // A caller who has gone needs no answer.
        let _ = parent.write_all(&[0]);
        Ok(())
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            let code = exit::code(&error);
            if told {
                log::error!("{error}");
            } else {
                eprintln!("guestctl: {}", output::one_line(&error.to_string()));
                let _ = parent.write_all(&[code]);
            }
            code
        }
    }
}

/// Leaves the caller's session, folder and streams. Until then a key may be asked for on the terminal.
fn detach() -> Result<()> {
    // In a session of its own, no terminal's hang-up reaches it. It fails only for a leader, which a child is not.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").doing(|| "cannot change to /")?;
    let null = File::options().read(true).write(true).open("/dev/null").doing(|| "cannot open /dev/null")?;
    nix::unistd::dup2_stdin(&null).doing(|| "cannot close standard input")?;
    nix::unistd::dup2_stdout(&null).doing(|| "cannot close standard output")?;
    nix::unistd::dup2_stderr(&null).doing(|| "cannot close standard error")
}

/// Opens the image, mounts it, says so by `ready`, and serves until it is unmounted.
fn serve(
    args: &Args,
    place: &Place,
    options: &MountOptions,
    writable: bool,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let overlay = args.overlay.as_ref().map(|file| match file.is_empty() {
        true => Overlay::Temporary,
        false => Overlay::File(file.into()),
    });
    let in_place = writable && overlay.is_none();
    let mut guest = args.opening.open_with(&args.image, in_place, overlay, args.discard)?;
    args.choosing.mount(&mut guest, writable)?;
    // Nothing is opened any more, so that no key is needed: those that were given are wiped.
    guest.set_unlock(Arc::new(NoKeys));
    let tree = Arc::clone(guest.tree()?);
    let server = match place {
        Place::Folder(folder) => Server::mount(Arc::clone(&tree), folder, &args.image, options)?,
        Place::Device(number) => Server::from_device(Arc::clone(&tree), sys::take_fd(*number)?, options)?,
    };
    stop_on_signals(server.stopper(), Arc::downgrade(&tree))?;
    drop(tree);
    let _pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    if let Some(number) = args.ready_fd {
        File::from(sys::take_fd(number)?).write_all(b"\n").doing(|| "cannot write to the descriptor of --ready-fd")?;
    }
    ready()?;
    // The handle closes the image; the server lets those go who wait for that.
    server.run(move || guest.shutdown())
}

/// Unmounts when the process is told to end.
fn stop_on_signals(stopper: Stopper, tree: Weak<Tree>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).doing(|| "cannot handle signals")?;
    let wait = move || {
        for signal in &mut signals {
            log::info!("signal {signal}: unmounting");
            if stopper.can_stop() {
                if let Err(error) = stopper.stop() {
                    log::error!("{error}");
                }
            } else {
                if let Some(tree) = tree.upgrade()
                    && let Err(error) = tree.close()
                {
                    log::error!("{error}");
                }
                std::process::exit(0);
            }
        }
    };
    std::thread::Builder::new().name(String::from("signals")).spawn(wait).doing(|| "cannot start a thread")?;
    Ok(())
}

/// A file with the process id in it, removed at the end.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self> {
        let whole = std::path::absolute(path).doing(|| format!("cannot write {}", path.display()))?;
        std::fs::write(&whole, format!("{}\n", std::process::id()))
            .doing(|| format!("cannot write {}", path.display()))?;
        Ok(Self(whole))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It may have been removed already.
        let _ = std::fs::remove_file(&self.0);
    }
}
