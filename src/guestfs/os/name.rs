//! The names of roots and of what is mounted: devices, and subvolumes of Btrfs as libguestfs calls them.

use super::super::Guestfs;
use super::Root;
use crate::error::{Error, Result};
use crate::fs::btrfs::Subvolume;
use crate::inspect::Placed;

/// How libguestfs names a subvolume of a Btrfs filesystem: `btrfsvol:/dev/sda2/@home`.
const BTRFS_VOLUME: &str = "btrfsvol:";

/// Returns the device of a name that libguestfs would take, and the Btrfs subvolume where one is named.
pub(in crate::guestfs) fn mountable(name: &str) -> (&str, Option<Subvolume>) {
    let Some((start, rest)) = name.strip_prefix(BTRFS_VOLUME).and_then(|rest| rest.split_once("/dev/")) else {
        return (name, None);
    };
    // The device's own name may have a slash in it, as a logical volume's has: the longest that could be one is not known
    // here, so the subvolume begins at the first slash behind a plain name, and behind the second part of others.
    let parts: usize = if rest.starts_with("mapper/") || rest.starts_with("md/") { 2 } else { 1 };
    let end = rest.match_indices('/').nth(parts - 1).map_or(rest.len(), |(at, _)| at);
    let device = &name[BTRFS_VOLUME.len() + start.len()..][.."/dev/".len() + end];
    let path = rest[end..].trim_matches('/');
    (device, (!path.is_empty()).then(|| Subvolume::Path(path.as_bytes().to_vec())))
}

/// Returns the name that libguestfs has for a subvolume of a device.
pub(super) fn mountable_name(device: &str, subvolume: Option<&[u8]>) -> String {
    match subvolume {
        Some(path) if !path.is_empty() && path != b"/" => {
            format!("{BTRFS_VOLUME}{device}/{}", String::from_utf8_lossy(path))
        }
        _ => device.to_owned(),
    }
}

impl Guestfs {
    /// Returns the name of what is mounted. A subvolume that fstab gives by its number is looked up.
    pub(crate) fn mountable_of(&self, placed: &Placed) -> Result<String> {
        let Some(number) = placed.subvolume_id.filter(|_| placed.subvolume.is_none()) else {
            return Ok(mountable_name(&placed.device, placed.subvolume.as_deref()));
        };
        let launched = self.launched()?;
        let held = launched.held(&placed.device)?;
        let subvolumes = launched.btrfs(held, &self.fs_options())?.subvolumes()?;
        let path =
            subvolumes.iter().find(|subvolume| subvolume.id == number).map(|subvolume| subvolume.path.as_slice());
        Ok(mountable_name(&placed.device, path))
    }

    /// Finds the root that a person names: by its device, by `btrfsvol:DEVICE/SUBVOLUME`, or by `DEVICE:SUBVOLUME`.
    ///
    /// # Errors
    /// [`Error::NotFound`] with the roots that there are, [`Error::Usage`] where a device has several.
    pub fn find_root(&self, name: &str) -> Result<Root> {
        let roots = self.inspect_roots()?;
        let plain = name.strip_prefix(BTRFS_VOLUME).unwrap_or(name);
        let wanted = format!("/dev/{}", plain.strip_prefix("/dev/").unwrap_or(plain));
        let names = |roots: &[&Root]| roots.iter().map(|root| root.name()).collect::<Vec<_>>().join(", ");
        let fits = |root: &&Root| {
            let path = root.subvolume.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            wanted == root.device
                || wanted == format!("{}:{path}", root.device)
                || wanted == format!("{}/{path}", root.device)
        };
        let found: Vec<&Root> = roots.iter().filter(fits).collect();
        match found.as_slice() {
            [root] => Ok((*root).clone()),
            [] => {
                let all: Vec<&Root> = roots.iter().collect();
                let all = if all.is_empty() { "none".to_owned() } else { names(&all) };
                Err(Error::NotFound(format!("{name} holds no operating system; those that were found: {all}").into()))
            }
            several => {
                let what = format!("{name} holds several operating systems; choose one: {}", names(several));
                Err(Error::Usage(what.into()))
            }
        }
    }
}
