//! `guestctl cp` and `guestctl copy-out`.

use super::image::{self, Changing, Reading};
use super::show::Showing;
use super::{checksum, exit, put, target};
use crate::error::{Error, ErrorContext, Result};
use crate::guestfs::CopyOptions;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

/// Copy files of an image to this host, files of this host into an image, or files within an image
///
/// Sources are IMAGE:PATH, or paths in IMAGE. They are copied into the target where that is a folder, else one is copied
/// under that name. A path that is / or ends in /. means what the folder holds. Nothing is written through a link that
/// lies in the target. Where the target is IMAGE:PATH, sources are files of this host, or IMAGE:PATH of the same image, and
/// --rw is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl cp debian.qcow2:/etc/fstab .
  guestctl cp -a debian.qcow2 /etc /var/log backup/
  guestctl cp -r a.qcow2:/srv b.qcow2:/srv/. /data
  guestctl cp --rw hosts motd debian.qcow2:/etc
  guestctl cp -a --rw debian.qcow2:/etc debian.qcow2:/etc.old")]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Further files, and the target on this host last
    #[arg(value_name = "PATH", required = true)]
    rest: Vec<OsString>,

    /// Copy folders with all that they hold
    #[arg(short, long)]
    recursive: bool,

    /// Copy folders, and keep owners (as root), modes, times, extended attributes, links and special files (as root)
    #[arg(short, long)]
    archive: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

/// Copy files and folders of an image into a folder of this host
///
/// As `cp -a`; the target must be a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl copy-out debian.qcow2 /etc /home backup/")]
pub(super) struct CopyOutArgs {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest, and the folder on this host last
    #[arg(value_name = "PATH", required = true)]
    rest: Vec<OsString>,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    reading: Reading,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let options = CopyOptions { recursive: args.recursive || args.archive, attributes: args.archive };
    if let Some((target, others)) = args.rest.split_last()
        && let Some((image, Some(path))) = target.to_str().map(image::split_path)
    {
        let mut sources = vec![OsString::from(&args.image)];
        sources.extend_from_slice(others);
        return into_image(args, image, &sources, OsStr::new(path), options);
    }
    copy(&args.image, &args.rest, options, args.showing, args.changing.reading(), false)
}

/// Copies into an image: from this host, or from the same image.
fn into_image(args: &Args, image: &str, sources: &[OsString], to: &OsStr, options: CopyOptions) -> Result<ExitCode> {
    let inside = |source: &OsString| {
        source.to_str().map(image::split_path).and_then(|(image, path)| Some((image.to_owned(), path?.to_owned())))
    };
    let guests: Vec<(String, String)> = sources.iter().filter_map(inside).collect();
    if guests.is_empty() {
        return put::copy_into(image, sources, to, options, args.showing, &args.changing, false);
    }
    if guests.len() < sources.len() || guests.iter().any(|(other, _)| other != image) {
        let text = "sources are files of this host or of that image; from image to image: tar-out A PATH - | tar-in --rw B - PATH";
        return Err(Error::Usage(text.into()));
    }
    let guest = target::open(image, args.showing, &args.changing)?;
    let done = (|| {
        if guests.len() > 1 {
            target::need_folder(&guest, to)?;
        }
        guests.iter().try_for_each(|(_, path)| match (options.attributes, options.recursive) {
            (true, _) => guest.cp_a(path, to),
            (false, true) => guest.cp_r(path, to),
            (false, false) => guest.cp(path, to),
        })
    })();
    target::end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}

pub(super) fn run_copy_out(args: &CopyOutArgs) -> Result<ExitCode> {
    let options = CopyOptions { recursive: true, attributes: true };
    copy(&args.image, &args.rest, options, args.showing, &args.reading, true)
}

fn copy(
    image: &str,
    rest: &[OsString],
    options: CopyOptions,
    showing: Showing,
    reading: &Reading,
    into_folder: bool,
) -> Result<ExitCode> {
    let usage = || Error::Usage("name what to copy and where to: guestctl cp IMAGE:PATH... TARGET".into());
    let (target, sources) = rest.split_last().ok_or_else(usage)?;
    let target = Path::new(target);
    let sources: Vec<(&str, &OsStr)> = match checksum::several_images(image, sources) {
        Some(several) => several,
        None => {
            let (image, paths) = image::image_and_paths(image, sources);
            paths.into_iter().map(|path| (image, path)).collect()
        }
    };
    if sources.is_empty() {
        return Err(usage());
    }
    if (sources.len() > 1 || into_folder) && !target.is_dir() {
        return Err(Error::Errno(libc::ENOTDIR).at(target.display().to_string()));
    }
    let mut guests = BTreeMap::new();
    let mut failed = false;
    for (image, path) in sources {
        if !guests.contains_key(image) {
            let mut guest = reading.open(image)?;
            showing.watch(&mut guest)?;
            guests.insert(image, guest);
        }
        let copied = guests[image].copy_out_with(path, target, options, &mut |below, error| {
            image::complain(image, &image::below(path.as_bytes(), below), error);
            failed = true;
            Ok(())
        });
        copied.at(|| image)?;
    }
    Ok(if failed { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}
