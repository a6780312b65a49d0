//! `guestctl diff`.

use super::image::{self, Reading};
use super::output::one_line;
use super::{exit, row, show};
use crate::error::{Error, IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::guestfs::ordered::in_order;
use crate::tree::{Node, Tree, Visit};
use serde::Serialize;
use std::cmp::Ordering;
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

/// Show what differs between two images, or two folders of images
///
/// Each line is a sign (- only in the first, + only in the second, ~ in both but different), what differs, and the path.
/// The exit code is 0 where nothing differs and 1 where something does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl diff before.qcow2 after.qcow2
  guestctl diff --json base.qcow2:/etc overlay.qcow2:/etc
  guestctl diff -m /dev/sda2 --times old.img new.img")]
pub(super) struct Args {
    /// Disk image, or IMAGE:PATH
    one: String,

    /// The other disk image, or IMAGE:PATH
    other: String,

    /// Compare times of change too
    #[arg(long)]
    times: bool,

    /// Take files of the same size and time of change to have the same contents
    #[arg(long)]
    fast: bool,

    /// Print JSON, one object for each difference on a line of its own
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    showing: show::Showing,

    #[command(flatten)]
    reading: Reading,
}

/// A file of one of the trees.
struct File {
    path: Vec<u8>,
    node: Node,
    attr: Attr,
}

/// One difference.
#[derive(Serialize)]
struct Difference {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    what: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Side>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Side>,
}

/// What a file is on one side.
#[derive(Serialize)]
struct Side {
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
}

impl From<&Attr> for Side {
    fn from(attr: &Attr) -> Self {
        let mode = format!("{:04o}", attr.permissions);
        Self { kind: row::type_name(attr.file_type), mode, uid: attr.uid, gid: attr.gid, size: attr.size }
    }
}

/// How much is compared at once, in bytes.
const PIECE: usize = 1 << 18;

fn list(tree: &Tree, image: &str, top: &[u8], failed: &mut bool) -> Result<Vec<File>> {
    let start = tree.resolve(top, true).map_err(|error| image::in_guest(image, top, error))?;
    let mut files = Vec::new();
    tree.visit(
        start.node,
        true,
        &mut |file| {
            files.push(File { path: file.path.to_vec(), node: file.node, attr: file.attr.clone() });
            Ok(Visit::Enter)
        },
        &mut |path, error| {
            image::complain(image, &image::below(top, path), error);
            *failed = true;
            Ok(())
        },
    )?;
    Ok(files)
}

/// Compares paths as a sorted walk meets them: name by name.
fn order(one: &[u8], other: &[u8]) -> Ordering {
    let slash = |byte: &u8| *byte == b'/';
    one.split(slash).cmp(other.split(slash))
}

/// Pairs the files of two sorted lists.
fn pair(one: Vec<File>, other: Vec<File>) -> Vec<(Option<File>, Option<File>)> {
    let (mut left, mut right) = (one.into_iter().peekable(), other.into_iter().peekable());
    let mut pairs = Vec::new();
    loop {
        let which = match (left.peek(), right.peek()) {
            (None, None) => return pairs,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(other)) => order(&one.path, &other.path),
        };
        pairs.push(match which {
            Ordering::Less => (left.next(), None),
            Ordering::Greater => (None, right.next()),
            Ordering::Equal => (left.next(), right.next()),
        });
    }
}

struct Comparer<'a> {
    args: &'a Args,
    one: &'a Tree,
    other: &'a Tree,
}

impl Comparer<'_> {
    fn differences(&self, one: &File, other: &File) -> Result<Vec<&'static str>> {
        let (left, right) = (&one.attr, &other.attr);
        let mut what = Vec::new();
        let mut add = |differs: bool, name| {
            if differs {
                what.push(name);
            }
        };
        if left.file_type != right.file_type {
            add(true, "type");
        } else {
            let contents = match left.file_type {
                FileType::Regular => self.contents_differ(one, other)?,
                FileType::Symlink => self.one.read_link(one.node)? != self.other.read_link(other.node)?,
                FileType::CharDevice | FileType::BlockDevice => left.rdev != right.rdev,
                _ => false,
            };
            let name = match left.file_type {
                FileType::Symlink => "target",
                FileType::CharDevice | FileType::BlockDevice => "device",
                _ => "content",
            };
            add(contents, name);
        }
        add(left.permissions != right.permissions, "mode");
        add(left.uid != right.uid, "owner");
        add(left.gid != right.gid, "group");
        add(xattrs(self.one, one.node)? != xattrs(self.other, other.node)?, "xattrs");
        add(self.args.times && left.mtime != right.mtime, "mtime");
        Ok(what)
    }

    fn contents_differ(&self, one: &File, other: &File) -> Result<bool> {
        if one.attr.size != other.attr.size {
            return Ok(true);
        }
        if self.args.fast && one.attr.mtime == other.attr.mtime {
            return Ok(false);
        }
        let length = PIECE.min(one.attr.size.max(1) as usize);
        let (mut left, mut right) = (vec![0; length], vec![0; length]);
        let mut offset = 0;
        while offset < one.attr.size {
            let count = self.one.read(one.node, offset, &mut left)?;
            let also = self.other.read(other.node, offset, &mut right)?;
            if count != also || left[..count] != right[..count] {
                return Ok(true);
            }
            if count == 0 {
                break;
            }
            offset += count as u64;
        }
        Ok(false)
    }

    fn compare(&self, one: Option<File>, other: Option<File>) -> Result<Option<Difference>, (Vec<u8>, Error)> {
        let some = one.as_ref().or(other.as_ref());
        let path = some.map(|file| file.path.clone()).unwrap_or_default();
        let what = match (&one, &other) {
            (Some(one), Some(other)) => self.differences(one, other).map_err(|error| (path.clone(), error))?,
            _ => Vec::new(),
        };
        let change = match (&one, &other) {
            (Some(_), None) => "removed",
            (None, _) => "added",
            (Some(_), Some(_)) if what.is_empty() => return Ok(None),
            (Some(_), Some(_)) => "changed",
        };
        let (path, path_hex) = row::text(if path.is_empty() { b"." } else { &path });
        let side = |file: Option<File>| file.map(|file| Side::from(&file.attr));
        Ok(Some(Difference { change, path, path_hex, what, before: side(one), after: side(other) }))
    }
}

fn xattrs(tree: &Tree, node: Node) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let value = |name: Vec<u8>| tree.xattr(node, &name).map(|value| (name, value));
    let mut all = tree.xattrs(node)?.into_iter().map(value).collect::<Result<Vec<_>>>()?;
    all.sort();
    Ok(all)
}

fn line(difference: &Difference) -> String {
    let path = one_line(&difference.path);
    match difference.change {
        "removed" => format!("- {path}"),
        "added" => format!("+ {path}"),
        _ => format!("~ {path} ({})", difference.what.join(", ")),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let (one, one_path) = image::split_path(&args.one);
    let (other, other_path) = image::split_path(&args.other);
    let (one_path, other_path) = (one_path.unwrap_or("/").as_bytes(), other_path.unwrap_or("/").as_bytes());
    let (one_guest, other_guest) = (args.reading.open(one)?, args.reading.open(other)?);
    let (one_tree, other_tree) = (one_guest.tree()?, other_guest.tree()?);
    let mut failed = false;
    let before = list(one_tree, one, one_path, &mut failed)?;
    let after = list(other_tree, other, other_path, &mut failed)?;
    let comparer = Comparer { args, one: one_tree, other: other_tree };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let bar = args.showing.bar()?;
    let mut done = 0;
    let pairs = pair(before, after);
    let total: u64 = pairs.iter().map(|(_, other)| other.as_ref().map_or(0, |file| file.attr.size)).sum();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut differs = false;
    let compare = |(one, other): (Option<File>, Option<File>)| {
        let size = other.as_ref().map_or(0, |file| file.attr.size);
        (size, comparer.compare(one, other))
    };
    in_order(pairs.into_iter(), threads, 256, compare, |(size, result)| {
        done += size;
        if bar.update(crate::guestfs::Progress { done, total }).is_break() {
            return Err(Error::Errno(libc::EINTR));
        }
        match result {
            Ok(None) => Ok(()),
            Ok(Some(difference)) => {
                differs = true;
                let text = match args.json {
                    true => serde_json::to_string(&difference).expect("texts can be written as JSON"),
                    false => line(&difference),
                };
                writeln!(out, "{text}").doing(|| "cannot write to standard output")
            }
            Err((path, error)) => {
                image::complain(one, &image::below(one_path, &path), error);
                failed = true;
                Ok(())
            }
        }
    })?;
    out.flush().doing(|| "cannot write to standard output")?;
    Ok(match (failed, differs) {
        (true, _) => ExitCode::from(exit::DAMAGED),
        (false, true) => ExitCode::from(exit::FAILED),
        (false, false) => ExitCode::SUCCESS,
    })
}
