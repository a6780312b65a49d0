//! Commands that change files and folders.

use super::table::Command;

pub(super) const COMMANDS: &[Command] =
    &[Command::reading("sync", &[], "Make what was written durable", |session, _, _| session.guest.sync())];
