//! What a header of LUKS says before anything of it is checked: enough to name the volume.

use super::v2;
use crate::block::BlockDevice;
use crate::bytes::{be16, until_nul};

const AT_VERSION: usize = 6;
const AT_LABEL: usize = 24;
const AT_UUID: usize = 168;
/// What is read of a header, in bytes.
const SIZE: usize = AT_UUID + 40;

/// What a volume is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The version: 1 or 2, or one that is not read.
    pub version: u16,
    /// The UUID, whatever it looks like.
    pub uuid: String,
    /// The label of version 2, before its first NUL.
    pub label: Vec<u8>,
}

impl Label {
    /// Finds the header of a device, or the second one of version 2 where the first is gone; `None` where there is none, or it
    /// cannot be read.
    pub fn find(device: &dyn BlockDevice) -> Option<Self> {
        let second = v2::SIZES.into_iter().map(|offset| (offset, v2::SECOND_MAGIC));
        std::iter::once((0, v2::MAGIC)).chain(second).find_map(|(offset, magic)| {
            let mut bytes = [0; SIZE];
            let is_inside = offset + SIZE as u64 <= device.size();
            if !is_inside || device.read_at(&mut bytes, offset).is_err() || !bytes.starts_with(magic) {
                return None;
            }
            let version = be16(&bytes, AT_VERSION);
            let label = if version == 2 { until_nul(&bytes[AT_LABEL..AT_LABEL + 48]).to_vec() } else { Vec::new() };
            let uuid = String::from_utf8_lossy(until_nul(&bytes[AT_UUID..])).into_owned();
            Some(Self { version, uuid, label })
        })
    }
}
