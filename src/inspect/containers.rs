//! Roots of containers that lie in folders of a guest: systemd-nspawn, LXC, LXD, Incus; Docker and Podman, in layers or on
//! Btrfs.

use super::layers::Layers;
use super::read::{Guest, join, tidy};
use super::subtree::Subtree;
use super::types::System;
use crate::fs::Filesystem;
use crate::tree::{Mount, Tree};
use std::sync::Arc;

/// The most containers that are looked at.
const MAX_CONTAINERS: usize = 256;

/// The most layers below the topmost one of a container.
const MAX_LAYERS: usize = 256;

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
    /// The folder that is its root; where that is made of layers, the topmost one.
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
        add(guest, path, &tree, &mut containers);
    }
    for layers in in_layers(guest) {
        let subtrees: Vec<Arc<dyn Filesystem>> =
            layers.iter().filter_map(|path| Some(Arc::new(subtree(guest, path)?) as _)).collect();
        // Without one of its layers it would be told as what it is not.
        if subtrees.len() != layers.len() {
            continue;
        }
        let source = tidy(&layers[0]);
        let mount = Mount { filesystem: Arc::new(Layers::new(subtrees)), mountpoint: b"/".to_vec(), source };
        match Tree::new(vec![mount]) {
            Ok(tree) => add(guest, layers[0].clone(), &tree, &mut containers),
            Err(error) => guest.warn_of(&layers[0], &error),
        }
    }
    containers
}

fn add(guest: &Guest<'_>, path: Vec<u8>, tree: &Tree, containers: &mut Vec<Container>) {
    match super::look(tree) {
        Ok(Some(system)) => containers.push(Container { path, system }),
        Ok(None) => {}
        Err(error) => guest.warn_of(&path, &error),
    }
}

/// Returns the layers of each container of Docker and Podman, the upper first.
fn in_layers(guest: &Guest<'_>) -> Vec<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    const DOCKER: &str = "/var/lib/docker";
    for container in guest.list(join(DOCKER, "containers")).into_iter().take(MAX_CONTAINERS) {
        let mounts = join(join(DOCKER, "image/overlay2/layerdb/mounts"), container);
        let Some(layer) = guest.first_line(join(mounts, "mount-id")) else { continue };
        found.extend(layers_of(guest, &join(DOCKER, "overlay2"), &layer));
    }
    for store in ["/var/lib/containers/storage", "/home/*/.local/share/containers/storage"] {
        for store in expand(guest, store) {
            let text = guest.text(join(&store, "overlay-containers/containers.json")).unwrap_or_default();
            let told: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let containers = told.as_array().map(Vec::as_slice).unwrap_or_default();
            let layers = containers.iter().filter_map(|one| one["layer"].as_str()).take(MAX_CONTAINERS);
            found.extend(layers.filter_map(|layer| layers_of(guest, &join(&store, "overlay"), layer)));
        }
    }
    found.truncate(MAX_CONTAINERS);
    found
}

/// Returns a layer and those below it, which its file `lower` names by links: `l/ABC:l/DEF`.
fn layers_of(guest: &Guest<'_>, store: &[u8], layer: &str) -> Option<Vec<Vec<u8>>> {
    if layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return None;
    }
    let folder = join(store, layer);
    let lower = guest.first_line(join(&folder, "lower")).unwrap_or_default();
    let below = lower.split(':').filter(|name| !name.is_empty());
    let below: Option<Vec<Vec<u8>>> =
        below.take(MAX_LAYERS).map(|name| Some(guest.found(join(store, name))?.path)).collect();
    let upper = guest.found(join(&folder, "diff"))?.path;
    Some([vec![upper], below?].concat())
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
    let mount = Mount { filesystem: Arc::new(subtree(guest, path)?), mountpoint: b"/".to_vec(), source: tidy(path) };
    Tree::new(vec![mount]).map_err(|error| guest.warn_of(path, &error)).ok()
}

/// Returns a folder, by its path without links, as a filesystem of its own.
fn subtree(guest: &Guest<'_>, path: &[u8]) -> Option<Subtree> {
    let inside = |mount: &&Mount| {
        let point = mount.mountpoint.as_slice();
        point == b"/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let mount = guest.tree().mounts().iter().filter(inside).max_by_key(|mount| mount.mountpoint.len())?;
    let rest = if mount.mountpoint == b"/" { path } else { &path[mount.mountpoint.len()..] };
    Subtree::open(mount.filesystem.clone(), rest).map_err(|error| guest.warn_of(path, &error)).ok()
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

    #[test]
    fn containers_of_layers_are_told_as_they_run() {
        let layers = |fixture: Fixture, store: &str| {
            fixture
                .file(&format!("{store}/base/diff/usr/lib/os-release"), "ID=debian\nVERSION_ID=11\n")
                .file(&format!("{store}/base/diff/bin/sh"), "")
                .file(&format!("{store}/base/diff/etc/passwd"), "")
                .file(&format!("{store}/base/diff/etc/hostname"), "of the base\n")
                .file(&format!("{store}/upgrade/diff/usr/lib/os-release"), "ID=debian\nVERSION_ID=12\n")
                .link(&format!("{store}/upgrade/diff/etc/os-release"), "../usr/lib/os-release")
                .link(&format!("{store}/l/AAAA"), "../upgrade/diff")
                .link(&format!("{store}/l/BBBB"), "../base/diff")
                .file(&format!("{store}/own/lower"), "l/AAAA:l/BBBB")
                .device(&format!("{store}/own/diff/etc/hostname"))
                .file(&format!("{store}/odd/lower"), "l/AAAA:../../../../etc")
                .dir(&format!("{store}/odd/diff"))
        };
        let mounts = "var/lib/docker/image/overlay2/layerdb/mounts";
        let docker = layers(Fixture::new(), "var/lib/docker/overlay2")
            .dir("var/lib/docker/containers/c1")
            .dir("var/lib/docker/containers/c2")
            .dir("var/lib/docker/containers/c3")
            .file(&format!("{mounts}/c1/mount-id"), "own")
            .file(&format!("{mounts}/c2/mount-id"), "../../../../../etc")
            .file(&format!("{mounts}/c3/mount-id"), "odd");
        let containers = "[{\"id\":\"c1\",\"layer\":\"own\"},{\"layer\":\"none\"},{\"layer\":7},3]";
        let store = "home/ann/.local/share/containers/storage";
        let podman = layers(Fixture::new(), &format!("{store}/overlay"))
            .file(&format!("{store}/overlay-containers/containers.json"), containers);
        for (fixture, path) in
            [(docker, "/var/lib/docker/overlay2/own/diff".to_owned()), (podman, format!("/{store}/overlay/own/diff"))]
        {
            let tree = fixture.tree();
            let found = find(&Guest::new(&tree));
            let told: Vec<_> = found.iter().map(|one| String::from_utf8_lossy(&one.path).into_owned()).collect();
            assert_eq!(told, [path]);
            assert_eq!((found[0].system.distro.as_str(), found[0].system.major()), ("debian", 12));
            assert_eq!(found[0].system.hostname, None, "it was taken away");
        }
    }
}
