//! What is mounted where no line of fstab says so: partitions by their types, as the Discoverable Partitions Specification (UAPI
//! Group) says, and what CoreOS finds by types and labels of its own.

use super::{Assembly, DeviceId, Placed, RootCandidate, drive_of, opened, plain};
use crate::inspect::fstab::MountEntry;

/// Type GUIDs of the Discoverable Partitions Specification, and where such a partition goes.
pub(super) const DISCOVERABLE: [(&str, &str); 6] = [
    ("933ac7e1-2eb4-4f13-b844-0e14e2aef915", "/home"),
    ("3b8f8425-20e0-4f3b-907f-1a25a76f98e8", "/srv"),
    ("4d21b016-b534-45c2-a9fb-5c16e091fd2d", "/var"),
    ("7ec6f557-3bc5-4aca-b293-16ef5df639d1", "/var/tmp"),
    ("bc13c2ff-59e6-4262-a352-b275fd6f7172", "/boot"),
    (EFI_SYSTEM, "/efi"),
];

pub(super) const EFI_SYSTEM: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// Type GUIDs of `/usr`, for each architecture.
pub(super) const USR: [(&str, &str); 5] = [
    ("x86_64", "8484680c-9521-48c6-9c11-b0720656f69e"),
    ("i386", "75250d76-8cc6-458e-bd66-bd47cc81a812"),
    ("aarch64", "b0e01050-ee5f-4390-949a-9101b17104e9"),
    ("arm", "7d0359a3-02b3-4f0a-865c-654403e70625"),
    ("riscv64", "beaec34b-8442-439b-a40b-984381ed097d"),
];

/// Where partitions of such a type go beside what fstab names, as systemd's generator mounts them too. The others are mounted
/// only where fstab says nothing: it may have its own place for them.
pub(super) const BESIDE_FSTAB: [&str; 3] = ["/home", "/srv", "/var/tmp"];

/// Mounts partitions by their types, on folders that fstab does not name.
pub(super) fn discover(root: &RootCandidate, devices: &[DeviceId], has_fstab: bool, assembly: &mut Assembly) {
    let disk = drive_of(&root.device, devices);
    let has_xbootldr = devices.iter().any(|device| device.part_type_guid.as_deref() == Some(DISCOVERABLE[4].0));
    for device in devices {
        let Some(guid) = device.part_type_guid.as_deref().filter(|_| device.name != root.device) else { continue };
        let held = opened(device, devices);
        if held.kind.is_none() || held.name == root.device || device.drive() != disk {
            continue;
        }
        let known = DISCOVERABLE.iter().find(|(known, _)| *known == guid).map(|&(_, place)| place);
        let usr =
            USR.iter().find(|(arch, known)| *known == guid && root.arch.as_deref().is_none_or(|own| own == *arch));
        let Some(mut place) = known.or(usr.map(|_| "/usr")) else { continue };
        if guid == EFI_SYSTEM && !has_xbootldr && !has_fstab {
            place = "/boot";
        }
        if has_fstab && !BESIDE_FSTAB.contains(&place) {
            continue;
        }
        let is_taken =
            |placed: &Placed| placed.mountpoint == place.as_bytes() || has_fstab && placed.device == held.name;
        let is_named = |entry: &MountEntry| plain(&entry.mountpoint) == place.as_bytes();
        if assembly.mounts.iter().any(is_taken) || root.mounts.iter().any(is_named) {
            continue;
        }
        assembly.mounts.push(Placed::whole(&held.name, place));
    }
}

/// The type GUID of the partitions that Flatcar and Container Linux have their `/usr` in, one for each of two versions.
pub(super) const COREOS_USR: &str = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6";

/// Mounts `/usr` of a Flatcar or Container Linux: of its two partitions the one that boots, which their attributes tell as on
/// ChromeOS (priority in bits 48 to 51, tries in 52 to 55, success in bit 56).
pub(super) fn usr_of_coreos(root: &RootCandidate, devices: &[DeviceId], assembly: &mut Assembly) {
    let disk = drive_of(&root.device, devices);
    let is_usr = |device: &&DeviceId| {
        device.part_type_guid.as_deref() == Some(COREOS_USR) && device.kind.is_some() && device.drive() == disk
    };
    let boots = |device: &&DeviceId| {
        let bits = |from: u32, mask: u64| device.part_attributes >> from & mask;
        (bits(56, 1) == 1 || bits(52, 15) > 0, bits(48, 15))
    };
    // Of equal ones the first is taken.
    let Some(chosen) = devices.iter().filter(is_usr).rev().max_by_key(boots) else { return };
    if !assembly.has(b"/usr") {
        assembly.mounts.push(Placed::whole(&chosen.name, "/usr"));
    }
}

/// Mounts `/boot` of a CoreOS, which finds it by its label and has no fstab.
pub(super) fn boot_by_label(devices: &[DeviceId], assembly: &mut Assembly) {
    for (label, place) in [("boot", "/boot"), ("EFI-SYSTEM", "/boot/efi")] {
        if let Some(device) = devices.iter().find(|device| device.label.as_deref() == Some(label.as_bytes())) {
            assembly.mounts.push(Placed::whole(&device.name, place));
        }
    }
}
