//! The short ids of libosinfo: `debian12`, `win2k19`.

use super::types::{Kind, System};

/// Returns the short id of a system, where its version is known well enough.
pub(super) fn of(system: &System) -> Option<String> {
    let (major, minor) = (system.major(), system.minor());
    let distro = system.distro.as_str();
    match system.kind {
        Kind::Linux | Kind::Hurd => linux(system, distro, major, minor),
        Kind::FreeBsd | Kind::NetBsd | Kind::OpenBsd => (major > 0).then(|| format!("{}{major}.{minor}", system.kind)),
        Kind::Dos => (distro == "freedos" && major > 0).then(|| format!("freedos{major}.{minor}")),
        Kind::Windows => windows(system, major, minor).map(str::to_owned),
    }
}

fn linux(system: &System, distro: &str, major: u32, minor: u32) -> Option<String> {
    let name = system.product_name.as_deref().unwrap_or_default();
    Some(match distro {
        "archlinux" | "gentoo" | "voidlinux" => distro.into(),
        // MicroOS and Aeon have the date of a snapshot for their version, and no id.
        "opensuse" if major > 1000 && !name.contains("Tumbleweed") => return None,
        "opensuse" if name.contains("Tumbleweed") => "opensusetumbleweed".into(),
        "nixos" => format!("nixos-{}", system.version_id.as_deref()?),
        "cirros" if minor > 0 => format!("cirros{major}.{minor}"),
        _ if major == 0 => return None,
        "centos" if name.contains("Stream") => format!("centos-stream{major}"),
        "centos" if major >= 8 => format!("centos{major}"),
        "centos" if major == 7 => "centos7.0".into(),
        "debian" | "fedora" | "mageia" | "rocky" | "almalinux" | "linuxmint" => format!(
            "{}{major}",
            match distro {
                "linuxmint" => "mint",
                distro => distro,
            }
        ),
        "oraclelinux" => format!("ol{major}.{minor}"),
        "ubuntu" => format!("ubuntu{major}.{minor:02}"),
        "sles" if name.contains("Micro") => return None,
        "sles" if minor == 0 => format!("sles{major}"),
        "sles" => format!("sles{major}sp{minor}"),
        "amzn" => format!("amazonlinux{major}"),
        "rhel" | "opensuse" | "alpinelinux" | "altlinux" | "scientificlinux" | "mandriva" | "slackware"
        | "pldlinux" | "meego" => {
            let distro = if distro == "scientificlinux" { "scientific" } else { distro };
            format!("{distro}{major}.{minor}")
        }
        _ => return None,
    })
}

fn windows(system: &System, major: u32, minor: u32) -> Option<&'static str> {
    let name = system.product_name.as_deref().unwrap_or_default();
    let variant = system.product_variant.as_deref().unwrap_or_default();
    let build: u32 = system.build_id.as_deref().and_then(|build| build.parse().ok()).unwrap_or(0);
    let server = variant.starts_with("Server") || name.contains("Server");
    Some(match (major, minor, server) {
        (5, 0, _) => "win2k",
        (5, 1, _) => "winxp",
        (5, 2, _) if name.contains("XP") => "winxp",
        (5, 2, _) if name.contains("R2") => "win2k3r2",
        (5, 2, _) => "win2k3",
        (6, 0, false) => "winvista",
        (6, 0, true) => "win2k8",
        (6, 1, false) => "win7",
        (6, 1, true) => "win2k8r2",
        (6, 2, false) => "win8",
        (6, 2, true) => "win2k12",
        (6, 3, false) => "win8.1",
        (6, 3, true) => "win2k12r2",
        (10, 0, false) if build >= 22000 => "win11",
        (10, 0, false) => "win10",
        (10, 0, true) if name.contains("2025") || build >= 26100 => "win2k25",
        (10, 0, true) if name.contains("2022") || build >= 20348 => "win2k22",
        (10, 0, true) if name.contains("2019") || build >= 17763 => "win2k19",
        (10, 0, true) => "win2k16",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::types::Version;

    fn id(kind: Kind, distro: &str, major: u32, minor: u32, name: &str) -> Option<String> {
        let mut system = System::new(kind, distro);
        system.version = Some(Version { major, minor });
        system.product_name = Some(name.into());
        of(&system)
    }

    #[test]
    fn the_ids_are_those_of_libosinfo() {
        assert_eq!(id(Kind::Linux, "debian", 12, 5, "").as_deref(), Some("debian12"));
        assert_eq!(id(Kind::Linux, "ubuntu", 22, 4, "").as_deref(), Some("ubuntu22.04"));
        assert_eq!(id(Kind::Linux, "rhel", 9, 3, "").as_deref(), Some("rhel9.3"));
        assert_eq!(id(Kind::Linux, "centos", 9, 0, "CentOS Stream 9").as_deref(), Some("centos-stream9"));
        assert_eq!(id(Kind::Linux, "sles", 15, 5, "").as_deref(), Some("sles15sp5"));
        assert_eq!(id(Kind::FreeBsd, "freebsd", 13, 2, "").as_deref(), Some("freebsd13.2"));
        assert_eq!(id(Kind::Windows, "windows", 6, 1, "Windows 7 Professional").as_deref(), Some("win7"));
        assert_eq!(id(Kind::Windows, "windows", 10, 0, "Windows Server 2019 Standard").as_deref(), Some("win2k19"));
        assert_eq!(id(Kind::Linux, "unknown", 1, 0, ""), None);
    }
}
