//! The SOFTWARE hive: product, version, and the list of applications.

use super::hive::{Hive, Key, filetime};
use super::{number, text};
use crate::error::Result;
use crate::inspect::read::Guest;
use crate::inspect::types::{Package, System, Version, WindowsSystem};

const CURRENT_VERSION: &str = "Microsoft\\Windows NT\\CurrentVersion";

/// Where applications say how they are uninstalled; those of 32 bits have a place of their own.
const UNINSTALL: [&str; 2] =
    ["Microsoft\\Windows\\CurrentVersion\\Uninstall", "Wow6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall"];

/// The first build of Windows 11, which calls itself 10 in the registry.
const FIRST_WINDOWS_11: u32 = 22000;

/// Fills in what the hive says of the product.
pub(super) fn tell(hive: &Hive<'_>, system: &mut System, windows: &mut WindowsSystem) -> Result<()> {
    if let Some(key) = hive.key("Microsoft\\Cryptography")? {
        system.machine_id = text(hive, &key, "MachineGuid")?;
    }
    let Some(key) = hive.key(CURRENT_VERSION)? else { return Ok(()) };
    let get = |name| text(hive, &key, name);
    let count = |name| number(hive, &key, name);
    system.product_name = get("ProductName")?;
    system.product_variant = get("InstallationType")?;
    let text_version = get("CurrentVersion")?;
    system.version = match (count("CurrentMajorVersionNumber")?, count("CurrentMinorVersionNumber")?) {
        (Some(major), minor) => Some(Version {
            major: u32::try_from(major).unwrap_or(0),
            minor: u32::try_from(minor.unwrap_or(0)).unwrap_or(0),
        }),
        _ => text_version.as_deref().and_then(Version::parse),
    };
    system.version_id = system.version.map(|version| format!("{}.{}", version.major, version.minor));
    system.build_id = match get("CurrentBuildNumber")? {
        Some(build) => Some(build),
        None => get("CurrentBuild")?,
    };
    let build: u32 = system.build_id.as_deref().and_then(|build| build.parse().ok()).unwrap_or(0);
    if build >= FIRST_WINDOWS_11
        && let Some(name) = &mut system.product_name
        && !name.contains("Server")
    {
        *name = name.replacen("Windows 10", "Windows 11", 1);
    }
    windows.full_build = match (&system.build_id, count("UBR")?) {
        (Some(build), Some(revision)) => Some(format!("{build}.{revision}")),
        (build, _) => build.clone(),
    };
    windows.edition = get("EditionID")?;
    windows.display_version = match get("DisplayVersion")? {
        Some(version) => Some(version),
        None => get("ReleaseId")?,
    };
    windows.product_id = get("ProductId")?;
    windows.registered_owner = get("RegisteredOwner")?;
    windows.install_time = match count("InstallDate")? {
        Some(time) => i64::try_from(time).ok().filter(|&time| time > 0),
        None => count("InstallTime")?.and_then(filetime),
    };
    Ok(())
}

/// Lists the applications that can be uninstalled and have a name for people.
///
/// Those of a second place are programs of 32 bits on a Windows of 64; the first has those of the system's own architecture,
/// `own`.
pub(super) fn applications(
    guest: &Guest<'_>,
    hive: &Hive<'_>,
    path: &str,
    own: &str,
    packages: &mut Vec<Package>,
) -> Result<()> {
    for (place, arch) in UNINSTALL.iter().zip([own, "i686"]) {
        let Some(key) = hive.key(place)? else { continue };
        let (keys, damaged) = hive.subkeys(&key)?;
        if damaged > 0 {
            guest.warn(format!("{path}: {damaged} keys of applications are damaged"));
        }
        for key in keys {
            match application(hive, &key, arch) {
                Ok(package) => packages.extend(package),
                Err(error) => guest.warn_of(path, &error),
            }
        }
    }
    Ok(())
}

fn application(hive: &Hive<'_>, key: &Key, arch: &str) -> Result<Option<Package>> {
    let values = hive.values(key)?;
    let value = |name: &str| values.iter().find(|value| value.name.eq_ignore_ascii_case(name));
    let get = |name: &str| value(name).and_then(|value| value.text()).unwrap_or_default();
    let display_name = get("DisplayName");
    if display_name.is_empty() {
        return Ok(None);
    }
    Ok(Some(Package {
        name: crate::inspect::read::tidy(key.name.as_bytes()),
        display_name: Some(display_name),
        version: get("DisplayVersion"),
        arch: arch.to_owned(),
        size: value("EstimatedSize").and_then(|value| value.number()).and_then(|kilobytes| kilobytes.checked_mul(1024)),
        install_time: day(&get("InstallDate")),
        summary: get("Comments"),
        url: get("URLInfoAbout"),
        publisher: get("Publisher"),
        install_path: get("InstallLocation"),
        ..Package::default()
    }))
}

/// Returns the beginning of a day of the form `20240131`, in seconds since 1970.
fn day(text: &str) -> Option<i64> {
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, month, day): (i64, i64, i64) =
        (text[..4].parse().ok()?, text[4..6].parse().ok()?, text[6..].parse().ok()?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days of the Gregorian calendar, counted in years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (month * 306 + 5) / 10 + day - 1;
    Some((days - 719_468) * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_counted_from_1970() {
        assert_eq!(day("19700101"), Some(0));
        assert_eq!(day("20240229"), Some(1_709_164_800));
        assert_eq!(day("20241301"), None);
        assert_eq!(day("1/2/2024"), None);
    }
}
