//! Finds volumes on damaged disks and identifies what they hold.
#![no_main]

use guestctl::fs::probe;
use guestctl::volume;
use guestctl_fuzz::{bases, patched};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|input: &[u8]| {
    let Some((image, _)) = patched(bases(&["disk", "ext", "fat", "btrfs", "xfs"]), input) else { return };
    if let Ok(scan) = volume::scan(Arc::new(image), "sda") {
        for volume in scan.volumes {
            let _ = probe::identify(volume.device.as_ref());
        }
    }
});
