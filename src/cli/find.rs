//! `guestctl find`.

use super::attributes::octal;
use super::image::{self, Reading};
use super::output::Names;
use super::row::Row;
use super::{exit, ls};
use crate::error::{Error, IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::guestfs::glob;
use crate::tree::{Named, Visit};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::str::FromStr;

/// Find files of an image
///
/// Paths come as the folders hold them, each folder before what it holds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl find debian.qcow2 /etc --name '*.conf' --type f\n  guestctl find -0 debian.qcow2:/var --size +10M | xargs -0 ..."
)]
pub(super) struct Args {
    /// Disk image or URL; IMAGE:PATH names the folder too
    image: String,

    /// Folders or files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Show only names that match a pattern (repeatable: any of them)
    #[arg(long, value_name = "GLOB")]
    name: Vec<OsString>,

    /// Show only paths that match a pattern (repeatable: any of them)
    #[arg(long, value_name = "GLOB")]
    path: Vec<OsString>,

    /// Show only files of these types: f, d, l, c, b, p, s
    #[arg(short = 't', long = "type", value_name = "TYPES")]
    types: Option<Types>,

    /// Show only files of at least +N or at most -N bytes; K, M, G and T multiply (repeatable: all of them)
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true)]
    size: Vec<Size>,

    /// Show only files of this owner
    #[arg(long, value_name = "N")]
    uid: Option<u32>,

    /// Show only files with all of these mode bits set
    #[arg(long, value_name = "OCTAL", value_parser = octal)]
    perm: Option<u16>,

    /// Go down at most this many folders
    #[arg(long, value_name = "N")]
    max_depth: Option<usize>,

    /// Leave out what lies less deep
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_depth: usize,

    /// Show mode, owner, size and time too
    #[arg(short, long, conflicts_with = "json")]
    long: bool,

    /// End names with NUL instead of a line feed
    #[arg(short = '0', long = "null", conflicts_with = "json")]
    null: bool,

    /// Print JSON, one object for each file on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reading: Reading,
}

#[derive(Clone, Debug)]
struct Types(Vec<FileType>);

impl FromStr for Types {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let one = |letter| {
            Ok(match letter {
                'f' => FileType::Regular,
                'd' => FileType::Directory,
                'l' => FileType::Symlink,
                'c' => FileType::CharDevice,
                'b' => FileType::BlockDevice,
                'p' => FileType::Fifo,
                's' => FileType::Socket,
                _ => return Err(Error::Usage(format!("{letter} is no type; there are f, d, l, c, b, p, s").into())),
            })
        };
        text.chars().filter(|letter| *letter != ',').map(one).collect::<Result<_>>().map(Self)
    }
}

#[derive(Clone, Copy, Debug)]
enum Size {
    AtLeast(u64),
    AtMost(u64),
    Is(u64),
}

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text.as_bytes().first() {
            Some(b'+') => Self::AtLeast(super::output::parse_size(&text[1..])?),
            Some(b'-') => Self::AtMost(super::output::parse_size(&text[1..])?),
            _ => Self::Is(super::output::parse_size(text)?),
        })
    }
}

impl Size {
    fn holds(self, size: u64) -> bool {
        match self {
            Self::AtLeast(limit) => size >= limit,
            Self::AtMost(limit) => size <= limit,
            Self::Is(wanted) => size == wanted,
        }
    }
}

impl Args {
    /// Says whether the names and the type alone decide what is shown, and all that is shown.
    fn needs_no_inodes(&self) -> bool {
        !self.json && !self.long && self.size.is_empty() && self.uid.is_none() && self.perm.is_none()
    }

    fn wants_name(&self, path: &[u8], name: &[u8], file_type: FileType) -> bool {
        let any = |patterns: &[OsString], text: &[u8]| {
            patterns.is_empty() || patterns.iter().any(|pattern| glob::matches(pattern.as_bytes(), text))
        };
        any(&self.name, name)
            && any(&self.path, path)
            && self.types.as_ref().is_none_or(|types| types.0.contains(&file_type))
    }

    fn wants(&self, path: &[u8], name: &[u8], attr: &Attr) -> bool {
        self.wants_name(path, name, attr.file_type)
            && self.size.iter().all(|size| size.holds(attr.size))
            && self.uid.is_none_or(|uid| uid == attr.uid)
            && self.perm.is_none_or(|bits| attr.permissions & bits == bits)
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
    let names = Names::new();
    let mut out = BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut failed = false;
    let mut whole = Vec::new();
    for path in paths {
        let top = path.as_bytes();
        let start = tree.resolve(top, args.dereferences(top)).map_err(|error| image::in_guest(file, top, error))?;
        let mut complain = |path: &[u8], error: Error| {
            image::complain(file, &image::below(top, path), error);
            failed = true;
            Ok(())
        };
        let next = |depth: usize| match args.max_depth {
            Some(deepest) if depth >= deepest => Visit::Skip,
            _ => Visit::Enter,
        };
        let doing = || "cannot write to standard output";
        if args.needs_no_inodes() {
            let mut show = |found: Named<'_>| {
                join(&mut whole, top, found.path);
                let name = if found.depth > 0 { found.name } else { last_name(top) };
                if found.depth >= args.min_depth && args.wants_name(&whole, name, found.file_type) {
                    names.write(&mut out, &whole).doing(doing)?;
                    out.write_all(if args.null { b"\0" } else { b"\n" }).doing(doing)?;
                }
                Ok(next(found.depth))
            };
            tree.visit_names(start.node, false, &mut show, &mut complain)?;
            continue;
        }
        tree.visit(
            start.node,
            false,
            &mut |found| {
                join(&mut whole, top, found.path);
                let name = if found.depth > 0 { found.name } else { last_name(top) };
                if found.depth >= args.min_depth && args.wants(&whole, name, found.attr) {
                    if args.json {
                        let line = Row::new(tree, &whole, found.node, found.attr)?.line();
                        writeln!(out, "{line}").doing(doing)?;
                    } else {
                        if args.long {
                            ls::write_long(&mut out, found.attr, false).doing(doing)?;
                        }
                        names.write(&mut out, &whole).doing(doing)?;
                        out.write_all(if args.null { b"\0" } else { b"\n" }).doing(doing)?;
                    }
                }
                Ok(next(found.depth))
            },
            &mut complain,
        )?;
    }
    out.flush().doing(|| "cannot write to standard output")?;
    Ok(if failed { ExitCode::from(exit::FAILED) } else { ExitCode::SUCCESS })
}

impl Args {
    /// A link that is named is shown itself, unless a slash after it asks for the folder.
    fn dereferences(&self, top: &[u8]) -> bool {
        top.ends_with(b"/")
    }
}

/// Puts together the path of what was found, as find does: what was named, and the path below it.
pub(super) fn join(whole: &mut Vec<u8>, top: &[u8], path: &[u8]) {
    whole.clear();
    whole.extend_from_slice(top);
    if !path.is_empty() && !top.ends_with(b"/") {
        whole.push(b'/');
    }
    whole.extend_from_slice(path);
}

/// Returns the last name of a path; `/` has that name itself.
fn last_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let begin = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    if end == 0 { b"/" } else { &path[begin..end] }
}
