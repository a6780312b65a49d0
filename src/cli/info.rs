//! `guestctl info`.

use super::image::Source;
use super::ls::time_text;
use super::output::{self, human, one_line};
use crate::block::{Container, ImageInfo, describe};
use crate::error::{IoContext, Result};
use std::io::{self, Write};
use std::process::ExitCode;

/// Show what a disk image is: format, sizes, backing files, snapshots
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  guestctl info debian.qcow2\n  guestctl info --json *.qcow2")]
pub(super) struct Args {
    /// Disk images or URLs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Print JSON: a list with one object for each image
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let options = args.source.options()?;
    let all = args.images.iter().map(|image| describe(image, &options)).collect::<Result<Vec<_>>>()?;
    if args.json {
        output::print_json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text: Vec<String> = all.iter().map(show).collect();
    io::stdout().write_all(text.join("\n").as_bytes()).doing(|| "cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn show(info: &ImageInfo) -> String {
    let size = |bytes: u64| format!("{} ({bytes} bytes)", human(bytes));
    let mut text = format!("image:         {}\nformat:        {}", one_line(&info.image), info.format);
    if let Some(version) = info.version {
        text.push_str(&format!(" version {version}"));
    }
    match &info.container {
        Some(Container { kind: "split", files, .. }) => text.push_str(&format!("\nlies in:       {files} files")),
        Some(Container { member: Some(member), .. }) => {
            text.push_str(&format!("\nlies in:       a tar archive, as {}", one_line(member)));
        }
        Some(_) => text.push_str("\nlies in:       a tar archive"),
        None => {}
    }
    if let Some(virtual_size) = info.virtual_size {
        text.push_str(&format!("\nvirtual size:  {}", size(virtual_size)));
    }
    text.push_str(&format!("\nfile size:     {}\nallocated:     {}\n", size(info.file_size), size(info.allocated)));
    if let Some(cluster_size) = info.cluster_size {
        text.push_str(&format!("cluster size:  {cluster_size}\n"));
    }
    if let Some(compression) = info.compression {
        text.push_str(&format!("compression:   {compression}\n"));
    }
    if info.dirty {
        text.push_str("not closed:    its last writer did not close it\n");
    }
    for link in &info.chain {
        let format = link.format.as_deref().unwrap_or("unknown format");
        text.push_str(&format!("lies over:     {} ({format})", one_line(&link.name)));
        if let Some(problem) = &link.problem {
            text.push_str(&format!(": {}", one_line(problem)));
        }
        text.push('\n');
    }
    for snapshot in &info.snapshots {
        let made = time_text(snapshot.time.into());
        text.push_str(&format!("snapshot:      {} {} {made}\n", one_line(&snapshot.id), one_line(&snapshot.name)));
    }
    if let Some(problem) = &info.problem {
        text.push_str(&format!("cannot open:   {}\n", one_line(problem)));
    }
    text
}
