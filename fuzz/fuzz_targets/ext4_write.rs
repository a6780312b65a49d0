//! Writes to damaged ext2, ext3 and ext4 filesystems.
#![no_main]

use guestctl::cache::CachePool;
use guestctl::fs::write::{Credentials, FallocateMode, RenameMode, SetAttr, XattrMode};
use guestctl::fs::{self, FileType, Filesystem, FsOptions, Ino, OpenWith};
use guestctl_fuzz::{bases, patched, walk};
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;

const WHO: Credentials = Credentials { uid: 1000, gid: 1000, umask: 0o022 };

/// Returns some inodes and names that there are, folders first.
fn some(fs: &dyn Filesystem) -> Vec<(Ino, Vec<u8>, Ino)> {
    let mut found = Vec::new();
    let mut folders = vec![fs.root()];
    while let Some(folder) = folders.pop() {
        let _ = fs.read_dir(folder, 0, &mut |entry| {
            found.push((folder, entry.name.to_vec(), entry.ino));
            if entry.file_type == Some(FileType::Directory) {
                folders.push(entry.ino);
            }
            if found.len() < 64 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        if found.len() >= 64 {
            break;
        }
    }
    found
}

fuzz_target!(|input: &[u8]| {
    let Some((image, script)) = patched(bases(&["ext"]), input) else { return };
    let options = FsOptions { cache: CachePool::new(4 << 20) };
    let Ok(fs) = fs::open_for_writing(image.writable(), &OpenWith::default(), &options) else { return };
    let Some(writer) = fs.writer() else { return };
    let known = some(&*fs);
    let root = fs.root();
    for step in script.chunks_exact(4).take(40) {
        let (dir, name, ino) =
            known.get(usize::from(step[1]) % known.len().max(1)).cloned().unwrap_or((root, b"x".to_vec(), root));
        let fresh = format!("new-{}", step[2]).into_bytes();
        let amount = u64::from(step[3]) * 700;
        let _ = match step[0] % 15 {
            0 => writer.create(dir, &fresh, FileType::Regular, 0o644, (0, 0), &WHO).map(|_| ()),
            1 => writer.mkdir(dir, &fresh, 0o755, &WHO).map(|_| ()),
            2 => writer.symlink(dir, &fresh, &vec![b'l'; usize::from(step[3]) + 1], &WHO).map(|_| ()),
            3 => writer.link(ino, dir, &fresh).map(|_| ()),
            4 => writer.unlink(dir, &name),
            5 => writer.rmdir(dir, &name),
            6 => writer.rename(dir, &name, root, &fresh, RenameMode::Replace),
            7 => writer.write(ino, amount, &vec![step[2]; 3000], false).map(|_| ()),
            8 => writer.set_attr(ino, &SetAttr { size: Some(amount), ..SetAttr::default() }).map(|_| ()),
            9 => writer.fallocate(ino, amount, 9000, FallocateMode::PunchHole),
            10 => writer.fallocate(ino, amount, 9000, FallocateMode::Allocate),
            11 => writer.set_xattr(ino, b"user.fuzz", &vec![1; usize::from(step[3]) * 16], XattrMode::Set),
            12 => writer.remove_xattr(ino, b"user.fuzz"),
            13 => writer.fsync(ino, false),
            _ => writer.sync(),
        };
    }
    walk(&*fs);
    let _ = writer.close();
});
