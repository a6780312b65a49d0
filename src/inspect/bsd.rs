//! FreeBSD, NetBSD and OpenBSD.

use super::linux::{is_unix_root, time_zone};
use super::read::{Guest, Variables, plain_lines, shorten};
use super::types::{Kind, System, Version};
use super::{elf, osinfo};

/// Describes the BSD whose root a tree is.
pub(super) fn look(guest: &Guest<'_>) -> Option<System> {
    let mut system = freebsd(guest).or_else(|| netbsd(guest)).or_else(|| openbsd(guest))?;
    if !is_unix_root(guest) {
        return None;
    }
    system.installer = guest.is_dir("/usr/freebsd-dist");
    let rc = |name: &str| Variables::parse(&guest.text("/etc/rc.conf")?).owned(name);
    let myname = || {
        let text = guest.text("/etc/myname")?;
        Some(shorten(plain_lines(&text).next()?).to_owned())
    };
    system.hostname = rc("hostname").or_else(myname).or_else(|| guest.first_line("/etc/hostname"));
    system.keyboard = rc("keymap");
    system.time_zone = time_zone(guest);
    system.arch = elf::of_programs(guest);
    system.osinfo = osinfo::of(&system);
    let (format, management) = match system.kind {
        Kind::FreeBsd => ("pkg", "pkg"),
        Kind::NetBsd => ("pkgsrc", "pkgin"),
        _ => ("pkg", "pkg_add"),
    };
    system.package_format = Some(format.to_owned());
    system.package_management = Some(management.to_owned());
    Some(system)
}

fn freebsd(guest: &Guest<'_>) -> Option<System> {
    if !["/etc/freebsd-update.conf", "/bin/freebsd-version", "/boot/kernel/kernel"]
        .iter()
        .any(|path| guest.is_file(path))
    {
        return None;
    }
    let mut system = System::new(Kind::FreeBsd, "freebsd");
    let script = guest.text("/bin/freebsd-version").unwrap_or_default();
    let release = script.lines().find_map(|line| line.strip_prefix("USERLAND_VERSION="));
    let release = release.map(super::read::unquote).or_else(|| {
        let motd = guest.text("/etc/motd").or_else(|| guest.text("/var/run/motd"))?;
        let line = motd.lines().find(|line| line.starts_with("FreeBSD "))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    });
    system.version = release.as_deref().and_then(Version::parse);
    system.product_name = release.as_deref().map(|release| format!("FreeBSD {release}"));
    system.version_id = release;
    Some(system)
}

fn netbsd(guest: &Guest<'_>) -> Option<System> {
    if !guest.is_file("/netbsd") && !guest.is_file("/etc/release") {
        return None;
    }
    // NetBSD 9.3/amd64
    let line = guest.first_line("/etc/release");
    let named = line.as_deref().is_some_and(|line| line.starts_with("NetBSD"));
    if !named && !guest.is_file("/netbsd") {
        return None;
    }
    let mut system = System::new(Kind::NetBsd, "netbsd");
    let line = line.filter(|_| named);
    system.version = line.as_deref().and_then(Version::parse);
    let release = line.as_deref().and_then(|line| line.strip_prefix("NetBSD ")).and_then(|rest| rest.split('/').next());
    system.version_id = release.map(str::to_owned);
    system.product_name = line;
    Some(system)
}

fn openbsd(guest: &Guest<'_>) -> Option<System> {
    let motd = guest.text("/etc/motd").unwrap_or_default();
    let line = motd.lines().find(|line| line.starts_with("OpenBSD "));
    if line.is_none() && !guest.is_file("/bsd") {
        return None;
    }
    let mut system = System::new(Kind::OpenBsd, "openbsd");
    // OpenBSD 7.4 (GENERIC.MP) #1397: Tue Oct 10 09:02:37 MDT 2023
    let release = line.and_then(|line| line.split_whitespace().nth(1));
    system.version = release.and_then(Version::parse);
    system.version_id = release.map(str::to_owned);
    system.product_name = release.map(|release| format!("OpenBSD {release}"));
    Some(system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::elf::tests::elf;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn each_bsd_is_known_by_its_own_files() {
        let base = || Fixture::new().file("bin/sh", elf(62, true, true)).file("etc/fstab", "").file("etc/passwd", "");
        let freebsd = base()
            .file("bin/freebsd-version", "#!/bin/sh\nUSERLAND_VERSION=\"13.2-RELEASE-p4\"\n")
            .file("etc/rc.conf", "hostname=\"fb.example.org\"\nsshd_enable=\"YES\"\n")
            .tree();
        let system = look(&Guest::new(&freebsd)).expect("FreeBSD");
        assert_eq!((system.kind, system.major(), system.minor()), (Kind::FreeBsd, 13, 2));
        assert_eq!(system.hostname.as_deref(), Some("fb.example.org"));
        assert_eq!(system.osinfo.as_deref(), Some("freebsd13.2"));
        assert_eq!(system.arch.as_deref(), Some("x86_64"));
        let netbsd = base().file("etc/release", "NetBSD 9.3/amd64\n").file("netbsd", "").tree();
        let system = look(&Guest::new(&netbsd)).expect("NetBSD");
        assert_eq!((system.kind, system.version_id.as_deref()), (Kind::NetBsd, Some("9.3")));
        let openbsd = base()
            .file("etc/motd", "OpenBSD 7.4 (GENERIC.MP) #1397: Tue Oct 10\n\nWelcome\n")
            .file("etc/myname", "ob.example.org\n")
            .tree();
        let system = look(&Guest::new(&openbsd)).expect("OpenBSD");
        assert_eq!((system.kind, system.major(), system.minor()), (Kind::OpenBsd, 7, 4));
        assert_eq!(system.hostname.as_deref(), Some("ob.example.org"));
        assert_eq!(look(&Guest::new(&base().tree())), None);
    }
}
