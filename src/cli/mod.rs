//! Floor 7: the command line.
//!
//! One definition, clap's, gives the parser, `--help` and docs/cli.md. A command does its work through
//! [`Guestfs`](crate::guestfs::Guestfs) and the tree, and knows nothing of formats.

mod attributes;
mod cat;
mod check;
mod checksum;
mod compact;
mod convert;
mod cp;
mod create;
mod df;
mod diff;
mod du;
mod edit;
mod exit;
mod filesystems;
mod find;
mod grep;
mod image;
mod info;
mod input;
mod inspect;
mod jobs;
mod keys;
mod logging;
mod ls;
mod mkfs;
mod mode;
mod mount;
mod names;
mod output;
mod part;
mod put;
mod row;
mod shell;
mod show;
mod stat;
mod tar_out;
mod target;
mod umount;

use crate::error::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Open a virtual machine's disk image as an ordinary folder: no root, no kernel module, no appliance.
#[derive(Debug, Parser)]
#[command(name = "guestctl", version, max_term_width = 100, after_help = exit::HELP, propagate_version = true)]
struct Cli {
    /// Log more: -v what is done, -vv each step (RUST_LOG works too)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Mount(mount::Args),
    Umount(umount::Args),
    Filesystems(filesystems::Args),
    Inspect(inspect::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Stat(stat::Args),
    Find(find::Args),
    Grep(grep::Args),
    Du(du::Args),
    Df(df::Args),
    Cp(cp::Args),
    CopyOut(cp::CopyOutArgs),
    CopyIn(put::CopyInArgs),
    TarOut(tar_out::Args),
    TarIn(put::TarInArgs),
    Write(put::WriteArgs),
    Edit(edit::Args),
    Rm(names::RmArgs),
    Mkdir(names::MkdirArgs),
    Rmdir(names::RmdirArgs),
    Mv(names::MvArgs),
    Ln(names::LnArgs),
    Touch(attributes::TouchArgs),
    Truncate(attributes::TruncateArgs),
    Chmod(attributes::ChmodArgs),
    Chown(attributes::ChownArgs),
    Xattr(attributes::XattrArgs),
    Checksum(checksum::Args),
    Diff(diff::Args),
    Info(info::Args),
    Check(check::Args),
    Create(create::Args),
    Part(part::Args),
    Mkfs(mkfs::Args),
    Convert(convert::Args),
    Compact(compact::Args),
    #[command(after_long_help = shell::help())]
    Shell(shell::ShellArgs),
    Run(shell::RunArgs),
    /// Print the commands' reference in Markdown
    #[command(hide = true, name = "help-markdown")]
    HelpMarkdown,
}

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    crate::sys::default_sigpipe();
    crate::sys::limit_allocator_arenas();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
                eprintln!("guestctl: {}", output::wrong_use(&error.render().to_string()));
            } else {
                // What cannot be printed cannot be told either.
                let _ = error.print();
            }
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
        }
    };
    let sink = logging::start(cli.verbose);
    match run(&cli, &sink) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guestctl: {}", output::one_line(&error.to_string()));
            ExitCode::from(exit::code(&error))
        }
    }
}

fn run(cli: &Cli, sink: &logging::Sink) -> Result<ExitCode> {
    match &cli.command {
        Command::Mount(args) => mount::run(args, sink),
        Command::Umount(args) => umount::run(args),
        Command::Filesystems(args) => filesystems::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Ls(args) => ls::run(args),
        Command::Cat(args) => cat::run(args),
        Command::Stat(args) => stat::run(args),
        Command::Find(args) => find::run(args),
        Command::Grep(args) => grep::run(args),
        Command::Du(args) => du::run(args),
        Command::Df(args) => df::run(args),
        Command::Cp(args) => cp::run(args),
        Command::CopyOut(args) => cp::run_copy_out(args),
        Command::CopyIn(args) => put::copy_in(args),
        Command::TarIn(args) => put::tar_in(args),
        Command::Write(args) => put::write(args),
        Command::Edit(args) => edit::run(args),
        Command::Rm(args) => names::rm(args),
        Command::Mkdir(args) => names::mkdir(args),
        Command::Rmdir(args) => names::rmdir(args),
        Command::Mv(args) => names::mv(args),
        Command::Ln(args) => names::ln(args),
        Command::Touch(args) => attributes::touch(args),
        Command::Truncate(args) => attributes::truncate(args),
        Command::Chmod(args) => attributes::chmod(args),
        Command::Chown(args) => attributes::chown(args),
        Command::Xattr(args) => attributes::xattr(args),
        Command::TarOut(args) => tar_out::run(args),
        Command::Checksum(args) => checksum::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Info(args) => info::run(args),
        Command::Check(args) => check::run(args),
        Command::Create(args) => create::run(args),
        Command::Part(args) => part::run(args),
        Command::Mkfs(args) => mkfs::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Compact(args) => compact::run(args),
        Command::Shell(args) => shell::run_shell(args),
        Command::Run(args) => shell::run_script(args),
        Command::HelpMarkdown => {
            output::print_markdown(&Cli::command());
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_arguments_is_consistent() {
        Cli::command().debug_assert();
    }
}
