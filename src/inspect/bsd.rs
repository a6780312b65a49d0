//! FreeBSD, NetBSD and OpenBSD.

use super::linux::{is_unix_root, time_zone};
use super::read::{Guest, Variables, plain_lines, shorten, tidy};
use super::types::{BootEntry, BootLoader, Kernel, Kind, System, Version};
use super::{elf, osinfo};

/// The most kernels, and entries of a boot menu, that are kept.
const MAX_KERNELS: usize = 256;

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

/// Lists the kernels. Their names are what tells them apart: `kernel`, `kernel.old`, `bsd.rd`.
pub(super) fn kernels(guest: &Guest<'_>) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let mut add = |path: String, version: &str| {
        if guest.is_file(&path) && guest.link(&path).is_none() && kernels.len() < MAX_KERNELS {
            kernels.push(Kernel { path, version: version.to_owned(), initrd: None, modules: false });
        }
    };
    for name in guest.list("/") {
        let name = tidy(&name);
        let is_kernel =
            |base: &str| name.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if is_kernel("bsd") || is_kernel("obsd") || is_kernel("netbsd") || is_kernel("onetbsd") {
            add(format!("/{name}"), &name);
        }
    }
    // Of FreeBSD each has a folder with its modules.
    for name in guest.list("/boot").into_iter().filter(|name| name.starts_with(b"kernel")) {
        let name = tidy(&name);
        add(format!("/boot/{name}/kernel"), &name);
    }
    kernels.iter_mut().filter(|kernel| kernel.path.starts_with("/boot/")).for_each(|kernel| kernel.modules = true);
    kernels
}

/// Finds the boot loader, and what it starts by itself.
pub(super) fn loader(guest: &Guest<'_>) -> Option<BootLoader> {
    let entry = |title: &str, kernel: Option<String>| BootEntry {
        title: shorten(title).to_owned(),
        kernel,
        ..BootEntry::default()
    };
    if guest.is_file("/boot/loader") || guest.is_file("/boot/loader.efi") {
        let configs = ["/boot/defaults/loader.conf", "/boot/loader.conf", "/boot/loader.conf.local"];
        let texts: Vec<String> = configs.iter().filter_map(|path| guest.text(path)).collect();
        let kernel = texts.iter().rev().find_map(|text| Variables::parse(text).owned("kernel"));
        let kernel = kernel.filter(|name| !name.contains('/')).unwrap_or_else(|| "kernel".into());
        let path = format!("/boot/{kernel}/kernel");
        return Some(BootLoader {
            name: "loader".into(),
            config: configs[1..2].iter().find(|path| guest.is_file(path)).map(|&path| path.to_owned()),
            entries: vec![entry(&kernel, Some(path))],
            default_entry: Some(kernel),
        });
    }
    if let Some(text) = guest.text("/boot.cfg") {
        // menu=Boot normally:rndseed /var/db/entropy-file;boot netbsd
        let menu = plain_lines(&text).filter_map(|line| line.strip_prefix("menu=")?.split_once(':'));
        let entries: Vec<BootEntry> = menu
            .take(MAX_KERNELS)
            .map(|(title, commands)| {
                let boot = commands.split(';').map(str::trim).find_map(|command| command.strip_prefix("boot"));
                let kernel = boot.map(|boot| match boot.split_whitespace().find(|word| !word.starts_with('-')) {
                    Some(name) => {
                        format!("/{}", shorten(name.rsplit(':').next().unwrap_or_default()).trim_start_matches('/'))
                    }
                    None => "/netbsd".to_owned(),
                });
                entry(title.trim(), kernel)
            })
            .collect();
        let default = plain_lines(&text).find_map(|line| line.strip_prefix("default=")?.trim().parse::<usize>().ok());
        let default_entry = entries.get(default.unwrap_or(1).saturating_sub(1)).map(|entry| entry.title.clone());
        return Some(BootLoader { name: "boot".into(), config: Some("/boot.cfg".into()), default_entry, entries });
    }
    if guest.is_file("/bsd") || guest.is_file("/boot") {
        let text = guest.text("/etc/boot.conf");
        let line = |word: &str| {
            let text = text.as_deref()?;
            plain_lines(text).find_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned())
        };
        let image = line("set image ").or_else(|| line("boot ")).unwrap_or_else(|| "/bsd".into());
        let image = shorten(image.rsplit(':').next().unwrap_or_default()).to_owned();
        return Some(BootLoader {
            name: "boot".into(),
            config: text.as_ref().map(|_| "/etc/boot.conf".to_owned()),
            entries: vec![entry(&image, Some(image.clone()))],
            default_entry: Some(image),
        });
    }
    None
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

    #[test]
    fn kernels_and_what_boots_are_told_of_each() {
        let told = |fixture: Fixture| {
            let tree = fixture.tree();
            let guest = Guest::new(&tree);
            let loader = loader(&guest).expect("there is one");
            let kernels: Vec<String> = kernels(&guest).into_iter().map(|kernel| kernel.path).collect();
            (kernels.join(" "), loader.default_entry.unwrap_or_default(), loader.entries.len())
        };
        let freebsd = Fixture::new()
            .file("boot/loader.efi", "")
            .file("boot/kernel/kernel", "")
            .file("boot/kernel.old/kernel", "")
            .file("boot/defaults/loader.conf", "kernel=\"kernel\"\n")
            .file("boot/loader.conf", "kernel=\"kernel.old\"\n");
        assert_eq!(told(freebsd), ("/boot/kernel/kernel /boot/kernel.old/kernel".into(), "kernel.old".into(), 1));
        let menu = "menu=Boot normally:rndseed /var/db/entropy-file;boot netbsd\nmenu=Single user:boot -s\ndefault=2\n";
        let netbsd = Fixture::new().file("netbsd", "").file("boot.cfg", menu);
        assert_eq!(told(netbsd), ("/netbsd".into(), "Single user".into(), 2));
        let openbsd = Fixture::new()
            .file("bsd", "")
            .file("bsd.rd", "")
            .file("bsdlike", "")
            .file("etc/boot.conf", "stty com0 115200\nset image /bsd.rd\n");
        assert_eq!(told(openbsd), ("/bsd /bsd.rd".into(), "/bsd.rd".into(), 1));
        assert_eq!(loader(&Guest::new(&Fixture::new().dir("etc").tree())), None);
    }
}
