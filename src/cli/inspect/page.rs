//! The page for people.

use super::report::{Described, Report};
use crate::cli::ls::time_text;
use crate::cli::output::{human, one_line, print_table};
use crate::guestfs::{FilesystemState, SpaceUsage};
use crate::inspect::{BootLoader, Details, Package, PasswordState};
use std::io;

/// How long a bar is, in letters.
const BAR: u64 = 10;

/// The most names that a line lists.
const MAX_NAMES: usize = 10;

/// Prints an image, its systems, its filesystems, and what is wrong with them.
pub(super) fn print(report: &Report) -> io::Result<()> {
    for device in &report.devices {
        println!("{}: {}, {}, {}", one_line(&device.image), device.name, device.format, human(device.size));
    }
    println!();
    if report.systems.is_empty() {
        println!("No operating system is found.\n");
    }
    for each in &report.systems {
        system(each, &report.filesystems)?;
    }
    let rows: Vec<Vec<String>> = report.filesystems.iter().map(row).collect();
    print_table(&["DEVICE", "TYPE", "SIZE", "USED", "LABEL", "UUID"], &rows, &[2])?;
    let all = warnings(report);
    if !all.is_empty() {
        println!("\nWarnings:");
        all.iter().for_each(|warning| println!("  {}", one_line(warning)));
    }
    Ok(())
}

/// Returns what is wrong, those first that keep people from their data.
fn warnings(report: &Report) -> Vec<String> {
    let mut all = report.warnings.clone();
    for each in &report.filesystems {
        all.extend(each.warnings.iter().map(|warning| format!("{}: {warning}", each.filesystem.device)));
    }
    for each in &report.systems {
        all.extend(each.missing.iter().chain(&each.system.warnings).map(|warning| format!("{}: {warning}", each.root)));
    }
    all
}

fn row(each: &FilesystemState) -> Vec<String> {
    let dash = |text: &Option<String>| text.as_deref().map_or_else(|| String::from("-"), one_line);
    let found = &each.filesystem;
    let used = each.usage.as_ref().map_or_else(|| String::from("-"), bar);
    vec![found.device.clone(), found.kind.clone(), human(found.size), used, dash(&found.label), dash(&found.uuid)]
}

/// Draws how full a filesystem is: `[####......] 38%`.
fn bar(usage: &SpaceUsage) -> String {
    let percent = usage.percent().min(100);
    let full = (percent * BAR).div_ceil(100) as usize;
    format!("[{}{}] {percent}%", "#".repeat(full), ".".repeat(BAR as usize - full))
}

/// Prints one line of a page, unless there is nothing to say.
fn line(name: &str, value: Option<impl AsRef<str>>) {
    if let Some(value) = value
        && !value.as_ref().is_empty()
    {
        println!("  {name:<14}{}", one_line(value.as_ref()));
    }
}

/// Returns names for a line, and how many are left out.
fn names<'a>(all: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = all.len();
    let shown: Vec<&str> = all.take(MAX_NAMES).collect();
    let more = if count > MAX_NAMES { format!(" and {} more", count - MAX_NAMES) } else { String::new() };
    format!("{}{more}", shown.join(" "))
}

fn system(each: &Described, filesystems: &[FilesystemState]) -> io::Result<()> {
    let system = &each.system;
    let title = system.product_name.as_deref().unwrap_or(&system.distro);
    println!("{}  ({})", one_line(title), one_line(&each.root));
    line("kind", Some(format!("{}, {}{}", system.kind, system.distro, if system.installer { ", media" } else { "" })));
    let version = system.version.map(|version| format!("{}.{}", version.major, version.minor));
    let codename = system.codename.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    line("version", version.map(|version| version + &codename));
    line("variant", system.product_variant.as_deref());
    line("build", system.build_id.as_deref());
    line("architecture", system.arch.as_deref());
    line("host name", system.hostname.as_deref());
    line("machine id", system.machine_id.as_deref());
    line("time zone", system.time_zone.as_deref());
    line("locale", system.locale.as_deref());
    line("keyboard", system.keyboard.as_deref());
    let packaging: Vec<&str> =
        [&system.package_format, &system.package_management].into_iter().filter_map(|text| text.as_deref()).collect();
    line("packages", Some(packaging.join(", ")));
    line("osinfo", system.osinfo.as_deref());
    if let Some(windows) = &system.windows {
        line("edition", windows.edition.as_deref());
        line("folder", Some(&windows.system_root));
        line("installed", windows.install_time.map(time_text));
        let letters: Vec<String> =
            each.drive_mappings.iter().map(|mapping| format!("{}: {}", mapping.letter, mapping.device)).collect();
        line("drives", Some(letters.join(", ")));
    }
    if let Some(deployment) = &system.deployment {
        line("deployment", Some(String::from_utf8_lossy(&deployment.path)));
    }
    if let Some(details) = &each.details {
        self::details(details);
    }
    for container in each.containers.iter().flatten() {
        let title = container.system.product_name.as_deref().unwrap_or(&container.system.distro);
        line("container", Some(format!("{} {title}", String::from_utf8_lossy(&container.path))));
    }
    println!();
    let mount = |place: &super::report::Place| {
        let found = filesystems.iter().find(|found| found.filesystem.device == place.device);
        let (kind, used) = found.map_or(("-", String::from("-")), |found| {
            (found.filesystem.kind.as_str(), found.usage.as_ref().map_or_else(|| String::from("-"), bar))
        });
        let part = place.subvolume.clone().or(place.subvolume_id.map(|id| id.to_string()));
        let part = part.map(|name| format!("subvolume {name}")).into_iter();
        let part: Vec<String> = part.chain(place.folder.as_ref().map(|name| format!("folder {name}"))).collect();
        vec![one_line(&place.mountpoint), place.device.clone(), kind.to_owned(), used, one_line(&part.join(", "))]
    };
    let mut rows: Vec<Vec<String>> = each.mounts.iter().map(mount).collect();
    rows.extend(
        each.swaps.iter().map(|device| vec!["swap".into(), device.clone(), "swap".into(), "-".into(), String::new()]),
    );
    print_table(&["MOUNTED ON", "DEVICE", "TYPE", "USED", ""], &rows, &[])?;
    println!();
    if let Some(packages) = &each.packages {
        let row = |package: &Package| {
            let size = package.size.map_or_else(|| String::from("-"), human);
            let name = package.display_name.as_deref().unwrap_or(&package.name);
            vec![one_line(name), one_line(&package.full_version()), one_line(&package.arch), size]
        };
        let rows: Vec<Vec<String>> = packages.iter().map(row).collect();
        print_table(&["PACKAGE", "VERSION", "ARCH", "SIZE"], &rows, &[3])?;
        println!();
    }
    Ok(())
}

fn details(details: &Details) {
    for kernel in details.kernels.iter().rev() {
        let lacking = [(kernel.initrd.is_none(), "no initrd"), (!kernel.modules, "no modules")];
        let lacking: Vec<&str> = lacking.into_iter().filter(|(lacks, _)| *lacks).map(|(_, word)| word).collect();
        let lacking = if lacking.is_empty() { String::new() } else { format!(" ({})", lacking.join(", ")) };
        line("kernel", Some(format!("{}{lacking}", kernel.version)));
    }
    let loader = |loader: &BootLoader| match &loader.default_entry {
        Some(entry) => format!("{}: {entry}", loader.name),
        None => loader.name.clone(),
    };
    line("boot loader", details.boot_loader.as_ref().map(loader));
    line("init", details.init.as_deref());
    // A service may be wanted by several targets.
    let mut services: Vec<&str> = details.services.iter().map(|service| service.name.as_str()).collect();
    services.dedup();
    line("services", Some(names(services.into_iter())));
    let logins: Vec<&str> = details.users.iter().filter(|user| user.login).map(|user| user.name.as_str()).collect();
    line("logins", Some(names(logins.into_iter())));
    let open: Vec<&str> = details
        .users
        .iter()
        .filter(|user| user.login && user.password == Some(PasswordState::Empty))
        .map(|user| user.name.as_str())
        .collect();
    line("no password", Some(names(open.into_iter())));
    for interface in &details.network {
        line(
            "network",
            Some(format!("{} {} {}", interface.name, interface.method, interface.addresses.join(" ")).trim_end()),
        );
    }
    for key in &details.ssh_host_keys {
        line("SSH host key", Some(format!("{} {}", key.algorithm, key.fingerprint)));
    }
    line("virtio", Some(names(details.virtio.iter().map(String::as_str))));
    line("SELinux", details.selinux.as_ref().map(|selinux| selinux.mode.as_str()));
    if let Some(cloud) = &details.cloud_init {
        let state = match (cloud.disabled, cloud.finished) {
            (true, _) => "disabled",
            (false, true) => "finished",
            (false, false) => "has not finished",
        };
        let source = cloud.datasource.as_ref().map(|source| format!(", {source}")).unwrap_or_default();
        line("cloud-init", Some(format!("{state}{source}")));
        cloud.errors.iter().for_each(|error| line("cloud-init", Some(error)));
    }
    for entry in &details.crypttab {
        line("encrypted", Some(format!("{} on {}", entry.name, entry.device)));
    }
    for array in &details.arrays {
        line("array", Some(format!("{} {}", array.device, array.uuid.as_deref().unwrap_or_default()).trim_end()));
    }
    let guess = if details.last_boot_guessed { ", by the time of a file" } else { "" };
    line("last boot", details.last_boot.map(|time| format!("{}{guess}", time_text(time))));
    line("last shutdown", details.last_shutdown.map(time_text));
    line("last log", details.last_log.map(time_text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_nothing_is_left() {
        let bar = |used, available| bar(&SpaceUsage { used, available, ..SpaceUsage::default() });
        assert_eq!(bar(0, 100), "[..........] 0%");
        assert_eq!(bar(1, 99), "[#.........] 1%");
        assert_eq!(bar(38, 62), "[####......] 38%");
        assert_eq!(bar(100, 0), "[##########] 100%");
        assert_eq!(bar(0, 0), "[..........] 0%");
    }

    #[test]
    fn a_long_list_of_names_is_cut() {
        assert_eq!(names(["a", "b"].into_iter()), "a b");
        assert_eq!(names(vec!["a"; 12].into_iter()), "a a a a a a a a a a and 2 more");
    }
}
