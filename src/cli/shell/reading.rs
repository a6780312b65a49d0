//! Commands that read files and folders.

use super::devices::{lines, text};
use super::session::{Session, printing};
use super::table::{Arg, Command, Kind};
use crate::cli::output::Names;
use crate::cli::{find, ls, stat};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::guestfs::CopyOptions;
use crate::guestfs::checksum::write_line;
use crate::tree::Visit;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const PATH: Arg = Arg::one("PATH", Kind::Path);
const PATHS: Arg = Arg::several("PATH", Kind::Path);
const HERE: Arg = Arg::maybe("PATH", Kind::Path);
const LOCAL: Arg = Arg::one("LOCAL", Kind::Local);
const COUNT: Arg = Arg::maybe("LINES", Kind::Text);
const ALGORITHM: Arg = Arg::one(
    "ALGORITHM",
    Kind::Word(&["crc", "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake3", "xxh3"]),
);
const COMPRESS: Arg = Arg::maybe("COMPRESSION", Kind::Word(&["gzip", "bzip2", "xz", "zstd", "lz4"]));

pub(super) const COMMANDS: &[Command] = &[
    Command::reading("ls", &[HERE], "List a folder", list),
    Command::reading("ll", &[HERE], "List a folder with modes, owners, sizes and times", long),
    Command::reading("find", &[HERE], "List everything below a folder", find_all),
    Command::reading("cat", &[PATHS], "Print files", cat),
    Command::reading(
        "head",
        &[PATH, COUNT],
        "Print the first 10 lines, or as many as are asked for",
        |session, args, out| lines(out, session.guest.head_n(count(args.get(1))?, &args[0])?),
    ),
    Command::reading(
        "tail",
        &[PATH, COUNT],
        "Print the last 10 lines, or as many as are asked for",
        |session, args, out| lines(out, session.guest.tail_n(count(args.get(1))?, &args[0])?),
    ),
    Command::reading(
        "pread",
        &[PATH, Arg::one("COUNT", Kind::Text), Arg::one("OFFSET", Kind::Text)],
        "Print a part of a file",
        pread,
    ),
    Command::reading(
        "grep",
        &[Arg::one("EXPRESSION", Kind::Text), PATH],
        "Print the lines that match",
        |session, args, out| lines(out, session.guest.grep(&text(&args[0]), &args[1])?),
    ),
    Command::reading("strings", &[PATH], "Print the texts in a file", |session, args, out| {
        lines(out, session.guest.strings(&args[0])?)
    }),
    Command::reading("file", &[PATH], "Say what a file holds", |session, args, out| {
        lines(out, [session.guest.file_type(&args[0])?])
    }),
    Command::reading("stat", &[PATHS], "Show the attributes of files, of links themselves", show),
    Command::reading("filesize", &[PATH], "Print a size in bytes", |session, args, out| {
        lines(out, [session.guest.filesize(&args[0])?.to_string()])
    }),
    Command::reading("exists", &[PATH], "Say whether a path names anything", |session, args, out| {
        lines(out, [session.guest.exists(&args[0])?.to_string()])
    }),
    Command::reading("is-file", &[PATH], "Say whether a path names a regular file", |session, args, out| {
        lines(out, [session.guest.is_file(&args[0])?.to_string()])
    }),
    Command::reading("is-dir", &[PATH], "Say whether a path names a folder", |session, args, out| {
        lines(out, [session.guest.is_dir(&args[0])?.to_string()])
    }),
    Command::reading("is-symlink", &[PATH], "Say whether a path names a symbolic link", |session, args, out| {
        lines(out, [session.guest.is_symlink(&args[0])?.to_string()])
    }),
    Command::reading("readlink", &[PATH], "Print what a symbolic link says", |session, args, out| {
        lines(out, [session.guest.readlink(&args[0])?])
    }),
    Command::reading("realpath", &[PATH], "Print a path without links", |session, args, out| {
        lines(out, [session.guest.realpath(&args[0])?])
    }),
    Command::reading(
        "glob-expand",
        &[Arg::one("PATTERN", Kind::Path)],
        "List the paths that a pattern stands for",
        |session, args, out| lines(out, session.guest.glob_expand(&args[0])?),
    ),
    Command::reading("getxattrs", &[PATH], "Print extended attributes", xattrs),
    Command::reading(
        "du",
        &[HERE],
        "Print the space that everything below a path takes, in KiB",
        |session, args, out| {
            let path = here(session, args);
            lines(out, [session.guest.du(path)?.to_string()])
        },
    ),
    Command::reading("df", &[HERE], "Print the size of a filesystem and what is free, in bytes", free),
    Command::reading("equal", &[PATH, PATH], "Say whether two files have the same contents", |session, args, out| {
        lines(out, [session.guest.equal(&args[0], &args[1])?.to_string()])
    }),
    Command::reading("checksum", &[ALGORITHM, PATH], "Print the checksum of a file", |session, args, out| {
        lines(out, [session.guest.checksum(&text(&args[0]), &args[1])?])
    }),
    Command::reading(
        "checksums-out",
        &[ALGORITHM, PATH, LOCAL],
        "Write the checksums of everything below a folder, - to print them",
        checksums,
    ),
    Command::reading("download", &[PATH, LOCAL], "Copy a file to this host", |session, args, _| {
        session.guest.download(&args[0], Path::new(&args[1])).map(drop)
    }),
    Command::reading("copy-out", &[PATHS, LOCAL], "Copy files and folders into a folder of this host", copy_out),
    Command::reading("tar-out", &[PATH, LOCAL, COMPRESS], "Write a folder as a tar archive, - to print it", tar_out),
    Command::reading(
        "tgz-out",
        &[PATH, LOCAL],
        "Write a folder as a tar archive compressed by gzip",
        |session, args, _| session.guest.tgz_out(&args[0], Path::new(&args[1])),
    ),
];

/// The path that a command is given, or the shell's folder.
fn here(session: &Session, args: &[OsString]) -> OsString {
    args.first().cloned().unwrap_or_else(|| session.absolute(".".as_ref()))
}

/// # Errors
/// [`Error::Usage`] for what is no number.
pub(super) fn number(arg: &OsString) -> Result<u64> {
    crate::cli::output::parse_size(&text(arg))
}

fn count(arg: Option<&OsString>) -> Result<usize> {
    arg.map_or(Ok(10), |arg| number(arg).map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
}

fn list(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let path = here(session, args);
    let mut entries = session.guest.readdir(path)?;
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    let names = Names::new();
    entries
        .iter()
        .try_for_each(|entry| names.write(out, &entry.name).and_then(|()| out.write_all(b"\n")))
        .doing(printing)
}

fn long(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let path = here(session, args);
    let tree = session.guest.tree()?;
    let place = || path.display().to_string();
    let start = tree.resolve(path.as_bytes(), true).at(place)?;
    let names = Names::new();
    let mut show = |file: crate::tree::Visited<'_>| {
        if file.depth == 0 && file.attr.is_dir() {
            return Ok(Visit::Enter);
        }
        ls::write_long(out, file.attr, false).doing(printing)?;
        names.write(out, if file.depth == 0 { path.as_bytes() } else { file.name }).doing(printing)?;
        if file.attr.file_type == crate::fs::FileType::Symlink {
            out.write_all(b" -> ").doing(printing)?;
            names.write(out, &tree.read_link(file.node)?).doing(printing)?;
        }
        out.write_all(b"\n").doing(printing)?;
        Ok(Visit::Skip)
    };
    tree.visit(start.node, true, &mut show, &mut |_, error| Err(error)).at(place)
}

fn find_all(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let path = here(session, args);
    let tree = session.guest.tree()?;
    let place = || path.display().to_string();
    let start = tree.resolve(path.as_bytes(), true).at(place)?;
    let (names, mut whole) = (Names::new(), Vec::new());
    let mut show = |file: crate::tree::Named<'_>| {
        find::join(&mut whole, path.as_bytes(), file.path);
        names.write(out, &whole).and_then(|()| out.write_all(b"\n")).doing(printing)?;
        Ok(Visit::Enter)
    };
    tree.visit_names(start.node, true, &mut show, &mut |_, error| Err(error)).at(place)
}

fn cat(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let tree = session.guest.tree()?;
    let mut buffer = vec![0; 1 << 20];
    args.iter().try_for_each(|path| {
        crate::cli::cat::print_file(tree, path.as_bytes(), out, &mut buffer).at(|| path.display().to_string())
    })
}

fn pread(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let count = usize::try_from(number(&args[1])?).map_err(|_| Error::Errno(libc::ENOMEM))?;
    out.write_all(&session.guest.pread(&args[0], count, number(&args[2])?)?).doing(printing)
}

fn show(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let tree = session.guest.tree()?;
    args.iter().try_for_each(|path| {
        let place = || path.display().to_string();
        let found = tree.resolve(path.as_bytes(), false).at(place)?;
        out.write_all(stat::describe(tree, &found).at(place)?.as_bytes()).doing(printing)
    })
}

fn xattrs(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    for (name, value) in session.guest.getxattrs(&args[0])? {
        writeln!(out, "{}=\"{}\"", name.escape_ascii(), value.escape_ascii()).doing(printing)?;
    }
    Ok(())
}

fn free(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let path = here(session, args);
    let full = session.guest.statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(u64::from(full.block_size));
    writeln!(out, "size {} available {}", bytes(full.blocks), bytes(full.blocks_available)).doing(printing)
}

fn checksums(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    if args[2] != "-" {
        return session.guest.checksums_out(&text(&args[0]), &args[1], Path::new(&args[2]));
    }
    session.guest.checksums(&text(&args[0]), &args[1], |file| {
        let name = [b"./", file.path.as_slice()].concat();
        let sum = file.sum.at(|| name.escape_ascii().to_string())?;
        write_line(out, &sum, &name).doing(printing)
    })
}

fn copy_out(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let (to, paths) = args.split_last().expect("the count of arguments was checked");
    let to = Path::new(to);
    if !to.is_dir() {
        return Err(Error::Errno(libc::ENOTDIR).at(to.display().to_string()));
    }
    let options = CopyOptions { recursive: true, attributes: true };
    paths.iter().try_for_each(|path| session.guest.copy_out_with(path, to, options, &mut |_, error| Err(error)))
}

fn tar_out(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let compression = args.get(2).map(|name| text(name).parse()).transpose()?.unwrap_or_default();
    let options = crate::guestfs::TarOptions { compression, ..Default::default() };
    match args[1].to_str() {
        Some("-") => session.guest.tar_out_with(&args[0], out, &options),
        _ => session.guest.tar_out_to(&args[0], Path::new(&args[1]), &options),
    }
}
