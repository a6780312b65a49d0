//! A system whose `/usr` is an image of composefs, as bootc deploys them: the metadata is an EROFS filesystem in
//! `/composefs/images`, the contents of files lie below `/composefs/objects`, and what a deployment has changed lies in
//! `/state/deploy/<id>`.
//!
//! The image is not read, so what is told is what lies outside of it.

use super::boot;
use super::linux;
use super::read::{Guest, join, tidy};
use super::subtree::Subtree;
use super::types::{Kind, System};
use crate::tree::{Mount, Tree};
use std::sync::Arc;

/// The most deployments that are looked at.
const MAX_DEPLOYMENTS: usize = 32;

/// Describes the system of a root that holds images of composefs.
pub(super) fn look(tree: &Tree, guest: &Guest<'_>) -> Option<System> {
    if !guest.is_dir("/composefs/objects") || !guest.is_dir("/composefs/images") {
        return None;
    }
    let started = boot::newest_option(guest, "composefs=");
    // A question mark in front lets it start without fs-verity.
    let named = started.as_ref().map(|(id, _)| id.trim_start_matches('?').as_bytes());
    let deployed = guest.list("/state/deploy").into_iter().take(MAX_DEPLOYMENTS);
    let found = deployed.filter_map(|name| {
        let at = guest.found(join("/state/deploy", &name)).filter(|at| at.attr.is_dir())?;
        Some(((named == Some(&name), at.attr.mtime.seconds), at.path))
    });
    let (_, path) = found.max()?;
    let mut system = System::new(Kind::Linux, "unknown");
    system.product_name = started.map(|(_, title)| title).filter(|title| !title.is_empty());
    let physical = tree.mounts().first()?.filesystem.clone();
    match Subtree::open(physical, &path).and_then(|state| {
        Tree::new(vec![Mount { filesystem: Arc::new(state), mountpoint: b"/".to_vec(), source: tidy(&path) }])
    }) {
        Ok(state) => {
            let state = Guest::new(&state);
            linux::names(&state, &mut system);
            state.into_warnings().into_iter().for_each(|warning| guest.warn(warning));
        }
        Err(error) => guest.warn_of(&path, &error),
    }
    guest.warn(format!(
        "{}: the system lies in an image of composefs, which is not read: its release, packages and programs are not told",
        tidy(&path)
    ));
    Some(system)
}
