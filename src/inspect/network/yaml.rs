//! As much of YAML as netplan's files use: maps and lists by indentation, flow lists and maps, quotes, comments.
//!
//! Anchors, tags, multi-line texts and several documents are not here: what is not understood is left out.

/// The most nodes of a file, and the deepest nesting.
const MAX_NODES: usize = 1 << 16;
const MAX_DEPTH: usize = 32;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Yaml {
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

impl Yaml {
    /// Returns the value of a key of a map.
    pub(super) fn get(&self, key: &str) -> Option<&Yaml> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Returns the pairs of a map.
    pub(super) fn pairs(&self) -> &[(String, Yaml)] {
        match self {
            Self::Map(pairs) => pairs,
            _ => &[],
        }
    }

    /// Returns the texts of a list, or the one text.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => vec![text],
            // An address with options of its own is a map with the address as its key.
            Self::List(items) => {
                items.iter().filter_map(|item| item.text().or_else(|| Some(&item.pairs().first()?.0))).collect()
            }
            Self::Map(_) => Vec::new(),
        }
    }

    /// Returns a text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

struct Parser<'a> {
    /// The lines still to be read, the next one last: how far each is indented, and what it says.
    lines: Vec<(usize, &'a str)>,
    nodes: usize,
}

/// Reads a file.
pub(super) fn parse(text: &str) -> Yaml {
    let lines = text.lines().filter_map(|line| {
        let line = without_comment(line).trim_end();
        let content = line.trim_start_matches(' ');
        (!content.is_empty() && content != "---").then(|| (line.len() - content.len(), content))
    });
    let mut lines: Vec<_> = lines.take(MAX_NODES).collect();
    lines.reverse();
    let mut parser = Parser { lines, nodes: 0 };
    parser.block(0, 0)
}

/// Cuts off a comment, which begins with `#` at the beginning or after a space, outside of quotes.
fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (place, letter) in line.char_indices() {
        match (letter, quote) {
            ('\'' | '"', None) if matches!(before, ' ' | '[' | ',' | '{' | '-' | ':') => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('#', None) if before == ' ' => return &line[..place],
            _ => {}
        }
        before = letter;
    }
    line
}

/// Takes a line `key: value` apart.
fn key_of(content: &str) -> Option<(String, &str)> {
    let (key, rest) = if let Some(open) = content.chars().next().filter(|letter| matches!(letter, '\'' | '"')) {
        let (key, rest) = content[1..].split_once(open)?;
        (key, rest.trim_start().strip_prefix(':')?)
    } else if let Some(key) = content.strip_suffix(':').filter(|key| !key.contains(": ")) {
        (key, "")
    } else {
        content.split_once(": ")?
    };
    Some((key.trim().to_owned(), rest.trim()))
}

impl<'a> Parser<'a> {
    /// Reads the lines that are indented at least so far.
    fn block(&mut self, least: usize, depth: usize) -> Yaml {
        let Some(&(indent, first)) = self.lines.last().filter(|(indent, _)| *indent >= least) else {
            return Yaml::Text(String::new());
        };
        if depth > MAX_DEPTH {
            while self.lines.last().is_some_and(|(own, _)| *own >= least) {
                self.lines.pop();
            }
            return Yaml::Text(String::new());
        }
        if first == "-" || first.starts_with("- ") { self.list(indent, depth) } else { self.map(indent, depth) }
    }

    fn count(&mut self) -> bool {
        self.nodes += 1;
        self.nodes <= MAX_NODES
    }

    fn list(&mut self, indent: usize, depth: usize) -> Yaml {
        let mut items = Vec::new();
        while let Some(&(own, content)) = self.lines.last() {
            let Some(rest) =
                content.strip_prefix('-').filter(|rest| own == indent && (rest.is_empty() || rest.starts_with(' ')))
            else {
                break;
            };
            self.lines.pop();
            let item = rest.trim_start();
            let value = if item.is_empty() {
                self.block(indent + 1, depth + 1)
            } else if key_of(item).is_some() && !item.starts_with(['[', '{']) {
                // The map begins on the line of its hyphen.
                self.lines.push((indent + content.len() - item.len(), item));
                self.block(indent + 1, depth + 1)
            } else {
                flow(item, depth)
            };
            if self.count() {
                items.push(value);
            }
        }
        Yaml::List(items)
    }

    fn map(&mut self, indent: usize, depth: usize) -> Yaml {
        let mut pairs = Vec::new();
        while let Some(&(own, content)) = self.lines.last() {
            if own < indent || own == indent && (content == "-" || content.starts_with("- ")) {
                break;
            }
            self.lines.pop();
            let Some((key, rest)) = key_of(content).filter(|_| own == indent) else { continue };
            let value = if rest.is_empty() {
                // A list may stand as far to the left as the key that it belongs to.
                let list = self.lines.last().is_some_and(|(next, content)| *next == indent && content.starts_with('-'));
                self.block(if list { indent } else { indent + 1 }, depth + 1)
            } else {
                flow(rest, depth)
            };
            if self.count() {
                pairs.push((key, value));
            }
        }
        Yaml::Map(pairs)
    }
}

/// Reads a value that stands on one line.
fn flow(text: &str, depth: usize) -> Yaml {
    let text = text.trim();
    let inner = |open, close| text.strip_prefix(open).and_then(|rest: &str| rest.strip_suffix(close));
    if depth <= MAX_DEPTH {
        if let Some(inner) = inner('[', ']') {
            return Yaml::List(split(inner).into_iter().map(|item| flow(item, depth + 1)).collect());
        }
        if let Some(inner) = inner('{', '}') {
            let pairs = split(inner).into_iter().filter_map(|item| {
                let (key, value) = key_of(item)?;
                Some((key, flow(value, depth + 1)))
            });
            return Yaml::Map(pairs.collect());
        }
    }
    let plain = ['"', '\''].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(text);
    Yaml::Text(plain.to_owned())
}

/// Splits at the commas that lie in no brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = text.split(|letter| {
        match letter {
            '[' | '{' => depth = depth.saturating_add(1),
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_lists_nest() {
        let file = parse(
            "---\n# c\na:\n  b: 'x # y'  # z\n  list:\n  - one\n  - two: 2\n    three: 3\n  flow: [1, \"2\", {k: v}]\nc: d\n",
        );
        assert_eq!(file.get("a").and_then(|a| a.get("b")?.text()), Some("x # y"));
        let list = file.get("a").and_then(|a| a.get("list")).expect("a list");
        let Yaml::List(items) = list else { panic!("no list: {list:?}") };
        assert_eq!(items[1].get("three").and_then(Yaml::text), Some("3"));
        assert_eq!(file.get("a").and_then(|a| a.get("flow")).map(Yaml::texts), Some(vec!["1", "2", "k"]));
        assert_eq!(file.get("c").and_then(Yaml::text), Some("d"));
    }

    #[test]
    fn nonsense_ends() {
        let deep: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        parse(&deep);
        parse(&"[".repeat(10_000));
        parse(&format!("a: {}{}", "[".repeat(5000), "]".repeat(5000)));
        parse(&"- ".repeat(10_000));
        for text in
            ["- -\n-", ":", ": :", "'", "a: 'b", "- a: b\n c", "{", "a:\n b\n  c: d\n", "  - x\n- y", "\"é\": 1", "-é"]
        {
            parse(text);
        }
    }
}
