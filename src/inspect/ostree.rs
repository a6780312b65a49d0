//! ostree: a filesystem that holds whole systems in folders, of which the boot loader picks one.
//!
//! The layout is specified by ostree's documentation ("Anatomy of an OSTree repository", "Deployments").

use super::composefs::Composefs;
use super::read::{Guest, join, tidy};
use super::subtree::Subtree;
use super::types::Deployment;
use crate::fs::Filesystem;
use crate::tree::{Mount, Tree};
use std::sync::Arc;

/// The most folders of each kind that are looked at.
const MAX_FOLDERS: usize = 32;

/// Finds the deployment that boots: the one that the boot loader's newest entry names, or else one that an entry can name, or
/// else the newest folder.
pub(super) fn deployment(guest: &Guest<'_>) -> Option<Deployment> {
    let mut newest = None;
    for ostree in ["/ostree", "/sysroot/ostree"] {
        let base = format!("{ostree}/deploy");
        let stateroots = guest.list(&base);
        if stateroots.is_empty() {
            continue;
        }
        let named = newest.get_or_insert_with(|| super::boot::newest_ostree(guest)).as_ref().and_then(|path| {
            let path = path.strip_prefix("/ostree").map_or_else(|| path.clone(), |rest| format!("{ostree}{rest}"));
            guest.found(path).map(|found| found.path)
        });
        let mut found: Vec<((bool, bool), i64, Deployment)> = Vec::new();
        for stateroot in stateroots.into_iter().take(MAX_FOLDERS) {
            let folder = join(&base, &stateroot);
            let deployed = join(&folder, "deploy");
            for name in guest.list(&deployed).into_iter().take(MAX_FOLDERS) {
                let path = join(&deployed, &name);
                let Some(at) = guest.found(&path).filter(|at| at.attr.is_dir()) else { continue };
                let is_named = named.as_ref() == Some(&at.path);
                let booted = (is_named, booted(guest, ostree, &stateroot, &name));
                found.push((
                    booted,
                    at.attr.mtime.seconds,
                    Deployment { path, var: join(&folder, "var"), image: None },
                ));
            }
        }
        found.sort_by_key(|(booted, changed, _)| (*booted, *changed));
        if let Some((_, _, deployment)) = found.pop() {
            return Some(deployment);
        }
    }
    None
}

/// Says whether the first link of `/ostree/boot.N` leads to a deployment.
fn booted(guest: &Guest<'_>, ostree: &str, stateroot: &[u8], name: &[u8]) -> bool {
    for number in ["boot.0", "boot.1"] {
        let root = format!("{ostree}/{number}");
        let root = join(&root, stateroot);
        for checksum in guest.list(&root).into_iter().take(MAX_FOLDERS) {
            let link = guest.link(join(join(&root, &checksum), "0"));
            if link.is_some_and(|target| target.ends_with(name)) {
                return true;
            }
        }
    }
    false
}

/// Returns a deployment as a tree of its own, with the `/var` that belongs to it, and `/etc` where that is not in it.
pub(super) fn tree_of(tree: &Tree, deployment: &Deployment, guest: &Guest<'_>) -> Option<Tree> {
    let physical = &tree.mounts().first()?.filesystem;
    let open = |path: &[u8]| Subtree::open(physical.clone(), path);
    let root: Arc<dyn Filesystem> = match &deployment.image {
        Some(image) => {
            Arc::new(Composefs::open(physical.clone(), image).map_err(|error| guest.warn_of(image, &error)).ok()?)
        }
        None => Arc::new(open(&deployment.path).map_err(|error| guest.warn_of(&deployment.path, &error)).ok()?),
    };
    let mount = |filesystem: Arc<dyn Filesystem>, mountpoint: &str| Mount {
        filesystem,
        mountpoint: mountpoint.into(),
        source: tidy(&deployment.path),
    };
    let mut mounts = vec![mount(root, "/")];
    let alone = Tree::new(mounts.clone()).ok()?;
    let etc = deployment.image.as_ref().map(|_| (join(&deployment.path, "etc"), "/etc"));
    let others = [(deployment.var.clone(), "/var"), (b"/boot".to_vec(), "/boot"), (b"/".to_vec(), "/sysroot")];
    for (path, mountpoint) in etc.into_iter().chain(others) {
        let there = alone.resolve(mountpoint.as_bytes(), false).is_ok_and(|found| found.attr.is_dir());
        if let (true, Ok(filesystem)) = (there, open(&path)) {
            mounts.push(mount(Arc::new(filesystem), mountpoint));
        }
    }
    Tree::new(mounts).map_err(|error| guest.warn_of(&deployment.path, &error)).ok()
}
