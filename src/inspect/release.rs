//! Which distribution of Linux it is: os-release, lsb-release, and the files that each distribution had before those.
//!
//! os-release is specified in os-release(5), lsb-release in the Linux Standard Base.

use super::read::{Guest, Variables, plain_lines, tidy};
use super::types::{System, Version};

/// The files of os-release, the first that is there counts.
const OS_RELEASE: [&str; 3] = ["/etc/os-release", "/usr/lib/os-release", "/etc/initrd-release"];

/// Fills in what the release files tell. Returns whether any did.
pub(super) fn tell(guest: &Guest<'_>, system: &mut System) -> bool {
    let by_os_release = os_release(guest, system);
    // These two write only the first number into os-release.
    let coarse = matches!(system.distro.as_str(), "debian" | "centos") && system.minor() == 0;
    if by_os_release && !coarse {
        return true;
    }
    if by_os_release {
        refine(guest, system);
        return true;
    }
    lsb_release(guest, system) || own_file(guest, system)
}

/// Returns libguestfs's name of a distribution for the `ID` of os-release.
fn distro_of_id(id: &str) -> &str {
    match id {
        "alpine" => "alpinelinux",
        "arch" => "archlinux",
        "kali" => "kalilinux",
        "ol" => "oraclelinux",
        "opensuse-leap"
        | "opensuse-tumbleweed"
        | "opensuse-microos"
        | "opensuse-leap-micro"
        | "suse"
        | "aeon"
        | "kalpa" => "opensuse",
        "pld" => "pldlinux",
        "scientific" => "scientificlinux",
        "sled" | "sles_sap" | "sle_hpc" | "sle-micro" | "sl-micro" => "sles",
        "void" => "voidlinux",
        "redhat" => "rhel",
        other => other,
    }
}

fn os_release(guest: &Guest<'_>, system: &mut System) -> bool {
    let Some(text) = OS_RELEASE.iter().find_map(|path| guest.text(path)) else { return false };
    let variables = Variables::parse(&text);
    let Some(id) = variables.get("ID").map(str::to_ascii_lowercase) else { return false };
    system.distro = distro_of_id(&id).to_owned();
    system.product_name = variables.owned("PRETTY_NAME").or_else(|| variables.owned("NAME"));
    system.product_variant = variables.owned("VARIANT");
    system.version_id = variables.owned("VERSION_ID");
    // Rolling distributions may carry the date of a snapshot here.
    system.version = variables.get("VERSION_ID").and_then(Version::parse);
    system.build_id = variables.owned("BUILD_ID").or_else(|| variables.owned("OSTREE_VERSION"));
    system.codename = variables.owned("VERSION_CODENAME").or_else(|| variables.owned("UBUNTU_CODENAME"));
    if system.codename.is_none() {
        system.codename = variables.get("VERSION").and_then(bracketed);
    }
    true
}

/// Returns what stands between the last brackets: `7 (Core)` → `Core`.
fn bracketed(text: &str) -> Option<String> {
    let inside = text[text.rfind('(')? + 1..].split(')').next()?;
    (!inside.is_empty()).then(|| inside.to_owned())
}

/// Finds the second number of a version that os-release leaves out.
fn refine(guest: &Guest<'_>, system: &mut System) {
    let path = if system.distro == "debian" { "/etc/debian_version" } else { "/etc/centos-release" };
    let Some(line) = guest.first_line(path) else { return };
    let Some(version) = Version::parse(&line) else {
        // Of Debian's testing and unstable: "trixie/sid".
        if system.codename.is_none() && system.distro == "debian" {
            system.codename = line.split('/').next().map(str::to_owned);
        }
        return;
    };
    if system.version.is_none_or(|known| known.major == version.major) {
        system.version = Some(version);
        if system.distro == "centos" {
            system.product_name = Some(line);
        }
    }
}

fn lsb_release(guest: &Guest<'_>, system: &mut System) -> bool {
    let Some(text) = guest.text("/etc/lsb-release") else { return false };
    let variables = Variables::parse(&text);
    let Some(id) = variables.get("DISTRIB_ID") else { return false };
    let distro = match id {
        "CentOS" => "centos",
        "LinuxMint" => "linuxmint",
        "Ubuntu" => "ubuntu",
        "Mageia" => "mageia",
        "MandrivaLinux" => "mandriva",
        "openSUSE project" => "opensuse",
        "Arch" | "arch" => "archlinux",
        "Kylin" => "kylin",
        "Debian" => "debian",
        // Others come with a file of their own that says more.
        _ => return false,
    };
    system.distro = distro.to_owned();
    system.product_name = variables.owned("DISTRIB_DESCRIPTION");
    system.version_id = variables.owned("DISTRIB_RELEASE");
    system.version = variables.get("DISTRIB_RELEASE").and_then(Version::parse);
    system.codename = variables.owned("DISTRIB_CODENAME");
    true
}

/// A file that a distribution had before os-release.
struct OwnFile {
    path: &'static str,
    distro: &'static str,
    /// Whether its first line is a version alone, which makes no name.
    bare: bool,
}

const fn own(path: &'static str, distro: &'static str) -> OwnFile {
    OwnFile { path, distro, bare: false }
}

const fn bare(path: &'static str, distro: &'static str) -> OwnFile {
    OwnFile { path, distro, bare: true }
}

/// The files in the order in which they are looked for: kin of a distribution often carry its file beside their own.
const OWN_FILES: [OwnFile; 27] = [
    own("/etc/oracle-release", "oraclelinux"),
    own("/etc/almalinux-release", "almalinux"),
    own("/etc/rocky-release", "rocky"),
    own("/etc/centos-release", "centos"),
    own("/etc/altlinux-release", "altlinux"),
    own("/etc/mageia-release", "mageia"),
    own("/etc/mandriva-release", "mandriva"),
    own("/etc/fedora-release", "fedora"),
    own("/etc/redhat-release", "redhat-based"),
    own("/etc/photon-release", "photon"),
    own("/etc/system-release", "redhat-based"),
    own("/etc/SuSE-release", "suse-based"),
    bare("/etc/openwrt_version", "openwrt"),
    bare("/etc/cirros/version", "cirros"),
    bare("/etc/br-version", "buildroot"),
    bare("/etc/debian_version", "debian"),
    own("/etc/pardus-release", "pardus"),
    own("/etc/arch-release", "archlinux"),
    own("/etc/gentoo-release", "gentoo"),
    own("/etc/meego-release", "meego"),
    own("/etc/slackware-version", "slackware"),
    own("/etc/ttylinux-target", "ttylinux"),
    bare("/etc/alpine-release", "alpinelinux"),
    own("/etc/frugalware-release", "frugalware"),
    own("/etc/pld-release", "pldlinux"),
    own("/etc/neokylin-release", "neokylin"),
    own("/etc/NIXOS", "nixos"),
];

fn own_file(guest: &Guest<'_>, system: &mut System) -> bool {
    let Some(own) = OWN_FILES.iter().find(|own| guest.is_file(own.path)) else { return false };
    let text = guest.text(own.path).unwrap_or_default();
    let line = tidy(text.lines().next().unwrap_or_default().as_bytes());
    system.distro = match own.distro {
        "redhat-based" | "suse-based" => distro_of_line(&line).unwrap_or(own.distro).to_owned(),
        distro => distro.to_owned(),
    };
    system.version = Version::parse(&line);
    system.codename = bracketed(&line).filter(|name| !name.contains("64") && !name.contains("86"));
    if own.distro == "debian" && system.version.is_none() {
        system.codename = line.split('/').next().filter(|name| !name.is_empty()).map(str::to_owned);
    }
    if own.distro == "suse-based" {
        suse(&text, system);
    }
    if own.distro == "photon" {
        system.build_id = Variables::parse(&text).owned("PHOTON_BUILD_NUMBER");
    }
    if !own.bare && !line.is_empty() {
        system.product_name = Some(line);
    } else if own.bare && !line.is_empty() {
        system.version_id = Some(line);
    }
    true
}

/// Returns the distribution that a line of redhat-release, system-release or SuSE-release is about.
fn distro_of_line(line: &str) -> Option<&'static str> {
    let line = line.to_ascii_lowercase();
    let known = [
        ("fedora", "fedora"),
        ("red hat enterprise", "rhel"),
        ("red hat linux", "redhat-based"),
        ("centos", "centos"),
        ("scientific linux", "scientificlinux"),
        ("oracle linux", "oraclelinux"),
        ("rocky", "rocky"),
        ("almalinux", "almalinux"),
        ("amazon linux", "amzn"),
        ("opensuse", "opensuse"),
        ("suse linux enterprise", "sles"),
        ("novell linux desktop", "sles"),
        ("suse linux", "opensuse"),
    ];
    known.iter().find(|(start, _)| line.contains(start)).map(|&(_, distro)| distro)
}

/// Reads the `VERSION` and `PATCHLEVEL` lines of SuSE-release.
fn suse(text: &str, system: &mut System) {
    let pairs: Vec<(&str, &str)> = plain_lines(text)
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect();
    let get = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|&(_, value)| value);
    if let Some(mut version) = get("VERSION").and_then(Version::parse) {
        if let Some(level) = get("PATCHLEVEL").and_then(|level| level.parse().ok()) {
            version.minor = level;
        }
        system.version = Some(version);
        system.version_id = get("VERSION").map(str::to_owned);
    }
    system.codename = get("CODENAME").map(str::to_owned);
}

/// Returns the format of a distribution's packages by libguestfs's name for it.
pub(super) fn package_format(distro: &str) -> Option<&'static str> {
    Some(match distro {
        "fedora" | "meego" | "redhat-based" | "rhel" | "mageia" | "mandriva" | "openmandriva" | "suse-based"
        | "opensuse" | "sles" | "centos" | "scientificlinux" | "oraclelinux" | "rocky" | "almalinux" | "circle"
        | "altlinux" | "pldlinux" | "amzn" | "photon" | "mariner" | "azurelinux" | "openeuler" | "neokylin"
        | "virtuozzo" | "eurolinux" | "anolis" | "coreos" | "rhcos" => "rpm",
        "debian" | "ubuntu" | "linuxmint" | "kalilinux" | "kylin" | "raspbian" | "devuan" | "deepin" | "pop"
        | "elementary" | "proxmox" | "parrot" | "pureos" => "deb",
        "alpinelinux" | "postmarketos" | "wolfi" | "chainguard" => "apk",
        "archlinux" | "frugalware" | "blackarch" | "manjaro" | "artix" | "endeavouros" | "archarm" | "cachyos" => {
            "pacman"
        }
        "gentoo" | "funtoo" | "flatcar" => "ebuild",
        "pardus" => "pisi",
        "voidlinux" => "xbps",
        "nixos" => "nix",
        "slackware" => "slackpkg",
        "openwrt" => "opkg",
        _ => return None,
    })
}

/// Returns what manages a distribution's packages.
pub(super) fn package_management(distro: &str, major: u32) -> Option<&'static str> {
    Some(match distro {
        "fedora" if major != 0 && major < 22 => "yum",
        "redhat-based" | "rhel" | "centos" | "scientificlinux" | "oraclelinux" if major != 0 && major < 5 => "up2date",
        "redhat-based" | "rhel" | "centos" | "scientificlinux" | "oraclelinux" if major != 0 && major < 8 => "yum",
        "amzn" if major < 2022 => "yum",
        "photon" | "azurelinux" | "mariner" => "tdnf",
        "meego" => "yum",
        "mageia" | "mandriva" => "urpmi",
        "altlinux" => "apt",
        "pldlinux" => "poldek",
        "suse-based" | "opensuse" | "sles" => "zypper",
        "pardus" => "pisi",
        "voidlinux" => "xbps",
        "nixos" => "nix",
        "slackware" => "slackpkg",
        "openwrt" => "opkg",
        "gentoo" | "funtoo" => "portage",
        "frugalware" | "archlinux" => "pacman",
        "flatcar" => return None,
        distro => match package_format(distro)? {
            "rpm" => "dnf",
            "deb" => "apt",
            other => other,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;
    use crate::inspect::types::Kind;

    fn told(files: &[(&str, &str)]) -> System {
        let fixture = files.iter().fold(Fixture::new(), |fixture, (path, text)| fixture.file(path, *text));
        let tree = fixture.tree();
        let mut system = System::new(Kind::Linux, "unknown");
        tell(&Guest::new(&tree), &mut system);
        system
    }

    fn brief(files: &[(&str, &str)]) -> (String, u32, u32, String) {
        let system = told(files);
        (system.distro.clone(), system.major(), system.minor(), system.codename.unwrap_or_default())
    }

    fn expect(distro: &str, major: u32, minor: u32, codename: &str) -> (String, u32, u32, String) {
        (distro.to_owned(), major, minor, codename.to_owned())
    }

    #[test]
    fn os_release_tells_most() {
        let ubuntu = "PRETTY_NAME=\"Ubuntu 22.04.3 LTS\"\nNAME=\"Ubuntu\"\nVERSION_ID=\"22.04\"\n\
            VERSION=\"22.04.3 LTS (Jammy Jellyfish)\"\nVERSION_CODENAME=jammy\nID=ubuntu\nID_LIKE=debian\n";
        let system = told(&[("etc/os-release", ubuntu), ("etc/debian_version", "bookworm/sid\n")]);
        assert_eq!(system.product_name.as_deref(), Some("Ubuntu 22.04.3 LTS"));
        assert_eq!((system.major(), system.minor()), (22, 4));
        assert_eq!(system.codename.as_deref(), Some("jammy"));
        let fedora = "NAME=\"Fedora Linux\"\nVERSION=\"39 (Server Edition)\"\nID=fedora\nVERSION_ID=39\n\
            VARIANT=\"Server Edition\"\nVERSION_CODENAME=\"\"\nPRETTY_NAME=\"Fedora Linux 39 (Server Edition)\"\n";
        let system =
            told(&[("usr/lib/os-release", fedora), ("etc/redhat-release", "Fedora release 39 (Thirty Nine)\n")]);
        assert_eq!((system.distro.as_str(), system.major()), ("fedora", 39));
        assert_eq!(system.product_variant.as_deref(), Some("Server Edition"));
        let arch = "NAME=\"Arch Linux\"\nPRETTY_NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n";
        let system = told(&[("etc/os-release", arch), ("etc/arch-release", "")]);
        assert_eq!((system.distro.as_str(), system.version), ("archlinux", None));
        assert_eq!(system.build_id.as_deref(), Some("rolling"));
    }

    #[test]
    fn debian_and_centos_have_their_second_number_elsewhere() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\n\
            VERSION=\"12 (bookworm)\"\nVERSION_CODENAME=bookworm\n";
        let found = brief(&[("etc/os-release", debian), ("etc/debian_version", "12.5\n")]);
        assert_eq!(found, expect("debian", 12, 5, "bookworm"));
        let sid = "PRETTY_NAME=\"Debian GNU/Linux forky/sid\"\nID=debian\n";
        let found = brief(&[("etc/os-release", sid), ("etc/debian_version", "forky/sid\n")]);
        assert_eq!(found, expect("debian", 0, 0, "forky"));
        let centos = "NAME=\"CentOS Linux\"\nVERSION=\"7 (Core)\"\nID=\"centos\"\nVERSION_ID=\"7\"\n\
            PRETTY_NAME=\"CentOS Linux 7 (Core)\"\n";
        let system =
            told(&[("etc/os-release", centos), ("etc/centos-release", "CentOS Linux release 7.9.2009 (Core)\n")]);
        assert_eq!((system.major(), system.minor(), system.codename.as_deref()), (7, 9, Some("Core")));
        assert_eq!(system.product_name.as_deref(), Some("CentOS Linux release 7.9.2009 (Core)"));
    }

    #[test]
    fn older_systems_have_files_of_their_own() {
        let rhel = "Red Hat Enterprise Linux Server release 6.10 (Santiago)\n";
        assert_eq!(brief(&[("etc/redhat-release", rhel)]), expect("rhel", 6, 10, "Santiago"));
        let centos = [("etc/redhat-release", "CentOS release 5.11 (Final)\n")];
        assert_eq!(brief(&centos), expect("centos", 5, 11, "Final"));
        let amazon = [("etc/system-release", "Amazon Linux AMI release 2018.03\n")];
        assert_eq!(brief(&amazon), expect("amzn", 2018, 3, ""));
        let sles = "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\nPATCHLEVEL = 3\n";
        assert_eq!(brief(&[("etc/SuSE-release", sles)]), expect("sles", 11, 3, ""));
        let suse = "openSUSE 13.1 (x86_64)\nVERSION = 13.1\nCODENAME = Bottle\n";
        assert_eq!(brief(&[("etc/SuSE-release", suse)]), expect("opensuse", 13, 1, "Bottle"));
        assert_eq!(brief(&[("etc/debian_version", "6.0.10\n")]), expect("debian", 6, 0, ""));
        assert_eq!(brief(&[("etc/alpine-release", "3.2.0\n")]), expect("alpinelinux", 3, 2, ""));
        let gentoo = [("etc/gentoo-release", "Gentoo Base System release 2.14\n")];
        assert_eq!(brief(&gentoo), expect("gentoo", 2, 14, ""));
        let photon = "VMware Photon OS 4.0\nPHOTON_BUILD_NUMBER=526e372\n";
        assert_eq!(brief(&[("etc/photon-release", photon)]), expect("photon", 4, 0, ""));
        assert_eq!(brief(&[("etc/slackware-version", "Slackware 14.2\n")]), expect("slackware", 14, 2, ""));
        assert_eq!(brief(&[("etc/cirros/version", "0.5.2\n")]), expect("cirros", 0, 5, ""));
        let ubuntu = "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\nDISTRIB_CODENAME=lucid\n\
            DISTRIB_DESCRIPTION=\"Ubuntu 10.04.4 LTS\"\n";
        let found = brief(&[("etc/lsb-release", ubuntu), ("etc/debian_version", "squeeze/sid\n")]);
        assert_eq!(found, expect("ubuntu", 10, 4, "lucid"));
    }
}
