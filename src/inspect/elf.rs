//! The architecture of a system, from the headers of its programs: ELF, and PE for Windows.
//!
//! ELF is specified by the System V ABI, PE by Microsoft.

use super::read::Guest;
use crate::bytes::{be16, le16, le32};

/// Programs that nearly every Unix has. The first that is a program tells.
const PROGRAMS: [&str; 14] = [
    "/bin/bash",
    "/bin/ls",
    "/bin/echo",
    "/bin/rm",
    "/bin/sh",
    "/bin/busybox",
    "/usr/bin/bash",
    "/usr/bin/sh",
    "/usr/bin/env",
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/lib/systemd/systemd",
    "/netbsd",
    "/bsd",
];

/// Finds the architecture of a Unix system's programs.
pub(super) fn of_programs(guest: &Guest<'_>) -> Option<String> {
    PROGRAMS.iter().find_map(|path| of_file(guest, path.as_bytes()))
}

/// Finds the architecture that a program or library is for.
pub(super) fn of_file(guest: &Guest<'_>, path: &[u8]) -> Option<String> {
    let (node, _) = guest.file(path)?;
    let mut head = [0; 64];
    let read = guest.tree().read(node, 0, &mut head).map_err(|error| guest.warn_of(path, &error)).ok()?;
    of_elf(&head[..read]).map(str::to_owned)
}

/// Returns the architecture that an ELF header names, as libguestfs spells it.
fn of_elf(head: &[u8]) -> Option<&'static str> {
    const CLASS_64: u8 = 2;
    if head.len() < 20 || !head.starts_with(b"\x7fELF") {
        return None;
    }
    let little = head[5] == 1;
    let wide = head[4] == CLASS_64;
    let machine = if little { le16(head, 18) } else { be16(head, 18) };
    Some(match (machine, wide) {
        (3 | 6, _) => "i386",
        (62, true) => "x86_64",
        (62, false) => "x32",
        (40, _) => "arm",
        (183, _) => "aarch64",
        (20, _) => "ppc",
        (21, _) if little => "ppc64le",
        (21, _) => "ppc64",
        (22, true) => "s390x",
        (22, false) => "s390",
        (50, _) => "ia64",
        (2 | 18, _) => "sparc",
        (43, _) => "sparc64",
        (8, true) => "mips64",
        (8, false) => "mips",
        (15, _) => "parisc",
        (4, _) => "m68k",
        (42, _) => "sh",
        (0x9026, _) => "alpha",
        (243, true) => "riscv64",
        (243, false) => "riscv32",
        (258, true) => "loongarch64",
        (258, false) => "loongarch32",
        _ => return None,
    })
}

/// Returns the architecture that a program of Windows is for.
pub(super) fn of_pe(guest: &Guest<'_>, path: &[u8]) -> Option<String> {
    let (node, _) = guest.file(path)?;
    let mut head = [0; 4096];
    let read = guest.tree().read(node, 0, &mut head).map_err(|error| guest.warn_of(path, &error)).ok()?;
    let head = &head[..read];
    if head.len() < 64 || !head.starts_with(b"MZ") {
        return None;
    }
    let header = usize::try_from(le32(head, 60)).ok()?;
    let header = head.get(header..header.checked_add(6)?)?;
    if !header.starts_with(b"PE\0\0") {
        return None;
    }
    let name = match le16(header, 4) {
        0x14c => "i386",
        0x8664 => "x86_64",
        0xaa64 => "aarch64",
        0x1c0 | 0x1c4 => "arm",
        0x200 => "ia64",
        _ => return None,
    };
    Some(name.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    /// Returns the beginning of an ELF program.
    pub(in crate::inspect) fn elf(machine: u16, wide: bool, little: bool) -> Vec<u8> {
        let mut head = b"\x7fELF".to_vec();
        head.extend([1 + u8::from(wide), 2 - u8::from(little), 1]);
        head.resize(64, 0);
        let machine = if little { machine.to_le_bytes() } else { machine.to_be_bytes() };
        head[18..20].copy_from_slice(&machine);
        head
    }

    #[test]
    fn a_program_tells_its_architecture() {
        let of = |machine, wide, little| of_elf(&elf(machine, wide, little));
        assert_eq!(of(62, true, true), Some("x86_64"));
        assert_eq!(of(21, true, true), Some("ppc64le"));
        assert_eq!(of(21, true, false), Some("ppc64"));
        assert_eq!(of(22, true, false), Some("s390x"));
        assert_eq!(of(9999, true, false), None);
        assert_eq!(of_elf(b"\x7fELF"), None);
    }

    #[test]
    fn programs_that_are_links_or_scripts_are_passed_over() {
        let tree = Fixture::new()
            .link("bin", "usr/bin")
            .file("usr/bin/bash", "#!/bin/sh\n")
            .link("usr/bin/ls", "nothing")
            .link("usr/bin/sh", "busybox")
            .file("usr/bin/busybox", elf(183, true, true))
            .tree();
        assert_eq!(of_programs(&Guest::new(&tree)).as_deref(), Some("aarch64"));
    }

    #[test]
    fn a_program_of_windows_tells_it_too() {
        let mut head = b"MZ".to_vec();
        head.resize(128, 0);
        head[60] = 64;
        head[64..70].copy_from_slice(b"PE\0\0\x64\x86");
        let tree = Fixture::new().file("cmd.exe", head.clone()).file("far.exe", [head, vec![]].concat()).tree();
        assert_eq!(of_pe(&Guest::new(&tree), b"cmd.exe").as_deref(), Some("x86_64"));
    }
}
