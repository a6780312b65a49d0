//! Puts volumes together of disks one of which is damaged: arrays, groups, dynamic disks, encrypted volumes without a key.
#![no_main]

use guestctl::block::SharedDevice;
use guestctl::fs::probe;
use guestctl::volume::crypt::NoKeys;
use guestctl::volume::{Source, assemble, disk_name};
use guestctl_fuzz::{Base, bases, patched};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

/// What the disks of one group have in common: the names of their files up to the last dot.
fn group(base: &Base) -> &str {
    base.name.rsplit_once('.').map_or(base.name.as_str(), |(group, _)| group)
}

fuzz_target!(|input: &[u8]| {
    let bases = bases(&["volumes-"]);
    let Some((image, _)) = patched(bases, input) else { return };
    let damaged = image.base();
    let mut devices: Vec<SharedDevice> = Vec::new();
    for other in bases.iter().filter(|other| group(other) == group(damaged) && other.name != damaged.name) {
        devices.push(Arc::new(other.whole()));
    }
    devices.push(Arc::new(image));
    let source =
        |(index, device): (usize, SharedDevice)| Source { name: disk_name(index), device, location: "disk".into() };
    let sources: Vec<Source> = devices.into_iter().enumerate().map(source).collect();
    let Ok(stack) = assemble(&sources, &NoKeys) else { return };
    let mut buf = vec![0; 9000];
    for assembled in &stack.volumes {
        let device = assembled.volume.device.as_ref();
        let _ = probe::identify(device);
        for offset in [0, device.size() / 3, device.size().saturating_sub(9000)] {
            let len = buf.len().min(usize::try_from(device.size() - offset).unwrap_or(usize::MAX));
            let _ = device.read_at(&mut buf[..len], offset);
            if len > 0 {
                let _ = device.map(offset, len as u64);
            }
        }
    }
});
