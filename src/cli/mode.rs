//! Modes and owners as chmod(1) and chown(1) take them.

use super::attributes::octal;
use crate::error::{Error, Result};
use crate::guestfs::Guestfs;
use std::str::FromStr;

/// A change of a mode: octal digits, or clauses such as `u+x,go-w`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Is(u16),
    Clauses(Vec<Clause>),
}

/// One clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// The bits of those it is about.
    who: u16,
    action: char,
    /// The permission letters.
    letters: String,
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::Usage(format!("{text:?} is no mode; write 644, u+x or go-w,a+X").into());
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return octal(text).map(Self::Is).map_err(|_| wrong());
        }
        let clause = |text: &str| {
            let place = text.find(['+', '-', '='])?;
            let (names, rest) = text.split_at(place);
            let mut who = 0;
            for name in names.chars() {
                who |= match name {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return None,
                };
            }
            let letters = rest[1..].to_owned();
            let known = letters.chars().all(|letter| "rwxXst".contains(letter));
            let who = if names.is_empty() { 0o7777 } else { who };
            known.then(|| Clause { who, action: rest.as_bytes()[0].into(), letters })
        };
        text.split(',').map(clause).collect::<Option<_>>().map(Self::Clauses).ok_or_else(wrong)
    }
}

impl Mode {
    /// Returns what becomes of a mode.
    pub(super) fn apply(&self, mode: u16, is_folder: bool) -> u16 {
        let clauses = match self {
            Self::Is(mode) => return *mode,
            Self::Clauses(clauses) => clauses,
        };
        clauses.iter().fold(mode, |mode, clause| {
            let bits = clause.letters.chars().fold(0, |bits, letter| {
                bits | match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    'X' if is_folder || mode & 0o111 != 0 => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => 0,
                }
            }) & clause.who;
            match clause.action {
                '+' => mode | bits,
                '-' => mode & !bits,
                // A folder keeps the bits that only letters of their own change.
                _ => (mode & !(clause.who & if is_folder { 0o1777 } else { 0o7777 })) | bits,
            }
        })
    }
}

/// An owner, a group or both, as names of the guest or as numbers.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    user: Option<String>,
    group: Option<String>,
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let some = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let owner = Self { user: some(user), group: group.and_then(some) };
        if owner.user.is_none() && owner.group.is_none() {
            return Err(Error::Usage("write OWNER, OWNER:GROUP or :GROUP".into()));
        }
        Ok(owner)
    }
}

impl Owner {
    /// Returns the numbers; a name is looked up in the guest's own `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that the guest has not.
    pub(super) fn numbers(&self, guest: &Guestfs) -> Result<(Option<u32>, Option<u32>)> {
        let number =
            |name: &Option<String>, file: &str| name.as_deref().map(|name| number(guest, name, file)).transpose();
        Ok((number(&self.user, "/etc/passwd")?, number(&self.group, "/etc/group")?))
    }
}

fn number(guest: &Guestfs, name: &str, file: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let lines = guest.read_lines(file)?;
    let fields = lines.iter().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[0] == name).and_then(|fields| fields.get(2)?.parse().ok());
    found.ok_or_else(|| Error::NotFound(format!("the guest's {file} has no {name}; write a number").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_become_what_chmod_makes_of_them() {
        for (mode, text, is_folder, expected) in [
            (0o644, "755", false, 0o755),
            (0o644, "u+x", false, 0o744),
            (0o644, "+x", false, 0o755),
            (0o666, "go-w", false, 0o644),
            (0o640, "g=u", false, 0),
            (0o751, "a=rX", false, 0o555),
            (0o640, "a+X", false, 0o640),
            (0o640, "a+X", true, 0o751),
            (0o755, "u+s,g+s,+t", false, 0o7755),
            (0o6755, "u=rwx", true, 0o6755),
            (0o4755, "u=rwx", false, 0o755),
        ] {
            match text.parse::<Mode>() {
                Ok(parsed) => assert_eq!(parsed.apply(mode, is_folder), expected, "{text}"),
                Err(_) => assert_eq!(expected, 0, "{text}"),
            }
        }
        for wrong in ["", "888", "u", "u+q", "77777", "z+x"] {
            wrong.parse::<Mode>().expect_err(wrong);
        }
    }
}
