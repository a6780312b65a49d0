//! What of a tree can still be read when something in the image is damaged, beside the same tree undamaged.

#![allow(dead_code, reason = "each test program uses its own part")]

use guestctl::block::BlockDevice;
use guestctl::error::Error;
use guestctl::fs::{FileType, Filesystem, Ino};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

/// The parts of a file that are read one by one.
pub type Part = (Vec<u8>, &'static str);

/// Everything that can be read of a tree: what each part is, or why there is none.
pub fn read_tree(filesystem: &dyn Filesystem) -> BTreeMap<Part, Result<Vec<u8>, Error>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(Vec::new(), filesystem.root())];
    let mut read = HashSet::new();
    while let Some((path, ino)) = waiting.pop() {
        let attr = match filesystem.attr(ino) {
            Ok(attr) => attr,
            Err(error) => {
                found.insert((path, "attributes"), Err(error));
                continue;
            }
        };
        let shown = format!(
            "{:?} {} {} {:?} {:?} {:?}",
            attr.file_type, attr.permissions, attr.nlink, attr.uid, attr.mtime, attr.size
        );
        found.insert((path.clone(), "attributes"), Ok(shown.into_bytes()));
        // Of many names of a file, the first shows what is in it.
        if attr.file_type != FileType::Directory && !read.insert(ino) {
            continue;
        }
        found.insert((path.clone(), "extended attributes"), read_xattrs(filesystem, ino));
        match attr.file_type {
            FileType::Directory => {
                let mut names = Vec::new();
                let listed = filesystem.read_dir(ino, 0, &mut |entry| {
                    names.push(entry.name.to_vec());
                    ControlFlow::Continue(())
                });
                found.insert((path.clone(), "listing"), listed.map(|()| names.join(&b'\n')));
                for name in names {
                    let path = [&path[..], b"/", &name].concat();
                    match filesystem.lookup(ino, &name) {
                        Ok(child) => waiting.push((path, child.ino)),
                        Err(error) => drop(found.insert((path, "attributes"), Err(error))),
                    }
                }
            }
            FileType::Symlink => drop(found.insert((path, "target"), filesystem.read_link(ino))),
            FileType::Regular => drop(found.insert((path, "contents"), read_file(filesystem, ino, attr.size))),
            _ => {}
        }
    }
    found
}

fn read_xattrs(filesystem: &dyn Filesystem, ino: Ino) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let mut names = filesystem.xattrs(ino)?;
    names.sort();
    for name in names {
        all.extend_from_slice(&name);
        all.extend_from_slice(&filesystem.xattr(ino, &name)?);
    }
    Ok(all)
}

fn read_file(filesystem: &dyn Filesystem, ino: Ino, size: u64) -> Result<Vec<u8>, Error> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; 128 << 10];
    let mut at = 0;
    while at < size {
        match filesystem.read(ino, at, &mut piece)? {
            0 => break,
            count => {
                sum.update(&piece[..count]);
                at += count as u64;
            }
        }
    }
    Ok(sum.finalize().to_vec())
}

/// What damage did to a tree.
#[derive(Default, Debug)]
pub struct Loss {
    /// How many parts are as they were.
    pub same: usize,
    /// How many cannot be read, and say so.
    pub refused: usize,
    /// One of the lines that say so.
    pub said: String,
    /// Whether it is the root itself that cannot be listed.
    pub hides_all: bool,
}

/// Compares a tree with the same tree undamaged. Each part is the same or an `EIO` with one line, and a name is missing only
/// where its folder's listing is such an error.
pub fn compare(
    whole: &BTreeMap<Part, Result<Vec<u8>, Error>>,
    damaged: &BTreeMap<Part, Result<Vec<u8>, Error>>,
    what: &str,
) -> Loss {
    let listed = damaged.get(&(Vec::new(), "listing"));
    let mut loss = Loss { hides_all: !matches!(listed, Some(Ok(_))), ..Loss::default() };
    for (part, value) in whole {
        let value = value.as_ref().expect("the whole tree is read");
        let named = || format!("{what}: {} of {}", part.1, part.0.escape_ascii());
        match damaged.get(part) {
            Some(Ok(found)) => {
                assert_eq!(found, value, "{} is another", named());
                loss.same += 1;
            }
            Some(Err(error)) => {
                assert_eq!(error.errno(), libc::EIO, "{}: {error}", named());
                let line = error.to_string();
                assert!(!line.is_empty() && !line.contains('\n'), "{}: {line:?}", named());
                loss.refused += 1;
                loss.said = line;
            }
            // Another name shows it first, or what leads to it is refused.
            None => assert!(
                is_refused_above(damaged, &part.0) || part.1 != "attributes",
                "{} is gone without a word",
                named()
            ),
        }
    }
    loss
}

fn is_refused_above(damaged: &BTreeMap<Part, Result<Vec<u8>, Error>>, path: &[u8]) -> bool {
    let above = (0..path.len()).filter(|&at| path[at] == b'/').map(|at| &path[..at]).chain([path]);
    above.into_iter().any(|folder| {
        ["attributes", "listing"].iter().any(|kind| matches!(damaged.get(&(folder.to_vec(), kind)), Some(Err(_))))
    })
}

/// An image with some blocks replaced.
pub struct Patched {
    pub base: Arc<Vec<u8>>,
    pub patches: BTreeMap<usize, Vec<u8>>,
}

impl BlockDevice for Patched {
    fn size(&self) -> u64 {
        self.base.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), Error> {
        let end = offset.checked_add(buf.len() as u64).filter(|&end| end <= self.size());
        if end.is_none() {
            return Err(Error::io("read past the end", std::io::ErrorKind::UnexpectedEof.into()));
        }
        let offset = offset as usize;
        buf.copy_from_slice(&self.base[offset..offset + buf.len()]);
        for (&at, patch) in &self.patches {
            let (from, to) = (at.max(offset), (at + patch.len()).min(offset + buf.len()));
            if from < to {
                buf[from - offset..to - offset].copy_from_slice(&patch[from - at..to - at]);
            }
        }
        Ok(())
    }
}
