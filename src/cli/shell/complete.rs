//! Completion of commands, of paths of the guest and of this host, and of devices.

use super::session::Session;
use super::table::{self, Kind};
use super::words::{Split, quoted};
use crate::fs::FileType;
use rustyline::completion::{Completer, Pair};
use rustyline::{Context, Helper};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::rc::Rc;

/// The most candidates that are shown.
const MAX_SHOWN: usize = 1000;

/// What rustyline asks.
pub(super) struct Assistant {
    pub(super) session: Rc<RefCell<Session>>,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        // The session is free while a line is typed.
        let Ok(session) = self.session.try_borrow() else { return Ok((pos, Vec::new())) };
        Ok(complete(&session, &line[..pos]))
    }
}

impl rustyline::hint::Hinter for Assistant {
    type Hint = String;
}

impl rustyline::highlight::Highlighter for Assistant {}
impl rustyline::validate::Validator for Assistant {}
impl Helper for Assistant {}

/// Returns where the word begins that is being typed, and what it may become.
pub(super) fn complete(session: &Session, line: &str) -> (usize, Vec<Pair>) {
    let start = word_start(line);
    let Ok(Split { words, pipe: None, .. }) = Split::new(line[..start].trim_start_matches('-').as_bytes()) else {
        return (start, Vec::new());
    };
    let typed = match Split::new(&line.as_bytes()[start..]) {
        Ok(split) => split.words.first().map_or_else(String::new, |word| word.to_string_lossy().into_owned()),
        Err(_) => return (start, Vec::new()),
    };
    // What stands before another command is passed over.
    let mut words = words.as_slice();
    while let Some((first, rest)) = words.split_first() {
        if !(rest.is_empty() && start == 0) && (first == "glob" || first == "time") { words = rest } else { break }
    }
    let kind = match words.split_first() {
        None => Some(Kind::Command),
        Some((name, before)) => {
            // A further argument is taken to follow, so that several paths stay paths.
            name.to_str().and_then(table::find).and_then(|command| command.kind(before.len(), before.len() + 1))
        }
    };
    let mut found = match kind {
        Some(Kind::Command) => with_prefix(table::all().map(|command| command.name.to_owned()), &typed),
        Some(Kind::Word(list)) => with_prefix(list.iter().map(|word| (*word).to_owned()), &typed),
        Some(Kind::Device) => devices(session, &typed),
        Some(Kind::Path) => paths(session, &typed),
        Some(Kind::Local) => local(&typed),
        Some(Kind::Text) | None => Vec::new(),
    };
    found.truncate(MAX_SHOWN);
    (start, found)
}

/// Returns where the last word of a line begins, as it is typed.
fn word_start(line: &str) -> usize {
    let (mut start, mut quote, mut escaped) = (0, None, false);
    for (place, letter) in line.char_indices() {
        match (quote, letter) {
            _ if escaped => escaped = false,
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, letter) if letter.is_whitespace() => start = place + letter.len_utf8(),
            (None, '-') if place == 0 => start = 1,
            _ => {}
        }
    }
    start
}

fn with_prefix(all: impl Iterator<Item = String>, typed: &str) -> Vec<Pair> {
    let mut names: Vec<String> = all.filter(|name| name.starts_with(typed)).collect();
    names.sort();
    names.into_iter().map(|name| Pair { display: name.clone(), replacement: name + " " }).collect()
}

fn devices(session: &Session, typed: &str) -> Vec<Pair> {
    let mut names = session.guest.list_devices().unwrap_or_default();
    names.extend(session.guest.list_filesystems().unwrap_or_default().into_iter().map(|(device, _)| device));
    names.sort();
    names.dedup();
    with_prefix(names.into_iter(), typed)
}

/// Splits what is typed into the folder and the beginning of a name.
fn split(typed: &str) -> (&str, &str) {
    typed.rfind('/').map_or(("", typed), |slash| typed.split_at(slash + 1))
}

fn pair(folder: &str, name: &str, is_folder: bool) -> Pair {
    let end = if is_folder { "/" } else { " " };
    Pair {
        display: format!("{name}{}", end.trim_end()),
        replacement: format!("{}{end}", quoted(&format!("{folder}{name}"))),
    }
}

fn paths(session: &Session, typed: &str) -> Vec<Pair> {
    let (folder, begin) = split(typed);
    let path = session.absolute(OsStr::new(if folder.is_empty() { "." } else { folder }));
    let mut entries = session.guest.readdir(path).unwrap_or_default();
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    // A name that is no UTF-8 cannot be typed.
    let names = entries.iter().filter_map(|entry| Some((std::str::from_utf8(&entry.name).ok()?, entry.file_type)));
    names
        .filter(|(name, _)| name.starts_with(begin) && (begin.starts_with('.') || !name.starts_with('.')))
        .map(|(name, file_type)| pair(folder, name, file_type == FileType::Directory))
        .collect()
}

fn local(typed: &str) -> Vec<Pair> {
    let (folder, begin) = split(typed);
    let Ok(entries) = std::fs::read_dir(if folder.is_empty() { "." } else { folder }) else { return Vec::new() };
    let mut found: Vec<(String, bool)> = entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path().is_dir())))
        .filter(|(name, _)| name.starts_with(begin) && (begin.starts_with('.') || !name.starts_with('.')))
        .collect();
    found.sort();
    found.into_iter().map(|(name, is_folder)| pair(folder, &name, is_folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_is_typed_begins_after_the_last_blank_outside_of_quotes() {
        for (line, start) in
            [("", 0), ("ca", 0), ("cat ", 4), ("cat /a\\ b", 4), ("cat '/a b", 4), ("-ca", 1), ("cat /x /y", 7)]
        {
            assert_eq!(word_start(line), start, "{line}");
        }
    }
}
