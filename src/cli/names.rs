//! `guestctl rm`, `mkdir`, `rmdir`, `mv` and `ln`.

use super::attributes::octal;
use super::target::{self, Target, end};
use crate::error::{Error, ErrorContext, Result};
use std::process::ExitCode;

/// Remove files of an image
///
/// A link is removed itself, never what it leads to.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl rm --rw debian.qcow2 /etc/motd\n  guestctl rm -r --rw debian.qcow2:/var/cache/apt"
)]
pub(super) struct RmArgs {
    /// Remove folders with all that they hold
    #[arg(short, long)]
    recursive: bool,

    /// A file that is not there is no error
    #[arg(short = 'f')]
    missing_too: bool,

    #[command(flatten)]
    target: Target,
}

pub(super) fn rm(args: &RmArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| {
        if !args.missing_too {
            guest.lstat(path)?;
        }
        match (args.recursive, args.missing_too) {
            (true, _) => guest.rm_rf(path),
            (false, true) => guest.rm_f(path),
            (false, false) => guest.rm(path),
        }
    })
}

/// Make folders in an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl mkdir -p --rw debian.qcow2 /srv/www/html")]
pub(super) struct MkdirArgs {
    /// Make the folders above it too; one that is there is no error
    #[arg(short, long)]
    parents: bool,

    /// Mode of the new folder, not less any mask
    #[arg(long, value_name = "OCTAL", value_parser = octal, conflicts_with = "parents")]
    mode: Option<u16>,

    #[command(flatten)]
    target: Target,
}

pub(super) fn mkdir(args: &MkdirArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| match args.mode {
        _ if args.parents => guest.mkdir_p(path),
        None => guest.mkdir(path),
        Some(mode) => {
            guest.mkdir(path)?;
            guest.chmod(mode.into(), path)
        }
    })
}

/// Remove empty folders of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl rmdir --rw debian.qcow2 /srv/www")]
pub(super) struct RmdirArgs {
    #[command(flatten)]
    target: Target,
}

pub(super) fn rmdir(args: &RmdirArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| guest.rmdir(path))
}

/// Move or rename files within an image
///
/// The last PATH is the folder they are moved into, or the new name of one. What has that name is replaced.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl mv --rw debian.qcow2 /etc/motd /etc/motd.old")]
pub(super) struct MvArgs {
    #[command(flatten)]
    target: Target,
}

pub(super) fn mv(args: &MvArgs) -> Result<ExitCode> {
    let (image, paths) = args.target.paths(2, "what is moved, and where to")?;
    let (to, sources) = paths.split_last().expect("there are two");
    let guest = args.target.open(image)?;
    let done = (|| {
        if sources.len() > 1 {
            target::need_folder(&guest, to)?;
        }
        sources.iter().try_for_each(|path| guest.mv(path, to))
    })();
    end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}

/// Give a file of an image another name, or make a symbolic link
///
/// The first PATH is what the link leads to, the second its name. The text of a symbolic link is taken as it is.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl ln -s --rw debian.qcow2 ../usr/share/zoneinfo/UTC /etc/localtime")]
pub(super) struct LnArgs {
    /// Make a symbolic link
    #[arg(short, long)]
    symbolic: bool,

    /// Replace what has that name, unless it is a folder
    #[arg(short = 'f')]
    replace: bool,

    #[command(flatten)]
    target: Target,
}

pub(super) fn ln(args: &LnArgs) -> Result<ExitCode> {
    let (image, paths) = args.target.paths(2, "what the link leads to, and its name")?;
    let &[target, name] = paths.as_slice() else {
        return Err(Error::Usage("a link leads to one file and has one name".into()));
    };
    let guest = args.target.open(image)?;
    let done = match (args.symbolic, args.replace) {
        (true, false) => guest.ln_s(target, name),
        (true, true) => guest.ln_sf(target, name),
        (false, false) => guest.ln(target, name),
        (false, true) => guest.ln_f(target, name),
    };
    end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}
