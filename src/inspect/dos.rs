//! FreeDOS and MS-DOS.

use super::osinfo;
use super::read::{Guest, Variables};
use super::types::{Kind, System, Version};
use super::windows::insensitive;

/// Describes the DOS whose root a tree is.
pub(super) fn look(guest: &Guest<'_>) -> Option<System> {
    let has = |path: &str| insensitive(guest, path).is_some();
    let free = ["/FDOS/FREEDOS.BSS", "/FREEDOS", "/FDOS/VERSION.FDI"].iter().any(|path| has(path))
        || has("/KERNEL.SYS") && (has("/FDCONFIG.SYS") || has("/FDAUTO.BAT") || has("/FDOS"));
    let distro = if free {
        "freedos"
    } else if has("/IO.SYS") && has("/MSDOS.SYS") && has("/COMMAND.COM") {
        "msdos"
    } else {
        return None;
    };
    let mut system = System::new(Kind::Dos, distro);
    system.product_name = Some(if free { "FreeDOS" } else { "MS-DOS" }.to_owned());
    let version = ["/FDOS/VERSION.FDI", "/FREEDOS/VERSION.FDI"].iter().find_map(|path| insensitive(guest, path));
    if let Some(text) = version.and_then(|path| guest.text(path)) {
        let variables = Variables::parse(&text);
        system.version_id = variables.owned("VERSION").or_else(|| variables.owned("RELEASE"));
        system.version = system.version_id.as_deref().and_then(Version::parse);
    }
    system.arch = Some("i386".to_owned());
    system.osinfo = osinfo::of(&system);
    Some(system)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn freedos_is_known_in_any_case_of_letters() {
        let tree = Fixture::new().file("kernel.sys", "").file("FdConfig.sys", "").dir("fdos").tree();
        let system = look(&Guest::new(&tree)).expect("FreeDOS");
        assert_eq!((system.kind, system.distro.as_str()), (Kind::Dos, "freedos"));
        let tree = Fixture::new().file("kernel.sys", "").tree();
        assert_eq!(look(&Guest::new(&tree)), None);
    }
}
