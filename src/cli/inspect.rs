//! `guestctl inspect`.

use super::image::Opening;
use super::output;
use crate::error::{IoContext, Result};
use crate::guestfs::{FilesystemInfo, Guestfs, Root};
use crate::inspect::{Details, Packages, System};
use serde::Serialize;
use std::process::ExitCode;

/// Say which operating systems are on an image, and what is to be known of them
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl inspect debian.qcow2\n  guestctl inspect --json --packages debian.qcow2 | jq .systems[0].packages"
)]
pub(super) struct Args {
    /// Disk image or NBD URI
    image: String,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// List the packages
    #[arg(long)]
    packages: bool,

    #[command(flatten)]
    opening: Opening,
}

#[derive(Serialize)]
struct Report {
    image: String,
    filesystems: Vec<FilesystemInfo>,
    systems: Vec<Described>,
    warnings: Vec<String>,
}

/// One operating system.
#[derive(Serialize)]
struct Described {
    root: String,
    system: System,
    mounts: Vec<Place>,
    missing: Vec<String>,
    details: Option<Details>,
    packages: Option<Packages>,
}

#[derive(Serialize)]
struct Place {
    device: String,
    mountpoint: String,
    subvolume: Option<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let guest = args.opening.open(&args.image)?;
    let report = report(args, &guest)?;
    if args.json {
        let text = serde_json::to_string_pretty(&report).expect("names and numbers can be written as JSON");
        println!("{text}");
    } else {
        print(&report).doing(|| "cannot print")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn report(args: &Args, guest: &Guestfs) -> Result<Report> {
    let describe = |root: &Root| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let place = |placed: &crate::inspect::Placed| Place {
            device: placed.device.clone(),
            mountpoint: text(&placed.mountpoint),
            subvolume: placed.subvolume.as_deref().map(text),
        };
        // What cannot be mounted has been said; the rest is told.
        Described {
            root: root.device.clone(),
            system: root.system.clone(),
            mounts: root.assembly.mounts.iter().map(place).collect(),
            missing: root.assembly.missing.clone(),
            details: guest.inspect_details(root).inspect_err(|error| log::warn!("{error}")).ok(),
            packages: args
                .packages
                .then(|| guest.inspect_packages(root).inspect_err(|error| log::warn!("{error}")).ok())
                .flatten(),
        }
    };
    Ok(Report {
        image: args.image.clone(),
        filesystems: guest.filesystems()?,
        systems: guest.inspect_roots()?.iter().map(describe).collect(),
        warnings: guest.warnings().to_vec(),
    })
}

/// Prints one line of a page, unless there is nothing to say.
fn line(name: &str, value: Option<impl AsRef<str>>) {
    if let Some(value) = value
        && !value.as_ref().is_empty()
    {
        println!("  {name:<14}{}", output::one_line(value.as_ref()));
    }
}

fn print(report: &Report) -> std::io::Result<()> {
    if report.systems.is_empty() {
        println!("No operating system is found; the filesystems are:\n");
    }
    for each in &report.systems {
        print_system(each)?;
    }
    let row = |each: &FilesystemInfo| {
        let dash = |text: &Option<String>| text.as_deref().map_or_else(|| String::from("-"), output::one_line);
        vec![each.device.clone(), output::human(each.size), each.kind.clone(), dash(&each.label), dash(&each.uuid)]
    };
    let rows: Vec<Vec<String>> = report.filesystems.iter().map(row).collect();
    output::print_table(&["DEVICE", "SIZE", "TYPE", "LABEL", "UUID"], &rows, &[1])
}

fn print_system(each: &Described) -> std::io::Result<()> {
    let system = &each.system;
    println!("{}  ({})", system.product_name.as_deref().map_or(system.distro.clone(), output::one_line), each.root);
    line("kind", Some(format!("{}, {}", system.kind.as_str(), system.distro)));
    line("version", system.version_id.as_deref());
    line("codename", system.codename.as_deref());
    line("architecture", system.arch.as_deref());
    line("host name", system.hostname.as_deref());
    line("machine id", system.machine_id.as_deref());
    line("time zone", system.time_zone.as_deref());
    line("locale", system.locale.as_deref());
    let packaging = [&system.package_format, &system.package_management].map(|text| text.as_deref().unwrap_or("-"));
    line("packages", Some(packaging.join(", ")));
    if let Some(details) = &each.details {
        line("init", details.init.as_deref());
        line("boot loader", details.boot_loader.as_ref().map(|loader| loader.name.as_str()));
        for kernel in &details.kernels {
            line("kernel", Some(&kernel.version));
        }
        let logins: Vec<&str> = details.users.iter().filter(|user| user.login).map(|user| user.name.as_str()).collect();
        line("logins", Some(logins.join(" ")));
        for interface in &details.network {
            line("network", Some(format!("{} {} {}", interface.name, interface.method, interface.addresses.join(" "))));
        }
    }
    for place in &each.mounts {
        let subvolume = place.subvolume.as_ref().map(|name| format!(" (subvolume {name})")).unwrap_or_default();
        line("mounts", Some(format!("{} on {}{subvolume}", place.device, place.mountpoint)));
    }
    for warning in each.missing.iter().chain(&system.warnings) {
        line("warning", Some(warning));
    }
    println!();
    if let Some(packages) = &each.packages {
        let row = |package: &crate::inspect::Package| {
            vec![output::one_line(&package.name), output::one_line(&package.full_version()), package.arch.clone()]
        };
        let rows: Vec<Vec<String>> = packages.packages.iter().map(row).collect();
        output::print_table(&["PACKAGE", "VERSION", "ARCH"], &rows, &[])?;
        println!();
    }
    Ok(())
}
