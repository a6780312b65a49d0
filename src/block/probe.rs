//! Which format an image has, by its content and never by its name.

use super::BlockDevice;
use super::ewf;
use super::qcow2::MAGIC as QCOW_MAGIC;
use crate::bytes::{be32, le32};
use crate::error::{Error, Result};
use std::fmt;

/// How many bytes from the beginning of an image [`ImageFormat::of`] wants to see.
pub const PROBE_LENGTH: usize = 34 << 10;
/// How many bytes from the end of an image [`ImageFormat::of`] wants to see.
pub const TRAILER_LENGTH: usize = 512;

const AT_VDI_MAGIC: usize = 64;
const VDI_MAGIC: u32 = 0xbeda_107f;
const AT_ISO_MAGIC: usize = 32769;
const VMDK_TEXT: &[u8] = b"# Disk DescriptorFile";
const VPC_COOKIE: &[u8] = b"conectix";
const AT_VPC_CHECKSUM: usize = 64;

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's present format.
    Qcow2 {
        /// 2 or 3.
        version: u32,
    },
    /// QEMU's first format.
    Qcow,
    /// VMware's, sparse or a text that names other files.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Hyper-V's present format.
    Vhdx,
    /// Virtual PC's and Hyper-V's first format (VHD).
    Vpc,
    /// QEMU's enhanced disk, given up long ago.
    Qed,
    /// Parallels'.
    Parallels,
    /// Apple's compressed disk image.
    Dmg,
    /// That of forensic tools: Expert Witness, EnCase (`.E01`).
    Ewf,
    /// A disk that is one LUKS container; its bytes are as they are.
    Luks,
    /// A CD; its bytes are as they are.
    Iso,
}

impl ImageFormat {
    /// Returns QEMU's name for the format.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw | Self::Iso => "raw",
            Self::Qcow2 { .. } => "qcow2",
            Self::Qcow => "qcow",
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Qed => "qed",
            Self::Parallels => "parallels",
            Self::Dmg => "dmg",
            Self::Ewf => "ewf",
            Self::Luks => "luks",
        }
    }

    /// Returns the name of QEMU's driver that shows the same bytes as this crate: a LUKS container stays closed.
    pub fn driver(self) -> &'static str {
        if self.is_raw() { "raw" } else { self.name() }
    }

    /// Returns the format that a text names, in QEMU's names or common ones, in upper or lower case.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such format.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "raw" | "img" => Self::Raw,
            "qcow2" | "qcow3" => Self::Qcow2 { version: 3 },
            "qcow" | "qcow1" => Self::Qcow,
            "vmdk" => Self::Vmdk,
            "vdi" => Self::Vdi,
            "vhdx" => Self::Vhdx,
            "vpc" | "vhd" => Self::Vpc,
            "qed" => Self::Qed,
            "parallels" | "hdd" => Self::Parallels,
            "dmg" => Self::Dmg,
            "ewf" | "e01" => Self::Ewf,
            "luks" => Self::Luks,
            "iso" => Self::Iso,
            _ => {
                let known = "raw, qcow2, qcow, vmdk, vdi, vhdx, vpc, qed, parallels, dmg, ewf, luks, iso";
                return Err(Error::Usage(format!("there is no image format {name:?}; there are {known}").into()));
            }
        })
    }

    /// Says whether the image's bytes are the disk's bytes.
    pub fn is_raw(self) -> bool {
        matches!(self, Self::Raw | Self::Luks | Self::Iso)
    }

    /// Returns the format of an image that begins with `head` (best of [`PROBE_LENGTH`] bytes) and ends with `trailer`
    /// ([`TRAILER_LENGTH`] bytes, or nothing).
    pub fn of(head: &[u8], trailer: &[u8]) -> Self {
        let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
        if has(0, &QCOW_MAGIC) && head.len() >= 8 {
            match be32(head, 4) {
                1 => return Self::Qcow,
                version => return Self::Qcow2 { version },
            }
        }
        if has(0, b"KDMV") || has(0, b"COWD") || starts_as_vmdk_text(head) {
            return Self::Vmdk;
        }
        if head.len() >= AT_VDI_MAGIC + 4 && le32(head, AT_VDI_MAGIC) == VDI_MAGIC {
            return Self::Vdi;
        }
        for (magic, format) in [
            (&b"vhdxfile"[..], Self::Vhdx),
            (b"QED\0", Self::Qed),
            (b"WithoutFreeSpace", Self::Parallels),
            (b"WithouFreSpacExt", Self::Parallels),
            (b"LUKS\xba\xbe", Self::Luks),
            (VPC_COOKIE, Self::Vpc),
            (ewf::MAGIC, Self::Ewf),
        ] {
            if has(0, magic) {
                return format;
            }
        }
        if is_vpc_footer(trailer) {
            return Self::Vpc;
        }
        if trailer.starts_with(b"koly") {
            return Self::Dmg;
        }
        if has(AT_ISO_MAGIC, b"CD001") { Self::Iso } else { Self::Raw }
    }

    /// Returns the format of the image that a device holds.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn probe(device: &dyn BlockDevice) -> Result<Self> {
        let size = device.size();
        let mut head = vec![0; size.min(PROBE_LENGTH as u64) as usize];
        device.read_at(&mut head, 0)?;
        let mut trailer = vec![0; if size >= TRAILER_LENGTH as u64 { TRAILER_LENGTH } else { 0 }];
        let at = size - trailer.len() as u64;
        device.read_at(&mut trailer, at)?;
        Ok(Self::of(&head, &trailer))
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Iso => "iso",
            other => other.name(),
        })
    }
}

/// A descriptor may begin with comments and empty lines.
fn starts_as_vmdk_text(head: &[u8]) -> bool {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.trim_ascii_end());
    lines.find(|line| !line.is_empty() && (!line.starts_with(b"#") || line.starts_with(VMDK_TEXT))).is_some_and(
        |line| line.starts_with(VMDK_TEXT) || [&b"version=1"[..], b"version=2", b"version=3"].contains(&line),
    )
}

/// A disk of a fixed size has the cookie at its end alone. Its checksum keeps a guest's stray bytes from being taken for
/// one.
fn is_vpc_footer(trailer: &[u8]) -> bool {
    if !trailer.starts_with(VPC_COOKIE) || trailer.len() < TRAILER_LENGTH {
        return false;
    }
    let field = AT_VPC_CHECKSUM..AT_VPC_CHECKSUM + 4;
    let sum = trailer.iter().enumerate().filter(|(at, _)| !field.contains(at));
    let sum: u32 = sum.map(|(_, &byte)| u32::from(byte)).sum();
    be32(trailer, AT_VPC_CHECKSUM) == !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_known_by_its_magic() {
        let of = |head: &[u8]| ImageFormat::of(head, &[]);
        assert_eq!(of(b"QFI\xfb\0\0\0\x02"), ImageFormat::Qcow2 { version: 2 });
        assert_eq!(of(b"QFI\xfb\0\0\0\x01"), ImageFormat::Qcow);
        assert_eq!(of(b"# Disk DescriptorFile\nversion=1\n"), ImageFormat::Vmdk);
        assert_eq!(of(b"\n# a comment\nversion=1\n"), ImageFormat::Vmdk);
        assert_eq!(of(b"# just text\n"), ImageFormat::Raw);
        assert_eq!(of(b"vhdxfile"), ImageFormat::Vhdx);
        assert_eq!(of(b""), ImageFormat::Raw);
        let mut cd = vec![0; PROBE_LENGTH];
        cd[AT_ISO_MAGIC..][..5].copy_from_slice(b"CD001");
        assert_eq!(of(&cd), ImageFormat::Iso);
        let mut footer = [0; 512];
        footer[..8].copy_from_slice(VPC_COOKIE);
        assert_eq!(ImageFormat::of(&[], &footer), ImageFormat::Raw);
        let sum: u32 = VPC_COOKIE.iter().map(|&byte| u32::from(byte)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
        assert_eq!(ImageFormat::of(&[], &footer), ImageFormat::Vpc);
    }

    #[test]
    fn every_name_that_qemu_has_is_read_back() {
        for name in ["raw", "qcow2", "qcow", "vmdk", "vdi", "vhdx", "vpc", "qed", "parallels", "dmg", "ewf", "luks"] {
            assert_eq!(ImageFormat::from_name(name).expect("known").name(), name);
        }
        ImageFormat::from_name("floppy").expect_err("not known");
    }
}
