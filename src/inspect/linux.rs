//! Linux: whether a tree is the root of one, and its names and settings.

use super::read::{Guest, Ini, Variables, plain_lines, shorten, tidy};
use super::types::{Kind, System};
use super::{elf, osinfo, release};
use crate::bytes::uuid;

/// What only the root of a Unix system has below `/etc` or `/usr`.
const SIGNS: [&str; 7] = [
    "/etc/os-release",
    "/etc/fstab",
    "/etc/passwd",
    "/etc/hosts",
    "/etc/lsb-release",
    "/usr/lib/os-release",
    "/etc/inittab",
];

/// Says whether a tree looks like the root of a Unix system.
pub(super) fn is_unix_root(guest: &Guest<'_>) -> bool {
    let programs = ["/bin", "/usr/bin", "/sbin/init"];
    guest.is_dir("/etc") && programs.iter().any(|path| guest.has(path)) && SIGNS.iter().any(|path| guest.has(path))
}

/// Describes the Linux whose root a tree is.
pub(super) fn look(guest: &Guest<'_>) -> Option<System> {
    if !is_unix_root(guest) {
        return None;
    }
    let mut system = System::new(Kind::Linux, "unknown");
    if !release::tell(guest, &mut system) && guest.has("/bin/busybox") {
        system.distro = "busybox".into();
    }
    if system.distro == "debian" && guest.has("/etc/hurd") && guest.is_dir("/hurd") {
        system.kind = Kind::Hurd;
    }
    system.arch = elf::of_programs(guest);
    let merged =
        |folder| guest.link(folder).is_some_and(|to| to.strip_prefix(b"/").unwrap_or(&to).starts_with(b"usr/"));
    system.merged_usr = Some(merged("/bin"));
    names(guest, &mut system);
    system.package_format = release::package_format(&system.distro).map(str::to_owned);
    system.package_management = release::package_management(&system.distro, system.major()).map(str::to_owned);
    if system.package_format.is_none() {
        packages_by_database(guest, &mut system);
    }
    system.osinfo = osinfo::of(&system);
    Some(system)
}

/// Tells the packages of a distribution that is not known by name, by the database that is there.
fn packages_by_database(guest: &Guest<'_>, system: &mut System) {
    let known = [
        ("/var/lib/dpkg/status", "deb", "apt"),
        ("/var/lib/rpm", "rpm", "dnf"),
        ("/usr/lib/sysimage/rpm", "rpm", "dnf"),
        ("/usr/share/rpm", "rpm", "dnf"),
        ("/lib/apk/db/installed", "apk", "apk"),
        ("/var/lib/pacman/local", "pacman", "pacman"),
        ("/var/db/pkg", "ebuild", "portage"),
        ("/usr/lib/opkg/status", "opkg", "opkg"),
    ];
    if let Some((_, format, management)) = known.iter().find(|(path, ..)| guest.found(path).is_some()) {
        system.package_format = Some((*format).to_owned());
        system.package_management = Some((*management).to_owned());
    }
}

/// Fills in the names and settings that any Unix with Linux's files has.
pub(super) fn names(guest: &Guest<'_>, system: &mut System) {
    let variable = |path: &str, name: &str| Variables::parse(&guest.text(path)?).owned(name);
    system.hostname = hostname(guest).or_else(|| variable("/etc/sysconfig/network", "HOSTNAME"));
    system.machine_id = machine_id(guest);
    system.time_zone = time_zone(guest);
    system.locale = [
        ("/etc/locale.conf", "LANG"),
        ("/etc/default/locale", "LANG"),
        ("/etc/sysconfig/i18n", "LANG"),
        ("/etc/sysconfig/language", "RC_LANG"),
        ("/etc/environment", "LANG"),
        ("/etc/env.d/02locale", "LANG"),
    ]
    .iter()
    .find_map(|(path, name)| variable(path, name));
    system.keyboard = [
        ("/etc/vconsole.conf", "KEYMAP"),
        ("/etc/default/keyboard", "XKBLAYOUT"),
        ("/etc/vconsole.conf", "XKBLAYOUT"),
        ("/etc/sysconfig/keyboard", "KEYTABLE"),
        ("/etc/sysconfig/keyboard", "KEYMAP"),
        ("/etc/conf.d/keymaps", "keymap"),
        ("/etc/conf.d/loadkmap", "KEYMAP"),
    ]
    .iter()
    .find_map(|(path, name)| variable(path, name));
}

fn hostname(guest: &Guest<'_>) -> Option<String> {
    for path in ["/etc/hostname", "/etc/HOSTNAME"] {
        let Some(text) = guest.text(path) else { continue };
        if let Some(name) = plain_lines(&text).next() {
            return Some(shorten(name).to_owned());
        }
    }
    Variables::parse(&guest.text("/etc/conf.d/hostname")?).owned("hostname")
}

fn machine_id(guest: &Guest<'_>) -> Option<String> {
    let paths = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
    let valid = |id: &String| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    paths.iter().filter_map(|path| guest.first_line(path)).find(valid)
}

/// Finds the time zone's name: written out, or in the link that leads to its file.
pub(super) fn time_zone(guest: &Guest<'_>) -> Option<String> {
    if let Some(target) = guest.link("/etc/localtime") {
        let target = tidy(&target);
        if let Some((_, zone)) = target.split_once("zoneinfo/") {
            let zone = zone.strip_prefix("posix/").or_else(|| zone.strip_prefix("right/")).unwrap_or(zone);
            return Some(zone.to_owned());
        }
    }
    let variable = |path: &str, name: &str| Variables::parse(&guest.text(path)?).owned(name);
    guest
        .first_line("/etc/timezone")
        .or_else(|| guest.first_line("/var/db/zoneinfo"))
        .or_else(|| variable("/etc/sysconfig/clock", "ZONE"))
        .or_else(|| variable("/etc/sysconfig/clock", "TIMEZONE"))
        .or_else(|| guest.first_line("/etc/TZ"))
}

/// Finds the picture that stands for the system.
pub(super) fn icon(guest: &Guest<'_>) -> Option<String> {
    let logo = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| Variables::parse(&guest.text(path)?).owned("LOGO"))
        .filter(|logo| !logo.contains('/') && logo != "." && logo != "..");
    let mut paths = Vec::new();
    if let Some(logo) = logo {
        for size in ["256x256", "128x128", "96x96", "64x64", "48x48", "scalable"] {
            let ending = if size == "scalable" { "svg" } else { "png" };
            paths.push(format!("/usr/share/icons/hicolor/{size}/apps/{logo}.{ending}"));
        }
        paths.push(format!("/usr/share/pixmaps/{logo}.png"));
        paths.push(format!("/usr/share/pixmaps/{logo}.svg"));
    }
    paths.extend(
        [
            "/usr/share/icons/hicolor/96x96/apps/system-logo-icon.png",
            "/usr/share/icons/hicolor/96x96/apps/fedora-logo-icon.png",
            "/usr/share/pixmaps/redhat/shadowman-transparent.png",
            "/usr/share/pixmaps/debian-logo.png",
            "/usr/share/icons/gnome/24x24/places/ubuntu-logo.png",
            "/usr/share/icons/hicolor/24x24/apps/distributor.png",
            "/usr/share/pixmaps/archlinux-logo.png",
            "/usr/share/plymouth/ubuntu-logo.png",
            "/usr/share/desktop-base/debian-logos/logo-128.png",
            "/etc/favicon.png",
        ]
        .map(str::to_owned),
    );
    paths.into_iter().find(|path| guest.is_file(path))
}

/// Says whether media hold a system that runs from them.
pub(super) fn is_live(guest: &Guest<'_>) -> bool {
    let places = ["/casper", "/live", "/LiveOS", "/arch/x86_64/airootfs.sfs", "/nix-store.squashfs", "/image.squashfs"];
    places.iter().any(|path| guest.has(path)) && !guest.is_dir("/install/netboot")
}

/// Says whether installation media hold no packages: they are fetched while it installs.
pub(super) fn is_netinst(guest: &Guest<'_>) -> bool {
    if let Some(info) = guest.first_line("/.disk/info") {
        return ["netinst", "businesscard", "mini"].iter().any(|word| info.to_ascii_lowercase().contains(word));
    }
    let packages = ["/Packages", "/repodata", "/BaseOS", "/Fedora", "/Server", "/RedHat", "/media.repo"];
    guest.has("/.treeinfo") && !is_live(guest) && !packages.iter().any(|path| guest.has(path))
}

/// Says whether installation media are one disc of several.
pub(super) fn is_multipart(guest: &Guest<'_>) -> bool {
    let Some(text) = guest.text("/.treeinfo") else { return false };
    let tree = Ini::parse(&text);
    let count = |section| tree.get(section, "totaldiscs").and_then(|count| count.parse::<u32>().ok());
    count("media").or_else(|| count("general")).is_some_and(|count| count > 1)
}

/// Finds the system of installation or live media, by the marks that their makers leave.
pub(super) fn media(guest: &Guest<'_>) -> Option<System> {
    let mut system = System::new(Kind::Linux, "unknown");
    system.installer = true;
    if let Some(info) = guest.first_line("/.disk/info") {
        // Ubuntu-Server 22.04.3 LTS "Jammy Jellyfish" - Release amd64 (20230810)
        let lower = info.to_ascii_lowercase();
        system.distro = ["ubuntu", "kali", "linux mint", "debian"]
            .iter()
            .find(|name| lower.contains(*name))
            .map_or("unknown", |name| match *name {
                "kali" => "kalilinux",
                "linux mint" => "linuxmint",
                name => name,
            })
            .to_owned();
        system.version = super::Version::parse(&info);
        system.codename = info.split('"').nth(1).map(str::to_owned);
        system.arch = ["amd64", "i386", "arm64", "ppc64el", "s390x", "armhf", "riscv64"]
            .iter()
            .find(|arch| info.contains(*arch))
            .map(|arch| match *arch {
                "amd64" => "x86_64",
                "arm64" => "aarch64",
                "ppc64el" => "ppc64le",
                "armhf" => "arm",
                arch => arch,
            })
            .map(str::to_owned);
        system.product_name = Some(info);
    } else if let Some(text) = guest.text("/.treeinfo").or_else(|| guest.text("/.discinfo")) {
        let tree = Ini::parse(&text);
        let family = tree.get("general", "family").or_else(|| text.lines().nth(1))?.to_owned();
        let lower = family.to_ascii_lowercase();
        let known = [
            ("fedora", "fedora"),
            ("red hat enterprise", "rhel"),
            ("centos", "centos"),
            ("oracle", "oraclelinux"),
            ("rocky", "rocky"),
            ("almalinux", "almalinux"),
            ("scientific", "scientificlinux"),
        ];
        let found = known.iter().find(|(name, _)| lower.contains(name));
        system.distro = found.map_or("unknown", |(_, distro)| distro).to_owned();
        let version = tree.get("general", "version").map_or(family.clone(), str::to_owned);
        system.version = super::Version::parse(&version);
        system.version_id = tree.get("general", "version").map(str::to_owned);
        system.arch = tree.get("general", "arch").map(str::to_owned);
        system.product_name = tree.get("general", "name").map(str::to_owned).or(Some(family));
        system.product_variant = tree.get("general", "variant").map(str::to_owned);
    } else if let Some(version) = guest.first_line("/.alpine-release") {
        system.distro = "alpinelinux".into();
        system.version = super::Version::parse(&version);
        system.product_name = Some(version);
    } else if guest.is_dir("/arch/boot") && guest.is_dir("/arch") {
        system.distro = "archlinux".into();
        system.build_id = guest.first_line("/arch/version");
        system.product_name = Some("Arch Linux".into());
    } else if guest.is_dir("/nix-store") || guest.is_file("/nix-store.squashfs") {
        system.distro = "nixos".into();
        system.product_name = Some("NixOS".into());
    } else if guest.is_file("/media.1/products") {
        let line = guest.first_line("/media.1/products")?;
        system.distro = if line.to_ascii_lowercase().contains("opensuse") { "opensuse" } else { "sles" }.into();
        system.version = super::Version::parse(&line);
        system.product_name = Some(line);
    } else if is_live(guest)
        || ["/isolinux/isolinux.cfg", "/isolinux/isolinux.bin"].iter().any(|path| guest.is_file(path))
    {
        // Nothing says whose they are; the boot menu may.
        let menu = ["/isolinux/isolinux.cfg", "/boot/grub/grub.cfg", "/EFI/BOOT/grub.cfg"];
        let menu = menu.iter().find_map(|path| guest.text(path)).unwrap_or_default().to_ascii_lowercase();
        let known = [
            ("fedora", "fedora"),
            ("centos", "centos"),
            ("rocky", "rocky"),
            ("almalinux", "almalinux"),
            ("opensuse", "opensuse"),
            ("ubuntu", "ubuntu"),
            ("debian", "debian"),
            ("arch linux", "archlinux"),
            ("gentoo", "gentoo"),
        ];
        let found = known.iter().find(|(name, _)| menu.contains(name));
        system.distro = found.map_or("unknown", |(_, distro)| distro).to_owned();
    } else {
        return None;
    }
    system.package_format = release::package_format(&system.distro).map(str::to_owned);
    system.package_management = release::package_management(&system.distro, system.major()).map(str::to_owned);
    system.osinfo = osinfo::of(&system);
    Some(system)
}

/// Formats a machine id of 16 bytes as `/etc/machine-id` has it.
pub(super) fn machine_id_text(id: &[u8; 16]) -> String {
    uuid(id).replace('-', "")
}
