//! Portage of Gentoo: a folder `category/name-version` below `/var/db/pkg` for each package, with a file for each fact.
//!
//! The form is specified by the Package Manager Specification (names and versions) and Portage's documentation (vdb).

use super::Collected;
use crate::inspect::read::{Guest, join, tidy};
use crate::inspect::types::Package;

const INSTALLED: &str = "/var/db/pkg";

/// The most folders of packages that are looked at.
const MAX_FOLDERS: usize = 1 << 16;

/// Reads the database of Portage.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    let mut looked_at = 0;
    for category in guest.list(INSTALLED) {
        // What the BSDs keep in this folder has no categories.
        if !category.contains(&b'-') && category != b"virtual" {
            continue;
        }
        let folder = join(INSTALLED, &category);
        for package in guest.list(&folder) {
            looked_at += 1;
            if looked_at > MAX_FOLDERS {
                return;
            }
            let path = join(&folder, &package);
            let full = tidy(&package);
            let Some((name, version, release)) = split(&full) else { continue };
            if !guest.is_file(join(&path, "CATEGORY")) && !guest.is_file(join(&path, "PF")) {
                continue;
            }
            let fact = |name: &str| guest.first_line(join(&path, name));
            // Portage makes the folder anew when it installs the package; the time of the build may be another machine's.
            let made = guest.found(&path).map(|found| found.attr.mtime.seconds).filter(|&time| time > 0);
            all.push(Package {
                name: format!("{}/{name}", tidy(&category)),
                version: version.to_owned(),
                release: release.to_owned(),
                arch: fact("CHOST").and_then(|host| host.split('-').next().map(str::to_owned)).unwrap_or_default(),
                size: fact("SIZE").and_then(|size| size.parse().ok()),
                install_time: made.or_else(|| fact("BUILD_TIME").and_then(|time| time.parse().ok())),
                summary: fact("DESCRIPTION").unwrap_or_default(),
                url: fact("HOMEPAGE").unwrap_or_default(),
                ..Package::default()
            });
        }
    }
}

/// Takes `name-version-rN` apart. The version begins at the last hyphen before a digit.
fn split(full: &str) -> Option<(&str, &str, &str)> {
    let is_release = |text: &str| text.strip_prefix('r').is_some_and(|digits| digits.parse::<u32>().is_ok());
    let (rest, release) = match full.rsplit_once('-') {
        Some((rest, release)) if is_release(release) => (rest, release),
        _ => (full, ""),
    };
    let (name, version) = rest.rsplit_once('-')?;
    version.starts_with(|letter: char| letter.is_ascii_digit()).then_some((name, version, release))
}

#[cfg(test)]
mod tests {
    use super::super::of;
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn each_folder_of_a_category_is_a_package() {
        let tree = Fixture::new()
            .file("var/db/pkg/sys-apps/portage-3.0.61-r1/CATEGORY", "sys-apps\n")
            .file("var/db/pkg/sys-apps/portage-3.0.61-r1/SIZE", "4711\n")
            .file("var/db/pkg/sys-apps/portage-3.0.61-r1/CHOST", "x86_64-pc-linux-gnu\n")
            .file("var/db/pkg/sys-apps/portage-3.0.61-r1/BUILD_TIME", "1700000000\n")
            .dir("var/db/pkg/sys-apps/-MERGING-x")
            .tree();
        let packages = of(&Guest::new(&tree), read);
        assert_eq!(packages.len(), 1);
        assert_eq!(packages[0].name, "sys-apps/portage");
        assert_eq!(packages[0].full_version(), "3.0.61-r1");
        assert_eq!((packages[0].size, packages[0].arch.as_str()), (Some(4711), "x86_64"));
        assert_eq!(packages[0].install_time, Some(1_700_000_000), "the build's, where the folder has no time");
        assert_eq!(split("gtk+-2.24.33"), Some(("gtk+", "2.24.33", "")));
        assert_eq!(split("nothing"), None);
    }
}
