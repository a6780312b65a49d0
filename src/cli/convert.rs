//! `guestctl convert`.

use super::image::Source;
use super::jobs::Jobs;
use super::show::Showing;
use super::{create, output};
use crate::block::ImageFormat;
use crate::block::qcow2::Compression;
use crate::error::{Error, Result};
use crate::guestfs::convert::{ConvertOptions, Converted, convert};
use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Convert a disk image to another format
///
/// Zeroes take no space in the new image. It is made beside its name and gets that when it is complete and on the disk.
/// raw and qcow2 are written by this program, the other formats by qemu-img. An image over a backing file stays over it,
/// unless --flatten is given. Internal snapshots are not copied; --snapshot converts one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl convert disk.img --output disk.qcow2
  guestctl convert --compress --compression-type zstd disk.vmdk --output disk.qcow2
  guestctl convert --flatten overlay.qcow2 --output disk.img --format raw
  guestctl convert --jobs 2 --format raw --output-dir raw a.qcow2 b.qcow2")]
pub(super) struct Args {
    /// Disk images or URLs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// File to make
    #[arg(short, long, value_name = "FILE", required_unless_present = "output_dir")]
    output: Option<PathBuf>,

    /// Write IMAGE with the ending of its new format into this folder, for each image
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    output_dir: Option<PathBuf>,

    /// New format: raw, qcow2, vmdk, vdi, vhdx, vpc; that of the name's ending where it is left out
    #[arg(short = 'O', long, value_name = "FMT")]
    format: Option<String>,

    /// Compress the clusters of a qcow2 image
    #[arg(short, long)]
    compress: bool,

    /// How clusters are compressed
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = CompressionArg::Zlib)]
    compression_type: CompressionArg,

    /// Hold all that the chain of backing files does, and drop the chain
    #[arg(long)]
    flatten: bool,

    /// Leave out zeroes (always done)
    #[arg(long)]
    sparsify: bool,

    /// Replace a file that exists
    #[arg(long)]
    force: bool,

    /// Show progress from the beginning
    #[arg(short, long)]
    progress: bool,

    /// Print what was made as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    jobs: Jobs,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    source: Source,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CompressionArg {
    /// Every QEMU reads it
    Zlib,
    /// Faster; QEMU 5.1 and later
    Zstd,
}

#[derive(serde::Serialize)]
struct Made<'a> {
    image: &'a str,
    output: String,
    #[serde(flatten)]
    converted: Converted,
}

impl Args {
    fn format_of(&self, output: &Path) -> Result<ImageFormat> {
        self.format.as_deref().map_or_else(|| Ok(create::by_ending(output)), ImageFormat::from_name)
    }

    fn convert(&self, image: &str, output: &Path) -> Result<Converted> {
        let compression = match self.compression_type {
            CompressionArg::Zlib => Compression::Zlib,
            CompressionArg::Zstd => Compression::Zstd,
        };
        let showing = Showing { quiet: self.showing.quiet && !self.progress };
        let bar = showing.bar()?;
        let options = ConvertOptions {
            source: self.source.options()?,
            format: Some(self.format_of(output)?),
            compress: self.compress.then_some(compression),
            flatten: self.flatten,
            force: self.force,
            progress: Some(Arc::new(move |progress| bar.update(progress))),
        };
        convert(image, output, &options)
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut works: Vec<(&str, PathBuf)> = Vec::new();
    match (&args.output, &args.output_dir, args.images.as_slice()) {
        (Some(output), _, [image]) => works.push((image, output.clone())),
        (Some(_), ..) => return Err(Error::Usage("one --output is for one image; use --output-dir".into())),
        (None, folder, images) => {
            let folder = folder.as_deref().unwrap_or(Path::new("."));
            let ending = match args.format.as_deref().unwrap_or("qcow2") {
                "raw" => "img",
                other => other,
            };
            for image in images {
                let output = folder.join(Path::new(image).file_name().unwrap_or_default()).with_extension(ending);
                if works.iter().any(|(_, other)| *other == output) {
                    return Err(Error::Usage(format!("two images would become {}", output.display()).into()));
                }
                works.push((image, output));
            }
        }
    }
    args.jobs.run(
        &works,
        |(image, output)| args.convert(image, output),
        |(image, output), converted| {
            if args.json {
                output::print_json(&Made { image, output: output.display().to_string(), converted })?;
            }
            Ok(())
        },
    )
}
