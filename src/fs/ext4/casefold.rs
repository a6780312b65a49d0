//! Case-insensitive directories: names that differ only in case or in how accents are written are the same.
//!
//! Names are compared in the form that the kernel's `fs/unicode` gives them: decomposed (NFD), case-folded, without code
//! points that are ignorable by default. The kernel's tables are of Unicode 12.1; this module's are newer, which shows
//! only for characters that had not been assigned then.

use super::superblock::{ENCODING_STRICT, Superblock};
use caseless::Caseless;
use unicode_normalization::UnicodeNormalization;

/// `s_encoding`: UTF-8 by Unicode 12.1.
pub(crate) const UTF8_12_1: u16 = 1;

/// Code points that are ignorable by default (`Default_Ignorable_Code_Point`).
const IGNORABLE: &[(u32, u32)] = &[
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180e),
    (0x200b, 0x200f),
    (0x202a, 0x202e),
    (0x2060, 0x206f),
    (0x3164, 0x3164),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfff8),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
];

fn is_ignorable(character: char) -> bool {
    let code = u32::from(character);
    IGNORABLE.iter().any(|&(first, last)| (first..=last).contains(&code))
}

/// Returns the form in which a name is compared and hashed; `None` for one that is not UTF-8, which stands for itself.
pub(crate) fn fold(name: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(name).ok()?;
    if text.is_ascii() {
        return Some(text.to_ascii_lowercase().into_bytes());
    }
    let folded: String =
        text.chars().nfd().default_case_fold().nfd().filter(|&character| !is_ignorable(character)).collect();
    Some(folded.into_bytes())
}

/// Says whether names that are not valid in the encoding are refused.
pub(crate) fn is_strict(superblock: &Superblock) -> bool {
    superblock.encoding_flags & ENCODING_STRICT != 0
}

/// A name to look for, in the form in which it is compared.
pub(crate) struct Folded<'a> {
    name: &'a [u8],
    folded: Option<Vec<u8>>,
}

impl<'a> Folded<'a> {
    /// Folds a name.
    pub(crate) fn new(name: &'a [u8]) -> Self {
        Self { name, folded: fold(name) }
    }

    /// Returns the bytes that are hashed.
    pub(crate) fn hashed(&self) -> &[u8] {
        self.folded.as_deref().unwrap_or(self.name)
    }

    /// Says whether the name is not valid in the encoding.
    pub(crate) fn is_invalid(&self) -> bool {
        self.folded.is_none()
    }

    /// Says whether another name is the same.
    pub(crate) fn matches(&self, other: &[u8]) -> bool {
        self.name == other || self.folded.is_some() && self.folded == fold(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_or_composition_are_the_same() {
        let same = |left: &str, right: &str| Folded::new(left.as_bytes()).matches(right.as_bytes());
        assert!(same("README", "readme"));
        assert!(same("Ünï", "u\u{308}NI\u{308}"));
        assert!(same("Straße", "STRASSE"));
        assert!(same("soft\u{ad}hyphen", "softhyphen"));
        assert!(!same("a", "b"));
        assert!(Folded::new(b"\xff").matches(b"\xff"));
        assert!(!Folded::new(b"\xffA").matches(b"\xffa"));
    }
}
