//! `guestctl mkfs`.

use super::image::Opening;
use super::output::parse_size;
use super::show::Showing;
use crate::error::{Error, Result};
use crate::guestfs::MkfsOptions;
use std::process::ExitCode;

/// Make a filesystem on an image or one of its partitions
///
/// What was there is gone. The distribution's own tool makes the filesystem in a scratch file, and what it wrote is copied
/// into the image, so this needs neither root nor a device.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl mkfs ext4 disk.qcow2 --label data
  guestctl mkfs xfs disk.img --device /dev/sda2")]
pub(super) struct Args {
    /// Type: ext2, ext3, ext4, xfs, btrfs, vfat, ntfs, exfat, swap
    kind: String,

    /// Disk image
    image: String,

    /// Device to make it on: /dev/sda1; the whole disk where it has no partitions
    #[arg(short, long, value_name = "DEV")]
    device: Option<String>,

    /// Label
    #[arg(short = 'L', long)]
    label: Option<String>,

    /// Block size: 1K, 4096
    #[arg(short, long, value_name = "N", value_parser = parse_size)]
    block_size: Option<u64>,

    /// Features, as the tool has them (-O of mke2fs, -m of mkfs.xfs)
    #[arg(short = 'O', long)]
    features: Option<String>,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    opening: Opening,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut guest = args.opening.open_with(&args.image, true, None, false)?;
    args.showing.watch(&mut guest)?;
    let device = match &args.device {
        Some(device) => device.clone(),
        None if guest.list_partitions()?.is_empty() => String::from("/dev/sda"),
        None => {
            let names = guest.list_partitions()?.join(", ");
            return Err(Error::Usage(format!("the image has partitions; name one with --device: {names}").into()));
        }
    };
    let block_size = args.block_size.map(u32::try_from).transpose();
    let options = MkfsOptions {
        label: args.label.clone(),
        block_size: block_size.map_err(|_| Error::Usage("the block size is too large".into()))?,
        features: args.features.clone(),
    };
    guest.mkfs_opts(&args.kind, &device, &options)?;
    guest.shutdown()?;
    Ok(ExitCode::SUCCESS)
}
