//! The state of a shell, and the commands that concern it.

use super::table::{self, Arg, Command, Kind};
use super::words::Line;
use crate::cli::image::Changing;
use crate::cli::output::one_line;
use crate::cli::show::{Bar, Showing};
use crate::error::{Error, IoContext, Result};
use crate::guestfs::{DriveOptions, Guestfs, glob};
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::{Command as Host, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

pub(super) const COMMANDS: &[Command] = &[
    Command::reading(
        "help",
        &[Arg::maybe("COMMAND", Kind::Command)],
        "Say what there is, or what one command does",
        help,
    ),
    Command::reading("cd", &[Arg::maybe("PATH", Kind::Path)], "Let paths be relative to a folder of the guest", cd),
    Command::reading("pwd", &[], "Print the folder that paths are relative to", pwd),
    Command::reading("lcd", &[Arg::one("LOCAL", Kind::Local)], "Change to a folder of this host", lcd),
    Command::reading("echo", &[Arg::several("TEXT", Kind::Text)], "Print its arguments", echo),
    Command::reading(
        "glob",
        &[Arg::several("COMMAND", Kind::Command)],
        "Run a command for each path that a pattern stands for",
        globbing,
    ),
    Command::reading("time", &[Arg::several("COMMAND", Kind::Command)], "Run a command and say how long it took", time),
    Command::reading("quit", &[], "End (exit and the end of the input do, too)", quit),
    Command::reading("exit", &[], "End", quit),
];

/// The most commands that one line with patterns becomes.
const MAX_EXPANDED: usize = 1 << 20;

/// A shell at work.
pub(super) struct Session {
    pub(super) guest: Guestfs,
    /// Whether the drives of this shell are written to.
    pub(super) writable: bool,
    /// The folder of the guest that paths are relative to.
    pub(super) folder: Vec<u8>,
    pub(super) ended: bool,
    /// How a drive is opened that is added.
    pub(super) drive: DriveOptions,
    interrupted: Arc<AtomicBool>,
    showing: Showing,
}

impl Session {
    /// Opens what the arguments say.
    pub(super) fn open(changing: &Changing, image: Option<&str>, showing: Showing) -> Result<Self> {
        let guest = match image {
            Some(image) => changing.open_as_asked(image)?,
            None => changing.open_nothing()?,
        };
        let interrupted = Arc::new(AtomicBool::new(false));
        Bar::end_on_signals(&interrupted)?;
        let writable = changing.is_asked();
        Ok(Self {
            guest,
            writable,
            folder: b"/".to_vec(),
            ended: false,
            drive: changing.drive_options()?,
            interrupted,
            showing,
        })
    }

    /// Does what a line says; `Ok` for a command that may fail.
    pub(super) fn run_line(&mut self, line: &OsStr, out: &mut dyn Write) -> Result<()> {
        let line = Line::parse(line)?;
        self.interrupted.store(false, Ordering::Relaxed);
        match line {
            Line::Nothing => Ok(()),
            Line::Host(command) => {
                out.flush().doing(|| "cannot write to standard output")?;
                let status = Host::new("sh").arg("-c").arg(&command).status().doing(|| "cannot run sh")?;
                if status.success() {
                    Ok(())
                } else {
                    Err(Error::io(format!("! {}", command.display()), io::Error::other(status.to_string())))
                }
            }
            Line::Command { may_fail, words, pipe } => {
                let done = match pipe {
                    None => self.run_words(&words, out),
                    Some(command) => self.run_piped(&words, &command, out),
                };
                match done {
                    Err(error) if may_fail => {
                        eprintln!("guestctl: {} (ignored)", one_line(&error.to_string()));
                        Ok(())
                    }
                    done => done,
                }
            }
        }
    }

    fn run_piped(&mut self, words: &[OsString], command: &OsStr, out: &mut dyn Write) -> Result<()> {
        out.flush().doing(|| "cannot write to standard output")?;
        let doing = || "cannot run sh";
        let mut host = Host::new("sh").arg("-c").arg(command).stdin(Stdio::piped()).spawn().doing(doing)?;
        let mut into = Pipe { stdin: host.stdin.take().expect("it was asked for"), closed: false };
        // Who stops reading, as head does, ends its own input and not this program.
        crate::sys::ignore_sigpipe();
        let done = self.run_words(words, &mut into);
        crate::sys::default_sigpipe();
        let closed = into.closed;
        drop(into);
        let status = host.wait().doing(doing)?;
        if !closed {
            done?;
        }
        if status.success() {
            Ok(())
        } else {
            Err(Error::io(format!("| {}", command.display()), io::Error::other(status.to_string())))
        }
    }

    pub(super) fn run_words(&mut self, words: &[OsString], out: &mut dyn Write) -> Result<()> {
        let Some((name, args)) = words.split_first() else { return Ok(()) };
        let unknown =
            || Error::Usage(format!("there is no command {}; help lists those that there are", name.display()).into());
        let command = name.to_str().and_then(table::find).ok_or_else(unknown)?;
        command.check_count(args.len())?;
        if command.writes && !self.writable {
            return Err(Error::Usage(
                format!("{} writes to the image: start with --rw or --overlay", command.name).into(),
            ));
        }
        let args: Vec<OsString> = args
            .iter()
            .enumerate()
            .map(|(place, arg)| match command.kind(place, args.len()) {
                Some(Kind::Path) => self.absolute(arg),
                _ => arg.clone(),
            })
            .collect();
        let bar = self.showing.bar_with(Arc::clone(&self.interrupted));
        self.guest.set_progress_callback(move |progress| bar.update(progress));
        (command.run)(self, &args, out)
    }

    /// Returns a path of the guest that begins at its root.
    pub(super) fn absolute(&self, path: &OsStr) -> OsString {
        if path.as_bytes().starts_with(b"/") {
            return path.to_owned();
        }
        OsString::from_vec(crate::cli::image::below(&self.folder, path.as_bytes()))
    }
}

/// The input of a command of this host.
struct Pipe {
    stdin: std::process::ChildStdin,
    /// Whether that command wants no more.
    closed: bool,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.stdin.write(bytes);
        self.closed |= written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdin.flush()
    }
}

/// What is being done when a command prints.
pub(super) fn printing() -> &'static str {
    "cannot print"
}

fn help(_: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let Some(name) = args.first() else { return write_help(out).doing(printing) };
    let command = name.to_str().and_then(table::find);
    let command = command.ok_or_else(|| Error::Usage(format!("there is no command {}", name.display()).into()))?;
    writeln!(out, "{}\n    {}", command.usage(), command.help).doing(printing)
}

/// Writes what commands there are.
pub(super) fn write_help(out: &mut dyn Write) -> io::Result<()> {
    for (topic, commands) in table::TOPICS {
        writeln!(out, "{topic}:")?;
        for command in commands {
            let usage = command.usage();
            if usage.len() > 34 {
                writeln!(out, "  {usage}\n{:37}{}", "", command.help)?;
            } else {
                writeln!(out, "  {usage:<35}{}", command.help)?;
            }
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "!COMMAND runs a command of this host, COMMAND | COMMAND lets one read what is printed, -COMMAND may fail."
    )
}

fn cd(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    let path = args.first().map_or(OsStr::new("/"), OsString::as_os_str);
    let tree = session.guest.tree()?;
    let found = tree.resolve(path.as_bytes(), true).map_err(|error| error.at(path.display().to_string()))?;
    if !found.attr.is_dir() {
        return Err(Error::Errno(libc::ENOTDIR).at(path.display().to_string()));
    }
    session.folder = found.path;
    Ok(())
}

fn pwd(session: &mut Session, _: &[OsString], out: &mut dyn Write) -> Result<()> {
    out.write_all(&session.folder).and_then(|()| out.write_all(b"\n")).doing(printing)
}

fn lcd(_: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    std::env::set_current_dir(&args[0]).doing(|| format!("cannot change to {}", args[0].display()))
}

fn echo(_: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    out.write_all(args.join(OsStr::new(" ")).as_bytes()).and_then(|()| out.write_all(b"\n")).doing(printing)
}

fn globbing(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let mut lines: Vec<Vec<OsString>> = vec![vec![args[0].clone()]];
    for arg in &args[1..] {
        let mut expanded = vec![arg.clone()];
        if glob::is_pattern(arg.as_bytes()) {
            expanded = session.guest.glob_expand(session.absolute(arg))?.into_iter().map(OsString::from).collect();
            if expanded.is_empty() {
                return Err(Error::Errno(libc::ENOENT).at(arg.display().to_string()));
            }
        }
        if lines.len().saturating_mul(expanded.len()) > MAX_EXPANDED {
            return Err(Error::Usage("these patterns stand for too many commands".into()));
        }
        lines = lines
            .iter()
            .flat_map(|line| expanded.iter().map(|arg| [line.as_slice(), std::slice::from_ref(arg)].concat()))
            .collect();
    }
    lines.iter().try_for_each(|line| session.run_words(line, out))
}

fn time(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let began = Instant::now();
    session.run_words(args, out)?;
    writeln!(out, "{:.3} s", began.elapsed().as_secs_f64()).doing(printing)
}

fn quit(session: &mut Session, _: &[OsString], _: &mut dyn Write) -> Result<()> {
    session.ended = true;
    Ok(())
}
