//! The arguments that say which image, and how to open it.

use super::keys::KeyArgs;
use crate::block::{ImageFormat, OpenOptions, Via};
use crate::error::{Error, Result};
use crate::guestfs::{DriveOptions, Guestfs, Layout, MountSpec, Overlay};
use clap::{Args, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// How images are opened.
#[derive(Args, Debug)]
pub(super) struct Opening {
    /// Add a further disk: /dev/sdb, /dev/sdc, … (repeatable)
    #[arg(short, long = "add", value_name = "IMAGE")]
    add: Vec<String>,

    #[command(flatten)]
    manner: Manner,
}

/// How images are opened, whichever they are.
#[derive(Args, Debug)]
struct Manner {
    /// Take the images to be of this format instead of looking: raw, qcow2, vmdk, vdi, vhdx, vpc, …
    #[arg(long, value_name = "FMT")]
    format: Option<String>,

    /// Read images in this program or through a qemu-nbd process
    #[arg(long, value_enum, default_value_t = ViaArg::Auto)]
    via: ViaArg,

    /// Allow backing files and data files in this folder, beside the image's own (repeatable)
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,

    /// Read an image that a running machine has open for writing; what is read may be torn
    #[arg(long)]
    force: bool,

    /// Open an internal snapshot of a qcow2 image, by its name or number
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,

    /// Use at most this much memory for caches
    #[arg(long, value_name = "MIB", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    cache_size: u32,

    #[command(flatten)]
    remote: Remote,

    #[command(flatten)]
    keys: KeyArgs,
}

/// How images on other hosts are read.
#[derive(Args, Debug)]
struct Remote {
    /// Wait this long for a server that was lost
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    timeout: u32,

    /// Read a remote image only where and when it is asked for, and keep nothing of it
    #[arg(long)]
    no_read_ahead: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ViaArg {
    /// This program where it can, else qemu-nbd
    Auto,
    /// This program only
    Native,
    /// A qemu-nbd process
    Nbd,
}

/// How an image is opened that is worked on as a whole.
#[derive(Args, Debug)]
pub(super) struct Source {
    /// Take the image to be of this format instead of looking: raw, qcow2, vmdk, vdi, vhdx, vpc, …
    #[arg(long, value_name = "FMT")]
    source_format: Option<String>,

    /// Read the image in this program or through a qemu-nbd process
    #[arg(long, value_enum, default_value_t = ViaArg::Auto)]
    via: ViaArg,

    /// Allow backing files and data files in this folder, beside the image's own (repeatable)
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,

    /// Read an image that a running machine has open for writing; what is read may be torn
    #[arg(long)]
    unlocked: bool,

    /// Read an internal snapshot of a qcow2 image, by its name or number
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,

    #[command(flatten)]
    remote: Remote,
}

impl Source {
    /// Returns how the image is opened.
    pub(super) fn options(&self) -> Result<OpenOptions> {
        Ok(OpenOptions {
            format: self.source_format.as_deref().map(ImageFormat::from_name).transpose()?,
            via: self.via.into(),
            allow_backing: self.allow_backing.clone(),
            force: self.unlocked,
            snapshot: self.snapshot.clone(),
            patience: std::time::Duration::from_secs(self.remote.timeout.into()),
            read_ahead: !self.remote.no_read_ahead,
            ..OpenOptions::default()
        })
    }
}

impl From<ViaArg> for Via {
    fn from(via: ViaArg) -> Self {
        match via {
            ViaArg::Auto => Self::Auto,
            ViaArg::Native => Self::Native,
            ViaArg::Nbd => Self::Nbd,
        }
    }
}

/// Which filesystems are looked at.
#[derive(Args, Debug)]
pub(super) struct Choosing {
    /// Mount this device on this folder of the tree (repeatable): -m /dev/sda2 -m /dev/sda1:/boot/efi
    #[arg(short, long = "mount", value_name = "DEV[:MOUNTPOINT[:OPTIONS]]")]
    mount: Vec<MountSpec>,

    /// Say what the tree looks like
    #[arg(long, value_enum, default_value_t = LayoutArg::Auto, conflicts_with = "mount")]
    layout: LayoutArg,

    /// Show the system whose root lies on this device, as that system mounts it; with a colon and a Btrfs subvolume where a
    /// device has several: /dev/sda2:@
    #[arg(long, value_name = "DEV", conflicts_with_all = ["mount", "layout"])]
    root: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutArg {
    /// As the guest's system has it where there is one; several systems, or several filesystems without one, give a folder for
    /// each; else one filesystem is the tree
    Auto,
    /// As the guest's own system has it
    Os,
    /// A folder for each filesystem, named by its device
    Devices,
}

/// Which files of which image are read.
#[derive(Args, Debug)]
pub(super) struct Reading {
    #[command(flatten)]
    choosing: Choosing,

    /// Add a further disk: /dev/sdb, /dev/sdc, … (repeatable)
    #[arg(long = "add", value_name = "IMAGE")]
    add: Vec<String>,

    #[command(flatten)]
    manner: Manner,
}

impl Reading {
    /// Opens an image and mounts what was asked for.
    pub(super) fn open(&self, image: &str) -> Result<Guestfs> {
        let mut guest = self.open_drives(image)?;
        self.choosing.mount(&mut guest, false)?;
        Ok(guest)
    }

    /// Opens an image without mounting anything.
    pub(super) fn open_drives(&self, image: &str) -> Result<Guestfs> {
        self.manner.open_with(image, &self.add, false, None, false, true)
    }
}

/// Whether a command writes, and where to.
#[derive(Args, Debug)]
pub(super) struct Changing {
    /// Write to the image, which must not be in use
    #[arg(long)]
    rw: bool,

    /// Send what is written to a qcow2 image over IMAGE, which stays as it is: to FILE, made where it does not exist, or to
    /// one that goes away at the end
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "",
          conflicts_with = "rw")]
    overlay: Option<OsString>,

    #[command(flatten)]
    reading: Reading,
}

impl Changing {
    /// Says whether writing was asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.rw || self.overlay.is_some()
    }

    /// Returns how an image is read.
    pub(super) fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Opens an image for writing and mounts what was asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] when writing was not asked for.
    pub(super) fn open(&self, image: &str) -> Result<Guestfs> {
        if !self.is_asked() {
            return Err(Error::Usage(
                "this writes to the image: add --rw, or --overlay=FILE to leave the image as it is".into(),
            ));
        }
        self.open_as_asked(image)
    }

    /// Opens an image, for writing where that was asked for, and mounts what was asked for.
    pub(super) fn open_as_asked(&self, image: &str) -> Result<Guestfs> {
        let overlay = self.overlay.as_ref().map(|file| match file.is_empty() {
            true => Overlay::Temporary,
            false => Overlay::File(file.into()),
        });
        let mut guest = self.reading.manner.open_with(image, &self.reading.add, self.rw, overlay, false, true)?;
        self.reading.choosing.mount(&mut guest, self.is_asked())?;
        Ok(guest)
    }

    /// Makes a handle without drives.
    pub(super) fn open_nothing(&self) -> Result<Guestfs> {
        self.reading.manner.handle(true)
    }

    /// Returns how a drive is opened.
    pub(super) fn drive_options(&self) -> Result<DriveOptions> {
        let overlay = self.overlay.is_some().then_some(Overlay::Temporary);
        Ok(DriveOptions { overlay, ..self.reading.manner.drive_options(self.rw, false)? })
    }
}

impl Opening {
    /// Opens the images for reading; encrypted volumes whose keys were not given stay closed.
    pub(super) fn open_listing(&self, image: &str) -> Result<Guestfs> {
        self.manner.open_with(image, &self.add, false, None, false, false)
    }

    /// Opens the images for reading.
    pub(super) fn open(&self, image: &str) -> Result<Guestfs> {
        self.open_with(image, false, None, false)
    }

    /// Opens the images, for writing or with an overlay over the first one.
    pub(super) fn open_with(
        &self,
        image: &str,
        writable: bool,
        overlay: Option<Overlay>,
        discard: bool,
    ) -> Result<Guestfs> {
        self.manner.open_with(image, &self.add, writable, overlay, discard, true)
    }
}

impl Manner {
    fn drive_options(&self, writable: bool, discard: bool) -> Result<DriveOptions> {
        Ok(DriveOptions {
            format: self.format.as_deref().map(ImageFormat::from_name).transpose()?,
            via: self.via.into(),
            writable,
            allow_backing: self.allow_backing.clone(),
            force: self.force,
            snapshot: self.snapshot.clone(),
            discard,
            overlay: None,
            patience: Some(std::time::Duration::from_secs(self.remote.timeout.into())),
            no_read_ahead: self.remote.no_read_ahead,
        })
    }

    /// Makes a handle without drives, which asks on the terminal for keys that were not given where `ask` is set.
    fn handle(&self, ask: bool) -> Result<Guestfs> {
        // Half of an address limit is left for threads, buffers and the program itself.
        let wanted = u64::from(self.cache_size) << 20;
        let limit = crate::sys::address_limit().map_or(wanted, |limit| limit / 4);
        let mut guest = Guestfs::with_cache(wanted.min(limit) as usize);
        guest.set_unlock(std::sync::Arc::new(self.keys.keys(ask)?));
        Ok(guest)
    }

    fn open_with(
        &self,
        image: &str,
        add: &[String],
        writable: bool,
        overlay: Option<Overlay>,
        discard: bool,
        ask: bool,
    ) -> Result<Guestfs> {
        let options = self.drive_options(writable, discard)?;
        let mut guest = self.handle(ask)?;
        guest.add_drive_with(image, DriveOptions { overlay, ..options.clone() })?;
        for further in add {
            guest.add_drive_with(further, options.clone())?;
        }
        guest.launch()?;
        Ok(guest)
    }
}

impl Choosing {
    /// Mounts what was asked for.
    pub(super) fn mount(&self, guest: &mut Guestfs, writable: bool) -> Result<()> {
        if !self.mount.is_empty() {
            return guest.mount_specs(&self.mount, writable);
        }
        if let Some(device) = &self.root {
            let root = guest.find_root(device)?;
            return guest.mount_root(&root, writable);
        }
        let layout = match self.layout {
            LayoutArg::Auto => Layout::Auto,
            LayoutArg::Devices => Layout::Devices,
            LayoutArg::Os => Layout::Os,
        };
        guest.mount_layout(layout, writable)
    }
}

/// An image, and a path in it where one was written after a colon: `disk.qcow2:/etc/fstab`.
pub(super) fn split_path(image: &str) -> (&str, Option<&str>) {
    if crate::block::is_remote(image) || Path::new(image).exists() {
        return (image, None);
    }
    match image.split_once(":/") {
        Some((file, _)) if Path::new(file).exists() => (file, Some(&image[file.len() + 1..])),
        _ => (image, None),
    }
}

/// Returns an error as that of a path in an image.
pub(super) fn in_guest(image: &str, path: &[u8], error: Error) -> Error {
    error.at(format!("{image}:{}", path.escape_ascii()))
}

/// Returns the image and the paths that are meant by `IMAGE PATH...` or `IMAGE:PATH PATH...`.
pub(super) fn image_and_paths<'a>(image: &'a str, paths: &'a [OsString]) -> (&'a str, Vec<&'a OsStr>) {
    let (file, inside) = split_path(image);
    let paths = inside.map(OsStr::new).into_iter().chain(paths.iter().map(OsString::as_os_str)).collect();
    (file, paths)
}

/// Says on standard error what went wrong with one file of several; the command goes on.
pub(super) fn complain(image: &str, path: &[u8], error: Error) {
    eprintln!("guestctl: {}", super::output::one_line(&in_guest(image, path, error).to_string()));
}

/// Returns the path of what a walk found below a folder.
pub(super) fn below(folder: &[u8], path: &[u8]) -> Vec<u8> {
    let mut whole = folder.to_vec();
    if !path.is_empty() && !whole.ends_with(b"/") {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
    whole
}
