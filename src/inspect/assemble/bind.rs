//! Folders that fstab shows at a second place: bind mounts, and overlays of several.
//!
//! What they show was mounted before, so none of them goes round in a circle.

use super::super::fstab::{MountEntry, MountSpec};
use super::{Assembly, Placed, plain};

/// The longest path of a folder, in bytes.
const MAX_PATH: usize = 4096;

/// The most folders of an overlay.
const MAX_LAYERS: usize = 64;

/// Shows a folder at a second place.
pub(super) fn bind(entry: &MountEntry, assembly: &mut Assembly) {
    let MountSpec::Path(source) = &entry.spec else { return };
    let target = plain(&entry.mountpoint);
    // A folder that is bound to its own place changes its options alone.
    if !source.starts_with(b"/") || plain(source) == target {
        return;
    }
    match folder_at(&plain(source), assembly) {
        Some(found) => assembly.mounts.push(Placed { mountpoint: target, ..found }),
        None => assembly.missing.push(format!(
            "{} on {}: lies in an overlay or an image",
            entry.spec,
            target.escape_ascii()
        )),
    }
}

/// Shows folders over each other, as transactional systems have `/etc`.
pub(super) fn overlay(entry: &MountEntry, assembly: &mut Assembly) {
    let target = plain(&entry.mountpoint);
    // What the initial RAM disk mounts is named by where it has the root.
    let in_initrd = entry.has_option("x-initrd.mount");
    let folder = |path: &str| {
        let path = if in_initrd { path.strip_prefix("/sysroot").unwrap_or(path) } else { path };
        if path.is_empty() || path.starts_with('/') { folder_at(&plain(path.as_bytes()), assembly) } else { None }
    };
    let lower = entry.option("lowerdir").unwrap_or_default();
    let paths = entry.option("upperdir").into_iter().chain(lower.split(':').filter(|path| !path.is_empty()));
    let layers: Option<Vec<Placed>> = paths.take(MAX_LAYERS).map(folder).collect();
    match layers.map(|layers| layers.into_iter()).and_then(|mut layers| Some((layers.next()?, layers.collect()))) {
        Some((upper, lower)) => assembly.mounts.push(Placed { mountpoint: target, lower, ..upper }),
        None => assembly.missing.push(format!(
            "{} on {}: an overlay of folders that cannot be told",
            entry.spec,
            target.escape_ascii()
        )),
    }
}

/// Returns where a folder of the guest lies; none where that is an overlay or an image, or too long to tell.
fn folder_at(path: &[u8], assembly: &Assembly) -> Option<Placed> {
    let under = |placed: &&Placed| {
        let point = placed.mountpoint.as_slice();
        point == b"/" || path.strip_prefix(point).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let below = assembly.mounts.iter().filter(under).max_by_key(|placed| placed.mountpoint.len())?;
    let rest = if below.mountpoint == b"/" { path } else { &path[below.mountpoint.len()..] };
    let mut folder = below.folder.clone().unwrap_or_default();
    folder.extend_from_slice(rest);
    if folder.len() > MAX_PATH || !below.lower.is_empty() || below.image.is_some() {
        return None;
    }
    let folder = Some(plain(&folder)).filter(|folder| folder != b"/");
    Some(Placed { mountpoint: path.to_vec(), folder, ..below.clone() })
}
