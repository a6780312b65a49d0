//! Access control lists: the form of their extended attributes, and the text form of acl(5) with numbers for names.
//!
//! The attribute holds a version (2) and entries of tag, permissions and id, all little-endian, in the order of tag and id.

use crate::bytes::{le16, le32};

/// The tags of entries.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Returns the number of a user (`true`) or of a group by its name.
pub(super) type Ids<'a> = dyn Fn(bool, &str) -> Option<u32> + 'a;

/// Knows no names.
pub(super) fn no_names(_is_user: bool, _name: &str) -> Option<u32> {
    None
}

/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;

/// Returns a list in the text form, a line for each entry.
pub(super) fn to_text(value: &[u8]) -> Option<String> {
    if value.len() < 4 || le32(value, 0) != 2 || value.len() % 8 != 4 {
        return None;
    }
    let mut lines = Vec::new();
    for entry in value[4..].chunks_exact(8) {
        let (tag, bits, id) = (le16(entry, 0), le16(entry, 2), le32(entry, 4));
        let who = match tag {
            USER_OBJ => String::from("user:"),
            USER => format!("user:{id}"),
            GROUP_OBJ => String::from("group:"),
            GROUP => format!("group:{id}"),
            MASK => String::from("mask:"),
            OTHER => String::from("other:"),
            _ => return None,
        };
        let letter = |bit, letter| if bits & bit != 0 { letter } else { '-' };
        lines.push(format!("{who}:{}{}{}", letter(4, 'r'), letter(2, 'w'), letter(1, 'x')));
    }
    Some(lines.join("\n") + "\n")
}

/// Returns a list in the form of the attribute, of entries that are divided by commas or lines. An entry may have a fourth
/// field, an id that counts more than a name, as archives have it. A mask that is missing is that of all groups and named
/// users, as setfacl(1) makes it. Names are looked up in `ids`.
pub(super) fn from_text(text: &[u8], ids: &Ids<'_>) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut entries: Vec<(u16, u32, u16)> = Vec::new();
    for entry in text.split([',', '\n']) {
        let entry = entry.split('#').next().unwrap_or_default().trim();
        if entry.is_empty() {
            continue;
        }
        let mut fields = entry.split(':');
        let (tag, who, bits) = (fields.next()?, fields.next()?, fields.next());
        let (who, bits, number) = match (tag, bits) {
            // `other:r--` and `mask:r--` have no field for a name in the short form.
            ("o" | "other" | "m" | "mask", None) => ("", who, None),
            (_, bits) => (who, bits?, fields.next()),
        };
        let id = match (who, number) {
            ("", _) => NO_ID,
            (_, Some(number)) => number.parse().ok()?,
            (who, None) => match who.parse() {
                Ok(number) => number,
                Err(_) => ids(matches!(tag, "u" | "user"), who)?,
            },
        };
        let (tag, id) = match (tag, who.is_empty()) {
            ("u" | "user", true) => (USER_OBJ, NO_ID),
            ("u" | "user", false) => (USER, id),
            ("g" | "group", true) => (GROUP_OBJ, NO_ID),
            ("g" | "group", false) => (GROUP, id),
            ("m" | "mask", true) => (MASK, NO_ID),
            ("o" | "other", true) => (OTHER, NO_ID),
            _ => return None,
        };
        entries.push((tag, id, permissions(bits)?));
    }
    let has = |entries: &[(u16, u32, u16)], wanted| entries.iter().any(|&(tag, ..)| tag == wanted);
    if ![USER_OBJ, GROUP_OBJ, OTHER].iter().all(|&tag| has(&entries, tag)) {
        return None;
    }
    if (has(&entries, USER) || has(&entries, GROUP)) && !has(&entries, MASK) {
        let of_groups = entries.iter().filter(|(tag, ..)| matches!(*tag, USER | GROUP_OBJ | GROUP));
        let bits = of_groups.fold(0, |all, (.., bits)| all | bits);
        entries.push((MASK, NO_ID, bits));
    }
    entries.sort_unstable();
    if entries.windows(2).any(|pair| (pair[0].0, pair[0].1) == (pair[1].0, pair[1].1)) {
        return None;
    }
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, id, bits) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(bits.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Some(value)
}

fn permissions(text: &str) -> Option<u16> {
    if let Ok(bits @ 0..=7) = text.parse() {
        return Some(bits);
    }
    text.bytes().try_fold(0, |bits, letter| match letter {
        b'r' => Some(bits | 4),
        b'w' => Some(bits | 2),
        b'x' => Some(bits | 1),
        b'-' => Some(bits),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_the_same_there_and_back() {
        let text = "user::rw-\nuser:1000:r--\ngroup::r--\ngroup:77:rw-\nmask::rw-\nother::---\n";
        let value = from_text(text.as_bytes(), &no_names).expect("a list");
        assert_eq!(value.len(), 4 + 6 * 8);
        assert_eq!(to_text(&value).as_deref(), Some(text));
        let short = from_text(b"o::---,u::6,u:joe:r--:1000,g::r,g:77:rw", &no_names).expect("a list");
        let named = from_text(b"o::---,u::6,u:joe:r--,g::r,g:77:rw", &|is_user, name| {
            (is_user && name == "joe").then_some(1000)
        });
        assert_eq!(named, Some(value.clone()));
        assert_eq!(short, value, "a name with its number, another order, and the mask that follows");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["", "user::rw-", "user::rw-,group::r--,other::q", "user:joe:r--,user::7,group::7,other::7"] {
            assert_eq!(from_text(text.as_bytes(), &no_names), None, "{text}");
        }
        assert_eq!(from_text(b"u::7,g::7,o::7,o::1", &no_names), None);
        for value in [&[][..], &[1, 0, 0, 0], &[2, 0, 0, 0, 9], &[2, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(to_text(value), None, "{value:?}");
        }
    }
}
