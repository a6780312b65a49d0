//! `guestctl ls`.

use super::image::{self, Choosing, Opening};
use super::output::{self, Names};
use super::row::Row;
use super::show::LongHelp;
use crate::error::{IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::guestfs::mode_text;
use crate::tree::{Found, Node, Tree, Visit};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// List a folder of an image
///
/// Names come in the order of their bytes, those that begin with a dot too. Owners are numbers: the guest's names for them
/// are not this host's.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  guestctl ls debian.qcow2 /etc\n  guestctl ls -lR debian.qcow2:/boot\n  guestctl ls -0 debian.qcow2 / | xargs -0 ..."
)]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names the folder too
    image: String,

    /// Folder or file in the guest
    #[arg(default_value = "/")]
    path: OsString,

    /// Show mode, links, owner, group, size and time
    #[arg(short)]
    long: bool,

    /// List folders within folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// With -l, show sizes like 1.5G
    #[arg(short = 'h', short_alias = 'H', long)]
    human: bool,

    /// End names with NUL instead of a line feed
    #[arg(short = '0', long = "null", conflicts_with = "json")]
    null: bool,

    /// Print JSON, one object for each file on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    choosing: Choosing,

    #[command(flatten)]
    opening: Opening,

    #[command(flatten)]
    help: LongHelp,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (file, inside) = image::split_path(&args.image);
    let path = inside.map_or(args.path.as_bytes(), str::as_bytes);
    let mut guest = args.opening.open(file)?;
    args.choosing.mount(&mut guest, false)?;
    let tree = guest.tree()?;
    let start = tree.resolve(path, true).map_err(|error| image::in_guest(file, path, error))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut failed = false;
    let lister = Lister { args, tree, names: Names::new(), file };
    lister.list(&start, &mut out, &mut failed)?;
    out.flush().doing(|| "cannot write to standard output")?;
    Ok(if failed { ExitCode::from(super::exit::FAILED) } else { ExitCode::SUCCESS })
}

struct Lister<'a> {
    args: &'a Args,
    tree: &'a Tree,
    names: Names,
    file: &'a str,
}

impl Lister<'_> {
    fn list(&self, start: &Found, out: &mut impl Write, failed: &mut bool) -> Result<()> {
        if !start.attr.is_dir() {
            return self.print(out, &start.path, start.node, &start.attr);
        }
        let recursive = self.args.recursive;
        self.tree.visit(
            start.node,
            true,
            &mut |file| {
                if file.depth > 0 {
                    self.print(out, file.path, file.node, file.attr)?;
                }
                Ok(if file.depth == 0 || recursive { Visit::Enter } else { Visit::Skip })
            },
            &mut |path, error| {
                image::complain(self.file, &image::below(&start.path, path), error);
                *failed = true;
                Ok(())
            },
        )
    }

    fn print(&self, out: &mut impl Write, path: &[u8], node: Node, attr: &Attr) -> Result<()> {
        if self.args.json {
            let line = Row::new(self.tree, path, node, attr)?.line();
            return writeln!(out, "{line}").doing(|| "cannot write to standard output");
        }
        let target = match attr.file_type {
            FileType::Symlink if self.args.long => Some(self.tree.read_link(node)?),
            _ => None,
        };
        self.print_line(out, path, attr, target.as_deref()).doing(|| "cannot write to standard output")
    }

    fn print_line(&self, out: &mut impl Write, path: &[u8], attr: &Attr, target: Option<&[u8]>) -> io::Result<()> {
        if self.args.long {
            write_long(out, attr, self.args.human)?;
        }
        self.names.write(out, path)?;
        if let Some(target) = target
            && self.args.long
        {
            out.write_all(b" -> ")?;
            self.names.write(out, target)?;
        }
        out.write_all(if self.args.null { b"\0" } else { b"\n" })
    }
}

/// Writes what comes before the name in a long listing.
pub(super) fn write_long(out: &mut (impl Write + ?Sized), attr: &Attr, human: bool) -> io::Result<()> {
    let size = match attr.file_type {
        FileType::CharDevice | FileType::BlockDevice => format!("{}, {}", attr.rdev.0, attr.rdev.1),
        _ if human => output::human(attr.size),
        _ => attr.size.to_string(),
    };
    let (mode, time) = (mode_text(attr), time_text(attr.mtime.seconds));
    write!(out, "{mode} {:>3} {:>5} {:>5} {size:>10} {time} ", attr.nlink, attr.uid, attr.gid)
}

/// Returns a time in UTC: `2026-11-23 06:40:00`.
pub(super) fn time_text(seconds: i64) -> String {
    // Days since 0000-03-01, in eras of 400 years: the leap day is a year's last.
    let days = seconds.div_euclid(86_400) + 719_468;
    let of_day = seconds.rem_euclid(86_400);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_102_444_799, "2099-12-31 23:59:59"),
            (-1, "1969-12-31 23:59:59"),
            (-2_203_891_200, "1900-03-01 00:00:00"),
        ] {
            assert_eq!(time_text(seconds), text);
        }
    }
}
