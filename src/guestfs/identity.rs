//! Changing the label and the UUID of a filesystem: of ext2, ext3 and ext4 in the superblock, of others by the distribution's
//! own tools.
//!
//! A tool works on a sparse copy of what the device holds; what it changed is then copied back. So every checksum and every
//! copy of a superblock is what the tool makes of it, a tool never sees the image, and neither root nor a device node is
//! needed. It costs a copy of the data, without the holes.

use super::Guestfs;
use super::mkfs::{PIECE, find_program};
use crate::block::{BlockDevice, ExtentKind, RawDevice};
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::ext4::identity::{self, Identity};
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Label,
    Uuid,
}

/// A tool: the program, its package, and the arguments before and after the file, among which `VALUE` is the new value.
struct Tool {
    program: &'static str,
    package: &'static str,
    before: &'static [&'static str],
    after: &'static [&'static str],
}

const VALUE: &str = "VALUE";

fn tool(kind: &str, what: What) -> Result<Tool> {
    let tool = |program, package, before, after| Ok(Tool { program, package, before, after });
    match (kind, what) {
        ("ext2" | "ext3" | "ext4", What::Label) => tool("tune2fs", "e2fsprogs", &["-L", VALUE], &[]),
        ("ext2" | "ext3" | "ext4", What::Uuid) => tool("tune2fs", "e2fsprogs", &["-f", "-U", VALUE], &[]),
        ("xfs", What::Label) => tool("xfs_admin", "xfsprogs", &["-f", "-L", VALUE], &[]),
        ("xfs", What::Uuid) => tool("xfs_admin", "xfsprogs", &["-f", "-U", VALUE], &[]),
        ("btrfs", What::Label) => tool("btrfs", "btrfs-progs", &["filesystem", "label"], &[VALUE]),
        ("btrfs", What::Uuid) => tool("btrfstune", "btrfs-progs", &["-f", "-U", VALUE], &[]),
        ("vfat", What::Label) => tool("fatlabel", "dosfstools", &[], &[VALUE]),
        ("vfat", What::Uuid) => tool("fatlabel", "dosfstools", &["-i"], &[VALUE]),
        ("ntfs", What::Label) => tool("ntfslabel", "ntfs-3g", &["-f"], &[VALUE]),
        ("exfat", What::Label) => tool("exfatlabel", "exfatprogs", &[], &[VALUE]),
        ("swap", What::Label) => tool("swaplabel", "util-linux", &["-L", VALUE], &[]),
        ("swap", What::Uuid) => tool("swaplabel", "util-linux", &["-U", VALUE], &[]),
        ("", _) => Err(Error::NotAnImage("no filesystem is known that looks like this".into())),
        (kind, What::Label) => Err(Error::unsupported(format!("setting the label of {kind}"))),
        (kind, What::Uuid) => Err(Error::unsupported(format!("setting the UUID of {kind}"))),
    }
}

/// Checks a new value and returns it as the tool takes it.
fn checked(kind: &str, what: What, value: &str) -> Result<String> {
    let wrong = |why: &str| Err(Error::Usage(format!("{value:?}: {why}").into()));
    if what == What::Label {
        let longest = match kind {
            "xfs" => 12,
            "btrfs" => 255,
            "vfat" | "exfat" => 11,
            "ntfs" => 128,
            _ => 16,
        };
        return match value {
            _ if value.len() > longest => wrong(&format!("a label of {kind} has at most {longest} bytes")),
            _ if value.contains(['\0', '\n']) => wrong("this cannot be in a label"),
            // It would be taken for an option.
            _ if value.starts_with('-') => wrong("a label that begins with a dash cannot be set"),
            // How xfs_admin is told of no label.
            "" if kind == "xfs" => Ok(String::from("--")),
            _ => Ok(value.to_owned()),
        };
    }
    let digits: String = value.chars().filter(|&letter| letter != '-').collect();
    let wanted = if kind == "vfat" { 8 } else { 32 };
    if digits.len() != wanted || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return wrong(if wanted == 8 { "this is no serial number, like 1234-ABCD" } else { "this is no UUID" });
    }
    Ok(if wanted == 8 { digits } else { value.to_owned() })
}

impl Tool {
    fn run(&self, file: &Path, value: &str) -> Result<()> {
        let (name, package) = (self.program, self.package);
        let program = find_program(name)
            .ok_or_else(|| Error::NotFound(format!("this needs {name}: install the package {package}").into()))?;
        let argument = |text: &&str| OsString::from(if *text == VALUE { value } else { text });
        let mut command = Command::new(program);
        command.args(self.before.iter().map(argument)).arg(file).args(self.after.iter().map(argument));
        let output = command.stdin(Stdio::null()).output().doing(|| format!("cannot run {name}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).trim().replace('\n', "; "));
        let said = said.into_iter().find(|text| !text.is_empty()).unwrap_or_default();
        Err(Error::io(format!("{name} failed"), std::io::Error::other(said)))
    }
}

/// Visits what a device holds, without holes, in pieces.
fn each_piece(device: &dyn BlockDevice, mut visit: impl FnMut(u64, &mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut piece = Vec::new();
    let mut at = 0;
    while at < device.size() {
        let extent = device.map(at, device.size() - at)?;
        let end = extent.end.min(device.size());
        if extent.kind == ExtentKind::Data {
            while at < end {
                piece.resize((end - at).min(PIECE) as usize, 0);
                device.read_at(&mut piece, at)?;
                visit(at, &mut piece)?;
                at += piece.len() as u64;
            }
        }
        at = end;
    }
    Ok(())
}

/// Has a tool change a sparse copy of a device, and copies back what it changed.
fn change(device: &dyn BlockDevice, tool: &Tool, value: &str) -> Result<()> {
    let place = || "cannot make a scratch file";
    let scratch = tempfile::Builder::new().prefix("guestctl-scratch-").tempfile().doing(place)?;
    scratch.as_file().set_len(device.size()).doing(place)?;
    {
        let copy = RawDevice::open(scratch.path(), true)?;
        each_piece(
            device,
            |at, piece| {
                if crate::block::convert::is_zero(piece) { Ok(()) } else { copy.write_at(piece, at) }
            },
        )?;
        copy.flush()?;
    }
    tool.run(scratch.path(), value)?;
    let changed = RawDevice::open(scratch.path(), false)?;
    if changed.size() != device.size() {
        return Err(Error::io(format!("{} changed the size", tool.program), std::io::ErrorKind::Other.into()));
    }
    // Where the copy has no data now, the device reads as zeroes too, or is to.
    let mut before = Vec::new();
    each_piece(&changed, |at, piece| {
        before.resize(piece.len(), 0);
        device.read_at(&mut before, at)?;
        if before == *piece { Ok(()) } else { device.write_at(piece, at) }
    })?;
    let mut after = Vec::new();
    each_piece(device, |at, piece| {
        after.resize(piece.len(), 0);
        changed.read_at(&mut after, at)?;
        if after == *piece { Ok(()) } else { device.write_at(&after, at) }
    })?;
    device.flush()
}

/// Changes the superblock alone, and says whether that was enough.
fn by_superblock(device: &dyn BlockDevice, kind: &str, what: What, value: &str) -> Result<bool> {
    if !matches!(kind, "ext2" | "ext3" | "ext4") {
        return Ok(false);
    }
    match what {
        What::Label => identity::change(device, Identity::Label(value.as_bytes())),
        What::Uuid => {
            let digits = value.replace('-', "");
            let number = u128::from_str_radix(&digits, 16).expect("its digits were checked");
            identity::change(device, Identity::Uuid(number.to_be_bytes()))
        }
    }
}

impl Guestfs {
    fn change_identity(&mut self, device: &str, what: What, value: &str) -> Result<()> {
        let kind = self.vfs_type(device)?;
        let tool = tool(&kind, what).at(|| device)?;
        let value = checked(&kind, what, value)?;
        let (target, disk) = self.target(device)?;
        let work =
            || if by_superblock(&*target, &kind, what, &value)? { Ok(()) } else { change(&*target, &tool, &value) };
        self.timed("set_identity", || work().at(|| device))?;
        self.rescan(disk)
    }

    /// Sets the label of the filesystem on a device that is not mounted: ext2, ext3, ext4, and by the distribution's own tools
    /// xfs, btrfs, vfat, ntfs, exfat and swap.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another filesystem, [`Error::Usage`] for a label that is too long, [`Error::InUse`]
    /// while it is mounted, [`Error::NotFound`] with the package's name when the tool is not installed, [`Error::Io`] with
    /// what the tool said, and `EROFS`.
    pub fn set_label(&mut self, device: &str, label: &str) -> Result<()> {
        self.change_identity(device, What::Label, label)
    }

    /// Sets the UUID of the filesystem on a device that is not mounted: ext2, ext3, ext4 (by tune2fs where checksums depend on
    /// it), and by the distribution's own tools xfs, btrfs and swap; of vfat its serial number.
    ///
    /// # Errors
    /// As [`set_label`](Self::set_label); [`Error::Usage`] for what is no UUID.
    pub fn set_uuid(&mut self, device: &str, uuid: &str) -> Result<()> {
        self.change_identity(device, What::Uuid, uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_before_a_tool_sees_them() {
        assert_eq!(checked("vfat", What::Uuid, "1234-ABcd").expect("a serial number"), "1234ABcd");
        assert_eq!(checked("xfs", What::Label, "").expect("none"), "--");
        for (kind, what, value) in [
            ("ext4", What::Label, "seventeen letters"),
            ("ext4", What::Label, "-x"),
            ("xfs", What::Uuid, "random"),
            ("vfat", What::Uuid, "12345-6789"),
        ] {
            assert!(matches!(checked(kind, what, value), Err(Error::Usage(_))), "{value}");
        }
        assert!(matches!(tool("zfs_member", What::Label), Err(Error::Unsupported(_))));
    }
}
