//! What a system mounts at boot: `/etc/fstab`, and the mount units of systemd.
//!
//! The formats are specified in fstab(5) and systemd.mount(5).

use super::read::{Guest, Ini, join, shorten};
use super::types::lossy;
use serde::Serialize;
use std::collections::HashSet;

/// The most entries that are kept.
const MAX_ENTRIES: usize = 4096;

/// How a line of fstab names what is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MountSpec {
    /// By the filesystem's UUID or serial number.
    Uuid(String),
    /// By the filesystem's label.
    Label(Vec<u8>),
    /// By the partition's identifier.
    PartUuid(String),
    /// By the partition's name.
    PartLabel(String),
    /// By the hardware's name for the disk, as below `/dev/disk/by-id`.
    ById(String),
    /// By a path, of a device or of a folder to bind; or by any other word, such as `tmpfs`.
    Path(Vec<u8>),
}

impl MountSpec {
    /// Reads the first field of a line of fstab, its escapes resolved.
    pub fn parse(field: &[u8]) -> Self {
        let tagged = |tag: &[u8]| {
            let value = field.strip_prefix(tag)?;
            let inner = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(inner.unwrap_or(value))
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if let Some(value) = tagged(b"UUID=") {
            Self::Uuid(text(value))
        } else if let Some(value) = tagged(b"LABEL=") {
            Self::Label(value.to_vec())
        } else if let Some(value) = tagged(b"PARTUUID=") {
            Self::PartUuid(text(value))
        } else if let Some(value) = tagged(b"PARTLABEL=") {
            Self::PartLabel(text(value))
        } else if let Some(value) = tagged(b"ID=") {
            Self::ById(text(value))
        } else if let Some(name) = field.strip_prefix(b"/dev/disk/by-uuid/") {
            Self::Uuid(text(name))
        } else if let Some(name) = field.strip_prefix(b"/dev/disk/by-label/") {
            Self::Label(unescape_udev(name))
        } else if let Some(name) = field.strip_prefix(b"/dev/disk/by-partuuid/") {
            Self::PartUuid(text(name))
        } else if let Some(name) = field.strip_prefix(b"/dev/disk/by-partlabel/") {
            Self::PartLabel(text(&unescape_udev(name)))
        } else if let Some(name) = field.strip_prefix(b"/dev/disk/by-id/") {
            Self::ById(text(name))
        } else {
            Self::Path(field.to_vec())
        }
    }
}

impl std::fmt::Display for MountSpec {
    /// Writes it as fstab does.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(formatter, "UUID={uuid}"),
            Self::Label(label) => write!(formatter, "LABEL={}", label.escape_ascii()),
            Self::PartUuid(uuid) => write!(formatter, "PARTUUID={uuid}"),
            Self::PartLabel(label) => write!(formatter, "PARTLABEL={label}"),
            Self::ById(id) => write!(formatter, "ID={id}"),
            Self::Path(path) => write!(formatter, "{}", path.escape_ascii()),
        }
    }
}

fn as_written<S: serde::Serializer>(spec: &MountSpec, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(spec)
}

/// Something that a system mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountEntry {
    /// What is mounted.
    #[serde(serialize_with = "as_written")]
    pub spec: MountSpec,
    /// The folder that it is mounted on; `none` or `swap` for swap space.
    #[serde(serialize_with = "lossy")]
    pub mountpoint: Vec<u8>,
    /// The filesystem's type: `ext4`, `auto`, `swap`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The options, one by one: `subvol=@home`, `bind`, `noauto`.
    pub options: Vec<String>,
}

impl MountEntry {
    /// Says whether an option is given.
    pub fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option == name)
    }

    /// Returns the value of the last option `name=value`.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the Btrfs subvolume, without slashes around it, or `/` for the topmost one; none for the filesystem's default.
    pub fn subvolume(&self) -> Option<&[u8]> {
        let name = self.option("subvol")?.trim_matches('/');
        Some(if name.is_empty() { b"/" } else { name.as_bytes() })
    }

    /// Returns the number of the Btrfs subvolume, where that is given and no path.
    pub fn subvolume_id(&self) -> Option<u64> {
        if self.subvolume().is_some() { None } else { self.option("subvolid")?.parse().ok() }
    }

    /// Says whether it is a folder that is shown at a second place.
    pub fn is_bind(&self) -> bool {
        self.has_option("bind") || self.has_option("rbind") || matches!(self.kind.as_str(), "bind" | "nullfs" | "null")
    }

    /// Says whether it is swap space.
    pub fn is_swap(&self) -> bool {
        self.kind == "swap" || matches!(self.mountpoint.as_slice(), b"swap" | b"none")
    }
}

/// Resolves the octal escapes of fstab: `\040` is a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|digit| (b'0'..b'8').contains(digit)));
        if let Some(digits) = digits {
            let value = digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            out.push(value as u8);
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

/// Resolves the escapes of udev in the names of links: `\x20` is a space.
fn unescape_udev(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.strip_prefix(b"x").and_then(|after| after.get(..2)).filter(|_| byte == b'\\');
        let value = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        if let Some(value) = value {
            out.push(value);
            rest = &after[3..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

fn options(field: &[u8]) -> Vec<String> {
    let options = field.split(|&byte| byte == b',').filter(|option| !option.is_empty()).take(256);
    options.map(|option| shorten(&String::from_utf8_lossy(option)).to_owned()).collect()
}

/// Reads the lines of fstab.
pub(super) fn parse(bytes: &[u8]) -> Vec<MountEntry> {
    let lines = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.starts_with(b"#"));
    let entries = lines.filter_map(|line| {
        let mut fields = line.split(|byte| byte.is_ascii_whitespace()).filter(|field| !field.is_empty());
        let spec = MountSpec::parse(&unescape(fields.next()?));
        let mountpoint = unescape(fields.next()?);
        let kind = fields.next().unwrap_or(b"auto");
        let kind = shorten(&String::from_utf8_lossy(kind)).to_owned();
        Some(MountEntry { spec, mountpoint, kind, options: options(&unescape(fields.next().unwrap_or_default())) })
    });
    entries.take(MAX_ENTRIES).collect()
}

/// Lists the mount units: those of an administrator, and those of packages that something wants to start.
fn units(guest: &Guest<'_>) -> Vec<Vec<u8>> {
    const OWN: &str = "/etc/systemd/system";
    const PACKAGED: &str = "/usr/lib/systemd/system";
    let mut paths = guest.list_ending(OWN, ".mount");
    let mut wanted = HashSet::new();
    for folder in [OWN, PACKAGED] {
        for ending in [".wants", ".requires"] {
            for wants in guest.list_ending(folder, ending).into_iter().take(MAX_ENTRIES) {
                wanted.extend(guest.list(wants).into_iter().filter(|name| name.ends_with(b".mount")).take(MAX_ENTRIES));
            }
        }
    }
    for path in guest.list_ending(PACKAGED, ".mount") {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        // One of the same name in /etc takes its place, and a link to /dev/null masks it.
        if wanted.contains(name) && !guest.has(join(OWN, name)) {
            paths.push(path);
        }
    }
    paths.truncate(MAX_ENTRIES);
    paths
}

/// Reads fstab and systemd's mount units.
pub(super) fn read(guest: &Guest<'_>) -> Vec<MountEntry> {
    let mut entries = guest.read("/etc/fstab", super::read::SMALL).map(|bytes| parse(&bytes)).unwrap_or_default();
    for path in units(guest) {
        let Some(text) = guest.text(&path) else { continue };
        let unit = Ini::parse(&text);
        let (Some(what), Some(place)) = (unit.get("Mount", "What"), unit.get("Mount", "Where")) else { continue };
        // What fstab says wins: systemd makes units of its lines that these would be in the way of.
        if entries.len() >= MAX_ENTRIES || entries.iter().any(|entry| entry.mountpoint == place.as_bytes()) {
            continue;
        }
        entries.push(MountEntry {
            spec: MountSpec::parse(what.as_bytes()),
            mountpoint: place.as_bytes().to_vec(),
            kind: unit.get("Mount", "Type").unwrap_or("auto").to_owned(),
            options: options(unit.get("Mount", "Options").unwrap_or_default().as_bytes()),
        });
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn every_way_to_name_a_device_is_read() {
        let spec = |field: &str| MountSpec::parse(field.as_bytes());
        assert_eq!(spec("UUID=ab-cd"), MountSpec::Uuid("ab-cd".into()));
        assert_eq!(spec("UUID=\"ab-cd\""), MountSpec::Uuid("ab-cd".into()));
        assert_eq!(spec("LABEL=data disk"), MountSpec::Label(b"data disk".to_vec()));
        assert_eq!(spec("PARTUUID=1234-01"), MountSpec::PartUuid("1234-01".into()));
        assert_eq!(spec("PARTLABEL=esp"), MountSpec::PartLabel("esp".into()));
        assert_eq!(spec("/dev/disk/by-uuid/x"), MountSpec::Uuid("x".into()));
        assert_eq!(spec("/dev/disk/by-label/a\\x20b"), MountSpec::Label(b"a b".to_vec()));
        assert_eq!(spec("/dev/disk/by-id/ata-X-part2"), MountSpec::ById("ata-X-part2".into()));
        assert_eq!(spec("/dev/sda1"), MountSpec::Path(b"/dev/sda1".to_vec()));
        assert_eq!(MountSpec::parse(b"LABEL=\xff").to_string(), "LABEL=\\xff");
    }

    #[test]
    fn fstab_is_read_with_its_escapes_and_short_lines() {
        let entries = parse(
            b"# comment\nUUID=1 / btrfs rw,subvol=/@/,compress=zstd 0 1\n\
              /dev/sdb1\t/mnt/my\\040disk\text4\n\n/srv /export none bind\nbad\nUUID=2 none swap sw 0 0\n",
        );
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[0].subvolume(), Some(b"@".as_slice()));
        assert_eq!(entries[0].option("compress"), Some("zstd"));
        assert_eq!(parse(b"x / btrfs subvol=/")[0].subvolume(), Some(b"/".as_slice()));
        assert_eq!(parse(b"x / btrfs subvolid=256")[0].subvolume_id(), Some(256));
        assert_eq!(entries[1].mountpoint, b"/mnt/my disk");
        assert!(entries[2].is_bind() && !entries[2].is_swap());
        assert!(entries[3].is_swap());
        assert_eq!(parse(b"\\ \\04")[0].mountpoint, b"\\04");
        assert_eq!(parse(b"x /\\777\\")[0].mountpoint, b"/\xff\\");
    }

    #[test]
    fn mount_units_are_read_after_fstab() {
        let unit =
            "[Unit]\nDescription=x\n[Mount]\nWhat=/dev/disk/by-uuid/5\nWhere=/data\nType=xfs\nOptions=noatime,ro\n";
        let tree = Fixture::new()
            .file("etc/fstab", "UUID=1 / ext4 defaults 0 1\n")
            .file("etc/systemd/system/data.mount", unit)
            .file("etc/systemd/system/broken.mount", "[Mount]\nWhat=x\n")
            .tree();
        let entries = read(&Guest::new(&tree));
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[1].spec, MountSpec::Uuid("5".into()));
        // Of those that packages bring only what is wanted, and not in the place of the administrator's.
        let unit = |place: &str| format!("[Mount]\nWhat=/dev/vdb1\nWhere={place}\n");
        let packaged = "usr/lib/systemd/system";
        let tree = Fixture::new()
            .file(&format!("{packaged}/wanted.mount"), unit("/wanted"))
            .file(&format!("{packaged}/tmp.mount"), unit("/tmp"))
            .file(&format!("{packaged}/masked.mount"), unit("/masked"))
            .link("etc/systemd/system/masked.mount", "/dev/null")
            .link(&format!("{packaged}/local-fs.target.wants/wanted.mount"), "../wanted.mount")
            .link("etc/systemd/system/local-fs.target.wants/masked.mount", "/usr/lib/systemd/system/masked.mount")
            .tree();
        let wanted: Vec<Vec<u8>> = read(&Guest::new(&tree)).into_iter().map(|entry| entry.mountpoint).collect();
        assert_eq!(wanted, [b"/wanted"]);
        let entries = entries;
        assert!(entries[1].has_option("ro"));
    }
}
