//! The EROFS driver against the kernel: images that mkfs.erofs made, compared in everything that a user could notice.

mod common;
#[path = "common/compare.rs"]
#[allow(dead_code, reason = "each test program uses its own part")]
mod compare;

use common::guest::{Workspace, guestctl, output, run};
use common::{has_tool, is_root, noise, skip};
use compare::{Options, compare_with_folder, list};
use guestctl::block::MemoryDevice;
use guestctl::cache::CachePool;
use guestctl::fs::{self, FileType, Filesystem, FsOptions, Ino, OpenWith};
use guestctl::{Error, Result};
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn ready() -> Option<Workspace> {
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !is_root() || !kernel.contains("erofs") {
        skip("mounting needs root, and the kernel's driver");
        return None;
    }
    if !["mkfs.erofs", "setfattr", "setfacl"].iter().all(|tool| has_tool(tool)) {
        skip("there is no mkfs.erofs, setfattr or setfacl");
        return None;
    }
    Some(Workspace::new())
}

fn shell(script: &str) {
    run("bash", &["-ec", script]);
}

/// Makes files of every kind and size.
fn fill(workspace: &Workspace) -> PathBuf {
    let tree = workspace.folder("source");
    for (number, size) in
        [0, 1, 511, 3000, 4000, 4095, 4096, 4097, 8192, 12_000, 100_000, 3 << 20].into_iter().enumerate()
    {
        std::fs::write(tree.join(format!("file-{size}")), noise(size, number as u64)).expect("writes");
    }
    let sparse = File::create(tree.join("sparse")).expect("makes");
    for at in [0, 70_000, 1 << 20, 9 << 20] {
        sparse.write_all_at(&noise(5000, at), at).expect("writes");
    }
    sparse.set_len(16 << 20).expect("sizes");
    File::create(tree.join("hole only")).expect("makes").set_len(1_000_000).expect("sizes");
    shell(&format!(
        "cd {}; ln file-4097 'another name'; chmod 6751 file-1; chown 70000:4294967280 file-1
         touch -d '1901-12-14 00:00:00.123456789' file-511; touch -d '2105-06-07 08:09:10.987654321' file-3000
         mknod -m 640 char c 200 70000; mknod block b 8 1; mkfifo fifo
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")' || true
         ln -s file-1 short; ln -s $(printf 'x%.0s' $(seq 1000)) long; ln -s $(printf 'y%.0s' $(seq 4000)) longest
         mkdir -p one/two/three empty many names; for i in $(seq 3000); do echo $i >\"many/a name with the number $i\"; done
         touch names/$(printf 'n%.0s' $(seq 250)) names/$'new\\nline' names/$'\\xff\\xfe' names/... names/' '
         setfattr -n user.short -v value file-1; setfattr -n user.empty file-1; setfattr -n trusted.short -v t file-1
         setfattr -n user.large -v $(printf 'v%.0s' $(seq 2000)) file-4096; setfattr -n security.x -v s file-4096
         for i in file-* many/*1; do setfattr -n user.same -v 'of many files' \"$i\"; done
         setfattr -h -n trusted.link -v l short; setfattr -n user.folder -v f one
         setfacl -m u:1000:rwx,g:5:r file-4000; setfacl -d -m u:1000:rx one; setfacl -m u:1000:rx one",
        tree.display()
    ));
    tree
}

fn open(image: &Path) -> Result<Arc<dyn Filesystem>> {
    open_bytes(std::fs::read(image).expect("made"))
}

fn open_bytes(bytes: Vec<u8>) -> Result<Arc<dyn Filesystem>> {
    let options = FsOptions { cache: CachePool::new(4 << 20) };
    fs::open(Arc::new(MemoryDevice::new(bytes)), &OpenWith::default(), &options)
}

fn make(workspace: &Workspace, source: &Path, options: &[&str]) -> Option<PathBuf> {
    let image = workspace.path("image");
    let _ = std::fs::remove_file(&image);
    let (image_text, source) = (image.to_str().expect("plain"), source.to_str().expect("plain"));
    let made = output("mkfs.erofs", &[options, &["--quiet", image_text, source]].concat());
    if !made.status.success() {
        println!("{options:?}: {}", String::from_utf8_lossy(&made.stderr).lines().next().unwrap_or_default());
    }
    made.status.success().then_some(image)
}

/// A mount of the kernel.
struct Mount(PathBuf);

impl Mount {
    fn new(workspace: &Workspace, image: &Path) -> Self {
        let folder = workspace.folder("kernel");
        run(
            "mount",
            &["-t", "erofs", "-o", "loop,ro", image.to_str().expect("plain"), folder.to_str().expect("plain")],
        );
        Self(folder)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = output("umount", &[self.0.as_os_str()]);
    }
}

#[test]
fn every_layout_is_read_as_the_kernel_reads_it() {
    let Some(workspace) = ready() else { return };
    let source = fill(&workspace);
    let mut made = 0;
    // Those with a block size of their own are of later versions of the tool.
    for options in [
        &[][..],
        &["-L", "a label", "-E", "force-inode-extended"],
        &["-E", "force-inode-extended"],
        &["-T", "1700000000", "--ignore-mtime"],
        &["-E", "noinline_data"],
        &["-E", "nosbcrc", "-x", "-1"],
        &["-x", "1"],
        &["--chunksize", "4096"],
        &["--chunksize", "65536"],
        &["--chunksize", "4096", "-E", "force-chunk-indexes"],
        &["-b", "512"],
        &["-b", "1024", "--chunksize", "8192"],
        &["-b", "2048"],
        &["--xattr-prefix=user.sa", "--xattr-prefix=trusted."],
    ] {
        let Some(image) = make(&workspace, &source, options) else { continue };
        made += 1;
        let mounted = Mount::new(&workspace, &image);
        let ours = open(&image).unwrap_or_else(|error| panic!("{options:?}: {error}"));
        let report = compare_with_folder(&*ours, &mounted.0, &Options::default());
        assert!(report.compared > 3000, "{options:?}: {}", report.compared);
        assert!(
            report.differences.is_empty(),
            "{options:?}: {:#?}",
            &report.differences[..report.differences.len().min(20)]
        );
        let theirs = nix::sys::statvfs::statvfs(&mounted.0).expect("counts");
        let counts = ours.statfs().expect("counts");
        assert_eq!(counts.blocks, theirs.blocks(), "{options:?}");
        assert_eq!((counts.blocks_free, u64::from(counts.name_max)), (theirs.blocks_free(), theirs.name_max()));
        // A listing goes on where it was broken off, and what is not there is not found.
        let many = ours.lookup(ours.root(), b"many").expect("there").ino;
        assert_eq!(list(&*ours, many, 7).expect("lists"), list(&*ours, many, 100_000).expect("lists"));
        for missing in [&b"a"[..], b"a name with the number 0", b"zzz", b"", b"."] {
            assert!(ours.lookup(many, missing).is_err() || missing == b".", "{missing:?}");
        }
        assert!(ours.lookup(many, &[b'n'; 256]).is_err_and(|error| error.is_errno(libc::ENAMETOOLONG)));
        assert!(ours.attr(u64::MAX >> 8).is_err() && ours.attr(u64::MAX).is_err());
    }
    assert!(made >= 7, "{made} kinds of images");
}

/// Makes files that compress well, badly, and by turns.
fn fill_packable(workspace: &Workspace) -> PathBuf {
    let tree = workspace.folder("packable");
    let text = |lines: usize| {
        (0..lines).map(|line| format!("line {line} of many that are alike, {}\n", line % 7)).collect::<String>()
    };
    for (name, content) in [
        ("text", text(40_000).into_bytes()),
        ("short text", text(300).into_bytes()),
        ("zeroes", vec![0; 5 << 20]),
        ("noise", noise(300_000, 1)),
        ("tiny", text(2).into_bytes()),
        ("one block", text(200).into_bytes()[..4096].to_vec()),
    ] {
        std::fs::write(tree.join(name), content).expect("writes");
    }
    let mut mixed = Vec::new();
    for part in 0..200_usize {
        mixed.extend(noise(part * 97 % 9000, part as u64));
        mixed.extend(text(part * 31 % 400).into_bytes());
        mixed.extend(vec![part as u8; part * 211 % 70_000]);
    }
    std::fs::write(tree.join("mixed"), mixed).expect("writes");
    tree
}

#[test]
fn files_compressed_by_lz4_are_read_and_others_refused_by_name() {
    let Some(workspace) = ready() else { return };
    let source = fill_packable(&workspace);
    let mut made = 0;
    for options in [
        &["-zlz4"][..],
        &["-zlz4hc"],
        &["-zlz4hc", "-C65536"],
        &["-zlz4", "-C1048576"],
        &["-zlz4", "-b1024"],
        &["-zlz4", "-b1024", "-C8192"],
    ] {
        let Some(image) = make(&workspace, &source, options) else { continue };
        made += 1;
        let mounted = Mount::new(&workspace, &image);
        let ours = open(&image).expect("opens");
        let report = compare_with_folder(&*ours, &mounted.0, &Options::default());
        assert!(report.differences.is_empty(), "{options:?}: {:#?}", report.differences);
        // From any place on, for any length.
        let file = ours.lookup(ours.root(), b"mixed").expect("there");
        let whole = std::fs::read(source.join("mixed")).expect("made");
        for step in 0..400 {
            let (at, len) = (step * 7919 * 13 % whole.len(), step * 331 % 20_000 + 1);
            let mut buf = vec![0; len];
            let read = ours.read(file.ino, at as u64, &mut buf).expect("reads");
            assert!(
                read == len.min(whole.len() - at) && buf[..read] == whole[at..at + read],
                "{options:?}: {at} {len}"
            );
        }
    }
    assert!(made >= 4, "{made} kinds of images");
    for (options, name) in [
        (&["-zlz4", "-E", "legacy-compress"][..], "of the first form"),
        (&["-zlz4", "-E", "dedupe"], "parts of extents"),
        (&["-zlz4", "-E", "ztailpacking"], "end lies elsewhere"),
        (&["-zlz4", "-E", "fragments"], "end lies elsewhere"),
        (&["-zzstd"], "zstd"),
        (&["-zdeflate"], "DEFLATE"),
        (&["-zlzma"], "LZMA"),
    ] {
        let Some(image) = make(&workspace, &source, options) else { continue };
        let mounted = Mount::new(&workspace, &image);
        let ours = open(&image).expect("opens");
        let report = compare_with_folder(&*ours, &mounted.0, &Options::default());
        // What these options make goes by the version of the tool, and may be read.
        let may_be_read = ["legacy-compress", "dedupe", "fragments"].iter().any(|option| options.contains(option));
        assert!(may_be_read || !report.differences.is_empty(), "{options:?}");
        let refused = |line: &String| line.contains("of EROFS") && line.contains(name);
        assert!(report.differences.iter().all(refused), "{options:?}: {:#?}", report.differences);
    }
    let image = make(&workspace, &source, &["-zlz4", "-E", "ztailpacking"]).expect("makes");
    let (code, printed, said) = guestctl(&["cat", image.to_str().expect("plain"), "/text"]);
    assert!(code != 0 && printed.is_empty() && said.contains("compressed files whose end lies elsewhere"), "{said}");
}

/// Looks at everything that there is, a bounded part of it.
fn walk(fs: &dyn Filesystem) {
    let mut todo: Vec<Ino> = vec![fs.root()];
    let mut seen = HashSet::new();
    let mut buf = vec![0; 10_000];
    while let Some(dir) = todo.pop().filter(|_| seen.len() < 3000) {
        let Ok(entries) = list(fs, dir, 200) else { continue };
        for (name, ino, _) in entries.into_iter().take(300) {
            let _ = fs.lookup(dir, &name);
            if !seen.insert(ino) {
                continue;
            }
            let Ok(attr) = fs.attr(ino) else { continue };
            for name in fs.xattrs(ino).unwrap_or_default().into_iter().take(20) {
                let _ = fs.xattr(ino, &name);
            }
            match attr.file_type {
                FileType::Directory => todo.push(ino),
                FileType::Symlink => drop(fs.read_link(ino)),
                FileType::Regular => {
                    for at in [0, 4000, attr.size / 2, attr.size.saturating_sub(100)] {
                        let _ = fs.read(ino, at, &mut buf);
                        let _ = (fs.next_data(ino, at), fs.next_hole(ino, at));
                    }
                    fs.prefetch(ino, 0, attr.size);
                    fs.disk_order(ino);
                }
                _ => {}
            }
        }
        let _ = fs.parent(dir);
    }
}

#[test]
fn damaged_images_are_refused_or_read_as_far_as_they_go() {
    let Some(workspace) = ready() else { return };
    let source = workspace.folder("source");
    shell(&format!(
        "cd {}; mkdir -p sub/deep; for i in $(seq 60); do echo $i >sub/file$i; done; head -c 30000 /dev/urandom >large
         truncate -s 1M holes; ln -s sub link; setfattr -n user.x -v value large; setfattr -n user.x -v value sub/file1",
        source.display()
    ));
    let mut numbers = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |end: usize| {
        numbers ^= numbers << 13;
        numbers ^= numbers >> 7;
        numbers ^= numbers << 17;
        numbers as usize % end
    };
    for options in [
        &["-E", "nosbcrc"][..],
        &["-E", "nosbcrc,force-inode-extended", "-x", "1"],
        &["-E", "nosbcrc", "--chunksize", "4096"],
        &["-E", "nosbcrc", "-zlz4hc", "-C16384"],
        &["-E", "nosbcrc,legacy-compress", "-zlz4"],
    ] {
        let image = make(&workspace, &source, options).expect("makes");
        let whole = std::fs::read(&image).expect("made");
        let used: Vec<usize> = (1024..whole.len()).filter(|&at| whole[at] != 0).collect();
        for round in 0..400 {
            let mut bytes = whole.clone();
            for _ in 0..=next(6) {
                // The superblock, and what is near something that is used.
                let at = if next(4) == 0 {
                    1024 + next(128)
                } else {
                    (used[next(used.len().min(3000))] + next(9)).saturating_sub(4)
                };
                let at = at.min(bytes.len() - 1);
                bytes[at] = [0, 0xff, 0x80, 0x7f, next(256) as u8][next(5)];
            }
            if round % 10 == 0 {
                bytes.truncate(next(whole.len()));
            }
            if let Ok(fs) = open_bytes(bytes) {
                walk(&*fs);
            }
        }
    }
    // With its checksum a superblock tells that it was changed; a feature of tomorrow is refused by name.
    let image = make(&workspace, &source, &[]).expect("makes");
    let mut bytes = std::fs::read(&image).expect("made");
    bytes[1024 + 24] ^= 1;
    let error = open_bytes(bytes.clone()).err().expect("it is damaged");
    assert!(matches!(error.root(), Error::Corrupt { .. }) && error.to_string().contains("checksum"), "{error}");
    bytes[1024 + 24] ^= 1;
    bytes[1024 + 80] |= 0x80;
    let error = open_bytes(bytes).err().expect("it is not known");
    assert!(matches!(error.root(), Error::Unsupported { .. }) && error.to_string().contains("48 bits"), "{error}");
}
