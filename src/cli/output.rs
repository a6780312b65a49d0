//! What the commands print, for people and for scripts.

use crate::error::{Error, IoContext, Result};
use clap::Command;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Returns a text with control characters escaped, so that it is one line and moves no cursor.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|each| if each.is_control() { each.escape_default().collect() } else { vec![each] }).collect()
}

/// Returns what clap says of arguments that it does not take as one line: what is wrong, what may have been meant, the usage.
pub(super) fn wrong_use(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let paragraphs = message.split("\n\n").filter(|text| !text.starts_with("For more information"));
    let lines: Vec<String> = paragraphs.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    one_line(&lines.join("; ").replace("; Usage: ", "; usage: "))
}

/// Writes names as they are, or with control characters escaped where a terminal would obey them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    escape: bool,
}

impl Names {
    /// Escapes when standard output is a terminal.
    pub(super) fn new() -> Self {
        Self { escape: io::stdout().is_terminal() }
    }

    pub(super) fn write(self, out: &mut (impl Write + ?Sized), name: &[u8]) -> io::Result<()> {
        if !self.escape {
            return out.write_all(name);
        }
        let text = String::from_utf8_lossy(name);
        out.write_all(one_line(&text).as_bytes())
    }
}

/// Returns a size for people: `1.5G`.
pub(super) fn human(size: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if size < 1024 {
        return size.to_string();
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1}{}", UNITS[unit]) } else { format!("{value:.0}{}", UNITS[unit]) }
}

/// Returns the number of bytes that a text such as `512`, `10M` or `1.5G` means; the units are powers of 1024.
pub(super) fn parse_size(text: &str) -> Result<u64> {
    let wrong = || Error::Usage(format!("{text:?} is no size; write 512, 64K, 10M, 1.5G or 2T").into());
    let number = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match text[number.len()..].to_ascii_uppercase().trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        "P" => 50,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(wrong);
    }
    let value = number.parse::<f64>().map_err(|_| wrong())? * (1_u64 << shift) as f64;
    if number.starts_with(|first: char| first.is_ascii_digit()) && value.is_finite() && value < 9e18 {
        Ok(value.round() as u64)
    } else {
        Err(wrong())
    }
}

/// Prints a value as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).expect("texts and numbers can be written as JSON");
    writeln!(io::stdout(), "{text}").doing(|| "cannot write to standard output")
}

/// Prints a table with its columns aligned; those named in `right` to the right.
pub(super) fn print_table(header: &[&str], rows: &[Vec<String>], right: &[usize]) -> io::Result<()> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count());
            let (before, after) = if right.contains(&column) { (pad.as_str(), "") } else { ("", pad.as_str()) };
            line.push_str(&format!("{before}{cell}{after}  "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints the reference of all commands in Markdown: docs/cli.md.
pub(super) fn print_markdown(program: &Command) {
    let mut program = program.clone().term_width(100);
    program.build();
    println!("# The commands\n");
    println!("This is what `guestctl COMMAND --help` prints.\n");
    let shown = |command: &Command| command.clone().render_long_help().to_string();
    let fenced = |help: &str| {
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        println!("```\n{}\n```\n", lines.join("\n").trim_end());
    };
    fenced(&shown(&program));
    for command in program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        println!("## guestctl {}\n", command.get_name());
        fenced(&shown(command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (size, text) in [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10 << 20, "10M"), (6 << 30, "6.0G")] {
            assert_eq!(human(size), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, size) in [("512", 512), ("64k", 65536), ("10M", 10 << 20), ("1.5GiB", 3 << 29), ("2TB", 2 << 40)] {
            assert_eq!(parse_size(text).expect(text), size);
        }
        for wrong in ["", "M", "-1", "10X", "99999999999T", "nan", "1e400"] {
            parse_size(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn wrong_use_is_told_in_one_line() {
        let said = "error: unexpected argument '--foo\u{1b}' found\n\n  tip: a similar argument exists: '--force'\n\n\
                    Usage: guestctl cat <IMAGE>\n\nFor more information, try '--help'.\n";
        let told = "unexpected argument '--foo\\u{1b}' found; tip: a similar argument exists: '--force'; \
                    usage: guestctl cat <IMAGE>";
        assert_eq!(wrong_use(said), told);
    }

    #[test]
    fn a_text_cannot_move_the_cursor() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
    }
}
