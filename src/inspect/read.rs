//! Bounded reading of a guest's files.
//!
//! A guest is hostile: whatever is read here is at most as long as the caller allows, only regular files are read (never
//! a pipe, a device or a socket), and what could not be read becomes a warning, so that the rest is still told.
//! Symbolic links are resolved by the tree, inside the guest.

use crate::error::{Error, Result};
use crate::fs::{Attr, FileType};
use crate::tree::{Found, Node, Tree};
use lru::LruCache;
use std::cell::{Cell, RefCell};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::rc::Rc;

/// The most that is read of a configuration file, in bytes.
pub(super) const SMALL: u64 = 1 << 20;

/// The most that is read of a package database that is text, in bytes.
pub(super) const DATABASE: u64 = 64 << 20;

/// The most names of a folder that are looked at.
const MAX_NAMES: usize = 1 << 16;

/// The most warnings that are kept; a guest that is broken everywhere needs no longer list.
const MAX_WARNINGS: usize = 256;

/// The most that is read of whole files, in bytes: many files of a hostile guest must not add up to a long time.
const MAX_TOTAL: u64 = 512 << 20;

/// A tree that is being looked at, with what could not be read of it.
pub(super) struct Guest<'a> {
    tree: &'a Tree,
    warnings: RefCell<Vec<String>>,
    /// How much may still be read.
    left: Cell<u64>,
}

impl<'a> Guest<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, warnings: RefCell::new(Vec::new()), left: Cell::new(MAX_TOTAL) }
    }

    pub(super) fn tree(&self) -> &'a Tree {
        self.tree
    }

    /// Keeps a line about something that could not be read.
    pub(super) fn warn(&self, warning: impl Into<String>) {
        let mut warnings = self.warnings.borrow_mut();
        let warning = warning.into();
        if warnings.len() < MAX_WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Keeps a line about a file that could not be read.
    pub(super) fn warn_of(&self, path: impl AsRef<[u8]>, error: &Error) {
        self.warn(format!("{}: {error}", tidy(path.as_ref())));
    }

    pub(super) fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }

    fn resolve(&self, path: &[u8], follow: bool) -> Option<Found> {
        match self.tree.resolve(path, follow) {
            Ok(found) => Some(found),
            Err(error) => {
                if !error.is_errno(libc::ENOENT) && !error.is_errno(libc::ENOTDIR) {
                    self.warn_of(path, &error);
                }
                None
            }
        }
    }

    /// Finds what a path names, through symbolic links.
    pub(super) fn found(&self, path: impl AsRef<[u8]>) -> Option<Found> {
        self.resolve(path.as_ref(), true)
    }

    /// Says whether a path names anything, be it a symbolic link that leads nowhere.
    pub(super) fn has(&self, path: impl AsRef<[u8]>) -> bool {
        self.resolve(path.as_ref(), false).is_some()
    }

    pub(super) fn is_dir(&self, path: impl AsRef<[u8]>) -> bool {
        self.found(path).is_some_and(|found| found.attr.is_dir())
    }

    pub(super) fn is_file(&self, path: impl AsRef<[u8]>) -> bool {
        self.found(path).is_some_and(|found| found.attr.file_type == FileType::Regular)
    }

    /// Returns the text of a path that is itself a symbolic link.
    pub(super) fn link(&self, path: impl AsRef<[u8]>) -> Option<Vec<u8>> {
        let found = self.resolve(path.as_ref(), false)?;
        if found.attr.file_type != FileType::Symlink {
            return None;
        }
        self.tree.read_link(found.node).map_err(|error| self.warn_of(path, &error)).ok()
    }

    /// Finds a regular file. Anything else that is no folder is said and not opened.
    pub(super) fn file(&self, path: impl AsRef<[u8]>) -> Option<(Node, Attr)> {
        let found = self.found(path.as_ref())?;
        match found.attr.file_type {
            FileType::Regular => Some((found.node, found.attr)),
            FileType::Directory => None,
            other => {
                self.warn(format!("{}: not opened, it is a {}", tidy(path.as_ref()), kind_name(other)));
                None
            }
        }
    }

    /// Reads a regular file, at most `cap` bytes of it.
    pub(super) fn read(&self, path: impl AsRef<[u8]>, cap: u64) -> Option<Vec<u8>> {
        let path = path.as_ref();
        let (node, attr) = self.file(path)?;
        if attr.size > cap {
            self.warn(format!("{}: {} bytes long, only the first {cap} are read", tidy(path), attr.size));
        }
        let Some(left) = self.left.get().checked_sub(attr.size.min(cap)) else {
            self.warn("the files of this guest are too long, not all of them are read");
            return None;
        };
        self.left.set(left);
        match read_range(self.tree, node, 0, attr.size.min(cap)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.warn_of(path, &error);
                None
            }
        }
    }

    /// Reads the last `cap` bytes of a regular file, a multiple of `unit` from its beginning.
    pub(super) fn tail(&self, path: impl AsRef<[u8]>, cap: u64, unit: u64) -> Option<Vec<u8>> {
        let (node, attr) = self.file(path.as_ref())?;
        let start = attr.size.saturating_sub(cap).div_ceil(unit) * unit;
        let wanted = attr.size.saturating_sub(start).min(cap);
        read_range(self.tree, node, start, wanted).map_err(|error| self.warn_of(path, &error)).ok()
    }

    /// Reads a small text file. Bytes that are no UTF-8 and control characters become U+FFFD, carriage returns go.
    pub(super) fn text(&self, path: impl AsRef<[u8]>) -> Option<String> {
        self.read(path, SMALL).map(|bytes| clean(&bytes))
    }

    /// Returns the first line of a small text file, without white space around it; none where it is empty.
    pub(super) fn first_line(&self, path: impl AsRef<[u8]>) -> Option<String> {
        let text = self.text(path)?;
        let line = shorten(text.lines().next()?.trim());
        (!line.is_empty()).then(|| line.to_owned())
    }

    /// Returns the names in a folder, sorted; none where there is no such folder.
    pub(super) fn list(&self, path: impl AsRef<[u8]>) -> Vec<Vec<u8>> {
        let path = path.as_ref();
        let mut names = Vec::new();
        let Some(found) = self.found(path).filter(|found| found.attr.is_dir()) else { return names };
        let mut cut = false;
        let read = self.tree.read_dir(found.node, 0, &mut |_, entry| {
            if names.len() == MAX_NAMES {
                cut = true;
                return ControlFlow::Break(());
            }
            names.push(entry.name.to_vec());
            ControlFlow::Continue(())
        });
        if let Err(error) = read {
            self.warn_of(path, &error);
        }
        if cut {
            self.warn(format!("{}: more than {MAX_NAMES} files, the others are not looked at", tidy(path)));
        }
        names.sort_unstable();
        names
    }

    /// Returns the paths of the files in a folder whose names end so, sorted by name.
    pub(super) fn list_ending(&self, folder: &str, ending: &str) -> Vec<Vec<u8>> {
        let names = self.list(folder).into_iter().filter(|name| name.ends_with(ending.as_bytes()));
        names.map(|name| join(folder, &name)).collect()
    }

    /// Opens a regular file for reading here and there.
    pub(super) fn chunks(&self, path: impl AsRef<[u8]>) -> Option<Chunks<'a>> {
        let (node, attr) = self.file(path)?;
        Some(Chunks::new(self.tree, node, attr.size))
    }
}

fn kind_name(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "folder",
        FileType::Symlink => "symbolic link",
        FileType::CharDevice | FileType::BlockDevice => "device",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
    }
}

/// Reads `len` bytes of a regular file, or as many as there are.
fn read_range(tree: &Tree, node: Node, start: u64, len: u64) -> Result<Vec<u8>> {
    const STEP: usize = 4 << 20;
    let len = usize::try_from(len).map_err(|_| Error::Errno(libc::EFBIG))?;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let old = bytes.len();
        bytes.resize(old + (len - old).min(STEP), 0);
        let read = tree.read(node, start + old as u64, &mut bytes[old..])?;
        if read < bytes.len() - old {
            bytes.truncate(old + read);
            break;
        }
    }
    Ok(bytes)
}

/// Joins a folder's path and a name.
pub(super) fn join(folder: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> Vec<u8> {
    [folder.as_ref(), b"/", name.as_ref()].concat()
}

/// Returns bytes as text of lines; what is no UTF-8 and control characters become U+FFFD, carriage returns go.
pub(super) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    if !text.chars().any(|letter| letter.is_control() && letter != '\n' && letter != '\t') {
        return text.into_owned();
    }
    let letters = text.chars().filter(|&letter| letter != '\r');
    letters
        .map(|letter| if letter.is_control() && letter != '\n' && letter != '\t' { '\u{fffd}' } else { letter })
        .collect()
}

/// Returns bytes as one piece of text, without white space around it and not too long.
pub(super) fn tidy(bytes: &[u8]) -> String {
    let bytes = bytes.trim_ascii();
    let bytes = &bytes[..bytes.len().min(MAX_FIELD + 4)];
    if bytes.len() <= MAX_FIELD
        && let Ok(text) = std::str::from_utf8(bytes)
        && !text.chars().any(char::is_control)
    {
        return text.to_owned();
    }
    let text = clean(bytes).replace('\n', "\u{fffd}");
    shorten(&text).to_owned()
}

/// The longest single value that is kept, in bytes.
const MAX_FIELD: usize = 4096;

/// Cuts a value off where it is too long.
pub(super) fn shorten(text: &str) -> &str {
    if text.len() <= MAX_FIELD {
        return text;
    }
    let end = (0..=MAX_FIELD).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// Returns the lines that are neither empty nor comments of `#`, without white space around them.
pub(super) fn plain_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Takes quotes off a value, and the backslashes that a shell would.
pub(super) fn unquote(value: &str) -> String {
    let value = shorten(value.trim());
    let mut out = String::with_capacity(value.len());
    let mut letters = value.chars();
    let mut quote = None;
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('\\', None | Some('"')) => out.extend(letters.next()),
            (' ' | '\t', None) => break,
            (letter, _) => out.push(letter),
        }
    }
    out
}

/// The variables of a file of `NAME=value` lines as shells read it.
#[derive(Debug, Default)]
pub(super) struct Variables(Vec<(String, String)>);

impl Variables {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = plain_lines(text).filter_map(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), unquote(value)))
        });
        Self(pairs.collect())
    }

    /// Returns the value that a name has at the end, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A file of `[section]` lines with `key=value` lines below each: systemd units, NetworkManager, `.treeinfo`.
#[derive(Debug, Default)]
pub(super) struct Ini(Vec<(String, Vec<(String, String)>)>);

impl Ini {
    pub(super) fn parse(text: &str) -> Self {
        let mut sections: Vec<(String, Vec<(String, String)>)> = Vec::new();
        for line in plain_lines(text).filter(|line| !line.starts_with(';')) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                sections.push((name.to_owned(), Vec::new()));
            } else if let (Some((_, pairs)), Some((key, value))) = (sections.last_mut(), line.split_once('=')) {
                pairs.push((key.trim().to_owned(), shorten(value.trim()).to_owned()));
            }
        }
        Self(sections)
    }

    /// Returns the sections of a name, each with its pairs.
    pub(super) fn sections<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [(String, String)]> {
        self.0.iter().filter(move |(section, _)| section == name).map(|(_, pairs)| pairs.as_slice())
    }

    /// Returns all values of a key in the sections of a name, in order.
    pub(super) fn all<'s>(&'s self, section: &'s str, key: &'s str) -> impl Iterator<Item = &'s str> {
        let pairs = self.sections(section).flatten();
        pairs.filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the last value of a key, unless it is empty.
    pub(super) fn get<'s>(&'s self, section: &'s str, key: &'s str) -> Option<&'s str> {
        self.all(section, key).last().filter(|value| !value.is_empty())
    }
}

/// How much of a file [`Chunks`] reads at once, in bytes.
const CHUNK: u64 = 64 << 10;

/// How many chunks are kept: 8 MiB.
const CHUNKS_KEPT: NonZeroUsize = NonZeroUsize::new(128).expect("not zero");

/// A regular file that is read here and there: a database, a registry hive. Little of it is kept in memory.
pub(super) struct Chunks<'a> {
    tree: &'a Tree,
    node: Node,
    size: u64,
    kept: RefCell<LruCache<u64, Rc<[u8]>>>,
}

impl<'a> Chunks<'a> {
    fn new(tree: &'a Tree, node: Node, size: u64) -> Self {
        Self { tree, node, size, kept: RefCell::new(LruCache::new(CHUNKS_KEPT)) }
    }

    /// Returns the size of the file, in bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn chunk(&self, number: u64) -> Result<Rc<[u8]>> {
        if let Some(chunk) = self.kept.borrow_mut().get(&number) {
            return Ok(chunk.clone());
        }
        let start = number * CHUNK;
        let bytes = read_range(self.tree, self.node, start, CHUNK.min(self.size.saturating_sub(start)))?;
        let chunk: Rc<[u8]> = bytes.into();
        self.kept.borrow_mut().put(number, chunk.clone());
        Ok(chunk)
    }

    /// Fills a buffer from an offset.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the file ends before, and those of the driver.
    pub(super) fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let chunk = self.chunk(offset / CHUNK)?;
            let within = (offset % CHUNK) as usize;
            let bytes = chunk.get(within..).filter(|bytes| !bytes.is_empty());
            let bytes = bytes.ok_or_else(|| Error::corrupt("database", format!("it ends before byte {offset}")))?;
            let step = bytes.len().min(buf.len());
            buf[..step].copy_from_slice(&bytes[..step]);
            buf = &mut buf[step..];
            offset += step as u64;
        }
        Ok(())
    }

    /// Returns `len` bytes from an offset; `len` is checked against the file before anything is allocated.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    pub(super) fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.size) {
            return Err(Error::corrupt("database", format!("{len} bytes at {offset} lie beyond its end")));
        }
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn only_regular_files_are_read_and_only_so_much_of_them() {
        let tree = Fixture::new()
            .file("etc/long", "x".repeat(3 << 20))
            .fifo("etc/pipe")
            .link("etc/round", "round")
            .link("etc/out", "/../../../etc/long")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(guest.text("/etc/long").expect("read").len(), 1 << 20);
        assert_eq!(guest.text("/etc/out").expect("inside").len(), 1 << 20);
        assert_eq!(guest.text("/etc/pipe"), None);
        assert_eq!(guest.text("/etc/round"), None);
        assert_eq!(guest.text("/etc/none"), None);
        let warnings = guest.into_warnings();
        assert_eq!(warnings.len(), 4, "{warnings:?}");
        assert_eq!(warnings[2], "/etc/pipe: not opened, it is a pipe");
    }

    #[test]
    fn values_lose_their_quotes_as_in_a_shell() {
        let variables = Variables::parse("# c\nA=\"b \\\"c\\\" 'd'\"\nexport B='x y' # z\nC=plain # w\nA2=\n");
        assert_eq!(variables.get("A"), Some("b \"c\" 'd'"));
        assert_eq!(variables.get("B"), Some("x y"));
        assert_eq!(variables.get("C"), Some("plain"));
        assert_eq!(variables.get("A2"), None);
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(tidy(b" a\x1b[2Jb\xff\n"), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!(clean(b"one\r\ntwo\x07\n"), "one\ntwo\u{fffd}\n");
        assert!(tidy(&[b'x'; 10_000]).len() <= MAX_FIELD);
    }

    #[test]
    fn a_file_is_read_across_its_chunks() {
        let bytes: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
        let tree = Fixture::new().file("db", bytes.clone()).tree();
        let guest = Guest::new(&tree);
        let chunks = guest.chunks("db").expect("a file");
        assert_eq!(chunks.bytes(65_000, 70_000).expect("inside"), bytes[65_000..135_000]);
        chunks.bytes(199_999, 2).expect_err("past the end");
        chunks.bytes(u64::MAX, 2).expect_err("past the end");
    }
}
