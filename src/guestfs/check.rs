//! Reading all that an image says about itself, to find damage. Nothing is repaired, and nothing is written.

use super::Guestfs;
use super::ordered::in_order;
use super::progress::Meter;
use crate::error::{Error, ErrorContext, IoContext, Result};
use crate::fs::FileType;
use crate::tree::{Mount, Node, Tree, Visit};
use serde::Serialize;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `qemu-img check` found in an image's own tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageCheck {
    /// Errors that may have cost data, or will.
    pub corruptions: u64,
    /// Clusters that are taken and belong to nothing; they cost space alone.
    pub leaks: u64,
    /// What could not be checked.
    pub check_errors: u64,
}

/// What was found in one filesystem.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FilesystemCheck {
    /// The device: `/dev/sda1`.
    pub device: String,
    /// The type, by the name that `blkid` has for it.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many files and folders were read.
    pub files: u64,
    /// What is damaged: a path, and what is wrong with it.
    pub damages: Vec<String>,
    /// How many damages there were; the first thousand are listed.
    pub damage_count: u64,
    /// What its driver says of it: a journal that has to be replayed, a mirror that was used.
    pub warnings: Vec<String>,
}

/// The most damages that are listed.
const MOST_LISTED: usize = 1000;

/// How much is read at once, in bytes.
const PIECE: usize = 1 << 20;

/// Checks the tables of an image by `qemu-img check`; `None` for a format that has none.
///
/// # Errors
/// [`Error::NotFound`] without qemu-img, and [`Error::Io`] when the image cannot be checked at all.
pub fn check_image(path: &Path, format: crate::block::ImageFormat) -> Result<Option<ImageCheck>> {
    use crate::block::ImageFormat;
    if !matches!(format, ImageFormat::Qcow2 { .. } | ImageFormat::Vdi | ImageFormat::Vhdx | ImageFormat::Vmdk) {
        return Ok(None);
    }
    let mut command = Command::new("qemu-img");
    command.args(["check", "-U", "--output=json", "-f", format.name(), "--"]).arg(super::create::plain(path)?);
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound("checking an image needs qemu-img (package qemu-utils)".into()));
        }
        output => output.doing(|| "cannot run qemu-img")?,
    };
    let Ok(report) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::io("qemu-img check failed", std::io::Error::other(said)));
    };
    let number = |name: &str| report[name].as_u64().unwrap_or(0);
    Ok(Some(ImageCheck {
        corruptions: number("corruptions"),
        leaks: number("leaks"),
        check_errors: number("check-errors"),
    }))
}

impl Guestfs {
    /// Reads all metadata of every filesystem that a driver reads: folders, inodes, links, extended attributes, where the
    /// contents lie; and all contents too where `contents` is set, which checks their checksums where a filesystem has
    /// such.
    ///
    /// # Errors
    /// [`Error::Usage`] before launch, and `EINTR` when the progress callback ends it. What is damaged is no error.
    pub fn check_filesystems(&self, contents: bool) -> Result<Vec<FilesystemCheck>> {
        let launched = self.launched()?;
        let options = self.fs_options();
        let mut checks = Vec::new();
        for held in launched.volumes.iter().filter(|held| held.is_readable()) {
            let mut check = FilesystemCheck {
                device: held.volume.name.clone(),
                kind: self.vfs_type(&held.volume.name)?,
                ..FilesystemCheck::default()
            };
            let tree = launched.filesystem(held, None, &options, false).and_then(|filesystem| {
                check.warnings.clone_from(&filesystem.info().warnings);
                let source = held.volume.name.clone();
                Tree::new(vec![Mount { filesystem, mountpoint: b"/".to_vec(), source }])
            });
            match tree {
                Ok(tree) => check.walk(&tree, contents, &self.meter(0))?,
                Err(error) => check.damage("", &error),
            }
            checks.push(check);
        }
        Ok(checks)
    }
}

impl FilesystemCheck {
    fn damage(&mut self, path: &str, error: &Error) {
        self.damage_count += 1;
        if self.damages.len() < MOST_LISTED {
            self.damages.push(if path.is_empty() { error.to_string() } else { format!("{path}: {error}") });
        }
    }

    fn walk(&mut self, tree: &Tree, contents: bool, meter: &Meter) -> Result<()> {
        if let Err(error) = tree.statfs(tree.root()) {
            self.damage("", &error);
        }
        let mut files: Vec<(String, Node, FileType, u64)> = Vec::new();
        let (mut count, mut failed) = (0, Vec::new());
        tree.visit(
            tree.root(),
            false,
            &mut |file| {
                count += 1;
                let path = format!("/{}", file.path.escape_ascii());
                files.push((path, file.node, file.attr.file_type, file.attr.size));
                if count % 1024 == 0 {
                    meter.add(0)?;
                }
                Ok(Visit::Enter)
            },
            &mut |path, error| {
                failed.push((format!("/{}", path.escape_ascii()), error));
                Ok(())
            },
        )?;
        self.files = count;
        for (path, error) in failed {
            self.damage(&path, &error);
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let read = |(path, node, file_type, size): (String, Node, FileType, u64)| {
            read_one(tree, node, file_type, size, contents, meter).map_err(|error| (path, error))
        };
        in_order(files.into_iter(), threads, 256, read, |result| match result {
            Ok(()) => Ok(()),
            Err((_, error)) if error.is_errno(libc::EINTR) => Err(error),
            Err((path, error)) => {
                self.damage(&path, &error);
                Ok(())
            }
        })
    }
}

/// Reads all that is known of one file.
fn read_one(tree: &Tree, node: Node, file_type: FileType, size: u64, contents: bool, meter: &Meter) -> Result<()> {
    for name in tree.xattrs(node)? {
        tree.xattr(node, &name).at(|| format!("attribute {}", name.escape_ascii()))?;
    }
    match file_type {
        FileType::Symlink => tree.read_link(node).map(drop),
        FileType::Regular => {
            let (filesystem, ino) = tree.filesystem(node)?;
            let mut at = 0;
            while at < size {
                let data = match filesystem.next_data(ino, at) {
                    Ok(data) => data,
                    Err(error) if error.is_errno(libc::ENXIO) => break,
                    Err(error) => return Err(error),
                };
                let hole = filesystem.next_hole(ino, data)?;
                if hole <= data || data < at {
                    return Err(Error::corrupt("extent map of a file", "a stretch does not move on"));
                }
                if contents {
                    read_range(tree, node, data, hole.min(size), meter)?;
                }
                at = hole;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn read_range(tree: &Tree, node: Node, from: u64, to: u64, meter: &Meter) -> Result<()> {
    let mut buffer = vec![0; PIECE.min((to - from) as usize)];
    let mut at = from;
    while at < to {
        let wanted = (to - at).min(buffer.len() as u64) as usize;
        let count = tree.read(node, at, &mut buffer[..wanted])?;
        if count == 0 {
            return Err(Error::corrupt("contents of a file", "they end before its size"));
        }
        at += count as u64;
        meter.add(count as u64)?;
    }
    Ok(())
}
