//! rpm: a database of headers, in one of three forms.
//!
//! rpm kept its headers in Berkeley DB for long ([`bdb`]), SUSE's in a form of its own ([`ndb`]), today's in SQLite.
//! Whichever it is, each entry is a header ([`header`]).

mod bdb;
mod header;
mod ndb;

use super::Collected;
use super::sqlite::Database;
use crate::error::Result;
use crate::inspect::read::Guest;

/// The folders that the database may lie in; some are links to others.
const FOLDERS: [&str; 3] = ["/var/lib/rpm", "/usr/lib/sysimage/rpm", "/usr/share/rpm"];

/// Reads the database of rpm. Where it is damaged, what was read before is kept.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    for folder in FOLDERS {
        let before = all.packages.len();
        let forms: [(&str, Form); 3] = [("rpmdb.sqlite", sqlite), ("Packages.db", ndb::read), ("Packages", bdb::read)];
        for (name, form) in forms {
            let path = format!("{folder}/{name}");
            if !guest.is_file(&path) {
                continue;
            }
            let mut damaged = 0;
            let read = form(guest, &path, &mut |blob| {
                match header::package(blob) {
                    Ok(package) => all.push(package),
                    Err(_) => damaged += 1,
                }
                !all.is_full()
            });
            if let Err(error) = read {
                guest.warn_of(&path, &error);
            }
            if damaged > 0 {
                guest.warn(format!("{path}: {damaged} headers are damaged"));
            }
            if all.packages.len() > before {
                all.packages[before..].sort_by(|one, other| one.name.cmp(&other.name));
                return;
            }
        }
    }
}

/// Shows the headers of a database until the visitor returns false.
type Form = fn(&Guest<'_>, &str, &mut dyn FnMut(&[u8]) -> bool) -> Result<()>;

fn sqlite(guest: &Guest<'_>, path: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> Result<()> {
    let Some(database) = Database::open(guest, path)? else { return Ok(()) };
    let Some(table) = database.table(b"packages")? else { return Ok(()) };
    database.rows(&table, &mut |row| row.text("blob").is_none_or(&mut *visit))
}
