//! Roots of containers that lie in folders of a guest: systemd-nspawn, LXC, LXD, Incus; Docker's on Btrfs.

use super::read::{Guest, tidy};
use super::subtree::Subtree;
use super::types::System;
use crate::tree::{Mount, Tree};
use std::sync::Arc;

/// The most containers that are looked at.
const MAX_CONTAINERS: usize = 256;

/// Where containers lie: a star stands for any one folder.
const PLACES: [&str; 8] = [
    "/var/lib/machines/*",
    "/var/lib/lxc/*/rootfs",
    "/var/lib/lxd/containers/*/rootfs",
    "/var/lib/lxd/storage-pools/*/containers/*/rootfs",
    "/var/snap/lxd/common/lxd/storage-pools/*/containers/*/rootfs",
    "/var/lib/incus/storage-pools/*/containers/*/rootfs",
    "/home/*/.local/share/lxc/*/rootfs",
    "/var/lib/docker/btrfs/subvolumes/*",
];

/// A container's root, and the system in it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Container {
    /// The folder that is its root.
    #[serde(serialize_with = "super::types::lossy")]
    pub path: Vec<u8>,
    /// The system.
    pub system: System,
}

/// Finds the containers of a guest.
pub(super) fn find(guest: &Guest<'_>) -> Vec<Container> {
    let mut containers = Vec::new();
    let paths = PLACES.iter().flat_map(|place| expand(guest, place)).take(MAX_CONTAINERS);
    for path in paths {
        let Some(found) = guest.found(&path).filter(|found| found.attr.is_dir()) else { continue };
        let Some(tree) = tree_of(guest, &found.path) else { continue };
        match super::look(&tree) {
            Ok(Some(system)) => containers.push(Container { path, system }),
            Ok(None) => {}
            Err(error) => guest.warn_of(&path, &error),
        }
    }
    containers
}

/// Returns the paths that a pattern stands for.
fn expand(guest: &Guest<'_>, pattern: &str) -> Vec<Vec<u8>> {
    let mut paths = vec![Vec::new()];
    for name in pattern.split('/').filter(|name| !name.is_empty()) {
        let mut next = Vec::new();
        for path in &paths {
            let names = if name == "*" { guest.list(path) } else { vec![name.as_bytes().to_vec()] };
            next.extend(names.into_iter().map(|name| super::read::join(path, name)));
        }
        next.truncate(MAX_CONTAINERS);
        paths = next;
    }
    paths
}

/// Returns a folder, by its path without links, as a tree of its own.
fn tree_of(guest: &Guest<'_>, path: &[u8]) -> Option<Tree> {
    let inside = |mount: &&Mount| {
        let point = mount.mountpoint.as_slice();
        point == b"/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let mount = guest.tree().mounts().iter().filter(inside).max_by_key(|mount| mount.mountpoint.len())?;
    let rest = if mount.mountpoint == b"/" { path } else { &path[mount.mountpoint.len()..] };
    let made = Subtree::open(mount.filesystem.clone(), rest).and_then(|root| {
        let source = tidy(path);
        Tree::new(vec![Mount { filesystem: Arc::new(root), mountpoint: b"/".to_vec(), source }])
    });
    made.map_err(|error| guest.warn_of(path, &error)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::fixture::Fixture;

    #[test]
    fn the_roots_of_containers_are_found_on_whatever_they_lie() {
        let whole =
            Fixture::new().dir("var/lib/machines").file("var/lib/lxc/web/config", "").dir("var/lib/lxc/web/rootfs");
        let data =
            Fixture::new().file("deb/etc/os-release", "ID=debian\nVERSION_ID=12\n").file("deb/bin/sh", "").dir("empty");
        let tree = Tree::new(vec![whole.mount("/dev/sda1", "/"), data.mount("/dev/sdb1", "/var/lib/machines")]);
        let tree = tree.expect("two mounts");
        let found = find(&Guest::new(&tree));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, b"/var/lib/machines/deb");
        assert_eq!(found[0].system.distro, "debian");
        let place = "var/lib/incus/storage-pools/default/containers/web/rootfs";
        let tree = Fixture::new()
            .file(&format!("{place}/etc/os-release"), "ID=alpine\nVERSION_ID=3.20\n")
            .file(&format!("{place}/bin/sh"), "")
            .tree();
        let found = find(&Guest::new(&tree));
        assert_eq!((found.len(), found[0].system.distro.as_str()), (1, "alpinelinux"));
    }
}
