//! pacman of Arch: a folder for each package below `/var/lib/pacman/local`, its `desc` in sections named `%NAME%`.
//!
//! The form is specified by libalpm's source (`be_local.c`).

use super::{Collected, number, split_version, text};
use crate::inspect::read::{Guest, SMALL, join};
use crate::inspect::types::Package;

const LOCAL: &str = "/var/lib/pacman/local";

/// Reads the database of pacman.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    for folder in guest.list(LOCAL).into_iter().filter(|name| name != b"ALPM_DB_VERSION") {
        let Some(bytes) = guest.read(join(join(LOCAL, folder), "desc"), SMALL) else { continue };
        if let Some(package) = parse(&bytes) {
            all.push(package);
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Package> {
    let mut package = Package::default();
    let mut section: &[u8] = b"";
    for line in bytes.split(|&byte| byte == b'\n') {
        if line.is_empty() {
            section = b"";
        } else if section.is_empty() && line.starts_with(b"%") {
            section = line;
        } else {
            match section {
                b"%NAME%" => package.name = text(line),
                b"%VERSION%" => {
                    let full = text(line);
                    let (epoch, version, release) = split_version(&full);
                    package.epoch = epoch;
                    package.version = version.to_owned();
                    package.release = release.to_owned();
                }
                b"%BASE%" => package.source = text(line),
                b"%DESC%" => package.summary = text(line),
                b"%URL%" => package.url = text(line),
                b"%ARCH%" => package.arch = text(line),
                b"%INSTALLDATE%" => package.install_time = number(line).and_then(|time| i64::try_from(time).ok()),
                b"%PACKAGER%" => package.publisher = text(line),
                b"%SIZE%" => package.size = number(line),
                _ => {}
            }
        }
    }
    (!package.name.is_empty()).then_some(package)
}

#[cfg(test)]
mod tests {
    use super::super::of;
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn each_folder_is_a_package() {
        let desc = "%NAME%\nlinux\n\n%VERSION%\n6.6.7.arch1-1\n\n%BASE%\nlinux\n\n%DESC%\nThe Linux kernel and modules\n\n\
            %URL%\nhttps://example.org\n\n%ARCH%\nx86_64\n\n%BUILDDATE%\n1702500000\n\n%INSTALLDATE%\n1702600000\n\n\
            %PACKAGER%\nSomebody <s@example.org>\n\n%SIZE%\n135000000\n\n%LICENSE%\nGPL2\n\n%DEPENDS%\ncoreutils\n%NAME%\n";
        let tree = Fixture::new()
            .file("var/lib/pacman/local/ALPM_DB_VERSION", "9\n")
            .file("var/lib/pacman/local/linux-6.6.7.arch1-1/desc", desc)
            .dir("var/lib/pacman/local/empty-1")
            .tree();
        let packages = of(&Guest::new(&tree), read);
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].full_version().as_str()), ("linux", "6.6.7.arch1-1"));
        assert_eq!((packages[0].size, packages[0].install_time), (Some(135_000_000), Some(1_702_600_000)));
    }
}
