//! Slackware: a file for each package below `/var/lib/pkgtools/packages`, named `name-version-arch-build`.

use super::Collected;
use crate::inspect::read::{Guest, join, tidy};
use crate::inspect::types::Package;

/// Reads the database of pkgtools.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    let folders = ["/var/lib/pkgtools/packages", "/var/log/packages"];
    let Some(folder) = folders.iter().find(|folder| guest.is_dir(folder)) else { return };
    for file in guest.list(folder) {
        let full = tidy(&file);
        let mut parts = full.rsplitn(4, '-');
        let (Some(release), Some(arch), Some(version), Some(name)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let text = guest.text(join(folder, &file)).unwrap_or_default();
        let size = text.lines().find_map(|line| line.strip_prefix("UNCOMPRESSED PACKAGE SIZE:"));
        let heading = format!("{name}: ");
        let summary = text.lines().find_map(|line| line.strip_prefix(&heading)).unwrap_or_default();
        all.push(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            release: release.to_owned(),
            arch: arch.to_owned(),
            size: size.and_then(bytes_of),
            summary: summary.trim().to_owned(),
            ..Package::default()
        });
    }
}

/// Reads a size such as `5690K` or `1.5M`.
fn bytes_of(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.char_indices().last()? {
        (end, 'K') => (&text[..end], 1024.0),
        (end, 'M') => (&text[..end], 1024.0 * 1024.0),
        (end, 'G') => (&text[..end], 1024.0 * 1024.0 * 1024.0),
        _ => (text, 1.0),
    };
    let number: f64 = number.trim().parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some((number * unit) as u64)
}

#[cfg(test)]
mod tests {
    use super::super::of;
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_file_name_is_a_package() {
        let text = "PACKAGE NAME:     aaa_base-14.2-x86_64-5\nUNCOMPRESSED PACKAGE SIZE:     90K\n\
            PACKAGE DESCRIPTION:\naaa_base: aaa_base (Basic Linux filesystem)\n";
        let tree = Fixture::new().file("var/log/packages/xf86-video-ati-14.2-x86_64-5", text).dir("var/log/x").tree();
        let packages = of(&Guest::new(&tree), read);
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].full_version().as_str()), ("xf86-video-ati", "14.2-5"));
        assert_eq!(packages[0].size, Some(90 * 1024));
    }
}
