//! dpkg: `/var/lib/dpkg/status`, `status.d` of images without dpkg, and opkg's status, which has the same form.
//!
//! The form is specified in deb-control(5) and dpkg-query(1): paragraphs of `Field: value` lines, further lines of a
//! field begin with a space.

use super::{Collected, number, prose, split_version, text};
use crate::fs::Attr;
use crate::inspect::read::{DATABASE, Guest};
use crate::inspect::types::Package;

const INFO: &str = "/var/lib/dpkg/info";

/// Reads the databases of dpkg and opkg.
pub(super) fn read(guest: &Guest<'_>, all: &mut Collected) {
    if let Some(bytes) = guest.read("/var/lib/dpkg/status", DATABASE) {
        parse(&bytes, all);
        install_times(guest, &mut all.packages);
    }
    for path in guest.list_ending("/var/lib/dpkg/status.d", "") {
        if path.ends_with(b".md5sums") || all.is_full() {
            continue;
        }
        let Some(bytes) = guest.read(&path, DATABASE) else { continue };
        parse(&bytes, all);
    }
    for path in ["/usr/lib/opkg/status", "/var/lib/opkg/status"] {
        if let Some(bytes) = guest.read(path, DATABASE) {
            parse(&bytes, all);
        }
    }
}

/// The fields of a paragraph, as they stand in the file.
#[derive(Default)]
struct Paragraph<'a> {
    name: &'a [u8],
    status: Option<&'a [u8]>,
    version: &'a [u8],
    arch: &'a [u8],
    size: &'a [u8],
    time: &'a [u8],
    source: &'a [u8],
    url: &'a [u8],
    publisher: &'a [u8],
    description: &'a [u8],
    /// Where the further lines of the description begin and end in the file.
    more: (usize, usize),
}

/// Adds the packages of a status file that are installed.
fn parse(bytes: &[u8], packages: &mut Collected) {
    let mut paragraph = Paragraph::default();
    let mut in_description = false;
    let mut at = 0;
    while at < bytes.len() && !packages.is_full() {
        let rest = &bytes[at..];
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        at += end + 1;
        match line.first() {
            None => {
                finish(&paragraph, bytes, packages);
                paragraph = Paragraph::default();
                in_description = false;
            }
            Some(b' ' | b'\t') => {
                if in_description {
                    paragraph.more.1 = at.min(bytes.len());
                }
            }
            Some(_) => {
                in_description = false;
                let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
                let value = line[colon + 1..].trim_ascii();
                match &line[..colon] {
                    b"Package" => paragraph.name = value,
                    b"Status" => paragraph.status = Some(value),
                    b"Version" => paragraph.version = value,
                    b"Architecture" => paragraph.arch = value,
                    b"Installed-Size" => paragraph.size = value,
                    b"Installed-Time" => paragraph.time = value,
                    b"Source" => paragraph.source = value,
                    b"Homepage" => paragraph.url = value,
                    b"Maintainer" => paragraph.publisher = value,
                    b"Description" => {
                        paragraph.description = value;
                        paragraph.more = (at.min(bytes.len()), at.min(bytes.len()));
                        in_description = true;
                    }
                    _ => {}
                }
            }
        }
    }
    finish(&paragraph, bytes, packages);
}

fn finish(paragraph: &Paragraph<'_>, bytes: &[u8], packages: &mut Collected) {
    if paragraph.name.is_empty() {
        return;
    }
    // Images without dpkg have no states: what is there is installed.
    let installed = paragraph.status.is_none_or(|status| status.ends_with(b" installed"));
    if !installed {
        return;
    }
    let full = text(paragraph.version);
    let (epoch, version, release) = split_version(&full);
    let source = paragraph.source.split(|&byte| byte == b' ').next().unwrap_or_default();
    packages.push(Package {
        name: text(paragraph.name),
        epoch,
        version: version.to_owned(),
        release: release.to_owned(),
        arch: text(paragraph.arch),
        size: number(paragraph.size).and_then(|kilobytes| kilobytes.checked_mul(1024)),
        install_time: number(paragraph.time).and_then(|time| i64::try_from(time).ok()),
        summary: text(paragraph.description),
        description: description(&bytes[paragraph.more.0..paragraph.more.1]),
        url: text(paragraph.url),
        publisher: text(paragraph.publisher),
        source: text(source),
        ..Package::default()
    });
}

/// Takes the space before each further line of a description off; a dot alone is an empty line.
fn description(lines: &[u8]) -> String {
    let mut out = Vec::with_capacity(lines.len());
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line = &line[1..];
        if line != b"." {
            out.extend_from_slice(line);
        }
        out.push(b'\n');
    }
    prose(&out)
}

/// Takes the time when a package was installed from the file that lists what belongs to it.
fn install_times(guest: &Guest<'_>, packages: &mut [Package]) {
    let Some(info) = guest.found(INFO).filter(|info| info.attr.is_dir()) else { return };
    let changed = |name: Vec<u8>| -> Option<i64> {
        let (_, attr): (_, Attr) = guest.tree().lookup(info.node, &name).ok()?;
        Some(attr.mtime.seconds)
    };
    for package in packages {
        if package.install_time.is_none() && !package.name.contains('/') {
            // Packages that may be installed for several architectures have theirs in the name.
            let plain = join_name(&[&package.name, ".list"]);
            package.install_time =
                changed(plain).or_else(|| changed(join_name(&[&package.name, ":", &package.arch, ".list"])));
        }
    }
}

fn join_name(parts: &[&str]) -> Vec<u8> {
    parts.concat().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::of;
    use super::*;
    use crate::inspect::fixture::Fixture;

    const STATUS: &str = "Package: adduser\nStatus: install ok installed\nPriority: important\nInstalled-Size: 686\n\
        Maintainer: Debian Adduser Developers <adduser@packages.debian.org>\nArchitecture: all\nMulti-Arch: foreign\n\
        Version: 3.134\nConffiles:\n /etc/adduser.conf 1b0c\n Version: 9\nDescription: add and remove users and groups\n\
        \x20This package includes the commands.\n .\n Second.\nHomepage: https://example.org\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
        Package: libc6\nStatus: hold ok installed\nSource: glibc (2.36-9)\nArchitecture: amd64\nVersion: 1:2.36-9+deb12u4\n\
        Description: GNU C Library\n";

    #[test]
    fn what_is_installed_is_listed_with_all_its_fields() {
        let tree = Fixture::new()
            .file("var/lib/dpkg/status", STATUS)
            .file_at("var/lib/dpkg/info/adduser.list", "/.\n", 1_700_000_000)
            .file_at("var/lib/dpkg/info/libc6:amd64.list", "/.\n", 1_700_000_001)
            .tree();
        let guest = Guest::new(&tree);
        let packages = of(&guest, read);
        assert_eq!(packages.len(), 2);
        let adduser = &packages[0];
        assert_eq!(
            (adduser.name.as_str(), adduser.version.as_str(), adduser.release.as_str()),
            ("adduser", "3.134", "")
        );
        assert_eq!((adduser.size, adduser.install_time), (Some(686 * 1024), Some(1_700_000_000)));
        assert_eq!(adduser.summary, "add and remove users and groups");
        assert_eq!(adduser.description, "This package includes the commands.\n\nSecond.");
        assert_eq!(adduser.url, "https://example.org");
        let libc = &packages[1];
        assert_eq!(libc.full_version(), "1:2.36-9+deb12u4");
        assert_eq!((libc.source.as_str(), libc.install_time), ("glibc", Some(1_700_000_001)));
        assert_eq!(guest.into_warnings(), [""; 0]);
    }

    #[test]
    fn images_without_dpkg_have_a_file_for_each_package() {
        let tree = Fixture::new()
            .file("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12.4+deb12u5\nArchitecture: amd64\n")
            .file("var/lib/dpkg/status.d/base.md5sums", "Package: no\n")
            .fifo("var/lib/dpkg/status.d/pipe")
            .tree();
        let guest = Guest::new(&tree);
        let packages = of(&guest, read);
        assert_eq!(packages.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["base-files"]);
        assert_eq!(guest.into_warnings().len(), 1);
    }

    #[test]
    fn garbage_is_no_package() {
        for bytes in
            [&b"\n\n\n"[..], b"Package", b"Package:\n", b": \n", b" x\n y", b"Description: a\n b", b"\xff\xfe\n\0"]
        {
            let mut packages = Collected::default();
            parse(bytes, &mut packages);
            assert_eq!(packages.packages, []);
        }
    }
}
