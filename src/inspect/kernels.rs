//! Kernels with their initial RAM disks, and the virtio drivers among their modules.

use super::read::{Guest, join, tidy};
use super::types::Kernel;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// The most kernels that are kept.
const MAX_KERNELS: usize = 256;

/// The most that is read of a list of modules, in bytes.
const MAX_MODULES: u64 = 8 << 20;

/// Names of kernels, before their versions.
const KERNEL_NAMES: [&str; 7] = ["vmlinuz-", "vmlinux-", "kernel-", "bzImage-", "Image-", "linux-", "kernel."];

/// Folders that kernels of one image with their initial RAM disks lie in.
const UNIFIED: [&str; 3] = ["/boot/EFI/Linux", "/efi/EFI/Linux", "/boot/efi/EFI/Linux"];

/// The folders of modules; one leads to the other where `/usr` is merged.
const MODULES: [&str; 2] = ["/lib/modules", "/usr/lib/modules"];

/// Lists the kernels, the newest last.
pub(super) fn list(guest: &Guest<'_>) -> Vec<Kernel> {
    let mut kernels = Vec::new();
    let names = guest.list("/boot");
    for name in names.iter().map(|name| tidy(name)) {
        if kernels.len() >= MAX_KERNELS {
            break;
        }
        let version = KERNEL_NAMES.iter().find_map(|start| name.strip_prefix(start));
        let plain = matches!(name.as_str(), "vmlinuz" | "bzImage" | "kernel8.img").then_some("");
        let Some(version) = version.or(plain).filter(|version| !is_companion(version)) else { continue };
        let path = format!("/boot/{name}");
        // Links such as /boot/vmlinuz lead to a kernel that is in the list itself.
        if !guest.is_file(&path) || guest.link(&path).is_some() {
            continue;
        }
        let initrd = initrd_names(version)
            .into_iter()
            .find(|initrd| names.binary_search_by(|name| name.as_slice().cmp(initrd.as_bytes())).is_ok());
        kernels.push(Kernel {
            path,
            version: version.to_owned(),
            initrd: initrd.map(|initrd| format!("/boot/{initrd}")),
            modules: has_modules(guest, version),
        });
    }
    boot_loader_spec(guest, &mut kernels);
    for folder in UNIFIED {
        for path in guest.list_ending(folder, ".efi") {
            let path = tidy(&path);
            let version = path.rsplit('/').next().and_then(|name| name.strip_suffix(".efi")).unwrap_or_default();
            kernels.push(Kernel { initrd: None, modules: false, version: version.to_owned(), path });
        }
    }
    if kernels.is_empty() {
        beside_modules(guest, &mut kernels);
    }
    kernels.sort_by(|one, other| natural(&one.version, &other.version).then_with(|| one.path.cmp(&other.path)));
    kernels.dedup_by(|one, other| one.path == other.path);
    kernels.truncate(MAX_KERNELS);
    kernels
}

/// Says whether what looks like a version is the ending of a file that lies beside a kernel.
fn is_companion(version: &str) -> bool {
    [".hmac", ".sig", ".old.map", ".config"].iter().any(|ending| version.ends_with(ending))
}

fn initrd_names(version: &str) -> Vec<String> {
    if version.is_empty() {
        return ["initrd.img", "initrd", "initramfs.img", "initrd.gz"].map(str::to_owned).to_vec();
    }
    vec![
        format!("initrd.img-{version}"),
        format!("initramfs-{version}.img"),
        format!("initrd-{version}.img"),
        format!("initrd-{version}"),
        format!("initramfs-{version}"),
        format!("initramfs-genkernel-{version}"),
        format!("initrd-{version}.gz"),
    ]
}

fn has_modules(guest: &Guest<'_>, version: &str) -> bool {
    !version.is_empty()
        && !version.contains('/')
        && MODULES.iter().any(|folder| guest.is_dir(format!("{folder}/{version}")))
}

/// Adds the kernels that lie as the Boot Loader Specification says: `<machine id>/<version>/linux`.
fn boot_loader_spec(guest: &Guest<'_>, kernels: &mut Vec<Kernel>) {
    for base in ["/boot", "/efi", "/boot/efi"] {
        for machine in guest.list(base).into_iter().filter(|name| name.len() == 32).take(16) {
            let folder = join(base, machine);
            for version in guest.list(&folder).into_iter().take(MAX_KERNELS) {
                let path = join(join(&folder, &version), "linux");
                let initrd = join(join(&folder, &version), "initrd");
                if guest.is_file(&path) {
                    let version = tidy(&version);
                    kernels.push(Kernel {
                        path: tidy(&path),
                        initrd: guest.is_file(&initrd).then(|| tidy(&initrd)),
                        modules: has_modules(guest, &version),
                        version,
                    });
                }
            }
        }
    }
}

/// Adds the kernels that lie beside their modules, as in images that have no `/boot`.
fn beside_modules(guest: &Guest<'_>, kernels: &mut Vec<Kernel>) {
    for version in versions(guest) {
        let folder = join("/usr/lib/modules", &version);
        let (path, initrd) = (join(&folder, "vmlinuz"), join(&folder, "initramfs.img"));
        if guest.is_file(&path) {
            kernels.push(Kernel {
                path: tidy(&path),
                version: tidy(&version),
                initrd: guest.is_file(&initrd).then(|| tidy(&initrd)),
                modules: true,
            });
        }
    }
}

/// Returns the versions that there are modules of.
fn versions(guest: &Guest<'_>) -> Vec<Vec<u8>> {
    let mut versions: Vec<_> = MODULES.iter().flat_map(|folder| guest.list(folder)).collect();
    versions.sort();
    versions.dedup();
    versions.truncate(64);
    versions
}

/// Compares versions by their numbers: `5.10.0-9` comes before `5.10.0-10`.
pub(super) fn natural(one: &str, other: &str) -> Ordering {
    let digits = |text: &str| text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (mut one, mut other) = (one, other);
    loop {
        let (left, right) = (digits(one), digits(other));
        if left > 0 && right > 0 {
            let (number, beside) = (one[..left].trim_start_matches('0'), other[..right].trim_start_matches('0'));
            let order = number.len().cmp(&beside.len()).then_with(|| number.cmp(beside));
            if order != Ordering::Equal {
                return order;
            }
            (one, other) = (&one[left..], &other[right..]);
            continue;
        }
        match (one.chars().next(), other.chars().next()) {
            (Some(left), Some(right)) if left == right => {
                one = &one[left.len_utf8()..];
                other = &other[right.len_utf8()..];
            }
            (left, right) => return left.cmp(&right),
        }
    }
}

/// Lists the virtio drivers that any kernel has, as a module or built in.
pub(super) fn virtio(guest: &Guest<'_>) -> Vec<String> {
    let mut drivers = BTreeSet::new();
    for version in versions(guest) {
        let Some(folder) = MODULES.iter().map(|folder| join(folder, &version)).find(|folder| guest.is_dir(folder))
        else {
            continue;
        };
        for name in ["modules.dep", "modules.builtin"] {
            let Some(bytes) = guest.read(join(&folder, name), MAX_MODULES) else { continue };
            for line in bytes.split(|&byte| byte == b'\n') {
                // kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio.ko.xz …
                let path = line.split(|&byte| byte == b':').next().unwrap_or_default();
                drivers.extend(driver_of(path));
            }
        }
    }
    drivers.into_iter().take(64).collect()
}

/// Returns the name of the virtio driver that a module's path is of.
pub(super) fn driver_of(path: &[u8]) -> Option<String> {
    let file = path.rsplit(|&byte| byte == b'/').next()?;
    let end = file.windows(3).position(|part| part == b".ko")?;
    let name = file.get(..end)?;
    let is_virtio = name.starts_with(b"virtio") || name.ends_with(b"_virtio") || name == b"vmw_vsock_virtio_transport";
    (is_virtio && name.len() < 64).then(|| tidy(name).replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn kernels_are_listed_by_version_with_what_belongs_to_them() {
        let tree = Fixture::new()
            .file("boot/vmlinuz-6.1.0-9-amd64", "")
            .file("boot/vmlinuz-6.1.0-18-amd64", "")
            .file("boot/initrd.img-6.1.0-18-amd64", "")
            .file("boot/config-6.1.0-18-amd64", "")
            .file("boot/.vmlinuz-6.1.0-18-amd64.hmac", "")
            .link("boot/vmlinuz", "vmlinuz-6.1.0-18-amd64")
            .dir("usr/lib/modules/6.1.0-18-amd64")
            .tree();
        let kernels = list(&Guest::new(&tree));
        let versions: Vec<_> = kernels.iter().map(|kernel| kernel.version.as_str()).collect();
        assert_eq!(versions, ["6.1.0-9-amd64", "6.1.0-18-amd64"]);
        assert_eq!(kernels[1].initrd.as_deref(), Some("/boot/initrd.img-6.1.0-18-amd64"));
        assert!(kernels[1].modules && !kernels[0].modules);
        let tree = Fixture::new().file("usr/lib/modules/6.7.0/vmlinuz", "").tree();
        assert_eq!(list(&Guest::new(&tree))[0].path, "/usr/lib/modules/6.7.0/vmlinuz");
    }

    #[test]
    fn virtio_drivers_are_modules_or_built_in() {
        let tree = Fixture::new()
            .file(
                "lib/modules/6.1/modules.dep",
                "kernel/drivers/block/virtio_blk.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz\nkernel/net/9p/9pnet_virtio.ko:\nkernel/x/ext4.ko:\n",
            )
            .file("lib/modules/6.1/modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n")
            .tree();
        assert_eq!(virtio(&Guest::new(&tree)), ["9pnet_virtio", "virtio_blk", "virtio_pci"]);
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert_eq!(natural("5.10.0-9", "5.10.0-10"), Ordering::Less);
        assert_eq!(natural("5.10", "5.10"), Ordering::Equal);
        assert_eq!(natural("5.10", "5.10.1"), Ordering::Less);
        assert_eq!(natural("a", "ä"), Ordering::Less);
    }
}
