//! Names: 8 and 3 characters in the code page of DOS, and long ones in pieces of UTF-16.
//!
//! Both are shown as UTF-8. Names differ when they differ in more than case.

use crate::bytes::le16;

/// The upper half of code page 437, the one of the PC, which Linux takes as well unless told otherwise.
const CODE_PAGE: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// How many characters a piece of a long name has.
const PIECE_LEN: usize = 13;

/// How many pieces a long name has at most.
const MAX_PIECES: usize = 20;

/// Says whether a short name is that of the directory itself or its parent.
pub fn is_dots(short_name: &[u8]) -> bool {
    short_name == b".          " || is_parent(short_name)
}

/// Says whether a short name is that of the directory's parent.
pub fn is_parent(short_name: &[u8]) -> bool {
    short_name == b"..         "
}

/// Returns a short name as it is shown. `case_flags` tell which parts are in lower case.
pub fn short(short_name: &[u8; 11], case_flags: u8) -> String {
    const LOWER_BASE: u8 = 0x08;
    const LOWER_EXTENSION: u8 = 0x10;
    let mut bytes = *short_name;
    // The letter of this number would be taken for a deleted file.
    if bytes[0] == 0x05 {
        bytes[0] = 0xe5;
    }
    let mut name = part(&bytes[..8], case_flags & LOWER_BASE != 0);
    let extension = part(&bytes[8..], case_flags & LOWER_EXTENSION != 0);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name
}

fn part(bytes: &[u8], is_lower: bool) -> String {
    let used = crate::bytes::until_nul(bytes);
    let end = used.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    let decoded = used[..end].iter().map(|&byte| match byte.checked_sub(0x80) {
        Some(upper) => CODE_PAGE.chars().nth(upper.into()).unwrap_or(char::REPLACEMENT_CHARACTER),
        None => char::from(byte),
    });
    decoded.map(|letter| if is_lower { single(letter, letter.to_lowercase()) } else { letter }).collect()
}

/// Returns the only letter of a change of case, or the letter as it was when it became several.
fn single(letter: char, mut changed: impl Iterator<Item = char>) -> char {
    match (changed.next(), changed.next()) {
        (Some(other), None) => other,
        _ => letter,
    }
}

/// Returns a name as bytes that may stand in a path; `None` when it says nothing or means another directory.
pub fn presentable(name: String) -> Option<Vec<u8>> {
    let name = if name.contains('/') { name.replace('/', "_") } else { name };
    (!matches!(name.as_str(), "" | "." | "..")).then(|| name.into_bytes())
}

/// Returns what two names that differ only in case have in common.
pub fn fold(name: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(name) {
        _ if name.is_ascii() => name.to_ascii_uppercase(),
        Ok(text) => text.chars().map(|letter| single(letter, letter.to_uppercase())).collect::<String>().into_bytes(),
        Err(_) => name.to_ascii_uppercase(),
    }
}

/// Returns the checksum of a short name that pieces of its long name carry.
pub fn checksum(short_name: &[u8; 11]) -> u8 {
    short_name.iter().fold(0, |sum: u8, &byte| sum.rotate_right(1).wrapping_add(byte))
}

/// A long name, as far as its pieces have come. They come last piece first, before the entry that they name.
#[derive(Debug, Default)]
pub struct LongName {
    units: Vec<u16>,
    /// How many pieces are missing.
    missing: usize,
    checksum: u8,
}

impl LongName {
    /// Forgets the pieces.
    pub fn clear(&mut self) {
        self.units.clear();
        self.missing = 0;
    }

    /// Adds a piece, a slot of 32 bytes. One that does not fit to those before it makes all of them void.
    pub fn add(&mut self, slot: &[u8]) {
        const LAST: u8 = 0x40;
        let number = usize::from(slot[0] & 0x3f);
        if slot[0] & LAST != 0 {
            self.clear();
            if !(1..=MAX_PIECES).contains(&number) {
                return;
            }
            self.units.resize(number * PIECE_LEN, 0);
            self.checksum = slot[13];
        } else if self.missing == 0 || number != self.missing || slot[13] != self.checksum {
            self.clear();
            return;
        }
        self.missing = number - 1;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (unit, place) in self.units[self.missing * PIECE_LEN..].iter_mut().zip(places) {
            *unit = le16(slot, place);
        }
    }

    /// Returns the long name of the entry with this short name, and forgets the pieces; `None` when they are not its own.
    pub fn take(&mut self, short_name: &[u8; 11]) -> Option<String> {
        let is_whole = !self.units.is_empty() && self.missing == 0 && self.checksum == checksum(short_name);
        // Halves of pairs that stand alone are left out, as Linux does.
        let name = is_whole.then(|| {
            let units = self.units.iter().copied().take_while(|&unit| unit != 0);
            char::decode_utf16(units).filter_map(std::result::Result::ok).collect()
        });
        self.clear();
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_page_has_128_letters() {
        assert_eq!(CODE_PAGE.chars().count(), 128);
        assert_eq!(short(b"\x05\x81\x9aABC  TXT", 0), "σüÜABC.TXT");
    }

    #[test]
    fn flags_put_base_or_extension_in_lower_case() {
        assert_eq!(short(b"README  TXT", 0), "README.TXT");
        assert_eq!(short(b"README  TXT", 0x08), "readme.TXT");
        assert_eq!(short(b"README  TXT", 0x10), "README.txt");
        assert_eq!(short(b"\x9aBER    \xa5\xa5\xa5", 0x18), "über.ñññ");
        assert_eq!(short(b"A B     C  ", 0), "A B.C");
        assert_eq!(short(b"           ", 0), "");
    }

    #[test]
    fn names_that_differ_in_case_alone_fold_to_the_same() {
        assert_eq!(fold("größe ÉΣ".as_bytes()), fold("GRÖßE éσ".as_bytes()));
        assert_eq!(fold(b"a\xffb"), b"A\xffB");
    }

    #[test]
    fn no_name_leads_elsewhere() {
        assert_eq!(presentable("..".into()), None);
        assert_eq!(presentable(String::new()), None);
        assert_eq!(presentable("../etc".into()).as_deref(), Some(b".._etc".as_slice()));
    }

    fn piece(number: u8, text: &str, sum: u8) -> [u8; 32] {
        let mut slot = [0xff; 32];
        slot[0] = number;
        slot[13] = sum;
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (unit, place) in text.encode_utf16().chain([0]).zip(places) {
            slot[place..place + 2].copy_from_slice(&unit.to_le_bytes());
        }
        slot
    }

    #[test]
    fn pairs_of_surrogates_are_one_letter_and_halves_are_left_out() {
        let short_name = b"X          ";
        let mut slot = piece(0x41, "🐧 x", checksum(short_name));
        let mut name = LongName::default();
        name.add(&slot);
        assert_eq!(name.take(short_name).as_deref(), Some("🐧 x"));
        slot[1..3].copy_from_slice(b"a\0");
        name.add(&slot);
        assert_eq!(name.take(short_name).as_deref(), Some("a x"));
    }

    #[test]
    fn a_long_name_is_put_together_from_its_end() {
        let short_name = b"ALONGN~1TXT";
        let sum = checksum(short_name);
        let mut name = LongName::default();
        name.add(&piece(0x42, "ß.txt", sum));
        name.add(&piece(1, "a long name o", sum));
        assert_eq!(name.take(short_name).as_deref(), Some("a long name oß.txt"));
        assert_eq!(name.take(short_name), None);
        // Each of these has something wrong with it.
        for (first, second) in [((0x42, sum), (2, sum)), ((0x42, sum), (1, sum ^ 1)), ((0x02, sum), (1, sum))] {
            name.add(&piece(first.0, "ß.txt", first.1));
            name.add(&piece(second.0, "a long name o", second.1));
            assert_eq!(name.take(short_name), None);
        }
        name.add(&piece(0x42, "ß.txt", sum));
        assert_eq!(name.take(short_name), None, "a piece is missing");
        name.add(&piece(0x7f, "x", sum));
        name.add(&piece(0x40, "x", sum));
        assert_eq!(name.take(short_name), None);
    }
}
