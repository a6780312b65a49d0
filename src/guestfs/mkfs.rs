//! Making filesystems.
//!
//! The distribution's own tool makes the filesystem in a sparse scratch file as large as the device; what it wrote is then
//! copied, and the rest of the device is zeroed. So neither root nor a device node is needed, and a tool never sees the
//! image.

use super::Guestfs;
use super::progress::Meter;
use crate::block::{BlockDevice, ExtentKind, RawDevice};
use crate::error::{Error, ErrorContext, IoContext, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// How a filesystem is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MkfsOptions {
    /// The label.
    pub label: Option<String>,
    /// The block size, in bytes; of clusters, for FAT and NTFS.
    pub block_size: Option<u32>,
    /// Features as the tool has them: `-O` of mke2fs and mkfs.btrfs, `-m` of mkfs.xfs.
    pub features: Option<String>,
}

/// How much is copied at once, in bytes.
pub(super) const PIECE: u64 = 1 << 20;

/// The tool of a type, the package that it is in, and its options.
struct Tool {
    program: &'static str,
    package: &'static str,
    fixed: &'static [&'static str],
    label: &'static str,
    longest_label: usize,
    /// The option for a block size, and what the number is divided by.
    block_size: Option<(&'static str, u32)>,
    features: Option<&'static str>,
}

fn tool(kind: &str) -> Result<Tool> {
    let mke2fs = |fixed| Tool {
        program: "mke2fs",
        package: "e2fsprogs",
        fixed,
        label: "-L",
        longest_label: 16,
        block_size: Some(("-b", 1)),
        features: Some("-O"),
    };
    Ok(match kind {
        "ext2" => mke2fs(&["-q", "-F", "-t", "ext2"]),
        "ext3" => mke2fs(&["-q", "-F", "-t", "ext3"]),
        "ext4" => mke2fs(&["-q", "-F", "-t", "ext4"]),
        "xfs" => Tool {
            program: "mkfs.xfs",
            package: "xfsprogs",
            fixed: &["-q", "-f"],
            label: "-L",
            longest_label: 12,
            block_size: Some(("-bsize=", 1)),
            features: Some("-m"),
        },
        "btrfs" => Tool {
            program: "mkfs.btrfs",
            package: "btrfs-progs",
            fixed: &["-q", "-f"],
            label: "-L",
            longest_label: 255,
            block_size: Some(("-s", 1)),
            features: Some("-O"),
        },
        "vfat" | "fat" | "msdos" => Tool {
            program: "mkfs.vfat",
            package: "dosfstools",
            fixed: &[],
            label: "-n",
            longest_label: 11,
            block_size: Some(("-s", 512)),
            features: None,
        },
        "ntfs" => Tool {
            program: "mkfs.ntfs",
            package: "ntfs-3g",
            fixed: &["-q", "-Q", "-F"],
            label: "-L",
            longest_label: 128,
            block_size: Some(("-c", 1)),
            features: None,
        },
        "exfat" => Tool {
            program: "mkfs.exfat",
            package: "exfatprogs",
            fixed: &[],
            label: "-L",
            longest_label: 11,
            block_size: Some(("-c", 1)),
            features: None,
        },
        "swap" => Tool {
            program: "mkswap",
            package: "util-linux",
            fixed: &["-q"],
            label: "-L",
            longest_label: 15,
            block_size: None,
            features: None,
        },
        _ => {
            let known = "ext2, ext3, ext4, xfs, btrfs, vfat, ntfs, exfat, swap";
            return Err(Error::Usage(format!("no filesystem {kind:?} can be made; there are {known}").into()));
        }
    })
}

/// Finds a program on the path, and where a plain user's path leaves administrators' programs out.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(more).map(|folder| folder.join(name)).find(|file| file.is_file())
}

impl Tool {
    fn arguments(&self, options: &MkfsOptions) -> Result<Vec<OsString>> {
        let mut arguments: Vec<OsString> = self.fixed.iter().map(OsString::from).collect();
        if let Some(label) = &options.label {
            if label.len() > self.longest_label {
                let longest = self.longest_label;
                return Err(Error::Usage(format!("the label {label:?} is longer than {longest} bytes").into()));
            }
            arguments.extend([self.label.into(), label.into()]);
        }
        if let Some(size) = options.block_size {
            let none = || Error::Usage(format!("{} takes no block size", self.program).into());
            let (option, unit) = self.block_size.ok_or_else(none)?;
            let number = (size / unit).to_string();
            match option.ends_with('=') {
                true => arguments.push(format!("{option}{number}").into()),
                false => arguments.extend([option.into(), number.into()]),
            }
        }
        if let Some(features) = &options.features {
            let none = || Error::Usage(format!("{} takes no features", self.program).into());
            arguments.extend([self.features.ok_or_else(none)?.into(), features.into()]);
        }
        Ok(arguments)
    }

    fn run(&self, file: &std::path::Path, options: &MkfsOptions) -> Result<()> {
        let (name, package) = (self.program, self.package);
        let program = find_program(name)
            .ok_or_else(|| Error::NotFound(format!("this needs {name}: install the package {package}").into()))?;
        let mut command = Command::new(program);
        command.args(self.arguments(options)?).arg(file);
        let output = command.stdin(Stdio::null()).output().doing(|| format!("cannot run {name}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(Error::io(format!("{name} failed"), std::io::Error::other(said)))
    }
}

/// Makes a filesystem on a device. What was there is gone.
///
/// # Errors
/// [`Error::Usage`] for an unknown type or an option that its tool does not have, [`Error::NotFound`] when the tool is
/// not installed, [`Error::Io`] with what the tool said, `EINTR` where the meter ends it before anything is written, and those of writing.
fn make(device: &dyn BlockDevice, kind: &str, options: &MkfsOptions, meter: &Meter) -> Result<()> {
    if device.is_read_only() {
        return Err(Error::Errno(libc::EROFS));
    }
    let tool = tool(kind)?;
    let scratch =
        tempfile::Builder::new().prefix("guestctl-mkfs-").tempfile().doing(|| "cannot make a scratch file")?;
    scratch.as_file().set_len(device.size()).doing(|| "cannot make a scratch file")?;
    tool.run(scratch.path(), options)?;
    // Until here the device is what it was; from here on it gets all of the filesystem.
    meter.add(0)?;
    let made = RawDevice::open(scratch.path(), false)?;
    if made.size() != device.size() {
        return Err(Error::io(format!("{} changed the size", tool.program), std::io::ErrorKind::Other.into()));
    }
    let mut buffer = vec![0; PIECE as usize];
    let mut at = 0;
    while at < made.size() {
        let extent = made.map(at, made.size() - at)?;
        if extent.kind != ExtentKind::Data {
            clear(device, at, extent.end)?;
            at = extent.end;
            continue;
        }
        let count = (extent.end - at).min(PIECE);
        let piece = &mut buffer[..count as usize];
        made.read_at(piece, at)?;
        if crate::block::convert::is_zero(piece) {
            clear(device, at, at + count)?;
        } else {
            device.write_at(piece, at)?;
        }
        at += count;
    }
    device.flush()
}

/// Makes a range read as zeroes, where it does not already.
fn clear(device: &dyn BlockDevice, from: u64, to: u64) -> Result<()> {
    let mut at = from;
    while at < to {
        let extent = device.map(at, to - at)?;
        let end = extent.end.min(to);
        if extent.kind == ExtentKind::Data {
            device.write_zeroes(at, end - at, false)?;
        }
        at = end;
    }
    Ok(())
}

impl Guestfs {
    /// Makes a filesystem on a drive or a partition: `ext2`, `ext3`, `ext4`, `xfs`, `btrfs`, `vfat`, `ntfs`, `exfat` or
    /// `swap`. What was there is gone.
    ///
    /// # Errors
    /// [`Error::Usage`] for another type, [`Error::InUse`] while the device is mounted, [`Error::NotFound`] for a device
    /// that there is not, and with the package's name when the tool is not installed, `EROFS`, and those of writing.
    pub fn mkfs(&mut self, kind: &str, device: &str) -> Result<()> {
        self.mkfs_opts(kind, device, &MkfsOptions::default())
    }

    /// Makes a filesystem with a label, a block size, features.
    ///
    /// # Errors
    /// As [`mkfs`](Self::mkfs); [`Error::Usage`] for an option that its tool does not have.
    pub fn mkfs_opts(&mut self, kind: &str, device: &str, options: &MkfsOptions) -> Result<()> {
        let started = Instant::now();
        let (target, disk) = self.target(device)?;
        make(&*target, kind, options, &self.meter(target.size())).at(|| device)?;
        log::info!("operation=mkfs type={kind} duration_ms={:.1}", started.elapsed().as_secs_f64() * 1000.0);
        self.rescan(disk)
    }

    /// Returns a device that is about to be overwritten, and the index of its drive.
    pub(super) fn target(&self, device: &str) -> Result<(crate::block::SharedDevice, usize)> {
        let target = self.device(device)?;
        let disk = self.device_index(device).or_else(|_| self.launched()?.held(device).map(|held| held.disk))?;
        let is_drive = self.device_index(device).is_ok();
        let launched = self.launched()?;
        let below = |name: &str| match is_drive {
            true => launched.volumes.iter().any(|held| held.disk == disk && held.volume.name == name),
            false => launched.held(device).is_ok_and(|held| held.volume.name == name),
        };
        if let Some(mounted) = self.mounts().into_iter().find(|name| below(name)) {
            return Err(Error::InUse(format!("{mounted} is mounted; unmount it first").into()));
        }
        if target.is_read_only() {
            return Err(Error::Errno(libc::EROFS).at(device));
        }
        Ok((target, disk))
    }

    /// Overwrites the first and the last MiB of a device with zeroes, so that nothing is recognised on it.
    ///
    /// # Errors
    /// As [`mkfs`](Self::mkfs).
    pub fn wipefs(&mut self, device: &str) -> Result<()> {
        let (target, disk) = self.target(device)?;
        let size = target.size();
        let ends = PIECE.min(size);
        target.write_zeroes(0, ends, false)?;
        target.write_zeroes(size - ends, ends, false)?;
        for place in crate::fs::probe::far_signatures(&*target)? {
            target.write_zeroes(place, 1024, false)?;
        }
        target.flush()?;
        self.rescan(disk)
    }

    /// Makes all of a device read as zeroes.
    ///
    /// # Errors
    /// As [`mkfs`](Self::mkfs).
    pub fn zero(&mut self, device: &str) -> Result<()> {
        let (target, disk) = self.target(device)?;
        clear(&*target, 0, target.size())?;
        target.flush()?;
        self.rescan(disk)
    }
}
