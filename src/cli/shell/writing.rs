//! Commands that change files and folders.

use super::devices::{lines, text};
use super::reading::number;
use super::session::Session;
use super::table::{Arg, Command, Kind};
use crate::cli::edit;
use crate::cli::mode::{Mode, Owner};
use crate::error::{Error, Result};
use crate::guestfs::TarInOptions;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const PATH: Arg = Arg::one("PATH", Kind::Path);
const PATHS: Arg = Arg::several("PATH", Kind::Path);
const TO: Arg = Arg::one("TARGET", Kind::Path);
const LOCAL: Arg = Arg::one("LOCAL", Kind::Local);
const CONTENT: Arg = Arg::one("CONTENT", Kind::Text);
const NAME: Arg = Arg::one("NAME", Kind::Text);
const SIZE: Arg = Arg::one("SIZE", Kind::Text);

pub(super) const COMMANDS: &[Command] = &[
    Command::writing("write", &[PATH, CONTENT], "Write a file", |session, args, _| {
        session.guest.write(&args[0], args[1].as_bytes())
    }),
    Command::writing("write-append", &[PATH, CONTENT], "Write at the end of a file", |session, args, _| {
        session.guest.write_append(&args[0], args[1].as_bytes())
    }),
    Command::writing("edit", &[PATHS], "Edit files with $VISUAL or $EDITOR", |session, args, _| {
        args.iter().try_for_each(|path| edit::edit(&session.guest, path))
    }),
    Command::writing(
        "upload",
        &[LOCAL, PATH],
        "Copy a file of this host to a file of the guest",
        |session, args, _| session.guest.upload(Path::new(&args[0]), &args[1]).map(drop),
    ),
    Command::writing(
        "copy-in",
        &[Arg::several("LOCAL", Kind::Local), PATH],
        "Copy files and folders of this host into a folder",
        copy_in,
    ),
    Command::writing(
        "tar-in",
        &[LOCAL, PATH],
        "Unpack a tar archive, compressed or not, into a folder",
        |session, args, _| session.guest.tar_in_from(Path::new(&args[0]), &args[1], &TarInOptions::default()),
    ),
    Command::writing(
        "tgz-in",
        &[LOCAL, PATH],
        "Unpack a tar archive compressed by gzip into a folder",
        |session, args, _| session.guest.tgz_in(Path::new(&args[0]), &args[1]),
    ),
    Command::writing("cp", &[PATH, TO], "Copy a file", |session, args, _| session.guest.cp(&args[0], &args[1])),
    Command::writing("cp-a", &[PATH, TO], "Copy a file or a folder with its attributes", |session, args, _| {
        session.guest.cp_a(&args[0], &args[1])
    }),
    Command::writing("cp-r", &[PATH, TO], "Copy a folder with all that it holds", |session, args, _| {
        session.guest.cp_r(&args[0], &args[1])
    }),
    Command::writing("mv", &[PATH, TO], "Move or rename a file", |session, args, _| {
        session.guest.mv(&args[0], &args[1])
    }),
    Command::writing("rm", &[PATHS], "Remove files", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.rm(path))
    }),
    Command::writing("rm-f", &[PATHS], "Remove files; one that is not there is no error", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.rm_f(path))
    }),
    Command::writing("rm-rf", &[PATHS], "Remove files and folders with all that they hold", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.rm_rf(path))
    }),
    Command::writing("mkdir", &[PATHS], "Make folders", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.mkdir(path))
    }),
    Command::writing("mkdir-p", &[PATHS], "Make folders and those above them", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.mkdir_p(path))
    }),
    Command::writing(
        "mkdtemp",
        &[Arg::one("TEMPLATE", Kind::Path)],
        "Make a folder with a name that nothing has, and print it",
        |session, args, out| lines(out, [session.guest.mkdtemp(&args[0])?]),
    ),
    Command::writing("rmdir", &[PATHS], "Remove empty folders", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.rmdir(path))
    }),
    Command::writing("ln", &[PATH, Arg::one("NAME", Kind::Path)], "Give a file another name", |session, args, _| {
        session.guest.ln(&args[0], &args[1])
    }),
    Command::writing("ln-s", &[Arg::one("TEXT", Kind::Text), PATH], "Make a symbolic link", |session, args, _| {
        session.guest.ln_s(&args[0], &args[1])
    }),
    Command::writing(
        "ln-sf",
        &[Arg::one("TEXT", Kind::Text), PATH],
        "Make a symbolic link in place of what is there",
        |session, args, _| session.guest.ln_sf(&args[0], &args[1]),
    ),
    Command::writing("touch", &[PATHS], "Set times to now; make files that are not there", |session, args, _| {
        args.iter().try_for_each(|path| session.guest.touch(path))
    }),
    Command::writing("truncate", &[PATH], "Empty a file", |session, args, _| session.guest.truncate(&args[0])),
    Command::writing("truncate-size", &[PATH, SIZE], "Change the size of a file", |session, args, _| {
        session.guest.truncate_size(&args[0], number(&args[1])?)
    }),
    Command::writing("fallocate64", &[PATH, SIZE], "Make a file of zeroes that has its space", |session, args, _| {
        session.guest.fallocate64(&args[0], number(&args[1])?)
    }),
    Command::writing(
        "fill",
        &[Arg::one("BYTE", Kind::Text), SIZE, PATH],
        "Make a file of one byte, again and again",
        |session, args, _| {
            let byte = u8::try_from(number(&args[0])?).map_err(|_| Error::Usage("a byte is 0 to 255".into()))?;
            session.guest.fill(byte, number(&args[1])?, &args[2])
        },
    ),
    Command::writing("chmod", &[Arg::one("MODE", Kind::Text), PATHS], "Change modes: 600, u+x, go-w", chmod),
    Command::writing(
        "chown",
        &[Arg::one("OWNER", Kind::Text), PATHS],
        "Change owners: 1000, www-data:www-data, :0",
        chown,
    ),
    Command::writing(
        "setxattr",
        &[NAME, Arg::one("VALUE", Kind::Text), PATH],
        "Set an extended attribute",
        |session, args, _| session.guest.setxattr(&args[0], args[1].as_bytes(), &args[2]),
    ),
    Command::writing("removexattr", &[NAME, PATH], "Remove an extended attribute", |session, args, _| {
        session.guest.removexattr(&args[0], &args[1])
    }),
    Command::writing("umask", &[Arg::one("OCTAL", Kind::Text)], "Set the bits that new files do not get", umask),
    Command::writing("sync", &[], "Make what was written durable", |session, _, _| session.guest.sync()),
];

fn copy_in(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let (folder, files) = args.split_last().expect("the count of arguments was checked");
    files.iter().try_for_each(|file| session.guest.copy_in(Path::new(file), folder))
}

fn chmod(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let mode: Mode = text(&args[0]).parse()?;
    args[1..].iter().try_for_each(|path| {
        let attr = session.guest.stat(path)?;
        session.guest.chmod(mode.apply(attr.permissions, attr.is_dir()).into(), path)
    })
}

fn chown(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let (uid, gid) = text(&args[0]).parse::<Owner>()?.numbers(&session.guest)?;
    args[1..].iter().try_for_each(|path| {
        let attr = session.guest.stat(path)?;
        session.guest.chown(uid.unwrap_or(attr.uid), gid.unwrap_or(attr.gid), path)
    })
}

fn umask(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let mask = crate::cli::attributes::octal(&text(&args[0])).map_err(|why| Error::Usage(why.into()))?;
    session.guest.umask(mask.into()).map(drop)
}
