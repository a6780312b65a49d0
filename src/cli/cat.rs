//! `guestctl cat`.

use super::image::{self, Choosing, Opening};
use crate::error::{Error, IoContext, Result};
use crate::fs::FileType;
use crate::tree::Tree;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// Print files of an image
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl cat debian.qcow2 /etc/fstab /etc/hostname\n  guestctl cat debian.qcow2:/etc/fstab"
)]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    #[command(flatten)]
    choosing: Choosing,

    #[command(flatten)]
    opening: Opening,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (file, inside) = image::split_path(&args.image);
    let mut paths: Vec<&[u8]> = args.paths.iter().map(|path| path.as_bytes()).collect();
    if let Some(path) = inside {
        paths.insert(0, path.as_bytes());
    }
    if paths.is_empty() {
        return Err(Error::Usage("name a file in the image: guestctl cat IMAGE PATH...".into()));
    }
    let mut guest = args.opening.open(file)?;
    args.choosing.mount(&mut guest, false)?;
    let tree = guest.tree()?;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; PIECE];
    for path in paths {
        print_file(tree, path, &mut out, &mut buffer).map_err(|error| image::in_guest(file, path, error))?;
    }
    out.flush().doing(|| "cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print_file(tree: &Tree, path: &[u8], out: &mut dyn Write, buffer: &mut [u8]) -> Result<()> {
    let found = tree.resolve(path, true)?;
    match found.attr.file_type {
        FileType::Regular => {}
        FileType::Directory => return Err(Error::Errno(libc::EISDIR)),
        _ => return Err(Error::Usage("it is no regular file".into())),
    }
    let mut offset = 0;
    loop {
        let count = tree.read(found.node, offset, buffer)?;
        if count == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..count]).doing(|| "cannot write to standard output")?;
        offset += count as u64;
    }
}
