//! What the members of arrays and groups say of themselves: for whoever shows them, by the parsers of those who open them.

use super::lvm::Label;
use super::md::Superblock;
use crate::block::BlockDevice;

/// A member of an array of Linux software RAID.
pub(crate) struct ArrayMember {
    /// The array's UUID.
    pub uuid: [u8; 16],
    /// The array's name; none in superblocks of version 0.90.
    pub name: Option<String>,
    /// The version of the superblock, as blkid shows it.
    pub version: String,
}

/// Finds the superblock of a member of an array.
pub(crate) fn array_member(device: &dyn BlockDevice) -> Option<ArrayMember> {
    let Superblock { uuid, name, full_version, .. } = Superblock::find(device)?;
    Some(ArrayMember { uuid, name, version: full_version })
}

/// Finds the label of a physical volume of LVM 2; returns its UUID with hyphens, or nothing where that is none.
pub(crate) fn physical_volume(device: &dyn BlockDevice) -> Option<String> {
    Label::find(device).map(|label| label.uuid())
}
