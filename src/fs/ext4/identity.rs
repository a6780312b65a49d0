//! Changing the label and the UUID of a filesystem that is not mounted: in the superblock and all its backups.

use super::features::{compat, incompat, ro_compat};
use super::superblock::{SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, Superblock, checksum, field};
use crate::block::BlockDevice;
use crate::bytes::set_le32;
use crate::error::Result;

/// The most backups that are changed; a filesystem of more groups has them where few groups do.
const MAX_BACKUPS: usize = (1 << 16) - 1;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity<'a> {
    /// The label, of at most 16 bytes.
    Label(&'a [u8]),
    /// The UUID.
    Uuid([u8; 16]),
}

/// Changes the label or the UUID, and says whether it did.
///
/// It does not where more than the superblock would have to change or to be known: a journal that is to be replayed, checksums
/// that begin with the UUID, inodes whose encryption goes by it, and damage. Nothing is written then.
///
/// # Errors
/// Those of reading and writing.
pub fn change(device: &dyn BlockDevice, identity: Identity<'_>) -> Result<bool> {
    if device.size() < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE as u64 {
        return Ok(false);
    }
    let mut bytes = vec![0; SUPERBLOCK_SIZE];
    device.read_at(&mut bytes, SUPERBLOCK_OFFSET)?;
    let Ok(superblock) = Superblock::parse(&bytes) else { return Ok(false) };
    if superblock.incompat & (incompat::RECOVER | incompat::JOURNAL_DEV) != 0 || !is_possible(&superblock, identity) {
        return Ok(false);
    }
    for group in backups(&superblock) {
        let block = superblock.group_first_block(group);
        let Some(offset) = block.checked_mul(u64::from(superblock.block_size)) else { continue };
        if offset.checked_add(SUPERBLOCK_SIZE as u64).is_none_or(|end| end > device.size()) {
            continue;
        }
        let mut copy = vec![0; SUPERBLOCK_SIZE];
        device.read_at(&mut copy, offset)?;
        // A backup that is none is left as it is.
        let is_backup =
            |found: Superblock| found.uuid == superblock.uuid && u32::from(found.block_group) == group & 0xffff;
        if Superblock::parse(&copy).is_ok_and(is_backup) {
            set(&mut copy, &superblock, identity);
            device.write_at(&copy, offset)?;
        }
    }
    set(&mut bytes, &superblock, identity);
    device.write_at(&bytes, SUPERBLOCK_OFFSET)?;
    device.flush()?;
    Ok(true)
}

/// Says whether nothing but the superblock depends on what is changed.
fn is_possible(superblock: &Superblock, identity: Identity<'_>) -> bool {
    match identity {
        Identity::Label(label) => label.len() <= 16,
        Identity::Uuid(_) => {
            let has_own_seed = superblock.incompat & incompat::CSUM_SEED != 0;
            let is_summed =
                superblock.has_metadata_csum() && !has_own_seed || superblock.has_ro_compat(ro_compat::GDT_CSUM);
            !is_summed && superblock.compat & compat::STABLE_INODES == 0
        }
    }
}

fn set(bytes: &mut [u8], superblock: &Superblock, identity: Identity<'_>) {
    match identity {
        Identity::Label(label) => {
            let place = &mut bytes[field::LABEL..field::LABEL + 16];
            place.fill(0);
            place[..label.len()].copy_from_slice(label);
        }
        Identity::Uuid(uuid) => bytes[field::UUID..field::UUID + 16].copy_from_slice(&uuid),
    }
    if superblock.has_metadata_csum() {
        let sum = checksum(bytes);
        set_le32(bytes, field::CHECKSUM, sum);
    }
}

/// Returns the groups that begin with a backup of the superblock.
fn backups(superblock: &Superblock) -> impl Iterator<Item = u32> {
    (1..superblock.group_count).filter(|&group| superblock.group_has_super(group)).take(MAX_BACKUPS)
}
