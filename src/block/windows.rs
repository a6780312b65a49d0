//! Paths of Windows, as images name other files by them.

use std::ffi::OsString;

/// Returns a path with slashes, of its UTF-16 code units up to the first that is zero.
pub(super) fn path_of(units: impl Iterator<Item = u16>) -> String {
    let units = units.take_while(|&unit| unit != 0);
    let text: String = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.replace('\\', "/")
}

/// Returns paths as names of files here, the first of those that are the same.
pub(super) fn names_of(paths: impl IntoIterator<Item = String>) -> Vec<OsString> {
    let mut names: Vec<OsString> = Vec::new();
    for path in paths {
        let name = OsString::from(path.trim_start_matches("./"));
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Returns the file's name of a path with slashes.
pub(super) fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}
