//! Comparison of two folders in everything that a user could notice.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is compared of one file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    nlink: u64,
    owner: (u32, u32),
    size: u64,
    blocks: u64,
    rdev: u64,
    times: [(i64, i64); 3],
    target: Option<PathBuf>,
    xattrs: Vec<u8>,
    /// Files that are one file have one number in this comparison.
    identity: usize,
}

/// Checks that two folders hold the same: names, types, modes, owners, links, sizes, times to the nanosecond, device numbers,
/// extended attributes, access control lists, contents and holes. Access times are left out: looking changes them.
pub fn assert_same(one: &Path, other: &Path) {
    compare(one, other, true);
}

/// Checks as [`assert_same`] does, without what a copy cannot keep: the time of the last change of the inode, and how the
/// contents are allocated.
pub fn assert_same_but_ctime(one: &Path, other: &Path) {
    compare(one, other, false);
}

fn compare(one: &Path, other: &Path, exact: bool) {
    let (mut left, mut right) = (look(one), look(other));
    if !exact {
        for seen in left.values_mut().chain(right.values_mut()) {
            seen.times[1] = (0, 0);
            seen.blocks = 0;
            if seen.mode & libc::S_IFMT == libc::S_IFDIR {
                seen.size = 0;
            }
        }
    }
    let names = |seen: &BTreeMap<OsString, Seen>| seen.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right), "the names in {} and {}", one.display(), other.display());
    for (name, seen) in &left {
        assert_eq!(seen, &right[name], "{}", name.display());
        if seen.mode & libc::S_IFMT == libc::S_IFREG {
            assert_same_contents(&one.join(name), &other.join(name), exact);
        }
    }
}

fn look(top: &Path) -> BTreeMap<OsString, Seen> {
    let mut seen = BTreeMap::new();
    let mut identities = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let whole = top.join(&path);
        let metadata = fs::symlink_metadata(&whole).unwrap_or_else(|error| panic!("{}: {error}", whole.display()));
        if metadata.is_dir() {
            let mut entries: Vec<_> = fs::read_dir(&whole)
                .unwrap_or_else(|error| panic!("{}: {error}", whole.display()))
                .map(|entry| path.join(entry.expect("listed").file_name()))
                .collect();
            entries.sort();
            todo.extend(entries.into_iter().rev());
        }
        let next = identities.len();
        let identity = *identities.entry((metadata.dev(), metadata.ino())).or_insert(next);
        let name = if path.as_os_str().is_empty() { OsString::from(".") } else { path.into_os_string() };
        seen.insert(
            name,
            Seen {
                mode: metadata.mode(),
                nlink: metadata.nlink(),
                owner: (metadata.uid(), metadata.gid()),
                size: metadata.size(),
                blocks: metadata.blocks(),
                rdev: metadata.rdev(),
                times: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()), (0, 0)],
                target: metadata.is_symlink().then(|| fs::read_link(&whole).expect("a link can be read")),
                xattrs: xattrs(&whole),
                identity,
            },
        );
    }
    seen
}

/// Returns all extended attributes as getfattr(1) prints them, sorted, without the path.
fn xattrs(path: &Path) -> Vec<u8> {
    if !super::has_tool("getfattr") {
        return Vec::new();
    }
    let arguments: [&OsStr; 7] = ["-h", "-d", "-m", "-", "-e", "hex"]
        .map(OsStr::new)
        .into_iter()
        .chain([path.as_os_str()])
        .collect::<Vec<_>>()
        .try_into()
        .expect("seven arguments");
    let printed = super::guest::output("getfattr", &arguments).stdout;
    let mut lines: Vec<&[u8]> =
        printed.split(|&byte| byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#")).collect();
    lines.sort();
    lines.join(&b'\n')
}

fn assert_same_contents(one: &Path, other: &Path, exact: bool) {
    let open = |path: &Path| File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut left, mut right) = (open(one), open(other));
    if exact {
        assert_eq!(holes(&left), holes(&right), "the holes of {}", one.display());
    }
    let (mut left_bytes, mut right_bytes) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = fill(&mut left, &mut left_bytes, one);
        assert_eq!(fill(&mut right, &mut right_bytes, other), count, "the length of {}", one.display());
        assert!(left_bytes[..count] == right_bytes[..count], "the contents of {}", one.display());
        if count == 0 {
            return;
        }
    }
}

fn fill(file: &mut File, buffer: &mut [u8], path: &Path) -> usize {
    let mut done = 0;
    while done < buffer.len() {
        match file.read(&mut buffer[done..]).unwrap_or_else(|error| panic!("{}: {error}", path.display())) {
            0 => break,
            count => done += count,
        }
    }
    done
}

/// Returns where data and holes begin, in turn.
fn holes(file: &File) -> Vec<i64> {
    use nix::unistd::{Whence, lseek};
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok(data) = lseek(file, at, Whence::SeekData) {
        let Ok(hole) = lseek(file, data, Whence::SeekHole) else { break };
        found.extend([data, hole]);
        if found.len() > 4000 {
            break;
        }
        at = hole;
    }
    // The tests read from the beginning.
    lseek(file, 0, Whence::SeekSet).expect("a regular file");
    found
}
