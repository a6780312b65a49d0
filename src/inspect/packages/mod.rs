//! Installed packages, from the databases of the package managers. A system may have several.

mod apk;
mod bsd;
mod dpkg;
mod pacman;
mod portage;
mod rpm;
mod slackware;
mod sqlite;

use super::read::{Guest, tidy};
use super::types::Package;

/// The most packages that are kept.
const MAX_PACKAGES: usize = 1 << 18;

/// The longest description that is kept, in bytes.
const MAX_DESCRIPTION: usize = 16 << 10;

/// Reads every database that is there.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Package> {
    let mut packages = dpkg::read(guest);
    packages.extend(rpm::read(guest));
    packages.extend(apk::read(guest));
    packages.extend(pacman::read(guest));
    if packages.is_empty() {
        packages.extend(portage::read(guest));
        packages.extend(slackware::read(guest));
        packages.extend(bsd::read(guest));
    }
    if packages.len() >= MAX_PACKAGES {
        guest.warn(format!("more than {MAX_PACKAGES} packages, the others are left out"));
        packages.truncate(MAX_PACKAGES);
    }
    packages
}

/// Takes a version of the form `epoch:version-release` apart.
fn split_version(text: &str) -> (u32, &str, &str) {
    let epoch = text.split_once(':').and_then(|(epoch, rest)| Some((epoch.parse().ok()?, rest)));
    let (epoch, rest) = epoch.unwrap_or((0, text));
    let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, version, release)
}

/// Returns bytes as text of several lines, not too long.
fn prose(bytes: &[u8]) -> String {
    let text = super::read::clean(&bytes[..bytes.len().min(MAX_DESCRIPTION)]);
    text.trim().to_owned()
}

/// Reads a number in decimal.
fn number(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes.trim_ascii()).ok()?.parse().ok()
}

/// Returns a name as text.
fn text(bytes: &[u8]) -> String {
    tidy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_comes_apart_at_its_first_colon_and_last_hyphen() {
        assert_eq!(split_version("1:2.3-4-5"), (1, "2.3-4", "5"));
        assert_eq!(split_version("2.3"), (0, "2.3", ""));
        assert_eq!(split_version("x:2.3-1"), (0, "x:2.3", "1"));
        assert_eq!(split_version(""), (0, "", ""));
    }
}
