//! What the commands that write have in common: an image, files in it, and leave to write.

use super::image::{self, Changing};
use super::show::Showing;
use super::{exit, output};
use crate::error::{Error, Result};
use crate::guestfs::Guestfs;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// An image and files in it that are changed.
#[derive(clap::Args, Debug)]
pub(super) struct Target {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

/// Checks that what takes several files is a folder of the guest.
///
/// # Errors
/// `ENOTDIR`, and those of finding it.
pub(super) fn need_folder(guest: &Guestfs, path: &OsStr) -> Result<()> {
    if guest.stat(path)?.is_dir() { Ok(()) } else { Err(Error::Errno(libc::ENOTDIR).at(path.display().to_string())) }
}

impl Target {
    /// Returns the image and the paths.
    ///
    /// # Errors
    /// [`Error::Usage`] for fewer paths than `least`, and `what` says what is missing.
    pub(super) fn paths(&self, least: usize, what: &str) -> Result<(&str, Vec<&OsStr>)> {
        let (image, paths) = image::image_and_paths(&self.image, &self.paths);
        if paths.len() < least {
            return Err(Error::Usage(format!("name {what}, as IMAGE PATH or IMAGE:PATH").into()));
        }
        Ok((image, paths))
    }

    /// Opens the image for writing.
    pub(super) fn open(&self, image: &str) -> Result<Guestfs> {
        open(image, self.showing, &self.changing)
    }

    /// Does `work` on each path. One that fails does not stop the others; the exit code is that of the first failure.
    pub(super) fn each(&self, mut work: impl FnMut(&Guestfs, &OsStr) -> Result<()>) -> Result<ExitCode> {
        let (image, paths) = self.paths(1, "a file in the image")?;
        let guest = self.open(image)?;
        let mut code = None;
        for path in paths {
            match work(&guest, path) {
                // Who interrupts it means all of it.
                Err(error) if error.is_errno(libc::EINTR) => return end(guest, Err(error.at(image))),
                Err(error) => {
                    code.get_or_insert(exit::code(&error));
                    eprintln!("guestctl: {}", output::one_line(&error.at(image).to_string()));
                }
                Ok(()) => {}
            }
        }
        end(guest, Ok(ExitCode::from(code.unwrap_or(0))))
    }
}

/// Opens an image for writing and shows how far its calls come.
pub(super) fn open(image: &str, showing: Showing, changing: &Changing) -> Result<Guestfs> {
    let mut guest = changing.open(image)?;
    showing.watch(&mut guest)?;
    Ok(guest)
}

/// Makes what was written durable, whatever became of the work; the first error is the one to tell.
pub(super) fn end<T>(mut guest: Guestfs, done: Result<T>) -> Result<T> {
    let closed = guest.shutdown();
    let value = done?;
    closed.map(|()| value)
}
