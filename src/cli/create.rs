//! `guestctl create`.

use super::output::parse_size;
use super::show::Bar;
use crate::block::ImageFormat;
use crate::error::Result;
use crate::guestfs::{CreateOptions, create};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Make a new, empty disk image
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl create disk.qcow2 20G\n  guestctl create --format raw disk.img 512M\n  guestctl create --backing base.qcow2 overlay.qcow2"
)]
pub(super) struct Args {
    /// File to make
    image: PathBuf,

    /// Size of the disk: 512M, 20G, 1.5T; that of the backing file where it is left out
    #[arg(required_unless_present = "backing", value_parser = parse_size)]
    size: Option<u64>,

    /// Format: raw, qcow2, vmdk, vdi, vhdx, vpc; that of the name's ending where it is left out
    #[arg(long, value_name = "FMT")]
    format: Option<String>,

    /// Lay the new image over this one; a relative name counts from the new image's folder
    #[arg(long, value_name = "IMAGE")]
    backing: Option<PathBuf>,

    /// Replace a file that exists
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let format = match &args.format {
        Some(name) => ImageFormat::from_name(name)?,
        None if args.backing.is_some() => ImageFormat::Qcow2 { version: 3 },
        None => by_ending(&args.image),
    };
    // What is half-made is removed before the program ends.
    Bar::end_on_signals(&Arc::default())?;
    let options = CreateOptions { size: args.size, backing: args.backing.clone(), force: args.force };
    create(&args.image, format, &options)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the format that the end of a name means; qcow2 where it means none.
pub(super) fn by_ending(path: &std::path::Path) -> ImageFormat {
    let ending = path.extension().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    ImageFormat::from_name(ending).unwrap_or(ImageFormat::Qcow2 { version: 3 })
}
