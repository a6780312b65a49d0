//! What the commands print, for people and for scripts.

use clap::Command;
use std::io::{self, IsTerminal, Write};

/// Returns a text with control characters escaped, so that it is one line and moves no cursor.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|each| if each.is_control() { each.escape_default().collect() } else { vec![each] }).collect()
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

    pub(super) fn write(self, out: &mut impl Write, name: &[u8]) -> io::Result<()> {
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
    fn a_text_cannot_move_the_cursor() {
        assert_eq!(one_line("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
    }
}
