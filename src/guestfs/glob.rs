//! Patterns of names as glob(7) has them: `*`, `?`, `[a-z]`, `[!a-z]`, and a backslash before a byte that means itself.
//!
//! Everything is bytes. A pattern that is cut short means what it says, byte by byte.

/// Says whether a name holds anything that a pattern may.
pub fn is_pattern(text: &[u8]) -> bool {
    text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

/// Says whether a pattern matches all of a text. `*` and `?` match slashes too.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // The place to try again from: after the last star, one byte further in the text.
    let (mut at, mut here, mut again) = (0, 0, None);
    while here < text.len() {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            again = Some((at, here));
            continue;
        }
        match one(&pattern[at..], text[here]) {
            Some(length) => {
                at += length;
                here += 1;
            }
            None => match again {
                Some((star, from)) => {
                    at = star;
                    here = from + 1;
                    again = Some((star, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Matches one byte; returns how much of the pattern that took.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => match class(pattern, byte) {
            Some((true, length)) => Some(length),
            Some((false, _)) => None,
            None => (byte == b'[').then_some(1),
        },
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        plain => (plain == byte).then_some(1),
    }
}

/// Matches a class in brackets; returns whether it holds the byte, and its length. `None` when it has no end.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = if negated { 2 } else { 1 };
    let mut at = first;
    let mut holds = false;
    loop {
        let from = *pattern.get(at)?;
        if from == b']' && at > first {
            return Some((holds != negated, at + 1));
        }
        let to = match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(&to)) if to != b']' => {
                at += 2;
                to
            }
            _ => from,
        };
        holds |= (from..=to).contains(&byte);
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, expected) in [
            ("*.log", "a.log", true),
            ("*.log", "a.logs", false),
            ("a?c", "abc", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "xxaxxbxx", false),
            ("", "", true),
            ("*", "", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("*[0-9]", "file7", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
