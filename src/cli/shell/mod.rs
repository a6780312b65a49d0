//! `guestctl shell` and `guestctl run`.

mod complete;
mod devices;
mod reading;
mod session;
mod table;
mod words;
mod writing;

use super::image::Changing;
use super::input::Input;
use super::output::{self, one_line};
use super::show::Showing;
use crate::error::{Error, IoContext, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use session::Session;
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

/// Type commands that work on an image
///
/// A prompt with history and completion; `help` lists the commands, whose names are those of libguestfs. Without IMAGE, `add`
/// names drives, `launch` opens them, and `mount` mounts what they hold. Input that is no terminal is a script, as for
/// `guestctl run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl shell debian.qcow2
  guestctl shell --overlay debian.qcow2      # write, and leave the image as it is")]
pub(super) struct ShellArgs {
    /// Disk image or URL
    image: Option<String>,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

/// Run a file of commands, as typed into `guestctl shell`
///
/// One command a line; `#` begins a comment, `!COMMAND` runs a command of this host, and `COMMAND | COMMAND` lets one read
/// what is printed. The first command that fails ends the script with its exit code, unless a `-` stands before it. What was
/// written until then stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  guestctl run report.gctl debian.qcow2
  echo 'write /etc/hostname \"new\\n\"' | guestctl run --rw - debian.qcow2")]
pub(super) struct RunArgs {
    /// File of commands; - for standard input
    script: PathBuf,

    /// Disk image or URL
    image: Option<String>,

    /// Print each command on standard error before it runs
    #[arg(short = 'x', long)]
    trace: bool,

    #[command(flatten)]
    showing: Showing,

    #[command(flatten)]
    changing: Changing,
}

pub(super) fn run_shell(args: &ShellArgs) -> Result<ExitCode> {
    let mut session = Session::open(&args.changing, args.image.as_deref(), args.showing)?;
    if !io::stdin().is_terminal() {
        let done = run_lines(&mut session, "standard input", &mut BufReader::new(Input::new()?), false);
        return finish(session, done);
    }
    let session = Rc::new(RefCell::new(session));
    let done = prompt(&session);
    let session = Rc::into_inner(session).expect("the editor is gone").into_inner();
    finish(session, done)
}

pub(super) fn run_script(args: &RunArgs) -> Result<ExitCode> {
    let place = || format!("cannot read {}", args.script.display());
    let from_input = args.script.as_os_str() == "-";
    let file = if from_input { None } else { Some(std::fs::File::open(&args.script).doing(place)?) };
    let mut session = Session::open(&args.changing, args.image.as_deref(), args.showing)?;
    let done = match file {
        Some(file) => {
            let mut lines = BufReader::new(file);
            run_lines(&mut session, &args.script.display().to_string(), &mut lines, args.trace)
        }
        None => run_lines(&mut session, "standard input", &mut BufReader::new(Input::new()?), args.trace),
    };
    finish(session, done)
}

/// Makes what was written durable; the first error is the one to tell.
fn finish(mut session: Session, done: Result<()>) -> Result<ExitCode> {
    let closed = session.guest.shutdown();
    if let (Err(_), Err(error)) = (&done, &closed) {
        log::error!("{error}");
    }
    done.and(closed).map(|()| ExitCode::SUCCESS)
}

/// Runs a script up to its end, or to the first command that fails.
fn run_lines(session: &mut Session, name: &str, lines: &mut dyn BufRead, trace: bool) -> Result<()> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if lines.read_until(b'\n', &mut line).doing(|| format!("cannot read {name}"))? == 0 || session.ended {
            break;
        }
        let text = OsStr::from_bytes(&line);
        if trace && !line.trim_ascii().is_empty() {
            eprintln!("+ {}", one_line(text.to_string_lossy().trim()));
        }
        run_line(session, text).map_err(|error| error.at(format!("{name}:{number}")))?;
    }
    Ok(())
}

fn run_line(session: &mut Session, line: &OsStr) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = session.run_line(line, &mut out);
    let flushed = out.flush().doing(|| "cannot write to standard output");
    done.and(flushed)
}

/// Returns where the lines of earlier shells are kept, and makes its folder.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|path| path.as_bytes().starts_with(b"/")).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let folder = state.or_else(home)?.join("guestctl");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

fn prompt(session: &Rc<RefCell<Session>>) -> Result<()> {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(5000)
        .and_then(|builder| builder.history_ignore_dups(true))
        .map_err(failed)?
        .build();
    let mut editor: Editor<complete::Assistant, FileHistory> = Editor::with_config(config).map_err(failed)?;
    editor.set_helper(Some(complete::Assistant { session: Rc::clone(session) }));
    let history = history_file();
    if let Some(file) = &history {
        // The first shell of a user has none.
        let _ = editor.load_history(file);
    }
    while !session.borrow().ended {
        let folder = one_line(&String::from_utf8_lossy(&session.borrow().folder));
        match editor.readline(&format!("guestctl {folder}> ")) {
            Ok(line) => {
                // A line that is not kept can still be run.
                let _ = editor.add_history_entry(&line);
                if let Err(error) = run_line(&mut session.borrow_mut(), &OsString::from(line)) {
                    eprintln!("guestctl: {}", output::one_line(&error.to_string()));
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        }
    }
    if let Some(file) = &history
        && let Err(error) = editor.append_history(file)
    {
        log::warn!("{}: {error}", file.display());
    }
    Ok(())
}

fn failed(error: ReadlineError) -> Error {
    Error::io("cannot read from the terminal", io::Error::other(error))
}

/// What `--help` says of the commands.
pub(super) fn help() -> String {
    let mut text = Vec::new();
    session::write_help(&mut text).expect("memory takes it");
    String::from_utf8(text).expect("the table is UTF-8")
}
