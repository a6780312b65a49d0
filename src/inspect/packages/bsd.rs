//! The BSDs: pkg of FreeBSD in `/var/db/pkg/local.sqlite`, and the folders of OpenBSD's packages and of pkgsrc.

use super::sqlite::Database;
use super::{Collected, prose};
use crate::error::Result;
use crate::inspect::read::{Guest, join, tidy};
use crate::inspect::types::Package;

const LOCAL: &str = "/var/db/pkg/local.sqlite";

/// Reads the databases of the BSDs.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    if let Err(error) = freebsd(guest, all) {
        guest.warn_of(LOCAL, &error);
    }
    for folder in ["/var/db/pkg", "/usr/pkg/pkgdb", "/usr/pkg/var/db/pkg"] {
        for name in guest.list(folder) {
            let path = join(folder, &name);
            let full = tidy(&name);
            // What is installed lists its files.
            let Some((name, version)) = full.rsplit_once('-').filter(|_| guest.is_file(join(&path, "+CONTENTS")))
            else {
                continue;
            };
            all.push(Package {
                name: name.to_owned(),
                version: version.to_owned(),
                summary: guest.first_line(join(&path, "+COMMENT")).unwrap_or_default(),
                ..Package::default()
            });
        }
    }
}

fn freebsd(guest: &Guest<'_>, packages: &mut Collected) -> Result<()> {
    let Some(database) = Database::open(guest, LOCAL)? else { return Ok(()) };
    let Some(table) = database.table(b"packages")? else { return Ok(()) };
    database.rows(&table, &mut |row| {
        let text = |name: &str| row.text(name).map(tidy).unwrap_or_default();
        packages.push(Package {
            name: text("name"),
            version: text("version"),
            arch: text("arch"),
            size: row.number("flatsize").and_then(|size| u64::try_from(size).ok()),
            install_time: row.number("time"),
            summary: text("comment"),
            description: row.text("desc").map(prose).unwrap_or_default(),
            url: text("www"),
            publisher: text("maintainer"),
            source: text("origin"),
            ..Package::default()
        });
        !packages.is_full()
    })
}

#[cfg(test)]
mod tests {
    use super::super::of;
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn a_folder_with_a_packing_list_is_a_package() {
        let tree = Fixture::new()
            .file("var/db/pkg/bash-5.2.15/+CONTENTS", "@name bash-5.2.15\n")
            .file("var/db/pkg/bash-5.2.15/+COMMENT", "GNU Bourne Again Shell\n")
            .dir("var/db/pkg/other-1")
            .tree();
        let packages = of(&Guest::new(&tree), read);
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("bash", "5.2.15"));
    }
}
