//! `guestctl compact`.

use super::image::Source;
use super::output;
use super::show::Showing;
use crate::block::qcow2::Compression;
use crate::error::{IoContext, Result};
use crate::guestfs::convert::{ConvertOptions, compact};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Give back the space that zeroes take in an image
///
/// A raw image gets holes in its place. A qcow2 image is written anew beside itself, which needs room for both, and takes
/// its own place when that is complete. What the guest sees stays the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl compact debian.qcow2")]
pub(super) struct Args {
    /// Disk image
    image: PathBuf,

    /// Compress the clusters of a qcow2 image, by zlib
    #[arg(short, long)]
    compress: bool,

    /// Print the space before and after as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let bar = args.showing.bar()?;
    let options = ConvertOptions {
        source: args.source.options()?,
        compress: args.compress.then_some(Compression::Zlib),
        progress: Some(Arc::new(move |progress| bar.update(progress))),
        ..ConvertOptions::default()
    };
    let done = compact(&args.image, &options)?;
    if args.json {
        output::print_json(&done)?;
    } else if !args.showing.quiet {
        let (before, after) = (output::human(done.before), output::human(done.after));
        writeln!(io::stdout(), "{}: {before} before, {after} now", args.image.display()).doing(|| "cannot print")?;
    }
    Ok(ExitCode::SUCCESS)
}
