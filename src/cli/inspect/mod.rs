//! `guestctl inspect`.

mod fields;
mod page;
mod report;
mod xml;

use super::image::Opening;
use super::jobs::Jobs;
use super::output;
use crate::error::{Error, IoContext, Result};
use crate::guestfs::Guestfs;
use crate::inspect::Placed;
use fields::Fields;
use report::{Described, Report, Wanted};
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;
use xml::Extra;

/// Say which operating systems are on images, and what is to be known of them
///
/// For each system: its name, version and architecture, kernels and boot loader, users, services, network, where its
/// filesystems are mounted and how full they are. The images are not changed, and nothing of them is run. With several
/// images, one that cannot be read is said and does not stop the others; the exit code is that of the first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl inspect debian.qcow2\n  guestctl inspect --json --packages debian.qcow2 | jq '.systems[0].packages[].name'\n  guestctl inspect --json --jobs 4 *.qcow2 >inventory.jsonl\n  guestctl inspect --fields hostname,distro,version,kernel *.qcow2\n  guestctl inspect --xml fedora.vmdk"
)]
pub(super) struct Args {
    /// Disk images or URLs
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Print JSON; one line for each image where there are several
    #[arg(long)]
    json: bool,

    /// Print XML in virt-inspector's form, with the packages
    #[arg(long, conflicts_with_all = ["json", "fields"])]
    xml: bool,

    /// List the packages
    #[arg(long)]
    packages: bool,

    /// Print these fields alone, with tabs between them, a line for each system: keys of the JSON, or `logins` and `kernel`
    /// (the newest)
    #[arg(long, value_name = "LIST")]
    fields: Option<Fields>,

    #[command(flatten)]
    jobs: Jobs,

    #[command(flatten)]
    opening: Opening,
}

/// What was found, as far as it is needed for printing.
struct Told {
    report: Report,
    /// Of each system, for XML alone.
    extras: Vec<Extra>,
}

/// What JSON says of an image that cannot be inspected.
#[derive(Serialize)]
struct Failed<'a> {
    image: &'a str,
    error: String,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.xml && args.images.len() > 1 {
        return Err(Error::Usage("--xml is a document of one image; several are JSON lines with --json".into()));
    }
    let several = args.images.len() > 1;
    args.jobs.run(&args.images, |image| Ok(look(args, image)), |image, told| args.print(image, told, several))
}

fn look(args: &Args, image: &str) -> Result<Told> {
    let mut guest = args.opening.open(image)?;
    let mut wanted = Wanted { details: !args.xml, packages: args.packages || args.xml };
    if let Some(fields) = &args.fields {
        let asked = fields.wanted();
        wanted = Wanted { details: asked.details, packages: asked.packages || args.packages };
    }
    let report = Report::new(image, &mut guest, wanted)?;
    let extras =
        if args.xml { report.systems.iter().map(|system| extra(&guest, system)).collect() } else { Vec::new() };
    Ok(Told { report, extras })
}

/// Reads what XML alone tells of a system; a picture that cannot be read is none.
fn extra(guest: &Guestfs, system: &Described) -> Extra {
    let mounts = guest.inspect_get(&system.root).map_or(&[][..], |root| &root.assembly.mounts);
    let name = |placed: &Placed| guest.mountable_of(placed).unwrap_or_else(|_| placed.device.clone());
    Extra {
        icon: guest.inspect_get_icon(&system.root).unwrap_or_default(),
        mountables: mounts.iter().map(name).collect(),
    }
}

impl Args {
    fn print(&self, image: &str, told: Result<Told>, several: bool) -> Result<()> {
        let Told { report, extras } = match told {
            Ok(told) => told,
            Err(error) => {
                if self.json && several {
                    print_line(&Failed { image, error: error.to_string() })?;
                }
                return Err(error);
            }
        };
        match (&self.fields, self.json) {
            (Some(fields), true) if several => return print_line(&fields.json(&report)),
            (Some(fields), true) => return output::print_json(&fields.json(&report)),
            (Some(fields), false) => fields.print(&report, several),
            (None, true) if several => return print_line(&report),
            (None, true) => return output::print_json(&report),
            (None, false) if self.xml => print!("{}", xml::document(&report, &extras)),
            (None, false) => page::print(&report).doing(|| "cannot print")?,
        }
        if several && self.fields.is_none() {
            println!();
        }
        Ok(())
    }
}

/// Prints JSON on one line.
fn print_line(value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value).expect("names and numbers can be written as JSON");
    line.push(b'\n');
    std::io::stdout().lock().write_all(&line).doing(|| "cannot print")
}

#[cfg(test)]
mod tests;
