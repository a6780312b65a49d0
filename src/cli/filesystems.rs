//! `guestctl filesystems`.

mod tree;

use super::image::Opening;
use super::output;
use crate::error::{IoContext, Result};
use serde::Serialize;
use std::process::ExitCode;

/// List the disks of an image, their partitions and the filesystems on them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl filesystems debian.qcow2\n  guestctl filesystems --json -a data.vmdk root.vmdk"
)]
pub(super) struct Args {
    /// Disk image or URL
    image: String,

    /// Show what is made of what, as lsblk does
    #[arg(long)]
    tree: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    opening: Opening,
}

#[derive(Serialize)]
struct Report {
    disks: Vec<crate::guestfs::DeviceInfo>,
    filesystems: Vec<crate::guestfs::FilesystemInfo>,
    warnings: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let guest = args.opening.open_listing(&args.image)?;
    let report =
        Report { disks: guest.devices()?, filesystems: guest.filesystems()?, warnings: guest.warnings().to_vec() };
    if args.tree {
        return tree::print(&report.disks, &report.filesystems, &report.warnings, args.json);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&report).expect("names and numbers can be written as JSON");
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let dash = |text: &Option<String>| text.as_deref().map_or_else(|| String::from("-"), output::one_line);
    let mut rows = Vec::new();
    for disk in &report.disks {
        let format = format!("disk ({})", disk.format);
        rows.push(vec![disk.name.clone(), output::human(disk.size), format, "-".into(), "-".into()]);
    }
    for each in &report.filesystems {
        let label = each.label.clone().or_else(|| each.part_label.clone());
        rows.push(vec![
            each.device.clone(),
            output::human(each.size),
            if each.locked { format!("{} (locked)", each.kind) } else { each.kind.clone() },
            dash(&label),
            dash(&each.uuid),
        ]);
    }
    // A filesystem on the bare disk is one line, not two.
    let mut seen = std::collections::BTreeSet::new();
    let mut unique: Vec<Vec<String>> = rows.into_iter().rev().filter(|row| seen.insert(row[0].clone())).collect();
    unique.reverse();
    output::print_table(&["DEVICE", "SIZE", "TYPE", "LABEL", "UUID"], &unique, &[1]).doing(|| "cannot print")?;
    Ok(ExitCode::SUCCESS)
}
