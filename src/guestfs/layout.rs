//! Which filesystems are mounted where, when nobody says it one by one.

use super::Guestfs;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::str::FromStr;

/// What the tree of an image looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// The guest's own tree where there is exactly one system; a folder for each system where there are several, named by
    /// the device of its root, with its own tree. Without a system, the tree of the only filesystem, or as
    /// [`Devices`](Self::Devices) where there are several.
    #[default]
    Auto,
    /// The tree as the guest's system has it.
    Os,
    /// A folder for each filesystem that can be read, named by its device.
    Devices,
}

/// A device and where to mount it: `DEV[:MOUNTPOINT[:OPTIONS]]`, as guestmount's `-m` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The device: `/dev/sda1`.
    pub device: String,
    /// The folder of the tree; `/` where none is given.
    pub mountpoint: String,
    /// Options of mount(8), such as `subvol=@home`.
    pub options: String,
}

impl FromStr for MountSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, ':');
        let device = parts.next().unwrap_or_default().to_owned();
        let mountpoint = parts.next().filter(|part| !part.is_empty()).unwrap_or("/").to_owned();
        let options = parts.next().unwrap_or_default().to_owned();
        if device.is_empty() || !mountpoint.starts_with('/') {
            return Err(Error::Usage(format!("{text}: write DEV[:MOUNTPOINT], as in /dev/sda1:/boot").into()));
        }
        Ok(Self { device, mountpoint, options })
    }
}

impl Guestfs {
    /// Mounts filesystems as they are listed, those nearest to the root first.
    ///
    /// # Errors
    /// As [`mount`](Self::mount).
    pub fn mount_specs(&mut self, specs: &[MountSpec], writable: bool) -> Result<()> {
        let mut specs: Vec<&MountSpec> = specs.iter().collect();
        specs.sort_by_key(|spec| spec.mountpoint.split('/').filter(|name| !name.is_empty()).count());
        for spec in specs {
            let options = if writable { spec.options.clone() } else { format!("ro,{}", spec.options) };
            self.mount_options(&options, &spec.device, &spec.mountpoint)?;
        }
        Ok(())
    }

    /// Mounts what can be read by a layout. What cannot be read is skipped with a word in the log, unless nothing can.
    ///
    /// # Errors
    /// [`Error::NotAnImage`] when there is no filesystem, and the only error where there is just one that fails.
    pub fn mount_layout(&mut self, layout: Layout, writable: bool) -> Result<()> {
        if layout != Layout::Devices {
            let roots = self.inspect_roots()?;
            match (roots.as_slice(), layout) {
                ([root], _) => return self.mount_root(root, writable),
                ([], Layout::Os) => {
                    return Err(Error::NotFound(
                        "no operating system is found; --layout devices shows what there is".into(),
                    ));
                }
                (several, Layout::Os) => {
                    let names: Vec<String> = several.iter().map(super::Root::name).collect();
                    return Err(Error::Usage(
                        format!("there are several operating systems; choose by --root: {}", names.join(", ")).into(),
                    ));
                }
                ([], _) => {}
                (several, _) => return self.mount_systems(several, writable),
            }
        }
        self.mount_devices(layout, writable)
    }

    /// Mounts several systems, each on a folder of its own.
    fn mount_systems(&mut self, roots: &[super::Root], writable: bool) -> Result<()> {
        let mut failed = None;
        let mut some = false;
        for root in roots {
            match self.mount_root_on(&[b"/", root.folder().as_slice()].concat(), root, writable) {
                Ok(()) => some = true,
                Err(error) => {
                    log::warn!("{}: skipped: {error}", root.name());
                    failed = Some(error);
                }
            }
        }
        failed.filter(|_| !some).map_or(Ok(()), Err)
    }

    fn mount_devices(&mut self, layout: Layout, writable: bool) -> Result<()> {
        let options = self.fs_options();
        let launched = self.launched()?;
        let mut readable = Vec::new();
        let mut failed = Vec::new();
        let mut unwritable = Vec::new();
        // A filesystem of several devices is found on each of them, and mounted once.
        let mut members = BTreeSet::new();
        for held in launched.volumes.iter().filter(|held| !held.is_used && !held.is_locked) {
            let Some(identity) = &held.identity else {
                log::debug!("{}: nothing is recognised on it", held.volume.name);
                continue;
            };
            if !held.is_readable() {
                log::warn!("{}: skipped: no driver reads {}", held.volume.name, identity.kind);
                continue;
            }
            if identity.kind == "btrfs" && !members.insert(identity.uuid.clone()) {
                log::debug!("{}: another member of a filesystem that is mounted", held.volume.name);
                continue;
            }
            let mut is_written = false;
            if writable && launched.disks[held.disk].writable {
                match launched.filesystem(held, None, &options, true) {
                    Ok(_) => is_written = true,
                    Err(error) if matches!(error.root(), Error::Unsupported(_)) => {
                        unwritable.push(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            match launched.filesystem(held, None, &options, is_written) {
                Ok(_) => readable.push((held.volume.name.clone(), is_written)),
                Err(error) => {
                    log::warn!("skipped: {error}");
                    failed.push(error);
                }
            }
        }
        if writable
            && !readable.iter().any(|(_, is_written)| *is_written)
            && let Some(error) = unwritable.pop()
        {
            return Err(error);
        }
        for error in &unwritable {
            log::warn!("mounted read-only: {error}");
        }
        if readable.is_empty() {
            return Err(match failed.pop() {
                Some(error) => error,
                None => self.nothing_readable()?,
            });
        }
        let alone = readable.len() == 1 && layout == Layout::Auto;
        for (device, writable) in readable {
            let folder = if alone { "" } else { device.strip_prefix("/dev/").unwrap_or(&device) };
            self.mount_subvolume(&device, format!("/{}", folder.replace('/', "-")), None, writable)?;
        }
        Ok(())
    }

    fn nothing_readable(&self) -> Result<Error> {
        let launched = self.launched()?;
        let found: Vec<String> = launched
            .volumes
            .iter()
            .filter_map(|held| Some(format!("{} ({})", held.volume.name, held.identity.as_ref()?.kind)))
            .collect();
        let image = launched.disks.iter().map(|disk| disk.location.as_str()).collect::<Vec<_>>().join(", ");
        let locked: Vec<&str> =
            launched.volumes.iter().filter(|held| held.is_locked).map(|held| held.volume.name.as_str()).collect();
        if !locked.is_empty() {
            let names = locked.join(", ");
            return Ok(Error::Usage(
                format!("{image}: its filesystems are on what is locked: {names}; --key gives the key").into(),
            ));
        }
        Ok(if found.is_empty() {
            Error::NotAnImage(
                format!(
                    "{image}: no partition table and no filesystem is recognised; is it a disk image, and if its format \
                     is not raw, is --format right?"
                )
                .into(),
            )
        } else {
            Error::unsupported(format!("{image}: no driver reads what is on it: {}", found.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_written_as_guestmount_has_it() {
        let spec: MountSpec = "/dev/sda2".parse().expect("a device alone");
        assert_eq!((spec.device.as_str(), spec.mountpoint.as_str()), ("/dev/sda2", "/"));
        let spec: MountSpec = "sda3:/home:subvol=@home".parse().expect("with options");
        assert_eq!((spec.mountpoint.as_str(), spec.options.as_str()), ("/home", "subvol=@home"));
        for wrong in ["", ":/", "/dev/sda1:boot"] {
            wrong.parse::<MountSpec>().expect_err(wrong);
        }
    }
}
