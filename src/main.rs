//! The `guestctl` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    guestctl::cli::main()
}
