//! `guestctl edit`.

use super::target::{self, Target};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::guestfs::Guestfs;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Edit a file of an image with $VISUAL or $EDITOR
///
/// The editor gets a copy in a private folder of this host. What it leaves unchanged is not written, nor is anything when it
/// fails. The new contents take the place of the old ones at once; owner, mode and extended attributes stay. A file that has
/// several names keeps them, and is written in place.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl edit --rw debian.qcow2 /etc/fstab\n  EDITOR='sed -i s/quiet//' guestctl edit --rw debian.qcow2:/etc/default/grub"
)]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (image, paths) = args.target.paths(1, "a file in the image")?;
    let guest = args.target.open(image)?;
    let done = paths.iter().try_for_each(|path| edit(&guest, path));
    target::end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}

/// Lets the user's editor change a file.
///
/// # Errors
/// `ENOENT`, `EISDIR`, those of the editor and of writing; when the new contents cannot be written, they stay on this host.
pub(super) fn edit(guest: &Guestfs, path: &OsStr) -> Result<()> {
    let before = guest.read_file(path)?;
    let doing = || "cannot make a folder for the editor";
    // tempfile makes it for this user alone.
    let folder = tempfile::Builder::new().prefix("guestctl-edit-").tempdir().doing(doing)?;
    // The name tells the editor what it is about.
    let name =
        Path::new(path).file_name().filter(|name| !name.as_bytes().starts_with(b".")).unwrap_or(OsStr::new("file"));
    let file = folder.path().join(name);
    std::fs::write(&file, &before).doing(|| format!("cannot write {}", file.display()))?;
    let set = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into());
    let mut script = editor.clone();
    script.push(" \"$1\"");
    let status = Command::new("sh").arg("-c").arg(&script).arg("sh").arg(&file).status().doing(|| "cannot run sh")?;
    if !status.success() {
        return Err(Error::io(
            format!("{}: nothing was written: {}", path.display(), editor.display()),
            io::Error::other(status.to_string()),
        ));
    }
    let after = std::fs::read(&file).doing(|| format!("cannot read {}", file.display()))?;
    if after == before {
        log::info!("{}: unchanged", path.display());
        return Ok(());
    }
    guest.write(path, &after).map_err(|error| {
        let kept = folder.keep().join(name);
        error.at(format!("what was edited stays in {}", kept.display()))
    })
}
