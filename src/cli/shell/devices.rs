//! Commands about drives, partitions, filesystems and mounts.

use super::session::{Session, printing};
use super::table::{Arg, Command, Kind};
use crate::error::{IoContext, Result};
use std::ffi::OsString;
use std::io::Write;

const DEVICE: Arg = Arg::one("DEVICE", Kind::Device);

pub(super) const COMMANDS: &[Command] = &[
    Command::reading("add", &[Arg::one("IMAGE", Kind::Local)], "Add a drive, before launch", add),
    Command::reading("launch", &[], "Open the drives that were added", launch),
    Command::reading("run", &[], "As launch", launch),
    Command::reading("list-devices", &[], "List the drives", |session, _, out| {
        lines(out, session.guest.list_devices()?)
    }),
    Command::reading("list-partitions", &[], "List the partitions", |session, _, out| {
        lines(out, session.guest.list_partitions()?)
    }),
    Command::reading("list-filesystems", &[], "List the filesystems and their types", |session, _, out| {
        pairs(out, session.guest.list_filesystems()?)
    }),
    Command::reading(
        "inspect-os",
        &[],
        "List the devices that hold the root of an operating system",
        |session, _, out| lines(out, session.guest.inspect_os()?),
    ),
    Command::reading("vfs-type", &[DEVICE], "Print the type of a filesystem", |session, args, out| {
        lines(out, [session.guest.vfs_type(&text(&args[0]))?])
    }),
    Command::reading("vfs-label", &[DEVICE], "Print the label of a filesystem", |session, args, out| {
        lines(out, [session.guest.vfs_label(&text(&args[0]))?])
    }),
    Command::reading("vfs-uuid", &[DEVICE], "Print the UUID of a filesystem", |session, args, out| {
        lines(out, [session.guest.vfs_uuid(&text(&args[0]))?])
    }),
    Command::reading("blockdev-getsize64", &[DEVICE], "Print the size of a device in bytes", |session, args, out| {
        lines(out, [session.guest.blockdev_getsize64(&text(&args[0]))?.to_string()])
    }),
    Command::reading("part-list", &[DEVICE], "List the partitions of a drive, in bytes", part_list),
    Command::reading("part-get-parttype", &[DEVICE], "Print the kind of a partition table", |session, args, out| {
        lines(out, [session.guest.part_get_parttype(&text(&args[0]))?])
    }),
    Command::reading(
        "mount",
        &[DEVICE, Arg::one("MOUNTPOINT", Kind::Path)],
        "Mount a filesystem, for writing where that was asked for",
        |session, args, _| session.guest.mount(&text(&args[0]), &args[1]),
    ),
    Command::reading(
        "mount-ro",
        &[DEVICE, Arg::one("MOUNTPOINT", Kind::Path)],
        "Mount a filesystem for reading",
        |session, args, _| session.guest.mount_ro(&text(&args[0]), &args[1]),
    ),
    Command::reading(
        "mount-options",
        &[Arg::one("OPTIONS", Kind::Text), DEVICE, Arg::one("MOUNTPOINT", Kind::Path)],
        "Mount a filesystem with options: ro, subvol=@home",
        |session, args, _| session.guest.mount_options(&text(&args[0]), &text(&args[1]), &args[2]),
    ),
    Command::reading(
        "umount",
        &[Arg::one("MOUNTPOINT", Kind::Path)],
        "Unmount a filesystem, by its folder or device",
        |session, args, _| session.guest.umount(&args[0]),
    ),
    Command::reading("umount-all", &[], "Unmount everything", |session, _, _| session.guest.umount_all()),
    Command::reading("mounts", &[], "List the devices that are mounted", |session, _, out| {
        lines(out, session.guest.mounts())
    }),
    Command::reading("mountpoints", &[], "List the devices that are mounted, and where", |session, _, out| {
        let places = session.guest.mountpoints().into_iter().map(|(place, device)| (device, place));
        pairs(out, places)
    }),
];

/// Returns an argument that is no name of a file.
pub(super) fn text(arg: &OsString) -> String {
    arg.to_string_lossy().into_owned()
}

/// Prints lines.
pub(super) fn lines(out: &mut dyn Write, lines: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
    lines.into_iter().try_for_each(|line| writeln!(out, "{}", line.as_ref())).doing(printing)
}

/// Prints names and values.
pub(super) fn pairs(out: &mut dyn Write, pairs: impl IntoIterator<Item = (String, String)>) -> Result<()> {
    pairs.into_iter().try_for_each(|(name, value)| writeln!(out, "{name}: {value}")).doing(printing)
}

fn add(session: &mut Session, args: &[OsString], _: &mut dyn Write) -> Result<()> {
    session.guest.add_drive_with(&args[0], session.drive.clone())
}

fn launch(session: &mut Session, _: &[OsString], _: &mut dyn Write) -> Result<()> {
    session.guest.launch()
}

fn part_list(session: &mut Session, args: &[OsString], out: &mut dyn Write) -> Result<()> {
    let list = session.guest.part_list(&text(&args[0]))?;
    list.iter()
        .try_for_each(|part| writeln!(out, "{} start {} size {}", part.number, part.start, part.size))
        .doing(printing)
}
