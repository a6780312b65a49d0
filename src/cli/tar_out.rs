//! `guestctl tar-out`.

use super::image::{self, Reading};
use super::jobs::Jobs;
use super::show::Showing;
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::guestfs::{Compression, TarOptions};
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write a folder of an image as a tar archive
///
/// The archive is POSIX (PAX): hard links, holes, extended attributes, access control lists and nanoseconds are kept. It
/// is compressed as the end of its name says (.tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst, .tar.lz4) or --compress.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl tar-out debian.qcow2 /etc etc.tar.gz
  guestctl tar-out debian.qcow2 /srv - | tar -x -C /backup/srv
  guestctl tar-out --jobs 4 --output-dir backup -z zstd a.qcow2:/home b.qcow2:/home")]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names the folder too
    image: String,

    /// Folder in the guest, and the archive's file (- for standard output); or further images with --output-dir
    #[arg(value_name = "PATH")]
    rest: Vec<OsString>,

    /// Write IMAGE.tar into this folder for each IMAGE:PATH
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,

    /// Compress: none, gzip, bzip2, xz, zstd, lz4
    #[arg(short = 'z', long, value_name = "NAME")]
    compress: Option<Compression>,

    /// Leave out paths or names that match a pattern (repeatable)
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<OsString>,

    /// Leave out extended attributes, access control lists and SELinux labels
    #[arg(long)]
    no_xattrs: bool,

    #[command(flatten)]
    jobs: Jobs,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    reading: Reading,
}

impl Args {
    fn options(&self, name: &Path) -> TarOptions {
        TarOptions {
            compression: self.compression(name),
            xattrs: !self.no_xattrs,
            acls: !self.no_xattrs,
            selinux: !self.no_xattrs,
            excludes: self.exclude.iter().map(|pattern| pattern.as_bytes().to_vec()).collect(),
        }
    }

    fn compression(&self, name: &Path) -> Compression {
        self.compress.unwrap_or_else(|| match name.extension().and_then(OsStr::to_str) {
            Some("gz" | "tgz") => Compression::Gzip,
            Some("bz2" | "tbz2") => Compression::Bzip2,
            Some("xz" | "txz") => Compression::Xz,
            Some("zst" | "tzst") => Compression::Zstd,
            Some("lz4") => Compression::Lz4,
            _ => Compression::None,
        })
    }

    fn write(&self, image: &str, path: &OsStr, to: &Path) -> Result<()> {
        let mut guest = self.reading.open(image)?;
        self.showing.watch(&mut guest)?;
        let options = self.options(to);
        if to.as_os_str() != "-" {
            return guest.tar_out_to(path, to, &options).at(|| image);
        }
        let mut out = io::stdout().lock();
        if out.is_terminal() {
            return Err(Error::Usage("an archive is not written to a terminal; name a file".into()));
        }
        guest.tar_out_with(path, &mut out, &options).at(|| image)?;
        out.flush().doing(|| "cannot write to standard output")
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(folder) = &args.output_dir {
        return to_folder(args, folder);
    }
    let (image, paths) = image::image_and_paths(&args.image, &args.rest);
    let [path, to] = paths.as_slice() else {
        return Err(Error::Usage("write guestctl tar-out IMAGE PATH FILE, with - for standard output".into()));
    };
    args.write(image, path, Path::new(to))?;
    Ok(ExitCode::SUCCESS)
}

fn to_folder(args: &Args, folder: &Path) -> Result<ExitCode> {
    let whole: Vec<&str> = std::iter::once(Some(args.image.as_str()))
        .chain(args.rest.iter().map(|other| other.to_str()))
        .collect::<Option<_>>()
        .ok_or_else(|| Error::Usage("names of images are UTF-8".into()))?;
    let ending = match args.compress.unwrap_or_default() {
        Compression::None => "tar",
        Compression::Gzip => "tar.gz",
        Compression::Bzip2 => "tar.bz2",
        Compression::Xz => "tar.xz",
        Compression::Zstd => "tar.zst",
        Compression::Lz4 => "tar.lz4",
    };
    let mut works: Vec<(&str, &str, PathBuf)> = Vec::new();
    for argument in whole {
        let (image, path) = image::split_path(argument);
        let name = Path::new(image).file_name().unwrap_or(OsStr::new("image")).to_string_lossy();
        let to = folder.join(format!("{name}.{ending}"));
        if works.iter().any(|(_, _, other)| *other == to) {
            return Err(Error::Usage(format!("two images would be written to {}", to.display()).into()));
        }
        works.push((image, path.unwrap_or("/"), to));
    }
    args.jobs.run(&works, |(image, path, to)| args.write(image, OsStr::new(path), to), |_, ()| Ok(()))
}
