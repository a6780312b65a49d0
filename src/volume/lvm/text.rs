//! The text of metadata: sections in braces, and keys with numbers, strings and lists of these.

use crate::error::{Error, Result};
use std::collections::BTreeMap;

/// The deepest nesting: a group holds volumes, these hold segments.
const MAX_DEPTH: usize = 8;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(i64),
    /// A string, its escapes resolved.
    Text(String),
    /// A list of values, none of which is a list.
    List(Vec<Value>),
}

/// A section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    values: BTreeMap<String, Value>,
    /// The sections within, by their names.
    pub sections: BTreeMap<String, Section>,
}

impl Section {
    /// Returns the number of a key; `None` where it is missing, negative, or no number.
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Returns the string of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Returns the list of a key; a single value counts as a list.
    pub fn list(&self, key: &str) -> &[Value] {
        match self.values.get(key) {
            Some(Value::List(list)) => list,
            Some(value) => std::slice::from_ref(value),
            None => &[],
        }
    }

    /// Returns every string of the section, in lists too.
    pub fn all_texts(&self) -> impl Iterator<Item = &str> {
        let lists = self.values.keys().flat_map(|key| self.list(key));
        lists.filter_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the strings of a list.
    pub fn texts(&self, key: &str) -> impl Iterator<Item = &str> {
        self.list(key).iter().filter_map(|value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }
}

/// Reads a text.
///
/// # Errors
/// [`Error::Corrupt`] when it is not one.
pub fn parse(bytes: &[u8]) -> Result<Section> {
    let mut parser = Parser { bytes: crate::bytes::until_nul(bytes), at: 0 };
    parser.section(0)
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self, what: &str) -> Error {
        let line = self.bytes[..self.at.min(self.bytes.len())].iter().filter(|&&byte| byte == b'\n').count() + 1;
        Error::corrupt("LVM metadata text", format!("line {line}: {what}"))
    }

    /// Returns the next byte that is neither blank nor part of a comment.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match *self.bytes.get(self.at)? {
                b'#' => {
                    let end = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
                    self.at = end.map_or(self.bytes.len(), |end| self.at + end);
                }
                byte if byte.is_ascii_whitespace() => self.at += 1,
                byte => return Some(byte),
            }
        }
    }

    fn word(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'+' | b'/');
        let len = rest.iter().position(|&byte| !is_part(byte)).unwrap_or(rest.len());
        if len == 0 {
            return Err(self.wrong("a name is missing"));
        }
        let word = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len;
        Ok(word)
    }

    fn section(&mut self, depth: usize) -> Result<Section> {
        let mut section = Section::default();
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(section),
                None => return Err(self.wrong("a section has no end")),
                Some(b'}') if depth > 0 => {
                    self.at += 1;
                    return Ok(section);
                }
                Some(_) => {}
            }
            let name = self.word()?;
            match self.peek() {
                Some(b'{') if depth < MAX_DEPTH => {
                    self.at += 1;
                    let inner = self.section(depth + 1)?;
                    if section.sections.insert(name, inner).is_some() {
                        return Err(self.wrong("two sections have one name"));
                    }
                }
                Some(b'{') => return Err(self.wrong("sections are nested too deeply")),
                Some(b'=') => {
                    self.at += 1;
                    let value = self.value()?;
                    section.values.insert(name, value);
                }
                _ => return Err(self.wrong("neither a section nor a value")),
            }
        }
    }

    fn value(&mut self) -> Result<Value> {
        if self.peek() != Some(b'[') {
            return self.single();
        }
        self.at += 1;
        let mut list = Vec::new();
        loop {
            match self.peek() {
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(list));
                }
                Some(b',') => self.at += 1,
                Some(_) => list.push(self.single()?),
                None => return Err(self.wrong("a list has no end")),
            }
        }
    }

    fn single(&mut self) -> Result<Value> {
        if self.peek() != Some(b'"') {
            let word = self.word()?;
            return match word.parse() {
                Ok(number) => Ok(Value::Number(number)),
                // Floating-point numbers serve settings that nothing here asks for.
                Err(_) if word.parse::<f64>().is_ok() => Ok(Value::Text(word)),
                Err(_) => Err(self.wrong("a number is wrong")),
            };
        }
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') if self.at + 1 < self.bytes.len() => {
                    text.push(self.bytes[self.at + 1]);
                    self.at += 2;
                }
                Some(&byte) => {
                    text.push(byte);
                    self.at += 1;
                }
                None => return Err(self.wrong("a string has no end")),
            }
        }
        self.at += 1;
        Ok(Value::Text(String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_with_its_sections_lists_and_comments() {
        let text = b"# made by hand\nvg {\nid = \"a\\\"b\" # it\nseqno = 12\nstatus = [\"READ\", \"WRITE\"]\nlv { n = -1\n}\n}\n\0junk";
        let section = parse(text).expect("a text");
        let group = &section.sections["vg"];
        assert_eq!((group.text("id"), group.number("seqno")), (Some("a\"b"), Some(12)));
        assert_eq!(group.texts("status").collect::<Vec<_>>(), ["READ", "WRITE"]);
        assert_eq!(group.sections["lv"].number("n"), None);
        for wrong in ["a", "a {", "a = [1", "a = \"x", "}", "= 1", "a { b { c { d { e { f { g { h { i {"] {
            parse(wrong.as_bytes()).expect_err(wrong);
        }
    }
}
