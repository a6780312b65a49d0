//! The boot sector of an encrypted volume.

use crate::block::BlockDevice;
use crate::bytes::{le16, le64};
use crate::error::{Error, Result};

/// The size of the sector's used part, in bytes.
pub(super) const SIZE: usize = 512;

/// The signature in the place of a filesystem's name.
pub(crate) const SIGNATURE: &[u8; 8] = b"-FVE-FS-";

/// Where the name of the filesystem lies.
pub(super) const AT_NAME: usize = 3;
const AT_SECTOR: usize = 11;
const AT_CLUSTER: usize = 13;
/// Vista: the cluster of the first metadata, in the place of the MFT's mirror.
pub(super) const AT_MIRROR: usize = 56;
/// Windows 7 and later: the GUID that tells what the volume is; the places of the metadata follow it.
const AT_GUID: usize = 160;
/// The same on sticks, which look like FAT.
const AT_GUID_TO_GO: usize = 424;

/// The name of the filesystem on sticks.
const TO_GO: &[u8; 8] = b"MSWIN4.1";

/// The GUID of an encrypted volume: 4967d63b-2e29-4ad8-8399-f6a339e3d001.
pub(crate) const ENCRYPTED: [u8; 16] =
    [0x3b, 0xd6, 0x67, 0x49, 0x29, 0x2e, 0xd8, 0x4a, 0x83, 0x99, 0xf6, 0xa3, 0x39, 0xe3, 0xd0, 0x01];

/// The GUID of a volume that is encrypted where it is written: 92a84d3b-dd80-4d0e-9e4e-b1e3284eaed8.
const ENCRYPTED_ON_WRITE: [u8; 16] =
    [0x3b, 0x4d, 0xa8, 0x92, 0x80, 0xdd, 0x0e, 0x4d, 0x9e, 0x4e, 0xb1, 0xe3, 0x28, 0x4e, 0xae, 0xd8];

/// What the boot sector tells.
#[derive(Clone, Debug)]
pub(super) struct BootSector {
    /// Its bytes.
    pub bytes: [u8; SIZE],
    /// The size of a sector, in bytes: 512 to 4096.
    pub sector: u32,
    /// The size of a cluster on Vista, in bytes: a sector or more.
    pub cluster: u64,
    /// Where copies of the metadata lie, in bytes.
    pub metadata: Vec<u64>,
    /// Whether the layout is that of Windows Vista.
    pub is_vista: bool,
    /// Whether the volume is encrypted where it is written, with a map of what is.
    pub encrypts_on_write: bool,
}

impl BootSector {
    /// Reads the boot sector of a device; `None` where it is another's.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where its sectors have an impossible size, and those of reading.
    pub(super) fn read(device: &dyn BlockDevice) -> Result<Option<Self>> {
        let mut bytes = [0; SIZE];
        if device.size() < SIZE as u64 {
            return Ok(None);
        }
        device.read_at(&mut bytes, 0)?;
        Self::parse(bytes)
    }

    fn parse(bytes: [u8; SIZE]) -> Result<Option<Self>> {
        /// The jump to the boot code of NTFS, which Vista leaves.
        const NTFS_JUMP: &[u8; 3] = b"\xeb\x52\x90";
        let name = &bytes[AT_NAME..AT_NAME + 8];
        let guid = |at: usize| bytes[at..at + 16] == ENCRYPTED || bytes[at..at + 16] == ENCRYPTED_ON_WRITE;
        let (is_vista, at) = match name {
            name if name == SIGNATURE && guid(AT_GUID) => (false, AT_GUID),
            name if name == SIGNATURE && bytes.starts_with(NTFS_JUMP) => (true, 0),
            name if name == TO_GO && guid(AT_GUID_TO_GO) => (false, AT_GUID_TO_GO),
            name if name == SIGNATURE => {
                return Err(Error::unsupported("a BitLocker volume whose boot sector is of no known layout"));
            }
            _ => return Ok(None),
        };
        let sector = u32::from(le16(&bytes, AT_SECTOR));
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(Error::corrupt("BitLocker boot sector", format!("its sectors have {sector} bytes")));
        }
        let cluster = u64::from(bytes[AT_CLUSTER].max(1)) * u64::from(sector);
        let metadata = if is_vista {
            le64(&bytes, AT_MIRROR).checked_mul(cluster).into_iter().collect()
        } else {
            (0..3).map(|copy| le64(&bytes, at + 16 + 8 * copy)).collect()
        };
        let encrypts_on_write = !is_vista && bytes[at..at + 16] == ENCRYPTED_ON_WRITE;
        Ok(Some(Self { bytes, sector, cluster, metadata, is_vista, encrypts_on_write }))
    }
}
