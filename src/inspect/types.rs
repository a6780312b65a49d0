//! What inspection tells of an operating system.

use serde::{Serialize, Serializer};

/// The family of an operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Linux, whatever the distribution.
    Linux,
    /// Microsoft Windows.
    Windows,
    /// FreeBSD.
    FreeBsd,
    /// NetBSD.
    NetBsd,
    /// OpenBSD.
    OpenBsd,
    /// FreeDOS and MS-DOS.
    Dos,
    /// GNU/Hurd.
    Hurd,
}

impl Kind {
    /// Returns the name that libguestfs has for it (`inspect_get_type`).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
            Self::FreeBsd => "freebsd",
            Self::NetBsd => "netbsd",
            Self::OpenBsd => "openbsd",
            Self::Dos => "dos",
            Self::Hurd => "hurd",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The two numbers of a version that libguestfs tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number; 0 where there is none.
    pub minor: u32,
}

impl Version {
    /// Reads the first number in a text, and the one after it and a dot: `7.9.2009`, `22.04 LTS`, `v3`.
    pub fn parse(text: &str) -> Option<Self> {
        let start = text.find(|letter: char| letter.is_ascii_digit())?;
        let mut numbers = text[start..].split('.').map(|part| {
            let end = part.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(part.len());
            (part[..end].parse::<u32>().ok(), end == part.len())
        });
        let (major, whole) = numbers.next()?;
        let minor = if whole { numbers.next().and_then(|(minor, _)| minor) } else { None };
        Some(Self { major: major?, minor: minor.unwrap_or(0) })
    }
}

/// An operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct System {
    /// The family.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// The distribution by libguestfs's name for it (`rhel`, `debian`, `windows`), or else by its own `ID` in os-release.
    pub distro: String,
    /// The name for people: `Debian GNU/Linux 12 (bookworm)`.
    pub product_name: Option<String>,
    /// The variant: `Server`, `Client`, `Server Edition`.
    pub product_variant: Option<String>,
    /// The version's numbers; none where it has none, as rolling distributions.
    pub version: Option<Version>,
    /// The version as the system spells it: `22.04`, `2018.03`.
    pub version_id: Option<String>,
    /// The code name: `bookworm`.
    pub codename: Option<String>,
    /// The build: `BUILD_ID` of os-release, the build number of Windows.
    pub build_id: Option<String>,
    /// The architecture of its programs: `x86_64`, `i386`, `aarch64`.
    pub arch: Option<String>,
    /// The host's name.
    pub hostname: Option<String>,
    /// The machine id of systemd or D-Bus.
    pub machine_id: Option<String>,
    /// The time zone: `Europe/Zurich`; for Windows by Windows' name for it.
    pub time_zone: Option<String>,
    /// The locale: `de_CH.UTF-8`.
    pub locale: Option<String>,
    /// The keyboard's layout: `ch`, `de-latin1`.
    pub keyboard: Option<String>,
    /// The format of its packages: `deb`, `rpm`, `apk`, `pacman`, `ebuild`.
    pub package_format: Option<String>,
    /// What manages its packages: `apt`, `dnf`, `zypper`.
    pub package_management: Option<String>,
    /// The short id of libosinfo: `debian12`.
    pub osinfo: Option<String>,
    /// Whether `/bin` leads to `/usr/bin`; none where the system is no Linux.
    pub merged_usr: Option<bool>,
    /// Whether this is an installer or a live system on media, not an installation.
    pub installer: bool,
    /// Where the system lies below the root of the filesystem, when it is an ostree deployment.
    pub deployment: Option<Deployment>,
    /// What only Windows has.
    pub windows: Option<WindowsSystem>,
    /// What could not be read, a line each.
    pub warnings: Vec<String>,
}

impl System {
    pub(super) fn new(kind: Kind, distro: &str) -> Self {
        Self {
            kind,
            distro: distro.to_owned(),
            product_name: None,
            product_variant: None,
            version: None,
            version_id: None,
            codename: None,
            build_id: None,
            arch: None,
            hostname: None,
            machine_id: None,
            time_zone: None,
            locale: None,
            keyboard: None,
            package_format: None,
            package_management: None,
            osinfo: None,
            merged_usr: None,
            installer: false,
            deployment: None,
            windows: None,
            warnings: Vec::new(),
        }
    }

    /// Returns the first number of the version; 0 where there is none, as libguestfs has it.
    pub fn major(&self) -> u32 {
        self.version.unwrap_or_default().major
    }

    /// Returns the second number of the version; 0 where there is none.
    pub fn minor(&self) -> u32 {
        self.version.unwrap_or_default().minor
    }
}

/// A deployment of ostree, a whole system in a folder of the filesystem, or one of composefs, whose tree is an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Deployment {
    /// The folder of the deployment: `/ostree/deploy/fedora-coreos/deploy/<checksum>.0`, `/state/deploy/<id>`.
    #[serde(serialize_with = "lossy")]
    pub path: Vec<u8>,
    /// The folder that is `/var` in it: `/ostree/deploy/fedora-coreos/var`.
    #[serde(serialize_with = "lossy")]
    pub var: Vec<u8>,
    /// The image that is the tree, of composefs; its `/etc` lies in the deployment's folder.
    #[serde(serialize_with = "lossy_option")]
    pub image: Option<Vec<u8>>,
}

/// What only Windows has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WindowsSystem {
    /// The folder of the system, as it is spelled: `/Windows`.
    pub system_root: String,
    /// The control set in use: `ControlSet001`.
    pub current_control_set: Option<String>,
    /// The path of the SYSTEM hive.
    pub system_hive: Option<String>,
    /// The path of the SOFTWARE hive.
    pub software_hive: Option<String>,
    /// The edition: `Professional`.
    pub edition: Option<String>,
    /// The build with its revision: `19045.3803`.
    pub full_build: Option<String>,
    /// The release by its public name: `22H2`.
    pub display_version: Option<String>,
    /// When it was installed, in seconds since 1970.
    pub install_time: Option<i64>,
    /// The product id.
    pub product_id: Option<String>,
    /// The owner that was named at installation.
    pub registered_owner: Option<String>,
    /// Whether it is hibernated, or was shut down by fast startup: its disks must not be written. None where that cannot
    /// be read.
    pub hibernated: Option<bool>,
    /// Which drive letter each volume has.
    pub drives: Vec<DriveMapping>,
}

/// What a drive letter of Windows leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriveMapping {
    /// The letter, in upper case.
    pub letter: char,
    /// The volume.
    pub target: DriveTarget,
}

/// How Windows names a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriveTarget {
    /// A partition of an MBR disk.
    Mbr {
        /// The disk's signature.
        signature: u32,
        /// Where the partition begins on the disk, in bytes.
        start: u64,
    },
    /// A partition of a GPT disk, by its GUID in lower case.
    Gpt(String),
    /// Anything else, by the path that Windows has for it: a removable drive.
    Other(String),
}

/// An installed package or application.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Package {
    /// The name.
    pub name: String,
    /// The name for people, where it differs: that of an application of Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// The epoch of the version; 0 where there is none.
    pub epoch: u32,
    /// The version without epoch and release.
    pub version: String,
    /// The release: Debian's revision, rpm's release; empty where there is none.
    pub release: String,
    /// The architecture, as the package spells it.
    pub arch: String,
    /// The space that it takes, in bytes, as its database says.
    pub size: Option<u64>,
    /// When it was installed, in seconds since 1970.
    pub install_time: Option<i64>,
    /// What it is, in a line.
    pub summary: String,
    /// What it is, at length.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its home page.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Who made it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub publisher: String,
    /// The source package that it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Where it is installed, on Windows.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub install_path: String,
}

impl Package {
    /// Returns the version with epoch and release: `1:2.3-4`.
    pub fn full_version(&self) -> String {
        let epoch = if self.epoch == 0 { String::new() } else { format!("{}:", self.epoch) };
        let release = if self.release.is_empty() { String::new() } else { format!("-{}", self.release) };
        format!("{epoch}{}{release}", self.version)
    }
}

/// The packages of a system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Packages {
    /// The packages, in the order of their database, or by name where it has none.
    pub packages: Vec<Package>,
    /// What could not be read, a line each.
    pub warnings: Vec<String>,
}

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// Its path.
    pub path: String,
    /// Its version, from its name.
    pub version: String,
    /// The initial RAM disk that belongs to it.
    pub initrd: Option<String>,
    /// Whether its modules are there.
    pub modules: bool,
}

/// A boot loader and what it offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BootLoader {
    /// Its name: `grub2`, `grub`, `systemd-boot`, `extlinux`, `syslinux`, `bootmgr`.
    pub name: String,
    /// The file that says what it offers.
    pub config: Option<String>,
    /// The title of the entry that boots by itself, as far as the configuration tells.
    pub default_entry: Option<String>,
    /// What it offers.
    pub entries: Vec<BootEntry>,
}

/// An entry of a boot loader's menu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BootEntry {
    /// Its title.
    pub title: String,
    /// The kernel.
    pub kernel: Option<String>,
    /// The initial RAM disk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub options: Option<String>,
}

/// A service that starts by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// When it starts: a target of systemd, a run level, `automatic`.
    pub when: String,
    /// Its name for people, on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it runs, on Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user id; the relative id on Windows.
    pub uid: u32,
    /// The id of the first group.
    pub gid: Option<u32>,
    /// The name for people.
    pub full_name: String,
    /// The home folder.
    pub home: String,
    /// The shell.
    pub shell: String,
    /// Whether the shell lets the user in.
    pub login: bool,
    /// Whether a password lets the user in; none where that cannot be read.
    pub password: Option<PasswordState>,
}

/// What a user's password is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PasswordState {
    /// There is one.
    Set,
    /// There is none, and none is needed.
    Empty,
    /// None lets the user in.
    Locked,
}

/// A group of users.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The name.
    pub name: String,
    /// The group id.
    pub gid: u32,
    /// The users that it names.
    pub members: Vec<String>,
}

/// An SSH host key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostKey {
    /// The path of the public key.
    pub path: String,
    /// Its type: `ssh-ed25519`.
    pub algorithm: String,
    /// Its fingerprint as `ssh-keygen -l` shows it: `SHA256:…`.
    pub fingerprint: String,
}

/// A network interface, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// The interface, or what is matched to find it; the connection's name where it names none.
    pub name: String,
    /// What configures it: `ifupdown`, `NetworkManager`, `netplan`, `networkd`, `ifcfg`, `rc.conf`, `registry`.
    pub source: String,
    /// How it gets its addresses: `dhcp`, `static`, `manual`, `auto`, `disabled`.
    pub method: String,
    /// Its addresses, with their prefix lengths where they are told.
    pub addresses: Vec<String>,
    /// The gateways.
    pub gateways: Vec<String>,
    /// The name servers.
    pub dns: Vec<String>,
    /// The hardware address that it is matched by.
    pub mac: Option<String>,
}

/// A line of crypttab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CryptEntry {
    /// The name below `/dev/mapper`.
    pub name: String,
    /// The encrypted device.
    pub device: String,
    /// The key file, where there is one.
    pub key: Option<String>,
    /// The options.
    pub options: Vec<String>,
}

/// A line of mdadm.conf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArrayEntry {
    /// The device: `/dev/md0`, `/dev/md/name`.
    pub device: String,
    /// The UUID of the array, as mdadm spells it.
    pub uuid: Option<String>,
    /// The name in the array's metadata.
    pub name: Option<String>,
}

/// What SELinux is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SeLinux {
    /// `enforcing`, `permissive` or `disabled`.
    pub mode: String,
    /// The policy: `targeted`.
    pub policy: Option<String>,
}

/// What cloud-init did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CloudInit {
    /// Whether it is switched off.
    pub disabled: bool,
    /// The instance that it ran for.
    pub instance_id: Option<String>,
    /// Where its data came from.
    pub datasource: Option<String>,
    /// Whether it ran to its end.
    pub finished: bool,
    /// What went wrong.
    pub errors: Vec<String>,
}

/// More about a system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Details {
    /// The kernels, the newest last.
    pub kernels: Vec<Kernel>,
    /// The boot loader.
    pub boot_loader: Option<BootLoader>,
    /// The init system: `systemd`, `sysvinit`, `upstart`, `openrc`, `runit`, `busybox`, `bsd`.
    pub init: Option<String>,
    /// The services that start by themselves.
    pub services: Vec<Service>,
    /// The users.
    pub users: Vec<User>,
    /// The groups.
    pub groups: Vec<Group>,
    /// The SSH host keys.
    pub ssh_host_keys: Vec<HostKey>,
    /// The network.
    pub network: Vec<Interface>,
    /// What is mounted at boot.
    #[serde(rename = "fstab")]
    pub mounts: Vec<super::MountEntry>,
    /// The encrypted devices that are opened at boot.
    pub crypttab: Vec<CryptEntry>,
    /// The MD arrays that are told of.
    pub arrays: Vec<ArrayEntry>,
    /// SELinux.
    pub selinux: Option<SeLinux>,
    /// cloud-init, where it is installed.
    pub cloud_init: Option<CloudInit>,
    /// The virtio drivers that are there, by their names without endings.
    pub virtio: Vec<String>,
    /// When it last booted, in seconds since 1970, by its logs.
    pub last_boot: Option<i64>,
    /// Whether [`last_boot`](Self::last_boot) is a guess: of a Windows whose event log does not tell, by the time of a file that
    /// it writes when it boots.
    pub last_boot_guessed: bool,
    /// When it was last shut down in an orderly way, in seconds since 1970, by its logs.
    pub last_shutdown: Option<i64>,
    /// When it last wrote to its logs, in seconds since 1970.
    pub last_log: Option<i64>,
    /// The path of a picture that stands for the system.
    pub icon: Option<String>,
    /// What could not be read, a line each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Writes bytes as text; what is no UTF-8 becomes U+FFFD.
pub(super) fn lossy<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(bytes))
}

fn lossy_option<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    bytes.as_deref().map(String::from_utf8_lossy).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        let parsed = |text| Version::parse(text).map(|version| (version.major, version.minor));
        assert_eq!(parsed("7.9.2009"), Some((7, 9)));
        assert_eq!(parsed("22.04 LTS"), Some((22, 4)));
        assert_eq!(parsed("CentOS Stream release 9"), Some((9, 0)));
        assert_eq!(parsed("13.2-RELEASE-p1"), Some((13, 2)));
        assert_eq!(parsed("15-SP5"), Some((15, 0)));
        assert_eq!(parsed("99999999999999.1"), None);
        assert_eq!(parsed("rolling"), None);
    }
}
