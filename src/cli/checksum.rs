//! `guestctl checksum`.

use super::image::{self, Reading};
use super::jobs::Jobs;
use super::show::Showing;
use super::{exit, row};
use crate::error::{Error, IoContext, Result};
use crate::guestfs::checksum::{Algorithm, write_line};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Print checksums of files of an image
///
/// The lines are those of sha256sum. With -r, names are relative to the folder, as sha256sum -c wants them there. Without a
/// path, it is the checksum of the whole disk as its guest sees it. Several images are written as IMAGE:PATH each; names
/// then begin with what was written.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl checksum debian.qcow2 /etc/passwd /etc/group
  guestctl checksum -r debian.qcow2:/usr >sums; cd /mnt/guest/usr && sha256sum -c ~/sums
  guestctl checksum -a blake3 -r --jobs 4 a.qcow2:/etc b.qcow2:/etc")]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest, or further images as IMAGE:PATH
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Algorithm: crc, md5, sha1, sha224, sha256, sha384, sha512, blake3, xxh3
    #[arg(short, long, value_name = "NAME", default_value = "sha256")]
    algorithm: String,

    /// Go through folders with all that they hold
    #[arg(short, long)]
    recursive: bool,

    /// Print JSON, one object for each file on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    jobs: Jobs,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    reading: Reading,
}

#[derive(Serialize)]
struct Line<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    algorithm: &'a str,
    sum: &'a str,
}

/// One image and what is read of it.
struct Work<'a> {
    image: &'a str,
    paths: Vec<&'a OsStr>,
    /// What names begin with.
    prefix: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    args.algorithm.parse::<Algorithm>()?;
    let several = several_images(&args.image, &args.paths);
    let works: Vec<Work<'_>> = match several {
        Some(several) => several
            .into_iter()
            .map(|(image, path)| Work { image, paths: vec![path], prefix: format!("{image}:") })
            .collect(),
        None => {
            let (image, paths) = image::image_and_paths(&args.image, &args.paths);
            vec![Work { image, paths, prefix: String::new() }]
        }
    };
    if works.len() == 1 {
        // What comes first is printed first, however long the rest takes.
        return match sum(args, &works[0], &mut io::stdout().lock())? {
            true => Ok(ExitCode::SUCCESS),
            false => Ok(ExitCode::from(exit::FAILED)),
        };
    }
    let collect = |work: &Work<'_>| {
        let mut lines = Vec::new();
        match sum(args, work, &mut lines)? {
            true => Ok(lines),
            false => Err(Error::Usage(format!("{}: not all files could be read", work.image).into())),
        }
    };
    args.jobs
        .run(&works, collect, |_, lines| io::stdout().write_all(&lines).doing(|| "cannot write to standard output"))
}

/// Returns the images and their paths, where every argument is written as `IMAGE:PATH` and there are several.
pub(super) fn several_images<'a>(image: &'a str, others: &'a [OsString]) -> Option<Vec<(&'a str, &'a OsStr)>> {
    if others.is_empty() {
        return None;
    }
    let all = std::iter::once(Some(image)).chain(others.iter().map(|other| other.to_str()));
    all.map(|argument| {
        let (image, path) = image::split_path(argument?);
        Some((image, OsStr::new(path?)))
    })
    .collect()
}

/// Writes the checksums of one image; returns whether every file could be read.
fn sum(args: &Args, work: &Work<'_>, out: &mut dyn Write) -> Result<bool> {
    let doing = || "cannot write to standard output";
    let whole_disk = work.paths.is_empty() && !args.recursive;
    if whole_disk {
        let mut guest = args.reading.open_drives(work.image)?;
        args.showing.watch(&mut guest)?;
        let sum = guest.checksum_device(&args.algorithm, "/dev/sda")?;
        return write(args, out, &sum, work.image.as_bytes()).doing(doing).map(|()| true);
    }
    let mut guest = args.reading.open(work.image)?;
    args.showing.watch(&mut guest)?;
    let mut complete = true;
    let root = [OsStr::new("/")];
    let paths = if work.paths.is_empty() { &root[..] } else { &work.paths };
    for path in paths {
        let place = |error| image::in_guest(work.image, path.as_bytes(), error);
        let is_folder = args.recursive && guest.stat(path).map_err(|error| bare(work.image, error))?.is_dir();
        if !is_folder {
            let sum = guest.checksum(&args.algorithm, path).map_err(|error| bare(work.image, error))?;
            write(args, out, &sum, &[work.prefix.as_bytes(), path.as_bytes()].concat()).doing(doing)?;
            continue;
        }
        // One folder is what sha256sum -c runs in; several are told apart by their names.
        let alone = paths.len() == 1 && work.prefix.is_empty();
        let top = if alone { b".".to_vec() } else { [work.prefix.as_bytes(), path.as_bytes()].concat() };
        guest
            .checksums(&args.algorithm, path, |file| match file.sum {
                Ok(sum) => write(args, out, &sum, &image::below(&top, &file.path)).doing(doing),
                Err(error) => {
                    image::complain(work.image, &image::below(path.as_bytes(), &file.path), error);
                    complete = false;
                    Ok(())
                }
            })
            .map_err(place)?;
    }
    Ok(complete)
}

/// Puts the image before an error that has its path already.
fn bare(image: &str, error: Error) -> Error {
    error.at(image)
}

fn write(args: &Args, out: &mut dyn Write, sum: &str, name: &[u8]) -> io::Result<()> {
    if !args.json {
        return write_line(out, sum, name);
    }
    let (path, path_hex) = row::text(name);
    let line = Line { path, path_hex, algorithm: &args.algorithm, sum };
    writeln!(out, "{}", serde_json::to_string(&line).map_err(io::Error::other)?)
}
