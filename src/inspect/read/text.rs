//! Text of a guest: cleaned, cut, and read as lines, variables and sections.

/// Returns bytes as text of lines; what is no UTF-8 and control characters become U+FFFD, carriage returns go.
pub(in crate::inspect) fn clean(bytes: &[u8]) -> String {
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
pub(in crate::inspect) fn tidy(bytes: &[u8]) -> String {
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
pub(in crate::inspect) fn shorten(text: &str) -> &str {
    if text.len() <= MAX_FIELD {
        return text;
    }
    let end = (0..=MAX_FIELD).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// Returns the lines that are neither empty nor comments of `#`, without white space around them.
pub(in crate::inspect) fn plain_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Takes quotes off a value, and the backslashes that a shell would.
pub(in crate::inspect) fn unquote(value: &str) -> String {
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
pub(in crate::inspect) struct Variables(Vec<(String, String)>);

impl Variables {
    pub(in crate::inspect) fn parse(text: &str) -> Self {
        let pairs = plain_lines(text).filter_map(|line| {
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), unquote(value)))
        });
        Self(pairs.collect())
    }

    /// Returns the value that a name has at the end, unless it is empty.
    pub(in crate::inspect) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub(in crate::inspect) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(in crate::inspect) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// A file of `[section]` lines with `key=value` lines below each: systemd units, NetworkManager, `.treeinfo`.
#[derive(Debug, Default)]
pub(in crate::inspect) struct Ini(Vec<(String, Vec<(String, String)>)>);

impl Ini {
    pub(in crate::inspect) fn parse(text: &str) -> Self {
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
    pub(in crate::inspect) fn sections<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [(String, String)]> {
        self.0.iter().filter(move |(section, _)| section == name).map(|(_, pairs)| pairs.as_slice())
    }

    /// Returns all values of a key in the sections of a name, in order.
    pub(in crate::inspect) fn all<'s>(&'s self, section: &'s str, key: &'s str) -> impl Iterator<Item = &'s str> {
        let pairs = self.sections(section).flatten();
        pairs.filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Returns the last value of a key, unless it is empty.
    pub(in crate::inspect) fn get<'s>(&'s self, section: &'s str, key: &'s str) -> Option<&'s str> {
        self.all(section, key).last().filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
