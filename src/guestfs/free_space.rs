//! Giving the space that is free on a filesystem back, or making it read as zeroes.

use super::Guestfs;
use super::put::{Held, temporary_name, writer};
use crate::error::{ErrorContext, Result};
use crate::fs::write::Credentials;
use crate::fs::{FileType, FilesystemWrite, Ino};
use std::ffi::OsStr;

/// How many zeroes are written at a time, in bytes.
const PIECE: usize = 1 << 20;

/// The least that is written at a time when space runs out, in bytes.
const LEAST: usize = 512;

/// The size at which a file of zeroes is followed by the next, in bytes: every filesystem has files as large.
const LARGEST_FILE: u64 = 2 << 30;

impl Guestfs {
    /// Tells the drive of the space that is free on the filesystem of a path; returns how many bytes.
    ///
    /// # Errors
    /// `ENOENT`, `EROFS` with what to do, and those of the host.
    pub fn fstrim(&self, path: impl AsRef<OsStr>) -> Result<u64> {
        let path = path.as_ref();
        let here = || path.display().to_string();
        let (tree, found) = self.find_to_change(path, true)?;
        let (writer, _) = writer(tree, found.node).at(here)?;
        self.timed("fstrim", || writer.trim().at(here))
    }

    /// Overwrites the space that is free on the filesystem of a folder with zeroes, through files without names that are
    /// freed at the end. What was deleted is gone then. The image grows by all that was free; `fstrim` gives space back
    /// instead.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EROFS` with what to do, `EINTR` when the progress callback says so, and those of the host.
    pub fn zero_free_space(&self, folder: impl AsRef<OsStr>) -> Result<()> {
        let path = folder.as_ref();
        let here = || path.display().to_string();
        self.check_not_local()?;
        let (tree, found) = self.find_folder(path)?;
        let (writer, dir) = writer(tree, found.node).at(here)?;
        let free = tree.statfs(found.node)?;
        let meter = self.meter(free.blocks_free.saturating_mul(u64::from(free.block_size)));
        self.timed("zero_free_space", || {
            let mut files = Vec::new();
            let filled = (|| {
                loop {
                    let file = match Zeroes::new(writer, dir) {
                        Err(error) if error.is_errno(libc::ENOSPC) => return Ok(()),
                        made => made?,
                    };
                    let is_full = file.fill(&meter);
                    files.push(file);
                    if is_full? {
                        return Ok(());
                    }
                }
            })();
            // Zeroes that were not written before their file goes need not be written at all.
            let durable = filled.and_then(|()| writer.sync());
            drop(files);
            durable.and_then(|()| writer.sync()).at(here)
        })
    }
}

/// A file of zeroes that nobody sees; its space is free again when it goes.
struct Zeroes<'a> {
    _held: Held<'a>,
    writer: &'a dyn FilesystemWrite,
    ino: Ino,
}

impl<'a> Zeroes<'a> {
    fn new(writer: &'a dyn FilesystemWrite, dir: Ino) -> Result<Self> {
        let who = Credentials { uid: 0, gid: 0, umask: 0 };
        match writer.create_unnamed(dir, 0o600, &who) {
            Ok(made) => return Ok(Self { _held: Held::new(writer, made.ino), writer, ino: made.ino }),
            Err(error) if matches!(error.errno(), libc::EOPNOTSUPP | libc::ENOSYS) => {}
            Err(error) => return Err(error),
        }
        let name = temporary_name();
        let made = writer.create(dir, &name, FileType::Regular, 0o600, (0, 0), &who)?;
        let held = Held::new(writer, made.ino);
        writer.unlink(dir, &name)?;
        Ok(Self { _held: held, writer, ino: made.ino })
    }

    /// Writes zeroes until the file is as large as may be, or there is no space left; says which.
    fn fill(&self, meter: &super::progress::Meter) -> Result<bool> {
        let zeroes = vec![0; PIECE];
        let (mut size, mut piece) = (0, PIECE);
        while size < LARGEST_FILE {
            match self.writer.write(self.ino, size, &zeroes[..piece], true) {
                Ok(count) if count > 0 => {
                    size += count as u64;
                    meter.add(count as u64)?;
                }
                Err(error) if !error.is_errno(libc::ENOSPC) => return Err(error),
                // There may be room for less.
                _ if piece > LEAST => piece /= 2,
                _ => return Ok(true),
            }
        }
        Ok(false)
    }
}
