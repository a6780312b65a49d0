//! `guestctl part`.

use super::image::Opening;
use super::output::{self, human, one_line, parse_size};
use crate::error::{IoContext, Result};
use crate::guestfs::{Guestfs, PartitionTable};
use std::io::Write;
use std::process::ExitCode;

/// Show or change the partitions of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl part list debian.qcow2
  guestctl part init disk.img gpt
  guestctl part add disk.img --size 512M --name ESP --type c12a7328-f81f-11d2-ba4b-00a0c93ec93b
  guestctl part add disk.img")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    List(ListArgs),
    Init(InitArgs),
    Add(AddArgs),
    Del(DelArgs),
    Set(SetArgs),
}

/// Make a new, empty partition table; what was on the disk is gone
#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Disk image
    image: String,

    /// Kind: gpt or mbr
    kind: String,

    #[command(flatten)]
    opening: Opening,
}

/// Add a partition, and print its device
#[derive(Debug, clap::Args)]
struct AddArgs {
    /// Disk image
    image: String,

    /// Size, rounded up to MiB; the largest gap where it is left out
    #[arg(long, value_parser = parse_size)]
    size: Option<u64>,

    #[command(flatten)]
    setting: Setting,

    #[command(flatten)]
    opening: Opening,
}

/// Take a partition out of the table; its contents stay on the disk
#[derive(Debug, clap::Args)]
struct DelArgs {
    /// Disk image
    image: String,

    /// Number of the partition
    number: u32,

    #[command(flatten)]
    opening: Opening,
}

/// Change what the table says of a partition
#[derive(Debug, clap::Args)]
struct SetArgs {
    /// Disk image
    image: String,

    /// Number of the partition
    number: u32,

    #[command(flatten)]
    setting: Setting,

    #[command(flatten)]
    opening: Opening,
}

/// What a table says of a partition.
#[derive(Debug, clap::Args)]
struct Setting {
    /// Name, of a GPT partition
    #[arg(long)]
    name: Option<String>,

    /// Type: a GUID, or the byte of an MBR partition as 0x83
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,

    /// Whether an old BIOS is to boot from it
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    bootable: Option<bool>,
}

impl Setting {
    fn apply(&self, guest: &mut Guestfs, number: u32) -> Result<()> {
        if let Some(name) = &self.name {
            guest.part_set_name(DISK, number, name)?;
        }
        if let Some(kind) = &self.kind {
            let byte = kind.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match byte {
                Some(byte) => guest.part_set_mbr_id(DISK, number, byte)?,
                None => guest.part_set_gpt_type(DISK, number, kind)?,
            }
        }
        match self.bootable {
            Some(bootable) => guest.part_set_bootable(DISK, number, bootable),
            None => Ok(()),
        }
    }
}

/// The disk that is changed: the first.
const DISK: &str = "/dev/sda";

/// List the partitions
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Disk image or URL
    image: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    opening: Opening,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let write = |opening: &Opening, image: &str| opening.open_with(image, true, None, false);
    let mut guest = match &args.action {
        Action::List(args) => return list(args),
        Action::Init(args) => {
            let mut guest = write(&args.opening, &args.image)?;
            guest.part_init(DISK, &args.kind)?;
            guest
        }
        Action::Add(args) => {
            let mut guest = write(&args.opening, &args.image)?;
            let device = guest.part_add_size(DISK, args.size)?;
            let number = guest.part_to_partnum(&device)?;
            args.setting.apply(&mut guest, number)?;
            writeln!(std::io::stdout(), "{device}").doing(|| "cannot print")?;
            guest
        }
        Action::Del(args) => {
            let mut guest = write(&args.opening, &args.image)?;
            guest.part_del(DISK, args.number)?;
            guest
        }
        Action::Set(args) => {
            let mut guest = write(&args.opening, &args.image)?;
            args.setting.apply(&mut guest, args.number)?;
            guest
        }
    };
    guest.shutdown()?;
    Ok(ExitCode::SUCCESS)
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
