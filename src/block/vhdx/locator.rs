//! The parent locator of a VHDX file: which disk it differs from, and where that may be.

use super::corrupt;
use crate::block::windows::{file_name, names_of, path_of};
use crate::bytes::{guid, le16, le32};
use crate::error::{Error, Result};
use std::ffi::OsString;

const HEADER: usize = 20;
const ENTRY: usize = 12;
/// The type of a locator that names another VHDX file.
const VHDX_LOCATOR: &str = "b04aefb7-d19e-4a81-b789-25b8e9445913";
/// More keys than the format has.
const MAX_KEYS: usize = 64;

/// The disk that another one differs from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::block) struct Parent {
    /// The GUIDs that what it holds may have, as text.
    linkage: Vec<String>,
    /// Names that its file may have, the likeliest first. Folders are divided by slashes.
    pub names: Vec<OsString>,
}

impl Parent {
    /// Reads a locator.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Unsupported`] for a parent that is no VHDX file.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        const STRUCTURE: &str = "VHDX parent locator";
        let kind = guid(bytes[..16].try_into().expect("16 bytes"));
        if kind != VHDX_LOCATOR {
            return Err(Error::unsupported(format!("a VHDX whose parent is of the type {kind}")));
        }
        let count = usize::from(le16(bytes, 18));
        if count > MAX_KEYS || HEADER + count * ENTRY > bytes.len() {
            return Err(corrupt(STRUCTURE, format!("{count} keys")));
        }
        let (mut linkage, mut relative, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for entry in bytes[HEADER..].chunks_exact(ENTRY).take(count) {
            let text = |at: usize, len: usize| {
                let (start, len) = (le32(entry, at) as usize, usize::from(le16(entry, len)));
                let range = start..start.saturating_add(len);
                let bytes =
                    bytes.get(range).ok_or_else(|| corrupt(STRUCTURE, "a key or a value lies outside of it"))?;
                Ok::<_, Error>(bytes.chunks_exact(2).map(|unit| le16(unit, 0)).collect::<Vec<u16>>())
            };
            let (key, value) = (path_of(text(0, 8)?.into_iter()), path_of(text(4, 10)?.into_iter()));
            match key.as_str() {
                "parent_linkage" | "parent_linkage2" => {
                    linkage.push(value.trim_matches(['{', '}']).to_ascii_lowercase());
                }
                "relative_path" => relative.push(value),
                // A path of another host says nothing but the file's name here.
                "volume_path" | "absolute_win32_path" => others.push(file_name(&value)),
                _ => {}
            }
        }
        if linkage.is_empty() {
            return Err(corrupt(STRUCTURE, "it does not tell the parent's GUID"));
        }
        // A file that was moved together with its parent has it beside itself.
        let beside: Vec<String> = relative.iter().map(|path| file_name(path)).collect();
        let names = names_of(relative.into_iter().chain(beside).chain(others));
        if names.is_empty() {
            return Err(corrupt(STRUCTURE, "it does not name the parent"));
        }
        Ok(Self { linkage, names })
    }

    /// Says whether this means a disk whose contents have this GUID.
    pub fn is(&self, id: &[u8; 16]) -> bool {
        self.linkage.contains(&guid(id))
    }
}
