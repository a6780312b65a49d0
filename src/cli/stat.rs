//! `guestctl stat`.

use super::image::{self, Reading};
use super::ls::time_text;
use super::output::one_line;
use super::row::{Row, type_name};
use crate::error::{Error, IoContext, Result};
use crate::fs::{Attr, FileType, Timestamp};
use crate::guestfs::mode_text;
use crate::tree::{Found, Tree};
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Show all that is known of files of an image
///
/// Links are shown themselves. Times are UTC.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl stat debian.qcow2 /etc/passwd\n  guestctl stat --json -L debian.qcow2:/bin"
)]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Follow links
    #[arg(short = 'L', long)]
    dereference: bool,

    /// Print JSON, one object for each file on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (file, paths) = image::image_and_paths(&args.image, &args.paths);
    if paths.is_empty() {
        return Err(Error::Usage("name a file in the image: guestctl stat IMAGE PATH...".into()));
    }
    let guest = args.reading.open(file)?;
    let tree = guest.tree()?;
    let mut out = io::stdout().lock();
    for path in paths {
        let place = |error| image::in_guest(file, path.as_bytes(), error);
        let found = tree.resolve(path.as_bytes(), args.dereference).map_err(place)?;
        let text = if args.json {
            Row::new(tree, &found.path, found.node, &found.attr).map_err(place)?.line() + "\n"
        } else {
            describe(tree, &found).map_err(place)?
        };
        out.write_all(text.as_bytes()).doing(|| "cannot write to standard output")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Describes a file as stat(1) does.
pub(super) fn describe(tree: &Tree, found: &Found) -> Result<String> {
    let attr: &Attr = &found.attr;
    let mut name = one_line(&String::from_utf8_lossy(&found.path));
    let mut kind = type_name(attr.file_type).to_owned();
    match attr.file_type {
        FileType::Symlink => {
            let target = tree.read_link(found.node)?;
            name.push_str(&format!(" -> {}", one_line(&String::from_utf8_lossy(&target))));
        }
        FileType::CharDevice | FileType::BlockDevice => kind.push_str(&format!(" {},{}", attr.rdev.0, attr.rdev.1)),
        _ => {}
    }
    let time = |time: Timestamp| format!("{}.{:09} +0000", time_text(time.seconds), time.nanoseconds);
    let block_size = tree.filesystem(found.node)?.0.info().block_size;
    Ok(format!(
        "  File: {name}\n  Size: {:<15} Blocks: {:<10} IO Block: {block_size:<6} {kind}\n Inode: {:<15} Links: {}\nAccess: \
         ({:04o}/{})  Uid: {:<8} Gid: {}\nAccess: {}\nModify: {}\nChange: {}\n Birth: {}\n",
        attr.size,
        attr.blocks,
        attr.ino,
        attr.nlink,
        attr.permissions,
        mode_text(attr),
        attr.uid,
        attr.gid,
        time(attr.atime),
        time(attr.mtime),
        time(attr.ctime),
        attr.btime.map_or_else(|| String::from("-"), time),
    ))
}
