//! An inode's bytes while they are changed.

use super::super::extent;
use super::super::features::{incompat, ro_compat};
use super::super::inode::{BLOCK_AREA, Inode, OLD_SIZE, encode_time, field, flag};
use super::super::superblock::Superblock;
use crate::bytes::{le16, le32, set_le16, set_le32};
use crate::error::{Error, Result};
use crate::fs::{FileType, Timestamp};

/// How many bytes of fields follow the old 128 ones.
const USUAL_EXTRA: usize = 32;

/// An inode's raw bytes, and what they decode to.
#[derive(Clone, Debug)]
pub(in crate::fs::ext4) struct InodeEdit {
    pub(in crate::fs::ext4) ino: u32,
    raw: Vec<u8>,
    /// It is new: nothing of what was in its place stays.
    pub(in crate::fs::ext4) is_new: bool,
}

impl InodeEdit {
    /// Begins with an inode's bytes as they are.
    pub(super) fn new(ino: u32, raw: &[u8]) -> Self {
        let mut raw = raw.to_vec();
        if raw.len() > OLD_SIZE && le16(&raw, field::EXTRA_ISIZE) == 0 {
            // An inode of old, whose larger size nobody has used yet.
            raw[OLD_SIZE..OLD_SIZE + USUAL_EXTRA].fill(0);
            set_le16(&mut raw, field::EXTRA_ISIZE, USUAL_EXTRA as u16);
        }
        Self { ino, raw, is_new: false }
    }

    /// Makes a new inode.
    pub(super) fn fresh(superblock: &Superblock, ino: u32, generation: u32) -> Self {
        let mut raw = vec![0; superblock.inode_size as usize];
        if raw.len() > OLD_SIZE {
            let want = usize::from(superblock.want_extra_isize);
            let is_sound = want >= 4 && want.is_multiple_of(4) && OLD_SIZE + want <= raw.len();
            set_le16(&mut raw, field::EXTRA_ISIZE, if is_sound { want as u16 } else { USUAL_EXTRA as u16 });
        }
        set_le32(&mut raw, field::GENERATION, generation);
        Self { ino, raw, is_new: true }
    }

    /// Returns the bytes.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn fields_end(&self) -> usize {
        if self.raw.len() > OLD_SIZE {
            (OLD_SIZE + usize::from(le16(&self.raw, field::EXTRA_ISIZE))).min(self.raw.len())
        } else {
            OLD_SIZE
        }
    }

    fn has(&self, offset: usize) -> bool {
        offset + 4 <= self.fields_end()
    }

    pub(super) fn mode(&self) -> u16 {
        le16(&self.raw, field::MODE)
    }

    pub(super) fn set_mode(&mut self, mode: u16) {
        set_le16(&mut self.raw, field::MODE, mode);
    }

    pub(super) fn file_type(&self) -> Option<FileType> {
        FileType::from_mode(u32::from(self.mode()))
    }

    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == Some(FileType::Directory)
    }

    pub(super) fn uid(&self) -> u32 {
        u32::from(le16(&self.raw, field::UID_LO)) | u32::from(le16(&self.raw, field::UID_HI)) << 16
    }

    pub(super) fn gid(&self) -> u32 {
        u32::from(le16(&self.raw, field::GID_LO)) | u32::from(le16(&self.raw, field::GID_HI)) << 16
    }

    pub(super) fn set_uid(&mut self, uid: u32) {
        set_le16(&mut self.raw, field::UID_LO, uid as u16);
        set_le16(&mut self.raw, field::UID_HI, (uid >> 16) as u16);
    }

    pub(super) fn set_gid(&mut self, gid: u32) {
        set_le16(&mut self.raw, field::GID_LO, gid as u16);
        set_le16(&mut self.raw, field::GID_HI, (gid >> 16) as u16);
    }

    pub(super) fn links(&self) -> u16 {
        le16(&self.raw, field::LINKS)
    }

    pub(super) fn set_links(&mut self, links: u16) {
        set_le16(&mut self.raw, field::LINKS, links);
    }

    pub(in crate::fs::ext4) fn flags(&self) -> u32 {
        le32(&self.raw, field::FLAGS)
    }

    pub(in crate::fs::ext4) fn has_flag(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    pub(super) fn set_flags(&mut self, flags: u32) {
        set_le32(&mut self.raw, field::FLAGS, flags);
    }

    pub(super) fn generation(&self) -> u32 {
        le32(&self.raw, field::GENERATION)
    }

    /// Returns the size, in bytes.
    pub(super) fn size(&self, superblock: &Superblock) -> u64 {
        let is_wide = !self.is_dir() && self.file_type() == Some(FileType::Regular)
            || superblock.has_incompat(incompat::LARGE_DIR);
        let high = if is_wide { le32(&self.raw, field::SIZE_HI) } else { 0 };
        u64::from(high) << 32 | u64::from(le32(&self.raw, field::SIZE_LO))
    }

    /// Sets the size, in bytes.
    pub(super) fn set_size(&mut self, size: u64) {
        set_le32(&mut self.raw, field::SIZE_LO, size as u32);
        // The high half of a directory's size was once a block of access control lists; it is 0 below 4 GiB.
        set_le32(&mut self.raw, field::SIZE_HI, (size >> 32) as u32);
    }

    /// Returns the space the inode takes, in units of 512 bytes.
    pub(super) fn sectors(&self, superblock: &Superblock) -> u64 {
        let mut sectors = u64::from(le32(&self.raw, field::BLOCKS_LO));
        if superblock.has_ro_compat(ro_compat::HUGE_FILE) {
            sectors |= u64::from(le16(&self.raw, field::BLOCKS_HI)) << 32;
            if self.has_flag(flag::HUGE_FILE) {
                sectors = sectors.saturating_mul(u64::from(superblock.block_size / 512));
            }
        }
        sectors
    }

    /// Has the inode take no space.
    pub(super) fn clear_blocks(&mut self) {
        self.set_flags(self.flags() & !flag::HUGE_FILE);
        set_le32(&mut self.raw, field::BLOCKS_LO, 0);
        set_le16(&mut self.raw, field::BLOCKS_HI, 0);
    }

    /// Adds clusters to, or takes them from, the space the inode takes.
    ///
    /// # Errors
    /// As [`add_blocks`](Self::add_blocks).
    pub(in crate::fs::ext4) fn add_clusters(&mut self, superblock: &Superblock, clusters: i64) -> Result<()> {
        self.add_blocks(superblock, clusters.saturating_mul(1 << superblock.cluster_bits))
    }

    /// Adds blocks to, or takes them from, the space the inode takes.
    ///
    /// # Errors
    /// `EFBIG` for more than the filesystem can count.
    pub(in crate::fs::ext4) fn add_blocks(&mut self, superblock: &Superblock, blocks: i64) -> Result<()> {
        let per_block = u64::from(superblock.block_size / 512);
        let sectors = self.sectors(superblock).saturating_add_signed(blocks.saturating_mul(per_block as i64));
        let mut flags = self.flags() & !flag::HUGE_FILE;
        let (low, high) = if sectors <= u64::from(u32::MAX) {
            (sectors as u32, 0)
        } else if !superblock.has_ro_compat(ro_compat::HUGE_FILE) {
            return Err(Error::Errno(libc::EFBIG));
        } else if sectors < 1 << 48 {
            (sectors as u32, (sectors >> 32) as u16)
        } else {
            flags |= flag::HUGE_FILE;
            let blocks = sectors / per_block;
            (blocks as u32, (blocks >> 32) as u16)
        };
        self.set_flags(flags);
        set_le32(&mut self.raw, field::BLOCKS_LO, low);
        if superblock.has_ro_compat(ro_compat::HUGE_FILE) {
            set_le16(&mut self.raw, field::BLOCKS_HI, high);
        }
        Ok(())
    }

    pub(in crate::fs::ext4) fn block_area(&self) -> &[u8] {
        &self.raw[field::BLOCK..field::BLOCK + BLOCK_AREA]
    }

    pub(in crate::fs::ext4) fn block_area_mut(&mut self) -> &mut [u8] {
        &mut self.raw[field::BLOCK..field::BLOCK + BLOCK_AREA]
    }

    /// Makes the block area the root of an empty extent tree.
    pub(super) fn init_extents(&mut self) {
        self.set_flags(self.flags() | flag::EXTENTS);
        let area = self.block_area_mut();
        area.fill(0);
        set_le16(area, 0, extent::MAGIC);
        set_le16(area, 4, 4);
    }

    pub(super) fn xattr_block(&self, superblock: &Superblock) -> u64 {
        let high = if superblock.has_incompat(incompat::BIT64) { le16(&self.raw, field::FILE_ACL_HI) } else { 0 };
        u64::from(le32(&self.raw, field::FILE_ACL_LO)) | u64::from(high) << 32
    }

    pub(super) fn set_xattr_block(&mut self, superblock: &Superblock, block: u64) {
        set_le32(&mut self.raw, field::FILE_ACL_LO, block as u32);
        if superblock.has_incompat(incompat::BIT64) {
            set_le16(&mut self.raw, field::FILE_ACL_HI, (block >> 32) as u16);
        }
    }

    /// Returns the space after the fields.
    pub(super) fn tail(&self) -> &[u8] {
        &self.raw[self.fields_end()..]
    }

    /// Returns the space after the fields, to be changed.
    pub(super) fn tail_mut(&mut self) -> &mut [u8] {
        let end = self.fields_end();
        &mut self.raw[end..]
    }

    fn set_time(&mut self, seconds_at: usize, extra_at: usize, time: Timestamp) {
        let has_extra = self.has(extra_at);
        if has_extra {
            let (seconds, extra) = encode_time(time);
            set_le32(&mut self.raw, seconds_at, seconds);
            set_le32(&mut self.raw, extra_at, extra);
        } else {
            let seconds = time.seconds.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
            set_le32(&mut self.raw, seconds_at, seconds as u32);
        }
    }

    pub(super) fn set_atime(&mut self, time: Timestamp) {
        self.set_time(field::ATIME, field::ATIME_EXTRA, time);
    }

    pub(super) fn set_mtime(&mut self, time: Timestamp) {
        self.set_time(field::MTIME, field::MTIME_EXTRA, time);
    }

    /// Sets the time of the inode's change, and counts the change where the inode has a version.
    pub(super) fn set_ctime(&mut self, time: Timestamp) {
        self.set_time(field::CTIME, field::CTIME_EXTRA, time);
        let version = le32(&self.raw, field::VERSION_LO).wrapping_add(1);
        set_le32(&mut self.raw, field::VERSION_LO, version);
        if version == 0 && self.has(field::VERSION_HI) {
            let high = le32(&self.raw, field::VERSION_HI).wrapping_add(1);
            set_le32(&mut self.raw, field::VERSION_HI, high);
        }
    }

    pub(super) fn set_btime(&mut self, time: Timestamp) {
        if self.has(field::BTIME) {
            self.set_time(field::BTIME, field::BTIME_EXTRA, time);
        }
    }

    /// Returns the hash of the value that the inode holds, and how many references it has (`ea_inode`).
    pub(super) fn value_fields(&self) -> (u32, u64) {
        let count = u64::from(le32(&self.raw, field::CTIME)) << 32 | u64::from(le32(&self.raw, field::VERSION_LO));
        (le32(&self.raw, field::ATIME), count)
    }

    /// Sets the hash of the value that the inode holds, and how many references it has.
    pub(super) fn set_value_fields(&mut self, hash: u32, count: u64) {
        for (at, extra, value) in
            [(field::ATIME, field::ATIME_EXTRA, hash), (field::CTIME, field::CTIME_EXTRA, (count >> 32) as u32)]
        {
            set_le32(&mut self.raw, at, value);
            if self.has(extra) {
                // As a number of seconds it is never negative.
                set_le32(&mut self.raw, extra, value >> 31);
            }
        }
        set_le32(&mut self.raw, field::VERSION_LO, count as u32);
        if self.has(field::VERSION_HI) {
            set_le32(&mut self.raw, field::VERSION_HI, 0);
        }
    }

    /// Decodes the bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for an impossible field.
    pub(super) fn decode(&self, superblock: &Superblock) -> Result<Inode> {
        Inode::decode_any(superblock, self.ino, &self.raw)
    }
}

/// Returns the time.
pub(super) fn now() -> Timestamp {
    match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
        Ok(since) => Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() },
        Err(_) => Timestamp::default(),
    }
}
