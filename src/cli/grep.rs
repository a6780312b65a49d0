//! `guestctl grep`.

use super::image::{self, Reading};
use super::output::Names;
use super::{exit, row};
use crate::error::{Error, IoContext, Result};
use crate::fs::FileType;
use crate::guestfs::lines;
use crate::guestfs::ordered::in_order;
use crate::tree::{Node, Tree, Visit};
use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// Search files of an image for lines that match
///
/// The expression is one of the Rust crate regex, much as that of grep -E. A file with NUL bytes is only said to match.
/// The exit code is 0 where something matched and 1 where nothing did.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl grep PermitRoot debian.qcow2 /etc/ssh/sshd_config
  guestctl grep -rn 'user[0-9]+' debian.qcow2:/etc
  guestctl grep -rlF 10.0.0.1 debian.qcow2 /etc /var/log")]
pub(super) struct Args {
    /// Regular expression
    pattern: String,

    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Search folders with all that they hold
    #[arg(short, long)]
    recursive: bool,

    /// Take letters to match whatever their case
    #[arg(short, long)]
    ignore_case: bool,

    /// Take the pattern to be a plain text
    #[arg(short = 'F', long)]
    fixed_strings: bool,

    /// Show lines that do not match
    #[arg(long)]
    invert_match: bool,

    /// Show the numbers of lines
    #[arg(short = 'n', long)]
    line_number: bool,

    /// Show only the names of files that match
    #[arg(short = 'l', long, conflicts_with = "count")]
    files_with_matches: bool,

    /// Show only how many lines match
    #[arg(short, long)]
    count: bool,

    /// End names with NUL
    #[arg(short = '0', long = "null")]
    null: bool,

    /// Print JSON, one object for each line on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

#[derive(Serialize)]
struct Match {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    line: u64,
    text: String,
}

/// The lines of one file that are kept at most before they are printed, in bytes.
const MOST_KEPT: usize = 64 << 20;

/// What one file holds.
struct Found {
    path: Vec<u8>,
    lines: Vec<(u64, Vec<u8>)>,
    count: u64,
    binary: bool,
}

struct Searcher<'a> {
    args: &'a Args,
    tree: &'a Tree,
    expression: Regex,
}

impl Searcher<'_> {
    fn search(&self, path: Vec<u8>, node: Node) -> Result<Found> {
        let mut head = [0; 4096];
        let read = self.tree.read(node, 0, &mut head)?;
        let mut found = Found { path, lines: Vec::new(), count: 0, binary: head[..read].contains(&0) };
        let only_name = self.args.files_with_matches || (found.binary && !self.args.count);
        let mut kept = 0;
        lines(self.tree, node, &mut |number, line| {
            if self.expression.is_match(line) == self.args.invert_match {
                return Ok(ControlFlow::Continue(()));
            }
            found.count += 1;
            if only_name {
                return Ok(ControlFlow::Break(()));
            }
            if !self.args.count {
                kept += line.len() + 32;
                if kept > MOST_KEPT {
                    return Err(Error::Usage("more than 64 MiB of lines match; use -c or -l".into()));
                }
                found.lines.push((number, line.to_vec()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    fn print(&self, out: &mut impl Write, found: &Found, with_name: bool) -> io::Result<()> {
        let args = self.args;
        let names = Names::new();
        if args.json {
            for (number, line) in &found.lines {
                let (path, path_hex) = row::text(&found.path);
                let text = String::from_utf8_lossy(line).into_owned();
                let row = Match { path, path_hex, line: *number, text };
                writeln!(out, "{}", serde_json::to_string(&row).map_err(io::Error::other)?)?;
            }
            return Ok(());
        }
        let end: &[u8] = if args.null { b"\0" } else { b":" };
        if args.files_with_matches {
            names.write(out, &found.path)?;
            return out.write_all(if args.null { b"\0" } else { b"\n" });
        }
        if args.count {
            if with_name {
                names.write(out, &found.path)?;
                out.write_all(end)?;
            }
            return writeln!(out, "{}", found.count);
        }
        if found.binary {
            names.write(out, &found.path)?;
            return out.write_all(b": binary file matches\n");
        }
        for (number, line) in &found.lines {
            if with_name {
                names.write(out, &found.path)?;
                out.write_all(end)?;
            }
            if args.line_number {
                write!(out, "{number}:")?;
            }
            names.write(out, line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let pattern = if args.fixed_strings { regex::escape(&args.pattern) } else { args.pattern.clone() };
    let expression = RegexBuilder::new(&pattern)
        .case_insensitive(args.ignore_case)
        .build()
        .map_err(|error| Error::Usage(format!("{error}").into()))?;
    let (file, mut paths) = image::image_and_paths(&args.image, &args.paths);
    let root = OsString::from("/");
    if paths.is_empty() && args.recursive {
        paths.push(&root);
    }
    if paths.is_empty() {
        return Err(Error::Usage("name a file in the image: guestctl grep PATTERN IMAGE PATH...".into()));
    }
    let guest = args.reading.open(file)?;
    let tree = guest.tree()?;
    let mut failed = false;
    let mut files: Vec<(Vec<u8>, Node)> = Vec::new();
    for path in &paths {
        let top = path.as_bytes();
        let start = tree.resolve(top, true).map_err(|error| image::in_guest(file, top, error))?;
        if start.attr.is_dir() && !args.recursive {
            return Err(image::in_guest(file, top, Error::Errno(libc::EISDIR)));
        }
        tree.visit(
            start.node,
            true,
            &mut |found| {
                if found.attr.file_type == FileType::Regular {
                    files.push((image::below(top, found.path), found.node));
                }
                Ok(Visit::Enter)
            },
            &mut |path, error| {
                image::complain(file, &image::below(top, path), error);
                failed = true;
                Ok(())
            },
        )?;
    }
    let with_name = args.recursive || files.len() > 1;
    let searcher = Searcher { args, tree, expression };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut out = BufWriter::new(io::stdout().lock());
    let mut any = false;
    let search = |(path, node): (Vec<u8>, Node)| searcher.search(path.clone(), node).map_err(|error| (path, error));
    in_order(files.into_iter(), threads, 64, search, |result| {
        match result {
            Ok(found) if found.count > 0 || (args.count && !args.json) => {
                any |= found.count > 0;
                searcher.print(&mut out, &found, with_name).doing(|| "cannot write to standard output")?;
            }
            Ok(_) => {}
            Err((path, error)) => {
                image::complain(file, &path, error);
                failed = true;
            }
        }
        Ok(())
    })?;
    out.flush().doing(|| "cannot write to standard output")?;
    Ok(match (failed, any) {
        (true, _) => ExitCode::from(exit::USAGE),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(exit::FAILED),
    })
}
