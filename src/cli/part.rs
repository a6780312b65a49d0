//! `guestctl part`.

use super::image::Opening;
use super::output::{self, human, one_line};
use crate::error::{IoContext, Result};
use crate::guestfs::PartitionTable;
use std::process::ExitCode;

/// Show or change the partitions of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl part list debian.qcow2")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(ListArgs),
}

/// List the partitions
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Disk image or NBD URI
    image: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.action {
        Action::List(args) => list(args),
    }
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let guest = args.opening.open(&args.image)?;
    let tables: Vec<PartitionTable> =
        guest.list_devices()?.iter().map(|device| guest.part_table(device)).collect::<Result<_>>()?;
    if args.json {
        output::print_json(&tables)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for partition in tables.iter().flat_map(|table| &table.partitions) {
        rows.push(vec![
            partition.device.clone(),
            partition.start.to_string(),
            partition.end.to_string(),
            human(partition.size),
            partition.type_id.clone(),
            if partition.bootable { String::from("yes") } else { String::from("-") },
            partition.label.as_deref().map_or_else(|| String::from("-"), one_line),
        ]);
    }
    let header = ["DEVICE", "START", "END", "SIZE", "TYPE", "BOOT", "NAME"];
    output::print_table(&header, &rows, &[1, 2, 3]).doing(|| "cannot print")?;
    Ok(ExitCode::SUCCESS)
}
