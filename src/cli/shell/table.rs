//! What a command of the shell is: one definition gives its dispatch, its help and its completion.

use super::session::Session;
use super::{devices, reading, session, writing};
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::io::Write;

/// What an argument names, and so how it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file of the guest; a path that is not absolute is one below the shell's folder.
    Path,
    /// A file of this host.
    Local,
    /// A drive, a partition or a logical volume.
    Device,
    /// A command of the shell.
    Command,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Anything else.
    Text,
}

/// How often an argument comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Times {
    Once,
    Maybe,
    OnceOrMore,
}

/// An argument.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arg {
    name: &'static str,
    pub(super) kind: Kind,
    times: Times,
}

impl Arg {
    /// An argument that must be there.
    pub(super) const fn one(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, times: Times::Once }
    }

    /// An argument that may be left out; the last one of its command.
    pub(super) const fn maybe(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, times: Times::Maybe }
    }

    /// An argument that may come several times; the only such one of its command.
    pub(super) const fn several(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, times: Times::OnceOrMore }
    }
}

/// What a command does with its arguments; what it prints goes to the writer.
pub(super) type Run = fn(&mut Session, &[OsString], &mut dyn Write) -> Result<()>;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) args: &'static [Arg],
    /// Whether it changes the guest.
    pub(super) writes: bool,
    pub(super) help: &'static str,
    pub(super) run: Run,
}

impl Command {
    pub(super) const fn reading(name: &'static str, args: &'static [Arg], help: &'static str, run: Run) -> Self {
        Self { name, args, writes: false, help, run }
    }

    pub(super) const fn writing(name: &'static str, args: &'static [Arg], help: &'static str, run: Run) -> Self {
        Self { name, args, writes: true, help, run }
    }

    /// Returns how it is typed: `cp SOURCE... TARGET`.
    pub(super) fn usage(&self) -> String {
        let mut text = self.name.to_owned();
        for arg in self.args {
            text.push_str(&match arg.times {
                Times::Once => format!(" {}", arg.name),
                Times::Maybe => format!(" [{}]", arg.name),
                Times::OnceOrMore => format!(" {}...", arg.name),
            });
        }
        text
    }

    /// # Errors
    /// [`Error::Usage`] when it cannot be called with that many arguments.
    pub(super) fn check_count(&self, count: usize) -> Result<()> {
        let least = self.args.iter().filter(|arg| arg.times != Times::Maybe).count();
        let most =
            if self.args.iter().any(|arg| arg.times == Times::OnceOrMore) { usize::MAX } else { self.args.len() };
        if (least..=most).contains(&count) {
            Ok(())
        } else {
            Err(Error::Usage(format!("write {}", self.usage()).into()))
        }
    }

    /// Returns what the argument at `place` of `count` names.
    pub(super) fn kind(&self, place: usize, count: usize) -> Option<Kind> {
        let Some(several) = self.args.iter().position(|arg| arg.times == Times::OnceOrMore) else {
            return self.args.get(place).map(|arg| arg.kind);
        };
        let after = self.args.len() - several - 1;
        let index = if place < several {
            place
        } else if count.saturating_sub(place) <= after && place > several {
            self.args.len() - (count - place)
        } else {
            several
        };
        self.args.get(index).map(|arg| arg.kind)
    }
}

/// All commands, by what they are about.
pub(super) const TOPICS: [(&str, &[Command]); 4] = [
    ("The shell", session::COMMANDS),
    ("Devices and mounts", devices::COMMANDS),
    ("Reading", reading::COMMANDS),
    ("Writing (with --rw or --overlay)", writing::COMMANDS),
];

/// Returns all commands.
pub(super) fn all() -> impl Iterator<Item = &'static Command> {
    TOPICS.iter().flat_map(|(_, commands)| commands.iter())
}

/// Finds a command by its name; an underscore stands for a hyphen.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    let name = name.replace('_', "-");
    all().find(|command| command.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_name_of_its_own_and_a_help_of_one_line() {
        let mut names = std::collections::BTreeSet::new();
        for command in all() {
            assert!(names.insert(command.name), "{} is there twice", command.name);
            assert!(!command.help.is_empty() && !command.help.ends_with('.'), "{}", command.name);
            let several = command.args.iter().filter(|arg| arg.times == Times::OnceOrMore).count();
            let maybe = command.args.iter().position(|arg| arg.times == Times::Maybe);
            assert!(several <= 1, "{}", command.usage());
            assert!(
                maybe.is_none_or(
                    |place| several == 0 && command.args[place..].iter().all(|arg| arg.times == Times::Maybe)
                )
            );
        }
    }

    #[test]
    fn arguments_are_told_apart_from_both_ends() {
        let command = find("copy_out").expect("it is there");
        assert_eq!(command.usage(), "copy-out PATH... LOCAL");
        let kinds: Vec<_> = (0..3).map(|place| command.kind(place, 3)).collect();
        assert_eq!(kinds, [Some(Kind::Path), Some(Kind::Path), Some(Kind::Local)]);
        assert!(command.check_count(1).is_err() && command.check_count(5).is_ok());
    }
}
