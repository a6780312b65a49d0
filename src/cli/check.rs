//! `guestctl check`.

use super::exit;
use super::image::Opening;
use super::output::{self, one_line};
use super::show::Showing;
use crate::block::{ImageFormat, nbd};
use crate::error::{ErrorContext, IoContext, Result};
use crate::guestfs::check::{FilesystemCheck, ImageCheck, check_image};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Look for damage in an image and its filesystems
///
/// The image's own tables are checked by qemu-img, where the format has such. Then all metadata of every filesystem that can
/// be read is read: folders, inodes, links, extended attributes, maps of contents. Nothing is written or repaired. The exit
/// code is 4 where something is damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  guestctl check debian.qcow2\n  guestctl check --contents --json debian.qcow2")]
pub(super) struct Args {
    /// Disk image or URL
    image: String,

    /// Read the contents of all files too
    #[arg(long)]
    contents: bool,

    /// Leave the image's own tables unchecked
    #[arg(long)]
    no_image: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    opening: Opening,
}

#[derive(Serialize)]
struct Report {
    image: Option<ImageCheck>,
    filesystems: Vec<FilesystemCheck>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut guest = args.opening.open(&args.image)?;
    args.showing.watch(&mut guest)?;
    let format = ImageFormat::from_name(&guest.devices()?[0].format)?;
    let image = if args.no_image || nbd::is_uri(&args.image) {
        None
    } else {
        check_image(Path::new(&args.image), format).at(|| &args.image)?
    };
    let report =
        Report { image, filesystems: guest.check_filesystems(args.contents)?, warnings: guest.warnings().to_vec() };
    if args.json {
        output::print_json(&report)?;
    } else {
        io::stdout().write_all(show(&report).as_bytes()).doing(|| "cannot write to standard output")?;
    }
    let bad_image = report.image.as_ref().is_some_and(|image| image.corruptions > 0 || image.check_errors > 0);
    let bad = bad_image || report.filesystems.iter().any(|check| check.damage_count > 0);
    Ok(if bad { ExitCode::from(exit::DAMAGED) } else { ExitCode::SUCCESS })
}

fn show(report: &Report) -> String {
    let mut text = String::new();
    if let Some(image) = &report.image {
        let (bad, leaks) = (image.corruptions + image.check_errors, image.leaks);
        text.push_str(&match (bad, leaks) {
            (0, 0) => String::from("image: no errors\n"),
            (bad, leaks) => format!("image: {bad} errors, {leaks} leaked clusters\n"),
        });
    }
    for warning in &report.warnings {
        text.push_str(&format!("warning: {}\n", one_line(warning)));
    }
    for check in &report.filesystems {
        let (device, kind) = (&check.device, &check.kind);
        for warning in &check.warnings {
            text.push_str(&format!("{device}: warning: {}\n", one_line(warning)));
        }
        for damage in &check.damages {
            text.push_str(&format!("{device}: {}\n", one_line(damage)));
        }
        let found = match check.damage_count {
            0 => String::from("no damage"),
            1 => String::from("1 damage"),
            count => format!("{count} damages"),
        };
        text.push_str(&format!("{device} ({kind}): {} files, {found}\n", check.files));
    }
    text
}
