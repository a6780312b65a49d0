//! `guestctl du`.

use super::image::{self, Reading};
use super::output::{self, Names};
use super::show::LongHelp;
use super::{exit, row};
use crate::error::{IoContext, Result};
use crate::fs::FileType;
use crate::tree::Visit;
use serde::Serialize;
use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

/// Show how much space folders of an image take
///
/// Sizes are units of 1 KiB, as those of du(1). A file with several names counts once.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    after_help = "Examples:\n  guestctl du -sh debian.qcow2 /usr /var\n  guestctl du --depth 1 debian.qcow2:/home"
)]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names the folder too
    image: String,

    /// Folders or files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Show only what is named
    #[arg(short, long, conflicts_with_all = ["all", "depth"])]
    summarize: bool,

    /// Show files too
    #[arg(short, long)]
    all: bool,

    /// Show folders down to this depth only
    #[arg(short, long, value_name = "N")]
    depth: Option<usize>,

    /// Count the sizes of files and links, in bytes, instead of the space that they take
    #[arg(short = 'b', long)]
    bytes: bool,

    /// Show sizes like 1.5G
    #[arg(short = 'h', short_alias = 'H', long)]
    human: bool,

    /// End lines with NUL
    #[arg(short = '0', long = "null", conflicts_with = "json")]
    null: bool,

    /// Print JSON, one object on a line for each folder, with sizes in bytes
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,

    #[command(flatten)]
    help: LongHelp,
}

#[derive(Serialize)]
struct Size {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    bytes: u64,
}

/// A folder whose contents are being counted.
struct Level {
    path: Vec<u8>,
    depth: usize,
    bytes: u64,
}

struct Printer<'a, W> {
    args: &'a Args,
    names: Names,
    out: W,
}

impl<W: Write> Printer<'_, W> {
    fn print(&mut self, path: &[u8], depth: usize, bytes: u64) -> Result<()> {
        let deepest = if self.args.summarize { Some(0) } else { self.args.depth };
        if deepest.is_some_and(|deepest| depth > deepest) {
            return Ok(());
        }
        self.write(path, bytes).doing(|| "cannot write to standard output")
    }

    fn write(&mut self, path: &[u8], bytes: u64) -> io::Result<()> {
        if self.args.json {
            let (path, path_hex) = row::text(path);
            let line = serde_json::to_string(&Size { path, path_hex, bytes }).map_err(io::Error::other)?;
            return writeln!(self.out, "{line}");
        }
        let size = match (self.args.human, self.args.bytes) {
            (true, _) => output::human(bytes),
            (false, true) => bytes.to_string(),
            (false, false) => bytes.div_ceil(1024).to_string(),
        };
        write!(self.out, "{size}\t")?;
        self.names.write(&mut self.out, path)?;
        self.out.write_all(if self.args.null { b"\0" } else { b"\n" })
    }

    /// Prints the folders that end before an entry of a depth, and adds each to the one it lies in.
    fn close(&mut self, levels: &mut Vec<Level>, depth: usize) -> Result<()> {
        while levels.last().is_some_and(|level| level.depth >= depth) {
            let Some(level) = levels.pop() else { break };
            self.print(&level.path, level.depth, level.bytes)?;
            if let Some(above) = levels.last_mut() {
                above.bytes = above.bytes.saturating_add(level.bytes);
            }
        }
        Ok(())
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (file, mut paths) = image::image_and_paths(&args.image, &args.paths);
    let root = OsString::from_vec(b"/".to_vec());
    if paths.is_empty() {
        paths.push(&root);
    }
    let guest = args.reading.open(file)?;
    let tree = guest.tree()?;
    let mut failed = false;
    let mut seen = HashSet::new();
    let out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut printer = Printer { args, names: Names::new(), out };
    for path in paths {
        let top = path.as_bytes();
        let start = tree.resolve(top, false).map_err(|error| image::in_guest(file, top, error))?;
        let mut levels: Vec<Level> = Vec::new();
        tree.visit(
            start.node,
            false,
            &mut |found| {
                printer.close(&mut levels, found.depth)?;
                // Like du, what was counted is not counted again, and not shown.
                if found.attr.nlink > 1 && !found.attr.is_dir() && !seen.insert(found.node) {
                    return Ok(Visit::Enter);
                }
                let space = found.attr.blocks.saturating_mul(512);
                let is_dir = found.attr.is_dir();
                let bytes = match (args.bytes, found.attr.file_type) {
                    (false, _) => space,
                    (true, FileType::Regular | FileType::Symlink) => found.attr.size,
                    (true, _) => 0,
                };
                let whole = image::below(top, found.path);
                if is_dir {
                    levels.push(Level { path: whole, depth: found.depth, bytes });
                    return Ok(Visit::Enter);
                }
                if let Some(level) = levels.last_mut() {
                    level.bytes = level.bytes.saturating_add(bytes);
                }
                if args.all || found.depth == 0 {
                    printer.print(&whole, found.depth, bytes)?;
                }
                Ok(Visit::Enter)
            },
            &mut |path, error| {
                image::complain(file, &image::below(top, path), error);
                failed = true;
                Ok(())
            },
        )?;
        printer.close(&mut levels, 0)?;
    }
    printer.out.flush().doing(|| "cannot write to standard output")?;
    Ok(if failed { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}
