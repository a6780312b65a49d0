//! Looking into files: lines that match, texts, kinds of contents, and names by patterns.

use super::files::text;
use super::{Guestfs, glob};
use crate::error::{Error, ErrorContext, Result};
use crate::fs::FileType;
use crate::tree::{Node, Tree};
use regex::bytes::Regex;
use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 18;

/// The longest line that is looked at as one, in bytes. What is longer is cut.
const LONGEST_LINE: usize = 16 << 20;

/// The shortest text that [`Guestfs::strings`] finds, in bytes.
const SHORTEST_STRING: usize = 4;

/// The most names that a pattern may stand for.
const MAX_EXPANDED: usize = 1 << 20;

/// What is done with each line, by its number and bytes.
type TakeLine<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<ControlFlow<()>>;

/// Gives the lines of a file to `take`, without their line feeds, with their numbers from 1.
///
/// # Errors
/// Those of reading, and those of `take`.
pub(crate) fn lines(tree: &Tree, node: Node, take: TakeLine<'_>) -> Result<()> {
    let mut kept: Vec<u8> = Vec::new();
    let mut buffer = vec![0; PIECE];
    let (mut offset, mut number) = (0, 0);
    loop {
        let count = tree.read(node, offset, &mut buffer)?;
        if count == 0 {
            if !kept.is_empty() {
                // The last line may lack its line feed; nothing comes after it.
                let _ = take(number + 1, &kept)?;
            }
            return Ok(());
        }
        offset += count as u64;
        let mut rest = &buffer[..count];
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            number += 1;
            let flow = if kept.is_empty() {
                take(number, &rest[..end])?
            } else {
                kept.extend_from_slice(&rest[..end]);
                take(number, &kept)?
            };
            kept.clear();
            if flow.is_break() {
                return Ok(());
            }
            rest = &rest[end + 1..];
        }
        kept.extend_from_slice(rest);
        if kept.len() > LONGEST_LINE {
            number += 1;
            if take(number, &kept)?.is_break() {
                return Ok(());
            }
            kept.clear();
        }
    }
}

impl Guestfs {
    /// Returns the lines of a file that a regular expression matches, bytes that are no UTF-8 replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] for an expression that is none, `ENOENT`, `EISDIR`, and those of reading.
    pub fn grep(&self, expression: &str, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let expression = Regex::new(expression).map_err(|error| Error::Usage(format!("{error}").into()))?;
        let path = path.as_ref();
        let (tree, node) = self.regular_file(path)?;
        let mut found = Vec::new();
        let mut take = |_, line: &[u8]| {
            if expression.is_match(line) {
                found.push(text(line));
            }
            Ok(ControlFlow::Continue(()))
        };
        lines(tree, node, &mut take).at(|| path.display().to_string())?;
        Ok(found)
    }

    /// Returns the texts in a file: what is at least four printable bytes of ASCII long.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, and those of reading.
    pub fn strings(&self, path: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let (tree, node) = self.regular_file(path)?;
        let (mut found, mut here) = (Vec::new(), String::new());
        let mut buffer = vec![0; PIECE];
        let mut offset = 0;
        loop {
            let count = tree.read(node, offset, &mut buffer).at(|| path.display().to_string())?;
            for &byte in &buffer[..count] {
                if matches!(byte, b' '..=b'~' | b'\t') {
                    here.push(char::from(byte));
                } else if here.len() >= SHORTEST_STRING {
                    found.push(std::mem::take(&mut here));
                } else {
                    here.clear();
                }
            }
            if count == 0 {
                if here.len() >= SHORTEST_STRING {
                    found.push(here);
                }
                return Ok(found);
            }
            offset += count as u64;
        }
    }

    /// Returns the paths that a pattern of glob(7) stands for, sorted; a name that begins with a dot only where the
    /// pattern's does. Bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// [`Error::Usage`] for a pattern that is not absolute or stands for more than a million names, those of reading.
    pub fn glob_expand(&self, pattern: impl AsRef<OsStr>) -> Result<Vec<String>> {
        let pattern = pattern.as_ref();
        if !pattern.as_bytes().starts_with(b"/") {
            return Err(Error::Usage(format!("the pattern {} is not absolute", pattern.display()).into()));
        }
        let mut found: Vec<Vec<u8>> = vec![Vec::new()];
        for part in pattern.as_bytes().split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for folder in &found {
                self.expand(folder, part, &mut next)?;
                if next.len() > MAX_EXPANDED {
                    return Err(Error::Usage(format!("{} stands for too many names", pattern.display()).into()));
                }
            }
            found = next;
        }
        found.sort();
        Ok(found.iter().map(|path| if path.is_empty() { String::from("/") } else { text(path) }).collect())
    }

    fn expand(&self, folder: &[u8], part: &[u8], found: &mut Vec<Vec<u8>>) -> Result<()> {
        let whole = |name: &[u8]| [folder, b"/", name].concat();
        if !glob::is_pattern(part) {
            let path = whole(part);
            if self.is_there(OsStr::from_bytes(&path))? {
                found.push(path);
            }
            return Ok(());
        }
        let here: &[u8] = if folder.is_empty() { b"/" } else { folder };
        let entries = match self.readdir(OsStr::from_bytes(here)) {
            Ok(entries) => entries,
            Err(error) if error.is_errno(libc::ENOTDIR) || error.is_errno(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let hidden = entry.name.starts_with(b".") && !part.starts_with(b".");
            if !hidden && glob::matches(part, &entry.name) {
                found.push(whole(&entry.name));
            }
        }
        Ok(())
    }

    /// Says what the contents of a file look like, or what else it is: `ASCII text`, `gzip`, `ELF 64-bit`, `directory`.
    ///
    /// # Errors
    /// `ENOENT`, and those of reading.
    pub fn file_type(&self, path: impl AsRef<OsStr>) -> Result<String> {
        let path = path.as_ref();
        let (tree, found) = self.find_path(path, true)?;
        let special = match found.attr.file_type {
            FileType::Regular => None,
            FileType::Directory => Some("directory"),
            FileType::Symlink => Some("symbolic link"),
            FileType::CharDevice => Some("character special"),
            FileType::BlockDevice => Some("block special"),
            FileType::Fifo => Some("fifo (named pipe)"),
            FileType::Socket => Some("socket"),
        };
        if let Some(special) = special {
            return Ok(special.to_owned());
        }
        let mut head = vec![0; 4096];
        let count = tree.read(found.node, 0, &mut head).at(|| path.display().to_string())?;
        Ok(contents_type(&head[..count]).to_owned())
    }

    fn regular_file(&self, path: &OsStr) -> Result<(&Tree, Node)> {
        let (tree, found) = self.find_path(path, true)?;
        found.attr.file_type.check_regular().at(|| path.display().to_string())?;
        Ok((tree, found.node))
    }
}

/// What files of a kind begin with: where, and the bytes.
const MAGIC: &[(usize, &[u8], &str)] = &[
    (0, b"\x7fELF\x02", "ELF 64-bit"),
    (0, b"\x7fELF\x01", "ELF 32-bit"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (0, b"\x04\x22\x4d\x18", "lz4"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7-zip"),
    (257, b"ustar", "tar archive"),
    (0, b"070701", "cpio archive"),
    (0, b"!<arch>\n", "ar archive"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG image"),
    (0, b"\xff\xd8\xff", "JPEG image"),
    (0, b"GIF8", "GIF image"),
    (0, b"%PDF-", "PDF document"),
    (0, b"SQLite format 3\0", "SQLite database"),
    (0, b"QFI\xfb", "QEMU qcow image"),
    (0, b"regf", "Windows registry hive"),
    (0, b"\xed\xab\xee\xdb", "RPM package"),
    (0, b"MZ", "DOS or Windows executable"),
    (0, b"#!", "script"),
];

fn contents_type(head: &[u8]) -> &'static str {
    if head.is_empty() {
        return "empty";
    }
    let known = MAGIC.iter().find(|(offset, magic, _)| head.get(*offset..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, kind)) = known {
        return kind;
    }
    let control = |byte: &u8| matches!(byte, 0..=6 | 14..=26 | 28..=31 | 127);
    match (head.iter().any(control), std::str::from_utf8(head)) {
        (true, _) => "data",
        (false, Ok(_)) if head.is_ascii() => "ASCII text",
        // A character may be cut by the end of what was read.
        (false, Ok(_)) => "UTF-8 text",
        (false, Err(error)) if error.error_len().is_none() => "UTF-8 text",
        (false, Err(_)) => "ISO-8859 text",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_told_by_what_they_begin_with() {
        for (head, kind) in [
            (&b""[..], "empty"),
            (b"hello\n", "ASCII text"),
            ("h\u{e9}llo".as_bytes(), "UTF-8 text"),
            (b"h\xe9llo", "ISO-8859 text"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x7fELF\x02\x01", "ELF 64-bit"),
            (b"\0\0", "data"),
        ] {
            assert_eq!(contents_type(head), kind);
        }
    }
}
