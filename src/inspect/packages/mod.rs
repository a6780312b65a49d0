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

/// The most packages that are kept, and the most memory that they take, in bytes.
const MAX_PACKAGES: usize = 1 << 18;
const MAX_MEMORY: usize = 128 << 20;

/// The longest description that is kept, in bytes.
const MAX_DESCRIPTION: usize = 16 << 10;

/// Packages that are being collected, up to a bound.
#[derive(Default)]
struct Collected {
    packages: Vec<Package>,
    memory: usize,
}

impl Collected {
    /// Keeps a package, unless there are too many.
    fn push(&mut self, package: Package) {
        if self.is_full() {
            return;
        }
        let texts = [&package.name, &package.version, &package.summary, &package.description, &package.url];
        let more = [&package.release, &package.arch, &package.publisher, &package.source, &package.install_path];
        let text: usize = texts.iter().chain(&more).map(|text| text.capacity()).sum();
        self.memory += size_of::<Package>() + text;
        self.packages.push(package);
    }

    fn is_full(&self) -> bool {
        self.packages.len() >= MAX_PACKAGES || self.memory >= MAX_MEMORY
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }
}

/// Reads every database that is there.
pub(super) fn read(guest: &Guest<'_>) -> Vec<Package> {
    let mut all = Collected::default();
    for read in [dpkg::read, rpm::read, apk::read, pacman::read] {
        read(guest, &mut all);
    }
    if all.is_empty() {
        for read in [portage::read, slackware::read, bsd::read] {
            read(guest, &mut all);
        }
    }
    if all.is_full() {
        guest.warn(format!("only the first {} packages are told, there are too many", all.packages.len()));
    }
    all.packages
}

/// Returns what one of the databases holds.
#[cfg(test)]
fn of(guest: &Guest<'_>, read: fn(&Guest<'_>, &mut Collected)) -> Vec<Package> {
    let mut all = Collected::default();
    read(guest, &mut all);
    all.packages
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
