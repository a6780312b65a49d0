//! Reads damaged filesystems: every driver, logs and journals replayed.
#![no_main]

use guestctl::cache::CachePool;
use guestctl::fs::{self, FsOptions, OpenWith};
use guestctl_fuzz::{bases, patched, walk};
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

fuzz_target!(|input: &[u8]| {
    let Some((image, _)) = patched(bases(&["ext", "xfs", "btrfs", "fat", "erofs"]), input) else { return };
    let options = FsOptions { cache: CachePool::new(4 << 20) };
    if let Ok(fs) = fs::open(Arc::new(image), &OpenWith::default(), &options) {
        walk(&*fs);
    }
});
