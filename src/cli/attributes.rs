//! `guestctl chmod`, `chown`, `touch`, `truncate` and `xattr`.

use super::image::{self, Changing};
use super::mode::{Mode, Owner};
use super::output::{self, parse_size};
use super::show::Showing;
use super::target::{self, Target};
use super::{exit, row};
use crate::bytes::hex;
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::{Attr, FileType};
use crate::guestfs::Guestfs;
use crate::tree::Visit;
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

/// # Errors
/// A text for what is no octal mode.
pub(super) fn octal(text: &str) -> std::result::Result<u16, String> {
    u16::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(|| String::from("no octal mode"))
}

/// Change the modes of files of an image
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guestctl chmod --rw 600 debian.qcow2 /etc/ssh/ssh_host_ed25519_key\n  guestctl chmod -R --rw u+rwX,go-w debian.qcow2:/srv"
)]
pub(super) struct ChmodArgs {
    /// Octal digits, or clauses with commas between them: u+x, go-w, a+X
    #[arg(allow_hyphen_values = true)]
    mode: Mode,

    /// Go through folders with all that they hold; links are left alone
    #[arg(short = 'R', long)]
    recursive: bool,

    #[command(flatten)]
    target: Target,
}

pub(super) fn chmod(args: &ChmodArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| {
        if !args.recursive {
            let attr = guest.stat(path)?;
            return guest.chmod(args.mode.apply(attr.permissions, attr.is_dir()).into(), path);
        }
        for (path, attr) in below(guest, path)? {
            if attr.file_type != FileType::Symlink {
                guest.chmod(args.mode.apply(attr.permissions, attr.is_dir()).into(), &path)?;
            }
        }
        Ok(())
    })
}

/// Change the owners of files of an image
///
/// Names are those of the guest's /etc/passwd and /etc/group.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl chown -R --rw www-data:www-data debian.qcow2 /srv/www")]
pub(super) struct ChownArgs {
    /// OWNER, OWNER:GROUP or :GROUP, as names or numbers
    owner: Owner,

    /// Go through folders with all that they hold; links are changed themselves
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Change a link itself, not what it leads to
    #[arg(short = 'P', long)]
    no_dereference: bool,

    #[command(flatten)]
    target: Target,
}

pub(super) fn chown(args: &ChownArgs) -> Result<ExitCode> {
    let mut known = None;
    args.target.each(|guest, path| {
        let (uid, gid) = match known {
            Some(numbers) => numbers,
            None => *known.insert(args.owner.numbers(guest)?),
        };
        let files = match args.recursive {
            true => below(guest, path)?,
            false if args.no_dereference => vec![(path.to_owned(), guest.lstat(path)?)],
            false => vec![(path.to_owned(), guest.stat(path)?)],
        };
        files.iter().try_for_each(|(path, attr)| {
            let (uid, gid) = (uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid));
            if args.recursive || args.no_dereference {
                guest.lchown(uid, gid, path)
            } else {
                guest.chown(uid, gid, path)
            }
        })
    })
}

/// Lists a file and everything below it, with links themselves.
fn below(guest: &Guestfs, path: &OsStr) -> Result<Vec<(OsString, Attr)>> {
    let tree = guest.tree()?;
    let place = || path.display().to_string();
    let start = tree.resolve(path.as_bytes(), path.as_bytes().ends_with(b"/")).at(place)?;
    let mut files = Vec::new();
    let mut visit = |file: crate::tree::Visited<'_>| {
        files.push((OsString::from_vec(image::below(path.as_bytes(), file.path)), file.attr.clone()));
        Ok(Visit::Enter)
    };
    tree.visit(start.node, false, &mut visit, &mut |_, error| Err(error)).at(place)?;
    Ok(files)
}

/// Set the times of files of an image to now; make those that are not there
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl touch --rw debian.qcow2 /.autorelabel")]
pub(super) struct TouchArgs {
    #[command(flatten)]
    target: Target,
}

pub(super) fn touch(args: &TouchArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| guest.touch(path))
}

/// Change the sizes of files of an image
///
/// What is cut off is gone; what is added reads as zeroes and takes no space. A file that is not there is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guestctl truncate --rw -s 0 debian.qcow2 /var/log/syslog")]
pub(super) struct TruncateArgs {
    /// New size in bytes; K, M, G and T multiply
    #[arg(short, long, value_name = "N", value_parser = parse_size)]
    size: u64,

    #[command(flatten)]
    target: Target,
}

pub(super) fn truncate(args: &TruncateArgs) -> Result<ExitCode> {
    args.target.each(|guest, path| {
        if !guest.exists(path)? {
            guest.touch(path)?;
        }
        guest.truncate_size(path, args.size)
    })
}

/// Show or change extended attributes of files of an image
///
/// Without --set and --remove they are shown, for which no --rw is needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl xattr debian.qcow2 /usr/bin/ping
  guestctl xattr --rw --set user.origin=backup debian.qcow2 /srv/data")]
pub(super) struct XattrArgs {
    /// Disk image or URL; IMAGE:PATH names a file too
    image: String,

    /// Files in the guest
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,

    /// Set an attribute (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<OsString>,

    /// Remove an attribute (repeatable)
    #[arg(long, value_name = "NAME")]
    remove: Vec<OsString>,

    /// Print JSON, one object for each file on a line of its own; values are in hexadecimal digits
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

#[derive(Serialize)]
struct Attributes {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    xattrs: std::collections::BTreeMap<String, String>,
}

pub(super) fn xattr(args: &XattrArgs) -> Result<ExitCode> {
    let (image, paths) = image::image_and_paths(&args.image, &args.paths);
    if paths.is_empty() {
        return Err(Error::Usage("name a file in the image: guestctl xattr IMAGE PATH...".into()));
    }
    let changes = !args.set.is_empty() || !args.remove.is_empty();
    let mut set = Vec::new();
    for pair in &args.set {
        let pair = pair.as_bytes();
        let place = pair.iter().position(|&byte| byte == b'=');
        let place = place.ok_or_else(|| Error::Usage("write --set NAME=VALUE".into()))?;
        set.push((OsStr::from_bytes(&pair[..place]), &pair[place + 1..]));
    }
    let guest = match changes {
        true => target::open(image, args.showing, &args.changing)?,
        false => args.changing.open_as_asked(image)?,
    };
    let mut code = None;
    for path in paths {
        let done = if changes {
            set.iter()
                .try_for_each(|(name, value)| guest.setxattr(name, value, path))
                .and_then(|()| args.remove.iter().try_for_each(|name| guest.removexattr(name, path)))
        } else {
            show(args, &guest, path)
        };
        if let Err(error) = done {
            code.get_or_insert(exit::code(&error));
            eprintln!("guestctl: {}", output::one_line(&error.at(image).to_string()));
        }
    }
    target::end(guest, Ok(ExitCode::from(code.unwrap_or(0))))
}

fn show(args: &XattrArgs, guest: &Guestfs, path: &OsStr) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let doing = || "cannot write to standard output";
    let xattrs = guest.getxattrs(path)?;
    if args.json {
        let (path, path_hex) = row::text(path.as_bytes());
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let xattrs = xattrs.iter().map(|(key, value)| (name(key), hex(value))).collect();
        let text = serde_json::to_string(&Attributes { path, path_hex, xattrs }).expect("texts can be written as JSON");
        return writeln!(out, "{text}").doing(doing);
    }
    for (name, value) in xattrs {
        writeln!(out, "{}: {}=\"{}\"", path.as_bytes().escape_ascii(), name.escape_ascii(), value.escape_ascii())
            .doing(doing)?;
    }
    Ok(())
}
