//! `guestctl df`.

use super::image::Reading;
use super::output;
use super::show::LongHelp;
use crate::error::{ErrorContext, IoContext, Result};
use serde::Serialize;
use std::process::ExitCode;

/// Show how full the filesystems of an image are
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  guestctl df -h debian.qcow2\n  guestctl df --json debian.qcow2"
)]
pub(super) struct Args {
    /// Disk image or URL
    image: String,

    /// Show sizes like 1.5G instead of units of 1 KiB
    #[arg(short = 'h', short_alias = 'H', long)]
    human: bool,

    /// Count inodes instead of space
    #[arg(short, long)]
    inodes: bool,

    /// Print JSON, with sizes in bytes
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,

    #[command(flatten)]
    help: LongHelp,
}

#[derive(Serialize)]
struct Row {
    device: String,
    mountpoint: String,
    #[serde(rename = "type")]
    kind: &'static str,
    size: u64,
    used: u64,
    available: u64,
    inodes: u64,
    inodes_used: u64,
    inodes_free: u64,
}

/// Returns how much of what is used or available is used, rounded up as df does.
fn percent(used: u64, available: u64) -> String {
    let all = u128::from(used) + u128::from(available);
    if all == 0 { String::from("-") } else { format!("{}%", (u128::from(used) * 100).div_ceil(all)) }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let guest = args.reading.open(&args.image)?;
    let mut rows = Vec::new();
    for mount in guest.tree()?.mounts() {
        if mount.filesystem.info().kind == "folders" {
            continue;
        }
        let full = mount.filesystem.statfs().at(|| mount.source.clone())?;
        let bytes = |blocks: u64| blocks.saturating_mul(full.block_size.into());
        rows.push(Row {
            device: mount.source.clone(),
            mountpoint: String::from_utf8_lossy(&mount.mountpoint).into_owned(),
            kind: mount.filesystem.info().kind,
            size: bytes(full.blocks),
            used: bytes(full.blocks.saturating_sub(full.blocks_free)),
            available: bytes(full.blocks_available),
            inodes: full.files,
            inodes_used: full.files.saturating_sub(full.files_free),
            inodes_free: full.files_free,
        });
    }
    if args.json {
        output::print_json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    let size = |bytes: u64| if args.human { output::human(bytes) } else { bytes.div_ceil(1024).to_string() };
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (all, used, free) = match args.inodes {
                true => (row.inodes.to_string(), row.inodes_used.to_string(), row.inodes_free.to_string()),
                false => (size(row.size), size(row.used), size(row.available)),
            };
            let part = match args.inodes {
                true => percent(row.inodes_used, row.inodes_free),
                false => percent(row.used, row.available),
            };
            vec![row.device.clone(), row.kind.to_owned(), all, used, free, part, output::one_line(&row.mountpoint)]
        })
        .collect();
    let header = match args.inodes {
        true => ["FILESYSTEM", "TYPE", "INODES", "USED", "FREE", "USE%", "MOUNTED ON"],
        false => ["FILESYSTEM", "TYPE", "SIZE", "USED", "AVAIL", "USE%", "MOUNTED ON"],
    };
    output::print_table(&header, &table, &[2, 3, 4, 5]).doing(|| "cannot print")?;
    Ok(ExitCode::SUCCESS)
}
