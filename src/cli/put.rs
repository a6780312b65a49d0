//! `guestctl write`, `copy-in` and `tar-in`.

use super::image::{self, Changing};
use super::input::Input;
use super::show::Showing;
use super::{exit, output, target};
use crate::error::{Error, ErrorContext, Result};
use crate::guestfs::{Compression, CopyOptions, TarInOptions};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Write standard input to a file of an image
///
/// What the file held before is gone once all of the input is there; its owner and mode stay. Until then, or when the input
/// cannot be read to its end, nothing changes. A file that has several names is written in place.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  echo guest7 | guestctl write --rw debian.qcow2 /etc/hostname")]
pub(super) struct WriteArgs {
    /// Disk image or URL; IMAGE:PATH names the file too
    image: String,

    /// File in the guest
    path: Option<OsString>,

    /// Write at the end of what is there
    #[arg(short = 'A', long)]
    append: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

pub(super) fn write(args: &WriteArgs) -> Result<ExitCode> {
    let (image, inside) = image::split_path(&args.image);
    let path = match (inside, &args.path) {
        (Some(path), None) => OsStr::new(path),
        (None, Some(path)) => path,
        _ => return Err(Error::Usage("name one file: guestctl write IMAGE PATH".into())),
    };
    let guest = target::open(image, args.showing, &args.changing)?;
    let mut input = Input::new()?;
    let done =
        if args.append { append(&guest, path, &mut input) } else { guest.write_from(path, &mut input).map(drop) };
    target::end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}

fn append(guest: &crate::guestfs::Guestfs, path: &OsStr, input: &mut dyn io::Read) -> Result<()> {
    use crate::error::IoContext;
    let mut piece = vec![0; 1 << 20];
    // An empty input makes the file too.
    guest.write_append(path, [])?;
    loop {
        let count = match input.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.doing(|| "cannot read standard input")?,
        };
        if count == 0 {
            return Ok(());
        }
        guest.write_append(path, &piece[..count])?;
    }
}

/// Copy files and folders of this host into a folder of an image
///
/// As `cp -a`: owners as numbers, modes, times, extended attributes, links and holes are kept. The target must be a folder.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl copy-in --rw debian.qcow2 site/ conf /srv\n  guestctl copy-in --rw debian.qcow2:/srv site/"
)]
pub(super) struct CopyInArgs {
    /// Disk image or URL; IMAGE:PATH names the folder
    image: String,

    /// Files of this host, and the folder in the guest last
    #[arg(value_name = "FILE", required = true)]
    rest: Vec<OsString>,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

pub(super) fn copy_in(args: &CopyInArgs) -> Result<ExitCode> {
    let (image, inside) = image::split_path(&args.image);
    let (folder, sources) = match inside {
        Some(path) => (OsStr::new(path), args.rest.as_slice()),
        None => {
            let (folder, sources) = args.rest.split_last().expect("one is required");
            (folder.as_os_str(), sources)
        }
    };
    if sources.is_empty() {
        return Err(Error::Usage("name what to copy and where to: guestctl copy-in IMAGE FILE... FOLDER".into()));
    }
    let options = CopyOptions { recursive: true, attributes: true };
    copy_into(image, sources, folder, options, args.showing, &args.changing, true)
}

/// Copies files of this host into an image.
pub(super) fn copy_into(
    image: &str,
    sources: &[OsString],
    to: &OsStr,
    options: CopyOptions,
    showing: Showing,
    changing: &Changing,
    into_folder: bool,
) -> Result<ExitCode> {
    let guest = target::open(image, showing, changing)?;
    let mut failed = false;
    let done = (|| {
        if sources.len() > 1 || into_folder {
            target::need_folder(&guest, to)?;
        }
        for source in sources {
            guest.copy_in_with(Path::new(source), to, options, &mut |path, error| {
                // A full filesystem and an interruption end it all.
                if error.is_errno(libc::ENOSPC) || error.is_errno(libc::EINTR) {
                    return Err(error);
                }
                eprintln!("guestctl: {}", output::one_line(&error.at(path.display().to_string()).to_string()));
                failed = true;
                Ok(())
            })?;
        }
        Ok(())
    })();
    target::end(guest, done.at(|| image))?;
    Ok(if failed { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}

/// Unpack a tar archive into a folder of an image
///
/// The archive may be compressed by gzip, bzip2, xz, Zstandard or LZ4, which its first bytes tell. Names never lead out of
/// the folder. Owners are numbers, unless --names is given. Where the archive has a folder and the image a link to one, as
/// /bin to usr/bin, the link stays and is followed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl tar-in --rw debian.qcow2 site.tar.gz /srv
  tar -C site -c . | guestctl tar-in --rw debian.qcow2 - /srv/site
  guestctl tar-out a.qcow2 /home - | guestctl tar-in --rw b.qcow2 - /home")]
pub(super) struct TarInArgs {
    /// Disk image or URL; IMAGE:PATH names the folder
    image: String,

    /// Archive, - for standard input
    archive: OsString,

    /// Folder in the guest
    folder: Option<OsString>,

    /// Take it to be compressed this way: none, gzip, bzip2, xz, zstd, lz4
    #[arg(short = 'z', long, value_name = "NAME")]
    compress: Option<Compression>,

    /// Leave out extended attributes, access control lists and SELinux labels
    #[arg(long)]
    no_xattrs: bool,

    /// Let everything belong to root
    #[arg(long)]
    no_owner: bool,

    /// Take owners by their names, where the guest's /etc/passwd and /etc/group have them
    #[arg(long)]
    names: bool,

    /// Put a folder of the archive in the place of a link to a folder, as tar does by itself
    #[arg(long)]
    replace_links: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

pub(super) fn tar_in(args: &TarInArgs) -> Result<ExitCode> {
    let (image, inside) = image::split_path(&args.image);
    let folder = match (inside, &args.folder) {
        (Some(path), None) => OsStr::new(path),
        (None, Some(path)) => path,
        _ => return Err(Error::Usage("name one folder: guestctl tar-in IMAGE ARCHIVE FOLDER".into())),
    };
    let options = TarInOptions {
        compression: args.compress,
        xattrs: !args.no_xattrs,
        acls: !args.no_xattrs,
        selinux: !args.no_xattrs,
        owners: !args.no_owner,
        numeric_owner: !args.names,
        keep_folder_links: !args.replace_links,
    };
    let guest = target::open(image, args.showing, &args.changing)?;
    let done = match args.archive.to_str() {
        Some("-") => guest.tar_in_with(&mut Input::new()?, folder, &options),
        _ => guest.tar_in_from(Path::new(&args.archive), folder, &options),
    };
    target::end(guest, done.at(|| image)).map(|()| ExitCode::SUCCESS)
}
