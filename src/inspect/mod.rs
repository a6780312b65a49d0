//! Floor 5: what operating system a tree holds.
//!
//! [`look`] says whether a tree is the root of an operating system and which; [`mounts`] and [`assemble`] say what it
//! mounts where; [`details`] and [`packages`] tell the rest. Everything is read through a [`Tree`], so nothing here knows
//! how the bytes are stored, and no symbolic link leads out of the guest.
//!
//! A guest is hostile. Files are read up to a bound, pipes and devices are never opened, and what is damaged becomes a
//! line of warning while the rest is told.

mod assemble;
mod boot;
mod bsd;
mod composefs;
mod containers;
mod dos;
mod elf;
mod fstab;
pub mod initrd;
mod kernels;
mod layers;
mod linux;
mod logs;
mod network;
mod osinfo;
mod ostree;
mod packages;
mod read;
mod release;
mod services;
mod settings;
mod ssh;
mod subtree;
mod types;
mod users;
mod windows;

#[cfg(test)]
#[path = "../../tests/common/fixture.rs"]
mod fixture;

pub use assemble::{Assembly, DeviceId, Placed, RootCandidate, assemble, drives};
pub use composefs::Composefs;
pub use containers::Container;
pub use fstab::{MountEntry, MountSpec};
pub use layers::Layers;
pub use subtree::Subtree;
pub use types::*;

use crate::error::Result;
use crate::tree::Tree;
use read::Guest;

/// Describes the operating system whose root a tree is: a single filesystem, or all that it mounts together. Returns none
/// where there is no system: a filesystem of `/boot`, of data.
///
/// An ostree deployment is found below the root; [`System::deployment`] then says where.
///
/// # Errors
/// Those of reading the root folder. Whatever else cannot be read becomes a warning.
pub fn look(tree: &Tree) -> Result<Option<System>> {
    tree.attr(tree.root())?;
    let guest = Guest::new(tree);
    let mut system = bsd::look(&guest).or_else(|| linux::look(&guest));
    if system.is_none()
        && let Some(deployment) = deployed(&guest)
        && let Some(inner) = ostree::tree_of(tree, &deployment, &guest)
    {
        let inner = Guest::new(&inner);
        system = linux::look(&inner);
        if let Some(system) = &mut system {
            system.deployment = Some(deployment);
        }
        inner.into_warnings().into_iter().for_each(|warning| guest.warn(warning));
    }
    system = system.or_else(|| composefs::look(tree, &guest));
    for other in [windows::look, linux::media, windows::media, dos::look] {
        system = system.or_else(|| other(&guest));
    }
    Ok(system.map(|mut system| {
        system.warnings = guest.into_warnings();
        system
    }))
}

/// Gives `act` the tree that a system lies in: the tree itself, or the deployment below its root.
fn within<T>(tree: &Tree, deployment: Option<&Deployment>, act: impl FnOnce(&Guest<'_>) -> T) -> (T, Vec<String>) {
    let guest = Guest::new(tree);
    if let Some(deployment) = deployment
        && !linux::is_unix_root(&guest)
        && let Some(inner) = ostree::tree_of(tree, deployment, &guest)
    {
        let inner = Guest::new(&inner);
        let told = act(&inner);
        return (told, inner.into_warnings());
    }
    let told = act(&guest);
    (told, guest.into_warnings())
}

/// Finds the deployment that is the system of a tree, where the tree's root is none itself.
fn deployment_of(tree: &Tree) -> Option<Deployment> {
    let guest = Guest::new(tree);
    if linux::is_unix_root(&guest) { None } else { deployed(&guest) }
}

fn deployed(guest: &Guest<'_>) -> Option<Deployment> {
    ostree::deployment(guest).or_else(|| composefs::deployment(guest))
}

/// Returns what the system of a tree mounts at boot: fstab, then systemd's mount units.
pub fn mounts(tree: &Tree) -> Vec<MountEntry> {
    within(tree, deployment_of(tree).as_ref(), fstab::read).0
}

/// Returns the encrypted devices that the system of a tree opens at boot.
pub fn crypttab(tree: &Tree) -> Vec<CryptEntry> {
    within(tree, deployment_of(tree).as_ref(), settings::crypttab).0
}

/// Finds the roots of containers that lie in folders of the guest.
pub fn containers(tree: &Tree) -> Vec<Container> {
    within(tree, deployment_of(tree).as_ref(), containers::find).0
}

/// Returns the packages of a system, or the applications that Windows lists.
pub fn packages(tree: &Tree, system: &System) -> Packages {
    let (packages, warnings) = within(tree, system.deployment.as_ref(), |guest| match system.kind {
        Kind::Windows => windows::applications(guest, system),
        _ => packages::read(guest),
    });
    Packages { packages, warnings }
}

/// Encodes bytes in Base64, with padding.
pub fn base64(bytes: &[u8]) -> String {
    let text = ssh::encode(bytes);
    let padding = text.len().wrapping_neg() % 4;
    text + &"="[..].repeat(padding)
}

/// The largest picture that is read, in bytes.
const MAX_ICON: u64 = 1 << 20;

/// Reads the picture that stands for a system.
pub fn icon(tree: &Tree, system: &System) -> Option<Vec<u8>> {
    within(tree, system.deployment.as_ref(), |guest| {
        let path = linux::icon(guest)?;
        let (_, attr) = guest.file(&path)?;
        if attr.size <= MAX_ICON { guest.read(&path, MAX_ICON) } else { None }
    })
    .0
}

/// Says whether media hold a system that runs from them.
pub fn is_live(tree: &Tree) -> bool {
    linux::is_live(&Guest::new(tree))
}

/// Says whether installation media hold no packages: they are fetched while it installs.
pub fn is_netinst(tree: &Tree) -> bool {
    linux::is_netinst(&Guest::new(tree))
}

/// Says whether installation media are one disc of several.
pub fn is_multipart(tree: &Tree) -> bool {
    linux::is_multipart(&Guest::new(tree))
}

/// Tells more about a system. Its packages are asked for with [`packages`].
pub fn details(tree: &Tree, system: &System) -> Details {
    let (mut details, warnings) = within(tree, system.deployment.as_ref(), |guest| match system.kind {
        Kind::Windows if !system.installer => windows::details(guest, system),
        _ if system.installer || system.kind == Kind::Dos => Details::default(),
        _ => unix(guest),
    });
    details.warnings = warnings;
    details
}

fn unix(guest: &Guest<'_>) -> Details {
    let (last_boot, last_shutdown, last_log) = logs::times(guest);
    let init = services::init(guest);
    let (kernels, boot_loader) = match init.as_deref() {
        Some("bsd") => (bsd::kernels(guest), bsd::loader(guest)),
        _ => (kernels::list(guest), boot::loader(guest)),
    };
    Details {
        kernels,
        boot_loader,
        services: services::enabled(guest, init.as_deref()),
        init,
        users: users::users(guest),
        groups: users::groups(guest),
        ssh_host_keys: ssh::host_keys(guest),
        network: network::interfaces(guest),
        mounts: fstab::read(guest),
        crypttab: settings::crypttab(guest),
        arrays: settings::arrays(guest),
        selinux: settings::selinux(guest),
        cloud_init: settings::cloud_init(guest),
        virtio: kernels::virtio(guest),
        last_boot,
        last_boot_guessed: false,
        last_shutdown,
        last_log,
        icon: linux::icon(guest),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
