//! A line of the shell, taken apart into words.
//!
//! Words are apart by blanks. `'…'` keeps everything as it is; in `"…"`, and outside of quotes, a backslash takes the next
//! letter as it is, but `\n`, `\t` and `\xHH` in `"…"` are what they are in C. A word that begins with `#` begins a comment.
//! What follows `|` is a command of this host.

use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing.
    Nothing,
    /// A command of this host.
    Host(OsString),
    /// A command of the shell.
    Command {
        /// The script goes on when it fails.
        may_fail: bool,
        /// Its name and arguments.
        words: Vec<OsString>,
        /// A command of this host that reads what it prints.
        pipe: Option<OsString>,
    },
}

impl Line {
    /// Takes a line apart.
    ///
    /// # Errors
    /// [`Error::Usage`] for a quote that does not end.
    pub(super) fn parse(line: &OsStr) -> Result<Self> {
        let bytes = line.as_bytes().trim_ascii();
        if let Some(command) = bytes.strip_prefix(b"!") {
            return Ok(Self::Host(OsString::from_vec(command.trim_ascii().to_vec())));
        }
        let (may_fail, bytes) = match bytes.strip_prefix(b"-") {
            Some(rest) => (true, rest),
            None => (false, bytes),
        };
        let Split { words, pipe, open } = Split::new(bytes)?;
        if let Some(quote) = open {
            return Err(Error::Usage(format!("a quote {} is not closed", char::from(quote)).into()));
        }
        if words.is_empty() {
            return match pipe {
                Some(_) => Err(Error::Usage("there is no command before |".into())),
                None => Ok(Self::Nothing),
            };
        }
        Ok(Self::Command { may_fail, words, pipe })
    }
}

/// The words of a line, perhaps one that is still being typed.
pub(super) struct Split {
    pub(super) words: Vec<OsString>,
    pub(super) pipe: Option<OsString>,
    /// The quote that is open at the end.
    open: Option<u8>,
}

impl Split {
    /// # Errors
    /// [`Error::Usage`] for `\x` without two digits.
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        let mut words = Vec::new();
        let mut word: Option<Vec<u8>> = None;
        let mut quote = None;
        let mut rest = bytes.iter().copied();
        while let Some(byte) = rest.next() {
            match (quote, byte) {
                (Some(open), byte) if open == byte => quote = None,
                (Some(b'"') | None, b'\\') => {
                    let next = rest.next().unwrap_or(b'\\');
                    let meant = if quote.is_some() { escape(next, &mut rest)? } else { next };
                    word.get_or_insert_default().push(meant);
                }
                (Some(_), byte) => word.get_or_insert_default().push(byte),
                (None, b'"' | b'\'') => {
                    word.get_or_insert_default();
                    quote = Some(byte);
                }
                (None, b'|') => {
                    words.extend(word.take());
                    let command: Vec<u8> = rest.collect();
                    let pipe = Some(OsString::from_vec(command.trim_ascii().to_vec()));
                    return Ok(Self { words: words.into_iter().map(OsString::from_vec).collect(), pipe, open: None });
                }
                (None, b'#') if word.is_none() => break,
                (None, byte) if byte.is_ascii_whitespace() => words.extend(word.take()),
                (None, byte) => word.get_or_insert_default().push(byte),
            }
        }
        words.extend(word);
        Ok(Self { words: words.into_iter().map(OsString::from_vec).collect(), pipe: None, open: quote })
    }
}

fn escape(letter: u8, rest: &mut impl Iterator<Item = u8>) -> Result<u8> {
    Ok(match letter {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        b'0' => 0,
        b'x' => {
            let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
            match (digit(), digit()) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(Error::Usage("\\x needs two hexadecimal digits".into())),
            }
        }
        other => other,
    })
}

/// Returns a word as it is typed: what has a meaning of its own gets a backslash.
pub(super) fn quoted(word: &str) -> String {
    let mut text = String::new();
    for letter in word.chars() {
        if letter.is_whitespace() || "\\\"'|#".contains(letter) {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        match Line::parse(OsStr::new(line)).expect(line) {
            Line::Command { words, .. } => words.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn quotes_and_backslashes_keep_blanks() {
        assert_eq!(words(r"  ls  /a\ b "), ["ls", "/a b"]);
        assert_eq!(words(r#"write /f "one\ntwo\x21" # a comment"#), ["write", "/f", "one\ntwo!"]);
        assert_eq!(words(r#"echo 'a\n"b' "" c#d"#), ["echo", "a\\n\"b", "", "c#d"]);
    }

    #[test]
    fn a_pipe_a_host_command_and_a_minus_are_told_apart() {
        let line = Line::parse(OsStr::new("-cat /etc/fstab | grep -v '#' | head")).expect("parses");
        let Line::Command { may_fail: true, words, pipe: Some(pipe) } = line else { panic!("{line:?}") };
        assert_eq!((words.len(), pipe.as_os_str()), (2, OsStr::new("grep -v '#' | head")));
        assert_eq!(Line::parse(OsStr::new("!ls -l")).expect("parses"), Line::Host("ls -l".into()));
        for nothing in ["", "   ", "# a comment"] {
            assert_eq!(Line::parse(OsStr::new(nothing)).expect("parses"), Line::Nothing);
        }
        for wrong in ["cat 'x", "cat \"x", "| wc", r#"write /f "\xg0""#] {
            Line::parse(OsStr::new(wrong)).expect_err(wrong);
        }
    }

    #[test]
    fn what_is_quoted_is_read_back() {
        for name in ["a b", "it's", "a|b", "#x", "tab\there", "back\\slash"] {
            assert_eq!(words(&format!("ls {}", quoted(name))), ["ls", name]);
        }
    }
}
