//! The keys of encrypted volumes: from files, the environment and the terminal, never from the command line itself.

use crate::block::{self, OpenOptions};
use crate::error::{Error, IoContext, Result};
use crate::volume::keys::{Keys, Secret, Selector, check_header};
use clap::Args;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use zeroize::Zeroizing;

/// The longest key that is read, in bytes.
const MAX_KEY: u64 = 8 << 20;

/// The keys of encrypted volumes.
#[derive(Args, Debug)]
pub(super) struct KeyArgs {
    /// Open an encrypted volume (a device, a UUID, or all) with the key in a file, in standard input (-) or in an
    /// environment variable (repeatable)
    #[arg(long = "key", value_name = "DEV:file:PATH|DEV:env:NAME")]
    keys: Vec<KeySpec>,

    /// Take the LUKS header of a device from this file (repeatable)
    #[arg(long = "header", value_name = "DEV:FILE")]
    headers: Vec<HeaderSpec>,
}

#[derive(Clone, Debug)]
struct KeySpec {
    device: String,
    source: KeySource,
}

#[derive(Clone, Debug)]
enum KeySource {
    File(String),
    Env(String),
}

impl FromStr for KeySpec {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let split =
            |kind: &str| text.split_once(kind).filter(|(device, value)| !device.is_empty() && !value.is_empty());
        let (device, source) = match (split(":file:"), split(":env:")) {
            (Some((device, path)), _) => (device, KeySource::File(path.to_owned())),
            (None, Some((device, name))) => (device, KeySource::Env(name.to_owned())),
            // What was written may be the key itself, so it is not repeated.
            (None, None) => return Err("write DEV:file:PATH, DEV:file:- or DEV:env:NAME".to_owned()),
        };
        Ok(Self { device: device.to_owned(), source })
    }
}

#[derive(Clone, Debug)]
struct HeaderSpec {
    device: String,
    file: String,
}

impl FromStr for HeaderSpec {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            Some((device, file)) if !device.is_empty() && !file.is_empty() => {
                Ok(Self { device: device.to_owned(), file: file.to_owned() })
            }
            _ => Err("write DEV:FILE, as in /dev/sda2:header.img".to_owned()),
        }
    }
}

impl KeyArgs {
    /// Returns the keys that were given; with `ask`, the terminal is asked for others.
    pub(super) fn keys(&self, ask: bool) -> Result<Keys> {
        let mut keys = Keys::new();
        for spec in &self.keys {
            let selector = Selector::parse(&spec.device);
            let key = match &spec.source {
                KeySource::File(path) => read_file(path)?,
                KeySource::Env(name) => match std::env::var_os(name) {
                    Some(value) => Zeroizing::new(value.as_bytes().to_vec()),
                    None => return Err(Error::Usage(format!("--key: the variable {name} is not set").into())),
                },
            };
            // A text file ends with a line's end that is no part of the passphrase; a key file may end so by chance.
            let line = key.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            let line = line.map(|line| Zeroizing::new(line.to_vec()));
            let is_file = matches!(spec.source, KeySource::File(_));
            if let Some(line) = line.filter(|_| is_file) {
                keys.add(selector.clone(), line);
            }
            keys.add(selector, key);
        }
        for spec in &self.headers {
            let header = block::open(&spec.file, &OpenOptions::default())?.device;
            check_header(&header, &spec.file)?;
            keys.add_header(Selector::parse(&spec.device), header);
        }
        if ask {
            keys.set_prompt(Box::new(prompt));
        }
        Ok(keys)
    }
}

fn read_file(path: &str) -> Result<Secret> {
    let mut key = Zeroizing::new(Vec::with_capacity(4096));
    let read = if path == "-" {
        std::io::stdin().lock().take(MAX_KEY + 1).read_to_end(&mut key)
    } else {
        File::open(Path::new(path)).and_then(|file| file.take(MAX_KEY + 1).read_to_end(&mut key))
    };
    let place = if path == "-" { "standard input" } else { path };
    read.doing(|| format!("cannot read the key in {place}"))?;
    if key.len() as u64 > MAX_KEY {
        return Err(Error::Usage(format!("the key in {place} is longer than {} MiB", MAX_KEY >> 20).into()));
    }
    if key.is_empty() {
        return Err(Error::Usage(format!("the key in {place} is empty").into()));
    }
    Ok(key)
}

/// What a terminal sends for an interrupt.
const INTERRUPT: u8 = 3;

/// Asks for a key on the terminal, if there is one. What is typed is not shown.
fn prompt(which: &str) -> Result<Option<Secret>> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let Ok(before) = tcgetattr(stdin.as_fd()) else { return Ok(None) };
    let mut silent = before.clone();
    // An interrupt is read as a character that ends the line, so that the terminal is never left without its echo.
    silent.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
    silent.control_chars[SpecialCharacterIndices::VEOL as usize] = INTERRUPT;
    // Hidden before it is asked for: whoever types at once, or a program that does, is heard too.
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &silent).doing(|| "cannot hide what is typed")?;
    eprint!("Key for {which}: ");
    // A prompt that cannot be shown is answered blindly.
    let _ = std::io::stderr().flush();
    let mut key = Zeroizing::new(Vec::with_capacity(4096));
    let mut byte = Zeroizing::new([0; 1]);
    let result = loop {
        // Past the buffer of standard input, which nobody would wipe.
        match nix::unistd::read(stdin.as_fd(), byte.as_mut_slice()) {
            Ok(0) => break Ok(()),
            Ok(_) if byte[0] == b'\n' || byte[0] == INTERRUPT || key.len() == key.capacity() => break Ok(()),
            Ok(_) => key.push(byte[0]),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => break Err(error),
        }
    };
    let interrupted = byte[0] == INTERRUPT;
    tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &before).doing(|| "cannot set the terminal back")?;
    eprintln!();
    result.doing(|| "cannot read the key")?;
    if interrupted {
        return Err(Error::Usage("no key was given".into()));
    }
    Ok(Some(key).filter(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_an_argument() {
        let spec: KeySpec = "/dev/sda2:file:/etc/a:file:b".parse().expect("a file");
        assert!(matches!(spec.source, KeySource::File(path) if path == "/etc/a:file:b"));
        let spec: KeySpec = "all:env:SECRET".parse().expect("a variable");
        assert!(matches!(spec.source, KeySource::Env(name) if name == "SECRET"));
        for wrong in ["secret", "/dev/sda2:key:secret", "all:file:", ":env:X"] {
            let error = wrong.parse::<KeySpec>().expect_err("refused");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
