//! `guestctl umount`.

use crate::error::Result;
use crate::fuse::{Unmount, unmount};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Unmount, and wait until the image is closed
///
/// When this returns, everything that was written is in the image, and the image is free for others.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl umount /mnt/guest")]
pub(super) struct Args {
    /// Folder that `guestctl mount` mounted on
    mountpoint: PathBuf,

    /// Unmount even where files are open; the image is closed when they are
    #[arg(short = 'z', long)]
    lazy: bool,

    /// Give up waiting after this many seconds
    #[arg(long, value_name = "S")]
    timeout: Option<f64>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let timeout = args.timeout.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
    unmount(&args.mountpoint, &Unmount { lazy: args.lazy, timeout })?;
    Ok(ExitCode::SUCCESS)
}
