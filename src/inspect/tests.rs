//! Whole systems of every family, and hostile ones.

use super::elf::tests::elf;
use super::fixture::Fixture;
use super::*;
use crate::tree::Mount;
use std::sync::Arc;

fn base() -> Fixture {
    Fixture::new()
        .file("usr/bin/sh", elf(62, true, true))
        .link("bin", "usr/bin")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
}

fn seen(fixture: Fixture) -> System {
    look(&fixture.tree()).expect("readable").expect("a system")
}

fn brief(system: &System) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    format!(
        "{} {} {}.{} {} {} {} {}",
        system.kind,
        system.distro,
        system.major(),
        system.minor(),
        text(&system.arch),
        text(&system.package_format),
        text(&system.package_management),
        text(&system.osinfo)
    )
}

#[test]
fn a_debian_is_told_whole() {
    let fixture = base()
        .file(
            "etc/os-release",
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\n",
        )
        .file("etc/debian_version", "12.5\n")
        .file("etc/hostname", "# a comment\nweb1\n")
        .file("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        .link("etc/localtime", "/usr/share/zoneinfo/Europe/Zurich")
        .file("etc/default/locale", "LANG=\"de_CH.UTF-8\"\n")
        .file("etc/default/keyboard", "XKBMODEL=\"pc105\"\nXKBLAYOUT=\"ch\"\n")
        .file("usr/share/pixmaps/debian-logo.png", "");
    let tree = fixture.tree();
    let system = look(&tree).expect("readable").expect("a system");
    assert_eq!(brief(&system), "linux debian 12.5 x86_64 deb apt debian12");
    assert_eq!((system.hostname.as_deref(), system.locale.as_deref()), (Some("web1"), Some("de_CH.UTF-8")));
    assert_eq!((system.time_zone.as_deref(), system.keyboard.as_deref()), (Some("Europe/Zurich"), Some("ch")));
    assert_eq!(system.machine_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
    assert_eq!((system.merged_usr, system.installer), (Some(true), false));
    assert_eq!(system.warnings, [""; 0]);
    let details = details(&tree, &system);
    assert_eq!(details.icon.as_deref(), Some("/usr/share/pixmaps/debian-logo.png"));
    assert_eq!(details.warnings, [""; 0]);
    let json = serde_json::to_value(&system).expect("plain data");
    assert_eq!((json["type"].as_str(), json["version"]["minor"].as_u64()), (Some("linux"), Some(5)));
}

#[test]
fn every_family_is_known_by_what_manages_its_packages() {
    let with = |text: &str| {
        brief(&seen(base().file("usr/lib/os-release", text).link("etc/os-release", "../usr/lib/os-release")))
    };
    assert_eq!(with("ID=\"rhel\"\nVERSION_ID=\"9.3\"\n"), "linux rhel 9.3 x86_64 rpm dnf rhel9.3");
    assert_eq!(with("ID=\"ol\"\nVERSION_ID=\"7.9\"\n"), "linux oraclelinux 7.9 x86_64 rpm yum ol7.9");
    assert_eq!(with("ID=fedora\nVERSION_ID=39\n"), "linux fedora 39.0 x86_64 rpm dnf fedora39");
    assert_eq!(
        with("ID=\"opensuse-leap\"\nVERSION_ID=\"15.5\"\n"),
        "linux opensuse 15.5 x86_64 rpm zypper opensuse15.5"
    );
    assert_eq!(with("ID=sles\nVERSION_ID=\"15.5\"\n"), "linux sles 15.5 x86_64 rpm zypper sles15sp5");
    assert_eq!(with("ID=arch\n"), "linux archlinux 0.0 x86_64 pacman pacman archlinux");
    assert_eq!(with("ID=alpine\nVERSION_ID=3.18.4\n"), "linux alpinelinux 3.18 x86_64 apk apk alpinelinux3.18");
    assert_eq!(with("ID=gentoo\nVERSION_ID=2.14\n"), "linux gentoo 2.14 x86_64 ebuild portage gentoo");
    assert_eq!(with("ID=nixos\nVERSION_ID=\"23.11\"\n"), "linux nixos 23.11 x86_64 nix nix nixos-23.11");
    assert_eq!(with("ID=\"amzn\"\nVERSION_ID=\"2\"\n"), "linux amzn 2.0 x86_64 rpm yum amazonlinux2");
    assert_eq!(with("ID=\"amzn\"\nVERSION_ID=\"2023\"\n"), "linux amzn 2023.0 x86_64 rpm dnf amazonlinux2023");
    assert_eq!(with("ID=photon\nVERSION_ID=5.0\n"), "linux photon 5.0 x86_64 rpm tdnf -");
    assert_eq!(with("ID=buildroot\nVERSION_ID=2023.08\n"), "linux buildroot 2023.8 x86_64 - - -");
    assert_eq!(with("ID=somethingelse\nVERSION_ID=1\n"), "linux somethingelse 1.0 x86_64 - - -");
    assert_eq!(with("ID=ubuntu\nVERSION_ID=\"24.04\"\n"), "linux ubuntu 24.4 x86_64 deb apt ubuntu24.04");
    assert_eq!(
        with("ID=\"centos\"\nVERSION_ID=\"9\"\nPRETTY_NAME=\"CentOS Stream 9\"\n"),
        "linux centos 9.0 x86_64 rpm dnf centos-stream9"
    );
    assert_eq!(with("ID=\"rocky\"\nVERSION_ID=\"9.4\"\n"), "linux rocky 9.4 x86_64 rpm dnf rocky9");
    assert_eq!(with("ID=\"almalinux\"\nVERSION_ID=\"8.10\"\n"), "linux almalinux 8.10 x86_64 rpm dnf almalinux8");
    assert_eq!(
        with("ID=\"scientific\"\nVERSION_ID=\"7.9\"\n"),
        "linux scientificlinux 7.9 x86_64 rpm yum scientific7.9"
    );
    assert_eq!(
        with("ID=\"sl-micro\"\nVERSION_ID=\"6.0\"\nPRETTY_NAME=\"SUSE Linux Micro 6.0\"\n"),
        "linux sles 6.0 x86_64 rpm zypper -"
    );
    assert_eq!(
        with("ID=\"opensuse-tumbleweed\"\nVERSION_ID=\"20240801\"\nNAME=\"openSUSE Tumbleweed\"\n"),
        "linux opensuse 20240801.0 x86_64 rpm zypper opensusetumbleweed"
    );
    for transactional in ["opensuse-microos", "aeon"] {
        let text = format!("ID=\"{transactional}\"\nVERSION_ID=\"20240801\"\nNAME=\"openSUSE MicroOS\"\n");
        assert_eq!(with(&text), "linux opensuse 20240801.0 x86_64 rpm zypper -");
    }
    assert_eq!(with("ID=fedora\nVERSION_ID=41\nVARIANT_ID=coreos\n"), "linux fedora 41.0 x86_64 rpm dnf fedora41");
    assert_eq!(with("ID=kali\nVERSION_ID=2024.2\n"), "linux kalilinux 2024.2 x86_64 deb apt -");
    assert_eq!(with("ID=linuxmint\nVERSION_ID=\"21.3\"\n"), "linux linuxmint 21.3 x86_64 deb apt mint21");
    let cirros = base().file("etc/cirros/version", "0.5.2\n");
    assert_eq!(brief(&seen(cirros)), "linux cirros 0.5 x86_64 - - cirros0.5");
    let hurd = base().file("etc/os-release", "ID=debian\nVERSION_ID=12\n").file("etc/hurd/x", "").dir("hurd");
    assert_eq!(brief(&seen(hurd)), "hurd debian 12.0 x86_64 deb apt debian12");
    let known = base().file("etc/os-release", "ID=somethingelse\n").file("var/lib/dpkg/status", "");
    assert_eq!(brief(&seen(known)), "linux somethingelse 0.0 x86_64 deb apt -");
    assert_eq!(brief(&seen(base().file("bin2", "").file("usr/bin/busybox", ""))), "linux busybox 0.0 x86_64 - - -");
}

#[test]
fn what_is_no_root_is_not_taken_for_one() {
    let none = |fixture: Fixture| assert_eq!(look(&fixture.tree()).expect("readable"), None);
    none(Fixture::new().dir("lost+found"));
    none(Fixture::new().file("vmlinuz-6.1", "").file("grub/grub.cfg", "").dir("efi"));
    none(Fixture::new().file("bin/sh", "").file("lib/os-release", "ID=debian\n").dir("share"));
    none(Fixture::new().file("etc/passwd", ""));
    none(Fixture::new().dir("ann/etc").dir("Windows").dir("bin"));
    // The root of a system whose /usr lies elsewhere is one.
    let system = seen(
        Fixture::new()
            .link("bin", "usr/bin")
            .link("etc/os-release", "../usr/lib/os-release")
            .file("etc/fstab", "")
            .dir("usr"),
    );
    assert_eq!(system.distro, "unknown");
}

#[test]
fn a_separate_usr_is_read_when_it_is_mounted() {
    let root = Fixture::new()
        .link("bin", "usr/bin")
        .link("etc/os-release", "../usr/lib/os-release")
        .file("etc/fstab", "")
        .dir("usr");
    let usr =
        Fixture::new().file("bin/sh", elf(183, true, true)).file("lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    let tree = Tree::new(vec![root.mount("/dev/sda1", "/"), usr.mount("/dev/sda2", "/usr")]).expect("two mounts");
    let system = look(&tree).expect("readable").expect("a system");
    assert_eq!(brief(&system), "linux debian 12.0 aarch64 deb apt debian12");
}

#[test]
fn the_deployment_that_the_boot_loader_starts_is_the_system() {
    let stateroot = "ostree/deploy/fedora";
    let fixture = || {
        let mut fixture = Fixture::new();
        for (name, version, entry) in [("aaaa.0", 39, "boot.1"), ("bbbb.0", 40, "boot.0")] {
            let path = format!("{stateroot}/deploy/{name}");
            fixture = fixture
                .file(&format!("{path}/usr/lib/os-release"), format!("ID=fedora\nVERSION_ID={version}\n"))
                .file(&format!("{path}/etc/passwd"), "")
                .link(&format!("{path}/bin"), "usr/bin")
                .link(&format!("ostree/{entry}/fedora/cccc/0"), &format!("../../../deploy/fedora/deploy/{name}"));
        }
        fixture
    };
    let entry = |version: u32, boot: u32| {
        format!(
            "title Fedora\nversion {version}\nlinux /vmlinuz\noptions rw ostree=/ostree/boot.{boot}/fedora/cccc/0\n"
        )
    };
    let rolled_back = fixture()
        .file("boot/loader/entries/ostree-1-fedora.conf", entry(1, 0))
        .file("boot/loader/entries/ostree-2-fedora.conf", entry(2, 1));
    assert_eq!(seen(rolled_back).major(), 39);
    assert_eq!(seen(fixture().file("boot/loader/entries/ostree-1-fedora.conf", entry(1, 0))).major(), 40);
    let elsewhere = fixture().file("boot/loader/entries/a.conf", "options ostree=/ostree/../../etc\n");
    assert!(seen(elsewhere).major() >= 39);
}

#[test]
fn a_system_in_an_image_of_composefs_is_told_as_far_as_its_own_files_go() {
    let (old, new) = ("a".repeat(128), "b".repeat(128));
    let mut fixture = Fixture::new()
        .dir("composefs/objects/00")
        .file(&format!("composefs/images/{new}"), "")
        .file("boot/loader/entries/bootc-a-1.conf", format!("title Old\nversion 1\noptions rw composefs={old}\n"))
        .file(
            "boot/loader/entries/bootc-b-2.conf",
            format!("title Fedora 42\nversion 2\noptions rw composefs={new}\n"),
        );
    for (id, name) in [(&old, "old"), (&new, "new")] {
        fixture = fixture
            .file(&format!("state/deploy/{id}/etc/hostname"), name)
            .file(&format!("state/deploy/{id}/etc/machine-id"), "0123456789abcdef0123456789abcdef\n");
    }
    let tree = fixture.tree();
    let system = look(&tree).expect("readable").expect("a system");
    assert_eq!((system.kind, system.distro.as_str()), (Kind::Linux, "unknown"));
    assert_eq!((system.hostname.as_deref(), system.product_name.as_deref()), (Some("new"), Some("Fedora 42")));
    // The image is empty, which is said, and what that means.
    assert_eq!(system.warnings.len(), 2);
    assert!(system.warnings[1].contains("composefs") && system.warnings[1].contains("not read"), "{system:?}");
    assert_eq!(packages(&tree, &system).packages, []);
    details(&tree, &system);
    // What only has such folders is none.
    let none = Fixture::new().dir("composefs/objects").dir("composefs/images").dir("state/deploy");
    assert_eq!(look(&none.tree()).expect("readable"), None);
}

#[test]
fn media_are_told_from_what_is_installed() {
    let squashfs = |fixture: Fixture| fixture.file("LiveOS/squashfs.img", "");
    let system =
        seen(squashfs(Fixture::new()).file("isolinux/isolinux.cfg", "menu title Fedora-Workstation-Live 39\n"));
    assert_eq!((system.installer, system.distro.as_str()), (true, "fedora"));
    let says = |fixture: Fixture| {
        let tree = fixture.tree();
        let system = look(&tree).expect("readable").expect("a system");
        (system.installer, is_live(&tree), is_netinst(&tree), is_multipart(&tree))
    };
    assert_eq!(says(squashfs(Fixture::new())), (true, true, false, false));
    assert_eq!(says(Fixture::new().file("isolinux/isolinux.bin", "")), (true, false, false, false));
    let info = "Debian GNU/Linux 12.5.0 \"Bookworm\" - Official amd64 NETINST 20240210-11:27\n";
    assert_eq!(says(Fixture::new().file(".disk/info", info)), (true, false, true, false));
    let info = "Ubuntu 22.04.3 LTS \"Jammy Jellyfish\" - Release amd64 (20230807.2)\n";
    assert_eq!(says(Fixture::new().file(".disk/info", info).dir("casper")), (true, true, false, false));
    let treeinfo = "[general]\nfamily = CentOS\nversion = 6.10\narch = x86_64\ntotaldiscs = 2\ndiscnum = 1\n";
    assert_eq!(says(Fixture::new().file(".treeinfo", treeinfo).dir("repodata")), (true, false, false, true));
    let treeinfo = "[general]\nfamily = Fedora\nversion = 39\n[media]\ntotaldiscs = 1\n";
    assert_eq!(says(Fixture::new().file(".treeinfo", treeinfo)), (true, false, true, false));
}

#[test]
fn a_deployment_of_ostree_is_found_and_told() {
    let stateroot = "ostree/deploy/fedora-coreos";
    let (old, new) = (format!("{stateroot}/deploy/aaaa.0"), format!("{stateroot}/deploy/bbbb.0"));
    let fixture = Fixture::new()
        .dir("boot")
        .file(&format!("{old}/usr/lib/os-release"), "ID=fedora\nVERSION_ID=38\n")
        .file(&format!("{old}/etc/passwd"), "")
        .link(&format!("{old}/bin"), "usr/bin")
        .file(
            &format!("{new}/usr/lib/os-release"),
            "ID=fedora\nVERSION_ID=39\nVARIANT_ID=coreos\nOSTREE_VERSION='39.20231101'\n",
        )
        .file(&format!("{new}/etc/hostname"), "core\n")
        .file(&format!("{new}/usr/bin/sh"), elf(62, true, true))
        .link(&format!("{new}/bin"), "usr/bin")
        .file(&format!("{new}/etc/passwd"), "core:x:1000:1000::/var/home/core:/bin/bash\n")
        .file(&format!("{new}/usr/lib/modules/6.5/vmlinuz"), "")
        .dir(&format!("{new}/var"))
        .dir(&format!("{new}/boot"))
        .dir(&format!("{new}/sysroot"))
        .file(&format!("{stateroot}/var/log/wtmp"), "")
        .link("ostree/boot.1/fedora-coreos/cccc/0", "../../../deploy/fedora-coreos/deploy/bbbb.0");
    let tree = fixture.tree();
    let system = look(&tree).expect("readable").expect("a system");
    assert_eq!(brief(&system), "linux fedora 39.0 x86_64 rpm dnf fedora39");
    let deployment = system.deployment.clone().expect("where it lies");
    assert_eq!(deployment.path, format!("/{new}").into_bytes());
    assert_eq!(system.build_id.as_deref(), Some("39.20231101"));
    let told = details(&tree, &system);
    assert_eq!(told.users[0].name, "core");
    assert_eq!(told.kernels.len(), 1);
    // The same, when the tree is put together as the guest sees it.
    let filesystem = tree.mounts()[0].filesystem.clone();
    let inner = Arc::new(Subtree::open(filesystem, &deployment.path).expect("a folder"));
    let mount = Mount { filesystem: inner, mountpoint: b"/".to_vec(), source: "/dev/sda4".into() };
    let assembled = Tree::new(vec![mount]).expect("one mount");
    assert_eq!(details(&assembled, &system).users, told.users);
}

#[test]
fn installation_media_are_told_by_their_marks() {
    let ubuntu =
        Fixture::new().file(".disk/info", "Ubuntu-Server 22.04.3 LTS \"Jammy Jellyfish\" - Release amd64 (20230810)\n");
    let system = seen(ubuntu);
    assert_eq!(brief(&system), "linux ubuntu 22.4 x86_64 deb apt ubuntu22.04");
    assert!(system.installer);
    let fedora = "[general]\narch = x86_64\nfamily = Fedora\nname = Fedora 39\nversion = 39\nvariant = Server\n";
    assert_eq!(brief(&seen(Fixture::new().file(".treeinfo", fedora))), "linux fedora 39.0 x86_64 rpm dnf fedora39");
    let alpine = Fixture::new().file(".alpine-release", "alpine-standard 3.18.4 230928\n");
    assert_eq!(brief(&seen(alpine)), "linux alpinelinux 3.18 - apk apk alpinelinux3.18");
}

/// Files that inspection reads.
const EVERYTHING: [&str; 52] = [
    "etc/os-release",
    "etc/fstab",
    "etc/passwd",
    "etc/shadow",
    "etc/group",
    "etc/hostname",
    "etc/machine-id",
    "etc/crypttab",
    "etc/timezone",
    "etc/default/grub",
    "etc/network/interfaces",
    "etc/rc.conf",
    "etc/selinux/config",
    "etc/inittab",
    "etc/mdadm.conf",
    "var/lib/dpkg/status",
    "var/lib/rpm/Packages",
    "var/lib/rpm/Packages.db",
    "var/lib/rpm/rpmdb.sqlite",
    "lib/apk/db/installed",
    "var/log/wtmp",
    "boot/grub/grub.cfg",
    "boot/vmlinuz-1",
    "var/lib/cloud/data/result.json",
    "etc/netplan/a.yaml",
    "etc/NetworkManager/system-connections/a",
    "etc/ssh/ssh_host_a_key.pub",
    "var/db/pkg/local.sqlite",
    "etc/systemd/network/a.network",
    "etc/systemd/system/a.mount",
    "etc/sysconfig/network-scripts/ifcfg-a",
    "etc/conf.d/net",
    "etc/hostname.em0",
    "boot/grub/menu.lst",
    "boot/extlinux.conf",
    "boot/loader/entries/a.conf",
    "boot/loader/loader.conf",
    "lib/modules/1/modules.dep",
    "var/lib/pacman/local/a-1/desc",
    "var/lib/dpkg/status.d/a",
    "etc/SuSE-release",
    "etc/lsb-release",
    "etc/localtime",
    "var/log/journal/0123456789abcdef0123456789abcdef/system.journal",
    "etc/default/keyboard",
    "etc/resolv.conf",
    "usr/lib/sysimage/rpm/Packages.db",
    "var/db/pkg/cat/a-1/PF",
    "etc/systemd/system/multi-user.target.wants/a.service",
    "var/lib/docker/containers/a/config.v2.json",
    "var/lib/containers/storage/overlay-containers/containers.json",
    "var/lib/cloud/data/instance-id",
];

#[test]
fn a_hostile_guest_is_told_as_far_as_it_goes() {
    type Make = dyn Fn(Fixture, &str) -> Fixture;
    let guests: [&Make; 6] = [
        &|fixture, path| fixture.fifo(path),
        &|fixture, path| fixture.device(path),
        &|fixture, path| fixture.dir(path),
        &|fixture, path| fixture.link(path, path.rsplit('/').next().unwrap_or(path)),
        &|fixture, path| fixture.file(path, [0xff, b'=', b':', b'\n', b'[', 0].repeat(5000)),
        &|fixture, path| fixture.file(path, b"a:".repeat(600_000)),
    ];
    for (number, make) in guests.iter().enumerate() {
        let fixture = EVERYTHING.iter().fold(base().file("sbin/init", ""), |fixture, path| make(fixture, path));
        let tree = fixture.tree();
        let system = look(&tree).expect("readable").expect("a system");
        assert_eq!((system.kind, system.arch.as_deref()), (Kind::Linux, Some("x86_64")));
        let (told, packages) = (details(&tree, &system), packages(&tree, &system));
        assemble(&RootCandidate::new("/dev/sda1", None, &tree, &system), &[]);
        containers(&tree);
        let warnings = system.warnings.len() + told.warnings.len() + packages.warnings.len();
        assert!(warnings > 0 || number == 2, "guest {number}");
        assert_eq!(packages.packages, []);
    }
}

#[test]
fn files_of_any_words_are_read_without_a_panic() {
    let words = [
        " ",
        " ",
        "\n",
        "\n",
        "\n ",
        "\t",
        ":",
        "=",
        "-",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "{\n",
        "}\n",
        "\"",
        "'",
        "\\",
        "#",
        "/",
        ",",
        ">",
        ";",
        "a",
        "é",
        "\u{1f600}",
        "0",
        "9999999999999999999999",
        "-1",
        "\0",
        "\r\n",
        "%NAME%\n",
        "%VERSION%\n",
        "menuentry ",
        "submenu ",
        "title ",
        "default",
        "MENU LABEL ",
        "MENU é",
        "LABEL ",
        "linux ",
        "set default=",
        "iface eth0 inet static\n",
        "address ",
        "netmask ",
        "Package: ",
        "Status: install ok installed\n",
        "Version: ",
        "Description: ",
        "P:",
        "V:",
        "ARRAY ",
        "UUID=",
        "[Mount]\n",
        "What=/dev/sda1\n",
        "Where=/",
        "[Network]\n",
        "network:\n",
        "ethernets:\n",
        "addresses: ",
        "default via ",
        "ifconfig_em0=",
        "inet ",
        "IPADDR=",
        "(",
        ")",
        ".",
        "PRETTY_NAME=",
        "ID=debian\n",
        "VERSION = ",
        "subvol=",
        "ssh-rsa AAAA",
        "kernel/a/virtio_blk.ko:",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below
    };
    for _ in 0..400 {
        let mut fixture = base();
        for path in EVERYTHING {
            let content: String = (0..next(60)).map(|_| words[next(words.len())]).collect();
            fixture = fixture.file(path, content);
        }
        let tree = fixture.tree();
        let system = look(&tree).expect("readable").expect("a system");
        details(&tree, &system);
        packages(&tree, &system);
        let devices = [DeviceId { name: "/dev/sda1".into(), uuid: Some("a".into()), ..DeviceId::default() }];
        assemble(&RootCandidate::new("/dev/sda1", None, &tree, &system), &devices);
    }
}
