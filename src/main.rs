//! The `guestctl` program.

fn main() {}
