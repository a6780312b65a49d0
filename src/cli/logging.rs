//! Where the log goes: to standard error, until a server detaches from its terminal.

use crate::error::{IoContext, Result};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;

/// The socket of the system's log.
const SYSLOG: &str = "/dev/log";

/// A line of a daemon about an error, in the numbers of syslog(3): facility 3, severity 3.
const SYSLOG_PRIORITY: &str = "<27>";

#[derive(Debug)]
enum Target {
    Stderr,
    File(File),
    Syslog(UnixDatagram),
    Nowhere,
}

/// What the log is written to, which can change while the program runs.
#[derive(Clone, Debug)]
pub(super) struct Sink(Arc<Mutex<Target>>);

impl Sink {
    /// Sends what follows to a file, to its end.
    pub(super) fn to_file(&self, path: &Path) -> Result<()> {
        let file = File::options()
            .append(true)
            .create(true)
            .open(path)
            .doing(|| format!("cannot write the log to {}", path.display()))?;
        *self.0.lock() = Target::File(file);
        Ok(())
    }

    /// Sends what follows to the system's log, where there is one.
    pub(super) fn to_syslog(&self) {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(SYSLOG)?;
            Ok(socket)
        });
        *self.0.lock() = socket.map_or(Target::Nowhere, Target::Syslog);
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.0.lock() {
            Target::Stderr => io::stderr().write_all(line)?,
            Target::File(file) => file.write_all(line)?,
            Target::Syslog(socket) => {
                let mut message = format!("{SYSLOG_PRIORITY}guestctl[{}]: ", std::process::id()).into_bytes();
                message.extend_from_slice(line.trim_ascii_end());
                // The system's log may be gone; a server goes on without it.
                let _ = socket.send(&message);
            }
            Target::Nowhere => {}
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging at the level that `-v` asks for, or `RUST_LOG`.
pub(super) fn start(verbose: u8) -> Sink {
    let sink = Sink(Arc::new(Mutex::new(Target::Stderr)));
    let level = match verbose {
        0 => "guestctl=warn,error",
        1 => "guestctl=info,warn",
        2 => "guestctl=debug,info",
        _ => "trace",
    };
    let environment = env_logger::Env::default().default_filter_or(level);
    env_logger::Builder::from_env(environment)
        .format(|out, record| {
            let level = record.level().as_str().to_ascii_lowercase();
            writeln!(out, "guestctl: {level}: {}", super::output::one_line(&record.args().to_string()))
        })
        .target(env_logger::Target::Pipe(Box::new(sink.clone())))
        .init();
    sink
}
