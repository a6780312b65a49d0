//! The feature flags of ext2, ext3 and ext4, and what they say of a filesystem.

use crate::error::{Error, Result};

macro_rules! flags {
    ($(#[$doc:meta])* $module:ident: $($name:ident = $value:expr, $text:literal;)*) => {
        $(#[$doc])*
        #[allow(missing_docs, dead_code)]
        pub(crate) mod $module {
            $(pub(crate) const $name: u32 = $value;)*

            /// Flags and their names as `tune2fs` writes them.
            pub(crate) const NAMES: &[(u32, &str)] = &[$(($value, $text)),*];
        }
    };
}

flags! {
    /// Features that nobody needs to know to read or write.
    compat:
    DIR_PREALLOC = 0x1, "dir_prealloc";
    HAS_JOURNAL = 0x4, "has_journal";
    EXT_ATTR = 0x8, "ext_attr";
    RESIZE_INODE = 0x10, "resize_inode";
    DIR_INDEX = 0x20, "dir_index";
    SPARSE_SUPER2 = 0x200, "sparse_super2";
    FAST_COMMIT = 0x400, "fast_commit";
    STABLE_INODES = 0x800, "stable_inodes";
    ORPHAN_FILE = 0x1000, "orphan_file";
}

flags! {
    /// Features that whoever reads must know.
    incompat:
    COMPRESSION = 0x1, "compression";
    FILETYPE = 0x2, "filetype";
    RECOVER = 0x4, "needs_recovery";
    JOURNAL_DEV = 0x8, "journal_dev";
    META_BG = 0x10, "meta_bg";
    EXTENTS = 0x40, "extent";
    BIT64 = 0x80, "64bit";
    MMP = 0x100, "mmp";
    FLEX_BG = 0x200, "flex_bg";
    EA_INODE = 0x400, "ea_inode";
    DIRDATA = 0x1000, "dirdata";
    CSUM_SEED = 0x2000, "metadata_csum_seed";
    LARGE_DIR = 0x4000, "large_dir";
    INLINE_DATA = 0x8000, "inline_data";
    ENCRYPT = 0x10000, "encrypt";
    CASEFOLD = 0x20000, "casefold";
}

flags! {
    /// Features that whoever writes must know.
    ro_compat:
    SPARSE_SUPER = 0x1, "sparse_super";
    LARGE_FILE = 0x2, "large_file";
    BTREE_DIR = 0x4, "btree_dir";
    HUGE_FILE = 0x8, "huge_file";
    GDT_CSUM = 0x10, "uninit_bg";
    DIR_NLINK = 0x20, "dir_nlink";
    EXTRA_ISIZE = 0x40, "extra_isize";
    HAS_SNAPSHOT = 0x80, "snapshot";
    QUOTA = 0x100, "quota";
    BIGALLOC = 0x200, "bigalloc";
    METADATA_CSUM = 0x400, "metadata_csum";
    REPLICA = 0x800, "replica";
    READONLY = 0x1000, "read-only";
    PROJECT = 0x2000, "project";
    SHARED_BLOCKS = 0x4000, "shared_blocks";
    VERITY = 0x8000, "verity";
    ORPHAN_PRESENT = 0x10000, "orphan_present";
}

/// The incompatible features that this driver reads.
const READABLE: u32 = incompat::FILETYPE
    | incompat::RECOVER
    | incompat::META_BG
    | incompat::EXTENTS
    | incompat::BIT64
    | incompat::MMP
    | incompat::FLEX_BG
    | incompat::EA_INODE
    | incompat::CSUM_SEED
    | incompat::LARGE_DIR
    | incompat::INLINE_DATA
    | incompat::ENCRYPT
    | incompat::CASEFOLD;

/// Returns the names of the flags that are set, separated by commas.
pub(crate) fn names(flags: u32, known: &[(u32, &str)]) -> String {
    let mut names: Vec<String> =
        known.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| (*name).to_owned()).collect();
    let unknown = known.iter().fold(flags, |rest, (flag, _)| rest & !flag);
    if unknown != 0 {
        names.push(format!("unknown feature {unknown:#x}"));
    }
    names.join(", ")
}

/// Checks that a filesystem's incompatible features can be read.
///
/// # Errors
/// [`Error::Unsupported`] with their names.
pub(crate) fn check_readable(flags: u32) -> Result<()> {
    let unreadable = flags & !READABLE;
    if unreadable == 0 {
        return Ok(());
    }
    Err(Error::unsupported(format!("ext4 with {}", names(unreadable, incompat::NAMES))))
}

/// Returns the type that `blkid` gives a filesystem with these features: `ext2`, `ext3` or `ext4`.
pub(crate) fn kind(compat: u32, incompat: u32, ro_compat: u32) -> &'static str {
    const OLD_RO: u32 = ro_compat::SPARSE_SUPER | ro_compat::LARGE_FILE | ro_compat::BTREE_DIR;
    const OLD_INCOMPAT: u32 = incompat::FILETYPE | incompat::META_BG;
    let journal = compat & compat::HAS_JOURNAL != 0;
    let old = if journal { OLD_INCOMPAT | incompat::RECOVER } else { OLD_INCOMPAT };
    match (ro_compat & !OLD_RO == 0 && incompat & !old == 0, journal) {
        (false, _) => "ext4",
        (true, true) => "ext3",
        (true, false) => "ext2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_feature_is_named() {
        let error = check_readable(incompat::DIRDATA | 0x8000_0000 | incompat::EXTENTS).expect_err("unreadable");
        assert_eq!(error.to_string(), "not supported: ext4 with dirdata, unknown feature 0x80000000");
    }

    #[test]
    fn the_kind_follows_the_newest_feature() {
        assert_eq!(kind(0, incompat::FILETYPE, ro_compat::SPARSE_SUPER), "ext2");
        assert_eq!(kind(compat::HAS_JOURNAL, incompat::RECOVER, 0), "ext3");
        assert_eq!(kind(0, incompat::EXTENTS, 0), "ext4");
        assert_eq!(kind(compat::HAS_JOURNAL, 0, ro_compat::METADATA_CSUM), "ext4");
    }
}
