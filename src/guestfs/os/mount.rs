//! Mounting a root with what its system mounts.

use super::super::Guestfs;
use super::Root;
use crate::error::{Error, ErrorContext, Result};
use crate::fs::Filesystem;
use crate::fs::btrfs::Subvolume;
use crate::inspect::{Composefs, Layers, Placed, Subtree};
use crate::tree::{Mount, Tree};
use std::sync::Arc;

/// Returns the subvolume that a mount shows.
fn subvolume_of(placed: &Placed) -> Option<Subvolume> {
    placed.subvolume.clone().map(Subvolume::Path).or(placed.subvolume_id.map(Subvolume::Id))
}

/// Returns the folder that a mount shows, where it is not the whole filesystem.
fn folder_of(placed: &Placed) -> Option<&[u8]> {
    placed.folder.as_deref().filter(|folder| !folder.is_empty() && *folder != b"/")
}

impl Guestfs {
    /// Mounts a root as its system has it: what its fstab names, nearest to the root first. What is missing is said in the
    /// log and left out.
    ///
    /// # Errors
    /// Those of mounting the root itself.
    pub fn mount_root(&mut self, root: &Root, writable: bool) -> Result<()> {
        self.mount_root_on(b"", root, writable)
    }

    /// Mounts a root as [`mount_root`](Self::mount_root) does, on a folder: an absolute path, or nothing for the root of the
    /// tree.
    pub(in crate::guestfs) fn mount_root_on(&mut self, folder: &[u8], root: &Root, writable: bool) -> Result<()> {
        for missing in &root.assembly.missing {
            log::warn!("{missing}");
        }
        // Beside other systems, a link in this one's tree would lead into theirs: the places are found in its own tree.
        let own = if folder.is_empty() { None } else { Some(self.tree_of_root(root)?) };
        let mut first = true;
        for placed in &root.assembly.mounts {
            let place = own.as_ref().map_or(Ok(placed.mountpoint.clone()), |tree| {
                Ok(tree.resolve(&placed.mountpoint, true).at(|| placed.mountpoint.escape_ascii().to_string())?.path)
            });
            let place =
                place.map(|place| [folder, if place == b"/" && !folder.is_empty() { b"" } else { &place }].concat());
            let mounted = place.and_then(|place| self.mount_placed(place, placed, writable));
            match mounted {
                Err(error) if first => return Err(error),
                Err(error) => log::warn!("left out: {error}"),
                Ok(()) => {}
            }
            first = false;
        }
        Ok(())
    }

    fn mount_placed(&mut self, mountpoint: Vec<u8>, placed: &Placed, writable: bool) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let subvolume = subvolume_of(placed);
        let launched = self.launched()?;
        let held = launched.held(&placed.device)?;
        let kind = held.identity.as_ref().map_or("", |identity| identity.kind);
        let writable = writable && launched.is_writable(held) && crate::fs::has_writer(kind);
        if folder_of(placed).is_none() && placed.lower.is_empty() && placed.image.is_none() {
            let mountpoint = std::ffi::OsStr::from_bytes(&mountpoint);
            return self.mount_subvolume(&placed.device, mountpoint, subvolume.as_ref(), writable);
        }
        let device = held.volume.name.clone();
        let shown = self.open_placed(placed, writable)?;
        self.mount_filesystem(device, mountpoint, shown)
    }

    /// Opens what a mount shows: a filesystem, a folder of it, or an overlay of folders, which is for reading alone.
    fn open_placed(&self, placed: &Placed, writable: bool) -> Result<Arc<dyn Filesystem>> {
        let launched = self.launched()?;
        let open = |placed: &Placed, writable: bool| {
            let held = launched.held(&placed.device)?;
            let subvolume = subvolume_of(placed);
            let filesystem = launched.filesystem(held, subvolume.as_ref(), &self.fs_options(), writable)?;
            if let Some(image) = &placed.image {
                return Ok(Arc::new(Composefs::open(filesystem, image)?) as Arc<dyn Filesystem>);
            }
            match folder_of(placed) {
                Some(folder) => Ok(Arc::new(Subtree::open(filesystem, folder)?) as Arc<dyn Filesystem>),
                None => Ok(filesystem),
            }
        };
        if placed.lower.is_empty() {
            return open(placed, writable);
        }
        let layers = [placed].into_iter().chain(&placed.lower).map(|layer| {
            let place = || layer.mountpoint.escape_ascii().to_string();
            open(layer, false).at(place)
        });
        Ok(Arc::new(Layers::new(layers.collect::<Result<_>>()?)))
    }

    /// Makes the tree of a root without mounting it in this handle. What cannot be mounted is left out.
    pub(super) fn tree_of_root(&self, root: &Root) -> Result<Arc<Tree>> {
        let mut mounts: Vec<Mount> = Vec::new();
        let mut tree = None;
        for placed in &root.assembly.mounts {
            let mut more = mounts.clone();
            let made = self.open_placed(placed, false).and_then(|filesystem| {
                let (mountpoint, source) = (placed.mountpoint.clone(), placed.device.clone());
                more.push(Mount { filesystem, mountpoint, source });
                Tree::new(more.clone())
            });
            match made {
                Ok(made) => {
                    mounts = more;
                    tree = Some(made);
                }
                Err(error) if tree.is_none() => return Err(error),
                Err(error) => log::debug!("left out: {error}"),
            }
        }
        let tree = tree.ok_or_else(|| Error::NotFound(format!("{} mounts nothing", root.device).into()))?;
        Ok(Arc::new(tree))
    }
}
