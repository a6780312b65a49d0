//! RAID arrays of firmware, which are recognised by their anchors and not put together.

use crate::block::BlockDevice;

/// The size of the sectors that anchors are counted in, in bytes.
const SECTOR: u64 = 512;

/// Returns the name of the kind of array that a disk is a member of; `None` where it is of none, or cannot be read.
pub(super) fn raid(disk: &dyn BlockDevice) -> Option<&'static str> {
    /// Intel's: in the sector before the last.
    const INTEL: &[u8; 24] = b"Intel Raid ISM Cfg Sig. ";
    /// The common format of the SNIA: in the last sector.
    const COMMON: [u8; 4] = [0xde, 0x11, 0xde, 0x11];
    let mut anchors = [0; 2 * SECTOR as usize];
    let sectors = disk.size() / SECTOR;
    disk.read_at(&mut anchors, sectors.checked_sub(2)? * SECTOR).ok()?;
    let (before, last) = anchors.split_at(SECTOR as usize);
    if before.starts_with(INTEL) {
        return Some("IMSM, Intel Matrix Storage");
    }
    last.starts_with(&COMMON).then_some("DDF, Disk Data Format")
}
