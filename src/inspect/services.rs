//! The init system, and the services that it starts by itself.

use super::read::{Guest, Variables, join, shorten, tidy};
use super::types::Service;

/// The most services that are kept.
const MAX_SERVICES: usize = 4096;

/// Finds the init system: by where `/sbin/init` leads, then by what is installed.
pub(super) fn init(guest: &Guest<'_>) -> Option<String> {
    let found = guest.found("/sbin/init").or_else(|| guest.found("/init")).map(|found| found.path);
    let target = found.as_deref().map(tidy).unwrap_or_default();
    let by_link = ["systemd", "busybox", "upstart", "runit", "openrc-init", "dinit", "s6-linux-init"];
    if let Some(name) = by_link.iter().find(|name| target.contains(*name)) {
        return Some(
            match *name {
                "openrc-init" => "openrc",
                "s6-linux-init" => "s6",
                "busybox" if guest.is_dir("/etc/runlevels") => "openrc",
                name => name,
            }
            .to_owned(),
        );
    }
    let is_file = |path: &str| guest.is_file(path);
    let name = if is_file("/bin/freebsd-version") || is_file("/netbsd") || is_file("/bsd") || is_file("/etc/rc.subr") {
        "bsd"
    } else if is_file("/sbin/upstart") || is_file("/etc/init/rc-sysinit.conf") || is_file("/sbin/initctl") {
        "upstart"
    } else if guest.is_dir("/etc/runlevels") {
        "openrc"
    } else if guest.is_dir("/etc/runit") {
        "runit"
    } else if is_file("/etc/inittab") && found.is_some() {
        "sysvinit"
    } else if is_file("/usr/lib/systemd/systemd") || is_file("/lib/systemd/systemd") {
        "systemd"
    } else {
        found?;
        "sysvinit"
    };
    Some(name.to_owned())
}

/// Lists the services that start by themselves.
pub(super) fn enabled(guest: &Guest<'_>, init: Option<&str>) -> Vec<Service> {
    let mut services = match init {
        Some("openrc") => openrc(guest),
        Some("runit") => runit(guest),
        Some("bsd") => bsd(guest),
        Some("systemd") => systemd(guest),
        Some("upstart") => [upstart(guest), run_levels(guest)].concat(),
        Some("busybox") => [scripts(guest), run_levels(guest)].concat(),
        _ => [systemd(guest), run_levels(guest)].concat(),
    };
    services.sort();
    services.dedup();
    services.truncate(MAX_SERVICES);
    services
}

fn service(name: &[u8], when: &str) -> Service {
    Service { name: tidy(name), when: when.to_owned(), display_name: None, program: None }
}

/// Reads the links of `*.wants` and `*.requires`, which `systemctl enable` makes.
fn systemd(guest: &Guest<'_>) -> Vec<Service> {
    const FOLDER: &str = "/etc/systemd/system";
    let mut services = Vec::new();
    let mut looked_at = 0;
    for name in guest.list(FOLDER) {
        let target = [&b".wants"[..], b".requires", b".upholds"].iter().find_map(|ending| name.strip_suffix(*ending));
        let Some(target) = target else { continue };
        for unit in guest.list(join(FOLDER, &name)) {
            looked_at += 1;
            if looked_at > MAX_SERVICES {
                return services;
            }
            // A unit that leads to /dev/null is masked, and does not start whatever wants it.
            if guest.link(join(FOLDER, &unit)).is_some_and(|target| target == b"/dev/null") {
                continue;
            }
            services.push(service(&unit, &tidy(target)));
        }
    }
    services
}

/// Reads the links of the run level that `/etc/inittab` names, and of the one before it.
fn run_levels(guest: &Guest<'_>) -> Vec<Service> {
    let inittab = guest.text("/etc/inittab").unwrap_or_default();
    let level = inittab.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (_, levels, action) = (fields.next()?, fields.next()?, fields.next()?);
        (action == "initdefault").then(|| levels.chars().next())?
    });
    let level = level.filter(char::is_ascii_digit).unwrap_or('2');
    let mut services = Vec::new();
    for level in ['S', level] {
        let folders =
            [format!("/etc/rc{level}.d"), format!("/etc/rc.d/rc{level}.d"), format!("/etc/init.d/rc{level}.d")];
        let Some(folder) = folders.iter().find(|folder| guest.is_dir(folder)) else { continue };
        for name in guest.list(folder) {
            // S20ssh starts the service ssh.
            if let Some((&[b'S', one, two], name)) = name.split_first_chunk::<3>()
                && one.is_ascii_digit()
                && two.is_ascii_digit()
                && services.len() < MAX_SERVICES
            {
                services.push(service(name, &format!("runlevel {level}")));
            }
        }
    }
    services
}

/// Reads the jobs of Upstart: those that say when they start, and that no override makes manual.
fn upstart(guest: &Guest<'_>) -> Vec<Service> {
    const FOLDER: &str = "/etc/init";
    let mut services = Vec::new();
    for path in guest.list_ending(FOLDER, ".conf").into_iter().take(MAX_SERVICES) {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let Some(name) = name.strip_suffix(b".conf") else { continue };
        let own = guest.text(&path).unwrap_or_default();
        let more = guest.text(join(FOLDER, [name, b".override"].concat())).unwrap_or_default();
        let mut when = None;
        for line in own.lines().chain(more.lines()) {
            if let Some(event) = line.strip_prefix("start on") {
                let event = event.trim().trim_start_matches('(');
                when = Some(shorten(event).to_owned());
            } else if line.trim_end() == "manual" {
                when = None;
            }
        }
        services.extend(when.map(|when| service(name, &when)));
    }
    services
}

/// Reads the scripts that the init of a small system runs in the order of their names: `/etc/init.d/S20network`.
fn scripts(guest: &Guest<'_>) -> Vec<Service> {
    let names = guest.list("/etc/init.d");
    let names = names.iter().filter_map(|name| match name.split_first_chunk::<3>() {
        Some((&[b'S', one, two], name)) if one.is_ascii_digit() && two.is_ascii_digit() => Some(name),
        _ => None,
    });
    names.take(MAX_SERVICES).map(|name| service(name, "boot")).collect()
}

fn openrc(guest: &Guest<'_>) -> Vec<Service> {
    const FOLDER: &str = "/etc/runlevels";
    let levels = guest.list(FOLDER);
    let services = levels.iter().take(64).flat_map(|level| {
        let names = guest.list(join(FOLDER, level));
        names.into_iter().map(|name| service(&name, &tidy(level))).collect::<Vec<_>>()
    });
    services.take(MAX_SERVICES).collect()
}

fn runit(guest: &Guest<'_>) -> Vec<Service> {
    let folders = ["/etc/runit/runsvdir/default", "/etc/service", "/var/service", "/service"];
    let folder = folders.iter().find(|folder| guest.is_dir(folder));
    let names = folder.map(|folder| guest.list(folder)).unwrap_or_default();
    names.iter().take(MAX_SERVICES).map(|name| service(name, "default")).collect()
}

fn bsd(guest: &Guest<'_>) -> Vec<Service> {
    let mut services = Vec::new();
    let told = ["/etc/rc.conf", "/etc/rc.conf.local", "/etc/rc.conf.d/local"]
        .map(|path| Variables::parse(&guest.text(path).unwrap_or_default()));
    for variables in &told {
        for (name, value) in variables.iter().take(MAX_SERVICES) {
            let yes = matches!(value.to_ascii_lowercase().as_str(), "yes" | "true" | "on" | "1");
            // FreeBSD's names end so, NetBSD's are the service's alone.
            let name = name.strip_suffix("_enable").unwrap_or(name);
            if yes && !name.contains("_flags") {
                services.push(service(name.as_bytes(), "boot"));
            }
        }
    }
    if guest.is_file("/bsd") {
        services.extend(openbsd(&told[..2]));
    }
    services
}

/// Reads OpenBSD's form: `NAME_flags` is NO for what does not start, and `pkg_scripts` names what packages brought. What
/// rc.conf.local says comes after rc.conf and wins.
fn openbsd(told: &[Variables]) -> Vec<Service> {
    let mut flags = std::collections::BTreeMap::new();
    let mut scripts = String::new();
    for variables in told {
        for (name, value) in variables.iter().take(MAX_SERVICES) {
            if let Some(name) = name.strip_suffix("_flags") {
                flags.insert(name.to_owned(), value.eq_ignore_ascii_case("no"));
            } else if name == "pkg_scripts" {
                value.clone_into(&mut scripts);
            }
        }
    }
    let started = flags.iter().filter(|(_, is_off)| !**is_off).map(|(name, _)| name.as_str());
    started.chain(scripts.split_whitespace()).map(|name| service(name.as_bytes(), "boot")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    fn names(services: &[Service]) -> Vec<String> {
        services.iter().map(|service| format!("{} {}", service.name, service.when)).collect()
    }

    #[test]
    fn units_that_are_wanted_start_unless_they_are_masked() {
        let tree = Fixture::new()
            .link("sbin/init", "/lib/systemd/systemd")
            .file("lib/systemd/systemd", "")
            .link("etc/systemd/system/multi-user.target.wants/ssh.service", "/lib/systemd/system/ssh.service")
            .link("etc/systemd/system/multi-user.target.wants/bad.service", "/lib/systemd/system/bad.service")
            .link("etc/systemd/system/bad.service", "/dev/null")
            .link("etc/systemd/system/timers.target.wants/apt.timer", "/lib/systemd/system/apt.timer")
            .tree();
        let guest = Guest::new(&tree);
        let init = init(&guest);
        assert_eq!(init.as_deref(), Some("systemd"));
        let services = enabled(&guest, init.as_deref());
        assert_eq!(names(&services), ["apt.timer timers.target", "ssh.service multi-user.target"]);
        assert_eq!(guest.into_warnings(), [""; 0]);
    }

    #[test]
    fn other_init_systems_keep_links_and_variables() {
        let tree = Fixture::new()
            .file("sbin/init", "")
            .file("etc/inittab", "id:3:initdefault:\n")
            .link("etc/rc.d/rc3.d/S55sshd", "../init.d/sshd")
            .link("etc/rc.d/rc3.d/K10gone", "../init.d/gone")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(init(&guest).as_deref(), Some("sysvinit"));
        assert_eq!(names(&enabled(&guest, Some("sysvinit"))), ["sshd runlevel 3"]);
        let tree = Fixture::new()
            .link("sbin/init", "/bin/busybox")
            .file("bin/busybox", "")
            .link("etc/runlevels/default/sshd", "/etc/init.d/sshd")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(init(&guest).as_deref(), Some("openrc"));
        assert_eq!(names(&enabled(&guest, Some("openrc"))), ["sshd default"]);
        let tree = Fixture::new()
            .link("sbin/init", "/bin/busybox")
            .file("bin/busybox", "")
            .file("etc/init.d/S40network", "")
            .file("etc/init.d/rcS", "")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(names(&enabled(&guest, init(&guest).as_deref())), ["network boot"]);
        let tree = Fixture::new()
            .file("sbin/init", "")
            .file("sbin/initctl", "")
            .file("etc/init/ssh.conf", "description \"x\"\nstart on runlevel [2345]\nstop on runlevel [!2345]\n")
            .file("etc/init/off.conf", "start on (filesystem\n  and x)\n")
            .file("etc/init/off.override", "manual\n")
            .file("etc/init/task.conf", "task\n")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(init(&guest).as_deref(), Some("upstart"));
        assert_eq!(names(&enabled(&guest, Some("upstart"))), ["ssh runlevel [2345]"]);
        let tree = Fixture::new()
            .file("bsd", "")
            .file("etc/rc.conf", "ntpd_flags=NO\nsshd_flags=\nsmtpd_flags=\npkg_scripts=\n")
            .file("etc/rc.conf.local", "ntpd_flags=\nsmtpd_flags=NO\npkg_scripts=\"nginx postgresql\"\n")
            .tree();
        let guest = Guest::new(&tree);
        assert_eq!(names(&enabled(&guest, Some("bsd"))), ["nginx boot", "ntpd boot", "postgresql boot", "sshd boot"]);
        let tree =
            Fixture::new().file("bsd", "").file("etc/rc.conf", "sshd_enable=\"YES\"\nntpd=NO\nhostname=x\n").tree();
        assert_eq!(init(&Guest::new(&tree)).as_deref(), Some("bsd"));
        assert_eq!(names(&enabled(&Guest::new(&tree), Some("bsd"))), ["sshd boot"]);
    }
}
